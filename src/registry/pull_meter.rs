//! Pulls, as an upstream counts them: the gate that manifest GETs pass, and one reserved pull.

use std::sync::Arc;

use reqwest::header::HeaderMap;
use tokio::time::Instant;
use url::Url;

use crate::content::Repository;
use crate::limits::{Gate, InFlightPull, Quota};
use crate::mutex::Mutex;

/// The pulls of one account at one upstream.
#[derive(Clone)]
pub(crate) struct PullMeter {
    pub(crate) gate: Arc<Gate>,
    seen: Arc<SeenManifest>,
}

/// The manifest that was last asked for by HEAD with success: it can be asked for again to learn what is left.
pub(super) type SeenManifest = Mutex<Option<(Repository, Url)>>;

impl PullMeter {
    /// A meter whose pulls pass `gate`; `seen` is where it notes manifests that a probe can ask for.
    pub(super) fn new(gate: Arc<Gate>, seen: Arc<SeenManifest>) -> Self {
        PullMeter { gate, seen }
    }

    /// A HEAD of the manifest at `url`, sent at `sent`, was answered with `quota`.
    pub(crate) fn learn(&self, repository: &Repository, url: &Url, quota: &Quota, sent: Instant) {
        *self.seen.lock() = Some((repository.clone(), url.clone()));
        self.gate.observe(quota, sent);
    }
}

/// One reserved pull. If it is dropped before its request leaves, it is given back.
pub(crate) struct MeteredPull {
    flight: Option<InFlightPull>,
    left: bool,
}

impl MeteredPull {
    pub(super) fn new(pull: InFlightPull) -> Self {
        MeteredPull { flight: Some(pull), left: false }
    }

    /// The pull, for its outcome to be reported.
    pub(super) fn take(mut self) -> Option<InFlightPull> {
        self.flight.take()
    }

    /// Marks its request as sent. False: it must not be sent, because the window was found to be spent while it waited for its
    /// permit.
    pub(super) fn leaves(&mut self) -> bool {
        self.left = self.left || self.flight.as_ref().is_none_or(InFlightPull::may_leave);
        self.left
    }
}

impl Drop for MeteredPull {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take().filter(|_| !self.left) {
            flight.unsent();
        }
    }
}

/// What an answer's headers say about pulls.
pub(super) fn quota(headers: &HeaderMap) -> Quota {
    Quota::read(|name| headers.get(name).and_then(|value| value.to_str().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{AccountId, Accounts, Clock, Lease, PullLimit, PullRequest, WaitMode};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_pull_whose_request_never_left_is_the_images_again() {
        let accounts = Accounts::new(Clock::start(jiff::Timestamp::UNIX_EPOCH), None);
        let id = AccountId { host: "docker.io".to_owned(), name: "hub".to_owned() };
        let pulls = PullLimit { limit: Some(5), window: Duration::from_secs(60), reserve: 0 };
        let gate = accounts.gate(&id, Some(pulls), None);
        let lease = Lease::acquire(&gate, PullRequest { pulls: 2, priority: 0 }, WaitMode::Defer).await.unwrap();
        let pull = MeteredPull::new(lease.spend().await.ok().unwrap());
        assert_eq!((lease.granted(), gate.standing().remaining), (1, Some(4)));
        drop(pull);
        assert_eq!((lease.granted(), gate.standing().remaining, gate.standing().spent), (2, Some(5), 0));
        let mut pull = MeteredPull::new(lease.spend().await.ok().unwrap());
        assert!(pull.leaves());
        drop(pull);
        drop(lease);
        assert_eq!((gate.standing().remaining, gate.standing().spent), (Some(4), 1));
    }
}
