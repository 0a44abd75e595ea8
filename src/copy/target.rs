//! What a run knows about its target, shared by all images.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::blob_counts::BlobCounts;
use super::cached_content::CachedContent;
use super::child_counts::ChildCounts;
use super::image::{CopyImage, CopyOptions, TargetEnds};
use super::keyed_locks::{KeyGuard, KeyedLocks};
use super::presence::PresenceMap;
use crate::content::{Descriptor, Digest, Presence as At, Recheck, Referrers, Repository, Sink, Source};
use crate::{Error, Operation, Result};

/// What a run knows about its target. All images share it, so that content that one of them copied is not copied again.
pub(super) struct TargetState {
    ends: TargetEnds,
    options: CopyOptions,
    presence: PresenceMap,
    cached: CachedContent,
    counts: BlobCounts,
    child_counts: ChildCounts,
    /// Only one task at a time writes a digest to a repository.
    writes: KeyedLocks<(Repository, Digest)>,
    /// Only one task at a time reads a digest from an upstream.
    reads: KeyedLocks<Digest>,
    /// When it is cancelled, no new work begins.
    stop: CancellationToken,
}

impl TargetState {
    pub(super) fn new(ends: TargetEnds, options: CopyOptions, stop: CancellationToken) -> Self {
        TargetState {
            ends,
            presence: PresenceMap::default(),
            cached: CachedContent::new(!options.warm),
            options,
            counts: BlobCounts::default(),
            child_counts: ChildCounts::default(),
            writes: KeyedLocks::default(),
            reads: KeyedLocks::default(),
            stop,
        }
    }

    pub(super) fn sink(&self) -> &dyn Sink {
        &*self.ends.sink
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.ends.source
    }

    pub(super) fn options(&self) -> &CopyOptions {
        &self.options
    }

    pub(super) fn presence(&self) -> &PresenceMap {
        &self.presence
    }

    pub(super) fn cached(&self) -> &CachedContent {
        &self.cached
    }

    pub(super) fn counts(&self) -> &BlobCounts {
        &self.counts
    }

    pub(super) fn child_counts(&self) -> &ChildCounts {
        &self.child_counts
    }

    /// Waits until no other task writes `digest` to `repository`.
    pub(super) async fn lock_write(&self, repository: &Repository, digest: &Digest) -> KeyGuard<(Repository, Digest)> {
        self.writes.lock((repository.clone(), digest.clone())).await
    }

    /// Waits until no other task reads `digest` from an upstream. What that task has read is then found at the target
    /// or in the source's cache.
    pub(super) async fn lock_read(&self, digest: &Digest) -> KeyGuard<Digest> {
        self.reads.lock(digest.clone()).await
    }

    /// Ends the run: transfers under way go on, nothing new begins.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) fn stop_requested(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Call before work that should not begin once the run is to end.
    ///
    /// # Errors
    /// `Kind::Cancelled` if the run is to end.
    pub(super) fn check_running(&self, operation: Operation) -> Result<()> {
        if self.stop_requested() { Err(Error::cancelled(operation)) } else { Ok(()) }
    }

    /// A repository that is known to hold `digest` and from which `to` can get it: any, or only `to` itself for a
    /// cache.
    pub(super) fn repository_with(&self, to: &Repository, digest: &Digest) -> Option<Repository> {
        if self.options.warm { self.presence.has(to, digest).then(|| to.clone()) } else { self.presence.anywhere(digest) }
    }

    /// Whether the image's repository holds `manifest` with all that it refers to.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub(super) async fn holds_manifest(&self, image: &CopyImage, manifest: &Descriptor) -> Result<At> {
        if self.presence.has(&image.to, &manifest.digest) {
            return Ok(At::Here);
        }
        let held = self.sink().holds_manifest(&image.to, manifest, &image.context).await?;
        if held == At::Here && self.presence.is_sparse(&image.to, &manifest.digest) {
            // A registry that takes a sparse index answers a HEAD as for a complete one.
            return Ok(At::Incomplete);
        }
        if held == At::Here {
            self.presence.add(&image.to, &manifest.digest);
        }
        Ok(held)
    }

    /// Records that the target has an image, and when that was first so. `gone`: referrers that are listed, and that
    /// the upstream does not have.
    pub(super) fn record_delivery(&self, image: &CopyImage, digest: &Digest, children: Vec<Digest>, gone: Vec<Digest>) {
        let looked_for = image.policy.referrers != Referrers::No && image.policy.referrers_recheck != Recheck::Never;
        if let Some(deliveries) = self.options.deliveries.as_ref().filter(|_| looked_for) {
            deliveries.note(&image.to, digest, children, gone, Timestamp::now());
        }
    }
}
