//! Writes a plan as volumes and their record. Reads the layout, writes the folder, and uses no network. What goes into a
//! bundle is decided in `bundle_content` and `plan`.
//!
//! A run deletes no file that it has not written: a file with a volume's name that is not of this bundle is renamed
//! (`NAME-0001.tar.old`).
//!
//! A run may be killed at any time. A volume is `NAME-0001.tar.partial` until it is whole and synced, and then gets its
//! name by one rename; `NAME.bundle.json` comes last. A later run checks the files that are there and continues after the
//! last correct member, so it reads only the blob that was being written again. *Rejected:* a journal. It could not be
//! trusted, because others may have written to the media since; hashing the files proves what is there, and reading is
//! faster than writing.

mod files;
mod member;
mod options;
mod pipeline;
mod verified_prefix;
mod volume_writer;

use std::path::PathBuf;

use super::format::{Bundle, bundle_file, check_name, default_name, volume_file};
use super::plan::{BundlePlan, PlannedVolume};
use crate::folder::Folder;
use crate::{Error, Operation, Result};
use files::{check_space, refuse_another, replace, set_leftovers_aside};
use options::OP;
pub use options::PackOptions;
use volume_writer::VolumeWriter;

/// The result of packing.
#[derive(Debug)]
pub struct PackSummary {
    /// The bundle's record.
    pub bundle: Bundle,
    /// The path of the record.
    pub path: PathBuf,
    /// How many volumes were there already.
    pub kept: usize,
    /// Bytes written.
    pub written: u64,
    /// Notes on files that are in the way or left over, a sentence each.
    pub notes: Vec<String>,
}

/// A volume that was written again.
#[derive(Debug)]
pub struct Repaired {
    /// The path of its file.
    pub path: PathBuf,
    /// As [`PackSummary::notes`].
    pub notes: Vec<String>,
}

/// Writes `plan` as a bundle of this name, or named after its identity. Blocks.
///
/// # Errors
/// `Kind::DiskFull` if it does not fit, before anything is written; `Kind::Damaged` if a blob in the layout is damaged (it
/// is removed there, so that the next run fetches it); `Kind::Cancelled` if it was stopped.
pub fn pack(packing: &PackOptions<'_>, plan: &BundlePlan, name: Option<&str>) -> Result<PackSummary> {
    let id = plan.id();
    let name = name.map_or_else(|| default_name(&id), str::to_owned);
    check_name(&name).map_err(|why| Error::local(OP, why))?;
    let folder = folder(packing)?;
    let record = PathBuf::from(bundle_file(&name));
    refuse_another(&folder, &record, &id)?;
    let file = |number: usize| PathBuf::from(volume_file(&name, u32::try_from(number).unwrap_or(u32::MAX)));
    check_space(&folder, (1..).zip(plan.planned_volumes()).map(|(number, volume)| (file(number), volume.size())))?;
    let mut writer = VolumeWriter::new(packing, &folder);
    let mut volumes = Vec::with_capacity(plan.volumes.len());
    for (number, volume) in (1..).zip(plan.planned_volumes()) {
        volumes.push(writer.write(&volume, &file(number), None)?);
    }
    let mut notes = writer.into_notes();
    set_leftovers_aside(&folder, &name, plan.volumes.len(), &mut notes)?;
    let hashes: Vec<(u64, String)> = volumes.iter().map(|volume| (volume.size, volume.sha256.clone())).collect();
    let bundle = plan.bundle(&name, &hashes);
    let written = replace(&folder, &record, &bundle.to_bytes())? + volumes.iter().map(|volume| volume.written).sum::<u64>();
    let kept = volumes.iter().filter(|volume| volume.written == 0).count();
    Ok(PackSummary { bundle, path: packing.to.join(record), kept, written, notes })
}

fn folder(packing: &PackOptions<'_>) -> Result<Folder> {
    Folder::create(packing.to).map_err(|error| Error::io(OP, packing.to, &error))
}

/// Writes volume `number` of `bundle` again, with the same bytes. Replaces a damaged volume when the new one is whole.
/// Blocks.
///
/// # Errors
/// As [`pack`]; `Kind::Damaged` too if the volume would not have the hash in the bundle's record. Nothing is replaced then.
pub fn repair(packing: &PackOptions<'_>, bundle: &Bundle, number: u32) -> Result<Repaired> {
    let (Some(record), Some(recorded)) = (bundle.record(number), bundle.volumes.iter().find(|volume| volume.number == number)) else {
        let message = format!("bundle {} has no volume {number}: it has {}", bundle.name, bundle.volumes.len());
        return Err(Error::local(Operation::RepairVolume, message));
    };
    let volume = PlannedVolume::new(&bundle.index, record);
    let folder = folder(packing)?;
    let name = PathBuf::from(&recorded.file);
    check_space(&folder, [(name.clone(), volume.size())].into_iter())?;
    // A part has no hash of its own, so its whole blob is checked.
    for member in volume.members.iter().filter(|member| member.part.is_some()) {
        member::check_whole(packing, member)?;
    }
    let mut writer = VolumeWriter::new(packing, &folder);
    writer.write(&volume, &name, Some(&recorded.sha256))?;
    Ok(Repaired { path: packing.to.join(name), notes: writer.into_notes() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::format::{BundleBase, IndexMember, MemberKind};
    use super::super::plan::PlannedBlob;
    use super::*;
    use crate::Kind;
    use crate::content::Digest;
    use crate::layout::Layout;

    #[tokio::test]
    async fn a_bundle_without_enough_space_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("cache")).await.unwrap();
        let (to, exabyte) = (folder.path().join("out"), 1_000_000_000_000_000_000);
        let piece = PlannedBlob { digest: Digest::sha256(b"huge"), size: exabyte, kind: MemberKind::Blob, repositories: vec![] };
        let plan = BundlePlan::new(IndexMember::new(vec![]), vec![], BundleBase::default(), vec![piece], Some(exabyte / 2)).unwrap();
        let packing = PackOptions { layout: &layout, to: &to, progress: &|_| {}, stop: &|| false };
        let error = pack(&packing, &plan, None).unwrap_err();
        assert_eq!(error.kind(), Kind::DiskFull);
        assert!(error.message().starts_with("the rest of the bundle in ") && error.message().contains("needs 1.0 EB"), "{error}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
