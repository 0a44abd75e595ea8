//! Redirects of GET and HEAD, followed by hand: the registry's own answer carries the limits, the login goes to no other host,
//! and no registry may send us where it likes.

use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::body::silence;
use super::outcome::{RedirectReply, SendError};
use super::{RetryableError, Transport};
use crate::Kind;
use crate::limits::Quota;
use crate::registry::link;
use crate::registry::pull_meter::quota;
use crate::registry::request::{ConnectionKind, PermitRequest, RegistryRequest, RequestIdentity};

/// Registries redirect once, `registry.k8s.io` twice; Go's HTTP client, which registries are made for, follows ten. Five leave
/// room for a mirror before them, and end a loop soon.
pub(crate) const MOST_REDIRECTS: usize = 5;

impl Transport {
    /// Sends `call` once, following redirects.
    pub(super) async fn follow(&self, call: &RegistryRequest<'_>, authorization: Option<&HeaderValue>) -> Result<RedirectReply, SendError> {
        let mut url = call.url.clone();
        let mut said = Quota::default();
        // What another host gave us for itself.
        let mut token = None;
        for _ in 0..=MOST_REDIRECTS {
            let at_registry = !call.external_url && url.origin() == call.url.origin();
            let shown = if at_registry { authorization } else { token.as_ref() };
            let mut request = self.request(call, url.clone(), shown);
            if call.method != Method::GET && call.method != Method::HEAD {
                // An empty body says so: a POST without Content-Length is refused by some (411), and hyper would leave it out.
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(call.body.len()));
                *request.body_mut() = Some(call.body.clone().into());
            }
            let elsewhere = self.host.endpoint.elsewhere(&url);
            if !at_registry {
                self.reachable(call, elsewhere.as_deref(), true).map_err(SendError::Fatal)?;
            }
            let idle = self.host.retry.idle + call.grace;
            let response = match tokio::time::timeout(idle, self.leave(at_registry.then_some(call.kind), call, request)).await {
                Ok(answered) => answered?,
                Err(_) => return Err(unanswered(call, elsewhere.as_deref(), idle).into()),
            };
            if at_registry {
                said = quota(response.headers());
            }
            let Some(next) = self.next(call, &url, &response).await? else {
                if !at_registry
                    && !call.external_url
                    && !self.host.endpoint.is_upgrade(&url)
                    && token.is_none()
                    && let Some(given) = self.foreign_token(call, &url, &response).await.map_err(SendError::Fatal)?
                {
                    token = Some(given);
                    continue;
                }
                let foreign = (!at_registry).then(|| url.host_str().unwrap_or("another host").to_owned());
                return Ok(RedirectReply { response, url, quota: said, foreign, elsewhere });
            };
            if next.origin() != url.origin() {
                token = None;
            }
            url = next;
        }
        let message = format!("the registry redirects more than {MOST_REDIRECTS} times");
        Err(SendError::Fatal(self.topic(call).error(Kind::Untrusted, message)))
    }

    /// Where `response` redirects to, if it does and that may be followed.
    async fn next(&self, call: &RegistryRequest<'_>, from: &Url, response: &Response) -> Result<Option<Url>, SendError> {
        let followed = matches!(call.method, Method::GET | Method::HEAD)
            && (call.external_url || matches!(call.credentials, RequestIdentity::Of(_)))
            && is_redirect(response.status());
        let location = response.headers().get(LOCATION).filter(|_| followed);
        let Some(location) = location else { return Ok(None) };
        let refuse = |why: String| {
            let message = format!("the registry's redirect is not followed: {why}");
            SendError::Fatal(self.topic(call).error(Kind::Untrusted, message))
        };
        let next = self.host.endpoint.resolve(from, &link::address(location)).map_err(refuse)?;
        if !call.follow_cross_host && !self.host.endpoint.is_origin_of(&next) {
            return Ok(None);
        }
        self.allowed(&next).await.map_err(refuse)?;
        Ok(Some(next))
    }

    /// Whether the registry may send us to `url`; why not, if it may not. It may always send us to itself.
    pub(crate) async fn allowed(&self, url: &Url) -> Result<(), String> {
        if self.host.endpoint.is_origin_of(url) { Ok(()) } else { self.host.policy.check(url).await }
    }
}

/// No answer came. Headers that never end, and endless 1xx answers, look the same here, so that waiting as long once more is
/// of no use. A blob that is being continued is worth it: what has arrived of it would be lost.
fn unanswered(call: &RegistryRequest<'_>, elsewhere: Option<&str>, idle: Duration) -> RetryableError {
    match (call.lane, call.claim, elsewhere) {
        (ConnectionKind::Bulk, PermitRequest::Continued, _) | (_, _, Some(_)) => RetryableError::broken(elsewhere, silence(idle)),
        _ => RetryableError::Hopeless(format!("no answer came within {} s", idle.as_secs_f32()).into()),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
