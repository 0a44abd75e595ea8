//! Whom we are to a registry.

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

pub(crate) use crate::config::Login;
use crate::config::{LoginAccount, TOKEN_USER};
use crate::error::Result;

/// Where the login for one registry comes from. Nothing is read before it is first asked.
#[async_trait]
pub(crate) trait Logins: Send + Sync {
    /// The login to use.
    async fn login(&self) -> Result<Login>;
    /// Another one after `refused` was; `None` if there is none (only a command or a helper may have a new answer).
    async fn renew(&self, refused: &Login) -> Result<Option<Login>>;
    /// What the user calls it: a credential set's name.
    fn name(&self) -> &str;
}

#[async_trait]
impl Logins for LoginAccount {
    async fn login(&self) -> Result<Login> {
        LoginAccount::login(self).await
    }
    async fn renew(&self, refused: &Login) -> Result<Option<Login>> {
        LoginAccount::renew(self, refused).await
    }
    fn name(&self) -> &str {
        LoginAccount::name(self)
    }
}

/// The identity token of a login, also where it is stored as a password.
pub(super) fn identity_token(login: &Login) -> Option<&SecretString> {
    match login {
        Login::IdentityToken { token } => Some(token),
        Login::Basic { username, password } if username == TOKEN_USER => Some(password),
        Login::Basic { .. } | Login::Anonymous => None,
    }
}

/// The secret of a login, which nothing may show.
pub(super) fn secret(login: &Login) -> Option<&SecretString> {
    match login {
        Login::Anonymous => None,
        Login::Basic { password, .. } => Some(password),
        Login::IdentityToken { token } => Some(token),
    }
}

/// `Authorization: Basic …` for a login (RFC 7617, UTF-8), marked as sensitive; none for an anonymous account.
pub(super) fn basic(login: &Login) -> Option<HeaderValue> {
    let (user, secret) = match login {
        Login::Anonymous => return None,
        Login::Basic { username, password } => (username.as_str(), password),
        Login::IdentityToken { token } => (TOKEN_USER, token),
    };
    let encoded = BASE64_STANDARD.encode(format!("{user}:{}", secret.expose_secret()));
    // Base64 is always a valid header value.
    let mut header = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}
