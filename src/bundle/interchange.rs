//! What other tools carry images in: OCI layouts, their archives, and archives of `docker save`. Read where they lie, by offset, like
//! volumes; a `docker save` archive has no manifests, so they are made.

mod docker;
mod names;
mod tarball;

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::format::INDEX_PATH;
use super::read::{Gathering, Origin, Piece, Where};
use crate::content::Digest;
use crate::folder::{Folder, Status};
use crate::layout::{IndexEntry, MAX_INDEX};
use crate::{Error, Kind, Result, Side};
pub use names::{Named, Naming, stem};
use tarball::Tarball;

const OP: &str = "read archive";

/// Puts an OCI layout's blobs on the shelf, and its names beside them.
pub(super) fn layout(gathering: &mut Gathering<'_>, path: &Path) -> Result<()> {
    let folder = Folder::open(path).map_err(|error| Error::io(OP, path, &error))?;
    let io = |name: &Path, error: io::Error| Error::io(OP, &path.join(name), &error);
    let name = Path::new(INDEX_PATH);
    let index = folder.read(name).and_then(|file| crate::input::read_from(file, MAX_INDEX)).map_err(|error| io(name, error))?;
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
        let entries = entries(&tarball.read(INDEX_PATH, MAX_INDEX)?, path)?;
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
    let manifests = serde_json::from_slice::<Loose>(bytes).map(|index| index.manifests).map_err(|error| {
        let message = format!("{}: its index.json is no index: {error}", path.display());
        Error::new(Side::Local, OP, Kind::Damaged, message)
    })?;
    Ok(manifests.into_iter().map(IndexEntry::of).collect())
}

/// An index of which other tools have left out what the specification lets them.
#[derive(serde::Deserialize)]
struct Loose {
    #[serde(default, deserialize_with = "crate::layout::entries")]
    manifests: Vec<crate::content::Descriptor>,
}

/// The digest that `blobs/sha256/…` names.
fn blob(name: &str) -> Option<Digest> {
    let (algorithm, encoded) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}
