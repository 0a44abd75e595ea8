//! How a run behaves.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::content::{Digest, PlatformFilter};
use crate::copy::Room;
use crate::limits::WaitMode;
use crate::rules::Unmatched;

/// How a run behaves.
#[derive(Debug, Clone, Default)]
pub struct SyncOptions {
    /// What to do with lines that no rule covers.
    pub unmatched: Unmatched,
    /// The platforms to deliver, where the list line does not name its own.
    pub platforms: Vec<PlatformFilter>,
    /// Ask the target for every blob and manifest of every image.
    pub recheck: bool,
    /// Rules with `delivery = "warm"` pull through the target; otherwise they copy into it like the others.
    pub warm: bool,
    /// After warming an image, ask the cache again until it answers from its own storage.
    pub verify_warm: bool,
    /// Requests in flight per registry, if the user said so.
    pub concurrency: Option<usize>,
    /// How long to wait for the next pull window; `None`: not at all.
    pub wait_until: Option<Instant>,
    /// No image starts after this.
    pub start_until: Option<Instant>,
    /// Creation dates that are known beforehand, for selections by date.
    pub dates: KnownDates,
    /// Asked before blobs are read.
    pub room: Option<Arc<dyn Room>>,
}

impl SyncOptions {
    pub(super) fn wait_mode(&self) -> WaitMode {
        self.wait_until.map_or(WaitMode::Defer, WaitMode::WaitUntil)
    }
}

/// Creation dates that are known beforehand, by digest: those in a lock file.
#[derive(Clone, Default)]
pub struct KnownDates(Option<Arc<Lookup>>);

type Lookup = dyn Fn(&str) -> Option<Timestamp> + Send + Sync;

impl KnownDates {
    /// Dates from `lookup`, which takes a digest (`sha256:…`).
    pub fn new(lookup: impl Fn(&str) -> Option<Timestamp> + Send + Sync + 'static) -> Self {
        KnownDates(Some(Arc::new(lookup)))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Timestamp> {
        self.0.as_ref().and_then(|lookup| lookup(digest.as_str()))
    }
}

impl fmt::Debug for KnownDates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "KnownDates(some)" } else { "KnownDates(none)" })
    }
}
