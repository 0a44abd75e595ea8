//! The order of images when pulls are scarce. Pure.
//!
//! An image that has begun goes on first. Then priority; then the image that costs fewer pulls; then who came first. An image
//! starts when the budget covers its whole graph; one that does not fit is passed over by those that do, because it could
//! not use what they take. Within one priority a larger image goes before a smaller one in one case: when taking the
//! smallest first would leave a rest that nothing fits in, and so cost a window more in the end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use super::budget::BudgetRoom;

/// A request for pulls.
#[derive(Debug)]
pub struct QueuedPulls<T> {
    /// Higher first.
    pub priority: i64,
    /// What the whole graph costs, or what is missing of it.
    pub pulls: u64,
    /// Part of it was pulled already.
    pub continuing: bool,
    /// Who it is.
    pub who: T,
}

/// All requests for pulls of one account. With equal priority and cost, first come, first served.
#[derive(Debug)]
pub struct Queue<T> {
    begun: VecDeque<QueuedPulls<T>>,
    classes: BTreeMap<Reverse<i64>, BTreeMap<u64, VecDeque<QueuedPulls<T>>>>,
    len: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { begun: VecDeque::new(), classes: BTreeMap::new(), len: 0 }
    }
}

impl<T> Queue<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No request waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many waiting requests `pick` selects.
    pub fn count(&self, pick: impl Fn(&QueuedPulls<T>) -> bool) -> usize {
        let waiting = self.classes.values().flat_map(BTreeMap::values).flatten();
        self.begun.iter().chain(waiting).filter(|job| pick(job)).count()
    }

    /// Adds a job.
    pub fn push(&mut self, job: QueuedPulls<T>) {
        self.len += 1;
        if job.continuing {
            self.begun.push_back(job);
        } else {
            self.classes.entry(Reverse(job.priority)).or_default().entry(job.pulls).or_default().push_back(job);
        }
    }

    /// Takes out the job that starts next in this room, if any does. [`BudgetRoom::grant`] says how much of it is covered.
    pub fn next(&mut self, room: BudgetRoom) -> Option<QueuedPulls<T>> {
        if let Some(at) = self.begun.iter().position(|job| room.grant(job.pulls).is_some()) {
            self.len -= 1;
            return self.begun.remove(at);
        }
        let (class, pulls) = self.classes.iter().find_map(|(class, sizes)| Some((*class, choose(sizes, room)?)))?;
        let sizes = self.classes.get_mut(&class)?;
        let jobs = sizes.get_mut(&pulls)?;
        let job = jobs.pop_front()?;
        if jobs.is_empty() {
            sizes.remove(&pulls);
        }
        if sizes.is_empty() {
            self.classes.remove(&class);
        }
        self.len -= 1;
        Some(job)
    }

    /// Takes out all jobs of more than `larger_than` pulls that `pick` picks.
    pub fn extract(&mut self, larger_than: u64, mut pick: impl FnMut(&QueuedPulls<T>) -> bool) -> Vec<QueuedPulls<T>> {
        let mut out = Vec::new();
        let mut sift = |jobs: &mut VecDeque<QueuedPulls<T>>| {
            for _ in 0..jobs.len() {
                let Some(job) = jobs.pop_front() else { break };
                if job.pulls > larger_than && pick(&job) {
                    out.push(job);
                } else {
                    jobs.push_back(job);
                }
            }
        };
        sift(&mut self.begun);
        for sizes in self.classes.values_mut() {
            if let Some(first) = larger_than.checked_add(1) {
                sizes.range_mut(first..).for_each(|(_, jobs)| sift(jobs));
            }
            sizes.retain(|_, jobs| !jobs.is_empty());
        }
        self.classes.retain(|_, sizes| !sizes.is_empty());
        self.len -= out.len();
        out
    }
}

/// The cost of the job that starts next among those of one priority: the smallest with which the rest still fits in as few
/// windows as if the largest always went first (which is how graphs are packed best, within a few percent, and exactly where
/// small ones fill the gaps).
fn choose<T>(sizes: &BTreeMap<u64, VecDeque<QueuedPulls<T>>>, room: BudgetRoom) -> Option<u64> {
    let smallest = *sizes.keys().next()?;
    if smallest > room.left {
        // None fits; one larger than a window may begin.
        return sizes.keys().copied().find(|pulls| room.grant(*pulls).is_some());
    }
    let mut counts: Vec<(u64, u64)> =
        sizes.iter().take_while(|(pulls, _)| **pulls <= room.per_window).map(|(pulls, jobs)| (*pulls, jobs.len() as u64)).collect();
    let total = counts.iter().map(|(pulls, count)| pulls.saturating_mul(*count)).fold(0, u64::saturating_add);
    if total <= room.left || counts.len() < 2 {
        return Some(smallest);
    }
    let least = windows(&counts, room.left, room.per_window);
    for at in 0..counts.len() {
        let pulls = counts[at].0;
        if pulls > room.left {
            break;
        }
        counts[at].1 -= 1;
        if windows(&counts, room.left - pulls, room.per_window) <= least {
            return Some(pulls);
        }
        counts[at].1 += 1;
    }
    Some(smallest)
}

/// How many windows after this one, of which `left` is left, jobs of these (cost, count), ascending, need if the largest that
/// fits always goes first.
fn windows(counts: &[(u64, u64)], left: u64, per_window: u64) -> u64 {
    let mut rest = counts.to_vec();
    let mut windows = 0;
    let mut room = left;
    loop {
        for (pulls, count) in rest.iter_mut().rev() {
            // What costs nothing needs no window.
            let take = room.checked_div(*pulls).unwrap_or(*count).min(*count);
            *count -= take;
            room -= take * *pulls;
        }
        rest.retain(|(_, count)| *count > 0);
        // All fit into an empty window, so that every round takes some.
        if rest.is_empty() || (windows > 0 && room == per_window) {
            return windows;
        }
        windows += 1;
        room = per_window;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queue(jobs: &[(i64, u64, &'static str)]) -> Queue<&'static str> {
        let mut queue = Queue::default();
        for (priority, pulls, who) in jobs {
            queue.push(QueuedPulls { priority: *priority, pulls: *pulls, continuing: false, who: *who });
        }
        queue
    }

    fn room(left: u64, per_window: u64) -> BudgetRoom {
        BudgetRoom { left, per_window, fresh: left == per_window }
    }

    fn drain(queue: &mut Queue<&'static str>, mut left: u64, per_window: u64) -> Vec<&'static str> {
        let mut out = Vec::new();
        while let Some(job) = queue.next(room(left, per_window)) {
            left -= room(left, per_window).grant(job.pulls).unwrap();
            out.push(job.who);
        }
        out
    }

    #[test]
    fn priority_then_fewer_pulls_then_first_come() {
        let mut queue = queue(&[(0, 3, "c"), (0, 1, "a"), (5, 4, "z"), (0, 1, "b"), (5, 2, "y")]);
        assert_eq!(drain(&mut queue, 100, 100), ["y", "z", "a", "b", "c"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_passed_over_and_not_begun() {
        let mut queue = queue(&[(5, 4, "big"), (0, 2, "two"), (0, 1, "one")]);
        assert_eq!(drain(&mut queue, 3, 10), ["one", "two"]);
        assert_eq!(drain(&mut queue, 10, 10), ["big"]);
    }

    #[test]
    fn larger_than_a_window_starts_in_a_fresh_one() {
        let mut queue = queue(&[(0, 25, "huge")]);
        assert!(queue.next(room(9, 10)).is_none());
        assert_eq!(queue.next(room(10, 10)).unwrap().who, "huge");
    }

    #[test]
    fn what_has_begun_goes_first_whatever_its_priority() {
        let mut queue = queue(&[(9, 1, "new")]);
        queue.push(QueuedPulls { priority: -9, pulls: 5, continuing: true, who: "begun" });
        assert_eq!(drain(&mut queue, 10, 10), ["begun", "new"]);
    }

    #[test]
    fn a_larger_one_goes_first_only_if_that_saves_a_window() {
        let jobs = [(0, 1, "a"), (0, 1, "b"), (0, 3, "c"), (0, 3, "d")];
        let mut scarce = queue(&jobs);
        assert_eq!(drain(&mut scarce, 4, 4), ["a", "c"], "a and b first would need three windows");
        assert_eq!(drain(&mut scarce, 4, 4), ["b", "d"]);
        // Two windows either way: more images sooner.
        let mut enough = queue(&[(0, 1, "a"), (0, 1, "b"), (0, 3, "c")]);
        assert_eq!(drain(&mut enough, 3, 3), ["a", "b"]);
    }

    #[test]
    fn extract_takes_what_is_picked() {
        let mut queue = queue(&[(0, 1, "a"), (0, 5, "b"), (1, 5, "c"), (1, 6, "d")]);
        let out: Vec<_> = queue.extract(4, |job| job.who != "c").into_iter().map(|job| job.who).collect();
        assert_eq!((out, queue.len()), (vec!["d", "b"], 2));
        assert!(queue.extract(u64::MAX, |_| true).is_empty());
    }

    proptest! {
        #[test]
        fn never_over_and_never_idle(jobs in prop::collection::vec((-2i64..3, 1u64..9), 0..60), left in 0u64..40) {
            let mut queue = Queue::default();
            for (priority, pulls) in &jobs {
                queue.push(QueuedPulls { priority: *priority, pulls: *pulls, continuing: false, who: () });
            }
            let (mut rest, mut started) = (left, 0);
            while let Some(job) = queue.next(room(rest, 40)) {
                prop_assert!(job.pulls <= rest);
                rest -= job.pulls;
                started += 1;
            }
            prop_assert_eq!(started + queue.len(), jobs.len());
            prop_assert!(queue.extract(0, |job| job.pulls <= rest).is_empty(), "somebody fits and was not started");
        }

        /// Whole queues, window after window: never more windows than with the largest first.
        #[test]
        fn as_few_windows_as_if_the_largest_went_first(jobs in prop::collection::vec((1u64..9, 1u64..40), 1..5), left in 0u64..40) {
            let mut counts = BTreeMap::new();
            for (pulls, count) in jobs { *counts.entry(pulls).or_insert(0) += count; }
            let counts: Vec<_> = counts.into_iter().collect();
            let mut queue = Queue::default();
            for (pulls, count) in &counts {
                for _ in 0..*count { queue.push(QueuedPulls { priority: 0, pulls: *pulls, continuing: false, who: () }); }
            }
            let (mut used, mut rest) = (0, left);
            loop {
                while let Some(job) = queue.next(room(rest, 40)) { rest -= job.pulls; }
                if queue.is_empty() { break; }
                (used, rest) = (used + 1, 40);
            }
            prop_assert!(used <= windows(&counts, left, 40));
        }
    }
}
