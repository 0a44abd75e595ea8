//! Accepts connections up to a limit, gives each a time limit, and ends all of them when the server stops.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::error::{ApiError, Code};
use super::stall::StallTimeout;
use super::{ServeContext, answer};

/// The largest head of a request, in bytes. A token of Docker Hub has 3 KiB; nginx accepts twice this (4 buffers of 8
/// KiB).
const MAX_HEAD: usize = 16 * 1024;
/// The largest number of headers; containerd sends six.
const MAX_HEADERS: usize = 64;
/// Bytes of a response that hyper buffers before it waits for the client. Less than a chunk of a blob, so that one
/// chunk is buffered, not two.
const BUFFER: usize = 64 * 1024;
/// Connections over the limit that are answered with 429 at once; more are just closed.
const TURNED_AWAY: usize = 32;
/// The delay after an accept that failed because no file descriptors are left: others have to be closed first.
const NO_FILES: Duration = Duration::from_secs(1);

/// State shared by all connections.
struct Listener {
    shop: ServeContext,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Serves until `shutdown` is ready, then for at most the grace period.
pub(super) async fn run(listener: TcpListener, shop: ServeContext, shutdown: impl Future<Output = ()>) {
    let bounds = shop.options.bounds;
    let door = Arc::new(Listener {
        tls: shop.options.tls.as_ref().map(super::Tls::acceptor),
        places: Arc::new(Semaphore::new(bounds.connections)),
        turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
        stop: CancellationToken::new(),
        shop,
    });
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => door.admit(stream, &mut connections),
                Err(error) => rest(&error).await,
            },
        }
    }
    drop(listener);
    door.stop.cancel();
    let drained = timeout(bounds.grace, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        // Remaining connections end with the set.
        tracing::info!(connections = connections.len(), "cut off");
    }
}

/// Errors of one connection do not concern the others.
async fn rest(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "no connection can be taken");
        tokio::time::sleep(NO_FILES).await;
    }
}

impl Listener {
    fn admit(self: &Arc<Self>, stream: TcpStream, connections: &mut JoinSet<()>) {
        // Responses are often one small packet. Waiting to fill it (Nagle) would cost a delayed acknowledgement for
        // each.
        let _ = stream.set_nodelay(true);
        let (repository, full) = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(repository) => (Ok(repository), false),
            Err(_) => (Arc::clone(&self.turned_away).try_acquire_owned(), true),
        };
        if full {
            self.shop.meter.turn_away();
        }
        if let Ok(repository) = repository {
            connections.spawn(Arc::clone(self).connection(stream, repository, full));
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, _place: OwnedSemaphorePermit, full: bool) {
        let _open = self.shop.meter.connected();
        match &self.tls {
            None => self.talk(stream, full).await,
            Some(tls) => match timeout(self.shop.options.bounds.head, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.talk(stream, full).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
                Err(_) => tracing::debug!("no TLS in time"),
            },
        }
    }

    async fn talk(&self, stream: impl AsyncRead + AsyncWrite + Unpin, full: bool) {
        let bounds = self.shop.options.bounds;
        let service = service_fn(async |request: hyper::Request<Incoming>| {
            Ok::<Response<Body>, Infallible>(if full { no_place() } else { answer::request(&self.shop, &request).await })
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(bounds.head).keep_alive(!full);
        http.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD).max_buf_size(BUFFER);
        let mut connection = pin!(http.serve_connection(TokioIo::new(StallTimeout::new(stream, bounds.stall)), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke off");
        }
    }
}

/// Answers 429 to a connection over the limit: containerd and skopeo then retry.
fn no_place() -> Response {
    let mut response = ApiError::new(Code::TooManyRequests, "too many connections: try again in a second").into_response();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
