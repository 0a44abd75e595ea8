//! `larder config check` and `larder config show`, and the checking that `larder rules check` shares.

use std::path::Path;

use super::args::ConfigCommand;
use super::printer::Printer;
use super::{Exit, Refusal};
use crate::config::Config;

pub(super) fn run(file: Option<&Path>, command: &ConfigCommand, printer: &Printer) -> Result<Exit, Refusal> {
    match command {
        ConfigCommand::Check => check(file, printer, |config| match &config.path {
            Some(path) => path.display().to_string(),
            None => "no larder.toml; the defaults".to_owned(),
        }),
        ConfigCommand::Show => {
            printer.data(&Config::load(file)?.show());
            Ok(Exit::Done)
        }
    }
}

/// Prints every finding, a line each, errors first; exit status 1 if there are any.
pub(super) fn check(file: Option<&Path>, printer: &Printer, what: impl Fn(&Config) -> String) -> Result<Exit, Refusal> {
    if let Some(file) = file
        && !file.exists()
    {
        return Err(Config::load(Some(file)).err().unwrap_or_default().into());
    }
    let (findings, summary): (Vec<String>, Option<String>) = match Config::load(file) {
        Err(errors) => (errors.iter().map(|error| format!("error: {}", error.message())).collect(), None),
        Ok(config) => {
            let path = config.path.clone().unwrap_or_default();
            (config.warnings().iter().map(|finding| format!("warning: {}", finding.located(&path))).collect(), Some(what(&config)))
        }
    };
    printer.data(&findings.iter().map(|finding| format!("{finding}\n")).collect::<String>());
    if findings.is_empty() {
        printer.say(&format!("{}: nothing to complain of", summary.unwrap_or_default()));
        return Ok(Exit::Done);
    }
    Ok(Exit::Failed)
}
