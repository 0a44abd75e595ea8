//! What outlives a run so that nothing costs twice: manifests fetched for images that are not delivered yet, when images were
//! created, when which image was first delivered, what was pulled through which cache, and which registries have taken a push. Losing it
//! costs requests, never correctness.

mod created;
mod delivered;
mod kept;
mod lines;
mod pushes;
mod shared;
mod warmed;

pub use created::CreatedDates;
pub use delivered::{DeliveredRecord, Deliveries};
pub use kept::{SavedManifests, SavingSource};
pub(crate) use lines::JsonLines;
pub use pushes::Pushes;
pub use shared::SharedState;
pub use warmed::{WarmedRecord, WarmedRecords};
