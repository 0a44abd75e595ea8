//! Group commit: changes that tasks hand in at the same time are written together, by one of these tasks. The more wait, the larger the batch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::{Duration, Instant};

use super::files::blocking;
use crate::mutex::Mutex;
use crate::{Error, Result};

/// No change waits longer than this for others.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// A change on its way to the disk.
pub(super) struct PendingChange<T> {
    pub(super) change: T,
    done: OnceLock<Result<()>>,
}

impl<T> PendingChange<T> {
    /// Ends this change with an error of its own. The others of its batch go on.
    pub(super) fn refuse(&self, error: Error) {
        // It is set twice only by a writer that refuses twice; the first reason counts.
        let _ = self.done.set(Err(error));
    }
}

/// Changes that wait to be written together.
pub(super) struct GroupCommit<T> {
    queue: Arc<Mutex<Vec<Arc<PendingChange<T>>>>>,
    /// Held by the task that writes. It says when the next one may.
    turn: Arc<tokio::sync::Mutex<Option<Instant>>>,
    /// How many times as long as a write took the next one waits for further changes.
    rest: u32,
    /// Batches written so far, for tests.
    batches: Arc<AtomicU64>,
}

impl<T: Send + Sync + 'static> GroupCommit<T> {
    /// After each write, the next one waits `rest` times as long as the write took, at most a second.
    pub(super) fn new(rest: u32) -> Self {
        GroupCommit { queue: Arc::default(), turn: Arc::default(), rest, batches: Arc::default() }
    }

    /// Hands in `change`, and returns when it is written. `write` gets the whole batch, on a thread that may block; its result is that of
    /// all changes that it does not [refuse](PendingChange::refuse).
    pub(super) async fn commit<W>(&self, change: T, write: W) -> Result<()>
    where
        W: FnOnce(&[Arc<PendingChange<T>>]) -> Result<()> + Send + 'static,
    {
        let pending = Arc::new(PendingChange { change, done: OnceLock::new() });
        self.queue.lock().push(Arc::clone(&pending));
        let mut turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(result) = pending.done.get() {
            return result.clone();
        }
        if let Some(next) = *turn {
            tokio::time::sleep_until(next).await;
        }
        let (queue, rest, batches) = (Arc::clone(&self.queue), self.rest, Arc::clone(&self.batches));
        blocking(move || {
            // The turn is moved in here, so that no other task has it before the batch is done, even if the task that started it is gone.
            let started = Instant::now();
            let batch = std::mem::take(&mut *queue.lock());
            let written = write(&batch);
            batches.fetch_add(1, Ordering::Relaxed);
            *turn = (rest > 0).then(|| Instant::now() + (started.elapsed() * rest).min(LONGEST_REST));
            for pending in batch {
                // A change that was refused has its own result already. No other task sets it: only the holder of the turn does, and it
                // took the batch out of the queue.
                let _ = pending.done.set(written.clone());
            }
            pending.done.get().cloned().unwrap_or(written)
        })
        .await
    }

    /// How many batches were written.
    #[cfg(test)]
    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }
}
