//! `Source`: where content is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;

use super::{Descriptor, Digest, DigestTags, Manifest, ReferrerList};
use crate::Result;
use crate::limits::{Gate, Lease};
use crate::name::Reference;

/// A repository within one store. Bytes are unique per (store, digest); presence is per (store, place, digest).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

impl Repository {
    /// The repository `path` (`library/alpine`), already checked to be one.
    pub fn new(path: impl Into<Arc<str>>) -> Self {
        Repository(path.into())
    }
    /// Its path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// On whose behalf a request is made: rides on every call, so that a request is counted for the image that caused it and
/// paid by the right account, which need not be the host it goes to (a cache spends its upstream's pulls).
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The image, as messages name it.
    pub image: Arc<str>,
    /// Whose pulls a manifest GET *at the target* spends: the target is a cache, which asks its upstream for us, so that what is
    /// read there counts as read from the upstream. `None`: nobody's; at an upstream, the account's that the request is sent with.
    pub account: Option<Arc<Gate>>,
    /// What the image has cost so far.
    pub tally: Arc<TransferStats>,
    /// The pulls that are reserved for it: each manifest GET at an upstream takes one. `None`: nobody has reserved any, and the
    /// transport asks the account's gate for each.
    pub lease: Option<Lease>,
    /// On connections of its own: what came on another was damaged.
    pub fresh: bool,
}

impl RequestContext {
    /// A fresh charge for `image`, paid by the account the requests are sent with.
    pub fn new(image: impl Into<Arc<str>>) -> Self {
        RequestContext { image: image.into(), account: None, tally: Arc::default(), lease: None, fresh: false }
    }
}

/// What one image has cost.
#[derive(Debug, Default)]
pub struct TransferStats {
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    pulls: AtomicU64,
}

impl TransferStats {
    /// `n` more body bytes (manifests and blobs) were read from an upstream.
    pub fn add_read(&self, n: u64) {
        self.bytes_read.fetch_add(n, Ordering::Relaxed);
    }
    /// `n` more bytes were written to the target.
    pub fn add_written(&self, n: u64) {
        self.bytes_written.fetch_add(n, Ordering::Relaxed);
    }
    /// One more manifest GET was sent to an upstream.
    pub fn add_pull(&self) {
        self.pulls.fetch_add(1, Ordering::Relaxed);
    }
    /// Bytes read from upstreams.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
    /// Bytes written to the target.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }
    /// Manifest GETs sent to upstreams.
    pub fn pulls(&self) -> u64 {
        self.pulls.load(Ordering::Relaxed)
    }
}

/// A blob's bytes from some offset on, as they arrive; not verified (the sink that takes them does that with
/// [`super::Verified`], because only it knows what it kept of an earlier attempt).
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// Opens one blob, again and again if need be: a sink calls it with the offset it wants to go on from.
#[async_trait]
pub trait OpenBlob: Send + Sync {
    /// The bytes from `offset` to the end.
    async fn open(&self, offset: u64) -> Result<BlobStream>;
}

/// A store that content can be read from: a registry, a layout, or several of them stacked.
///
/// `Ok(None)` means *this source does not have it*; an error means that it could not be asked.
#[async_trait]
pub trait Source: Send + Sync {
    /// What `reference` names now: its digest and, as far as they are known without reading it, media type and size
    /// (empty and 0 otherwise). Free at every registry that answers HEAD with a digest.
    async fn resolve(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>>;

    /// All tags of a repository, in the order the store gives them.
    async fn tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>>;

    /// The verified manifest of this digest.
    async fn manifest(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>>;

    /// The blob's bytes from `offset` on. Transport failures within the body are mended below the reader's sight; what
    /// cannot be mended arrives as an error in the stream.
    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>>;

    /// The manifests that refer to `subject` (their `subject` field), with artifact type and annotations; none where the store
    /// knows of none or cannot tell (distribution-spec "Listing Referrers").
    async fn referrers(&self, _place: &Repository, _subject: &Digest, _charge: &RequestContext) -> Result<Vec<Descriptor>> {
        Ok(vec![])
    }

    /// As [`Source::referrers`], but only what a list says: those of `artifact_type`, if one is named (others may come along).
    async fn listed_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        _artifact_type: Option<&str>,
        context: &RequestContext,
    ) -> Result<ReferrerList> {
        self.referrers(repository, subject, context).await.map(ReferrerList::Listed)
    }

    /// As [`Source::resolve`], for a tag that nobody has said to be there: costs nothing if it is not.
    async fn find_tag(&self, repository: &Repository, tag: &str, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.resolve(repository, &Reference::Tag(tag.to_owned()), context).await
    }

    /// The repository's tags that say a digest, by what they say.
    async fn digest_tags(&self, repository: &Repository, context: &RequestContext) -> Result<Arc<DigestTags>> {
        Ok(Arc::new(DigestTags::of(self.tags(repository, context).await?)))
    }

    /// What the tag names in a repository of this store, if that was copied from the registry `host`. A client that asks its mirror for the
    /// names of `host` may have been told to ask by the names that the store gave them. `None` also from stores that do not know where their
    /// images come from.
    async fn resolve_copied_from(
        &self,
        _host: &str,
        _place: &Repository,
        _tag: &str,
        _charge: &RequestContext,
    ) -> Result<Option<Descriptor>> {
        Ok(None)
    }

    /// The tags that [`Source::resolve_copied_from`] would find.
    async fn tags_copied_from(&self, _host: &str, _place: &Repository, _charge: &RequestContext) -> Result<Vec<String>> {
        Ok(vec![])
    }

    /// All repositories of the store, sorted; `None`: it cannot tell.
    async fn repositories(&self, _charge: &RequestContext) -> Result<Option<Vec<Repository>>> {
        Ok(None)
    }
    /// The manifest, if reading it here asks nobody: one that was kept from an earlier attempt.
    fn cached(&self, _manifest: &Digest) -> Option<Manifest> {
        None
    }

    /// Whether content comes over a network, which may damage it on the way: reading it again may help.
    fn is_remote(&self) -> bool {
        false
    }

    /// Whether manifests read here are at hand afterwards, also for later runs.
    fn keeps_manifests(&self) -> bool {
        false
    }

    /// How often an image's own manifest is read beyond the first time, which costs as much again.
    fn more_reads_of_the_root(&self) -> u64 {
        0
    }

    /// Waits until this source may be asked for bytes. Who is about to lead others calls it first, so that it leads nobody
    /// while it waits.
    async fn ready(&self) {}

    /// The image this manifest was read for is delivered: a source that kept it for another attempt can let go.
    fn release(&self, _manifest: &Digest) {}

    /// How many bytes the blob of this digest has, for those who know nothing but the digest (whoever asks [`crate::serve`]
    /// does). This counts by reading the blob through; a store that knows better says so.
    async fn blob_size(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<u64>> {
        let unsized_blob = Descriptor::new("", digest.clone(), 0);
        let Some(mut stream) = self.blob(repository, &unsized_blob, 0, context).await? else { return Ok(None) };
        let mut size = 0;
        while let Some(chunk) = stream.try_next().await? {
            size += chunk.len() as u64;
        }
        Ok(Some(size))
    }
}
