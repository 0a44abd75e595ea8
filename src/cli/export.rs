//! `larder export`.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::args::ExportArgs;
use super::inputs::{Inputs, lock_entries};
use super::outputs::Asked;
use super::printer::Printer;
use super::progress::{counting, size};
use super::{Exit, UsageError, locked, repair, signals, state, sync};
use crate::bundle::preflight::ExportRoom;
use crate::bundle::{self, BundlePlan, CombinedBase, DeliveredImage, PackOptions, PackSummary, format};
use crate::config::TargetConfig;
use crate::layout::Layout;
use crate::report::{ImageOutcome, RunReport, Status};
use crate::{Error, Kind, Result, internal};

pub(super) async fn run(file: Option<&Path>, args: ExportArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let sync = &args.sync;
    let asked =
        Asked::new("export", sync.selection.to.as_deref(), &sync.report, sync.metrics.as_deref()).except(&args.sync.selection.lists);
    begin(file, args, printer).await.inspect_err(|refusal| asked.refused(refusal, printer))
}

async fn begin(file: Option<&Path>, mut args: ExportArgs, printer: &Printer) -> Result<Exit, UsageError> {
    // Required: without it the arguments were refused.
    let to = PathBuf::from(args.sync.selection.to.take().unwrap_or_default());
    let cache = cache(&args)?;
    if let (Some(record), Some(number)) = (&args.repair, args.volume) {
        return repair::run(file, &args, (record, number), &cache, &to, printer).await;
    }
    let bases = before(&args, &to)?;
    let lock = args.sync.lock.as_deref().map(|path| locked::open(path, args.sync.frozen)).transpose()?;
    let mut inputs = match &lock {
        Some(lock) if args.sync.frozen => Inputs::with(file, &args.sync.selection, |_| lock_entries(lock.frozen(), &args.sync.selection))?,
        _ => Inputs::read(file, &args.sync.selection)?,
    };
    inputs.target = TargetConfig::Layout { path: cache.clone() };
    sync::check_outputs(&args.sync)?;
    // Held until the volumes are written, so that nobody cleans up below them.
    let layout = Layout::open_or_create(&cache).await.map_err(UsageError::failed)?;
    let bases = std::sync::Arc::new(bases);
    inputs.room = Some(std::sync::Arc::new(room(&layout, &to, args.name.as_deref(), &bases).map_err(UsageError::failed)?));
    let stop = signals::listen(printer);
    let mut report = sync::deliver("export", inputs, &args.sync, lock.as_ref(), stop.clone(), printer).await?;
    report.target = to.display().to_string();
    if stop.is_cancelled() {
        printer.say("nothing was packed; the same command goes on where this one stopped");
    } else {
        let packed = carry(layout, &mut report, &bases, &args, &to, stop, printer).await;
        report.exit = close(packed, report.exit, printer);
        let without = report.images.iter().filter(|row| !matches!(row.status, Status::Copied | Status::Current)).count();
        if without > 0 {
            printer.say(&format!("not in the bundle: {without} image{}, of unknown size", if without == 1 { "" } else { "s" }));
        }
    }
    Ok(sync::write_outputs(&args.sync, &report, printer))
}

/// Where images are copied to first.
fn cache(args: &ExportArgs) -> Result<PathBuf, UsageError> {
    let default = state::folder(args.sync.state.as_deref()).map(|state| state.join("cache"));
    args.cache.clone().or(default).ok_or_else(|| {
        let error = Error::local("open cache", "there is no state folder to keep it in");
        UsageError::usage(error.remedy("give a folder with --cache DIR"))
    })
}

/// The room for the cache and the volumes; what is there of the volumes needs none.
fn room(layout: &Layout, to: &Path, name: Option<&str>, bases: &std::sync::Arc<CombinedBase>) -> Result<ExportRoom> {
    let prefix = name.map_or("bundle-".to_owned(), |name| format!("{name}-"));
    let is_volume = |name: &str| name.starts_with(&prefix) && (name.ends_with(".tar") || name.ends_with(".tar.partial"));
    let entries = std::fs::read_dir(to).map_err(|error| Error::io("check space", to, &error))?;
    let volumes = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_volume));
    let written = volumes.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
    let bases = std::sync::Arc::clone(bases);
    ExportRoom::new(layout.clone(), to, written, move |digest| bases.holds(digest))
}

/// What is better known before the first request than after the last one.
fn before(args: &ExportArgs, to: &Path) -> Result<CombinedBase, UsageError> {
    if let Some(name) = &args.name {
        format::check_name(name).map_err(|why| UsageError::usage(Error::local("read --name", why)))?;
    }
    let bases = CombinedBase::read(&args.base).map_err(UsageError::usage)?;
    std::fs::create_dir_all(to).map_err(|error| UsageError::usage(Error::io("read --to", to, &error)))?;
    Ok(bases)
}

/// Packs what the run has delivered; nothing if that is nothing.
async fn carry(
    layout: Layout,
    report: &mut RunReport,
    bases: &CombinedBase,
    args: &ExportArgs,
    to: &Path,
    stop: CancellationToken,
    printer: &Printer,
) -> Result<Option<PackSummary>> {
    let entries = layout.names().await?;
    let delivered = report.images.iter().filter_map(delivered).collect();
    let gathered = blocking({
        let layout = layout.clone();
        move || Ok(bundle::gather(&layout, &entries, delivered))
    });
    let mut cargo = gathered.await?;
    for (name, error) in std::mem::take(&mut cargo.failed) {
        printer.error(&error);
        fail(report, &name, &error);
    }
    if cargo.images.is_empty() {
        printer.say("nothing was packed: no image was delivered");
        return Ok(None);
    }
    let base = bases.leave_out(&mut cargo.pieces);
    let plan = BundlePlan::new(cargo.index, cargo.images, base, cargo.pieces, args.volume_size)?;
    let (to, name) = (to.to_owned(), args.name.clone());
    let bar = counting(printer, "packed");
    let packing = blocking({
        let bar = bar.clone();
        move || {
            let progress = |bytes| bar.iter().for_each(|bar| bar.inc(bytes));
            let packing = PackOptions { layout: &layout, to: &to, progress: &progress, stop: &|| stop.is_cancelled() };
            bundle::pack(&packing, &plan, name.as_deref())
        }
    });
    let packed = packing.await;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    packed.map(Some)
}

/// What a row says was put into the layout.
fn delivered(row: &ImageOutcome) -> Option<DeliveredImage> {
    let held = row.held.as_ref().filter(|_| matches!(row.status, Status::Copied | Status::Current))?;
    Some(DeliveredImage {
        repository: held.repository.clone(),
        reference: held.reference.clone()?,
        // `name:tag@digest` is `name:tag` to container runtimes.
        source: match row.source.split_once('@') {
            Some((name, _)) if name.rsplit('/').next().is_some_and(|last| last.contains(':')) => name.to_owned(),
            _ => row.source.clone(),
        },
        digest: row.digest.clone()?,
    })
}

/// An image that was delivered, and cannot be packed after all.
fn fail(report: &mut RunReport, name: &str, error: &Error) {
    for row in report.images.iter_mut().filter(|row| row.target == name) {
        *row = row.clone().failed(error.clone());
    }
    report.totals.recount(&report.images);
    report.exit = report.totals.exit();
}

/// Says what was packed; the exit status of it all.
fn close(packed: Result<Option<PackSummary>>, exit: u8, printer: &Printer) -> u8 {
    match packed {
        Ok(None) => exit,
        Ok(Some(packed)) => {
            tell(&packed, printer);
            exit
        }
        Err(error) if error.kind() == Kind::Cancelled => {
            printer.say("unfinished: interrupted while packing; the same command goes on where this one stopped");
            if exit == 0 { Exit::Unfinished as u8 } else { exit }
        }
        Err(error) => {
            printer.error(&error);
            Exit::Failed as u8
        }
    }
}

fn tell(packed: &PackSummary, printer: &Printer) {
    packed.notes.iter().for_each(|note| printer.warn(note));
    let bundle = &packed.bundle;
    let bytes: u64 = bundle.volumes.iter().map(|volume| volume.size).sum();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let kept = if packed.kept == 0 { String::new() } else { format!(", {} of them there already", packed.kept) };
    printer.say(&format!(
        "bundle {}: {} in {}, {}{kept}",
        bundle.name,
        plural(bundle.images.len(), "image"),
        plural(bundle.volumes.len(), "volume"),
        size(bytes)
    ));
    if !bundle.base.content.is_empty() {
        let saved: u64 = bundle.base.content.iter().map(|relied| relied.size).sum();
        printer.say(&format!("left out, because the base has them: {}, {}", plural(bundle.base.content.len(), "blob"), size(saved)));
    }
    printer.data(&format!("{}\n", packed.path.display()));
}

/// File work, off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|lost| Err(internal::lost("pack volumes", lost)))
}
