//! Hosts that a registry redirects to and that want a token of their own (registry.k8s.io leads to another registry): nobody's, from
//! their own token server. The registry's login and tokens never go there, and theirs never to the registry.

use std::collections::HashMap;

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::{RegistryRequest, Transport, token};
use crate::Result;
use crate::mutex::Mutex;
use crate::registry::auth::{TokenRequest, TokenSender, anonymous_request, anonymous_token};

/// Tokens that were given to nobody, by what was asked for them.
#[derive(Debug, Default)]
pub(crate) struct ForeignTokens(Mutex<HashMap<Url, (HeaderValue, Instant)>>);

impl ForeignTokens {
    fn get(&self, request: &Url) -> Option<HeaderValue> {
        let tokens = self.0.lock();
        tokens.get(request).filter(|(_, until)| *until > Instant::now()).map(|(header, _)| header.clone())
    }

    fn keep(&self, request: Url, header: HeaderValue, until: Instant) {
        let mut tokens = self.0.lock();
        let now = Instant::now();
        tokens.retain(|_, (_, until)| *until > now);
        tokens.insert(request, (header, until));
    }
}

impl Transport {
    /// What to ask `url`, another host, with once more after it answered 401; `None` if it names no token server of its own.
    ///
    /// # Errors
    /// If its token server cannot be asked.
    pub(super) async fn foreign_token(&self, call: &RegistryRequest<'_>, url: &Url, response: &Response) -> Result<Option<HeaderValue>> {
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        let challenges: Vec<HeaderValue> = response.headers().get_all(WWW_AUTHENTICATE).iter().cloned().collect();
        let Some(asked) = anonymous_request(&challenges, url) else { return Ok(None) };
        if let Some(known) = self.host.foreign_tokens.get(&asked) {
            return Ok(Some(known));
        }
        if self.allowed(&asked).await.is_err() {
            return Ok(None);
        }
        let sent = Instant::now();
        let sender = token::Sender { transport: self, context: call.context };
        let answer = sender.send(TokenRequest { url: asked.clone(), form: None, authorization: None, may_be_empty: false }).await?;
        let Some((header, life)) = anonymous_token(answer.status, &answer.body) else { return Ok(None) };
        self.host.foreign_tokens.keep(asked, header.clone(), sent + life);
        Ok(Some(header))
    }
}
