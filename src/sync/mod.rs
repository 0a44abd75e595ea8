//! From list lines to a filled target: lines meet rules, lines become image requests, and images stream through the engine, each
//! upstream on its own. Here is what a run means; when each step happens is decided by `crate::run`, and what one registry is asked by
//! `crate::registry`.

mod delivery;
mod expand_tags;
mod expected;
mod forecast;
mod list_check;
mod missing_image;
mod name_claims;
mod options;
mod pending_selection;
mod plan;
mod prepared_lists;
mod registry_check;
mod ruled_entry;
mod run;
mod run_target;
mod tag_context;
mod target_accounts;
mod target_store;
mod upstreams;
mod verify;
mod warm_delivery;
mod work;

pub use expected::{Children, Expected, listed, locked};
pub use forecast::{AccountPlan, Opening, forecast};
pub use list_check::{ListCheck, check};
pub use options::{KnownDates, SyncOptions};
pub use plan::{Planned, PlannedState, SyncPlan};
pub use registry_check::{Examined, examine_target, examine_upstream};
pub use ruled_entry::{ImageRequest, Resolved, RuledEntry};
pub use run::Sync;
pub use target_store::TargetStore;
pub use upstreams::{UpstreamOptions, Upstreams, check_certificates};
pub use verify::{Depth, TargetFinding, VerifySummary, WrongContent, prove};
