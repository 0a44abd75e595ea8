//! Hosts that a registry redirects to and that want a token of their own (registry.k8s.io leads to another registry): nobody's, from
//! their own token server. The registry's login and tokens never go there, and theirs never to the registry.

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::Transport;
use super::login::Sender;
use crate::Result;
use crate::registry::auth::{TokenRequest, TokenSender, anonymous_request, anonymous_token};
use crate::registry::request::RegistryRequest;

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
        let sender = Sender { transport: self, context: call.context };
        let answer = sender.send(TokenRequest { url: asked.clone(), form: None, authorization: None, may_be_empty: false }).await?;
        let Some((header, life)) = anonymous_token(answer.status, &answer.body) else { return Ok(None) };
        self.host.foreign_tokens.keep(asked, header.clone(), sent + life);
        Ok(Some(header))
    }
}
