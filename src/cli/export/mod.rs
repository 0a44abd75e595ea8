//! `larder export`: copies images into a cache layout, then packs them into volumes.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod repair;

use std::path::{Path, PathBuf};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, UsageError};
use super::inputs::{Inputs, list_files, lock_entries};
use super::outputs::RefusedRun;
use super::printer::Printer;
use super::progress::byte_counter;
use super::sync::{self, SyncArgs};
use super::text::{count, size};
use super::{lock_file, plan, signals, state};
use crate::bundle::preflight::ExportRoom;
use crate::bundle::{self, BundlePlan, CombinedBase, DeliveredImage, PackOptions, PackSummary, format};
use crate::config::{Config, TargetConfig};
use crate::internal::blocking;
use crate::layout::Layout;
use crate::report::{ImageOutcome, RunReport, Status};
use crate::{Error, Kind, Operation, Result};

#[derive(Debug, Args)]
#[command(mut_arg("to", |to| to.value_name("DIR").required(true).help("Folder for the bundle")))]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) sync: SyncArgs,
    /// Largest size of a volume (4GB; GB = 10^9, GiB = 2^30). Default: one volume
    #[arg(long, value_name = "SIZE", value_parser = volume_size)]
    pub(super) volume_size: Option<u64>,
    /// Leave out what the far side has, or will have: a file of larder inventory, or the .bundle.json of an earlier bundle;
    /// repeatable
    #[arg(long, value_name = "INVENTORY|BUNDLE")]
    pub(super) base: Vec<PathBuf>,
    /// Layout that images are copied into and packed from. Default: `cache` in the state folder
    #[arg(long, value_name = "DIR")]
    pub(super) cache: Option<PathBuf>,
    /// Name of the bundle's files. Default: bundle- and the first 12 digits of its digest
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Only show the plan: what would be copied into the cache, its pulls and, where known, its bytes. Nothing is written
    #[arg(long, conflicts_with = "repair")]
    pub(super) dry_run: bool,
    /// Write one volume of this bundle again, with the same bytes, instead of a new bundle
    #[arg(
        long,
        value_name = "NAME.bundle.json",
        requires = "volume",
        conflicts_with_all = ["volume_size", "base", "name", "lists", "image", "platforms", "lock"]
    )]
    pub(super) repair: Option<PathBuf>,
    /// Number of the volume to repair
    #[arg(long, value_name = "N", requires = "repair")]
    pub(super) volume: Option<u32>,
}

/// The size of a volume with one small blob: tar headers, index, bundle record, the blob and the end of the archive.
const SMALLEST_VOLUME: u64 = 4096;

fn volume_size(text: &str) -> std::result::Result<u64, String> {
    if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!("`{text}` has no unit: write {text}GB, or {text}GiB"));
    }
    match text.parse::<bytesize::ByteSize>() {
        Ok(bytesize::ByteSize(bytes)) if bytes >= SMALLEST_VOLUME => Ok(bytes),
        Ok(_) => Err(format!("a volume of {text} has no room for content: headers and index take more (at least {SMALLEST_VOLUME} bytes)")),
        Err(_) => Err("write it like 4GB or 4GiB".to_owned()),
    }
}

pub(super) async fn run(file: Option<&Path>, args: ExportArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let sync = &args.sync;
    let on_refusal = RefusedRun::new("export", sync.selection.to.as_deref(), &sync.report, sync.metrics.as_deref())
        .except(&list_files(file, &args.sync.selection));
    begin(file, args, printer).await.inspect_err(|refusal| on_refusal.write(refusal, printer))
}

async fn begin(file: Option<&Path>, mut args: ExportArgs, printer: &Printer) -> Result<Exit, UsageError> {
    // clap requires it.
    let to = PathBuf::from(args.sync.selection.to.take().unwrap_or_default());
    let cache = cache(&args, &Config::load(file)?)?;
    if let (Some(record), Some(number)) = (&args.repair, args.volume) {
        return repair::run(file, &args.sync, (record, number), &cache, &to, printer).await;
    }
    if args.dry_run {
        args.sync.selection.to = Some(format!("oci:{}", cache.display()));
        return plan::run(file, args.sync.into_plan(), printer).await;
    }
    let bases = prepare(&args, &to)?;
    let lock = args.sync.lock.as_deref().map(|path| lock_file::open(path, args.sync.frozen)).transpose()?;
    let mut inputs = match &lock {
        Some(lock) if args.sync.frozen => Inputs::with(file, &args.sync.selection, |_| lock_entries(lock.frozen(), &args.sync.selection))?,
        _ => Inputs::read(file, &args.sync.selection)?,
    };
    inputs.target = TargetConfig::Layout { path: cache.clone() };
    sync::check_outputs(&args.sync, &list_files(file, &args.sync.selection))?;
    // The layout stays open until the volumes are written, so that no gc removes its content.
    let layout = Layout::open_or_create(&cache).await.map_err(UsageError::failed)?;
    let bases = std::sync::Arc::new(bases);
    inputs.room = Some(std::sync::Arc::new(room(&layout, &to, args.name.as_deref(), &bases).map_err(UsageError::failed)?));
    let stop = signals::listen(printer);
    let mut report = sync::deliver("export", inputs, &args.sync, lock.as_ref(), stop.clone(), printer).await?;
    report.target = to.display().to_string();
    if stop.is_cancelled() {
        printer.say("nothing was packed; the same command goes on where this one stopped");
    } else {
        let packed = pack(layout, &mut report, &bases, &args, &to, stop, printer).await;
        report.exit = finish(packed, report.exit, printer);
        let without = report.images.iter().filter(|row| !matches!(row.status, Status::Copied | Status::Current)).count();
        if without > 0 {
            printer.say(&format!("not in the bundle: {}, of unknown size", count(without, "image")));
        }
    }
    Ok(sync::write_outputs(&args.sync, &report, printer))
}

/// The layout that images are copied into first.
fn cache(args: &ExportArgs, config: &Config) -> Result<PathBuf, UsageError> {
    let default = state::local_folder(args.sync.state.as_deref(), config)?.map(|state| state.join("cache"));
    args.cache.clone().or(default).ok_or_else(|| {
        let error = Error::local(Operation::OpenCache, "there is no state folder to keep it in");
        UsageError::usage(error.remedy("give a folder with --cache DIR"))
    })
}

/// The check of free space for the cache and the volumes. Volumes that exist already need no more space.
fn room(layout: &Layout, to: &Path, name: Option<&str>, bases: &std::sync::Arc<CombinedBase>) -> Result<ExportRoom> {
    let prefix = name.map_or("bundle-".to_owned(), |name| format!("{name}-"));
    let is_volume = |name: &str| name.starts_with(&prefix) && (name.ends_with(".tar") || name.ends_with(".tar.partial"));
    let entries = std::fs::read_dir(to).map_err(|error| Error::io(Operation::CheckSpace, to, &error))?;
    let volumes = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_volume));
    let written = volumes.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
    let bases = std::sync::Arc::clone(bases);
    ExportRoom::new(layout.clone(), to, written, move |digest| bases.holds(digest))
}

/// Reads `--name` and `--base`, and creates the folder, before the first request.
fn prepare(args: &ExportArgs, to: &Path) -> Result<CombinedBase, UsageError> {
    if let Some(name) = &args.name {
        format::check_name(name).map_err(|why| UsageError::usage(Error::local(Operation::ReadName, why)))?;
    }
    let bases = CombinedBase::read(&args.base).map_err(UsageError::usage)?;
    std::fs::create_dir_all(to).map_err(|error| UsageError::usage(Error::io(Operation::ReadTo, to, &error)))?;
    Ok(bases)
}

/// Packs the delivered images. `None` if there are none.
async fn pack(
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
    let gathered = blocking(Operation::PackVolumes, {
        let layout = layout.clone();
        move || Ok(bundle::collect(&layout, &entries, delivered))
    });
    let mut content = gathered.await?;
    for (name, error) in std::mem::take(&mut content.failed) {
        printer.error(&error);
        fail(report, &name, &error);
    }
    if content.images.is_empty() {
        printer.say("nothing was packed: no image was delivered");
        return Ok(None);
    }
    let base = bases.leave_out(&mut content.blobs);
    let plan = BundlePlan::new(content.index, content.images, base, content.blobs, args.volume_size)?;
    let (to, name) = (to.to_owned(), args.name.clone());
    let bar = byte_counter(printer, "packed");
    let packing = blocking(Operation::PackVolumes, {
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

/// The image of a row that was put into the layout.
fn delivered(row: &ImageOutcome) -> Option<DeliveredImage> {
    let held = row.held.as_ref().filter(|_| matches!(row.status, Status::Copied | Status::Current))?;
    Some(DeliveredImage {
        repository: held.repository.clone(),
        reference: held.reference.clone()?,
        // Container runtimes know `name:tag@digest` as `name:tag`.
        source: match row.source.split_once('@') {
            Some((name, _)) if name.rsplit('/').next().is_some_and(|last| last.contains(':')) => name.to_owned(),
            _ => row.source.clone(),
        },
        digest: row.digest.clone()?,
    })
}

/// Fails an image that was delivered but cannot be packed.
fn fail(report: &mut RunReport, name: &str, error: &Error) {
    for row in report.images.iter_mut().filter(|row| row.target == name) {
        *row = row.clone().failed(error.clone());
    }
    report.totals.recount(&report.images);
    report.exit = report.totals.exit();
}

/// Prints the result of packing. Returns the exit status.
fn finish(packed: Result<Option<PackSummary>>, exit: u8, printer: &Printer) -> u8 {
    match packed {
        Ok(None) => exit,
        Ok(Some(packed)) => {
            print_bundle(&packed, printer);
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

fn print_bundle(packed: &PackSummary, printer: &Printer) {
    packed.notes.iter().for_each(|note| printer.warn(note));
    let bundle = &packed.bundle;
    let bytes: u64 = bundle.volumes.iter().map(|volume| volume.size).sum();
    let kept = if packed.kept == 0 { String::new() } else { format!(", {} of them present already", packed.kept) };
    printer.say(&format!(
        "bundle {}: {} in {}, {}{kept}",
        bundle.name,
        count(bundle.images.len(), "image"),
        count(bundle.volumes.len(), "volume"),
        size(bytes)
    ));
    if !bundle.base.content.is_empty() {
        let saved: u64 = bundle.base.content.iter().map(|relied| relied.size).sum();
        printer.say(&format!("left out, because the base has it: {}, {}", count(bundle.base.content.len(), "blob"), size(saved)));
    }
    printer.data(&format!("{}\n", packed.path.display()));
}
