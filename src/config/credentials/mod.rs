//! Credentials: whom a registry sees, and how that is found out.
//!
//! - [`CredentialSet`]: what `[[credentials]]` says; it holds no secret, only where one is.
//! - [`CredentialStore`]: the lookup order. The rule's set; any set for that login server; docker's `config.json`; podman's
//!   `auth.json`; anonymous.
//! - [`LoginAccount`]: one credential. It reads its secret at first need, once for all who wait, and again after a refusal.
//!
//! The files are searched here, and the crate `docker_credential` only decodes the entry that was found (base64, identity
//! tokens). Its own search takes the exact key and nothing else (`quay.io/org/app` does not find `quay.io/org`), runs helpers
//! blocking and with their output in its errors, and gives up on podman where `XDG_RUNTIME_DIR` is not set.
//!
//! No secret stands in a `Debug`, `Display` or error of anything here.

mod account;
mod command;
mod environment;
mod files;
mod helper;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

pub use account::LoginAccount;
pub use environment::Environment;
pub use store::CredentialStore;

use secrecy::{ExposeSecret, SecretString};

/// The operation that errors about credentials name.
pub(crate) const READ_CREDENTIALS: &str = files::OPERATION;

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

/// `[[credentials]]`: a name, a login server, and where user name and password are.
#[derive(Clone, PartialEq, Eq)]
pub struct CredentialSet {
    /// The name that rules use, and reports.
    pub name: String,
    /// The only registry it is used towards, in normal form.
    pub login_server: String,
    pub(in crate::config) username: ValueSource,
    pub(in crate::config) password: ValueSource,
}

impl CredentialSet {
    /// What is wrong with where its values are, without running any command: a variable that is not set, a file that cannot be read or is
    /// empty, a program that is not there. Nothing of the values is said.
    pub(crate) fn problems(&self, environment: &Environment) -> Vec<String> {
        let values = [("username", &self.username), ("password", &self.password)];
        let wrong = values.into_iter().filter_map(|(what, source)| Some((what, source.problem(environment)?)));
        wrong.map(|(what, why)| format!("credential set \"{}\": {what}: {why}", self.name)).collect()
    }
}

impl fmt::Debug for CredentialSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialSet").field("name", &self.name).field("login_server", &self.login_server).finish_non_exhaustive()
    }
}

/// Where a user name or a secret is. No `Debug`: the arguments of a command may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::config) enum ValueSource {
    /// In the configuration itself; for user names only.
    Plain(String),
    /// An environment variable.
    Env(String),
    /// A file; a line break at its end is not part of the value.
    File(PathBuf),
    /// What a program prints; a line break at its end is not part of the value.
    Command {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
    },
}

impl ValueSource {
    /// Reads the value. The error says which source failed and why, without anything of the value.
    async fn read(&self, environment: &Environment) -> Result<SecretString, String> {
        let (value, from) = match self {
            ValueSource::Plain(text) => (text.clone(), "the configuration".to_owned()),
            ValueSource::Env(name) => (environment.text(name)?, format!("environment variable {name}")),
            ValueSource::File(path) => {
                let text = tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
                (text, format!("file {}", path.display()))
            }
            ValueSource::Command { program, arguments } => {
                let name = program.display();
                let output = command::run(program, arguments, None, environment).await.map_err(|why| format!("command {name} {why}"))?;
                if let Some(why) = output.failure() {
                    return Err(format!("command {name} failed ({why})"));
                }
                (output.text().ok_or_else(|| format!("command {name} printed what is not UTF-8"))?, format!("command {name}"))
            }
        };
        match value.trim_end_matches(['\r', '\n']) {
            "" => Err(format!("{from} is empty")),
            value => Ok(SecretString::from(value)),
        }
    }

    fn problem(&self, environment: &Environment) -> Option<String> {
        let empty = |text: &str| text.trim_end_matches(['\r', '\n']).is_empty();
        match self {
            ValueSource::Plain(_) => None,
            ValueSource::Env(name) => match environment.text(name) {
                Ok(value) => empty(&value).then(|| format!("environment variable {name} is empty")),
                Err(why) => Some(format!("{why} (set it where larder runs)")),
            },
            ValueSource::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => empty(&text).then(|| format!("file {} is empty", path.display())),
                Err(error) => Some(format!("{}: {error}", path.display())),
            },
            ValueSource::Command { program, .. } => {
                let known = environment.path("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
                let here =
                    if program.components().count() > 1 { program.is_file() } else { known.iter().any(|dir| dir.join(program).is_file()) };
                (!here).then(|| format!("command {} was not found", program.display()))
            }
        }
    }

    fn is_command(&self) -> bool {
        matches!(self, ValueSource::Command { .. })
    }
}
