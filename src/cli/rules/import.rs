//! `larder rules import`.

use crate::cli::exit::{Exit, UsageError};
use crate::cli::inputs;
use crate::cli::printer::Printer;
use crate::cli::text::count;
use crate::config::TargetConfig;
use crate::list::utf8;
use crate::rules::import::import;
use crate::{Error, Operation};

pub(super) fn run(files: &[String], to: Option<&str>, printer: &Printer) -> Result<Exit, UsageError> {
    let target = to.map(registry).transpose()?;
    let read = |file: &String| {
        let bytes = inputs::read_for(Operation::ImportRules, file, crate::input::MAX_FOREIGN)?;
        Ok((file.clone(), utf8(file, &bytes)?.to_owned()))
    };
    let texts: Vec<_> = files.iter().map(read).collect::<Result<_, Error>>().map_err(UsageError::usage)?;
    let target = target.as_ref().map(|(host, prefix)| (host.as_str(), prefix.as_str()));
    let imported = import(&texts, target).map_err(UsageError::usage)?;
    printer.data(&imported.text);
    imported.notes.iter().for_each(|note| printer.warn(note));
    imported.lost.iter().for_each(|lost| printer.fail(&format!("not imported: {lost}"), &serde_json::json!({})));
    let rules = count(imported.rules, "rule");
    printer.say(&match imported.lost.len() {
        0 => format!("{rules} imported"),
        lost => format!("{rules} imported; {} that larder.toml cannot express", count(lost, "setting")),
    });
    Ok(if imported.lost.is_empty() { Exit::Done } else { Exit::Failed })
}

fn registry(to: &str) -> Result<(String, String), UsageError> {
    let wrong = |why: String| UsageError::usage(Error::local(Operation::ReadTo, why));
    match TargetConfig::parse(to).map_err(wrong)? {
        TargetConfig::Registry { host, prefix } => Ok((host, prefix)),
        TargetConfig::Layout { .. } => Err(wrong(format!("`{to}`: a cache is a registry: HOST[:PORT][/PREFIX]"))),
    }
}
