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
use crate::content::{Descriptor, Digest};
use crate::copy::{Cost, Image, Standing, Survey};
use crate::limits::AccountId;
use crate::report::{Event, Outcome, Reporter};
use crate::warm::Through;

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
    /// The blobs that would be read, where that is known; none for what needs nothing.
    pub blobs: Option<Vec<Descriptor>>,
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
    reporter: &'a dyn Reporter,
}

/// What an item has led to: its rows, or how it came to have none.
enum Drawn {
    Rows(Vec<Compared>),
    /// It chooses nothing; the rows are of lines that have waited for it.
    Empty(Vec<Compared>, (usize, String, String)),
}

/// Compares both sides for every image of `prepared`, all upstreams at once.
pub(super) async fn compare(
    supply: &Supply,
    target: &TargetStore,
    prepared: Prepared,
    options: &SyncOptions,
    limit: usize,
    reporter: &Arc<dyn Reporter>,
) -> Plan {
    let engines = &Engines::new(supply, target, options, reporter, &CancellationToken::new());
    let chooser = Chooser { supply, engines, dates: &options.dates, limit };
    let planner = &Planner { engines, supply, target, chooser, claims: &prepared.claims, reporter: &**reporter };
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
    let compared: Vec<Drawn> = stream::select_all(groups.map(StreamExt::boxed)).collect().await;
    let (mut images, mut empty) = (prepared.failed.into_iter().map(|(order, row)| unresolvable(order, row)).collect::<Vec<_>>(), vec![]);
    let mut priced = vec![];
    for drawn in compared {
        match drawn {
            Drawn::Rows(rows) => priced.extend(rows),
            Drawn::Empty(rows, nothing) => {
                priced.extend(rows);
                empty.push(nothing);
            }
        }
    }
    // All images of a repository tell together how many manifests one of them has: so nothing is priced before all were asked about.
    images.extend(stream::iter(priced).map(|compared| planner.price(compared)).buffer_unordered(limit).collect::<Vec<_>>().await);
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
                rows.push(unresolvable(item.order, item.row(&self.target.target).failed(error)).into());
                Drawn::Rows(rows)
            }
        }
    }

    async fn chosen(&self, item: &Item, expanded: Expanded) -> Vec<Compared> {
        let mut rows = self.settled(self.claims.settle(item, Ok(expanded.wants))).await;
        if let Some(first) = rows.iter_mut().find(|row| row.planned.order == item.order) {
            first.planned.selection = Some(format!("{}: {}", item.entry.source, expanded.explanation));
        }
        rows
    }

    /// The rows of images that have their names now, or do not get them.
    async fn settled(&self, settled: Settled) -> Vec<Compared> {
        let Settled { own, released, .. } = settled;
        let mut rows = vec![];
        for Merged { kept, refused, .. } in [own, released] {
            rows.extend(stream::iter(kept).map(|want| self.one(want)).buffered(self.chooser.limit).collect::<Vec<_>>().await);
            rows.extend(
                refused.into_iter().map(|(want, error)| unresolvable(want.item.order, want.row(&self.target.target).failed(error)).into()),
            );
        }
        rows
    }

    /// A row for the choice and what it may lead to, and one for each exact tag.
    async fn undecided(&self, undecided: &Undecided) -> Vec<Compared> {
        let item = &undecided.item;
        let settled = stream::iter(undecided.settled()).map(|want| async { self.price(self.one(want).await).await });
        let settled: Vec<Cost> = settled.buffered(self.chooser.limit).filter_map(|planned| async move { planned.cost }).collect().await;
        let mut rows = vec![Compared::from(Planned {
            state: State::Undecided,
            selection: Some(format!("{}: {}", item.entry.source, undecided.explanation())),
            cost: Some(undecided.cost(&settled)),
            blobs: None,
            account: undecided.account(),
            priority: item.entry.priority,
            ..unresolvable(item.order, item.row(&self.target.target))
        })];
        let exact = item.selector().map(|selector| item.tagged(selector.exact_tags())).unwrap_or_default();
        rows.extend(self.settled(self.claims.settle(item, Ok(exact))).await);
        rows
    }

    /// Asks both sides about one image.
    async fn one(&self, want: Want) -> Compared {
        let planned = unresolvable(want.item.order, want.row(&self.target.target));
        let upstream = want.item.entry.source.host.clone();
        let compared = match self.compare_one(&want).await {
            Ok((standing, at_upstream, unpriced, account)) => {
                let (state, at_target) = at_target(standing);
                let row = Outcome { digest: at_target, source_digest: at_upstream, ..planned.row };
                let planned = Planned { row, state, blobs: Some(vec![]), account, priority: want.priority, ..planned };
                Compared { planned, unpriced: unpriced.map(Box::new) }
            }
            Err(error) => Planned { row: planned.row.failed(error), ..planned }.into(),
        };
        self.reporter.event(&Event::Compared { upstream: &upstream });
        compared
    }

    async fn compare_one(&self, want: &Want) -> Result<(Standing, Option<Digest>, Option<Unpriced>, Option<AccountId>)> {
        let (image, gate, through) = self.engines.image(self.supply, want).await?;
        let (standing, at_upstream, survey) = self.engines.compare(&image, through.as_ref()).await?;
        let needs_nothing = |survey: &Survey| matches!(standing, Standing::Current(_)) && !survey.lacks_referrers();
        let unpriced = survey.filter(|survey| !needs_nothing(survey)).map(|survey| Unpriced { image, through, survey });
        Ok((standing, at_upstream, unpriced, gate.map(|gate| gate.account().clone())))
    }

    /// What an image costs, in pulls and bytes.
    async fn price(&self, Compared { planned, unpriced }: Compared) -> Planned {
        let Some(Unpriced { image, through, survey }) = unpriced.map(|unpriced| *unpriced) else { return planned };
        let engine = self.engines.of(through.as_ref());
        match engine.estimate(&image, &survey).await {
            Ok(cost) => Planned { cost: Some(cost), blobs: engine.known_blobs(&image, &survey).await, ..planned },
            Err(error) => unresolvable(planned.order, planned.row.failed(error)),
        }
    }
}

/// An image that both sides were asked about, and what of it is still to be priced.
struct Compared {
    planned: Planned,
    unpriced: Option<Box<Unpriced>>,
}

struct Unpriced {
    image: Image,
    through: Option<Arc<Through>>,
    survey: Survey,
}

impl From<Planned> for Compared {
    fn from(planned: Planned) -> Self {
        Compared { planned, unpriced: None }
    }
}

fn at_target(standing: Standing) -> (State, Option<Digest>) {
    match standing {
        Standing::Current(digest) => (State::Current, Some(digest)),
        Standing::Missing(_) => (State::Missing, None),
        Standing::Moved { from, .. } => (State::Moved, Some(from)),
    }
}

fn unresolvable(order: usize, row: Outcome) -> Planned {
    Planned { order, row, state: State::Unresolvable, selection: None, cost: None, blobs: None, account: None, priority: 0 }
}
