//! `CredentialStore`: which account is used towards which repository.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::OnceCell;

use super::files::{self, AuthFile, AuthFileStep};

use super::{Environment, Login, LoginAccount, helper};
use crate::config::Config;
use crate::mutex::Mutex;
use crate::name::RegistryRepository;
use crate::{Error, Operation, Result};

/// Finds accounts, in this order: the rule's credential set; any set for that login server; docker's `config.json`;
/// podman's `auth.json`; anonymous. The same credential is always the same [`LoginAccount`].
pub struct CredentialStore {
    config: Config,
    environment: Arc<Environment>,
    sets: HashMap<String, LoginAccount>,
    anonymous: LoginAccount,
    files: OnceMap<PathBuf, Option<Arc<AuthFile>>>,
    /// By helper and server: each is asked once, however many images wait, and a slow one delays only its own registry.
    helpers: OnceMap<(String, String), Option<LoginAccount>>,
    /// Accounts of the files' own entries, by host.
    entries: Mutex<Vec<(String, Login, LoginAccount)>>,
}

impl CredentialStore {
    /// A store over this process's environment.
    pub fn new(config: &Config) -> Self {
        Self::with_environment(config, Environment::process())
    }

    /// A store over the given environment.
    pub fn with_environment(config: &Config, environment: Environment) -> Self {
        let environment = Arc::new(environment);
        let account = |set: &super::CredentialSet| (set.name.clone(), LoginAccount::of_set(set.clone(), Arc::clone(&environment)));
        CredentialStore {
            config: config.clone(),
            sets: config.credentials.iter().map(account).collect(),
            anonymous: LoginAccount::anonymous(),
            files: OnceMap::default(),
            helpers: OnceMap::default(),
            entries: Mutex::default(),
            environment,
        }
    }

    /// The account to use towards `repository`; `rule_set` is the credential set that its rule names.
    ///
    /// Fails for a set that is not there or is another registry's, and for a file or helper that was needed and is broken.
    pub async fn account_for(&self, repository: &RegistryRepository, rule_set: Option<&str>) -> Result<LoginAccount> {
        let host = repository.host.as_str();
        if let Some(name) = rule_set {
            return self.rule_set(name, host);
        }
        if let Some(account) = self.config.credential_set_for(host).and_then(|set| self.sets.get(&set.name)) {
            return Ok(account.clone());
        }
        let endpoint = self.config.registry(host).endpoint_host();
        for path in files::candidates(&self.environment) {
            let Some(file) = self.file(&path).await? else { continue };
            for host in [Some(host), endpoint.as_deref()].into_iter().flatten() {
                if let Some(account) = self.in_file(&file, host, &repository.path).await? {
                    return Ok(account);
                }
            }
        }
        Ok(self.anonymous.clone())
    }

    /// The account to use towards `path` at `host` (normal form) without a rule: what a target has.
    pub async fn account_for_host(&self, host: &str, path: &str) -> Result<LoginAccount> {
        self.account_for(&RegistryRepository { host: host.to_owned(), path: path.to_owned() }, None).await
    }

    /// Whether the account towards `host` may differ by repository: a file has a key with a path there.
    pub async fn depends_on_path(&self, host: &str) -> bool {
        if self.config.credential_set_for(host).is_some() {
            return false;
        }
        let endpoint = self.config.registry(host).endpoint_host();
        for path in files::candidates(&self.environment) {
            // One that cannot be read is an error where it is needed.
            let Ok(Some(file)) = self.file(&path).await else { continue };
            if [Some(host), endpoint.as_deref()].into_iter().flatten().any(|host| file.has_paths(host)) {
                return true;
            }
        }
        false
    }

    async fn file(&self, path: &PathBuf) -> Result<Option<Arc<AuthFile>>> {
        self.files.get(path, || async { Ok(AuthFile::read(path).await?.map(Arc::new)) }).await
    }

    /// A set is used only towards its login server, also where a list's `target` column bypasses the rule's own check.
    fn rule_set(&self, name: &str, host: &str) -> Result<LoginAccount> {
        let (Some(set), Some(account)) = (self.config.credential_set(name), self.sets.get(name)) else {
            return Err(Error::local(Operation::LookUpCredentials, format!("there is no credential set \"{name}\"")));
        };
        if !self.config.same_registry(&set.login_server, host) {
            let message = format!("credential set \"{name}\" is for {}, not for {host}", set.login_server);
            return Err(Error::local(Operation::LookUpCredentials, message));
        }
        Ok(account.clone())
    }

    async fn in_file(&self, file: &AuthFile, host: &str, path: &str) -> Result<Option<LoginAccount>> {
        for step in file.steps(host, path) {
            match step {
                AuthFileStep::Entry(key, entry) => return self.entry(file, host, key, entry).map(Some),
                AuthFileStep::Helper(name, servers) => {
                    for server in servers {
                        if let Some(account) = self.helper(file, name, &server).await? {
                            return Ok(Some(account));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    fn entry(&self, file: &AuthFile, host: &str, key: &str, entry: &Value) -> Result<LoginAccount> {
        let (name, login) = file.decode(key, entry)?;
        let mut entries = self.entries.lock();
        if let Some((_, _, account)) = entries.iter().find(|(known_host, known, _)| known_host == host && *known == login) {
            return Ok(account.clone());
        }
        let account = LoginAccount::known(&name, login.clone());
        entries.push((host.to_owned(), login, account.clone()));
        Ok(account)
    }

    async fn helper(&self, file: &AuthFile, name: &str, server: &str) -> Result<Option<LoginAccount>> {
        let ask = || async {
            let answer = helper::ask(name, server, &self.environment).await.map_err(|why| {
                let message = format!("{}: {why}", file.path.display());
                Error::local(Operation::LookUpCredentials, message)
                    .remedy("mend or remove the helper in that file, or give larder.toml a credential set")
            })?;
            let account = answer.map(|(user, login)| LoginAccount::of_helper(&user, login, name, server, Arc::clone(&self.environment)));
            Ok(account)
        };
        self.helpers.get(&(name.to_owned(), server.to_owned()), ask).await
    }
}

impl fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialStore").field("sets", &self.config.credentials).finish_non_exhaustive()
    }
}

/// Results by key, each computed once however many ask for it at the same time; failures are kept as well.
struct OnceMap<K, V>(Mutex<HashMap<K, Arc<OnceCell<Result<V>>>>>);

impl<K, V> Default for OnceMap<K, V> {
    fn default() -> Self {
        OnceMap(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, V: Clone> OnceMap<K, V> {
    async fn get<F: Future<Output = Result<V>>>(&self, key: &K, compute: impl FnOnce() -> F) -> Result<V> {
        let cell = Arc::clone(self.0.lock().entry(key.clone()).or_default());
        cell.get_or_init(compute).await.clone()
    }
}
