//! The head of a volume (`oci-layout`, `index.json`, its record), the offsets of its members, and the bundle's record
//! beside it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::bundle::format::{
    Bundle, INDEX_PATH, IndexMember, MARKER_PATH, MAX_RECORD, RECORD_PATH, VolumeMember, VolumeRecord, bundle_file, parse_volume_file,
};
use crate::bundle::plan::{BundlePlan, PlannedVolume, member_offsets};
use crate::bundle::tar;
use crate::folder;
use crate::layout::MAX_INDEX;
use crate::{Error, Kind, Operation, Result, Side};

const OP: Operation = Operation::ReadVolume;

/// The head of a volume.
#[derive(Debug)]
pub(in crate::bundle) struct VolumeHead {
    pub(in crate::bundle) index: IndexMember,
    pub(in crate::bundle) record: VolumeRecord,
    /// Its length in bytes: the offset of the first member's header.
    len: u64,
}

impl VolumeHead {
    /// Reads the head of the volume at `path`.
    ///
    /// # Errors
    /// `Kind::Damaged` if the head is damaged, or the file is no volume.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let io = |error: io::Error| Error::io(OP, path, &error);
        Self::parse(&mut folder::read_found(path).map_err(io)?, io)
    }

    /// Parses the head at the beginning of a volume.
    ///
    /// # Errors
    /// As [`VolumeHead::read`]; `failed` makes those of reading.
    pub(in crate::bundle) fn parse(volume: &mut impl Read, failed: impl Fn(io::Error) -> Error) -> Result<Self> {
        let (_, before) = member(volume, MARKER_PATH, &failed)?;
        let (index, index_len) = member(volume, INDEX_PATH, &failed)?;
        let index = serde_json::from_slice(&index).map_err(|error| damaged(&format!("invalid {INDEX_PATH}: {error}")))?;
        let (record, record_len) = member(volume, RECORD_PATH, &failed)?;
        Ok(VolumeHead { index, record: VolumeRecord::parse(&record)?, len: before + index_len + record_len })
    }

    /// The head of volume `number` according to the bundle's record.
    pub(super) fn recorded(bundle: &Bundle, number: u32) -> Option<Self> {
        let record = bundle.record(number)?;
        let len = PlannedVolume::new(&bundle.index, record.clone()).head.len() as u64;
        Some(VolumeHead { index: bundle.index.clone(), record, len })
    }

    /// Its members, each with the offset of its first byte in the volume.
    pub(super) fn members(&self) -> impl Iterator<Item = (&VolumeMember, u64)> {
        member_offsets(self.len, &self.record.members)
    }
}

/// Reads one of the files in a head: its bytes, and its length in the tar file.
fn member(volume: &mut impl Read, name: &str, failed: &impl Fn(io::Error) -> Error) -> Result<(Vec<u8>, u64)> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it ends within its head"),
        _ => failed(error),
    };
    let mut block = [0; 512];
    volume.read_exact(&mut block).map_err(failed)?;
    let size = tar::expect(&block, name)?;
    if size > if name == INDEX_PATH { MAX_INDEX } else { MAX_RECORD } {
        return Err(damaged(&format!("`{name}` has {size} bytes, which is too much")));
    }
    let padded = tar::padded(size);
    let mut bytes = vec![];
    volume.take(padded).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 != padded {
        return Err(damaged("it ends within its head"));
    }
    // At most MAX_RECORD, which any usize holds.
    bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    Ok((bytes, tar::BLOCK + padded))
}

fn damaged(message: &str) -> Error {
    Error::new(Side::Local, OP, Kind::Damaged, message)
}

/// Reads the record of a bundle that was found in a folder.
///
/// # Errors
/// `Kind::Damaged` if it is invalid.
pub(in crate::bundle) fn read_record(operation: Operation, path: &Path) -> Result<Bundle> {
    let read = folder::read_found(path).and_then(|file| crate::input::read_from(file, MAX_RECORD));
    let bytes = read.map_err(|error| Error::io(operation, path, &error))?;
    Bundle::parse(&bytes).map_err(|error| error.subject(path.display().to_string()))
}

/// As [`read_record`], and checks that its identity is that of its content. Nothing else has a hash of the names in it: a
/// flipped bit there would put an image under a wrong name.
///
/// # Errors
/// `Kind::Damaged` if it is invalid or has been changed.
pub(super) fn read_checked_record(path: &Path) -> Result<Bundle> {
    const OP: Operation = Operation::ReadBundle;
    let bundle = read_record(OP, path)?;
    if identity(&bundle) == bundle.id {
        return Ok(bundle);
    }
    let error = Error::new(Side::Local, OP, Kind::Damaged, "it has been changed: its `id` is not that of its content");
    Err(error.subject(path.display().to_string()).remedy("copy it again; the volumes can be imported without it"))
}

/// The identity of the content of `bundle`.
fn identity(bundle: &Bundle) -> crate::content::Digest {
    let volumes = bundle.volumes.iter().map(|volume| volume.members.clone()).collect();
    BundlePlan { index: bundle.index.clone(), images: vec![], base: bundle.base.clone(), volumes }.id()
}

/// The path of the bundle's record beside a volume, if there is one.
pub(super) fn record_beside(volume: &Path) -> Option<PathBuf> {
    let (name, _) = parse_volume_file(volume)?;
    Some(volume.with_file_name(bundle_file(&name))).filter(|path| folder::is_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::format::{BundleBase, MemberKind};
    use crate::bundle::plan::PlannedBlob;
    use crate::content::Digest;
    use proptest::prelude::*;

    /// A bundle of two volumes, and their bytes.
    fn bundle() -> (Bundle, Vec<Vec<u8>>) {
        let contents: Vec<Vec<u8>> = (0..4u8).map(|n| vec![n; 3000]).collect();
        let piece = |bytes: &Vec<u8>| PlannedBlob {
            digest: Digest::sha256(bytes),
            size: 3000,
            kind: MemberKind::Blob,
            repositories: vec!["a/b".to_owned()],
        };
        let plan =
            BundlePlan::new(IndexMember::new(vec![]), vec![], BundleBase::default(), contents.iter().map(piece).collect(), Some(10_000))
                .unwrap();
        let volumes: Vec<Vec<u8>> = plan
            .planned_volumes()
            .map(|volume| {
                let mut bytes = volume.head;
                for member in &volume.members {
                    let whole = contents.iter().find(|bytes| Digest::sha256(bytes) == member.digest).unwrap();
                    let begin = usize::try_from(member.offset).unwrap();
                    bytes.extend(tar::entry(&member.path(), &whole[begin..begin + usize::try_from(member.size).unwrap()]));
                }
                bytes.extend(tar::END);
                bytes
            })
            .collect();
        let written: Vec<(u64, String)> =
            volumes.iter().map(|bytes| (bytes.len() as u64, Digest::sha256(bytes).encoded().to_owned())).collect();
        (plan.bundle("b", &written), volumes)
    }

    fn read(mut bytes: &[u8]) -> Result<VolumeHead> {
        VolumeHead::parse(&mut bytes, |error| damaged(&error.to_string()))
    }

    #[test]
    fn the_head_and_the_bundles_record_give_the_same_member_offsets() {
        let (bundle, volumes) = bundle();
        assert!(volumes.len() > 1);
        for (number, bytes) in (1..).zip(&volumes) {
            let (head, recorded) = (read(bytes).unwrap(), VolumeHead::recorded(&bundle, number).unwrap());
            assert_eq!((&head.record, &head.index, head.len), (&recorded.record, &recorded.index, recorded.len));
            assert!(!head.record.members.is_empty());
            for (member, at) in head.members() {
                let (at, size) = (usize::try_from(at).unwrap(), usize::try_from(member.size).unwrap());
                assert!(bytes[at..at + size].iter().all(|byte| *byte == bytes[at]));
                assert_eq!(Digest::sha256(&vec![bytes[at]; 3000]), member.digest);
            }
        }
    }

    #[test]
    fn a_truncated_head_is_damaged() {
        let (_, volumes) = bundle();
        for cut in [0, 100, 512, 1500, 2000, 2500] {
            assert_eq!(read(&volumes[0][..cut]).unwrap_err().kind(), Kind::Damaged, "{cut}");
        }
    }

    #[test]
    fn a_record_without_the_identity_of_its_content_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.bundle.json");
        let (bundle, _) = bundle();
        std::fs::write(&path, bundle.to_bytes()).unwrap();
        assert_eq!(read_checked_record(&path).unwrap(), bundle);
        let text = String::from_utf8(bundle.to_bytes()).unwrap().replace("a/b", "a/c");
        std::fs::write(&path, text).unwrap();
        assert!(read_checked_record(&path).unwrap_err().message().contains("it has been changed"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(at in 0usize..4000, turned in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (_, mut volumes) = bundle();
            let length = volumes[0].len();
            volumes[0][at % length] ^= turned;
            if let Ok(head) = read(&volumes[0]) {
                let _ = head.members().count();
            }
            let _ = read(&bytes);
        }
    }
}
