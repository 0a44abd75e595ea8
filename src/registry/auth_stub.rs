//! Stand-in for `auth/`: anonymous, with the simplest bearer exchange.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::HeaderValue;
use url::Url;

use super::address::AddressPolicy;
use crate::{Error, Kind, Result, Side};

#[derive(Debug, Clone)]
pub(crate) enum Login {
    Anonymous,
}

#[async_trait]
pub(crate) trait Logins: Send + Sync {
    async fn login(&self) -> Result<Login>;
    async fn renew(&self, refused: &Login) -> Result<Option<Login>>;
    fn name(&self) -> &str;
}

#[derive(Debug, Clone)]
pub(crate) struct Scopes(Vec<String>);

impl Scopes {
    pub(crate) fn pull(repo: impl Into<String>) -> Self {
        Scopes(vec![format!("repository:{}:pull", repo.into())])
    }
    pub(crate) fn push(repo: impl Into<String>) -> Self {
        Scopes(vec![format!("repository:{}:pull,push", repo.into())])
    }
    pub(crate) fn mount(target: impl Into<String>, source: impl Into<String>) -> Self {
        Scopes(vec![format!("repository:{}:pull,push", target.into()), format!("repository:{}:pull", source.into())])
    }
}

pub(crate) struct TokenRequest {
    pub(crate) url: Url,
    pub(crate) form: Option<Vec<(String, String)>>,
    pub(crate) authorization: Option<HeaderValue>,
}

pub(crate) struct TokenAnswer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

#[async_trait]
pub(crate) trait TokenSender: Send + Sync {
    async fn send(&self, request: TokenRequest) -> Result<TokenAnswer>;
}

pub(crate) struct Authenticator {
    side: Side,
    logins: Arc<dyn Logins>,
    token: Mutex<Option<HeaderValue>>,
}

impl Authenticator {
    pub(crate) fn new(_host: &str, _endpoint: Url, side: Side, logins: Arc<dyn Logins>, _policy: Arc<AddressPolicy>) -> Self {
        Authenticator { side, logins, token: Mutex::new(None) }
    }

    pub(crate) async fn authorization(&self, _scopes: &Scopes, _sender: &dyn TokenSender) -> Result<Option<HeaderValue>> {
        Ok(self.token.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(crate) async fn challenged(
        &self,
        www_authenticate: &[HeaderValue],
        scopes: &Scopes,
        _refused: Option<&HeaderValue>,
        sender: &dyn TokenSender,
    ) -> Result<HeaderValue> {
        let none = || Error::new(self.side, "get token", Kind::Unauthorized, "the registry wants a login");
        let Login::Anonymous = self.logins.login().await?;
        self.logins.renew(&Login::Anonymous).await?;
        let realm = www_authenticate
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(|value| value.split_once("realm=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(realm, _)| realm.to_owned()))
            .ok_or_else(none)?;
        let mut url = Url::parse(&realm).map_err(|_| none())?;
        for scope in &scopes.0 {
            url.query_pairs_mut().append_pair("scope", scope);
        }
        let answer = sender.send(TokenRequest { url, form: None, authorization: None }).await?;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|_| none())?;
        let token = body.get("token").and_then(|token| token.as_str()).filter(|_| answer.status == 200).ok_or_else(none)?;
        let header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| none())?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(header.clone());
        Ok(header)
    }
}
