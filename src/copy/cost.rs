//! What an image would cost in pulls, before one is spent: exact where its index is at hand, else an upper bound.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::engine::{Engine, Image, Survey};
use super::graph::CHILDREN;
use crate::Result;
use crate::content::{
    Choice, Descriptor, Digest, IndexMode, Manifest, ManifestKind, PlatformFilter, Policy, Presence as At, Referrer, is_blob_type, kind_of,
    rewrite,
};

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
/// Children that one platform asked for has at most, for a plan: the platform and its attestation; of arm without a variant, or Windows
/// without its version, up to four (v5 to v8; a multi-version Windows image has two to four) with theirs.
const MOST_OF_ONE: u64 = 2;
const MOST_OF_SEVERAL: u64 = 8;

/// The children that an index nobody has seen has at most, of those that `policy` asks for.
fn most(policy: &Policy) -> u64 {
    if policy.platforms.is_empty() {
        return MOST_CHILDREN;
    }
    let of = |filter: &PlatformFilter| if filter.is_narrow() { MOST_OF_ONE } else { MOST_OF_SEVERAL };
    policy.platforms.iter().map(of).sum::<u64>().min(MOST_CHILDREN)
}

/// How many children of `index` are asked for.
fn wanted_of(policy: &Policy, index: &Manifest) -> Result<Vec<Descriptor>> {
    Ok(Choice::of(&index.links()?.manifests, &policy.platforms).kept)
}

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

/// What an image costs at most, if nothing but its type is known.
pub fn most_pulls(wanted: &Descriptor) -> u64 {
    if kind_of(&wanted.media_type) == ManifestKind::Image { 1 } else { 1 + MOST_CHILDREN }
}

impl Engine {
    /// What [`Engine::bring_image`] will ask of the upstream's budget for `image`. Asks the target only.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn cost(&self, image: &Image, survey: &Survey) -> Result<Cost> {
        if let Some(rechecked) = &survey.rechecked {
            let read = self.not_free(image, &rechecked.missing).await?;
            let unread = rechecked.walk.unread.len() as u64;
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
        let subjects = self.subjects_at_hand(image, survey)?;
        let mut walk = survey.walk.lock().await;
        self.list_referrers(image, &mut walk, &subjects).await?;
        let found: Vec<Referrer> = walk.found.iter().map(|found| found.referrer.clone()).collect();
        let read = self.not_free(image, &found).await?;
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

    /// What of an image may have referrers that are carried, as far as that is known without reading it.
    fn subjects_at_hand(&self, image: &Image, survey: &Survey) -> Result<Vec<Digest>> {
        let (top, policy) = (&survey.wanted, &image.policy);
        let Some(index) = image.upstream.at_hand(&top.digest) else {
            // An index is cut, as a rule, where platforms are asked for, and nothing is about the new one.
            let cut = !policy.platforms.is_empty() && policy.index == IndexMode::Rewrite && kind_of(&top.media_type) != ManifestKind::Image;
            return Ok(if cut { vec![] } else { vec![top.digest.clone()] });
        };
        let whole = policy.index == IndexMode::Sparse || rewrite(&index, &policy.platforms)?.digest == top.digest;
        let children = wanted_of(policy, &index)?.into_iter().map(|child| child.digest);
        Ok(whole.then(|| top.digest.clone()).into_iter().chain(children).collect())
    }

    async fn image_cost(&self, image: &Image, survey: &Survey) -> Result<Cost> {
        let wanted = &survey.wanted;
        if let Some(index) = survey.look.index.as_ref().filter(|index| index.digest == wanted.digest) {
            return Ok(Cost::known(self.children(image, index).await?));
        }
        if survey.held.as_ref() == Some(&wanted.digest) || self.elsewhere(&image.to, &wanted.digest).is_some() {
            return Ok(Cost::NOTHING);
        }
        if let Some(index) = self.manifest_at_hand(image, wanted) {
            return Ok(Cost::known(self.children(image, &index).await?));
        }
        match self.target.sink.holds_manifest(&image.to, wanted, &image.charge).await? {
            At::Absent => {}
            // Of an index without all of its children, those asked for may be missing.
            At::Here | At::Incomplete if !image.policy.platforms.is_empty() => {
                let index = self.target.source.manifest(&image.to, &wanted.digest, &image.charge).await?;
                return Ok(Cost::known(match index {
                    Some(index) => self.children(image, &index).await?,
                    None => 0,
                }));
            }
            At::Here | At::Incomplete | At::At(_) => return Ok(Cost::NOTHING),
        }
        if kind_of(&wanted.media_type) == ManifestKind::Image {
            return Ok(Cost::known(1));
        }
        let (before, most) = (self.children_of_before(image, survey).await, most(&image.policy));
        // What the run's other indexes had says little of an image of which fewer are asked for.
        let likely = before.or_else(|| (most < MOST_CHILDREN).then(|| most.min(self.seen.likely())));
        Ok(Cost { pulls: 1 + before.unwrap_or(most), likely: likely.map(|children| 1 + children), exact: false })
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
        if survey.rechecked.is_some() {
            // It is there; what its new referrers cost is as well known as it can be.
            return Ok(());
        }
        let digest = &survey.wanted.digest;
        let _leading = self.leaders.hold(digest.clone()).await;
        // That it is not there at all is met again when the image is brought.
        let read = image.upstream.manifest(&image.from, digest, &image.charge).await;
        let index = read.map_err(|error| error.subject(&*image.charge.image))?;
        if let Some(index) = &index {
            self.seen.add(wanted_of(&image.policy, index)?.len() as u64);
        }
        Ok(())
    }

    /// How many manifests the target's present image of that name has, of those asked for: the next one will be alike.
    async fn children_of_before(&self, image: &Image, survey: &Survey) -> Option<u64> {
        let held = survey.held.as_ref()?;
        let index = match &survey.look.index {
            Some(index) => index.clone(),
            None => self.target.source.manifest(&image.to, held, &image.charge).await.ok()??,
        };
        Some(wanted_of(&image.policy, &index).ok()?.len() as u64)
    }

    /// How many of an index's children the upstream must be asked for: those that are asked for and neither at hand nor at the target.
    async fn children(&self, image: &Image, index: &Manifest) -> Result<u64> {
        self.at_hand.add_inline(index);
        let mut pulls = 0;
        for child in wanted_of(&image.policy, index)?.into_iter().filter(|child| !is_blob_type(&child.media_type)) {
            if !self.is_free(image, &child).await? {
                pulls += 1;
            }
        }
        Ok(pulls)
    }

    /// How many of these referrers the upstream must be asked for.
    async fn not_free(&self, image: &Image, referrers: &[Referrer]) -> Result<u64> {
        let asked = stream::iter(referrers.to_vec()).map(|referrer| async move { self.is_free(image, &referrer.manifest).await });
        asked.buffer_unordered(CHILDREN).try_fold(0, |pulls, free| async move { Ok(pulls + u64::from(!free)) }).await
    }

    async fn is_free(&self, image: &Image, child: &Descriptor) -> Result<bool> {
        if self.manifest_at_hand(image, child).is_some() || self.elsewhere(&image.to, &child.digest).is_some() {
            return Ok(true);
        }
        Ok(self.target.sink.holds_manifest(&image.to, child, &image.charge).await? != At::Absent)
    }
}
