//! Where what outlives a run is kept.

use std::path::{Path, PathBuf};

use super::UsageError;
use super::printer::Printer;
use crate::Error;
use crate::config::Config;
use crate::sync::{UpstreamOptions, Upstreams};

/// The value of `--state` that keeps nothing.
const NONE: &str = "none";

/// `--state`, else `$XDG_STATE_HOME/larder`, else `~/.local/state/larder`; none where there is no home, and for `--state none`.
pub(super) fn folder(given: Option<&Path>) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match given {
        Some(given) => Some(given.to_owned()).filter(|given| given != Path::new(NONE)),
        None => absolute("XDG_STATE_HOME")
            .map(|base| base.join("larder"))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/larder"))),
    }
}

/// The supply of a run. A state folder that cannot be made is refused if it was asked for. One that cannot be written is done
/// without: it saves requests, nothing more; but where pulls are counted, none is spent that is not written down.
pub(super) fn supply(config: &Config, options: UpstreamOptions<'_>, printer: &Printer) -> Result<Upstreams, UsageError> {
    crate::registry::check_proxies().map_err(UsageError::usage)?;
    let refuse = |error: Error| UsageError::usage(error.remedy("give a writable folder with --state DIR, or none"));
    let folder = folder(options.state);
    let asked = options.state.is_some();
    match (Upstreams::new(config, &UpstreamOptions { state: folder.as_deref(), ..options }), &folder) {
        (Err(error), Some(state)) if !asked || state.is_dir() => {
            printer.warn(&format!("{error}; going on without it: where pulls are counted, none is spent (see --state none)"));
            Upstreams::new(config, &UpstreamOptions { state: Some(state), read_only: true, ..options }).map_err(refuse)
        }
        (opened, _) => opened.map_err(refuse),
    }
}
