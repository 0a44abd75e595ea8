//! Requests at once towards one host: as many as it answers without slowing down, within a ceiling; and small requests never behind blobs.
//!
//! Small requests and blobs have a limit each, which [`Climb`] finds from the time that their answers take; together they stay within the
//! ceiling. If the host refuses (429, 503) or breaks connections, both limits are halved, once per congestion epoch, however many of the
//! requests that were in flight together fail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::climb::{AnswerGroup, Climb, START};

use crate::mutex::Mutex;

/// This part of the ceiling, or at least one slot, is kept for small requests: blobs may take minutes, and what is resolved meanwhile is
/// copied next.
const KEPT_PART: usize = 4;

/// What a request is, as far as its place in the queue is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestClass {
    /// Manifests, HEADs, tokens, tag lists, the short requests of an upload.
    Small,
    /// A request with a blob in its body, or in its answer's.
    Bulk,
}

/// The requests of one class.
#[derive(Debug)]
struct ClassState {
    climb: Climb,
    in_flight: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

impl ClassState {
    fn new(ceiling: usize) -> Self {
        ClassState { climb: Climb::new(ceiling), in_flight: 0, waiting: VecDeque::new() }
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.climb.limit()
    }
}

#[derive(Debug)]
struct AdaptiveState {
    ceiling: usize,
    small: ClassState,
    bulk: ClassState,
    /// Counts halvings: requests of an earlier epoch say nothing about this one.
    epoch: u64,
}

impl AdaptiveState {
    fn class(&mut self, class: RequestClass) -> &mut ClassState {
        match class {
            RequestClass::Small => &mut self.small,
            RequestClass::Bulk => &mut self.bulk,
        }
    }

    fn admits(&self, class: RequestClass) -> bool {
        let state = match class {
            RequestClass::Small => &self.small,
            RequestClass::Bulk => &self.bulk,
        };
        state.has_room() && self.small.in_flight + self.bulk.in_flight < self.ceiling
    }

    /// A permit without a slot, for a request that may not wait.
    fn without_slot(&self, class: RequestClass, shared: &Arc<Mutex<AdaptiveState>>) -> Permit {
        Permit { shared: Some(Arc::clone(shared)), class, has_slot: false, epoch: self.epoch, round: None }
    }

    /// Takes a slot.
    fn take(&mut self, class: RequestClass, shared: &Arc<Mutex<AdaptiveState>>) -> Permit {
        let epoch = self.epoch;
        let state = self.class(class);
        state.in_flight += 1;
        // Fewer requests than the limit show nothing about the limit.
        let round = (!state.has_room()).then(|| state.climb.round());
        Permit { shared: Some(Arc::clone(shared)), class, has_slot: true, epoch, round }
    }

    /// Gives free slots to those that wait, to small requests first.
    fn dispatch(&mut self, shared: &Arc<Mutex<AdaptiveState>>) {
        for class in [RequestClass::Small, RequestClass::Bulk] {
            while self.admits(class) {
                let Some(waiter) = self.class(class).waiting.pop_front() else { break };
                let permit = self.take(class, shared);
                if let Err(mut unwanted) = waiter.send(permit) {
                    // The waiter is gone. The permit's drop would lock what is locked here.
                    unwanted.shared = None;
                    self.class(class).in_flight -= 1;
                }
            }
        }
    }

    /// Halves both limits, unless that was done since the request of `epoch` was sent.
    fn congested(&mut self, epoch: u64, least: usize, refuses: bool) {
        if epoch == self.epoch {
            self.epoch += 1;
            let now = Instant::now();
            self.small.climb.halve(least, refuses, now);
            self.bulk.climb.halve(least, refuses, now);
        }
    }
}

/// The requests in flight to one host.
#[derive(Debug, Clone)]
pub struct AdaptiveLimit(Arc<Mutex<AdaptiveState>>);

impl AdaptiveLimit {
    /// Never more than `ceiling` requests at once (at least 1).
    pub fn new(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1);
        // A single slot cannot be kept: it goes to the first in the queue, to small requests before blobs.
        let blobs = (ceiling - (ceiling / KEPT_PART).max(1)).max(1);
        let state = AdaptiveState { ceiling, small: ClassState::new(ceiling), bulk: ClassState::new(blobs), epoch: 0 };
        AdaptiveLimit(Arc::new(Mutex::new(state)))
    }

    /// Waits for a slot. Hold the permit until the body has been read, or sent.
    pub async fn permit(&self, class: RequestClass) -> Permit {
        loop {
            let waiter = {
                let mut state = self.0.lock();
                let queue_is_empty = state.small.waiting.is_empty() && (class == RequestClass::Small || state.bulk.waiting.is_empty());
                if queue_is_empty && state.admits(class) {
                    return state.take(class, &self.0);
                }
                let (tell, waiter) = oneshot::channel();
                state.class(class).waiting.push_back(tell);
                // Small requests may wait for their own limit while there is room for blobs.
                state.dispatch(&self.0);
                waiter
            };
            // An error would mean that the state is gone, which `self` keeps alive; asking again is right in any case.
            if let Ok(permit) = waiter.await {
                return permit;
            }
        }
    }

    /// A slot if one is free. If not, a permit without one: for requests that others may be waiting for. What is reported with it counts as
    /// with any other.
    pub fn permit_or_none(&self, class: RequestClass) -> Permit {
        let mut state = self.0.lock();
        if state.admits(class) { state.take(class, &self.0) } else { state.without_slot(class, &self.0) }
    }

    /// How many requests of `class` may be in flight now.
    pub fn limit(&self, class: RequestClass) -> usize {
        self.0.lock().class(class).climb.limit()
    }
}

/// Permission for one request, with a slot or without, until dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Option<Arc<Mutex<AdaptiveState>>>,
    class: RequestClass,
    has_slot: bool,
    epoch: u64,
    /// The round in which the request was sent, if the limit was reached then.
    round: Option<u64>,
}

impl Permit {
    /// The host answered 429 or 503: fewer at once.
    pub fn refused(&self) {
        self.congested(0, true);
    }

    /// The host answered 429 or 503 and said how long to wait. Nothing is sent for that long, so the limits shrink to half of the first limit
    /// and no further: with fewer, a host that asks everybody to wait a second serves two requests a second.
    pub fn asked_to_wait(&self) {
        self.congested(START / 2, true);
    }

    /// The connection broke: fewer at once.
    pub fn broken(&self) {
        self.congested(0, false);
    }

    /// The host answered after `latency`, with the whole body of a blob: perhaps more at once.
    pub fn answered(&self, group: AnswerGroup, latency: Duration) {
        if let (Some(shared), Some(round)) = (&self.shared, self.round) {
            let mut state = shared.lock();
            state.class(self.class).climb.answered(group, latency, round, Instant::now());
            state.dispatch(shared);
        }
    }

    fn congested(&self, least: usize, refuses: bool) {
        if let Some(shared) = &self.shared {
            shared.lock().congested(self.epoch, least, refuses);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            if !self.has_slot {
                return;
            }
            let mut state = shared.lock();
            let in_flight = &mut state.class(self.class).in_flight;
            *in_flight = in_flight.saturating_sub(1);
            state.dispatch(&shared);
        }
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    fn now(adaptive: &AdaptiveLimit, class: RequestClass) -> Option<Permit> {
        adaptive.permit(class).now_or_never()
    }

    fn small(adaptive: &AdaptiveLimit) -> Permit {
        now(adaptive, RequestClass::Small).unwrap()
    }

    fn in_flight(host: &AdaptiveLimit) -> (usize, usize) {
        let state = host.0.lock();
        (state.small.in_flight, state.bulk.in_flight)
    }

    const ANSWER: Duration = Duration::from_millis(30);

    #[test]
    fn blobs_leave_a_slot_for_small_requests() {
        let host = AdaptiveLimit::new(4);
        let blobs: Vec<_> = (0..3).map(|_| now(&host, RequestClass::Bulk).unwrap()).collect();
        assert!(now(&host, RequestClass::Bulk).is_none());
        let head = now(&host, RequestClass::Small).expect("a HEAD does not wait behind blobs");
        assert!(now(&host, RequestClass::Small).is_none(), "the ceiling holds for small ones too");
        drop((head, blobs));
        assert_eq!(in_flight(&host), (0, 0));
    }

    #[test]
    fn small_requests_that_wait_for_their_own_limit_do_not_hold_up_blobs() {
        let host = AdaptiveLimit::new(64);
        let _heads: Vec<_> = (0..START).map(|_| small(&host)).collect();
        let mut waiting = Box::pin(host.permit(RequestClass::Small));
        assert!((&mut waiting).now_or_never().is_none());
        let mut blob = Box::pin(host.permit(RequestClass::Bulk));
        assert!((&mut blob).now_or_never().is_some(), "blobs have a limit of their own");
    }

    #[tokio::test]
    async fn one_slot_serves_both() {
        let host = AdaptiveLimit::new(1);
        let blob = host.permit(RequestClass::Bulk).await;
        let mut bulk = Box::pin(host.permit(RequestClass::Bulk));
        let mut small = Box::pin(host.permit(RequestClass::Small));
        assert!((&mut bulk).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none());
        drop(blob);
        let head = small.await;
        assert!((&mut bulk).now_or_never().is_none(), "the small one first, though it came later");
        drop(head);
        bulk.await;
    }

    #[test]
    fn halved_once_an_epoch() {
        let host = AdaptiveLimit::new(8);
        let all: Vec<_> = (0..8).map(|_| small(&host)).collect();
        for permit in &all {
            permit.refused();
        }
        assert_eq!(host.limit(RequestClass::Small), 4, "eight refusals of one crowd are one congestion");
        assert_eq!(host.limit(RequestClass::Bulk), 3, "which is the host's, not the class's");
        drop(all);
        small(&host).broken();
        assert_eq!(host.limit(RequestClass::Small), 2);
        small(&host).refused();
        assert_eq!(host.limit(RequestClass::Small), 2, "never below one blob and one small request");
    }

    #[test]
    fn a_host_that_says_how_long_to_wait_keeps_half_of_the_first_limit() {
        let host = AdaptiveLimit::new(64);
        small(&host).asked_to_wait();
        small(&host).asked_to_wait();
        assert_eq!(host.limit(RequestClass::Small), START / 2);
    }

    #[test]
    fn grows_only_when_it_was_reached() {
        let host = AdaptiveLimit::new(64);
        for _ in 0..100 {
            small(&host).answered(AnswerGroup::new(0, 0), ANSWER);
        }
        assert_eq!(host.limit(RequestClass::Small), START, "one at a time proves nothing about more");
    }

    #[test]
    fn a_ceiling_above_the_start_is_earned() {
        let host = AdaptiveLimit::new(64);
        let mut held: Vec<Permit> = Vec::new();
        for _ in 0..600 {
            held.extend(std::iter::from_fn(|| now(&host, RequestClass::Small)));
            assert!(held.len() <= 64);
            let answered = held.remove(0);
            answered.answered(AnswerGroup::new(0, 0), ANSWER);
        }
        assert!(host.limit(RequestClass::Small) > 48, "{}", host.limit(RequestClass::Small));
        assert_eq!(host.limit(RequestClass::Bulk), START);
    }

    #[tokio::test]
    async fn a_task_that_stops_waiting_takes_no_slot() {
        let host = AdaptiveLimit::new(1);
        let held = host.permit(RequestClass::Small).await;
        let mut gone = Box::pin(host.permit(RequestClass::Small));
        let mut late = Box::pin(host.permit(RequestClass::Small));
        assert!((&mut gone).now_or_never().is_none());
        assert!((&mut late).now_or_never().is_none());
        drop(held);
        // `gone` was given the slot, and never looked.
        drop(gone);
        late.await;
    }

    #[test]
    fn a_request_that_may_not_wait_gets_no_slot_and_still_reports() {
        let host = AdaptiveLimit::new(4);
        let all: Vec<_> = (0..4).map(|_| small(&host)).collect();
        let beside = host.permit_or_none(RequestClass::Bulk);
        beside.refused();
        assert_eq!(host.limit(RequestClass::Small), 2);
        drop((beside, all));
        assert_eq!(in_flight(&host), (0, 0));
    }

    proptest! {
        #[test]
        fn the_ceiling_holds_and_no_slot_is_lost(
            ceiling in 1usize..12,
            steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>(), 1u64..1000), 1..400),
        ) {
            let host = AdaptiveLimit::new(ceiling);
            let mut held: Vec<Permit> = Vec::new();
            for (what, which, millis) in steps {
                match what {
                    0 | 1 => held.extend(now(&host, if what == 0 { RequestClass::Small } else { RequestClass::Bulk })),
                    _ if held.is_empty() => {}
                    2 if millis < 100 => held[which.index(held.len())].refused(),
                    2 => held[which.index(held.len())].broken(),
                    3 => held[which.index(held.len())].answered(AnswerGroup::new(0, 0), Duration::from_millis(millis)),
                    _ => drop(held.swap_remove(which.index(held.len()))),
                }
                let (small, bulk) = in_flight(&host);
                prop_assert!(held.len() <= ceiling && small + bulk == held.len());
                for class in [RequestClass::Small, RequestClass::Bulk] {
                    prop_assert!((1..=ceiling).contains(&host.limit(class)));
                }
            }
            held.clear();
            prop_assert!(now(&host, RequestClass::Bulk).is_some() && now(&host, RequestClass::Small).is_some());
        }
    }
}
