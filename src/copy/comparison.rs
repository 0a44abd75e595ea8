//! What upstream and target say about one image.

use std::sync::Arc;

use super::image::CopyOutcome;
use super::referrer_walk::ReferrerWalk;
use crate::content::{Descriptor, Digest, Manifest, Referrer};
use crate::report::Status;

/// What both sides say about an image.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What the upstream names.
    pub wanted: Descriptor,
    /// The size of its manifest in bytes, from a HEAD; 0 if unknown. A hint: the manifest may differ.
    pub(crate) size: u64,
    /// What the target has under the image's name, complete.
    pub held: Option<Digest>,
    /// Whether that is what the image's policy makes of what the upstream names.
    pub current: bool,
    /// The upstream digest that the target's image was made from, if known: its own, or that of the index that was cut
    /// to some platforms.
    pub(super) made_from: Option<Digest>,
    /// The target's index, if it was read.
    pub(super) target_index: Box<TargetIndex>,
    /// The image's referrers, as far as they have been listed.
    pub(super) walk: Arc<tokio::sync::Mutex<ReferrerWalk>>,
    /// The target has the image, and lacks some of its referrers.
    pub(super) rechecked: Option<Arc<RecheckResult>>,
}

/// What the target's index contains.
#[derive(Debug, Clone, Default)]
pub(super) struct TargetIndex {
    pub(super) index: Option<Manifest>,
    pub(super) platforms: Vec<String>,
    pub(super) children: Vec<Descriptor>,
    pub(super) notes: Vec<String>,
}

/// The referrers of an image that the target has.
#[derive(Debug)]
pub(super) struct RecheckResult {
    /// All that are listed, except those in `gone`.
    pub(super) walk: ReferrerWalk,
    /// Those that the target lacks.
    pub(super) missing: Vec<Referrer>,
    /// The child manifests whose referrers were listed.
    pub(super) children: Vec<Digest>,
    /// Referrers that an earlier run found listed, but could not read: the upstream does not have them.
    pub(super) gone: Vec<Digest>,
}

/// What to do for an image.
#[derive(Debug)]
pub enum NextStep {
    /// Nothing.
    Nothing(CopyOutcome),
    /// Copy it.
    Copy(Box<Comparison>),
}

impl Comparison {
    /// Compares digests only.
    pub(crate) fn of(wanted: Descriptor, held: Option<Digest>) -> Self {
        let current = held.as_ref() == Some(&wanted.digest);
        Comparison {
            size: wanted.size,
            wanted,
            made_from: held.clone(),
            held,
            current,
            target_index: Box::default(),
            walk: Arc::default(),
            rechecked: None,
        }
    }

    /// The outcome for an image that the target has, under `held`.
    pub(super) fn current_outcome(&self, held: Digest) -> CopyOutcome {
        let TargetIndex { platforms, children, notes, .. } = TargetIndex::clone(&self.target_index);
        let source_digest = Some(self.wanted.digest.clone());
        CopyOutcome { source_digest, platforms, children, notes, ..CopyOutcome::new(Status::Current, held) }
    }

    /// Whether the target has the image, and lacks some of its referrers.
    pub fn lacks_referrers(&self) -> bool {
        self.rechecked.is_some()
    }
}

impl RecheckResult {
    /// Whether the target has all referrers.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.walk.unread.is_empty()
    }
}
