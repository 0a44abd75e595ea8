//! `larder import`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::ImportArgs;
use super::outputs::Asked;
use super::printer::Printer;
use super::{Exit, UsageError, progress, signals, state, summary};
use crate::bundle::import::{Import, ImportOptions, ImportSummary, Journal};
use crate::bundle::interchange::{Given, NameMapping};
use crate::bundle::read::{BundleReader, GatheredContent, StagingArea};
use crate::config::{Config, TARGET_CONCURRENCY, TargetConfig};
use crate::content::PlatformFilter;
use crate::report::{self, RunReport};
use crate::sync::{UpstreamOptions, Upstreams};
use crate::{Error, Result, internal};

/// Images of a damaged or missing file that are named; the report has all.
const IMAGES: usize = 5;

pub(super) async fn run(file: Option<&Path>, args: ImportArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let asked = Asked::new("import", args.to.as_deref(), &args.report, None);
    begin(file, &args, printer).await.inspect_err(|refusal| asked.refused(refusal, printer))
}

async fn begin(file: Option<&Path>, args: &ImportArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let target = match &args.to {
        Some(to) => TargetConfig::parse(to).map_err(|why| UsageError::usage(Error::local("read --to", why)))?,
        None => config.target.clone(),
    };
    check_outputs(args)?;
    let concurrency = args.concurrency.map(usize::from);
    let options = UpstreamOptions { concurrency, bandwidth: args.bandwidth, state: args.state.as_deref(), ..UpstreamOptions::default() };
    let supply = Arc::new(state::supply(&config, options, printer)?);
    let folder = state::folder(args.state.as_deref());
    let stage = folder.as_deref().map(StagingArea::new);
    let given = args.name.as_deref().map(Given::parse).transpose();
    let given = given.map_err(|why| UsageError::usage(Error::local("read --name", why)))?;
    let carried =
        Carried { paths: args.bundles.clone(), given, platforms: args.platforms.clone(), unpack: unpack_folder(folder.as_deref()) };
    let gathered = gather(carried, config, &target, stage.clone()).await?;
    gathered.notes.iter().for_each(|note| printer.warn(note));
    gathered.troubles.iter().for_each(|trouble| printer.error(trouble));
    let troubled = !gathered.troubles.is_empty();
    if gathered.entries.is_empty() && !troubled {
        return Err(UsageError::usage(Error::local("import", "there is no image in what was named")));
    }
    let far = ImportTarget { supply, target, stage, state: folder };
    let (report, imported) = import(gathered, far, args, printer).await?;
    tell(&imported, printer);
    let mut exit = Exit::of(report.exit);
    let evidence = imported.evidence.iter().zip(&args.evidence).map(|(evidence, path)| evidence.write(path));
    for error in args.report.iter().map(|path| report.write(path)).chain(evidence).filter_map(Result::err) {
        printer.error(&error);
        exit = Exit::Failed;
    }
    Ok(exit)
}

/// What was named on the command line.
struct Carried {
    paths: Vec<PathBuf>,
    /// `--name`.
    given: Option<Given>,
    platforms: Vec<PlatformFilter>,
    /// Where archives are unpacked.
    unpack: PathBuf,
}

/// Where archives are unpacked: `TMPDIR`, where that is set; else beside the state, which is on a disk where `/tmp` may be in memory.
pub(super) fn unpack_folder(state: Option<&Path>) -> PathBuf {
    match state {
        Some(state) if std::env::var_os("TMPDIR").is_none() => state.join("import"),
        _ => std::env::temp_dir(),
    }
}

/// Reads what was named on the command line.
async fn gather(
    carried: Carried,
    config: Config,
    target: &TargetConfig,
    stage: Option<StagingArea>,
) -> Result<GatheredContent, UsageError> {
    let registry = target.is_registry();
    let work = move || {
        let naming = NameMapping { rules: &config.rules, registry, given: carried.given };
        let names = |entry: &crate::layout::IndexEntry, stem: &str| naming.name(entry, stem);
        let mut gathering = BundleReader::new(stage.as_ref(), &names).unpacking_into(carried.unpack).of_platforms(carried.platforms);
        gathering.add_all(&carried.paths)?;
        let gathered = gathering.done();
        if let Some(given) = &naming.given {
            given.check().map_err(|why| Error::local("read --name", why))?;
        }
        Ok(gathered)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|lost| UsageError::failed(internal::lost("read bundle", lost)))?.map_err(UsageError::usage)
}

/// Where it goes, and what outlives it.
struct ImportTarget {
    supply: Arc<Upstreams>,
    target: TargetConfig,
    stage: Option<StagingArea>,
    /// The state folder.
    state: Option<PathBuf>,
}

/// The import itself, from what is at hand to its report.
async fn import(
    gathered: GatheredContent,
    far: ImportTarget,
    args: &ImportArgs,
    printer: &Printer,
) -> Result<(RunReport, ImportSummary), UsageError> {
    let ImportTarget { supply, target, stage, state } = far;
    let troubled = !gathered.troubles.is_empty();
    let at_once = args.concurrency.map_or(TARGET_CONCURRENCY, usize::from);
    let options = ImportOptions { recheck: args.recheck, at_once, evidence: args.evidence.is_some(), platforms: args.platforms.clone() };
    let (started, clock) = (jiff::Timestamp::now(), std::time::Instant::now());
    let reporter = progress::reporter(printer);
    let mut import = Import::new(gathered, target.clone(), stage, options, reporter, signals::listen(printer));
    // A layout that does not exist is not made before it is known that there is room for it.
    let store = supply.target(&target, false).await.map_err(UsageError::failed)?;
    let problems = import.preflight(&store.ends).await;
    if !problems.is_empty() {
        printer.end_bars();
        return Err(UsageError { errors: problems, exit: Exit::Failed });
    }
    let store = if target.is_registry() { store } else { supply.target(&target, true).await.map_err(UsageError::failed)? };
    let journal = state.map(|state| Journal::open(&state, target.to_string())).and_then(|journal| {
        journal.map_err(|error| printer.warn(&format!("{error}; the evidence of a later import will not know of this one"))).ok()
    });
    let mut imported = import.run(store.ends.clone(), journal).await;
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

/// What is damaged and what would mend it; what is waited for.
fn tell(imported: &ImportSummary, printer: &Printer) {
    for file in &imported.damaged {
        let digests: Vec<&str> = file.content.iter().map(|(digest, _)| digest.as_str()).collect();
        let text = format!("{} is damaged: {}", file.what, digests.join(", "));
        if file.mended {
            printer.warn(&format!("{text}; it was read elsewhere"));
            continue;
        }
        let remedy = file.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        let facts = serde_json::json!({"damaged": file.what, "digests": digests, "images": file.images, "remedy": file.remedy});
        let images = if file.images.is_empty() { String::new() } else { format!("; not imported for that: {}", few(&file.images)) };
        printer.fail(&format!("{text}{images}{remedy}"), &facts);
    }
    for waiting in &imported.waiting {
        let facts = serde_json::json!({"waiting_for": waiting.what, "images": waiting.images});
        printer.tell(&format!("waiting for {}: {}", waiting.what, few(&waiting.images)), &facts);
    }
}

fn few(images: &[String]) -> String {
    let mut named: Vec<String> = images.iter().take(IMAGES).cloned().collect();
    if images.len() > IMAGES {
        named.push(format!("and {} more", images.len() - IMAGES));
    }
    crate::error::printable(&named.join(", "))
}

/// What cannot be written is better known before the import than after it.
fn check_outputs(args: &ImportArgs) -> Result<(), UsageError> {
    let refused = |path: &PathBuf| {
        let why = report::file::check(path).err()?;
        Some(Error::local("write report", format!("{}: {why}", path.display())))
    };
    let errors: Vec<Error> = args.report.iter().chain(&args.evidence).filter_map(refused).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}
