//! `larder export --repair NAME.bundle.json --volume 7`: one volume again, the same bytes.

use std::path::Path;

use super::args::ExportArgs;
use super::export::blocking;
use super::inputs::Inputs;
use super::printer::Printer;
use super::progress::counting;
use super::{Exit, UsageError, signals, sync};
use crate::bundle::format::{Bundle, BundleImage, VolumeMember};
use crate::bundle::{self, PackOptions};
use crate::config::TargetConfig;
use crate::content::{IndexMode, PlatformFilter, Policy, SPARSE};
use crate::layout::Layout;
use crate::list::{self, ParsedList};
use crate::name::ImageName;
use crate::{Error, Kind};

/// Writes volume `number` of the bundle whose record is `record` into `to`. What the cache has lost is fetched again, by digest, from where
/// the record says that the images came from.
pub(super) async fn run(
    file: Option<&Path>,
    args: &ExportArgs,
    (record, number): (&Path, u32),
    cache: &Path,
    to: &Path,
    printer: &Printer,
) -> Result<Exit, UsageError> {
    let bytes = crate::input::read(record, crate::bundle::format::MAX_RECORD)
        .map_err(|error| UsageError::usage(Error::io("read bundle", record, &error)))?;
    let bundle = Bundle::parse(&bytes).map_err(|error| UsageError::usage(error.subject(record.display().to_string())))?;
    sync::check_outputs(&args.sync)?;
    let layout = Layout::open_or_create(cache).await.map_err(UsageError::failed)?;
    let stop = signals::listen(printer);
    let lost = lost(&layout, &bundle, number);
    let mut exit = Exit::Done;
    if !lost.is_empty() {
        printer.say(&format!("the cache lacks content of {} images of the bundle: it is fetched again by digest", lost.len()));
        let wanted = again(&bundle, &lost, record).map_err(UsageError::failed)?;
        let mut inputs = Inputs::with(file, &args.sync.selection, |_| Ok(vec![wanted]))?;
        inputs.target = TargetConfig::Layout { path: cache.to_owned() };
        let report = sync::deliver("export", inputs, &args.sync, None, stop.clone(), printer).await?;
        exit = sync::write_outputs(&args.sync, &report, printer);
    }
    let bar = counting(printer, "packed");
    let packed = blocking({
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
        // Another image may have failed; the volume is whole.
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

/// The images that lack something in the cache, of those that have a part in the volume.
fn lost<'a>(layout: &Layout, bundle: &'a Bundle, number: u32) -> Vec<&'a BundleImage> {
    let members = bundle.volumes.iter().filter(|volume| volume.number == number).flat_map(|volume| &volume.members);
    let gone = |member: &VolumeMember| !layout.blob_len(&member.digest).is_ok_and(|len| len == Some(member.whole_size()));
    let lacking: Vec<&str> =
        members.filter(|member| gone(member)).flat_map(|member| member.repositories.iter().map(String::as_str)).collect();
    let lacks = |image: &BundleImage| {
        let entry = bundle.index.manifests.iter().find(|entry| entry.digest == image.digest);
        entry.is_none_or(|entry| layout.reach(entry).is_err())
    };
    bundle.images.iter().filter(|image| lacking.contains(&repository(image)) && lacks(image)).collect()
}

fn repository(image: &BundleImage) -> &str {
    let name = image.name.split('@').next().unwrap_or_default();
    match image.name.contains('@') {
        true => name,
        false => name.rsplit_once(':').map_or(name, |(repository, _)| repository),
    }
}

/// A list that asks for these images by digest, so that no name in the cache moves, and as they were cut then.
fn again(bundle: &Bundle, images: &[&BundleImage], record: &Path) -> Result<ParsedList, Error> {
    let mut lines = "image,target\n".to_owned();
    for image in images {
        let source = ImageName::parse(&image.source).map_err(|why| Error::local("repair volume", why).subject(&image.name))?;
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
