//! The far side of an air gap: what a target holds, and putting there what was carried.

mod archives;
mod bundles;
mod interchange;
mod inventory;

use crate::support::corpus::{self, ImageSpec, image};
use crate::support::fake::{Fake, Kind, Options};
use crate::support::layer::noise;
use crate::support::program::Program;

fn layer(seed: u64) -> bytes::Bytes {
    noise(seed, 2000).into()
}
