//! What was learnt about a registry's content during the run, so that nothing is asked twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::Result;
use crate::content::{Digest, Manifest, Repository};
use crate::mutex::Mutex;

/// Which repositories hold which content: what was uploaded, mounted or found there.
#[derive(Debug, Default)]
pub(crate) struct KnownContent(HashMap<Digest, HashSet<Repository>>);

impl KnownContent {
    pub(crate) fn add(&mut self, repository: &Repository, digest: &Digest) {
        self.0.entry(digest.clone()).or_default().insert(repository.clone());
    }

    pub(crate) fn has(&self, repository: &Repository, digest: &Digest) -> bool {
        self.0.get(digest).is_some_and(|places| places.contains(repository))
    }

    /// Another repository than `repository` that holds it; of several always the same one.
    pub(crate) fn elsewhere(&self, repository: &Repository, digest: &Digest) -> Option<Repository> {
        self.0.get(digest)?.iter().filter(|other| *other != repository).min().cloned()
    }

    /// The registry misses something that `repository` was thought to hold: nothing about the place is believed any more.
    pub(crate) fn forget(&mut self, repository: &Repository) {
        for places in self.0.values_mut() {
            places.remove(repository);
        }
    }
}

/// So many bytes of manifests are kept. They are there for registries that answer HEAD without a digest, from the time a tag is
/// resolved to the time its manifest is read; an image's manifest has 2 to 10 KiB, so thousands of images fit in between.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Manifests that had to be read to learn their digest. The oldest make room.
#[derive(Debug, Default)]
pub(crate) struct ManifestCache {
    kept: VecDeque<(Repository, Manifest)>,
    bytes: usize,
}

impl ManifestCache {
    pub(crate) fn add(&mut self, repository: &Repository, manifest: &Manifest) {
        if self.get(repository, manifest.digest()).is_some() {
            return;
        }
        self.bytes += manifest.bytes().len();
        self.kept.push_back((repository.clone(), manifest.clone()));
        while self.bytes > MOST_BYTES
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes().len();
        }
    }

    pub(crate) fn get(&self, repository: &Repository, digest: &Digest) -> Option<Manifest> {
        self.kept.iter().find(|(at, manifest)| at == repository && manifest.digest() == digest).map(|(_, manifest)| manifest.clone())
    }
}

/// What an upstream has listed, by repository: asked for once a run, however many want to know. Failures are remembered too, until the
/// list is asked for again.
#[derive(Default)]
pub(super) struct TagLists(Mutex<HashMap<Repository, [ListedTags; 2]>>);

type ListedTags = Arc<OnceCell<Result<Arc<[String]>>>>;

impl TagLists {
    /// The list of `repository`. `again`: not one that failed the first time.
    pub(super) fn of(&self, repository: &Repository, again: bool) -> ListedTags {
        let mut lists = self.0.lock();
        let [first, second] = lists.entry(repository.clone()).or_default();
        let failed = first.get().is_some_and(Result::is_err);
        Arc::clone(if failed && (again || second.initialized()) { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_is_held_is_known_by_place() {
        let (a, b, digest) = (Repository::new("a"), Repository::new("b"), Digest::sha256(b"x"));
        let mut held = KnownContent::default();
        assert_eq!(held.elsewhere(&a, &digest), None);
        held.add(&a, &digest);
        assert!(held.has(&a, &digest) && !held.has(&b, &digest));
        assert_eq!((held.elsewhere(&b, &digest), held.elsewhere(&a, &digest)), (Some(a.clone()), None));
        held.forget(&a);
        assert!(!held.has(&a, &digest));
    }

    #[test]
    fn manifests_are_kept_up_to_a_size() {
        let repository = Repository::new("a");
        let of = |n: u8, size: usize| {
            let mut bytes = br#"{"mediaType":"application/vnd.example+json"}"#.to_vec();
            bytes.resize(size.max(bytes.len()), b' ');
            Manifest::known(Bytes::from(bytes), None, Digest::sha256(&[n]), crate::Side::Target).unwrap()
        };
        let mut read = ManifestCache::default();
        read.add(&repository, &of(1, MOST_BYTES / 2));
        read.add(&repository, &of(2, MOST_BYTES / 2));
        assert!(read.get(&repository, &Digest::sha256(&[1])).is_some());
        read.add(&repository, &of(3, 1));
        assert!(read.get(&repository, &Digest::sha256(&[1])).is_none());
        assert!(read.get(&repository, &Digest::sha256(&[3])).is_some());
        assert!(read.get(&Repository::new("b"), &Digest::sha256(&[3])).is_none());
    }
}
