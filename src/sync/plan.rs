//! What a run would do, found out by HEAD requests alone.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::delivery::{ImagePlan, OpenedImage};
use super::expand_tags::{self, ChosenImages, Expansion};
use super::name_claims::{Merged, NameClaims, Settled};
use super::pending_selection::PendingSelection;
use super::prepared_lists::{PreparedLists, Wanted};
use super::run_target::RunTarget;
use super::tag_context::TagContext;
use super::{ImageRequest, RuledEntry, SyncOptions, TargetStore, Upstreams};
use crate::Result;
use crate::content::{Descriptor, Digest};
use crate::copy::{Comparison, Cost, ImageState};
use crate::limits::AccountId;
use crate::report::{Event, ImageOutcome, Reporter};

/// The state of an image.
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
    /// A line whose images are chosen by creation dates, some of which are not known: reading them costs pulls.
    Undecided,
}

impl PlannedState {
    /// The word that tables show.
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
    /// Its state.
    pub state: PlannedState,
    /// How its tags were chosen, where a listing decided: only on a line's first image.
    pub selection: Option<String>,
    /// What it would cost, if it is missing, moved, or lacks referrers.
    pub cost: Option<Cost>,
    /// The blobs that would be read, where that is known; empty if nothing is to be done.
    pub blobs: Option<Vec<Descriptor>>,
    /// The account that would pay.
    pub account: Option<AccountId>,
    /// Its priority.
    pub priority: i64,
    /// Whether a run reads manifests of one digest once for all images: a cache is asked for each name.
    pub(super) shares_manifests: bool,
}

/// What a run would do.
#[derive(Debug)]
pub struct SyncPlan {
    /// The state of every image, in list order.
    pub images: Vec<Planned>,
    /// Lines that choose nothing, as their rules allow: the repository and how its tags were chosen, in list order.
    pub empty: Vec<(String, String)>,
}

/// Compares both sides of every image.
pub(super) struct Planner<'a> {
    tags: TagContext<'a>,
    target: &'a TargetStore,
    claims: &'a NameClaims,
    reporter: &'a dyn Reporter,
}

/// What a line has led to: its rows, or how it came to have none.
enum LinePlan {
    Rows(Vec<Compared>),
    /// It chooses nothing; the rows are of lines that have waited for it.
    Empty(Vec<Compared>, (usize, String, String)),
}

impl Planner<'_> {
    /// Compares both sides of every image of `prepared`, all upstreams at once.
    pub(super) async fn plan(
        upstreams: &Upstreams,
        target: &TargetStore,
        prepared: PreparedLists,
        options: &SyncOptions,
        limit: usize,
        reporter: &Arc<dyn Reporter>,
    ) -> SyncPlan {
        let run_target = &RunTarget::new(upstreams, target, options, reporter, &CancellationToken::new());
        let tags = TagContext { upstreams, target: run_target, dates: &options.dates, limit };
        let planner = &Planner { tags, target, claims: &prepared.claims, reporter: &**reporter };
        let groups = prepared.groups.into_values().map(|wanted| {
            stream::iter(wanted)
                .map(move |wanted| async move {
                    match wanted {
                        Wanted::Image(request) => LinePlan::Rows(vec![planner.one(request).await]),
                        Wanted::Tags(line) => planner.line(&line).await,
                    }
                })
                .buffer_unordered(limit)
        });
        let compared: Vec<LinePlan> = stream::select_all(groups.map(StreamExt::boxed)).collect().await;
        let failed = prepared.failed.into_iter().map(|(order, row)| unresolvable(order, row));
        let (mut images, mut empty, mut unpriced) = (failed.collect::<Vec<_>>(), vec![], vec![]);
        for plan in compared {
            match plan {
                LinePlan::Rows(rows) => unpriced.extend(rows),
                LinePlan::Empty(rows, line) => {
                    unpriced.extend(rows);
                    empty.push(line);
                }
            }
        }
        // The estimate for one image rests on all images of its repository: so nothing is priced before all were compared.
        let priced = stream::iter(unpriced).map(|compared| planner.price(compared)).buffer_unordered(limit);
        images.extend(priced.collect::<Vec<_>>().await);
        images.sort_by(|a, b| (a.order, &a.row.source).cmp(&(b.order, &b.row.source)));
        share_manifests(&mut images);
        empty.sort();
        SyncPlan { images, empty: empty.into_iter().map(|(_, source, explanation)| (source, explanation)).collect() }
    }

    async fn line(&self, line: &Arc<RuledEntry>) -> LinePlan {
        match expand_tags::expand(&self.tags, line, false).await {
            Ok(Expansion::Chosen(chosen)) if chosen.requests.is_empty() => {
                let others = self.settled(self.claims.settle(line, Ok(vec![]))).await;
                LinePlan::Empty(others, (line.order, line.entry.source.to_string(), chosen.explanation))
            }
            Ok(Expansion::Chosen(chosen)) => LinePlan::Rows(self.chosen(line, chosen).await),
            Ok(Expansion::Pending(selection)) => LinePlan::Rows(self.pending(&selection).await),
            Err(error) => {
                let mut rows = self.settled(self.claims.settle(line, Err(&error))).await;
                rows.push(unresolvable(line.order, line.row(&self.target.target).failed(error)).into());
                LinePlan::Rows(rows)
            }
        }
    }

    async fn chosen(&self, line: &RuledEntry, chosen: ChosenImages) -> Vec<Compared> {
        let mut rows = self.settled(self.claims.settle(line, Ok(chosen.requests))).await;
        if let Some(first) = rows.iter_mut().find(|row| row.planned.order == line.order) {
            first.planned.selection = Some(format!("{}: {}", line.entry.source, chosen.explanation));
        }
        rows
    }

    /// The rows of images that have their names now, or do not get them.
    async fn settled(&self, settled: Settled) -> Vec<Compared> {
        let Settled { own, released, .. } = settled;
        let mut rows = vec![];
        for Merged { kept, refused, .. } in [own, released] {
            rows.extend(stream::iter(kept).map(|request| self.one(request)).buffered(self.tags.limit).collect::<Vec<_>>().await);
            rows.extend(
                refused
                    .into_iter()
                    .map(|(request, error)| unresolvable(request.line.order, request.row(&self.target.target).failed(error)).into()),
            );
        }
        rows
    }

    /// A row for the choice and what it may lead to, and one for each exact tag.
    async fn pending(&self, selection: &PendingSelection) -> Vec<Compared> {
        let line = &selection.line;
        let settled = stream::iter(selection.settled()).map(|request| async { self.price(self.one(request).await).await });
        let settled: Vec<Cost> = settled.buffered(self.tags.limit).filter_map(|planned| async move { planned.cost }).collect().await;
        let mut rows = vec![Compared::from(Planned {
            state: PlannedState::Undecided,
            selection: Some(format!("{}: {}", line.entry.source, selection.explanation())),
            cost: Some(selection.cost(&settled)),
            blobs: None,
            account: selection.account(),
            priority: line.entry.priority,
            ..unresolvable(line.order, line.row(&self.target.target))
        })];
        let exact = line.selector().map(|selector| line.requests_for(selector.exact_tags())).unwrap_or_default();
        rows.extend(self.settled(self.claims.settle(line, Ok(exact))).await);
        rows
    }

    /// Compares both sides of one image.
    async fn one(&self, request: ImageRequest) -> Compared {
        let planned = unresolvable(request.line.order, request.row(&self.target.target));
        let upstream = request.line.entry.source.host.clone();
        let compared = match self.compare(&request).await {
            Ok((opened, (state, at_upstream, comparison))) => {
                let needs_nothing = |of: &Comparison| matches!(state, ImageState::Current(_)) && !of.lacks_referrers();
                let comparison = comparison.filter(|comparison| !needs_nothing(comparison));
                let account = opened.gate.as_ref().map(|gate| gate.account().clone());
                let (state, at_target) = at_target(state);
                let row = ImageOutcome { digest: at_target, source_digest: at_upstream, ..planned.row };
                let planned = Planned { row, state, blobs: Some(vec![]), account, priority: request.priority, ..planned };
                Compared { planned, unpriced: comparison.map(|comparison| Box::new((opened, comparison))) }
            }
            Err(error) => Planned { row: planned.row.failed(error), ..planned }.into(),
        };
        self.reporter.event(&Event::Compared { upstream: &upstream });
        compared
    }

    async fn compare(&self, request: &ImageRequest) -> Result<(OpenedImage, ImagePlan)> {
        let opened = self.tags.target.open(self.tags.upstreams, request).await?;
        let plan = opened.delivery.compare(&opened.image).await?;
        Ok((opened, plan))
    }

    /// What an image costs, in pulls and bytes.
    async fn price(&self, Compared { planned, unpriced }: Compared) -> Planned {
        let Some((opened, comparison)) = unpriced.map(|unpriced| *unpriced) else { return planned };
        let costs = opened.delivery.engine().costs();
        match costs.of_planned(&opened.image, &comparison).await {
            Ok(cost) => {
                let blobs = costs.known_blobs(&opened.image, &comparison).await;
                Planned { cost: Some(cost), blobs, shares_manifests: opened.delivery.shares_manifests(), ..planned }
            }
            Err(error) => unresolvable(planned.order, planned.row.failed(error)),
        }
    }
}

/// An image that was compared. If it must be copied, its price is still to be found out.
struct Compared {
    planned: Planned,
    unpriced: Option<Box<(OpenedImage, Comparison)>>,
}

impl From<Planned> for Compared {
    fn from(planned: Planned) -> Self {
        Compared { planned, unpriced: None }
    }
}

/// Of images with one digest at one account, a run pulls one: the others find its content at the target. The bound stays, because they may
/// want other platforms, and because the first may fail.
fn share_manifests(images: &mut [Planned]) {
    let mut seen = HashSet::new();
    for image in images.iter_mut().filter(|image| image.shares_manifests) {
        let (Some(cost), Some(digest)) = (&mut image.cost, &image.row.source_digest) else { continue };
        if cost.pulls > 0 && !seen.insert((image.account.clone(), digest.clone())) {
            *cost = Cost { pulls: 0, exact: false, ..*cost };
            image.blobs = Some(vec![]);
        }
    }
}

fn at_target(state: ImageState) -> (PlannedState, Option<Digest>) {
    match state {
        ImageState::Current(digest) => (PlannedState::Current, Some(digest)),
        ImageState::Missing(_) => (PlannedState::Missing, None),
        ImageState::Moved { from, .. } => (PlannedState::Moved, Some(from)),
    }
}

fn unresolvable(order: usize, row: ImageOutcome) -> Planned {
    Planned {
        order,
        row,
        state: PlannedState::Unresolvable,
        selection: None,
        cost: None,
        blobs: None,
        account: None,
        priority: 0,
        shares_manifests: false,
    }
}
