//! What every host and account was asked, and how often it made us wait: the report's `registries`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::report::{RegistryRow, Requests};

/// What a request is. Each request that leaves is counted under exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// HEAD of a manifest.
    ManifestHead,
    /// GET of a manifest: what Docker Hub calls a pull.
    ManifestGet,
    /// PUT of a manifest.
    ManifestPut,
    /// HEAD of a blob.
    BlobHead,
    /// GET of a blob.
    BlobGet,
    /// Any request of an upload: POST, PATCH, PUT, and the DELETE that gives a session back.
    BlobPut,
    /// POST that asks for a mount.
    Mount,
    /// GET of one page of a tag list.
    Tags,
    /// A request for a token, to whichever host gives them.
    Token,
}

impl RequestKind {
    const COUNT: usize = RequestKind::Token as usize + 1;
}

/// The running counts of one host and account.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: [AtomicU64; RequestKind::COUNT],
    throttled: AtomicU64,
    retries: AtomicU64,
    waited_micros: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, kind: RequestKind) {
        self.requests[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn waited(&self, pause: Duration) {
        self.waited_micros.fetch_add(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The counts so far, as a row of the report.
    pub(crate) fn row(&self, host: &str, account: &str) -> RegistryRow {
        let of = |kind: RequestKind| self.requests[kind as usize].load(Ordering::Relaxed);
        RegistryRow {
            host: host.to_owned(),
            account: account.to_owned(),
            requests: Requests {
                manifest_head: of(RequestKind::ManifestHead),
                manifest_get: of(RequestKind::ManifestGet),
                manifest_put: of(RequestKind::ManifestPut),
                blob_head: of(RequestKind::BlobHead),
                blob_get: of(RequestKind::BlobGet),
                blob_put: of(RequestKind::BlobPut),
                mount: of(RequestKind::Mount),
                tags: of(RequestKind::Tags),
                referrers: 0,
                token: of(RequestKind::Token),
            },
            throttled: self.throttled.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            waited_seconds: Duration::from_micros(self.waited_micros.load(Ordering::Relaxed)).as_secs_f64(),
            pulls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_place_in_the_row() {
        let counters = Counters::default();
        let kinds = [
            RequestKind::ManifestHead,
            RequestKind::ManifestGet,
            RequestKind::ManifestPut,
            RequestKind::BlobHead,
            RequestKind::BlobGet,
            RequestKind::BlobPut,
            RequestKind::Mount,
            RequestKind::Tags,
            RequestKind::Token,
        ];
        for (index, kind) in kinds.into_iter().enumerate() {
            (0..=index).for_each(|_| counters.sent(kind));
        }
        counters.waited(Duration::from_millis(1500));
        let row = serde_json::to_string(&counters.row("docker.io", "hub")).unwrap();
        insta::assert_snapshot!(row, @r#"{"host":"docker.io","account":"hub","requests":{"manifest_head":1,"manifest_get":2,"manifest_put":3,"blob_head":4,"blob_get":5,"blob_put":6,"mount":7,"tags":8,"referrers":0,"token":9},"throttled":0,"retries":0,"waited_seconds":1.5,"pulls":null}"#);
    }
}
