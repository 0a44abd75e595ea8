//! The gate's side of the ledger: what processes on one account tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Gate, Refusal};
use crate::limits::ledger::{Ask, Leased, Settled};

/// How soon the ledger is asked again for what another process holds: its images take seconds.
const IN_USE_AGAIN: Duration = Duration::from_secs(1);
/// How soon it is asked again about a spent window: another process may learn that it opened early.
const SPENT_AGAIN: Duration = Duration::from_secs(5 * 60);

impl Gate {
    /// A name for a lease that no other process has, not even one of the same number in another container.
    pub(in crate::limits) fn lease_name(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let began = self.clock.began().as_millisecond();
        format!("{}-{began}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes granted pulls into the ledger. False: other processes have them. A ledger that cannot be used is warned of
    /// and gone without.
    pub(super) async fn enter(&self, lease: &str, pulls: u64) -> bool {
        let Some(ledger) = &self.ledger else { return true };
        // What is not counted needs no lease.
        let (Some(window), configured, outstanding) = ({
            let state = self.lock();
            (self.window(&state), state.budget.configured(), state.budget.outstanding() + state.untold)
        }) else {
            return true;
        };
        let (tell, told) = oneshot::channel();
        let (ledger, account, lease, now) = (Arc::clone(ledger), self.account.clone(), lease.to_owned(), self.clock.now());
        tokio::task::spawn_blocking(move || {
            let (limit, reserve) = (configured.and_then(|pulls| pulls.limit), configured.map_or(0, |pulls| pulls.reserve));
            let ask = Ask { account: &account, lease: &lease, pulls, outstanding, window: window.clone(), limit, reserve };
            let answer = ledger.lease(&ask, now);
            if tell.send(answer).is_err()
                && let Err(error) = ledger.settle(&account, &lease, Settled::default(), &window, now)
            {
                // Whoever asked is gone. The lease ends with its term.
                tracing::debug!("{error}");
            }
        });
        match told.await {
            Ok(Ok(Leased::Granted { window })) => {
                let (mut state, now) = (self.lock(), Instant::now());
                state.budget.merge(&window.map(|at| self.clock.steady(at.0)), now);
                if state.refusal.as_ref().is_some_and(|refusal| refusal.asking) {
                    state.refusal = None;
                }
                self.pump(&mut state, now);
                true
            }
            Ok(Ok(Leased::Denied { in_use, window })) => {
                let (mut state, now) = (self.lock(), Instant::now());
                let window = window.map(|at| self.clock.steady(at.0));
                state.budget.merge(&window, now);
                let again = now + if in_use { IN_USE_AGAIN } else { SPENT_AGAIN };
                let again = window.closes.map_or(again, |closes| again.min(closes.max(now + Duration::from_millis(1))));
                state.refusal = Some(Refusal { again, in_use, closes: window.closes, asking: false });
                false
            }
            Ok(Err(error)) => {
                tracing::warn!("{error}");
                true
            }
            // The runtime is shutting down.
            Err(_) => true,
        }
    }

    /// Settles a lease in the ledger. Short file work, done at once: at the end of a run nothing may be left to a task.
    pub(in crate::limits) fn leave(&self, lease: &str, settled: Settled) {
        let window = self.window(&self.lock());
        if let (Some(ledger), Some(window)) = (&self.ledger, &window)
            && let Err(error) = ledger.settle(&self.account, lease, settled, window, self.clock.now())
        {
            tracing::warn!("{error}");
        }
        let mut state = self.lock();
        state.untold = state.untold.saturating_sub(settled.unheard);
    }
}
