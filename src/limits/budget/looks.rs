//! When to look at an account by HEAD, which costs no pull.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::window::Window;

/// Looks at a spent window while its end is awaited: 15 minutes apart for six hours. If the window began before it was first seen, a look
/// finds its end on average half a window before the latest possible moment.
const LOOKS_PER_WINDOW: u32 = 24;
/// The shortest time between two looks. Shorter windows end by themselves soon enough.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);

/// A request that is sent this much after a moment was not sent before it.
const JUST_AFTER: Duration = Duration::from_millis(1);

/// When looks were taken, and when the next is due.
#[derive(Debug, Clone, Default)]
pub(super) struct LookTimes {
    latest: Option<Instant>,
    /// `Retry-After` of a refusal is over then, which is worth a look.
    suggested: Option<Instant>,
}

impl LookTimes {
    /// A look was taken.
    pub(super) fn taken(&mut self, now: Instant) {
        self.latest = Some(now);
    }

    /// Whether no look was taken yet.
    pub(super) fn is_first(&self) -> bool {
        self.latest.is_none()
    }

    /// A look at `at` is worth it, beside the regular ones; `None`: not any more.
    pub(super) fn suggest(&mut self, at: Option<Instant>) {
        self.suggested = at;
    }

    /// When the next look at `window` is due. `None` if the upstream has not said anything of it.
    pub(super) fn due(&self, window: &Window<Instant>) -> Option<Instant> {
        let heard = window.heard.as_ref()?;
        let every = (window.length / LOOKS_PER_WINDOW).max(SHORTEST_INTERVAL);
        let due = self.latest.map_or(heard.arrived, |latest| latest.max(heard.arrived)) + every;
        let suggested = self.suggested.filter(|at| self.latest.is_none_or(|latest| latest < *at));
        [Some(due), suggested, self.unheard_due(window)].into_iter().flatten().min()
    }

    /// When to ask whether unconfirmed pulls of `window` were counted. `None`: there are none, or an answer has told since.
    pub(super) fn unheard_due(&self, window: &Window<Instant>) -> Option<Instant> {
        let window = Some(window).filter(|window| window.unconfirmed > 0 && window.heard.is_some())?;
        let after = window.unheard_at? + JUST_AFTER;
        self.latest.is_none_or(|latest| latest < after).then_some(after)
    }
}
