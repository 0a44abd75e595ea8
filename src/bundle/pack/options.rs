//! Options of packing.

use crate::Operation;
use std::path::Path;

use crate::layout::Layout;

/// The operation in errors.
pub(super) const OP: Operation = Operation::PackVolumes;

/// Where packing reads and writes, and its callbacks.
pub struct PackOptions<'a> {
    /// The layout that has the blobs.
    pub layout: &'a Layout,
    /// The folder for the volumes; created if it does not exist.
    pub to: &'a Path,
    /// Called with the number of bytes that were written, or found to be there.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}
