//! What an image holds while it is pulled: a lease on the pulls of its graph, and a flight for each of them under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::account::{Deferred, PullRequest, WaitMode};
use super::budget::PullOutcome;
use super::gate::Gate;
use super::headers::Quota;

use crate::mutex::{Mutex, MutexGuard};

/// The pulls of one image. What was not spent goes back when it is dropped: drop it as soon as all manifests are read.
#[derive(Clone)]
pub struct Lease(Arc<LeaseInner>);

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("account", self.0.gate.account()).field("granted", &self.granted()).finish()
    }
}

struct LeaseInner {
    gate: Arc<Gate>,
    priority: i64,
    mode: WaitMode,
    held: Mutex<LeasedPulls>,
    /// One of an image's requests asks for more, for all of them.
    more: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct LeasedPulls {
    /// Granted and not sent.
    granted: u64,
    /// Wanted and not granted: of a graph larger than a window, or taken away because others spent it.
    owed: u64,
}

impl Lease {
    /// Waits until the budget of the account covers the pulls, in the order of `limits::order`. Hold no permit, lock or slot meanwhile.
    ///
    /// # Errors
    /// Why the account does not cover them, and until when, if `mode` does not let us wait that long.
    pub async fn acquire(gate: &Arc<Gate>, pulls: PullRequest, mode: WaitMode) -> Result<Lease, Deferred> {
        Self::begin(gate, pulls, mode, mode).await
    }

    /// As [`Lease::acquire`], but does not wait for the first grant beyond the present window. What the lease asks for later is waited for
    /// as `mode` says.
    ///
    /// # Errors
    /// As [`Lease::acquire`].
    pub async fn acquire_now(gate: &Arc<Gate>, pulls: PullRequest, mode: WaitMode) -> Result<Lease, Deferred> {
        Self::begin(gate, pulls, WaitMode::Defer, mode).await
    }

    async fn begin(gate: &Arc<Gate>, claim: PullRequest, first: WaitMode, mode: WaitMode) -> Result<Lease, Deferred> {
        let inner = LeaseInner {
            gate: Arc::clone(gate),
            priority: claim.priority,
            mode,
            held: Mutex::default(),
            more: tokio::sync::Mutex::new(()),
        };
        inner.take_more(claim.pulls, false, first).await?;
        Ok(Lease(Arc::new(inner)))
    }

    /// Pulls granted and not sent yet.
    pub fn granted(&self) -> u64 {
        self.0.lock().granted
    }

    /// Gives back what is granted and not sent beyond `most`: the graph turned out to be smaller than was claimed.
    pub fn trim(&self, most: u64) {
        let surplus = {
            let mut held = self.0.lock();
            held.owed = held.owed.min(most.saturating_sub(held.granted));
            let surplus = held.granted.saturating_sub(most);
            held.granted -= surplus;
            surplus
        };
        if surplus > 0 {
            self.0.gate.refund(surplus);
        }
    }

    /// Takes one pull: call it right before a manifest GET is sent. Usually it is there; if the graph is larger than a
    /// window, larger than was claimed, or if others spent what was granted, it is waited for, before all images that have
    /// not begun, and for as long as the lease's mode says. A GET that was refused takes another pull to be tried again.
    pub async fn spend(&self) -> Result<InFlightPull, Deferred> {
        loop {
            if let Some(flight) = self.send() {
                return Ok(flight);
            }
            let _turn = self.0.more.lock().await;
            let owed = {
                let held = self.0.lock();
                if held.granted > 0 {
                    continue;
                }
                held.owed.max(1)
            };
            self.0.take_more(owed, true, self.0.mode).await?;
        }
    }

    fn send(&self) -> Option<InFlightPull> {
        let lost = {
            let mut held = self.0.lock();
            let now = Instant::now();
            if held.granted == 0 {
                return None;
            }
            if self.0.gate.send(now) {
                held.granted -= 1;
                return Some(InFlightPull { lease: Some(Arc::clone(&self.0)), sent: now });
            }
            let lost = std::mem::take(&mut held.granted);
            held.owed += lost;
            lost
        };
        self.0.gate.refund(lost);
        None
    }
}

impl LeaseInner {
    fn lock(&self) -> MutexGuard<'_, LeasedPulls> {
        self.held.lock()
    }

    async fn take_more(&self, pulls: u64, continuing: bool, mode: WaitMode) -> Result<(), Deferred> {
        let hold = self.gate.hold(PullRequest { pulls, priority: self.priority }, continuing, mode).await?;
        let granted = hold.keep();
        let mut held = self.lock();
        held.granted += granted;
        held.owed = pulls - granted;
        Ok(())
    }
}

impl Drop for LeaseInner {
    fn drop(&mut self) {
        let granted = std::mem::take(&mut self.lock().granted);
        if granted > 0 {
            self.gate.refund(granted);
        }
    }
}

/// A manifest GET under way. Say how it ended; one that is dropped may have been counted or not.
#[must_use = "say how the pull ended"]
pub struct InFlightPull {
    lease: Option<Arc<LeaseInner>>,
    sent: Instant,
}

impl InFlightPull {
    /// Answered with 200 by the registry itself, with these headers.
    pub fn answered(mut self, quota: &Quota) {
        self.over(PullOutcome::Answered(quota));
    }

    /// Refused because the window is spent: nothing was counted.
    pub fn refused(mut self, retry_after: Option<Duration>) {
        self.over(PullOutcome::Refused(retry_after));
    }

    /// Whether its request may still leave. False: another one was refused since the pull was taken, because the window is spent.
    pub fn may_leave(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.gate.may_leave(self.sent))
    }

    /// Its request never left: the pull is the image's again.
    pub fn unsent(mut self) {
        let Some(lease) = self.lease.take() else { return };
        let mut held = lease.lock();
        lease.gate.unsend();
        held.granted += 1;
    }

    /// A cache answered it from its own content: the upstream was not asked, and the pull goes back to the account.
    pub fn free(mut self) {
        let Some(lease) = self.lease.take() else { return };
        lease.gate.unsend();
        lease.gate.refund(1);
    }

    /// When it was sent.
    pub fn sent(&self) -> Instant {
        self.sent
    }

    fn over(&mut self, outcome: PullOutcome<'_>) {
        let Some(lease) = self.lease.take() else { return };
        lease.gate.settle(outcome, self.sent);
        if matches!(outcome, PullOutcome::Refused(_)) {
            // It still has to be read.
            lease.lock().owed += 1;
        }
    }
}

impl Drop for InFlightPull {
    fn drop(&mut self) {
        self.over(PullOutcome::Unheard);
    }
}
