//! Random interleavings of several processes: together they never spend more than a window holds.

use proptest::prelude::*;

use super::*;

/// A process of the model below: what it knows, holds, has sent, and has heard.
struct Modelled {
    process: Process,
    window: Window<Timestamp>,
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
        let stamp = |at: i64| Timestamp::from_millisecond(at).unwrap();
        let heard = WindowAnswer { sent: stamp(sent + self.wrong_by), arrived: stamp(arrived + self.wrong_by), ours: true };
        self.window.hear(&WindowReading { limit: 10, length: Duration::from_secs(3600), left, source: Some("192.0.2.1".to_owned()), heard })
    }

    fn exchange(&mut self, wants: Vec<u64>, now: i64) {
        let held = self.granted + self.sent.len() as u64;
        let settled = std::mem::take(&mut self.process.settled);
        let now = Timestamp::from_millisecond(now + self.wrong_by).unwrap();
        let ask = LeaseRequest { window: Some(self.window.clone()), held, settled, wants, ..LeaseRequest::of(now) };
        let answer = self.process.ledger.store.transact(|data| Some(self.process.ledger.process.decide(data, &ask))).unwrap().unwrap();
        self.window.merge(&answer.window, now);
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
