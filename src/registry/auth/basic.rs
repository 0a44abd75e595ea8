//! Basic: the password goes with each request. So that a wrong one does not go with many (accounts are locked for that), it
//! is tried by itself first, at the API's root, which asks for a login and knows nothing of repositories.

use reqwest::header::HeaderValue;
use tokio::time::Instant;

use super::login::Login;
use super::{Authenticator, Scopes, TokenAnswer, TokenRequest, TokenSender, exchange, login};
use crate::error::{Kind, Result};

impl Authenticator {
    /// The header with the password, once it has been tried; none for an anonymous account.
    pub(super) async fn basic(&self, scopes: &Scopes, sender: &dyn TokenSender) -> Result<Option<HeaderValue>> {
        let held = self.account.login().await?;
        let header = login::basic(&held.login);
        if header.is_none() || held.proven() {
            return Ok(header);
        }
        let queued = Instant::now();
        let mut trial = self.trial.lock().await;
        if let Some((at, error)) = &*trial
            && *at > queued
        {
            return Err(error.clone());
        }
        let outcome = self.tried(scopes, sender).await;
        *trial = outcome.as_ref().err().map(|error| (Instant::now(), error.clone()));
        outcome
    }

    /// After a 401 where Basic is asked for: the password, unless that is what was refused.
    pub(super) async fn after_basic(
        &self,
        scopes: &Scopes,
        refused: Option<&HeaderValue>,
        sender: &dyn TokenSender,
    ) -> Result<HeaderValue> {
        let held = self.account.login().await?;
        if refused.is_none() || refused != login::basic(&held.login).as_ref() {
            let header = self.basic(scopes, sender).await?;
            return header.ok_or_else(|| self.deny("the registry wants a user name and password for", scopes, "", 401));
        }
        // One at a time: of many refused together, the first finds out for all.
        let _trial = self.trial.lock().await;
        self.state().check(scopes)?;
        if self.account.renew(&held).await?.is_some()
            && let Some(header) = self.tried(scopes, sender).await?
        {
            return Ok(header);
        }
        // Is it the password, or this repository?
        let answer = self.root(&held.login, sender).await?;
        let said = exchange::said(&answer.body, &held.login);
        Err(match answer.status {
            401 | 403 => self.login_error("the registry does not accept", &said, answer.status),
            429 => self.error(Kind::Limited, format!("the registry is rate limiting us{said}")).status(429),
            status @ 500.. => self.error(Kind::Unavailable, format!("the registry fails{said}")).status(status),
            _ => self.deny("the registry does not let us into", scopes, "", 401),
        })
    }

    /// Tries the login in use, and whatever it is renewed to. The caller holds the trial.
    async fn tried(&self, scopes: &Scopes, sender: &dyn TokenSender) -> Result<Option<HeaderValue>> {
        self.state().check(scopes)?;
        let mut held = self.account.login().await?;
        loop {
            let header = login::basic(&held.login);
            if header.is_none() || held.proven() {
                return Ok(header);
            }
            let answer = self.root(&held.login, sender).await?;
            // Only a 401 speaks of the password: not every registry lets its API's root be asked.
            if answer.status != 401 {
                held.prove();
                return Ok(header);
            }
            match self.account.renew(&held).await? {
                Some(other) => held = other,
                None => {
                    let said = exchange::said(&answer.body, &held.login);
                    return Err(self.login_error("the registry does not accept", &said, answer.status));
                }
            }
        }
    }

    /// What the API's root says to this login.
    pub(super) async fn root(&self, login: &Login, sender: &dyn TokenSender) -> Result<TokenAnswer> {
        let url = self.endpoint.join("v2/").map_err(|error| self.error(Kind::Local, format!("no API below the endpoint: {error}")))?;
        // The root says yes by its status; many registries send no body with it.
        sender.send(TokenRequest { url, form: None, authorization: login::basic(login), may_be_empty: true }).await
    }
}
