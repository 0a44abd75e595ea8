//! A login: what is shown to a registry.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// The user name under which docker and its helpers store an identity token as if it were a password (docker/cli,
/// `tokenUsername`).
pub(crate) const TOKEN_USER: &str = "<token>";

/// How reports name an account of which only a token is known.
pub(super) const TOKEN_NAME: &str = "identity token";

/// What is shown to a registry.
#[derive(Clone)]
pub enum Login {
    /// Nothing.
    Anonymous,
    /// A user and a password (or an access token in its place).
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// An OAuth2 refresh token, to be exchanged by POST (docker's `identitytoken`).
    IdentityToken {
        /// The token.
        token: SecretString,
    },
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Login::Anonymous, Login::Anonymous) => true,
            (Login::Basic { username, password }, Login::Basic { username: other_username, password: other_password }) => {
                username == other_username && password.expose_secret() == other_password.expose_secret()
            }
            (Login::IdentityToken { token }, Login::IdentityToken { token: other }) => token.expose_secret() == other.expose_secret(),
            _ => false,
        }
    }
}

impl Eq for Login {}

/// The kind only: a user name can be a secret too (Azure Container Registry keeps it in a vault).
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Anonymous => "Anonymous",
            Login::Basic { .. } => "Basic(redacted)",
            Login::IdentityToken { .. } => "IdentityToken(redacted)",
        })
    }
}
