//! What was learnt about a registry's content during the run, so that nothing is asked twice.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::content::{Digest, Manifest, Place};

/// Which repositories hold which content: what was uploaded, mounted or found there.
#[derive(Debug, Default)]
pub(crate) struct Held(HashMap<Digest, HashSet<Place>>);

impl Held {
    pub(crate) fn add(&mut self, place: &Place, digest: &Digest) {
        self.0.entry(digest.clone()).or_default().insert(place.clone());
    }

    pub(crate) fn has(&self, place: &Place, digest: &Digest) -> bool {
        self.0.get(digest).is_some_and(|places| places.contains(place))
    }

    /// Another repository than `place` that holds it; of several always the same one.
    pub(crate) fn elsewhere(&self, place: &Place, digest: &Digest) -> Option<Place> {
        self.0.get(digest)?.iter().filter(|other| *other != place).min().cloned()
    }

    /// The registry misses something that `place` was thought to hold: nothing about the place is believed any more.
    pub(crate) fn forget(&mut self, place: &Place) {
        for places in self.0.values_mut() {
            places.remove(place);
        }
    }
}

/// So many bytes of manifests are kept. They are there for registries that answer HEAD without a digest, from the time a tag is
/// resolved to the time its manifest is read; an image's manifest has 2 to 10 KiB, so thousands of images fit in between.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Manifests that had to be read to learn their digest. The oldest make room.
#[derive(Debug, Default)]
pub(crate) struct Read {
    kept: VecDeque<(Place, Manifest)>,
    bytes: usize,
}

impl Read {
    pub(crate) fn add(&mut self, place: &Place, manifest: &Manifest) {
        if self.get(place, &manifest.digest).is_some() {
            return;
        }
        self.bytes += manifest.bytes.len();
        self.kept.push_back((place.clone(), manifest.clone()));
        while self.bytes > MOST_BYTES
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes.len();
        }
    }

    pub(crate) fn get(&self, place: &Place, digest: &Digest) -> Option<Manifest> {
        self.kept.iter().find(|(at, manifest)| at == place && manifest.digest == *digest).map(|(_, manifest)| manifest.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_is_held_is_known_by_place() {
        let (a, b, digest) = (Place::new("a"), Place::new("b"), Digest::sha256(b"x"));
        let mut held = Held::default();
        assert_eq!(held.elsewhere(&a, &digest), None);
        held.add(&a, &digest);
        assert!(held.has(&a, &digest) && !held.has(&b, &digest));
        assert_eq!((held.elsewhere(&b, &digest), held.elsewhere(&a, &digest)), (Some(a.clone()), None));
        held.forget(&a);
        assert!(!held.has(&a, &digest));
    }

    #[test]
    fn manifests_are_kept_up_to_a_size() {
        let place = Place::new("a");
        let of =
            |n: u8, size: usize| Manifest { bytes: Bytes::from(vec![n; size]), media_type: String::new(), digest: Digest::sha256(&[n]) };
        let mut read = Read::default();
        read.add(&place, &of(1, MOST_BYTES / 2));
        read.add(&place, &of(2, MOST_BYTES / 2));
        assert!(read.get(&place, &Digest::sha256(&[1])).is_some());
        read.add(&place, &of(3, 1));
        assert!(read.get(&place, &Digest::sha256(&[1])).is_none());
        assert!(read.get(&place, &Digest::sha256(&[3])).is_some());
        assert!(read.get(&Place::new("b"), &Digest::sha256(&[3])).is_none());
    }
}
