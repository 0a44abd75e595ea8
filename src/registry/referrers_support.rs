//! Where a registry has the referrers API, as its answers tell.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::config::profiles::Support;
use crate::content::Repository;
use crate::mutex::Mutex;

/// Where a registry has the referrers API. The first answer says so; other requests wait for it.
#[derive(Debug)]
pub(crate) struct ReferrersApi {
    pub(super) everywhere: Arc<Known>,
    pub(super) by_prefix: Mutex<HashMap<String, Arc<Known>>>,
}

/// What is known of one part of a registry.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(super) answer: OnceLock<Api>,
    pub(super) asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
pub(super) enum Api {
    Here,
    /// There is none; why, where that is worth a note.
    Missing(Option<Arc<str>>),
}

impl ReferrersApi {
    pub(crate) fn new(support: Support) -> Self {
        let everywhere = Arc::<Known>::default();
        if support == Support::No {
            let _ = everywhere.answer.set(Api::Missing(None));
        }
        ReferrersApi { everywhere, by_prefix: Mutex::default() }
    }

    /// What is known of the repositories beside `repository`.
    pub(super) fn beside(&self, repository: &Repository) -> Arc<Known> {
        let prefix = repository.as_str().rsplit_once('/').map_or("", |(prefix, _)| prefix);
        Arc::clone(self.by_prefix.lock().entry(prefix.to_owned()).or_default())
    }
}
