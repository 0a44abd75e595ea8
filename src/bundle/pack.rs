//! Packing: a plan becomes volumes and their record. The layout is read, `DIR` is written, nobody else is asked.
//!
//! What keeps a bundle right, whoever is killed: a volume is `NAME-0001.tar.partial` until it is whole and synced, and then gets its name by one
//! rename; `NAME.bundle.json` comes last. A later run looks at what is there and goes on from the last member that is right, so that nothing
//! but the blob that was under way is read from the layout again. *Rejected:* a journal of what is done: it would have to be believed, on
//! media that may have been written to since; hashing what is there proves it, and reading is faster than writing.

mod kept;
mod pipe;
mod volume;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::format::{Bundle, MAX_RECORD, bundle_file, check_name, default_name, volume_file};
use super::plan::{Plan, Sheet};
use super::preflight::{self, Need};
use crate::layout::Layout;
use crate::{Error, Kind, Result, Side};
use volume::Writer;

const OP: &str = "pack volumes";

/// How the name of a file that is not finished ends.
const PARTIAL: &str = ".partial";

/// What a packing works with, and who is told of it.
pub struct Packing<'a> {
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
pub struct Packed {
    /// The bundle's record.
    pub bundle: Bundle,
    /// The record's file.
    pub path: PathBuf,
    /// Volumes that were there already.
    pub kept: usize,
    /// Bytes written.
    pub written: u64,
}

/// Writes `plan` as a bundle called `name`, or by its identity. Blocks.
///
/// # Errors
/// `Kind::DiskFull` if it does not fit, before anything is written; `Kind::Damaged` if the layout's bytes are wrong (they are removed there, so that the
/// next run fetches them); `Kind::Cancelled` if it was stopped.
pub fn pack(packing: &Packing<'_>, plan: &Plan, name: Option<&str>) -> Result<Packed> {
    let id = plan.id();
    let name = name.map_or_else(|| default_name(&id), str::to_owned);
    check_name(&name).map_err(|why| Error::local(OP, why))?;
    fs::create_dir_all(packing.to).map_err(|error| Error::io(OP, packing.to, &error))?;
    let path = packing.to.join(bundle_file(&name));
    refuse_another(&path, &id)?;
    let file = |number: usize| packing.to.join(volume_file(&name, u32::try_from(number).unwrap_or(u32::MAX)));
    check_space(packing.to, plan.sheets().enumerate().map(|(at, sheet)| (file(at + 1), sheet.size())))?;
    let mut writer = Writer::new(packing);
    let mut volumes = Vec::with_capacity(plan.volumes.len());
    for (at, sheet) in plan.sheets().enumerate() {
        volumes.push(writer.write(&sheet, &file(at + 1), None)?);
    }
    remove_leftovers(packing.to, &name, plan.volumes.len())?;
    let hashes: Vec<(u64, String)> = volumes.iter().map(|volume| (volume.size, volume.sha256.clone())).collect();
    let bundle = plan.bundle(&name, &hashes);
    let written = replace(&path, &bundle.to_bytes())? + volumes.iter().map(|volume| volume.written).sum::<u64>();
    Ok(Packed { bundle, path, kept: volumes.iter().filter(|volume| volume.written == 0).count(), written })
}

/// Writes volume `number` of `bundle` again, the same bytes. Blocks.
///
/// # Errors
/// As [`pack`]; `Kind::Damaged` too if the bytes are not those that the bundle's record tells the hash of: nothing is left behind then.
pub fn repair(packing: &Packing<'_>, bundle: &Bundle, number: u32) -> Result<PathBuf> {
    let (Some(record), Some(volume)) = (bundle.record(number), bundle.volumes.iter().find(|volume| volume.number == number)) else {
        let message = format!("bundle {} has no volume {number}: it has {}", bundle.name, bundle.volumes.len());
        return Err(Error::local("repair volume", message));
    };
    let sheet = Sheet::new(&bundle.index, record);
    fs::create_dir_all(packing.to).map_err(|error| Error::io(OP, packing.to, &error))?;
    let path = packing.to.join(&volume.file);
    check_space(packing.to, [(path.clone(), sheet.size())].into_iter())?;
    // A part has no hash of its own: the blob it is a part of has.
    for member in sheet.members.iter().filter(|member| member.part.is_some()) {
        volume::check_whole(packing, member)?;
    }
    Writer::new(packing).write(&sheet, &path, Some(&volume.sha256))?;
    Ok(path)
}

/// Another bundle's record of this name stays: its volumes would be lost.
fn refuse_another(path: &Path, id: &crate::content::Digest) -> Result<()> {
    let length = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(OP, path, &error)),
    };
    let other = |what: String| {
        let error = Error::new(Side::Local, OP, Kind::Local, format!("{} {what}", path.display()));
        Err(error.remedy("give another --name, or remove it and its volumes"))
    };
    if length > MAX_RECORD {
        return other("is no bundle's record".to_owned());
    }
    match Bundle::parse(&fs::read(path).map_err(|error| Error::io(OP, path, &error))?) {
        Ok(bundle) if bundle.id == *id => Ok(()),
        Ok(bundle) => other(format!("is another bundle ({})", bundle.id.short())),
        Err(_) => other("is no bundle's record".to_owned()),
    }
}

/// Sees that the volumes fit; what is there of them already needs no room.
fn check_space(to: &Path, volumes: impl Iterator<Item = (PathBuf, u64)>) -> Result<()> {
    let there = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    let bytes = volumes.map(|(path, size)| size.saturating_sub(there(&path) + there(&partial(&path)))).sum();
    let lacking = preflight::lacking(&[Need { what: "the rest of the bundle", folder: to.to_owned(), bytes }])?;
    lacking.into_iter().next().map_or(Ok(()), Err)
}

/// Volumes beyond the last one are of a run that was killed, when there was more to carry. Nobody is to take them along.
fn remove_leftovers(to: &Path, name: &str, volumes: usize) -> Result<()> {
    let number = |file: &str| -> Option<usize> {
        let digits = file.strip_suffix(PARTIAL).unwrap_or(file).strip_suffix(".tar")?.strip_prefix(name)?.strip_prefix('-')?;
        let plain = digits.len() >= 4 && digits.chars().all(|c| c.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    for entry in fs::read_dir(to).map_err(|error| Error::io(OP, to, &error))?.flatten() {
        if entry.file_name().to_str().and_then(number).is_some_and(|number| number > volumes) {
            fs::remove_file(entry.path()).map_err(|error| Error::io(OP, &entry.path(), &error))?;
        }
    }
    Ok(())
}

/// Where a file is until it is finished.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(PARTIAL);
    path.with_file_name(name)
}

/// Replaces a small file in one step, unless it has these bytes already; how many were written.
fn replace(path: &Path, bytes: &[u8]) -> Result<u64> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(0);
    }
    let temporary = partial(path);
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        settle(&temporary, path)
    };
    write().map_err(|error| Error::io(OP, path, &error))?;
    Ok(bytes.len() as u64)
}

/// Gives a synced file its name, for good.
fn settle(temporary: &Path, path: &Path) -> io::Result<()> {
    fs::rename(temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network file systems know no sync of a folder, and some of those need none.
        Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{Base, Index, MemberKind};
    use super::super::plan::Piece;
    use super::*;
    use crate::content::Digest;

    #[tokio::test]
    async fn what_does_not_fit_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("cache")).await.unwrap();
        let (to, exabyte) = (folder.path().join("out"), 1_000_000_000_000_000_000);
        let piece = Piece { digest: Digest::sha256(b"huge"), size: exabyte, kind: MemberKind::Blob, repositories: vec![] };
        let plan = Plan::new(Index::new(vec![]), vec![], Base::default(), vec![piece], Some(exabyte / 2)).unwrap();
        let packing = Packing { layout: &layout, to: &to, progress: &|_| {}, stop: &|| false };
        let error = pack(&packing, &plan, None).unwrap_err();
        assert_eq!(error.kind(), Kind::DiskFull);
        assert!(error.message().starts_with("the rest of the bundle in ") && error.message().contains("takes 1.0 EB"), "{error}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
