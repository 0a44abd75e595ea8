//! What is copied: digests, descriptors, manifests and the graph they form, and the two traits its ends satisfy.
//!
//! Nothing here knows where content lives; registries and layouts implement [`Source`] and [`Sink`] in their own rooms.

mod choice;
mod created;
mod digest;
mod inline;
mod manifest;
mod platform;
mod policy;
mod referrers;
mod rewrite;
mod sink;
mod source;
mod validity;
mod verify;

pub use choice::{ChildChoice, ChoiceVerdict};
pub(crate) use created::{Created, created, created_in_config};
pub use digest::{Digest, Hasher};
pub(crate) use manifest::{ACCEPT, is_blob_type, is_schema1, kind_of, platforms_of, schema1};
pub use manifest::{Descriptor, Links, MAX_MANIFEST, Manifest, ManifestKind, Platform};
pub use platform::PlatformFilter;
pub use policy::{ForeignLayers, IndexMode, Policy, Recheck, Referrers};
pub(crate) use referrers::with_referrers;
pub use referrers::{DigestTags, Referrer, ReferrerList, fallback_tag};
pub use rewrite::{SOURCE_DIGEST, is_cut_of, rewrite, source_of};
pub(crate) use sink::{ABSENT, absent_from};
pub use sink::{Presence, Publication, SPARSE, Sink};
pub use source::{BlobStream, OpenBlob, Repository, RequestContext, Source, TransferStats};
pub use verify::Verified;
pub(crate) use verify::{CHECK_BLOB, checkable, hasher};
