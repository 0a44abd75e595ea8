//! What is copied: digests, descriptors, manifests and the graph they form, and the two traits its ends satisfy.
//!
//! Nothing here knows where content lives; registries and layouts implement [`Source`] and [`Sink`] in their own rooms.

mod digest;
mod manifest;
mod platform;
mod policy;
mod referrers;
mod sink;
mod source;
mod verify;

pub use digest::{Digest, Hasher};
pub(crate) use manifest::{ACCEPT, kind_of, platforms_of};
pub use manifest::{Descriptor, Links, MAX_MANIFEST, Manifest, ManifestKind, Platform};
pub use platform::PlatformFilter;
pub use policy::{ForeignLayers, IndexMode, Policy, Recheck, Referrers};
pub(crate) use referrers::with_referrers;
pub use referrers::{DigestTags, Referrer, fallback_tag};
pub use sink::{Presence, Publication, Sink};
pub use source::{BlobStream, Charge, OpenBlob, Place, Source, Tally};
pub use verify::Verified;
pub(crate) use verify::{checkable, hasher};
