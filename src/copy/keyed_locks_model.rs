//! Model check of the locks by key: in many orders of the tasks, one at a time holds a key, every task gets it, and no key stays behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use shuttle::future::{block_on, spawn, yield_now};

use super::keyed_locks::KeyedLocks;
use crate::mutex::model::explore;

#[test]
fn one_task_at_a_time_reads_a_digest_and_every_task_gets_its_turn() {
    explore(1000, || {
        let locks: Arc<KeyedLocks<u8>> = Arc::default();
        let readers = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..4)
            .map(|task| {
                let (locks, readers) = (Arc::clone(&locks), Arc::clone(&readers));
                spawn(async move {
                    let mut waiting = Box::pin(locks.lock(1));
                    // The last task goes away while it waits.
                    let guard = match (&mut waiting).now_or_never() {
                        Some(guard) => guard,
                        None if task == 3 => return,
                        None => waiting.await,
                    };
                    assert_eq!(readers.fetch_add(1, Ordering::SeqCst), 0, "two readers of one digest");
                    yield_now().await;
                    readers.fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                })
            })
            .collect();
        for task in tasks {
            block_on(task).unwrap();
        }
        assert!(locks.is_empty());
    });
}
