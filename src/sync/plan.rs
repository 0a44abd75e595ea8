//! What a run would do, found out by HEADs alone.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::claims::{Merged, NameClaims, Settled};
use super::expand::{Chooser, Expanded, Expansion};
use super::run::{PreparedLists, RunUnit};
use super::undecided::PendingSelection;
use super::warm::CopyEngines;
use super::{ImageRequest, RuledEntry, SyncOptions, TargetStore, Upstreams};
use crate::Result;
use crate::content::{Descriptor, Digest};
use crate::copy::{Comparison, CopyImage, Cost, ImageState};
use crate::limits::AccountId;
use crate::report::{Event, ImageOutcome, Reporter};
use crate::warm::CachedImage;

/// How an image stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedState {
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

impl PlannedState {
    /// The word, as tables have it.
    pub fn as_str(self) -> &'static str {
        match self {
            PlannedState::Current => "current",
            PlannedState::Missing => "missing",
            PlannedState::Moved => "moved",
            PlannedState::Unresolvable => "unresolvable",
            PlannedState::Undecided => "undecided",
        }
    }
}

/// One image of a plan.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its place among all lines.
    pub(super) order: usize,
    /// Its row; failed if it is unresolvable. `source_digest` is the upstream's, `digest` the target's.
    pub row: ImageOutcome,
    /// How it stands.
    pub state: PlannedState,
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
pub struct SyncPlan {
    /// How every image stands, in list order.
    pub images: Vec<Planned>,
    /// Of lines that choose nothing, as their rules allow: the repository and how its tags were chosen, in list order.
    pub empty: Vec<(String, String)>,
}

/// Who plans, and for where.
struct Planner<'a> {
    engines: &'a CopyEngines,
    supply: &'a Upstreams,
    target: &'a TargetStore,
    chooser: Chooser<'a>,
    claims: &'a NameClaims,
    reporter: &'a dyn Reporter,
}

/// What an item has led to: its rows, or how it came to have none.
enum ItemPlan {
    Rows(Vec<Compared>),
    /// It chooses nothing; the rows are of lines that have waited for it.
    Empty(Vec<Compared>, (usize, String, String)),
}

/// Compares both sides for every image of `prepared`, all upstreams at once.
pub(super) async fn compare(
    supply: &Upstreams,
    target: &TargetStore,
    prepared: PreparedLists,
    options: &SyncOptions,
    limit: usize,
    reporter: &Arc<dyn Reporter>,
) -> SyncPlan {
    let engines = &CopyEngines::new(supply, target, options, reporter, &CancellationToken::new());
    let chooser = Chooser { supply, engines, dates: &options.dates, limit };
    let planner = &Planner { engines, supply, target, chooser, claims: &prepared.claims, reporter: &**reporter };
    let groups = prepared.groups.into_values().map(|units| {
        stream::iter(units)
            .map(move |unit| async move {
                match unit {
                    RunUnit::Want(want) => ItemPlan::Rows(vec![planner.one(want).await]),
                    RunUnit::Expand(item) => planner.item(&item).await,
                }
            })
            .buffer_unordered(limit)
    });
    let compared: Vec<ItemPlan> = stream::select_all(groups.map(StreamExt::boxed)).collect().await;
    let (mut images, mut empty) = (prepared.failed.into_iter().map(|(order, row)| unresolvable(order, row)).collect::<Vec<_>>(), vec![]);
    let mut priced = vec![];
    for drawn in compared {
        match drawn {
            ItemPlan::Rows(rows) => priced.extend(rows),
            ItemPlan::Empty(rows, nothing) => {
                priced.extend(rows);
                empty.push(nothing);
            }
        }
    }
    // All images of a repository tell together how many manifests one of them has: so nothing is priced before all were asked about.
    images.extend(stream::iter(priced).map(|compared| planner.price(compared)).buffer_unordered(limit).collect::<Vec<_>>().await);
    images.sort_by(|a, b| (a.order, &a.row.source).cmp(&(b.order, &b.row.source)));
    empty.sort();
    SyncPlan { images, empty: empty.into_iter().map(|(_, source, explanation)| (source, explanation)).collect() }
}

impl Planner<'_> {
    async fn item(&self, item: &Arc<RuledEntry>) -> ItemPlan {
        match self.chooser.expand(item).await {
            Ok(Expansion::Chosen(expanded)) if expanded.wants.is_empty() => {
                let others = self.settled(self.claims.settle(item, Ok(vec![]))).await;
                ItemPlan::Empty(others, (item.order, item.entry.source.to_string(), expanded.explanation))
            }
            Ok(Expansion::Chosen(expanded)) => ItemPlan::Rows(self.chosen(item, expanded).await),
            Ok(Expansion::Undecided(undecided)) => ItemPlan::Rows(self.undecided(&undecided).await),
            Err(error) => {
                let mut rows = self.settled(self.claims.settle(item, Err(&error))).await;
                rows.push(unresolvable(item.order, item.row(&self.target.target).failed(error)).into());
                ItemPlan::Rows(rows)
            }
        }
    }

    async fn chosen(&self, item: &RuledEntry, expanded: Expanded) -> Vec<Compared> {
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
    async fn undecided(&self, undecided: &PendingSelection) -> Vec<Compared> {
        let item = &undecided.item;
        let settled = stream::iter(undecided.settled()).map(|want| async { self.price(self.one(want).await).await });
        let settled: Vec<Cost> = settled.buffered(self.chooser.limit).filter_map(|planned| async move { planned.cost }).collect().await;
        let mut rows = vec![Compared::from(Planned {
            state: PlannedState::Undecided,
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
    async fn one(&self, want: ImageRequest) -> Compared {
        let planned = unresolvable(want.item.order, want.row(&self.target.target));
        let upstream = want.item.entry.source.host.clone();
        let compared = match self.compare_one(&want).await {
            Ok((standing, at_upstream, unpriced, account)) => {
                let (state, at_target) = at_target(standing);
                let row = ImageOutcome { digest: at_target, source_digest: at_upstream, ..planned.row };
                let planned = Planned { row, state, blobs: Some(vec![]), account, priority: want.priority, ..planned };
                Compared { planned, unpriced: unpriced.map(Box::new) }
            }
            Err(error) => Planned { row: planned.row.failed(error), ..planned }.into(),
        };
        self.reporter.event(&Event::Compared { upstream: &upstream });
        compared
    }

    async fn compare_one(&self, want: &ImageRequest) -> Result<(ImageState, Option<Digest>, Option<Unpriced>, Option<AccountId>)> {
        let (image, gate, through) = self.engines.image(self.supply, want).await?;
        let (standing, at_upstream, survey) = self.engines.compare(&image, through.as_ref()).await?;
        let needs_nothing = |survey: &Comparison| matches!(standing, ImageState::Current(_)) && !survey.lacks_referrers();
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
    image: CopyImage,
    through: Option<Arc<CachedImage>>,
    survey: Comparison,
}

impl From<Planned> for Compared {
    fn from(planned: Planned) -> Self {
        Compared { planned, unpriced: None }
    }
}

fn at_target(standing: ImageState) -> (PlannedState, Option<Digest>) {
    match standing {
        ImageState::Current(digest) => (PlannedState::Current, Some(digest)),
        ImageState::Missing(_) => (PlannedState::Missing, None),
        ImageState::Moved { from, .. } => (PlannedState::Moved, Some(from)),
    }
}

fn unresolvable(order: usize, row: ImageOutcome) -> Planned {
    Planned { order, row, state: PlannedState::Unresolvable, selection: None, cost: None, blobs: None, account: None, priority: 0 }
}
