//! A login at a host, as the transport uses it.

use std::sync::Arc;

use crate::limits::RequestPacer;
use crate::registry::auth::Authenticator;
use crate::registry::counters::Counters;

/// A login at a host, its tokens, and the counts of its requests.
pub(crate) struct TransportAccount {
    pub(crate) name: String,
    pub(crate) counters: Counters,
    pub(crate) authenticator: Authenticator,
    /// Requests a second: as configured for the host, or as its kind usually allows this account.
    pub(crate) pace: Option<Arc<RequestPacer>>,
}
