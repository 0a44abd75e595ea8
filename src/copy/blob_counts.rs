//! Counts of blobs, by what had to be done for them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Blobs of a run, by what had to be done for them.
#[derive(Debug, Default)]
pub struct BlobCounts {
    copied: AtomicU64,
    mounted: AtomicU64,
    present: AtomicU64,
}

impl BlobCounts {
    /// Blobs whose bytes were transferred.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Blobs mounted from another repository of the target.
    pub fn mounted(&self) -> u64 {
        self.mounted.load(Ordering::Relaxed)
    }

    /// Blobs that the target had.
    pub fn present(&self) -> u64 {
        self.present.load(Ordering::Relaxed)
    }

    pub(super) fn add_copied(&self) {
        self.copied.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_mounted(&self) {
        self.mounted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_present(&self) {
        self.present.fetch_add(1, Ordering::Relaxed);
    }
}
