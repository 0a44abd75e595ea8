//! Where what outlives a run is kept.

use std::path::{Path, PathBuf};

use super::Refusal;
use super::printer::Printer;
use crate::Error;
use crate::config::Config;
use crate::stock::{Supply, SupplyOptions};

/// `--state`, else `$XDG_STATE_HOME/larder`, else `~/.local/state/larder`; none where there is no home.
pub(super) fn folder(given: Option<&Path>) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    given
        .map(Path::to_owned)
        .or_else(|| absolute("XDG_STATE_HOME").map(|base| base.join("larder")))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state/larder")))
}

/// The supply of a run. A state folder that cannot be used is refused if it was asked for, else done without: it saves requests, nothing
/// more.
pub(super) fn supply(config: &Config, options: SupplyOptions<'_>, printer: &Printer) -> Result<Supply, Refusal> {
    let refuse = |error: Error| Refusal::usage(error.remedy("give a writable folder with --state DIR"));
    let folder = folder(options.state);
    match Supply::new(config, &SupplyOptions { state: folder.as_deref(), ..options }) {
        Err(error) if options.state.is_none() => {
            printer.warn(&format!("{error}; going on without state: pulls of an interrupted run are spent again"));
            Supply::new(config, &SupplyOptions { state: None, ..options }).map_err(refuse)
        }
        opened => opened.map_err(refuse),
    }
}
