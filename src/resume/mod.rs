//! What outlives a run so that nothing costs twice: manifests fetched for images that are not delivered yet, when images were
//! created, and when which image was first delivered. Losing it costs requests, never correctness.

mod created;
mod delivered;
mod kept;

pub use created::CreatedDates;
pub use delivered::{Deliveries, Delivery};
pub use kept::{Keeping, Kept};
