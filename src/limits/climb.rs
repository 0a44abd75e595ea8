//! How many requests of one class may be in flight: found from the time that answers take. Pure.
//!
//! Requests are counted in rounds. In a round the limit stays as it is, and the answers to requests that were sent while the limit was
//! reached are measured. Then the next round tries another limit, and both are compared. By Little's law requests per second are the limit
//! divided by the latency. So a higher limit is kept if the latency grew by less than half of what the limit grew: then at least half of the
//! additional requests brought throughput. Otherwise the old limit is restored, and a lower one is tried, which is kept if it costs hardly
//! any throughput.
//!
//! Only answers of one kind and size are compared with each other ([`AnswerGroup`]), and only two rounds in succession. So nothing is
//! concluded from an old minimum of the latency, which one lucky answer or a route that has changed would make wrong for the rest of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The first limit, below the ceiling: what larder always sent at once to an upstream.
pub(super) const START: usize = 8;
/// A limit is not lowered below this because of latency: an answer that takes long for another reason costs more than four requests.
const LOWEST_BY_LATENCY: usize = 4;
/// Answers that a round measures at least. With fewer the mean of a latency that varies much says nothing.
const SMALLEST_ROUND: usize = 16;
/// Once the slow start is over, a trial changes the limit by this part: enough to be measurable beside the noise.
const TRIAL_PART: usize = 4;
/// A higher limit is kept if this part of the growth became throughput. Less is mostly a longer queue at the server.
const KEPT_GAIN: f64 = 0.5;
/// A lower limit is kept if it costs at most this part of what it was lowered by.
const KEPT_LOSS: f64 = 0.25;
/// After trials in both directions that failed, this many rounds pass before the next, doubled each time up to here. With 64 requests in
/// flight and 30 ms each that is a trial every quarter of a second.
const MOST_ROUNDS_BETWEEN_TRIALS: u32 = 8;
/// A limit at which the host refused (429, 503) is not tried again for this time: the longest window that limiters of requests have.
const REFUSAL_REMEMBERED: Duration = Duration::from_secs(60);

/// Answers whose latencies can be compared: of one kind of request, and of similar size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerGroup {
    kind: u8,
    size: u8,
}

impl AnswerGroup {
    /// Answers to requests of `kind`, a number that the caller chooses, whose bodies have about `bytes` bytes: within a factor of two.
    pub fn new(kind: u8, bytes: u64) -> Self {
        AnswerGroup { kind, size: bytes.checked_ilog2().map_or(0, |log| u8::try_from(log).unwrap_or(u8::MAX)) }
    }
}

/// The latencies of a round.
#[derive(Debug, Clone, Default)]
struct RoundLatency(BTreeMap<AnswerGroup, GroupLatency>);

/// The latencies of one group: their number, and the sum of their logarithms. The mean of logarithms is not moved by a single answer that
/// took a hundred times as long.
#[derive(Debug, Clone, Copy, Default)]
struct GroupLatency {
    count: u32,
    log_sum: f64,
}

impl RoundLatency {
    fn add(&mut self, group: AnswerGroup, latency: Duration) {
        let entry = self.0.entry(group).or_default();
        entry.count += 1;
        // A microsecond at least, so that the logarithm is finite.
        entry.log_sum += latency.as_secs_f64().max(1e-6).ln();
    }

    fn answers(&self) -> usize {
        self.0.values().map(|group| group.count as usize).sum()
    }

    /// The logarithm of the factor by which the latency grew since `before`. `None` if too few answers of both rounds can be compared.
    fn growth_since(&self, before: &RoundLatency) -> Option<f64> {
        let (mut weights, mut growth) = (0.0, 0.0);
        for (group, now) in &self.0 {
            if let Some(then) = before.0.get(group) {
                let weight = f64::from(now.count.min(then.count));
                growth += weight * (now.log_sum / f64::from(now.count) - then.log_sum / f64::from(then.count));
                weights += weight;
            }
        }
        (weights >= SMALLEST_ROUND as f64 / 4.0).then(|| growth / weights)
    }
}

/// What the present round is for.
#[derive(Debug)]
enum Round {
    /// Measures the limit that holds, after which another is tried; or only waits, while `more` is above 0.
    Holds { more: u32 },
    /// Tries another limit than `from`, whose latencies were `before`.
    Tries { from: usize, before: RoundLatency },
}

/// The limit of one class of requests to one host.
#[derive(Debug)]
pub(super) struct Climb {
    ceiling: usize,
    limit: usize,
    round: Round,
    /// Counts the rounds, so that an answer is measured in the round in which its request was sent.
    number: u64,
    latency: RoundLatency,
    slow_start: bool,
    /// The next trial goes down.
    tries_lower: bool,
    /// Rounds to wait after the next trials that fail.
    pause: u32,
    /// The limit at which the host refused last, and when.
    refused: Option<(usize, Instant)>,
}

impl Climb {
    pub(super) fn new(ceiling: usize) -> Self {
        Climb {
            ceiling,
            limit: ceiling.min(START),
            round: Round::Holds { more: 0 },
            number: 0,
            latency: RoundLatency::default(),
            slow_start: true,
            tries_lower: false,
            pause: 1,
            refused: None,
        }
    }

    /// How many requests may be in flight.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The number of the present round.
    pub(super) fn round(&self) -> u64 {
        self.number
    }

    /// The host is congested: half as many, but not fewer than `least`. `refuses`: it said so itself (429, 503), and does so again if there
    /// are as many.
    pub(super) fn halve(&mut self, least: usize, refuses: bool, now: Instant) {
        if refuses {
            self.refused = Some((self.limit, now));
        }
        self.slow_start = false;
        self.pause = 1;
        // Never below two where two are allowed: one place is always kept for small requests, and blobs must move too.
        let limit = (self.limit / 2).max(self.ceiling.min(2)).max(least.min(self.limit));
        self.begin(limit, Round::Holds { more: 0 });
    }

    /// An answer came after `latency`, to a request that was sent in round `sent_in`, while the limit was reached.
    pub(super) fn answered(&mut self, group: AnswerGroup, latency: Duration, sent_in: u64, now: Instant) {
        if sent_in != self.number {
            return;
        }
        self.latency.add(group, latency);
        let enough = if self.slow_start { START.min(SMALLEST_ROUND) } else { SMALLEST_ROUND };
        if self.latency.answers() >= self.limit.max(enough) {
            self.end_round(now);
        }
    }

    fn end_round(&mut self, now: Instant) {
        let latency = std::mem::take(&mut self.latency);
        match std::mem::replace(&mut self.round, Round::Holds { more: 0 }) {
            Round::Holds { more: 0 } => self.try_another(latency, now),
            Round::Holds { more } => self.begin(self.limit, Round::Holds { more: more - 1 }),
            Round::Tries { from, before } if latency.growth_since(&before).is_none() => {
                // Other requests than in the round before: nothing was learnt.
                self.begin(from, Round::Holds { more: 0 });
            }
            Round::Tries { from, before } => {
                let growth = latency.growth_since(&before).unwrap_or_default();
                let change = (self.limit as f64 / from as f64).ln();
                let throughput = change - growth;
                let kept = if change > 0.0 { throughput >= KEPT_GAIN * change } else { throughput >= KEPT_LOSS * change };
                match (kept, change > 0.0) {
                    (true, _) => {
                        self.pause = 1;
                        self.try_another(latency, now);
                    }
                    (false, true) => {
                        self.slow_start = false;
                        self.tries_lower = true;
                        self.begin(from, Round::Holds { more: 0 });
                    }
                    (false, false) => {
                        self.tries_lower = false;
                        self.begin(from, Round::Holds { more: self.pause });
                        self.pause = (self.pause * 2).min(MOST_ROUNDS_BETWEEN_TRIALS);
                    }
                }
            }
        }
    }

    /// Tries another limit than the present one, whose latencies are `before`.
    fn try_another(&mut self, before: RoundLatency, now: Instant) {
        let most = self.most(now);
        let step = if self.slow_start { self.limit } else { (self.limit / TRIAL_PART).max(1) };
        let higher = (self.limit + step).min(most);
        let lower = self.limit - (self.limit / (TRIAL_PART + 1)).max(1);
        let next = match self.tries_lower {
            false if higher > self.limit => higher,
            _ if lower >= LOWEST_BY_LATENCY.min(self.ceiling) => lower,
            _ => {
                self.tries_lower = false;
                self.begin(self.limit, Round::Holds { more: self.pause });
                self.pause = (self.pause * 2).min(MOST_ROUNDS_BETWEEN_TRIALS);
                return;
            }
        };
        self.begin(next, Round::Tries { from: self.limit, before });
    }

    /// The highest limit that may be tried now.
    fn most(&self, now: Instant) -> usize {
        let refused = self.refused.filter(|(_, at)| now.duration_since(*at) < REFUSAL_REMEMBERED);
        refused.map_or(self.ceiling, |(limit, _)| self.ceiling.min(limit.saturating_sub(1)).max(1))
    }

    fn begin(&mut self, limit: usize, round: Round) {
        self.limit = limit;
        self.round = round;
        self.number += 1;
        self.latency = RoundLatency::default();
    }
}
