//! Rate limits: pulls per window, as Docker Hub counts them, and requests per second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::ANONYMOUS;
use super::options::{Pulls, Rate};
use super::reply::{Reply, error, reply, with};

/// What one account has pulled in its window.
struct Window {
    start: Instant,
    spent: u32,
}

#[derive(Default)]
pub(super) struct Limits {
    windows: Mutex<HashMap<String, Window>>,
    pulled: Mutex<HashMap<String, u64>>,
    opened: Mutex<HashMap<String, u64>>,
    refused: AtomicU64,
    throttled: AtomicU64,
    bucket: Mutex<Option<(Instant, f64)>>,
}

impl Limits {
    /// Counts one pull of `account`, or refuses it.
    pub(super) fn pull(&self, pulls: &Pulls, account: &str) -> Result<(), Reply> {
        if self.spend(pulls, account, 1) {
            *self.pulled.lock().unwrap_or_else(PoisonError::into_inner).entry(account.to_owned()).or_default() += 1;
            return Ok(());
        }
        self.refused.fetch_add(1, SeqCst);
        // The two texts of docs/registries.md, "Docker Hub".
        let message = if account == ANONYMOUS {
            "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit".to_owned()
        } else {
            format!("You have reached your pull rate limit as '{account}': https://www.docker.com/increase-rate-limit")
        };
        let refusal = self.describe(pulls, account, error(429, "TOOMANYREQUESTS", message));
        Err(if pulls.retry_after { with(refusal, "retry-after", self.left(pulls, account).to_string()) } else { refusal })
    }

    /// Spends `n` pulls, if the window has them.
    pub(super) fn spend(&self, pulls: &Pulls, account: &str, n: u32) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let window = windows.entry(account.to_owned()).or_insert(Window { start: now, spent: 0 });
        if window.spent == 0 || now.duration_since(window.start) >= pulls.window {
            *window = Window { start: now, spent: 0 };
        }
        let fits = window.spent + n <= limit(pulls, account);
        if fits && n > 0 {
            if window.spent == 0 {
                *self.opened.lock().unwrap_or_else(PoisonError::into_inner).entry(account.to_owned()).or_default() += 1;
            }
            window.spent += n;
        }
        fits
    }

    /// Adds what the account has left to an answer.
    pub(super) fn describe(&self, pulls: &Pulls, account: &str, reply: Reply) -> Reply {
        if !pulls.headers {
            return reply;
        }
        let seconds = pulls.window.as_secs_f64().ceil();
        let limit = limit(pulls, account);
        let remaining = limit.saturating_sub(self.spent(pulls, account));
        let source = if account == ANONYMOUS { "127.0.0.1".to_owned() } else { format!("account-of-{account}") };
        let reply = with(reply, "ratelimit-limit", format!("{limit};w={seconds}"));
        let reply = with(reply, "ratelimit-remaining", format!("{remaining};w={seconds}"));
        with(reply, "docker-ratelimit-source", source)
    }

    /// Spent in the window that is open now.
    pub(super) fn spent(&self, pulls: &Pulls, account: &str) -> u32 {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.get(account).filter(|window| window.start.elapsed() < pulls.window).map_or(0, |window| window.spent)
    }

    /// Whole seconds until the account's window ends.
    fn left(&self, pulls: &Pulls, account: &str) -> u64 {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let left = windows.get(account).map_or(pulls.window, |window| pulls.window.saturating_sub(window.start.elapsed()));
        left.as_secs_f64().ceil() as u64
    }

    /// Pulls answered, over all windows.
    pub(super) fn pulled(&self, account: &str) -> u64 {
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner).get(account).copied().unwrap_or(0)
    }

    /// Windows in which the account has pulled.
    pub(super) fn opened(&self, account: &str) -> u64 {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(account).copied().unwrap_or(0)
    }

    /// Ends all windows: as if their time were over.
    pub(super) fn end(&self) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(SeqCst)
    }

    pub(super) fn throttled(&self) -> u64 {
        self.throttled.load(SeqCst)
    }

    /// Lets a request through, or answers 429 as an abuse limit does.
    pub(super) fn request(&self, rate: &Rate) -> Result<(), Reply> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (since, tokens) = bucket.unwrap_or((now, rate.burst));
        let tokens = (tokens + now.duration_since(since).as_secs_f64() * rate.per_second).min(rate.burst);
        let allowed = tokens >= 1.0;
        *bucket = Some((now, if allowed { tokens - 1.0 } else { tokens }));
        if allowed {
            return Ok(());
        }
        self.throttled.fetch_add(1, SeqCst);
        let refusal = with(reply(429, "Too Many Requests\n"), "content-type", "text/plain");
        Err(match &rate.retry_after {
            Some(value) => with(refusal, "retry-after", value),
            None => refusal,
        })
    }
}

fn limit(pulls: &Pulls, account: &str) -> u32 {
    pulls.limits.iter().find(|(name, _)| name == account).map_or(pulls.limit, |(_, limit)| *limit)
}
