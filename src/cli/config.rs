//! `larder config check` and `larder config show`, and the loading that other checks share.

use std::path::Path;

use super::args::ConfigCommand;
use super::printer::Printer;
use super::{Exit, Refusal};
use crate::config::Config;

pub(super) fn run(file: Option<&Path>, command: &ConfigCommand, printer: &Printer) -> Result<Exit, Refusal> {
    match command {
        ConfigCommand::Check => check(file, printer),
        ConfigCommand::Show => {
            printer.data(&Config::load(file)?.show());
            Ok(Exit::Done)
        }
    }
}

/// Prints every finding, a line each, errors first; exit status 1 if there are any.
fn check(file: Option<&Path>, printer: &Printer) -> Result<Exit, Refusal> {
    let Some(config) = loaded(file, printer)? else { return Ok(Exit::Failed) };
    let mut findings = config.warnings();
    findings.sort_by_key(|finding| finding.severity);
    let path = config.path.clone().unwrap_or_default();
    printer.data(&findings.iter().map(|finding| format!("{}: {}\n", finding.severity, finding.located(&path))).collect::<String>());
    if !findings.is_empty() {
        return Ok(Exit::Failed);
    }
    let what = config.path.as_ref().map_or_else(|| "no larder.toml; the defaults".to_owned(), |path| path.display().to_string());
    printer.say(&format!("{what}: nothing to complain of"));
    Ok(Exit::Done)
}

/// The configuration, unless it has errors, which are the findings then. A file that was named and is not there is refused.
pub(super) fn loaded(file: Option<&Path>, printer: &Printer) -> Result<Option<Config>, Refusal> {
    if let Some(file) = file
        && !file.exists()
    {
        return Err(Config::load(Some(file)).err().unwrap_or_default().into());
    }
    match Config::load(file) {
        Ok(config) => Ok(Some(config)),
        Err(errors) => {
            printer.data(&errors.iter().map(|error| format!("error: {}\n", error.message())).collect::<String>());
            Ok(None)
        }
    }
}
