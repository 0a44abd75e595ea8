//! Months of nights under a paused clock: images, workers, and an upstream that counts as Docker Hub does.
//!
//! The upstream's window begins with its first pull; it counts manifest GETs that it answers, HEADs are free, and both say what
//! remains. Requests and answers take a while, each its own, so that answers come out of order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::headers::tests::quota_of;
use super::*;

use crate::mutex::Mutex;

pub(super) const WINDOW: Duration = Duration::from_secs(6 * 3600);

/// The upstream, and what it counted.
pub(super) struct Hub {
    pub(super) limit: u64,
    /// It says what remains.
    pub(super) headers: bool,
    state: Mutex<HubState>,
}

#[derive(Default)]
struct HubState {
    opened: Option<Instant>,
    used: u64,
    random: u64,
    count: Count,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Count {
    pub(super) windows: u64,
    pub(super) gets: u64,
    pub(super) heads: u64,
    pub(super) refusals: u64,
    pub(super) refusals_in_window: u64,
    pub(super) most_refusals_in_window: u64,
}

impl Hub {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Hub { limit, headers: true, state: Mutex::new(HubState { random: 0x9E37_79B9_7F4A_7C15, ..HubState::default() }) })
    }

    /// An upstream that counts without saying so.
    pub(super) fn silent(limit: u64) -> Arc<Self> {
        Arc::new(Hub { headers: false, ..Arc::into_inner(Self::new(limit)).unwrap() })
    }

    pub(super) fn count(&self) -> Count {
        self.state.lock().count.clone()
    }

    /// Up to `most` milliseconds, at least one (xorshift: the same every time).
    async fn delay(&self, most: u64) {
        let millis = {
            let random = &mut self.state.lock().random;
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            1 + *random % most
        };
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// A pull, without its way there and back; `None`: refused.
    pub(super) fn pull(&self, ours: bool) -> Option<u64> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.opened.is_some_and(|opened| opened + WINDOW <= now) {
            (state.opened, state.used, state.count.refusals_in_window) = (None, 0, 0);
        }
        if state.used >= self.limit {
            if ours {
                state.count.refusals += 1;
                state.count.refusals_in_window += 1;
                state.count.most_refusals_in_window = state.count.most_refusals_in_window.max(state.count.refusals_in_window);
            }
            return None;
        }
        if state.opened.is_none() {
            state.opened = Some(now);
            state.count.windows += 1;
        }
        state.used += 1;
        state.count.gets += u64::from(ours);
        Some(self.limit - state.used)
    }

    fn says(&self, left: u64) -> Quota {
        if self.headers { quota_of(self.limit, left, WINDOW) } else { Quota::default() }
    }

    /// GET of a manifest.
    pub(super) async fn get(&self) -> Option<Quota> {
        self.delay(60).await;
        let left = self.pull(true);
        self.delay(400).await;
        left.map(|left| self.says(left))
    }

    pub(super) async fn head(&self) -> Quota {
        self.delay(60).await;
        let left = {
            let mut state = self.state.lock();
            state.count.heads += 1;
            let over = state.opened.is_some_and(|opened| opened + WINDOW <= Instant::now());
            self.limit - if over { 0 } else { state.used }
        };
        self.delay(400).await;
        self.says(left)
    }
}

#[async_trait]
impl LimitProbe for Hub {
    async fn look(&self) -> Option<Quota> {
        Some(self.head().await)
    }
}

pub(super) fn account() -> AccountId {
    AccountId { host: "docker.io".to_owned(), name: "hub".to_owned() }
}

pub(super) fn clock() -> Clock {
    Clock::start("2026-03-01T02:00:00Z".parse::<Timestamp>().unwrap())
}

pub(super) fn far() -> WaitMode {
    WaitMode::WaitUntil(Instant::now() + Duration::from_secs(10 * 366 * 86_400))
}

/// Pulls one image: the index, then its children at once. Each manifest until it is there.
pub(super) async fn pull_image(gate: &Arc<Gate>, hub: &Arc<Hub>, pulls: u64, mode: WaitMode) -> Result<(), Deferred> {
    let sent = Instant::now();
    gate.observe(&hub.head().await, sent);
    pull_resolved(gate, hub, pulls, mode).await
}

async fn pull_resolved(gate: &Arc<Gate>, hub: &Arc<Hub>, pulls: u64, mode: WaitMode) -> Result<(), Deferred> {
    let lease = Lease::acquire(gate, PullRequest { pulls, priority: 0 }, mode).await?;
    pull_manifest(&lease, hub).await?;
    let mut children = JoinSet::new();
    for _ in 1..pulls {
        let (lease, hub) = (lease.clone(), Arc::clone(hub));
        children.spawn(async move { pull_manifest(&lease, &hub).await });
    }
    children.join_all().await.into_iter().collect()
}

async fn pull_manifest(lease: &Lease, hub: &Hub) -> Result<(), Deferred> {
    loop {
        let flight = lease.spend().await?;
        match hub.get().await {
            Some(quota) => return flight.answered_ok(&quota),
            None => flight.refused(None),
        }
    }
}

impl InFlightPull {
    fn answered_ok(self, quota: &Quota) -> Result<(), Deferred> {
        self.answered(quota);
        Ok(())
    }
}

/// All images at once, as an engine that starts whatever it may.
async fn run(gate: &Arc<Gate>, hub: &Arc<Hub>, images: impl IntoIterator<Item = u64>) {
    let mut all = JoinSet::new();
    let mode = far();
    for pulls in images {
        let (gate, hub) = (Arc::clone(gate), Arc::clone(hub));
        all.spawn(async move { pull_image(&gate, &hub, pulls, mode).await });
    }
    for outcome in all.join_all().await {
        assert_eq!(outcome, Ok(()));
    }
}

/// `single` images of one pull and `multi` of `cost`: the least number of windows that whole graphs need. (Single ones fill any rest.)
fn least_windows(single: u64, multi: u64, cost: u64, per_window: u64) -> u64 {
    let by_size = multi.div_ceil((per_window / cost).max(1));
    let by_sum = (single + multi * cost).div_ceil(per_window);
    by_size.max(by_sum)
}

#[tokio::test(start_paused = true)]
async fn the_least_number_of_windows_and_no_refusal() {
    for (single, multi, cost, limit, reserve, headers) in [
        (10, 0, 1, 100, 0, true),
        (250, 0, 1, 100, 0, true),
        (300, 0, 1, 100, 0, true),
        (200, 100, 3, 100, 0, true),
        (500, 500, 3, 200, 20, true),
        (0, 100, 3, 100, 0, true),
        // Smallest first would leave a rest in every window, and need one more.
        (3, 99, 3, 100, 0, true),
        (6, 30, 5, 13, 0, true),
        (60, 0, 1, 25, 0, false),
        (20, 40, 4, 25, 3, false),
        (2000, 1000, 2, 180, 20, true),
    ] {
        let hub = if headers { Hub::new(limit) } else { Hub::silent(limit) };
        let configured = PullLimit { limit: (!headers).then_some(limit), window: WINDOW, reserve };
        let gate = Accounts::new(clock(), None).gate(&account(), Some(configured), None);
        let start = Instant::now();
        let sent = Instant::now();
        gate.observe(&hub.head().await, sent);
        // All are known before the first window is full; the large ones come first, and the order is the gate's doing.
        let images = std::iter::repeat_n(cost, multi as usize).chain(std::iter::repeat_n(1, single as usize));
        let mut all = JoinSet::new();
        let mode = far();
        for pulls in images {
            let (gate, hub) = (Arc::clone(&gate), Arc::clone(&hub));
            all.spawn(async move { pull_resolved(&gate, &hub, pulls, mode).await });
        }
        assert!(all.join_all().await.iter().all(Result::is_ok));
        let (count, least) = (hub.count(), least_windows(single, multi, cost, limit - reserve));
        let case = format!("{single} + {multi} × {cost} at {limit} - {reserve}");
        assert_eq!((count.windows, count.refusals, count.gets), (least, 0, single + multi * cost), "{case}");
        let longest = WINDOW * u32::try_from(least - 1).unwrap() + Duration::from_secs(60);
        assert!(start.elapsed() <= longest, "{case}: idle for a while: {:?}", start.elapsed());
        let standing = gate.standing();
        assert_eq!((standing.spent, standing.refused, standing.waiting), (count.gets, 0, 0), "{case}");
        assert_eq!(standing.waited > WINDOW / 2, least > 1, "{case}: {:?}", standing.waited);
    }
}

#[tokio::test(start_paused = true)]
async fn a_month_of_migration_passes_in_a_second() {
    let hub = Hub::new(200);
    let gate = Accounts::new(clock(), None).gate(&account(), Some(PullLimit { limit: None, window: WINDOW, reserve: 20 }), None);
    let start = Instant::now();
    run(&gate, &hub, (0..12_000).map(|at| if at % 3 == 0 { 3 } else { 1 })).await;
    let count = hub.count();
    assert_eq!((count.gets, count.refusals, count.windows), (20_000, 0, 112));
    assert_eq!(start.elapsed().as_secs() / 86_400, 27);
}

#[tokio::test(start_paused = true)]
async fn larger_than_a_window_goes_on_in_the_next() {
    let hub = Hub::new(10);
    let gate = Accounts::new(clock(), None).gate(&account(), None, Some(hub.clone()));
    run(&gate, &hub, [25, 1, 2, 12]).await;
    let count = hub.count();
    // 1 + 2; then 10 + 2 of the one and 10 + 10 + 5 of the other, each begun in a window of its own.
    assert_eq!((count.gets, count.refusals), (40, 0));
    assert!(count.windows <= 6, "{count:?}");
}

#[tokio::test(start_paused = true)]
async fn others_who_spend_from_the_same_window_cost_few_refusals() {
    const WORKERS: u64 = 8;
    let hub = Hub::new(100);
    let others = {
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            for _ in 0..1_000_000 {
                hub.delay(20_000).await;
                hub.pull(false);
            }
        })
    };
    let gate = Accounts::new(clock(), None).gate(&account(), None, Some(hub.clone()));
    let mode = far();
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (gate, hub) = (Arc::clone(&gate), Arc::clone(&hub));
        workers.spawn(async move {
            for _ in 0..150 {
                pull_image(&gate, &hub, 1, mode).await.unwrap();
            }
        });
    }
    workers.join_all().await;
    others.abort();
    let count = hub.count();
    assert_eq!(count.gets, WORKERS * 150);
    assert!(count.most_refusals_in_window <= 1 + WORKERS, "{count:?}");
    assert!(count.windows >= 12, "the others should have been felt: {count:?}");
}

#[tokio::test(start_paused = true)]
async fn a_free_upstream_is_not_held_back_by_a_spent_one() {
    let hub = Hub::new(5);
    let free = Hub::silent(u64::MAX);
    let accounts = Accounts::new(clock(), None);
    let limited = accounts.gate(&account(), None, None);
    let open = accounts.gate(&AccountId { host: "quay.io".to_owned(), name: "anonymous".to_owned() }, None, None);
    let start = Instant::now();
    let slow = {
        let (hub, limited) = (Arc::clone(&hub), Arc::clone(&limited));
        tokio::spawn(async move { run(&limited, &hub, [1; 20]).await })
    };
    run(&open, &free, [3; 200]).await;
    assert!(start.elapsed() < Duration::from_secs(5) && !slow.is_finished());
    assert_eq!(open.standing().waited, Duration::ZERO);
    slow.await.unwrap();
    assert_eq!((hub.count().windows, hub.count().refusals), (4, 0));
}
