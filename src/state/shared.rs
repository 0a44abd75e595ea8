//! State in object storage: a run works on a folder of its own, which begins with what the store holds, and what the run adds goes back.
//!
//! Objects cannot be appended to. So each run writes what it has added to a journal as an object of its own, every half minute and at its
//! end. A run that is killed loses half a minute of notes, which costs the next one requests and nothing more. The pull ledger and saved
//! manifests are not part of this: they go to the store at once.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use tempfile::TempDir;

use super::kept::{KEEP, MANIFESTS};
use crate::store::{ListedObject, ObjectUrl, Put, Store, StoreClock, StoreError, unique_name};
use crate::{folder, store};

/// Where the store has the journals: an object for each part of one, named `journals/NAME/TIME-WORKER`.
const JOURNALS: &str = "journals";
/// What the names of journals end in.
const JOURNAL: &str = ".jsonl";
/// How often additions are sent.
const INTERVAL: Duration = Duration::from_secs(30);
/// More parts of one journal than this are put together by the next run that reads them: each costs a request.
const MOST_PARTS: usize = 32;
/// Parts that are read at the same time.
const AT_ONCE: usize = 16;

/// The state of one run, shared with other runs through a store.
#[derive(Debug)]
pub struct SharedState {
    store: Arc<dyn Store>,
    folder: TempDir,
    /// The name of this process in the store.
    worker: String,
    clock: StoreClock,
    /// How much of each journal the store has. Held while parts are sent.
    sent: tokio::sync::Mutex<HashMap<PathBuf, u64>>,
}

impl SharedState {
    /// Opens the state at `url`: checks what the store can do, and reads the journals.
    ///
    /// # Errors
    /// If the store cannot be used, or there is no place for the folder.
    pub async fn open(url: &ObjectUrl) -> Result<Arc<Self>, StoreError> {
        let worker = unique_name();
        let clock = store::probe(&store::ObjectStore::open_once(url)?, &worker).await?;
        Self::with(Arc::new(store::ObjectStore::open(url)?), worker, clock).await
    }

    #[cfg(test)]
    async fn in_store(store: Arc<dyn Store>) -> Result<Arc<Self>, StoreError> {
        Self::with(store, unique_name(), StoreClock::default()).await
    }

    async fn with(store: Arc<dyn Store>, worker: String, clock: StoreClock) -> Result<Arc<Self>, StoreError> {
        let folder = tempfile::Builder::new().prefix("larder-state-").tempdir().map_err(|error| local(&std::env::temp_dir(), &error))?;
        let shared = SharedState { store, folder, worker, clock, sent: tokio::sync::Mutex::default() };
        shared.fetch().await?;
        let shared = Arc::new(shared);
        shared.send_every_interval();
        Ok(shared)
    }

    /// The folder that this run works on.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The store's clock.
    pub fn clock(&self) -> StoreClock {
        self.clock
    }

    /// Sends what was added since the last time. To be called at the end of a run.
    ///
    /// # Errors
    /// If the store fails; the additions are sent with the next call.
    pub async fn send(&self) -> Result<(), StoreError> {
        let mut sent = self.sent.lock().await;
        for name in journals(self.folder.path(), Path::new("")) {
            let path = self.folder.path().join(&name);
            let from = sent.get(&name).copied().unwrap_or(0);
            let (added, end) = added(&path, from).map_err(|error| local(&path, &error))?;
            if !added.is_empty() {
                let key = format!("{}/{}", parts_of(&name), self.part_name(end));
                self.store.put(&key, added).await?;
            }
            sent.insert(name, end);
        }
        Ok(())
    }

    /// Names of parts sort by time, so that of two lines about one thing the later counts.
    fn part_name(&self, end: u64) -> String {
        let now = self.clock.at(Timestamp::now());
        format!("{:016}-{}-{end}", now.as_millisecond(), self.worker)
    }

    /// Fills the folder.
    async fn fetch(&self) -> Result<(), StoreError> {
        let mut parts: HashMap<PathBuf, Vec<ListedObject>> = HashMap::new();
        for object in self.store.list(JOURNALS).await? {
            let journal = object.key.strip_prefix(JOURNALS).and_then(|key| key.trim_start_matches('/').rsplit_once('/'));
            if let Some((journal, _)) = journal.filter(|(journal, _)| journal.ends_with(JOURNAL)) {
                parts.entry(PathBuf::from(journal)).or_default().push(object);
            }
        }
        let mut sent = self.sent.lock().await;
        for (name, parts) in parts {
            let length = self.fetch_journal(&name, &parts).await?;
            sent.insert(name, length);
        }
        Ok(())
    }

    /// Puts the parts of a journal together, in a file; its length.
    async fn fetch_journal(&self, name: &Path, parts: &[ListedObject]) -> Result<u64, StoreError> {
        let read = async |part: &ListedObject| self.store.get(&part.key).await;
        let read: Vec<_> = stream::iter(parts).map(read).buffered(AT_ONCE).try_collect().await?;
        let mut text = vec![];
        for part in read.into_iter().flatten() {
            text.extend_from_slice(&part.bytes);
            if !text.ends_with(b"\n") {
                text.push(b'\n');
            }
        }
        let path = self.folder.path().join(name);
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).and_then(|()| fs::write(&path, &text)).map_err(|error| local(&path, &error))?;
        let length = text.len() as u64;
        if parts.len() > MOST_PARTS {
            self.put_together(name, parts, text).await?;
            self.remove_old_manifests().await?;
        }
        Ok(length)
    }

    /// Removes saved manifests whose images were not delivered for long. Now and then is enough, so one run in many does it.
    async fn remove_old_manifests(&self) -> Result<(), StoreError> {
        let now = self.clock.at(Timestamp::now());
        let is_old = |object: &ListedObject| now.duration_since(object.modified).unsigned_abs() > KEEP && object.modified < now;
        let old = self.store.list(MANIFESTS).await?.into_iter().filter(is_old);
        let remove = async |object: ListedObject| self.store.delete(&object.key).await;
        stream::iter(old).map(remove).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
    }

    /// Replaces parts by one that has their lines. Another run that reads meanwhile may have lines twice, or in another order: both only
    /// cost requests.
    async fn put_together(&self, name: &Path, parts: &[ListedObject], text: Vec<u8>) -> Result<(), StoreError> {
        let Some(last) = parts.last() else { return Ok(()) };
        // It sorts after what it replaces, and before everything that was added since.
        let key = format!("{}-together-{}", last.key, self.worker);
        tracing::debug!(journal = %name.display(), parts = parts.len(), "putting the parts of a journal together");
        if let Put::Done(_) = self.store.put_new(&key, Bytes::from(text)).await? {
            let remove = async |part: &ListedObject| self.store.delete(&part.key).await;
            stream::iter(parts).map(remove).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        }
        Ok(())
    }

    /// Sends additions until the state is dropped.
    fn send_every_interval(self: &Arc<Self>) {
        let state = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut failed = false;
            loop {
                tokio::time::sleep(INTERVAL).await;
                let Some(state) = state.upgrade() else { return };
                match state.send().await {
                    Ok(()) => failed = false,
                    Err(error) if !std::mem::replace(&mut failed, true) => tracing::warn!("{error}"),
                    Err(_) => {}
                }
            }
        });
    }
}

fn parts_of(journal: &Path) -> String {
    format!("{JOURNALS}/{}", journal.display())
}

/// The journals below `at` in `root`, relative to it.
fn journals(root: &Path, at: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(root.join(at)).into_iter().flatten().flatten() {
        let name = at.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(journals(root, &name)),
            Ok(kind) if kind.is_file() && name.to_str().is_some_and(|name| name.ends_with(JOURNAL)) => found.push(name),
            _ => {}
        }
    }
    found.sort();
    found
}

/// The whole lines of a file after `from`, and where they end. A file that was written anew and is shorter counts from its beginning.
fn added(path: &Path, from: u64) -> std::io::Result<(Bytes, u64)> {
    let mut file = folder::read_found(path)?;
    let from = if file.metadata()?.len() < from { 0 } else { from };
    file.seek(SeekFrom::Start(from))?;
    let mut text = vec![];
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    text.truncate(whole);
    Ok((text.into(), from + whole as u64))
}

fn local(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::new("use", &path.display().to_string(), error, "a run with state in object storage needs room in TMPDIR", false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;
    use crate::state::CreatedDates;
    use crate::store::memory::MemoryStore;

    fn memory() -> Arc<dyn Store> {
        Arc::new(MemoryStore::default())
    }

    fn digest(n: usize) -> Digest {
        Digest::sha256(&n.to_be_bytes())
    }

    async fn parts(store: &Arc<dyn Store>) -> usize {
        store.list(JOURNALS).await.unwrap().len()
    }

    #[tokio::test]
    async fn what_a_run_adds_is_there_for_the_next_one() {
        let store = memory();
        let first = SharedState::in_store(Arc::clone(&store)).await.unwrap();
        let dates = CreatedDates::new(Some(first.folder()));
        dates.add(&digest(1), None);
        first.send().await.unwrap();
        // Nothing new: nothing is written.
        first.send().await.unwrap();
        assert_eq!(parts(&store).await, 1);
        dates.add(&digest(2), None);
        let second = SharedState::in_store(Arc::clone(&store)).await.unwrap();
        let dates = CreatedDates::new(Some(second.folder()));
        assert_eq!((dates.get(&digest(1)), dates.get(&digest(2))), (Some(None), None));
        first.send().await.unwrap();
        second.send().await.unwrap();
        assert_eq!(parts(&store).await, 2);
        let third = SharedState::in_store(Arc::clone(&store)).await.unwrap();
        let dates = CreatedDates::new(Some(third.folder()));
        assert_eq!((dates.get(&digest(1)), dates.get(&digest(2))), (Some(None), Some(None)));
    }

    #[tokio::test]
    async fn many_parts_are_put_together() {
        let store = memory();
        for n in 0..=MOST_PARTS {
            let run = SharedState::in_store(Arc::clone(&store)).await.unwrap();
            CreatedDates::new(Some(run.folder())).add(&digest(n), None);
            run.send().await.unwrap();
        }
        assert_eq!(parts(&store).await, MOST_PARTS + 1);
        let run = SharedState::in_store(Arc::clone(&store)).await.unwrap();
        assert_eq!(parts(&store).await, 1);
        let again = SharedState::in_store(Arc::clone(&store)).await.unwrap();
        for run in [run, again] {
            let dates = CreatedDates::new(Some(run.folder()));
            assert!((0..=MOST_PARTS).all(|n| dates.get(&digest(n)) == Some(None)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_is_killed_has_sent_all_but_the_last_half_minute() {
        let store = memory();
        let run = SharedState::in_store(Arc::clone(&store)).await.unwrap();
        CreatedDates::new(Some(run.folder())).add(&digest(1), None);
        tokio::time::sleep(INTERVAL + Duration::from_secs(1)).await;
        assert_eq!(parts(&store).await, 1);
    }
}
