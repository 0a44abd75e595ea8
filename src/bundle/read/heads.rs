//! What a volume begins with, and where its members are.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::bundle::format::{Bundle, INDEX_PATH, Index, MARKER_PATH, MAX_RECORD, Member, RECORD_PATH, VolumeRecord, bundle_file};
use crate::bundle::plan::{Plan, Sheet};
use crate::bundle::tar;
use crate::{Error, Kind, Result, Side};

const OP: &str = "read volume";

/// The head of a volume.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) index: Index,
    pub(super) record: VolumeRecord,
    /// Where the first member's header is.
    pub(super) start: u64,
}

impl Head {
    /// Reads the head of the volume at `path`.
    ///
    /// # Errors
    /// `Kind::Damaged` if it is none of larder's, or not whole.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|error| Error::io(OP, path, &error))?;
        let mut start = 0;
        member(&mut file, path, MARKER_PATH, &mut start)?;
        let index = member(&mut file, path, INDEX_PATH, &mut start)?;
        let index = serde_json::from_slice(&index).map_err(|error| damaged(&format!("its index.json is none: {error}")))?;
        let record = VolumeRecord::parse(&member(&mut file, path, RECORD_PATH, &mut start)?)?;
        Ok(Head { index, record, start })
    }

    /// The head that volume `number` must have, as the bundle's record tells.
    pub(super) fn told(bundle: &Bundle, number: u32) -> Option<Self> {
        let record = bundle.record(number)?;
        let start = Sheet::new(&bundle.index, record.clone()).head.len() as u64;
        Some(Head { index: bundle.index.clone(), record, start })
    }

    /// Its members, each with the place of its first byte.
    pub(super) fn members(&self) -> impl Iterator<Item = (&Member, u64)> {
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
    if size > MAX_RECORD {
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
    let mut bytes = vec![];
    let io = |error| Error::io("read bundle", path, &error);
    File::open(path).map_err(io)?.take(MAX_RECORD + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_RECORD {
        return Err(damaged("it is too large for a bundle's record").subject(path.display().to_string()));
    }
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
    Plan { index: bundle.index.clone(), images: vec![], base: bundle.base.clone(), volumes }.id()
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
    Some(volume.with_file_name(bundle_file(&name))).filter(|path| path.is_file())
}
