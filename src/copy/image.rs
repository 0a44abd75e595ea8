//! The values that go into the engine and come out of it.

use std::sync::Arc;

use crate::Result;
use crate::content::{Descriptor, Digest, Policy, Referrer, Repository, RequestContext, Sink, Source};
use crate::name::Reference;
use crate::report::Status;
use crate::state::Deliveries;

/// The target: one store, to write and to read.
#[derive(Clone)]
pub struct TargetEnds {
    /// Where content is written.
    pub sink: Arc<dyn Sink>,
    /// Where it is read back, so that the upstream is not asked for it again.
    pub source: Arc<dyn Source>,
}

/// One image to be copied.
#[derive(Clone)]
pub struct CopyImage {
    /// Its canonical name at the upstream (`docker.io/library/alpine:3.20`).
    pub name: Arc<str>,
    /// The upstream: resolves the name and gives the content.
    pub upstream: Arc<dyn Source>,
    /// Its repository at the upstream.
    pub from: Repository,
    /// Its tag or digest at the upstream. A digest is not resolved.
    pub wanted: Reference,
    /// What the upstream resolved it to, if it was asked before.
    pub resolved: Option<Descriptor>,
    /// Its repository at the target.
    pub to: Repository,
    /// The name it gets at the target.
    pub publish: Reference,
    /// Which image the requests are for, and which account pays for them.
    pub context: RequestContext,
    /// The tag never moves: if the target has it, the upstream is not asked.
    pub immutable: bool,
    /// Which parts of the image are copied.
    pub policy: Arc<Policy>,
}

/// The result for an image that did not fail.
#[derive(Debug)]
pub struct CopyOutcome {
    /// `copied`, `current` or `warmed`.
    pub status: Status,
    /// The digest at the target.
    pub digest: Digest,
    /// The digest at the upstream; `None` if it was not asked.
    pub source_digest: Option<Digest>,
    /// The platforms that were delivered, as an index or a single image's config names them.
    pub platforms: Vec<String>,
    /// The child manifests that were delivered. Empty if the image was current and its index was not read.
    pub children: Vec<Descriptor>,
    /// The referrers that were delivered or found at the target, in the order they were listed.
    pub referrers: Vec<Referrer>,
    /// Remarks for the report.
    pub notes: Vec<String>,
}

impl CopyOutcome {
    pub(super) fn new(status: Status, digest: Digest) -> Self {
        let source_digest = Some(digest.clone());
        CopyOutcome { status, source_digest, digest, platforms: vec![], children: vec![], referrers: vec![], notes: vec![] }
    }
}

/// How upstream and target compare, by HEAD requests alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// The target has what the upstream names, or the index that was cut from it.
    Current(Digest),
    /// The target has nothing under that name.
    Missing(Digest),
    /// The target's name points to another digest.
    Moved {
        /// The digest at the target.
        from: Digest,
        /// The digest at the upstream.
        to: Digest,
    },
}

/// Checks for disk space before content is read.
pub trait Room: std::fmt::Debug + Send + Sync {
    /// Called with the blobs of each manifest before any of them is read.
    ///
    /// # Errors
    /// `Kind::DiskFull` if there is not enough space for all blobs seen so far: the run ends.
    fn admit(&self, blobs: &[Descriptor]) -> Result<()>;
}

/// How an [`Engine`](super::Engine) behaves.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Checks for disk space before blobs are read.
    pub room: Option<Arc<dyn Room>>,
    /// Do not take an equal digest as proof that the target has the whole image: check every manifest and blob.
    pub recheck: bool,
    /// When images were first delivered. Without it, every image counts as delivered now.
    pub deliveries: Option<Arc<Deliveries>>,
    /// The target is a cache that is filled by reading from it (`crate::warm`): each repository is filled on its own,
    /// an image is always read by its name, and a finished image has the status `warmed`.
    pub warm: bool,
}
