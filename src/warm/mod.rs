//! Warm delivery: filling a pull-through cache by pulling through it. The cache is the source, and what comes is checked and dropped.
//!
//! | subject | file |
//! |---|---|
//! | the cache as the engine's sink: takes everything, keeps nothing | `sink` |
//! | one image: its upstream, its name at the cache, what was read of it | `through` |
//! | is it warm already? | `proof` |
//! | the cache answers another digest than the upstream | `differs` |
//! | did it work? (`--verify-warm`) | `verify` |
//! | a cache that takes pushes, too | `writable` |
//!
//! How kinds of caches differ is in [`crate::config::profiles`]; what was pulled when, in [`crate::state`]; whose pulls it costs
//! rides on the image's charge.

mod cache;
mod differs;
mod proof;
mod sink;
mod through;
mod verify;
mod writable;

pub(crate) use cache::Cache;
pub(crate) use through::{Belief, CacheUpstream, CachedImage};
pub(crate) use writable::WritableCache;
