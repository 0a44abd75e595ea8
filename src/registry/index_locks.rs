//! Locks for indexes of referrers that are changed by reading, editing and putting them back.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::content::Repository;

/// How many different indexes may be changed at once: enough that images do not wait for each other but by chance.
const LOCKS: usize = 64;

/// One of these is held while an index under a tag is changed; which one, the index tells.
#[derive(Debug)]
pub(super) struct IndexLocks([tokio::sync::Mutex<()>; LOCKS]);

impl Default for IndexLocks {
    fn default() -> Self {
        IndexLocks(std::array::from_fn(|_| tokio::sync::Mutex::default()))
    }
}

impl IndexLocks {
    pub(super) async fn hold(&self, repository: &Repository, tag: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (repository, tag).hash(&mut hasher);
        let which = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0);
        match self.0.get(which) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }
}
