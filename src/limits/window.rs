//! One window of one account: what is known of it, and what an answer changes.
//!
//! An upstream counts pulls in windows of which it says the length, the limit and what remains, never when they began. Answers
//! come out of order. What can be concluded safely is concluded here, once, for both clocks (a run's and the ledger's):
//!
//! - Within a window `remaining` only falls, so the lowest value is the latest, and it counts every pull whose own answer has
//!   been heard. What it may not count is exactly what is still in flight: the caller subtracts that.
//! - A pull that was answered without a number, or not at all, may or may not be counted: it is taken for counted (*unheard*)
//!   until a request sent after it tells.
//! - A higher number is a new window only if its request was sent after the lower number had arrived; otherwise it is late. The lower
//!   number may be another process's, whose clock differs a little: so it must have been sent well after.
//! - A window whose beginning was not seen ends, at the latest, one length after it was first noticed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Moment;

/// What two processes take for the same moment differs by less: both read the machine's clock once, at their start, within a millisecond.
const CLOCKS_DIFFER: Duration = Duration::from_millis(10);

/// What is known of the current window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window<T> {
    /// Pulls per window, as the upstream says; as configured, until it says so.
    pub limit: u64,
    /// How long it lasts.
    #[serde(rename = "window_seconds", with = "seconds")]
    pub length: Duration,
    /// The lowest `remaining` heard in it.
    pub left: u64,
    /// The answer that said so; `None`: `left` is an assumption (a fresh window).
    pub heard: Option<WindowAnswer<T>>,
    /// Whom the upstream counts, if it has ever said so.
    pub source: Option<String>,
    /// Pulls that `left` may not count, though they are over.
    // The name that the ledger's file has.
    #[serde(rename = "unheard")]
    pub unconfirmed: u64,
    /// When the last of them was over.
    pub unheard_at: Option<T>,
    /// When it ends at the latest. `None`: no pull has opened it yet.
    pub closes: Option<T>,
    /// Its opening was seen: `closes` is the end, not a bound for it.
    pub exact: bool,
    /// Answers to requests sent before this may speak of the window before.
    pub since: Option<T>,
}

/// The answer from which [`Window::left`] is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WindowAnswer<T> {
    /// When its request was sent.
    pub sent: T,
    /// When it arrived.
    pub arrived: T,
    /// By the clock of this process; of another one's, and the ledger's, the clock differs a little.
    #[serde(skip)]
    pub ours: bool,
}

/// A number heard from the upstream.
#[derive(Debug, Clone)]
pub(super) struct WindowReading<T> {
    pub limit: u64,
    pub length: Duration,
    pub left: u64,
    pub source: Option<String>,
    pub heard: WindowAnswer<T>,
}

impl<T: Moment> Window<T> {
    /// A window that no pull has opened yet.
    pub(super) fn fresh(limit: u64, length: Duration, since: Option<T>) -> Self {
        let (unheard, unheard_at, closes, exact) = (0, None, None, false);
        Window { limit, length, left: limit, heard: None, source: None, unconfirmed: unheard, unheard_at, closes, exact, since }
    }

    /// The window after this one: the same upstream, nothing spent.
    fn next(&self, since: T) -> Self {
        Window { source: self.source.clone(), ..Window::fresh(self.limit, self.length, Some(since)) }
    }

    /// Ends the window if its time is over. True if it did.
    pub(super) fn roll(&mut self, now: T) -> bool {
        match self.closes {
            Some(closes) if closes <= now => {
                *self = self.next(closes);
                true
            }
            _ => false,
        }
    }

    /// Pulls left if nothing is in flight.
    pub(super) fn left(&self) -> u64 {
        self.left.saturating_sub(self.unconfirmed)
    }

    /// A pull that the upstream counted, or may have counted, is over.
    pub(super) fn counted(&mut self, now: T) {
        if self.closes.is_none() {
            self.closes = Some(now.plus(self.length));
            self.exact = true;
        }
    }

    /// A pull is over, and nothing was said about it.
    pub(super) fn unconfirmed(&mut self, pulls: u64, now: T) {
        if pulls > 0 {
            self.counted(now);
            self.unconfirmed = self.unconfirmed.saturating_add(pulls);
            self.unheard_at = self.unheard_at.max(Some(now));
        }
    }

    /// Takes in what an answer said. False: it may be the window before's, and says nothing about this one.
    pub(super) fn hear(&mut self, reading: &WindowReading<T>) -> bool {
        let WindowAnswer { sent, arrived, ours } = reading.heard;
        self.roll(arrived);
        if self.since.is_some_and(|since| sent < since) {
            return false;
        }
        match self.heard {
            None => self.adopt(reading),
            Some(known) => {
                let differ = if ours && known.ours { Duration::ZERO } else { CLOCKS_DIFFER };
                let later = sent > known.arrived.plus(differ);
                let earlier = known.sent > arrived.plus(differ);
                let stranger = matches!((&self.source, &reading.source), (Some(a), Some(b)) if a != b);
                if stranger {
                    // Two addresses take turns, each with a window of its own: the lower number is safe for both.
                    self.left = self.left.min(reading.left);
                } else if earlier && reading.left < self.left {
                    // It is about the window before, from a process that does not know this one yet.
                    return false;
                } else if reading.left < self.left || (later && reading.limit != self.limit) {
                    // Later by its number; or the account itself has changed.
                    self.adopt(reading);
                } else if reading.left == self.left && sent > known.sent {
                    // The same number, said later: it counts what is over by now.
                    self.heard = Some(reading.heard);
                } else if reading.left > self.left && later {
                    *self = Window { unconfirmed: self.unconfirmed, unheard_at: self.unheard_at, ..self.next(arrived) };
                    self.adopt(reading);
                }
            }
        }
        if self.unheard_at.is_some_and(|at| at < sent) {
            (self.unconfirmed, self.unheard_at) = (0, None);
        }
        if self.closes.is_none() && self.left < self.limit {
            self.closes = Some(arrived.plus(self.length));
        }
        true
    }

    fn adopt(&mut self, reading: &WindowReading<T>) {
        self.limit = reading.limit;
        self.left = reading.left.min(reading.limit);
        self.length = reading.length;
        self.source = reading.source.clone().or(self.source.take());
        self.heard = Some(reading.heard);
    }

    /// A pull was refused because the window is spent. False: that was the window before.
    pub(super) fn close(&mut self, sent: T, now: T, retry_after: Option<Duration>) -> bool {
        self.roll(now);
        if self.since.is_some_and(|since| sent < since) {
            return false;
        }
        // An upstream that sends numbers is asked again (by HEAD) at `Retry-After`; one that does not is believed.
        let counts = self.heard.is_some() || self.source.is_some();
        self.left = 0;
        self.heard = Some(WindowAnswer { sent, arrived: now, ours: true });
        let asked = retry_after.map(|wait| now.plus(wait));
        (self.closes, self.exact) = match (self.closes, asked) {
            (Some(known), Some(asked)) if counts => (Some(known.max(asked)), self.exact && asked <= known),
            (_, Some(asked)) => (Some(asked), true),
            (Some(known), None) => (Some(known), self.exact),
            (None, None) => (Some(now.plus(self.length)), false),
        };
        true
    }

    /// Takes in what another view of the same account knows. False: it speaks of an earlier window.
    pub(super) fn merge(&mut self, other: &Self, now: T) -> bool {
        self.roll(now);
        if other.closes.is_some_and(|closes| closes <= now) {
            return false;
        }
        match other.heard {
            Some(heard) => {
                let (limit, length, left, source) = (other.limit, other.length, other.left, other.source.clone());
                let reading = WindowReading { limit, length, left, source, heard };
                if !self.hear(&reading) {
                    return false;
                }
            }
            // Both only know what is configured: the newer configuration counts.
            None if self.heard.is_none() => (self.limit, self.left, self.length) = (other.limit, other.limit, other.length),
            None => {}
        }
        // Two bounds for one end: the earlier one is as true.
        if let (Some(theirs), ours) = (other.closes, self.closes)
            && ours.is_none_or(|ours| theirs < ours)
        {
            (self.closes, self.exact) = (Some(theirs), other.exact);
        }
        true
    }

    /// The same window on another clock.
    pub(super) fn map<U>(&self, clock: impl Fn(T) -> U) -> Window<U> {
        Window {
            limit: self.limit,
            length: self.length,
            left: self.left,
            heard: self.heard.map(|heard| WindowAnswer { sent: clock(heard.sent), arrived: clock(heard.arrived), ours: false }),
            source: self.source.clone(),
            unconfirmed: self.unconfirmed,
            unheard_at: self.unheard_at.map(&clock),
            closes: self.closes.map(&clock),
            exact: self.exact,
            since: self.since.map(&clock),
        }
    }
}

/// A duration as seconds, with a fraction if need be.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(length: &Duration, to: S) -> Result<S::Ok, S::Error> {
        if length.subsec_nanos() == 0 { to.serialize_u64(length.as_secs()) } else { to.serialize_f64(length.as_secs_f64()) }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}
