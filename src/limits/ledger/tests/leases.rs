//! What processes may hold of one window: shares, deaths, wrong clocks, pulls reserved ahead.

use super::super::data::{CLOCKS_DIFFER, LEASE_TERM};
use super::*;

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
    assert_eq!((decisions, window.left(), window.closes), (vec![Decision::Spent], 0, Some(at(3 + 3600))));
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
fn while_nothing_is_known_one_pull_of_all_processes_finds_out() {
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
fn an_account_that_is_not_counted_leaves_no_row_and_blocks_no_process() {
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
    // A process that comes back so late finds its lease gone.
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
    assert_eq!((known.left(), known.closes, known.exact), (0, Some(at(3600)), false));
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

#[test]
fn pulls_reserved_ahead_are_a_small_part_of_the_free_ones_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (Process::number(dir.path(), 1), Process::number(dir.path(), 2));
    let ask = |wants: Vec<u64>, ahead, held| LeaseRequest { window: Some(view(100)), wants, ahead, held, ..LeaseRequest::of(at(0)) };
    let exchange = |process: &Process, ask: &LeaseRequest| {
        process.ledger.store.transact(|data| Some(process.ledger.process.decide(data, ask))).unwrap().unwrap()
    };
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
    // Nothing, while the number of pulls is not known.
    let dir = tempfile::tempdir().unwrap();
    a = Process::number(dir.path(), 1);
    assert_eq!(exchange(&a, &LeaseRequest { window: None, ..ask(vec![1], 10, 0) }).ahead, 0);
}
