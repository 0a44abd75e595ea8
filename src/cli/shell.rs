//! `larder completions` and `larder man`, from the same definition as the help.

use super::printer::Printer;
use super::{Exit, UsageError};

pub(super) fn completions(shell: clap_complete::Shell, printer: &Printer) -> Result<Exit, UsageError> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut super::command(), "larder", &mut script);
    printer.data(&String::from_utf8_lossy(&script));
    Ok(Exit::Done)
}

/// The page of the program, and after it one section for each command.
pub(super) fn man(printer: &Printer) -> Result<Exit, UsageError> {
    let mut page = vec![];
    let mut command = super::command();
    command.build();
    let render = |command: &clap::Command, page: &mut Vec<u8>| {
        clap_mangen::Man::new(command.clone())
            .render(page)
            .map_err(|error| UsageError::failed(crate::Error::local("print man page", error.to_string())))
    };
    render(&command, &mut page)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        render(sub, &mut page)?;
    }
    printer.data(&String::from_utf8_lossy(&page));
    Ok(Exit::Done)
}
