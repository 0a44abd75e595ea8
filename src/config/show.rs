//! `larder config show`: what is in effect, as TOML that reads back, with secrets redacted.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use toml::Value;

use super::credentials::ValueSource;
use super::{Config, CredentialSet, RegistrySettings, TargetConfig, limits, profiles};
use crate::content::{ForeignLayers, IndexMode, Policy, Recheck, Referrers};
use crate::limits::Pause;
use crate::rules::{CacheRule, Delivery, WarmBlobs, WarmSettings};

/// Stands for what a command is given: tokens are passed that way.
const REDACTED: &str = "<redacted>";

pub(super) fn show(config: &Config) -> String {
    let mut out = Toml::default();
    match &config.path {
        Some(path) => out.comment(&format!("in effect from {}", path.display())),
        None => out.comment("in effect without a configuration file; images that no rule covers are mirrored to <upstream host>/<path>"),
    }
    out.key("version", 1);
    if !config.lists.is_empty() {
        out.key("lists", config.lists.iter().map(|path| text(path)).collect::<Vec<_>>());
    }
    if let Some(state) = &config.state {
        out.table("[state]");
        out.key("url", state.to_string());
    }
    out.table("[target]");
    match &config.target {
        TargetConfig::Registry { host, prefix } => {
            out.key("registry", host.as_str());
            out.key("repository_prefix", prefix.as_str());
            if config.writable_cache {
                out.key("writable_cache", true);
            }
        }
        TargetConfig::Layout { path } => out.key("layout", text(path)),
    }
    out.key("overlap", config.rules.overlap().to_string());
    for rule in config.rules.rules() {
        out.rule(rule);
    }
    for set in &config.credentials {
        out.credential_set(set);
    }
    for host in hosts(config) {
        out.registry(&host, &config.registry(&host));
    }
    out.0
}

/// Every registry that the configuration speaks of.
fn hosts(config: &Config) -> BTreeSet<String> {
    let mut hosts: BTreeSet<String> = config.registries.keys().cloned().collect();
    hosts.extend(config.rules.rules().iter().map(|rule| rule.source.host.clone()));
    if let TargetConfig::Registry { host, .. } = &config.target {
        hosts.insert(host.clone());
    }
    hosts
}

/// Lines of TOML. Writing to a string cannot fail.
#[derive(Default)]
struct Toml(String);

impl Toml {
    fn comment(&mut self, text: &str) {
        let _ = writeln!(self.0, "# {}", crate::error::printable(text));
    }

    fn table(&mut self, header: &str) {
        let _ = writeln!(self.0, "\n{header}");
    }

    fn key<V: Into<Value>>(&mut self, key: &str, value: V) {
        let _ = writeln!(self.0, "{key} = {}", value.into());
    }

    fn optional<V: Into<Value>>(&mut self, key: &str, value: Option<V>) {
        if let Some(value) = value {
            self.key(key, value);
        }
    }

    fn rule(&mut self, rule: &CacheRule) {
        self.table("[[rule]]");
        self.key("name", rule.name.as_str());
        self.key("source", rule.source.to_string());
        self.key("target", rule.target.to_string());
        self.optional("credentials", rule.credentials.as_deref());
        self.key("delivery", rule.delivery.to_string());
        self.policy(&rule.policy, rule.delivery);
        if rule.delivery == Delivery::Warm {
            self.warm(&rule.warm);
        }
        self.key("min_tags", i64::try_from(rule.min_tags).unwrap_or(i64::MAX));
        if !rule.immutable_tags.is_empty() {
            self.key("immutable_tags", rule.immutable_tags.texts().to_vec());
        }
    }

    fn policy(&mut self, policy: &Policy, delivery: Delivery) {
        if !policy.platforms.is_empty() {
            self.key("platforms", policy.platforms.iter().map(ToString::to_string).collect::<Vec<_>>());
            self.key("platforms_required", policy.platforms_required);
            if delivery == Delivery::Push {
                self.key("index", if policy.index == IndexMode::Sparse { "sparse" } else { "rewrite" });
            }
        }
        match &policy.referrers {
            // No rule says `Exactly`.
            Referrers::All | Referrers::Exactly(_) => self.key("referrers", true),
            Referrers::No => self.key("referrers", false),
            Referrers::Types(types) => self.key("referrers", types.clone()),
        }
        match policy.referrers_recheck {
            Recheck::Always => self.key("referrers_recheck", "always"),
            Recheck::Never => self.key("referrers_recheck", "never"),
            Recheck::For(length) => self.key("referrers_recheck", limits::in_words(length)),
        }
        self.key("foreign_layers", if policy.foreign_layers == ForeignLayers::Fetch { "fetch" } else { "skip" });
    }

    fn warm(&mut self, warm: &WarmSettings) {
        let blobs = match warm.blobs {
            WarmBlobs::Get => "get",
            WarmBlobs::Head => "head",
            WarmBlobs::None => "none",
        };
        self.key("blobs", blobs);
        self.key("upstream_check", warm.upstream_check);
        self.optional("warm_ttl", warm.ttl.map(limits::in_words));
    }

    fn credential_set(&mut self, set: &CredentialSet) {
        self.table("[[credentials]]");
        self.key("name", set.name.as_str());
        self.key("login_server", set.login_server.as_str());
        self.key("username", source(&set.username));
        self.key("password", source(&set.password));
    }

    fn registry(&mut self, host: &str, settings: &RegistrySettings) {
        self.table(&format!("[registry.{}]", Value::from(host)));
        // The parser of URLs adds the slash of an empty path.
        self.optional("endpoint", settings.endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/')));
        self.key("plain_http", settings.is_plain(host));
        self.optional("ca", settings.ca.as_deref().map(text));
        self.optional("client_cert", settings.client_cert.as_deref().map(text));
        self.optional("client_key", settings.client_key.as_deref().map(text));
        self.key("insecure_skip_verify", settings.insecure_skip_verify);
        let default = settings.profile(host).unwrap_or(&profiles::UNKNOWN).concurrency;
        self.key("concurrency", i64::try_from(settings.concurrency.unwrap_or(default)).unwrap_or(i64::MAX));
        self.key("allow_private", settings.allow_private);
        self.limits(host, settings);
    }

    /// `pulls` and `requests_per_second` only as configured: the first are learnt, the second is the profile's, by account.
    fn limits(&mut self, host: &str, settings: &RegistrySettings) {
        let profile = settings.profile(host);
        self.optional("profile", profile.map(|profile| profile.name));
        if let Some(pulls) = settings.pulls {
            let number = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
            let limit = pulls.limit.map(|limit| ("limit".to_owned(), number(limit)));
            let window = ("window".to_owned(), Value::from(limits::in_words(pulls.window)));
            let reserve = ("reserve".to_owned(), number(pulls.reserve));
            self.key("pulls", Value::Table(limit.into_iter().chain([window, reserve]).collect()));
        }
        self.optional("requests_per_second", settings.requests_per_second);
        self.optional("bandwidth", settings.bandwidth.map(limits::bandwidth_in_words));
        self.optional("min_rate", settings.min_rate.map(limits::bandwidth_in_words));
        self.key("retry_after_max", limits::in_words(settings.retry_after_max.unwrap_or(Pause::DEFAULT_MOST)));
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn source(source: &ValueSource) -> Value {
    let (key, value) = match source {
        ValueSource::Plain(name) => return Value::from(name.as_str()),
        ValueSource::Env(name) => ("env", Value::from(name.as_str())),
        ValueSource::File(path) => ("file", Value::from(text(path))),
        ValueSource::Command { program, arguments } => {
            let words = std::iter::once(text(program)).chain(arguments.iter().map(|_| REDACTED.to_owned()));
            ("command", words.map(Value::from).collect::<Vec<_>>().into())
        }
    };
    Value::Table(toml::Table::from_iter([(key.to_owned(), value)]))
}
