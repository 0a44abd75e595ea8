//! `larder rules`: which of its commands; and `larder rules explain`.

use std::path::Path;

use super::args::RulesCommand;
use super::printer::Printer;
use super::{Exit, UsageError, rules_check, rules_export, rules_import};
use crate::Error;
use crate::config::Config;
use crate::name::ImageName;

pub(super) async fn run(file: Option<&Path>, command: RulesCommand, printer: &Printer) -> Result<Exit, UsageError> {
    match command {
        RulesCommand::Check { online } => rules_check::run(file, online, printer).await,
        RulesCommand::Explain { image } => explain(file, &image, printer),
        RulesCommand::Import { files, to } => rules_import::run(&files, to.as_deref(), printer),
        RulesCommand::Export { format, dir, no_fallback } => rules_export::run(file, format, dir.as_deref(), no_fallback, printer),
    }
}

fn explain(file: Option<&Path>, image: &str, printer: &Printer) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let name = ImageName::parse(image).map_err(|why| UsageError::usage(Error::local("read image", why)))?;
    let explanation = config.explain(&name, config.default_unmatched());
    printer.data(&explanation.to_string());
    match explanation.problem() {
        None => Ok(Exit::Done),
        Some(problem) => Err(UsageError::failed(Error::from(problem.clone()).subject(name.to_string()))),
    }
}
