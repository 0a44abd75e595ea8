//! From list entries to a stocked target: entries meet rules and become items, items become wanted images, and images
//! stream through the engine, each upstream on its own.

mod by_account;
mod check;
mod choosing;
mod claims;
mod examine;
mod expand;
mod expected;
mod forecast;
mod found;
mod item;
mod plan;
mod run;
mod supply;
mod undecided;
mod verify;
mod warm;

pub use check::{ListCheck, check};
pub use examine::Examined;
pub use expand::KnownDates;
pub use expected::{Children, Expected, listed, locked};
pub use forecast::{AccountPlan, Opening, forecast};
pub use item::{ImageRequest, Resolved, RuledEntry};
pub use plan::{Planned, PlannedState, SyncPlan};
pub use run::{Sync, SyncOptions};
pub use supply::{TargetStore, UpstreamOptions, Upstreams, check_certificates};
pub use verify::{Depth, TargetFinding, VerifySummary, WrongContent, prove};
