//! What an image would cost in pulls, before one is spent: exact where its index is at hand, else an estimate and an upper bound, from
//! what a HEAD says of the index's size.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::engine::{Comparison, CopyImage, Engine};
use super::graph::CHILDREN;
use super::listing::UnreadIndex;
use super::predict::{self, Known};
use crate::Result;
use crate::content::{
    ChildChoice, Descriptor, Digest, IndexMode, Manifest, ManifestKind, NodeRole, PlatformFilter, Policy, Presence as At, Referrer,
    Repository, kind_of, rewrite,
};
use crate::mutex::{Mutex, MutexGuard};

/// Children that the first index of a run is taken to have if nothing says how large it is: two platforms with their attestations, as
/// what people build themselves mostly has. After it, what the run has seen tells. An image that turns out to be smaller gives the rest
/// back; one that is larger goes on before those not begun, and what was read of it is kept.
const LIKELY_CHILDREN: u64 = 4;

/// Manifests that an index of referrers nobody has read lists: mostly a signature; and at most, for a plan, a signature, an SBOM,
/// a provenance, and signatures of both, if nothing says how large it is.
pub(super) const LIKELY_IN_INDEX: u64 = 1;
const MOST_IN_INDEX: u64 = 5;
/// Children that one platform asked for has at most, for a plan: the platform and its attestation; of arm without a variant, or Windows
/// without its version, up to four (v5 to v8; a multi-version Windows image has two to four) with theirs.
const MOST_OF_ONE: u64 = 2;
const MOST_OF_SEVERAL: u64 = 8;

/// The children that an index of `size` bytes has at most, of those that `policy` asks for.
fn most(policy: &Policy, size: u64) -> u64 {
    let all = predict::most_children(size);
    if policy.platforms.is_empty() {
        return all;
    }
    let of = |filter: &PlatformFilter| if filter.is_narrow() { MOST_OF_ONE } else { MOST_OF_SEVERAL };
    policy.platforms.iter().map(of).sum::<u64>().min(all)
}

/// Of the children that are expected in an index nobody has seen, those that `policy` asks for.
fn asked_for(policy: &Policy, expected: predict::Expected) -> u64 {
    if policy.platforms.is_empty() {
        return expected.children;
    }
    // A filter that may mean several platforms mostly means one or two.
    let of = |filter: &PlatformFilter| expected.per_platform * if filter.is_narrow() { 1 } else { 2 };
    policy.platforms.iter().map(of).sum::<u64>().min(expected.children)
}

/// How many children of `index` are asked for.
fn wanted_of(policy: &Policy, index: &Manifest) -> Vec<Descriptor> {
    ChildChoice::of(&index.links().manifests, &policy.platforms).kept
}

/// Manifest GETs at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// How many are expected. So many are reserved before an image is begun: reserving the most would leave the end of each window unused
    /// by images that would fit.
    pub pulls: u64,
    /// How many, at most.
    pub at_most: u64,
    /// Whether that is known, not estimated.
    pub exact: bool,
}

impl Cost {
    /// Nothing is to be pulled.
    pub const NOTHING: Cost = Cost::known(0);

    const fn known(pulls: u64) -> Self {
        Cost { pulls, at_most: pulls, exact: true }
    }
}

/// How many children the indexes of a run had, and what is known of each repository's.
#[derive(Debug, Default)]
pub(super) struct ChildCounts {
    indexes: AtomicU64,
    children: AtomicU64,
    repositories: Mutex<HashMap<Repository, RepositoryCounts>>,
}

/// The indexes of one repository of the target.
#[derive(Debug, Default)]
struct RepositoryCounts {
    /// The sizes of those that nobody has read, by their digests.
    sizes: BTreeMap<Digest, u64>,
    /// One that the target has, unread.
    held: Option<Digest>,
    /// One that was read.
    read: Option<Manifest>,
}

impl ChildCounts {
    pub(super) fn add(&self, children: u64) {
        if children > 0 {
            self.indexes.fetch_add(1, Ordering::Relaxed);
            self.children.fetch_add(children, Ordering::Relaxed);
        }
    }

    /// What both sides said of an image, by HEAD.
    pub(super) fn note(&self, to: &Repository, wanted: &Descriptor, held: Option<&Descriptor>) {
        let is_index = |descriptor: &&Descriptor| kind_of(&descriptor.media_type) == ManifestKind::Index;
        let (unread, held) = (Some(wanted).filter(is_index).filter(|wanted| wanted.size > 0), held.filter(is_index));
        if unread.is_none() && held.is_none() {
            return;
        }
        let mut repositories = self.repositories();
        let repository = repositories.entry(to.clone()).or_default();
        unread.map(|wanted| repository.sizes.insert(wanted.digest.clone(), wanted.size));
        repository.held = held.map(|held| held.digest.clone()).or(repository.held.take());
    }

    /// An index of the repository was read.
    pub(super) fn learn(&self, to: &Repository, index: &Manifest) {
        if index.kind() == ManifestKind::Index {
            self.repositories().entry(to.clone()).or_default().read = Some(index.clone());
        }
    }

    fn repositories(&self) -> MutexGuard<'_, HashMap<Repository, RepositoryCounts>> {
        self.repositories.lock()
    }

    fn likely(&self) -> u64 {
        match self.indexes.load(Ordering::Relaxed) {
            0 => LIKELY_CHILDREN,
            indexes => self.children.load(Ordering::Relaxed).div_ceil(indexes),
        }
    }
}

/// What an image costs if nothing but its descriptor is known, expected and at most.
pub fn unread_pulls(wanted: &Descriptor) -> (u64, u64) {
    if kind_of(&wanted.media_type) == ManifestKind::Image {
        return (1, 1);
    }
    let expected = predict::expected(&wanted.media_type, wanted.size, &[]).filter(|_| wanted.size > 0);
    (1 + expected.map_or(LIKELY_CHILDREN, |expected| expected.children), 1 + predict::most_children(wanted.size))
}

/// What these lists and what is in them cost at most.
fn most_listed(unread: &[UnreadIndex]) -> u64 {
    let of = |unread: &UnreadIndex| if unread.index.size > 0 { predict::most_children(unread.index.size) } else { MOST_IN_INDEX };
    unread.iter().map(|unread| 1 + of(unread)).sum()
}

impl Engine {
    /// What [`Engine::bring_image`] will ask of the upstream's budget for `image`. Asks the target only.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn cost(&self, image: &CopyImage, survey: &Comparison) -> Result<Cost> {
        if let Some(rechecked) = &survey.rechecked {
            let read = self.not_free(image, &rechecked.missing).await?;
            let unread = &rechecked.walk.unread;
            return Ok(Cost {
                pulls: read + unread.len() as u64 * (1 + LIKELY_IN_INDEX),
                at_most: read + most_listed(unread),
                exact: unread.is_empty(),
            });
        }
        let cost = self.image_cost(image, survey).await?;
        let more = if cost == Cost::NOTHING { 0 } else { image.upstream.more_reads_of_the_root() };
        let cost = self.and_referrers(image, survey, cost).await?;
        Ok(Cost { pulls: cost.pulls + more, at_most: cost.at_most + more, ..cost })
    }

    /// The image's own cost, and that of what refers to it, as far as lists tell.
    async fn and_referrers(&self, image: &CopyImage, survey: &Comparison, cost: Cost) -> Result<Cost> {
        let subjects = self.subjects_at_hand(image, survey)?;
        let mut walk = survey.walk.lock().await;
        self.list_referrers(image, &mut walk, &subjects).await?;
        let found: Vec<Referrer> = walk.found.iter().map(|found| found.referrer.clone()).collect();
        let read = self.not_free(image, &found).await?;
        let unread = &walk.unread;
        if read == 0 && unread.is_empty() {
            return Ok(cost);
        }
        // The children of an index that nobody has seen have as many, as where `cosign sign --recursive` was used.
        let unseen = if cost.exact { 0 } else { cost.at_most.saturating_sub(1) };
        Ok(Cost {
            pulls: cost.pulls + read + unread.len() as u64 * (1 + LIKELY_IN_INDEX),
            at_most: cost.at_most + (read + most_listed(unread)) * (1 + unseen),
            exact: cost.exact && unread.is_empty(),
        })
    }

    /// What of an image may have referrers that are carried, as far as that is known without reading it.
    fn subjects_at_hand(&self, image: &CopyImage, survey: &Comparison) -> Result<Vec<Digest>> {
        let (top, policy) = (&survey.wanted, &image.policy);
        let Some(index) = image.upstream.cached(&top.digest) else {
            // An index is cut, as a rule, where platforms are asked for, and nothing is about the new one.
            let cut = !policy.platforms.is_empty() && policy.index == IndexMode::Rewrite && kind_of(&top.media_type) != ManifestKind::Image;
            return Ok(if cut { vec![] } else { vec![top.digest.clone()] });
        };
        let whole = policy.index == IndexMode::Sparse || rewrite(&index, &policy.platforms)?.digest() == &top.digest;
        let children = wanted_of(policy, &index).into_iter().map(|child| child.digest);
        Ok(whole.then(|| top.digest.clone()).into_iter().chain(children).collect())
    }

    async fn image_cost(&self, image: &CopyImage, survey: &Comparison) -> Result<Cost> {
        let wanted = &survey.wanted;
        if let Some(index) = survey.look.index.as_ref().filter(|index| *index.digest() == wanted.digest) {
            return self.cost_of_children(image, index).await;
        }
        if survey.held.as_ref() == Some(&wanted.digest) || self.elsewhere(&image.to, &wanted.digest).is_some() {
            return Ok(Cost::NOTHING);
        }
        if let Some(index) = self.manifest_at_hand(image, wanted) {
            return self.cost_of_children(image, &index).await;
        }
        match self.target.sink.holds_manifest(&image.to, wanted, &image.context).await? {
            At::Absent => {}
            // Of an index without all of its children, those asked for may be missing.
            At::Here | At::Incomplete if !image.policy.platforms.is_empty() => {
                let index = self.target.source.manifest(&image.to, &wanted.digest, &image.context).await?;
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
        let at_most = most(&image.policy, survey.size);
        let children = self.expected_children(image, survey).await.min(at_most);
        Ok(Cost { pulls: 1 + children, at_most: 1 + at_most, exact: false })
    }

    /// How many children, of those asked for, an index is expected to have that nobody has read: as many as the target's present image
    /// of that name; else as one of the repository that was read; else as its size says; else as those that the run has read.
    async fn expected_children(&self, image: &CopyImage, survey: &Comparison) -> u64 {
        let (policy, size) = (&image.policy, survey.size);
        let known = match self.index_before(image, survey).await {
            Some(before) => Some(before),
            None => self.seen.repositories().get(&image.to).and_then(|known| known.read.clone()),
        };
        if let Some(index) = known {
            let wanted = wanted_of(policy, &index).len() as u64;
            return if policy.platforms.is_empty() { predict::alike(Known { size: index.size(), children: wanted }, size) } else { wanted };
        }
        let sizes: Vec<u64> =
            self.seen.repositories().get(&image.to).map(|known| known.sizes.values().copied().collect()).unwrap_or_default();
        let expected = if size > 0 { predict::expected(&survey.wanted.media_type, size, &sizes) } else { None };
        expected.map_or_else(|| self.seen.likely(), |expected| asked_for(policy, expected))
    }

    /// The blobs of an image that must be brought, where everything that tells is at hand; `None` where it is not.
    pub async fn known_blobs(&self, image: &CopyImage, survey: &Comparison) -> Option<Vec<Descriptor>> {
        let top = self.manifest_at_hand(image, &survey.wanted).or_else(|| {
            let index = survey.look.index.as_ref()?;
            (*index.digest() == survey.wanted.digest).then(|| index.clone())
        })?;
        let mut blobs = top.links().blobs.clone();
        for child in wanted_of(&image.policy, &top) {
            match self.manifest_at_hand(image, &child) {
                Some(manifest) => blobs.extend(manifest.links().blobs.iter().cloned()),
                // The target has it, with all its blobs.
                None if self.is_free(image, &child).await.ok()? => {}
                None => return None,
            }
        }
        Some(blobs)
    }

    /// Reads the manifest that `survey` names, for a source that keeps it: what `image` costs is exact then.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn read_ahead(&self, image: &CopyImage, survey: &Comparison) -> Result<()> {
        if survey.rechecked.is_some() {
            // It is there; what its new referrers cost is as well known as it can be.
            return Ok(());
        }
        let digest = &survey.wanted.digest;
        let _leading = self.leaders.hold(digest.clone()).await;
        // That it is not there at all is met again when the image is brought.
        let read = image.upstream.manifest(&image.from, digest, &image.context).await;
        let index = read.map_err(|error| error.subject(&*image.context.image))?;
        if let Some(index) = &index {
            self.seen.add(wanted_of(&image.policy, index).len() as u64);
            self.seen.learn(&image.to, index);
        }
        Ok(())
    }

    /// The target's present index of that name: the next one will be alike.
    async fn index_before(&self, image: &CopyImage, survey: &Comparison) -> Option<Manifest> {
        let held = survey.held.as_ref()?;
        let index = match &survey.look.index {
            Some(index) => index.clone(),
            None => self.target.source.manifest(&image.to, held, &image.context).await.ok()??,
        };
        (index.kind() == ManifestKind::Index).then_some(index)
    }

    /// As [`Engine::cost`], for a plan: of a repository of which the target has another index, that one is read first, once. A run asks
    /// for nothing that it does not bring.
    ///
    /// # Errors
    /// As [`Engine::cost`].
    pub async fn estimate(&self, image: &CopyImage, survey: &Comparison) -> Result<Cost> {
        if kind_of(&survey.wanted.media_type) == ManifestKind::Index && survey.held.is_none() {
            let held = self.seen.repositories().get_mut(&image.to).filter(|known| known.read.is_none()).and_then(|known| known.held.take());
            if let Some(held) = held
                && let Ok(Some(index)) = self.target.source.manifest(&image.to, &held, &image.context).await
            {
                self.seen.learn(&image.to, &index);
            }
        }
        self.cost(image, survey).await
    }

    /// What an index costs that is at hand: its children that are asked for and neither at hand nor at the
    /// target. Those that are indexes themselves have children of which only the number is bounded.
    async fn cost_of_children(&self, image: &CopyImage, index: &Manifest) -> Result<Cost> {
        self.at_hand.add_inline(index);
        let mut cost = Cost::known(0);
        for child in wanted_of(&image.policy, index).into_iter().filter(|child| NodeRole::of_child(&child.media_type) != NodeRole::Blob) {
            if self.is_free(image, &child).await? {
                continue;
            }
            let (likely, most) = if kind_of(&child.media_type) == ManifestKind::Index { unread_pulls(&child) } else { (1, 1) };
            cost = Cost { pulls: cost.pulls + likely, at_most: cost.at_most + most, exact: cost.exact && most == 1 };
        }
        Ok(cost)
    }

    /// How many of these referrers the upstream must be asked for.
    async fn not_free(&self, image: &CopyImage, referrers: &[Referrer]) -> Result<u64> {
        let asked = stream::iter(referrers.to_vec()).map(|referrer| async move { self.is_free(image, &referrer.manifest).await });
        asked.buffer_unordered(CHILDREN).try_fold(0, |pulls, free| async move { Ok(pulls + u64::from(!free)) }).await
    }

    async fn is_free(&self, image: &CopyImage, child: &Descriptor) -> Result<bool> {
        if self.manifest_at_hand(image, child).is_some() || self.elsewhere(&image.to, &child.digest).is_some() {
            return Ok(true);
        }
        Ok(self.target.sink.holds_manifest(&image.to, child, &image.context).await? != At::Absent)
    }
}
