//! The pull budget of one account: reserve before sending, correct by each answer. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::headers::Quota;
use super::window::{Window, WindowAnswer, WindowReading};

mod looks;
mod room;

use looks::LookTimes;
pub use room::BudgetRoom;

/// Docker Hub's window (docs/registries.md, "Docker Hub"), assumed where an upstream refuses without having named the length of its window.
const USUAL_WINDOW: Duration = Duration::from_secs(6 * 60 * 60);
/// `pulls = { limit = 200, window = "6h", reserve = 20 }` of a `[registry]` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullLimit {
    /// Pulls per window; `None`: only what the upstream says.
    pub limit: Option<u64>,
    /// The window of `limit`, where the upstream does not name its own.
    pub window: Duration,
    /// Pulls of each window that are left to others.
    pub reserve: u64,
}

#[derive(Debug, Clone)]
enum BudgetState {
    /// Nothing was answered, nothing is configured.
    Unknown,
    /// The upstream answers without counting.
    Unlimited,
    Counted(Window<Instant>),
}

/// The pulls of one account, as this process knows them.
#[derive(Debug, Clone)]
pub struct Budget {
    configured: Option<PullLimit>,
    state: BudgetState,
    /// Granted and not sent.
    reserved: u64,
    /// Sent and not answered.
    in_flight: u64,
    /// Pulls were sent in this window.
    touched: bool,
    spent: u64,
    refused: u64,
    window_seen: Option<Duration>,
    /// The window is known from an earlier run, and no answer of this run has confirmed it.
    recalled: bool,
    looks: LookTimes,
    /// When the latest refusal for a spent window arrived.
    closed_at: Option<Instant>,
}

/// The answer to [`Budget::reserve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveResult {
    /// This many pulls may be sent: all that were asked for, or fewer for a graph larger than a window (the rest is asked for when these
    /// are spent).
    Granted(u64),
    /// Not now.
    Wait {
        /// When the next window opens at the latest, if that is known.
        until: Option<Instant>,
        /// Why.
        reason: WaitReason,
    },
}

/// Why a reservation has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// What is left is reserved or in flight; some of it may come back.
    InUse,
    /// The window has fewer left.
    Spent,
    /// More than any window holds: it starts when a window is fresh.
    WouldExceedWindow,
    /// `reserve` leaves nothing of any window.
    NothingLeftByReserve,
}

/// How a pull ended.
#[derive(Debug, Clone, Copy)]
pub enum PullOutcome<'a> {
    /// Answered with 200 by the registry, and with these headers.
    Answered(&'a Quota),
    /// Ended in any other way: it may or may not have been counted.
    Unheard,
    /// Refused because the window is spent: not counted.
    Refused(Option<Duration>),
}

impl Budget {
    /// A budget that is known from the configuration alone.
    pub fn new(configured: Option<PullLimit>) -> Self {
        let state = match configured {
            Some(PullLimit { limit: Some(limit), window, .. }) => BudgetState::Counted(Window::fresh(limit, window, None)),
            _ => BudgetState::Unknown,
        };
        Budget {
            configured,
            state,
            reserved: 0,
            in_flight: 0,
            touched: false,
            spent: 0,
            refused: 0,
            window_seen: None,
            recalled: false,
            looks: LookTimes::default(),
            closed_at: None,
        }
    }

    /// Goes on with what an earlier run knew. What the upstream says from now on counts more.
    pub(super) fn recall(&mut self, window: Window<Instant>, now: Instant) {
        if let BudgetState::Counted(known) = &mut self.state {
            let (unheard, unheard_at, configured) = (window.unconfirmed, window.unheard_at, (known.limit, known.left, known.length));
            if known.merge(&window, now) {
                (known.unconfirmed, known.unheard_at) = (unheard, unheard_at);
            }
            if known.heard.is_none() {
                // The configuration may have changed since.
                (known.limit, known.left, known.length) = configured;
            }
        } else {
            self.state = BudgetState::Counted(window);
        }
        self.recalled = true;
        self.roll(now);
    }

    /// The window, for the ledger.
    pub(super) fn window(&self) -> Option<&Window<Instant>> {
        match &self.state {
            BudgetState::Counted(window) => Some(window),
            BudgetState::Unknown | BudgetState::Unlimited => None,
        }
    }

    /// Merges what all processes together know about the account. `untold` pulls of this process, whose answers did not say whether they
    /// were counted, are not known to the others yet.
    pub(super) fn learn(&mut self, window: &Window<Instant>, untold: u64, now: Instant) {
        match &mut self.state {
            BudgetState::Counted(known) => {
                if known.merge(window, now) && known.heard.is_none() && window.heard.is_none() {
                    known.unconfirmed = window.unconfirmed.saturating_add(untold);
                    known.unheard_at = known.unheard_at.max(window.unheard_at);
                }
            }
            // Another process asked first.
            BudgetState::Unknown if window.limit < u64::MAX || window.heard.is_some() => self.state = BudgetState::Counted(window.clone()),
            BudgetState::Unknown | BudgetState::Unlimited => {}
        }
    }

    /// Asks for `pulls` at once. Never waits; the caller does.
    pub fn reserve(&mut self, pulls: u64, now: Instant) -> ReserveResult {
        self.roll(now);
        let room = self.room();
        if let Some(granted) = self.grant(room, pulls) {
            self.reserved = self.reserved.saturating_add(granted);
            return ReserveResult::Granted(granted);
        }
        let reason = if self.grant(self.room_if_all_came_back(), pulls).is_some() {
            WaitReason::InUse
        } else if room.per_window == 0 {
            WaitReason::NothingLeftByReserve
        } else if pulls > room.per_window {
            WaitReason::WouldExceedWindow
        } else {
            WaitReason::Spent
        };
        ReserveResult::Wait { until: self.closes(), reason }
    }

    /// While nothing is known, one pull at a time: its answer says how many there are.
    fn grant(&self, room: BudgetRoom, pulls: u64) -> Option<u64> {
        match self.state {
            BudgetState::Unknown => (pulls == 0 || room.left > 0).then_some(pulls.min(1)),
            BudgetState::Unlimited | BudgetState::Counted(_) => room.grant(pulls),
        }
    }

    /// Gives back pulls that were granted and will not be sent.
    pub fn refund(&mut self, pulls: u64) {
        self.reserved = self.reserved.saturating_sub(pulls);
    }

    /// Turns one reserved pull into one in flight. False: others have spent the granted pulls. Nothing may be sent then, and the
    /// reservation should be given back.
    ///
    /// Pulls in flight are not subtracted here: they were, when these were reserved. An early answer may count all of them already, and must
    /// not take away pulls that an image still needs. But if fewer are left than are reserved, others have spent some.
    pub fn send(&mut self, now: Instant) -> bool {
        self.roll(now);
        let may = match &self.state {
            BudgetState::Unknown => self.in_flight == 0,
            BudgetState::Unlimited => true,
            BudgetState::Counted(window) => self.usable_of(window, window.left) >= self.reserved,
        };
        if may && self.reserved > 0 {
            self.reserved -= 1;
            self.in_flight += 1;
            self.touched = true;
            return true;
        }
        false
    }

    /// Whether a pull that was taken by [`Self::send`] at `taken`, and has waited for a permit since, may still leave. False: the
    /// upstream has refused another one in between, and would refuse this one too.
    pub(super) fn may_leave(&self, taken: Instant) -> bool {
        let refused_since = self.closed_at.is_some_and(|at| at >= taken);
        !(refused_since && self.window().is_some_and(|window| window.left == 0))
    }

    /// A pull in flight was never sent: it is reserved again.
    pub fn unsend(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.reserved = self.reserved.saturating_add(1);
    }

    /// A pull in flight, sent at `sent`, is over. True: `remaining` counts it. False: that is not known.
    pub fn settle(&mut self, outcome: PullOutcome<'_>, sent: Instant, now: Instant) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            PullOutcome::Refused(retry_after) => {
                self.refused += 1;
                self.closed(sent, now, retry_after);
                return true;
            }
            PullOutcome::Answered(quota) => {
                self.spent += 1;
                if let BudgetState::Counted(window) = &mut self.state {
                    window.roll(now);
                    if quota.remaining.is_some() && window.since.is_none_or(|since| sent >= since) {
                        window.counted(now);
                    }
                }
                if self.observe(quota, sent, now) {
                    return true;
                }
            }
            PullOutcome::Unheard => self.spent += 1,
        }
        if let BudgetState::Counted(window) = &mut self.state {
            window.unconfirmed(1, now);
        }
        false
    }

    /// Reads the headers of an answer (200, to HEAD or GET of a manifest) whose request was sent at `sent`. True if they say how many
    /// pulls are left of this window.
    pub fn observe(&mut self, quota: &Quota, sent: Instant, now: Instant) -> bool {
        self.roll(now);
        self.window_seen = quota.window.or(self.window_seen);
        let Some(remaining) = quota.remaining else {
            if quota.is_absent() && matches!(self.state, BudgetState::Unknown) {
                self.state = BudgetState::Unlimited;
            }
            return false;
        };
        let known = self.window();
        let limit = quota.limit.or(known.map(|window| window.limit)).unwrap_or(remaining).max(remaining);
        let length = quota.window.or(known.map(|window| window.length)).unwrap_or_else(|| self.usual_window());
        let reading = WindowReading {
            limit,
            length,
            left: remaining,
            source: quota.source.clone(),
            heard: WindowAnswer { sent, arrived: now, ours: true },
        };
        // The run before was counted under another address: its window is not ours.
        let moved = std::mem::take(&mut self.recalled)
            && quota.source.is_some()
            && self.source().is_some_and(|known| Some(known) != quota.source.as_deref());
        if moved || !matches!(self.state, BudgetState::Counted(_)) {
            self.state = BudgetState::Counted(Window::fresh(limit, length, None));
        }
        let BudgetState::Counted(window) = &mut self.state else { return false };
        let before = window.since;
        let heard = window.hear(&reading);
        if window.since != before {
            self.touched = false;
        }
        heard
    }

    /// A pull sent at `sent` was refused because the window is spent.
    pub fn closed(&mut self, sent: Instant, now: Instant, retry_after: Option<Duration>) {
        self.roll(now);
        if !matches!(self.state, BudgetState::Counted(_)) {
            // The limit is not known, only that it is reached.
            self.state = BudgetState::Counted(Window::fresh(u64::MAX, self.window_seen.unwrap_or_else(|| self.usual_window()), None));
        }
        if let BudgetState::Counted(window) = &mut self.state
            && window.close(sent, now, retry_after)
        {
            self.closed_at = Some(now);
            self.looks.suggest(retry_after.map(|wait| now + wait));
        }
    }

    fn usual_window(&self) -> Duration {
        self.configured.map_or(USUAL_WINDOW, |pulls| pulls.window)
    }

    /// Ends a window whose time is over.
    pub(super) fn roll(&mut self, now: Instant) {
        if let BudgetState::Counted(window) = &mut self.state
            && window.roll(now)
        {
            self.touched = false;
            self.looks.suggest(None);
        }
    }

    /// The smaller of header and configuration.
    fn effective(&self, window: &Window<Instant>) -> u64 {
        self.configured.and_then(|pulls| pulls.limit).map_or(window.limit, |limit| limit.min(window.limit))
    }

    fn kept_for_others(&self) -> u64 {
        self.configured.map_or(0, |pulls| pulls.reserve)
    }

    /// Pulls left if none were reserved or in flight. A configured limit below the upstream's reduces them by the difference.
    fn usable(&self, window: &Window<Instant>) -> u64 {
        self.usable_of(window, window.left())
    }

    fn usable_of(&self, window: &Window<Instant>, left: u64) -> u64 {
        left.saturating_sub(window.limit - self.effective(window)).saturating_sub(self.kept_for_others())
    }

    fn room_with(&self, outstanding: u64) -> BudgetRoom {
        match &self.state {
            BudgetState::Unknown => BudgetRoom { left: u64::from(outstanding == 0), ..BudgetRoom::UNLIMITED },
            BudgetState::Unlimited => BudgetRoom::UNLIMITED,
            BudgetState::Counted(window) => {
                let (usable, per_window) = (self.usable(window), self.effective(window).saturating_sub(self.kept_for_others()));
                BudgetRoom {
                    left: usable.saturating_sub(outstanding),
                    per_window,
                    fresh: !self.touched && outstanding == 0 && usable >= per_window.div_ceil(2),
                }
            }
        }
    }

    /// The room at the time of the latest call of a method that takes a time.
    pub fn room(&self) -> BudgetRoom {
        self.room_with(self.outstanding())
    }

    /// The room by which the next job is chosen. While nothing is known, any job may be the one whose answer says how much there is.
    pub(super) fn room_to_choose(&self) -> BudgetRoom {
        match self.state {
            BudgetState::Unknown if self.outstanding() == 0 => BudgetRoom::UNLIMITED,
            BudgetState::Unknown => BudgetRoom { left: 0, per_window: u64::MAX, fresh: false },
            BudgetState::Unlimited | BudgetState::Counted(_) => self.room(),
        }
    }

    /// The room if all outstanding pulls came back unspent. A job that does not fit even then has to wait for a window.
    pub(super) fn room_if_all_came_back(&self) -> BudgetRoom {
        self.room_with(0)
    }

    /// The same, if no pull was counted whose answer did not say so.
    pub(super) fn room_if_nothing_unheard_was_counted(&self) -> BudgetRoom {
        match &self.state {
            BudgetState::Counted(window) => {
                let heard = Window { unconfirmed: 0, ..window.clone() };
                Budget { state: BudgetState::Counted(heard), ..self.clone() }.room_with(0)
            }
            BudgetState::Unknown | BudgetState::Unlimited => self.room_with(0),
        }
    }

    /// When to look at a spent window again, by HEAD: now, if nothing is known of the account at all. `None` where a look tells nothing.
    pub fn look_due(&self, now: Instant) -> Option<Instant> {
        match &self.state {
            BudgetState::Unknown => self.looks.is_first().then_some(now),
            BudgetState::Unlimited => None,
            BudgetState::Counted(window) => self.looks.due(window),
        }
    }

    /// When to ask whether unconfirmed pulls were counted. `None`: there are none, or an answer has told since.
    pub(super) fn unheard_look(&self) -> Option<Instant> {
        self.looks.unheard_due(self.window()?)
    }

    /// A look was taken.
    pub fn looked(&mut self, now: Instant) {
        self.looks.taken(now);
    }

    /// When the current window ends at the latest. `None`: unknown, unlimited, or not opened yet.
    pub fn closes(&self) -> Option<Instant> {
        self.window().and_then(|window| window.closes)
    }

    /// [`Self::closes`] is the end and not only a bound.
    pub(super) fn closes_exactly(&self) -> bool {
        self.window().is_some_and(|window| window.exact)
    }

    /// Pulls spent since the beginning of the run.
    pub fn spent(&self) -> u64 {
        self.spent
    }
    /// Pulls refused since the beginning of the run.
    pub fn refused(&self) -> u64 {
        self.refused
    }
    /// Pulls left in this window: the account's, before `reserve` is taken off. `None`: unknown or unlimited.
    pub fn remaining(&self) -> Option<u64> {
        self.window().map(|window| window.left().saturating_sub(window.limit - self.effective(window)).saturating_sub(self.in_flight))
    }
    /// Pulls left, as the upstream's latest answer says. `None`: it has said nothing in this run.
    pub fn told(&self) -> Option<u64> {
        let window = self.window().filter(|window| window.heard.is_some() && !self.recalled)?;
        Some(window.left.saturating_sub(window.limit - self.effective(window)))
    }
    /// Pulls per window. `None`: unknown or unlimited.
    pub fn limit(&self) -> Option<u64> {
        self.window().map(|window| self.effective(window)).filter(|limit| *limit < u64::MAX)
    }
    /// The length of the window.
    pub fn window_length(&self) -> Option<Duration> {
        self.window().map(|window| window.length)
    }
    /// The address or account that the upstream counts.
    pub fn source(&self) -> Option<&str> {
        self.window()?.source.as_deref()
    }
    /// The upstream does not count.
    pub fn is_unlimited(&self) -> bool {
        matches!(self.state, BudgetState::Unlimited)
    }
    /// Nothing is known yet.
    pub fn is_unknown(&self) -> bool {
        matches!(self.state, BudgetState::Unknown)
    }
    /// The configured limits.
    pub(super) fn configured(&self) -> Option<PullLimit> {
        self.configured
    }
    /// Granted, or sent, and not over.
    pub(super) fn outstanding(&self) -> u64 {
        self.reserved.saturating_add(self.in_flight)
    }
}

#[cfg(test)]
mod tests;
