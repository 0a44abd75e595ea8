//! The way of a request through the registry: log, limits, credentials, faults, answer.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::{ConnectInfo, State as Extract};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::auth::Issued;
use super::faults::{Ending, Faults, happen};
use super::limits::Limits;
use super::log::{Entry, InFlight, Kind, Log, Request};
use super::options::{Options, Pulls};
use super::reply::{Reply, error, not_found, reply, with};
use super::route::Route;
use super::state::State;
use super::uploads::Uploads;
use super::wire::Connection;
use super::{acr, blobs, cdn, lists, manifests, uploads};

/// One registry.
pub(super) struct Registry {
    pub(super) options: Mutex<Arc<Options>>,
    pub(super) state: State,
    pub(super) log: Arc<Log>,
    pub(super) faults: Faults,
    pub(super) issued: Issued,
    pub(super) limits: Limits,
    pub(super) uploads: Uploads,
    pub(super) links: cdn::Links,
    pub(super) pending: acr::Pending,
    pub(super) address: SocketAddr,
    pub(super) cdn_address: SocketAddr,
}

impl Registry {
    pub(super) fn options(&self) -> Arc<Options> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A request being answered.
pub(super) struct Exchange {
    pub(super) options: Arc<Options>,
    pub(super) route: Route,
    pub(super) headers: HeaderMap,
    pub(super) entry: Arc<Entry>,
    body: Option<BodyDataStream>,
    /// How much of the body may come before it breaks off.
    left: u64,
}

impl Exchange {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The next piece of the request's body.
    pub(super) async fn piece(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let mut piece = self.body.as_mut()?.next().await;
        if self.left == 0 && matches!(piece, Some(Ok(_))) {
            piece = Some(Err(axum::Error::new(io::Error::from(io::ErrorKind::ConnectionReset))));
        }
        match &mut piece {
            Some(Ok(bytes)) => {
                bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= bytes.len() as u64;
                self.entry.received(bytes.len());
            }
            _ => self.body = None,
        }
        piece
    }

    /// The whole body; `None` if it is longer than `most` (and then read to its end all the same).
    pub(super) async fn whole(&mut self, most: usize) -> Result<Option<Bytes>, axum::Error> {
        let mut out = Vec::new();
        let mut len = 0;
        while let Some(piece) = self.piece().await {
            let piece = piece?;
            len += piece.len();
            if len <= most {
                out.extend_from_slice(&piece);
            }
        }
        Ok((len <= most).then(|| out.into()))
    }
}

/// Answers a request at the registry.
pub(super) async fn registry(
    registry: Extract<Arc<Registry>>,
    connection: ConnectInfo<Connection>,
    request: axum::extract::Request,
) -> Reply {
    serve(&registry, &connection, request, false).await
}

/// Answers a request at the second host.
pub(super) async fn second(
    registry: Extract<Arc<Registry>>,
    connection: ConnectInfo<Connection>,
    request: axum::extract::Request,
) -> Reply {
    serve(&registry, &connection, request, true).await
}

async fn serve(registry: &Arc<Registry>, connection: &Connection, request: axum::extract::Request, cdn: bool) -> Reply {
    let (parts, body) = request.into_parts();
    let route = Route::parse(&parts.method, &parts.uri, cdn);
    let (entry, in_flight) = registry.log.open(Request {
        kind: route.kind,
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        repository: (!route.repository.is_empty()).then(|| route.repository.clone()),
        reference: route.subject(),
        headers: parts.headers.clone(),
        connection: connection.id(),
        status: None,
        bytes_in: 0,
        bytes_out: 0,
    });
    let options = registry.options();
    let body = Some(body.into_data_stream());
    let mut exchange = Exchange { options, route, headers: parts.headers, entry, body, left: u64::MAX };
    let (reply, ending) = match admit(registry, &mut exchange).await {
        Ok(account) => match registry.faults.take(exchange.entry.request()) {
            None => (answer(registry, &mut exchange, &account).await, Ending::Whole),
            Some(fault) => {
                let entry = exchange.entry.clone();
                exchange.left = fault.cuts_upload().unwrap_or(u64::MAX);
                happen(fault, entry.request(), connection, answer(registry, &mut exchange, &account)).await
            }
        },
        Err(refusal) => (refusal, Ending::Whole),
    };
    if ending != Ending::Unseen && !exchange.options.early_answers {
        while let Some(Ok(_)) = exchange.piece().await {}
    }
    finish(
        reply,
        ending,
        Outgoing { entry: exchange.entry, in_flight: Some(in_flight), connection: connection.clone(), sent: 0, left: None },
    )
}

/// The account a request is made for, or its refusal.
async fn admit(registry: &Registry, exchange: &mut Exchange) -> Result<String, Reply> {
    if let Some(latency) = exchange.options.latency {
        tokio::time::sleep(latency).await;
    }
    if exchange.route.kind == Kind::Cdn || exchange.route.kind == Kind::Token {
        return Ok(super::ANONYMOUS.to_owned());
    }
    if let Some(rate) = &exchange.options.rate {
        registry.limits.request(rate)?;
    }
    registry.issued.check(&exchange.options.auth, &exchange.route, &exchange.headers, &registry.origin())
}

/// The registry's own answer.
async fn answer(registry: &Registry, exchange: &mut Exchange, account: &str) -> Reply {
    if let Some(answer) = acr::answer(registry, &exchange.options, &exchange.route).await {
        return answer;
    }
    match exchange.route.kind {
        Kind::Ping => with(with(reply(200, "{}"), "content-type", "application/json"), "docker-distribution-api-version", "registry/2.0"),
        Kind::Token => {
            let form = if exchange.entry.request().method == "POST" { exchange.whole(1 << 16).await.ok().flatten() } else { None };
            registry.issued.token(&exchange.options.auth, &exchange.route, &exchange.headers, form)
        }
        Kind::ManifestHead | Kind::ManifestGet => match exchange.options.pulls.clone() {
            None => manifests::get(registry, exchange),
            Some(pulls) => counted(registry, exchange, &pulls, account),
        },
        Kind::ManifestPut => manifests::put(registry, exchange).await,
        Kind::ManifestDelete => manifests::delete(registry, exchange),
        Kind::BlobHead | Kind::BlobGet => blobs::get(registry, exchange),
        Kind::BlobDelete => blobs::delete(registry, exchange),
        Kind::UploadPost | Kind::Mount => uploads::post(registry, exchange).await,
        Kind::UploadPatch => uploads::patch(registry, exchange).await,
        Kind::UploadPut => uploads::put(registry, exchange).await,
        Kind::UploadGet => uploads::get(registry, exchange).await,
        Kind::UploadDelete => uploads::delete(registry, exchange),
        Kind::Tags => lists::tags(registry, exchange),
        Kind::Referrers => lists::referrers(registry, exchange),
        Kind::Catalog => lists::catalog(registry, exchange),
        Kind::Cdn => cdn::get(registry, exchange),
        Kind::Other if exchange.entry.request().path.starts_with("/v2/") => error(405, "UNSUPPORTED", "the operation is unsupported"),
        Kind::Other => not_found(),
    }
}

/// A manifest request where pulls are limited.
fn counted(registry: &Registry, exchange: &Exchange, pulls: &Pulls, account: &str) -> Reply {
    if exchange.route.kind == Kind::ManifestGet
        && let Err(refusal) = registry.limits.pull(pulls, account)
    {
        return refusal;
    }
    registry.limits.describe(pulls, account, manifests::get(registry, exchange))
}

/// An answer's body on its way out.
struct Outgoing {
    entry: Arc<Entry>,
    in_flight: Option<InFlight>,
    connection: Connection,
    sent: u64,
    /// How many bytes are still to come, where that is known.
    left: Option<u64>,
}

/// Completes the log and lets the body end as it is meant to.
fn finish(mut reply: Reply, ending: Ending, mut outgoing: Outgoing) -> Reply {
    if ending == Ending::Unseen {
        return reply;
    }
    let bodiless = reply.status().is_informational() || matches!(reply.status().as_u16(), 204 | 304);
    if !bodiless
        && !reply.headers().contains_key(header::CONTENT_LENGTH)
        && let Some(length) = reply.body().size_hint().exact()
    {
        reply.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    outgoing.entry.answered(reply.status().as_u16());
    if reply.body().is_end_stream() && ending == Ending::Whole {
        return reply;
    }
    let length = reply.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    outgoing.left = length;
    let (parts, body) = reply.into_parts();
    let pieces = stream::unfold((outgoing, body.into_data_stream()), move |(mut outgoing, mut body)| async move {
        let piece = outgoing.next(&mut body, ending).await?;
        Some((piece, (outgoing, body)))
    });
    Reply::from_parts(parts, Body::from_stream(pieces))
}

impl Outgoing {
    async fn next(&mut self, body: &mut BodyDataStream, ending: Ending) -> Option<io::Result<Bytes>> {
        let most = match ending {
            Ending::CutAfter(most) | Ending::StallAfter(most) => most - self.sent,
            Ending::Whole | Ending::Unseen => u64::MAX,
        };
        if most == 0 {
            self.connection.flushed().await;
            if matches!(ending, Ending::StallAfter(_)) {
                std::future::pending::<()>().await;
            }
            // hyper closes the connection of a body that fails.
            return Some(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let mut piece = match body.next().await? {
            Ok(piece) => piece,
            Err(error) => return Some(Err(io::Error::other(error))),
        };
        piece.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        self.sent += piece.len() as u64;
        self.entry.sent(piece.len());
        // The client may act on the last byte before this side comes round again: the request ends here.
        self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
        if self.left == Some(0) {
            self.in_flight = None;
        }
        Some(Ok(piece))
    }
}
