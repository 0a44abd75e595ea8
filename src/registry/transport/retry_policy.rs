//! How often and how soon failed requests are sent again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

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
    /// No wait that larder chooses is longer. 30 s: an operator who watches sees something happen.
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

/// The first pause of a host that refuses all requests (429, 503) and does not say for how long. One second: limiters count by the second.
const SECOND: Duration = Duration::from_secs(1);

/// The longest pause of a host that refuses all requests and does not say for how long.
const LONGEST_REST: Duration = Duration::from_secs(8);

/// A host that refuses all requests for their pace gets this many times the attempts of one that does not answer: it is alive, and its
/// window of a minute will open again.
pub(super) const REFUSALS: u32 = 2;

/// A host that has answered a request within this time is alive: its refusals (429, 503) are about the pace alone. One minute is the
/// longest window that limiters of requests commonly have.
pub(super) const RECENTLY: Duration = Duration::from_secs(60);

/// Waits, one after the other.
pub(super) type Delays = <ExponentialBuilder as BackoffBuilder>::Backoff;

impl RetryPolicy {
    /// The waits of a request that fails, or of a host that does.
    pub(super) fn delays(&self) -> Delays {
        self.delays_within(self.base, self.cap)
    }

    /// The pauses of a host that refuses all requests for their pace.
    pub(super) fn rests(&self) -> Delays {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_within_their_spread_up_to_the_cap() {
        let policy = RetryPolicy::default();
        let mut delays = policy.delays();
        for most in [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            let delay = delays.next().unwrap();
            let most = Duration::from_millis(most);
            assert!(delay >= most / 2 && delay <= most, "{delay:?} of {most:?}");
        }
        // Two hosts, or two requests, do not keep step.
        let (a, b): (Vec<_>, Vec<_>) = (policy.delays().take(6).collect(), policy.delays().take(6).collect());
        assert_ne!(a, b);
    }
}
