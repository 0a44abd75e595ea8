//! What outlives a run so that an interrupted one costs nothing twice: manifests fetched for images that are not
//! delivered yet; and when which image was first delivered. Losing it costs requests, never correctness.

mod delivered;
mod kept;

pub use delivered::{Deliveries, Delivery};
pub use kept::{Keeping, Kept};
