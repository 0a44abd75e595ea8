//! When to try again: a budget of attempts that belongs to one piece of work, and a pause that belongs to the host.
//!
//! Two clocks, because two things can be in trouble. If one blob keeps breaking while all else goes well, that blob waits
//! longer each time and nobody else does. If the host is in trouble, everybody who speaks to it waits.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;

/// How often, how soon and how long. The defaults are for the Internet; tests set milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RetryPolicy {
    /// Attempts in all. 7, that is 6 waits of together 8 to 16 s: longer than a registry's rolling restart behind a load
    /// balancer takes, and than CloudFront's negative cache of 10 s (cargo's `retry.rs` has that number).
    pub(crate) attempts: u32,
    /// The longest first wait, and how long an upload that broke off waits for an early answer when it is sent again. 250 ms: a
    /// round trip to another continent, and some.
    pub(crate) base: Duration,
    /// Each wait is this many times the one before.
    pub(crate) factor: f32,
    /// No wait that larder chooses is longer. 30 s: an operator who looks on sees something happen.
    pub(crate) cap: Duration,
    /// No byte for this long is a failure. 60 s: the idle timeout of common proxies (nginx, AWS load balancers), after
    /// which nothing can come any more.
    pub(crate) idle: Duration,
    /// A `Retry-After` is honoured to the full; one longer than this ends the work on that host instead of the night:
    /// requests to it fail at once, unsent, and say when it may be asked again. 5 minutes, as `retry_after_max` has it.
    pub(crate) longest_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts: 7,
            base: Duration::from_millis(250),
            factor: 2.0,
            cap: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            longest_pause: Duration::from_secs(300),
        }
    }
}

/// So many new bytes of a body give it all its attempts back. A line that brings 1 MiB between two breaks is bad, but it
/// brings the blob; one that brings less, seven times in a row, does not, in any night's time.
pub(crate) const PROGRESS: u64 = 1024 * 1024;

/// While a host answers nobody, the pause between two attempts is at most this: each request tries once, so a list of a
/// thousand images of a dead registry is through in minutes, and a registry that comes back is noticed.
const FAILING_CAP: Duration = Duration::from_secs(1);

type Delays = <ExponentialBuilder as BackoffBuilder>::Backoff;

impl RetryPolicy {
    /// Exponential waits, each between half of its value and all of it: spread, so that requests that failed together do
    /// not come back together. (backon adds up to as much again; so it is given the halves.)
    fn delays(&self) -> Delays {
        ExponentialBuilder::new()
            .with_min_delay(self.base / 2)
            .with_max_delay(self.cap / 2)
            .with_factor(self.factor)
            .without_max_times()
            .with_jitter()
            .build()
    }
}

/// The retry budget of one piece of work: a request with all that hangs on it (redirects, its body, the body's
/// continuations). It is passed along, so that no layer multiplies another's attempts.
#[derive(Debug)]
pub(crate) struct Patience {
    policy: RetryPolicy,
    delays: Delays,
    allowed: u32,
    failures: u32,
    attempts: u32,
    gained: u64,
    started: Instant,
}

impl Patience {
    pub(crate) fn new(policy: RetryPolicy, allowed: u32) -> Self {
        Patience { policy, delays: policy.delays(), allowed, failures: 0, attempts: 0, gained: 0, started: Instant::now() }
    }

    /// One more attempt failed. How long this work itself should wait before the next, or `None` if there is none left.
    pub(crate) fn failed(&mut self) -> Option<Duration> {
        self.attempts += 1;
        self.failures += 1;
        self.gained = 0;
        if self.failures >= self.allowed { None } else { self.delays.next() }
    }

    /// `bytes` that nobody had before have arrived.
    pub(crate) fn progressed(&mut self, bytes: u64) {
        self.gained += bytes;
        if self.gained >= PROGRESS && self.failures > 0 {
            self.failures = 0;
            self.delays = self.policy.delays();
        }
    }

    /// Failed attempts in all.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }
    /// When the work began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }
}

/// The state of one host's trouble.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    delays: Delays,
    /// When the present pause was ordered. What was sent before that and fails too tells nothing new.
    epoch: Option<Instant>,
    until: Option<Instant>,
    last_success: Option<Instant>,
    /// Pauses in a row after which nobody had an answer.
    rounds: u32,
    /// A piece of work used up its budget, or as many pauses passed as a budget has attempts, and in all that time nobody
    /// had an answer. (Of many who wait for a pause's end only the first few get to try before one's failure begins the next:
    /// their own budgets would last for as many pauses as there are of them.)
    failing: bool,
}

impl Backoff {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Backoff { policy, delays: policy.delays(), epoch: None, until: None, last_success: None, rounds: 0, failing: false }
    }

    /// How long the host is still to be left alone.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|pause| !pause.is_zero())
    }

    /// How many attempts new work has.
    pub(crate) fn attempts(&self) -> u32 {
        if self.failing { 1 } else { self.policy.attempts }
    }

    /// A request that was sent at `sent` was answered at `now`.
    pub(crate) fn succeeded(&mut self, now: Instant, sent: Instant) {
        self.last_success = Some(now);
        if self.epoch.is_none_or(|epoch| sent >= epoch) {
            self.failing = false;
            self.rounds = 0;
            if self.epoch.take().is_some() {
                self.delays = self.policy.delays();
            }
        }
    }

    /// A request that was sent at `sent` failed at `now`; `after` is what the host asked for. Returns by how much that
    /// makes the pause longer.
    pub(crate) fn failed(&mut self, now: Instant, sent: Instant, after: Option<Duration>) -> Duration {
        let known = self.epoch.is_some_and(|epoch| sent < epoch);
        let own = if known { Duration::ZERO } else { self.next_round() };
        let before = self.until.unwrap_or(now).max(now);
        // A year is as good as for ever, and cannot overflow an `Instant`.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let until = before.max(now + own.max(after.unwrap_or_default()).min(YEAR));
        if !known {
            self.epoch = Some(now);
        }
        self.until = Some(until);
        until - before
    }

    /// Work that began at `since` used up its budget.
    pub(crate) fn gave_up(&mut self, since: Instant) {
        self.failing = self.last_success.is_none_or(|success| success < since);
    }

    /// Whether the host answers nobody: work that it fails now has no further attempt.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    fn next_round(&mut self) -> Duration {
        self.rounds = self.rounds.saturating_add(1);
        self.failing |= self.rounds >= self.policy.attempts;
        let delay = self.delays.next().unwrap_or(self.policy.cap);
        if self.failing { delay.min(FAILING_CAP) } else { delay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy::default()
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_within_their_spread_up_to_the_cap() {
        let mut delays = policy().delays();
        for most in [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            let delay = delays.next().unwrap();
            let most = Duration::from_millis(most);
            assert!(delay >= most / 2 && delay <= most, "{delay:?} of {most:?}");
        }
        // Two hosts, or two requests, do not keep step.
        let (a, b): (Vec<_>, Vec<_>) = (policy().delays().take(6).collect(), policy().delays().take(6).collect());
        assert_ne!(a, b);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_a_mebibyte_of_progress_refills_it() {
        let mut patience = Patience::new(policy(), 3);
        assert!(patience.failed().is_some() && patience.failed().is_some() && patience.failed().is_none());
        let mut patience = Patience::new(policy(), 3);
        for _ in 0..20 {
            assert!(patience.failed().is_some());
            patience.progressed(PROGRESS - 1);
            patience.progressed(1);
        }
        assert_eq!(patience.attempts(), 20);
        // Little by little is no progress: what was gained before a failure does not count after it.
        patience.failed();
        patience.progressed(PROGRESS - 1);
        patience.failed();
        patience.progressed(PROGRESS - 1);
        assert!(patience.failed().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_fail_together_lengthen_the_pause_once() {
        let mut host = Backoff::new(policy());
        let sent = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        let first = host.failed(Instant::now(), sent, None);
        assert!(first >= Duration::from_millis(125) && first <= Duration::from_millis(250));
        for _ in 0..7 {
            assert_eq!(host.failed(Instant::now(), sent, None), Duration::ZERO);
        }
        tokio::time::advance(first).await;
        assert_eq!(host.pause(Instant::now()), None);
        // The next epoch's pause is longer; a success ends the matter.
        let sent = Instant::now();
        assert!(host.failed(Instant::now(), sent, None) >= Duration::from_millis(250));
        tokio::time::advance(Duration::from_secs(1)).await;
        host.succeeded(Instant::now(), Instant::now());
        assert!(host.failed(Instant::now(), Instant::now(), None) <= Duration::from_millis(250));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_success_does_not_end_a_pause_that_began_after_it_was_sent() {
        let mut host = Backoff::new(policy());
        let early = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        host.failed(Instant::now(), Instant::now(), Some(Duration::from_secs(20)));
        host.succeeded(Instant::now(), early);
        assert_eq!(host.pause(Instant::now()), Some(Duration::from_secs(20)));
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honoured_in_full_and_the_longest_wins() {
        let mut host = Backoff::new(policy());
        let now = Instant::now();
        assert_eq!(host.failed(now, now, Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(host.failed(now, now, Some(Duration::from_secs(10))), Duration::ZERO);
        assert_eq!(host.failed(now, now, Some(Duration::from_secs(100))), Duration::from_secs(10));
        assert_eq!(host.pause(now), Some(Duration::from_secs(100)));
        host.failed(now, now, Some(Duration::MAX));
        assert!(host.pause(now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_dead_after_a_budget_of_pauses_whoever_waited_for_them() {
        let mut host = Backoff::new(policy());
        for round in 1..=7 {
            assert!(!host.is_failing(), "{round}");
            let sent = Instant::now();
            // Two that fail together are one round.
            tokio::time::advance(Duration::from_millis(1)).await;
            let pause = host.failed(Instant::now(), sent, None);
            host.failed(Instant::now(), sent, None);
            tokio::time::advance(pause).await;
        }
        assert!(host.is_failing());
        host.succeeded(Instant::now(), Instant::now());
        assert!(!host.is_failing());
        // An answer in between, and the count begins again.
        for round in 0..20 {
            let sent = Instant::now();
            tokio::time::advance(host.failed(sent, sent, None)).await;
            if round % 6 == 5 {
                host.succeeded(Instant::now(), Instant::now());
            }
            assert!(!host.is_failing());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_host_is_tried_once_by_each_and_recovers() {
        let mut host = Backoff::new(policy());
        let began = Instant::now();
        for _ in 0..7 {
            let sent = Instant::now();
            tokio::time::advance(host.failed(sent, sent, None)).await;
        }
        host.gave_up(began);
        assert_eq!(host.attempts(), 1);
        let sent = Instant::now();
        assert!(host.failed(sent, sent, None) <= FAILING_CAP);
        tokio::time::advance(Duration::from_secs(1)).await;
        host.succeeded(Instant::now(), Instant::now());
        assert_eq!(host.attempts(), 7);
        // Work that fails while others are answered says nothing about the host.
        host.gave_up(began);
        assert_eq!(host.attempts(), 7);
    }
}
