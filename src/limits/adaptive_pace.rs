//! Requests per second towards a host that limits them without saying so: found from its refusals, and held.
//!
//! A limiter that counts requests per second has an empty bucket at each refusal. So what it accepted between two refusals, divided
//! by the time between them, is its rate, however large its bucket is. Two refusals are enough to know it. From then on requests
//! leave a little below that rate, and the pace grows so slowly that the next refusal comes hundreds of requests later.
//!
//! Not every 429 is about a rate: an overloaded gateway refuses at random. Such a host refuses also what is slower than what it
//! accepted before. Then the rate was not the reason, and the pace is raised again.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::mutex::{Mutex, MutexGuard};

/// How far below the measured rate requests leave. Limiters with fixed windows lose what a window leaves unused, so that the
/// measure is up to a tenth wrong.
const HOLD: f64 = 0.92;

/// By how much of the rate each accepted request raises the pace. 250 requests lead from [`HOLD`] to 2 % above the rate: one refusal
/// in 250 requests is 0.4 %.
const GROWTH: f64 = 0.0004;
const GROWING: u32 = 250;

/// After [`GROWING`] accepted requests in a row the limit is probably gone: each further one raises the pace by this, which doubles it
/// in 70 requests.
const GROWTH_LATER: f64 = 1.01;

/// Above this pace no registry limits by the second; the host is free again.
const FREE: f64 = 1000.0;

/// The first guess is what was accepted in the last second, but not less than this. A host that refuses at random may refuse its second
/// request; and a slower limiter corrects the guess with one refusal.
const FIRST_GUESS: f64 = 8.0;

/// The slowest pace: one request a second. Slower limits are windows of minutes, which the host's pause waits for.
const SLOWEST: f64 = 1.0;

/// Below this pace a measure must rest on [`MEASURED`] accepted requests: fewer are chance.
const SLOW: f64 = 2.0;
const MEASURED: u32 = 3;

/// By how much each accepted request raises a pace that was lowered without a measure: it doubles in 15 requests.
const GROWTH_UNMEASURED: f64 = 1.05;

/// A limiter accepts what comes below its rate. A refusal of requests that came at no more than this part of the measured rate, after fewer
/// than [`SOON`] accepted ones, is not about the rate.
const BELOW: f64 = 0.96;
const SOON: u32 = 100;

/// When refusals turn out not to be about the rate, the pace is at least this again; twice as much each time, up to so many times.
const UNRELATED: f64 = 20.0;
const MOST_DOUBTS: i32 = 4;

/// After so many refusals in a row, none accepted between them, a window is closed: nothing is sent for a second, then for two, up to
/// the longest rest. A host that refuses at random has to refuse more, for each doubt that it is about a rate.
const CLOSED: u32 = 3;
const CLOSED_DOUBTED: u32 = 2;
const LONGEST_REST: u32 = 8;

/// A task that waits for its turn checks this often whether the pace was raised.
const LOOK: Duration = Duration::from_millis(200);

/// A measure needs this many requests, or [`LONG`] seconds: less may be chance.
const ENOUGH: u32 = 8;
const LONG: u32 = 3;

/// Until a host has been sent so many requests, they leave [`EARLY_GAP`] apart, but for the first few ([`EARLY_BURST`]). A limiter's first
/// refusal then meets one or two requests under way instead of all the permits there are. It costs a large run 0.12 s.
const EARLY: u32 = 16;
const EARLY_BURST: u32 = 4;
const EARLY_GAP: Duration = Duration::from_millis(10);

/// The pace of one host, unlimited until it refuses.
#[derive(Debug)]
pub struct AdaptivePace {
    /// Limiters count by the second. Tests that cannot wait have a shorter one.
    second: Duration,
    /// Its holder takes the next turn: one at a time, so that a change of the pace applies to all that wait.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the first requests keep a distance.
    early: bool,
    sent: u32,
    /// When the last request left.
    last: Option<Instant>,
    /// When requests of the last second were accepted; kept only while no limit is known.
    recent: VecDeque<Instant>,
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    /// The measured rate, in requests a second.
    rate: f64,
    /// `rate` is no measure: nothing was accepted to measure it by.
    unmeasured: bool,
    /// A rate that was measured before, and is a lower bound if refusals are about a rate.
    proven: Option<f64>,
    /// How often refusals turned out not to be about the rate.
    doubts: i32,
    /// Since when the counts below count: an instant with a refusal.
    since: Instant,
    /// Refusals of what was sent before are no news.
    heard_from: Instant,
    accepted: u32,
    refused: u32,
    refused_in_a_row: u32,
}

impl Limit {
    /// Requests a second, now.
    fn pace(&self) -> f64 {
        if self.unmeasured {
            let accepted = i32::try_from(self.accepted.min(2000)).unwrap_or(2000);
            return self.rate * GROWTH_UNMEASURED.powi(accepted);
        }
        let slow = HOLD + GROWTH * f64::from(self.accepted.min(GROWING));
        let later = i32::try_from(self.accepted.saturating_sub(GROWING).min(2000)).unwrap_or(2000);
        (self.rate * slow * GROWTH_LATER.powi(later)).max(SLOWEST)
    }

    /// The rate, measured from the last refusal to this one.
    fn measure(&mut self, now: Instant, second: Duration) {
        let seconds = now.duration_since(self.since).as_secs_f64().max(second.as_secs_f64() / 4.0);
        let (accepted, sent) = (f64::from(self.accepted), f64::from(self.accepted + self.refused));
        let measured = accepted / seconds;
        if measured < SLOW && self.accepted < MEASURED {
            // Too little to tell how slow: it goes on counting, from a slow pace.
            self.unmeasured |= self.rate > SLOW;
            self.rate = self.rate.min(SLOW);
            return;
        }
        // Some are accepted at the slowest pace, and others refused: that is chance.
        let chance = !self.unmeasured && self.rate <= SLOWEST && self.accepted > 0;
        let too_slow = |proven: f64| measured < 0.8 * proven && sent / seconds <= 1.05 * proven;
        let too_soon = |proven: f64| sent / seconds <= BELOW * proven && self.accepted < SOON;
        let unrelated = chance || self.proven.is_some_and(|proven| too_slow(proven) || too_soon(proven));
        if unrelated {
            self.rate = (4.0 * self.rate).max(UNRELATED * f64::powi(2.0, self.doubts));
            self.doubts = (self.doubts + 1).min(MOST_DOUBTS);
            self.proven = None;
        } else {
            if self.proven.is_some_and(|proven| measured < 1.25 * proven) {
                // Two measures agree: it is about the rate.
                self.doubts = 0;
            }
            self.rate = measured.max(SLOWEST);
            self.proven = Some(measured).filter(|_| self.accepted >= MEASURED).or(self.proven);
        }
        self.unmeasured = false;
        (self.since, self.heard_from, self.accepted, self.refused) = (now, now, 0, 0);
    }
}

impl AdaptivePace {
    /// No limit is known. `second`: the period that a limiter's bucket takes to fill again.
    pub fn new(second: Duration) -> Self {
        AdaptivePace { second, turn: tokio::sync::Mutex::default(), state: Mutex::default() }
    }

    /// Sends the first requests one by one: for a host whose limits are not known.
    pub fn begin_slowly(&self) {
        self.state().early = true;
    }

    /// Waits until a request may leave.
    pub async fn turn(&self) {
        if self.state().is_free() {
            return;
        }
        let _turn = self.turn.lock().await;
        loop {
            let now = Instant::now();
            let next = {
                let mut state = self.state();
                match state.next().filter(|next| *next > now) {
                    Some(next) => next.min(now + LOOK),
                    None => return state.leave(now),
                }
            };
            tokio::time::sleep_until(next).await;
        }
    }

    /// A request that was sent at `sent` was answered at `now`, as it should be.
    pub fn accepted(&self, sent: Instant, now: Instant) {
        let second = self.second;
        let mut state = self.state();
        match &mut state.limit {
            Some(limit) if sent >= limit.since => {
                limit.accepted += 1;
                limit.refused_in_a_row = 0;
                if limit.pace() > FREE {
                    state.limit = None;
                }
            }
            Some(_) => {}
            None => {
                state.recent.push_back(now);
                while state.recent.front().is_some_and(|at| *at + second < now) {
                    state.recent.pop_front();
                }
            }
        }
    }

    /// A request that was sent at `sent` was refused at `now`: too many. For how long nothing should be sent at all, so that the limiter
    /// can fill its bucket again.
    pub fn refused(&self, sent: Instant, now: Instant) -> Option<Duration> {
        let second = self.second;
        let mut state = self.state();
        state.early = false;
        let Some(limit) = &mut state.limit else {
            let accepted = state.recent.iter().filter(|at| **at + second >= now).count();
            let rate = (u32::try_from(accepted).map_or(FREE, f64::from) / second.as_secs_f64().max(0.001)).clamp(FIRST_GUESS, FREE);
            state.recent = VecDeque::new();
            state.limit = Some(Limit {
                rate,
                unmeasured: false,
                proven: None,
                doubts: 0,
                since: now,
                heard_from: now + second,
                accepted: 0,
                refused: 0,
                refused_in_a_row: 0,
            });
            return Some(second);
        };
        if sent >= limit.heard_from {
            limit.refused += 1;
            limit.refused_in_a_row += 1;
            if limit.accepted + limit.refused >= ENOUGH || now.duration_since(limit.since) >= LONG * second {
                limit.measure(now, second);
            }
            let closed = CLOSED + CLOSED_DOUBTED * limit.doubts.unsigned_abs();
            if limit.refused_in_a_row >= closed {
                let rest = second * 2u32.saturating_pow(limit.refused_in_a_row - closed).min(LONGEST_REST);
                limit.heard_from = now + rest;
                return Some(rest);
            }
        }
        None
    }

    /// Requests a second, if they are limited.
    pub fn rate(&self) -> Option<f64> {
        self.state().limit.as_ref().map(Limit::pace)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn is_free(&self) -> bool {
        self.limit.is_none() && !self.early
    }

    /// When the next request may leave.
    fn next(&self) -> Option<Instant> {
        let gap = match &self.limit {
            Some(limit) => Duration::from_secs_f64(1.0 / limit.pace()),
            None if self.early && self.sent >= EARLY_BURST => EARLY_GAP,
            None => return None,
        };
        self.last.map(|last| last + gap)
    }

    /// A request leaves at `now`.
    fn leave(&mut self, now: Instant) {
        self.sent = self.sent.saturating_add(1);
        self.early &= self.sent < EARLY;
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::task::JoinSet;

    const SECOND: Duration = Duration::from_secs(1);

    /// A server that limits requests.
    enum Limiter {
        Bucket {
            rate: f64,
            size: f64,
            left: f64,
            at: Instant,
        },
        Windows {
            limit: u32,
            length: Duration,
            begun: Instant,
            used: u32,
        },
        /// Refuses this many of 100, at random.
        Random {
            percent: u64,
            state: u64,
        },
    }

    impl Limiter {
        fn bucket(rate: f64, size: f64) -> Self {
            Limiter::Bucket { rate, size, left: size, at: Instant::now() }
        }

        fn windows(limit: u32, length: Duration) -> Self {
            Limiter::Windows { limit, length, begun: Instant::now(), used: 0 }
        }

        fn admits(&mut self, now: Instant) -> bool {
            match self {
                Limiter::Bucket { rate, size, left, at } => {
                    *left = (*left + now.duration_since(*at).as_secs_f64() * *rate).min(*size);
                    *at = now;
                    let admitted = *left >= 1.0;
                    *left -= if admitted { 1.0 } else { 0.0 };
                    admitted
                }
                Limiter::Windows { limit, length, begun, used } => {
                    while *begun + *length <= now {
                        (*begun, *used) = (*begun + *length, 0);
                    }
                    *used += 1;
                    *used <= *limit
                }
                Limiter::Random { percent, state } => {
                    (*state, _) = state.overflowing_mul(6_364_136_223_846_793_005);
                    *state = state.wrapping_add(1_442_695_040_888_963_407);
                    (*state >> 33) % 100 >= *percent
                }
            }
        }
    }

    /// `requests` from 8 workers, each sent again until it is accepted. How many were refused, and how long all took.
    async fn run(limiter: Limiter, requests: u32, latency: Duration) -> (u32, Duration) {
        let pace = Arc::new(AdaptivePace::new(SECOND));
        pace.begin_slowly();
        let limiter = Arc::new(Mutex::new(limiter));
        // As the host does it: until when nothing is sent.
        let held = Arc::new(Mutex::new(Instant::now()));
        let (left, refused) = (Arc::new(Mutex::new(requests)), Arc::new(Mutex::new(0)));
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..8 {
            let (pace, limiter, held) = (Arc::clone(&pace), Arc::clone(&limiter), Arc::clone(&held));
            let (left, refused) = (Arc::clone(&left), Arc::clone(&refused));
            workers.spawn(async move {
                while {
                    let mut left = left.lock();
                    let more = *left > 0;
                    *left = left.saturating_sub(1);
                    more
                } {
                    loop {
                        let until = *held.lock();
                        tokio::time::sleep_until(until).await;
                        pace.turn().await;
                        if *held.lock() > Instant::now() {
                            continue;
                        }
                        let sent = Instant::now();
                        tokio::time::sleep(latency / 2).await;
                        let admitted = limiter.lock().admits(Instant::now());
                        tokio::time::sleep(latency / 2).await;
                        let now = Instant::now();
                        if admitted {
                            pace.accepted(sent, now);
                            break;
                        }
                        *refused.lock() += 1;
                        if let Some(rest) = pace.refused(sent, now) {
                            let mut held = held.lock();
                            *held = (*held).max(now + rest);
                        }
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            });
        }
        while workers.join_next().await.is_some() {}
        let refused = *refused.lock();
        (refused, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_unspoken_rate_is_found_and_held_with_fewer_than_2_percent_refused() {
        let mut wrong = vec![];
        for latency in [2, 20, 100].map(Duration::from_millis) {
            for (name, limiter, rate, crowd) in [
                ("bucket of a second", Limiter::bucket(10.0, 10.0), 10.0, 0),
                ("bucket of one", Limiter::bucket(10.0, 1.0), 10.0, 0),
                ("windows of a second", Limiter::windows(10, SECOND), 10.0, 0),
                ("slow bucket", Limiter::bucket(3.0, 3.0), 3.0, 4),
                // The first refusal may meet as many requests under way as there are workers.
                ("large bucket", Limiter::bucket(10.0, 60.0), 10.0, 8),
                ("fast bucket", Limiter::bucket(50.0, 50.0), 50.0, 8),
                // A closed window cannot be told from a slow bucket before it opens again.
                ("windows of ten seconds", Limiter::windows(100, 10 * SECOND), 10.0, 40),
            ] {
                let requests = 400;
                let (refused, took) = run(limiter, requests, latency).await;
                // With a long way there and back, more requests are under way at each refusal.
                let crowd = crowd.max(if latency.as_millis() >= 100 { 8 } else { 0 });
                let share = f64::from(refused.saturating_sub(crowd)) / f64::from(requests + refused);
                let slowest = 1.5 * f64::from(requests) / rate + 20.0;
                let line = format!("{name}, {latency:?}: {refused} refused in {took:?}");
                if share >= 0.02 || took.as_secs_f64() > slowest {
                    wrong.push(line);
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_that_are_not_about_a_rate_do_not_slow_a_host_down_for_good() {
        for (percent, most) in [(3, 60), (10, 60), (30, 60), (60, 300)] {
            for state in 0..20 {
                let (_, took) = run(Limiter::Random { percent, state }, 400, Duration::from_millis(5)).await;
                assert!(took < Duration::from_secs(most), "{percent} %, {state}: {took:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_refuses_is_never_slowed_down_after_the_first_requests() {
        let (refused, took) = run(Limiter::bucket(1e9, 1e9), 800, Duration::from_millis(10)).await;
        assert_eq!(refused, 0);
        assert!(took <= Duration::from_millis(1000 + 130), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_refusals_is_one_and_a_limit_that_is_gone_is_forgotten() {
        let pace = AdaptivePace::new(SECOND);
        let sent = Instant::now();
        tokio::time::advance(Duration::from_millis(5)).await;
        assert_eq!(pace.refused(sent, Instant::now()), Some(SECOND));
        for _ in 0..20 {
            assert_eq!(pace.refused(sent, Instant::now()), None);
        }
        assert!((pace.rate().unwrap() - FIRST_GUESS * HOLD).abs() < 1e-9);
        for _ in 0..1000 {
            pace.accepted(Instant::now(), Instant::now());
        }
        assert_eq!(pace.rate(), None);
    }
}
