//! What `larder demo` plays with, all of it made up on the spot: an upstream's content held in memory, and the list and
//! `larder.toml` a user might have written for it.
//!
//! `shelf` holds content and is a [`crate::content::Source`]; `stock` says which images lie on it; `image` makes their
//! manifests and configs, `archive` their layers; `files` writes the two texts. The same bytes come out every time, on
//! every machine: digests in a printed story stay true. The command itself is in [`crate::cli`].

mod archive;
mod files;
mod image;
mod shelf;
mod stock;

pub use files::{config, list};
pub use shelf::{MemoryRegistry, Sharing};
