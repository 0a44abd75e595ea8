//! Docker's `config.json` and podman's `auth.json`: one format, searched from the longest path prefix to the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use docker_credential::DockerCredential;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::Environment;
use super::login::{Login, TOKEN_NAME};
use crate::name::{DOCKER_HUB, normal_host};
use crate::{Error, Operation, Result};

/// The key under which `docker login` keeps Docker Hub (docker/cli, `registry.IndexServer`), and what helpers know it by.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Both files, as far as larder reads them. No `Debug`: it holds secrets.
#[derive(Deserialize)]
struct Document {
    auths: Option<BTreeMap<String, Value>>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(rename = "credHelpers")]
    cred_helpers: Option<BTreeMap<String, String>>,
}

/// A file that was read. No `Debug`: it holds secrets.
pub(super) struct AuthFile {
    pub(super) path: PathBuf,
    /// By normalised key; only entries that hold something.
    auths: BTreeMap<String, Value>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

/// One thing to try, in order.
pub(super) enum AuthFileStep<'f> {
    /// The file holds a credential under this key.
    Entry(&'f str, &'f Value),
    /// This helper may have one, under the first of these servers that it knows.
    Helper(&'f str, Vec<String>),
}

/// The files that exist for this environment's user, in order: docker's, then podman's.
pub(super) fn candidates(environment: &Environment) -> Vec<PathBuf> {
    let docker = environment.path("DOCKER_CONFIG").or_else(|| Some(environment.home.as_ref()?.join(".docker")));
    let mut paths: Vec<PathBuf> = docker.into_iter().map(|folder| folder.join("config.json")).collect();
    // containers-auth.json(5).
    if let Some(file) = environment.path("REGISTRY_AUTH_FILE") {
        paths.push(file);
        return paths;
    }
    let config = environment.path("XDG_CONFIG_HOME").or_else(|| Some(environment.home.as_ref()?.join(".config")));
    let folders = [environment.path("XDG_RUNTIME_DIR"), config];
    paths.extend(folders.into_iter().flatten().map(|folder| folder.join("containers/auth.json")));
    paths
}

impl AuthFile {
    /// Reads `path`; `None` if there is no such file. Errors name the file and where in it, never what stands there.
    pub(super) async fn read(path: &Path) -> Result<Option<Self>> {
        let text = match tokio::fs::read(path).await {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => {
                return Err(Error::io(Operation::LookUpCredentials, path, &error)
                    .remedy("make the file readable, or set DOCKER_CONFIG or REGISTRY_AUTH_FILE to another"));
            }
        };
        let document: Document = serde_json::from_slice(&text).map_err(|error| {
            let at = format!("line {}, column {}", error.line(), error.column());
            Error::local(Operation::LookUpCredentials, format!("{}: not a credentials file that can be read ({at})", path.display()))
                .remedy("mend the file, or set DOCKER_CONFIG or REGISTRY_AUTH_FILE to another")
        })?;
        Ok(Some(AuthFile {
            path: path.to_owned(),
            auths: normalised(document.auths.unwrap_or_default().into_iter().filter(|(_, entry)| holds_something(entry))),
            helpers: normalised(document.cred_helpers.unwrap_or_default().into_iter().filter(|(_, helper)| !helper.is_empty())),
            store: document.creds_store.filter(|store| !store.is_empty()),
        }))
    }

    /// What to try for `path` at `host`: for every prefix from the longest on its own helper, then its entry; at the end the
    /// helper for everything.
    pub(super) fn steps(&self, host: &str, path: &str) -> Vec<AuthFileStep<'_>> {
        let mut steps = Vec::new();
        for key in prefixes(host, path) {
            if let Some(helper) = self.helpers.get(&key) {
                steps.push(AuthFileStep::Helper(helper, servers(&key)));
            }
            if let Some((key, entry)) = self.auths.get_key_value(&key) {
                steps.push(AuthFileStep::Entry(key, entry));
            }
        }
        if let Some(store) = &self.store {
            steps.push(AuthFileStep::Helper(store, servers(host)));
        }
        steps
    }

    /// Whether a key is about a part of `host`.
    pub(super) fn has_paths(&self, host: &str) -> bool {
        let below = |key: &String| key.strip_prefix(host).is_some_and(|rest| rest.starts_with('/'));
        self.auths.keys().chain(self.helpers.keys()).any(below)
    }

    /// The user's name (for reports) and login of an entry.
    pub(super) fn decode(&self, key: &str, entry: &Value) -> Result<(String, Login)> {
        let entry_alone = |entry: &Value| serde_json::json!({ "auths": { "entry": entry } }).to_string();
        let decode = |document: String| docker_credential::get_credential_from_reader(document.as_bytes(), "entry");
        // Its errors carry nothing of the entry in the variants that an entry without a helper can cause.
        let credential = decode(entry_alone(entry)).map_err(|error| {
            Error::local(
                Operation::LookUpCredentials,
                format!("{}: the entry for {key}: {}", self.path.display(), error.to_string().to_lowercase()),
            )
            .remedy(format!("log in again: docker login {key}"))
        })?;
        Ok(match credential {
            DockerCredential::UsernamePassword(username, password) => {
                // docker/cli pads and trims passwords with NUL.
                let password = SecretString::from(password.trim_matches('\0'));
                (username.clone(), Login::Basic { username, password })
            }
            DockerCredential::IdentityToken(token) => {
                let mut without = entry.clone();
                without.as_object_mut().and_then(|fields| fields.remove("identitytoken"));
                let name = match decode(entry_alone(&without)) {
                    Ok(DockerCredential::UsernamePassword(username, _)) if !username.is_empty() => username,
                    _ => TOKEN_NAME.to_owned(),
                };
                (name, Login::IdentityToken { token: SecretString::from(token) })
            }
        })
    }
}

/// `docker login` with a helper leaves empty entries behind.
fn holds_something(entry: &Value) -> bool {
    ["auth", "identitytoken", "password"].iter().any(|field| entry.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()))
}

/// Entries by normalised key. Of several spellings of one key the one that is already normal stays, else the first.
fn normalised<V>(entries: impl Iterator<Item = (String, V)>) -> BTreeMap<String, V> {
    let mut by_key: BTreeMap<String, V> = BTreeMap::new();
    for (written, value) in entries {
        let key = normal_key(&written);
        if key == written || !by_key.contains_key(&key) {
            by_key.insert(key, value);
        }
    }
    by_key
}

/// `https://index.docker.io/v1/` is `docker.io`; `https://quay.io` is `quay.io`; `quay.io/org` stays.
fn normal_key(key: &str) -> String {
    let url = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = url.unwrap_or(key).split_once('/').unwrap_or((url.unwrap_or(key), ""));
    let host = normal_host(host).unwrap_or_else(|_| host.to_owned());
    // Old docker wrote the API's address: its path is no repository.
    match path.trim_end_matches('/') {
        "" | "v1" | "v2" => host,
        _ if url.is_some() => host,
        path => format!("{host}/{path}"),
    }
}

/// `host/a/b`, `host/a`, `host`.
fn prefixes(host: &str, path: &str) -> Vec<String> {
    let full = if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") };
    let shorter: Vec<String> = full[host.len()..].rmatch_indices('/').map(|(slash, _)| full[..host.len() + slash].to_owned()).collect();
    std::iter::once(full).chain(shorter).collect()
}

/// What a helper may know a key by: docker's name for Docker Hub, and podman's.
fn servers(key: &str) -> Vec<String> {
    if key == DOCKER_HUB { vec![HUB_KEY.to_owned(), DOCKER_HUB.to_owned()] } else { vec![key.to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_normalised() {
        for (written, expected) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("https://Quay.io", "quay.io"),
            ("http://localhost:5000/v2/", "localhost:5000"),
            ("quay.io/org/app", "quay.io/org/app"),
            ("quay.io/", "quay.io"),
        ] {
            assert_eq!(normal_key(written), expected, "{written}");
        }
    }

    #[test]
    fn prefixes_go_from_the_longest_to_the_host() {
        assert_eq!(prefixes("[::1]:5000", "a/b"), ["[::1]:5000/a/b", "[::1]:5000/a", "[::1]:5000"]);
        assert_eq!(prefixes("quay.io", ""), ["quay.io"]);
    }
}
