//! `larder.toml` as it is written: what serde reads, before anything is checked.
//!
//! No type here has `Debug`: a password that was written in plain (an error) would show in it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

/// Keys that a later version brings. They are refused by name, never ignored.
pub(super) const NOT_YET: [&str; 10] = [
    "platforms",
    "platforms_required",
    "index",
    "referrers",
    "referrers_recheck",
    "blobs",
    "upstream_check",
    "warm_ttl",
    "min_tags",
    "foreign_layers",
];

/// A key of a later version.
type NotYet = Option<Spanned<IgnoredAny>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) version: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) lists: Vec<String>,
    #[serde(default)]
    pub(super) target: Option<Spanned<Target>>,
    #[serde(default, rename = "rule")]
    pub(super) rules: Vec<Rule>,
    #[serde(default)]
    pub(super) credentials: Vec<Credentials>,
    #[serde(default, rename = "registry")]
    pub(super) registries: BTreeMap<Spanned<String>, Registry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub(super) registry: Option<Spanned<String>>,
    pub(super) layout: Option<Spanned<String>>,
    pub(super) repository_prefix: Option<Spanned<String>>,
    pub(super) overlap: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) name: Spanned<String>,
    pub(super) source: Spanned<String>,
    pub(super) target: Spanned<String>,
    pub(super) credentials: Option<Spanned<String>>,
    pub(super) delivery: Option<Spanned<String>>,
    pub(super) immutable_tags: Option<Spanned<Vec<String>>>,
    platforms: NotYet,
    platforms_required: NotYet,
    index: NotYet,
    referrers: NotYet,
    referrers_recheck: NotYet,
    blobs: NotYet,
    upstream_check: NotYet,
    warm_ttl: NotYet,
    min_tags: NotYet,
    foreign_layers: NotYet,
}

impl Rule {
    /// The keys of later versions that are set: name and offset.
    pub(super) fn not_yet(&self) -> Vec<(&'static str, usize)> {
        present([
            ("platforms", &self.platforms),
            ("platforms_required", &self.platforms_required),
            ("index", &self.index),
            ("referrers", &self.referrers),
            ("referrers_recheck", &self.referrers_recheck),
            ("blobs", &self.blobs),
            ("upstream_check", &self.upstream_check),
            ("warm_ttl", &self.warm_ttl),
            ("min_tags", &self.min_tags),
            ("foreign_layers", &self.foreign_layers),
        ])
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    pub(super) name: Spanned<String>,
    pub(super) login_server: Spanned<String>,
    /// Read as any value, so that a wrong one is reported without being shown.
    pub(super) username: Spanned<toml::Value>,
    pub(super) password: Spanned<toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    pub(super) endpoint: Option<Spanned<String>>,
    pub(super) plain_http: Option<Spanned<bool>>,
    pub(super) ca: Option<String>,
    pub(super) client_cert: Option<Spanned<String>>,
    pub(super) client_key: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) insecure_skip_verify: bool,
    pub(super) concurrency: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) allow_private: bool,
    pub(super) profile: Option<Spanned<String>>,
    pub(super) pulls: Option<Spanned<Pulls>>,
    /// Read as any value: whole numbers are welcome too.
    pub(super) requests_per_second: Option<Spanned<toml::Value>>,
    pub(super) bandwidth: Option<Spanned<String>>,
    pub(super) retry_after_max: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pulls {
    pub(super) limit: Option<Spanned<i64>>,
    pub(super) window: Option<Spanned<String>>,
    pub(super) reserve: Option<Spanned<i64>>,
}

fn present<const N: usize>(keys: [(&'static str, &NotYet); N]) -> Vec<(&'static str, usize)> {
    keys.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?.span().start))).collect()
}
