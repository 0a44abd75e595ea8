//! Gates of several processes and runs on one ledger and one upstream.

use tokio::task::JoinSet;

use super::super::data::LAST_REQUESTS_ARRIVE;
use super::super::file::LOCK_TIMEOUT;
use super::*;
use crate::limits::headers::tests::quota_of;
use crate::limits::simulation::{Hub, WINDOW, clock, far, pull_image};
use crate::limits::*;

/// Processes with a gate each, on one ledger and one upstream.
async fn nights(hub: &Arc<Hub>, dir: &Path, processes: u32, images: u64, configured: Option<PullLimit>) {
    let mut all = JoinSet::new();
    let (clock, mode) = (clock(), far());
    for pid in 0..processes {
        let gate = Accounts::new(clock, Some(Ledger::of_process(dir, pid))).gate(&account(), configured, None);
        for image in 0..images {
            let (gate, hub) = (Arc::clone(&gate), Arc::clone(hub));
            all.spawn(async move { pull_image(&gate, &hub, 1 + image % 3, mode).await });
        }
    }
    assert!(all.join_all().await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn two_processes_stay_within_one_window_together() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(25);
    nights(&hub, dir.path(), 2, 30, None).await;
    let count = hub.count();
    assert_eq!((count.gets, count.refusals), (120, 0));
    assert!(count.windows <= 6, "{count:?}");
}

#[tokio::test(start_paused = true)]
async fn so_they_do_where_only_the_ledger_counts() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::silent(25);
    nights(&hub, dir.path(), 3, 9, Some(PullLimit { limit: Some(25), window: WINDOW, reserve: 0 })).await;
    assert_eq!((hub.count().gets, hub.count().refusals), (54, 0));
    assert!(hub.count().windows <= 4, "{:?}", hub.count());
}

/// Sixty images of one pull each, eight at once; how often the ledger was written.
async fn writes_of_sixty_images(limit: u64, images: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(limit);
    let ledger = Ledger::of_process(dir.path(), 1);
    let accounts = Accounts::new(clock(), Some(ledger));
    let gate = accounts.gate(&account(), None, None);
    let mut all = JoinSet::new();
    let slots = Arc::new(tokio::sync::Semaphore::new(8));
    for _ in 0..images {
        let (gate, hub, slots) = (Arc::clone(&gate), Arc::clone(&hub), Arc::clone(&slots));
        all.spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            pull_image(&gate, &hub, 1, WaitMode::Defer).await
        });
    }
    assert!(all.join_all().await.iter().all(Result::is_ok));
    accounts.tell().await;
    let writes = gate.ledger_writes();
    // All that was reserved ahead is given back.
    let mut other = Process::number(dir.path(), 2);
    assert_eq!(other.lease(limit - images, view(limit), 0), Decision::Granted);
    writes
}

#[tokio::test(start_paused = true)]
async fn sixty_images_need_a_handful_of_reservations_where_plenty_is_left() {
    let plenty = writes_of_sixty_images(10_000, 60).await;
    let hub = writes_of_sixty_images(200, 60).await;
    assert!(plenty <= 12 && hub <= 16, "{plenty} and {hub} writes");
}

#[tokio::test(start_paused = true)]
async fn the_next_run_starts_knowing() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, clock) = (Hub::silent(10), clock());
    let configured = Some(PullLimit { limit: Some(10), window: WINDOW, reserve: 0 });
    let run = || Accounts::new(clock, Some(Ledger::open(dir.path()))).gate(&account(), configured, None);
    pull_image(&run(), &hub, 7, WaitMode::Defer).await.unwrap();
    let next = run();
    assert_eq!(next.standing().remaining, Some(3));
    let deferred = pull_image(&next, &hub, 4, WaitMode::Defer).await.unwrap_err();
    assert!(deferred.until.is_some());
    pull_image(&next, &hub, 3, WaitMode::Defer).await.unwrap();
    assert_eq!((hub.count().gets, hub.count().refusals, hub.count().windows), (10, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn killed_in_mid_window_no_pull_is_spent_twice() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let run = |ledger| Accounts::new(clock, Some(ledger)).gate(&account(), None, None);
    let first = run(killed(dir.path()));
    first.observe(&quota_of(10, 10, WINDOW), tokio::time::Instant::now());
    let lease = Lease::acquire(&first, PullRequest { pulls: 6, priority: 0 }, WaitMode::Defer).await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    lease.spend().await.unwrap().answered(&quota_of(10, 9, WINDOW));
    // Killed: nothing is dropped.
    std::mem::forget(lease);
    tokio::time::advance(Duration::from_secs(1)).await;
    let second = run(Ledger::open(dir.path()));
    if !Owner::this_process().place.is_empty() {
        assert_eq!(second.standing().remaining, Some(4), "all six count as spent");
    }
    // A HEAD of the second run, sent when no request of the first can still be on its way.
    tokio::time::advance(LAST_REQUESTS_ARRIVE + Duration::from_secs(1)).await;
    second.observe(&quota_of(10, 9, WINDOW), tokio::time::Instant::now());
    assert_eq!(second.standing().remaining, Some(9));
    if !Owner::this_process().place.is_empty() {
        assert!(Lease::acquire(&second, PullRequest { pulls: 9, priority: 0 }, WaitMode::Defer).await.is_ok());
    }
}

/// A gate of ten pulls whose ledger is in a folder that is not there.
fn without_a_folder(dir: &Path) -> Arc<Gate> {
    let pulls = PullLimit { limit: Some(10), window: WINDOW, reserve: 0 };
    Accounts::new(clock(), Some(Ledger::open(&dir.join("state")))).gate(&account(), Some(pulls), None)
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_cannot_be_written_is_not_spent() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(10);
    let gate = without_a_folder(dir.path());
    // Not even if there was time to wait: waiting makes no folder.
    for mode in [WaitMode::Defer, far()] {
        let deferred = pull_image(&gate, &hub, 3, mode).await.unwrap_err();
        assert!(deferred.reason.starts_with("docker.io (hub): no pull can be reserved: could not lock "), "{}", deferred.reason);
        assert!(deferred.reason.ends_with("--state none, which counts within this run only)"), "{}", deferred.reason);
    }
    assert_eq!((hub.count().gets, gate.standing().remaining, gate.standing().waiting), (0, Some(10), 0));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_held_elsewhere_defers_at_once_or_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let held = std::fs::File::create(dir.path().join("state/pulls.lock")).unwrap();
    held.lock().unwrap();
    let hub = Hub::new(10);
    let gate = without_a_folder(dir.path());
    let all = |mode: WaitMode| {
        let (gate, hub) = (Arc::clone(&gate), Arc::clone(&hub));
        async move {
            let mut all = JoinSet::new();
            for _ in 0..5 {
                let (gate, hub) = (Arc::clone(&gate), Arc::clone(&hub));
                all.spawn(async move { pull_image(&gate, &hub, 1, mode).await });
            }
            all.join_all().await
        }
    };
    // One attempt for all of them.
    let start = std::time::Instant::now();
    assert!(all(WaitMode::Defer).await.iter().all(Result::is_err));
    assert!(start.elapsed() < LOCK_TIMEOUT * 2, "{:?}", start.elapsed());
    drop(held);
    assert!(all(far()).await.iter().all(Result::is_ok));
    assert_eq!((hub.count().gets, hub.count().refusals), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_has_changed_counts_more_than_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, clock) = (Hub::silent(100), clock());
    let run = |limit| {
        let configured = Some(PullLimit { limit: Some(limit), window: WINDOW, reserve: 0 });
        Accounts::new(clock, Some(Ledger::open(dir.path()))).gate(&account(), configured, None)
    };
    pull_image(&run(10), &hub, 7, WaitMode::Defer).await.unwrap();
    assert_eq!(run(20).standing().remaining, Some(13));
    assert_eq!(run(5).standing().remaining, Some(0));
}
