//! Requests at once towards one host: as many as it takes, within a cap; and small requests never behind big ones.
//!
//! Additive increase, multiplicative decrease, as vector and linkerd do it: the limit grows only
//! when it was really reached and nothing complained; it is halved once per congestion epoch, however many of the requests
//! that were under way together are refused.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::mutex::Mutex;

/// How many requests may start at once before the host has shown that it bears more. The defaults of `concurrency`
/// (8 upstream, 16 target) are not above it: only who asks for more than everyone gets begins below his cap.
const START: usize = 16;

/// What a request is, as far as its place in the queue is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestClass {
    /// Manifests, HEADs, tokens, tag lists, the short requests of an upload.
    Small,
    /// A request with a blob in its body, or in its answer's.
    Bulk,
}

/// The limit itself: pure.
#[derive(Debug)]
struct Aimd {
    cap: usize,
    limit: usize,
    /// Counts halvings: requests of an earlier epoch say nothing about this one.
    epoch: u64,
    /// The limit was reached since it last changed.
    reached: bool,
    /// Good answers since the limit last changed.
    good: usize,
}

impl Aimd {
    fn new(cap: usize) -> Self {
        let cap = cap.max(1);
        Aimd { cap, limit: cap.min(START), epoch: 0, reached: false, good: 0 }
    }

    /// Never below two where two are allowed: one slot is always kept for small requests, and blobs must move too.
    fn floor(&self) -> usize {
        self.cap.min(2)
    }

    /// Half as many at once, but not fewer than `least`.
    fn congested(&mut self, epoch: u64, least: usize) {
        if epoch == self.epoch {
            self.limit = (self.limit / 2).max(self.floor()).max(least.min(self.limit));
            self.epoch += 1;
            (self.reached, self.good) = (false, 0);
        }
    }

    fn fine(&mut self, epoch: u64) {
        if epoch != self.epoch || !self.reached || self.limit >= self.cap {
            return;
        }
        self.good += 1;
        // A full round of good answers earns one more.
        if self.good >= self.limit {
            self.limit += 1;
            (self.reached, self.good) = (false, 0);
        }
    }
}

#[derive(Debug)]
struct AdaptiveState {
    aimd: Aimd,
    small: usize,
    bulk: usize,
    waiting_small: VecDeque<oneshot::Sender<Permit>>,
    waiting_bulk: VecDeque<oneshot::Sender<Permit>>,
}

impl AdaptiveState {
    fn admits(&self, class: RequestClass) -> bool {
        let limit = self.aimd.limit;
        let free = self.small + self.bulk < limit;
        match class {
            RequestClass::Small => free,
            // The last slot is kept for small requests. With a single slot there is none to keep: it goes to whoever is
            // first, the small ones before the big.
            RequestClass::Bulk => free && (limit == 1 || self.bulk + 1 < limit),
        }
    }

    fn count(&mut self, class: RequestClass) -> &mut usize {
        match class {
            RequestClass::Small => &mut self.small,
            RequestClass::Bulk => &mut self.bulk,
        }
    }

    /// A permit without a slot, for what may not wait.
    fn beside(&self, shared: &Arc<Mutex<AdaptiveState>>) -> Permit {
        Permit { shared: Some(Arc::clone(shared)), slot: None, epoch: self.aimd.epoch }
    }

    /// Takes a slot. `epoch` of the permit is the one it starts in.
    fn take(&mut self, class: RequestClass, shared: &Arc<Mutex<AdaptiveState>>) -> Permit {
        *self.count(class) += 1;
        if self.small + self.bulk >= self.aimd.limit {
            self.aimd.reached = true;
        }
        Permit { shared: Some(Arc::clone(shared)), slot: Some(class), epoch: self.aimd.epoch }
    }

    /// Hands out free slots, the small requests first.
    fn dispatch(&mut self, shared: &Arc<Mutex<AdaptiveState>>) {
        for class in [RequestClass::Small, RequestClass::Bulk] {
            while self.admits(class) {
                let queue = match class {
                    RequestClass::Small => &mut self.waiting_small,
                    RequestClass::Bulk => &mut self.waiting_bulk,
                };
                let Some(waiter) = queue.pop_front() else { break };
                let permit = self.take(class, shared);
                if let Err(mut unwanted) = waiter.send(permit) {
                    // Whoever waited is gone. Its drop would lock what is locked here.
                    unwanted.shared = None;
                    *self.count(class) -= 1;
                }
            }
        }
    }
}

/// The concurrency towards one host.
#[derive(Debug, Clone)]
pub struct AdaptiveLimit(Arc<Mutex<AdaptiveState>>);

impl AdaptiveLimit {
    /// Never more than `cap` requests at once (at least 1).
    pub fn new(cap: usize) -> Self {
        let state =
            AdaptiveState { aimd: Aimd::new(cap), small: 0, bulk: 0, waiting_small: VecDeque::new(), waiting_bulk: VecDeque::new() };
        AdaptiveLimit(Arc::new(Mutex::new(state)))
    }

    /// Waits for a slot. Hold the permit until the body has been read, or sent.
    pub async fn permit(&self, class: RequestClass) -> Permit {
        loop {
            let waiter = {
                let mut state = self.0.lock();
                let queue_is_empty = match class {
                    RequestClass::Small => state.waiting_small.is_empty(),
                    RequestClass::Bulk => state.waiting_bulk.is_empty() && state.waiting_small.is_empty(),
                };
                if queue_is_empty && state.admits(class) {
                    return state.take(class, &self.0);
                }
                let (tell, waiter) = oneshot::channel();
                match class {
                    RequestClass::Small => state.waiting_small.push_back(tell),
                    RequestClass::Bulk => state.waiting_bulk.push_back(tell),
                }
                waiter
            };
            // An error would mean that the state is gone, which `self` keeps alive; asking again is right in any case.
            if let Ok(permit) = waiter.await {
                return permit;
            }
        }
    }

    /// A slot if one is free. If none is, a permit all the same, that holds none: for requests that others may be waiting
    /// for. What it says of the host counts as every permit's word does.
    pub fn permit_or_none(&self, class: RequestClass) -> Permit {
        let mut state = self.0.lock();
        if state.admits(class) { state.take(class, &self.0) } else { state.beside(&self.0) }
    }

    /// Raises the cap to at least `cap`.
    pub fn widen(&self, cap: usize) {
        let mut state = self.0.lock();
        if cap > state.aimd.cap {
            state.aimd.cap = cap;
            state.aimd.limit = state.aimd.limit.max(cap.min(START));
            state.dispatch(&self.0);
        }
    }

    /// How many requests may be under way now.
    pub fn limit(&self) -> usize {
        self.0.lock().aimd.limit
    }
}

/// A slot until dropped, or none at all.
#[derive(Debug)]
pub struct Permit {
    shared: Option<Arc<Mutex<AdaptiveState>>>,
    slot: Option<RequestClass>,
    epoch: u64,
}

impl Permit {
    /// The host answered 429 or 503: fewer at once.
    pub fn congested(&self) {
        if let Some(shared) = &self.shared {
            shared.lock().aimd.congested(self.epoch, 0);
        }
    }

    /// The host answered 429 or 503 and said how long to wait. It is left alone for that long, so what may be under way at once
    /// shrinks to half of the cap and no further: with fewer, a host that asks everybody to wait a second serves two requests a second.
    pub fn asked_to_wait(&self) {
        if let Some(shared) = &self.shared {
            let mut state = shared.lock();
            let least = state.aimd.cap / 2;
            state.aimd.congested(self.epoch, least);
        }
    }

    /// The host answered as it should: perhaps more at once.
    pub fn fine(&self) {
        if let Some(shared) = &self.shared {
            let mut state = shared.lock();
            state.aimd.fine(self.epoch);
            state.dispatch(shared);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            let Some(class) = self.slot else { return };
            let mut state = shared.lock();
            let count = state.count(class);
            *count = count.saturating_sub(1);
            state.dispatch(&shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    fn now(adaptive: &AdaptiveLimit, class: RequestClass) -> Option<Permit> {
        adaptive.permit(class).now_or_never()
    }

    #[test]
    fn blobs_leave_a_slot_for_small_requests() {
        let host = AdaptiveLimit::new(4);
        let blobs: Vec<_> = (0..3).map(|_| now(&host, RequestClass::Bulk).unwrap()).collect();
        assert!(now(&host, RequestClass::Bulk).is_none());
        let head = now(&host, RequestClass::Small).expect("a HEAD does not wait behind blobs");
        assert!(now(&host, RequestClass::Small).is_none(), "the cap holds for small ones too");
        drop((head, blobs));
        let state = host.0.lock();
        assert_eq!((state.small, state.bulk), (0, 0));
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
        let all: Vec<_> = (0..8).map(|_| now(&host, RequestClass::Small).unwrap()).collect();
        for permit in &all {
            permit.congested();
        }
        assert_eq!(host.limit(), 4, "eight refusals of one crowd are one congestion");
        drop(all);
        let next = now(&host, RequestClass::Small).unwrap();
        next.congested();
        assert_eq!(host.limit(), 2);
        now(&host, RequestClass::Small).unwrap().congested();
        assert_eq!(host.limit(), 2, "never below one blob and one small request");
    }

    #[test]
    fn grows_only_when_it_was_reached() {
        let host = AdaptiveLimit::new(8);
        now(&host, RequestClass::Small).unwrap().congested();
        assert_eq!(host.limit(), 4);
        for _ in 0..100 {
            now(&host, RequestClass::Small).unwrap().fine();
        }
        assert_eq!(host.limit(), 4, "one at a time proves nothing about five");
        let all: Vec<_> = (0..4).map(|_| now(&host, RequestClass::Small).unwrap()).collect();
        for permit in &all {
            permit.fine();
        }
        assert_eq!(host.limit(), 5);
    }

    #[test]
    fn a_cap_above_the_start_is_earned() {
        let host = AdaptiveLimit::new(64);
        assert_eq!(host.limit(), START);
        for _ in 0..64 {
            let all: Vec<_> = std::iter::from_fn(|| now(&host, RequestClass::Small)).collect();
            all.iter().for_each(Permit::fine);
        }
        assert_eq!(host.limit(), 64);
    }

    #[tokio::test]
    async fn whoever_stops_waiting_takes_no_slot() {
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
    fn what_may_not_wait_goes_beside_and_still_tells() {
        let host = AdaptiveLimit::new(4);
        let all: Vec<_> = (0..4).map(|_| now(&host, RequestClass::Small).unwrap()).collect();
        let beside = host.permit_or_none(RequestClass::Bulk);
        beside.congested();
        assert_eq!(host.limit(), 2);
        drop((beside, all));
        let state = host.0.lock();
        assert_eq!((state.small, state.bulk), (0, 0));
    }

    #[test]
    fn a_wider_cap_lets_in_who_waits() {
        let host = AdaptiveLimit::new(1);
        let _held = now(&host, RequestClass::Small).unwrap();
        let mut waiting = Box::pin(host.permit(RequestClass::Small));
        assert!((&mut waiting).now_or_never().is_none());
        host.widen(2);
        host.widen(1);
        assert!(waiting.now_or_never().is_some() && host.limit() == 2);
    }

    proptest! {
        #[test]
        fn the_cap_holds_and_nothing_is_lost(cap in 1usize..12, steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>()), 1..200)) {
            let host = AdaptiveLimit::new(cap);
            let mut held: Vec<Permit> = Vec::new();
            for (what, which) in steps {
                match what {
                    0 | 1 => held.extend(now(&host, if what == 0 { RequestClass::Small } else { RequestClass::Bulk })),
                    _ if held.is_empty() => {}
                    2 => held[which.index(held.len())].congested(),
                    3 => held[which.index(held.len())].fine(),
                    _ => drop(held.swap_remove(which.index(held.len()))),
                }
                let state = host.0.lock();
                prop_assert!(held.len() <= cap && state.small + state.bulk == held.len());
                prop_assert!((1..=cap).contains(&state.aimd.limit));
            }
            held.clear();
            prop_assert!(now(&host, RequestClass::Bulk).is_some() && now(&host, RequestClass::Small).is_some());
        }
    }
}
