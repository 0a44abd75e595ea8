//! `larder.toml`: its types, its validation with line numbers, and the credentials it and other tools' files name.
//!
//! `raw` is the file as written, `check` turns it into a [`Config`] and finds everything that is wrong at once, `show`
//! prints one. Nothing here speaks to a registry, and no secret is read before [`credentials`] is asked for one.

mod check;
pub mod credentials;
mod limits;
mod policy;
pub mod profiles;
mod raw;
mod settings;
mod show;
mod state;
mod syntax;
mod target;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use credentials::TOKEN_USER;
pub use credentials::{CredentialSet, CredentialStore, Environment, Login, LoginAccount};
pub use profiles::Profile;
pub use settings::{PullLimit, Rate, RegistrySettings};
pub use state::StateConfig;
pub(crate) use target::not_a_path;
pub use target::{DEFAULT_LAYOUT, TargetConfig};

use crate::name::{ImageName, RegistryRepository};
use crate::rules::{CacheRule, Delivery, ExplainContext, Explanation, Resolution, RuleFinding, RuleSet, Unmatched, Unresolved};
use crate::{Error, Result};
use profiles::CACHE_REMEDY;

/// Where the configuration is looked for when `-c` is not given.
pub const DEFAULT_FILE: &str = "larder.toml";

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub path: Option<PathBuf>,
    /// The lists that commands use when given none; ready to be opened.
    pub lists: Vec<PathBuf>,
    /// Where images go.
    pub target: TargetConfig,
    /// The target is a pull-through cache that takes pushes too.
    pub writable_cache: bool,
    /// How names resolve.
    pub rules: RuleSet,
    /// Settings by host, in normal form.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// In file order.
    pub credentials: Vec<CredentialSet>,
    /// Where what outlives a run is kept; `None`: in the user's state folder.
    pub state: Option<StateConfig>,
    /// There was no file: images without a rule are mirrored unless said otherwise.
    pub implicit: bool,
}

impl Default for Config {
    /// What is in effect without a file: the layout `larder-store`, and every image mapped to `<upstream host>/<path>`.
    fn default() -> Self {
        Config {
            path: None,
            lists: Vec::new(),
            target: TargetConfig::Layout { path: PathBuf::from(DEFAULT_LAYOUT) },
            writable_cache: false,
            rules: RuleSet::default(),
            registries: BTreeMap::new(),
            credentials: Vec::new(),
            state: None,
            implicit: true,
        }
    }
}

impl Config {
    /// Reads the file `explicit`, else `larder.toml` in the working directory, else the defaults. All errors of the file are
    /// found at once; each begins with `FILE:LINE: `.
    pub fn load(explicit: Option<&Path>) -> Result<Self, Vec<Error>> {
        let path = explicit.unwrap_or(Path::new(DEFAULT_FILE));
        match crate::input::read_text(path, crate::input::MAX_CONFIG) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if explicit.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(vec![Error::io(check::OPERATION, path, &error)]),
        }
    }

    /// Checks `text` as the contents of `path`, which is where relative paths in it start and what errors are named after.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<Error>> {
        check::parse(text, path)
    }

    /// The settings for `host`, or the defaults.
    pub fn registry(&self, host: &str) -> RegistrySettings {
        self.registries.get(host).cloned().unwrap_or_default()
    }

    /// Whether two hosts in normal form are one registry: equal, or one is the other's endpoint.
    pub fn same_registry(&self, one: &str, other: &str) -> bool {
        let endpoint = |host: &str| self.registries.get(host).and_then(RegistrySettings::endpoint_host);
        one == other || endpoint(one).as_deref() == Some(other) || endpoint(other).as_deref() == Some(one)
    }

    /// All hosts that the file names, as keys of tables, endpoints and login servers, with their ports.
    pub fn named_ports(&self) -> Vec<(String, u16)> {
        let endpoints = self.registries.values().filter_map(|settings| settings.endpoint.as_ref()).map(ToString::to_string);
        let hosts = self.registries.keys().chain(self.credentials.iter().map(|set| &set.login_server));
        let urls = hosts.map(|host| {
            let scheme = if self.registry(host).is_plain(host) { "http" } else { "https" };
            format!("{scheme}://{host}")
        });
        let port = |url: String| {
            let url = url::Url::parse(&url).ok()?;
            Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
        };
        urls.chain(endpoints).filter_map(port).collect()
    }

    /// The credential set of this name.
    pub fn credential_set(&self, name: &str) -> Option<&CredentialSet> {
        self.credentials.iter().find(|set| set.name == name)
    }

    /// The first credential set whose login server `host` is.
    pub fn credential_set_for(&self, host: &str) -> Option<&CredentialSet> {
        self.credentials.iter().find(|set| self.same_registry(&set.login_server, host))
    }

    /// What happens to images without a rule when `--unmatched` does not say.
    pub fn default_unmatched(&self) -> Unmatched {
        if self.implicit { Unmatched::Mirror } else { Unmatched::Fail }
    }

    /// Where `name` comes from and goes: by source, or, if it is written as the target knows it, by target.
    pub fn resolve(&self, name: &RegistryRepository, unmatched: Unmatched) -> Result<Resolution, Unresolved> {
        // A rule that reads from the target's own registry is the more particular statement, so source goes first.
        if let Some(repository) = self.target.place_of(name)
            && self.rules.matching(name).is_empty()
        {
            match self.rules.by_target(repository) {
                // Where everything may be mirrored, the target's registry is an upstream like any other.
                Err(Unresolved::NoRule { .. }) if unmatched == Unmatched::Mirror => {}
                resolved => return resolved,
            }
        }
        self.rules.resolve(name, unmatched, self.target.is_registry())
    }

    /// How `image` resolves, for `larder rules explain`.
    pub fn explain(&self, image: &ImageName, unmatched: Unmatched) -> Explanation {
        let view = ExplainContext { target: &|repository| self.target.name_of(repository), credentials: &|host| self.set_name_for(host) };
        self.rules.explain(image, self.resolve(&image.repository, unmatched), &view)
    }

    /// What is in effect, as TOML, without any secret.
    pub fn show(&self) -> String {
        show::show(self)
    }

    /// What works but is probably not meant.
    pub fn warnings(&self) -> Vec<RuleFinding> {
        let mut findings = self.rules.warnings(self.is_acr(), &|host| self.set_name_for(host));
        if let TargetConfig::Registry { host, .. } = &self.target {
            let own = format!("{host}/");
            for rule in self.rules.rules().iter().filter(|rule| rule.target.prefix().starts_with(&own)) {
                let message =
                    format!("rule \"{}\": its target begins with the registry's own name, and goes to {host}/{}", rule.name, rule.target);
                findings.push(RuleFinding::warning(rule.line, message));
            }
        }
        findings
    }

    /// Whether the target is an Azure Container Registry, by its name or its profile.
    pub fn is_acr(&self) -> bool {
        let TargetConfig::Registry { host, .. } = &self.target else { return false };
        self.registry(host).profile(host).is_some_and(|profile| profile.name == "acr")
    }

    /// Rules that would push into a target whose profile is that of a pull-through cache. The profile `generic` leaves open whether the
    /// cache takes pushes as well.
    pub fn pushes_into_cache(&self) -> Vec<RuleFinding> {
        let TargetConfig::Registry { host, .. } = &self.target else { return Vec::new() };
        let is_cache = self.cache_profile(&self.target).is_some();
        let profile = self.registry(host).profile(host).filter(|profile| is_cache || profile.name == "generic" && !self.writable_cache);
        let Some(profile) = profile else { return Vec::new() };
        let pushes = self.rules.rules().iter().filter(|rule| rule.delivery == Delivery::Push);
        let finding = |rule: &Arc<CacheRule>| {
            let message = format!(
                "rule \"{}\": delivery = \"push\" into {host}, which is a pull-through cache (profile \"{}\") ({CACHE_REMEDY})",
                rule.name, profile.name
            );
            if is_cache { RuleFinding::error(rule.line, message) } else { RuleFinding::warning(rule.line, message) }
        };
        pushes.map(finding).collect()
    }

    /// The profile of `target`, if it is that of a pull-through cache and nobody says that it takes pushes.
    pub fn cache_profile(&self, target: &TargetConfig) -> Option<&'static Profile> {
        let TargetConfig::Registry { host, .. } = target else { return None };
        let writable = self.writable_cache && *target == self.target;
        self.registry(host).profile(host).filter(|profile| profile.only_cache && !writable)
    }

    fn set_name_for(&self, host: &str) -> Option<String> {
        self.credential_set_for(host).map(|set| set.name.clone())
    }
}
