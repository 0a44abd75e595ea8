//! An image that must be copied, and the pulls it needs.

use tokio::sync::OwnedSemaphorePermit;

use super::ImageRequest;
use super::delivery::OpenedImage;
use crate::copy::{Comparison, CopyOutcome, Cost};
use crate::limits::{Deferred, Lease, PullRequest, WaitMode};
use crate::{Error, Kind, Operation, Result, Side};

/// Pulls that an image is assumed to need when pulls may be scarce: an index and a few platforms.
const SCARCE: u64 = 4;

/// An image that must be copied: both sides have been asked.
pub(super) struct MissingImage {
    pub(super) request: ImageRequest,
    opened: OpenedImage,
    comparison: Comparison,
    /// What it costs, once the target was asked for its parts.
    cost: Option<Cost>,
}

impl MissingImage {
    /// An image that is missing, or moved. Its cost is looked up, because the order under scarcity depends on it.
    pub(super) async fn new(request: ImageRequest, opened: OpenedImage, comparison: Comparison) -> Self {
        let mut missing = MissingImage { request, opened, comparison, cost: None };
        // An error occurs again, and is reported, when the image is copied.
        let _ = missing.cost().await;
        missing
    }

    /// Whether the account's remaining pulls may not suffice for this image and `others` more.
    pub(super) fn is_scarce(&self, others: u64) -> bool {
        let left = self.opened.gate.as_ref().and_then(|gate| gate.standing().remaining);
        left.is_some_and(|left| left <= others.saturating_mul(SCARCE))
    }

    /// Pulls that it is expected to need, if that is known.
    pub(super) fn expected_pulls(&self) -> Option<u64> {
        self.cost.map(|cost| cost.pulls)
    }

    /// What it costs. Where nothing is counted, nobody is asked.
    async fn cost(&mut self) -> Result<Cost> {
        let counted = self.opened.gate.as_ref().is_some_and(|gate| !gate.standing().unlimited);
        let cost = match self.cost {
            Some(known) => known,
            None if counted => self.opened.delivery.engine().costs().of(&self.opened.image, &self.comparison).await?,
            None => return Ok(Cost::NOTHING),
        };
        self.cost = Some(cost);
        Ok(cost)
    }

    /// Reserves the pulls of the image's whole graph, so that none is wasted on half an image.
    ///
    /// # Errors
    /// Of kind [`Kind::Deferred`] if they are not available, and `mode` does not wait for them.
    pub(super) async fn reserve(&mut self, mode: WaitMode) -> Result<()> {
        let Some(gate) = self.opened.gate.clone().filter(|_| self.opened.image.context.lease.is_none()) else { return Ok(()) };
        let mut cost = self.cost().await?;
        let priority = self.request.priority;
        let request = |pulls| PullRequest { pulls, priority };
        if !cost.exact && self.opened.image.upstream.keeps_manifests() {
            if let Ok(lease) = Lease::acquire_now(&gate, request(cost.pulls), mode).await {
                self.opened.image.context.lease = Some(lease);
                return Ok(());
            }
            // The remaining pulls may still suffice for the image. One pull tells, and it is not wasted, because the index is saved
            // until its image is delivered.
            if let Ok(lease) = Lease::acquire_now(&gate, request(1), mode).await {
                self.opened.image.context.lease = Some(lease);
                cost = self.read_index().await?;
            }
        }
        if cost.pulls > 0 {
            let lease = Lease::acquire(&gate, request(cost.pulls), mode).await.map_err(deferred)?;
            self.opened.image.context.lease = Some(lease);
        }
        Ok(())
    }

    /// Reads the index, with the pull that was reserved for it. The image's cost is exact then.
    async fn read_index(&mut self) -> Result<Cost> {
        let read = self.opened.delivery.engine().costs().read_ahead(&self.opened.image, &self.comparison).await;
        self.opened.image.context.lease = None;
        self.cost = None;
        read?;
        self.cost().await
    }

    /// Makes the target hold it.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn bring(&mut self, slot: OwnedSemaphorePermit) -> Result<CopyOutcome> {
        let OpenedImage { image, delivery, .. } = &mut self.opened;
        let outcome = delivery.bring(image, self.comparison.clone(), slot).await?;
        image.context.lease = None;
        Ok(outcome)
    }
}

/// The pulls are not available, and the run does not wait for them.
pub(super) fn deferred(Deferred { reason, until }: Deferred) -> Error {
    Error::new(Side::Upstream, Operation::ReservePulls, Kind::Deferred, reason).waiting_until(until)
}
