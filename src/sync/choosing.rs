//! A run's items whose tags must be listed: what they choose goes the way of all images; what must be read before it can be chosen
//! waits for its pulls as images do.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::claims::{Merged, Settled};
use super::expand::{Chooser, Expanded, Expansion};
use super::found::MissingImage;
use super::run::{GroupSlots, RunUnit, SyncWorker, of_its_own};
use super::undecided::PendingSelection;
use super::{ImageRequest, RuledEntry};
use crate::limits::WaitMode;
use crate::report::Event;
use crate::{Error, internal};

/// What a unit has led to.
pub(super) enum ExpandedJob {
    Want(ImageRequest),
    Choice(Box<PendingSelection>),
}

/// What must be done for, once both sides have been asked.
pub(super) enum PreparedJob {
    Image(Box<MissingImage>),
    Choice(Box<PendingSelection>),
}

impl PreparedJob {
    pub(super) fn is_scarce(&self, others: u64) -> bool {
        match self {
            PreparedJob::Image(found) => found.is_scarce(others),
            PreparedJob::Choice(undecided) => undecided.is_scarce(others),
        }
    }

    /// Who goes first where pulls are scarce: priority, then what costs fewer pulls, then list order.
    pub(super) fn rank(&self, likely: impl Fn(&MissingImage) -> Option<u64>) -> (std::cmp::Reverse<i64>, Option<u64>, usize) {
        match self {
            PreparedJob::Image(found) => (std::cmp::Reverse(found.want.priority), likely(found), found.want.item.order),
            PreparedJob::Choice(undecided) => {
                let item = &undecided.item;
                (std::cmp::Reverse(item.entry.priority), Some(undecided.pulls()), item.order)
            }
        }
    }
}

impl SyncWorker {
    fn chooser(&self) -> Chooser<'_> {
        Chooser { supply: &self.supply, engines: &self.engines, dates: &self.options.dates, limit: self.limit }
    }

    /// What a unit asks for, as far as that can be said without a pull.
    pub(super) async fn expanded(self: Arc<Self>, upstream: Arc<str>, unit: RunUnit) -> Vec<ExpandedJob> {
        let item = match unit {
            RunUnit::Want(want) => return vec![ExpandedJob::Want(want)],
            RunUnit::Expand(item) => item,
        };
        if self.engines.stop_requested() {
            // Its row stays open: it is told at the end what became of it.
            self.settle_claims(&item, Err(&Error::cancelled("list tags")));
            return vec![];
        }
        match internal::caught("select tags", self.chooser().expand(&item)).await.and_then(|expansion| expansion) {
            Ok(Expansion::Chosen(expanded)) => self.take_in(&upstream, &item, expanded).into_iter().map(ExpandedJob::Want).collect(),
            Ok(Expansion::Undecided(undecided)) => vec![ExpandedJob::Choice(undecided)],
            Err(error) => {
                self.close_item(&upstream, &item, error);
                vec![]
            }
        }
    }

    /// Both sides of an image; a choice needs no more asking.
    pub(super) async fn looked_at(self: Arc<Self>, upstream: Arc<str>, open: ExpandedJob) -> Option<PreparedJob> {
        match open {
            ExpandedJob::Want(want) => self.survey(upstream, want).await.map(|found| PreparedJob::Image(Box::new(found))),
            ExpandedJob::Choice(undecided) => Some(PreparedJob::Choice(undecided)),
        }
    }

    /// Sees to it that the dates are read, and what they choose is brought. Where nobody may wait for pulls, they are reserved here,
    /// in order.
    pub(super) async fn begin_choice(
        self: &Arc<Self>,
        upstream: &str,
        mut undecided: Box<PendingSelection>,
        slots: &GroupSlots,
        tasks: &mut JoinSet<()>,
    ) {
        if self.options.mode() == WaitMode::Defer
            && let Err(error) = undecided.reserve(WaitMode::Defer).await
        {
            return self.close_item(upstream, &undecided.item, error);
        }
        tasks.spawn(Arc::clone(self).choose(upstream.into(), undecided, slots.clone()));
    }

    async fn choose(self: Arc<Self>, upstream: Arc<str>, mut undecided: Box<PendingSelection>, slots: GroupSlots) {
        let item = Arc::clone(&undecided.item);
        let key = (item.order, item.row(&self.target.target).source);
        self.under_way.lock().insert(key.clone(), (undecided.context(), Instant::now()));
        let chosen = internal::caught("select tags", async {
            self.in_time()?;
            undecided.read(&self.chooser(), self.options.mode()).await?;
            let (matched, known) = undecided.known();
            self.chooser().choose(&item, matched, known)
        });
        let wants = match chosen.await.and_then(|chosen| chosen) {
            Ok(expanded) => {
                self.under_way.lock().remove(&key);
                self.take_in(&upstream, &item, expanded)
            }
            Err(error) => return self.close_item(&upstream, &item, error),
        };
        let mut tasks = JoinSet::new();
        let survey = |want| of_its_own(Arc::clone(&self).survey(Arc::clone(&upstream), want));
        let mut surveyed = stream::iter(wants).map(survey).buffer_unordered(self.limit);
        while let Some(found) = surveyed.next().await {
            if let Some(found) = found {
                self.begin_image(&upstream, found, &slots, &mut tasks).await;
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// The item's images take its place: those that have their names are given back, the others wait for an earlier line or are refused.
    fn take_in(&self, upstream: &str, item: &Arc<RuledEntry>, expanded: Expanded) -> Vec<ImageRequest> {
        let row = item.row(&self.target.target);
        self.pending.lock().remove(&(item.order, row.source));
        if expanded.wants.is_empty() {
            self.reporter.event(&Event::Empty { upstream, source: &item.entry.source.to_string(), explanation: &expanded.explanation });
        }
        let own = self.settle_claims(item, Ok(expanded.wants));
        let images = (own.kept.len() + own.waiting.len() + own.refused.len()).saturating_sub(1);
        self.reporter.event(&Event::Wanted { upstream, images });
        self.refuse(own.refused);
        own.kept
    }

    /// Settles the claims of `item`, and sends the images that have waited for it on their way. Gives what became of the item's own.
    ///
    /// Both happen under the lock of `late`. Otherwise another line could settle in between, find that nothing waits any more, and
    /// close the way of an image that was just released.
    fn settle_claims(&self, item: &RuledEntry, chosen: Result<Vec<ImageRequest>, &Error>) -> Merged {
        let mut late = self.late.lock();
        let Settled { own, released, same } = self.claims.settle(item, chosen);
        own.kept.iter().chain(&own.waiting).for_each(|want| self.expect(&RunUnit::Want(want.clone())));
        for want in same {
            self.pending.lock().remove(&(want.item.order, want.source()));
        }
        for want in released.kept {
            if let Some(group) = late.get(&want.item.entry.source.host) {
                // A group that has ended was interrupted: the image's row is told at the end.
                let _ = group.send(want);
            }
        }
        let open = self.claims.open();
        late.retain(|upstream, _| open.contains(upstream));
        drop(late);
        self.refuse(released.refused);
        own
    }

    /// Reports images whose names other lines have.
    fn refuse(&self, refused: Vec<(ImageRequest, Error)>) {
        for (want, error) in refused {
            let mut row = self.unfinished(want.row(&self.target.target), error);
            // What choosing has cost, if it was to be paid by this image.
            if let Some(resolved) = &want.resolved {
                (row.bytes, row.pulls) = (resolved.tally.bytes_read(), resolved.tally.pulls());
            }
            self.finish(&want.item.entry.source.host, want.item.order, row);
        }
    }

    /// Whether images of other lines wait for this choice: it is not put off then.
    pub(super) fn is_awaited(&self, parcel: &PreparedJob) -> bool {
        matches!(parcel, PreparedJob::Choice(undecided) if self.claims.is_awaited(&undecided.item))
    }

    /// The item ends without a choice.
    fn close_item(&self, upstream: &str, item: &Arc<RuledEntry>, error: Error) {
        self.settle_claims(item, Err(&error));
        let mut row = item.row(&self.target.target);
        self.settle(&(item.order, row.source.clone()), &mut row);
        self.finish(upstream, item.order, self.unfinished(row, error));
    }
}
