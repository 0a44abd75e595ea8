//! What a store does, and the values that it takes and gives.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::error::StoreError;

/// The largest object that is read. The largest that is written is a whole journal, of which 64 MiB are read.
pub(crate) const MAX_OBJECT: u64 = 64 * 1024 * 1024;

/// Which content an object has. Only compared for equality: an `ETag`, a generation, or a hash, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    pub(crate) etag: Option<String>,
    pub(crate) generation: Option<String>,
}

/// An object that was read.
#[derive(Debug, Clone)]
pub struct StoredObject {
    /// Its content.
    pub bytes: Bytes,
    /// What [`Store::put_if`] takes.
    pub version: ObjectVersion,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// An object that was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its name below the store's root.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// What became of a conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// Written; this is the version now.
    Done(ObjectVersion),
    /// Not written: somebody else has written it since, or it exists already.
    Conflict,
}

/// Small objects by name. A name is a relative path of plain parts, separated by `/`.
///
/// Every write replaces a whole object in one step: nobody reads half of it. A read sees every write that had ended before it began.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// What to call the store in messages: its path or URL, without secrets.
    fn name(&self) -> String;

    /// The object, or `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<StoredObject>, StoreError>;

    /// Writes an object that does not exist yet.
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put, StoreError>;

    /// Replaces an object of exactly this version.
    async fn put_if(&self, key: &str, version: &ObjectVersion, bytes: Bytes) -> Result<Put, StoreError>;

    /// Writes an object, whatever is there. For objects that only one writer has.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError>;

    /// Removes an object; one that does not exist is no error.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// The objects whose names begin with `folder` and a `/`, in the order of their names.
    async fn list(&self, folder: &str) -> Result<Vec<ListedObject>, StoreError>;
}

/// A name that no other process, on any machine, has: 16 hexadecimal digits.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // The hasher's keys are random for each process.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let (now, count) = (Timestamp::now(), COUNT.fetch_add(1, Ordering::Relaxed));
    let hash = Sha256::digest(format!("{random} {now:?} {count}"));
    hex::encode(hash.get(..8).unwrap_or_default())
}
