//! Making an empty layout.

use std::path::Path;

use super::files::{self, Files, found};
use super::lock;
use crate::folder::Folder;
use crate::{Error, Operation, Result};

/// What `oci-layout` holds in every layout that larder makes (image-spec image-layout.md "oci-layout file").
const MARKER: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// An index without entries.
const EMPTY_INDEX: &[u8] = b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}";
/// Opens the folder at `path`, and makes an empty layout there unless there is one. `oci-layout` is written last, so that a run that was
/// killed half-way can be continued.
pub(super) fn create(path: &Path) -> Result<Files> {
    const OP: Operation = Operation::CreateLayout;
    let folder = Folder::create(path).map_err(|error| Error::io(OP, path, &error))?;
    let files = Files::of(folder);
    let there = |name: &Path| found(files.folder().status(name)).map_err(|error| files.failed(OP, name, &error));
    if there(files::marker())?.is_some() {
        return Ok(files);
    }
    // A fresh disk has a `lost+found`.
    let mut names = files.folder().list(Path::new("")).map_err(|error| Error::io(OP, path, &error))?.into_iter();
    if names.any(|name| name != "lost+found") && !there(files::own())?.is_some_and(|own| own.is_folder()) {
        return Err(Error::local(OP, format!("{} is no OCI layout, and not empty", path.display()))
            .remedy("name a folder that does not exist yet, or an OCI layout"));
    }
    for name in [files::partials(), files::blobs().join("sha256")] {
        files.folder().create_folder(&name).map_err(|error| files.failed(OP, &name, &error))?;
    }
    // Under the lock, and only what is missing: another process may be at the same, or done and already publishing.
    let _lock = lock::index(&files)?;
    for (name, content) in [(files::index(), EMPTY_INDEX), (files::marker(), MARKER)] {
        if there(name)?.is_none() {
            files.replace(name, content)?;
        }
    }
    Ok(files)
}
