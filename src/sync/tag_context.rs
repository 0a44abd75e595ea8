//! What choosing tags needs, and what it learns.

use std::collections::HashMap;
use std::sync::Arc;

use super::run_target::RunTarget;
use super::{KnownDates, Upstreams};
use crate::content::{Descriptor, TransferStats};
use crate::select::Dates;

/// What choosing tags needs: whom to ask, and how much at once.
#[derive(Clone, Copy)]
pub(super) struct TagContext<'a> {
    pub(super) upstreams: &'a Upstreams,
    pub(super) target: &'a RunTarget,
    pub(super) dates: &'a KnownDates,
    /// Tags of one line that are asked about at once.
    pub(super) limit: usize,
}

/// What is known of the tags that matched.
#[derive(Default)]
pub(super) struct MatchedTags {
    pub(super) dates: Dates,
    /// The manifests that they name at the upstream.
    pub(super) resolved: HashMap<String, Descriptor>,
    /// What finding that out has cost.
    pub(super) tally: Arc<TransferStats>,
}
