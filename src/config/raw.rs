//! `larder.toml` as it is written: what serde reads, before anything is checked.
//!
//! No type here has `Debug`: a password that was written in plain (an error) would show in it.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) version: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) lists: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) target: Option<Spanned<RawTarget>>,
    #[serde(default)]
    pub(super) state: Option<RawState>,
    #[serde(default, rename = "rule")]
    pub(super) rules: Vec<RawRule>,
    #[serde(default)]
    pub(super) credentials: Vec<RawCredentials>,
    #[serde(default, rename = "registry")]
    pub(super) registries: BTreeMap<Spanned<String>, RawRegistry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    pub(super) registry: Option<Spanned<String>>,
    pub(super) layout: Option<Spanned<String>>,
    pub(super) repository_prefix: Option<Spanned<String>>,
    pub(super) overlap: Option<Spanned<String>>,
    pub(super) writable_cache: Option<Spanned<bool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawState {
    pub(super) url: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) name: Spanned<String>,
    pub(super) source: Spanned<String>,
    pub(super) target: Spanned<String>,
    pub(super) credentials: Option<Spanned<String>>,
    pub(super) delivery: Option<Spanned<String>>,
    pub(super) immutable_tags: Option<Spanned<Vec<String>>>,
    pub(super) platforms: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    pub(super) platforms_required: bool,
    pub(super) index: Option<Spanned<String>>,
    /// A boolean, or a list of artifact types.
    pub(super) referrers: Option<Spanned<toml::Value>>,
    pub(super) referrers_recheck: Option<Spanned<String>>,
    pub(super) blobs: Option<Spanned<String>>,
    pub(super) upstream_check: Option<Spanned<bool>>,
    pub(super) warm_ttl: Option<Spanned<String>>,
    pub(super) min_tags: Option<Spanned<i64>>,
    pub(super) foreign_layers: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCredentials {
    pub(super) name: Spanned<String>,
    pub(super) login_server: Spanned<String>,
    /// Read as any value, so that a wrong one is reported without being shown.
    pub(super) username: Spanned<toml::Value>,
    pub(super) password: Spanned<toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRegistry {
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
    pub(super) pulls: Option<Spanned<RawPulls>>,
    /// Read as any value: whole numbers are welcome too.
    pub(super) requests_per_second: Option<Spanned<toml::Value>>,
    /// A text; read as any value, because later versions take a list.
    pub(super) bandwidth: Option<Spanned<toml::Value>>,
    pub(super) min_rate: Option<Spanned<String>>,
    pub(super) retry_after_max: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPulls {
    pub(super) limit: Option<Spanned<i64>>,
    pub(super) window: Option<Spanned<String>>,
    pub(super) reserve: Option<Spanned<i64>>,
}
