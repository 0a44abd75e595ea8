//! `larder export --repair NAME.bundle.json --volume 7`: writes one volume again, with the same bytes.

use std::path::Path;

use crate::bundle::format::{Bundle, BundleImage, VolumeMember};
use crate::bundle::{self, PackOptions};
use crate::cli::exit::{Exit, UsageError};
use crate::cli::inputs::{Inputs, list_files};
use crate::cli::printer::Printer;
use crate::cli::progress::byte_counter;
use crate::cli::signals;
use crate::cli::sync::{self, SyncArgs};
use crate::cli::text::count;
use crate::config::TargetConfig;
use crate::content::{IndexMode, PlatformFilter, Policy, SPARSE};
use crate::internal::blocking;
use crate::layout::Layout;
use crate::list::{self, ParsedList};
use crate::name::ImageName;
use crate::{Error, Kind, Operation};

/// Writes volume `number` of the bundle with the record file `record` into `to`. Content that the cache has lost is downloaded again,
/// by digest, from the images' sources in the record.
pub(super) async fn run(
    file: Option<&Path>,
    args: &SyncArgs,
    (record, number): (&Path, u32),
    cache: &Path,
    to: &Path,
    printer: &Printer,
) -> Result<Exit, UsageError> {
    let bytes = crate::input::read(record, crate::bundle::format::MAX_RECORD)
        .map_err(|error| UsageError::usage(Error::io(Operation::ReadBundle, record, &error)))?;
    let bundle = Bundle::parse(&bytes).map_err(|error| UsageError::usage(error.subject(record.display().to_string())))?;
    sync::check_outputs(args, &list_files(file, &args.selection))?;
    let layout = Layout::open_or_create(cache).await.map_err(UsageError::failed)?;
    let stop = signals::listen(printer);
    let incomplete = incomplete_images(&layout, &bundle, number);
    let mut exit = Exit::Done;
    if !incomplete.is_empty() {
        printer.say(&format!("the cache lacks content of {}: downloading it again by digest", count(incomplete.len(), "image")));
        let list = list_of(&bundle, &incomplete, record).map_err(UsageError::failed)?;
        let mut inputs = Inputs::with(file, &args.selection, |_| Ok(vec![list]))?;
        inputs.target = TargetConfig::Layout { path: cache.to_owned() };
        let report = sync::deliver("export", inputs, args, None, stop.clone(), printer).await?;
        exit = sync::write_outputs(args, &report, printer);
    }
    let bar = byte_counter(printer, "packed");
    let packed = blocking(Operation::PackVolumes, {
        let (bar, to) = (bar.clone(), to.to_owned());
        move || {
            let progress = |bytes| bar.iter().for_each(|bar| bar.inc(bytes));
            let packing = PackOptions { layout: &layout, to: &to, progress: &progress, stop: &|| stop.is_cancelled() };
            bundle::repair(&packing, &bundle, number)
        }
    })
    .await;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    match packed {
        // The volume is complete, even if an image that needs no content of it failed.
        Ok(repaired) => {
            repaired.notes.iter().for_each(|note| printer.warn(note));
            printer.data(&format!("{}\n", repaired.path.display()));
            Ok(Exit::Done)
        }
        Err(error) if error.kind() == Kind::Cancelled => Ok(Exit::Unfinished),
        Err(error) if error.kind() == Kind::ContentMissing && exit == Exit::Unfinished => {
            printer.say(&format!("unfinished: {}", error.message()));
            Ok(Exit::Unfinished)
        }
        Err(error) => Err(UsageError::failed(error)),
    }
}

/// The images with content in the volume that are incomplete in the cache.
fn incomplete_images<'a>(layout: &Layout, bundle: &'a Bundle, number: u32) -> Vec<&'a BundleImage> {
    let members = bundle.volumes.iter().filter(|volume| volume.number == number).flat_map(|volume| &volume.members);
    let is_missing = |member: &VolumeMember| !layout.blob_len(&member.digest).is_ok_and(|len| len == Some(member.whole_size()));
    let repositories: Vec<&str> =
        members.filter(|member| is_missing(member)).flat_map(|member| member.repositories.iter().map(String::as_str)).collect();
    let is_incomplete = |image: &BundleImage| {
        let entry = bundle.index.manifests.iter().find(|entry| entry.digest == image.digest);
        entry.is_none_or(|entry| layout.reach(entry).is_err())
    };
    bundle.images.iter().filter(|image| repositories.contains(&repository(image)) && is_incomplete(image)).collect()
}

fn repository(image: &BundleImage) -> &str {
    let name = image.name.split('@').next().unwrap_or_default();
    match image.name.contains('@') {
        true => name,
        false => name.rsplit_once(':').map_or(name, |(repository, _)| repository),
    }
}

/// A list of these images by digest, so that no tag in the cache moves, with the platforms that the bundle has of them.
fn list_of(bundle: &Bundle, images: &[&BundleImage], record: &Path) -> Result<ParsedList, Error> {
    let mut lines = "image,target\n".to_owned();
    for image in images {
        let source = ImageName::parse(&image.source).map_err(|why| Error::local(Operation::RepairVolume, why).subject(&image.name))?;
        lines += &format!("{}@{},{}\n", source.repository, image.digest, repository(image));
    }
    let mut list = list::parse_bytes(&record.display().to_string(), lines.as_bytes())?;
    for (entry, image) in list.entries.iter_mut().zip(images) {
        let sparse =
            bundle.index.manifests.iter().find(|entry| entry.digest == image.digest).and_then(|entry| entry.annotations.get(SPARSE));
        let platforms = sparse.map(|text| PlatformFilter::split(text)).unwrap_or_default();
        let index = if platforms.is_empty() { IndexMode::Rewrite } else { IndexMode::Sparse };
        entry.decided = Some(Policy { platforms, index, ..Policy::default() });
    }
    Ok(list)
}
