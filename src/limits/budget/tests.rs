//! The budget against single stories, and against an upstream that is asked, answers and loses answers in any order.

use proptest::prelude::*;

use super::*;
use crate::limits::headers::tests::quota_of;

const HOUR: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

fn learnt(remaining: u64, limit: u64, configured: Option<PullLimit>, now: Instant) -> Budget {
    let mut budget = Budget::new(configured);
    assert!(budget.observe(&quota_of(limit, remaining, 6 * HOUR), now, now));
    budget
}

fn granted(budget: &mut Budget, pulls: u64, now: Instant) -> bool {
    matches!(budget.reserve(pulls, now), ReserveResult::Granted(granted) if granted == pulls)
}

#[test]
fn sixteen_requests_against_five_send_five() {
    let now = Instant::now();
    let mut budget = learnt(5, 100, None, now);
    let sent = (0..16).filter(|_| granted(&mut budget, 1, now) && budget.send(now)).count();
    assert_eq!(sent, 5);
    // The last one answered first: nothing comes back. The late ones do not raise what is left.
    for remaining in [0, 4, 3, 2, 1] {
        assert!(budget.settle(PullOutcome::Answered(&quota_of(100, remaining, 6 * HOUR)), now, now + MS));
        assert!(!granted(&mut budget, 1, now + MS));
    }
    assert_eq!((budget.spent(), budget.remaining()), (5, Some(0)));
    assert!(matches!(budget.reserve(1, now + MS), ReserveResult::Wait { reason: WaitReason::Spent, until: Some(_) }));
}

#[test]
fn an_early_answer_does_not_stop_an_image_that_has_begun() {
    let now = Instant::now();
    let mut budget = learnt(10, 100, None, now);
    assert!(granted(&mut budget, 10, now));
    assert_eq!((0..6).filter(|_| budget.send(now)).count(), 6);
    // It counts all six that are under way: four are left, and four are reserved.
    budget.settle(PullOutcome::Answered(&quota_of(100, 4, 6 * HOUR)), now, now + MS);
    assert!(!granted(&mut budget, 1, now + MS) && budget.send(now + MS));
    // Three are reserved, and two are left: somebody else was there.
    budget.settle(PullOutcome::Answered(&quota_of(100, 2, 6 * HOUR)), now + MS, now + 2 * MS);
    assert!(!budget.send(now + 2 * MS));
}

#[test]
fn while_something_is_out_the_rest_waits_and_does_not_give_up() {
    let now = Instant::now();
    let mut budget = learnt(5, 100, None, now);
    assert!(granted(&mut budget, 4, now));
    assert!(matches!(budget.reserve(2, now), ReserveResult::Wait { reason: WaitReason::InUse, .. }));
    budget.refund(3);
    assert!(granted(&mut budget, 2, now));
}

#[test]
fn limit_is_the_smaller_and_reserve_is_left() {
    let now = Instant::now();
    let pulls = |limit, reserve| Some(PullLimit { limit, window: HOUR, reserve });
    for (configured, remaining, left, per_window) in [
        (None, 60, 60, 100),
        (pulls(None, 20), 60, 40, 80),
        (pulls(Some(200), 20), 60, 40, 80),
        // The account may spend 50; 40 are spent already.
        (pulls(Some(50), 0), 60, 10, 50),
        (pulls(Some(50), 20), 60, 0, 30),
        (pulls(None, 100), 100, 0, 0),
    ] {
        let room = learnt(remaining, 100, configured, now).room();
        assert_eq!((room.left, room.per_window), (left, per_window), "{configured:?} {remaining}");
    }
    let mut none = learnt(100, 100, pulls(None, 100), now);
    assert!(matches!(none.reserve(1, now), ReserveResult::Wait { reason: WaitReason::NothingLeftByReserve, .. }));
}

#[test]
fn configured_pulls_serve_upstreams_that_send_no_headers() {
    let start = Instant::now();
    let mut budget = Budget::new(Some(PullLimit { limit: Some(3), window: HOUR, reserve: 1 }));
    for at in 0..2 {
        let now = start + MS * at;
        assert!(granted(&mut budget, 1, now) && budget.send(now));
        budget.settle(PullOutcome::Answered(&Quota::default()), now, now + MS);
    }
    let now = start + HOUR / 2;
    assert_eq!(budget.reserve(1, now), ReserveResult::Wait { until: Some(start + MS + HOUR), reason: WaitReason::Spent });
    assert!(granted(&mut budget, 2, start + MS + HOUR), "one length after the first answer, the latest end of the window");
}

#[test]
fn unlimited_accounts_never_wait_until_they_are_counted() {
    let now = Instant::now();
    let mut budget = Budget::new(None);
    assert!(granted(&mut budget, 1, now));
    assert!(matches!(budget.reserve(1, now), ReserveResult::Wait { reason: WaitReason::InUse, .. }), "the first pull finds out");
    budget.refund(1);
    // An empty number is a passing fault, not freedom (docker/hub-feedback#2081).
    budget.observe(&Quota::read(|name| (name == "ratelimit-limit").then_some(";w=21600")), now, now);
    assert!(budget.is_unknown());
    budget.observe(&Quota::default(), now, now);
    assert!(budget.is_unlimited() && granted(&mut budget, 1_000_000, now));
    budget.observe(&quota_of(100, 7, HOUR), now, now);
    assert!(!budget.is_unlimited());
    assert!(!budget.send(now), "what was granted freely is not free any more");
    budget.refund(999_993);
    assert_eq!((0..20).filter(|_| budget.send(now)).count(), 7);
}

#[test]
fn a_refusal_closes_the_window_and_a_look_opens_it() {
    let start = Instant::now();
    let mut budget = learnt(50, 100, None, start);
    assert!(granted(&mut budget, 2, start) && budget.send(start));
    budget.settle(PullOutcome::Refused(None), start, start + MS);
    assert_eq!((budget.refused(), budget.spent(), budget.room().left), (1, 0, 0));
    assert!(!budget.send(start + MS), "the other pull of the same image is not sent either");
    assert_eq!(budget.closes(), Some(start + 6 * HOUR), "known since the first look");
    assert_eq!(budget.look_due(start + MS), Some(start + MS + HOUR / 4));
    // A look that was sent before the refusal says nothing new.
    budget.observe(&quota_of(100, 50, 6 * HOUR), start, start + 2 * MS);
    assert_eq!(budget.room().left, 0);
    let later = start + HOUR;
    budget.observe(&quota_of(100, 98, 6 * HOUR), later, later + MS);
    assert_eq!((budget.room().left, budget.closes()), (97, Some(later + MS + 6 * HOUR)));
}

#[test]
fn a_refusal_by_an_upstream_that_says_nothing_else() {
    let start = Instant::now();
    for (retry_after, closes) in [(None, USUAL_WINDOW), (Some(HOUR), HOUR)] {
        let mut budget = Budget::new(None);
        budget.observe(&Quota::default(), start, start);
        budget.closed(start, start, retry_after);
        assert_eq!(budget.reserve(1, start), ReserveResult::Wait { until: Some(start + closes), reason: WaitReason::Spent });
        assert!(granted(&mut budget, 1, start + closes));
    }
}

#[test]
fn a_new_window_is_only_believed_of_a_later_request() {
    let start = Instant::now();
    let mut budget = learnt(3, 100, None, start + 5 * MS);
    budget.observe(&quota_of(100, 9, 6 * HOUR), start, start + 9 * MS);
    assert_eq!(budget.room().left, 3, "sent before, arrived later: an old number");
    budget.observe(&quota_of(100, 100, 6 * HOUR), start + 10 * MS, start + 11 * MS);
    assert_eq!((budget.room().left, budget.closes()), (100, None));
    // From the window before, late.
    budget.observe(&quota_of(100, 1, 6 * HOUR), start + 4 * MS, start + 12 * MS);
    assert_eq!(budget.room().left, 100);
}

#[test]
fn a_pull_without_an_answer_counts_until_a_later_request_tells() {
    let start = Instant::now();
    let mut budget = learnt(10, 100, None, start);
    assert!(granted(&mut budget, 1, start) && budget.send(start));
    budget.settle(PullOutcome::Unheard, start, start + 5 * MS);
    budget.observe(&quota_of(100, 10, 6 * HOUR), start + 2 * MS, start + 6 * MS);
    assert_eq!(budget.room().left, 9, "that was sent while the pull was under way");
    budget.observe(&quota_of(100, 10, 6 * HOUR), start + 7 * MS, start + 8 * MS);
    assert_eq!(budget.room().left, 10, "it never arrived there");
}

#[test]
fn larger_than_a_window_begins_in_a_fresh_one() {
    let start = Instant::now();
    let mut budget = learnt(99, 100, None, start);
    assert_eq!(budget.reserve(250, start), ReserveResult::Granted(99));
    budget.refund(99);
    assert!(granted(&mut budget, 1, start) && budget.send(start));
    budget.settle(PullOutcome::Answered(&quota_of(100, 98, 6 * HOUR)), start, start + MS);
    assert!(matches!(budget.reserve(250, start + MS), ReserveResult::Wait { reason: WaitReason::WouldExceedWindow, .. }));
    assert_eq!(budget.reserve(250, start + 6 * HOUR), ReserveResult::Granted(100));
}

#[test]
fn what_was_recalled_of_another_address_is_not_ours() {
    let now = Instant::now();
    let mut window = Window::fresh(100, 6 * HOUR, None);
    window.hear(&WindowReading {
        limit: 100,
        length: 6 * HOUR,
        left: 0,
        source: Some("192.0.2.1".into()),
        heard: WindowAnswer { sent: now, arrived: now, ours: true },
    });
    let mut budget = Budget::new(None);
    budget.recall(window, now);
    assert!(matches!(budget.reserve(1, now), ReserveResult::Wait { reason: WaitReason::Spent, .. }));
    let mut moved = quota_of(100, 80, 6 * HOUR);
    moved.source = Some("198.51.100.7".into());
    budget.observe(&moved, now + MS, now + MS);
    assert_eq!(budget.room().left, 80);
}

/// One request on its way to the upstream and back.
#[derive(Debug)]
struct Request {
    sent: Instant,
    is_pull: bool,
    /// The upstream has seen it and said that so many are left.
    answer: Option<u64>,
}

/// The upstream: a window begins with its first pull.
struct Upstream {
    limit: u64,
    used: u64,
    opened: Option<Instant>,
}

impl Upstream {
    /// What is left after this request; `None`: refused.
    fn process(&mut self, is_pull: bool, now: Instant) -> Option<u64> {
        if self.opened.is_some_and(|opened| opened + HOUR <= now) {
            (self.opened, self.used) = (None, 0);
        }
        if is_pull {
            if self.used >= self.limit {
                return None;
            }
            self.used += 1;
            self.opened.get_or_insert(now);
        }
        Some(self.limit - self.used)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Never over budget: whatever is reserved, sent, answered, lost and given back in whatever order, the upstream, of whose pulls
    /// nobody else takes any, never has to refuse, and `reserve` is never touched. Never idle: whenever everything has come
    /// back and the last word was heard, all that is there may be taken.
    #[test]
    fn never_over_and_never_idle(
        limit in 1u64..12,
        reserve in 0u64..3,
        headers in any::<bool>(),
        steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>(), 1u64..1000), 1..150),
    ) {
        let mut now = Instant::now();
        let mut upstream = Upstream { limit, used: 0, opened: None };
        let mut budget = Budget::new(Some(PullLimit { limit: (!headers).then_some(limit), window: HOUR, reserve }));
        let mut under_way: Vec<Request> = Vec::new();
        let mut reserved = 0;
        if headers {
            // The gate looks before the first pull; without a look the first pull finds out, and may be one too many.
            budget.observe(&quota_of(limit, limit, HOUR), now, now);
        }
        for (what, which, size) in steps {
            now += Duration::from_micros(size);
            match what {
                0 | 1 => if let ReserveResult::Granted(pulls) = budget.reserve(size % 5 + 1, now) { reserved += pulls },
                2 | 3 if reserved > 0 && budget.send(now) => {
                    reserved -= 1;
                    under_way.push(Request { sent: now, is_pull: true, answer: None });
                }
                4 if reserved > 0 => { budget.refund(1); reserved -= 1; }
                5 => under_way.push(Request { sent: now, is_pull: false, answer: None }),
                6 | 7 if !under_way.is_empty() => {
                    let which = which.index(under_way.len());
                    let request = &mut under_way[which];
                    if request.answer.is_none() {
                        let left = upstream.process(request.is_pull, now);
                        prop_assert!(left.is_some(), "the upstream had to refuse");
                        prop_assert!(!request.is_pull || left >= Some(reserve), "what is kept for others was taken");
                        request.answer = left;
                    }
                }
                8 if !under_way.is_empty() => {
                    let request = under_way.swap_remove(which.index(under_way.len()));
                    let quota = match request.answer {
                        Some(left) if headers => quota_of(limit, left, HOUR),
                        _ => Quota::default(),
                    };
                    match (request.is_pull, request.answer) {
                        (true, Some(_)) => { budget.settle(PullOutcome::Answered(&quota), request.sent, now); }
                        (true, None) => { budget.settle(PullOutcome::Unheard, request.sent, now); }
                        (false, Some(_)) if headers => { budget.observe(&quota, request.sent, now); }
                        (false, _) => {}
                    }
                }
                // The end of the window, or a little before.
                9 if size % 7 == 0 => now += HOUR - Duration::from_micros(size),
                _ => {}
            }
        }
        // All comes back; one look, after everything.
        for request in under_way.drain(..).filter(|request| request.is_pull) {
            now += MS;
            budget.settle(PullOutcome::Unheard, request.sent, now);
        }
        budget.refund(reserved);
        now += MS;
        let left = upstream.process(false, now).unwrap();
        if headers {
            budget.observe(&quota_of(limit, left, HOUR), now, now + MS);
            prop_assert_eq!(budget.room().left, left.saturating_sub(reserve));
        } else {
            prop_assert!(budget.room().left <= left);
        }
        prop_assert_eq!(budget.outstanding(), 0);
        if limit > reserve {
            prop_assert!(granted(&mut budget, limit - reserve, now + MS + HOUR), "a window later all is there again");
        }
    }
}
