//! `larder completions` and `larder man`, made from the definition of the command line.

use super::command_line::command;
use super::exit::{Exit, UsageError};
use super::printer::Printer;
use crate::Operation;

pub(super) fn completions(shell: clap_complete::Shell, printer: &Printer) -> Result<Exit, UsageError> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut command(), "larder", &mut script);
    printer.data(&String::from_utf8_lossy(&script));
    Ok(Exit::Done)
}

/// The page of the program, followed by one section for each command.
pub(super) fn man(printer: &Printer) -> Result<Exit, UsageError> {
    let mut page = vec![];
    let mut program = command();
    program.build();
    let render = |command: &clap::Command, page: &mut Vec<u8>| {
        clap_mangen::Man::new(command.clone())
            .render(page)
            .map_err(|error| UsageError::failed(crate::Error::local(Operation::PrintManPage, error.to_string())))
    };
    render(&program, &mut page)?;
    for sub in program.get_subcommands().filter(|sub| sub.get_name() != "help") {
        render(sub, &mut page)?;
    }
    printer.data(&String::from_utf8_lossy(&page));
    Ok(Exit::Done)
}
