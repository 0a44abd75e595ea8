//! Which repositories of the target hold which digests.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::content::{Digest, Repository};
use crate::mutex::{Mutex, MutexGuard};

/// Which repositories of the target hold which digests: what this run has found there or written.
#[derive(Debug, Default)]
pub(super) struct PresenceMap {
    held: Mutex<HashMap<Digest, Holders>>,
    /// Indexes that were written without all of their children.
    sparse: Mutex<HashSet<(Repository, Digest)>>,
}

/// The repositories that hold a digest. Most digests are in one: a set for each would be most of what a run of many images keeps in memory.
#[derive(Debug)]
enum Holders {
    One(Repository),
    Many(BTreeSet<Repository>),
}

impl Holders {
    fn add(&mut self, repository: &Repository) {
        match self {
            Holders::One(one) if one == repository => {}
            Holders::One(one) => *self = Holders::Many(BTreeSet::from([one.clone(), repository.clone()])),
            Holders::Many(many) => _ = many.insert(repository.clone()),
        }
    }

    fn has(&self, repository: &Repository) -> bool {
        match self {
            Holders::One(one) => one == repository,
            Holders::Many(many) => many.contains(repository),
        }
    }

    /// The first by name.
    fn first(&self) -> Option<&Repository> {
        match self {
            Holders::One(one) => Some(one),
            Holders::Many(many) => many.first(),
        }
    }
}

impl PresenceMap {
    /// Notes that `repository` gets `index` without all of its children: that it has the index does not prove that it
    /// has them.
    pub(super) fn add_sparse(&self, repository: &Repository, index: &Digest) {
        self.sparse.lock().insert((repository.clone(), index.clone()));
    }

    pub(super) fn is_sparse(&self, repository: &Repository, index: &Digest) -> bool {
        self.sparse.lock().contains(&(repository.clone(), index.clone()))
    }

    pub(super) fn add(&self, repository: &Repository, digest: &Digest) {
        self.lock().entry(digest.clone()).or_insert_with(|| Holders::One(repository.clone())).add(repository);
    }

    pub(super) fn has(&self, repository: &Repository, digest: &Digest) -> bool {
        self.lock().get(digest).is_some_and(|holders| holders.has(repository))
    }

    /// A repository that holds `digest`: the first by name, so that runs are deterministic.
    pub(super) fn anywhere(&self, digest: &Digest) -> Option<Repository> {
        self.lock().get(digest).and_then(Holders::first).cloned()
    }

    /// Notes that `repository` does not hold `digest` after all.
    pub(super) fn forget(&self, repository: &Repository, digest: &Digest) {
        let mut held = self.lock();
        match held.get_mut(digest) {
            Some(Holders::Many(many)) => _ = many.remove(repository),
            Some(Holders::One(one)) if one == repository => _ = held.remove(digest),
            Some(Holders::One(_)) | None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Holders>> {
        self.held.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_found_in_the_first_repository_by_name_until_it_is_forgotten() {
        let (presence, digest) = (PresenceMap::default(), Digest::sha256(b"layer"));
        let (a, b) = (Repository::new("a"), Repository::new("b"));
        presence.add(&b, &digest);
        presence.add(&a, &digest);
        assert_eq!(presence.anywhere(&digest), Some(a.clone()));
        presence.forget(&a, &digest);
        assert_eq!((presence.has(&a, &digest), presence.anywhere(&digest)), (false, Some(b)));
    }
}
