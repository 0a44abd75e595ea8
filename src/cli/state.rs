//! The state of a command: `--state`, else `[state] url`, else the user's state folder.

use std::path::{Path, PathBuf};

use super::exit::UsageError;
use super::printer::Printer;
use crate::config::{Config, StateConfig};
use crate::state::SharedState;
use crate::store::StoreError;
use crate::sync::{UpstreamOptions, Upstreams};
use crate::{Error, Operation};

/// What `--state` or the configuration says, and whether either does.
pub(super) fn chosen(given: Option<&Path>, config: &Config) -> Result<Option<StateConfig>, UsageError> {
    let Some(given) = given else { return Ok(config.state.clone()) };
    let Some(text) = given.to_str() else { return Ok(Some(StateConfig::Folder(given.to_owned()))) };
    let parsed = StateConfig::parse(text, Path::new("")).map_err(|why| UsageError::usage(Error::local(Operation::OpenState, why)))?;
    Ok(Some(parsed))
}

/// `$XDG_STATE_HOME/larder`, else `~/.local/state/larder`. `None` if there is no home folder.
pub(super) fn default_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").map(|base| base.join("larder"));
    state.or_else(|| absolute("HOME").map(|home| home.join(".local/state/larder")))
}

/// A folder of this machine for large files that a command keeps: the state folder. With state in object storage, the default one.
pub(super) fn local_folder(given: Option<&Path>, config: &Config) -> Result<Option<PathBuf>, UsageError> {
    Ok(match chosen(given, config)? {
        Some(StateConfig::Folder(folder)) => Some(folder),
        Some(StateConfig::Nowhere) => None,
        Some(StateConfig::Objects(_)) | None => default_folder(),
    })
}

/// The upstreams of a run. A state that was asked for must be usable. A default folder that cannot be written is read only, with a
/// warning: state saves requests, nothing more. But no pull is spent where pulls are counted, because it could not be recorded.
pub(super) async fn supply(
    config: &Config,
    given: Option<&Path>,
    options: UpstreamOptions<'_>,
    printer: &Printer,
) -> Result<Upstreams, UsageError> {
    crate::registry::check_proxies().map_err(UsageError::usage)?;
    let refuse = |error: Error| UsageError::usage(error.remedy("give a writable folder with --state DIR, or none"));
    let chosen = chosen(given, config)?;
    let asked = chosen.is_some();
    let folder = match chosen {
        Some(StateConfig::Objects(url)) => {
            let failed = |error: StoreError| UsageError::usage(Error::local(Operation::OpenState, error.to_string()));
            let shared = SharedState::open(&url).await.map_err(failed)?;
            return Upstreams::with_shared_state(config, &options, shared).await.map_err(refuse);
        }
        Some(StateConfig::Nowhere) => None,
        Some(StateConfig::Folder(folder)) => Some(folder),
        None => default_folder(),
    };
    match (Upstreams::new(config, &UpstreamOptions { state: folder.as_deref(), ..options }), &folder) {
        (Err(error), Some(state)) if !asked || state.is_dir() => {
            printer.warn(&format!("{error}; continuing without it, and spending no pull where pulls are counted (see --state none)"));
            Upstreams::new(config, &UpstreamOptions { state: Some(state), read_only: true, ..options }).map_err(refuse)
        }
        (opened, _) => opened.map_err(refuse),
    }
}
