//! What other tools carry images in: OCI layouts, their archives, and archives of `docker save`. Read where they lie, by offset, like
//! volumes; a `docker save` archive has no manifests, so they are made.

mod docker;
mod names;
mod tarball;

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use super::format::{INDEX_PATH, Index, MAX_RECORD};
use super::read::{Gathering, Origin, Piece, Where};
use crate::content::Digest;
use crate::folder::{Folder, Status};
use crate::layout::IndexEntry;
use crate::{Error, Kind, Result, Side};
pub use names::{Named, Naming, stem};
use tarball::Tarball;

const OP: &str = "read archive";

/// Puts an OCI layout's blobs on the shelf, and its names beside them.
pub(super) fn layout(gathering: &mut Gathering<'_>, path: &Path) -> Result<()> {
    let folder = Folder::open(path).map_err(|error| Error::io(OP, path, &error))?;
    let io = |name: &Path, error: io::Error| Error::io(OP, &path.join(name), &error);
    let mut index = vec![];
    let name = Path::new(INDEX_PATH);
    folder.read(name).and_then(|file| file.take(MAX_RECORD + 1).read_to_end(&mut index)).map_err(|error| io(name, error))?;
    if index.len() as u64 > MAX_RECORD {
        let message = format!("{} has more than {MAX_RECORD} bytes", path.join(name).display());
        return Err(Error::new(Side::Local, OP, Kind::Damaged, message));
    }
    let entries = entries(&index, path)?;
    let origin = gathering.shelf.origin(Origin { path: path.to_owned(), volume: None });
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

/// Reads an archive: of a layout, or of `docker save`. `false`: it is neither.
pub(super) fn archive(gathering: &mut Gathering<'_>, path: &Path) -> Result<bool> {
    let tarball = match Tarball::scan(path) {
        Ok(Some(tarball)) => tarball,
        Ok(None) => return Ok(false),
        Err(error) => return Err(error),
    };
    let origin = gathering.shelf.origin(Origin { path: path.to_owned(), volume: None });
    let shared: Arc<Path> = path.into();
    if tarball.has("oci-layout") && tarball.has(INDEX_PATH) {
        for (name, member) in tarball.files() {
            if let Some(digest) = blob(name) {
                let piece = Piece { origin, at: Where::File { path: Arc::clone(&shared), offset: member.offset }, len: member.len };
                gathering.shelf.add(digest, piece);
            }
        }
        let entries = entries(&tarball.read(INDEX_PATH, MAX_RECORD)?, path)?;
        gathering.others(path, entries);
        return Ok(true);
    }
    if !tarball.has(docker::LIST) {
        return Ok(false);
    }
    let entries = docker::read(gathering, &tarball, origin)?;
    gathering.others(path, entries);
    Ok(true)
}

/// The entries of an `index.json`.
fn entries(bytes: &[u8], path: &Path) -> Result<Vec<IndexEntry>> {
    let index = serde_json::from_slice::<Index>(bytes).map(|index| index.manifests);
    // Other tools leave out what the specification lets them.
    let manifests = index.or_else(|_| serde_json::from_slice::<Loose>(bytes).map(|index| index.manifests.unwrap_or_default()));
    let manifests = manifests.map_err(|error| {
        let message = format!("{}: its index.json is no index: {error}", path.display());
        Error::new(Side::Local, OP, Kind::Damaged, message)
    })?;
    Ok(manifests.into_iter().map(IndexEntry::of).collect())
}

#[derive(serde::Deserialize)]
struct Loose {
    /// Go writes an empty slice as `null`.
    manifests: Option<Vec<crate::content::Descriptor>>,
}

/// The digest that `blobs/sha256/…` names.
fn blob(name: &str) -> Option<Digest> {
    let (algorithm, encoded) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}
