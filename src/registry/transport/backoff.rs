//! The pause of a host that fails.
//!
//! Two clocks, because two things can fail. If one blob keeps breaking while all else goes well, that blob waits longer each time
//! ([`super::RetryBudget`]) and nothing else does. If the host fails, all requests to it wait. (The pause that the host itself asked for is
//! [`crate::limits::Pause`].)

use std::time::Duration;

use tokio::time::Instant;

use super::retry_policy::{Delays, RECENTLY, REFUSALS, RetryPolicy};
use crate::Error;
use crate::error::Outage;

/// While a host answers no request, its images fail at once with the known cause, and one request in this time is sent nevertheless. 30 s:
/// a registry that comes back is noticed within a run, and a list of thousands of images of a dead one fails in seconds.
const TRIED_AGAIN: Duration = Duration::from_secs(30);

/// The failures of one host. A host is failing only if it has answered no request since the first failure, for a whole retry budget:
/// where some requests fail and others do not, each waits for itself.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    delays: Delays,
    rests: Delays,
    /// When the present pause began. A request that was sent before that and fails too tells nothing new.
    epoch: Option<Instant>,
    until: Option<Instant>,
    last_success: Option<Instant>,
    /// Pauses in a row without any answer, and when the first of them began.
    rounds: u32,
    rounds_since: Option<Instant>,
    /// A piece of work used up its budget, or as many pauses passed as a budget has attempts, and in all that time there was no
    /// answer. (Of many requests that wait for a pause's end only the first few are sent before a failure begins the next pause:
    /// their own budgets would last for as many pauses as there are requests.)
    failing: bool,
    /// The error of all its images meanwhile, and when it is tried again.
    down: Option<Down>,
}

/// A host that answers no request.
#[derive(Debug)]
struct Down {
    cause: Error,
    outage: Outage,
    tried_again: Instant,
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

    /// A request was answered at `now`, whenever it was sent: the host is alive. A pause that began goes on.
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
        // Nothing waits for a host that is down.
        let own = if is_news && self.down.is_none() { self.next_delay(throttled) } else { Duration::ZERO };
        self.hold(own, now)
    }

    /// A request that was sent at `sent` was refused at `now`, like all others for some time, and the host's pause is known already.
    pub(crate) fn refused(&mut self, now: Instant, sent: Instant) {
        self.begins_round(now, sent, true);
    }

    /// Sends nothing for `pause` from `now` on. Returns by how much that makes the pause longer.
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

    /// Whether the host answers no request: work that fails now has no further attempt.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// The host is failing, with `cause`: all others fail with it from now on. Returns the outage that they share.
    pub(crate) fn goes_down(&mut self, cause: &Error, now: Instant) -> Outage {
        let tried_again = now + TRIED_AGAIN;
        if let Some(down) = &mut self.down {
            down.tried_again = tried_again;
            return down.outage.clone();
        }
        let outage = Outage::default();
        self.until = None;
        self.down = Some(Down { cause: cause.clone(), outage: outage.clone(), tried_again });
        outage
    }

    /// The error that a request fails with at once, unsent, because the host is down. One in [`TRIED_AGAIN`] is sent nevertheless: the one
    /// that `leaves` now.
    pub(crate) fn refuses(&mut self, now: Instant, leaves: bool) -> Option<(Error, Outage)> {
        let down = self.down.as_mut()?;
        if down.tried_again > now {
            return Some((down.cause.clone(), down.outage.clone()));
        }
        if leaves {
            down.tried_again = now + TRIED_AGAIN;
        }
        None
    }

    /// Counts a failure, unless its request was sent before the present pause began: then it tells nothing new.
    fn begins_round(&mut self, now: Instant, sent: Instant, throttled: bool) -> bool {
        if self.epoch.is_some_and(|epoch| sent < epoch) {
            return false;
        }
        self.epoch = Some(now);
        self.rounds = self.rounds.saturating_add(1);
        let since = *self.rounds_since.get_or_insert(now);
        // A host that refuses at random may refuse many requests in a row if only one at a time is sent.
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
    use crate::Operation;

    fn policy() -> RetryPolicy {
        RetryPolicy::default()
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
    async fn a_host_is_dead_after_as_many_pauses_as_a_budget_has_attempts() {
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
    async fn a_dead_host_fails_its_work_at_once_is_tried_again_every_30_s_and_recovers() {
        let mut host = Backoff::new(policy());
        let began = Instant::now();
        for _ in 0..7 {
            let sent = Instant::now();
            tokio::time::advance(host.failed(sent, sent, false)).await;
        }
        host.gave_up(began);
        assert_eq!(host.attempts(), 1);
        let outage = host.goes_down(&Error::local(Operation::GetManifest, "no answer"), Instant::now());
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
}
