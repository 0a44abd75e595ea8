//! Hashes a volume as a whole, and every blob in it. All offsets are known, so damage in one place hides nothing behind it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::bundle_files::{BundleFiles, OP};
use crate::bundle::format::{MemberKind, VolumeMember};
use crate::bundle::plan::{PlannedVolume, member_offsets};
use crate::bundle::read::{FileSlice, each_chunk};
use crate::bundle::tar;
use crate::content::{Digest, Hasher, Links, MAX_MANIFEST, Manifest};
use crate::folder;
use crate::{Error, Result, Side};

/// Bytes read at once: large enough that system calls do not matter.
const READ: usize = 1024 * 1024;

/// The state of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BlobState {
    Undamaged,
    /// The reason, as a message.
    Damaged(String),
}

/// The state of a volume.
pub(super) struct CheckedVolume {
    /// Bytes hashed.
    pub(super) bytes: u64,
    /// The problem with the volume as a whole.
    pub(super) damage: Option<String>,
    /// Its length is correct, and everything but its blobs.
    pub(super) is_well_formed: bool,
    /// The states of blobs that are in it as a whole.
    pub(super) states: HashMap<Digest, BlobState>,
    /// The links of undamaged manifests in it.
    pub(super) links: HashMap<Digest, ManifestLinks>,
}

/// The links of a manifest, or the reason why it is not a manifest.
pub(super) type ManifestLinks = std::result::Result<Links, String>;

/// Reads the whole file at `path`, which should be the volume `planned` and have this hash.
pub(super) fn check(planned: &PlannedVolume, path: &Path, sha256: Option<&str>, progress: &(dyn Fn(u64) + Sync)) -> Result<CheckedVolume> {
    let mut volume = VolumeFile::open(path, progress)?;
    let mut is_well_formed = volume.expect(&planned.head);
    let (mut states, mut links) = (HashMap::new(), HashMap::new());
    for member in &planned.members {
        is_well_formed &= volume.expect(&tar::header(&member.path(), member.size));
        let (state, bytes) = volume.member(member);
        let padding = usize::try_from(tar::padding(member.size)).unwrap_or_default();
        is_well_formed &= volume.expect(&vec![0; padding]);
        if let (BlobState::Undamaged, Some(bytes)) = (&state, bytes) {
            links.insert(member.digest.clone(), parse_links(bytes, &member.digest));
        }
        if member.part.is_none() {
            states.insert(member.digest.clone(), state);
        }
    }
    is_well_formed &= volume.expect(&tar::END);
    let length = volume.file.metadata().map_err(|error| Error::io(OP, path, &error))?.len();
    let damage = volume.damage((length, planned.size()), is_well_formed, sha256).or_else(|| {
        let damaged = states.values().filter(|state| **state != BlobState::Undamaged).count();
        (damaged > 0).then(|| format!("{damaged} of its blobs are damaged"))
    });
    Ok(CheckedVolume { bytes: volume.read, damage, is_well_formed: is_well_formed && length == planned.size(), states, links })
}

/// Hashes a blob over its parts; its links, if it is a manifest.
pub(super) fn join(bundle: &BundleFiles, digest: &Digest, parts: &[(u32, &VolumeMember)]) -> (BlobState, Option<ManifestLinks>) {
    let Some(mut hasher) = digest.hasher() else { return (unsupported(digest), None) };
    let manifest = parts.first().is_some_and(|(_, part)| part.kind == MemberKind::Manifest && part.whole_size() <= MAX_MANIFEST as u64);
    let mut bytes = vec![];
    for (number, part) in parts {
        let Some(volume) = bundle.files.get(number) else { continue };
        let read = each_chunk_of_part(&bundle.planned(volume), &volume.path, part, &mut |chunk| {
            hasher.update(chunk);
            if manifest {
                bytes.extend_from_slice(chunk);
            }
        });
        if let Err(error) = read {
            return (BlobState::Damaged(format!("a part of it in volume {number} cannot be read: {error}")), None);
        }
    }
    let actual = hasher.finish();
    if actual != *digest {
        return (BlobState::Damaged(format!("its parts hash to {actual}")), None);
    }
    (BlobState::Undamaged, manifest.then(|| parse_links(bytes, digest)))
}

/// Reads the bytes of a part.
fn each_chunk_of_part(planned: &PlannedVolume, path: &Path, part: &VolumeMember, see: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut members = member_offsets(planned.head.len() as u64, &planned.members);
    let offset = members.find(|(member, _)| *member == part).map_or(0, |(_, offset)| offset);
    let mut slice = FileSlice { file: Arc::new(folder::read_found(path)?), offset, len: part.size };
    let read = each_chunk(&mut slice, part.size, see)?;
    if read == part.size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn parse_links(bytes: Vec<u8>, digest: &Digest) -> ManifestLinks {
    let manifest = Manifest::known(Bytes::from(bytes), None, digest.clone(), Side::Local);
    manifest.map(|manifest| Links::clone(manifest.links())).map_err(|error| error.message())
}

fn unsupported(digest: &Digest) -> BlobState {
    BlobState::Damaged(format!("larder cannot compute {} digests", digest.algorithm()))
}

/// A volume's file, read from start to end.
struct VolumeFile<'a> {
    file: File,
    progress: &'a (dyn Fn(u64) + Sync),
    hasher: Hasher,
    buffer: Vec<u8>,
    /// Bytes read.
    read: u64,
    /// The reason why the rest cannot be read.
    broken: Option<String>,
}

impl<'a> VolumeFile<'a> {
    fn open(path: &'a Path, progress: &'a (dyn Fn(u64) + Sync)) -> Result<Self> {
        let file = folder::read_found(path).map_err(|error| Error::io(OP, path, &error))?;
        let hasher = Hasher::Sha256(sha2::Sha256::default());
        Ok(VolumeFile { file, progress, hasher, buffer: vec![0; READ], read: 0, broken: None })
    }

    /// Reads the next `length` bytes and calls `see` with them; whether all were there.
    fn take(&mut self, mut length: u64, mut see: impl FnMut(&[u8])) -> bool {
        while length > 0 && self.broken.is_none() {
            let most = usize::try_from(length).unwrap_or(READ).min(READ);
            let bytes = self.buffer.get_mut(..most).unwrap_or_default();
            match self.file.read(bytes) {
                Ok(0) => self.broken = Some(format!("it ends after {} bytes", self.read)),
                Ok(read) => {
                    let bytes = bytes.get(..read).unwrap_or_default();
                    self.hasher.update(bytes);
                    see(bytes);
                    (self.progress)(read as u64);
                    (length, self.read) = (length - read as u64, self.read + read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A bad sector is damage to report; other volumes are still checked.
                Err(error) => self.broken = Some(format!("it cannot be read after {} bytes: {error}", self.read)),
            }
        }
        length == 0
    }

    /// Reads as many bytes as `expected`; whether they are equal.
    fn expect(&mut self, expected: &[u8]) -> bool {
        let (mut at, mut same) = (0, true);
        let all = self.take(expected.len() as u64, |bytes| {
            same &= expected.get(at..at + bytes.len()) == Some(bytes);
            at += bytes.len();
        });
        all && same
    }

    /// Hashes a member; also gives the bytes of a manifest.
    fn member(&mut self, member: &VolumeMember) -> (BlobState, Option<Vec<u8>>) {
        let mut bytes = (member.kind == MemberKind::Manifest && member.size <= MAX_MANIFEST as u64).then(Vec::new);
        // A part has no hash of its own.
        let mut hasher = member.digest.hasher().filter(|_| member.part.is_none());
        let all = self.take(member.size, |chunk| {
            if let Some(hasher) = &mut hasher {
                hasher.update(chunk);
            }
            if let Some(bytes) = &mut bytes {
                bytes.extend_from_slice(chunk);
            }
        });
        let state = match hasher.map(Hasher::finish) {
            _ if !all => BlobState::Damaged(self.broken.clone().unwrap_or_default()),
            Some(actual) if actual != member.digest => BlobState::Damaged(format!("its bytes hash to {actual}")),
            None if member.part.is_none() => unsupported(&member.digest),
            _ => BlobState::Undamaged,
        };
        (state, bytes)
    }

    /// The problem with the volume as a whole, given its actual and its expected length.
    fn damage(&self, (length, expected): (u64, u64), is_well_formed: bool, sha256: Option<&str>) -> Option<String> {
        if let Some(broken) = &self.broken {
            return Some(format!("{broken}, and should have {expected}"));
        }
        if length != expected {
            return Some(format!("it has {length} bytes, and should have {expected}"));
        }
        let actual = self.hasher.clone().finish();
        match sha256 {
            Some(expected) if actual.encoded() != expected => Some(format!("its sha256 is {}, and should be {expected}", actual.encoded())),
            _ => (!is_well_formed).then(|| "it is not as larder writes volumes".to_owned()),
        }
    }
}
