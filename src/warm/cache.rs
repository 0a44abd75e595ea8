//! The cache that a run warms.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::content::{Charge, Place};
use crate::copy;
use crate::limits::{Claim, Mode};
use crate::registry::RegistryStore;
use crate::registry::profiles::Caching;
use crate::resume::Warmed;
use crate::rules::WarmBlobs;

/// The target of a run, as a pull-through cache: one for all its images.
pub(crate) struct Cache {
    pub(super) store: Arc<RegistryStore>,
    pub(super) warmed: Arc<Warmed>,
    /// What is asked of each blob, by repository: a repository belongs to one rule.
    blobs: Mutex<HashMap<Place, WarmBlobs>>,
}

impl Cache {
    /// The cache at `store`, of which `warmed` says what was pulled before.
    pub(crate) fn new(store: Arc<RegistryStore>, warmed: Arc<Warmed>) -> Arc<Self> {
        Arc::new(Cache { store, warmed, blobs: Mutex::default() })
    }

    /// The two ends that the engine copies between: everything is written to the cache, nothing is read back from it.
    pub(crate) fn ends(self: &Arc<Self>) -> copy::Target {
        copy::Target { sink: Arc::clone(self) as _, source: Arc::new(super::sink::Nothing) }
    }

    /// Its host.
    pub(crate) fn host(&self) -> &str {
        self.store.host()
    }

    /// How its kind behaves.
    pub(super) fn caching(&self) -> &'static Caching {
        self.store.caching()
    }

    /// Blobs at `place` are asked for as `blobs` says.
    pub(super) fn ask_for_blobs(&self, place: &Place, blobs: WarmBlobs) {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone(), blobs);
    }

    pub(super) fn blobs(&self, place: &Place) -> WarmBlobs {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(place).copied().unwrap_or_default()
    }

    /// The cache has spent a pull without being asked to by a GET of ours: it is charged as if it had been one.
    pub(super) async fn spent_another(&self, charge: &Charge) {
        let Some(gate) = &charge.account else { return };
        charge.tally.add_pull();
        let lease = match &charge.lease {
            Some(lease) => Ok(lease.clone()),
            None => gate.acquire(Claim { pulls: 1, priority: 0 }, Mode::Defer).await,
        };
        // It is spent whether or not the budget still has it. A flight that is dropped may have been counted, says the budget.
        if let Ok(lease) = lease {
            drop(lease.spend().await);
        }
    }
}
