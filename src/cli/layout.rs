//! `larder verify` and `larder gc`.

use std::path::{Path, PathBuf};

use super::printer::Printer;
use super::progress::{counting, size};
use super::{Exit, UsageError};
use crate::bundle;
use crate::bundle::interchange::NameMapping;
use crate::bundle::read::BundleReader;
use crate::config::TargetConfig;
use crate::content::Repository;
use crate::error::printable;
use crate::layout::{self, LayoutFinding, VerifyReport};
use crate::name::Reference;
use crate::{Error, Result, internal};

/// The layout that `text` names: an existing path, else as `--to`.
pub(super) fn path_of(text: &str, command: &'static str) -> Result<PathBuf, UsageError> {
    if Path::new(text).exists() {
        return Ok(PathBuf::from(text));
    }
    match TargetConfig::parse(text) {
        Ok(TargetConfig::Layout { path }) if path.exists() => Ok(path),
        _ => Err(UsageError::usage(Error::local(command, format!("`{text}`: no such folder")))),
    }
}

/// Work that keeps all cores busy, off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    command: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, UsageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|lost| Err(internal::lost(command, lost))).map_err(UsageError::failed)
}

/// Verifies layouts, bundles and archives: what a path is, is seen there.
pub(super) async fn verify(targets: &[String], printer: &Printer) -> Result<Exit, UsageError> {
    let (mut layouts, mut archives, mut bundles) = (vec![], vec![], vec![]);
    for text in targets {
        let path = if text == "-" { PathBuf::from(text) } else { path_of(text, "verify")? };
        if bundle::is_archive(&path).map_err(UsageError::usage)? {
            archives.push(path);
        } else if path.is_dir() && !bundle::is_at(&path) {
            layouts.push((path, text));
        } else {
            bundles.push(path);
        }
    }
    let mut exits = vec![];
    for (path, text) in layouts {
        exits.push(verify_layout(path, text, printer).await?);
    }
    for path in archives {
        exits.push(verify_archive(path, printer).await?);
    }
    if !bundles.is_empty() {
        exits.push(super::bundle::verify(bundles, printer).await?);
    }
    Ok(if exits.iter().all(|exit| *exit == Exit::Done) { Exit::Done } else { Exit::Failed })
}

/// Verifies an archive as it would be imported.
async fn verify_archive(path: PathBuf, printer: &Printer) -> Result<Exit, UsageError> {
    let unpack = super::import::unpack_folder(super::state::folder(None).as_deref());
    let gathered = blocking("verify", {
        let path = path.clone();
        move || {
            let rules = crate::rules::RuleSet::default();
            let naming = NameMapping { rules: &rules, registry: false, given: None };
            // Whether it says a repository makes no difference to whether it is whole.
            let names = |entry: &crate::layout::IndexEntry, stem: &str| match entry.states_repository() {
                true => naming.name(entry, stem),
                false => Ok((Repository::new(stem), Reference::Digest(entry.descriptor.digest.clone()), None)),
            };
            let mut gathering = BundleReader::new(None, &names).unpacking_into(unpack);
            gathering.add(&path)?;
            Ok(gathering.done())
        }
    })
    .await
    .map_err(|refusal| UsageError { exit: Exit::Usage, ..refusal })?;
    gathered.notes.iter().for_each(|note| printer.warn(note));
    for entry in &gathered.entries {
        entry.present.iter().for_each(|present| printer.say(&format!("{:<8} {}: {}", "note", entry.source(), present.note)));
    }
    let bar = counting(printer, "verified");
    let report = blocking("verify", {
        let bar = bar.clone();
        move || Ok(bundle::verify_archives(&gathered, &|bytes| bar.iter().for_each(|bar| bar.inc(bytes))))
    })
    .await?;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    printer.data(&findings(&report));
    printer.say(&format!("{}: {}", path.display(), counts(&report)));
    Ok(if report.ok() { Exit::Done } else { Exit::Failed })
}

fn counts(report: &VerifyReport) -> String {
    format!(
        "{} names, {} manifests, {} blobs, {} hashed: {} damaged, {} missing, {} unreferenced",
        report.entries,
        report.manifests,
        report.blobs,
        size(report.bytes),
        report.damaged.len(),
        report.missing.len(),
        report.unreferenced.len()
    )
}

async fn verify_layout(path: PathBuf, text: &str, printer: &Printer) -> Result<Exit, UsageError> {
    let bar = counting(printer, "verified");
    let report = blocking("verify", {
        let bar = bar.clone();
        move || {
            layout::verify(&path, &|bytes| {
                if let Some(bar) = &bar {
                    bar.inc(bytes);
                }
            })
        }
    })
    .await?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    printer.data(&findings(&report));
    printer.say(&counts(&report));
    if !report.damaged.is_empty() {
        printer.say(&format!("to mend it: remove the damaged files (blobs/<algorithm>/<hex> in {text}) and sync again"));
    }
    Ok(if report.ok() { Exit::Done } else { Exit::Failed })
}

/// Every finding, a line each: what stands in the way first, what is harmless last.
fn findings(report: &VerifyReport) -> String {
    let problems = report.problems.iter().map(|problem| printable(&format!("problem {problem}")) + "\n");
    let named = |word: &'static str, findings: &[LayoutFinding]| {
        // Each part is made printable by itself: a layer may belong to so many images that the whole would be cut.
        let line = move |finding: &LayoutFinding| {
            format!("{word} {} ({}): {}\n", finding.digest, images(&finding.images), printable(&finding.why))
        };
        findings.iter().map(line).collect::<Vec<_>>()
    };
    let unreferenced = report.unreferenced.iter().map(|digest| format!("unreferenced {digest}\n"));
    let strays = report.strays.iter().map(|stray| printable(&format!("stray {stray}")) + "\n");
    problems.chain(named("damaged", &report.damaged)).chain(named("missing", &report.missing)).chain(unreferenced).chain(strays).collect()
}

pub(super) fn images(names: &[String]) -> String {
    if names.is_empty() { "no image".to_owned() } else { names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ") }
}

pub(super) async fn gc(text: &str, dry_run: bool, printer: &Printer) -> Result<Exit, UsageError> {
    let path = path_of(text, "gc")?;
    let report = blocking("gc", move || layout::gc(&path, dry_run)).await?;
    printer.data(&report.removed.iter().map(|digest| format!("{digest}\n")).collect::<String>());
    let verb = if dry_run { "would be removed" } else { "removed" };
    printer.say(&format!(
        "{} blobs {verb}, {} freed; {} unfinished transfers {verb}",
        report.removed.len(),
        size(report.bytes),
        report.partials
    ));
    Ok(Exit::Done)
}
