//! One account: its name, what is known of it, and how pulls of it are requested and deferred.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

use super::headers::Quota;

/// Whom an upstream counts: a credential there, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId {
    /// The upstream (`docker.io`); for a cache whose credentials we do not know, `docker.io via contoso.azurecr.io`.
    pub host: String,
    /// The credential set's name, or `anonymous`.
    pub name: String,
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.host, self.name)
    }
}

/// A HEAD that costs no pull and tells what is left.
#[async_trait]
pub trait LimitProbe: Send + Sync {
    /// The headers of the answer (200); `None` if there was none.
    async fn look(&self) -> Option<Quota>;
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullRequest {
    /// Manifest GETs that the whole graph costs; an upper bound where that is not known yet.
    pub pulls: u64,
    /// The image's priority: higher first.
    pub priority: i64,
}

/// How long a spent window is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitMode {
    /// Not at all.
    Defer,
    /// Until then, and nothing starts after it.
    WaitUntil(Instant),
}

/// Not now: for the report's `reason` and `until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferred {
    /// One line.
    pub reason: String,
    /// When the window opens at the latest, where that is known.
    pub until: Option<Timestamp>,
}

/// What is known of an account, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountStatus {
    /// Pulls spent in this run.
    pub spent: u64,
    /// Pulls refused in this run because the window was spent.
    pub refused: u64,
    /// Pulls per window; `None`: unlimited, or unknown.
    pub limit: Option<u64>,
    /// Left in this window.
    pub remaining: Option<u64>,
    /// What the upstream itself has said to be left, in this run.
    pub told: Option<u64>,
    /// Its length.
    pub window: Option<Duration>,
    /// Whom the upstream counts.
    pub source: Option<String>,
    /// When the window ends at the latest; `None`: no pull has opened one.
    pub closes: Option<Timestamp>,
    /// The upstream said that it counts nothing.
    pub unlimited: bool,
    /// How long images waited for pulls (two at a time are counted once).
    pub waited: Duration,
    /// How many wait now, if only for what others may give back.
    pub waiting: usize,
    /// How many wait for a window to open, while nothing else goes on.
    pub waiting_for_window: usize,
}
