//! When to try again: a budget of attempts that belongs to one piece of work, and a pause that belongs to the host.
//!
//! Two clocks, because two things can be in trouble. If one blob keeps breaking while all else goes well, that blob waits
//! longer each time and nobody else does. If the host is in trouble, everybody who speaks to it waits. (How long the host
//! itself asked to be left alone is [`crate::limits::Pause`]'s to know.)

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;

use crate::Error;
use crate::error::Outage;

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

/// So many new bytes of a body give it all its attempts back. An upstream that cuts every answer after 300 kB is slow, but it brings the
/// blob; one that brings less than this, seven times in a row, does not.
pub(crate) const PROGRESS: u64 = 64 * 1024;

/// While a host answers nobody, its images fail at once with the cause that is known, and one request in this time tries it anew. 30 s:
/// a registry that comes back is noticed within a run, and a list of thousands of images of a dead one is through in seconds.
const TRIED_ANEW: Duration = Duration::from_secs(30);

/// The first pause of a host that refuses all (429, 503) and does not say for how long. One second: limiters count by the second.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The longest pause of such a host.
const LONGEST_REST: Duration = Duration::from_secs(8);

/// A host that refuses all for their pace is given so many times the attempts of one that does not answer: it is alive, and its window of
/// a minute will open again.
const REFUSALS: u32 = 2;

/// The longest wait of one request that was refused for its pace while the host answers others: the host's pace is what slows it down.
const THROTTLED_CAP: Duration = Duration::from_secs(2);

/// A host that has answered somebody within this time is alive: its refusals (429, 503) are about the pace alone. One minute is the
/// longest window that limiters of requests commonly have.
const RECENTLY: Duration = Duration::from_secs(60);

/// So many refusals for its pace in a row are free for one request while the host answers others. A host that refuses 60 % at random
/// does that once in 10^14 requests; one that refuses this request for ever ends it.
const MOST_FREE: u32 = 64;

type Delays = <ExponentialBuilder as BackoffBuilder>::Backoff;

impl RetryPolicy {
    fn delays(&self) -> Delays {
        self.delays_within(self.base, self.cap)
    }

    fn rests(&self) -> Delays {
        self.delays_within(self.second(), self.cap.min(LONGEST_REST))
    }

    /// Exponential waits, each between half of its value and all of it: spread, so that requests that failed together do
    /// not come back together. (backon adds up to as much again; so it is given the halves.)
    fn delays_within(&self, base: Duration, cap: Duration) -> Delays {
        ExponentialBuilder::new()
            .with_min_delay(base / 2)
            .with_max_delay(cap / 2)
            .with_factor(self.factor)
            .without_max_times()
            .with_jitter()
            .build()
    }

    /// [`SECOND`], or less where tests have shorter waits.
    pub(crate) fn second(&self) -> Duration {
        SECOND.min(self.cap)
    }
}

/// The retry budget of one piece of work: a request with all that hangs on it (redirects, its body, the body's
/// continuations). It is passed along, so that no layer multiplies another's attempts.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    policy: RetryPolicy,
    delays: Delays,
    allowed: u32,
    failures: u32,
    /// Refusals for the pace: while the host answered others, and while it did not.
    free: u32,
    refusals: u32,
    attempts: u32,
    gained: u64,
    started: Instant,
    /// When the first of the present failures happened.
    first_failure: Option<Instant>,
}

impl RetryBudget {
    pub(crate) fn new(policy: RetryPolicy, allowed: u32) -> Self {
        let (delays, started) = (policy.delays(), Instant::now());
        RetryBudget { policy, delays, allowed, failures: 0, free: 0, refusals: 0, attempts: 0, gained: 0, started, first_failure: None }
    }

    /// One more attempt failed. How long this work itself should wait before the next, or `None` if there is none left.
    pub(crate) fn failed(&mut self) -> Option<Duration> {
        self.note();
        self.failures += 1;
        if self.failures >= self.allowed { None } else { self.delays.next() }
    }

    /// One more attempt was refused for its pace (429, 503). That costs no attempt while the host answers others.
    pub(crate) fn throttled(&mut self, answers_others: bool) -> Option<Duration> {
        self.note();
        let (count, most) = match answers_others {
            true => (&mut self.free, MOST_FREE),
            false => (&mut self.refusals, self.allowed * REFUSALS),
        };
        *count += 1;
        if *count >= most || self.allowed == 1 { None } else { self.delays.next().map(|delay| delay.min(THROTTLED_CAP)) }
    }

    fn note(&mut self) {
        self.attempts += 1;
        self.gained = 0;
        self.first_failure.get_or_insert_with(Instant::now);
    }

    /// `bytes` that nobody had before have arrived.
    pub(crate) fn progressed(&mut self, bytes: u64) {
        self.gained += bytes;
        if self.gained >= PROGRESS && self.first_failure.is_some() {
            (self.failures, self.free, self.refusals, self.first_failure) = (0, 0, 0, None);
            self.delays = self.policy.delays();
        }
    }

    /// Whether a host that last answered at `answered` is alive: it answered others while this work failed, or a short time ago.
    pub(crate) fn sees_alive(&self, answered: Option<Instant>) -> bool {
        let now = Instant::now();
        answered.is_some_and(|answered| answered + RECENTLY >= now || self.first_failure.is_some_and(|first| answered >= first))
    }

    /// Failed attempts in all.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }
    /// When the work began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }
    /// If the whole budget of the policy is used up: since when it failed.
    pub(crate) fn spent_since(&self) -> Option<Instant> {
        let spent = self.failures >= self.policy.attempts || self.refusals >= self.policy.attempts * REFUSALS;
        self.first_failure.filter(|_| spent)
    }
}

/// The state of one host's trouble. A host is failing only if it has answered nobody since the first failure, for a whole retry budget:
/// where some requests fail and others do not, each waits for itself.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    delays: Delays,
    rests: Delays,
    /// When the present pause was ordered. What was sent before that and fails too tells nothing new.
    epoch: Option<Instant>,
    until: Option<Instant>,
    last_success: Option<Instant>,
    /// Pauses in a row during which nobody had an answer, and when the first of them began.
    rounds: u32,
    rounds_since: Option<Instant>,
    /// A piece of work used up its budget, or as many pauses passed as a budget has attempts, and in all that time nobody
    /// had an answer. (Of many who wait for a pause's end only the first few get to try before one's failure begins the next:
    /// their own budgets would last for as many pauses as there are of them.)
    failing: bool,
    /// What all its images fail with meanwhile, and when it is tried anew.
    down: Option<Down>,
}

/// A host that answers nobody.
#[derive(Debug)]
struct Down {
    cause: Error,
    outage: Outage,
    tried_anew: Instant,
}

impl Backoff {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Backoff {
            policy,
            delays: policy.delays(),
            rests: policy.rests(),
            epoch: None,
            until: None,
            last_success: None,
            rounds: 0,
            rounds_since: None,
            failing: false,
            down: None,
        }
    }

    /// How long the host still pauses.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|pause| !pause.is_zero())
    }

    /// How many attempts new work has.
    pub(crate) fn attempts(&self) -> u32 {
        if self.failing { 1 } else { self.policy.attempts }
    }

    /// When the host last answered.
    pub(crate) fn last_success(&self) -> Option<Instant> {
        self.last_success
    }

    /// A request was answered at `now`, whenever it was sent: the host is alive. A pause that was ordered goes on.
    pub(crate) fn succeeded(&mut self, now: Instant) {
        self.last_success = Some(now);
        self.failing = false;
        (self.rounds, self.rounds_since) = (0, None);
        if let Some(down) = self.down.take() {
            down.outage.end();
        }
        if self.epoch.take().is_some() {
            self.delays = self.policy.delays();
            self.rests = self.policy.rests();
        }
    }

    /// A request that was sent at `sent` failed at `now`; `throttled`: it was refused for its pace. Returns by how much that makes the
    /// pause longer.
    pub(crate) fn failed(&mut self, now: Instant, sent: Instant, throttled: bool) -> Duration {
        let is_news = self.begins_round(now, sent, throttled);
        // Who waits for a host that is down waits for nothing.
        let own = if is_news && self.down.is_none() { self.next_delay(throttled) } else { Duration::ZERO };
        self.hold(own, now)
    }

    /// A request that was sent at `sent` was refused at `now`, like all others for some time, and the host's pause is known already.
    pub(crate) fn refused(&mut self, now: Instant, sent: Instant) {
        self.begins_round(now, sent, true);
    }

    /// Nothing is sent for `pause` from `now` on. Returns by how much that makes the pause longer.
    pub(crate) fn hold(&mut self, pause: Duration, now: Instant) -> Duration {
        let before = self.until.unwrap_or(now).max(now);
        let until = before.max(now + pause);
        self.until = Some(until);
        until - before
    }

    /// Work that has failed since `since` used up its budget.
    pub(crate) fn gave_up(&mut self, since: Instant) {
        self.failing |= self.last_success.is_none_or(|success| success < since);
    }

    /// Whether the host answers nobody: work that it fails now has no further attempt.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// The host is failing, with `cause`: what all others fail with from now on, and the outage that they share.
    pub(crate) fn goes_down(&mut self, cause: &Error, now: Instant) -> Outage {
        let tried_anew = now + TRIED_ANEW;
        if let Some(down) = &mut self.down {
            down.tried_anew = tried_anew;
            return down.outage.clone();
        }
        let outage = Outage::default();
        self.until = None;
        self.down = Some(Down { cause: cause.clone(), outage: outage.clone(), tried_anew });
        outage
    }

    /// What a request fails with at once, unsent, because the host is down. One in [`TRIED_ANEW`] is sent nevertheless: the one that
    /// `leaves` now.
    pub(crate) fn refuses(&mut self, now: Instant, leaves: bool) -> Option<(Error, Outage)> {
        let down = self.down.as_mut()?;
        if down.tried_anew > now {
            return Some((down.cause.clone(), down.outage.clone()));
        }
        if leaves {
            down.tried_anew = now + TRIED_ANEW;
        }
        None
    }

    /// Counts a failure, unless it was sent before the present pause was ordered: then it tells nothing new.
    fn begins_round(&mut self, now: Instant, sent: Instant, throttled: bool) -> bool {
        if self.epoch.is_some_and(|epoch| sent < epoch) {
            return false;
        }
        self.epoch = Some(now);
        self.rounds = self.rounds.saturating_add(1);
        let since = *self.rounds_since.get_or_insert(now);
        // A host that refuses at random may refuse many requests in a row, where only one at a time is sent.
        let for_long = !throttled || now.duration_since(since) >= RECENTLY.min(self.policy.cap * 2);
        self.failing |= for_long && self.rounds >= self.policy.attempts * if throttled { REFUSALS } else { 1 };
        true
    }

    fn next_delay(&mut self, throttled: bool) -> Duration {
        let delays = if throttled { &mut self.rests } else { &mut self.delays };
        delays.next().unwrap_or(self.policy.cap)
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
    async fn a_budget_is_spent_and_progress_refills_it() {
        let mut patience = RetryBudget::new(policy(), 3);
        assert!(patience.failed().is_some() && patience.failed().is_some() && patience.failed().is_none());
        let mut patience = RetryBudget::new(policy(), 3);
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
        let first = host.failed(Instant::now(), sent, false);
        assert!(first >= Duration::from_millis(125) && first <= Duration::from_millis(250));
        for _ in 0..7 {
            assert_eq!(host.failed(Instant::now(), sent, false), Duration::ZERO);
        }
        tokio::time::advance(first).await;
        assert_eq!(host.pause(Instant::now()), None);
        // The next epoch's pause is longer; a success ends the matter.
        let sent = Instant::now();
        assert!(host.failed(Instant::now(), sent, false) >= Duration::from_millis(250));
        tokio::time::advance(Duration::from_secs(1)).await;
        host.succeeded(Instant::now());
        assert!(host.failed(Instant::now(), Instant::now(), false) <= Duration::from_millis(250));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_success_does_not_end_a_pause_that_began_after_it_was_sent() {
        let mut host = Backoff::new(policy());
        tokio::time::advance(Duration::from_millis(1)).await;
        let pause = host.failed(Instant::now(), Instant::now(), false);
        host.succeeded(Instant::now());
        assert_eq!(host.pause(Instant::now()), Some(pause));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_dead_after_a_budget_of_pauses_whoever_waited_for_them() {
        let mut host = Backoff::new(policy());
        for round in 1..=7 {
            assert!(!host.is_failing(), "{round}");
            let sent = Instant::now();
            // Two that fail together are one round.
            tokio::time::advance(Duration::from_millis(1)).await;
            let pause = host.failed(Instant::now(), sent, false);
            host.failed(Instant::now(), sent, false);
            tokio::time::advance(pause).await;
        }
        assert!(host.is_failing());
        host.succeeded(Instant::now());
        assert!(!host.is_failing());
        // An answer in between, and the count begins again.
        for round in 0..20 {
            let sent = Instant::now();
            tokio::time::advance(host.failed(sent, sent, false)).await;
            if round % 6 == 5 {
                host.succeeded(Instant::now());
            }
            assert!(!host.is_failing());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_answers_between_failures_is_never_failing_whenever_the_answered_requests_were_sent() {
        let mut host = Backoff::new(policy());
        for _ in 0..50 {
            // Sent together: one fails, which orders a pause, and the other is answered.
            let sent = Instant::now();
            tokio::time::advance(Duration::from_millis(1)).await;
            let pause = host.failed(Instant::now(), sent, false);
            host.succeeded(Instant::now());
            assert!(pause <= Duration::from_millis(250) && !host.is_failing() && host.attempts() == 7, "{pause:?}");
            tokio::time::advance(pause).await;
        }
        // One piece of work may use up its budget meanwhile.
        let since = Instant::now();
        host.succeeded(Instant::now());
        host.gave_up(since);
        assert!(!host.is_failing());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_host_fails_its_work_at_once_is_tried_anew_every_30_s_and_recovers() {
        let mut host = Backoff::new(policy());
        let began = Instant::now();
        for _ in 0..7 {
            let sent = Instant::now();
            tokio::time::advance(host.failed(sent, sent, false)).await;
        }
        host.gave_up(began);
        assert_eq!(host.attempts(), 1);
        let outage = host.goes_down(&Error::local("get manifest", "no answer"), Instant::now());
        for _ in 0..3 {
            for _ in 0..30 {
                assert_eq!(host.refuses(Instant::now(), true).unwrap().0.message(), "no answer");
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            assert!(host.refuses(Instant::now(), false).is_none() && host.refuses(Instant::now(), true).is_none(), "one is sent");
        }
        assert!(!outage.is_over());
        host.succeeded(Instant::now());
        assert!(outage.is_over() && host.refuses(Instant::now(), true).is_none());
        assert_eq!(host.attempts(), 7);
        // Work that fails while others are answered says nothing about the host.
        host.gave_up(began);
        assert_eq!(host.attempts(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_for_the_pace_cost_no_attempt_while_others_are_answered_and_end_all_the_same() {
        let mut patience = RetryBudget::new(policy(), 3);
        let answered = Some(Instant::now());
        assert!(patience.sees_alive(answered) && !patience.sees_alive(None));
        for _ in 1..MOST_FREE {
            assert!(patience.throttled(true).unwrap() <= THROTTLED_CAP);
        }
        assert!(patience.throttled(true).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(patience.sees_alive(Some(Instant::now())));
        // Nobody has been answered since this work failed first.
        let answered = Some(Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut patience = RetryBudget::new(policy(), 3);
        for _ in 1..3 * REFUSALS {
            assert!(patience.throttled(false).is_some());
        }
        assert!(patience.sees_alive(answered));
        tokio::time::advance(RECENTLY + Duration::from_secs(1)).await;
        assert!(!patience.sees_alive(answered) && patience.throttled(false).is_none());
        // A single try is a single try.
        assert!(RetryBudget::new(policy(), 1).throttled(true).is_none());
    }
}
