//! Why the ledger cannot be used.

use std::path::Path;

use crate::store::StoreError;

/// Why the ledger could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One line, with a remedy.
    pub message: String,
    /// Waiting does not help.
    pub permanent: bool,
}

impl Failure {
    pub(super) fn new(what: &str, remedy: &str, permanent: bool) -> Self {
        Failure { message: format!("no pull can be reserved: {what} ({remedy})"), permanent }
    }

    /// A newer larder wrote what is at `place`, with `version`; this one reads versions to `known`.
    pub(super) fn newer(place: &str, version: u32, known: u32) -> Self {
        let what = format!("{place} has version {version}, and this larder reads {known}");
        Self::new(&what, "use the newer larder, another --state DIR, or --state none", true)
    }

    /// The store of objects failed.
    pub(super) fn store(error: &StoreError) -> Self {
        Failure { message: format!("no pull can be reserved: {error}"), permanent: error.is_permanent() }
    }

    pub(super) fn io(operation: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        let what = format!("could not {operation} {}: {error}", path.display());
        let permanent = matches!(error.kind(), IsADirectory | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem);
        Self::new(&what, "make the state folder writable; or --state none, which counts within this run only", permanent)
    }
}
