//! The summary of a run.

use std::collections::BTreeMap;

use super::causes;
use super::printer::{Paint, Printer};
use super::text::{count, moment_of, size};
use crate::report::{ImageOutcome, RegistryRow, RunReport, Status, Totals};

/// Reasons for deferred images that are printed, so that the line stays readable. The report has all.
const REASONS_SHOWN: usize = 3;

/// Prints a run's images, bytes, blobs, and the pulls spent at each upstream.
pub(super) fn print(report: &RunReport, seconds: f64, printer: &Printer) {
    causes::print(&report.images, printer);
    let facts = serde_json::json!({"totals": report.totals, "exit": report.exit, "registries": report.registries});
    printer.say_with(&images(&report.totals, printer), &facts);
    printer.say(&bytes(&report.totals, seconds));
    printer.say(&pulls(report));
    report.registries.iter().filter_map(budget).for_each(|line| printer.say(&line));
    if report.totals.deferred > 0 {
        let reason = |image: &ImageOutcome| {
            let shown = |until: &String| format!(", until {} at the latest", moment_of(until, printer.is_terminal()));
            let until = image.until.as_ref().map(shown).unwrap_or_default();
            image.reason.as_ref().map(|reason| format!("{reason}{until}"))
        };
        let reasons: std::collections::BTreeSet<String> = report.images.iter().filter_map(reason).collect();
        let shown: Vec<&str> = reasons.iter().take(REASONS_SHOWN).map(String::as_str).collect();
        printer.say(&format!("unfinished: {}; the same command goes on where this one stopped", shown.join("; ")));
    }
}

/// Prints an import's images, bytes and blobs. An import spends no pulls.
pub(super) fn import(report: &RunReport, seconds: f64, printer: &Printer) {
    causes::print(&report.images, printer);
    let facts = serde_json::json!({"totals": report.totals, "exit": report.exit, "registries": report.registries});
    printer.say_with(&images(&report.totals, printer), &facts);
    printer.say(&bytes(&report.totals, seconds));
    report.registries.iter().filter_map(budget).for_each(|line| printer.say(&line));
}

fn images(totals: &Totals, printer: &Printer) -> String {
    let counts = [
        (totals.copied, Status::Copied, Paint::Good),
        (totals.current, Status::Current, Paint::Good),
        (totals.warmed, Status::Warmed, Paint::Good),
        (totals.deferred, Status::Deferred, Paint::Warn),
        (totals.failed, Status::Failed, Paint::Bad),
    ];
    let parts: Vec<String> = counts
        .iter()
        .filter(|(n, ..)| *n > 0)
        .map(|(n, status, paint)| printer.paint(*paint, &format!("{n} {}", status.as_str())))
        .collect();
    let detail = if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") };
    format!("{}: {detail}", count(totals.images, "image"))
}

fn bytes(totals: &Totals, seconds: f64) -> String {
    format!(
        "{} read, {} written in {seconds:.1} s; blobs: {} copied, {} mounted, {} present",
        size(totals.bytes_read),
        size(totals.bytes_written),
        totals.blobs_copied,
        totals.blobs_mounted,
        totals.blobs_present
    )
}

/// One registry's limits: pulls left, time waited, throttled requests. `None` if no limit was met.
fn budget(row: &RegistryRow) -> Option<String> {
    let left = row.pulls.as_ref().map(|pulls| format!("{} of {} pulls left", pulls.remaining, pulls.limit));
    let waited = (row.waited_seconds >= 0.1).then(|| format!("waited {:.1} s", row.waited_seconds));
    let throttled = (row.throttled > 0).then(|| format!("throttled {} times", row.throttled));
    let parts: Vec<String> = [left, waited, throttled].into_iter().flatten().collect();
    let name = crate::error::printable(&format!("{} ({})", row.host, row.account));
    (!parts.is_empty()).then(|| format!("{name}: {}", parts.join(", ")))
}

/// Pulls per upstream, including 0: the proof that a night without changes was free.
fn pulls(report: &RunReport) -> String {
    let mut spent: BTreeMap<&str, u64> = BTreeMap::new();
    for image in &report.images {
        // Lines that did not parse have no target.
        if let Some((host, _)) = image.source.split_once('/').filter(|_| !image.target.is_empty()) {
            *spent.entry(host).or_default() += image.pulls;
        }
    }
    let parts: Vec<String> = spent.iter().map(|(host, pulls)| format!("{} {pulls}", crate::error::printable(host))).collect();
    format!("pulls spent: {}", if parts.is_empty() { "none".to_owned() } else { parts.join(", ") })
}
