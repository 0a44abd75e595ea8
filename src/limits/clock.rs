//! Two clocks, one time: the steady one that timers run on, and the wall's, which files and people read.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// A point in time that a [`super::window::Window`] can be kept in: steady within a run, wall time in the ledger.
pub(super) trait Moment: Copy + Ord {
    /// This point and `by` later; the end of time where that overflows.
    fn plus(self, by: Duration) -> Self;
}

impl Moment for Instant {
    fn plus(self, by: Duration) -> Self {
        self.checked_add(by).unwrap_or(self)
    }
}

impl Moment for Timestamp {
    fn plus(self, by: Duration) -> Self {
        self.checked_add(by).unwrap_or(Timestamp::MAX)
    }
}

/// Both clocks are read so close together, usually at the first attempt.
const CLOSE_TOGETHER: Duration = Duration::from_millis(1);
/// Attempts after which the best reading has to do.
const MOST_READINGS: u32 = 20;

/// Ties the steady clock to the wall clock, once, so that a run sees one consistent time. A machine that sleeps makes
/// this wall clock run late: windows then seem to open later than they do, which costs time and never a refusal.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    steady: Instant,
    wall: Timestamp,
}

impl Clock {
    /// From now on, with `wall` as the wall's time.
    pub fn start(wall: Timestamp) -> Self {
        Clock { steady: Instant::now(), wall }
    }

    /// From now on, with the machine's time. Processes that share a ledger compare their times, so both clocks are read within a
    /// millisecond, or as close together as a busy machine lets us.
    pub fn of_system() -> Self {
        let read = || {
            let steady = Instant::now();
            let wall = Timestamp::now();
            (steady.elapsed(), Clock { steady, wall })
        };
        let mut best = read();
        for _ in 0..MOST_READINGS {
            if best.0 < CLOSE_TOGETHER {
                break;
            }
            let next = read();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }

    /// The wall time now.
    pub fn now(&self) -> Timestamp {
        self.wall(Instant::now())
    }

    /// The wall time of a steady one.
    pub fn wall(&self, at: Instant) -> Timestamp {
        match at.checked_duration_since(self.steady) {
            Some(after) => self.wall.plus(after),
            None => self.wall.checked_sub(self.steady.duration_since(at)).unwrap_or(Timestamp::MIN),
        }
    }

    /// The steady time of a wall time. What lies further back than the steady clock reaches becomes its beginning.
    pub fn steady(&self, at: Timestamp) -> Instant {
        match Duration::try_from(at.duration_since(self.wall)) {
            Ok(after) => self.steady.plus(after),
            Err(_) => {
                let before = Duration::try_from(self.wall.duration_since(at)).unwrap_or_default();
                self.steady.checked_sub(before).unwrap_or(self.steady)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn both_ways_agree_before_and_after_the_start() {
        let wall: Timestamp = "2026-03-01T02:00:00Z".parse().unwrap();
        let clock = Clock::start(wall);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().to_string(), "2026-03-01T02:01:30Z");
        for at in ["2026-03-01T01:59:00Z", "2026-03-01T02:00:00Z", "2026-03-02T00:00:00Z"] {
            let at: Timestamp = at.parse().unwrap();
            assert_eq!(clock.wall(clock.steady(at)), at);
        }
    }
}
