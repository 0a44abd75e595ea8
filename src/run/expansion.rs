//! The order in which jobs are expanded: that of the lists, except that a slow one does not hold back the others.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use futures_util::{Stream, StreamExt, stream};

use super::work::Rank;
use crate::mutex::Mutex;

/// Jobs of one group that are expanded at once: as many as an upstream answers at once by default.
const AT_ONCE: usize = 8;

/// A list of tags takes a second at most, unless it has many pages or must be tried again (15 s with all attempts). What takes longer than
/// this loses its place in the order.
const OVERTAKEN_AFTER: Duration = Duration::from_secs(3);

/// The results of `expansions` in their order, eight at once. One that takes longer than three seconds is overtaken by those after it: its
/// result comes when it is there, and its place is free for another one.
pub(super) fn in_order_unless_slow<F>(expansions: impl Iterator<Item = F>) -> impl Stream<Item = F::Output>
where
    F: Future + Unpin,
{
    let state = (expansions.map(or_slow), FuturesOrdered::new(), FuturesUnordered::new());
    stream::unfold(state, async |(mut expansions, mut ordered, mut slow)| {
        loop {
            ordered.extend(expansions.by_ref().take(AT_ONCE.saturating_sub(ordered.len())));
            let result = tokio::select! {
                biased;
                Some(result) = ordered.next() => result,
                Some(result) = slow.next() => Ok(result),
                else => return None,
            };
            match result {
                Ok(result) => return Some((result, (expansions, ordered, slow))),
                Err(expansion) => slow.push(expansion),
            }
        }
    })
}

/// The result of an expansion; the expansion itself, if it has none in time.
async fn or_slow<F: Future + Unpin>(expansion: F) -> Result<F::Output, F> {
    let patience: Pin<Box<tokio::time::Sleep>> = Box::pin(tokio::time::sleep(OVERTAKEN_AFTER));
    match select(expansion, patience).await {
        Either::Left((result, _)) => Ok(result),
        Either::Right(((), expansion)) => Err(expansion),
    }
}

/// How many jobs of each priority are not expanded yet; what they will need is not known.
#[derive(Default)]
pub(super) struct Unexpanded(Mutex<BTreeMap<std::cmp::Reverse<i64>, usize>>);

impl Unexpanded {
    pub(super) fn add(&self, rank: Rank) {
        *self.0.lock().entry(rank.0).or_default() += 1;
    }

    pub(super) fn remove(&self, rank: Rank) {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(&rank.0) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&rank.0);
            }
        }
    }

    /// Whether one of them has a higher priority than `rank`.
    pub(super) fn has_higher(&self, rank: Rank) -> bool {
        self.0.lock().first_key_value().is_some_and(|(highest, _)| *highest < rank.0)
    }
}
