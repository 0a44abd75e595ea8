//! Where a failure happened, and what it means to the code that goes on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// Where a failure happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The registry images come from.
    Upstream,
    /// The registry or layout they go to.
    Target,
    /// This machine: files, configuration, the program itself.
    Local,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Upstream => "upstream",
            Side::Target => "target",
            Side::Local => "local",
        })
    }
}

/// What a failure means to the code that decides what to do next. Users read the message instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was asked for does not exist (404, `MANIFEST_UNKNOWN`, a missing file).
    NotFound,
    /// No or wrong credentials (401).
    Unauthorized,
    /// The registry refuses this request for good (other 4xx).
    Refused,
    /// A manifest was put whose blobs or children the target misses (`MANIFEST_BLOB_UNKNOWN`).
    ContentMissing,
    /// The upload session is gone or at another offset (`BLOB_UPLOAD_INVALID`, `BLOB_UPLOAD_UNKNOWN`, 416): a new one may work.
    UploadLost,
    /// Bytes do not match their digest or length.
    Damaged,
    /// A registry tried what larder does not allow it: an address in a private network, credentials sent to another host, an
    /// endless body.
    Untrusted,
    /// The registry is rate limiting us (429), and all retries are used up.
    Limited,
    /// Unreachable, or failing (5xx, timeouts) after all retries.
    Unavailable,
    /// Content that larder does not copy (Docker schema 1).
    Unsupported,
    /// The local disk is full.
    DiskFull,
    /// Any other local input or output failure, or an entry that cannot be acted on (list, rules, configuration).
    Local,
    /// The run was interrupted.
    Cancelled,
    /// Nothing is wrong, but it must wait longer than this run does: a spent pull window, a long `Retry-After`. See
    /// [`Error::until`](super::Error::until).
    Deferred,
}

/// A time in which a host answers no request. All errors that it causes share it.
#[derive(Debug, Clone, Default)]
pub struct Outage(Arc<AtomicBool>);

impl Outage {
    /// The host has answered.
    pub fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    /// Whether the host has answered since.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
