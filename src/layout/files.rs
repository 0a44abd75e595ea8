//! Where things lie in a layout.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use crate::content::{Digest, Hasher, each_chunk};
use crate::folder::{FileStatus, Folder, WriteContent};
use crate::{Error, Kind, Operation, Result, Side};

/// How much of a file is read at once when files are hashed in bulk: large enough that system calls do not count, small
/// enough to stay in a second-level cache.
pub(super) const READ: usize = 1024 * 1024;

/// The bytes of `index.json`: 200,000 names as larder writes them.
pub(crate) const MAX_INDEX: u64 = 64 * 1024 * 1024;

/// What `oci-layout` may hold: it is one short line.
const MAX_MARKER: u64 = 64 * 1024;

/// The folder of a layout. Every name below it is made of fixed names and the parts of checked digests, which hold no `/`. Layouts come on
/// media from strangers, so nothing is opened but through [`Folder`], which follows no links.
#[derive(Debug, Clone)]
pub(super) struct Files {
    folder: Folder,
    /// How often the disk was made to write. Syncs are what a layout of small images waits for, so tests count them.
    syncs: Arc<AtomicU64>,
}

/// A file under `blobs/` whose name is a digest.
#[derive(Debug)]
pub(super) struct StoredBlob {
    pub(super) digest: Digest,
    pub(super) len: u64,
    /// It is not a regular file.
    pub(super) irregular: bool,
}

/// The names below the folder.
pub(super) fn marker() -> &'static Path {
    Path::new("oci-layout")
}
pub(super) fn index() -> &'static Path {
    Path::new("index.json")
}
pub(super) fn blobs() -> &'static Path {
    Path::new("blobs")
}
pub(super) fn blob(digest: &Digest) -> PathBuf {
    blobs().join(digest.algorithm()).join(digest.encoded())
}
/// larder's own files.
pub(super) fn own() -> &'static Path {
    Path::new(".larder")
}
pub(super) fn partials() -> PathBuf {
    own().join("partial")
}
pub(super) fn partial(digest: &Digest) -> PathBuf {
    partials().join(format!("{}-{}", digest.algorithm(), digest.encoded()))
}
/// The folder of files that were set aside because their content was wrong.
pub(super) fn damaged_files() -> PathBuf {
    own().join("damaged")
}
fn set_aside_name(digest: &Digest) -> PathBuf {
    damaged_files().join(format!("{}-{}", digest.algorithm(), digest.encoded()))
}

impl Files {
    /// The folder at `path`, whatever it holds.
    pub(super) fn open(path: &Path) -> Result<Self> {
        const OP: Operation = Operation::OpenLayout;
        let opened = found(Folder::open(path)).map_err(|error| Error::io(OP, path, &error))?;
        let missing = || {
            let why = if path.exists() { "is no OCI layout: it is not a folder" } else { "does not exist" };
            Error::new(Side::Local, OP, Kind::NotFound, format!("{} {why}", path.display()))
        };
        let folder = opened.ok_or_else(missing)?;
        Ok(Self::of(folder))
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The same files, for who writes blobs, which are many in two folders: the folders are opened once.
    pub(super) fn keeping_folders(&self) -> Files {
        Files { folder: self.folder.clone().keeping_folders(), syncs: Arc::clone(&self.syncs) }
    }

    /// Where a name is, for messages and for other programs.
    pub(super) fn path(&self, name: &Path) -> PathBuf {
        self.root().join(name)
    }

    /// The error of an operation on `name`.
    pub(super) fn failed(&self, operation: Operation, name: &Path, error: &io::Error) -> Error {
        Error::io(operation, &self.path(name), error)
    }

    /// The length of a blob's file, if it is there and a regular file.
    pub(super) fn blob_len(&self, digest: &Digest) -> Result<Option<u64>> {
        let name = blob(digest);
        let status = found(self.folder.status(&name)).map_err(|error| self.failed(Operation::LookForBlob, &name, &error))?;
        Ok(status.filter(FileStatus::is_file).map(|status| status.len()))
    }

    /// How much of a blob was begun.
    pub(super) fn partial_len(&self, digest: &Digest) -> Result<u64> {
        let name = partial(digest);
        let status = found(self.folder.status(&name)).map_err(|error| self.failed(Operation::LookForBlob, &name, &error))?;
        Ok(status.filter(FileStatus::is_file).map_or(0, |status| status.len()))
    }

    /// Opens a blob's file, if it is there.
    pub(super) fn open_blob(&self, operation: Operation, digest: &Digest) -> Result<Option<fs::File>> {
        let name = blob(digest);
        found(self.folder.read(&name)).map_err(|error| self.failed(operation, &name, &error))
    }

    /// The bytes of a small file, if it is there.
    ///
    /// # Errors
    /// `Kind::Damaged` if it has more than `most`.
    pub(super) fn read(&self, operation: Operation, name: &Path, most: u64) -> Result<Option<Vec<u8>>> {
        let io = |error: io::Error| self.failed(operation, name, &error);
        let Some(file) = found(self.folder.read(name)).map_err(io)? else { return Ok(None) };
        let mut bytes = vec![];
        file.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > most {
            let message = format!("{} has more than {most} bytes", self.path(name).display());
            return Err(Error::new(Side::Local, operation, Kind::Damaged, message));
        }
        Ok(Some(bytes))
    }

    /// Sees that this is a layout of version 1.
    pub(super) fn check(&self) -> Result<()> {
        const OP: Operation = Operation::OpenLayout;
        let Some(bytes) = self.read(OP, marker(), MAX_MARKER)? else {
            let message = format!("{} is no OCI layout: it has no `oci-layout` file", self.root().display());
            return Err(Error::new(Side::Local, OP, Kind::NotFound, message));
        };
        match marker_problem(&bytes) {
            None => Ok(()),
            Some(why) => Err(Error::new(Side::Local, OP, Kind::Unsupported, format!("{}: {why}", self.root().display()))),
        }
    }

    /// The files below `folder`.
    pub(super) fn of(folder: Folder) -> Self {
        Files { folder, syncs: Arc::default() }
    }

    /// Replaces a file by one rename; the file written. The caller holds the index lock, so that the temporary name is its own.
    pub(super) fn replace(&self, name: &Path, content: &[u8]) -> Result<fs::File> {
        self.replace_with(name, &mut |file| file.write_all(content))
    }

    /// As [`Files::replace`], by what `write` writes.
    pub(super) fn replace_with(&self, name: &Path, write: WriteContent<'_>) -> Result<fs::File> {
        // The file, and its folder.
        self.count_sync();
        self.count_sync();
        self.folder.replace_with(name, &own().join("new"), write).map_err(|error| self.failed(Operation::WriteLayout, name, &error))
    }

    /// Takes a blob's file out of the way, because its bytes are not what its name says. It is kept: where the upstream has lost the
    /// content, somebody may still want what is left of it.
    pub(super) fn set_aside(&self, digest: &Digest) -> Result<PathBuf> {
        let (from, to) = (blob(digest), set_aside_name(digest));
        let moved = self.folder.create_folder(to.parent().unwrap_or(own())).and_then(|()| self.folder.settle(&from, &to));
        moved.map_err(|error| self.failed(Operation::SetDamagedBlobAside, &from, &error))?;
        Ok(self.path(&to))
    }

    /// Makes the names of all blobs durable. Before an entry that needs them is written, so that a power cut cannot
    /// keep the entry and lose the names.
    pub(super) fn sync_blob_names(&self) -> Result<()> {
        for (name, status) in self.list(blobs())? {
            if status.is_folder() {
                self.count_sync();
                self.folder.sync(&name).map_err(|error| self.failed(Operation::WriteLayout, &name, &error))?;
            }
        }
        Ok(())
    }

    /// Syncs everything on the layout's file system; `false` if that cannot be relied on there.
    pub(super) fn sync_all(&self) -> io::Result<bool> {
        self.count_sync();
        self.folder.sync_file_system()
    }

    /// Syncs the content of a file.
    pub(super) fn sync_file(&self, file: &fs::File) -> io::Result<()> {
        self.count_sync();
        file.sync_data()
    }

    fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the disk was made to write.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Runs `work`, which needs the folder of `name`. If the folder is missing, creates it and runs `work` again.
    pub(super) fn in_folder<T>(&self, name: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.folder.close_kept();
                self.folder.create_folder(name.parent().unwrap_or(own()))?;
                work()
            }
            done => done,
        }
    }

    /// What a folder holds; nothing if it does not exist. What goes while we look was somebody's `gc`.
    pub(super) fn list(&self, name: &Path) -> Result<Vec<(PathBuf, FileStatus)>> {
        let io = |error: io::Error| self.failed(Operation::ListLayout, name, &error);
        let Some(names) = found(self.folder.list(name)).map_err(io)? else { return Ok(vec![]) };
        let mut listed = Vec::with_capacity(names.len());
        for entry in names {
            let entry = name.join(entry);
            if let Some(status) = found(self.folder.status(&entry)).map_err(io)? {
                listed.push((entry, status));
            }
        }
        Ok(listed)
    }

    /// All files under `blobs/` whose names are digests, in the order of their digests, and the names of everything else there.
    pub(super) fn stored(&self) -> Result<(Vec<StoredBlob>, Vec<PathBuf>)> {
        let (mut stored, mut strays) = (vec![], vec![]);
        for (folder, status) in self.list(blobs())? {
            if !status.is_folder() {
                strays.push(folder);
                continue;
            }
            for (name, status) in self.list(&folder)? {
                let digest = match (folder.file_name().and_then(|n| n.to_str()), name.file_name().and_then(|n| n.to_str())) {
                    (Some(algorithm), Some(encoded)) if !status.is_folder() => Digest::parse(&format!("{algorithm}:{encoded}")).ok(),
                    _ => None,
                };
                match digest {
                    Some(digest) => stored.push(StoredBlob { digest, len: status.len(), irregular: !status.is_file() }),
                    None => strays.push(name),
                }
            }
        }
        stored.sort_by(|a, b| a.digest.cmp(&b.digest));
        strays.sort();
        Ok((stored, strays))
    }
}

/// What is wrong with the bytes of an `oci-layout` file. Versions are semantic: all of 1 are alike to a reader.
pub(super) fn marker_problem(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    match serde_json::from_slice::<Marker>(bytes) {
        Err(_) => Some("`oci-layout` does not say `imageLayoutVersion`".to_owned()),
        Ok(Marker { image_layout_version: version }) if version == "1" || version.starts_with("1.") => None,
        Ok(Marker { image_layout_version: version }) => Some(format!("`oci-layout` says version {version}; larder knows 1")),
    }
}

/// Tells *is not there* from *cannot be looked at*.
pub(super) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hashes the rest of `file` into `hasher`, and tells `progress` how many bytes were hashed; all of them.
pub(super) fn hash(file: &mut fs::File, hasher: &mut Hasher, buffer: &mut [u8], progress: &dyn Fn(u64)) -> io::Result<u64> {
    each_chunk(file, buffer, &mut |bytes| {
        hasher.update(bytes);
        progress(bytes.len() as u64);
    })
}

/// Runs file work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels blocking work.
            Err(_) => Err(Error::cancelled(Operation::UseLayout)),
        },
    }
}

/// An error of content that is not what it should be.
pub(super) fn damaged(operation: Operation, message: impl AsRef<str>) -> Error {
    Error::new(Side::Local, operation, Kind::Damaged, message)
}
