//! Builds responses from the content of the source.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, LINK, RANGE};
use axum::http::response::Builder;
use axum::http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::error::{ApiError, Code};
use super::page::PageQuery;
use super::range::{ByteRange, wanted};
use super::route::{NO_ROUTE, Route};
use super::traffic::ByteMeter;
use super::{ServeContext, ServeOptions, metrics, names, referrers};
use crate::content::{BlobStream, Descriptor, Digest, Repository, RequestContext};
use crate::name::Reference;
use crate::{Error, Kind, Operation, Side};

/// The header with the digest of the content (distribution-spec, "Pulling manifests").
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The header that Docker's registries send with every response; old clients identify a registry by it.
const API_VERSION: (&str, &str) = ("docker-distribution-api-version", "registry/2.0");
/// The header that tells that `ns` was used (distribution-spec, "Registry Proxying").
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// Only manifests know the media type of a blob.
const BLOB_TYPE: &str = "application/octet-stream";
/// Bytes of a blob between two delays of [`ServeOptions::chunk_delay`].
const PIECE: usize = 64 * 1024;

/// Answers one request. Does not read its body.
pub(super) async fn request<B>(shop: &ServeContext, request: &Request<B>) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let (label, answer) = match Route::parse(method, path) {
        Ok(route) => {
            shop.meter.count(method, &route);
            (route.label(), shop.answer(route, method == Method::HEAD, request.uri().query(), request.headers()).await)
        }
        Err(error) => (NO_ROUTE, Err(error)),
    };
    let response = answer.unwrap_or_else(IntoResponse::into_response);
    shop.meter.answered(label, response.status().as_u16());
    tracing::debug!(%method, path, status = response.status().as_u16(), "served");
    response
}

/// A repository in a request.
struct RequestedRepository<'a> {
    /// Its name in the path.
    name: &'a Repository,
    /// The registry that the name belongs to, if the client tells.
    ns: Option<String>,
    /// The repositories of the source to look in.
    places: Vec<Repository>,
}

impl RequestedRepository<'_> {
    /// `query` plus the parameters that make it mean the same repository; for the address of the next page.
    fn again(&self, query: &str) -> String {
        match &self.ns {
            Some(ns) => format!("{query}&ns={}", url::form_urlencoded::byte_serialize(ns.as_bytes()).collect::<String>()),
            None => query.to_owned(),
        }
    }
}

impl std::fmt::Display for RequestedRepository<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.ns {
            Some(ns) => write!(f, "{ns}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

impl ServeContext {
    async fn answer(&self, route: Route, head: bool, query: Option<&str>, headers: &HeaderMap) -> Result<Response, ApiError> {
        let ns = match route {
            Route::Version | Route::Catalog | Route::Metrics => None,
            _ => names::namespace(query)?,
        };
        let asked = |name| RequestedRepository {
            name,
            places: names::places(name.as_str(), ns.as_deref(), &self.options.known_as),
            ns: ns.clone(),
        };
        let answer = match &route {
            Route::Version => json_answer(ok(), "{}".to_owned()),
            Route::Manifest { repository, reference } => self.manifest(&asked(repository), reference, head, headers).await,
            Route::Blob { repository, digest } => self.blob(&asked(repository), digest, head, headers).await,
            Route::Tags { repository } => self.tags(&asked(repository), &PageQuery::parse(query)?).await,
            Route::Referrers { repository, digest } => {
                self.referrers(&asked(repository), digest, &referrers::ReferrersQuery::parse(query)?).await
            }
            Route::Catalog => self.catalog(&PageQuery::parse(query)?).await,
            Route::Metrics => text_answer(crate::report::openmetrics::CONTENT_TYPE, metrics::text(&self.meter)),
        };
        answer.map(|mut answer| {
            let said = ns.and_then(|ns| axum::http::HeaderValue::try_from(ns).ok());
            answer.headers_mut().extend(said.map(|ns| (NAMESPACE, ns)));
            answer
        })
    }

    /// Answers with the stored manifest, whatever the client accepts: another form would have another digest.
    async fn manifest(
        &self,
        asked: &RequestedRepository<'_>,
        reference: &Reference,
        head: bool,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        let context = RequestContext::new(format!("{asked}{}", reference.suffix()));
        let unknown = || ApiError::new(Code::ManifestUnknown, format!("{asked} has no manifest {}", reference.as_str()));
        let failed = |error: Error| refused(&error, &context, Code::ManifestUnknown);
        let mut at = None;
        for repository in &asked.places {
            if let Some(found) = self.source.resolve(repository, reference, &context).await.map_err(failed)? {
                at = Some((repository, found));
                break;
            }
        }
        if let (Some(host), Reference::Tag(tag)) = (&asked.ns, reference)
            && let Some(found) = self.source.resolve_copied_from(host, asked.name, tag, &context).await.map_err(failed)?
        {
            match &at {
                Some((_, other)) if other.digest != found.digest => return Err(ambiguous(asked, reference)),
                _ => at = Some((asked.name, found)),
            }
        }
        let (repository, mut found) = at.ok_or_else(unknown)?;
        if is_known(headers, &found.digest) {
            return not_modified(&found.digest);
        }
        // Also read for HEAD: the content may not be a manifest, and a client should learn that before its GET.
        let manifest = self.source.manifest(repository, &found.digest, &context).await.map_err(failed)?.ok_or_else(unknown)?;
        found = manifest.descriptor();
        let body = if head { Body::empty() } else { manifest.bytes().clone().into() };
        let answer = tagged(ok(), &found.digest).header(CONTENT_TYPE, found.media_type).header(CONTENT_LENGTH, found.size);
        send(answer, body)
    }

    async fn blob(&self, asked: &RequestedRepository<'_>, digest: &Digest, head: bool, headers: &HeaderMap) -> Result<Response, ApiError> {
        let context = RequestContext::new(format!("{asked}@{digest}"));
        let unknown = || ApiError::new(Code::BlobUnknown, format!("{asked} has no blob {digest}"));
        let failed = |error: Error| refused(&error, &context, Code::BlobUnknown);
        let mut at = None;
        for repository in &asked.places {
            if let Some(size) = self.source.blob_size(repository, digest, &context).await.map_err(failed)? {
                at = Some((repository, size));
                break;
            }
        }
        let (repository, size) = at.ok_or_else(unknown)?;
        if is_known(headers, digest) {
            return not_modified(digest);
        }
        let answer = tagged(ok(), digest).header(CONTENT_TYPE, BLOB_TYPE).header(ACCEPT_RANGES, "bytes");
        if head {
            return send(answer.header(CONTENT_LENGTH, size), Body::empty());
        }
        let (answer, first, length) = match wanted(range_header(headers, digest), size) {
            ByteRange::Whole => (answer, 0, size),
            ByteRange::Part { first, last } => {
                let partial = answer.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
                (partial, first, last - first + 1)
            }
            ByteRange::Nothing => return Err(ApiError::range(size)),
        };
        let blob = Descriptor::new(BLOB_TYPE, digest.clone(), size);
        let bytes = self.source.blob(repository, &blob, first, &context).await.map_err(failed)?.ok_or_else(unknown)?;
        let body = outgoing(bytes, length, &context, &self.options, self.meter.clone());
        send(answer.header(CONTENT_LENGTH, length), Body::from_stream(body))
    }

    /// The tags of all repositories that the name can mean. A repository without tags is unknown: the source cannot
    /// tell the two apart.
    async fn tags(&self, asked: &RequestedRepository<'_>, page: &PageQuery) -> Result<Response, ApiError> {
        let context = RequestContext::new(asked.to_string());
        let mut all = vec![];
        for repository in &asked.places {
            all.extend(self.source.tags(repository, &context).await.map_err(|error| refused(&error, &context, Code::NameUnknown))?);
        }
        if let Some(host) = &asked.ns {
            let copied = self.source.tags_copied_from(host, asked.name, &context).await;
            all.extend(copied.map_err(|error| refused(&error, &context, Code::NameUnknown))?);
        }
        if all.is_empty() {
            return Err(ApiError::new(Code::NameUnknown, format!("there is no repository {asked} here")));
        }
        let (tags, next) = page.cut(all);
        let next = next.map(|query| format!("/v2/{}/tags/list?{}", asked.name, asked.again(&query)));
        json_answer(linked(ok(), next), json!({ "name": asked.name.as_str(), "tags": tags }).to_string())
    }

    /// The referrers of a manifest, even if that is not there: a subject may be pushed after its referrers.
    async fn referrers(
        &self,
        asked: &RequestedRepository<'_>,
        subject: &Digest,
        wanted: &referrers::ReferrersQuery,
    ) -> Result<Response, ApiError> {
        let context = RequestContext::new(format!("{asked}@{subject}"));
        let mut all = vec![];
        for repository in &asked.places {
            let found = self.source.referrers(repository, subject, &context).await;
            all.extend(found.map_err(|error| refused(&error, &context, Code::ManifestUnknown))?);
        }
        let (body, next) = wanted.answer(all);
        let next = next.map(|query| format!("/v2/{}/referrers/{subject}?{}", asked.name, asked.again(&query)));
        let mut answer = linked(ok(), next);
        if wanted.is_filtered() {
            answer = answer.header(referrers::FILTERS_APPLIED, "artifactType");
        }
        send(answer.header(CONTENT_TYPE, referrers::INDEX).header(CONTENT_LENGTH, body.len()), Body::from(body))
    }

    async fn catalog(&self, page: &PageQuery) -> Result<Response, ApiError> {
        let context = RequestContext::new("_catalog");
        let all = self.source.repositories(&context).await.map_err(|error| refused(&error, &context, Code::NameUnknown))?;
        let all = all.ok_or_else(ApiError::no_such_endpoint)?;
        let (repositories, next) = page.cut(all.iter().filter_map(names::servable).collect());
        let answer = linked(ok(), next.map(|query| format!("/v2/_catalog?{query}")));
        json_answer(answer, json!({ "repositories": repositories }).to_string())
    }
}

/// Adds the address of the next page, if there is one (RFC 8288).
fn linked(answer: Builder, next: Option<String>) -> Builder {
    match next {
        Some(next) => answer.header(LINK, format!("<{next}>; rel=\"next\"")),
        None => answer,
    }
}

fn ok() -> Builder {
    Response::builder().status(StatusCode::OK).header(API_VERSION.0, API_VERSION.1)
}

/// Adds the digest of the content, which clients check and caches compare.
fn tagged(answer: Builder, digest: &Digest) -> Builder {
    answer.header(CONTENT_DIGEST, digest.as_str()).header(ETAG, format!("\"{digest}\""))
}

fn not_modified(digest: &Digest) -> Result<Response, ApiError> {
    send(tagged(ok(), digest).status(StatusCode::NOT_MODIFIED), Body::empty())
}

fn text_answer(media_type: &str, body: String) -> Result<Response, ApiError> {
    send(Response::builder().header(CONTENT_TYPE, media_type).header(CONTENT_LENGTH, body.len()), Body::from(body))
}

fn json_answer(answer: Builder, body: String) -> Result<Response, ApiError> {
    send(answer.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, body.len()), Body::from(body))
}

fn send(answer: Builder, body: Body) -> Result<Response, ApiError> {
    answer.body(body).map_err(|error| ApiError::unservable(&error))
}

/// `host/a/b` can be an image of that name, and also the image whose name at the target is `a/b`. If both exist with
/// different digests, a mirror's client gets neither.
fn ambiguous(asked: &RequestedRepository<'_>, reference: &Reference) -> ApiError {
    let message = format!("{asked}{} is one image by its own name and another by its name at the target", reference.suffix());
    tracing::warn!("{message}: not served under ?ns=");
    ApiError::new(Code::ManifestUnknown, message)
}

fn refused(error: &Error, context: &RequestContext, absent: Code) -> ApiError {
    if error.kind() != Kind::NotFound {
        tracing::warn!(%error, asked = &*context.image, "the source failed");
    }
    ApiError::source(error, absent)
}

/// Whether the client has this content already (RFC 9110, 13.1.2). A weak comparison: `W/` makes no difference.
fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || is_etag_of(tag.strip_prefix("W/").unwrap_or(tag), digest))
}

fn is_etag_of(tag: &str, digest: &Digest) -> bool {
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) == Some(digest.as_str())
}

/// The requested range, unless it is for other content (RFC 9110, 13.1.5; there are no dates to compare).
fn range_header<'a>(headers: &'a HeaderMap, digest: &Digest) -> Option<&'a str> {
    if headers.get(IF_RANGE).is_some_and(|tag| !tag.to_str().is_ok_and(|tag| is_etag_of(tag, digest))) {
        return None;
    }
    headers.get(RANGE)?.to_str().ok()
}

/// The promised `length` bytes, counted when they are sent, and delayed if configured.
fn outgoing(bytes: BlobStream, length: u64, context: &RequestContext, options: &ServeOptions, meter: Arc<ByteMeter>) -> BlobStream {
    let asked = context.image.clone();
    let mut bytes = exactly(bytes, length);
    if let Some(delay) = options.chunk_delay {
        bytes = slowed(bytes, delay);
    }
    bytes
        .inspect_ok(move |chunk| meter.add_bytes(chunk.len()))
        .inspect_err(move |error| tracing::warn!(%error, asked = &*asked, "a body was broken off"))
        .boxed()
}

/// The first `length` bytes. A stream that ends early fails, so that the connection breaks and the client notices.
fn exactly(bytes: BlobStream, length: u64) -> BlobStream {
    stream::try_unfold((bytes, length), |(mut bytes, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let Some(mut chunk) = bytes.try_next().await? else {
            return Err(Error::new(Side::Local, Operation::ReadBlob, Kind::Damaged, format!("the blob ended {left} bytes early")));
        };
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - chunk.len() as u64;
        Ok(Some((chunk, (bytes, left))))
    })
    .boxed()
}

/// The same bytes in pieces of at most [`PIECE`], with `delay` before each.
fn slowed(bytes: BlobStream, delay: Duration) -> BlobStream {
    let pieces = bytes.flat_map(|chunk| {
        let pieces: Vec<_> = match chunk {
            Ok(chunk) => (0..chunk.len()).step_by(PIECE).map(|at| Ok(chunk.slice(at..chunk.len().min(at + PIECE)))).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(pieces)
    });
    pieces
        .then(move |piece| async move {
            tokio::time::sleep(delay).await;
            piece
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn of(chunks: &[usize]) -> BlobStream {
        let chunks: Vec<crate::Result<Bytes>> = chunks.iter().map(|length| Ok(vec![7; *length].into())).collect();
        stream::iter(chunks).boxed()
    }

    #[tokio::test]
    async fn what_was_promised_is_sent_or_the_body_fails() {
        for (chunks, length, whole) in
            [(&[3usize, 4] as &[usize], 7, true), (&[3, 4], 5, true), (&[3], 4, false), (&[], 0, true), (&[], 1, false)]
        {
            let sent: crate::Result<Vec<Bytes>> = exactly(of(chunks), length).try_collect().await;
            assert_eq!(sent.is_ok(), whole, "{chunks:?} {length}");
            if let Ok(sent) = sent {
                assert_eq!(sent.iter().map(Bytes::len).sum::<usize>() as u64, length, "{chunks:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_body_is_the_same_body_a_piece_at_a_time() {
        let delay = Duration::from_millis(10);
        let started = tokio::time::Instant::now();
        let sent: Vec<Bytes> = slowed(of(&[2 * PIECE + 1, 5]), delay).try_collect().await.unwrap();
        assert_eq!(sent.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE, PIECE, 1, 5]);
        assert!(started.elapsed() >= 4 * delay && started.elapsed() < 5 * delay, "{:?}", started.elapsed());
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
        let digest = Digest::sha256(b"{}");
        let other = Digest::sha256(b"other");
        for (value, known) in [
            (format!("\"{digest}\""), true),
            (format!("W/\"{digest}\""), true),
            (format!("\"{other}\", \"{digest}\""), true),
            ("*".to_owned(), true),
            (format!("\"{other}\""), false),
            (digest.to_string(), false),
            (String::new(), false),
        ] {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, value.parse().unwrap())]);
            assert_eq!(is_known(&headers, &digest), known, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), &digest));
    }
}
