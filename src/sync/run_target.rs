//! The target of a run: which way each image takes into it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::delivery::{OpenedImage, PushDelivery};
use super::warm_delivery::WarmTarget;
use super::{ImageRequest, RuledEntry, SyncOptions, TargetStore, Upstreams};
use crate::copy::{BlobCounts, CopyOptions, Engine};
use crate::registry::RegistryStore;
use crate::report::Reporter;
use crate::rules::Delivery;
use crate::{Error, Result};

/// The target of a run, with its ways in.
pub(super) struct RunTarget {
    push: Arc<PushDelivery>,
    warm: Option<WarmTarget>,
    stop: CancellationToken,
}

impl RunTarget {
    /// The ways into `target`; it is warmed only where rules may do so.
    pub(super) fn new(
        upstreams: &Upstreams,
        target: &TargetStore,
        options: &SyncOptions,
        reporter: &Arc<dyn Reporter>,
        stop: &CancellationToken,
    ) -> Self {
        let engine = |ends, warm| {
            // Referrers are warmed together with their image: later, nobody could say which of them the cache holds.
            let deliveries = if warm { None } else { upstreams.deliveries(&target.target) };
            let options = CopyOptions { room: options.room.clone(), recheck: options.recheck, deliveries, warm };
            Engine::new(ends, Arc::clone(reporter), options, stop.clone())
        };
        let registry = target.registry.as_ref().filter(|_| options.warm);
        let warm = registry.map(|store| WarmTarget::new(store, upstreams, options, stop, |ends| engine(ends, true)));
        let push = PushDelivery { engine: engine(target.ends.clone(), false), sink: Arc::clone(&target.ends.sink) };
        RunTarget { push: Arc::new(push), warm, stop: stop.clone() }
    }

    /// The engine that reads upstreams directly.
    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.push.engine
    }

    /// The cache, if it must be asked for an entry's tags because its upstream must not be.
    pub(super) fn lists_at_cache(&self, line: &RuledEntry) -> Option<&RegistryStore> {
        let rule = line.rule.as_deref().filter(|rule| rule.delivery == Delivery::Warm && !rule.warm.upstream_check);
        self.warm.as_ref().filter(|_| rule.is_some()).map(WarmTarget::store)
    }

    /// Whether no new work is to begin.
    pub(super) fn stop_requested(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The failure that ended the run.
    pub(super) fn fatal(&self) -> Option<Error> {
        self.push.engine.fatal()
    }

    /// What was done for blobs, by each engine.
    pub(super) fn counts(&self) -> Vec<&BlobCounts> {
        std::iter::once(self.push.engine.counts()).chain(self.warm.iter().map(WarmTarget::counts)).collect()
    }

    /// Opens the image that `request` asks for.
    ///
    /// # Errors
    /// If its credentials cannot be read, or the cache cannot serve it under its name.
    pub(super) async fn open(&self, upstreams: &Upstreams, request: &ImageRequest) -> Result<OpenedImage> {
        let rule = request.line.rule.as_deref().filter(|rule| rule.delivery == Delivery::Warm);
        match (&self.warm, rule) {
            (Some(warm), Some(rule)) => warm.open(upstreams, request, rule).await,
            _ => {
                let (image, gate) = upstreams.image(request).await?;
                Ok(OpenedImage { image, gate, delivery: Arc::clone(&self.push) as _ })
            }
        }
    }
}
