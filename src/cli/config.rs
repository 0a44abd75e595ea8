//! `larder config check` and `larder config show`, and the loading that other checks share.

use std::path::Path;

use super::args::ConfigCommand;
use super::printer::Printer;
use super::{Exit, UsageError, doctor, local};
use crate::config::Config;

pub(super) async fn run(file: Option<&Path>, command: &ConfigCommand, printer: &Printer) -> Result<Exit, UsageError> {
    match command {
        ConfigCommand::Check { online: false } => check(file, printer),
        ConfigCommand::Check { online: true } => doctor::run(file, None, printer).await,
        ConfigCommand::Show => {
            printer.data(&Config::load(file)?.show());
            Ok(Exit::Done)
        }
    }
}

/// Prints every finding, a line each, errors first; exit status 1 if there are any.
fn check(file: Option<&Path>, printer: &Printer) -> Result<Exit, UsageError> {
    let Some(config) = loaded(file, printer)? else { return Ok(Exit::Failed) };
    let mut found = warnings(&config);
    found.extend(local::lists(&config).problems);
    found.extend(local::certificates(&config));
    found.extend(local::secrets(&config));
    // Errors first; what is told of the file keeps its order.
    found.sort_by_key(|line| !line.starts_with("error"));
    printer.data(&found.iter().map(|line| crate::error::printable(line) + "\n").collect::<String>());
    if found.iter().any(|line| is_finding(line)) {
        return Ok(Exit::Failed);
    }
    let what = config.path.as_ref().map_or_else(|| "no larder.toml; the defaults".to_owned(), |path| path.display().to_string());
    printer.say(&format!("{what}: nothing to complain of"));
    Ok(Exit::Done)
}

/// Whether a line tells of something to mend. Notes do not.
pub(super) fn is_finding(line: &str) -> bool {
    !line.starts_with("note")
}

/// What works but is probably not meant, a line each.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut findings = config.warnings();
    findings.extend(config.pushes_into_cache());
    findings.sort_by_key(|finding| finding.severity);
    let path = config.path.clone().unwrap_or_default();
    findings.iter().map(|finding| format!("{}: {}", finding.severity, finding.located(&path))).collect()
}

/// The configuration, unless it has errors, which are the findings then. A file that was named and is not there is refused.
pub(super) fn loaded(file: Option<&Path>, printer: &Printer) -> Result<Option<Config>, UsageError> {
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
