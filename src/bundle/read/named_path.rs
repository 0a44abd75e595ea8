//! What is at a path that the user names, before it is read.

use std::path::Path;

use super::volume_head::VolumeHead;
use crate::bundle::format::{is_bundle_file, parse_volume_file};
use crate::bundle::interchange;
use crate::{Error, Operation, Result};

const OP: Operation = Operation::ReadBundle;

/// Whether `path` is read as an archive: `-`, or a file that is neither a bundle's record nor a volume.
///
/// # Errors
/// If it cannot be read, or is a device, a socket or a named pipe.
pub fn is_archive(path: &Path) -> Result<bool> {
    let io = |error: std::io::Error| Error::io(OP, path, &error);
    if path == Path::new("-") {
        return Ok(true);
    }
    let meta = std::fs::metadata(path).map_err(io)?;
    if meta.is_dir() {
        return Ok(false);
    }
    if let Some(why) = crate::input::unsuitable(path, &meta) {
        return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, why)));
    }
    if is_bundle_file(path) {
        return Ok(false);
    }
    Ok(!meta.is_file() || interchange::is_compressed(path)? || (VolumeHead::read(path).is_err() && parse_volume_file(path).is_none()))
}

/// Nothing that can be imported is at `path`, but `what`.
pub(super) fn nothing_to_import(path: &Path, what: &str) -> Error {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let error = Error::local(OP, format!("{name} is not a bundle, volume, OCI layout or archive: it is {what}"));
    error.remedy("name a folder with volumes, NAME.bundle.json, volumes, an OCI layout, or a tar of a layout or of `docker save`")
}
