//! Content of volumes that is kept while their media may be gone, until the images that need it are complete: manifests
//! (they travel in the first volume, and are put after everything they refer to), parts of blobs whose other parts are
//! still missing, and the bundle's record.
//!
//! It lies in `<state>/import/<bundle>/`: `bundle.json`, `manifests/<digest>` and
//! `parts/<digest>/<number>-<offset>-<size of the blob>`. If it is lost, the volumes are needed again.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::pieces::{Piece, PieceLocation};
use super::volume_head::read_checked_record;
use crate::bundle::format::Bundle;
use crate::content::Digest;
use crate::folder::{self, Folder};
use crate::{Error, Operation, Result};

const OP: Operation = Operation::StageVolume;

/// How long staged content is kept. Deltas are monthly: what six of them did not complete is given up.
const KEEP: Duration = Duration::from_secs(180 * 24 * 60 * 60);

/// The staged content of all bundles.
#[derive(Debug, Clone)]
pub struct StagingArea {
    folder: PathBuf,
}

/// A staged part of a blob.
#[derive(Debug)]
pub(super) struct StagedBlobPart {
    pub(super) digest: Digest,
    pub(super) number: u32,
    pub(super) offset: u64,
    pub(super) whole: u64,
    pub(super) path: PathBuf,
    pub(super) len: u64,
}

impl StagingArea {
    /// The staging area below the state folder `state`. Removes bundles that nothing was added to for half a year.
    pub fn new(state: &Path) -> Self {
        let stage = StagingArea { folder: state.join("import") };
        let is_old = |entry: &fs::DirEntry| {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            // Only what this program has made.
            let ours = entry.file_name().to_str().and_then(digest_of).is_some();
            ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEEP))
        };
        for entry in fs::read_dir(&stage.folder).into_iter().flatten().flatten().filter(is_old) {
            let _ = fs::remove_dir_all(entry.path());
        }
        stage
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn of(&self, bundle: &Digest) -> PathBuf {
        self.folder.join(file_name(bundle))
    }

    fn part(&self, bundle: &Digest, digest: &Digest, (number, offset, whole): (u32, u64, u64)) -> PathBuf {
        self.of(bundle).join("parts").join(file_name(digest)).join(format!("{number:04}-{offset}-{whole}"))
    }

    /// The record of `bundle`, if it is staged and undamaged.
    pub(super) fn record(&self, bundle: &Digest) -> Option<Bundle> {
        read_checked_record(&self.of(bundle).join("bundle.json")).ok().filter(|record| record.id == *bundle)
    }

    /// The staged manifests of `bundle`: digest, file and length.
    pub(super) fn manifests(&self, bundle: &Digest) -> Vec<(Digest, PathBuf, u64)> {
        let staged = files(&self.of(bundle).join("manifests")).into_iter();
        staged.filter_map(|(name, path, len)| Some((digest_of(&name)?, path, len))).collect()
    }

    /// The staged parts of blobs of `bundle`.
    pub(super) fn parts(&self, bundle: &Digest) -> Vec<StagedBlobPart> {
        let folder = self.of(bundle).join("parts");
        let mut staged = vec![];
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Some(digest) = entry.file_name().to_str().and_then(digest_of) else { continue };
            for (name, path, len) in files(&entry.path()) {
                let mut numbers = name.split('-').map(|text| text.parse::<u64>().ok());
                if let (Some(Some(number)), Some(Some(offset)), Some(Some(whole)), None) =
                    (numbers.next(), numbers.next(), numbers.next(), numbers.next())
                    && let Ok(number) = u32::try_from(number)
                {
                    staged.push(StagedBlobPart { digest: digest.clone(), number, offset, whole, path, len });
                }
            }
        }
        staged
    }

    /// Stages a bundle's record.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn keep_record(&self, bundle: &Bundle) -> Result<()> {
        let path = self.of(&bundle.id).join("bundle.json");
        if folder::is_file(&path) { Ok(()) } else { self.write(&path, &bundle.to_bytes()) }
    }

    /// Stages a manifest of `bundle`. `bytes` is called only if it is not staged yet.
    ///
    /// # Errors
    /// As [`StagingArea::keep_record`].
    pub(in crate::bundle) fn keep_manifest(&self, bundle: &Digest, manifest: &Digest, bytes: impl FnOnce() -> Option<Bytes>) -> Result<()> {
        let path = self.of(bundle).join("manifests").join(file_name(manifest));
        if folder::is_file(&path) {
            return Ok(());
        }
        bytes().map_or(Ok(()), |bytes| self.write(&path, &bytes))
    }

    /// Stages a part of a blob of `bundle`, given its number, its offset and the blob's size; whether it had to be written.
    ///
    /// # Errors
    /// As [`StagingArea::keep_record`]; also if the volume cannot be read.
    pub(in crate::bundle) fn keep_part(&self, bundle: &Digest, digest: &Digest, place: (u32, u64, u64), piece: &Piece) -> Result<bool> {
        let path = self.part(bundle, digest, place);
        if self.has_part(bundle, digest, place, piece.len) {
            return Ok(false);
        }
        let PieceLocation::File { path: from, offset } = &piece.location else { return Ok(false) };
        let copied = self.put(&path, |out| {
            let mut file = folder::read_found(from)?;
            file.seek(SeekFrom::Start(*offset))?;
            let copied = io::copy(&mut file.take(piece.len), out)?;
            if copied == piece.len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        });
        copied
            .map(|()| true)
            .map_err(|error| Error::io(OP, if error.kind() == io::ErrorKind::UnexpectedEof { from } else { &path }, &error))
    }

    /// Whether the part is staged.
    pub(in crate::bundle) fn has_part(&self, bundle: &Digest, digest: &Digest, place: (u32, u64, u64), len: u64) -> bool {
        let path = self.part(bundle, digest, place);
        path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == len)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.put(path, |out| out.write_all(bytes)).map_err(|error| Error::io(OP, path, &error))
    }

    /// Writes a temporary file and renames it, so that no half-written file has the final name. Follows no links below
    /// the staging area.
    fn put(&self, path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let stage = Folder::create(&self.folder)?;
        let name = path.strip_prefix(&self.folder).map_err(io::Error::other)?;
        let folder = name.parent().unwrap_or(Path::new(""));
        stage.create_folder(folder)?;
        // Used by this process alone. If it is killed, the file is removed together with the bundle.
        let temporary = folder.join(format!(".new-{}", std::process::id()));
        match stage.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = stage.create_new(&temporary)?;
        let filled = fill(&mut file).and_then(|()| file.sync_data()).and_then(|()| stage.settle(&temporary, name));
        if filled.is_err() {
            let _ = stage.remove(&temporary);
        }
        filled
    }

    /// Removes the staged parts of a blob.
    pub fn drop_parts(&self, bundle: &Digest, digest: &Digest) {
        let _ = fs::remove_dir_all(self.of(bundle).join("parts").join(file_name(digest)));
    }

    /// Removes everything staged of a bundle.
    pub fn drop_bundle(&self, bundle: &Digest) {
        let _ = fs::remove_dir_all(self.of(bundle));
    }
}

fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.encoded())
}

fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, encoded) = name.split_once('-')?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}

/// The regular files of a folder: name, path, length. Empty if there is no such folder.
fn files(folder: &Path) -> Vec<(String, PathBuf, u64)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let file = |entry: fs::DirEntry| {
        let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((entry.file_name().to_str()?.to_owned(), entry.path(), meta.len()))
    };
    entries.filter_map(file).collect()
}
