//! An OCI image layout (image-spec image-layout.md) as a [`Source`](crate::content::Source) and a
//! [`Sink`](crate::content::Sink), its check ([`verify()`]) and its cleaning ([`gc()`]). Knows no HTTP.
//!
//! What keeps a layout valid at every instant, whoever is killed and however many processes write:
//!
//! - A file under `blobs/` appears by one rename, after its bytes were hashed and synced. Until then it is
//!   `.larder/partial/<algorithm>-<hex>`, locked by the one who writes it and kept for the next attempt to go on from.
//! - `index.json` is replaced by one rename, under `.larder/lock`, and an entry enters it only when everything that it
//!   reaches is on disk.
//! - Who writes holds `.larder/users` shared for as long as the [`Layout`] lives; [`gc()`] holds it alone, so that blobs
//!   which have no name *yet* are not taken for blobs that have none.
//!
//! Rejected: one lock for a whole run (two syncs of different lists into one store are a wish people have), a journal of
//! blobs (the files are their own state), lock files beside the partial ones (they would have to be cleaned up; comparing
//! inodes after locking settles the race with the rename).

mod any_name;
mod blob_commit;
mod checked;
mod create;
mod entry;
mod files;
mod gc;
mod graph;
mod group_commit;
mod index;
mod index_file;
mod ingest;
mod lock;
mod reach;
mod referrers;
mod sink;
mod source;
#[cfg(test)]
mod testing;
mod verify;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::Result;
use crate::content::Digest;
use crate::mutex::Mutex;
pub use any_name::AnyName;
use blob_commit::BlobCommit;
pub use entry::IndexEntry;
pub(crate) use files::MAX_INDEX;
use files::{Files, blocking};
pub use gc::{GcReport, gc};
pub(crate) use index::{MOST_ENTRIES, entries};
use index_file::IndexFile;
pub use reach::ReachedContent;
pub use verify::{LayoutFinding, VerifyReport, verify};

/// An OCI image layout on disk. Clones are the same layout.
#[derive(Clone)]
pub struct Layout(Arc<LayoutInner>);

struct LayoutInner {
    files: Files,
    index: Arc<IndexFile>,
    blobs: BlobCommit,
    subjects: referrers::SubjectIndex,
    /// What the upstreams of images do not have, which those list: by the image, as its entry will say it.
    absent: Mutex<HashMap<Digest, String>>,
    /// The shared lock that tells `gc` that somebody writes; taken at the first write, held until the last clone goes.
    writing: OnceCell<File>,
}

impl Layout {
    /// Opens a layout that exists, whoever wrote it. Nothing is written to it, so that read-only media will do.
    ///
    /// # Errors
    /// `Kind::NotFound` if there is nothing at `path`; `Kind::Unsupported` for a layout version other than 1.
    pub async fn open(path: &Path) -> Result<Layout> {
        let path = path.to_owned();
        blocking(move || Self::of(Files::open(&path)?)).await
    }

    fn of(files: Files) -> Result<Layout> {
        files.check()?;
        let index = IndexFile::new(files.clone());
        index.read()?;
        Ok(Layout(Arc::new(LayoutInner {
            blobs: BlobCommit::new(files.keeping_folders()),
            files,
            index: Arc::new(index),
            subjects: referrers::SubjectIndex::default(),
            absent: Mutex::default(),
            writing: OnceCell::new(),
        })))
    }

    /// Opens a layout to write to it, and makes an empty one if `path` does not exist or is an empty folder. Waits while
    /// a `gc` runs there.
    ///
    /// # Errors
    /// As [`Layout::open`]; also if `path` is a folder that holds something else.
    pub async fn open_or_create(path: &Path) -> Result<Layout> {
        let path = path.to_owned();
        let layout = blocking(move || Self::of(create::create(&path)?)).await?;
        layout.writer().await?;
        Ok(layout)
    }

    /// Whether there is something at `path` to open. An empty folder does not count, nor one in which making a layout was cut short
    /// (`oci-layout` is written last): [`Layout::open_or_create`] makes a layout there.
    pub fn is_there(path: &Path) -> bool {
        if path.join("oci-layout").symlink_metadata().is_ok() {
            return true;
        }
        let Ok(entries) = std::fs::read_dir(path) else { return path.exists() };
        // A fresh disk has a `lost+found`.
        let is_empty = entries.flatten().all(|entry| entry.file_name() == "lost+found");
        !is_empty && !path.join(".larder").is_dir()
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.0.files.root()
    }

    /// The entries of `index.json` in their order; entries that are not descriptors are left out ([`verify()`] names them).
    ///
    /// # Errors
    /// If `index.json` cannot be read, or is not an index.
    pub async fn names(&self) -> Result<Vec<IndexEntry>> {
        Ok(self.index().await?.whole_entries().collect())
    }

    async fn index(&self) -> Result<Arc<index::LayoutIndex>> {
        let index = self.0.index.clone();
        blocking(move || index.read()).await
    }

    /// Declares that this process writes.
    async fn writer(&self) -> Result<()> {
        self.0.writing.get_or_try_init(|| lock::share(&self.0.files)).await.map(|_| ())
    }
}

impl std::fmt::Debug for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Layout").field(&self.path()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::folder;
    use super::*;
    use crate::Kind;
    use std::fs;

    #[tokio::test]
    async fn a_new_layout_is_one_to_every_reader_and_its_making_goes_on_after_a_kill() {
        let dir = folder();
        let path = dir.path().join("a/b");
        assert_eq!(Layout::open(&path).await.unwrap_err().kind(), Kind::NotFound);
        fs::create_dir_all(path.join(".larder")).unwrap();
        fs::create_dir_all(path.join("blobs")).unwrap();
        assert_eq!(Layout::open_or_create(&path).await.unwrap().names().await.unwrap(), vec![]);
        let version = serde_json::from_slice::<serde_json::Value>(&fs::read(path.join("oci-layout")).unwrap()).unwrap();
        assert_eq!(version, serde_json::json!({"imageLayoutVersion": "1.0.0"}));
        assert!(verify(&path, &|_| {}).unwrap().ok());
        Layout::open_or_create(&path).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_layout_is_neither_opened_nor_written_to() {
        let dir = folder();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("letter.txt"), "dear").unwrap();
        assert!(Layout::open_or_create(&home).await.unwrap_err().message().contains("not empty"));
        assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
        assert!(Layout::open(&home).await.unwrap_err().message().contains("no `oci-layout` file"));
        for (marker, kind) in [("{\"imageLayoutVersion\":\"2.0.0\"}", Kind::Unsupported), ("{}", Kind::Unsupported)] {
            fs::write(home.join("oci-layout"), marker).unwrap();
            assert_eq!(Layout::open(&home).await.unwrap_err().kind(), kind, "{marker}");
            assert!(Layout::open_or_create(&home).await.is_err());
        }
        fs::write(home.join("oci-layout"), "{\"imageLayoutVersion\": \"1.1.0\"}\n").unwrap();
        assert!(Layout::open(&home).await.unwrap_err().message().contains("no index.json"));
        fs::write(home.join("index.json"), "{\"manifests\": null}").unwrap();
        Layout::open(&home).await.unwrap();
        assert!(!home.join(".larder").exists(), "opening writes nothing");
    }
}
