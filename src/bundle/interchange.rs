//! What other tools carry images in: OCI layouts, their archives, and archives of `docker save`. Read where they lie, by offset, like
//! volumes; a `docker save` archive has no manifests, so they are made.

mod docker;
pub(super) mod found;
mod names;
mod present;
mod tarball;
mod unpack;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::format::{INDEX_PATH, RECORD_PATH};
use super::read::{BundleReader, ContentFile, OpenPart, Piece, Where};
use crate::content::Digest;
use crate::folder::{Folder, Status};
use crate::layout::{IndexEntry, MAX_INDEX};
use crate::{Error, Kind, Result, Side};
pub use names::{Given, NameMapping, Named, stem};
pub use present::Present;
pub(super) use present::present;
use tarball::Tarball;

const OP: &str = "read archive";

/// Puts an OCI layout's blobs on the shelf, and its names beside them.
pub(super) fn layout(gathering: &mut BundleReader<'_>, path: &Path) -> Result<()> {
    let folder = Folder::open(path).map_err(|error| Error::io(OP, path, &error))?;
    let io = |name: &Path, error: io::Error| Error::io(OP, &path.join(name), &error);
    let name = Path::new(INDEX_PATH);
    let index = folder.read(name).and_then(|file| crate::input::read_from(file, MAX_INDEX)).map_err(|error| io(name, error))?;
    let entries = entries(&index, path)?;
    let origin = gathering.shelf.origin(ContentFile { path: path.to_owned(), volume: None });
    let blobs = Path::new("blobs");
    for algorithm in folder.list(blobs).map_err(|error| io(blobs, error))? {
        let algorithm = blobs.join(algorithm);
        if !folder.status(&algorithm).is_ok_and(|status| status.is_folder()) {
            continue;
        }
        for file in folder.list(&algorithm).map_err(|error| io(&algorithm, error))? {
            let file = algorithm.join(file);
            let Some(digest) = blob(&file.to_string_lossy()) else { continue };
            // A link is as good as absent.
            let Some(status) = folder.status(&file).ok().filter(Status::is_file) else { continue };
            let piece = Piece { origin, at: Where::File { path: path.join(&file).into(), offset: 0 }, len: status.len() };
            gathering.shelf.add(digest, piece);
        }
    }
    gathering.others(path, entries);
    Ok(())
}

/// How a file is compressed, if it is one that is read.
pub(super) fn is_compressed(path: &Path) -> Result<bool> {
    let file = crate::input::open(path).map_err(|error| Error::io(OP, path, &error))?;
    let (first, _) = unpack::peek(file).map_err(|error| Error::io(OP, path, &error))?;
    Ok(unpack::Compression::of(&first).is_some())
}

/// Reads an archive that can be read once only, or is compressed: it is unpacked into `folder`. `path` is what messages call it.
pub(super) fn stream(gathering: &mut BundleReader<'_>, stream: impl std::io::Read, path: &Path, folder: &Path) -> Result<Contents> {
    let (first, stream) = unpack::peek(stream).map_err(|error| Error::io(OP, path, &error))?;
    if first.is_empty() {
        return Ok(Contents::Other("empty".to_owned()));
    }
    let compression = unpack::Compression::of(&first);
    let file = unpack::unpack(stream, compression, path, folder)?;
    Ok(match archive(gathering, path, &Arc::new(file))? {
        Contents::Other(what) => Contents::Other(match compression {
            Some(compression) => format!("{what}, compressed by {}", compression.name()),
            None => what,
        }),
        Contents::Images => Contents::Images,
    })
}

/// What was found in a file.
pub(super) enum Contents {
    /// Images: they are on the shelf.
    Images,
    /// Something else; what, for a person.
    Other(String),
}

/// Reads an archive: of a layout, or of `docker save`.
pub(super) fn archive(gathering: &mut BundleReader<'_>, path: &Path, file: &Arc<File>) -> Result<Contents> {
    let Some(tarball) = Tarball::scan(path, file)? else {
        let mut first = vec![];
        let part = OpenPart { file: Arc::clone(file), at: 0, left: found::LOOK as u64 };
        std::io::Read::read_to_end(&mut { part }, &mut first).map_err(|error| Error::io(OP, path, &error))?;
        return Ok(Contents::Other(found::described(&first)));
    };
    let origin = gathering.shelf.origin(ContentFile { path: path.to_owned(), volume: None });
    if tarball.has("oci-layout") && tarball.has(INDEX_PATH) {
        for (name, member) in tarball.files() {
            if let Some(digest) = blob(name) {
                gathering.shelf.add(digest, Piece { origin, at: tarball.at(member), len: member.len });
            }
        }
        let entries = entries(&tarball.read(INDEX_PATH, MAX_INDEX)?, path)?;
        gathering.others(path, entries);
        return Ok(Contents::Images);
    }
    if tarball.has(RECORD_PATH) {
        return Ok(Contents::Other("a volume of a bundle".to_owned()));
    }
    if !tarball.has(docker::LIST) {
        let what = format!("a tar file without `oci-layout` or `{}` (it has {})", docker::LIST, tarball.some_names());
        return Ok(Contents::Other(what));
    }
    let entries = docker::read(gathering, &tarball, origin)?;
    gathering.others(path, entries);
    Ok(Contents::Images)
}

/// The entries of an `index.json`.
fn entries(bytes: &[u8], path: &Path) -> Result<Vec<IndexEntry>> {
    let manifests = serde_json::from_slice::<UnnamedImage>(bytes).map(|index| index.manifests).map_err(|error| {
        let message = format!("{}: its index.json is no index: {error}", path.display());
        Error::new(Side::Local, OP, Kind::Damaged, message)
    })?;
    Ok(manifests.into_iter().map(IndexEntry::of).collect())
}

/// An index of which other tools have left out what the specification lets them.
#[derive(serde::Deserialize)]
struct UnnamedImage {
    #[serde(default, deserialize_with = "crate::layout::entries")]
    manifests: Vec<crate::content::Descriptor>,
}

/// The digest that `blobs/sha256/…` names.
fn blob(name: &str) -> Option<Digest> {
    let (algorithm, encoded) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}
