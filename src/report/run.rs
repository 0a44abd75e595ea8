//! The report of a whole run, version 1.

use std::path::Path;

use serde::Serialize;

use super::{ImageOutcome, Status};
use crate::{Error, Operation, Result};

/// What a run did. Serialises to the contract's report, version 1.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The report's format: 1.
    pub version: u32,
    /// The command that ran (`sync`).
    pub command: String,
    /// When it began (RFC 3339).
    pub started: String,
    /// When it ended (RFC 3339).
    pub finished: String,
    /// Its exit status.
    pub exit: u8,
    /// Where images went: `contoso.azurecr.io/prefix`, `oci:store`.
    pub target: String,
    /// Sums.
    pub totals: Totals,
    /// One row per image, in list order.
    pub images: Vec<ImageOutcome>,
    /// One row per registry and account.
    pub registries: Vec<RegistryRow>,
}

/// Sums over a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Rows.
    pub images: u64,
    /// Rows with status `copied`.
    pub copied: u64,
    /// Rows with status `current`.
    pub current: u64,
    /// Rows with status `warmed`.
    pub warmed: u64,
    /// Rows with status `deferred`.
    pub deferred: u64,
    /// Rows with status `failed`.
    pub failed: u64,
    /// Bytes read from upstreams.
    pub bytes_read: u64,
    /// Bytes written to the target.
    pub bytes_written: u64,
    /// Blobs that were moved.
    pub blobs_copied: u64,
    /// Blobs that the target linked from another of its repositories.
    pub blobs_mounted: u64,
    /// Blobs that the target had.
    pub blobs_present: u64,
}

impl Totals {
    /// Counts `outcome` by its status.
    pub fn count(&mut self, outcome: &ImageOutcome) {
        self.images += 1;
        *match outcome.status {
            Status::Copied => &mut self.copied,
            Status::Current => &mut self.current,
            Status::Warmed => &mut self.warmed,
            Status::Deferred => &mut self.deferred,
            Status::Failed => &mut self.failed,
        } += 1;
    }

    /// Counts all rows anew.
    pub fn recount(&mut self, rows: &[ImageOutcome]) {
        let none = Totals::default();
        let Totals { images, copied, current, warmed, deferred, failed, .. } = none;
        *self = Totals { images, copied, current, warmed, deferred, failed, ..*self };
        rows.iter().for_each(|row| self.count(row));
    }

    /// The exit status that these sums mean: 1 if anything failed, else 3 if anything is unfinished, else 0.
    pub fn exit(&self) -> u8 {
        match (self.failed, self.deferred) {
            (0, 0) => 0,
            (0, _) => 3,
            _ => 1,
        }
    }
}

/// Requests sent to one registry as one account, by kind. Every request that left is counted, repeated ones too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names are the kinds")]
pub struct Requests {
    pub manifest_head: u64,
    pub manifest_get: u64,
    pub manifest_put: u64,
    pub blob_head: u64,
    pub blob_get: u64,
    pub blob_put: u64,
    pub mount: u64,
    pub tags: u64,
    pub referrers: u64,
    pub token: u64,
}

/// One registry, as one account.
#[derive(Debug, Clone, Serialize)]
pub struct RegistryRow {
    /// Its host, as lists and rules name it.
    pub host: String,
    /// Whom it sees: a credential set, a user, or `anonymous`.
    pub account: String,
    /// What was asked.
    pub requests: Requests,
    /// Answers that told larder to slow down (429, 503).
    pub throttled: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// How long the registry's pauses lasted, in seconds.
    pub waited_seconds: f64,
    /// The pull budget; null where nothing counts pulls.
    pub pulls: Option<PullRow>,
}

/// The pull budget of an account.
#[derive(Debug, Clone, Serialize)]
pub struct PullRow {
    /// Pulls this run spent.
    pub spent: u64,
    /// Pulls per window.
    pub limit: u64,
    /// Pulls left in this window.
    pub remaining: u64,
    /// The window's length in seconds.
    pub window_seconds: u64,
    /// Whom the upstream counts.
    pub source: Option<String>,
}

impl RunReport {
    /// Writes the report to `path`, as CSV if its name ends in `.csv`, else as JSON; atomically, so that a reader never
    /// sees half of one.
    ///
    /// # Errors
    /// A local error that names the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let written = super::file::replace_with(path, |file| {
            if is_csv(path) {
                return super::csv::write_rows(&self.images, file);
            }
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        });
        written.map_err(|error| Error::io(Operation::WriteReport, path, &error))
    }
}

/// Whether a report of this name is CSV.
pub(crate) fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> RunReport {
        let failed = ImageOutcome::new("docker.io/library/a:1", "r.io/library/a:1", "l.txt", 1).failed(
            Error::new(crate::Side::Upstream, Operation::GetManifest, crate::Kind::NotFound, "gone, \"really\"")
                .status(404)
                .code("MANIFEST_UNKNOWN"),
        );
        let mut current = ImageOutcome::new("docker.io/library/b:1", "r.io/library/b:1", "l.txt", 2);
        current.status = Status::Current;
        current.platforms = vec!["linux/amd64".into(), "linux/arm64".into()];
        let images = vec![failed, current];
        let mut totals = Totals::default();
        images.iter().for_each(|image| totals.count(image));
        RunReport {
            version: 1,
            command: "sync".into(),
            started: "2026-01-01T00:00:00Z".into(),
            finished: "2026-01-01T00:00:01Z".into(),
            exit: totals.exit(),
            target: "r.io".into(),
            totals,
            images,
            registries: vec![],
        }
    }

    #[test]
    fn json_has_the_contracts_shape() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["exit"], 1);
        assert_eq!(json["totals"]["current"], 1);
        assert_eq!(
            json["images"][0]["error"],
            serde_json::json!({"side": "upstream", "operation": "get manifest", "status": 404, "code": "MANIFEST_UNKNOWN", "message": "gone, \"really\""})
        );
        assert!(json["images"][1]["error"].is_null() && json["images"][1]["reason"].is_null());
    }

    #[test]
    fn csv_has_a_row_an_image_and_nested_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.CSV");
        report().write(&path).unwrap();
        insta::assert_snapshot!(std::fs::read_to_string(path).unwrap(), @r#"
        source,target,rule,file,line,status,digest,source_digest,platforms,referrers,bytes,pulls,seconds,notes,reason,until,error_side,error_operation,error_status,error_code,error_message
        docker.io/library/a:1,r.io/library/a:1,,l.txt,1,failed,,,,0,0,0,0,,,,upstream,get manifest,404,MANIFEST_UNKNOWN,"gone, ""really"""
        docker.io/library/b:1,r.io/library/b:1,,l.txt,2,current,,,linux/amd64;linux/arm64,0,0,0,0,,,,,,,,
        "#);
    }

    #[test]
    fn exit_is_1_for_failures_even_beside_deferred_ones() {
        let exit = |failed, deferred| Totals { failed, deferred, ..Totals::default() }.exit();
        assert_eq!([exit(0, 0), exit(0, 1), exit(1, 0), exit(1, 1)], [0, 3, 1, 1]);
    }
}
