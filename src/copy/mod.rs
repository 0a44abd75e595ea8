//! The engine: copies the graph of an image from a [`Source`] into a [`Sink`]. Children come before what lists them,
//! the name comes last, and each manifest and blob is read from the upstream once. Nothing here knows registries,
//! layouts or lists.

mod attached;
mod blob;
mod blob_counts;
mod cached_content;
mod child_counts;
mod compare;
mod comparison;
mod cost;
mod created;
mod engine;
mod graph;
mod image;
mod job;
mod keyed_locks;
#[cfg(test)]
mod keyed_locks_model;
mod listing;
mod once;
mod predict;
mod presence;
mod reader;
mod recheck;
mod referrer_walk;
mod referrers;
mod selection;
mod target;
#[cfg(test)]
mod tests;

pub use blob_counts::BlobCounts;
pub use comparison::{Comparison, NextStep};
pub use cost::{Cost, CostEstimate, unread_pulls};
pub use created::CreationDates;
pub use engine::Engine;
pub use image::{CopyImage, CopyOptions, CopyOutcome, ImageState, Room, TargetEnds};

#[allow(unused_imports, reason = "linked from the text above")]
use crate::content::{Sink, Source};
