//! What outlives a run so that an interrupted one costs nothing twice: manifests fetched for images that are not
//! delivered yet. Losing it costs requests, never correctness.

mod kept;

pub use kept::{Keeping, Kept};
