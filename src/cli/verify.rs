//! `larder verify` of a registry; what is on disk is verified in [`super::layout`].

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::args::VerifyArgs;
use super::inputs;
use super::printer::Printer;
use super::progress::{failure, size};
use super::{Exit, UsageError, layout};
use crate::Error;
use crate::bundle;
use crate::config::{Config, TargetConfig};
use crate::content::Repository;
use crate::error::printable;
use crate::list::{self, ParsedList};
use crate::lock::Lock;
use crate::report::ImageOutcome;
use crate::sync::{
    self, Depth, Expected, SyncOptions, TargetFinding, TargetStore, UpstreamOptions, Upstreams, VerifySummary, WrongContent,
};

pub(super) async fn run(file: Option<&Path>, args: VerifyArgs, printer: &Printer) -> Result<Exit, UsageError> {
    if let Some(evidence) = &args.evidence {
        let target = args.targets.first().map(String::as_str);
        return super::evidence::verify(file, evidence, target, args.concurrency.map(usize::from), printer).await;
    }
    let mut texts = args.targets.clone();
    // Several are the volumes of a bundle.
    let target = match texts.as_slice() {
        [] => {
            let target = Config::load(file)?.target;
            if let TargetConfig::Layout { path } = &target {
                texts.push(path.display().to_string());
            }
            Some(target)
        }
        [text] => named(text)?,
        _ => None,
    };
    let told = !(args.lists.is_empty() && args.image.is_empty() && args.lock.is_none());
    if told && target.is_none() {
        let error = Error::local("verify", "a bundle says itself what it holds");
        return Err(UsageError::usage(error.remedy("--list, --image and --lock are for registries and layouts")));
    }
    let on_disk = match &target {
        Some(TargetConfig::Registry { .. }) => Exit::Done,
        Some(TargetConfig::Layout { .. }) | None => layout::verify(&texts, printer).await?,
    };
    match target {
        Some(target) if told || target.is_registry() => {
            let proven = prove(file, &args, &target, printer).await?;
            Ok(if on_disk == Exit::Done { proven } else { on_disk })
        }
        _ => Ok(on_disk),
    }
}

/// The target that `text` names: an existing layout, else as `--to`. Nothing: it is a bundle.
fn named(text: &str) -> Result<Option<TargetConfig>, UsageError> {
    let path = Path::new(text);
    if text == "-" {
        return Ok(None);
    }
    if path.exists() {
        let is_layout = path.is_dir() && !bundle::is_at(path);
        return Ok(is_layout.then(|| TargetConfig::Layout { path: path.to_owned() }));
    }
    match TargetConfig::parse(text) {
        Ok(TargetConfig::Layout { path }) if !path.exists() => Err(format!("{}: no such folder", path.display())),
        Ok(target) => Ok(Some(target)),
        Err(why) => Err(format!("`{text}`: no such path, and no target: {why}")),
    }
    .map_err(|why| UsageError::usage(Error::local("verify", why)))
}

async fn prove(file: Option<&Path>, args: &VerifyArgs, target: &TargetConfig, printer: &Printer) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let wanted = match &args.lock {
        Some(path) => ExpectedContent::Lock(Lock::need(path).map_err(UsageError::usage)?),
        None => ExpectedContent::Lists(lists(&config, args)?),
    };
    let concurrency = args.concurrency.map(usize::from);
    let supply = Upstreams::new(&config, &UpstreamOptions { concurrency, ..UpstreamOptions::default() }).map_err(UsageError::failed)?;
    let store = supply.target(target, false).await.map_err(UsageError::failed)?;
    let (expected, failed) = wanted.expected(&config, &store).await;
    for row in &failed {
        row.error.iter().for_each(|error| printer.fail(&failure(row, error), &serde_json::json!({})));
    }
    let (bar, tick) = watched(printer);
    let source = &store.ends.source;
    let depth = match (args.deep && target.is_registry(), store.is_known_cache()) {
        (false, _) => Depth::Asked,
        (true, false) => Depth::Hashed,
        (true, true) => Depth::HashedEverywhere,
    };
    let mut proof = sync::prove(Arc::clone(source), expected.clone(), depth, Arc::clone(&tick)).await;
    // Where something is missing, no more need be found; and a repository that is not there is not to be made by asking.
    let found: BTreeSet<&String> = proof.findings.iter().flat_map(|finding| &finding.images).collect();
    let places: BTreeSet<&Repository> =
        expected.iter().filter(|image| !found.contains(&image.name)).map(|image| &image.repository).collect();
    let cache = store.cache_among(places.into_iter()).await;
    if cache.is_some() && depth == Depth::Hashed {
        proof = sync::prove(Arc::clone(source), expected, Depth::HashedEverywhere, tick).await;
    }
    let unproved = cache.filter(|_| depth == Depth::Asked);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    printer.data(&proof.findings.iter().map(line).collect::<String>());
    printer.tell(&summary(&proof, target), &facts(&proof));
    unproved.iter().for_each(|error| printer.error(error));
    Ok(if proof.findings.is_empty() && failed.is_empty() && unproved.is_none() { Exit::Done } else { Exit::Failed })
}

/// Who says what the target should hold.
enum ExpectedContent {
    Lock(Lock),
    Lists(Vec<ParsedList>),
}

impl ExpectedContent {
    async fn expected(self, config: &Config, store: &TargetStore) -> (Vec<Expected>, Vec<ImageOutcome>) {
        match self {
            ExpectedContent::Lock(lock) => (sync::locked(&lock, &store.target), vec![]),
            ExpectedContent::Lists(lists) => {
                let options = SyncOptions { unmatched: config.default_unmatched(), ..SyncOptions::default() };
                sync::listed(lists, &config.rules, &options, store).await
            }
        }
    }
}

/// The lists and images of the command line, else the lists of the configuration.
fn lists(config: &Config, args: &VerifyArgs) -> Result<Vec<ParsedList>, UsageError> {
    let mut parsed = match args.lists.is_empty() && args.image.is_empty() {
        true => inputs::configured(config)?,
        false => inputs::files(&args.lists)?,
    };
    parsed.extend(args.image.iter().map(|image| list::from_flag(image)));
    if parsed.is_empty() && !args.allow_empty {
        let error = Error::local("verify", "nobody says which images the registry should hold");
        return Err(UsageError::usage(
            error.remedy("name a list with --list, a lock with --lock or an image with --image, or set `lists` in larder.toml"),
        ));
    }
    inputs::check_entries(&parsed, &args.lists, args.allow_empty)?;
    Ok(parsed)
}

/// The bar, on a terminal, and what makes it move: bytes as they are hashed, 0 for an image that is done.
fn watched(printer: &Printer) -> (Option<indicatif::ProgressBar>, Arc<dyn Fn(u64) + Send + Sync>) {
    let Some(bars) = printer.bars() else { return (None, Arc::new(|_| {})) };
    let style = indicatif::ProgressStyle::with_template("{msg} images, {decimal_bytes} hashed  {elapsed}");
    let bar =
        bars.add(indicatif::ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner())));
    let done = std::sync::atomic::AtomicU64::new(0);
    let tick = {
        let bar = bar.clone();
        move |bytes| match bytes {
            0 => bar.set_message((done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1).to_string()),
            bytes => bar.inc(bytes),
        }
    };
    (Some(bar), Arc::new(tick))
}

/// One finding: `missing sha256:… in library/alpine (registry/library/alpine:3.20): why`. Each part is made printable by itself: a
/// layer may belong to so many images that the whole would be cut.
fn line(finding: &TargetFinding) -> String {
    let images: Vec<String> = finding.images.iter().map(|image| printable(image)).collect();
    let (word, images, why) = (finding.wrong.as_str(), images.join(", "), printable(&finding.why));
    match &finding.content {
        Some((digest, repository)) => format!("{word} {digest} in {repository} ({images}): {why}\n"),
        None => format!("{word} {images}: {why}\n"),
    }
}

const KINDS: [WrongContent; 4] = [WrongContent::Damaged, WrongContent::Missing, WrongContent::Moved, WrongContent::Unchecked];

fn summary(proof: &VerifySummary, target: &TargetConfig) -> String {
    let hashed = if proof.hashed > 0 { format!(", {} hashed", size(proof.hashed)) } else { String::new() };
    let kinds: Vec<String> = KINDS.iter().map(|kind| format!("{} {}", proof.count(*kind), kind.as_str())).collect();
    let plural = if proof.images == 1 { "" } else { "s" };
    format!("{target}: {} image{plural}, {} manifests, {} blobs{hashed}: {}", proof.images, proof.manifests, proof.blobs, kinds.join(", "))
}

fn facts(proof: &VerifySummary) -> serde_json::Value {
    let mut facts = serde_json::json!({"images": proof.images, "manifests": proof.manifests, "blobs": proof.blobs, "hashed": proof.hashed});
    if let Some(facts) = facts.as_object_mut() {
        facts.extend(KINDS.iter().map(|kind| (kind.as_str().to_owned(), proof.count(*kind).into())));
    }
    facts
}
