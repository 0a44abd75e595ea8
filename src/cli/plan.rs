//! `larder plan`: what a sync would do and cost, found by HEAD requests alone.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::exit::{Exit, UsageError};
use super::inputs::{self, Inputs};
use super::lock_file::{self, LockFile};
use super::options::{ImageArgs, OutputFormat};
use super::printer::Printer;
use super::text::{self, count, duration, failure, size};
use super::{progress, state};
use crate::content::Descriptor;
use crate::lock::Drift;
use crate::report::ImageOutcome;
use crate::sync::{AccountPlan, Planned, PlannedState, Sync, SyncOptions, SyncPlan, UpstreamOptions, forecast};

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) selection: ImageArgs,
    /// Format of the plan
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(super) format: OutputFormat,
    /// Compare with a lock: tags that moved upstream, other digests at the target, images not locked or not listed. Exit
    /// status 1 for any. Without lists, the lock's images are compared
    #[arg(long, value_name = "FILE")]
    pub(super) lock: Option<PathBuf>,
    /// Print how many tags each step of a selection left
    #[arg(long)]
    pub(super) explain: bool,
    /// Where runs keep what they share: saved manifests and pulls spent make the plan exact. A folder, or s3://, az:// or
    /// gs://BUCKET/PREFIX. Default: `[state] url`, else $XDG_STATE_HOME/larder, else ~/.local/state/larder; `none`: nothing is known
    #[arg(long, value_name = "DIR|URL")]
    pub(super) state: Option<PathBuf>,
}

/// The plan as JSON, version 1 (`docs/plan.md`).
#[derive(Debug, Serialize)]
struct PlanJson<'a> {
    version: u32,
    target: String,
    totals: PlanCounts,
    images: Vec<PlanRow<'a>>,
    accounts: &'a [AccountPlan],
    selections: Vec<String>,
    /// With `--lock`: the differences from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<&'a [Drift]>,
}

#[derive(Debug, Default, Serialize)]
struct PlanCounts {
    images: usize,
    current: usize,
    missing: usize,
    moved: usize,
    unresolvable: usize,
    /// List lines whose tags cannot be chosen yet. They are not counted as images.
    #[serde(skip_serializing_if = "is_zero")]
    undecided: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[derive(Debug, Serialize)]
struct PlanRow<'a> {
    source: &'a str,
    target: &'a str,
    rule: Option<&'a str>,
    file: &'a str,
    line: usize,
    state: PlannedState,
    source_digest: Option<&'a str>,
    target_digest: Option<&'a str>,
    pulls: Option<u64>,
    pulls_at_most: Option<u64>,
    pulls_exact: Option<bool>,
    bytes: Option<u64>,
    bytes_unknown: u64,
    error: Option<String>,
}

pub(super) async fn run(file: Option<&Path>, args: PlanArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let lock = args.lock.as_deref().map(|path| lock_file::open(path, true)).transpose()?;
    let inputs = Inputs::with(file, &args.selection, |config| match &lock {
        Some(lock) if !inputs::any_list(config, &args.selection) => inputs::lock_entries(lock.listed(), &args.selection),
        _ => inputs::lists(config, &args.selection),
    })?;
    let concurrency = args.selection.concurrency.map(usize::from);
    let options = UpstreamOptions { concurrency, ..UpstreamOptions::default() };
    let supply = Arc::new(state::supply(&inputs.config, args.state.as_deref(), options, printer).await?);
    let target = supply.target(&inputs.target, false).await.map_err(UsageError::failed)?;
    let warm = args.selection.to.is_none();
    let dates = lock.as_ref().map(LockFile::dates).unwrap_or_default();
    let options = SyncOptions {
        unmatched: inputs.unmatched,
        platforms: args.selection.platforms,
        concurrency,
        warm,
        dates,
        ..SyncOptions::default()
    };
    let reporter = progress::planning(printer);
    let sync = Sync::new(Arc::clone(&supply), target, options);
    let SyncPlan { images: planned, empty } = sync.plan_and_tell(inputs.lists, &inputs.config.rules, reporter).await;
    supply.share_state().await;
    printer.end_bars();
    let counts = count_states(&planned);
    let drift = lock.as_ref().map(|lock| lock.drift(&planned, &inputs.target));
    let accounts = forecast(&planned, &supply.standings(), jiff::Timestamp::now());
    match args.format {
        OutputFormat::Table => printer.data(&table(&planned, &empty, args.explain)),
        OutputFormat::Json => printer.data(&json(&planned, &empty, inputs.target.to_string(), &counts, &accounts, drift.as_deref())),
    }
    if args.format == OutputFormat::Table {
        drift.iter().flatten().for_each(|drift| printer.data(&format!("{:<12} {drift}\n", "drift")));
    }
    for row in planned.iter().map(|planned| &planned.row) {
        if let Some(error) = &row.error {
            printer.failure(error, &failure(row, error), serde_json::json!({}));
        }
    }
    empty.iter().for_each(|(source, explanation)| printer.say(&text::empty_selection(source, explanation)));
    let undecided = if counts.undecided > 0 { format!(", {} undecided", counts.undecided) } else { String::new() };
    printer.say(&format!(
        "{}: {} current, {} missing, {} moved, {} unresolvable{undecided}; no pull was spent",
        count(counts.images, "image"),
        counts.current,
        counts.missing,
        counts.moved,
        counts.unresolvable
    ));
    accounts
        .iter()
        .filter(|account| account.images > 0)
        .flat_map(|account| account_lines(account, printer.is_terminal()))
        .for_each(|line| printer.say(&line));
    if let (Some(path), Some(drift)) = (&args.lock, &drift) {
        let differs = match drift.len() {
            0 => "no differences".to_owned(),
            n => count(n, "difference"),
        };
        printer.say(&format!("{}: {differs}", path.display()));
    }
    let differs = drift.is_some_and(|drift| !drift.is_empty());
    Ok(if counts.unresolvable > 0 || differs { Exit::Failed } else { Exit::Done })
}

/// Windows of one account that are printed, so that the line stays readable. The JSON has all.
const WINDOWS_SHOWN: usize = 8;

/// What one account will spend, and a second line with its windows if there are several.
fn account_lines(account: &AccountPlan, terminal: bool) -> Vec<String> {
    let name = format!("{} ({})", account.host, account.account);
    let pulls = match (account.pulls, account.pulls_at_most) {
        (pulls, _) if account.exact => count(pulls, "pull"),
        (about, most) if about == most => format!("at most {}", count(most, "pull")),
        (about, most) => format!("about {about} (at most {most}) pulls"),
    };
    let mut text = format!("{name}: {pulls} for {}", count(account.images, "image"));
    match (account.left, account.limit, account.windows) {
        (Some(left), Some(limit), Some(windows)) => {
            text += &format!("; {left} of {limit} left");
            text += &match windows {
                1 => ", all can be pulled now".to_owned(),
                n => {
                    format!(
                        ": {n} windows, {}; now {}, later {}",
                        duration(account.hours * 3600.0),
                        count(account.tonight, "image"),
                        account.later
                    )
                }
            };
        }
        _ => text += "; no pull limit known",
    }
    text += &match (account.bytes, account.bytes_unknown) {
        (0, 0) => String::new(),
        (0, unknown) => format!("; {} of unknown size", count(unknown, "image")),
        (bytes, 0) => format!("; {}", size(bytes)),
        (bytes, unknown) => format!("; {}, and {} of unknown size", size(bytes), count(unknown, "image")),
    };
    let mut lines = vec![text];
    if account.windows.is_some_and(|windows| windows > 1) {
        let windows = account.schedule.iter().take(WINDOWS_SHOWN).enumerate().map(|(nth, opening)| {
            let opens = opening.opens.as_ref().and_then(|at| at.parse().ok());
            let when = opens.map_or_else(|| "now".to_owned(), |at| text::soon(at, terminal));
            if nth == 0 { format!("{when} {}", count(opening.images, "image")) } else { format!("{when} {}", opening.images) }
        });
        let more = account.windows.unwrap_or(0).saturating_sub(WINDOWS_SHOWN as u64);
        let more = if more > 0 { format!(", and {more} windows more") } else { String::new() };
        lines.push(format!("{name}: {}{more}", windows.collect::<Vec<_>>().join(", ")));
    }
    lines.iter().map(|line| crate::error::printable(line)).collect()
}

/// The total size, each digest counted once.
fn bytes(blobs: &[Descriptor]) -> u64 {
    let mut seen = std::collections::HashSet::new();
    blobs.iter().filter(|blob| seen.insert(&blob.digest)).map(|blob| blob.size).sum()
}

fn count_states(planned: &[Planned]) -> PlanCounts {
    let of = |state| planned.iter().filter(|planned| planned.state == state).count();
    PlanCounts {
        images: planned.len() - of(PlannedState::Undecided),
        current: of(PlannedState::Current),
        missing: of(PlannedState::Missing),
        moved: of(PlannedState::Moved),
        unresolvable: of(PlannedState::Unresolvable),
        undecided: of(PlannedState::Undecided),
    }
}

fn table(planned: &[Planned], empty: &[(String, String)], explain: bool) -> String {
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
    for (source, explanation) in empty.iter().filter(|_| explain) {
        out.push_str(&format!("{:<12} {}: {explanation}\n", "selected", crate::error::printable(source)));
    }
    out
}

fn digests(row: &ImageOutcome, state: PlannedState) -> String {
    match (state, &row.digest, &row.source_digest) {
        (PlannedState::Moved, Some(from), Some(to)) => format!("  {} -> {}", from.short(), to.short()),
        (PlannedState::Current | PlannedState::Missing, _, Some(digest)) => format!("  {}", digest.short()),
        _ => String::new(),
    }
}

fn json(
    planned: &[Planned],
    empty: &[(String, String)],
    target: String,
    counts: &PlanCounts,
    accounts: &[AccountPlan],
    drift: Option<&[Drift]>,
) -> String {
    let images = planned
        .iter()
        .map(|Planned { row, state, cost, blobs, .. }| PlanRow {
            source: &row.source,
            target: &row.target,
            rule: row.rule.as_deref(),
            file: &row.file,
            line: row.line,
            state: *state,
            source_digest: row.source_digest.as_ref().map(crate::content::Digest::as_str),
            target_digest: row.digest.as_ref().map(crate::content::Digest::as_str),
            pulls: cost.map(|cost| cost.pulls),
            pulls_at_most: cost.map(|cost| cost.at_most),
            pulls_exact: cost.map(|cost| cost.exact),
            bytes: blobs.as_deref().map(bytes),
            bytes_unknown: u64::from(cost.is_some() && blobs.is_none()),
            error: row.error.as_ref().map(ToString::to_string),
        })
        .collect();
    let empty = empty.iter().map(|(source, explanation)| format!("{source}: {explanation}"));
    let selections = planned.iter().filter_map(|planned| planned.selection.clone()).chain(empty).collect();
    let totals = PlanCounts { ..*counts };
    let plan = PlanJson { version: 1, target, totals, images, accounts, selections, drift };
    serde_json::to_string_pretty(&plan).map(|text| text + "\n").unwrap_or_default()
}
