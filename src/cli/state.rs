//! The state folder of a command (`--state`).

use std::path::{Path, PathBuf};

use super::exit::UsageError;
use super::printer::Printer;
use crate::Error;
use crate::config::Config;
use crate::sync::{UpstreamOptions, Upstreams};

/// The value of `--state` that keeps nothing.
const NONE: &str = "none";

/// Whether the user asked to keep no state.
pub(super) fn is_none(given: Option<&Path>) -> bool {
    given == Some(Path::new(NONE))
}

/// `--state`, else `$XDG_STATE_HOME/larder`, else `~/.local/state/larder`. `None` if there is no home folder, or for `--state none`.
pub(super) fn folder(given: Option<&Path>) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match given {
        Some(folder) => (!is_none(given)).then(|| folder.to_owned()),
        None => absolute("XDG_STATE_HOME")
            .map(|base| base.join("larder"))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/larder"))),
    }
}

/// The upstreams of a run. A folder given with `--state` must be usable. A default folder that cannot be written is read only, with a
/// warning: state saves requests, nothing more. But no pull is spent where pulls are counted, because it could not be recorded.
pub(super) fn supply(config: &Config, options: UpstreamOptions<'_>, printer: &Printer) -> Result<Upstreams, UsageError> {
    crate::registry::check_proxies().map_err(UsageError::usage)?;
    let refuse = |error: Error| UsageError::usage(error.remedy("give a writable folder with --state DIR, or none"));
    let folder = folder(options.state);
    let asked = options.state.is_some();
    match (Upstreams::new(config, &UpstreamOptions { state: folder.as_deref(), ..options }), &folder) {
        (Err(error), Some(state)) if !asked || state.is_dir() => {
            printer.warn(&format!("{error}; continuing without it, and spending no pull where pulls are counted (see --state none)"));
            Upstreams::new(config, &UpstreamOptions { state: Some(state), read_only: true, ..options }).map_err(refuse)
        }
        (opened, _) => opened.map_err(refuse),
    }
}
