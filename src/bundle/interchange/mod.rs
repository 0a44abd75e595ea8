//! Formats in which other tools carry images: OCI layouts, tar files of layouts, and `docker save` archives. They are read
//! in place, by offset, like volumes. A `docker save` archive has no manifests, so they are built.
//!
//! Each reader adds content to a [`BundleSource`] and gives the entries of the index back. larder's own volumes belong
//! into `read`.

mod available_platforms;
mod docker_save;
mod file_type;
mod tar_index;
mod target_names;
mod unpack;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::format::{INDEX_PATH, RECORD_PATH};
use super::read::{BundleSource, ContentFile, FileSlice, Piece, PieceLocation};
use crate::content::Digest;
use crate::folder::{FileStatus, Folder};
use crate::layout::{IndexEntry, MAX_INDEX};
use crate::{Error, Result};
pub use available_platforms::AvailablePlatforms;
pub(super) use available_platforms::available_platforms;
pub(super) use file_type::describe_folder;
use tar_index::{OP, TarIndex, damaged};
pub use target_names::{GivenName, NameMapping, Named, stem};
use unpack::Compression;

/// What a file turned out to hold.
pub(super) enum Contents {
    /// Images: the entries of its index.
    Images(Vec<IndexEntry>),
    /// Something else, as a message describes it.
    Other(String),
}

/// Adds the blobs of an OCI layout to `source`; its entries.
pub(super) fn layout(source: &mut BundleSource, path: &Path) -> Result<Vec<IndexEntry>> {
    let folder = Folder::open(path).map_err(|error| Error::io(OP, path, &error))?;
    let io = |name: &Path, error: io::Error| Error::io(OP, &path.join(name), &error);
    let name = Path::new(INDEX_PATH);
    let index = folder.read(name).and_then(|file| crate::input::read_from(file, MAX_INDEX)).map_err(|error| io(name, error))?;
    let entries = entries(&index, path)?;
    let origin = source.add_file(ContentFile { path: path.to_owned(), volume: None });
    let blobs = Path::new("blobs");
    for algorithm in folder.list(blobs).map_err(|error| io(blobs, error))? {
        let algorithm = blobs.join(algorithm);
        if !folder.status(&algorithm).is_ok_and(|status| status.is_folder()) {
            continue;
        }
        for file in folder.list(&algorithm).map_err(|error| io(&algorithm, error))? {
            let file = algorithm.join(file);
            let Some(digest) = blob(&file.to_string_lossy()) else { continue };
            // Links are not followed.
            let Some(status) = folder.status(&file).ok().filter(FileStatus::is_file) else { continue };
            let location = PieceLocation::File { path: path.join(&file).into(), offset: 0 };
            source.add(digest, Piece { origin, location, len: status.len() });
        }
    }
    Ok(entries)
}

/// Whether the file is compressed in a format that can be read.
pub(super) fn is_compressed(path: &Path) -> Result<bool> {
    let io = |error| Error::io(OP, path, &error);
    let (first, _) = unpack::peek(crate::input::open(path).map_err(io)?).map_err(io)?;
    Ok(Compression::of(&first).is_some())
}

/// Reads an archive that is compressed or can be read only once: unpacks it into `folder`. `path` is its name in messages.
pub(super) fn stream(source: &mut BundleSource, stream: impl Read, path: &Path, folder: &Path) -> Result<Contents> {
    let (first, stream) = unpack::peek(stream).map_err(|error| Error::io(OP, path, &error))?;
    if first.is_empty() {
        return Ok(Contents::Other("empty".to_owned()));
    }
    let compression = Compression::of(&first);
    let file = unpack::unpack(stream, compression, path, folder)?;
    Ok(match (archive(source, path, &Arc::new(file))?, compression) {
        (Contents::Other(what), Some(compression)) => Contents::Other(format!("{what}, compressed by {}", compression.name())),
        (contents, _) => contents,
    })
}

/// Reads an archive: the tar file of a layout, or of `docker save`.
pub(super) fn archive(source: &mut BundleSource, path: &Path, file: &Arc<File>) -> Result<Contents> {
    let Some(tar) = TarIndex::scan(path, file)? else {
        let mut first = vec![];
        let mut start = FileSlice { file: Arc::clone(file), offset: 0, len: file_type::PREFIX };
        start.read_to_end(&mut first).map_err(|error| Error::io(OP, path, &error))?;
        return Ok(Contents::Other(file_type::describe(&first)));
    };
    let origin = source.add_file(ContentFile { path: path.to_owned(), volume: None });
    if tar.has("oci-layout") && tar.has(INDEX_PATH) {
        for (name, member) in tar.files() {
            if let Some(digest) = blob(name) {
                source.add(digest, tar.piece(origin, member));
            }
        }
        return Ok(Contents::Images(entries(&tar.read(INDEX_PATH, MAX_INDEX)?, path)?));
    }
    if tar.has(RECORD_PATH) {
        return Ok(Contents::Other("a volume of a bundle".to_owned()));
    }
    if !tar.has(docker_save::LIST) {
        let what = format!("a tar file without `oci-layout` or `{}` (it has {})", docker_save::LIST, tar.some_names());
        return Ok(Contents::Other(what));
    }
    Ok(Contents::Images(docker_save::read(source, &tar, origin)?))
}

/// The entries of an `index.json`.
fn entries(bytes: &[u8], path: &Path) -> Result<Vec<IndexEntry>> {
    let index: Index = serde_json::from_slice(bytes).map_err(|error| damaged(path, &format!("invalid {INDEX_PATH}: {error}")))?;
    Ok(index.manifests.into_iter().map(IndexEntry::of).collect())
}

/// An index without the fields that other tools may leave out.
#[derive(serde::Deserialize)]
struct Index {
    #[serde(default, deserialize_with = "crate::layout::entries")]
    manifests: Vec<crate::content::Descriptor>,
}

/// The digest in a path of the form `blobs/sha256/<hex>`.
fn blob(name: &str) -> Option<Digest> {
    let (algorithm, encoded) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}
