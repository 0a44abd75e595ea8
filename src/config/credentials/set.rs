//! A credential set: where a user name and a password are, and how they are read.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;

use super::Environment;
use super::command;

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
    pub(super) async fn read(&self, environment: &Environment) -> Result<SecretString, String> {
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

    pub(super) fn is_command(&self) -> bool {
        matches!(self, ValueSource::Command { .. })
    }
}
