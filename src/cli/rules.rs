//! `larder rules check` and `larder rules explain`.

use std::path::Path;

use super::args::RulesCommand;
use super::printer::Printer;
use super::{Exit, Refusal};
use crate::Error;
use crate::config::Config;
use crate::name::ImageName;

pub(super) fn run(file: Option<&Path>, command: RulesCommand, printer: &Printer) -> Result<Exit, Refusal> {
    match command {
        RulesCommand::Check { .. } => super::config::check(file, printer, |config| match config.rules.rules().len() {
            1 => "1 rule".to_owned(),
            n => format!("{n} rules"),
        }),
        RulesCommand::Explain { image } => explain(file, &image, printer),
        RulesCommand::Import { files, to } => super::rules_import::run(&files, to.as_deref(), printer),
    }
}

fn explain(file: Option<&Path>, image: &str, printer: &Printer) -> Result<Exit, Refusal> {
    let config = Config::load(file)?;
    let name = ImageName::parse(image).map_err(|why| Refusal::usage(Error::local("read image", why)))?;
    let explanation = config.explain(&name, config.default_unmatched());
    printer.data(&explanation.to_string());
    Ok(if explanation.problem().is_none() { Exit::Done } else { Exit::Failed })
}
