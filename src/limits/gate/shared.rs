//! The gate's side of the ledger: what processes on one account tell each other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::state::{Entering, Gate, GateState, GrantedPulls, LedgerRefusal};
use crate::limits::ledger::{Answer, Decision, Failure, LeaseRequest, LeaseSettlement, Party};
use crate::mutex::MutexGuard;

/// How soon the ledger is asked again for what another process holds: its images take seconds.
const IN_USE_AGAIN: Duration = Duration::from_secs(1);
/// How soon it is asked again about a spent window: another process may learn that it opened early.
const SPENT_AGAIN: Duration = Duration::from_secs(5 * 60);
/// How soon it is tried again if it could not be written: disks are freed by people, and a lock may be held by a stopped process.
const FAILED_AGAIN: Duration = Duration::from_secs(30);
/// How long pulls that are over may go untold: other processes wait for what comes back, and the next reservation tells it anyway.
const TELL_AFTER: Duration = Duration::from_millis(100);
/// The same while there are pulls reserved ahead, and so plenty left for all. It is also how long such pulls are kept unused.
const TELL_LATER: Duration = Duration::from_secs(1);
/// Of a short window it is this part: what is told when the next window has begun is counted there.
const TELL_PART: u32 = 60;

impl Gate {
    /// Writes granted pulls into the ledger, before any of them is sent. `None`: other processes have them, or they could not be
    /// written; what is to be done is in the state's [`LedgerRefusal`].
    pub(super) async fn enter(&self, mut hold: GrantedPulls) -> Option<GrantedPulls> {
        let (Some(ledger), Some(me)) = (&self.ledger, self.me.upgrade()) else {
            self.confirm(&mut self.lock(), &mut hold);
            return Some(hold);
        };
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.budget.is_unlimited() {
                // What is not counted needs no lease.
                self.confirm(&mut state, &mut hold);
                return Some(hold);
            }
            if self.take_ahead(&mut state, &mut hold) {
                return Some(hold);
            }
            state.entering.push(Entering { hold, tell });
        }
        ledger.exchange(me);
        // If the runtime is shutting down, there is no answer, and nothing may be sent.
        told.await.ok().flatten()
    }

    /// From now on the ledger, where there is one, knows of these pulls.
    fn confirm(&self, state: &mut GateState, hold: &mut GrantedPulls) {
        state.unconfirmed = state.unconfirmed.saturating_sub(hold.pulls);
        hold.confirmed = true;
    }

    /// Covers a grant by pulls that are reserved ahead. False: there are not enough.
    fn take_ahead(&self, state: &mut GateState, hold: &mut GrantedPulls) -> bool {
        let covered = hold.pulls <= state.ahead;
        if covered {
            state.ahead -= hold.pulls;
            state.ahead_used = true;
            self.confirm(state, hold);
        }
        covered
    }

    /// Schedules a report to the ledger of the pulls that ended.
    pub(super) fn tell_soon(&self, state: &mut GateState) {
        let failing = state.refusal.as_ref().is_some_and(|refusal| refusal.failure.is_some());
        if self.ledger.is_none() || failing || !self.is_untold(state) {
            return;
        }
        let plenty = state.ahead > 0 && !state.news;
        let length = state.budget.window_length().filter(|_| plenty).unwrap_or_default();
        let at = Instant::now() + (length / TELL_PART).clamp(TELL_AFTER, TELL_LATER);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if state.tell_at.is_some_and(|known| known <= at) {
            return;
        }
        state.tell_at = Some(at);
        let me = self.me.clone();
        runtime.spawn(async move {
            tokio::time::sleep_until(at).await;
            let Some(gate) = me.upgrade() else { return };
            {
                let mut state = gate.lock();
                if state.tell_at != Some(at) {
                    return;
                }
                state.tell_at = None;
                state.tell_due = true;
            }
            if let Some(ledger) = &gate.ledger {
                ledger.exchange(Arc::clone(&gate) as _);
            }
        });
    }

    /// Tells the ledger what is over, now. It may block: not for a thread of the runtime.
    pub(in crate::limits) fn tell_now(&self) {
        let ask = {
            let mut state = self.lock();
            let untold = self.is_untold(&state);
            state.ahead = 0;
            if untold { self.question(&state, vec![], 0) } else { None }
        };
        if let (Some(ledger), Some(ask)) = (&self.ledger, ask)
            && ledger.failure().is_none()
        {
            ledger.settle(&ask);
            let mut state = self.lock();
            state.written = ask.held;
            state.news = false;
            state.unreported.heard = state.unreported.heard.saturating_sub(ask.settled.heard);
            state.unreported.unconfirmed = state.unreported.unconfirmed.saturating_sub(ask.settled.unconfirmed);
        }
    }

    /// What the ledger knows of this run is not what is true now.
    fn is_untold(&self, state: &GateState) -> bool {
        state.news || state.unreported != LeaseSettlement::default() || state.ahead > 0 || state.written != state.held()
    }

    fn question(&self, state: &GateState, wants: Vec<u64>, ahead: u64) -> Option<LeaseRequest> {
        let window = self.window(state);
        if state.budget.is_unlimited() && wants.is_empty() && state.written == 0 {
            return None;
        }
        let configured = state.budget.configured();
        Some(LeaseRequest {
            account: self.account.clone(),
            window,
            held: if state.budget.is_unlimited() { 0 } else { state.held() },
            settled: state.unreported,
            wants,
            ahead,
            limit: configured.and_then(|pulls| pulls.limit),
            reserve: configured.map_or(0, |pulls| pulls.reserve),
            now: self.clock.now(),
        })
    }

    /// What the ledger has decided: the grants that it wrote down are told to those who asked, the others are given back.
    fn decided(&self, mut state: MutexGuard<'_, GateState>, answer: &Answer) {
        let now = Instant::now();
        let (window, closes) = (answer.window.map(|at| self.clock.steady(at)), answer.window.closes);
        let untold = state.unreported.unconfirmed;
        state.budget.learn(&window, untold, now);
        let entered = std::mem::take(&mut state.deciding);
        let mut granted = 0;
        let outcomes: Vec<(Entering, bool)> = entered
            .into_iter()
            .zip(&answer.decisions)
            .map(|(mut entering, decision)| {
                let closes = closes.map(|at| self.clock.steady(at));
                let again = now + if *decision == Decision::InUse { IN_USE_AGAIN } else { SPENT_AGAIN };
                let again = closes.map_or(again, |closes| again.min(closes.max(now + Duration::from_millis(1))));
                match decision {
                    Decision::Granted => {
                        granted += entering.hold.pulls;
                        self.confirm(&mut state, &mut entering.hold);
                        if state.refusal.as_ref().is_some_and(|refusal| refusal.asking) {
                            state.refusal = None;
                        }
                    }
                    // The budget knows this itself by now.
                    Decision::Spent if state.budget.room_if_all_came_back().grant(entering.hold.pulls).is_none() => {}
                    Decision::InUse | Decision::Spent => {
                        let in_use = *decision == Decision::InUse;
                        state.refusal = Some(LedgerRefusal { again, in_use, closes, asking: false, failure: None });
                    }
                }
                (entering, *decision == Decision::Granted)
            })
            .collect();
        state.written += granted + answer.ahead;
        state.ahead = answer.ahead;
        let covered = self.cover_entering(&mut state);
        self.tell_soon(&mut state);
        self.dispatch(&mut state, now);
        drop(state);
        covered.into_iter().for_each(|Entering { hold, tell }| drop(tell.send(Some(hold))));
        for (Entering { hold, tell }, granted) in outcomes {
            // Dropping the grant gives it back, also if the task is gone.
            let _ = tell.send(granted.then_some(hold));
        }
    }

    /// Takes out those on their way into the ledger for whom enough is reserved ahead.
    fn cover_entering(&self, state: &mut GateState) -> Vec<Entering> {
        let mut covered = Vec::new();
        for mut entering in std::mem::take(&mut state.entering) {
            if self.take_ahead(state, &mut entering.hold) {
                covered.push(entering);
            } else {
                state.entering.push(entering);
            }
        }
        covered
    }

    fn failed(&self, mut state: MutexGuard<'_, GateState>, failure: Failure) {
        let now = Instant::now();
        let entered: Vec<_> = std::mem::take(&mut state.deciding).into_iter().chain(std::mem::take(&mut state.entering)).collect();
        if !entered.is_empty() {
            let again = now + FAILED_AGAIN;
            state.refusal = Some(LedgerRefusal { again, in_use: false, closes: None, asking: false, failure: Some(failure) });
        }
        drop(state);
        entered.into_iter().for_each(|Entering { tell, .. }| drop(tell.send(None)));
        self.dispatch(&mut self.lock(), now);
    }
}

impl Party for Gate {
    fn has_request(&self) -> bool {
        let state = self.lock();
        !state.entering.is_empty() || (state.tell_due && self.is_untold(&state))
    }

    fn ask(&self) -> Option<LeaseRequest> {
        let mut state = self.lock();
        if state.budget.is_unlimited() {
            let mut free = std::mem::take(&mut state.entering);
            free.iter_mut().for_each(|entering| self.confirm(&mut state, &mut entering.hold));
            drop(state);
            free.into_iter().for_each(|Entering { hold, tell }| drop(tell.send(Some(hold))));
            state = self.lock();
        }
        state.deciding = std::mem::take(&mut state.entering);
        let wants: Vec<u64> = state.deciding.iter().map(|entering| entering.hold.pulls).collect();
        let (due, used) = (std::mem::take(&mut state.tell_due), std::mem::take(&mut state.ahead_used));
        if wants.is_empty() && !(due && self.is_untold(&state)) {
            return None;
        }
        // A run that has spent much will spend more: so the reservations of a long run are few, and those of a short one small.
        let spent = state.budget.spent().saturating_add(wants.iter().sum());
        let ahead = if used || !wants.is_empty() { spent } else { 0 };
        let ask = self.question(&state, wants, ahead)?;
        // Told by this; it comes back if it could not be.
        state.unreported = LeaseSettlement::default();
        state.news = false;
        state.written = ask.held;
        // What is reserved ahead is given back by this, and reserved anew.
        state.ahead = 0;
        Some(ask)
    }

    fn answered(&self, answer: Result<Answer, (Option<LeaseRequest>, Failure)>) {
        let mut state = self.lock();
        match answer {
            Ok(answer) => self.decided(state, &answer),
            Err((ask, failure)) => {
                if let Some(LeaseRequest { settled, .. }) = ask {
                    state.unreported.heard += settled.heard;
                    state.unreported.unconfirmed += settled.unconfirmed;
                    // It is not known what the file says: all is reported again.
                    state.written = u64::MAX;
                }
                self.failed(state, failure);
            }
        }
    }
}
