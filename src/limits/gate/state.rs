//! What a gate knows: the waiting images, the granted pulls, and what was reported to the ledger.

use std::sync::{Arc, Weak};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::limits::account::{AccountId, Deferred, LimitProbe, WaitMode};
use crate::limits::budget::Budget;
use crate::limits::clock::Clock;
use crate::limits::ledger::{Failure, LeaseSettlement, Ledger};
use crate::limits::order::Queue;
use crate::limits::pause::Stopwatch;
use crate::mutex::Mutex;

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("account", &self.account).finish_non_exhaustive()
    }
}

/// The gate of one account.
pub struct Gate {
    pub(super) me: Weak<Gate>,
    pub(super) account: AccountId,
    pub(super) clock: Clock,
    pub(super) probe: Option<Arc<dyn LimitProbe>>,
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) state: Mutex<GateState>,
    /// Its holder keeps the time for all waiters.
    pub(super) timekeeper: tokio::sync::Mutex<()>,
    /// The next event has come nearer.
    pub(super) changed: Notify,
}

pub(super) struct GateState {
    pub(super) budget: Budget,
    pub(super) queue: Queue<Waiter>,
    /// The ledger said no.
    pub(super) refusal: Option<LedgerRefusal>,
    /// The earliest deadline of the waiting images.
    pub(super) deadline: Option<Instant>,
    /// What the timekeeper sleeps for.
    pub(super) next: Option<Instant>,
    /// A look is under way.
    pub(super) looking: bool,
    /// Granted, and not written into the ledger yet.
    pub(super) unconfirmed: u64,
    /// Those on their way there, and those that are being decided about.
    pub(super) entering: Vec<Entering>,
    pub(super) deciding: Vec<Entering>,
    /// Pulls that are over, and of which the ledger does not know yet.
    pub(super) unreported: LeaseSettlement,
    /// The window was found to be spent, which the ledger does not know yet.
    pub(super) news: bool,
    /// The pulls that the ledger takes us to hold.
    pub(super) written: u64,
    /// Pulls reserved in the ledger for images to come; counted in `written`.
    pub(super) ahead: u64,
    /// Some of them were used since the ledger was last written.
    pub(super) ahead_used: bool,
    /// When the next report to the ledger is due.
    pub(super) tell_at: Option<Instant>,
    /// That time has come.
    pub(super) tell_due: bool,
    pub(super) waited: Stopwatch,
}

pub(super) struct Waiter {
    pub(super) mode: WaitMode,
    pub(super) tell: oneshot::Sender<Result<GrantedPulls, Deferred>>,
}

impl Waiter {
    pub(super) fn is_late(&self, now: Instant) -> bool {
        matches!(self.mode, WaitMode::WaitUntil(deadline) if deadline <= now)
    }
}

impl GateState {
    /// Granted, written into the ledger, and not over.
    pub(super) fn held(&self) -> u64 {
        self.budget.outstanding().saturating_sub(self.unconfirmed)
    }

    /// Everything that was granted may still be given back before the ledger knew of it.
    pub(super) fn give_back(&mut self, hold: &mut GrantedPulls) {
        self.budget.refund(hold.pulls);
        if !hold.confirmed {
            self.unconfirmed = self.unconfirmed.saturating_sub(hold.pulls);
        }
        hold.gate = None;
    }
}

/// Other processes have what is left, or the ledger cannot be used. When the time has come to ask it again, one waiter asks for all.
pub(super) struct LedgerRefusal {
    /// When the ledger is worth asking again.
    pub(super) again: Instant,
    /// It may come back before the window ends.
    pub(super) in_use: bool,
    pub(super) closes: Option<Instant>,
    /// An image is asking.
    pub(super) asking: bool,
    /// The ledger cannot be used.
    pub(super) failure: Option<Failure>,
}

impl LedgerRefusal {
    /// Waiting is of no use.
    pub(super) fn is_final(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.permanent)
    }
}

/// Pulls granted; given back when dropped, unless kept.
pub(in crate::limits) struct GrantedPulls {
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) pulls: u64,
    /// The ledger knows of them.
    pub(super) confirmed: bool,
}

impl GrantedPulls {
    /// The caller gives them back from now on.
    pub(in crate::limits) fn keep(mut self) -> u64 {
        self.gate = None;
        self.pulls
    }
}

impl Drop for GrantedPulls {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            let mut state = gate.lock();
            state.give_back(self);
            gate.returned(state);
        }
    }
}

/// A grant on its way into the ledger.
pub(super) struct Entering {
    pub(super) hold: GrantedPulls,
    pub(super) tell: oneshot::Sender<Option<GrantedPulls>>,
}
