//! `larder sync`, and the run that `export` and `demo` share with it.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use tokio_util::sync::CancellationToken;

use super::deadlines::Deadlines;
use super::exit::{Exit, UsageError};
use super::inputs::{Inputs, list_files, lock_entries};
use super::lock_file::{self, LockFile};
use super::options::{ImageArgs, OutputFormat, report_file};
use super::outputs::{RefusedRun, overwritten};
use super::plan::PlanArgs;
use super::printer::Printer;
use super::{progress, signals, state, summary};
use crate::report::{self, RunReport};
use crate::sync::{Sync, SyncOptions, UpstreamOptions};
use crate::{Error, Operation, Result};

#[derive(Debug, Args)]
pub(super) struct SyncCommand {
    #[command(flatten)]
    pub(super) args: SyncArgs,
    /// Only show what would be done and what it would cost, as `larder plan` does. Writes no report, lock or metrics
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Default, Args)]
pub(super) struct SyncArgs {
    #[command(flatten)]
    pub(super) selection: ImageArgs,
    /// Write a report as JSON or CSV (FILE.json, FILE.csv); repeatable
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(report_file))]
    pub(super) report: Vec<PathBuf>,
    /// Write what was not delivered as a CSV list, which can be used as input
    #[arg(long, value_name = "FILE")]
    pub(super) failed: Option<PathBuf>,
    /// Write metrics for node_exporter's textfile collector
    #[arg(long, value_name = "FILE.prom")]
    pub(super) metrics: Option<PathBuf>,
    /// Keep a lock: the digest of each delivered image, with platforms, children, referrers and sizes. Delivered images get new
    /// records, failed ones keep the old, images no longer listed are removed
    #[arg(long, value_name = "FILE")]
    pub(super) lock: Option<PathBuf>,
    /// Deliver exactly what the lock says, by digest, whatever tags mean now. The lock is not written, lists are not read
    #[arg(long, requires = "lock")]
    pub(super) frozen: bool,
    /// Ask warmed caches again until they answer without their upstream, for at most 10 minutes an image
    #[arg(long)]
    pub(super) verify_warm: bool,
    /// Ask the target for every piece of every image, and deliver what it has lost
    #[arg(long)]
    pub(super) recheck: bool,
    /// Where to keep what runs share: a folder, or s3://, az:// or gs://BUCKET/PREFIX. Default: `[state] url` in the configuration, else
    /// $XDG_STATE_HOME/larder, else ~/.local/state/larder; `none` keeps nothing
    #[arg(long, value_name = "DIR|URL")]
    pub(super) state: Option<PathBuf>,
    /// Wait for pull windows until this time, and start no image after it: a local time (06:00, its next occurrence) or RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "max_wait")]
    pub(super) until: Option<String>,
    /// Wait for pull windows, at most this long in total (2h, 90m). Default: do not wait, finish everything else
    #[arg(long, value_name = "DURATION")]
    pub(super) max_wait: Option<String>,
    /// Bytes per second at most, read and written, over all registries (20MB/s; MB = 10^6, MiB = 2^20)
    #[arg(long, value_name = "RATE")]
    pub(super) bandwidth: Option<crate::limits::Rate>,
}

impl SyncArgs {
    /// The arguments of the plan that `--dry-run` shows. A lock that exists is compared with.
    pub(super) fn into_plan(self) -> PlanArgs {
        let lock = self.lock.filter(|lock| self.frozen || lock.exists());
        PlanArgs { selection: self.selection, format: OutputFormat::Table, lock, explain: false, state: self.state }
    }
}

pub(super) async fn run(file: Option<&Path>, args: SyncArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let on_refusal = RefusedRun::new("sync", args.selection.to.as_deref(), &args.report, args.metrics.as_deref())
        .except(&list_files(file, &args.selection));
    begin(file, &args, printer).await.inspect_err(|refusal| on_refusal.write(refusal, printer))
}

async fn begin(file: Option<&Path>, args: &SyncArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let lock = args.lock.as_deref().map(|path| lock_file::open(path, args.frozen)).transpose()?;
    let inputs = match &lock {
        Some(lock) if args.frozen => Inputs::with(file, &args.selection, |_| lock_entries(lock.frozen(), &args.selection))?,
        _ => Inputs::read(file, &args.selection)?,
    };
    check_outputs(args, &list_files(file, &args.selection))?;
    let report = sync(inputs, args, lock.as_ref(), printer).await?;
    Ok(write_outputs(args, &report, printer))
}

/// Writes report, list of failures and metrics. Returns the run's exit status, or 1 if a file cannot be written.
pub(super) fn write_outputs(args: &SyncArgs, report: &RunReport, printer: &Printer) -> Exit {
    let mut exit = Exit::of(report.exit);
    let written = args
        .report
        .iter()
        .map(|path| report.write(path))
        .chain(args.failed.iter().map(|path| report::write_failed_list(&report.images, path)));
    for error in written.chain(args.metrics.iter().map(|path| report.write_metrics(path))).filter_map(Result::err) {
        printer.error(&error);
        exit = Exit::Failed;
    }
    exit
}

/// Runs until the work is done or interrupted.
pub(super) async fn sync(inputs: Inputs, args: &SyncArgs, lock: Option<&LockFile>, printer: &Printer) -> Result<RunReport, UsageError> {
    deliver("sync", inputs, args, lock, signals::listen(printer), printer).await
}

/// As [`sync()`], under the name of another command, until done or `stop` is cancelled.
pub(super) async fn deliver(
    command: &str,
    inputs: Inputs,
    args: &SyncArgs,
    lock: Option<&LockFile>,
    stop: CancellationToken,
    printer: &Printer,
) -> Result<RunReport, UsageError> {
    let concurrency = args.selection.concurrency.map(usize::from);
    let deadlines = Deadlines::parse(args.until.as_deref(), args.max_wait.as_deref())?;
    let options = UpstreamOptions { concurrency, bandwidth: args.bandwidth, ..UpstreamOptions::default() };
    let supply = Arc::new(state::supply(&inputs.config, args.state.as_deref(), options, printer).await?);
    let target = supply.target(&inputs.target, true).await.map_err(UsageError::failed)?;
    let options = SyncOptions {
        unmatched: inputs.unmatched,
        platforms: args.selection.platforms.clone(),
        recheck: args.recheck,
        warm: args.selection.to.is_none(),
        verify_warm: args.verify_warm,
        concurrency,
        wait_until: deadlines.wait,
        start_until: deadlines.start,
        dates: lock.map(LockFile::dates).unwrap_or_default(),
        room: inputs.room.clone(),
    };
    let (started, clock) = (jiff::Timestamp::now(), std::time::Instant::now());
    let reporter = progress::reporter(printer);
    let budgets = progress::report_budgets(&supply, &reporter);
    let ends = target.ends.clone();
    let (mut images, mut totals) =
        Sync::new(Arc::clone(&supply), target, options).run(inputs.lists, &inputs.config.rules, reporter, stop).await;
    budgets.abort();
    printer.end_bars();
    let unwritten = match lock {
        Some(lock) if args.frozen => {
            lock.check(&mut images, &inputs.target);
            totals.recount(&images);
            None
        }
        Some(lock) => lock.update(&images, &ends.source, &inputs.target, &supply).await.err(),
        None => None,
    };
    // Pulls that cannot be recorded are not spent, so running again does not help: the run has failed.
    let blocked = totals.deferred > 0 && supply.pulls_blocked();
    let report = RunReport {
        version: 1,
        command: command.to_owned(),
        started: started.to_string(),
        finished: jiff::Timestamp::now().to_string(),
        exit: if unwritten.is_some() || blocked { Exit::Failed as u8 } else { totals.exit() },
        target: inputs.target.to_string(),
        totals,
        images,
        registries: supply.rows(),
    };
    summary::print(&report, clock.elapsed().as_secs_f64(), printer);
    unwritten.iter().for_each(|error| printer.error(error));
    Ok(report)
}

/// Refuses a run whose outputs cannot be written or would overwrite one of `lists`, before it starts.
pub(super) fn check_outputs(args: &SyncArgs, lists: &[String]) -> Result<(), UsageError> {
    let refused = |path: &std::path::PathBuf| {
        let why = report::file::check(path).err()?;
        Some(Error::local(Operation::WriteReport, format!("{}: {why}", path.display())))
    };
    let written: Vec<&PathBuf> =
        args.report.iter().chain(&args.failed).chain(&args.metrics).chain(args.lock.iter().filter(|_| !args.frozen)).collect();
    let mut errors: Vec<Error> = written.iter().copied().filter_map(refused).collect();
    errors.extend(overwritten(&written, lists));
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}
