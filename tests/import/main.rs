//! The far side of an air gap: what a target holds, and putting there what was carried.
// clippy.toml lets tests unwrap; their helper functions are no tests to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bundles;
mod interchange;
mod inventory;
#[path = "../support/mod.rs"]
mod support;

use support::corpus::{self, ImageSpec, image};
use support::fake::{Fake, Kind, Options};
use support::layer::noise;
use support::program::Program;

fn layer(seed: u64) -> bytes::Bytes {
    noise(seed, 2000).into()
}
