//! `larder verify` of bundles.

use std::path::PathBuf;

use super::layout::{blocking, images};
use super::printer::Printer;
use super::progress::{counting, size};
use super::{Exit, UsageError};
use crate::bundle::{self, BundleReport, VolumeFinding};
use crate::layout::LayoutFinding;

/// Hashes what is at hand of the bundles at `paths`.
pub(super) async fn verify(paths: Vec<PathBuf>, printer: &Printer) -> Result<Exit, UsageError> {
    let bar = counting(printer, "verified");
    let reports = blocking("verify", {
        let bar = bar.clone();
        move || bundle::verify(&paths, &|bytes| bar.iter().for_each(|bar| bar.inc(bytes)))
    })
    .await?;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    for report in &reports {
        printer.data(&findings(report));
        printer.say(&summary(report));
    }
    Ok(if reports.iter().all(BundleReport::ok) { Exit::Done } else { Exit::Failed })
}

/// Every finding, a line each: what stands in the way first.
fn findings(report: &BundleReport) -> String {
    let problems = report.problems.iter().map(|problem| format!("problem {problem}"));
    let volumes = |word: &'static str, found: &[VolumeFinding]| {
        let line = move |found: &VolumeFinding| {
            format!("{word} volume {} {} ({}): {}", found.number, found.file, images(&found.images), found.why)
        };
        found.iter().map(line).collect::<Vec<_>>()
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
    let relied = match report.relied {
        0 => String::new(),
        relied => format!(", {relied} more at the base"),
    };
    format!(
        "bundle {}: {} images, {} of {} volumes at hand, {} manifests, {} blobs{relied}, {} hashed: {} damaged, {} missing",
        report.name,
        report.images,
        report.present,
        report.volumes,
        report.manifests,
        report.blobs,
        size(report.bytes),
        report.damaged_volumes.len() + report.damaged.len(),
        report.absent_volumes.len() + report.missing.len()
    )
}
