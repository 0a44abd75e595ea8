//! larder stocks a container registry before anyone asks for it.
//!
//! The whole program is one sentence: *copy a graph from a [`content::Source`] into a [`content::Sink`], within limits,
//! and say what happened*. Each module is a room with one subject; `docs/design.md` draws the house.

pub mod bundle;
pub mod cli;
pub mod config;
pub mod content;
pub mod copy;
pub mod demo;
pub mod error;
mod folder;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod input;
mod internal;
pub mod layout;
pub mod limits;
pub mod list;
pub mod lock;
mod mutex;
pub mod name;
mod registry;
pub mod report;
pub mod rules;
mod run;
pub mod select;
pub mod serve;
pub mod state;
pub mod store;
pub mod sync;
mod warm;

pub use error::{Error, Kind, Operation, Result, Side};
