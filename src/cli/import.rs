//! `larder import`: from bundles, layouts and archives into a target.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};

use super::exit::{Exit, UsageError};
use super::inputs::list_files;
use super::options::{ImageArgs, report_file};
use super::outputs::{RefusedRun, overwritten};
use super::printer::Printer;
use super::{progress, signals, state, summary};
use crate::bundle::import::{Import, ImportOptions, ImportSummary, Journal};
use crate::bundle::interchange::{GivenName, NameMapping};
use crate::bundle::read::{BundleReader, GatheredContent, StagingArea};
use crate::config::{Config, TargetConfig, profiles};
use crate::content::PlatformFilter;
use crate::report::{self, RunReport};
use crate::sync::{UpstreamOptions, Upstreams};
use crate::{Error, Operation, Result, internal};

/// Images of a damaged or missing file that are printed, so that the line stays readable. The report has all.
const IMAGES_SHOWN: usize = 5;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// What was carried: a folder of volumes, NAME.bundle.json with the volumes beside it, volumes, an OCI layout, an OCI
    /// archive, or a `docker save` archive; - is an archive on standard input. Archives may be compressed (gzip, zstd, xz,
    /// bzip2). Several, in any order, as they arrive
    #[arg(value_name = "BUNDLE", required = true)]
    pub(super) bundles: Vec<PathBuf>,
    /// Where to, instead of the configuration's target: HOST[:PORT][/PREFIX] or oci:DIR
    #[arg(long, value_name = "TARGET")]
    pub(super) to: Option<String>,
    /// Name for images that say no repository: REPOSITORY or REPOSITORY:TAG
    #[arg(long, value_name = "REF")]
    pub(super) name: Option<String>,
    /// Import these platforms of images only (linux/amd64); repeatable. Default: all that was carried
    #[arg(long = "platform", value_name = "P")]
    pub(super) platforms: Vec<crate::content::PlatformFilter>,
    /// Write what was put where, when it was hashed and from which volume it came, with a digest over all rows. CSV if the
    /// name ends in .csv, else JSON
    #[arg(long, value_name = "FILE")]
    pub(super) evidence: Option<PathBuf>,
    /// Write a report as JSON or CSV (FILE.json, FILE.csv); repeatable
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(report_file))]
    pub(super) report: Vec<PathBuf>,
    /// Ask the target for every piece of every image
    #[arg(long)]
    pub(super) recheck: bool,
    /// Requests in flight to the target at most [default: 64, or fewer by its profile]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
    /// Bytes per second at most, to a registry (20MB/s; MB = 10^6, MiB = 2^20)
    #[arg(long, value_name = "RATE")]
    pub(super) bandwidth: Option<crate::limits::Rate>,
    /// Folder for what is kept between runs: parts of blobs, and manifests of images that wait for other volumes. Or s3://, az:// or
    /// gs://BUCKET/PREFIX, where notes on what was imported are shared. Default: `[state] url` in the configuration, else
    /// $XDG_STATE_HOME/larder, else ~/.local/state/larder; `none` keeps nothing
    #[arg(long, value_name = "DIR|URL")]
    pub(super) state: Option<PathBuf>,
}

pub(super) async fn run(file: Option<&Path>, args: ImportArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let lists = list_files(file, &ImageArgs::default());
    let on_refusal = RefusedRun::new("import", args.to.as_deref(), &args.report, None).except(&lists);
    begin(file, &args, printer).await.inspect_err(|refusal| on_refusal.write(refusal, printer))
}

async fn begin(file: Option<&Path>, args: &ImportArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let target = match &args.to {
        Some(to) => TargetConfig::parse(to).map_err(|why| UsageError::usage(Error::local(Operation::ReadTo, why)))?,
        None => config.target.clone(),
    };
    check_outputs(args, &list_files(file, &ImageArgs::default()))?;
    let concurrency = args.concurrency.map(usize::from);
    let options = UpstreamOptions { concurrency, bandwidth: args.bandwidth, ..UpstreamOptions::default() };
    let supply = Arc::new(state::supply(&config, args.state.as_deref(), options, printer).await?);
    let folder = state::local_folder(args.state.as_deref(), &config)?;
    let stage = folder.as_deref().map(StagingArea::new);
    let given = args.name.as_deref().map(GivenName::parse).transpose();
    let given = given.map_err(|why| UsageError::usage(Error::local(Operation::ReadName, why)))?;
    let input = Input { paths: args.bundles.clone(), given, platforms: args.platforms.clone(), unpack: unpack_folder(folder.as_deref()) };
    let gathered = read_bundles(input, config, &target, stage.clone()).await?;
    gathered.notes.iter().for_each(|note| printer.warn(note));
    gathered.problems.iter().for_each(|trouble| printer.error(trouble));
    let troubled = !gathered.problems.is_empty();
    if gathered.images.is_empty() && !troubled {
        return Err(UsageError::usage(Error::local(Operation::Import, "the files contain no image")));
    }
    let state = supply.state_folder().map(Path::to_owned);
    let destination = ImportTarget { supply, target, stage, state };
    let (report, imported) = import(gathered, destination, args, printer).await?;
    print_findings(&imported, printer);
    let mut exit = Exit::of(report.exit);
    let evidence = imported.evidence.iter().zip(&args.evidence).map(|(evidence, path)| evidence.write(path));
    for error in args.report.iter().map(|path| report.write(path)).chain(evidence).filter_map(Result::err) {
        printer.error(&error);
        exit = Exit::Failed;
    }
    Ok(exit)
}

/// The content named on the command line.
struct Input {
    paths: Vec<PathBuf>,
    /// `--name`.
    given: Option<GivenName>,
    platforms: Vec<PlatformFilter>,
    /// Where archives are unpacked.
    unpack: PathBuf,
}

/// Where archives are unpacked: `TMPDIR` if it is set, else the state folder, because `/tmp` may be in memory.
pub(super) fn unpack_folder(state: Option<&Path>) -> PathBuf {
    match state {
        Some(state) if std::env::var_os("TMPDIR").is_none() => state.join("import"),
        _ => std::env::temp_dir(),
    }
}

/// Reads the indexes of everything named on the command line.
async fn read_bundles(
    input: Input,
    config: Config,
    target: &TargetConfig,
    stage: Option<StagingArea>,
) -> Result<GatheredContent, UsageError> {
    let registry = target.is_registry();
    let work = move || {
        let naming = NameMapping { rules: &config.rules, registry, given: input.given };
        let names = |entry: &crate::layout::IndexEntry, stem: &str| naming.name(entry, stem);
        let mut gathering = BundleReader::new(stage.as_ref(), &names).unpacking_into(input.unpack).of_platforms(input.platforms);
        gathering.add_all(&input.paths)?;
        let gathered = gathering.finish();
        if let Some(given) = &naming.given {
            given.check().map_err(|why| Error::local(Operation::ReadName, why))?;
        }
        Ok(gathered)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|lost| UsageError::failed(internal::lost(Operation::ReadBundle, lost)))?.map_err(UsageError::usage)
}

/// The target, and the folders that outlive the import.
struct ImportTarget {
    supply: Arc<Upstreams>,
    target: TargetConfig,
    stage: Option<StagingArea>,
    /// The state folder.
    state: Option<PathBuf>,
}

/// Runs the import and prints its summary.
async fn import(
    gathered: GatheredContent,
    destination: ImportTarget,
    args: &ImportArgs,
    printer: &Printer,
) -> Result<(RunReport, ImportSummary), UsageError> {
    let ImportTarget { supply, target, stage, state } = destination;
    let troubled = !gathered.problems.is_empty();
    let at_once = args.concurrency.map_or(profiles::CONCURRENCY, usize::from);
    let options = ImportOptions { recheck: args.recheck, at_once, evidence: args.evidence.is_some(), platforms: args.platforms.clone() };
    let (started, clock) = (jiff::Timestamp::now(), std::time::Instant::now());
    let reporter = progress::reporter(printer);
    let mut import = Import::new(gathered, target.clone(), stage, options, reporter, signals::listen(printer));
    // Check the free space before creating a layout.
    let store = supply.target(&target, false).await.map_err(UsageError::failed)?;
    let problems = import.preflight(&store.ends).await;
    if !problems.is_empty() {
        printer.end_bars();
        return Err(UsageError { errors: problems, exit: Exit::Failed });
    }
    let store = if target.is_registry() { store } else { supply.target(&target, true).await.map_err(UsageError::failed)? };
    let journal = state.map(|state| Journal::open(&state, target.to_string())).and_then(|journal| {
        journal.map_err(|error| printer.warn(&format!("{error}; the evidence of a later import will not include this one"))).ok()
    });
    let mut imported = import.run(store.ends.clone(), journal).await;
    supply.share_state().await;
    printer.end_bars();
    let report = RunReport {
        version: 1,
        command: "import".to_owned(),
        started: started.to_string(),
        finished: jiff::Timestamp::now().to_string(),
        exit: if troubled || imported.damaged.iter().any(|file| !file.mended) { Exit::Failed as u8 } else { imported.totals.exit() },
        target: target.to_string(),
        totals: imported.totals,
        images: std::mem::take(&mut imported.rows),
        registries: supply.rows(),
    };
    summary::import(&report, clock.elapsed().as_secs_f64(), printer);
    Ok((report, imported))
}

/// Prints damaged files with their remedy, and the volumes that images wait for.
fn print_findings(imported: &ImportSummary, printer: &Printer) {
    for file in &imported.damaged {
        let digests: Vec<&str> = file.content.iter().map(|(digest, _)| digest.as_str()).collect();
        let text = format!("{} is damaged: {}", file.what, digests.join(", "));
        if file.mended {
            printer.warn(&format!("{text}; another copy was used"));
            continue;
        }
        let remedy = file.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        let facts = serde_json::json!({"damaged": file.what, "digests": digests, "images": file.images, "remedy": file.remedy});
        let images = if file.images.is_empty() { String::new() } else { format!("; not imported: {}", first_few(&file.images)) };
        printer.fail(&format!("{text}{images}{remedy}"), &facts);
    }
    for waiting in &imported.waiting {
        let facts = serde_json::json!({"waiting_for": waiting.what, "images": waiting.images});
        printer.say_with(&format!("waiting for {}: {}", waiting.what, first_few(&waiting.images)), &facts);
    }
}

fn first_few(images: &[String]) -> String {
    let mut named: Vec<String> = images.iter().take(IMAGES_SHOWN).cloned().collect();
    if images.len() > IMAGES_SHOWN {
        named.push(format!("and {} more", images.len() - IMAGES_SHOWN));
    }
    crate::error::printable(&named.join(", "))
}

/// Refuses an import whose outputs cannot be written, before it starts.
fn check_outputs(args: &ImportArgs, lists: &[String]) -> Result<(), UsageError> {
    let refused = |path: &PathBuf| {
        let why = report::file::check(path).err()?;
        Some(Error::local(Operation::WriteReport, format!("{}: {why}", path.display())))
    };
    let written: Vec<&PathBuf> = args.report.iter().chain(&args.evidence).collect();
    let mut errors: Vec<Error> = written.iter().copied().filter_map(refused).collect();
    errors.extend(overwritten(&written, lists));
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}
