//! What a run would do, found out by HEADs alone.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::run::{Prepared, Unit};
use super::{Item, Supply, TargetStore, Want};
use crate::Result;
use crate::content::Digest;
use crate::copy::{Cost, Engine, Options, Standing};
use crate::limits::AccountId;
use crate::report::{Outcome, Silent};

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
}

impl State {
    /// The word, as tables have it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Current => "current",
            State::Missing => "missing",
            State::Moved => "moved",
            State::Unresolvable => "unresolvable",
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

/// Compares both sides for every image of `prepared`, all upstreams at once.
pub(super) async fn compare(supply: &Supply, target: &TargetStore, prepared: Prepared, limit: usize) -> Vec<Planned> {
    let options = Options { deliveries: supply.deliveries(&target.target), ..Options::default() };
    let engine = Engine::new(target.ends.clone(), Arc::new(Silent), options, tokio_util::sync::CancellationToken::new());
    let (engine, claims) = (&engine, &prepared.claims);
    let groups = prepared.groups.into_values().map(|units| {
        stream::iter(units)
            .map(move |unit| async move {
                match unit {
                    Unit::Want(want) => vec![one(engine, supply, target, want).await],
                    Unit::Expand(item) => match super::run::expand(supply, claims, &item).await {
                        Ok(expanded) => expansion(engine, supply, target, &item, expanded, limit).await,
                        Err(error) => vec![unresolvable(item.order, item.row(&target.target).failed(error))],
                    },
                }
            })
            .buffer_unordered(limit)
    });
    let found: Vec<Vec<Planned>> = stream::select_all(groups.map(StreamExt::boxed)).collect().await;
    prepared.failed.into_iter().map(|(order, row)| unresolvable(order, row)).chain(found.into_iter().flatten()).collect()
}

async fn expansion(
    engine: &Arc<Engine>,
    supply: &Supply,
    target: &TargetStore,
    item: &Item,
    expanded: super::run::Expanded,
    limit: usize,
) -> Vec<Planned> {
    let refused = expanded.refused.into_iter().map(|(want, error)| unresolvable(want.item.order, want.row(&target.target).failed(error)));
    let mut rows: Vec<Planned> =
        stream::iter(expanded.wants).map(|want| one(engine, supply, target, want)).buffered(limit).collect::<Vec<_>>().await;
    rows.extend(refused);
    if let Some(first) = rows.first_mut() {
        first.selection = Some(format!("{}: {}", item.entry.source, expanded.explanation));
    }
    rows
}

async fn one(engine: &Arc<Engine>, supply: &Supply, target: &TargetStore, want: Want) -> Planned {
    let planned = unresolvable(want.item.order, want.row(&target.target));
    match compare_one(engine, supply, &want).await {
        Ok((standing, cost, account)) => {
            let (state, at_target, at_upstream) = sides(standing);
            let row = Outcome { digest: at_target, source_digest: Some(at_upstream), ..planned.row };
            Planned { row, state, cost, account, priority: want.priority, ..planned }
        }
        Err(error) => Planned { row: planned.row.failed(error), ..planned },
    }
}

async fn compare_one(engine: &Arc<Engine>, supply: &Supply, want: &Want) -> Result<(Standing, Option<Cost>, Option<AccountId>)> {
    let (image, gate) = supply.image(want).await?;
    let (standing, survey) = engine.compare(&image).await?;
    let cost = match standing {
        Standing::Current(_) if !survey.lacks_referrers() => None,
        Standing::Current(_) | Standing::Missing(_) | Standing::Moved { .. } => Some(engine.cost(&image, &survey).await?),
    };
    Ok((standing, cost, gate.map(|gate| gate.account().clone())))
}

fn sides(standing: Standing) -> (State, Option<Digest>, Digest) {
    match standing {
        Standing::Current(digest) => (State::Current, Some(digest.clone()), digest),
        Standing::Missing(digest) => (State::Missing, None, digest),
        Standing::Moved { from, to } => (State::Moved, Some(from), to),
    }
}

fn unresolvable(order: usize, row: Outcome) -> Planned {
    Planned { order, row, state: State::Unresolvable, selection: None, cost: None, account: None, priority: 0 }
}
