//! Manifests and small blobs in memory that will be needed again in the run.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::content::{Digest, Manifest, inline_content};
use crate::mutex::Mutex;

/// The size of the cache in bytes; the oldest content is dropped first. Content is needed only while its image is being
/// copied. A config has a few KiB, and inline content is smaller, so this is enough for thousands of images at once.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Content by digest. Callers have checked the digest.
#[derive(Debug)]
pub(super) struct CachedContent {
    entries: Mutex<Entries>,
    enabled: bool,
}

#[derive(Debug, Default)]
struct Entries {
    content: HashMap<Digest, Bytes>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl CachedContent {
    /// An empty cache. If it is not `enabled`, it stays empty: warming a pull-through cache needs every request to
    /// reach it.
    pub(super) fn new(enabled: bool) -> Self {
        CachedContent { entries: Mutex::default(), enabled }
    }

    /// Adds `bytes`, whose digest is `digest`.
    pub(super) fn add(&self, digest: &Digest, bytes: Bytes) {
        let mut entries = self.entries.lock();
        let size = bytes.len();
        if !self.enabled || size > MAX_BYTES || entries.content.contains_key(digest) {
            return;
        }
        entries.content.insert(digest.clone(), bytes);
        entries.order.push_back(digest.clone());
        entries.bytes += size;
        while entries.bytes > MAX_BYTES
            && let Some(oldest) = entries.order.pop_front()
        {
            entries.bytes -= entries.content.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }

    /// Adds the inline content of `manifest` (`data` of its descriptors).
    pub(super) fn add_inline(&self, manifest: &Manifest) {
        for (digest, bytes) in inline_content(manifest) {
            self.add(&digest, bytes);
        }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.entries.lock().content.get(digest).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_content_is_dropped_first() {
        let cached = CachedContent::new(true);
        let add = |name: &str, size| {
            let digest = Digest::sha256(name.as_bytes());
            cached.add(&digest, Bytes::from(vec![0; size]));
            digest
        };
        let (first, second) = (add("first", MAX_BYTES / 2), add("second", MAX_BYTES / 2));
        assert!(cached.get(&first).is_some());
        add("second", 7);
        let third = add("third", 1);
        assert!(cached.get(&first).is_none());
        assert_eq!(cached.get(&second).map(|bytes| bytes.len()), Some(MAX_BYTES / 2));
        let huge = add("huge", MAX_BYTES + 1);
        assert!(cached.get(&huge).is_none() && cached.get(&third).is_some());
    }
}
