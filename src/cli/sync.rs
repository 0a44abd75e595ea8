//! `larder sync`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::args::SyncArgs;
use super::inputs::{Inputs, lock_entries};
use super::locked::{self, LockFile};
use super::outputs::{Asked, overwritten};
use super::printer::Printer;
use super::{Exit, UsageError, progress, signals, state, summary, until};
use crate::report::{self, RunReport};
use crate::sync::{Sync, SyncOptions, UpstreamOptions};
use crate::{Error, Result};

pub(super) async fn run(file: Option<&Path>, args: SyncArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let asked = Asked::new("sync", args.selection.to.as_deref(), &args.report, args.metrics.as_deref()).except(&args.selection.lists);
    begin(file, &args, printer).await.inspect_err(|refusal| asked.refused(refusal, printer))
}

async fn begin(file: Option<&Path>, args: &SyncArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let lock = args.lock.as_deref().map(|path| locked::open(path, args.frozen)).transpose()?;
    let inputs = match &lock {
        Some(lock) if args.frozen => Inputs::with(file, &args.selection, |_| lock_entries(lock.frozen(), &args.selection))?,
        _ => Inputs::read(file, &args.selection)?,
    };
    check_outputs(args)?;
    let report = sync(inputs, args, lock.as_ref(), printer).await?;
    Ok(write_outputs(args, &report, printer))
}

/// Writes what was asked to be written about a run; the exit status, which a file that cannot be written makes 1.
pub(super) fn write_outputs(args: &SyncArgs, report: &RunReport, printer: &Printer) -> Exit {
    let mut exit = Exit::of(report.exit);
    let written = args.report.iter().map(|path| report.write(path)).chain(args.failed.iter().map(|path| write_failed(path, report)));
    for error in written.chain(args.metrics.iter().map(|path| report.write_metrics(path))).filter_map(Result::err) {
        printer.error(&error);
        exit = Exit::Failed;
    }
    exit
}

/// The run itself, from inputs to its report.
pub(super) async fn sync(inputs: Inputs, args: &SyncArgs, lock: Option<&LockFile>, printer: &Printer) -> Result<RunReport, UsageError> {
    deliver("sync", inputs, args, lock, signals::listen(printer), printer).await
}

/// As [`sync()`], for another command and until `stop`.
pub(super) async fn deliver(
    command: &str,
    inputs: Inputs,
    args: &SyncArgs,
    lock: Option<&LockFile>,
    stop: CancellationToken,
    printer: &Printer,
) -> Result<RunReport, UsageError> {
    let concurrency = args.selection.concurrency.map(usize::from);
    let until = until::limits(args)?;
    let options = UpstreamOptions { concurrency, bandwidth: args.bandwidth, state: args.state.as_deref(), ..UpstreamOptions::default() };
    let supply = Arc::new(state::supply(&inputs.config, options, printer)?);
    let target = supply.target(&inputs.target, true).await.map_err(UsageError::failed)?;
    let options = SyncOptions {
        unmatched: inputs.unmatched,
        platforms: args.selection.platforms.clone(),
        recheck: args.recheck,
        warm: args.selection.to.is_none(),
        verify_warm: args.verify_warm,
        concurrency,
        wait_until: until.wait,
        start_until: until.start,
        dates: lock.map(LockFile::dates).unwrap_or_default(),
        room: inputs.room.clone(),
    };
    let (started, clock) = (jiff::Timestamp::now(), std::time::Instant::now());
    let reporter = progress::reporter(printer);
    let watching = progress::watch(&supply, &reporter);
    let ends = target.ends.clone();
    let (mut images, mut totals) =
        Sync::new(Arc::clone(&supply), target, options).run(inputs.lists, &inputs.config.rules, reporter, stop).await;
    watching.abort();
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
    // Where it cannot be written what is spent, going on later does not help.
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

/// A report that cannot be written is better known before the run than after it.
pub(super) fn check_outputs(args: &SyncArgs) -> Result<(), UsageError> {
    let refused = |path: &std::path::PathBuf| {
        let why = report::file::check(path).err()?;
        Some(Error::local("write report", format!("{}: {why}", path.display())))
    };
    let written: Vec<&PathBuf> =
        args.report.iter().chain(&args.failed).chain(&args.metrics).chain(args.lock.iter().filter(|_| !args.frozen)).collect();
    let mut errors: Vec<Error> = written.iter().copied().filter_map(refused).collect();
    errors.extend(overwritten(&written, &args.selection.lists));
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}

fn write_failed(path: &Path, report: &RunReport) -> Result<()> {
    let bytes =
        report::failed_list(&report.images).map_err(|error| Error::local("write failed list", format!("{}: {error}", path.display())))?;
    report::file::replace(path, &bytes).map_err(|error| Error::io("write failed list", path, &error))
}
