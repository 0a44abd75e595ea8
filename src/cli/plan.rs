//! `larder plan`.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::args::{PlanArgs, PlanFormat};
use super::inputs::Inputs;
use super::printer::Printer;
use super::{Exit, Refusal};
use crate::report::Outcome;
use crate::stock::{Planned, State, Supply, Sync, SyncOptions};

/// The plan as JSON, version 1 (`docs/plan.md`).
#[derive(Debug, Serialize)]
struct PlanJson<'a> {
    version: u32,
    target: String,
    totals: Counts,
    images: Vec<Row<'a>>,
    selections: Vec<&'a str>,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    images: usize,
    current: usize,
    missing: usize,
    moved: usize,
    unresolvable: usize,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    source: &'a str,
    target: &'a str,
    rule: Option<&'a str>,
    file: &'a str,
    line: usize,
    state: State,
    source_digest: Option<&'a str>,
    target_digest: Option<&'a str>,
    error: Option<String>,
}

pub(super) async fn run(file: Option<&Path>, args: PlanArgs, printer: &Printer) -> Result<Exit, Refusal> {
    let inputs = Inputs::read(file, &args.selection)?;
    let concurrency = args.selection.concurrency.map(usize::from);
    let supply = Arc::new(Supply::new(&inputs.config, concurrency, None).map_err(Refusal::usage)?);
    let target = supply.target(&inputs.target, false).await.map_err(Refusal::failed)?;
    let options = SyncOptions { unmatched: inputs.unmatched, recheck: false, concurrency };
    let planned = Sync::new(supply, target, options).plan(inputs.lists, &inputs.config.rules).await;
    let counts = count(&planned);
    match args.format {
        PlanFormat::Table => printer.data(&table(&planned, args.explain)),
        PlanFormat::Json => printer.data(&json(&planned, inputs.target.to_string(), &counts)),
    }
    for row in planned.iter().map(|planned| &planned.row) {
        if let Some(error) = &row.error {
            printer.fail(&super::progress::failure(row, error), &serde_json::json!({}));
        }
    }
    printer.say(&format!(
        "{} images: {} current, {} missing, {} moved, {} unresolvable; no pull was spent",
        counts.images, counts.current, counts.missing, counts.moved, counts.unresolvable
    ));
    Ok(if counts.unresolvable > 0 { Exit::Failed } else { Exit::Done })
}

fn count(planned: &[Planned]) -> Counts {
    let of = |state| planned.iter().filter(|planned| planned.state == state).count();
    Counts {
        images: planned.len(),
        current: of(State::Current),
        missing: of(State::Missing),
        moved: of(State::Moved),
        unresolvable: of(State::Unresolvable),
    }
}

fn table(planned: &[Planned], explain: bool) -> String {
    let width = planned.iter().map(|planned| planned.row.source.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for Planned { row, state, selection, .. } in planned {
        if let Some(selection) = selection.as_ref().filter(|_| explain) {
            out.push_str(&format!("{:<12} {selection}\n", "selected"));
        }
        out.push_str(&format!(
            "{:<12} {:<width$}  {}{}\n",
            state.as_str(),
            crate::error::printable(&row.source),
            row.target,
            digests(row, *state)
        ));
    }
    out
}

fn digests(row: &Outcome, state: State) -> String {
    match (state, &row.digest, &row.source_digest) {
        (State::Moved, Some(from), Some(to)) => format!("  {} -> {}", from.short(), to.short()),
        (State::Current | State::Missing, _, Some(digest)) => format!("  {}", digest.short()),
        _ => String::new(),
    }
}

fn json(planned: &[Planned], target: String, counts: &Counts) -> String {
    let images = planned
        .iter()
        .map(|Planned { row, state, .. }| Row {
            source: &row.source,
            target: &row.target,
            rule: row.rule.as_deref(),
            file: &row.file,
            line: row.line,
            state: *state,
            source_digest: row.source_digest.as_ref().map(crate::content::Digest::as_str),
            target_digest: row.digest.as_ref().map(crate::content::Digest::as_str),
            error: row.error.as_ref().map(ToString::to_string),
        })
        .collect();
    let selections = planned.iter().filter_map(|planned| planned.selection.as_deref()).collect();
    let totals = Counts { ..*counts };
    let plan = PlanJson { version: 1, target, totals, images, selections };
    serde_json::to_string_pretty(&plan).map(|text| text + "\n").unwrap_or_default()
}
