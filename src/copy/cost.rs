//! What an image would cost in pulls, before one is spent: exact where its index is at hand, else an upper bound.

use super::engine::{Engine, Image, Survey};
use crate::Result;
use crate::content::{Descriptor, Manifest, ManifestKind, Presence as At, kind_of};

/// Children that an index nobody has seen is taken to have. Docker's official images have 8 platforms with an attestation
/// each; an image that turns out to be smaller gives the rest back, one that is larger goes on before those not begun.
const UNSEEN_CHILDREN: u64 = 16;

/// Manifest GETs at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// How many, at most.
    pub pulls: u64,
    /// Whether that is known, not estimated.
    pub exact: bool,
}

impl Cost {
    const NOTHING: Cost = Cost { pulls: 0, exact: true };
}

impl Engine {
    /// What [`Engine::bring_image`] will ask of the upstream's budget for `image`. Asks the target only.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn cost(&self, image: &Image, survey: &Survey) -> Result<Cost> {
        let wanted = &survey.wanted;
        if survey.held.as_ref() == Some(&wanted.digest) || self.presence.anywhere(&wanted.digest).is_some() {
            return Ok(Cost::NOTHING);
        }
        if let Some(index) = image.upstream.at_hand(&wanted.digest) {
            return Ok(Cost { pulls: self.children(image, &index).await?, exact: true });
        }
        match self.target.sink.holds_manifest(&image.to, wanted, &image.charge).await? {
            At::Here | At::Incomplete | At::At(_) => return Ok(Cost::NOTHING),
            At::Absent => {}
        }
        if kind_of(&wanted.media_type) == ManifestKind::Image {
            return Ok(Cost { pulls: 1, exact: true });
        }
        let children = self.children_of_before(image, survey).await.unwrap_or(UNSEEN_CHILDREN);
        Ok(Cost { pulls: 1 + children, exact: false })
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
