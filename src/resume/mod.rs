//! What outlives a run so that an interrupted one costs nothing twice: manifests fetched for images that are not
//! delivered yet, and what was pulled through which cache. Losing it costs requests, never correctness.

mod kept;
mod warmed;

pub use kept::{Keeping, Kept};
pub use warmed::{Pulled, Warmed};
