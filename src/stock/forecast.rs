//! What a plan costs: per account, the pulls it needs, the windows and hours that takes, and what tonight would deliver. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::plan::{Planned, State};
use crate::limits::{AccountId, Standing};

/// What one account will spend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccountPlan {
    /// The upstream.
    pub host: String,
    /// Whom it counts.
    pub account: String,
    /// Whom the upstream says it counts (an address, an account's id).
    pub source: Option<String>,
    /// Images that need pulls.
    pub images: u64,
    /// Pulls they need, at most.
    pub pulls: u64,
    /// Whether that is exact: everything is known, nothing estimated.
    pub exact: bool,
    /// Pulls per window; null: not counted, or not known.
    pub limit: Option<u64>,
    /// Pulls left now; null likewise.
    pub left: Option<u64>,
    /// The window's length in seconds.
    pub window_seconds: Option<u64>,
    /// When the present window ends at the latest (RFC 3339).
    pub closes: Option<String>,
    /// Windows it takes, the present one included; null where nothing limits it.
    pub windows: Option<u64>,
    /// Hours until the last image can be pulled; 0 where what is left suffices.
    pub hours: f64,
    /// Images that what is left now suffices for.
    pub tonight: u64,
    /// Images that must wait for another window.
    pub later: u64,
}

/// An image's priority, what it costs at most, and whether that is exact; in the order of a run.
type Priced = (std::cmp::Reverse<i64>, u64, bool);

/// Sums a plan up by account. `standings` is what is known of each account now.
pub fn forecast(planned: &[Planned], standings: &[(AccountId, Standing)], now: Timestamp) -> Vec<AccountPlan> {
    let mut costs: BTreeMap<&AccountId, Vec<Priced>> = BTreeMap::new();
    for (account, _) in standings {
        costs.entry(account).or_default();
    }
    for image in planned.iter().filter(|image| image.state != State::Unresolvable) {
        if let (Some(account), Some(cost)) = (&image.account, image.cost) {
            costs.entry(account).or_default().push((std::cmp::Reverse(image.priority), cost.pulls, cost.exact));
        }
    }
    let standing = |account: &AccountId| standings.iter().find(|(known, _)| known == account).map(|(_, standing)| standing);
    costs.into_iter().map(|(account, images)| one(account, images, standing(account), now)).collect()
}

fn one(account: &AccountId, mut images: Vec<Priced>, standing: Option<&Standing>, now: Timestamp) -> AccountPlan {
    // The order of a run: priority, then cost.
    images.sort_unstable();
    let pulls: u64 = images.iter().map(|(_, pulls, _)| pulls).sum();
    let (limit, left) = (standing.and_then(|standing| standing.limit), standing.and_then(|standing| standing.remaining));
    let window = standing.and_then(|standing| standing.window);
    let closes = standing.and_then(|standing| standing.closes);
    let tonight = match left {
        None => images.len() as u64,
        Some(left) => covered(&images, left),
    };
    let windows = left.map(|left| windows(pulls, left, limit));
    AccountPlan {
        host: account.host.clone(),
        account: account.name.clone(),
        source: standing.and_then(|standing| standing.source.clone()),
        images: images.iter().filter(|(_, pulls, _)| *pulls > 0).count() as u64,
        pulls,
        exact: images.iter().all(|(.., exact)| *exact),
        limit,
        left,
        window_seconds: window.map(|window| window.as_secs()),
        closes: closes.map(|at| at.to_string()),
        windows,
        hours: windows.map_or(0.0, |windows| hours(windows, window, closes, now)),
        tonight,
        later: images.len() as u64 - tonight,
    }
}

/// How many images `left` pulls suffice for, in order; one that does not fit is passed over by those that do.
fn covered(images: &[Priced], mut left: u64) -> u64 {
    let mut count = 0;
    for (_, pulls, _) in images {
        if *pulls <= left {
            left -= pulls;
            count += 1;
        }
    }
    count
}

/// Windows until `pulls` are spent, the present one included.
fn windows(pulls: u64, left: u64, limit: Option<u64>) -> u64 {
    match pulls.saturating_sub(left) {
        0 => 1,
        rest => 1 + rest.div_ceil(limit.unwrap_or(1).max(1)),
    }
}

/// Hours until the last of `windows` opens. A window whose end is not known has its whole length before it.
fn hours(windows: u64, window: Option<Duration>, closes: Option<Timestamp>, now: Timestamp) -> f64 {
    let Some(window) = window.filter(|_| windows > 1) else { return 0.0 };
    let first = closes.and_then(|closes| Duration::try_from(closes.duration_since(now)).ok()).unwrap_or(window);
    let more = u32::try_from(windows - 2).unwrap_or(u32::MAX);
    let seconds = first.as_secs_f64() + window.as_secs_f64() * f64::from(more);
    (seconds / 36.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::Cost;
    use crate::report::Outcome;

    fn image(priority: i64, pulls: u64) -> Planned {
        Planned {
            order: 0,
            row: Outcome::new("docker.io/a:1", "a:1", "l", 1),
            state: State::Missing,
            selection: None,
            cost: Some(Cost { pulls, likely: Some(pulls), exact: true }),
            account: Some(account()),
            priority,
        }
    }

    fn account() -> AccountId {
        AccountId { host: "docker.io".into(), name: "hub".into() }
    }

    fn standing(limit: u64, remaining: u64, closes: Timestamp) -> Standing {
        Standing {
            spent: 0,
            refused: 0,
            limit: Some(limit),
            remaining: Some(remaining),
            window: Some(Duration::from_secs(6 * 3600)),
            source: Some("198.51.100.7".into()),
            closes: Some(closes),
            unlimited: false,
            waited: Duration::ZERO,
            waiting: 0,
        }
    }

    #[test]
    fn windows_hours_and_tonight_are_told() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let closes: Timestamp = "2026-01-01T01:30:00Z".parse().unwrap();
        let images: Vec<Planned> = std::iter::repeat_n(image(0, 3), 80).chain([image(9, 7)]).collect();
        let plan = &forecast(&images, &[(account(), standing(100, 20, closes))], now)[0];
        // 247 pulls: 20 now, 100 when the window opens, 100 and 27 in the two after it.
        assert_eq!((plan.pulls, plan.windows, plan.hours), (247, Some(4), 1.5 + 6.0 + 6.0));
        // The one with priority (7), then four of 3.
        assert_eq!((plan.tonight, plan.later), (5, 76));
    }

    #[test]
    fn what_fits_needs_no_waiting_and_what_is_not_counted_no_windows() {
        let now = Timestamp::UNIX_EPOCH;
        let enough = &forecast(&[image(0, 3)], &[(account(), standing(100, 3, now))], now)[0];
        assert_eq!((enough.windows, enough.hours, enough.tonight), (Some(1), 0.0, 1));
        let uncounted = &forecast(&[image(0, 3)], &[], now)[0];
        assert_eq!((uncounted.windows, uncounted.tonight, uncounted.left), (None, 1, None));
    }
}
