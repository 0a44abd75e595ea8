//! A small scripted registry for the tests of this room: a function answers, and every request is kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use super::auth::{Login, Logins};
use super::{HostSettings, Registries, RegistryStore, RetryPolicy, SharedLimits};
use crate::content::{BlobStream, Descriptor, Digest, OpenBlob, Repository, RequestContext};
use crate::limits::{Accounts, Clock};
use crate::mutex::Mutex;
use crate::{Result, Side};

/// A request as the server got it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: axum::http::HeaderMap,
    pub(super) body: Bytes,
    /// How many requests with this method and path came before it.
    pub(super) nth: usize,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
    /// `GET /path`, to match on.
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.path())
    }
}

/// A running server.
pub(super) struct Server {
    /// `127.0.0.1:port`
    pub(super) host: String,
    log: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What to answer, and whether that happens before the body is read.
pub(super) type Script = dyn Fn(&Seen) -> Response + Send + Sync;

impl Server {
    pub(super) async fn start(script: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        Self::with(script, |_| false).await
    }

    /// As `start`; requests of which `early` is true are answered without reading their body.
    pub(super) async fn with(
        script: impl Fn(&Seen) -> Response + Send + Sync + 'static,
        early: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::<Seen>::new()));
        let (script, early, seen): (Arc<Script>, _, _) = (Arc::new(script), Arc::new(early), Arc::clone(&log));
        let app = Router::new().fallback(move |request: Request| {
            let (script, early, seen) = (Arc::clone(&script), Arc::clone(&early), Arc::clone(&seen));
            async move {
                let (parts, body) = request.into_parts();
                let (method, target) = (parts.method.to_string(), parts.uri.to_string());
                let path = parts.uri.path().to_owned();
                let body = if early(&method) {
                    Bytes::new()
                } else {
                    // An upload that its sender breaks off is part of some tests.
                    axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default()
                };
                let request = {
                    let mut seen = seen.lock();
                    let nth = seen.iter().filter(|before| before.method == method && before.path() == path).count();
                    let request = Seen { method, target, headers: parts.headers, body, nth };
                    seen.push(request.clone());
                    request
                };
                script(&request)
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Server { host, log, task }
    }

    /// What came, in order.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.log.lock().clone()
    }

    /// The lines of what came, in order.
    pub(super) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
}

/// An answer.
pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// An answer that announces `length` bytes, sends `part` and breaks the connection.
pub(super) fn broken(status: u16, headers: &[(&str, &str)], part: &[u8], length: usize) -> Response {
    let chunks = [Ok(Bytes::copy_from_slice(part)), Err(std::io::Error::other("cut"))];
    let mut headers = headers.to_vec();
    let length = length.to_string();
    headers.push(("content-length", &length));
    // The part must have left before the break is seen, or hyper drops both together.
    let stream = stream::iter(chunks).then(|chunk| async move {
        if chunk.is_err() {
            tokio::task::yield_now().await;
        }
        chunk
    });
    answer(status, &headers, Body::from_stream(stream))
}

/// An answer whose body never ends.
pub(super) fn endless(status: u16, headers: &[(&str, &str)]) -> Response {
    answer(status, headers, Body::from_stream(stream::repeat(Bytes::from_static(&[b' '; 65536])).map(Ok::<_, std::io::Error>)))
}

/// An OCI error.
pub(super) fn refuse(status: u16, code: &str) -> Response {
    answer(status, &[], format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"no\"}}]}}"))
}

/// Nobody.
pub(super) struct Nobody;

#[async_trait]
impl Logins for Nobody {
    async fn login(&self) -> Result<Login> {
        Ok(Login::Anonymous)
    }
    async fn renew(&self, _refused: &Login) -> Result<Option<Login>> {
        Ok(None)
    }
    fn name(&self) -> &str {
        "anonymous"
    }
}

/// The store at a server, retrying within milliseconds.
pub(super) fn store(server: &Server, side: Side) -> (Registries, Arc<RegistryStore>) {
    let retry = RetryPolicy {
        attempts: 4,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
        idle: Duration::from_secs(5),
        ..RetryPolicy::default()
    };
    let registries = Registries::new(|_| HostSettings::default(), retry, limits());
    let store = registries.store(side, &server.host, Arc::new(Nobody)).unwrap();
    (registries, store)
}

/// Nothing is shared with other runs.
pub(super) fn limits() -> SharedLimits {
    SharedLimits { accounts: Arc::new(Accounts::new(Clock::start(Timestamp::now()), None)), bandwidth: None }
}

pub(super) fn repository() -> Repository {
    Repository::new("a/b")
}

pub(super) fn context() -> RequestContext {
    RequestContext::new("image:1")
}

/// Bytes that differ everywhere, so that a wrong offset shows.
pub(super) fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| u8::try_from((n / 251 + n) % 251).unwrap()).collect()
}

pub(super) fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::sha256(bytes), bytes.len() as u64)
}

/// All of a stream.
pub(super) async fn read(mut stream: BlobStream) -> Result<Vec<u8>> {
    let mut all = vec![];
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// A blob at hand, and how often it was opened.
pub(super) struct AtHand {
    pub(super) chunks: Mutex<Vec<Vec<Result<Bytes>>>>,
    pub(super) opened: std::sync::atomic::AtomicUsize,
}

impl AtHand {
    /// The same bytes each time.
    pub(super) fn new(bytes: &Bytes) -> Self {
        Self::scripted(vec![pieces(bytes)])
    }

    /// Each time the next of `turns`; the last one again and again.
    pub(super) fn scripted(turns: Vec<Vec<Result<Bytes>>>) -> Self {
        AtHand { chunks: Mutex::new(turns), opened: 0.into() }
    }

    pub(super) fn opened(&self) -> usize {
        self.opened.load(std::sync::atomic::Ordering::SeqCst)
    }
}

pub(super) fn pieces(bytes: &Bytes) -> Vec<Result<Bytes>> {
    bytes.chunks(16 * 1024).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect()
}

#[async_trait]
impl OpenBlob for AtHand {
    async fn open(&self, offset: u64) -> Result<BlobStream> {
        assert_eq!(offset, 0);
        self.opened.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut turns = self.chunks.lock();
        let chunks = if turns.len() > 1 { turns.remove(0) } else { turns[0].clone() };
        Ok(stream::iter(chunks).boxed())
    }
}
