//! A store in memory for tests: strictly atomic, with a latency and faults on order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::error::StoreError;
use super::interface::{ListedObject, ObjectVersion, Put, Store, StoredObject};
use crate::mutex::Mutex;

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    objects: Mutex<BTreeMap<String, (u64, Bytes)>>,
    /// Each request takes so long, half of it before it acts.
    latency: Duration,
    /// One request in so many fails, half of them after they have acted; 0: none.
    fails_every: u64,
    unconditional: bool,
    requests: AtomicU64,
}

impl MemoryStore {
    /// A store that ignores conditions, as old ones do.
    pub(crate) fn unconditional() -> Self {
        MemoryStore { unconditional: true, ..MemoryStore::default() }
    }

    /// A store whose requests take so long.
    pub(crate) fn with_latency(latency: Duration) -> Self {
        MemoryStore { latency, ..MemoryStore::default() }
    }

    async fn act<T>(&self, act: impl FnOnce(&mut BTreeMap<String, (u64, Bytes)>, u64) -> T) -> Result<T, StoreError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::time::sleep(self.latency / 2).await;
        let fails = self.fails_every > 0 && number.is_multiple_of(self.fails_every);
        let error = || StoreError::new("use", "memory", "500", "a fault on order", false);
        if fails && (number / self.fails_every).is_multiple_of(2) {
            return Err(error());
        }
        let done = act(&mut self.objects.lock(), number);
        tokio::time::sleep(self.latency / 2).await;
        if fails { Err(error()) } else { Ok(done) }
    }
}

fn version(number: u64) -> ObjectVersion {
    ObjectVersion { etag: Some(format!("\"{number}\"")), generation: None }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    async fn get(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        let found = self.act(|objects, _| objects.get(key).cloned()).await?;
        Ok(found.map(|(number, bytes)| StoredObject { bytes, version: version(number), modified: Timestamp::UNIX_EPOCH }))
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put, StoreError> {
        let unconditional = self.unconditional;
        self.act(|objects, number| {
            if objects.contains_key(key) && !unconditional {
                return Put::Conflict;
            }
            objects.insert(key.to_owned(), (number, bytes));
            Put::Done(version(number))
        })
        .await
    }

    async fn put_if(&self, key: &str, expected: &ObjectVersion, bytes: Bytes) -> Result<Put, StoreError> {
        let unconditional = self.unconditional;
        self.act(|objects, number| {
            let same = objects.get(key).is_some_and(|(now, _)| version(*now) == *expected);
            if !same && !unconditional {
                return Put::Conflict;
            }
            objects.insert(key.to_owned(), (number, bytes));
            Put::Done(version(number))
        })
        .await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.act(|objects, number| drop(objects.insert(key.to_owned(), (number, bytes)))).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.act(|objects, _| drop(objects.remove(key))).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<ListedObject>, StoreError> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.act(|objects, _| {
            let inside = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
            let entry = |(key, (_, bytes)): (&String, &(u64, Bytes))| ListedObject {
                key: key.clone(),
                size: bytes.len() as u64,
                modified: Timestamp::UNIX_EPOCH,
            };
            inside.map(entry).collect()
        })
        .await
    }
}
