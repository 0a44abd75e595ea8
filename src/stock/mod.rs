//! From list entries to a stocked target: entries meet rules and become items, items become wanted images, and images
//! stream through the engine, each upstream on its own.

mod check;
mod claims;
mod expected;
mod forecast;
mod found;
mod item;
mod plan;
mod run;
mod supply;
mod verify;

pub use check::{Checked, check};
pub use expected::{Children, Expected, listed, locked};
pub use forecast::{AccountPlan, forecast};
pub use item::{Item, Want};
pub use plan::{Planned, State};
pub use run::{Sync, SyncOptions};
pub use supply::{Supply, SupplyOptions, TargetStore};
pub use verify::{Finding, Proof, Wrong, prove};
