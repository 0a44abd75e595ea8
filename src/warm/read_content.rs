//! What was read of an image through the cache.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::content::{Descriptor, Digest};

/// What was read of the image, and said about it.
#[derive(Default)]
pub(super) struct ReadContent {
    pub(super) notes: Vec<String>,
    /// The upstream has said what the name means.
    pub(super) asked: bool,
    /// How many bytes the manifest has, as a HEAD said; 0: none has.
    pub(super) size: u64,
    /// The tags by which manifests beside the image were found.
    pub(super) tags: HashMap<Digest, String>,
    /// When the first manifest was asked for.
    pub(super) begun: Option<Timestamp>,
    /// What the cache answered under the image's name, and what its upstream has there.
    pub(super) root: Option<RootManifest>,
    /// The manifests that were read.
    pub(super) manifests: Vec<Digest>,
    /// Every blob of these manifests.
    pub(super) blobs: Vec<Descriptor>,
}

/// The image's own manifest.
#[derive(Debug, Clone)]
pub(super) struct RootManifest {
    pub(super) source: Digest,
    pub(super) digest: Digest,
    /// All children it lists at the upstream.
    pub(super) listed: HashSet<Digest>,
    /// Those that are wanted.
    pub(super) chosen: Vec<Descriptor>,
}
