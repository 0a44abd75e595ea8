//! The ledger alone, and under gates that share it: processes, kills, torn files.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::limits::headers::tests::quota_of;
use crate::limits::simulation::{Hub, WINDOW, account, clock, far, pull_image};
use crate::limits::window::{Heard, Reading};
use crate::limits::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn view(limit: u64) -> Window<Stamp> {
    Window::fresh(limit, Duration::from_secs(3600), None)
}

/// What a process knows that heard `left` at `seconds`.
fn heard(limit: u64, left: u64, seconds: i64) -> Window<Stamp> {
    let mut window = view(limit);
    let stamp = Stamp(at(seconds));
    let heard = Heard { sent: stamp, arrived: stamp };
    assert!(window.hear(&Reading { limit, length: window.length, left, source: Some("192.0.2.1".to_owned()), heard }));
    window
}

fn lease(ledger: &Ledger, name: &str, pulls: u64, window: Window<Stamp>, now: i64) -> Leased {
    let ask = Ask { account: &account(), lease: name, pulls, outstanding: u64::MAX, window, limit: None, reserve: 0 };
    ledger.lease(&ask, at(now)).unwrap()
}

fn is_granted(leased: &Leased) -> bool {
    matches!(leased, Leased::Granted { .. })
}

/// A process that is dead, as far as anybody can see.
fn killed(state: &Path) -> Ledger {
    Ledger::owned_by(state, Owner { pid: u32::MAX, ..Owner::this_process() })
}

#[test]
fn pulls_that_were_heard_of_are_not_counted_twice_while_their_lease_is_not_settled() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::of_process(dir.path(), 1);
    assert!(is_granted(&lease(&ledger, "a", 6, heard(10, 10, 0), 0)));
    // All six were sent, and the last answer says that four are left.
    let more = |pulls| {
        let window = heard(10, 4, 1);
        let ask = Ask { account: &account(), lease: "b", pulls, outstanding: pulls, window, limit: None, reserve: 0 };
        is_granted(&ledger.lease(&ask, at(2)).unwrap())
    };
    assert_eq!((more(5), more(4)), (false, true));
}

#[test]
fn processes_share_one_window() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Ledger::of_process(dir.path(), 1), Ledger::of_process(dir.path(), 2));
    assert!(is_granted(&lease(&a, "a1", 6, view(10), 0)));
    assert!(matches!(lease(&b, "b1", 5, view(10), 1), Leased::Denied { in_use: true, .. }));
    assert!(is_granted(&lease(&b, "b2", 4, view(10), 2)));
    // Four of six were sent; two come back.
    a.settle(&account(), "a1", Settled { unheard: 4, ..Settled::default() }, &view(10), at(3)).unwrap();
    assert!(is_granted(&lease(&b, "b3", 2, view(10), 4)));
    assert!(matches!(lease(&a, "a2", 1, view(10), 5), Leased::Denied { in_use: true, .. }));
    b.settle(&account(), "b2", Settled { unheard: 4, ..Settled::default() }, &view(10), at(6)).unwrap();
    b.settle(&account(), "b3", Settled { unheard: 2, ..Settled::default() }, &view(10), at(6)).unwrap();
    let Leased::Denied { in_use: false, window } = lease(&a, "a3", 1, view(10), 7) else { panic!("the window is spent") };
    assert_eq!((window.left(), window.closes), (0, Some(Stamp(at(3 + 3600)))));
    assert!(is_granted(&lease(&a, "a4", 10, view(10), 3 + 3600)), "a new window");
}

#[test]
fn a_dead_process_has_spent_its_lease_until_an_answer_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let me = Ledger::open(dir.path()).unwrap();
    if Owner::this_process().place.is_empty() {
        return; // no /proc: only the term tells
    }
    assert!(is_granted(&lease(&killed(dir.path()), "k", 6, heard(10, 9, 0), 0)));
    let known = me.recall(&account(), at(1)).unwrap().unwrap();
    assert_eq!((known.left(), known.left), (3, 9));
    assert!(!is_granted(&lease(&me, "m", 4, known, 2)));
    // Three of the six had really been sent.
    assert!(is_granted(&lease(&me, "m", 6, heard(10, 6, 3), 3)));
}

#[test]
fn where_death_cannot_be_seen_the_term_decides() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Ledger::of_process(dir.path(), 1), Ledger::of_process(dir.path(), 2));
    let term = i64::try_from(LEASE_TERM.as_secs()).unwrap();
    assert!(is_granted(&lease(&a, "a", 6, heard(10, 10, 0), 0)));
    // An answer does not tell about pulls that may still be sent.
    assert!(!is_granted(&lease(&b, "b", 5, heard(10, 10, 1), 1)));
    assert!(!is_granted(&lease(&b, "b", 5, heard(10, 10, term), term)), "ended, and counts as spent");
    assert!(is_granted(&lease(&b, "b", 10, heard(10, 10, term + 1), term + 1)), "asked since: nothing was sent");
    // Whoever comes back so late finds his lease gone.
    a.settle(&account(), "a", Settled { unheard: 6, ..Settled::default() }, &view(10), at(term + 2)).unwrap();
}

#[test]
fn damage_is_moved_aside_and_a_newer_file_is_left_alone() {
    for damage in ["", "{\"version\": 1, \"accounts\": {\"docker.io|hub|\": {\"limit\"", "[]", "{\"version\": 1}", "\0\0\0\0"] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("pulls.json"), damage).unwrap();
        assert_eq!(ledger.recall(&account(), at(0)).unwrap(), None, "{damage}");
        assert_eq!(std::fs::read_to_string(dir.path().join("pulls.json.damaged")).unwrap(), damage);
        assert!(is_granted(&lease(&ledger, "a", 1, view(10), 1)));
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pulls.json"), r#"{"version": 2, "pools": []}"#).unwrap();
    let error = Ledger::open(dir.path()).unwrap().recall(&account(), at(0)).unwrap_err();
    assert!(error.to_string().contains("use the newer larder"), "{error}");
    assert_eq!(std::fs::read_to_string(dir.path().join("pulls.json")).unwrap(), r#"{"version": 2, "pools": []}"#);
}

#[test]
fn the_file_is_for_people_too() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::of_process(dir.path(), 7);
    assert!(is_granted(&lease(&ledger, "a", 2, heard(100, 60, 0), 0)));
    let text = std::fs::read_to_string(dir.path().join("pulls.json")).unwrap();
    insta::assert_snapshot!(text, @r#"
    {
      "version": 1,
      "accounts": {
        "docker.io|hub|192.0.2.1": {
          "limit": 100,
          "window_seconds": 3600,
          "left": 60,
          "heard": {
            "sent": "2027-01-15T08:00:00Z",
            "arrived": "2027-01-15T08:00:00Z"
          },
          "source": "192.0.2.1",
          "unheard": 0,
          "unheard_at": null,
          "closes": "2027-01-15T09:00:00Z",
          "exact": false,
          "since": null,
          "spent": 0,
          "leases": [
            {
              "id": "a",
              "pid": 7,
              "started": 0,
              "place": "simulated",
              "pulls": 2,
              "expires": "2027-01-15T08:30:00Z"
            }
          ]
        }
      }
    }
    "#);
}

#[test]
fn old_accounts_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::of_process(dir.path(), 1);
    assert!(is_granted(&lease(&ledger, "a", 1, heard(10, 5, 0), 0)));
    ledger.recall(&account(), at(40 * 86_400)).unwrap();
    assert!(!std::fs::read_to_string(dir.path().join("pulls.json")).unwrap().contains("docker.io"));
}

#[test]
fn threads_at_one_file_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let granted: u64 = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|pid| {
                let ledger = Ledger::of_process(dir.path(), pid);
                scope.spawn(move || {
                    let mine = (0..20).filter(|turn| {
                        let name = format!("{pid}-{turn}");
                        let granted = is_granted(&lease(&ledger, &name, 1, view(50), 0));
                        if granted {
                            ledger.settle(&account(), &name, Settled { unheard: 1, ..Settled::default() }, &view(50), at(0)).unwrap();
                        }
                        granted
                    });
                    mine.count() as u64
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(granted, 50);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Processes lease, send some, lose some, settle or die; the upstream never sees more than the limit in a window.
    #[test]
    fn the_sum_of_all_processes_stays_within_the_limit(
        headers in any::<bool>(),
        steps in prop::collection::vec((0u8..6, 0u32..3, 1u64..5), 1..40),
    ) {
        const LIMIT: u64 = 10;
        let dir = tempfile::tempdir().unwrap();
        let (mut used, mut opened, mut now) = (0, None::<i64>, 0i64);
        // (process, lease, leased, sent)
        let mut open: Vec<(u32, String, u64, u64)> = Vec::new();
        for (turn, (what, pid, size)) in steps.into_iter().enumerate() {
            now += 1;
            let ledger = Ledger::of_process(dir.path(), pid);
            if opened.is_some_and(|opened| opened + 3600 <= now) {
                (used, opened) = (0, None);
            }
            match what {
                0 | 1 => {
                    let name = turn.to_string();
                    if is_granted(&lease(&ledger, &name, size, view(LIMIT), now)) {
                        open.push((pid, name, size, 0));
                    }
                }
                2 | 3 => if let Some(lease) = open.iter_mut().find(|lease| lease.0 == pid && lease.3 < lease.2) {
                    lease.3 += 1;
                    used += 1;
                    opened.get_or_insert(now);
                    prop_assert!(used <= LIMIT, "over the limit");
                },
                4 => if let Some(which) = open.iter().position(|lease| lease.0 == pid) {
                    let (_, name, _, sent) = open.swap_remove(which);
                    let (settled, window) = if headers && sent > 0 {
                        (Settled { heard: sent, ..Settled::default() }, heard(LIMIT, LIMIT - used, now))
                    } else {
                        (Settled { unheard: sent, ..Settled::default() }, view(LIMIT))
                    };
                    ledger.settle(&account(), &name, settled, &window, at(now)).unwrap();
                },
                // Killed: nobody settles.
                _ if size == 1 => open.retain(|lease| lease.0 != pid),
                // A long pause; whoever lives has settled.
                _ => if open.is_empty() { now += 1800 },
            }
        }
    }
}

/// Processes with a gate each, on one ledger and one upstream.
async fn nights(hub: &Arc<Hub>, dir: &Path, processes: u32, images: u64, configured: Option<Pulls>) {
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
    nights(&hub, dir.path(), 3, 9, Some(Pulls { limit: Some(25), window: WINDOW, reserve: 0 })).await;
    assert_eq!((hub.count().gets, hub.count().refusals), (54, 0));
    assert!(hub.count().windows <= 4, "{:?}", hub.count());
}

#[tokio::test(start_paused = true)]
async fn the_next_run_starts_knowing() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, clock) = (Hub::silent(10), clock());
    let configured = Some(Pulls { limit: Some(10), window: WINDOW, reserve: 0 });
    let run = || Accounts::new(clock, Some(Ledger::open(dir.path()).unwrap())).gate(&account(), configured, None);
    pull_image(&run(), &hub, 7, Mode::Defer).await.unwrap();
    let next = run();
    assert_eq!(next.standing().remaining, Some(3));
    let deferred = pull_image(&next, &hub, 4, Mode::Defer).await.unwrap_err();
    assert!(deferred.until.is_some());
    pull_image(&next, &hub, 3, Mode::Defer).await.unwrap();
    assert_eq!((hub.count().gets, hub.count().refusals, hub.count().windows), (10, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn killed_in_mid_window_no_pull_is_spent_twice() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let run = |ledger| Accounts::new(clock, Some(ledger)).gate(&account(), None, None);
    let first = run(killed(dir.path()));
    first.observe(&quota_of(10, 10, WINDOW), tokio::time::Instant::now());
    let lease = first.acquire(Claim { pulls: 6, priority: 0 }, Mode::Defer).await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    lease.spend().await.unwrap().answered(&quota_of(10, 9, WINDOW));
    // Killed: nothing is dropped.
    std::mem::forget(lease);
    tokio::time::advance(Duration::from_secs(1)).await;
    let second = run(Ledger::open(dir.path()).unwrap());
    if !Owner::this_process().place.is_empty() {
        assert_eq!(second.standing().remaining, Some(4), "all six count as spent");
    }
    // The first HEAD of the second run.
    tokio::time::advance(Duration::from_secs(1)).await;
    second.observe(&quota_of(10, 9, WINDOW), tokio::time::Instant::now());
    assert_eq!(second.standing().remaining, Some(9));
    if !Owner::this_process().place.is_empty() {
        assert!(second.acquire(Claim { pulls: 9, priority: 0 }, Mode::Defer).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_used_is_gone_without() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("state")).unwrap();
    std::fs::remove_dir(dir.path().join("state")).unwrap();
    let hub = Hub::new(10);
    let gate = Accounts::new(clock(), Some(ledger)).gate(&account(), None, None);
    pull_image(&gate, &hub, 3, Mode::Defer).await.unwrap();
    assert_eq!(hub.count().gets, 3);
}
