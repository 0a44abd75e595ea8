//! What a run would read on this machine, read before it: lists, certificates, secrets, folders. A line a finding.

use std::path::Path;
use std::sync::Arc;

use super::inputs;
use crate::Error;
use crate::config::{Config, Environment};
use crate::sync::{RuledEntry, SyncOptions};

/// What the lists of the configuration hold.
pub(super) struct Lists {
    /// The lines that a rule covers.
    pub(super) items: Vec<Arc<RuledEntry>>,
    /// What cannot be read, does not parse, or has no rule.
    pub(super) problems: Vec<String>,
}

/// Reads the lists of the configuration, and resolves their lines.
pub(super) fn lists(config: &Config) -> Lists {
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
    Lists { items, problems }
}

/// Reads `ca`, `client_cert` and `client_key` of every registry.
pub(super) fn certificates(config: &Config) -> Vec<String> {
    let errors = config.registries.keys().filter_map(|host| crate::sync::check_certificates(config, host).err());
    errors.map(|error| format!("error: {error}")).collect()
}

/// Sees that the secrets of credential sets can be had. Commands are only looked for, not run.
pub(super) fn secrets(config: &Config) -> Vec<String> {
    let environment = Environment::process();
    let problems = config.credentials.iter().flat_map(|set| set.problems(&environment));
    problems.map(|why| format!("error: {why}")).collect()
}

/// Sees whether something can be written in `folder`, or where it would be made; the bytes that are free there.
pub(super) fn writable(folder: &Path) -> Result<u64, String> {
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
