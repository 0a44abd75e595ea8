//! Requests for tokens: the login's own, but sent here like every other, so that they wait, are counted and are tried again
//! as all requests are. Redirects are not followed: a token server is named, and checked, by its own address.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::{BodyError, ConnectionKind, EMPTY, PermitRequest, RegistryRequest, RequestIdentity, SendOutcome, Transport};
use crate::content::RequestContext;
use crate::registry::auth::{TokenAnswer, TokenRequest, TokenSender};
use crate::registry::counters::RequestKind;
use crate::{Kind, Result};

/// A token and what comes with it have a few KiB; group claims of large companies have made 32 KiB of it.
const MAX_TOKEN: usize = 64 * 1024;

/// Sends requests for tokens on behalf of one image.
pub(super) struct Sender<'a> {
    pub(super) transport: &'a Transport,
    pub(super) context: &'a RequestContext,
}

#[async_trait]
impl TokenSender for Sender<'_> {
    async fn send(&self, request: TokenRequest) -> Result<TokenAnswer> {
        let mut headers = HeaderMap::new();
        let mut body = Bytes::new();
        let mut method = Method::GET;
        if let Some(form) = request.form {
            method = Method::POST;
            body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish().into();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        let call = RegistryRequest {
            kind: RequestKind::Token,
            operation: "get token",
            method,
            url: request.url,
            repository: None,
            credentials: RequestIdentity::Given(request.authorization.as_ref()),
            headers,
            body,
            lane: ConnectionKind::Small,
            // It takes a permit if there is one, and never waits: see `permit`.
            claim: PermitRequest::Continued,
            follow_cross_host: true,
            external_url: false,
            fresh: false,
            grace: Duration::ZERO,
            context: self.context,
        };
        let mut patience = self.transport.host.patience();
        loop {
            let mut answer = match self.transport.deliver(&call, &mut patience).await? {
                SendOutcome::Refused(refusal, body) => {
                    return Ok(TokenAnswer { status: refusal.status, body, challenges: refusal.challenges });
                }
                SendOutcome::Answer(answer) => answer,
            };
            let trouble = match answer.whole(MAX_TOKEN).await {
                Ok(body) if body.is_empty() && !request.may_be_empty => answer.broken(EMPTY),
                Ok(body) => return Ok(TokenAnswer { status: answer.status.as_u16(), body, challenges: vec![] }),
                Err(BodyError::TooLong) => {
                    let message = format!("the token server's answer is longer than the {MAX_TOKEN} bytes it may have");
                    return Err(self.transport.topic(&call).error(Kind::Untrusted, message));
                }
                Err(BodyError::Slow(why)) => return Err(self.transport.topic(&call).error(Kind::Unavailable, why)),
                Err(BodyError::Trouble(trouble)) => trouble,
            };
            let sent = answer.sent;
            drop(answer);
            self.transport.retry_after_failure(&self.transport.topic(&call), &mut patience, trouble, sent).await?;
        }
    }
}
