//! How images get into the target: pushed into it, or pulled through it where it is a cache.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::warm_delivery::WarmTarget;
use super::{ImageRequest, RuledEntry, SyncOptions, TargetStore, Upstreams};
use crate::content::{Digest, Sink};
use crate::copy::{BlobCounts, Comparison, CopyImage, CopyOptions, CopyOutcome, Engine, ImageState, NextStep};
use crate::limits::Gate;
use crate::registry::RegistryStore;
use crate::report::Reporter;
use crate::rules::Delivery;
use crate::{Error, Result};

/// An image's state, its digest at the upstream, and what would be copied.
pub(super) type ImagePlan = (ImageState, Option<Digest>, Option<Comparison>);

/// One way into the target.
#[async_trait]
pub(super) trait ImageDelivery: Send + Sync {
    /// The engine that copies.
    fn engine(&self) -> &Arc<Engine>;

    /// Compares both sides, spending no pull, and says what is to be done.
    ///
    /// # Errors
    /// As [`Engine::survey`].
    async fn next_step(&self, image: &CopyImage) -> Result<NextStep>;

    /// Compares both sides for a plan, spending no pull and preparing nothing.
    ///
    /// # Errors
    /// As [`Engine::compare`].
    async fn compare(&self, image: &CopyImage) -> Result<ImagePlan>;

    /// Makes the target hold the image. `slot` is given back once the copy is done; what follows may wait for minutes.
    ///
    /// # Errors
    /// As [`Engine::bring_image`], or if the target refuses pushes.
    async fn bring(&self, image: &mut CopyImage, comparison: Comparison, slot: OwnedSemaphorePermit) -> Result<CopyOutcome>;
}

/// An image that is ready to be compared and copied.
pub(super) struct OpenedImage {
    pub(super) image: CopyImage,
    /// Where its upstream counts pulls.
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) delivery: Arc<dyn ImageDelivery>,
}

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

/// Into a target that takes pushes.
struct PushDelivery {
    engine: Arc<Engine>,
    sink: Arc<dyn Sink>,
}

#[async_trait]
impl ImageDelivery for PushDelivery {
    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// A target that answers for its upstream, or takes no pushes, is found out before a pull is spent.
    async fn next_step(&self, image: &CopyImage) -> Result<NextStep> {
        let next = self.engine.survey(image).await?;
        let asked = match &next {
            NextStep::Nothing(_) => self.sink.vouches(&image.to, &image.context).await,
            NextStep::Bring(_) => self.sink.prepare_any(&image.to, &image.context).await,
        };
        asked.map_err(|error| error.subject(&*image.context.image))?;
        Ok(next)
    }

    async fn compare(&self, image: &CopyImage) -> Result<ImagePlan> {
        let (state, comparison) = self.engine.compare(image).await?;
        Ok((state, Some(comparison.wanted.digest.clone()), Some(comparison)))
    }

    async fn bring(&self, image: &mut CopyImage, comparison: Comparison, _slot: OwnedSemaphorePermit) -> Result<CopyOutcome> {
        // A push refused to an earlier image is known by now.
        let prepared = self.sink.prepare(&image.to, &image.context).await;
        prepared.map_err(|error| error.subject(&*image.context.image))?;
        self.engine.bring_image(image, comparison).await
    }
}
