//! Requests per second: a token bucket, kept as the one time at which the next request would be exactly on pace.

use std::time::Duration;

use tokio::time::Instant;

use crate::mutex::Mutex;

/// At most so many requests a second, with bursts up to a size. Requests leave in the order in which they asked.
#[derive(Debug)]
pub struct RequestPacer {
    /// Between two requests on pace.
    interval: Duration,
    /// How far ahead of the pace requests may run: `burst - 1` intervals.
    ahead: Duration,
    next: Mutex<Option<Instant>>,
}

impl RequestPacer {
    /// `per_second` requests a second (a fraction is fine: 0.5 is one every two seconds), up to `burst` of them at once.
    /// `None` for what is no rate: zero, negative, infinite, or slower than one request a day.
    pub fn new(per_second: f64, burst: u32) -> Option<Self> {
        const SLOWEST: f64 = 1.0 / 86_400.0;
        if !per_second.is_finite() || per_second < SLOWEST {
            return None;
        }
        let interval = Duration::from_secs_f64(1.0 / per_second);
        Some(RequestPacer { interval, ahead: interval.saturating_mul(burst.max(1) - 1), next: Mutex::new(None) })
    }

    /// Takes one turn and says when it may be used: at `now`, or later.
    pub fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let on_pace = next.unwrap_or(now).max(now);
        *next = Some(on_pace + self.interval);
        on_pace.checked_sub(self.ahead).map_or(now, |at| at.max(now))
    }

    /// Waits for a turn. A task that stops waiting leaves a gap: slower than allowed, never faster.
    pub async fn turn(&self) {
        tokio::time::sleep_until(self.take(Instant::now())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_the_pace() {
        let pace = RequestPacer::new(2.0, 3).unwrap();
        let start = Instant::now();
        let mut left = Vec::new();
        for _ in 0..6 {
            pace.turn().await;
            left.push(start.elapsed().as_millis());
        }
        assert_eq!(left, [0, 0, 0, 500, 1000, 1500]);
    }

    #[tokio::test(start_paused = true)]
    async fn fractions_of_a_request_per_second() {
        let pace = RequestPacer::new(0.25, 1).unwrap();
        let start = Instant::now();
        pace.turn().await;
        pace.turn().await;
        pace.turn().await;
        assert_eq!(start.elapsed(), Duration::from_secs(8));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9] {
            assert!(RequestPacer::new(rate, 1).is_none(), "{rate}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate(rate in 0.1f64..50.0, burst in 1u32..20, gaps in prop::collection::vec(0u64..2000, 1..100)) {
            let pace = RequestPacer::new(rate, burst).unwrap();
            let mut now = Instant::now();
            let mut left = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                left.push(pace.take(now));
            }
            for (i, first) in left.iter().enumerate() {
                for (j, last) in left.iter().enumerate().skip(i) {
                    let allowed = f64::from(burst) + (*last - *first).as_secs_f64() * rate;
                    prop_assert!((j - i + 1) as f64 <= allowed + 1e-3);
                }
            }
        }
    }
}
