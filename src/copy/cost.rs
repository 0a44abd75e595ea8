//! What an image would cost in pulls, before one is spent: exact where its index is at hand, else an upper bound.

use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::{Engine, Image, Survey};
use crate::Result;
use crate::content::{Descriptor, Manifest, ManifestKind, Presence as At, kind_of};

/// Children that an index nobody has seen has at most, for a plan: Docker's official images have 8 platforms with an
/// attestation each.
const MOST_CHILDREN: u64 = 16;

/// Children that the first index of a run is taken to have: two platforms with their attestations, as what people build
/// themselves mostly has. After it, what the run has seen tells. An image that turns out to be smaller gives the rest back; one
/// that is larger goes on before those not begun, and what was read of it is kept.
const LIKELY_CHILDREN: u64 = 4;

/// Manifests that an index of referrers nobody has read lists: mostly a signature; and at most, for a plan, a signature, an SBOM,
/// a provenance, and signatures of both.
pub(super) const LIKELY_IN_INDEX: u64 = 1;
const MOST_IN_INDEX: u64 = 5;

/// Manifest GETs at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// How many, at most.
    pub pulls: u64,
    /// How many are likely, as far as this image tells: see [`Engine::likely`].
    pub likely: Option<u64>,
    /// Whether that is known, not estimated.
    pub exact: bool,
}

impl Cost {
    /// Nothing is to be pulled.
    pub const NOTHING: Cost = Cost::known(0);

    const fn known(pulls: u64) -> Self {
        Cost { pulls, likely: Some(pulls), exact: true }
    }
}

/// How many children the indexes of a run had.
#[derive(Debug, Default)]
pub(super) struct Seen {
    indexes: AtomicU64,
    children: AtomicU64,
}

impl Seen {
    pub(super) fn add(&self, children: u64) {
        if children > 0 {
            self.indexes.fetch_add(1, Ordering::Relaxed);
            self.children.fetch_add(children, Ordering::Relaxed);
        }
    }

    fn likely(&self) -> u64 {
        match self.indexes.load(Ordering::Relaxed) {
            0 => LIKELY_CHILDREN,
            indexes => self.children.load(Ordering::Relaxed).div_ceil(indexes),
        }
    }
}

impl Engine {
    /// What [`Engine::bring_image`] will ask of the upstream's budget for `image`. Asks the target only.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn cost(&self, image: &Image, survey: &Survey) -> Result<Cost> {
        if let Some(looked) = &survey.looked {
            let (read, unread) = (looked.missing.len() as u64, looked.walk.unread.len() as u64);
            return Ok(Cost {
                pulls: read + unread * (1 + MOST_IN_INDEX),
                likely: Some(read + unread * (1 + LIKELY_IN_INDEX)),
                exact: unread == 0,
            });
        }
        let cost = self.image_cost(image, survey).await?;
        self.and_referrers(image, survey, cost).await
    }

    /// The image's own cost, and that of what refers to it, as far as lists tell.
    async fn and_referrers(&self, image: &Image, survey: &Survey, cost: Cost) -> Result<Cost> {
        let top = &survey.wanted.digest;
        let mut subjects = vec![top.clone()];
        if let Some(index) = image.upstream.at_hand(top) {
            subjects.extend(index.links()?.manifests.into_iter().map(|child| child.digest));
        }
        let mut walk = survey.walk.lock().await;
        self.list_referrers(image, &mut walk, &subjects).await?;
        let mut read = 0;
        for found in &walk.found {
            read += u64::from(!self.is_free(image, &found.referrer.manifest).await?);
        }
        let unread = walk.unread.len() as u64;
        if read + unread == 0 {
            return Ok(cost);
        }
        // The children of an index that nobody has seen have as many, as where `cosign sign --recursive` was used.
        let unseen = if cost.exact { 0 } else { cost.pulls.saturating_sub(1) };
        let likely = read + unread * (1 + LIKELY_IN_INDEX);
        Ok(Cost {
            pulls: cost.pulls + (read + unread * (1 + MOST_IN_INDEX)) * (1 + unseen),
            likely: Some(self.likely(cost) + likely),
            exact: cost.exact && unread == 0,
        })
    }

    async fn image_cost(&self, image: &Image, survey: &Survey) -> Result<Cost> {
        let wanted = &survey.wanted;
        if survey.held.as_ref() == Some(&wanted.digest) || self.presence.anywhere(&wanted.digest).is_some() {
            return Ok(Cost::NOTHING);
        }
        if let Some(index) = image.upstream.at_hand(&wanted.digest) {
            return Ok(Cost::known(self.children(image, &index).await?));
        }
        match self.target.sink.holds_manifest(&image.to, wanted, &image.charge).await? {
            At::Here | At::Incomplete | At::At(_) => return Ok(Cost::NOTHING),
            At::Absent => {}
        }
        if kind_of(&wanted.media_type) == ManifestKind::Image {
            return Ok(Cost::known(1));
        }
        let before = self.children_of_before(image, survey).await;
        Ok(Cost { pulls: 1 + before.unwrap_or(MOST_CHILDREN), likely: before.map(|children| 1 + children), exact: false })
    }

    /// How many pulls are reserved before an image of this cost is begun: those that are likely, now. Reserving the most would
    /// leave the end of each window unused by images that would fit.
    pub fn likely(&self, cost: Cost) -> u64 {
        cost.likely.unwrap_or_else(|| 1 + self.seen.likely())
    }

    /// Reads the manifest that `survey` names, for a source that keeps it: what `image` costs is exact then.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn read_ahead(&self, image: &Image, survey: &Survey) -> Result<()> {
        let digest = &survey.wanted.digest;
        let _leading = self.leaders.hold(digest.clone()).await;
        // That it is not there at all is met again when the image is brought.
        let read = image.upstream.manifest(&image.from, digest, &image.charge).await;
        let index = read.map_err(|error| error.subject(&*image.charge.image))?;
        if let Some(index) = &index {
            self.seen.add(index.links()?.manifests.len() as u64);
        }
        Ok(())
    }

    /// How many manifests the target's present image of that name has: the next one will be alike.
    async fn children_of_before(&self, image: &Image, survey: &Survey) -> Option<u64> {
        let held = survey.held.as_ref()?;
        let index = self.target.source.manifest(&image.to, held, &image.charge).await.ok()??;
        Some(index.links().ok()?.manifests.len() as u64)
    }

    /// How many of an index's children the upstream must be asked for: those neither at hand nor at the target.
    async fn children(&self, image: &Image, index: &Manifest) -> Result<u64> {
        let mut pulls = 0;
        for child in index.links()?.manifests {
            if !self.is_free(image, &child).await? {
                pulls += 1;
            }
        }
        Ok(pulls)
    }

    async fn is_free(&self, image: &Image, child: &Descriptor) -> Result<bool> {
        if image.upstream.at_hand(&child.digest).is_some() || self.presence.anywhere(&child.digest).is_some() {
            return Ok(true);
        }
        Ok(self.target.sink.holds_manifest(&image.to, child, &image.charge).await? != At::Absent)
    }
}
