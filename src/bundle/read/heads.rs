//! What a volume begins with, and where its members are.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::bundle::format::{
    Bundle, INDEX_PATH, IndexMember, MARKER_PATH, MAX_RECORD, RECORD_PATH, VolumeMember, VolumeRecord, bundle_file,
};
use crate::bundle::plan::{BundlePlan, PlannedVolume};
use crate::bundle::tar;
use crate::folder;
use crate::layout::MAX_INDEX;
use crate::{Error, Kind, Result, Side};

const OP: &str = "read volume";

/// The head of a volume.
#[derive(Debug)]
pub(super) struct VolumeHead {
    pub(super) index: IndexMember,
    pub(super) record: VolumeRecord,
    /// Where the first member's header is.
    pub(super) start: u64,
}

impl VolumeHead {
    /// Reads the head of the volume at `path`.
    ///
    /// # Errors
    /// `Kind::Damaged` if it is none of larder's, or not whole.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut file = folder::read_found(path).map_err(|error| Error::io(OP, path, &error))?;
        let mut start = 0;
        member(&mut file, path, MARKER_PATH, &mut start)?;
        let index = member(&mut file, path, INDEX_PATH, &mut start)?;
        let index = serde_json::from_slice(&index).map_err(|error| damaged(&format!("its index.json is none: {error}")))?;
        let record = VolumeRecord::parse(&member(&mut file, path, RECORD_PATH, &mut start)?)?;
        Ok(VolumeHead { index, record, start })
    }

    /// The head that volume `number` must have, as the bundle's record tells.
    pub(super) fn told(bundle: &Bundle, number: u32) -> Option<Self> {
        let record = bundle.record(number)?;
        let start = PlannedVolume::new(&bundle.index, record.clone()).head.len() as u64;
        Some(VolumeHead { index: bundle.index.clone(), record, start })
    }

    /// Its members, each with the place of its first byte.
    pub(super) fn members(&self) -> impl Iterator<Item = (&VolumeMember, u64)> {
        self.record.members.iter().scan(self.start, |at, member| {
            let begins = at.saturating_add(tar::header(&member.path(), member.size).len() as u64);
            *at = begins.saturating_add(tar::padded(member.size));
            Some((member, begins))
        })
    }
}

/// One of the files that a volume begins with.
fn member(file: &mut File, path: &Path, name: &str, at: &mut u64) -> Result<Vec<u8>> {
    let read = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged("it ends within its head"),
        _ => Error::io(OP, path, &error),
    };
    let mut block = [0; 512];
    file.read_exact(&mut block).map_err(read)?;
    let size = tar::expect(&block, name)?;
    if size > if name == INDEX_PATH { MAX_INDEX } else { MAX_RECORD } {
        return Err(damaged(&format!("`{name}` is said to have {size} bytes")));
    }
    let padded = tar::padded(size);
    let mut bytes = vec![];
    file.by_ref().take(padded).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 != padded {
        return Err(damaged("it ends within its head"));
    }
    // At most MAX_RECORD, which any usize holds.
    bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    *at += tar::BLOCK + padded;
    Ok(bytes)
}

fn damaged(message: &str) -> Error {
    Error::new(Side::Local, OP, Kind::Damaged, message)
}

/// Reads the record of a bundle, and sees that its identity is that of its content: a turned bit in a name, of which nothing else has a
/// hash, would put an image where it does not belong.
///
/// # Errors
/// `Kind::Damaged` if it is none, or has been changed.
pub(super) fn record(path: &Path) -> Result<Bundle> {
    let read = folder::read_found(path).and_then(|file| crate::input::read_from(file, MAX_RECORD));
    let bytes = read.map_err(|error| Error::io("read bundle", path, &error))?;
    let bundle = Bundle::parse(&bytes).map_err(|error| error.subject(path.display().to_string()))?;
    if identity(&bundle) == bundle.id {
        return Ok(bundle);
    }
    let error =
        Error::new(Side::Local, "read bundle", Kind::Damaged, "it has been changed: its content does not have the identity that it says");
    Err(error.subject(path.display().to_string()).remedy("carry it again; the volumes can be imported without it"))
}

/// What `bundle`'s identity must be.
fn identity(bundle: &Bundle) -> crate::content::Digest {
    let volumes = bundle.volumes.iter().map(|volume| volume.members.clone()).collect();
    BundlePlan { index: bundle.index.clone(), images: vec![], base: bundle.base.clone(), volumes }.id()
}

/// What the file of a volume says of its bundle's name and its number: `NAME-0007.tar`.
pub(super) fn named(path: &Path) -> Option<(String, u32)> {
    let (name, digits) = path.file_name()?.to_str()?.strip_suffix(".tar")?.rsplit_once('-')?;
    let plain = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|number| plain && *number > 0)?;
    (!name.is_empty()).then(|| (name.to_owned(), number))
}

/// The record that lies beside a volume, if it does.
pub(super) fn beside(volume: &Path) -> Option<std::path::PathBuf> {
    let (name, _) = named(volume)?;
    Some(volume.with_file_name(bundle_file(&name))).filter(|path| folder::is_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::format::{BundleBase, MemberKind};
    use crate::bundle::plan::PlannedBlob;
    use crate::content::Digest;
    use proptest::prelude::*;

    /// A bundle of two volumes, and what they hold.
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
            .sheets()
            .map(|sheet| {
                let mut bytes = sheet.head;
                for member in &sheet.members {
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

    fn read(bytes: &[u8]) -> Result<VolumeHead> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        VolumeHead::read(file.path())
    }

    #[test]
    fn members_are_where_the_head_and_the_record_say() {
        let (bundle, volumes) = bundle();
        assert!(volumes.len() > 1);
        for (number, bytes) in (1..).zip(&volumes) {
            let (head, told) = (read(bytes).unwrap(), VolumeHead::told(&bundle, number).unwrap());
            assert_eq!((&head.record, &head.index, head.start), (&told.record, &told.index, told.start));
            assert!(!head.record.members.is_empty());
            for (member, at) in head.members() {
                let (at, size) = (usize::try_from(at).unwrap(), usize::try_from(member.size).unwrap());
                assert!(bytes[at..at + size].iter().all(|byte| *byte == bytes[at]));
                assert_eq!(Digest::sha256(&vec![bytes[at]; 3000]), member.digest);
            }
        }
    }

    #[test]
    fn a_head_that_is_cut_or_changed_is_damaged() {
        let (_, volumes) = bundle();
        for cut in [0, 100, 512, 1500, 2000, 2500] {
            assert_eq!(read(&volumes[0][..cut]).unwrap_err().kind(), Kind::Damaged, "{cut}");
        }
    }

    #[test]
    fn a_record_is_what_its_identity_says_or_it_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.bundle.json");
        let (bundle, _) = bundle();
        std::fs::write(&path, bundle.to_bytes()).unwrap();
        assert_eq!(record(&path).unwrap(), bundle);
        let text = String::from_utf8(bundle.to_bytes()).unwrap().replace("a/b", "a/c");
        std::fs::write(&path, text).unwrap();
        assert!(record(&path).unwrap_err().message().contains("it has been changed"));
    }

    #[test]
    fn a_volumes_name_says_its_number() {
        for (file, expected) in [
            ("jan-0007.tar", Some(("jan", 7))),
            ("a-b-12345.tar", Some(("a-b", 12345))),
            ("jan-7.tar", None),
            ("jan-0000.tar", None),
            ("-0001.tar", None),
            ("jan-000x.tar", None),
            ("jan-0001.tar.partial", None),
        ] {
            let found = named(Path::new(file));
            assert_eq!(found.as_ref().map(|(name, number)| (name.as_str(), *number)), expected, "{file}");
        }
    }

    proptest! {
        #[test]
        fn any_head_is_survived(at in 0usize..4000, turned in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
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
