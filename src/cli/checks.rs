//! Checks that `config check`, `rules check` and `doctor` share: the configuration, and the lists, certificates, secrets and folders
//! that a run would use. A finding is one line; `error: `, `warning: ` or `note: ` comes first.

use std::path::Path;
use std::sync::Arc;

use super::exit::UsageError;
use super::inputs;
use super::printer::Printer;
use crate::Error;
use crate::config::{Config, Environment};
use crate::sync::{RuledEntry, SyncOptions};

/// Whether a line asks for a change. Notes do not.
pub(super) fn is_finding(line: &str) -> bool {
    !line.starts_with("note")
}

/// Settings that work but are probably a mistake, a line each.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut findings = config.warnings();
    findings.extend(config.pushes_into_cache());
    findings.sort_by_key(|finding| finding.severity);
    let path = config.path.clone().unwrap_or_default();
    findings.iter().map(|finding| format!("{}: {}", finding.severity, finding.located(&path))).collect()
}

/// Loads the configuration. If it has errors, prints them as findings and returns `None`. A named file that does not exist is an
/// error.
pub(super) fn load(file: Option<&Path>, printer: &Printer) -> Result<Option<Config>, UsageError> {
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

/// The content of the configured lists.
pub(super) struct CheckedLists {
    /// Entries that a rule covers.
    pub(super) items: Vec<Arc<RuledEntry>>,
    /// Lists that cannot be read, lines that do not parse, entries without a rule.
    pub(super) problems: Vec<String>,
}

/// Reads the configured lists and resolves their entries.
pub(super) fn lists(config: &Config) -> CheckedLists {
    let options = SyncOptions { unmatched: config.default_unmatched(), ..SyncOptions::default() };
    let (mut items, mut problems) = (vec![], vec![]);
    for path in &config.lists {
        let parsed = match inputs::files(&[path.display().to_string()]) {
            Ok(parsed) => parsed,
            Err(refusal) => {
                problems.extend(refusal.errors.iter().map(|error| format!("error: {error}")));
                continue;
            }
        };
        for list in parsed {
            if list.entries.is_empty() && list.errors.is_empty() {
                problems.push(format!("warning: {}: the list has no image", path.display()));
            }
            problems.extend(list.errors.iter().map(|error| format!("error: {}", error.to_error().message())));
            for entry in list.entries {
                match RuledEntry::resolve(entry, items.len(), &config.rules, &options, &config.target) {
                    Ok(item) => items.push(Arc::new(item)),
                    Err(row) => {
                        let message = row.error.as_ref().map(Error::message).unwrap_or_default();
                        problems.push(format!("error: {}:{}: {}: {message}", row.file, row.line, row.source));
                    }
                }
            }
        }
    }
    CheckedLists { items, problems }
}

/// Reads `ca`, `client_cert` and `client_key` of every registry.
pub(super) fn certificates(config: &Config) -> Vec<String> {
    let errors = config.registries.keys().filter_map(|host| crate::sync::check_certificates(config, host).err());
    errors.map(|error| format!("error: {error}")).collect()
}

/// Checks that the secrets of credential sets exist. Commands are not run.
pub(super) fn secrets(config: &Config) -> Vec<String> {
    let environment = Environment::process();
    let problems = config.credentials.iter().flat_map(|set| set.problems(&environment));
    problems.map(|why| format!("error: {why}")).collect()
}

/// Checks that `folder`, or the folder in which it would be created, can be written to. Returns the free bytes there.
pub(super) fn free_space(folder: &Path) -> Result<u64, String> {
    let existing = folder.ancestors().find(|path| path.exists() || path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    if !existing.is_dir() {
        return Err(format!("{} is not a folder", existing.display()));
    }
    tempfile::tempfile_in(existing).map_err(|error| {
        let text = error.to_string();
        text.split(" at path ").next().unwrap_or(&text).to_owned()
    })?;
    let disk = rustix::fs::statvfs(existing).map_err(|error| error.to_string())?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
