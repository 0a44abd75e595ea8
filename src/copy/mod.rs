//! The engine: copies the graph of an image from a [`Source`] into a [`Sink`], children first, each piece once, and gives
//! the name last. Knows nothing of registries, layouts or lists.

mod at_hand;
mod blob;
mod choose;
mod cost;
mod created;
mod engine;
mod graph;
mod listing;
mod piece;
mod predict;
mod presence;
mod recheck;
mod referrers;
#[cfg(test)]
mod tests;

pub use cost::{Cost, unread_pulls};
pub use engine::{BlobCounts, Comparison, CopyImage, CopyOptions, CopyOutcome, Engine, ImageState, NextStep, Room, TargetEnds};

#[allow(unused_imports, reason = "named in the text above")]
use crate::content::{Sink, Source};
