//! Estimates the pulls that an image costs before one is spent: exact if its index is in memory or at the target, else
//! an estimate and an upper bound from the index's size in a HEAD.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::child_counts::LIKELY_CHILDREN;
use super::comparison::Comparison;
use super::image::CopyImage;
use super::listing::ReferrerLister;
use super::predict::{self, ReadIndex};
use super::reader::{CONCURRENT_CHILDREN, ContentReader};
use super::referrer_walk::{LIKELY_IN_INDEX, UnreadIndex};
use super::target::TargetState;
use crate::Result;
use crate::content::{
    ChildChoice, Descriptor, Digest, IndexMode, Manifest, ManifestKind, NodeRole, PlatformFilter, Policy, Presence as At, Referrer,
    kind_of, rewrite,
};

/// The most manifests that we assume in an unread index of referrers whose size is unknown: a signature, an SBOM, a
/// provenance, and signatures of both.
const MAX_IN_INDEX: u64 = 5;
/// The most children of one requested platform: the platform and its attestation. For arm without a variant, or Windows
/// without a version, up to four platforms (v5 to v8; a multi-version Windows image has two to four) with theirs.
const MAX_PER_NARROW_FILTER: u64 = 2;
const MAX_PER_WIDE_FILTER: u64 = 8;

/// The most children of an index of `size` bytes that `policy` can select.
fn most_selected(policy: &Policy, size: u64) -> u64 {
    let all = predict::most_children(size);
    if policy.platforms.is_empty() {
        return all;
    }
    let of = |filter: &PlatformFilter| if filter.is_narrow() { MAX_PER_NARROW_FILTER } else { MAX_PER_WIDE_FILTER };
    policy.platforms.iter().map(of).sum::<u64>().min(all)
}

/// The expected children of an unread index that `policy` selects.
fn expected_selected(policy: &Policy, expected: predict::ChildEstimate) -> u64 {
    if policy.platforms.is_empty() {
        return expected.children;
    }
    // A filter that matches several platforms mostly matches one or two.
    let of = |filter: &PlatformFilter| expected.per_platform * if filter.is_narrow() { 1 } else { 2 };
    policy.platforms.iter().map(of).sum::<u64>().min(expected.children)
}

/// The children of `index` that `policy` selects.
fn selected_children(policy: &Policy, index: &Manifest) -> Vec<Descriptor> {
    ChildChoice::of(&index.links().manifests, &policy.platforms).kept
}

/// Manifest GETs at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// The expected number, which is reserved before an image begins. Reserving the most would leave the end of each
    /// rate-limit window unused by images that would fit.
    pub pulls: u64,
    /// The most.
    pub at_most: u64,
    /// Whether the number is known, not estimated.
    pub exact: bool,
}

impl Cost {
    /// No pulls.
    pub const NOTHING: Cost = Cost::known(0);

    const fn known(pulls: u64) -> Self {
        Cost { pulls, at_most: pulls, exact: true }
    }
}

/// The pulls that an image costs if only its descriptor is known: expected, and at most.
pub fn unread_pulls(wanted: &Descriptor) -> (u64, u64) {
    if kind_of(&wanted.media_type) == ManifestKind::Image {
        return (1, 1);
    }
    let expected = predict::expected(&wanted.media_type, wanted.size, &[]).filter(|_| wanted.size > 0);
    (1 + expected.map_or(LIKELY_CHILDREN, |expected| expected.children), 1 + predict::most_children(wanted.size))
}

/// The most pulls that these indexes and their entries cost.
fn most_listed(unread: &[UnreadIndex]) -> u64 {
    let of = |unread: &UnreadIndex| if unread.index.size > 0 { predict::most_children(unread.index.size) } else { MAX_IN_INDEX };
    unread.iter().map(|unread| 1 + of(unread)).sum()
}

/// Estimates the pulls that images cost.
pub struct CostEstimate {
    target: Arc<TargetState>,
    reader: ContentReader,
    lister: Arc<ReferrerLister>,
}

impl CostEstimate {
    pub(super) fn new(target: Arc<TargetState>, lister: Arc<ReferrerLister>) -> Self {
        CostEstimate { reader: ContentReader::new(Arc::clone(&target)), target, lister }
    }

    /// The pulls that copying `image` will cost. Asks the target only.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn of(&self, image: &CopyImage, comparison: &Comparison) -> Result<Cost> {
        if let Some(rechecked) = &comparison.rechecked {
            let read = self.count_pulls(image, &rechecked.missing).await?;
            let unread = &rechecked.walk.unread;
            return Ok(Cost {
                pulls: read + unread.len() as u64 * (1 + LIKELY_IN_INDEX),
                at_most: read + most_listed(unread),
                exact: unread.is_empty(),
            });
        }
        let cost = self.image_cost(image, comparison).await?;
        let more = if cost == Cost::NOTHING { 0 } else { image.upstream.more_reads_of_the_root() };
        let cost = self.add_referrers(image, comparison, cost).await?;
        Ok(Cost { pulls: cost.pulls + more, at_most: cost.at_most + more, ..cost })
    }

    /// Adds the cost of the image's referrers, as far as they can be listed.
    async fn add_referrers(&self, image: &CopyImage, comparison: &Comparison, cost: Cost) -> Result<Cost> {
        let subjects = self.known_subjects(image, comparison)?;
        let mut walk = comparison.walk.lock().await;
        self.lister.list(image, &mut walk, &subjects).await?;
        let found: Vec<Referrer> = walk.found.iter().map(|found| found.referrer.clone()).collect();
        let read = self.count_pulls(image, &found).await?;
        let unread = &walk.unread;
        if read == 0 && unread.is_empty() {
            return Ok(cost);
        }
        // Each child of an unread index may have as many, as after `cosign sign --recursive`.
        let unread_children = if cost.exact { 0 } else { cost.at_most.saturating_sub(1) };
        Ok(Cost {
            pulls: cost.pulls + read + unread.len() as u64 * (1 + LIKELY_IN_INDEX),
            at_most: cost.at_most + (read + most_listed(unread)) * (1 + unread_children),
            exact: cost.exact && unread.is_empty(),
        })
    }

    /// The manifests of an image whose referrers will be copied, if they are known without reading the image.
    fn known_subjects(&self, image: &CopyImage, comparison: &Comparison) -> Result<Vec<Digest>> {
        let (top, policy) = (&comparison.wanted, &image.policy);
        let Some(index) = image.upstream.cached(&top.digest) else {
            // If the policy names platforms, the index is usually cut, and the new one has no referrers.
            let cut = !policy.platforms.is_empty() && policy.index == IndexMode::Rewrite && kind_of(&top.media_type) != ManifestKind::Image;
            return Ok(if cut { vec![] } else { vec![top.digest.clone()] });
        };
        let whole = policy.index == IndexMode::Sparse || rewrite(&index, &policy.platforms)?.digest() == &top.digest;
        let children = selected_children(policy, &index).into_iter().map(|child| child.digest);
        Ok(whole.then(|| top.digest.clone()).into_iter().chain(children).collect())
    }

    async fn image_cost(&self, image: &CopyImage, comparison: &Comparison) -> Result<Cost> {
        let wanted = &comparison.wanted;
        if let Some(index) = comparison.target_index.index.as_ref().filter(|index| *index.digest() == wanted.digest) {
            return self.cost_of_children(image, index).await;
        }
        if comparison.held.as_ref() == Some(&wanted.digest) || self.target.repository_with(&image.to, &wanted.digest).is_some() {
            return Ok(Cost::NOTHING);
        }
        if let Some(index) = self.reader.cached_manifest(image, wanted) {
            return self.cost_of_children(image, &index).await;
        }
        match self.target.sink().holds_manifest(&image.to, wanted, &image.context).await? {
            At::Absent => {}
            // A sparse index may lack the selected children.
            At::Here | At::Incomplete if !image.policy.platforms.is_empty() => {
                let index = self.target.source().manifest(&image.to, &wanted.digest, &image.context).await?;
                return match index {
                    Some(index) => self.cost_of_children(image, &index).await,
                    None => Ok(Cost::NOTHING),
                };
            }
            At::Here | At::Incomplete | At::At(_) => return Ok(Cost::NOTHING),
        }
        if kind_of(&wanted.media_type) == ManifestKind::Image {
            return Ok(Cost::known(1));
        }
        let at_most = most_selected(&image.policy, comparison.size);
        let children = self.expected_children(image, comparison).await.min(at_most);
        Ok(Cost { pulls: 1 + children, at_most: 1 + at_most, exact: false })
    }

    /// The expected number of selected children of an unread index: as many as the target's present image of that name;
    /// else as another index of the repository; else from its size; else the average of the run.
    async fn expected_children(&self, image: &CopyImage, comparison: &Comparison) -> u64 {
        let (policy, size) = (&image.policy, comparison.size);
        let known = match self.present_index(image, comparison).await {
            Some(present) => Some(present),
            None => self.target.child_counts().read_index(&image.to),
        };
        if let Some(index) = known {
            let wanted = selected_children(policy, &index).len() as u64;
            return if policy.platforms.is_empty() {
                predict::alike(ReadIndex { size: index.size(), children: wanted }, size)
            } else {
                wanted
            };
        }
        let sizes = self.target.child_counts().unread_sizes(&image.to);
        let expected = if size > 0 { predict::expected(&comparison.wanted.media_type, size, &sizes) } else { None };
        expected.map_or_else(|| self.target.child_counts().likely(), |expected| expected_selected(policy, expected))
    }

    /// The blobs of an image that must be copied; `None` if they are not known without a pull.
    pub async fn known_blobs(&self, image: &CopyImage, comparison: &Comparison) -> Option<Vec<Descriptor>> {
        let top = self.reader.cached_manifest(image, &comparison.wanted).or_else(|| {
            let index = comparison.target_index.index.as_ref()?;
            (*index.digest() == comparison.wanted.digest).then(|| index.clone())
        })?;
        let mut blobs = top.links().blobs.clone();
        for child in selected_children(&image.policy, &top) {
            match self.reader.cached_manifest(image, &child) {
                Some(manifest) => blobs.extend(manifest.links().blobs.iter().cloned()),
                // The target has it with all its blobs.
                None if self.is_free(image, &child).await.ok()? => {}
                None => return None,
            }
        }
        Some(blobs)
    }

    /// Reads the manifest that `comparison` names into its source's cache, so that the cost of `image` becomes exact.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn read_ahead(&self, image: &CopyImage, comparison: &Comparison) -> Result<()> {
        if comparison.rechecked.is_some() {
            // The target has the image. Reading more does not make the cost of its referrers more exact.
            return Ok(());
        }
        let digest = &comparison.wanted.digest;
        let _reading = self.target.lock_read(digest).await;
        // A missing manifest is reported when the image is copied.
        let read = image.upstream.manifest(&image.from, digest, &image.context).await;
        let index = read.map_err(|error| error.subject(&*image.context.image))?;
        if let Some(index) = &index {
            self.target.child_counts().add(selected_children(&image.policy, index).len() as u64);
            self.target.child_counts().learn(&image.to, index);
        }
        Ok(())
    }

    /// The target's present index of that name: the next one will be similar.
    async fn present_index(&self, image: &CopyImage, comparison: &Comparison) -> Option<Manifest> {
        let held = comparison.held.as_ref()?;
        let index = match &comparison.target_index.index {
            Some(index) => index.clone(),
            None => self.target.source().manifest(&image.to, held, &image.context).await.ok()??,
        };
        (index.kind() == ManifestKind::Index).then_some(index)
    }

    /// As [`CostEstimate::of`], for a plan: if the target has another index of the repository, reads it first, once per
    /// repository. A run does not spend that request.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn of_planned(&self, image: &CopyImage, comparison: &Comparison) -> Result<Cost> {
        if kind_of(&comparison.wanted.media_type) == ManifestKind::Index && comparison.held.is_none() {
            let held = self.target.child_counts().take_unread_at_target(&image.to);
            if let Some(held) = held
                && let Ok(Some(index)) = self.target.source().manifest(&image.to, &held, &image.context).await
            {
                self.target.child_counts().learn(&image.to, &index);
            }
        }
        self.of(image, comparison).await
    }

    /// The cost of an index that was read: its selected children that are neither cached nor at the target. For nested
    /// indexes only a bound is known.
    async fn cost_of_children(&self, image: &CopyImage, index: &Manifest) -> Result<Cost> {
        self.target.cached().add_inline(index);
        let mut cost = Cost::known(0);
        for child in
            selected_children(&image.policy, index).into_iter().filter(|child| NodeRole::of_child(&child.media_type) != NodeRole::Blob)
        {
            if self.is_free(image, &child).await? {
                continue;
            }
            let (likely, most) = if kind_of(&child.media_type) == ManifestKind::Index { unread_pulls(&child) } else { (1, 1) };
            cost = Cost { pulls: cost.pulls + likely, at_most: cost.at_most + most, exact: cost.exact && most == 1 };
        }
        Ok(cost)
    }

    /// The number of these referrers that must be read from the upstream.
    async fn count_pulls(&self, image: &CopyImage, referrers: &[Referrer]) -> Result<u64> {
        let asked = stream::iter(referrers.to_vec()).map(|referrer| async move { self.is_free(image, &referrer.manifest).await });
        asked.buffer_unordered(CONCURRENT_CHILDREN).try_fold(0, |pulls, free| async move { Ok(pulls + u64::from(!free)) }).await
    }

    /// Whether a manifest costs no pull.
    async fn is_free(&self, image: &CopyImage, child: &Descriptor) -> Result<bool> {
        if self.reader.cached_manifest(image, child).is_some() || self.target.repository_with(&image.to, &child.digest).is_some() {
            return Ok(true);
        }
        Ok(self.target.sink().holds_manifest(&image.to, child, &image.context).await? != At::Absent)
    }
}
