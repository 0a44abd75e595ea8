//! The content that can be read now: volumes, parts staged by earlier runs, layouts and archives of other tools, as one [`BundleSource`]
//! that content is read from by offset, and the images that it is for.
//!
//! A volume is never read whole and never unpacked: its record says what it holds, so that where each blob begins can be reckoned, and
//! what is wrong with a blob is wrong with that blob alone. The hashes of whole volumes are for media (`sha256sum -c`), and for
//! parts of blobs, which have no hash of their own.

mod gather;
mod heads;
mod order;
mod shelf;
mod stage;

use crate::Result;

pub use gather::{ArrivedBundle, BundleReader, GatheredContent, NamedImage, is_archive};
pub(super) use gather::{repair, whole};
pub use shelf::{Availability, BundleSource, ContentFile, Damage};
pub(super) use shelf::{OpenPart, Piece, Where};
pub use stage::StagingArea;

/// Work on files, off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(operation: &'static str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|lost| Err(crate::internal::lost(operation, lost)))
}
