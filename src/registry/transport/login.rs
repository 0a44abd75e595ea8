//! Logins of requests: the Authorization header, another login after a refusal, and the requests for tokens.
//!
//! A token request is sent like any other, so that it waits, is counted and is retried as all requests are. Its redirects are
//! not followed: a token server is named, and checked, by its own address.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::{BodyError, EMPTY, SendOutcome, Transport};
use crate::content::RequestContext;
use crate::registry::auth::{Scopes, TokenAnswer, TokenRequest, TokenSender};
use crate::registry::counters::RequestKind;
use crate::registry::error;
use crate::registry::error_answer::ErrorAnswer;
use crate::registry::request::{ConnectionKind, PermitRequest, RegistryRequest, RequestIdentity};
use crate::{Kind, Operation, Result};

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
            operation: Operation::GetToken,
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
                Err(BodyError::Unreadable(why)) => return Err(self.transport.topic(&call).error(Kind::Damaged, why)),
                Err(BodyError::Slow(why)) => return Err(self.transport.topic(&call).error(Kind::Unavailable, why)),
                Err(BodyError::Trouble(trouble)) => trouble,
            };
            let sent = answer.sent;
            drop(answer);
            self.transport.retry_after_failure(&self.transport.topic(&call), &mut patience, trouble, sent).await?;
        }
    }
}

impl Transport {
    /// The Authorization header of `call`. None for another host than the registry.
    pub(super) async fn authorization(&self, call: &RegistryRequest<'_>) -> Result<Option<HeaderValue>> {
        match call.credentials {
            RequestIdentity::Given(header) => Ok(header.cloned()),
            RequestIdentity::Of(_) if !self.host.endpoint.is_origin_of(&call.url) => Ok(None),
            RequestIdentity::Of(scopes) => {
                let sender = Sender { transport: self, context: call.context };
                let header = self.account.authenticator.authorization(scopes, &sender).await;
                header.map_err(|error| error.on_side(self.side).subject(&*call.context.image))
            }
        }
    }

    /// A login after a refusal that asked for none of a request that was sent with none, if there is one to be tried.
    pub(super) async fn log_in_unasked(
        &self,
        call: &RegistryRequest<'_>,
        scopes: &Scopes,
        sent_with: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>> {
        if sent_with.is_some() {
            return Ok(None);
        }
        let sender = Sender { transport: self, context: call.context };
        let header = self.account.authenticator.unasked(scopes, &sender).await;
        header.map_err(|error| error.on_side(self.side).subject(&*call.context.image))
    }

    /// Another login after a 401.
    pub(super) async fn log_in(
        &self,
        call: &RegistryRequest<'_>,
        scopes: &Scopes,
        refused: Option<&HeaderValue>,
        refusal: &ErrorAnswer,
    ) -> Result<HeaderValue> {
        let sender = Sender { transport: self, context: call.context };
        let header = self.account.authenticator.challenged(&refusal.challenges, scopes, refused, &sender).await;
        header.map_err(|error| match error.kind() {
            Kind::Unauthorized => error::unauthorized(&self.topic(call), refusal, &error),
            _ => error.on_side(self.side).subject(&*call.context.image),
        })
    }
}
