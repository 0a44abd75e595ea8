//! `larder verify` of a registry, or of any target against lists or a lock.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::VerifyArgs;
use crate::cli::exit::{Exit, UsageError};
use crate::cli::inputs;
use crate::cli::printer::Printer;
use crate::cli::text::{count, failure, size};
use crate::config::{Config, TargetConfig};
use crate::content::Repository;
use crate::error::printable;
use crate::list::{self, ParsedList};
use crate::lock::Lock;
use crate::report::ImageOutcome;
use crate::sync::{
    self, Depth, Expected, SyncOptions, TargetFinding, TargetStore, UpstreamOptions, Upstreams, VerifySummary, WrongContent,
};
use crate::{Error, Operation};

/// Checks that the registry or layout `target` holds what lists or lock say.
pub(super) async fn verify(file: Option<&Path>, args: &VerifyArgs, target: &TargetConfig, printer: &Printer) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let expected = match &args.lock {
        Some(path) => ExpectedContent::Lock(Lock::need(path).map_err(UsageError::usage)?),
        None => ExpectedContent::Lists(lists(&config, args)?),
    };
    let concurrency = args.concurrency.map(usize::from);
    let supply = Upstreams::new(&config, &UpstreamOptions { concurrency, ..UpstreamOptions::default() }).map_err(UsageError::failed)?;
    let store = supply.target(target, false).await.map_err(UsageError::failed)?;
    let (expected, failed) = expected.resolve(&config, &store).await;
    for row in &failed {
        row.error.iter().for_each(|error| printer.failure(error, &failure(row, error), serde_json::json!({})));
    }
    let (bar, tick) = progress_bar(printer);
    let source = &store.ends.source;
    let depth = match (args.deep && target.is_registry(), store.is_known_cache()) {
        (false, _) => Depth::Asked,
        (true, false) => Depth::Hashed,
        (true, true) => Depth::HashedEverywhere,
    };
    let mut proof = sync::prove(Arc::clone(source), expected.clone(), depth, Arc::clone(&tick)).await;
    // Ask only about repositories without findings: they exist, and a probe must not create a repository.
    let wrong: BTreeSet<&String> = proof.findings.iter().flat_map(|finding| &finding.images).collect();
    let repositories: BTreeSet<&Repository> =
        expected.iter().filter(|image| !wrong.contains(&image.name)).map(|image| &image.repository).collect();
    let cache = store.cache_among(repositories.into_iter()).await;
    if cache.is_some() && depth == Depth::Hashed {
        proof = sync::prove(Arc::clone(source), expected, Depth::HashedEverywhere, tick).await;
    }
    let unverifiable = cache.filter(|_| depth == Depth::Asked);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    printer.data(&proof.findings.iter().map(line).collect::<String>());
    printer.say_with(&summary(&proof, target), &facts(&proof));
    unverifiable.iter().for_each(|error| printer.error(error));
    Ok(if proof.findings.is_empty() && failed.is_empty() && unverifiable.is_none() { Exit::Done } else { Exit::Failed })
}

/// The source of the expected images.
enum ExpectedContent {
    Lock(Lock),
    Lists(Vec<ParsedList>),
}

impl ExpectedContent {
    /// The images to check, and rows of entries that do not resolve.
    async fn resolve(self, config: &Config, store: &TargetStore) -> (Vec<Expected>, Vec<ImageOutcome>) {
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
        let error = Error::local(Operation::Verify, "no list or lock says which images the registry should hold");
        return Err(UsageError::usage(
            error.remedy("name a list with --list, a lock with --lock or an image with --image, or set `lists` in larder.toml"),
        ));
    }
    inputs::check_entries(&parsed, &args.lists, args.allow_empty)?;
    Ok(parsed)
}

/// A bar, on a terminal, and the function that moves it: called with the bytes hashed, or 0 when an image is done.
fn progress_bar(printer: &Printer) -> (Option<indicatif::ProgressBar>, Arc<dyn Fn(u64) + Send + Sync>) {
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

/// One finding: `missing sha256:… in library/alpine (registry/library/alpine:3.20): why`. Each part is escaped
/// separately: `printable` cuts long text, and a layer may belong to many images.
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
    format!(
        "{target}: {}, {}, {}{hashed}: {}",
        count(proof.images, "image"),
        count(proof.manifests, "manifest"),
        count(proof.blobs, "blob"),
        kinds.join(", ")
    )
}

fn facts(proof: &VerifySummary) -> serde_json::Value {
    let mut facts = serde_json::json!({"images": proof.images, "manifests": proof.manifests, "blobs": proof.blobs, "hashed": proof.hashed});
    if let Some(facts) = facts.as_object_mut() {
        facts.extend(KINDS.iter().map(|kind| (kind.as_str().to_owned(), proof.count(*kind).into())));
    }
    facts
}
