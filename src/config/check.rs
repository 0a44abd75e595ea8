//! From the file as written to a [`Config`]: everything that is wrong is found at once, each with its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::credentials::ValueSource;
use super::syntax::{self, LineIndex};
use super::target::not_a_path;
use super::{Config, CredentialSet, DEFAULT_LAYOUT, PullLimit, RegistrySettings, StateConfig, TargetConfig, limits, profiles, raw, values};
use crate::name::normal_host;
use crate::rules::{CacheRule, Delivery, Overlap, Pattern, RuleFinding, RuleSet, SourcePattern, check_name};
use crate::select::TagPatterns;
use crate::{Error, Operation, Result};

/// How errors of the file name what was being done.
pub(super) const OPERATION: Operation = Operation::ReadConfiguration;

/// The only version of the file's format.
const VERSION: i64 = 1;

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, Vec<Error>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = LineIndex::new(text);
    let mut check = ConfigChecker { lines: &lines, folder: path.parent().unwrap_or(Path::new("")), findings: Vec::new() };
    let config = match read(text, &lines) {
        Ok(file) => Some(check.file(file, path)),
        Err(finding) => {
            check.findings.push(finding);
            None
        }
    };
    let mut findings = check.findings;
    findings.sort_by_key(|finding| finding.line);
    match config {
        Some(config) if findings.is_empty() => Ok(config),
        _ => Err(findings.iter().map(|finding| Error::local(OPERATION, finding.located(path))).collect()),
    }
}

/// The syntax, the keys and the types. A file of another version is not measured by this one's keys.
fn read(text: &str, lines: &LineIndex) -> Result<raw::RawConfig, RuleFinding> {
    #[derive(Deserialize)]
    struct Outline {
        version: Option<Spanned<i64>>,
        target: Option<Spanned<toml::Value>>,
    }
    let outline = toml::from_str(text).unwrap_or(Outline { version: None, target: None });
    if let Some(version) = outline.version.filter(|version| *version.get_ref() != VERSION) {
        let message = format!("version {} is not known to this larder, which reads version {VERSION}", version.get_ref());
        return Err(RuleFinding::error(lines.of(&version), message));
    }
    // Where a table is wanted, serde would read a list as the table's values in their order.
    if let Some(targets) = outline.target.filter(|target| target.get_ref().is_array()) {
        let message = "several targets (`[[target]]`) are not in this version: write one `[target]`";
        return Err(RuleFinding::error(lines.of(&targets), message));
    }
    toml::from_str(text).map_err(|error| {
        let (line, message) = syntax::problem(&error, lines, text);
        RuleFinding { line, ..RuleFinding::error(0, message) }
    })
}

pub(super) struct ConfigChecker<'a> {
    lines: &'a LineIndex,
    folder: &'a Path,
    findings: Vec<RuleFinding>,
}

impl ConfigChecker<'_> {
    pub(super) fn error<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        self.findings.push(RuleFinding::error(self.lines.of(at), message));
    }

    /// The value, or its error reported at `at` with `what` before it.
    pub(super) fn accept<V, T>(&mut self, at: &Spanned<T>, what: &str, result: Result<V, String>) -> Option<V> {
        match result {
            Ok(value) => Some(value),
            Err(why) => {
                self.error(at, format!("{what}{why}"));
                None
            }
        }
    }

    fn file(&mut self, file: raw::RawConfig, path: &Path) -> Config {
        if file.version.is_none() {
            self.findings.push(RuleFinding::error(1, format!("the version is missing: write `version = {VERSION}` first")));
        }
        let overlap = file.target.as_ref().and_then(|target| target.get_ref().overlap.as_ref());
        let overlap = overlap.map_or(Overlap::default(), |value| self.overlap(value));
        let registries = self.registries(file.registries);
        let credentials = self.credentials(&file.credentials);
        let mut config = Config {
            path: Some(path.to_owned()),
            lists: self.lists(&file.lists),
            target: self.target(file.target.as_ref()),
            writable_cache: file.target.as_ref().is_some_and(|target| self.writable_cache(target.get_ref())),
            rules: RuleSet::default(),
            registries,
            credentials,
            state: file.state.as_ref().and_then(|state| self.state(&state.url)),
            implicit: false,
        };
        let rules: Vec<CacheRule> = file.rules.iter().filter_map(|rule| self.rule(rule, &config)).collect();
        match RuleSet::new(rules, overlap) {
            Ok(rules) => config.rules = rules,
            Err(findings) => self.findings.extend(findings),
        }
        config
    }

    fn lists(&mut self, lists: &[Spanned<String>]) -> Vec<PathBuf> {
        for list in lists {
            if let Some(why) = not_a_path(list.get_ref()) {
                self.error(list, format!("lists: {}: {why}", list.get_ref()));
            }
        }
        lists.iter().map(|list| self.folder.join(list.get_ref())).collect()
    }

    fn state(&mut self, url: &Spanned<String>) -> Option<StateConfig> {
        let parsed = StateConfig::parse(url.get_ref(), self.folder);
        self.accept(url, "url: ", parsed)
    }

    fn overlap(&mut self, value: &Spanned<String>) -> Overlap {
        match value.get_ref().as_str() {
            "error" => Overlap::Error,
            "longest" => Overlap::Longest,
            other => {
                self.error(value, format!("overlap is \"error\" or \"longest\", not \"{other}\""));
                Overlap::default()
            }
        }
    }

    fn target(&mut self, table: Option<&Spanned<raw::RawTarget>>) -> TargetConfig {
        let default = TargetConfig::Layout { path: self.folder.join(DEFAULT_LAYOUT) };
        let Some(table) = table else { return default };
        let raw::RawTarget { registry, layout, repository_prefix, .. } = table.get_ref();
        if registry.is_none()
            && let Some(prefix) = repository_prefix
        {
            self.error(prefix, "repository_prefix is for registry targets only");
        }
        match (registry, layout) {
            (Some(registry), None) => self.target_registry(registry, repository_prefix.as_ref()).unwrap_or(default),
            (None, Some(layout)) => {
                if layout.get_ref().is_empty() {
                    self.error(layout, "layout needs a folder");
                }
                if let Some(why) = not_a_path(layout.get_ref()) {
                    self.error(layout, format!("layout: {why}"));
                }
                TargetConfig::Layout { path: self.folder.join(layout.get_ref()) }
            }
            (Some(_), Some(layout)) => {
                self.error(layout, "the target is a registry or a layout, not both");
                default
            }
            (None, None) => default,
        }
    }

    fn writable_cache(&mut self, target: &raw::RawTarget) -> bool {
        let Some(writable) = &target.writable_cache else { return false };
        if target.registry.is_none() {
            self.error(writable, "writable_cache is for registry targets only");
        }
        *writable.get_ref()
    }

    fn target_registry(&mut self, registry: &Spanned<String>, prefix: Option<&Spanned<String>>) -> Option<TargetConfig> {
        let host = registry.get_ref();
        if let Some((host, rest)) = host.split_once('/').filter(|_| !host.contains("://")) {
            self.error(registry, format!("registry is a host: write `registry = \"{host}\"` and `repository_prefix = \"{rest}\"`"));
            return None;
        }
        let host = host.split_once("://").map_or(Ok(host.as_str()), |(scheme, _)| Err(format!("write the host without `{scheme}://`")));
        let host = self.accept(registry, "registry: ", host.and_then(normal_host))?;
        match prefix {
            None => Some(TargetConfig::Registry { host, prefix: String::new() }),
            Some(prefix) => self.accept(prefix, "repository_prefix: ", TargetConfig::registry(&host, prefix.get_ref())),
        }
    }

    /// Reports all that is wrong with one rule. Its overlaps with others are [`RuleSet::new`]'s to find.
    fn rule(&mut self, rule: &raw::RawRule, config: &Config) -> Option<CacheRule> {
        let what = format!("rule \"{}\": ", rule.name.get_ref());
        let delivery = rule.delivery.as_ref().map_or(Some(Delivery::Push), |delivery| self.delivery(delivery, &what));
        let source = self.accept(&rule.source, &format!("{what}source "), SourcePattern::parse(rule.source.get_ref()));
        let target = self.accept(&rule.target, &format!("{what}target "), Pattern::target(rule.target.get_ref()));
        let immutable_tags = match &rule.immutable_tags {
            Some(tags) => self.accept(tags, &format!("{what}immutable_tags: "), TagPatterns::parse(tags.get_ref())),
            None => Some(TagPatterns::default()),
        };
        let policy = self.policy(rule, &what);
        let warm = self.warm(rule, delivery, &what);
        let min_tags = self.take(rule.min_tags.as_ref(), &format!("{what}min_tags "), |number| limits::count(*number, 0));
        if let (Some(name), Some(source)) = (&rule.credentials, &source) {
            self.rule_credentials(name, &source.host, &what, config);
        }
        Some(CacheRule {
            name: rule.name.get_ref().clone(),
            source: source?,
            target: target?,
            credentials: rule.credentials.as_ref().map(|name| name.get_ref().clone()),
            delivery: delivery?,
            policy: policy?,
            min_tags: min_tags.unwrap_or(1),
            warm: warm?,
            immutable_tags: immutable_tags?,
            line: self.lines.of(&rule.name),
        })
    }

    fn delivery(&mut self, delivery: &Spanned<String>, what: &str) -> Option<Delivery> {
        match delivery.get_ref().as_str() {
            "push" => return Some(Delivery::Push),
            "warm" => return Some(Delivery::Warm),
            other => self.error(delivery, format!("{what}delivery is \"push\" or \"warm\", not \"{other}\"")),
        }
        None
    }

    /// A set is used only towards its login server.
    fn rule_credentials(&mut self, name: &Spanned<String>, host: &str, what: &str, config: &Config) {
        match config.credential_set(name.get_ref()) {
            None => self.error(name, format!("{what}there is no credential set \"{}\"", name.get_ref())),
            Some(set) if !config.same_registry(&set.login_server, host) => {
                let message = format!("{what}credential set \"{}\" is for {}, not for {host}", set.name, set.login_server);
                self.error(name, message);
            }
            Some(_) => {}
        }
    }

    fn credentials(&mut self, given: &[raw::RawCredentials]) -> Vec<CredentialSet> {
        let mut sets: Vec<CredentialSet> = Vec::new();
        for set in given {
            let name = set.name.get_ref();
            let what = format!("credential set \"{name}\": ");
            self.accept(&set.name, &what, check_name(name));
            if sets.iter().any(|other| other.name == *name) {
                self.error(&set.name, format!("{what}there is another set of this name"));
            }
            let server = self.accept(&set.login_server, &format!("{what}login_server: "), normal_host(set.login_server.get_ref()));
            let username = self.accept(&set.username, &format!("{what}username "), values::username(set.username.get_ref(), self.folder));
            let password = self.accept(&set.password, &format!("{what}password "), values::password(set.password.get_ref(), self.folder));
            // With a placeholder for what is wrong, so that rules that name the set are not reported on top.
            let missing = || ValueSource::Env(String::new());
            sets.push(CredentialSet {
                name: name.clone(),
                login_server: server.unwrap_or_default(),
                username: username.unwrap_or_else(missing),
                password: password.unwrap_or_else(missing),
            });
        }
        sets
    }

    fn registries(&mut self, given: BTreeMap<Spanned<String>, raw::RawRegistry>) -> BTreeMap<String, RegistrySettings> {
        let mut registries = BTreeMap::new();
        for (key, table) in given {
            let what = format!("registry \"{}\": ", key.get_ref());
            let settings = self.settings(&table, &what);
            if let Some(host) = self.accept(&key, &what, normal_host(key.get_ref()))
                && registries.insert(host.clone(), settings).is_some()
            {
                self.error(&key, format!("{what}there is another table for {host}"));
            }
        }
        registries
    }

    fn settings(&mut self, table: &raw::RawRegistry, what: &str) -> RegistrySettings {
        let endpoint = table.endpoint.as_ref().and_then(|text| self.accept(text, &format!("{what}endpoint "), endpoint(text.get_ref())));
        if let (Some(endpoint), Some(plain)) = (&endpoint, &table.plain_http)
            && (endpoint.scheme() == "http") != *plain.get_ref()
        {
            self.error(plain, format!("{what}plain_http contradicts the endpoint, which begins with {}://", endpoint.scheme()));
        }
        let pair = (&table.client_cert, &table.client_key);
        if let (Some(alone), None) | (None, Some(alone)) = pair {
            self.error(alone, format!("{what}client_cert and client_key go together"));
        }
        let path = |text: &String| self.folder.join(text);
        let (ca, client_cert, client_key) = (
            table.ca.as_ref().map(path),
            table.client_cert.as_ref().map(|text| path(text.get_ref())),
            table.client_key.as_ref().map(|text| path(text.get_ref())),
        );
        let concurrency = table.concurrency.as_ref().and_then(|number| {
            let count = usize::try_from(*number.get_ref()).ok().filter(|count| *count >= 1);
            self.accept(number, what, count.ok_or_else(|| "concurrency must be 1 or more".to_owned()))
        });
        RegistrySettings {
            endpoint,
            plain_http: table.plain_http.as_ref().map(|plain| *plain.get_ref()),
            ca,
            client_cert,
            client_key,
            insecure_skip_verify: table.insecure_skip_verify,
            concurrency,
            allow_private: table.allow_private,
            profile: self.take(table.profile.as_ref(), &format!("{what}profile "), |name| profiles::named(name)),
            pulls: table.pulls.as_ref().and_then(|pulls| self.pulls(pulls, what)),
            requests_per_second: self.take(table.requests_per_second.as_ref(), &format!("{what}requests_per_second "), limits::rate),
            bandwidth: self.take(table.bandwidth.as_ref(), &format!("{what}bandwidth: "), limits::bandwidth),
            min_rate: self.take(table.min_rate.as_ref(), &format!("{what}min_rate: "), |text| limits::min_rate(text)),
            retry_after_max: self.take(table.retry_after_max.as_ref(), &format!("{what}retry_after_max: "), |text| limits::duration(text)),
        }
    }

    fn pulls(&mut self, table: &Spanned<raw::RawPulls>, what: &str) -> Option<PullLimit> {
        let raw::RawPulls { limit, window, reserve } = table.get_ref();
        if limit.is_none() && window.is_none() && reserve.is_none() {
            self.error(table, format!("{what}pulls needs at least one of limit, window and reserve"));
        }
        let failed = self.findings.len();
        let limit = self.take(limit.as_ref(), &format!("{what}pulls.limit "), |number| limits::count(*number, 1));
        let reserve = self.take(reserve.as_ref(), &format!("{what}pulls.reserve "), |number| limits::count(*number, 0));
        let window = self.take(window.as_ref(), &format!("{what}pulls.window: "), |text| limits::duration(text));
        let pulls = PullLimit { limit, window: window.unwrap_or(limits::USUAL_WINDOW), reserve: reserve.unwrap_or(0) };
        if let Some(limit) = pulls.limit.filter(|limit| pulls.reserve >= *limit) {
            self.error(table, format!("{what}pulls.reserve ({}) leaves nothing of the limit ({limit})", pulls.reserve));
        }
        (self.findings.len() == failed).then_some(pulls)
    }

    /// An optional value as `read` reads it; its error is reported.
    pub(super) fn take<T, V>(&mut self, value: Option<&Spanned<T>>, what: &str, read: impl Fn(&T) -> Result<V, String>) -> Option<V> {
        value.and_then(|value| self.accept(value, what, read(value.get_ref())))
    }
}

/// Scheme and host only. The text is not repeated in errors: it could hold a password.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("must begin with https:// or http://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password: use a credential set".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("must be scheme and host only, `https://registry.example.com`: a path is not in this version".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
