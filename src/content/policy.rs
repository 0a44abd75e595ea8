//! What of an image is delivered: which platforms, how an index is cut, which referrers, and what becomes of foreign layers.

use std::time::Duration;

use super::{PlatformFilter, Referrers};

/// What of an image is delivered. Without any of it said: everything, but foreign layers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The platforms asked for; none: all.
    pub platforms: Vec<PlatformFilter>,
    /// An image that lacks one of them fails; otherwise it is delivered with a note, unless it has none of them.
    pub platforms_required: bool,
    /// How an index is cut to `platforms`.
    pub index: IndexMode,
    /// Which referrers travel with it.
    pub referrers: Referrers,
    /// How long new referrers of a delivered image are looked for.
    pub referrers_recheck: Recheck,
    /// What becomes of layers that their vendor alone may distribute.
    pub foreign_layers: ForeignLayers,
}

/// How an index is cut to the platforms asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IndexMode {
    /// A new index that lists only what is delivered; its digest differs.
    #[default]
    Rewrite,
    /// The index unchanged, children left out; many registries refuse that.
    Sparse,
}

/// How long after an image was first delivered its referrers are looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recheck {
    /// In every run.
    Always,
    /// Not once it is delivered.
    Never,
    /// For so long.
    For(Duration),
}

impl Default for Recheck {
    /// Seven days, the documented default of `referrers_recheck`.
    fn default() -> Self {
        Recheck::For(Duration::from_secs(7 * 24 * 60 * 60))
    }
}

/// What becomes of foreign layers (image-spec layer.md "Non-Distributable Layers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForeignLayers {
    /// They are left out, with a note.
    #[default]
    Skip,
    /// They are fetched from the `urls` of their descriptors.
    Fetch,
}
