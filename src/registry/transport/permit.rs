//! Permits: how many requests to one host are in flight. A permit is held until the answer's body has been read or dropped.
//! How many there are is found from the host's answers ([`AdaptiveLimit`]); small requests never wait behind blobs.
//!
//! Work that waits for *another* host's permit while it holds one of this host's could, with its like, wait in a circle.
//! These rules keep that from happening:
//! - An upload asks for its permit only when its source stream is open; so uploads wait for nothing but bytes.
//! - A body that is being continued does not wait for a permit ([`PermitRequest::Continued`]). It gave its own back for the pause;
//!   the uploads that hold the others may be waiting for its bytes.
//! - A request for a token does not wait either: a continued body may be among those that share its answer.
//! - An upload that may be fed from the same host ([`PermitRequest::Fed`]) does not wait either: the reader's permit, whoever
//!   that is, counts for both. The stream does not tell where it comes from, so every upload counts as fed while any
//!   blob of the host is being read. Only a registry that is upstream and target at once sees the difference, and it
//!   sees at most as many requests more as the copy engine has transfers.
//! - Pulls, pauses, the pace and bytes of a request are waited for before its permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::{AdaptiveLimit, Permit, RequestClass};
use crate::registry::request::{ConnectionKind, PermitRequest};

/// The permits of one host.
#[derive(Debug)]
pub(crate) struct Permits {
    slots: AdaptiveLimit,
    readers: Arc<AtomicUsize>,
}

/// A blob of this host is being read, from its first request to the end of its last body.
#[derive(Debug)]
pub(crate) struct BlobReadSlot(Arc<AtomicUsize>);

impl Permits {
    pub(crate) fn new(size: usize) -> Self {
        Permits { slots: AdaptiveLimit::new(size), readers: Arc::default() }
    }

    /// A permit, as `claim` asks for it.
    pub(crate) async fn take(&self, claim: PermitRequest, lane: ConnectionKind) -> Permit {
        let class = match lane {
            ConnectionKind::Small => RequestClass::Small,
            ConnectionKind::Bulk => RequestClass::Bulk,
        };
        let waits = match claim {
            PermitRequest::Fresh => true,
            PermitRequest::Continued => false,
            PermitRequest::Fed => self.readers.load(Ordering::SeqCst) == 0,
        };
        if waits { self.slots.permit(class).await } else { self.slots.permit_or_none(class) }
    }

    /// How many there are now for small requests.
    #[cfg(test)]
    pub(super) fn limit(&self) -> usize {
        self.slots.limit(RequestClass::Small)
    }

    /// Counts a blob's reader until it is dropped.
    pub(crate) fn reader(&self) -> BlobReadSlot {
        self.readers.fetch_add(1, Ordering::SeqCst);
        BlobReadSlot(Arc::clone(&self.readers))
    }
}

impl Drop for BlobReadSlot {
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
        let held = permits.take(PermitRequest::Fresh, ConnectionKind::Bulk).await;
        assert!(permits.take(PermitRequest::Fresh, ConnectionKind::Bulk).now_or_never().is_none());
        assert!(permits.take(PermitRequest::Continued, ConnectionKind::Bulk).now_or_never().is_some());
        drop(held);
        assert!(permits.take(PermitRequest::Fresh, ConnectionKind::Bulk).now_or_never().is_some());
    }

    #[tokio::test]
    async fn an_upload_fed_from_the_same_host_goes_on_under_its_readers_permit() {
        let permits = Permits::new(1);
        let _reading = permits.take(PermitRequest::Fresh, ConnectionKind::Bulk).await;
        let reader = permits.reader();
        assert!(permits.take(PermitRequest::Fed, ConnectionKind::Bulk).now_or_never().is_some());
        drop(reader);
        assert!(permits.take(PermitRequest::Fed, ConnectionKind::Bulk).now_or_never().is_none());
    }

    #[tokio::test]
    async fn small_requests_do_not_wait_behind_blobs() {
        let permits = Permits::new(2);
        let _blob = permits.take(PermitRequest::Fresh, ConnectionKind::Bulk).await;
        assert!(permits.take(PermitRequest::Fresh, ConnectionKind::Bulk).now_or_never().is_none());
        assert!(permits.take(PermitRequest::Fresh, ConnectionKind::Small).now_or_never().is_some());
    }
}
