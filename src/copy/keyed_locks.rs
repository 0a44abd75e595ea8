//! Mutual exclusion by key.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::mutex::Mutex;

type Keys<K> = Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>;

/// Mutual exclusion by key: the second task waits, then checks what the first one has done. Failures are not
/// remembered. A guard that is dropped early (its task was aborted) lets the next task in.
#[derive(Debug)]
pub(super) struct KeyedLocks<K: Eq + Hash + Clone>(Keys<K>);

impl<K: Eq + Hash + Clone> Default for KeyedLocks<K> {
    fn default() -> Self {
        KeyedLocks(Arc::default())
    }
}

/// Locks a key until dropped.
#[derive(Debug)]
pub(super) struct KeyGuard<K: Eq + Hash + Clone> {
    keys: Keys<K>,
    key: K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash + Clone> KeyedLocks<K> {
    pub(super) async fn lock(&self, key: K) -> KeyGuard<K> {
        let lock = Arc::clone(self.0.lock().entry(key.clone()).or_default());
        // Built before waiting, so that a waiter that is dropped cleans up as well.
        let mut guard = KeyGuard { keys: Arc::clone(&self.0), key, guard: None };
        guard.guard = Some(lock.lock_owned().await);
        guard
    }

    /// No task holds a key or waits for one.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl<K: Eq + Hash + Clone> Drop for KeyGuard<K> {
    fn drop(&mut self) {
        self.guard = None;
        let mut keys = self.keys.lock();
        // Only the map refers to it: no task holds it or waits for it.
        if keys.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_task_at_a_time_by_key_and_no_key_stays_behind() {
        let locks: Arc<KeyedLocks<u8>> = Arc::default();
        let first = locks.lock(1).await;
        let _other = locks.lock(2).await;
        let waiting = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.lock(1).await) }
        });
        let abandoned = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.lock(1).await) }
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
