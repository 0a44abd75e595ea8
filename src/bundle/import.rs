//! Importing bundles and archives: copied by the engine, from a [`BundleSource`] into any target.
//!
//! Before an image is copied, its graph is walked: the target is asked for what the volumes do not have. If something is in neither place,
//! the image is deferred: what is available is copied, nothing is tagged, and the report says what is missing and which volume would bring
//! it. Content that turns out to be damaged is not read again; its volume is named, and the other images go on.

mod import_evidence;
mod lacks;
mod need;
mod run;
mod volume_keeper;
mod wanted;
mod witness;
mod work;

#[allow(unused_imports, reason = "named in the text above")]
use super::read::BundleSource;
pub use lacks::{DamagedFile, WaitingImages};
pub use run::{Import, ImportOptions, ImportSummary};
pub use witness::{Arrival, ArrivalWay, Journal};
