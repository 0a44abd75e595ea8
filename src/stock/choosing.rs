//! A run's items whose tags must be listed: what they choose goes the way of all images; what must be read before it can be chosen
//! waits for its pulls as images do.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::expand::{Chooser, Expanded, Expansion};
use super::found::Found;
use super::run::{Slots, Unit, Worker, lock, of_its_own};
use super::undecided::Undecided;
use super::{Item, Want};
use crate::Error;
use crate::limits::Mode;
use crate::report::Event;

/// What a unit has led to.
pub(super) enum Open {
    Want(Want),
    Choice(Box<Undecided>),
}

/// What must be done for, once both sides have been asked.
pub(super) enum Parcel {
    Image(Box<Found>),
    Choice(Box<Undecided>),
}

impl Parcel {
    pub(super) fn is_scarce(&self, others: u64) -> bool {
        match self {
            Parcel::Image(found) => found.is_scarce(others),
            Parcel::Choice(undecided) => undecided.is_scarce(others),
        }
    }

    /// Who goes first where pulls are scarce: priority, then what costs fewer pulls, then list order.
    pub(super) fn rank(&self, likely: impl Fn(&Found) -> Option<u64>) -> (std::cmp::Reverse<i64>, Option<u64>, usize) {
        match self {
            Parcel::Image(found) => (std::cmp::Reverse(found.want.priority), likely(found), found.want.item.order),
            Parcel::Choice(undecided) => {
                let item = &undecided.item;
                (std::cmp::Reverse(item.entry.priority), Some(undecided.pulls()), item.order)
            }
        }
    }
}

impl Worker {
    fn chooser(&self) -> Chooser<'_> {
        Chooser { supply: &self.supply, engines: &self.engines, claims: &self.claims, dates: &self.options.dates, limit: self.limit }
    }

    /// What a unit asks for, as far as that can be said without a pull.
    pub(super) async fn expanded(self: Arc<Self>, upstream: Arc<str>, unit: Unit) -> Vec<Open> {
        let item = match unit {
            Unit::Want(want) => return vec![Open::Want(want)],
            Unit::Expand(item) => item,
        };
        if self.engines.stop_requested() {
            return vec![];
        }
        match self.chooser().expand(&item).await {
            Ok(Expansion::Chosen(expanded)) => self.take_in(&upstream, &item, expanded).into_iter().map(Open::Want).collect(),
            Ok(Expansion::Undecided(undecided)) => vec![Open::Choice(undecided)],
            Err(error) => {
                self.close_item(&upstream, &item, error);
                vec![]
            }
        }
    }

    /// Both sides of an image; a choice needs no more asking.
    pub(super) async fn looked_at(self: Arc<Self>, upstream: Arc<str>, open: Open) -> Option<Parcel> {
        match open {
            Open::Want(want) => self.survey(upstream, want).await.map(|found| Parcel::Image(Box::new(found))),
            Open::Choice(undecided) => Some(Parcel::Choice(undecided)),
        }
    }

    /// Sees to it that the dates are read, and what they choose is brought. Where nobody may wait for pulls, they are reserved here,
    /// in order.
    pub(super) async fn begin_choice(
        self: &Arc<Self>,
        upstream: &str,
        mut undecided: Box<Undecided>,
        slots: &Slots,
        tasks: &mut JoinSet<()>,
    ) {
        if self.options.mode() == Mode::Defer
            && let Err(error) = undecided.reserve(Mode::Defer).await
        {
            return self.close_item(upstream, &undecided.item, error);
        }
        tasks.spawn(Arc::clone(self).choose(upstream.into(), undecided, slots.clone()));
    }

    async fn choose(self: Arc<Self>, upstream: Arc<str>, mut undecided: Box<Undecided>, slots: Slots) {
        let item = Arc::clone(&undecided.item);
        let key = (item.order, item.row(&self.target.target).source);
        lock(&self.under_way).insert(key.clone(), (undecided.charge(), Instant::now()));
        let read = match self.in_time() {
            Ok(()) => undecided.read(&self.chooser(), self.options.mode()).await,
            Err(late) => Err(late),
        };
        let chosen = read.and_then(|()| {
            let (matched, known) = undecided.known();
            self.chooser().choose(&item, matched, known)
        });
        let wants = match chosen {
            Ok(expanded) => {
                lock(&self.under_way).remove(&key);
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

    /// The item's images take its place.
    fn take_in(&self, upstream: &str, item: &Arc<Item>, expanded: Expanded) -> Vec<Want> {
        let row = item.row(&self.target.target);
        lock(&self.pending).remove(&(item.order, row.source));
        if expanded.selected == 0 {
            self.reporter.event(&Event::Empty { upstream, source: &item.entry.source.to_string(), explanation: &expanded.explanation });
        }
        let images = (expanded.wants.len() + expanded.refused.len()).saturating_sub(1);
        self.reporter.event(&Event::Wanted { upstream, images });
        for (want, error) in expanded.refused {
            self.finish(upstream, item.order, want.row(&self.target.target).failed(error));
        }
        expanded.wants.iter().for_each(|want| self.expect(&Unit::Want(want.clone())));
        expanded.wants
    }

    /// The item ends without a choice.
    fn close_item(&self, upstream: &str, item: &Arc<Item>, error: Error) {
        let mut row = item.row(&self.target.target);
        self.settle(&(item.order, row.source.clone()), &mut row);
        self.finish(upstream, item.order, self.unfinished(row, error));
    }
}
