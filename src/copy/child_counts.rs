//! What a run has seen of indexes, to estimate the number of children of one that is not read yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::content::{Descriptor, Digest, Manifest, ManifestKind, Repository, kind_of};
use crate::mutex::{Mutex, MutexGuard};

/// Children that we assume for the first index of a run if its size is unknown: two platforms with their attestations,
/// as most people build. Later indexes are estimated from those that the run has read. A smaller image gives its unused
/// pulls back; a larger one continues before others begin, and what was read of it is cached.
pub(super) const LIKELY_CHILDREN: u64 = 4;

/// What a run has seen of indexes.
#[derive(Debug, Default)]
pub(super) struct ChildCounts {
    indexes: AtomicU64,
    children: AtomicU64,
    repositories: Mutex<HashMap<Repository, RepositoryCounts>>,
}

/// The indexes of one repository of the target.
#[derive(Debug, Default)]
struct RepositoryCounts {
    /// The sizes of those that were not read, by digest.
    sizes: BTreeMap<Digest, u64>,
    /// One that the target has, not read.
    held: Option<Digest>,
    /// One that was read.
    read: Option<Manifest>,
}

impl ChildCounts {
    /// Counts an index with this many children.
    pub(super) fn add(&self, children: u64) {
        if children > 0 {
            self.indexes.fetch_add(1, Ordering::Relaxed);
            self.children.fetch_add(children, Ordering::Relaxed);
        }
    }

    /// Notes what HEAD requests to both sides said about an image.
    pub(super) fn note(&self, to: &Repository, wanted: &Descriptor, held: Option<&Descriptor>) {
        let is_index = |descriptor: &&Descriptor| kind_of(&descriptor.media_type) == ManifestKind::Index;
        let (unread, held) = (Some(wanted).filter(is_index).filter(|wanted| wanted.size > 0), held.filter(is_index));
        if unread.is_none() && held.is_none() {
            return;
        }
        let mut repositories = self.repositories();
        let repository = repositories.entry(to.clone()).or_default();
        unread.map(|wanted| repository.sizes.insert(wanted.digest.clone(), wanted.size));
        repository.held = held.map(|held| held.digest.clone()).or(repository.held.take());
    }

    /// Notes an index of the repository that was read.
    pub(super) fn learn(&self, to: &Repository, index: &Manifest) {
        if index.kind() == ManifestKind::Index {
            self.repositories().entry(to.clone()).or_default().read = Some(index.clone());
        }
    }

    /// An index of the repository that was read.
    pub(super) fn read_index(&self, repository: &Repository) -> Option<Manifest> {
        self.repositories().get(repository).and_then(|counts| counts.read.clone())
    }

    /// The sizes of the repository's indexes that were not read.
    pub(super) fn unread_sizes(&self, repository: &Repository) -> Vec<u64> {
        self.repositories().get(repository).map(|counts| counts.sizes.values().copied().collect()).unwrap_or_default()
    }

    /// An index of the repository that the target has, if none was read; returned once.
    pub(super) fn take_unread_at_target(&self, repository: &Repository) -> Option<Digest> {
        self.repositories().get_mut(repository).filter(|counts| counts.read.is_none()).and_then(|counts| counts.held.take())
    }

    /// The average number of children.
    pub(super) fn likely(&self) -> u64 {
        match self.indexes.load(Ordering::Relaxed) {
            0 => LIKELY_CHILDREN,
            indexes => self.children.load(Ordering::Relaxed).div_ceil(indexes),
        }
    }

    fn repositories(&self) -> MutexGuard<'_, HashMap<Repository, RepositoryCounts>> {
        self.repositories.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_rounded_up_and_empty_indexes_do_not_count() {
        let counts = ChildCounts::default();
        assert_eq!(counts.likely(), LIKELY_CHILDREN);
        counts.add(0);
        assert_eq!(counts.likely(), LIKELY_CHILDREN);
        counts.add(2);
        counts.add(3);
        assert_eq!(counts.likely(), 3);
    }

    #[test]
    fn an_index_at_the_target_is_returned_once() {
        let (counts, repository) = (ChildCounts::default(), Repository::new("a"));
        let index = |name: &str, size| Descriptor::new("application/vnd.oci.image.index.v1+json", Digest::sha256(name.as_bytes()), size);
        counts.note(&repository, &index("new", 500), Some(&index("old", 400)));
        assert_eq!(counts.unread_sizes(&repository), [500]);
        assert_eq!(counts.take_unread_at_target(&repository), Some(Digest::sha256(b"old")));
        assert_eq!(counts.take_unread_at_target(&repository), None);
    }
}
