//! `larder verify` of bundles.

use crate::Operation;
use std::path::PathBuf;

use super::layout::images;
use crate::bundle::{self, BundleReport, VolumeFinding};
use crate::cli::exit::{Exit, UsageError};
use crate::cli::printer::Printer;
use crate::cli::progress::byte_counter;
use crate::cli::text::{count, size};
use crate::internal::blocking;
use crate::layout::LayoutFinding;

/// Hashes the present volumes of the bundles at `paths`.
pub(super) async fn verify(paths: Vec<PathBuf>, printer: &Printer) -> Result<Exit, UsageError> {
    let bar = byte_counter(printer, "verified");
    let reports = blocking(Operation::Verify, {
        let bar = bar.clone();
        move || bundle::verify(&paths, &|bytes| bar.iter().for_each(|bar| bar.inc(bytes)))
    })
    .await
    .map_err(UsageError::failed)?;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    for report in &reports {
        printer.data(&findings(report));
        printer.say(&summary(report));
    }
    Ok(if reports.iter().all(BundleReport::ok) { Exit::Done } else { Exit::Failed })
}

/// The findings, a line each. Those that prevent use come first.
fn findings(report: &BundleReport) -> String {
    let problems = report.problems.iter().map(|problem| format!("problem {problem}"));
    let volumes = |word: &'static str, findings: &[VolumeFinding]| {
        let line = move |volume: &VolumeFinding| {
            format!("{word} volume {} {} ({}): {}", volume.number, volume.file, images(&volume.images), volume.why)
        };
        findings.iter().map(line).collect::<Vec<_>>()
    };
    let named = |word: &'static str, findings: &[LayoutFinding]| {
        let line = move |finding: &LayoutFinding| format!("{word} {} ({}): {}", finding.digest, images(&finding.images), finding.why);
        findings.iter().map(line).collect::<Vec<_>>()
    };
    let incomplete = report.incomplete.iter().map(|(image, why)| format!("incomplete {image}: {why}"));
    problems
        .chain(volumes("damaged", &report.damaged_volumes))
        .chain(volumes("absent", &report.absent_volumes))
        .chain(named("damaged", &report.damaged))
        .chain(named("missing", &report.missing))
        .chain(incomplete)
        .map(|line| crate::error::printable(&line) + "\n")
        .collect()
}

fn summary(report: &BundleReport) -> String {
    let in_base = match report.relied {
        0 => String::new(),
        relied => format!(", {relied} more in the base"),
    };
    format!(
        "bundle {}: {}, {} of {} present, {}, {}{in_base}, {} hashed: {} damaged, {} missing",
        report.name,
        count(report.images, "image"),
        report.present,
        count(report.volumes, "volume"),
        count(report.manifests, "manifest"),
        count(report.blobs, "blob"),
        size(report.bytes),
        report.damaged_volumes.len() + report.damaged.len(),
        report.absent_volumes.len() + report.missing.len()
    )
}
