//! The attempts that one piece of work has left.

use std::time::Duration;

use tokio::time::Instant;

use super::retry_policy::{Delays, RECENTLY, REFUSALS, RetryPolicy};

/// This many new bytes of a body renew its attempts. An upstream that cuts every answer after 300 kB is slow, but delivers the blob; one that
/// sends less than this, seven times in a row, does not.
const PROGRESS: u64 = 64 * 1024;

/// The longest wait of one request that was refused for its pace while the host answers others: the host's pace is what slows it down.
const THROTTLED_CAP: Duration = Duration::from_secs(2);

/// This many refusals for its pace in a row cost one request no attempt while the host answers others. A host that refuses 60 % at random
/// does that once in 10^14 requests; one that refuses this request for ever ends it.
const MOST_FREE: u32 = 64;

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

    /// `bytes` new bytes have arrived.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy::default()
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
        // No request was answered since this work failed first.
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
