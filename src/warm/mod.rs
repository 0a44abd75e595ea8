//! Warm delivery: filling a pull-through cache by pulling through it. The cache is the source, and what comes is checked and dropped.
//!
//! | subject | file |
//! |---|---|
//! | the cache as the engine's sink: takes everything, keeps nothing | `sink` |
//! | one image: its upstream, its name at the cache, and the source that reads it | `cached_image` |
//! | what was read of an image | `read_content` |
//! | is it warm already? | `proof` |
//! | the cache answers another digest than the upstream | `differs` |
//! | did it work? (`--verify-warm`) | `verify` |
//! | a cache that takes pushes, too | `writable` |
//!
//! How kinds of caches differ is in [`crate::config::profiles`]; what was pulled when, in [`crate::state`]; which account pays, in the image's request context.

mod cache;
mod cached_image;
mod differs;
mod empty_source;
mod proof;
mod read_content;
mod sink;
mod verify;
mod writable;

pub(crate) use cache::Cache;
pub(crate) use cached_image::{CacheUpstream, CachedImage};
pub(crate) use proof::Belief;
pub(crate) use writable::WritableCache;
