//! An artifact cache as Azure Container Registry has it (docs/registries.md, "Azure: what a pull does"): what is asked for below a rule's target comes from the
//! upstream until it has been imported, which happens later, and only for what was pulled.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use larder::content::Digest;
use reqwest::{Method, Response};
use serde_json::Value;

use super::content::Content;
use super::log::Kind;
use super::options::Options;
use super::reply::{Reply, error, reply, with};
use super::route::Route;
use super::service::Registry;
use super::state::Stored;
use crate::support::push::client;

/// A cache rule, and how the cache behaves.
#[derive(Debug, Clone)]
pub struct Acr {
    /// The upstream, `http://127.0.0.1:PORT`.
    pub upstream: String,
    /// The repositories at the cache that the rule owns begin with it; what follows is the upstream's repository.
    pub prefix: String,
    /// What was pulled is imported when it has been asked for so many times more, by tag or digest.
    pub lag: usize,
    /// A tag that was imported is not asked for upstream.
    pub stale: bool,
    /// Whether `X-Azure-Origin` says that an answer comes from the upstream; Harbor says nothing.
    pub says_origin: bool,
    /// Whether answers from the upstream have an `ETag` without quotes, as Harbor's have.
    pub bare_etag: bool,
    /// How a push is refused: status, code and message. `None`: it is taken.
    pub refusal: Option<(u16, &'static str, &'static str)>,
}

/// As Azure says it.
const BLOCKED: (u16, &str, &str) = (403, "DENIED", "The cache rule blocks pushes for the target-repo in the cache rule");

/// As Harbor says it.
pub const PROXY_PROJECT: (u16, &str, &str) = (403, "DENIED", "can not push artifact to a proxy project: m");

impl Acr {
    /// A rule for everything below `prefix` (`m/`), which imports before the next question.
    pub fn new(upstream: &super::Fake, prefix: &str) -> Self {
        Acr {
            upstream: upstream.url(),
            prefix: prefix.to_owned(),
            lag: 0,
            stale: false,
            says_origin: true,
            bare_etag: false,
            refusal: Some(BLOCKED),
        }
    }
}

/// What was pulled and is not imported yet: how many more questions it takes.
#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<(String, String), usize>>);

/// The answer to a request that a cache rule decides; `None`: it is nobody's but the registry's.
pub(super) async fn answer(registry: &Registry, options: &Options, route: &Route) -> Option<Reply> {
    let acr = options.acr.clone()?;
    let (kind, repository) = (route.kind, route.repository.as_str());
    let path = repository.strip_prefix(&acr.prefix)?;
    match kind {
        Kind::UploadPost | Kind::Mount | Kind::ManifestPut => acr.refusal.map(|(status, code, message)| error(status, code, message)),
        Kind::ManifestHead | Kind::ManifestGet => {
            if is_due(registry, route) {
                import(registry, &acr, repository, path, &route.reference).await;
            }
            manifest(registry, route, &acr, path).await
        }
        Kind::BlobHead | Kind::BlobGet => {
            let digest = Digest::parse(&route.reference).ok()?;
            if registry.state.lock().blob(repository, &digest).is_some() {
                return None;
            }
            let method = if kind == Kind::BlobGet { Method::GET } else { Method::HEAD };
            Some(pass_on(ask(&acr, method, &format!("{path}/blobs/{digest}")).await).await)
        }
        _ => None,
    }
}

/// Whether what is asked for was pulled, and the time has come to import it.
fn is_due(registry: &Registry, route: &Route) -> bool {
    let mut pending = registry.pending.0.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (route.repository.clone(), route.reference.clone());
    match pending.get_mut(&key) {
        Some(0) => pending.remove(&key).is_some(),
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

async fn manifest(registry: &Registry, route: &Route, acr: &Acr, path: &str) -> Option<Reply> {
    let (repository, reference) = (&route.repository, &route.reference);
    let own = registry.state.lock().manifest(repository, reference).map(|(digest, _)| digest);
    let url = format!("{path}/manifests/{reference}");
    if let Some(own) = own {
        if reference.contains(':') || acr.stale {
            return None;
        }
        let upstream = ask(acr, Method::HEAD, &url).await;
        if said(&upstream) == Some(own.as_str()) {
            return None;
        }
    }
    let get = route.kind == Kind::ManifestGet;
    let upstream = ask(acr, if get { Method::GET } else { Method::HEAD }, &url).await;
    if get && upstream.status().is_success() {
        let key = (repository.clone(), reference.clone());
        registry.pending.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, acr.lag);
    }
    let answer = pass_on(upstream).await;
    let digest = answer.headers().get("docker-content-digest").and_then(|digest| digest.to_str().ok()).map(str::to_owned);
    Some(match digest {
        _ if acr.says_origin => with(answer, "x-azure-origin", "upstream"),
        // As Harbor writes it: without quotes.
        Some(digest) if acr.bare_etag => with(answer, "etag", digest),
        _ => answer,
    })
}

/// Takes a manifest, its name and its blobs; of an index not the children.
async fn import(registry: &Registry, acr: &Acr, repository: &str, path: &str, reference: &str) {
    let answer = ask(acr, Method::GET, &format!("{path}/manifests/{reference}")).await;
    let Some(media_type) = answer.headers().get("content-type").and_then(|value| value.to_str().ok()).map(str::to_owned) else { return };
    let bytes = answer.bytes().await.unwrap();
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    for blob in layers.iter().chain(manifest.get("config")) {
        let digest = Digest::parse(blob["digest"].as_str().unwrap()).unwrap();
        let bytes: Bytes = ask(acr, Method::GET, &format!("{path}/blobs/{digest}")).await.bytes().await.unwrap();
        registry.state.lock().put_blob(repository, &digest, Content::Kept(bytes));
    }
    let digest = Digest::sha256(&bytes);
    let mut state = registry.state.lock();
    let repo = state.repo(repository);
    repo.manifests.insert(digest.clone(), Stored { media_type, bytes });
    if !reference.contains(':') {
        repo.tags.insert(reference.to_owned(), digest);
    }
}

async fn ask(acr: &Acr, method: Method, path: &str) -> Response {
    let request = client().request(method, format!("{}/v2/{path}", acr.upstream));
    request.header("accept", ACCEPT).send().await.unwrap()
}

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

fn said(answer: &Response) -> Option<&str> {
    answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok())
}

/// An upstream's answer, as the cache gives it: a refusal for its pull limit in the cache's own words.
async fn pass_on(upstream: Response) -> Reply {
    let status = upstream.status().as_u16();
    if status == 429 {
        return error(429, "TOOMANYREQUESTS", "too many requests to source registry for cache rule hub");
    }
    let headers: Vec<(&str, String)> = ["content-type", "content-length", "docker-content-digest"]
        .into_iter()
        .filter_map(|name| Some((name, upstream.headers().get(name)?.to_str().ok()?.to_owned())))
        .collect();
    let answer = reply(status, upstream.bytes().await.unwrap_or_default());
    headers.into_iter().fold(answer, |answer, (name, value)| with(answer, name, value))
}
