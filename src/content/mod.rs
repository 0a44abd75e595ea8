//! What is copied: digests, descriptors, manifests and the graph they form, and the two traits `Source` and `Sink`.
//!
//! Nothing here knows where content is stored; registries and layouts implement [`Source`] and [`Sink`] in their own rooms.

mod choice;
mod created;
mod descriptor;
mod graph;
mod inline;
mod manifest;
mod media_type;
mod parse;
mod platform;
mod policy;
mod referrers;
mod rewrite;
mod sink;
mod source;
mod verify;

pub use crate::name::{Digest, Hasher};
pub use choice::{ChildChoice, ChoiceVerdict};
pub(crate) use created::{Created, created, created_in_config};
pub(crate) use descriptor::{ABSENT, platforms_of};
pub use descriptor::{Descriptor, Platform, SPARSE};
pub(crate) use graph::{GraphNode, GraphWalk, MAX_DEPTH, NodeRole, check_depth, walk_concurrently};
pub(crate) use inline::inline_content;
pub(crate) use manifest::schema1;
pub use manifest::{MAX_MANIFEST, Manifest};
pub use media_type::ManifestKind;
pub(crate) use media_type::{ACCEPT, is_schema1, kind_of};
pub use parse::Links;
pub use platform::PlatformFilter;
pub use policy::{ForeignLayers, IndexMode, Policy, Recheck};
pub(crate) use referrers::with_referrers;
pub use referrers::{DigestTags, Referrer, ReferrerList, Referrers, fallback_tag};
pub use rewrite::{SOURCE_DIGEST, is_cut_of, rewrite, source_of};
pub use sink::{Presence, Publication, Sink};
pub use source::{BlobStream, OpenBlob, Repository, RequestContext, Source, TransferStats};
pub use verify::Verified;
pub(crate) use verify::{Checkpoint, Checkpoints, checkable, each_chunk, hasher};
