//! `Sink`: where content is put.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Descriptor, Digest, Manifest, OpenBlob, PlatformFilter, Repository, RequestContext};
use crate::Result;
use crate::name::Reference;

/// Whether a store holds some content at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is there. For a manifest: and all that it refers to, as far as the store itself guarantees that.
    Here,
    /// The manifest is there, but something it refers to is not: it can be read here, and its graph must be filled.
    Incomplete,
    /// It is in another repository of the same store.
    At(Repository),
    /// It is not there.
    Absent,
}

/// A name to be given to a complete image.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The repository.
    pub repository: Repository,
    /// The tag, or the digest itself for an image that is kept by digest only.
    pub reference: Reference,
    /// The image's top manifest.
    pub manifest: Manifest,
    /// The canonical name of what it was copied from (`docker.io/library/alpine:3.20`).
    pub source: Arc<str>,
    /// The platforms that are there, of an index that has more; none: all of it is there.
    pub sparse: Vec<PlatformFilter>,
}

/// A store that content can be put into. The order is the caller's duty: blobs, child manifests, the image by digest,
/// then its name; so that at no instant a name is seen whose content is not complete.
#[async_trait]
pub trait Sink: Send + Sync {
    /// What `reference` names at the target now, if the target has it complete. A layout looks whether every file of
    /// the graph is there (of a sparse index: of the platforms that [`super::SPARSE`] names, which is said); a registry is trusted to have
    /// what it lists.
    async fn published(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>>;

    /// Sees that content would be taken there, leaving nothing behind: the right to write, a repository that must exist first.
    async fn admits(&self, _place: &Repository, _charge: &RequestContext) -> Result<()> {
        Ok(())
    }

    /// As [`Sink::admits`], before the first byte for this place is read from an upstream: a refusal is met once, and later calls about
    /// what it concerns meet it again without a request. What had to be opened is used by the first blob that is written there.
    async fn prepare(&self, _place: &Repository, _charge: &RequestContext) -> Result<()> {
        Ok(())
    }

    /// As [`Sink::prepare`], for who only wants to know whether the store takes anything at all.
    async fn prepare_any(&self, _place: &Repository, _charge: &RequestContext) -> Result<()> {
        Ok(())
    }

    /// Sees that what the store says to hold there is its own: a pull-through cache answers for its upstream.
    async fn vouches(&self, _place: &Repository, _charge: &RequestContext) -> Result<()> {
        Ok(())
    }

    /// Gives back what [`Sink::prepare`] opened and nobody has used.
    async fn close(&self) {}

    /// Whether the target holds this blob.
    async fn holds_blob(&self, repository: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<Presence>;

    /// Whether the target holds this manifest and what it refers to.
    async fn holds_manifest(&self, repository: &Repository, manifest: &Descriptor, context: &RequestContext) -> Result<Presence>;

    /// Makes a blob of repository `from` available in `to` without moving bytes (a mount). `false`: the store refuses.
    async fn link(&self, from: &Repository, to: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<bool>;

    /// Whether a blob of one repository is in all of them, so that linking it is no work at all (a layout's).
    fn shares_blobs(&self) -> bool {
        false
    }

    /// Takes a blob, verifying length and digest before it becomes visible; going on from what an earlier attempt left,
    /// where the store keeps that. Bytes written are added to the charge.
    async fn write_blob(&self, repository: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()>;

    /// Stores a manifest by digest.
    async fn put_manifest(&self, repository: &Repository, manifest: &Manifest, context: &RequestContext) -> Result<()>;

    /// Says that the upstream itself does not have these manifests, which the index `root` lists: the image is whole without them.
    fn accept_without(&self, _root: &Digest, _absent: &[Digest]) {}

    /// Gives a name; stores the manifest too if it is not there yet.
    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()>;

    /// Sees that a name which was just given is there, where the store's answer to that did not prove it; `always`: whatever it answered.
    ///
    /// # Errors
    /// If it is not there, or means something else.
    async fn confirm(&self, _publication: &Publication, _always: bool, _charge: &RequestContext) -> Result<()> {
        Ok(())
    }

    /// Stores manifests that refer to `subject` (their `subject` field), so that whoever asks for its referrers finds them. What they
    /// refer to must be there.
    async fn attach(&self, repository: &Repository, _subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        for referrer in referrers {
            self.put_manifest(repository, referrer, context).await?;
        }
        Ok(())
    }

    /// Stores a manifest about `_subject` under a tag that says so by its name (cosign's `sha256-….sig`).
    async fn attach_tagged(&self, publication: &Publication, _subject: &Digest, context: &RequestContext) -> Result<()> {
        self.publish(publication, context).await
    }

    /// The digest of `manifest` as this store would give it back; identity for every store that keeps bytes.
    fn delivered_digest(&self, manifest: &Manifest) -> Digest {
        manifest.digest().clone()
    }
}
