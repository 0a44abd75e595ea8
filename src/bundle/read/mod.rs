//! Reading what import and verify are given: volumes, parts staged by earlier runs, layouts and archives of other tools.
//! [`BundleReader`] finds the content and the images it is for; [`BundleSource`] reads the content by offset.
//!
//! A volume is never read whole and never unpacked: its record says what it holds, so the offset of each blob can be
//! computed, and a damaged blob affects no other. The hashes of whole volumes are for media (`sha256sum -c`) and for
//! parts of blobs, which have no hash of their own.
//!
//! Formats of other tools belong into `interchange`, putting content into a target into `import`.

mod arrived;
mod bundle_reader;
mod bundle_source;
mod named_path;
mod pieces;
mod staging_area;
mod supersede;
mod volume_head;

pub(super) use arrived::repair_command;
pub use arrived::{ArrivedBundle, GatheredContent, NamedImage};
pub use bundle_reader::BundleReader;
pub use bundle_source::{Availability, BundleSource, ContentFile, Damage};
pub use named_path::is_archive;
pub(super) use pieces::{FileSlice, Piece, PieceLocation, each_chunk};
pub use staging_area::StagingArea;
pub(super) use volume_head::{VolumeHead, read_record};
