//! What a plan costs: per account, the pulls it needs, the windows and hours that takes, and which images each window delivers. Windows go
//! by what images are expected to cost. Pure.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::plan::{Planned, PlannedState};
use crate::content::Digest;
use crate::limits::{AccountId, AccountStatus};

/// More windows than this are a month of Docker Hub's: a forecast beyond it is no help.
const MOST_OPENINGS: usize = 120;

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
    /// Pulls they are expected to need.
    pub pulls: u64,
    /// Pulls they need, at most.
    pub pulls_at_most: u64,
    /// Whether that is exact: everything is known, nothing estimated.
    pub exact: bool,
    /// Bytes to be read, of the images of which that is known; a blob of several counts once.
    pub bytes: u64,
    /// Images of which it is not.
    pub bytes_unknown: u64,
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
    /// What each window delivers, the present one first; empty where nothing limits it.
    pub schedule: Vec<Opening>,
}

/// One window of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opening {
    /// When it opens at the latest (RFC 3339); null: it is open.
    pub opens: Option<String>,
    /// Images that it delivers.
    pub images: u64,
    /// Pulls that it spends.
    pub pulls: u64,
}

/// An image's priority, and what it is expected to cost; in the order of a run.
type Priced = (std::cmp::Reverse<i64>, u64);

/// What is planned for one account.
#[derive(Default)]
struct Needs<'a> {
    images: Vec<Priced>,
    at_most: u64,
    estimated: bool,
    bytes: u64,
    blobs: HashSet<&'a Digest>,
    bytes_unknown: u64,
}

/// Sums a plan up by account. `standings` is what is known of each account now.
pub fn forecast(planned: &[Planned], standings: &[(AccountId, AccountStatus)], now: Timestamp) -> Vec<AccountPlan> {
    let mut accounts: BTreeMap<&AccountId, Needs<'_>> = BTreeMap::new();
    for (account, _) in standings {
        accounts.entry(account).or_default();
    }
    for image in planned.iter().filter(|image| image.state != PlannedState::Unresolvable) {
        if let (Some(account), Some(cost)) = (&image.account, image.cost) {
            let needs = accounts.entry(account).or_default();
            needs.images.push((std::cmp::Reverse(image.priority), cost.pulls));
            needs.at_most += cost.at_most;
            needs.estimated |= !cost.exact;
            match &image.blobs {
                Some(blobs) => {
                    let new = blobs.iter().filter(|blob| needs.blobs.insert(&blob.digest));
                    needs.bytes += new.map(|blob| blob.size).sum::<u64>();
                }
                None => needs.bytes_unknown += 1,
            }
        }
    }
    let standing = |account: &AccountId| standings.iter().find(|(known, _)| known == account).map(|(_, standing)| standing);
    accounts.into_iter().map(|(account, needs)| one(account, needs, standing(account), now)).collect()
}

fn one(account: &AccountId, mut needs: Needs<'_>, standing: Option<&AccountStatus>, now: Timestamp) -> AccountPlan {
    // The order of a run: priority, then cost.
    needs.images.sort_unstable();
    let images = needs.images.len() as u64;
    let (limit, left) = (standing.and_then(|standing| standing.limit), standing.and_then(|standing| standing.remaining));
    let window = standing.and_then(|standing| standing.window);
    let closes = standing.and_then(|standing| standing.closes);
    let pulls: u64 = needs.images.iter().map(|(_, pulls)| pulls).sum();
    let with_pulls = needs.images.iter().filter(|(_, pulls)| *pulls > 0).count() as u64;
    let filled = left.map(|left| fill(&needs.images, left, limit.unwrap_or(1)));
    let opens = |nth: usize| opening(nth, window, closes, now);
    let tonight = filled.as_ref().map_or(images, |filled| filled.windows.first().map_or(0, |(images, _)| *images));
    let windows = filled.as_ref().map(|filled| (filled.windows.len() as u64 + filled.more).max(1));
    let last = windows.and_then(|windows| opens(usize::try_from(windows - 1).unwrap_or(usize::MAX)));
    let schedule = filled.iter().flat_map(|filled| filled.windows.iter().enumerate());
    let schedule = schedule.map(|(nth, (images, pulls))| Opening { opens: opens(nth).map(second), images: *images, pulls: *pulls });
    AccountPlan {
        host: account.host.clone(),
        account: account.name.clone(),
        source: standing.and_then(|standing| standing.source.clone()),
        images: with_pulls,
        pulls,
        pulls_at_most: needs.at_most,
        exact: !needs.estimated,
        bytes: needs.bytes,
        bytes_unknown: needs.bytes_unknown,
        limit,
        left,
        window_seconds: window.map(|window| window.as_secs()),
        closes: closes.map(second),
        windows,
        hours: last.map_or(0.0, |last| (last.duration_since(now).as_secs_f64().max(0.0) / 36.0).round() / 100.0),
        tonight,
        later: images - tonight,
        schedule: if images == 0 { vec![] } else { schedule.collect() },
    }
}

/// A time to the second.
fn second(at: Timestamp) -> String {
    at.round(jiff::Unit::Second).unwrap_or(at).to_string()
}

/// What windows deliver.
struct Filled {
    /// Images and pulls of each.
    windows: Vec<(u64, u64)>,
    /// Windows after these.
    more: u64,
}

/// Fills windows in order, the first with `left` pulls, the others with `limit`. An image that does not fit is passed over by those that
/// do; one that is larger than a window begins in a fresh one, and goes on in the next.
fn fill(images: &[Priced], left: u64, limit: u64) -> Filled {
    let limit = limit.max(1);
    let mut waiting: Vec<Priced> = images.to_vec();
    let mut windows = vec![];
    // What an image that has begun still needs.
    let (mut room, mut begun) = (left, 0);
    while !waiting.is_empty() || begun > 0 {
        if windows.len() == MOST_OPENINGS {
            let rest = begun + waiting.iter().map(|(_, pulls)| pulls).sum::<u64>();
            return Filled { windows, more: rest.div_ceil(limit) };
        }
        let (mut delivered, mut spent) = (0, 0);
        if begun > 0 {
            spent = begun.min(room);
            begun -= spent;
            delivered += u64::from(begun == 0);
        }
        if begun == 0 {
            waiting.retain(|(_, pulls)| {
                let fits = *pulls <= room - spent;
                (delivered, spent) = if fits { (delivered + 1, spent + pulls) } else { (delivered, spent) };
                !fits
            });
            if spent == 0 && room == limit && !waiting.is_empty() {
                let (_, pulls) = waiting.remove(0);
                (begun, spent) = (pulls - room, room);
            }
        }
        windows.push((delivered, spent));
        room = limit;
    }
    Filled { windows, more: 0 }
}

/// When the window `nth` after the present one opens, at the latest. A window whose end is not known has its whole length before it.
fn opening(nth: usize, window: Option<Duration>, closes: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let window = window.filter(|_| nth > 0)?;
    let first = closes.unwrap_or_else(|| now.checked_add(window).unwrap_or(now));
    first.checked_add(window.checked_mul(u32::try_from(nth - 1).ok()?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::Cost;
    use crate::report::ImageOutcome;

    fn image(priority: i64, pulls: u64) -> Planned {
        Planned {
            order: 0,
            row: ImageOutcome::new("docker.io/a:1", "a:1", "l", 1),
            state: PlannedState::Missing,
            selection: None,
            cost: Some(Cost { pulls, at_most: pulls, exact: true }),
            blobs: None,
            account: Some(account()),
            priority,
            shares_manifests: true,
        }
    }

    fn account() -> AccountId {
        AccountId { host: "docker.io".into(), name: "hub".into() }
    }

    fn standing(limit: u64, remaining: u64, closes: Timestamp) -> AccountStatus {
        AccountStatus {
            spent: 0,
            refused: 0,
            limit: Some(limit),
            remaining: Some(remaining),
            told: Some(remaining),
            window: Some(Duration::from_secs(6 * 3600)),
            source: Some("198.51.100.7".into()),
            closes: Some(closes),
            unlimited: false,
            waited: Duration::ZERO,
            waiting: 0,
            waiting_for_window: 0,
        }
    }

    #[test]
    fn windows_hours_and_tonight_are_told() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let closes: Timestamp = "2026-01-01T01:30:00Z".parse().unwrap();
        let images: Vec<Planned> = std::iter::repeat_n(image(0, 3), 80).chain([image(9, 7)]).collect();
        let plan = &forecast(&images, &[(account(), standing(100, 20, closes))], now)[0];
        // 247 pulls: 19 now, 99 when the window opens, 99 and 30 in the two after it.
        assert_eq!((plan.pulls, plan.windows, plan.hours), (247, Some(4), 1.5 + 6.0 + 6.0));
        // The one with priority (7), then four of 3.
        assert_eq!((plan.tonight, plan.later), (5, 76));
        let schedule: Vec<_> = plan.schedule.iter().map(|opening| (opening.opens.as_deref(), opening.images, opening.pulls)).collect();
        let at = |time| Some(time);
        assert_eq!(
            schedule,
            [
                (None, 5, 19),
                (at("2026-01-01T01:30:00Z"), 33, 99),
                (at("2026-01-01T07:30:00Z"), 33, 99),
                (at("2026-01-01T13:30:00Z"), 10, 30)
            ]
        );
    }

    #[test]
    fn windows_go_by_what_is_expected_and_a_large_image_goes_on_in_the_next() {
        let now = Timestamp::UNIX_EPOCH;
        let mut large = image(0, 25);
        large.cost = Some(Cost { pulls: 25, at_most: 90, exact: false });
        let plan = &forecast(&[large, image(0, 2)], &[(account(), standing(10, 10, now))], now)[0];
        assert_eq!((plan.pulls, plan.pulls_at_most, plan.exact, plan.windows), (27, 92, false, Some(4)));
        let schedule: Vec<_> = plan.schedule.iter().map(|opening| (opening.images, opening.pulls)).collect();
        assert_eq!(schedule, [(1, 2), (0, 10), (0, 10), (1, 5)]);
    }

    #[test]
    fn bytes_are_summed_where_they_are_known_and_a_shared_blob_counts_once() {
        let blob = |n: u8, size| crate::content::Descriptor::new("", Digest::sha256(&[n]), size);
        let known = |blobs: Vec<_>| Planned { blobs: Some(blobs), ..image(0, 1) };
        let images = [known(vec![blob(1, 100), blob(2, 10)]), known(vec![blob(1, 100), blob(3, 1)]), image(0, 1)];
        let plan = &forecast(&images, &[], Timestamp::UNIX_EPOCH)[0];
        assert_eq!((plan.bytes, plan.bytes_unknown), (111, 1));
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
