//! The file `index.json`: read once while it does not change, and replaced whole. Changes that come at the same time are written together.

use std::fs::File;
use std::sync::Arc;

use super::entry::{IndexEntry, entry_json};
use super::files::{self, Files, MAX_INDEX, damaged, found};
use super::group_commit::{GroupCommit, PendingChange};
use super::index::{LayoutIndex, RawEntry};
use super::lock;
use super::referrers::PendingReferrers;
use crate::content::{Descriptor, Digest};
use crate::folder::FileStatus;
use crate::mutex::Mutex;
use crate::{Error, Kind, Operation, Result, Side, input};

const OP: Operation = Operation::ReadLayout;

/// After a write of the file, the next one waits this many times as long as the write took. Names that come meanwhile join it, so that
/// writing takes at most a quarter of the time, however long the file is.
const REST: u32 = 3;

/// What is to become of the index.
enum IndexChange {
    /// An entry of this name.
    Name(String, Arc<RawEntry>),
    /// Entries of referrers.
    Referrers(PendingReferrers),
}

/// The file, with what it held when it was last read.
pub(super) struct IndexFile {
    files: Files,
    cache: Mutex<Option<CachedIndex>>,
    changes: GroupCommit<IndexChange>,
}

struct CachedIndex {
    /// Kept open so that its inode number is not given to a successor, which would then look like the same file.
    _file: File,
    status: FileStatus,
    index: Arc<LayoutIndex>,
}

impl IndexFile {
    pub(super) fn new(files: Files) -> Self {
        IndexFile { files, cache: Mutex::default(), changes: GroupCommit::new(REST) }
    }

    /// What the file holds now. Blocks.
    pub(super) fn read(&self) -> Result<Arc<LayoutIndex>> {
        let io = |error| self.files.failed(OP, files::index(), &error);
        let missing = || {
            Error::new(Side::Local, OP, Kind::NotFound, format!("{} is no OCI layout: it has no index.json", self.files.root().display()))
        };
        let now = found(self.files.folder().status(files::index())).map_err(io)?.ok_or_else(missing)?;
        let mut cache = self.cache.lock();
        if let Some(cached) = &*cache
            && cached.status.is_unchanged(&now)
        {
            return Ok(cached.index.clone());
        }
        let file = found(self.files.folder().read(files::index())).map_err(io)?.ok_or_else(missing)?;
        let status = FileStatus::of(&file).map_err(io)?;
        let bytes = input::read_from(&file, MAX_INDEX).map_err(io)?;
        let wrong = |why: String| damaged(OP, format!("{}: {why}", self.files.root().display()));
        let index = Arc::new(LayoutIndex::parse(&bytes).map_err(wrong)?);
        *cache = Some(CachedIndex { _file: file, status, index: index.clone() });
        Ok(index)
    }

    /// Adds the entry `name` for `manifest`, with its own annotations and its source. Entries that are added at the same time are written
    /// together, so that thousands of them do not rewrite the growing file thousands of times. The caller has checked that the
    /// content is complete.
    pub(super) async fn publish(self: &Arc<Self>, name: String, manifest: &Descriptor, source: &str) -> Result<()> {
        self.publish_about(name, manifest, source, None).await
    }

    /// As [`IndexFile::publish`], for a manifest that is about `subject`.
    pub(super) async fn publish_about(
        self: &Arc<Self>,
        name: String,
        manifest: &Descriptor,
        source: &str,
        subject: Option<&Digest>,
    ) -> Result<()> {
        let raw = Arc::new(RawEntry::from(entry_json(&name, manifest, Some(source), subject)));
        self.change(IndexChange::Name(name, raw)).await
    }

    /// Lists referrers. The caller has seen that they are complete.
    pub(super) async fn attach(self: &Arc<Self>, attached: PendingReferrers) -> Result<()> {
        self.change(IndexChange::Referrers(attached)).await
    }

    async fn change(self: &Arc<Self>, change: IndexChange) -> Result<()> {
        let this = Arc::clone(self);
        self.changes.commit(change, move |batch| this.write(batch)).await
    }

    /// Reads, changes and replaces the file under the layout's lock. A change that is refused gets its result at once, and the others go on.
    fn write(&self, batch: &[Arc<PendingChange<IndexChange>>]) -> Result<()> {
        let _lock = lock::index(&self.files)?;
        let mut index = LayoutIndex::clone(&*self.read()?);
        let mut changed = false;
        for pending in batch {
            changed |= match &pending.change {
                IndexChange::Name(name, raw) => index.set(name, raw),
                IndexChange::Referrers(attached) => attached.put(&self.files, &mut index).unwrap_or_else(|refused| {
                    pending.refuse(refused);
                    false
                }),
            };
        }
        if changed { self.replace(index) } else { Ok(()) }
    }

    /// How often the file was written for changes.
    #[cfg(test)]
    pub(super) fn writes(&self) -> u64 {
        self.changes.batches()
    }

    /// Drops the entries that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&IndexEntry) -> bool) -> Result<()> {
        let _lock = lock::index(&self.files)?;
        let mut index = LayoutIndex::clone(&*self.read()?);
        if index.retain(keep) { self.replace(index) } else { Ok(()) }
    }

    /// Replaces the file. The caller holds its lock.
    fn replace(&self, index: LayoutIndex) -> Result<()> {
        let too_long = || {
            let message = format!("index.json would have more than {MAX_INDEX} bytes, which is more than larder reads");
            Error::local(Operation::WriteLayout, message).remedy("use another layout for some of the images")
        };
        if index.min_len() > MAX_INDEX {
            return Err(too_long());
        }
        self.files.sync_blob_names()?;
        let file = self.files.replace_with(files::index(), &mut |file| index.write_json(file))?;
        let status = FileStatus::of(&file).map_err(|error| self.files.failed(OP, files::index(), &error))?;
        *self.cache.lock() = Some(CachedIndex { _file: file, status, index: Arc::new(index) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Layout;
    use super::super::testing::{OCI_MANIFEST, folder, image, name, names, put};
    use super::*;
    use serde_json::{Value, json};

    const HEX: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn file(layout: &Layout) -> Value {
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_name_is_one_entry_that_says_where_it_came_from() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let (old, new) = (image(&["old"]), image(&["new"]));
        put(&layout, "library/alpine:3.20", &old).await;
        put(&layout, "library/busybox:1", &old).await;
        let by_digest = format!("library/alpine@{}", old.manifest.digest());
        name(&layout, &by_digest, &old).await.unwrap();
        put(&layout, "library/alpine:3.20", &new).await;
        assert_eq!(names(&layout).await, ["library/alpine:3.20", "library/busybox:1", &by_digest], "replaced in its place");
        assert_eq!(
            file(&layout)["manifests"][0],
            json!({
                "mediaType": OCI_MANIFEST, "digest": new.manifest.digest().as_str(), "size": new.manifest.bytes().len(),
                "annotations": {
                    "org.opencontainers.image.ref.name": "library/alpine:3.20",
                    "io.containerd.image.name": "docker.io/library/alpine:3.20",
                },
            })
        );
        assert_eq!(file(&layout)["manifests"][1]["digest"], json!(old.manifest.digest().as_str()));
    }

    #[tokio::test]
    async fn what_is_not_larders_in_the_file_is_kept_as_it_is() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let named = json!({"mediaType": "application/xml", "digest": format!("sha256:{HEX}"), "size": 2, "data": "e30=",
            "annotations": {"org.opencontainers.image.ref.name": "v1", "com.example": "x"}, "platform": {"os": "plan9", "strange": 1}});
        let unnamed = json!({"mediaType": OCI_MANIFEST, "digest": format!("sha256:{HEX}"), "size": 2});
        let malformed = json!({"digest": "sha256:../../etc/passwd", "size": 1});
        let twice = json!({"digest": format!("sha256:{HEX}"), "size": 2, "annotations": {"org.opencontainers.image.ref.name": "a:1"}});
        let before = json!({"schemaVersion": 2, "annotations": {"k": "v"}, "unknown": [1, {"x": null}],
            "manifests": [named, twice, unnamed, malformed, twice]});
        fs::write(layout.path().join("index.json"), before.to_string()).unwrap();
        let image = image(&["layer"]);
        put(&layout, "library/alpine:3.20", &image).await;
        put(&layout, "a:1", &image).await;
        let mut after = file(&layout);
        let entries = after["manifests"].as_array_mut().unwrap();
        assert_eq!(entries.len(), 5, "the second of two entries of one name, which nobody reads, is gone with the first");
        assert_eq!([&entries[0], &entries[2], &entries[3]], [&named, &unnamed, &malformed]);
        assert_eq!(entries[1]["digest"], json!(image.manifest.digest().as_str()));
        assert_eq!((&after["annotations"], &after["unknown"]), (&before["annotations"], &before["unknown"]));
        assert_eq!(names(&layout).await, ["v1", "a:1", "", "library/alpine:3.20"], "what is no descriptor is passed over");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_handles_that_publish_at_once_lose_no_name() {
        let dir = folder();
        let handles = [Layout::open_or_create(dir.path()).await.unwrap(), Layout::open_or_create(dir.path()).await.unwrap()];
        let image = Arc::new(image(&["layer"]));
        super::super::testing::fill(&handles[0], &image).await;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100 {
            let (layout, image) = (handles[n % 2].clone(), image.clone());
            tasks.spawn(async move { name(&layout, &format!("many:{n}"), &image).await });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap().unwrap();
        }
        let mut expected: Vec<String> = (0..100).map(|n| format!("many:{n}")).collect();
        expected.sort();
        for layout in &handles {
            let mut found = names(layout).await;
            found.sort();
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn who_gave_up_waiting_harms_nobody() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = image(&["layer"]);
        super::super::testing::fill(&layout, &image).await;
        let lock = lock::index(&layout.0.files).unwrap();
        let (index, root) = (&layout.0.index, image.manifest.descriptor());
        // Polled once, the first has the turn and waits for the lock on a thread of its own; the second waits for the first.
        let mut first = Box::pin(index.publish("a:1".to_owned(), &root, "x"));
        let mut second = Box::pin(index.publish("a:2".to_owned(), &root, "x"));
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(lock);
        second.await.unwrap();
        assert_eq!(names(&layout).await, ["a:1", "a:2"], "what was begun is finished");
    }

    #[tokio::test]
    async fn an_unchanged_name_is_not_written_again() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = image(&["layer"]);
        put(&layout, "a:1", &image).await;
        let status = || layout.0.files.folder().status(files::index()).unwrap();
        let before = status();
        put(&layout, "a:1", &image).await;
        assert!(status().is_unchanged(&before));
    }
}
