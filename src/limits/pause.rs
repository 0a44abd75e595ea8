//! `Retry-After`: no request is sent to a host for as long as it asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::mutex::{Mutex, MutexGuard};

/// The pause of one host.
#[derive(Debug)]
pub struct Pause {
    /// `retry_after_max`: a longer pause is not waited for.
    most: Duration,
    state: Mutex<PauseState>,
}

#[derive(Debug, Default)]
struct PauseState {
    until: Option<Instant>,
    /// The host asked for more than we wait: its images are deferred until then.
    away: Option<Instant>,
    throttled: u64,
    waiting: Stopwatch,
}

/// What a request to the host may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseVerdict {
    /// Leave.
    Go,
    /// Wait until then, and ask again: the pause may have grown.
    Wait(Instant),
    /// Do not wait: the host asked for a pause until then.
    Defer(Instant),
}

impl Pause {
    /// `retry_after_max` where the configuration sets none.
    pub const DEFAULT_MOST: Duration = Duration::from_secs(5 * 60);

    /// A host that may ask for pauses of up to `most`.
    pub fn new(most: Duration) -> Self {
        Pause { most, state: Mutex::default() }
    }

    /// The host was heard to throttle, and asked for `wait`. A shorter wish never shortens a longer one.
    pub fn hold(&self, wait: Duration, now: Instant) -> PauseVerdict {
        let mut state = self.lock();
        state.throttled += 1;
        let end = now.checked_add(wait).unwrap_or(now);
        let slot = if wait > self.most { &mut state.away } else { &mut state.until };
        *slot = Some(slot.map_or(end, |known| known.max(end)));
        state.verdict(now)
    }

    /// What a request may do now.
    pub fn check(&self, now: Instant) -> PauseVerdict {
        self.lock().verdict(now)
    }

    /// Waits until the pause is over, however often it grows. `Err`: it is longer than `retry_after_max`, until then.
    pub async fn passed(&self) -> Result<(), Instant> {
        loop {
            match self.check(Instant::now()) {
                PauseVerdict::Go => return Ok(()),
                PauseVerdict::Defer(until) => return Err(until),
                PauseVerdict::Wait(until) => {
                    let _waiting = PauseWait::start(self);
                    tokio::time::sleep_until(until).await;
                }
            }
        }
    }

    /// How often the host throttled.
    pub fn throttled(&self) -> u64 {
        self.lock().throttled
    }

    /// How long requests waited for it (two at a time are counted once).
    pub fn waited(&self) -> Duration {
        self.lock().waiting.total(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, PauseState> {
        self.state.lock()
    }
}

impl PauseState {
    fn verdict(&self, now: Instant) -> PauseVerdict {
        match (self.away.filter(|end| *end > now), self.until.filter(|end| *end > now)) {
            (Some(end), _) => PauseVerdict::Defer(end),
            (None, Some(end)) => PauseVerdict::Wait(end),
            (None, None) => PauseVerdict::Go,
        }
    }
}

struct PauseWait<'a>(&'a Pause);

impl<'a> PauseWait<'a> {
    fn start(pause: &'a Pause) -> Self {
        pause.lock().waiting.enter(Instant::now());
        PauseWait(pause)
    }
}

impl Drop for PauseWait<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting.leave(Instant::now());
    }
}

/// The time during which at least one was waiting.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    waiting: usize,
    since: Option<Instant>,
    total: Duration,
}

impl Stopwatch {
    pub(super) fn enter(&mut self, now: Instant) {
        self.waiting += 1;
        self.since.get_or_insert(now);
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0
            && let Some(since) = self.since.take()
        {
            self.total += now.duration_since(since);
        }
    }

    pub(super) fn total(&self, now: Instant) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn all_requests_wait_for_as_long_as_the_host_asked() {
        let pause = Arc::new(Pause::new(Duration::from_secs(300)));
        let start = Instant::now();
        assert_eq!(pause.hold(120 * SECOND, start), PauseVerdict::Wait(start + 120 * SECOND));
        let all: Vec<_> = (0..10)
            .map(|_| {
                let pause = Arc::clone(&pause);
                tokio::spawn(async move { pause.passed().await.map(|()| start.elapsed()) })
            })
            .collect();
        tokio::time::sleep(60 * SECOND).await;
        // Shorter: nothing changes. Longer: all that wait go on waiting.
        pause.hold(SECOND, Instant::now());
        pause.hold(90 * SECOND, Instant::now());
        for one in all {
            assert_eq!(one.await.unwrap(), Ok(150 * SECOND));
        }
        assert_eq!(pause.waited(), 150 * SECOND);
        assert_eq!(pause.throttled(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_beyond_the_maximum_is_not_waited_for() {
        let pause = Pause::new(300 * SECOND);
        let end = Instant::now() + 301 * SECOND;
        assert_eq!(pause.hold(301 * SECOND, Instant::now()), PauseVerdict::Defer(end));
        assert_eq!(pause.passed().await, Err(end));
        tokio::time::advance(301 * SECOND).await;
        assert_eq!(pause.passed().await, Ok(()));
        assert_eq!(pause.waited(), Duration::ZERO);
    }
}
