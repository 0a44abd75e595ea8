//! The distribution API: how larder speaks to registries. [`RegistryStore`] is one of them as a `Source` and a `Sink`;
//! [`Registries`] is all of a run.
//!
//! `transport` is the only place a request leaves. Around it: `manifests`, `blobs`, `uploads` and `tags` (what the API
//! offers), `auth` (logins and tokens), `address` (where a registry may send us), `http` (clients), `error` and `remedy`
//! (what refusals mean), `counters` (what was asked). Lists and rules are unknown here.

// Until the command line uses it.
#![allow(dead_code, unused_imports)]

#[path = "address_stub.rs"]
mod address;
#[path = "auth_stub.rs"]
mod auth;
mod blobs;
mod counters;
mod error;
#[path = "http_stub.rs"]
mod http;
mod known;
mod link;
mod manifests;
mod registries;
mod remedy;
mod store;
mod tags;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod transport;
mod uploads;

pub(crate) use auth::{Login, Logins};
pub use counters::{RegistryRow, RequestCounts};
pub(crate) use http::HttpSettings;
pub(crate) use registries::{Concurrency, HostSettings, Registries};
pub(crate) use store::RegistryStore;
pub(crate) use transport::RetryPolicy;
