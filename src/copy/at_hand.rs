//! Small content that was read, or came inside something else, before its turn: it is not asked for again.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::content::{Digest, Manifest, inline_content};
use crate::mutex::Mutex;

/// So many bytes are kept, the newest ones. Each is needed by the image that is being worked on; configs have a few KiB and what stands
/// inside manifests is smaller still, so this is for thousands of images at once.
const MOST: usize = 16 * 1024 * 1024;

/// Content by digest; checked before it came here.
#[derive(Debug)]
pub(super) struct CachedContent {
    kept: Mutex<CachedManifest>,
    open: bool,
}

#[derive(Debug, Default)]
struct CachedManifest {
    content: HashMap<Digest, Bytes>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl CachedContent {
    /// One that keeps nothing unless it is `open`: what a cache is to be filled with must be asked of it.
    pub(super) fn new(open: bool) -> Self {
        CachedContent { kept: Mutex::default(), open }
    }

    /// Keeps `bytes`, which are those of `digest`.
    pub(super) fn add(&self, digest: &Digest, bytes: Bytes) {
        let mut kept = self.kept.lock();
        let size = bytes.len();
        if !self.open || size > MOST || kept.content.contains_key(digest) {
            return;
        }
        kept.content.insert(digest.clone(), bytes);
        kept.order.push_back(digest.clone());
        kept.bytes += size;
        while kept.bytes > MOST
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.bytes -= kept.content.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }

    /// Keeps what stands inside `manifest` (`data` of its descriptors).
    pub(super) fn add_inline(&self, manifest: &Manifest) {
        for (digest, bytes) in inline_content(manifest) {
            self.add(&digest, bytes);
        }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.kept.lock().content.get(digest).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let at_hand = CachedContent::new(true);
        let add = |name: &str, size| {
            let digest = Digest::sha256(name.as_bytes());
            at_hand.add(&digest, Bytes::from(vec![0; size]));
            digest
        };
        let (first, second) = (add("first", MOST / 2), add("second", MOST / 2));
        assert!(at_hand.get(&first).is_some());
        add("second", 7);
        let third = add("third", 1);
        assert!(at_hand.get(&first).is_none());
        assert_eq!(at_hand.get(&second).map(|bytes| bytes.len()), Some(MOST / 2));
        let huge = add("huge", MOST + 1);
        assert!(at_hand.get(&huge).is_none() && at_hand.get(&third).is_some());
    }
}
