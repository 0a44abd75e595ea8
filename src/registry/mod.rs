#![allow(dead_code, unused_imports)]
//! The distribution API: how larder speaks to registries, and what it lets them make it do.

pub(crate) mod address;
pub(crate) mod auth;
pub(crate) mod http;
