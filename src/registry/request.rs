//! A request before it is sent: what it is for, what it carries, which connections and permits it uses.
//!
//! Types only. `transport` sends them.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;

use super::auth::Scopes;
use super::counters::RequestKind;
use crate::config::profiles::Profile;
use crate::content::{Repository, RequestContext};
use crate::{Error, Kind, Operation, Side};

/// Who a request says we are.
#[derive(Clone, Copy)]
pub(crate) enum RequestIdentity<'a> {
    /// The account, with a token of these scopes; only if the request goes to the registry itself.
    Of(&'a Scopes),
    /// Exactly this (a request for a token brings its own, or none).
    Given(Option<&'a HeaderValue>),
}

/// The connections a request uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionKind {
    /// Little comes, little goes.
    Small,
    /// A blob comes or goes.
    Bulk,
}

/// One request, before it is sent: what it is, on whose behalf, and what it carries.
pub(crate) struct RegistryRequest<'a> {
    pub(crate) kind: RequestKind,
    /// What it is for.
    pub(crate) operation: Operation,
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// The repository it is about.
    pub(crate) repository: Option<&'a Repository>,
    pub(crate) credentials: RequestIdentity<'a>,
    pub(crate) headers: HeaderMap,
    /// Small enough to be sent again; see `Transport::stream` for the others.
    pub(crate) body: Bytes,
    /// On whose connections: small requests never wait behind blobs.
    pub(crate) lane: ConnectionKind,
    pub(crate) claim: PermitRequest,
    /// Whether a redirect to another host is followed.
    pub(crate) follow_cross_host: bool,
    /// It goes where a descriptor's `urls` lead, not to the registry: it is not counted, and what comes of it says nothing about
    /// the registry.
    pub(crate) external_url: bool,
    /// On a connection of its own: what came on another was damaged.
    pub(crate) fresh: bool,
    /// How much longer than usual the answer may take.
    pub(crate) grace: Duration,
    pub(crate) context: &'a RequestContext,
}

impl<'a> RegistryRequest<'a> {
    /// A request without headers or body.
    pub(crate) fn new(
        (kind, operation, method): (RequestKind, Operation, Method),
        url: Url,
        repository: &'a Repository,
        scopes: &'a Scopes,
        context: &'a RequestContext,
    ) -> Self {
        RegistryRequest {
            kind,
            operation,
            method,
            url,
            repository: Some(repository),
            credentials: RequestIdentity::Of(scopes),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            lane: ConnectionKind::Small,
            claim: PermitRequest::Fresh,
            follow_cross_host: true,
            external_url: false,
            fresh: context.fresh,
            grace: Duration::ZERO,
            context,
        }
    }
}

/// How a request asks for its permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PermitRequest {
    /// New work: it waits for its turn.
    Fresh,
    /// What others may be waiting for, a body's continuation or a token: takes a permit if there is one, and goes on without if not.
    Continued,
    /// An upload whose source is open: as new work, or as a continuation while blobs of this host are being read.
    Fed,
}

/// What a request is about, as messages name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestTopic<'a> {
    pub(crate) side: Side,
    pub(crate) operation: Operation,
    /// The registry's name.
    pub(crate) host: &'a str,
    /// What kind of registry it is.
    pub(crate) profile: &'static Profile,
    /// Whom the registry sees.
    pub(crate) account: &'a str,
    /// The repository.
    pub(crate) repository: Option<&'a Repository>,
    /// The image on whose behalf it is asked.
    pub(crate) image: &'a str,
}

impl RequestTopic<'_> {
    /// An error about this.
    pub(crate) fn error(&self, kind: Kind, message: impl AsRef<str>) -> Error {
        Error::new(self.side, self.operation, kind, message).subject(self.image).host(self.host)
    }
}
