//! Bundles carry images across an air gap. A bundle is one or more *volumes* (tar files) that together hold an OCI image
//! layout, and `NAME.bundle.json`, which lists their content. HTTP does not belong here.
//!
//! [`format`](mod@format) has the records that both sides read and write (described in `docs/bundles.md`). Writing is a pure
//! function of a finished layout: the content ([`collect`]) and its division into volumes ([`BundlePlan`]) are known before
//! the first byte is written ([`pack()`]).

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
