//! `--metrics`: what the last run did, for node_exporter's textfile collector.
//!
//! Everything is a gauge: the file tells of one run, and the next run's numbers do not add to it.

use std::path::Path;

use super::openmetrics::{Exposition, MetricKind, value_of};
use super::{RegistryRow, RunReport, Status};
use crate::{Error, Operation, Result};

const LAST_SUCCESS: &str = "last_success_timestamp_seconds";

/// Every status, so that a series does not come and go with what it counts.
const STATUSES: [Status; 5] = [Status::Copied, Status::Current, Status::Warmed, Status::Deferred, Status::Failed];

impl RunReport {
    /// Writes what the run did to `path` as metrics, atomically. When the last run succeeded is kept from the file that was there,
    /// unless this one did.
    ///
    /// # Errors
    /// A local error that names the file.
    pub fn write_metrics(&self, path: &Path) -> Result<()> {
        // Whatever cannot be read says nothing of earlier runs.
        let before = std::fs::read_to_string(path).ok().and_then(|text| value_of(&text, LAST_SUCCESS));
        super::file::replace(path, self.metrics(before).as_bytes()).map_err(|error| Error::io(Operation::WriteMetrics, path, &error))
    }

    /// The text, where the last success before this run was at `before` (seconds of Unix time).
    fn metrics(&self, before: Option<f64>) -> String {
        let mut text = Exposition::default();
        let (started, finished) = (seconds(&self.started), seconds(&self.finished));
        let count = |status: Status| match status {
            Status::Copied => self.totals.copied,
            Status::Current => self.totals.current,
            Status::Warmed => self.totals.warmed,
            Status::Deferred => self.totals.deferred,
            Status::Failed => self.totals.failed,
        };
        let images = STATUSES.map(|status| (vec![("status", status.as_str())], count(status)));
        text.family("images", MetricKind::Gauge, "Images of the last run, by what became of them.", images);
        text.single(
            "exit_status",
            MetricKind::Gauge,
            "Exit status of the last run: 0 done, 1 failed, 2 not begun, 3 unfinished.",
            self.exit,
        );
        if let (Some(started), Some(finished)) = (started, finished) {
            let duration = ((finished - started) * 1000.0).round() / 1000.0;
            text.single("duration_seconds", MetricKind::Gauge, "How long the last run took.", duration);
            text.single("last_run_timestamp_seconds", MetricKind::Gauge, "When the last run ended, in Unix time.", finished);
        }
        let success = if self.exit == 0 { finished } else { before };
        // None so far: a number would be a lie.
        if let Some(success) = success {
            text.single(LAST_SUCCESS, MetricKind::Gauge, "When a run last ended with everything at the target, in Unix time.", success);
        }
        self.work(&mut text);
        self.accounts(&mut text);
        text.finish()
    }

    /// What was moved.
    fn work(&self, text: &mut Exposition) {
        text.single("read_bytes", MetricKind::Gauge, "Bytes read from upstreams by the last run.", self.totals.bytes_read);
        text.single("written_bytes", MetricKind::Gauge, "Bytes written to the target by the last run.", self.totals.bytes_written);
        let blobs = [("copied", self.totals.blobs_copied), ("mounted", self.totals.blobs_mounted), ("present", self.totals.blobs_present)];
        let blobs = blobs.map(|(how, count)| (vec![("how", how)], count));
        text.family("blobs", MetricKind::Gauge, "Blobs of the last run, by how the target came to have them.", blobs);
    }

    /// What each registry was asked as each account, and what it says is left.
    fn accounts(&self, text: &mut Exposition) {
        let of = |row: &RegistryRow| [row.host.clone(), row.account.clone()];
        let rows: Vec<([String; 2], &RegistryRow)> = self.registries.iter().map(|row| (of(row), row)).collect();
        let mut each = |name: &str, help: &str, value: &dyn Fn(&RegistryRow) -> Option<f64>| {
            let samples = rows
                .iter()
                .filter_map(|([host, account], row)| Some((vec![("registry", host.as_str()), ("account", account.as_str())], value(row)?)));
            text.family(name, MetricKind::Gauge, help, samples);
        };
        each("pulls_spent", "Pulls that the last run spent, where they are counted.", &|row| Some(row.pulls.as_ref()?.spent as f64));
        each("pulls_left", "Pulls left in the account's window.", &|row| Some(row.pulls.as_ref()?.remaining as f64));
        each("pulls_limit", "Pulls that the account has per window.", &|row| Some(row.pulls.as_ref()?.limit as f64));
        each("manifest_gets", "Manifests read from the registry by the last run.", &|row| Some(row.requests.manifest_get as f64));
        each("throttled_answers", "Answers of the last run that told larder to slow down.", &|row| Some(row.throttled as f64));
        each("retried_requests", "Requests of the last run that were sent again.", &|row| Some(row.retries as f64));
        each("waited_seconds", "How long the last run waited because the registry wanted it to.", &|row| Some(row.waited_seconds));
    }
}

/// The Unix time of an RFC 3339 time, to the millisecond.
fn seconds(time: &str) -> Option<f64> {
    time.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::openmetrics::strict;
    use super::*;
    use crate::report::{PullRow, Requests, Totals};

    fn report(exit: u8) -> RunReport {
        let row = |host: &str, account: &str, pulls| RegistryRow {
            host: host.into(),
            account: account.into(),
            requests: Requests { manifest_get: 4, ..Requests::default() },
            throttled: 1,
            retries: 2,
            waited_seconds: 0.5,
            pulls,
        };
        let pulls = PullRow { spent: 4, limit: 200, remaining: 61, window_seconds: 21_600, source: None };
        RunReport {
            version: 1,
            command: "sync".into(),
            started: "2026-01-01T00:00:00.25Z".into(),
            finished: "2026-01-01T00:00:02Z".into(),
            exit,
            target: "r.io".into(),
            totals: Totals { images: 6, copied: 3, current: 2, failed: 1, bytes_read: 1000, bytes_written: 900, ..Totals::default() },
            images: vec![],
            registries: vec![row("docker.io", "h\"ub\\", Some(pulls)), row("r.io", "anonymous", None)],
        }
    }

    #[test]
    fn a_run_as_metrics() {
        let text = report(0).metrics(None);
        strict::parse(&text).unwrap();
        insta::assert_snapshot!(text, @r#"
        # TYPE larder_images gauge
        # HELP larder_images Images of the last run, by what became of them.
        larder_images{status="copied"} 3
        larder_images{status="current"} 2
        larder_images{status="warmed"} 0
        larder_images{status="deferred"} 0
        larder_images{status="failed"} 1
        # TYPE larder_exit_status gauge
        # HELP larder_exit_status Exit status of the last run: 0 done, 1 failed, 2 not begun, 3 unfinished.
        larder_exit_status 0
        # TYPE larder_duration_seconds gauge
        # HELP larder_duration_seconds How long the last run took.
        larder_duration_seconds 1.75
        # TYPE larder_last_run_timestamp_seconds gauge
        # HELP larder_last_run_timestamp_seconds When the last run ended, in Unix time.
        larder_last_run_timestamp_seconds 1767225602
        # TYPE larder_last_success_timestamp_seconds gauge
        # HELP larder_last_success_timestamp_seconds When a run last ended with everything at the target, in Unix time.
        larder_last_success_timestamp_seconds 1767225602
        # TYPE larder_read_bytes gauge
        # HELP larder_read_bytes Bytes read from upstreams by the last run.
        larder_read_bytes 1000
        # TYPE larder_written_bytes gauge
        # HELP larder_written_bytes Bytes written to the target by the last run.
        larder_written_bytes 900
        # TYPE larder_blobs gauge
        # HELP larder_blobs Blobs of the last run, by how the target came to have them.
        larder_blobs{how="copied"} 0
        larder_blobs{how="mounted"} 0
        larder_blobs{how="present"} 0
        # TYPE larder_pulls_spent gauge
        # HELP larder_pulls_spent Pulls that the last run spent, where they are counted.
        larder_pulls_spent{registry="docker.io",account="h\"ub\\"} 4
        # TYPE larder_pulls_left gauge
        # HELP larder_pulls_left Pulls left in the account's window.
        larder_pulls_left{registry="docker.io",account="h\"ub\\"} 61
        # TYPE larder_pulls_limit gauge
        # HELP larder_pulls_limit Pulls that the account has per window.
        larder_pulls_limit{registry="docker.io",account="h\"ub\\"} 200
        # TYPE larder_manifest_gets gauge
        # HELP larder_manifest_gets Manifests read from the registry by the last run.
        larder_manifest_gets{registry="docker.io",account="h\"ub\\"} 4
        larder_manifest_gets{registry="r.io",account="anonymous"} 4
        # TYPE larder_throttled_answers gauge
        # HELP larder_throttled_answers Answers of the last run that told larder to slow down.
        larder_throttled_answers{registry="docker.io",account="h\"ub\\"} 1
        larder_throttled_answers{registry="r.io",account="anonymous"} 1
        # TYPE larder_retried_requests gauge
        # HELP larder_retried_requests Requests of the last run that were sent again.
        larder_retried_requests{registry="docker.io",account="h\"ub\\"} 2
        larder_retried_requests{registry="r.io",account="anonymous"} 2
        # TYPE larder_waited_seconds gauge
        # HELP larder_waited_seconds How long the last run waited because the registry wanted it to.
        larder_waited_seconds{registry="docker.io",account="h\"ub\\"} 0.5
        larder_waited_seconds{registry="r.io",account="anonymous"} 0.5
        # EOF
        "#);
    }

    #[test]
    fn the_last_success_outlives_runs_that_did_not_succeed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("larder.prom");
        let success = |exit| {
            report(exit).write_metrics(&path).unwrap();
            let samples = strict::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(samples["larder_exit_status"], f64::from(exit));
            samples.get("larder_last_success_timestamp_seconds").copied()
        };
        assert_eq!(success(1), None);
        assert_eq!(success(0), Some(1_767_225_602.0));
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("1767225602", "1767000000")).unwrap();
        assert_eq!(success(3), Some(1_767_000_000.0));
        assert_eq!(success(1), Some(1_767_000_000.0));
        assert_eq!(success(0), Some(1_767_225_602.0));
        std::fs::write(&path, "\u{0}\nlarder_last_success_timestamp_seconds NaN\n").unwrap();
        assert_eq!(success(1), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
