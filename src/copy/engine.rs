//! One image at a time: compare both sides, copy what is missing, give the name.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::attached::AttachedReferrers;
use super::blob_counts::BlobCounts;
use super::compare::ImageComparer;
use super::comparison::{Comparison, NextStep};
use super::cost::CostEstimate;
use super::created::CreationDates;
use super::graph::GraphCopy;
use super::image::{CopyImage, CopyOptions, CopyOutcome, ImageState, TargetEnds};
use super::job::CopyJob;
use super::listing::ReferrerLister;
use super::recheck::ReferrerRecheck;
use super::referrers::ReferrerCopy;
use super::target::TargetState;
use crate::content::{Descriptor, Digest, Repository};
use crate::mutex::Mutex;
use crate::report::{Reporter, Status};
use crate::{Error, Kind, Operation, Result};

/// Copies images into one target. All images of a run share it, so that content that one of them copied is not copied
/// again.
pub struct Engine {
    target: Arc<TargetState>,
    comparer: ImageComparer,
    graph: GraphCopy,
    lister: Arc<ReferrerLister>,
    referrers: ReferrerCopy,
    rechecks: ReferrerRecheck,
    costs: CostEstimate,
    dates: CreationDates,
    fatal: Mutex<Option<Error>>,
}

impl Engine {
    /// An engine that writes to `target`. When `stop` is cancelled, transfers under way go on and nothing new begins.
    pub fn new(target: TargetEnds, reporter: Arc<dyn Reporter>, options: CopyOptions, stop: CancellationToken) -> Arc<Self> {
        let target = Arc::new(TargetState::new(target, options, stop));
        let graph = GraphCopy::new(Arc::clone(&target), reporter);
        let lister = Arc::new(ReferrerLister::new(Arc::clone(&target)));
        let attached = Arc::new(AttachedReferrers::new(Arc::clone(&target)));
        Arc::new(Engine {
            comparer: ImageComparer::new(Arc::clone(&target)),
            referrers: ReferrerCopy::new(Arc::clone(&target), graph.clone(), Arc::clone(&lister), Arc::clone(&attached)),
            rechecks: ReferrerRecheck::new(Arc::clone(&target), Arc::clone(&lister), attached),
            costs: CostEstimate::new(Arc::clone(&target), Arc::clone(&lister)),
            dates: CreationDates::new(Arc::clone(&target)),
            graph,
            lister,
            target,
            fatal: Mutex::new(None),
        })
    }

    /// The pulls that images cost.
    pub fn costs(&self) -> &CostEstimate {
        &self.costs
    }

    /// When images were created.
    pub fn dates(&self) -> &CreationDates {
        &self.dates
    }

    /// What was done for blobs so far.
    pub fn counts(&self) -> &BlobCounts {
        self.target.counts()
    }

    /// Whether the run is to end, so that no new image should begin.
    pub fn stop_requested(&self) -> bool {
        self.target.stop_requested()
    }

    /// The failure that ended the whole run (a full disk), if one did.
    pub fn fatal(&self) -> Option<Error> {
        self.fatal.lock().clone()
    }

    /// Whether a repository of the target is known to hold `digest`, so that it need not be transferred.
    pub fn knows_blob(&self, digest: &Digest) -> bool {
        self.target.presence().anywhere(digest).is_some()
    }

    /// Notes that `repository` of the target holds `digest`, which the caller has checked.
    pub fn add_known_blob(&self, repository: &Repository, digest: &Digest) {
        self.target.presence().add(repository, digest);
    }

    /// Copies `blob` into the repository of `image`, of which other parts may not be available yet.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub async fn copy_blob(&self, image: &CopyImage, blob: &Descriptor) -> Result<()> {
        self.graph.copy_blob(image, blob).await.map_err(|error| error.subject(&*image.context.image))
    }

    /// What the image's name points to at the upstream; for an immutable tag, what the target has under it.
    ///
    /// # Errors
    /// If one side cannot be asked.
    pub async fn resolve(&self, image: &CopyImage) -> Result<Option<Descriptor>> {
        if !self.target.options().recheck
            && let Some(held) = self.comparer.immutable(image).await?
        {
            return Ok(Some(Descriptor::new("", held, 0)));
        }
        image.upstream.resolve(&image.from, &image.wanted, &image.context).await
    }

    /// Compares both sides, for a plan. Spends no pull.
    ///
    /// # Errors
    /// If one of them cannot be asked, or the upstream does not have the image.
    pub async fn compare(&self, image: &CopyImage) -> Result<(ImageState, Comparison)> {
        if let Some(held) = self.comparer.immutable(image).await? {
            let comparison = Comparison::of(Descriptor::new("", held.clone(), 0), Some(held.clone()));
            return Ok((ImageState::Current(held), comparison));
        }
        let mut comparison = self.comparer.compare(image).await?;
        let state = match &comparison.held {
            Some(held) if comparison.current => ImageState::Current(held.clone()),
            Some(held) if *held != comparison.wanted.digest => {
                ImageState::Moved { from: held.clone(), to: comparison.wanted.digest.clone() }
            }
            // The name is right, but the content is incomplete.
            Some(_) | None => ImageState::Missing(comparison.wanted.digest.clone()),
        };
        if matches!(state, ImageState::Current(_)) {
            let rechecked = self.rechecks.recheck(image, &comparison).await?;
            comparison.rechecked = rechecked.filter(|rechecked| !rechecked.is_complete()).map(Arc::new);
        }
        Ok((state, comparison))
    }

    /// Compares both sides, and decides what to do.
    ///
    /// # Errors
    /// As [`Engine::compare`].
    pub async fn next_step(&self, image: &CopyImage) -> Result<NextStep> {
        self.try_next_step(image).await.map_err(|error| error.subject(&*image.context.image))
    }

    async fn try_next_step(&self, image: &CopyImage) -> Result<NextStep> {
        let recheck = self.target.options().recheck;
        if !recheck && let Some(held) = self.comparer.immutable(image).await? {
            return Ok(NextStep::Nothing(CopyOutcome { source_digest: None, ..CopyOutcome::new(Status::Current, held) }));
        }
        let comparison = self.comparer.compare(image).await?;
        let moved = &comparison.wanted.digest;
        if let Some(held) = comparison.held.as_ref().filter(|_| image.immutable && comparison.made_from.as_ref() != Some(moved)) {
            let notes = vec![format!("the upstream has moved this immutable tag to {moved}; the target keeps {held}")];
            let source_digest = Some(moved.clone());
            return Ok(NextStep::Nothing(CopyOutcome { source_digest, notes, ..CopyOutcome::new(Status::Current, held.clone()) }));
        }
        match &comparison.held {
            Some(held) if comparison.current && !recheck => {
                let outcome = comparison.current_outcome(held.clone());
                self.rechecks.next_step(image, comparison, outcome).await
            }
            _ => Ok(NextStep::Copy(Box::new(comparison))),
        }
    }

    /// Makes the target hold `image` under its name.
    ///
    /// # Errors
    /// As [`Engine::copy_image`].
    pub async fn deliver(&self, image: &CopyImage) -> Result<CopyOutcome> {
        match self.next_step(image).await? {
            NextStep::Nothing(outcome) => Ok(outcome),
            NextStep::Copy(comparison) => self.copy_image(image, *comparison, &mut None).await,
        }
    }

    /// Copies an image that the target lacks, or whose name has moved. `slot` is dropped when only its name is missing: a layout gives
    /// names in batches, and meanwhile the next image can start.
    ///
    /// # Errors
    /// The first failure; the image gets no name then. A full disk fails the first image that meets it and stops the
    /// run (see [`Engine::fatal`]); the others are cancelled.
    pub async fn copy_image(
        &self,
        image: &CopyImage,
        comparison: Comparison,
        slot: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<CopyOutcome> {
        let outcome = self.try_copy(image, comparison, slot).await;
        if let Err(error) = &outcome
            && error.kind() == Kind::DiskFull
        {
            let mut fatal = self.fatal.lock();
            self.target.stop();
            if fatal.is_some() {
                // A full disk is reported once.
                return Err(Error::cancelled(Operation::CopyImage));
            }
            *fatal = Some(error.clone());
        }
        outcome.map_err(|error| error.subject(&*image.context.image))
    }

    async fn try_copy(&self, image: &CopyImage, comparison: Comparison, slot: &mut Option<OwnedSemaphorePermit>) -> Result<CopyOutcome> {
        if let Some(rechecked) = &comparison.rechecked {
            return self.referrers.copy_missing(image, &comparison, rechecked).await;
        }
        let Comparison { wanted, held, walk, .. } = comparison;
        let mut walk = std::mem::take(&mut *walk.lock().await);
        // Listing is free. It comes first, so that no pull is spent if it fails.
        self.lister.list(image, &mut walk, std::slice::from_ref(&wanted.digest)).await?;
        let job = CopyJob::new(image, walk.likely_reads());
        let mut writing = Some(self.target.lock_write(&image.to, &wanted.digest).await);
        let (selected, wrote) = self.graph.copy_selected(&job, &wanted).await?;
        let digest = selected.manifest.digest();
        let named = held.as_ref() == Some(digest);
        let status = match (self.target.options().warm, named && !wrote) {
            (true, _) => Status::Warmed,
            (false, true) => Status::Current,
            (false, false) => Status::Copied,
        };
        let mut outcome = CopyOutcome {
            source_digest: Some(wanted.digest),
            platforms: selected.platforms.clone(),
            children: selected.links.manifests.clone(),
            ..CopyOutcome::new(status, digest.clone())
        };
        let (children, gone) = self.referrers.copy(&job, walk, &selected, &mut outcome, named, &mut writing).await?;
        if !named || wrote {
            if self.target.sink().shares_blobs() {
                // Once the manifest is there, other tags of this digest need not wait for this one's name.
                self.graph.put_selected(&job, &selected).await?;
                drop(writing.take());
            }
            *slot = None;
            self.graph.publish(&job, &selected).await?;
        }
        if selected.sparse.is_empty() {
            self.target.presence().add(&image.to, digest);
        }
        job.release();
        outcome.notes.splice(0..0, job.take_notes());
        self.target.record_delivery(image, digest, children, gone);
        Ok(outcome)
    }
}
