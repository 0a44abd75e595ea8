//! `--report` and `--metrics` of a run that ended before its work began: what ends a run that was asked for is written down.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::UsageError;
use super::printer::Printer;
use crate::Error;
use crate::report::{self, RunReport, Totals};

/// The one name of a file, as far as that can be told.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// Files that would be written twice, or over a list that is read.
pub(super) fn overwritten(written: &[&PathBuf], lists: &[String]) -> Vec<Error> {
    let lists: Vec<PathBuf> = lists.iter().map(|list| resolved(Path::new(list))).collect();
    let mut seen = BTreeSet::new();
    let error = |path: &Path, why: &str| Error::local("write report", format!("{}: {why}", path.display())).remedy("name another file");
    // A device or pipe takes several.
    let files = written.iter().filter(|path| path.metadata().map_or(true, |meta| meta.is_file()));
    let wrong = files.filter_map(|path| match resolved(path) {
        here if lists.contains(&here) => Some(error(path, "it is one of the lists, and would be written over")),
        here if !seen.insert(here.clone()) => Some(error(path, "it would be written twice")),
        _ => None,
    });
    wrong.collect()
}

/// What a command was asked to write, kept from before it looks at anything else.
pub(super) struct Asked {
    command: &'static str,
    started: jiff::Timestamp,
    target: String,
    reports: Vec<PathBuf>,
    metrics: Option<PathBuf>,
}

/// A report of a run without images, and why.
#[derive(Serialize)]
struct Refused<'a> {
    #[serde(flatten)]
    report: &'a RunReport,
    errors: Vec<String>,
}

impl Asked {
    pub(super) fn new(command: &'static str, target: Option<&str>, reports: &[PathBuf], metrics: Option<&Path>) -> Self {
        let target = target.unwrap_or_default().to_owned();
        Asked { command, started: jiff::Timestamp::now(), target, reports: reports.to_vec(), metrics: metrics.map(Path::to_owned) }
    }

    /// Without the files that are lists to be read: a mistake in a command must not cost a list.
    pub(super) fn except(mut self, lists: &[String]) -> Self {
        let lists: Vec<PathBuf> = lists.iter().map(|list| resolved(Path::new(list))).collect();
        self.reports.retain(|path| !lists.contains(&resolved(path)));
        self.metrics = self.metrics.filter(|path| !lists.contains(&resolved(path)));
        self
    }

    /// The run was refused, or ended before any image was looked at.
    pub(super) fn refused(&self, refusal: &UsageError, printer: &Printer) {
        let report = RunReport {
            version: 1,
            command: self.command.to_owned(),
            started: self.started.to_string(),
            finished: jiff::Timestamp::now().to_string(),
            exit: refusal.exit as u8,
            target: self.target.clone(),
            totals: Totals::default(),
            images: vec![],
            registries: vec![],
        };
        let errors = refusal.errors.iter().map(ToString::to_string).collect();
        let json = serde_json::to_vec_pretty(&Refused { report: &report, errors });
        // A file that cannot be written is among the reasons already.
        let writable = |path: &&PathBuf| report::file::check(path).is_ok();
        let written = self.reports.iter().filter(writable).map(|path| match &json {
            Ok(json) if !report::is_csv(path) => report::file::replace(path, json).map_err(|error| Error::io("write report", path, &error)),
            _ => report.write(path),
        });
        let metrics = self.metrics.iter().filter(writable).map(|path| report.write_metrics(path));
        written.chain(metrics).filter_map(Result::err).for_each(|error| printer.error(&error));
    }
}
