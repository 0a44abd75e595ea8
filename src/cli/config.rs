//! `larder config`.

use std::path::Path;

use clap::Subcommand;

use super::exit::{Exit, UsageError};
use super::printer::Printer;
use super::{checks, doctor};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration, and read what a run would read: lists, certificates, secrets
    Check {
        /// Ask every registry too, as larder doctor does
        #[arg(long)]
        online: bool,
    },
    /// Print what is in effect, with secrets redacted
    Show,
}

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
    let Some(config) = checks::load(file, printer)? else { return Ok(Exit::Failed) };
    let mut found = checks::warnings(&config);
    found.extend(checks::lists(&config).problems);
    found.extend(checks::certificates(&config));
    found.extend(checks::secrets(&config));
    // Errors first, otherwise in the order of the checks.
    found.sort_by_key(|line| !line.starts_with("error"));
    printer.data(&found.iter().map(|line| crate::error::printable(line) + "\n").collect::<String>());
    if found.iter().any(|line| checks::is_finding(line)) {
        return Ok(Exit::Failed);
    }
    let what = config.path.as_ref().map_or_else(|| "no larder.toml; the defaults".to_owned(), |path| path.display().to_string());
    printer.say(&format!("{what}: no problems found"));
    Ok(Exit::Done)
}
