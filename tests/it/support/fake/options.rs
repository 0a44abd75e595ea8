//! How a fake registry behaves: everything in which real registries differ.

use std::time::Duration;

use super::acr::Acr;
use super::auth::Auth;

/// The behaviour of a [`super::Fake`]. The default is the strictest registry that keeps to distribution-spec 1.1.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may do what.
    pub auth: Auth,
    /// Whether answers about manifests carry `Docker-Content-Digest` (a SHOULD in 1.1).
    pub digest_header: bool,
    /// Whether `Accept` must name the stored media type, as in distribution; otherwise 404 `MANIFEST_UNKNOWN`.
    pub strict_accept: bool,
    /// Whether a manifest is refused with `MANIFEST_BLOB_UNKNOWN` when the repository lacks something it refers to.
    pub check_children: bool,
    /// Manifests with more bytes are answered 413.
    pub max_manifest: usize,
    /// Whether repositories come into being by a push; otherwise 404 `NAME_UNKNOWN` as at ECR.
    pub auto_create: bool,
    /// Whether `Range` of a blob GET is honoured.
    pub ranges: bool,
    /// Whether ranges with an open end (`bytes=5-`) are answered 416, as by go-containerregistry's server.
    pub closed_ranges_only: bool,
    /// Whether every `Range` of a blob GET is answered 416.
    pub refuse_ranges: bool,
    /// Whether upload `Location`s are absolute URLs.
    pub location_absolute: bool,
    /// Whether upload `Location`s have a query, which must come back with the next step.
    pub location_query: bool,
    /// Whether blobs can be mounted; otherwise an upload is opened (202).
    pub mount: bool,
    /// Whether `POST ?digest=` takes a blob in one request; otherwise an upload is opened (202).
    pub single_post: bool,
    /// PUT bodies of uploads with more bytes are answered 413 (ACR's front end); PATCH is not limited.
    pub max_put: Option<u64>,
    /// Whether PATCH works; otherwise 405 (Google Artifact Registry, GHCR).
    pub chunked: bool,
    /// `OCI-Chunk-Min-Length`; enforced for every PATCH but the last.
    pub chunk_min_length: Option<u64>,
    /// Whether the bytes of uploaded blobs are kept. Without, they are hashed and forgotten: HEAD answers, GET does not.
    pub keep_uploads: bool,
    /// Whether an upload whose body breaks off keeps the bytes that came, as at distribution 3; otherwise it is forgotten, as by
    /// docker-registry 2.8 and zot.
    pub keep_broken_uploads: bool,
    /// Whether an answer may come before the request's body has been read (a refusal then often meets a client that
    /// is still sending). Without, the body is read first, which keeps tests deterministic.
    pub early_answers: bool,
    /// The most tags, and repositories of the catalog, in one answer.
    pub page: Option<usize>,
    /// How the next page is named.
    pub link: Link,
    /// Whether there is a referrers API; otherwise 404, as at distribution.
    pub referrers: bool,
    /// Whether a PUT of a manifest with a subject is answered with `OCI-Subject`, where there is a referrers API.
    pub subject_header: bool,
    /// The most referrers in one answer.
    pub referrers_page: Option<usize>,
    /// Whether `artifactType` filters referrers; a client must do it itself where `OCI-Filters-Applied` is missing.
    pub referrers_filter: bool,
    /// Whether there is a catalog.
    pub catalog: bool,
    /// Whether manifests and blobs can be deleted.
    pub delete: bool,
    /// Blob GETs are redirected to another host.
    pub redirect: Option<Redirect>,
    /// A pull limit as Docker Hub has it.
    pub pulls: Option<Pulls>,
    /// A limit of requests per second.
    pub rate: Option<Rate>,
    /// It is an artifact cache as well.
    pub acr: Option<Acr>,
    /// Every answer comes so much later.
    pub latency: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            auth: Auth::None,
            digest_header: true,
            strict_accept: true,
            check_children: true,
            // distribution's maxManifestBodySize; the specification asks for at least this much.
            max_manifest: 4 << 20,
            auto_create: true,
            ranges: true,
            closed_ranges_only: false,
            refuse_ranges: false,
            location_absolute: false,
            location_query: false,
            mount: true,
            single_post: true,
            max_put: None,
            chunked: true,
            chunk_min_length: None,
            keep_uploads: true,
            keep_broken_uploads: true,
            early_answers: false,
            page: None,
            link: Link::Relative,
            referrers: true,
            subject_header: true,
            referrers_page: None,
            referrers_filter: true,
            catalog: true,
            delete: true,
            redirect: None,
            pulls: None,
            rate: None,
            acr: None,
            latency: None,
        }
    }
}

/// How a `Link` header names the next page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// `</v2/…?n=2&last=b>; rel="next"`
    Relative,
    /// With scheme and host.
    Absolute,
    /// Quay's `next_page=<opaque>`; `last` means nothing.
    Quay,
}

/// Blob GETs are answered 307 to a second listener that fails when credentials arrive with the request, as S3 does.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// The name of the second host; it must resolve to 127.0.0.1.
    pub host: String,
    /// After so many uses a link is answered 403, as an expired signature is.
    pub uses: Option<u32>,
}

impl Default for Redirect {
    fn default() -> Self {
        Redirect { host: "localhost".to_owned(), uses: None }
    }
}

/// A window in which so many manifest GETs are answered, per account, in real time; HEADs are free. It starts with the
/// first pull (docs/registries.md, "Docker Hub").
#[derive(Debug, Clone)]
pub struct Pulls {
    /// Pulls per window and account.
    pub limit: u32,
    /// Other limits for accounts: `anonymous`, or a user's name.
    pub limits: Vec<(String, u32)>,
    /// The window's length; headers say it in whole seconds, rounded up.
    pub window: Duration,
    /// Whether `ratelimit-limit`, `ratelimit-remaining` and `docker-ratelimit-source` are sent.
    pub headers: bool,
    /// Whether a refusal says `Retry-After`.
    pub retry_after: bool,
}

impl Pulls {
    /// `limit` pulls per `window`, with Docker Hub's headers.
    pub fn new(limit: u32, window: Duration) -> Self {
        Pulls { limit, limits: vec![], window, headers: true, retry_after: false }
    }
}

/// A limit of requests per second over all routes; over it: 429, plain text.
#[derive(Debug, Clone)]
pub struct Rate {
    /// Requests per second.
    pub per_second: f64,
    /// How many may come at once.
    pub burst: f64,
    /// The `Retry-After` of a refusal.
    pub retry_after: Option<String>,
}
