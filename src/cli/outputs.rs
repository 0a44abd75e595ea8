//! Checks of output files, and the `--report` and `--metrics` of a run that was refused before it began.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::UsageError;
use super::printer::Printer;
use crate::report::{self, RunReport, Totals};
use crate::{Error, Operation};

/// The path without links, or absolute if the file does not exist.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// Refuses files that would be written twice, or over a list.
pub(super) fn overwritten(written: &[&PathBuf], lists: &[String]) -> Vec<Error> {
    let lists: Vec<PathBuf> = lists.iter().map(|list| resolved(Path::new(list))).collect();
    let mut seen = BTreeSet::new();
    let error =
        |path: &Path, why: &str| Error::local(Operation::WriteReport, format!("{}: {why}", path.display())).remedy("name another file");
    // A device or pipe can take several outputs.
    let files = written.iter().filter(|path| path.metadata().map_or(true, |meta| meta.is_file()));
    let wrong = files.filter_map(|path| match resolved(path) {
        here if lists.contains(&here) => Some(error(path, "this is one of the lists, and would be overwritten")),
        here if !seen.insert(here.clone()) => Some(error(path, "it would be written twice")),
        _ => None,
    });
    wrong.collect()
}

/// The outputs of a command, noted before anything else is read, so that they are written even if the command is refused.
pub(super) struct RefusedRun {
    command: &'static str,
    started: jiff::Timestamp,
    target: String,
    reports: Vec<PathBuf>,
    metrics: Option<PathBuf>,
}

/// The report of a run without images, with the reasons.
#[derive(Serialize)]
struct RefusedReport<'a> {
    #[serde(flatten)]
    report: &'a RunReport,
    errors: Vec<String>,
}

impl RefusedRun {
    pub(super) fn new(command: &'static str, target: Option<&str>, reports: &[PathBuf], metrics: Option<&Path>) -> Self {
        let target = target.unwrap_or_default().to_owned();
        RefusedRun { command, started: jiff::Timestamp::now(), target, reports: reports.to_vec(), metrics: metrics.map(Path::to_owned) }
    }

    /// Leaves out files that are also lists: a mistake in a command must not destroy a list.
    pub(super) fn except(mut self, lists: &[String]) -> Self {
        let lists: Vec<PathBuf> = lists.iter().map(|list| resolved(Path::new(list))).collect();
        self.reports.retain(|path| !lists.contains(&resolved(path)));
        self.metrics = self.metrics.filter(|path| !lists.contains(&resolved(path)));
        self
    }

    /// Writes the outputs of a run that ended before any image was processed.
    pub(super) fn write(&self, refusal: &UsageError, printer: &Printer) {
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
        let json = serde_json::to_vec_pretty(&RefusedReport { report: &report, errors });
        // A file that cannot be written is one of the errors already.
        let writable = |path: &&PathBuf| report::file::check(path).is_ok();
        let written = self.reports.iter().filter(writable).map(|path| match &json {
            Ok(json) if !report::is_csv(path) => {
                report::file::replace(path, json).map_err(|error| Error::io(Operation::WriteReport, path, &error))
            }
            _ => report.write(path),
        });
        let metrics = self.metrics.iter().filter(writable).map(|path| report.write_metrics(path));
        written.chain(metrics).filter_map(Result::err).for_each(|error| printer.error(&error));
    }
}
