//! Checks before the first byte moves that there is enough disk space.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::content::{Descriptor, Digest};
use crate::copy::Room;
use crate::layout::Layout;
use crate::mutex::Mutex;
use crate::{Error, Kind, Operation, Result, Side};

const OP: Operation = Operation::CheckSpace;

/// Something that is about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceNeed {
    /// What it is, in a message: `the target`, `staged parts`.
    pub what: &'static str,
    /// The folder it goes to; it need not exist yet.
    pub folder: PathBuf,
    /// How many bytes.
    pub bytes: u64,
}

/// Checks that there is space for all `needs`: those on the same file system are added up. An error of [`Kind::DiskFull`] for
/// each file system without enough space.
///
/// # Errors
/// If the free space of a file system is not known.
pub fn lacking(needs: &[SpaceNeed]) -> Result<Vec<Error>> {
    let mut disks: BTreeMap<u64, (Vec<&SpaceNeed>, u64)> = BTreeMap::new();
    for need in needs.iter().filter(|need| need.bytes > 0) {
        let folder = existing(&need.folder);
        let device = std::fs::metadata(folder).map_err(|error| Error::io(OP, folder, &error))?.dev();
        let free = free(folder)?;
        disks.entry(device).or_insert((vec![], free)).0.push(need);
    }
    Ok(disks.into_values().filter_map(|(needs, free)| too_little(&needs, free)).collect())
}

/// The space for an export's cache and volumes. Each manifest adds to what is needed, and that is compared with the free
/// space at the beginning. So a lack of space is found before blobs are read, not when volumes are written.
pub struct ExportRoom {
    layout: Layout,
    to: PathBuf,
    /// Whether the base has a blob, so that no volume needs it.
    at_base: Box<dyn Fn(&Digest) -> bool + Send + Sync>,
    /// Free bytes for the cache and for the volumes; the second includes volumes that earlier runs have written.
    free: (u64, u64),
    one_disk: bool,
    known: Mutex<Known>,
}

/// The bytes to be written according to the manifests so far.
#[derive(Default)]
struct Known {
    seen: HashSet<Digest>,
    cache: u64,
    volumes: u64,
}

impl ExportRoom {
    /// The free space for the cache `layout` and for `to`, where `written` bytes of the volumes are already.
    ///
    /// # Errors
    /// If the free space of a file system is not known.
    pub fn new(layout: Layout, to: &Path, written: u64, at_base: impl Fn(&Digest) -> bool + Send + Sync + 'static) -> Result<Self> {
        let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).map_err(|error| Error::io(OP, path, &error));
        let one_disk = device(layout.path())? == device(to)?;
        let free = (free(layout.path())?, free(to)?.saturating_add(written));
        Ok(ExportRoom { to: to.to_owned(), at_base: Box::new(at_base), free, one_disk, known: Mutex::default(), layout })
    }
}

impl Room for ExportRoom {
    fn admit(&self, blobs: &[Descriptor]) -> Result<()> {
        let mut known = self.known.lock();
        for blob in blobs.iter().filter(|blob| !blob.is_foreign()) {
            if !known.seen.insert(blob.digest.clone()) {
                continue;
            }
            known.cache = known.cache.saturating_add(self.layout.lacks_of(blob)?);
            if !(self.at_base)(&blob.digest) {
                known.volumes = known.volumes.saturating_add(blob.size);
            }
        }
        let need = |what, folder: &Path, bytes| SpaceNeed { what, folder: folder.to_owned(), bytes };
        let cache = need("new content", self.layout.path(), known.cache);
        let volumes = need("the bundle", &self.to, known.volumes);
        let lacking = match self.one_disk {
            true => too_little(&[&cache, &volumes], self.free.1),
            false => too_little(&[&cache], self.free.0).or_else(|| too_little(&[&volumes], self.free.1)),
        };
        lacking.map_or(Ok(()), Err)
    }
}

impl std::fmt::Debug for ExportRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportRoom").field("to", &self.to).finish_non_exhaustive()
    }
}

fn too_little(needs: &[&SpaceNeed], free: u64) -> Option<Error> {
    let all: u64 = needs.iter().fold(0, |all, need| all.saturating_add(need.bytes));
    if all <= free {
        return None;
    }
    let size = |bytes: u64| bytesize::ByteSize(bytes).display().si();
    let each: Vec<String> =
        needs.iter().map(|need| format!("{} in {} needs {}", need.what, need.folder.display(), size(need.bytes))).collect();
    let message = format!("{}, but only {} are free", each.join(" and "), size(free));
    Some(Error::new(Side::Local, OP, Kind::DiskFull, message).remedy(format!("free {}", size(all - free))))
}

/// The number of bytes that an unprivileged process can still write to the file system of `folder`.
pub(super) fn free(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| Error::io(OP, folder, &error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The folder itself, or the nearest one above it that exists.
fn existing(folder: &Path) -> &Path {
    let above = |folder: &&Path| folder.exists();
    let found = folder.ancestors().filter(|path| !path.as_os_str().is_empty()).find(above);
    found.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(what: &'static str, folder: &Path, bytes: u64) -> SpaceNeed {
        SpaceNeed { what, folder: folder.to_owned(), bytes }
    }

    #[test]
    fn enough_space_is_no_error_and_folders_need_not_exist_yet() {
        let folder = tempfile::tempdir().unwrap();
        let needs = [need("the target", &folder.path().join("a/b/c"), 1), need("staged parts", Path::new("no/such/place"), 1)];
        assert_eq!(lacking(&needs).unwrap().len(), 0);
        assert_eq!(lacking(&[need("nothing", Path::new("/no/such/root"), 0)]).unwrap().len(), 0);
    }

    #[test]
    fn needs_on_one_disk_are_added_up() {
        let folder = tempfile::tempdir().unwrap();
        let half = free(folder.path()).unwrap() / 2 + 1_000_000_000_000;
        let errors = lacking(&[need("the target", folder.path(), half), need("staged parts", &folder.path().join("state"), half)]).unwrap();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].kind(), Kind::DiskFull);
        let message = errors[0].message();
        assert!(
            message.contains("the target in ") && message.contains("staged parts in ") && message.contains("are free (free "),
            "{message}"
        );
    }
}
