//! Permits: how many requests to one host are in flight. A permit is held until the answer's body has been read or dropped.
//!
//! Work that waits for *another* host's permit while it holds one of this host's could, with its like, wait in a circle.
//! These rules keep that from happening:
//! - An upload asks for its permit only when its source stream is open; so uploads wait for nothing but bytes.
//! - A body that is being continued does not wait for a permit ([`Claim::Continued`]). It gave its own back for the pause;
//!   the uploads that hold the others may be waiting for its bytes.
//! - A request for a token does not wait either: a continued body may be among those that share its answer.
//! - An upload that may be fed from the same host ([`Claim::Fed`]) does not wait either: the reader's permit, whoever
//!   that is, counts for both. The stream does not tell where it comes from, so every upload counts as fed while any
//!   blob of the host is being read. Only a registry that is upstream and target at once sees the difference, and it
//!   sees at most as many requests more as the copy engine has transfers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How a request asks for its permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// New work: it waits for its turn.
    Fresh,
    /// What others may be waiting for, a body's continuation or a token: takes a permit if there is one, and goes on without if not.
    Continued,
    /// An upload whose source is open: as new work, or as a continuation while blobs of this host are being read.
    Fed,
}

/// The permits of one host.
#[derive(Debug)]
pub(crate) struct Permits {
    free: Arc<Semaphore>,
    size: AtomicUsize,
    readers: Arc<AtomicUsize>,
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct Permit(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

/// A blob of this host is being read, from its first request to the end of its last body.
#[derive(Debug)]
pub(crate) struct Reader(Arc<AtomicUsize>);

impl Permits {
    pub(crate) fn new(size: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Permits { free: Arc::new(Semaphore::new(size)), size: AtomicUsize::new(size), readers: Arc::default() }
    }

    /// Makes them at least `size`: a registry that turns out to be the target too may have a target's number.
    pub(crate) fn widen(&self, size: usize) {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        let before = self.size.fetch_max(size, Ordering::Relaxed);
        self.free.add_permits(size.saturating_sub(before));
    }

    /// A permit, as `claim` asks for it.
    pub(crate) async fn take(&self, claim: Claim) -> Permit {
        let waits = match claim {
            Claim::Fresh => true,
            Claim::Continued => false,
            Claim::Fed => self.readers.load(Ordering::SeqCst) == 0,
        };
        // The semaphore is never closed: `ok` loses no error.
        let free = Arc::clone(&self.free);
        Permit(if waits { free.acquire_owned().await.ok() } else { free.try_acquire_owned().ok() })
    }

    /// Counts a blob's reader until it is dropped.
    pub(crate) fn reader(&self) -> Reader {
        self.readers.fetch_add(1, Ordering::SeqCst);
        Reader(Arc::clone(&self.readers))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn fresh_work_waits_and_continued_work_does_not() {
        let permits = Permits::new(1);
        let held = permits.take(Claim::Fresh).await;
        assert!(permits.take(Claim::Fresh).now_or_never().is_none());
        assert!(permits.take(Claim::Continued).now_or_never().is_some());
        drop(held);
        assert!(permits.take(Claim::Fresh).now_or_never().is_some());
    }

    #[tokio::test]
    async fn an_upload_fed_from_the_same_host_goes_on_under_its_readers_permit() {
        let permits = Permits::new(1);
        let _reading = permits.take(Claim::Fresh).await;
        let reader = permits.reader();
        assert!(permits.take(Claim::Fed).now_or_never().is_some());
        drop(reader);
        assert!(permits.take(Claim::Fed).now_or_never().is_none());
    }

    #[tokio::test]
    async fn widening_adds_and_never_takes() {
        let permits = Permits::new(1);
        permits.widen(3);
        permits.widen(2);
        let _held = (permits.take(Claim::Fresh).await, permits.take(Claim::Fresh).await, permits.take(Claim::Fresh).await);
        assert!(permits.take(Claim::Fresh).now_or_never().is_none());
    }
}
