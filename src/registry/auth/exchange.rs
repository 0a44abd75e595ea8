//! One conversation with a token server: the request for given scopes, and what its answer means.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use super::login::{self, Login};
use super::scope::Scopes;
use crate::error::Result;
use crate::registry::address::shown;

/// How larder calls itself to OAuth2 token servers, which require a name.
const CLIENT_ID: &str = "larder";

/// Where a registry's tokens come from, learnt from its challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    /// Scopes it wants besides the repositories' (`aws`).
    pub(super) extra: Vec<String>,
}

/// The token server, in a message.
pub(super) fn at(bearer: &Bearer) -> String {
    format!("the token server {}", shown(&bearer.realm))
}

/// A request to a token server.
#[derive(Clone)]
pub(crate) struct TokenRequest {
    /// Where to.
    pub(crate) url: Url,
    /// POST this form; none: GET.
    pub(crate) form: Option<Vec<(String, String)>>,
    /// The Authorization header.
    pub(crate) authorization: Option<HeaderValue>,
    /// Whether a successful answer without a body is one: the API's root says yes by its status alone.
    pub(crate) may_be_empty: bool,
}

/// Without the form, which holds a secret.
impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("url", &self.url.as_str())
            .field("post", &self.form.is_some())
            .field("authorization", &self.authorization)
            .finish()
    }
}

/// A token server's answer, whatever its status.
#[derive(Clone)]
pub(crate) struct TokenAnswer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body, which the sender bounds.
    pub(crate) body: Bytes,
    /// How it wants us to log in, where it refuses.
    pub(crate) challenges: Vec<HeaderValue>,
}

/// Without the body, which may hold a token.
impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Sends token requests: the transport, the only place a request leaves. It paces, counts, bounds bodies, waits out Retry-After
/// and repeats what failed on the way; it does not follow redirects. An error is a server that could not be reached.
#[async_trait]
pub(crate) trait TokenSender: Send + Sync {
    /// Sends one.
    async fn send(&self, request: TokenRequest) -> Result<TokenAnswer>;
}

/// The GET of distribution's `spec/auth/token.md`: who we are stands in the Authorization header.
pub(super) fn get(bearer: &Bearer, scopes: &Scopes, login: &Login) -> TokenRequest {
    let mut url = bearer.realm.clone();
    if bearer.service.is_some() || !scopes.is_none() || !bearer.extra.is_empty() {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &bearer.service {
            query.append_pair("service", service);
        }
        for scope in all(bearer, scopes) {
            query.append_pair("scope", &scope);
        }
    }
    TokenRequest { url, form: None, authorization: login::basic(login), may_be_empty: false }
}

/// The POST of `spec/auth/oauth.md`, for an identity token; none for other logins.
pub(super) fn post(bearer: &Bearer, scopes: &Scopes, login: &Login) -> Option<TokenRequest> {
    let token = login::identity_token(login)?;
    let mut form = vec![
        ("grant_type".to_owned(), "refresh_token".to_owned()),
        ("client_id".to_owned(), CLIENT_ID.to_owned()),
        ("refresh_token".to_owned(), token.expose_secret().to_owned()),
    ];
    if let Some(service) = &bearer.service {
        form.push(("service".to_owned(), service.clone()));
    }
    let scope = all(bearer, scopes).collect::<Vec<_>>().join(" ");
    if !scope.is_empty() {
        form.push(("scope".to_owned(), scope));
    }
    Some(TokenRequest { url: bearer.realm.clone(), form: Some(form), authorization: None, may_be_empty: false })
}

/// Ours first: some servers look at the first scope only.
fn all<'a>(bearer: &'a Bearer, scopes: &'a Scopes) -> impl Iterator<Item = String> + 'a {
    scopes.texts().chain(bearer.extra.iter().cloned())
}

/// What a token server's answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenVerdict {
    /// A token is in the body.
    Granted,
    /// It does not know who we say we are (401, or OAuth2's `invalid_grant`).
    Unknown,
    /// It knows us, or not, and does not let us (403): some servers say so of a wrong password, others of a repository.
    Forbidden,
    /// It does not speak this protocol (404, 405 to a POST, or another kind of grant).
    NotSpoken,
    /// It is overloaded.
    Limited,
    /// It is broken.
    Broken,
    /// It refuses the request for another reason.
    Refused,
}

/// Judges an answer to `request`.
pub(super) fn judge(request: &TokenRequest, answer: &TokenAnswer) -> TokenVerdict {
    let posted = request.form.is_some();
    match answer.status {
        200..=299 => TokenVerdict::Granted,
        401 => TokenVerdict::Unknown,
        400 if posted => match oauth_error(&answer.body).as_deref() {
            // RFC 6749 section 5.2: a refresh token that is invalid, expired or revoked.
            Some("invalid_grant" | "invalid_client") => TokenVerdict::Unknown,
            Some("unsupported_grant_type") => TokenVerdict::NotSpoken,
            _ => TokenVerdict::Refused,
        },
        403 => TokenVerdict::Forbidden,
        404 | 405 if posted => TokenVerdict::NotSpoken,
        429 => TokenVerdict::Limited,
        500..=599 => TokenVerdict::Broken,
        _ => TokenVerdict::Refused,
    }
}

fn oauth_error(body: &[u8]) -> Option<String> {
    Some(serde_json::from_slice::<Value>(body).ok()?.get("error")?.as_str()?.to_owned())
}

/// What the server says about it, as `: …` to follow a sentence; nothing if it says nothing readable. A secret of `login`
/// that it repeats is left out.
pub(super) fn said(body: &[u8], login: &Login) -> String {
    let Some(text) = message(body) else { return String::new() };
    let mut text = text;
    let secret = login::secret(login).map(|secret| secret.expose_secret().to_owned());
    let header = login::basic(login).and_then(|header| Some(header.to_str().ok()?.trim_start_matches("Basic ").to_owned()));
    for hidden in secret.into_iter().chain(header).filter(|hidden| !hidden.is_empty()) {
        text = text.replace(&hidden, "[redacted]");
    }
    format!(": {text}")
}

/// Docker Hub has `details`, registries the error envelope, OAuth2 `error_description`.
fn message(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let envelope = value.pointer("/errors/0/message");
    let found = [envelope, value.get("details"), value.get("error_description"), value.get("message"), value.get("error")];
    found.into_iter().flatten().filter_map(Value::as_str).find(|text| !text.trim().is_empty()).map(str::to_owned)
}
