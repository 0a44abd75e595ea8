//! Where the ledger is kept: a file in the state folder, or an object in a store that machines share.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::data::{LedgerData, ParsedLedger, VERSION};
use super::failure::Failure;
use super::file::LedgerFile;
use crate::store::{Change, Store, transact};

/// The object's name in the store, as the file's in the folder.
const KEY: &str = "pulls.json";

/// Where the ledger is.
#[derive(Debug)]
pub(super) enum LedgerStore {
    File(LedgerFile),
    Object(LedgerObject),
}

impl LedgerStore {
    /// As [`LedgerFile::transact`]. Blocks: not for a thread of the runtime.
    pub(super) fn transact<T>(&self, change: impl FnMut(&mut LedgerData) -> Option<T>) -> Result<Option<T>, Failure> {
        match self {
            LedgerStore::File(file) => file.transact(change),
            LedgerStore::Object(object) => object.runtime.block_on(object.transact(change)),
        }
    }

    /// How often the file was replaced.
    #[cfg(test)]
    pub(super) fn writes(&self) -> u64 {
        match self {
            LedgerStore::File(file) => file.writes(),
            LedgerStore::Object(_) => 0,
        }
    }
}

/// The ledger as an object: read, changed, and written if nobody else has written it since.
#[derive(Debug, Clone)]
pub(super) struct LedgerObject {
    store: Arc<dyn Store>,
    runtime: Handle,
}

impl LedgerObject {
    /// To be called within the runtime.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        LedgerObject { store, runtime: Handle::current() }
    }

    /// What the object holds now.
    pub(super) async fn peek(&self) -> Result<LedgerData, Failure> {
        let found = self.store.get(KEY).await.map_err(|error| Failure::store(&error))?;
        self.read(found.as_ref().map(|found| &found.bytes[..]))
    }

    /// Reads, changes and replaces the data. `change` is called again with newer ones if another machine was quicker.
    pub(super) async fn transact<T>(&self, mut change: impl FnMut(&mut LedgerData) -> Option<T>) -> Result<Option<T>, Failure> {
        let done = transact(self.store.as_ref(), KEY, |found| {
            let mut data = match self.read(found.map(|found| &found.bytes[..])) {
                Ok(data) => data,
                Err(failure) => return Change::Keep(Err(failure)),
            };
            match change(&mut data).map(|answer| (serde_json::to_vec_pretty(&data), answer)) {
                None => Change::Keep(Ok(None)),
                Some((Ok(text), answer)) => Change::Write(Bytes::from(text), Ok(Some(answer))),
                Some((Err(error), _)) => Change::Keep(Err(Failure::new(&error.to_string(), "report this", true))),
            }
        });
        done.await.unwrap_or_else(|error| Err(Failure::store(&error)))
    }

    fn read(&self, text: Option<&[u8]>) -> Result<LedgerData, Failure> {
        let Some(text) = text else { return Ok(LedgerData::empty()) };
        match LedgerData::parse(text) {
            ParsedLedger::Known(data) => Ok(data),
            ParsedLedger::Newer(version) => Err(Failure::newer(&format!("{}: {KEY}", self.store.name()), version, VERSION)),
            // Objects are replaced whole: this one was written by something else.
            ParsedLedger::Damaged => {
                let what = format!("{}: {KEY} is not a ledger", self.store.name());
                Err(Failure::new(&what, "remove it; the upstreams are asked again what is left", true))
            }
        }
    }
}
