//! Bundles: what crosses an air gap. A bundle is one or more *volumes* (tar files) that together hold an OCI image layout, and
//! `NAME.bundle.json`, which says what is in them. Knows no HTTP.
//!
//! [`format`](mod@format) has the records that both sides read and write (`docs/bundles.md` describes them for people). Writing is a pure
//! function of a finished layout: what is carried ([`collect`]) and how it is cut into volumes ([`BundlePlan`]) is known before the first byte is
//! written ([`pack()`]).

mod base;
mod bundle_content;
pub mod evidence;
pub mod format;
pub mod import;
pub mod interchange;
pub mod inventory;
mod pack;
mod plan;
pub mod preflight;
pub mod read;
pub mod tar;
mod verify;

pub use base::CombinedBase;
pub use bundle_content::{BundleContent, DeliveredImage, collect};
pub use pack::{PackOptions, PackSummary, Repaired, pack, repair};
pub use plan::{BundlePlan, PlannedBlob, PlannedVolume};
pub use read::is_archive;
pub use verify::{BundleReport, VolumeFinding, contains_bundle, verify, verify_archives};
