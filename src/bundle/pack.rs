//! Packing: a plan becomes volumes and their record. The layout is read, `DIR` is written, nobody else is asked.
//!
//! No file is deleted that this run has not written: what has a volume's name and is not this bundle's is renamed (`NAME-0001.tar.old`).
//!
//! What keeps a bundle right, whoever is killed: a volume is `NAME-0001.tar.partial` until it is whole and synced, and then gets its name by one
//! rename; `NAME.bundle.json` comes last. A later run looks at what is there and goes on from the last member that is right, so that nothing
//! but the blob that was under way is read from the layout again. *Rejected:* a journal of what is done: it would have to be believed, on
//! media that may have been written to since; hashing what is there proves it, and reading is faster than writing.

mod kept;
mod pipe;
mod volume;

use std::io;
use std::path::{Path, PathBuf};

use super::format::{Bundle, MAX_RECORD, bundle_file, check_name, default_name, volume_file};
use super::plan::{BundlePlan, PlannedVolume};
use super::preflight::{self, SpaceNeed};
use crate::folder::{Folder, Status};
use crate::layout::Layout;
use crate::{Error, Kind, Result, Side};
use volume::Writer;

const OP: &str = "pack volumes";

/// How the name of a file that is not finished ends.
const PARTIAL: &str = ".partial";

/// How the name of a file ends that had the name of a volume and was not one of this bundle.
const OLD: &str = ".old";

/// What a packing works with, and who is told of it.
pub struct PackOptions<'a> {
    /// Where the blobs are.
    pub layout: &'a Layout,
    /// Where the volumes go; made if it does not exist.
    pub to: &'a Path,
    /// Told of bytes as they pass, written or found to be there.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// What came of it.
#[derive(Debug)]
pub struct PackSummary {
    /// The bundle's record.
    pub bundle: Bundle,
    /// The record's file.
    pub path: PathBuf,
    /// Volumes that were there already.
    pub kept: usize,
    /// Bytes written.
    pub written: u64,
    /// Files that are in the way or left over, a sentence each.
    pub notes: Vec<String>,
}

/// A volume that was written again.
#[derive(Debug)]
pub struct Repaired {
    /// Its file.
    pub path: PathBuf,
    /// As [`PackSummary::notes`].
    pub notes: Vec<String>,
}

/// Writes `plan` as a bundle called `name`, or by its identity. Blocks.
///
/// # Errors
/// `Kind::DiskFull` if it does not fit, before anything is written; `Kind::Damaged` if the layout's bytes are wrong (they are removed there, so that the
/// next run fetches them); `Kind::Cancelled` if it was stopped.
pub fn pack(packing: &PackOptions<'_>, plan: &BundlePlan, name: Option<&str>) -> Result<PackSummary> {
    let id = plan.id();
    let name = name.map_or_else(|| default_name(&id), str::to_owned);
    check_name(&name).map_err(|why| Error::local(OP, why))?;
    let folder = folder(packing)?;
    let record = PathBuf::from(bundle_file(&name));
    refuse_another(&folder, &record, &id)?;
    let file = |number: usize| PathBuf::from(volume_file(&name, u32::try_from(number).unwrap_or(u32::MAX)));
    check_space(&folder, plan.sheets().enumerate().map(|(at, sheet)| (file(at + 1), sheet.size())))?;
    let mut writer = Writer::new(packing, &folder);
    let mut volumes = Vec::with_capacity(plan.volumes.len());
    for (at, sheet) in plan.sheets().enumerate() {
        volumes.push(writer.write(&sheet, &file(at + 1), None)?);
    }
    let mut notes = writer.notes;
    leftovers(&folder, &name, plan.volumes.len(), &mut notes)?;
    let hashes: Vec<(u64, String)> = volumes.iter().map(|volume| (volume.size, volume.sha256.clone())).collect();
    let bundle = plan.bundle(&name, &hashes);
    let written = replace(&folder, &record, &bundle.to_bytes())? + volumes.iter().map(|volume| volume.written).sum::<u64>();
    let kept = volumes.iter().filter(|volume| volume.written == 0).count();
    Ok(PackSummary { bundle, path: packing.to.join(record), kept, written, notes })
}

fn folder(packing: &PackOptions<'_>) -> Result<Folder> {
    Folder::create(packing.to).map_err(|error| Error::io(OP, packing.to, &error))
}

/// Writes volume `number` of `bundle` again, the same bytes. A damaged volume stays until the new one is whole. Blocks.
///
/// # Errors
/// As [`pack`]; `Kind::Damaged` too if the bytes are not those that the bundle's record tells the hash of: what is there stays as it is.
pub fn repair(packing: &PackOptions<'_>, bundle: &Bundle, number: u32) -> Result<Repaired> {
    let (Some(record), Some(volume)) = (bundle.record(number), bundle.volumes.iter().find(|volume| volume.number == number)) else {
        let message = format!("bundle {} has no volume {number}: it has {}", bundle.name, bundle.volumes.len());
        return Err(Error::local("repair volume", message));
    };
    let sheet = PlannedVolume::new(&bundle.index, record);
    let folder = folder(packing)?;
    let name = PathBuf::from(&volume.file);
    check_space(&folder, [(name.clone(), sheet.size())].into_iter())?;
    // A part has no hash of its own: the blob it is a part of has.
    for member in sheet.members.iter().filter(|member| member.part.is_some()) {
        volume::check_whole(packing, member)?;
    }
    let mut writer = Writer::new(packing, &folder);
    writer.write(&sheet, &name, Some(&volume.sha256))?;
    Ok(Repaired { path: packing.to.join(name), notes: writer.notes })
}

/// Another bundle's record of this name stays: its volumes would be lost.
fn refuse_another(folder: &Folder, name: &Path, id: &crate::content::Digest) -> Result<()> {
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
    let mut bytes = vec![];
    io::Read::read_to_end(&mut io::Read::take(file, MAX_RECORD + 1), &mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_RECORD {
        return other("is not a bundle's record".to_owned());
    }
    match Bundle::parse(&bytes) {
        Ok(bundle) if bundle.id == *id => Ok(()),
        Ok(bundle) => other(format!("is another bundle ({})", bundle.id.short())),
        Err(_) => other("is not a bundle's record".to_owned()),
    }
}

/// Sees that the volumes fit. One that is there already needs no room, and one that was begun only the rest; a damaged one is not
/// replaced before the new one is whole.
fn check_space(folder: &Folder, volumes: impl Iterator<Item = (PathBuf, u64)>) -> Result<()> {
    let there = |name: &Path| folder.status(name).ok().filter(Status::is_file).map_or(0, |status| status.len());
    let rest = |(name, size): (PathBuf, u64)| if there(&name) == size { 0 } else { size.saturating_sub(there(&partial(&name))) };
    let bytes = volumes.map(rest).fold(0, u64::saturating_add);
    let lacking = preflight::lacking(&[SpaceNeed { what: "the rest of the bundle", folder: folder.path().to_owned(), bytes }])?;
    lacking.into_iter().next().map_or(Ok(()), Err)
}

/// Volumes beyond the last one are of a run that was killed, when there was more to carry, or of another bundle. Nobody is to take them
/// along, so they get another name.
fn leftovers(folder: &Folder, name: &str, volumes: usize, notes: &mut Vec<String>) -> Result<()> {
    let number = |file: &str| -> Option<usize> {
        let digits = file.strip_suffix(PARTIAL).unwrap_or(file).strip_suffix(".tar")?.strip_prefix(name)?.strip_prefix('-')?;
        let plain = digits.len() >= 4 && digits.chars().all(|c| c.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let mut files = folder.list(Path::new("")).map_err(|error| Error::io(OP, folder.path(), &error))?;
    files.sort();
    for file in files {
        let Some((text, number)) = file.to_str().and_then(|text| Some((text, number(text)?))) else { continue };
        if text.ends_with(PARTIAL) {
            let shown = folder.path().join(&file);
            notes.push(format!("{} is left from an earlier run, and nothing needs it: it can be removed", shown.display()));
        } else if number > volumes {
            set_aside(folder, Path::new(&file), notes)?;
        }
    }
    Ok(())
}

/// Renames a file that is in the way, because what this run has not written is not its to delete.
fn set_aside(folder: &Folder, name: &Path, notes: &mut Vec<String>) -> Result<()> {
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

/// What a file is called until it is finished.
fn partial(name: &Path) -> PathBuf {
    with_suffix(name, PARTIAL)
}

fn with_suffix(name: &Path, suffix: &str) -> PathBuf {
    let mut with = name.as_os_str().to_owned();
    with.push(suffix);
    with.into()
}

/// Replaces a small file in one step, unless it has these bytes already; how many were written.
fn replace(folder: &Folder, name: &Path, bytes: &[u8]) -> Result<u64> {
    let io = |error: io::Error| Error::io(OP, &folder.path().join(name), &error);
    let mut there = vec![];
    let read = folder.read(name).and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, bytes.len() as u64 + 1), &mut there));
    if read.is_ok() && there == bytes {
        // A killed run may not have come to it.
        folder.sync(Path::new("")).map_err(io)?;
        return Ok(0);
    }
    folder.replace(name, &partial(name), bytes).map_err(io)?;
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::format::{BundleBase, IndexMember, MemberKind};
    use super::super::plan::PlannedBlob;
    use super::*;
    use crate::content::Digest;

    #[tokio::test]
    async fn what_does_not_fit_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("cache")).await.unwrap();
        let (to, exabyte) = (folder.path().join("out"), 1_000_000_000_000_000_000);
        let piece = PlannedBlob { digest: Digest::sha256(b"huge"), size: exabyte, kind: MemberKind::Blob, repositories: vec![] };
        let plan = BundlePlan::new(IndexMember::new(vec![]), vec![], BundleBase::default(), vec![piece], Some(exabyte / 2)).unwrap();
        let packing = PackOptions { layout: &layout, to: &to, progress: &|_| {}, stop: &|| false };
        let error = pack(&packing, &plan, None).unwrap_err();
        assert_eq!(error.kind(), Kind::DiskFull);
        assert!(error.message().starts_with("the rest of the bundle in ") && error.message().contains("takes 1.0 EB"), "{error}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
