//! `Account`: one credential, shared by everyone who uses it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::login::Login;
use super::set::CredentialSet;
use super::{Environment, helper};
use crate::{Error, Operation, Result};

/// Whom a registry sees: one credential, or nobody. Cheap to clone; clones are equal, and share one login.
#[derive(Clone)]
pub struct LoginAccount(Arc<LoginState>);

struct LoginState {
    name: String,
    origin: LoginOrigin,
    environment: Arc<Environment>,
    state: Mutex<SecretState>,
}

/// Where the login comes from.
enum LoginOrigin {
    /// Read once; there is no better one.
    Fixed,
    /// A set of the configuration.
    Set(CredentialSet),
    /// A credential helper's answer for a server.
    Helper { name: String, server: String },
}

#[derive(Default)]
struct SecretState {
    /// A failure is kept too: a command that fails is not run again for each of a thousand images.
    login: Option<Result<Login>>,
    /// Asked again after a refusal, the origin had nothing else.
    exhausted: bool,
}

impl LoginAccount {
    /// Nobody.
    pub fn anonymous() -> Self {
        Self::known("anonymous", Login::Anonymous)
    }

    /// A login that is known already.
    pub(super) fn known(name: &str, login: Login) -> Self {
        Self::new(name, LoginOrigin::Fixed, Arc::default(), Some(login))
    }

    pub(super) fn of_set(set: CredentialSet, environment: Arc<Environment>) -> Self {
        Self::new(&set.name.clone(), LoginOrigin::Set(set), environment, None)
    }

    /// What the helper `helper` answered for `server`.
    pub(super) fn of_helper(name: &str, login: Login, helper: &str, server: &str, environment: Arc<Environment>) -> Self {
        let origin = LoginOrigin::Helper { name: helper.to_owned(), server: server.to_owned() };
        Self::new(name, origin, environment, Some(login))
    }

    fn new(name: &str, origin: LoginOrigin, environment: Arc<Environment>, login: Option<Login>) -> Self {
        let state = Mutex::new(SecretState { login: login.map(Ok), exhausted: false });
        LoginAccount(Arc::new(LoginState { name: crate::error::printable(name), origin, environment, state }))
    }

    /// For reports: the credential set's name, or the user of docker's or podman's file, or `anonymous`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The login. Secrets are read at the first call; whoever calls meanwhile waits for the same reading. Errors name the
    /// set and the source that failed.
    pub async fn login(&self) -> Result<Login> {
        let mut state = self.0.state.lock().await;
        if let Some(known) = &state.login {
            return known.clone();
        }
        let login = self.read().await.and_then(|login| login.ok_or_else(|| self.error("there is no credential any more")));
        state.login = Some(login.clone());
        login
    }

    /// After a registry refused `refused` (401): another login, if commands or helpers have one now, or if someone else
    /// renewed it already. `None`: there is nothing new to be had.
    pub async fn renew(&self, refused: &Login) -> Result<Option<Login>> {
        let mut state = self.0.state.lock().await;
        match &state.login {
            Some(Ok(current)) if current != refused => return Ok(Some(current.clone())),
            Some(Ok(_)) if !state.exhausted && self.is_renewable() => {}
            _ => return Ok(None),
        }
        // Until proven otherwise, so that a command that fails now is not run again either.
        state.exhausted = true;
        match self.read().await? {
            Some(fresh) if fresh != *refused => {
                *state = SecretState { login: Some(Ok(fresh.clone())), exhausted: false };
                Ok(Some(fresh))
            }
            _ => Ok(None),
        }
    }

    fn is_renewable(&self) -> bool {
        match &self.0.origin {
            LoginOrigin::Fixed => false,
            LoginOrigin::Set(set) => set.username.is_command() || set.password.is_command(),
            LoginOrigin::Helper { .. } => true,
        }
    }

    async fn read(&self) -> Result<Option<Login>> {
        match &self.0.origin {
            LoginOrigin::Fixed => Ok(None),
            LoginOrigin::Set(set) => self.read_set(set).await.map(Some),
            LoginOrigin::Helper { name, server } => {
                let answer = helper::ask(name, server, &self.0.environment).await.map_err(|why| self.error(&why))?;
                Ok(answer.map(|(_, login)| login))
            }
        }
    }

    async fn read_set(&self, set: &CredentialSet) -> Result<Login> {
        let failed = |what: &str, why: String| self.error(&format!("credential set \"{}\": {what}: {why}", set.name));
        let username = set.username.read(&self.0.environment).await.map_err(|why| failed("username", why))?;
        let password = set.password.read(&self.0.environment).await.map_err(|why| failed("password", why))?;
        Ok(Login::Basic { username: username.expose_secret().to_owned(), password })
    }

    fn error(&self, message: &str) -> Error {
        Error::local(Operation::LookUpCredentials, message)
    }
}

/// Accounts are equal if they are one and the same.
impl PartialEq for LoginAccount {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for LoginAccount {}

impl Hash for LoginAccount {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Debug for LoginAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Account").field(&self.0.name).finish()
    }
}
