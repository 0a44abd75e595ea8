//! What is known of the target within a run, and who is working on what.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::content::{Digest, Repository};
use crate::mutex::{Mutex, MutexGuard};

/// Which repositories of the target hold which digests, as far as this run has seen or made it so.
#[derive(Debug, Default)]
pub(super) struct PresenceMap {
    held: Mutex<HashMap<Digest, HashSet<Repository>>>,
    /// Indexes that were put without all of their children.
    sparse: Mutex<HashSet<(Repository, Digest)>>,
}

impl PresenceMap {
    /// The index is to be at `repository` without all of its children: having it does not mean having what it refers to.
    pub(super) fn add_sparse(&self, repository: &Repository, index: &Digest) {
        self.sparse.lock().insert((repository.clone(), index.clone()));
    }

    pub(super) fn is_sparse(&self, repository: &Repository, index: &Digest) -> bool {
        self.sparse.lock().contains(&(repository.clone(), index.clone()))
    }

    pub(super) fn add(&self, repository: &Repository, digest: &Digest) {
        self.lock().entry(digest.clone()).or_default().insert(repository.clone());
    }

    pub(super) fn has(&self, repository: &Repository, digest: &Digest) -> bool {
        self.lock().get(digest).is_some_and(|places| places.contains(repository))
    }

    /// Some repository that holds `digest`; the first by name, so that runs are alike.
    pub(super) fn anywhere(&self, digest: &Digest) -> Option<Repository> {
        self.lock().get(digest).and_then(|places| places.iter().min().cloned())
    }

    /// What was believed of `digest` at `repository` has turned out to be wrong.
    pub(super) fn forget(&self, repository: &Repository, digest: &Digest) {
        if let Some(places) = self.lock().get_mut(digest) {
            places.remove(repository);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, HashSet<Repository>>> {
        self.held.lock()
    }
}

type Keys<K> = Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>;

/// Mutual exclusion by key: whoever comes second waits, then looks again at what the first one achieved. Failures are
/// not remembered, and a holder that is dropped midway (an aborted task) simply lets the next one in.
#[derive(Debug)]
pub(super) struct KeyedLocks<K: Eq + Hash + Clone>(Keys<K>);

impl<K: Eq + Hash + Clone> Default for KeyedLocks<K> {
    fn default() -> Self {
        KeyedLocks(Arc::default())
    }
}

/// Holds a key until dropped.
#[derive(Debug)]
pub(super) struct KeyGuard<K: Eq + Hash + Clone> {
    keys: Keys<K>,
    key: K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash + Clone> KeyedLocks<K> {
    pub(super) async fn hold(&self, key: K) -> KeyGuard<K> {
        let lock = Arc::clone(self.0.lock().entry(key.clone()).or_default());
        // Built before waiting: a waiter that is dropped must clean up as well.
        let mut held = KeyGuard { keys: Arc::clone(&self.0), key, guard: None };
        held.guard = Some(lock.lock_owned().await);
        held
    }
}

impl<K: Eq + Hash + Clone> Drop for KeyGuard<K> {
    fn drop(&mut self) {
        self.guard = None;
        let mut keys = self.keys.lock();
        // Only the map refers to it: nobody holds it or waits for it.
        if keys.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_by_key_and_nothing_is_left_behind() {
        let locks: Arc<KeyedLocks<u8>> = Arc::default();
        let first = locks.hold(1).await;
        let _other = locks.hold(2).await;
        let waiting = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.hold(1).await) }
        });
        let abandoned = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.hold(1).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        abandoned.abort();
        drop(first);
        waiting.await.unwrap();
        let _ = abandoned.await;
        assert_eq!(locks.0.lock().len(), 1);
    }
}
