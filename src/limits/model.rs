//! Model checks of what waits here: in many orders of the tasks, limits hold and no task waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use shuttle::future::{block_on, spawn, yield_now};
use tokio::time::Instant;

use super::headers::tests::quota_of;
use super::simulation::{WINDOW, account, clock};
use super::*;
use crate::mutex::model::explore;

/// Four tasks want two slots. One goes away while it waits, one reports congestion.
#[test]
fn slots_are_never_given_twice_and_every_task_gets_one() {
    explore(1000, || {
        let limit = AdaptiveLimit::new(2);
        let running = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..4)
            .map(|task| {
                let (limit, running) = (limit.clone(), Arc::clone(&running));
                spawn(async move {
                    let class = if task % 2 == 0 { RequestClass::Small } else { RequestClass::Bulk };
                    if task == 3 {
                        let mut waiting = Box::pin(limit.permit(class));
                        if (&mut waiting).now_or_never().is_none() {
                            yield_now().await;
                        }
                    }
                    let permit = limit.permit(class).await;
                    assert!(running.fetch_add(1, Ordering::SeqCst) < 2, "three requests at once");
                    yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    if task == 0 {
                        permit.refused();
                    } else {
                        permit.answered(AnswerGroup::new(0, 0), Duration::from_millis(30));
                    }
                })
            })
            .collect();
        for task in tasks {
            block_on(task).unwrap();
        }
        assert!(limit.permit(RequestClass::Bulk).now_or_never().is_some());
    });
}

/// Four images want six pulls, three are left, and one image gives back what it does not need. No time passes: a task that would wait for
/// the next window waits for ever.
#[test]
fn leases_never_exceed_the_pulls_left_and_every_image_is_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _clock = runtime.enter();
    explore(500, || {
        let gate = Accounts::new(clock(), None).gate(&account(), None, None);
        gate.observe(&quota_of(100, 3, WINDOW), Instant::now());
        let (held, left) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(3)));
        let tasks: Vec<_> = [2, 1, 2, 1]
            .into_iter()
            .enumerate()
            .map(|(image, pulls)| {
                let (gate, held, left) = (Arc::clone(&gate), Arc::clone(&held), Arc::clone(&left));
                spawn(async move {
                    let Ok(lease) = Lease::acquire(&gate, PullRequest { pulls, priority: 0 }, WaitMode::Defer).await else { return };
                    let others = held.fetch_add(pulls, Ordering::SeqCst);
                    assert!(others + pulls <= left.load(Ordering::SeqCst), "more leases than pulls");
                    yield_now().await;
                    if image > 0 {
                        for _ in 0..pulls {
                            let flight = lease.spend().await.unwrap();
                            yield_now().await;
                            let remaining = left.fetch_sub(1, Ordering::SeqCst) - 1;
                            held.fetch_sub(1, Ordering::SeqCst);
                            flight.answered(&quota_of(100, remaining, WINDOW));
                        }
                    } else {
                        held.fetch_sub(pulls, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for task in tasks {
            block_on(task).unwrap();
        }
        assert_eq!(gate.standing().waiting, 0);
        assert_eq!(gate.standing().remaining, Some(left.load(Ordering::SeqCst)));
    });
}
