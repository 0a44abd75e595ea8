//! What was asked: every request, in order of arrival.

use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Ping,
    Token,
    ManifestHead,
    ManifestGet,
    ManifestPut,
    ManifestDelete,
    BlobHead,
    BlobGet,
    BlobDelete,
    /// POST that opens an upload (or uploads at once).
    UploadPost,
    UploadPatch,
    UploadPut,
    /// GET of an upload's state.
    UploadGet,
    UploadDelete,
    /// POST with `mount`.
    Mount,
    Tags,
    Referrers,
    Catalog,
    /// Any request at the second host that blob GETs are redirected to.
    Cdn,
    Other,
}

/// One request, as far as it has come.
#[derive(Debug, Clone)]
pub struct Request {
    pub kind: Kind,
    pub method: String,
    pub path: String,
    pub query: String,
    pub repository: Option<String>,
    /// Tag or digest of a manifest; digest of a blob, upload, mount or subject.
    pub reference: Option<String>,
    pub headers: HeaderMap,
    /// Counts connections from 0: two requests with one number came over the same one.
    pub connection: u64,
    /// `None` until it is answered.
    pub status: Option<u16>,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes handed to the connection.
    pub bytes_out: u64,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
    /// Whether credentials came with it.
    pub fn authorized(&self) -> bool {
        self.headers.contains_key("authorization")
    }
    /// The `Range` asked for.
    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }
    pub fn user_agent(&self) -> Option<&str> {
        self.header("user-agent")
    }
}

/// A request in the log; its answer is filled in as it goes out.
pub(super) struct Entry {
    request: Request,
    status: AtomicU16,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    log: Arc<Log>,
}

impl Entry {
    pub(super) fn request(&self) -> &Request {
        &self.request
    }
    pub(super) fn answered(&self, status: u16) {
        self.status.store(status, SeqCst);
        self.log.changed();
    }
    pub(super) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, SeqCst);
        self.log.received.fetch_add(bytes as u64, SeqCst);
        self.log.changed();
    }
    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, SeqCst);
        self.log.sent.fetch_add(bytes as u64, SeqCst);
        self.log.changed();
    }
    fn snapshot(&self) -> Request {
        let status = self.status.load(SeqCst);
        Request {
            status: (status != 0).then_some(status),
            bytes_in: self.bytes_in.load(SeqCst),
            bytes_out: self.bytes_out.load(SeqCst),
            ..self.request.clone()
        }
    }
}

/// All requests of one registry.
#[derive(Default)]
pub(super) struct Log {
    entries: Mutex<Vec<Arc<Entry>>>,
    condition: Condvar,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// Held while a request is being answered.
pub(super) struct InFlight(Arc<Log>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
        self.0.changed();
    }
}

impl Log {
    /// Notes a request that has arrived.
    pub(super) fn open(self: &Arc<Self>, request: Request) -> (Arc<Entry>, InFlight) {
        let entry = Arc::new(Entry {
            request,
            status: AtomicU16::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            log: self.clone(),
        });
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry.clone());
        self.most.fetch_max(self.in_flight.fetch_add(1, SeqCst) + 1, SeqCst);
        self.changed();
        (entry, InFlight(self.clone()))
    }

    /// Wakes who waits for a change. The lock is taken so that no waiter is between its look and its sleep.
    fn changed(&self) {
        drop(self.entries.lock().unwrap_or_else(PoisonError::into_inner));
        self.condition.notify_all();
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|entry| entry.snapshot()).collect()
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.most.load(SeqCst)
    }

    pub(super) fn reset(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.most.store(self.in_flight.load(SeqCst), SeqCst);
        self.sent.store(0, SeqCst);
        self.received.store(0, SeqCst);
    }

    /// Waits until `condition` holds of the log, and says whether it came to that before `timeout`.
    pub(super) fn wait_until(&self, timeout: Duration, condition: impl Fn(&[Request]) -> bool) -> bool {
        let until = Instant::now() + timeout;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let requests: Vec<Request> = entries.iter().map(|entry| entry.snapshot()).collect();
            if condition(&requests) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            entries = self.condition.wait_timeout(entries, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
