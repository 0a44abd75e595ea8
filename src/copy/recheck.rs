//! Looks for new referrers of an image that the target already has: signatures are often added after their image.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::attached::AttachedReferrers;
use super::comparison::{Comparison, NextStep, RecheckResult};
use super::image::{CopyImage, CopyOutcome};
use super::listing::ReferrerLister;
use super::reader::ContentReader;
use super::referrer_walk::{FoundReferrer, ReferrerWalk};
use super::target::TargetState;
use crate::content::{Digest, ManifestKind, Recheck, Referrers, kind_of};
use crate::{Error, Result};

/// Referrers that are looked up at the target at once. Each registry's own concurrency limits requests.
const CONCURRENT_LOOKUPS: usize = 8;

/// Looks for new referrers of images that the target already has.
pub(super) struct ReferrerRecheck {
    target: Arc<TargetState>,
    reader: ContentReader,
    lister: Arc<ReferrerLister>,
    attached: Arc<AttachedReferrers>,
}

impl ReferrerRecheck {
    pub(super) fn new(target: Arc<TargetState>, lister: Arc<ReferrerLister>, attached: Arc<AttachedReferrers>) -> Self {
        ReferrerRecheck { reader: ContentReader::new(Arc::clone(&target)), target, lister, attached }
    }

    /// What to do for an image that the target has: nothing, or copy the referrers that it lacks.
    ///
    /// # Errors
    /// If one side cannot be asked.
    pub(super) async fn next_step(&self, image: &CopyImage, comparison: Comparison, mut outcome: CopyOutcome) -> Result<NextStep> {
        let Some(rechecked) = self.recheck(image, &comparison).await? else { return Ok(NextStep::Nothing(outcome)) };
        if !rechecked.is_complete() {
            return Ok(NextStep::Copy(Box::new(Comparison { rechecked: Some(Arc::new(rechecked)), ..comparison })));
        }
        self.target.record_delivery(image, &outcome.digest, rechecked.children, rechecked.gone);
        outcome.notes.extend(rechecked.walk.notes);
        outcome.referrers = rechecked.walk.found.into_iter().map(|found| found.referrer).collect();
        Ok(NextStep::Nothing(outcome))
    }

    /// Lists the referrers of an image that the target has, and finds those that the target lacks. `None` if the policy
    /// does not look for them (any more).
    ///
    /// # Errors
    /// If one side cannot be asked.
    pub(super) async fn recheck(&self, image: &CopyImage, comparison: &Comparison) -> Result<Option<RecheckResult>> {
        let Some(held) = &comparison.held else { return Ok(None) };
        let known = self.target.options().deliveries.as_ref().and_then(|deliveries| deliveries.of(&image.to, held));
        let due = match (image.policy.referrers_recheck, &known) {
            (Recheck::Never, _) => false,
            (Recheck::Always, _) | (Recheck::For(_), None) => true,
            // A time in the future was written by a clock that was wrong.
            (Recheck::For(length), Some(known)) => {
                let now = Timestamp::now();
                known.at > now || now.duration_since(known.at).unsigned_abs() < length
            }
        };
        if !due || image.policy.referrers == Referrers::No {
            return Ok(None);
        }
        let (children, gone) = match known {
            Some(known) => (known.children, known.gone),
            None => (self.children_of(image, comparison, held).await?, vec![]),
        };
        let mut walk = ReferrerWalk::default();
        // An index that was made from the upstream's has no referrers there.
        let own = (*held == comparison.wanted.digest).then_some(held);
        let subjects: Vec<Digest> = own.into_iter().chain(&children).cloned().collect();
        self.lister.list(image, &mut walk, &subjects).await?;
        walk.found.retain(|FoundReferrer { referrer, .. }| !gone.contains(&referrer.manifest.digest));
        let lookups = stream::iter(walk.found.clone()).map(|FoundReferrer { referrer, .. }| async move {
            let attached = self.attached.contains(image, &referrer).await?;
            Ok::<_, Error>(if attached { None } else { Some(referrer) })
        });
        let missing = lookups.buffered(CONCURRENT_LOOKUPS).try_filter_map(|missing| async move { Ok(missing) }).try_collect().await?;
        Ok(Some(RecheckResult { walk, missing, children, gone }))
    }

    /// The manifests below an image that the target has.
    async fn children_of(&self, image: &CopyImage, comparison: &Comparison, held: &Digest) -> Result<Vec<Digest>> {
        let top = &comparison.wanted;
        if *held == top.digest && kind_of(&top.media_type) == ManifestKind::Image {
            return Ok(vec![]);
        }
        // If the policy names platforms, the comparison has read the index and selected its children.
        if !image.policy.platforms.is_empty() {
            return self.lister.subjects(image, &comparison.target_index.children).await;
        }
        match self.reader.cached_or_target_manifest(image, held).await? {
            Some(manifest) => self.lister.subjects(image, &manifest.links().manifests).await,
            None => Ok(vec![]),
        }
    }
}
