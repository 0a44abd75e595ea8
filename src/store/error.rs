//! What a store says when it does not do what it was asked to do.

use std::fmt;

/// A failure of a store: one line with the operation, the store, the reason and a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    message: String,
    permanent: bool,
}

impl StoreError {
    /// `permanent`: the same request would fail again, whenever it is sent.
    pub(crate) fn new(operation: &str, store: &str, reason: impl fmt::Display, remedy: &str, permanent: bool) -> Self {
        let reason = crate::error::printable(&reason.to_string());
        StoreError { message: format!("could not {operation} {store}: {reason} ({remedy})"), permanent }
    }

    /// Whether the same request would fail again, whenever it is sent.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}
