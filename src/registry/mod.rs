//! The distribution API: how larder speaks to registries. [`RegistryStore`] is one of them as a `Source` and a `Sink`;
//! [`Registries`] is all of a run.
//!
//! `transport` is the only place a request leaves. Around it: `manifests`, `blobs`, `uploads`, `tags`, `referrers` and `catalog` (what the API
//! offers), `auth` (logins and tokens), `address` (where a registry may send us), `http` (clients), `error` and `remedy`
//! (what refusals mean), `through` (caches that are pulled through), `counters` (what was asked), `toll` (what pulls cost an account), `profiles` (how known registries
//! differ). Lists and rules are unknown here.

mod address;
mod admissions;
mod api_check;
mod auth;
mod blobs;
mod catalog;
mod counters;
mod error;
mod error_answer;
mod headers;
mod http;
mod index_locks;
mod known;
mod limit_probe;
mod link;
mod manifests;
mod pages;
mod pull_meter;
mod push_probe;
mod referrers;
mod referrers_api;
mod referrers_support;
mod registries;
mod remedy;
mod request;
mod settings;
mod sink;
mod source;
mod store;
mod tags;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod through;
mod transport;
mod uploads;

pub(crate) use counters::pull_row;
pub(crate) use http::{HttpSettings, check_files, install_crypto};
pub(crate) use registries::{Registries, SharedLimits};
pub(crate) use settings::HostSettings;
pub(crate) use store::RegistryStore;
pub(crate) use through::{BlobSeen, CacheHead};
pub(crate) use transport::RetryPolicy;

/// Whether the environment's proxies can be used.
///
/// # Errors
/// If one of them is no address.
pub(crate) fn check_proxies() -> crate::Result<()> {
    address::ProxyVariables::of_process().map(drop)
}

/// The registry's parsers of outside text, for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    pub(crate) use super::auth::challenge::parse as challenges;
    pub(crate) use super::link::next as next_link;
}
