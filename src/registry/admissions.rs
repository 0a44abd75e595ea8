//! What was learnt about the pushes that a registry takes.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use crate::content::Repository;
use crate::mutex::Mutex;
use crate::state::Pushes;
use crate::{Error, Result};

/// An opened upload is used within this time. Registries keep sessions for hours, but tokens in their addresses live minutes.
const USED_WITHIN: Duration = Duration::from_secs(60);

/// What a registry makes of pushes to a part of it.
#[derive(Debug, Clone)]
pub(super) enum PushAnswer {
    Takes,
    Refuses(Error),
}

/// What became of the manifests that were put in a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ManifestPuts {
    /// Some were taken.
    Taken,
    /// The only one was refused.
    Refused,
}

/// One question at a time about each part.
pub(super) type Part = Arc<tokio::sync::Mutex<Option<PushAnswer>>>;

/// What was learnt of the pushes that a registry takes.
#[derive(Default)]
pub(super) struct Admissions {
    pub(super) parts: Mutex<HashMap<String, Part>>,
    /// Parts where something was refused after an upload had been opened.
    pub(super) refused: Mutex<HashMap<String, Error>>,
    /// What became of the manifests that were put.
    pub(super) manifests: Mutex<HashMap<String, ManifestPuts>>,
    /// Why it takes none at all.
    pub(super) closed: OnceLock<Error>,
    /// It takes some.
    pub(super) open: OnceLock<()>,
    pub(super) first: tokio::sync::Mutex<()>,
    /// Parts of which it is known whether they are a cache.
    pub(super) vouched: Mutex<HashMap<String, Part>>,
    /// Uploads that were opened, and when.
    pub(super) sessions: Mutex<HashMap<Repository, (Url, Instant)>>,
    /// What outlives the run.
    pub(super) pushes: OnceLock<Arc<Pushes>>,
}

impl Admissions {
    pub(super) fn part(&self, name: &str) -> Part {
        Arc::clone(self.parts.lock().entry(name.to_owned()).or_default())
    }

    /// An opened upload that may be used for a blob.
    pub(super) fn take(&self, repository: &Repository) -> Option<Url> {
        let mut sessions = self.sessions.lock();
        let young = sessions.get(repository).is_some_and(|(_, opened)| opened.elapsed() < USED_WITHIN);
        if young { sessions.remove(repository).map(|(session, _)| session) } else { None }
    }

    /// Why nothing is taken, if that is known of all parts, or of this one.
    pub(super) fn check(&self, part: &str) -> Result<()> {
        if let Some(error) = self.closed.get() {
            return Err(error.clone());
        }
        self.refused.lock().get(part).map_or(Ok(()), |error| Err(error.clone()))
    }
}
