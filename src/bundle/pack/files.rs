//! The files of a bundle in its folder: names while they are not finished, free space, and files that are in the way.

use std::io;
use std::path::{Path, PathBuf};

use super::options::OP;
use crate::bundle::format::{Bundle, MAX_RECORD, parse_volume_file};
use crate::bundle::preflight::{self, SpaceNeed};
use crate::content::Digest;
use crate::folder::{FileStatus, Folder};
use crate::{Error, Kind, Result, Side};

/// The end of the name of a file that is not finished.
const PARTIAL: &str = ".partial";

/// The end of the name of a file that had the name of a volume and was not one of this bundle.
const OLD: &str = ".old";

/// Refuses to replace the record of another bundle: its volumes would be lost.
pub(super) fn refuse_another(folder: &Folder, name: &Path, id: &Digest) -> Result<()> {
    let path = folder.path().join(name);
    let io = |error: io::Error| Error::io(OP, &path, &error);
    let file = match folder.read(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    let other = |what: String| {
        let error = Error::new(Side::Local, OP, Kind::Local, format!("{} {what}", path.display()));
        Err(error.remedy("give another --name, or remove it and its volumes"))
    };
    let bytes = match crate::input::read_from(file, MAX_RECORD) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return other("is not a bundle's record".to_owned()),
        Err(error) => return Err(io(error)),
    };
    match Bundle::parse(&bytes) {
        Ok(bundle) if bundle.id == *id => Ok(()),
        Ok(bundle) => other(format!("is another bundle ({})", bundle.id.short())),
        Err(_) => other("is not a bundle's record".to_owned()),
    }
}

/// Checks that the volumes fit. A volume that is there already needs no space, an unfinished one only the rest. A damaged
/// one needs space for a new one, because it is replaced only when that is finished.
pub(super) fn check_space(folder: &Folder, volumes: impl Iterator<Item = (PathBuf, u64)>) -> Result<()> {
    let there = |name: &Path| folder.status(name).ok().filter(FileStatus::is_file).map_or(0, |status| status.len());
    let rest = |(name, size): (PathBuf, u64)| if there(&name) == size { 0 } else { size.saturating_sub(there(&partial(&name))) };
    let bytes = volumes.map(rest).fold(0, u64::saturating_add);
    let lacking = preflight::lacking(&[SpaceNeed { what: "the rest of the bundle", folder: folder.path().to_owned(), bytes }])?;
    lacking.into_iter().next().map_or(Ok(()), Err)
}

/// Renames volumes beyond the last one, so that they are not carried along. They are of a killed run, when there was more
/// content, or of another bundle.
pub(super) fn set_leftovers_aside(folder: &Folder, name: &str, volumes: usize, notes: &mut Vec<String>) -> Result<()> {
    let number = |file: &str| {
        let (of, number) = parse_volume_file(Path::new(file.strip_suffix(PARTIAL).unwrap_or(file)))?;
        usize::try_from(number).ok().filter(|_| of == name)
    };
    let mut files = folder.list(Path::new("")).map_err(|error| Error::io(OP, folder.path(), &error))?;
    files.sort();
    for file in files {
        let Some((text, number)) = file.to_str().and_then(|text| Some((text, number(text)?))) else { continue };
        if text.ends_with(PARTIAL) {
            let shown = folder.path().join(&file);
            notes.push(format!("{} is left from an earlier run; it can be removed", shown.display()));
        } else if number > volumes {
            set_aside(folder, Path::new(&file), notes)?;
        }
    }
    Ok(())
}

/// Renames a file that is in the way. A run deletes only what it has written.
pub(super) fn set_aside(folder: &Folder, name: &Path, notes: &mut Vec<String>) -> Result<()> {
    let mut old = with_suffix(name, OLD);
    for count in 2_u32.. {
        match folder.status(&old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            _ => old = with_suffix(name, &format!("{OLD}-{count}")),
        }
    }
    let [from, to] = [name, &old].map(|name| folder.path().join(name));
    folder.rename(name, &old).map_err(|error| Error::io(OP, &from, &error))?;
    notes.push(format!("{} is not a volume of this bundle: it is now {}", from.display(), to.display()));
    Ok(())
}

/// The name of a file until it is finished.
pub(super) fn partial(name: &Path) -> PathBuf {
    with_suffix(name, PARTIAL)
}

fn with_suffix(name: &Path, suffix: &str) -> PathBuf {
    let mut with = name.as_os_str().to_owned();
    with.push(suffix);
    with.into()
}

/// Replaces a small file in one step, unless it has these bytes already; the number of bytes written.
pub(super) fn replace(folder: &Folder, name: &Path, bytes: &[u8]) -> Result<u64> {
    let io = |error: io::Error| Error::io(OP, &folder.path().join(name), &error);
    let mut there = vec![];
    let read = folder.read(name).and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, bytes.len() as u64 + 1), &mut there));
    if read.is_ok() && there == bytes {
        // A killed run may have renamed the file without syncing the folder.
        folder.sync(Path::new("")).map_err(io)?;
        return Ok(0);
    }
    folder.replace(name, &partial(name), bytes).map_err(io)?;
    Ok(bytes.len() as u64)
}
