//! What every host and account was asked, and how often it made us wait: the report's `registries`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::AccountStatus;
use crate::report::{PullRow, RegistryRow, Requests};

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
    /// GET of one page of a list of referrers.
    Referrers,
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

    /// The counts so far, as a row of the report; `pulls` is what is known of the account's budget.
    pub(crate) fn row(&self, host: &str, account: &str, pulls: Option<AccountStatus>) -> RegistryRow {
        let waited =
            Duration::from_micros(self.waited_micros.load(Ordering::Relaxed)) + pulls.as_ref().map_or(Duration::ZERO, |pulls| pulls.waited);
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
                referrers: of(RequestKind::Referrers),
                token: of(RequestKind::Token),
            },
            throttled: self.throttled.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            waited_seconds: waited.as_secs_f64(),
            pulls: pulls.and_then(pull_row),
        }
    }
}

/// Nothing if pulls are not counted, or their limit is not known.
pub(crate) fn pull_row(standing: AccountStatus) -> Option<PullRow> {
    Some(PullRow {
        spent: standing.spent,
        limit: standing.limit?,
        remaining: standing.remaining?,
        window_seconds: standing.window.map_or(0, |window| window.as_secs()),
        source: standing.source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_are_shown_where_somebody_counts_them() {
        let counted = AccountStatus {
            spent: 3,
            refused: 1,
            limit: Some(100),
            remaining: Some(97),
            told: None,
            window: Some(Duration::from_secs(21_600)),
            source: Some("192.0.2.1".to_owned()),
            closes: None,
            unlimited: false,
            waited: Duration::from_secs(20),
            waiting: 0,
            waiting_for_window: 0,
        };
        let counters = Counters::default();
        counters.waited(Duration::from_secs(1));
        let row = counters.row("docker.io", "hub", Some(counted.clone()));
        assert_eq!(row.waited_seconds, 21.0);
        let pulls = serde_json::to_string(&row.pulls).unwrap();
        insta::assert_snapshot!(pulls, @r#"{"spent":3,"limit":100,"remaining":97,"window_seconds":21600,"source":"192.0.2.1"}"#);
        assert!(counters.row("docker.io", "hub", Some(AccountStatus { limit: None, remaining: None, ..counted })).pulls.is_none());
    }

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
            RequestKind::Referrers,
            RequestKind::Token,
        ];
        for (index, kind) in kinds.into_iter().enumerate() {
            (0..=index).for_each(|_| counters.sent(kind));
        }
        counters.waited(Duration::from_millis(1500));
        let row = serde_json::to_string(&counters.row("docker.io", "hub", None)).unwrap();
        insta::assert_snapshot!(row, @r#"{"host":"docker.io","account":"hub","requests":{"manifest_head":1,"manifest_get":2,"manifest_put":3,"blob_head":4,"blob_get":5,"blob_put":6,"mount":7,"tags":8,"referrers":9,"token":10},"throttled":0,"retries":0,"waited_seconds":1.5,"pulls":null}"#);
    }
}
