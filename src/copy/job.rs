//! One image while it is being copied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::image::CopyImage;
use crate::content::{Descriptor, Digest, ForeignLayers};
use crate::mutex::Mutex;

/// One image while it is being copied.
pub(super) struct CopyJob<'a> {
    pub(super) image: &'a CopyImage,
    failed: FailedFlag,
    wrote: AtomicBool,
    notes: Mutex<Vec<String>>,
    referrer_pulls: u64,
    read: Mutex<Vec<Digest>>,
    absent: Mutex<Vec<Descriptor>>,
}

/// Set when part of an image has failed, so that no other part begins.
#[derive(Debug, Clone, Default)]
pub(super) struct FailedFlag(Arc<AtomicBool>);

impl FailedFlag {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<'a> CopyJob<'a> {
    /// `referrer_pulls`: the pulls that its referrers will probably need.
    pub(super) fn new(image: &'a CopyImage, referrer_pulls: u64) -> Self {
        CopyJob {
            image,
            failed: FailedFlag::default(),
            wrote: AtomicBool::new(false),
            notes: Mutex::default(),
            referrer_pulls,
            read: Mutex::default(),
            absent: Mutex::default(),
        }
    }

    pub(super) fn failed(&self) -> &FailedFlag {
        &self.failed
    }

    /// Whether anything was written to the target.
    pub(super) fn wrote(&self) -> bool {
        self.wrote.load(Ordering::Relaxed)
    }

    pub(super) fn set_wrote(&self) {
        self.wrote.store(true, Ordering::Relaxed);
    }

    pub(super) fn referrer_pulls(&self) -> u64 {
        self.referrer_pulls
    }

    pub(super) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock())
    }

    /// Adds a remark, once.
    pub(super) fn note(&self, note: String) {
        let mut notes = self.notes.lock();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Children that the image's index lists and the upstream does not have.
    pub(super) fn absent(&self) -> Vec<Descriptor> {
        self.absent.lock().clone()
    }

    pub(super) fn add_absent(&self, child: Descriptor) {
        self.absent.lock().push(child);
    }

    /// Notes that `manifest` was read for this image, now or in an earlier run: the source may have it cached.
    pub(super) fn add_read(&self, manifest: &Descriptor) {
        self.read.lock().push(manifest.digest.clone());
    }

    /// Leaves `manifest` in the source's cache after the image is delivered, so that a later run that needs it again
    /// spends no pull.
    pub(super) fn keep(&self, manifest: &Digest) {
        self.read.lock().retain(|digest| digest != manifest);
    }

    /// Lets the source drop the manifests that it cached for another attempt. Call when the image is delivered.
    pub(super) fn release(&self) {
        for digest in self.read.lock().drain(..) {
            self.image.upstream.release(&digest);
        }
    }

    /// Whether `blob` is a foreign layer that the policy leaves out.
    pub(super) fn skips(&self, blob: &Descriptor) -> bool {
        blob.is_foreign() && self.image.policy.foreign_layers == ForeignLayers::Skip
    }
}
