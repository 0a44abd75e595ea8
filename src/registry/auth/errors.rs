//! What is said when a registry does not let us in: which account, what the server said, what to do. Never a secret.

use super::Authenticator;
use super::challenge::{Challenge, Scheme};
use super::exchange::{Bearer, TokenVerdict, at};
use super::scope::Scopes;
use crate::Operation;
use crate::error::{Error, Kind};

/// The operation that errors name; the registry follows.
const OPERATION: Operation = Operation::LogIn;

impl Authenticator {
    /// A 401 whose challenges are of no use.
    pub(super) fn nothing_offered(&self, offers: &[Challenge]) -> Error {
        let message = match offers.first() {
            None => "it answers 401 without saying how to log in".to_owned(),
            Some(Challenge { scheme: Scheme::Other(name), .. }) => format!("it asks for a way to log in that larder does not have: {name}"),
            Some(Challenge { realm, .. }) => format!("its token server `{}` is no URL", realm.as_deref().unwrap_or_default()),
        };
        self.error(Kind::Unauthorized, message).status(401)
    }

    /// A token server's answer that neither grants nor refuses.
    pub(super) fn unexpected(&self, verdict: TokenVerdict, status: u16, bearer: &Bearer, said: &str) -> Error {
        let (kind, what) = match verdict {
            TokenVerdict::Limited => (Kind::Limited, "is rate limiting us"),
            TokenVerdict::Broken => (Kind::Unavailable, "fails"),
            _ => (Kind::Refused, "gives no token"),
        };
        self.error(kind, format!("{} {what}{said}", at(bearer))).status(status)
    }

    /// This account may not have `scopes`, which is remembered. `what` leads up to the repository's name.
    pub(super) fn deny(&self, what: &str, scopes: &Scopes, said: &str, status: u16) -> Error {
        let error = self.denied(what, scopes, said).status(status);
        self.state().denied.insert(scopes.clone(), error.clone());
        error
    }

    /// As [`Self::deny`], this time.
    pub(super) fn denied(&self, what: &str, scopes: &Scopes, said: &str) -> Error {
        let refused = if scopes.is_none() { self.host.clone() } else { scopes.to_string() };
        let (who, remedy) = if self.account.is_anonymous() {
            let add = format!("check the name; if it is private, add [[credentials]] for {0} or `docker login {0}`", self.host);
            ("without credentials".to_owned(), add)
        } else {
            let name = self.account.name();
            (format!("as `{name}`"), format!("check the name, and what the credential set `{name}` may do"))
        };
        self.error(Kind::Unauthorized, format!("{what} `{refused}`, asked {who}{said}")).remedy(remedy)
    }

    /// The login is wrong, which is remembered: nothing more is sent. `what` leads up to the account's name.
    pub(super) fn login_error(&self, what: &str, said: &str, status: u16) -> Error {
        let name = self.account.name();
        let error = self.error(Kind::Unauthorized, format!("{what} the credentials `{name}`{said}")).status(status);
        let cause = Some(format!("the credentials {name} at {}", self.host));
        let error = error.remedy(format!("check the credential set `{name}`")).with_shared_cause(cause);
        self.state().refused = Some(error.clone());
        error
    }

    pub(super) fn error(&self, kind: Kind, message: impl AsRef<str>) -> Error {
        Error::new(self.side, OPERATION, kind, message).subject(&self.host)
    }
}
