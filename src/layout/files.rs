//! Where things lie in a layout.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::content::{Digest, Hasher};
use crate::{Error, Kind, Result, Side};

/// What `oci-layout` holds in every layout that larder makes (image-spec image-layout.md "oci-layout file").
const MARKER: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// An index without entries.
const EMPTY_INDEX: &[u8] = b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}";
/// How much of a file is read at once when files are hashed in bulk: large enough that system calls do not count, small
/// enough to stay in a second-level cache.
pub(super) const READ: usize = 1024 * 1024;

/// The folder of a layout. Every path below it is made of fixed names and the parts of checked digests, which hold no `/`.
#[derive(Debug, Clone)]
pub(super) struct Files {
    root: PathBuf,
}

/// A file under `blobs/` whose name is a digest.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) len: u64,
}

impl Files {
    pub(super) fn new(root: &Path) -> Self {
        Files { root: root.to_owned() }
    }
    pub(super) fn root(&self) -> &Path {
        &self.root
    }
    pub(super) fn marker(&self) -> PathBuf {
        self.root.join("oci-layout")
    }
    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }
    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.algorithm()).join(digest.encoded())
    }
    /// larder's own files.
    pub(super) fn own(&self) -> PathBuf {
        self.root.join(".larder")
    }
    pub(super) fn partials(&self) -> PathBuf {
        self.own().join("partial")
    }
    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(format!("{}-{}", digest.algorithm(), digest.encoded()))
    }

    /// The length of a blob's file, if it is there.
    pub(super) fn blob_len(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.blob(digest);
        Ok(found(fs::metadata(&path))
            .map_err(|error| Error::io("look for blob", &path, &error))?
            .filter(fs::Metadata::is_file)
            .map(|m| m.len()))
    }

    /// Sees that this is a layout of version 1.
    pub(super) fn check(&self) -> Result<()> {
        const OP: &str = "open layout";
        let not_found = |message: String| Error::new(Side::Local, OP, Kind::NotFound, message);
        if found(fs::metadata(&self.root)).map_err(|error| Error::io(OP, &self.root, &error))?.is_none() {
            return Err(not_found(format!("{} does not exist", self.root.display())));
        }
        let path = self.marker();
        let Some(bytes) = found(fs::read(&path)).map_err(|error| Error::io(OP, &path, &error))? else {
            return Err(not_found(format!("{} is no OCI layout: it has no `oci-layout` file", self.root.display())));
        };
        match marker_problem(&bytes) {
            None => Ok(()),
            Some(why) => Err(Error::new(Side::Local, OP, Kind::Unsupported, format!("{}: {why}", self.root.display()))),
        }
    }

    /// Makes an empty layout unless there is one. `oci-layout` comes last: what was killed half-way is gone on with.
    pub(super) fn create(&self) -> Result<()> {
        const OP: &str = "create layout";
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| Error::io(OP, &path, &error)
        };
        if found(fs::metadata(self.marker())).map_err(io(&self.root))?.is_some() {
            return Ok(());
        }
        fs::create_dir_all(&self.root).map_err(io(&self.root))?;
        // A fresh disk has a `lost+found`.
        let mut names = fs::read_dir(&self.root).map_err(io(&self.root))?.filter_map(|entry| Some(entry.ok()?.file_name()));
        if names.any(|name| name != "lost+found") && !self.own().is_dir() {
            return Err(Error::local(OP, format!("{} is no OCI layout, and not empty", self.root.display()))
                .remedy("name a folder that does not exist yet, or an OCI layout"));
        }
        fs::create_dir_all(self.partials()).map_err(io(&self.own()))?;
        let sha256 = self.blobs().join("sha256");
        fs::create_dir_all(&sha256).map_err(io(&sha256))?;
        // Under the lock, and only what is missing: another process may be at the same, or done and already publishing.
        let _lock = super::lock::index(self)?;
        for (path, content) in [(self.index(), EMPTY_INDEX), (self.marker(), MARKER)] {
            if found(fs::metadata(&path)).map_err(io(&path))?.is_none() {
                self.replace(&path, content)?;
            }
        }
        Ok(())
    }

    /// Replaces a file by one rename; the file written. The caller holds the index lock, so that the temporary name is its own.
    pub(super) fn replace(&self, path: &Path, content: &[u8]) -> Result<fs::File> {
        let temporary = self.own().join("new");
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            io::Write::write_all(&mut file, content)?;
            file.sync_data()?;
            fs::rename(&temporary, path)?;
            Ok(file)
        };
        write().map_err(|error| Error::io("write layout", path, &error))
    }

    /// Makes the names of all blobs durable. Before an entry that needs them is written, so that a power cut cannot
    /// keep the entry and lose the names.
    pub(super) fn sync_blob_names(&self) -> Result<()> {
        for folder in list(&self.blobs())? {
            if folder.is_dir() {
                match fs::File::open(&folder).and_then(|folder| folder.sync_all()) {
                    // Some network file systems know no sync of a folder, and some of those need none.
                    Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                        return Err(Error::io("write layout", &folder, &error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// All files under `blobs/` whose names are digests, in the order of their digests, and the paths of everything else there.
    pub(super) fn stored(&self) -> Result<(Vec<Stored>, Vec<PathBuf>)> {
        let (mut stored, mut strays) = (vec![], vec![]);
        for folder in list(&self.blobs())? {
            if !folder.is_dir() {
                strays.push(folder);
                continue;
            }
            for path in list(&folder)? {
                // A file that goes while we look was somebody's `gc`.
                let Some(meta) = found(fs::metadata(&path)).map_err(|error| Error::io("list blobs", &path, &error))? else { continue };
                let digest = match (folder.file_name().and_then(|n| n.to_str()), path.file_name().and_then(|n| n.to_str())) {
                    (Some(algorithm), Some(encoded)) if meta.is_file() => Digest::parse(&format!("{algorithm}:{encoded}")).ok(),
                    _ => None,
                };
                match digest {
                    Some(digest) => stored.push(Stored { digest, len: meta.len() }),
                    None => strays.push(path),
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

/// What a folder holds; nothing if it does not exist.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let Some(entries) = found(fs::read_dir(folder)).map_err(|error| Error::io("list", folder, &error))? else { return Ok(vec![]) };
    entries.map(|entry| Ok(entry.map_err(|error| Error::io("list", folder, &error))?.path())).collect()
}

/// Tells *is not there* from *cannot be looked at*.
pub(super) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hashes the rest of `file` into `hasher`, telling `progress` of the bytes as they pass; how many there were.
pub(super) fn hash(file: &mut fs::File, hasher: &mut Hasher, buffer: &mut [u8], progress: &dyn Fn(u64)) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let n = match file.read(buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // `read` never returns more than the buffer holds.
        hasher.update(buffer.get(..n).unwrap_or_default());
        total += n as u64;
        progress(n as u64);
    }
}

/// Runs file work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels blocking work.
            Err(_) => Err(Error::cancelled("use layout")),
        },
    }
}
