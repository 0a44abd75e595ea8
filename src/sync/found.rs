//! An image that must be brought, and the pulls it needs.

use std::sync::Arc;

use super::ImageRequest;
use crate::copy::{Comparison, CopyImage, Cost, Engine};
use crate::limits::{Deferred, Gate, PullRequest, WaitMode};
use crate::warm::CachedImage;
use crate::{Error, Kind, Result, Side};

/// Pulls that an image is taken to need when it is asked whether pulls are scarce: an index and a few platforms.
const SCARCE: u64 = 4;

/// An image that must be brought.
pub(super) struct MissingImage {
    pub(super) want: ImageRequest,
    pub(super) image: CopyImage,
    /// Where its upstream counts pulls.
    pub(super) gate: Option<Arc<Gate>>,
    /// How it comes through the cache, if it is to be warmed.
    pub(super) through: Option<Arc<CachedImage>>,
    /// What both sides said; none if that failed.
    pub(super) survey: Option<Comparison>,
    /// What it costs, once somebody has asked.
    pub(super) cost: Option<Cost>,
}

impl MissingImage {
    /// Whether what is left of the account's window may not do for this image and `others` more.
    pub(super) fn is_scarce(&self, others: u64) -> bool {
        let left = self.gate.as_ref().and_then(|gate| gate.standing().remaining);
        left.is_some_and(|left| left <= others.saturating_mul(SCARCE))
    }

    /// What it costs. Where nothing is counted, nobody is asked.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub(super) async fn cost(&mut self, engine: &Engine) -> Result<Cost> {
        let counted = self.gate.as_ref().is_some_and(|gate| !gate.standing().unlimited);
        let cost = match (self.cost, &self.survey) {
            (Some(known), _) => known,
            (None, Some(survey)) if counted => engine.cost(&self.image, survey).await?,
            (None, _) => return Ok(Cost::NOTHING),
        };
        self.cost = Some(cost);
        Ok(cost)
    }

    /// Reserves the pulls of the image's whole graph, so that none is wasted on half an image.
    ///
    /// # Errors
    /// Of kind [`Kind::Deferred`] if they are not there, and `mode` does not wait for them.
    pub(super) async fn reserve(&mut self, engine: &Engine, mode: WaitMode) -> Result<()> {
        let Some(gate) = self.gate.clone().filter(|_| self.image.context.lease.is_none()) else { return Ok(()) };
        let mut cost = self.cost(engine).await?;
        if !cost.exact && self.image.upstream.keeps_manifests() {
            if let Ok(lease) = gate.acquire_now(self.claim(cost.pulls), mode).await {
                self.image.context.lease = Some(lease);
                return Ok(());
            }
            // What is left of the window may still do for the image: one pull tells, and it is not wasted, because the index is
            // kept until its image is delivered.
            if let Ok(lease) = gate.acquire_now(self.claim(1), mode).await {
                self.image.context.lease = Some(lease);
                cost = self.look_inside(engine).await?;
            }
        }
        let pulls = cost.pulls;
        if pulls > 0 {
            let lease = gate.acquire(self.claim(pulls), mode).await.map_err(deferred)?;
            self.image.context.lease = Some(lease);
        }
        Ok(())
    }

    fn claim(&self, pulls: u64) -> PullRequest {
        PullRequest { pulls, priority: self.want.priority }
    }

    /// Reads the index, with the pull that was taken for it; what the image costs is exact then.
    async fn look_inside(&mut self, engine: &Engine) -> Result<Cost> {
        let read = match &self.survey {
            Some(survey) => engine.read_ahead(&self.image, survey).await,
            None => Ok(()),
        };
        self.image.context.lease = None;
        self.cost = None;
        read?;
        self.cost(engine).await
    }
}

/// Pulls are not there, and are not waited for.
pub(super) fn deferred(Deferred { reason, until }: Deferred) -> Error {
    Error::new(Side::Upstream, "reserve pulls", Kind::Deferred, reason).waiting_until(until)
}
