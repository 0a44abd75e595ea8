//! `larder verify` of layouts and archives.

use crate::Operation;
use std::path::PathBuf;

use crate::bundle;
use crate::bundle::interchange::NameMapping;
use crate::bundle::read::BundleReader;
use crate::cli::exit::{Exit, UsageError};
use crate::cli::printer::Printer;
use crate::cli::progress::byte_counter;
use crate::cli::text::{count, size};
use crate::cli::{import, state};
use crate::content::Repository;
use crate::error::printable;
use crate::internal::blocking;
use crate::layout::{self, LayoutFinding, VerifyReport};
use crate::name::Reference;

/// Verifies an archive as it would be imported.
pub(super) async fn verify_archive(path: PathBuf, printer: &Printer) -> Result<Exit, UsageError> {
    let unpack = import::unpack_folder(state::default_folder().as_deref());
    let gathered = blocking(Operation::Verify, {
        let path = path.clone();
        move || {
            let rules = crate::rules::RuleSet::default();
            let naming = NameMapping { rules: &rules, registry: false, given: None };
            // An entry without a repository is verified too.
            let names = |entry: &crate::layout::IndexEntry, stem: &str| match entry.states_repository() {
                true => naming.name(entry, stem),
                false => Ok((Repository::new(stem), Reference::Digest(entry.descriptor.digest.clone()), None)),
            };
            let mut reader = BundleReader::new(None, &names).unpacking_into(unpack);
            reader.add(&path)?;
            Ok(reader.finish())
        }
    })
    .await
    .map_err(UsageError::usage)?;
    gathered.notes.iter().for_each(|note| printer.warn(note));
    for entry in &gathered.images {
        entry.available_platforms.iter().for_each(|present| printer.say(&format!("{:<8} {}: {}", "note", entry.source(), present.note)));
    }
    let bar = byte_counter(printer, "verified");
    let report = blocking(Operation::Verify, {
        let bar = bar.clone();
        move || Ok(bundle::verify_archives(&gathered, &|bytes| bar.iter().for_each(|bar| bar.inc(bytes))))
    })
    .await
    .map_err(UsageError::failed)?;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    printer.data(&findings(&report));
    printer.say(&format!("{}: {}", path.display(), counts(&report)));
    Ok(if report.ok() { Exit::Done } else { Exit::Failed })
}

fn counts(report: &VerifyReport) -> String {
    format!(
        "{}, {}, {}, {} hashed: {} damaged, {} missing, {} unreferenced",
        count(report.entries, "name"),
        count(report.manifests, "manifest"),
        count(report.blobs, "blob"),
        size(report.bytes),
        report.damaged.len(),
        report.missing.len(),
        report.unreferenced.len()
    )
}

pub(super) async fn verify_layout(path: PathBuf, text: &str, printer: &Printer) -> Result<Exit, UsageError> {
    let bar = byte_counter(printer, "verified");
    let report = blocking(Operation::Verify, {
        let bar = bar.clone();
        move || layout::verify(&path, &|bytes| bar.iter().for_each(|bar| bar.inc(bytes)))
    })
    .await
    .map_err(UsageError::failed)?;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    printer.data(&findings(&report));
    printer.say(&counts(&report));
    if !report.damaged.is_empty() {
        printer.say(&format!("to repair it: remove the damaged files (blobs/<algorithm>/<hex> in {text}) and sync again"));
    }
    Ok(if report.ok() { Exit::Done } else { Exit::Failed })
}

/// The findings, a line each. Those that prevent use come first, harmless ones last.
fn findings(report: &VerifyReport) -> String {
    let problems = report.problems.iter().map(|problem| printable(&format!("problem {problem}")) + "\n");
    let named = |word: &'static str, findings: &[LayoutFinding]| {
        // Each part is escaped separately: `printable` cuts long text, and a layer may belong to many images.
        let line = move |finding: &LayoutFinding| {
            format!("{word} {} ({}): {}\n", finding.digest, images(&finding.images), printable(&finding.why))
        };
        findings.iter().map(line).collect::<Vec<_>>()
    };
    let unreferenced = report.unreferenced.iter().map(|digest| format!("unreferenced {digest}\n"));
    let strays = report.strays.iter().map(|stray| printable(&format!("stray {stray}")) + "\n");
    problems.chain(named("damaged", &report.damaged)).chain(named("missing", &report.missing)).chain(unreferenced).chain(strays).collect()
}

/// The images that a finding belongs to.
pub(super) fn images(names: &[String]) -> String {
    if names.is_empty() { "no image".to_owned() } else { names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ") }
}
