//! Counts the requests that a server answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::http::Method;

use super::route::Route;

use crate::mutex::Mutex;

/// Requests answered so far, by route and status, and bytes of blobs that were sent.
#[derive(Debug, Default)]
pub struct ByteMeter {
    /// By route and status: a handful of routes, a dozen of statuses.
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
    open: AtomicU64,
    turned_away: AtomicU64,
    manifest_heads: AtomicU64,
    manifest_gets: AtomicU64,
    blob_heads: AtomicU64,
    blob_gets: AtomicU64,
    tag_lists: AtomicU64,
    blob_bytes: AtomicU64,
}

/// The values of a [`ByteMeter`] at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// HEAD of a manifest, which resolves a name and does not count as a pull.
    pub manifest_heads: u64,
    /// GET of a manifest: a pull.
    pub manifest_gets: u64,
    /// HEAD of a blob.
    pub blob_heads: u64,
    /// GET of a blob or a part of it.
    pub blob_gets: u64,
    /// Tag lists, or pages of them.
    pub tag_lists: u64,
    /// Bytes of blobs that were handed to the network.
    pub blob_bytes: u64,
}

impl ByteMeter {
    /// The values now.
    pub fn read(&self) -> Traffic {
        Traffic {
            manifest_heads: self.manifest_heads.load(Relaxed),
            manifest_gets: self.manifest_gets.load(Relaxed),
            blob_heads: self.blob_heads.load(Relaxed),
            blob_gets: self.blob_gets.load(Relaxed),
            tag_lists: self.tag_lists.load(Relaxed),
            blob_bytes: self.blob_bytes.load(Relaxed),
        }
    }

    pub(super) fn count(&self, method: &Method, route: &Route) {
        let head = method == Method::HEAD;
        let counter = match route {
            Route::Version | Route::Referrers { .. } | Route::Catalog | Route::Metrics => return,
            Route::Manifest { .. } if head => &self.manifest_heads,
            Route::Manifest { .. } => &self.manifest_gets,
            Route::Blob { .. } if head => &self.blob_heads,
            Route::Blob { .. } => &self.blob_gets,
            Route::Tags { .. } => &self.tag_lists,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn add_bytes(&self, count: usize) {
        self.blob_bytes.fetch_add(count as u64, Relaxed);
    }

    /// Counts a request to `route` that was answered with `status`.
    pub(super) fn answered(&self, route: &'static str, status: u16) {
        *self.answers.lock().entry((route, status)).or_default() += 1;
    }

    /// How often each route was answered with each status.
    pub(super) fn requests(&self) -> BTreeMap<(&'static str, u16), u64> {
        self.answers.lock().clone()
    }

    /// Counts a connection until the returned value is dropped.
    pub(super) fn connected(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// Connections open now.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Counts a connection over the limit.
    pub(super) fn turn_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    /// Connections over the limit so far.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }
}

/// An open connection.
pub(super) struct OpenConnection(Arc<ByteMeter>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Traffic {
    /// The difference to `earlier`, values of the same meter.
    #[must_use]
    pub fn since(self, earlier: Traffic) -> Traffic {
        Traffic {
            manifest_heads: self.manifest_heads.saturating_sub(earlier.manifest_heads),
            manifest_gets: self.manifest_gets.saturating_sub(earlier.manifest_gets),
            blob_heads: self.blob_heads.saturating_sub(earlier.blob_heads),
            blob_gets: self.blob_gets.saturating_sub(earlier.blob_gets),
            tag_lists: self.tag_lists.saturating_sub(earlier.tag_lists),
            blob_bytes: self.blob_bytes.saturating_sub(earlier.blob_bytes),
        }
    }
}
