//! The content of `larder demo`, all of it generated: an upstream in memory, and the list and `larder.toml` that a user
//! might have written for it.
//!
//! `memory_registry` holds content and is a [`crate::content::Source`]; `images` defines which images there are;
//! `image` builds their manifests and configs, `archive` their layers; `files` writes the two texts. The bytes are the
//! same every time and on every machine, so printed digests stay correct. The command itself belongs to [`crate::cli`].

mod archive;
mod files;
mod image;
mod images;
mod memory_registry;

pub use files::{config, list};
pub use memory_registry::{MemoryRegistry, Sharing};
