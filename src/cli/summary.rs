//! The last words of a run.

use std::collections::BTreeMap;

use super::printer::{Paint, Printer};
use super::progress::size;
use crate::report::{RunReport, Status, Totals};

/// Prints what a run did: images, bytes, blobs, and pulls spent per upstream.
pub(super) fn print(report: &RunReport, seconds: f64, printer: &Printer) {
    let facts = serde_json::json!({"totals": report.totals, "exit": report.exit, "registries": report.registries});
    printer.tell(&images(&report.totals, printer), &facts);
    printer.say(&bytes(&report.totals, seconds));
    printer.say(&pulls(report));
    if report.totals.deferred > 0 {
        let reasons: std::collections::BTreeSet<&str> = report.images.iter().filter_map(|image| image.reason.as_deref()).collect();
        printer.say(&format!(
            "unfinished: {}; the same command goes on where this one stopped",
            reasons.into_iter().collect::<Vec<_>>().join("; ")
        ));
    }
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
    let plural = if totals.images == 1 { "" } else { "s" };
    let detail = if parts.is_empty() { "nothing was asked for".to_owned() } else { parts.join(", ") };
    format!("{} image{plural}: {detail}", totals.images)
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

/// Pulls per upstream, also where none were spent: that is the night operator's proof.
fn pulls(report: &RunReport) -> String {
    let mut spent: BTreeMap<&str, u64> = BTreeMap::new();
    for image in &report.images {
        // Lines that did not parse name no upstream.
        if let Some((host, _)) = image.source.split_once('/').filter(|_| !image.target.is_empty()) {
            *spent.entry(host).or_default() += image.pulls;
        }
    }
    let parts: Vec<String> = spent.iter().map(|(host, pulls)| format!("{} {pulls}", crate::error::printable(host))).collect();
    format!("pulls spent: {}", if parts.is_empty() { "none".to_owned() } else { parts.join(", ") })
}
