//! What the gate does for waiting images: deferral, deadlines, looks, order, and images that go away.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::limits::headers::tests::quota_of;
use crate::limits::simulation::{Hub, WINDOW, account, clock, far, pull_image};
use crate::limits::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn gate(configured: Option<PullLimit>, probe: Option<Arc<dyn LimitProbe>>) -> Arc<Gate> {
    Accounts::new(clock(), None).gate(&account(), configured, probe)
}

fn claim(pulls: u64) -> PullRequest {
    PullRequest { pulls, priority: 0 }
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_what_does_not_fit_is_deferred_and_the_rest_is_done() {
    let hub = Hub::new(10);
    let gate = gate(None, None);
    let mut outcomes = Vec::new();
    for pulls in [4, 4, 4, 1] {
        outcomes.push(pull_image(&gate, &hub, pulls, WaitMode::Defer).await);
    }
    let deferred = outcomes.remove(2).unwrap_err();
    assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
    assert_eq!(deferred.reason, "docker.io (hub): the pull window is spent (2 left, 4 needed)");
    let until = deferred.until.unwrap().duration_since("2026-03-01T08:00:00Z".parse().unwrap()).as_secs();
    assert!((0..5).contains(&until), "six hours after the first pull: {:?}", deferred.until);
    assert_eq!((hub.count().gets, hub.count().refusals), (9, 0));
    assert_eq!(gate.standing().remaining, Some(1));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_fits_into_pulls_that_may_come_back_is_not_deferred() {
    let gate = gate(None, None);
    gate.observe(&quota_of(100, 5, WINDOW), Instant::now());
    let first = Lease::acquire(&gate, claim(4), WaitMode::Defer).await.unwrap();
    let second = {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { Lease::acquire(&gate, claim(3), WaitMode::Defer).await.map(|lease| lease.granted()) })
    };
    tokio::time::sleep(SECOND).await;
    assert_eq!(gate.standing().waiting, 1);
    // It was only an upper bound: one was enough.
    first.spend().await.unwrap().answered(&quota_of(100, 4, WINDOW));
    drop(first);
    assert_eq!(second.await.unwrap(), Ok(3));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept() {
    let gate = gate(None, None);
    gate.observe(&quota_of(100, 0, WINDOW), Instant::now());
    let start = Instant::now();
    let deadline = start + 3600 * SECOND;
    // The end of the window is only a bound: it may open earlier, so it is waited for.
    let deferred = Lease::acquire(&gate, claim(1), WaitMode::WaitUntil(deadline)).await.err().unwrap();
    assert_eq!(deferred.reason, "docker.io (hub): the time to wait for pulls is over");
    assert_eq!(start.elapsed(), 3600 * SECOND);
    // And nothing starts after it, even if it could.
    gate.observe(&quota_of(100, 100, WINDOW), Instant::now());
    assert!(Lease::acquire(&gate, claim(1), WaitMode::WaitUntil(Instant::now())).await.is_err());
    assert!(Lease::acquire(&gate, claim(1), WaitMode::Defer).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_known_to_be_too_late_is_not_waited_for() {
    let hub = Hub::new(1);
    let gate = gate(None, None);
    pull_image(&gate, &hub, 1, WaitMode::Defer).await.unwrap();
    let before = Instant::now();
    assert!(Lease::acquire(&gate, claim(1), WaitMode::WaitUntil(before + 3600 * SECOND)).await.is_err());
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_opens_early_is_found_by_a_few_looks() {
    let hub = Hub::new(10);
    // Others spent it all, an hour ago.
    while hub.pull(false).is_some() {}
    tokio::time::advance(3600 * SECOND).await;
    let gate = gate(None, Some(hub.clone()));
    let start = Instant::now();
    pull_image(&gate, &hub, 3, far()).await.unwrap();
    let (waited, heads) = (start.elapsed(), hub.count().heads);
    assert!(waited > 5 * 3600 * SECOND && waited < 5 * 3600 * SECOND + WINDOW / 20, "{waited:?}");
    assert!(heads <= 24, "{heads} looks are not rare");
    assert_eq!(hub.count().refusals, 0);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_account_is_looked_at_before_the_first_pull() {
    let hub = Hub::new(10);
    while hub.pull(false).is_some_and(|left| left > 3) {}
    let gate = gate(None, Some(hub.clone()));
    assert_eq!(pull_eight(&gate, &hub).await, 3);
    assert_eq!((hub.count().heads, hub.count().refusals), (1, 0));
}

/// Eight images at once, without any HEAD but the gate's own; how many were pulled.
async fn pull_eight(gate: &Arc<Gate>, hub: &Hub) -> usize {
    let got = futures_util::future::join_all((0..8).map(|_| async {
        let flight = Lease::acquire(gate, claim(1), WaitMode::Defer).await?.spend().await?;
        match hub.get().await {
            Some(quota) => flight.answered(&quota),
            None => flight.refused(None),
        }
        Ok::<_, Deferred>(())
    }));
    got.await.iter().filter(|got| got.is_ok()).count()
}

#[tokio::test(start_paused = true)]
async fn without_a_way_to_look_the_first_pull_finds_out() {
    let hub = Hub::new(3);
    let gate = gate(None, None);
    assert_eq!((pull_eight(&gate, &hub).await, hub.count().refusals), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_does_not_stop_anybody() {
    struct Deaf(AtomicU64);
    #[async_trait]
    impl LimitProbe for Deaf {
        async fn look(&self) -> Option<Quota> {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(SECOND).await;
            None
        }
    }
    let deaf = Arc::new(Deaf(AtomicU64::new(0)));
    let gate = gate(None, Some(deaf.clone()));
    let lease = Lease::acquire(&gate, claim(5), WaitMode::Defer).await.unwrap();
    assert_eq!((lease.granted(), deaf.0.load(Ordering::Relaxed)), (1, 1));
    lease.spend().await.unwrap().answered(&quota_of(100, 50, WINDOW));
    for left in (46..50).rev() {
        lease.spend().await.unwrap().answered(&quota_of(100, left, WINDOW));
    }
    assert_eq!(gate.standing().spent, 5);
}

#[tokio::test(start_paused = true)]
async fn priority_and_then_fewer_pulls() {
    let hub = Hub::new(7);
    while hub.pull(false).is_some() {}
    let gate = gate(None, Some(hub.clone()));
    let mode = far();
    let all = [("three", 3, 0), ("two", 2, 0), ("one", 1, 0), ("urgent", 4, 7)].map(|(name, pulls, priority)| {
        let (gate, hub) = (Arc::clone(&gate), Arc::clone(&hub));
        tokio::spawn(async move {
            let lease = Lease::acquire(&gate, PullRequest { pulls, priority }, mode).await.unwrap();
            let begun = Instant::now();
            for _ in 0..pulls {
                let flight = lease.spend().await.unwrap();
                flight.answered(&hub.get().await.unwrap());
            }
            (begun, name)
        })
    });
    let begun: Vec<_> = futures_util::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    let last = begun.iter().max().unwrap();
    // Seven pulls: by size alone, `three` would have had its turn, and `urgent` not.
    assert_eq!(last.1, "three");
    assert!(begun.iter().filter(|one| last.0 - one.0 >= WINDOW - 60 * SECOND).count() == 3, "{begun:?}");
    assert_eq!((hub.count().windows, hub.count().refusals), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_goes_away_leaves_no_pull_behind() {
    let gate = gate(None, None);
    gate.observe(&quota_of(10, 2, WINDOW), Instant::now());
    let held = Lease::acquire(&gate, claim(2), WaitMode::Defer).await.unwrap();
    for round in 0..3 {
        let gate = Arc::clone(&gate);
        let waiting = tokio::spawn(async move { Lease::acquire(&gate, claim(2), far()).await.map(|_| ()) });
        tokio::time::sleep(SECOND).await;
        waiting.abort();
        assert!(waiting.await.is_err(), "{round}");
    }
    drop(held);
    assert_eq!(Lease::acquire(&gate, claim(2), WaitMode::Defer).await.unwrap().granted(), 2);
    // A flight that is dropped may have been counted.
    drop(Lease::acquire(&gate, claim(1), WaitMode::Defer).await.unwrap().spend().await.unwrap());
    assert_eq!(gate.standing().remaining, Some(1));
    assert_eq!(gate.lock().budget.outstanding(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pull_is_asked_for_again_in_the_next_window_and_first() {
    let gate = gate(None, None);
    gate.observe(&quota_of(10, 5, WINDOW), Instant::now());
    tokio::time::advance(SECOND).await;
    let begun = Lease::acquire(&gate, claim(2), far()).await.unwrap();
    begun.spend().await.unwrap().refused(None);
    let fresh = {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            Lease::acquire(&gate, PullRequest { pulls: 10, priority: 9 }, far()).await.map(|lease| (Instant::now(), lease))
        })
    };
    tokio::time::sleep(SECOND).await;
    for left in [9, 8] {
        begun.spend().await.unwrap().answered(&quota_of(10, left, WINDOW));
    }
    let opened = Instant::now();
    drop(begun);
    let (when, _lease) = fresh.await.unwrap().unwrap();
    assert!(when >= opened + WINDOW - SECOND, "ten fit only in the window after");
    assert_eq!((gate.standing().spent, gate.standing().refused), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reserve_that_leaves_nothing_is_said_at_once() {
    let gate = gate(Some(PullLimit { limit: Some(10), window: WINDOW, reserve: 10 }), None);
    let deferred = Lease::acquire(&gate, claim(1), far()).await.err().unwrap();
    assert_eq!((deferred.reason.as_str(), deferred.until), ("docker.io (hub): `pulls.reserve` (10) leaves nothing of a window", None));
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_a_cache_answered_itself_goes_back_to_the_account() {
    let gate = gate(None, None);
    gate.observe(&quota_of(100, 2, WINDOW), Instant::now());
    let first = Lease::acquire(&gate, claim(2), WaitMode::Defer).await.unwrap();
    let second = {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { Lease::acquire(&gate, claim(1), WaitMode::Defer).await.map(|lease| lease.granted()) })
    };
    tokio::time::sleep(SECOND).await;
    assert_eq!(gate.standing().waiting, 1);
    first.spend().await.unwrap().free();
    assert_eq!(second.await.unwrap(), Ok(1));
    assert_eq!((first.granted(), gate.standing().spent), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_known_a_pull_that_was_free_lets_the_next_one_go() {
    let gate = gate(None, None);
    let lease = Lease::acquire(&gate, claim(3), WaitMode::Defer).await.unwrap();
    let flight = lease.spend().await.unwrap();
    let next = tokio::spawn({
        let lease = lease.clone();
        async move { lease.spend().await.map(InFlightPull::free) }
    });
    tokio::time::sleep(SECOND).await;
    assert!(!next.is_finished());
    flight.free();
    next.await.unwrap().unwrap();
}
