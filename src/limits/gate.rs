//! The gate that manifest GETs of one account pass: images wait here for their pulls, in order, until the budget covers them.
//!
//! Waiting costs nothing and holds nothing. There is no background task: one of the waiting tasks keeps the time (the end of
//! the window, the next look by HEAD) for all.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::account::{AccountId, AccountStatus, Deferred, LimitProbe, PullRequest, WaitMode};
use super::budget::{Budget, PullLimit, PullOutcome, ReserveResult};
use super::clock::Clock;
use super::headers::Quota;
use super::ledger::{LeaseSettlement, Ledger};
use super::order::{Queue, QueuedPulls};
use super::pause::Stopwatch;
use super::window::Window;

mod shared;
mod state;

pub use state::Gate;
pub(super) use state::GrantedPulls;
use state::{GateState, LedgerRefusal, Waiter};

use crate::mutex::{Mutex, MutexGuard};

impl Gate {
    pub(super) fn open(
        account: AccountId,
        configured: Option<PullLimit>,
        probe: Option<Arc<dyn LimitProbe>>,
        clock: Clock,
        ledger: Option<Arc<Ledger>>,
    ) -> Arc<Self> {
        let mut budget = Budget::new(configured);
        if let Some(window) = ledger.as_ref().and_then(|ledger| ledger.recall(&account, clock.now())) {
            budget.recall(window.map(|at| clock.steady(at)), Instant::now());
        }
        let state = GateState {
            budget,
            queue: Queue::default(),
            refusal: None,
            deadline: None,
            next: None,
            looking: false,
            unconfirmed: 0,
            entering: Vec::new(),
            deciding: Vec::new(),
            unreported: LeaseSettlement::default(),
            news: false,
            written: 0,
            ahead: 0,
            ahead_used: false,
            tell_at: None,
            tell_due: false,
            waited: Stopwatch::default(),
        };
        Arc::new_cyclic(|me| Gate {
            me: Weak::clone(me),
            account,
            clock,
            probe,
            ledger,
            state: Mutex::new(state),
            timekeeper: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        })
    }

    /// Whose it is.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// Takes in the headers of an answer that cost nothing: a HEAD (200) sent at `sent`.
    pub fn observe(&self, quota: &Quota, sent: Instant) {
        let mut state = self.lock();
        let now = Instant::now();
        if state.budget.observe(quota, sent, now) && state.refusal.as_ref().is_some_and(|refusal| refusal.failure.is_none()) {
            // What the ledger said may be outdated.
            state.refusal = None;
        }
        self.dispatch(&mut state, now);
    }

    /// Takes in a refusal for a spent window (to a HEAD sent at `sent`, say) that no [`super::InFlightPull`] stands for.
    pub fn refused(&self, sent: Instant, retry_after: Option<Duration>) {
        let mut state = self.lock();
        let now = Instant::now();
        state.budget.closed(sent, now, retry_after);
        state.news = true;
        self.tell_soon(&mut state);
        self.dispatch(&mut state, now);
    }

    /// Looks at the account by HEAD, if there is a way to: what `larder limits` and `plan` need, spending nothing. False: no
    /// answer.
    pub async fn look(&self) -> bool {
        let Some(probe) = &self.probe else { return false };
        let sent = Instant::now();
        let quota = probe.look().await;
        if let Some(quota) = &quota {
            self.observe(quota, sent);
        }
        quota.is_some()
    }

    /// The ledger cannot be written, waiting does not help, and an image wanted pulls.
    pub fn is_blocked(&self) -> bool {
        self.lock().refusal.as_ref().is_some_and(LedgerRefusal::is_final)
    }

    /// What is known.
    pub fn standing(&self) -> AccountStatus {
        let mut state = self.lock();
        let now = Instant::now();
        state.budget.roll(now);
        let budget = &state.budget;
        AccountStatus {
            spent: budget.spent(),
            refused: budget.refused(),
            limit: budget.limit(),
            remaining: budget.limit().and(budget.remaining()),
            told: budget.limit().and(budget.told()),
            window: budget.window_length(),
            source: budget.source().map(str::to_owned),
            closes: budget.closes().map(|at| self.clock.wall(at)),
            unlimited: budget.is_unlimited(),
            waited: state.waited.total(now),
            waiting: state.queue.len(),
            waiting_for_window: if budget.outstanding() > 0 {
                0
            } else {
                state.queue.count(|job| matches!(job.who.mode, WaitMode::WaitUntil(_)))
            },
        }
    }

    /// How often its ledger was written.
    #[cfg(test)]
    pub(super) fn ledger_writes(&self) -> u64 {
        self.ledger.as_ref().map_or(0, |ledger| ledger.writes())
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock()
    }

    /// Gives back reserved pulls.
    pub(super) fn refund(&self, pulls: u64) {
        let mut state = self.lock();
        state.budget.refund(pulls);
        self.returned(state);
    }

    /// Pulls came back.
    fn returned(&self, mut state: MutexGuard<'_, GateState>) {
        if let Some(refusal) = &mut state.refusal {
            // The task that was asking may be gone.
            refusal.asking = false;
        }
        self.tell_soon(&mut state);
        self.dispatch(&mut state, Instant::now());
    }

    /// One reserved pull leaves now; false: it may not, others have spent it.
    pub(super) fn send(&self, now: Instant) -> bool {
        self.lock().budget.send(now)
    }

    /// Whether a pull that was taken at `taken` may still leave: see [`Budget::may_leave`].
    pub(super) fn may_leave(&self, taken: Instant) -> bool {
        self.lock().budget.may_leave(taken)
    }

    /// A pull did not leave after all: it is reserved again.
    pub(super) fn unsend(&self) {
        self.lock().budget.unsend();
    }

    /// A pull sent at `sent` is over.
    pub(super) fn settle(&self, outcome: PullOutcome<'_>, sent: Instant) {
        let mut state = self.lock();
        let now = Instant::now();
        let heard = state.budget.settle(outcome, sent, now);
        match outcome {
            PullOutcome::Refused(_) => state.news = true,
            // Pulls that are not counted need not be reported.
            _ if state.budget.is_unlimited() => {}
            PullOutcome::Answered(_) | PullOutcome::Unheard if heard => state.unreported.heard += 1,
            PullOutcome::Answered(_) | PullOutcome::Unheard => state.unreported.unconfirmed += 1,
        }
        if let Some(refusal) = state.refusal.as_mut().filter(|refusal| refusal.in_use) {
            // It may have been this one that stood in the way: until its answer, a pull in flight may be counted twice.
            refusal.again = now;
        }
        self.tell_soon(&mut state);
        self.dispatch(&mut state, now);
    }

    /// Waits for `claim`, here and then in the ledger.
    pub(super) async fn hold(&self, claim: PullRequest, continuing: bool, mode: WaitMode) -> Result<GrantedPulls, Deferred> {
        loop {
            let hold = self.wait(claim, continuing, mode).await?;
            if let Some(hold) = self.enter(hold).await {
                return Ok(hold);
            }
        }
    }

    async fn wait(&self, claim: PullRequest, continuing: bool, mode: WaitMode) -> Result<GrantedPulls, Deferred> {
        let (tell, mut told) = oneshot::channel();
        {
            let mut state = self.lock();
            if let WaitMode::WaitUntil(deadline) = mode {
                state.deadline = Some(state.deadline.map_or(deadline, |known| known.min(deadline)));
            }
            state.queue.push(QueuedPulls { priority: claim.priority, pulls: claim.pulls, continuing, who: Waiter { mode, tell } });
            self.dispatch(&mut state, Instant::now());
        }
        if let Ok(answer) = told.try_recv() {
            return answer;
        }
        let _waiting = WaitingGuard::start(self);
        let answer = tokio::select! {
            biased;
            answer = &mut told => answer,
            turn = self.timekeeper.lock() => {
                let answer = tokio::select! {
                    biased;
                    answer = &mut told => answer,
                    never = self.keep_time() => match never {},
                };
                drop(turn);
                answer
            }
        };
        // The queue answers all before it goes; a lost answer is still no reason to panic.
        answer.unwrap_or_else(|_| Err(Deferred { reason: format!("{}: the run has ended", self.account), until: None }))
    }

    /// Sleeps from event to event, for all waiting tasks, until dropped.
    async fn keep_time(&self) -> std::convert::Infallible {
        loop {
            let next = self.lock().next;
            let event = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = event => self.tick().await,
            }
        }
    }

    /// An event is due: the window's end, a deadline, the ledger, or a look.
    async fn tick(&self) {
        let look = {
            let mut state = self.lock();
            let now = Instant::now();
            let due = state.budget.look_due(now).is_some_and(|due| due <= now);
            let look = due && self.probe.is_some() && !state.queue.is_empty();
            if look {
                state.budget.looked(now);
                state.looking = true;
            }
            self.dispatch(&mut state, now);
            look
        };
        if look {
            let _looking = ProbeGuard(self);
            self.look().await;
        }
    }

    /// Grants what may be granted, defers what cannot be waited for, and sets the time of the next event.
    fn dispatch(&self, state: &mut GateState, now: Instant) {
        state.budget.roll(now);
        // Nothing is known, but a HEAD can tell: that comes before the first pull.
        let looks_first = state.budget.is_unknown() && (state.looking || (self.probe.is_some() && state.budget.look_due(now).is_some()));
        // No image starts after its deadline; one that has begun may still go on with what is there.
        if state.deadline.is_some_and(|deadline| deadline <= now) {
            let late = state.queue.extract(0, |job| !job.continuing && job.who.is_late(now));
            self.answer(state, late, now);
        }
        if !looks_first {
            match &mut state.refusal {
                None => self.grant(state, usize::MAX, now),
                Some(refusal) if refusal.again <= now && !refusal.asking => {
                    refusal.asking = true;
                    self.grant(state, 1, now);
                }
                Some(_) => {}
            }
        }
        self.defer(state, now);
        let next = self.next_event(state, now);
        if next.is_some_and(|next| state.next.is_none_or(|known| next < known)) {
            self.changed.notify_one();
        }
        state.next = next;
    }

    /// Grants pulls to at most `most` waiting tasks.
    fn grant(&self, state: &mut GateState, most: usize, now: Instant) {
        let mut granted = 0;
        while granted < most
            && let Some(job) = state.queue.next(state.budget.room_to_choose())
        {
            if job.who.tell.is_closed() {
                continue;
            }
            let ReserveResult::Granted(pulls) = state.budget.reserve(job.pulls, now) else {
                state.queue.push(job);
                break;
            };
            state.unconfirmed += pulls;
            if let Err(Ok(mut unwanted)) = job.who.tell.send(Ok(GrantedPulls { gate: self.me.upgrade(), pulls, confirmed: false })) {
                // Its drop would lock what is locked here.
                state.give_back(&mut unwanted);
                continue;
            }
            granted += 1;
        }
        if granted == 0
            && let Some(refusal) = &mut state.refusal
        {
            refusal.asking = false;
        }
    }

    /// Defers the tasks that would have to wait for a window longer than their mode allows.
    fn defer(&self, state: &mut GateState, now: Instant) {
        let late = state.deadline.is_some_and(|deadline| deadline <= now);
        // A look will soon say whether pulls were counted whose answers did not say so.
        let looks = self.probe.is_some() && (state.looking || state.budget.unheard_look().is_some());
        let hope = if looks { state.budget.room_if_nothing_unheard_was_counted() } else { state.budget.room_if_all_came_back() };
        let elsewhere = state.refusal.as_ref().filter(|refusal| !refusal.in_use && refusal.again > now);
        let (spent_elsewhere, hopeless) = (elsewhere.is_some(), elsewhere.is_some_and(LedgerRefusal::is_final));
        let unknown = state.budget.is_unknown() && !spent_elsewhere;
        let closes = state.budget.closes().filter(|_| state.budget.closes_exactly() && !spent_elsewhere);
        let mut deadline = None;
        let out = state.queue.extract(if late || spent_elsewhere { 0 } else { hope.left }, |job| {
            let hopeful = unknown || (!spent_elsewhere && hope.grant(job.pulls).is_some());
            match job.who.mode {
                _ if hopeless || job.who.is_late(now) || hope.per_window == 0 => true,
                WaitMode::Defer => !hopeful,
                WaitMode::WaitUntil(end) => {
                    deadline = Some(deadline.map_or(end, |known: Instant| known.min(end)));
                    !hopeful && closes.is_some_and(|closes| closes > end)
                }
            }
        });
        if late {
            state.deadline = deadline;
        }
        self.answer(state, out, now);
    }

    fn answer(&self, state: &GateState, deferred: Vec<QueuedPulls<Waiter>>, now: Instant) {
        let elsewhere = state.refusal.as_ref().filter(|refusal| !refusal.in_use);
        let closes = elsewhere.map_or(state.budget.closes(), |refusal| refusal.closes);
        let never = state.budget.room().per_window == 0;
        for job in deferred {
            let reason = self.reason(state, job.pulls, job.who.is_late(now));
            let until = closes.filter(|_| !never).map(|at| self.clock.wall(at));
            // A task that is gone needs no answer.
            let _ = job.who.tell.send(Err(Deferred { reason, until }));
        }
    }

    fn reason(&self, state: &GateState, pulls: u64, deadline_passed: bool) -> String {
        let room = state.budget.room_if_all_came_back();
        let reserve = state.budget.configured().map_or(0, |pulls| pulls.reserve);
        let account = &self.account;
        if let Some(failure) = state.refusal.as_ref().and_then(|refusal| refusal.failure.as_ref()) {
            return format!("{account}: {}", failure.message);
        }
        if room.per_window == 0 {
            return format!("{account}: `pulls.reserve` ({reserve}) leaves nothing of a window");
        }
        let kept = if reserve > 0 { format!(", {reserve} kept for others") } else { String::new() };
        match (deadline_passed, &state.refusal) {
            (true, _) => format!("{account}: the time to wait for pulls is over"),
            (_, Some(_)) => format!("{account}: other processes have taken what is left of the pull window, {pulls} needed"),
            _ if pulls > room.per_window => {
                format!("{account}: needs {pulls} pulls, more than a window has ({}{kept}): it starts in a fresh one", room.per_window)
            }
            _ => format!("{account}: the pull window is spent ({} left, {pulls} needed{kept})", room.left),
        }
    }

    fn next_event(&self, state: &GateState, now: Instant) -> Option<Instant> {
        if state.queue.is_empty() {
            return None;
        }
        let look = state.budget.look_due(now).filter(|_| self.probe.is_some() && !state.looking);
        let again = state.refusal.as_ref().map(|refusal| refusal.again).filter(|again| *again > now);
        [state.budget.closes(), look, again, state.deadline].into_iter().flatten().min()
    }

    /// The window, on the ledger's clock.
    fn window(&self, state: &GateState) -> Option<Window<Timestamp>> {
        state.budget.window().map(|window| window.map(|at| self.clock.wall(at)))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The end of the run, if it was not reported before.
        self.tell_now();
    }
}

struct WaitingGuard<'a>(&'a Gate);

impl<'a> WaitingGuard<'a> {
    fn start(gate: &'a Gate) -> Self {
        gate.lock().waited.enter(Instant::now());
        WaitingGuard(gate)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().waited.leave(Instant::now());
    }
}

struct ProbeGuard<'a>(&'a Gate);

impl Drop for ProbeGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.looking = false;
        self.0.dispatch(&mut state, Instant::now());
    }
}

#[cfg(test)]
mod tests;
