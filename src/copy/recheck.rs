//! Looking again: whether an image that the target has had for some time has got new referrers. Signatures come after their image.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::engine::{Comparison, CopyImage, CopyOutcome, Engine, NextStep};
use super::graph::CopyJob;
use super::listing::{FoundReferrer, ReferrerWalk};
use crate::content::{Digest, ManifestKind, Recheck, Referrer, Referrers, kind_of};
use crate::{Error, Result};

/// Referrers about which the target is asked at once.
const LOOKS: usize = 8;

/// What a look at an image found.
#[derive(Debug)]
pub(super) struct RecheckResult {
    /// All that is listed, but for what is known not to be there.
    pub(super) walk: ReferrerWalk,
    /// How many of them the target lacks.
    pub(super) missing: Vec<Referrer>,
    /// The manifests below the image that were asked about.
    children: Vec<Digest>,
    /// What is known not to be there.
    gone: Vec<Digest>,
}

impl RecheckResult {
    /// Whether there is nothing to be done.
    pub(super) fn is_quiet(&self) -> bool {
        self.missing.is_empty() && self.walk.unread.is_empty()
    }
}

impl Engine {
    /// An image is current; whether its referrers are too.
    ///
    /// # Errors
    /// If one side cannot be asked.
    pub(super) async fn look_again(&self, image: &CopyImage, survey: Comparison, mut delivered: CopyOutcome) -> Result<NextStep> {
        let Some(rechecked) = self.recheck(image, &survey).await? else { return Ok(NextStep::Nothing(delivered)) };
        if !rechecked.is_quiet() {
            return Ok(NextStep::Bring(Box::new(Comparison { rechecked: Some(Arc::new(rechecked)), ..survey })));
        }
        self.remember(image, &delivered.digest, rechecked.children, rechecked.gone);
        delivered.notes.extend(rechecked.walk.notes);
        delivered.referrers = rechecked.walk.found.into_iter().map(|found| found.referrer).collect();
        Ok(NextStep::Nothing(delivered))
    }

    /// Asks both sides about the referrers of an image that the target has; `None` if they are not rechecked for any more.
    ///
    /// # Errors
    /// As [`Engine::look_again`].
    pub(super) async fn recheck(&self, image: &CopyImage, survey: &Comparison) -> Result<Option<RecheckResult>> {
        let Some(held) = &survey.held else { return Ok(None) };
        let known = self.options.deliveries.as_ref().and_then(|deliveries| deliveries.of(&image.to, held));
        let due = match (image.policy.referrers_recheck, &known) {
            (Recheck::Never, _) => false,
            (Recheck::Always, _) | (Recheck::For(_), None) => true,
            // A time to come is the time of a clock that was wrong.
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
            None => (self.children_of(image, survey, held).await?, vec![]),
        };
        let mut walk = ReferrerWalk::default();
        // Of an index that was made of the upstream's, nothing there can be about.
        let own = (*held == survey.wanted.digest).then_some(held);
        let subjects: Vec<Digest> = own.into_iter().chain(&children).cloned().collect();
        self.list_referrers(image, &mut walk, &subjects).await?;
        walk.found.retain(|FoundReferrer { referrer, .. }| !gone.contains(&referrer.manifest.digest));
        let asked = stream::iter(walk.found.clone()).map(|FoundReferrer { referrer, .. }| async move {
            let attached = self.asks_attached(image, &referrer).await?;
            Ok::<_, Error>(if attached { None } else { Some(referrer) })
        });
        let missing = asked.buffered(LOOKS).try_filter_map(|missing| async move { Ok(missing) }).try_collect().await?;
        Ok(Some(RecheckResult { walk, missing, children, gone }))
    }

    /// The manifests below an image that the target has.
    async fn children_of(&self, image: &CopyImage, survey: &Comparison, held: &Digest) -> Result<Vec<Digest>> {
        let top = &survey.wanted;
        if *held == top.digest && kind_of(&top.media_type) == ManifestKind::Image {
            return Ok(vec![]);
        }
        // Where platforms are asked for, somebody has looked, and chosen.
        if !image.policy.platforms.is_empty() {
            return self.subjects(image, &survey.look.children).await;
        }
        match self.read_cached_or_target(image, held).await? {
            Some(manifest) => self.subjects(image, &manifest.links().manifests).await,
            None => Ok(vec![]),
        }
    }

    /// Brings the referrers that a look found to be missing. The image stays what it was.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn bring_new(
        self: &Arc<Self>,
        image: &CopyImage,
        survey: &Comparison,
        rechecked: &RecheckResult,
    ) -> Result<CopyOutcome> {
        let job = CopyJob::new(image);
        let digest = survey.held.clone().unwrap_or_else(|| survey.wanted.digest.clone());
        let _carrying = self.referrers.carrying.hold((image.to.clone(), digest.clone())).await;
        let mut walk = rechecked.walk.clone();
        self.read_indexes(&job, &mut walk).await?;
        walk.found.retain(|FoundReferrer { referrer, .. }| !rechecked.gone.contains(&referrer.manifest.digest));
        let carried = self.carry_referrers(&job, &walk, true).await?;
        job.release();
        let mut delivered = survey.current(digest.clone());
        delivered.notes.extend(job.notes());
        delivered.notes.extend(walk.notes);
        delivered.notes.extend(new_referrers(carried.new));
        delivered.referrers = carried.referrers;
        self.remember(image, &digest, rechecked.children.clone(), [carried.gone, rechecked.gone.clone()].concat());
        Ok(delivered)
    }

    /// Writes down that the target has an image, and when that was first so.
    pub(super) fn remember(&self, image: &CopyImage, digest: &Digest, children: Vec<Digest>, gone: Vec<Digest>) {
        let looked_for = image.policy.referrers != Referrers::No && image.policy.referrers_recheck != Recheck::Never;
        if let Some(deliveries) = self.options.deliveries.as_ref().filter(|_| looked_for) {
            deliveries.note(&image.to, digest, children, gone, Timestamp::now());
        }
    }
}

/// The remark on an image that was there, and has got new referrers.
pub(super) fn new_referrers(new: u64) -> Option<String> {
    match new {
        0 => None,
        1 => Some("1 new referrer".to_owned()),
        new => Some(format!("{new} new referrers")),
    }
}
