//! What a run would do, found out by HEADs alone.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::claims::{Claims, Merged, Settled};
use super::expand::{Chooser, Expanded, Expansion};
use super::run::{Prepared, Unit};
use super::undecided::Undecided;
use super::warm::Engines;
use super::{Item, Supply, SyncOptions, TargetStore, Want};
use crate::Result;
use crate::content::Digest;
use crate::copy::{Cost, Standing};
use crate::limits::AccountId;
use crate::report::{Outcome, Reporter, Silent};

/// How an image stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The target has it.
    Current,
    /// The target has nothing under its name.
    Missing,
    /// The target's name points to another digest.
    Moved,
    /// It cannot be delivered as things are.
    Unresolvable,
    /// A line whose images are chosen by creation dates, of which some are not known: reading them costs pulls.
    Undecided,
}

impl State {
    /// The word, as tables have it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Current => "current",
            State::Missing => "missing",
            State::Moved => "moved",
            State::Unresolvable => "unresolvable",
            State::Undecided => "undecided",
        }
    }
}

/// One image of a plan.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its place among all lines.
    pub(super) order: usize,
    /// Its row; failed if it is unresolvable. `source_digest` is the upstream's, `digest` the target's.
    pub row: Outcome,
    /// How it stands.
    pub state: State,
    /// How its tags were chosen, where a listing decided: only on an item's first image.
    pub selection: Option<String>,
    /// What it would cost, where it is missing or moved, or lacks referrers.
    pub cost: Option<Cost>,
    /// Who would pay.
    pub account: Option<AccountId>,
    /// Its priority.
    pub priority: i64,
}

/// What a run would do.
#[derive(Debug)]
pub struct Plan {
    /// How every image stands, in list order.
    pub images: Vec<Planned>,
    /// Of lines that choose nothing, as their rules allow: the repository and how its tags were chosen, in list order.
    pub empty: Vec<(String, String)>,
}

/// Who plans, and for where.
struct Planner<'a> {
    engines: &'a Engines,
    supply: &'a Supply,
    target: &'a TargetStore,
    chooser: Chooser<'a>,
    claims: &'a Claims,
}

/// What an item has led to: its rows, or how it came to have none.
enum Drawn {
    Rows(Vec<Planned>),
    /// It chooses nothing; the rows are of lines that have waited for it.
    Empty(Vec<Planned>, (usize, String, String)),
}

/// Compares both sides for every image of `prepared`, all upstreams at once.
pub(super) async fn compare(supply: &Supply, target: &TargetStore, prepared: Prepared, options: &SyncOptions, limit: usize) -> Plan {
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let engines = &Engines::new(supply, target, options, &reporter, &CancellationToken::new());
    let chooser = Chooser { supply, engines, dates: &options.dates, limit };
    let planner = &Planner { engines, supply, target, chooser, claims: &prepared.claims };
    let groups = prepared.groups.into_values().map(|units| {
        stream::iter(units)
            .map(move |unit| async move {
                match unit {
                    Unit::Want(want) => Drawn::Rows(vec![planner.one(want).await]),
                    Unit::Expand(item) => planner.item(&item).await,
                }
            })
            .buffer_unordered(limit)
    });
    let drawn: Vec<Drawn> = stream::select_all(groups.map(StreamExt::boxed)).collect().await;
    let (mut images, mut empty) = (prepared.failed.into_iter().map(|(order, row)| unresolvable(order, row)).collect::<Vec<_>>(), vec![]);
    for drawn in drawn {
        match drawn {
            Drawn::Rows(rows) => images.extend(rows),
            Drawn::Empty(rows, nothing) => {
                images.extend(rows);
                empty.push(nothing);
            }
        }
    }
    images.sort_by(|a, b| (a.order, &a.row.source).cmp(&(b.order, &b.row.source)));
    empty.sort();
    Plan { images, empty: empty.into_iter().map(|(_, source, explanation)| (source, explanation)).collect() }
}

impl Planner<'_> {
    async fn item(&self, item: &Arc<Item>) -> Drawn {
        match self.chooser.expand(item).await {
            Ok(Expansion::Chosen(expanded)) if expanded.wants.is_empty() => {
                let others = self.settled(self.claims.settle(item, Ok(vec![]))).await;
                Drawn::Empty(others, (item.order, item.entry.source.to_string(), expanded.explanation))
            }
            Ok(Expansion::Chosen(expanded)) => Drawn::Rows(self.chosen(item, expanded).await),
            Ok(Expansion::Undecided(undecided)) => Drawn::Rows(self.undecided(&undecided).await),
            Err(error) => {
                let mut rows = self.settled(self.claims.settle(item, Err(&error))).await;
                rows.push(unresolvable(item.order, item.row(&self.target.target).failed(error)));
                Drawn::Rows(rows)
            }
        }
    }

    async fn chosen(&self, item: &Item, expanded: Expanded) -> Vec<Planned> {
        let mut rows = self.settled(self.claims.settle(item, Ok(expanded.wants))).await;
        if let Some(first) = rows.iter_mut().find(|row| row.order == item.order) {
            first.selection = Some(format!("{}: {}", item.entry.source, expanded.explanation));
        }
        rows
    }

    /// The rows of images that have their names now, or do not get them.
    async fn settled(&self, settled: Settled) -> Vec<Planned> {
        let Settled { own, released, .. } = settled;
        let mut rows = vec![];
        for Merged { kept, refused, .. } in [own, released] {
            rows.extend(stream::iter(kept).map(|want| self.one(want)).buffered(self.chooser.limit).collect::<Vec<_>>().await);
            rows.extend(
                refused.into_iter().map(|(want, error)| unresolvable(want.item.order, want.row(&self.target.target).failed(error))),
            );
        }
        rows
    }

    /// A row for the choice and what it may lead to, and one for each exact tag.
    async fn undecided(&self, undecided: &Undecided) -> Vec<Planned> {
        let item = &undecided.item;
        let settled = stream::iter(undecided.settled()).map(|want| self.one(want)).buffered(self.chooser.limit);
        let settled: Vec<u64> = settled.map(|planned| planned.cost.map_or(0, |cost| cost.pulls)).collect().await;
        let pulls = undecided.pulls() + undecided.pulls_to_deliver(&settled);
        let mut rows = vec![Planned {
            state: State::Undecided,
            selection: Some(format!("{}: {}", item.entry.source, undecided.explanation())),
            cost: Some(Cost { pulls, likely: None, exact: false }),
            account: undecided.account(),
            priority: item.entry.priority,
            ..unresolvable(item.order, item.row(&self.target.target))
        }];
        let exact = item.selector().map(|selector| item.tagged(selector.exact_tags())).unwrap_or_default();
        rows.extend(self.settled(self.claims.settle(item, Ok(exact))).await);
        rows
    }

    async fn one(&self, want: Want) -> Planned {
        let planned = unresolvable(want.item.order, want.row(&self.target.target));
        match compare_one(self.engines, self.supply, &want).await {
            Ok((standing, at_upstream, cost, account)) => {
                let (state, at_target) = at_target(standing);
                let row = Outcome { digest: at_target, source_digest: at_upstream, ..planned.row };
                Planned { row, state, cost, account, priority: want.priority, ..planned }
            }
            Err(error) => Planned { row: planned.row.failed(error), ..planned },
        }
    }
}

/// How an image stands, its digest at the upstream, its cost and who pays.
type Compared = (Standing, Option<Digest>, Option<Cost>, Option<AccountId>);

async fn compare_one(engines: &Engines, supply: &Supply, want: &Want) -> Result<Compared> {
    let (image, gate, through) = engines.image(supply, want).await?;
    let (standing, at_upstream, survey) = engines.compare(&image, through.as_ref()).await?;
    let cost = match (&standing, survey) {
        (Standing::Current(_), Some(survey)) if !survey.lacks_referrers() => None,
        (_, Some(survey)) => Some(engines.of(through.as_ref()).cost(&image, &survey).await?),
        (_, None) => None,
    };
    Ok((standing, at_upstream, cost, gate.map(|gate| gate.account().clone())))
}

fn at_target(standing: Standing) -> (State, Option<Digest>) {
    match standing {
        Standing::Current(digest) => (State::Current, Some(digest)),
        Standing::Missing(_) => (State::Missing, None),
        Standing::Moved { from, .. } => (State::Moved, Some(from)),
    }
}

fn unresolvable(order: usize, row: Outcome) -> Planned {
    Planned { order, row, state: State::Unresolvable, selection: None, cost: None, account: None, priority: 0 }
}
