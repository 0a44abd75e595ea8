//! How images get into the target: pushed into it, or pulled through it where it is a cache.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

use crate::Result;
use crate::content::{Digest, Sink};
use crate::copy::{Comparison, CopyImage, CopyOutcome, Engine, ImageState, NextStep};
use crate::limits::Gate;

/// An image's state, its digest at the upstream, and what would be copied.
pub(super) type ImagePlan = (ImageState, Option<Digest>, Option<Comparison>);

/// One way into the target.
#[async_trait]
pub(super) trait ImageDelivery: Send + Sync {
    /// The engine that copies.
    fn engine(&self) -> &Arc<Engine>;

    /// Whether manifests of one digest are read once for all images.
    fn shares_manifests(&self) -> bool;

    /// Compares both sides, spending no pull, and says what is to be done.
    ///
    /// # Errors
    /// As [`Engine::next_step`].
    async fn next_step(&self, image: &CopyImage) -> Result<NextStep>;

    /// Compares both sides for a plan, spending no pull and preparing nothing.
    ///
    /// # Errors
    /// As [`Engine::compare`].
    async fn compare(&self, image: &CopyImage) -> Result<ImagePlan>;

    /// Makes the target hold the image. `slot` is given back once the copy is done; what follows may wait for minutes.
    ///
    /// # Errors
    /// As [`Engine::copy_image`], or if the target refuses pushes.
    async fn bring(&self, image: &mut CopyImage, comparison: Comparison, slot: OwnedSemaphorePermit) -> Result<CopyOutcome>;
}

/// An image that is ready to be compared and copied.
pub(super) struct OpenedImage {
    pub(super) image: CopyImage,
    /// Where its upstream counts pulls.
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) delivery: Arc<dyn ImageDelivery>,
}

/// Into a target that takes pushes.
pub(super) struct PushDelivery {
    pub(super) engine: Arc<Engine>,
    pub(super) sink: Arc<dyn Sink>,
}

#[async_trait]
impl ImageDelivery for PushDelivery {
    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn shares_manifests(&self) -> bool {
        true
    }

    /// A target that answers for its upstream, or takes no pushes, is found out before a pull is spent.
    async fn next_step(&self, image: &CopyImage) -> Result<NextStep> {
        let next = self.engine.next_step(image).await?;
        let asked = match &next {
            NextStep::Nothing(_) => self.sink.vouches(&image.to, &image.context).await,
            NextStep::Copy(_) => self.sink.prepare_any(&image.to, &image.context).await,
        };
        asked.map_err(|error| error.subject(&*image.context.image))?;
        Ok(next)
    }

    async fn compare(&self, image: &CopyImage) -> Result<ImagePlan> {
        let (state, comparison) = self.engine.compare(image).await?;
        Ok((state, Some(comparison.wanted.digest.clone()), Some(comparison)))
    }

    async fn bring(&self, image: &mut CopyImage, comparison: Comparison, slot: OwnedSemaphorePermit) -> Result<CopyOutcome> {
        // A push refused to an earlier image is known by now.
        let prepared = self.sink.prepare(&image.to, &image.context).await;
        prepared.map_err(|error| error.subject(&*image.context.image))?;
        self.engine.copy_image(image, comparison, &mut Some(slot)).await
    }
}
