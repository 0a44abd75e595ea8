//! The ledger alone, and under gates that share it: processes, kills, torn files.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::limits::headers::tests::quota_of;
use crate::limits::simulation::{Hub, WINDOW, account, clock, far, pull_image};
use crate::limits::window::{WindowAnswer, WindowReading};
use crate::limits::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn view(limit: u64) -> Window<WallTime> {
    Window::fresh(limit, Duration::from_secs(3600), None)
}

/// What a process knows that heard `left` at `seconds`.
fn heard(limit: u64, left: u64, seconds: i64) -> Window<WallTime> {
    let mut window = view(limit);
    let stamp = WallTime(at(seconds));
    let heard = WindowAnswer { sent: stamp, arrived: stamp, ours: true };
    assert!(window.hear(&WindowReading { limit, length: window.length, left, source: Some("192.0.2.1".to_owned()), heard }));
    window
}

/// One process: what it holds, and its ledger.
struct Process {
    ledger: Ledger,
    held: u64,
    settled: LeaseSettlement,
}

impl Process {
    fn new(ledger: Ledger) -> Self {
        Process { ledger, held: 0, settled: LeaseSettlement::default() }
    }

    fn number(state: &Path, pid: u32) -> Self {
        Self::new(Ledger::of_process(state, pid))
    }

    fn exchange(&mut self, wants: Vec<u64>, window: Option<Window<WallTime>>, now: i64) -> Answer {
        let settled = std::mem::take(&mut self.settled);
        let (held, account) = (self.held, account());
        let ask = LeaseRequest { account, window, held, settled, wants, ahead: 0, limit: None, reserve: 0, now: at(now) };
        let answer = self.ledger.transact(|book| Some(self.ledger.decide(book, &ask))).unwrap().unwrap();
        let granted = ask.wants.iter().zip(&answer.decisions).filter(|(_, decision)| **decision == Decision::Granted);
        self.held += granted.map(|(pulls, _)| pulls).sum::<u64>();
        answer
    }

    fn lease(&mut self, pulls: u64, window: Window<WallTime>, now: i64) -> Decision {
        self.exchange(vec![pulls], Some(window), now).decisions[0]
    }

    /// `over` pulls that it held are over.
    fn settle(&mut self, over: u64, settled: LeaseSettlement, window: Window<WallTime>, now: i64) {
        self.held -= over;
        self.settled = settled;
        self.exchange(vec![], Some(window), now);
    }
}

fn unheard(unheard: u64) -> LeaseSettlement {
    LeaseSettlement { unconfirmed: unheard, ..LeaseSettlement::default() }
}

/// A process that is dead, as far as anybody can see.
fn killed(state: &Path) -> Ledger {
    Ledger::owned_by(state, Owner { pid: u32::MAX, ..Owner::this_process() })
}

#[test]
fn pulls_that_were_heard_of_are_not_counted_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::number(dir.path(), 1);
    assert_eq!(process.lease(6, heard(10, 10, 0), 0), Decision::Granted);
    // All six were sent, and the last answer says that four are left. That is told together with the next question.
    (process.held, process.settled) = (0, LeaseSettlement { heard: 6, unconfirmed: 0 });
    let answer = process.exchange(vec![5, 4], Some(heard(10, 4, 1)), 2);
    assert_eq!(answer.decisions, [Decision::Spent, Decision::Granted]);
}

#[test]
fn processes_share_one_window() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (Process::number(dir.path(), 1), Process::number(dir.path(), 2));
    assert_eq!(a.lease(6, view(10), 0), Decision::Granted);
    assert_eq!(b.lease(5, view(10), 1), Decision::InUse);
    assert_eq!(b.lease(4, view(10), 2), Decision::Granted);
    // Four of six were sent; two come back.
    a.settle(6, unheard(4), view(10), 3);
    assert_eq!(b.lease(2, view(10), 4), Decision::Granted);
    assert_eq!(a.lease(1, view(10), 5), Decision::InUse);
    b.settle(4, unheard(4), view(10), 6);
    b.settle(2, unheard(2), view(10), 6);
    let Answer { window, decisions, .. } = a.exchange(vec![1], Some(view(10)), 7);
    assert_eq!((decisions, window.left(), window.closes), (vec![Decision::Spent], 0, Some(WallTime(at(3 + 3600)))));
    assert_eq!(a.lease(10, view(10), 3 + 3600), Decision::Granted, "a new window");
}

#[test]
fn what_waits_together_is_decided_together_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::number(dir.path(), 1);
    let answer = process.exchange(vec![4, 7, 3, 4], Some(view(10)), 0);
    assert_eq!(answer.decisions, [Decision::Granted, Decision::InUse, Decision::Granted, Decision::InUse]);
    assert_eq!(process.held, 7);
}

#[test]
fn while_nobody_knows_anything_one_pull_of_all_processes_finds_out() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (Process::number(dir.path(), 1), Process::number(dir.path(), 2));
    assert_eq!(a.exchange(vec![1], None, 0).decisions, [Decision::Granted]);
    assert_eq!(b.exchange(vec![1], None, 1).decisions, [Decision::InUse]);
    // Answered: the other process learns from it.
    (a.held, a.settled) = (0, LeaseSettlement { heard: 1, unconfirmed: 0 });
    a.exchange(vec![], Some(heard(10, 2, 2)), 2);
    let answer = b.exchange(vec![1], None, 3);
    assert_eq!((answer.decisions, answer.window.left(), answer.window.limit), (vec![Decision::Granted], 2, 10));
}

#[test]
fn an_account_that_is_not_counted_leaves_no_row_and_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut dead = Process::new(killed(dir.path()));
    assert_eq!(dead.exchange(vec![1], None, 0).decisions, [Decision::Granted]);
    let mut next = Process::new(Ledger::open(dir.path()));
    if !Owner::this_process().place.is_empty() {
        assert_eq!(next.exchange(vec![1], None, 1).decisions, [Decision::Granted]);
        next.settle(1, LeaseSettlement::default(), view(10), 2);
    }
}

#[test]
fn a_dead_process_has_spent_its_lease_until_an_answer_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    if Owner::this_process().place.is_empty() {
        return; // no /proc: only the term tells
    }
    assert_eq!(Process::new(killed(dir.path())).lease(6, heard(10, 9, 0), 0), Decision::Granted);
    let mut me = Process::new(Ledger::open(dir.path()));
    let known = me.ledger.recall(&account(), at(1)).unwrap();
    assert_eq!((known.left(), known.left), (3, 9));
    // Its last requests may still be on their way when the next process asks.
    assert_eq!(me.lease(4, heard(10, 9, 2), 2), Decision::Spent);
    // Three of the six had really been sent.
    assert_eq!(me.lease(6, heard(10, 6, 4), 4), Decision::Granted);
}

#[test]
fn where_death_cannot_be_seen_the_term_decides() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (Process::number(dir.path(), 1), Process::number(dir.path(), 2));
    let term = i64::try_from(LEASE_TERM.as_secs()).unwrap();
    assert_eq!(a.lease(6, heard(10, 10, 0), 0), Decision::Granted);
    // An answer does not tell about pulls that may still be sent.
    assert_ne!(b.lease(5, heard(10, 10, 1), 1), Decision::Granted);
    assert_ne!(b.lease(5, heard(10, 10, term), term), Decision::Granted, "ended, and counts as spent");
    assert_eq!(b.lease(10, heard(10, 10, term + 1), term + 1), Decision::Granted, "asked since: nothing was sent");
    // Whoever comes back so late finds his lease gone.
    a.settle(6, unheard(6), view(10), term + 2);
}

#[test]
fn a_window_from_the_future_ends_one_length_from_now_and_an_answer_beats_it() {
    let dir = tempfile::tempdir().unwrap();
    let days = 5 * 86_400;
    // While the clock was wrong, all of it was spent.
    Process::number(dir.path(), 1).settle(0, LeaseSettlement { heard: 10, unconfirmed: 0 }, heard(10, 0, days), days);
    let mut now = Process::number(dir.path(), 2);
    let known = now.ledger.recall(&account(), at(0)).unwrap();
    assert_eq!((known.left(), known.closes, known.exact), (0, Some(WallTime(at(3600))), false));
    assert_eq!(now.lease(1, view(10), 1), Decision::Spent);
    assert_eq!(now.lease(10, heard(10, 10, 2), 3), Decision::Granted);
}

#[test]
fn a_lease_from_the_future_ends_one_term_from_now() {
    let dir = tempfile::tempdir().unwrap();
    let days = 5 * 86_400;
    assert_eq!(Process::number(dir.path(), 1).lease(10, view(10), days), Decision::Granted);
    let mut now = Process::number(dir.path(), 2);
    assert_eq!(now.lease(1, view(10), 0), Decision::InUse);
    let term = i64::try_from((LEASE_TERM + CLOCKS_DIFFER).as_secs()).unwrap();
    assert_eq!(now.lease(1, view(10), term), Decision::Spent, "its pulls count as spent");
    assert_eq!(now.lease(10, view(10), term + 3600), Decision::Granted);
}

#[test]
fn damage_is_moved_aside_and_a_newer_file_is_left_alone() {
    for damage in ["", "{\"version\": 1, \"accounts\": {\"docker.io|hub|\": {\"limit\"", "[]", "{\"version\": 1}", "\0\0\0\0"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pulls.json"), damage).unwrap();
        let mut process = Process::new(Ledger::open(dir.path()));
        assert_eq!(process.ledger.recall(&account(), at(0)), None, "{damage}");
        assert_eq!(process.lease(1, view(10), 1), Decision::Granted);
        assert_eq!(std::fs::read_to_string(dir.path().join("pulls.json.damaged")).unwrap(), damage);
    }
    let dir = tempfile::tempdir().unwrap();
    for newer in [r#"{"version": 2, "pools": []}"#, r#"{"version": 2, "accounts": {}}"#] {
        std::fs::write(dir.path().join("pulls.json"), newer).unwrap();
        let failure = Ledger::open(dir.path()).transact(|_| Some(())).unwrap_err();
        assert!(failure.permanent && failure.message.contains("use the newer larder"), "{failure:?}");
        assert_eq!(std::fs::read_to_string(dir.path().join("pulls.json")).unwrap(), newer);
    }
}

#[test]
fn a_file_that_is_too_large_is_not_read_into_memory_but_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("pulls.json")).unwrap();
    // Sparse: it takes no room on the disk.
    file.set_len(1 << 30).unwrap();
    let mut process = Process::new(Ledger::open(dir.path()));
    assert_eq!(process.lease(1, view(10), 1), Decision::Granted);
    assert_eq!(std::fs::metadata(dir.path().join("pulls.json.damaged")).unwrap().len(), 1 << 30);
}

#[test]
fn the_file_is_for_people_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::number(dir.path(), 7);
    process.ledger.id = "7-a".to_owned();
    assert_eq!(process.lease(2, heard(100, 60, 0), 0), Decision::Granted);
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
              "id": "7-a",
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
fn the_leases_that_an_earlier_version_wrote_for_each_image_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let row = |id: &str| format!(r#"{{"id":"{id}","pid":7,"started":0,"place":"simulated","pulls":3,"expires":"2027-01-15T08:30:00Z"}}"#);
    let text = format!(
        r#"{{"version":1,"accounts":{{"docker.io|hub|192.0.2.1":{{"limit":10,"window_seconds":3600,"left":10,"heard":null,
        "source":"192.0.2.1","unheard":1,"unheard_at":null,"closes":"2027-01-15T09:00:00Z","exact":false,"since":null,"spent":1,
        "leases":[{},{}]}}}}}}"#,
        row("7-1-0"),
        row("7-1-1")
    );
    std::fs::write(dir.path().join("pulls.json"), text).unwrap();
    let mut process = Process::number(dir.path(), 8);
    assert_eq!([process.lease(4, view(10), 1), process.lease(3, view(10), 1)], [Decision::InUse, Decision::Granted]);
}

#[test]
fn old_accounts_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::number(dir.path(), 1);
    assert_eq!(process.lease(1, heard(10, 5, 0), 0), Decision::Granted);
    let ask = LeaseRequest {
        account: AccountId { host: "quay.io".into(), name: "bob".into() },
        window: None,
        ..LeaseRequest::of(at(40 * 86_400))
    };
    process.ledger.settle(&ask);
    assert!(!std::fs::read_to_string(dir.path().join("pulls.json")).unwrap().contains("docker.io"));
}

impl LeaseRequest {
    fn of(now: Timestamp) -> Self {
        let settled = LeaseSettlement::default();
        LeaseRequest { account: account(), window: None, held: 0, settled, wants: vec![], ahead: 0, limit: None, reserve: 0, now }
    }
}

#[test]
fn threads_at_one_file_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let granted: u64 = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|pid| {
                let mut process = Process::number(dir.path(), pid);
                scope.spawn(move || {
                    let mine = (0..20).filter(|_| {
                        let granted = process.lease(1, view(50), 0) == Decision::Granted;
                        if granted {
                            process.settle(1, unheard(1), view(50), 0);
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

/// A process of the model below: what it knows, holds, has sent, and has heard.
struct Modelled {
    process: Process,
    window: Window<WallTime>,
    granted: u64,
    /// Sent and not answered: when, and what the upstream will say (`None` while it has not counted it yet).
    sent: Vec<(i64, Option<u64>)>,
    /// A HEAD under way: when it was sent, and what the upstream said.
    head: Option<(i64, Option<u64>)>,
    /// How far its clock is from the true time.
    wrong_by: i64,
}

impl Modelled {
    fn hear(&mut self, left: u64, sent: i64, arrived: i64) -> bool {
        let stamp = |at: i64| WallTime(Timestamp::from_millisecond(at).unwrap());
        let heard = WindowAnswer { sent: stamp(sent + self.wrong_by), arrived: stamp(arrived + self.wrong_by), ours: true };
        self.window.hear(&WindowReading { limit: 10, length: Duration::from_secs(3600), left, source: Some("192.0.2.1".to_owned()), heard })
    }

    fn exchange(&mut self, wants: Vec<u64>, now: i64) {
        let held = self.granted + self.sent.len() as u64;
        let settled = std::mem::take(&mut self.process.settled);
        let now = Timestamp::from_millisecond(now + self.wrong_by).unwrap();
        let ask = LeaseRequest { window: Some(self.window.clone()), held, settled, wants, ..LeaseRequest::of(now) };
        let answer = self.process.ledger.transact(|book| Some(self.process.ledger.decide(book, &ask))).unwrap().unwrap();
        self.window.merge(&answer.window, WallTime(now));
        let granted = ask.wants.iter().zip(&answer.decisions).filter(|(_, decision)| **decision == Decision::Granted);
        self.granted += granted.map(|(pulls, _)| pulls).sum::<u64>();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// The first window, in any interleaving: processes ask by HEAD, reserve, send, are counted, hear, and die, each a step of its own.
    /// Their clocks differ by some milliseconds, as clocks do that are read while a machine is busy. The upstream never sees more pulls
    /// than a window has.
    #[test]
    fn no_interleaving_of_the_first_window_overspends(
        steps in prop::collection::vec((0u8..9, 0usize..4, 0i64..4), 1..160),
        clocks in prop::collection::vec(-5i64..5, 4),
    ) {
        const LIMIT: u64 = 10;
        let dir = tempfile::tempdir().unwrap();
        let start = 1_800_000_000_000;
        let mut all: Vec<Modelled> = (0..4u32).map(|pid| Modelled {
            process: Process::number(dir.path(), pid),
            window: view(LIMIT),
            granted: 0,
            sent: vec![],
            head: None,
            wrong_by: clocks[pid as usize],
        }).collect();
        let (mut used, mut now) = (0, start);
        for (what, who, later) in steps {
            now += later;
            let one = &mut all[who];
            match what {
                0 => if one.head.is_none() { one.head = Some((now, None)) },
                1 => if let Some((_, said)) = &mut one.head { said.get_or_insert(LIMIT - used); },
                2 => if let Some((sent, Some(left))) = one.head.take() { one.hear(left, sent, now); },
                3 => one.exchange(vec![1 + later.unsigned_abs()], now),
                4 => one.exchange(vec![], now),
                5 => if one.granted > 0 { one.granted -= 1; one.sent.push((now, None)); },
                6 => if let Some((_, said)) = one.sent.iter_mut().find(|(_, said)| said.is_none()) {
                    used += 1;
                    prop_assert!(used <= LIMIT, "over the limit");
                    *said = Some(LIMIT - used);
                },
                // Answers come in any order.
                _ => if let Some(at) = one.sent.iter().rposition(|(_, said)| said.is_some()) {
                    let (sent, said) = one.sent.remove(at);
                    let heard = one.hear(said.unwrap_or(0), sent, now);
                    one.process.settled.heard += u64::from(heard);
                    one.process.settled.unconfirmed += u64::from(!heard);
                },
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Processes lease, send some, lose some, settle or die; the upstream never sees more than the limit in a window.
    #[test]
    fn the_sum_of_all_processes_stays_within_the_limit(
        headers in any::<bool>(),
        steps in prop::collection::vec((0u8..6, 0usize..3, 1u64..5), 1..40),
    ) {
        const LIMIT: u64 = 10;
        let dir = tempfile::tempdir().unwrap();
        let (mut used, mut opened, mut now) = (0, None::<i64>, 0i64);
        // What each has sent and not settled.
        let mut all: Vec<(Process, u64)> = (0..3).map(|pid| (Process::number(dir.path(), pid), 0)).collect();
        for (what, who, size) in steps {
            now += 1;
            if opened.is_some_and(|opened| opened + 3600 <= now) {
                (used, opened) = (0, None);
            }
            let idle = all.iter().all(|(process, _)| process.held == 0);
            let (process, sent) = &mut all[who];
            match what {
                0 | 1 => { process.lease(size, view(LIMIT), now); },
                2 | 3 => if *sent < process.held {
                    *sent += 1;
                    used += 1;
                    opened.get_or_insert(now);
                    prop_assert!(used <= LIMIT, "over the limit");
                },
                4 => {
                    let (settled, window) = if headers && *sent > 0 {
                        (LeaseSettlement { heard: *sent, ..LeaseSettlement::default() }, heard(LIMIT, LIMIT - used, now))
                    } else {
                        (unheard(*sent), view(LIMIT))
                    };
                    process.settle(process.held, settled, window, now);
                    *sent = 0;
                },
                // Killed: nobody settles.
                _ if size == 1 => (*process, *sent) = (Process::number(dir.path(), u32::try_from(who).unwrap()), 0),
                // A long pause; whoever lives has settled.
                _ => if idle { now += 1800 },
            }
        }
    }
}

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

#[test]
fn what_is_reserved_ahead_is_a_small_part_of_what_nobody_holds_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (Process::number(dir.path(), 1), Process::number(dir.path(), 2));
    let ask = |wants: Vec<u64>, ahead, held| LeaseRequest { window: Some(view(100)), wants, ahead, held, ..LeaseRequest::of(at(0)) };
    let exchange =
        |process: &Process, ask: &LeaseRequest| process.ledger.transact(|book| Some(process.ledger.decide(book, ask))).unwrap().unwrap();
    let answer = exchange(&a, &ask(vec![4], 1000, 0));
    assert_eq!((answer.decisions, answer.ahead), (vec![Decision::Granted], 12), "an eighth of 96");
    assert_eq!(b.lease(85, view(100), 1), Decision::InUse);
    b.held = 0;
    // It did not need them.
    assert_eq!(exchange(&a, &ask(vec![], 0, 4)).ahead, 0);
    assert_eq!(b.lease(96, view(100), 2), Decision::Granted);
    // Where others hold the rest, or something was not granted, nothing is reserved ahead.
    assert_eq!(exchange(&a, &ask(vec![], 10, 4)).ahead, 0);
    b.settle(96, unheard(0), view(100), 3);
    assert_eq!(exchange(&a, &ask(vec![200], 10, 4)).ahead, 0);
    // Nothing, while nobody knows how many there are.
    let dir = tempfile::tempdir().unwrap();
    a = Process::number(dir.path(), 1);
    assert_eq!(exchange(&a, &LeaseRequest { window: None, ..ask(vec![1], 10, 0) }).ahead, 0);
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
    tokio::time::advance(LAST_WORDS + Duration::from_secs(1)).await;
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
    assert!(start.elapsed() < LOCK_PATIENCE * 2, "{:?}", start.elapsed());
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
