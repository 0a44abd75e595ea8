//! What outlives a run so that nothing costs twice: manifests fetched for images that are not delivered yet, and when images
//! were created. Losing it costs requests, never correctness.

mod created;
mod kept;

pub use created::CreatedDates;
pub use kept::{Keeping, Kept};
