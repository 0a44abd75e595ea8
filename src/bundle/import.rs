//! Putting what was carried where it belongs: through the engine, from a [`BundleSource`] into any target.
//!
//! An image is looked at before it is brought: what it is made of and is not at hand, the target is asked for. If something is in neither
//! place, the image is *parked*: what is at hand of it is put at the target, nothing is named, and the report says what is missing
//! and what would bring it. What turns out to be damaged on its way is read no more; the volume is named, and everything else
//! goes on.

mod kept;
mod lacks;
mod need;
mod run;
mod told;
mod wanted;
mod witness;
mod worker;

#[allow(unused_imports, reason = "named in the text above")]
use super::read::BundleSource;
pub use lacks::{DamagedFile, WaitingImages};
pub use run::{Import, ImportOptions, ImportSummary};
pub use witness::{Arrival, ArrivalWay, Journal};
