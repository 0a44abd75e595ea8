//! Hashing one volume: as a whole, and every blob in it. All positions are known, so that damage in one place hides nothing behind it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Bytes;

use super::OP;
use super::hand::BundleFiles;
use crate::bundle::format::{MemberKind, VolumeMember};
use crate::bundle::plan::{PlannedVolume, taken};
use crate::bundle::tar;
use crate::content::{Digest, Hasher, Links, MAX_MANIFEST, Manifest};
use crate::folder;
use crate::{Error, Result, Side};

/// How much is read at once: large enough that system calls do not count.
const READ: usize = 1024 * 1024;

/// What a blob turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BlobState {
    Right,
    /// Why not, for a person.
    Wrong(String),
}

/// What a volume turned out to be.
pub(super) struct CheckedVolume {
    /// Bytes hashed.
    pub(super) bytes: u64,
    /// What is wrong with it as a whole.
    pub(super) damage: Option<String>,
    /// Its length is right, and everything beside its blobs.
    pub(super) sound: bool,
    /// The blobs that are in it as a whole.
    pub(super) states: HashMap<Digest, BlobState>,
    /// What manifests in it that are right refer to.
    pub(super) links: HashMap<Digest, Read>,
}

/// What a manifest refers to, or why it is not a manifest.
pub(super) type Read = std::result::Result<Links, String>;

/// Reads the volume through.
pub(super) fn check(sheet: &PlannedVolume, path: &Path, sha256: Option<&str>, progress: &(dyn Fn(u64) + Sync)) -> Result<CheckedVolume> {
    let mut volume = VolumeFile::open(path, progress)?;
    let mut sound = volume.literal(&sheet.head)?;
    let (mut states, mut links) = (HashMap::new(), HashMap::new());
    for member in &sheet.members {
        sound &= volume.literal(&tar::header(&member.path(), member.size))?;
        let (state, bytes) = volume.member(member)?;
        let padding = usize::try_from(tar::padding(member.size)).unwrap_or_default();
        sound &= volume.literal(&vec![0; padding])?;
        if let (BlobState::Right, Some(bytes)) = (&state, bytes) {
            links.insert(member.digest.clone(), read(bytes, &member.digest));
        }
        if member.part.is_none() {
            states.insert(member.digest.clone(), state);
        }
    }
    sound &= volume.literal(&tar::END)?;
    let damage = volume.close(sheet.size(), sound, sha256)?;
    let sound = sound && volume.has_length(sheet.size())?;
    let damage = damage.or_else(|| {
        let wrong = states.values().filter(|state| **state != BlobState::Right).count();
        (wrong > 0).then(|| format!("{wrong} of its blobs are damaged"))
    });
    Ok(CheckedVolume { bytes: volume.seen, damage, sound, states, links })
}

/// Hashes a blob over its parts; what it refers to, if it is a manifest.
pub(super) fn join(hand: &BundleFiles, digest: &Digest, parts: &[(u32, &VolumeMember)]) -> Result<(BlobState, Option<Read>)> {
    let Some(mut hasher) = digest.hasher() else { return Ok((unknown(digest), None)) };
    let manifest = parts.first().is_some_and(|(_, part)| part.kind == MemberKind::Manifest && part.whole_size() <= MAX_MANIFEST as u64);
    let mut bytes = vec![];
    for (number, part) in parts {
        let Some(at_hand) = hand.files.get(number) else { continue };
        let read = part_of(&hand.sheet(at_hand), &at_hand.path, part, |chunk| {
            hasher.update(chunk);
            if manifest {
                bytes.extend_from_slice(chunk);
            }
        });
        if let Err(error) = read {
            return Ok((BlobState::Wrong(format!("a part of it in volume {number} cannot be read: {error}")), None));
        }
    }
    let found = hasher.finish();
    if found != *digest {
        return Ok((BlobState::Wrong(format!("its parts hash to {found}")), None));
    }
    Ok((BlobState::Right, manifest.then(|| read(bytes, digest))))
}

/// Reads the bytes of a part.
fn part_of(sheet: &PlannedVolume, path: &Path, part: &VolumeMember, mut see: impl FnMut(&[u8])) -> io::Result<()> {
    let before: u64 = sheet.members.iter().take_while(|member| *member != part).map(taken).sum();
    let header = tar::header(&part.path(), part.size).len() as u64;
    let mut file = folder::read_found(path)?;
    file.seek(SeekFrom::Start(sheet.head.len() as u64 + before + header))?;
    let mut buffer = vec![0; READ];
    let mut left = part.size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(READ).min(READ);
        let bytes = buffer.get_mut(..most).unwrap_or_default();
        file.read_exact(bytes)?;
        see(bytes);
        left -= most as u64;
    }
    Ok(())
}

fn read(bytes: Vec<u8>, digest: &Digest) -> Read {
    let manifest = Manifest::known(Bytes::from(bytes), None, digest.clone(), Side::Local);
    manifest.and_then(|manifest| manifest.links()).map_err(|error| error.message())
}

fn unknown(digest: &Digest) -> BlobState {
    BlobState::Wrong(format!("larder cannot compute {} digests", digest.algorithm()))
}

/// A volume's file, read from its beginning to its end.
struct VolumeFile<'a> {
    file: File,
    path: &'a Path,
    progress: &'a (dyn Fn(u64) + Sync),
    hasher: Hasher,
    buffer: Vec<u8>,
    seen: u64,
    /// Why the rest cannot be read.
    broken: Option<String>,
}

impl<'a> VolumeFile<'a> {
    fn open(path: &'a Path, progress: &'a (dyn Fn(u64) + Sync)) -> Result<Self> {
        let file = folder::read_found(path).map_err(|error| Error::io(OP, path, &error))?;
        let hasher = Hasher::Sha256(sha2::Sha256::default());
        Ok(VolumeFile { file, path, progress, hasher, buffer: vec![0; READ], seen: 0, broken: None })
    }

    /// Reads the next `length` bytes and shows them; whether all were there.
    fn take(&mut self, mut length: u64, mut see: impl FnMut(&[u8])) -> Result<bool> {
        while length > 0 && self.broken.is_none() {
            let most = usize::try_from(length).unwrap_or(READ).min(READ);
            let bytes = self.buffer.get_mut(..most).unwrap_or_default();
            match self.file.read(bytes) {
                Ok(0) => self.broken = Some(format!("it ends after {} bytes", self.seen)),
                Ok(read) => {
                    let bytes = bytes.get(..read).unwrap_or_default();
                    self.hasher.update(bytes);
                    see(bytes);
                    (self.progress)(read as u64);
                    (length, self.seen) = (length - read as u64, self.seen + read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A bad sector is damage to report, and no reason to leave the rest unchecked; other volumes go on.
                Err(error) => self.broken = Some(format!("it cannot be read after {} bytes: {error}", self.seen)),
            }
        }
        Ok(length == 0)
    }

    /// Whether these bytes come next. They are passed over in any case.
    fn literal(&mut self, expected: &[u8]) -> Result<bool> {
        let (mut at, mut same) = (0, true);
        let all = self.take(expected.len() as u64, |bytes| {
            same &= expected.get(at..at + bytes.len()) == Some(bytes);
            at += bytes.len();
        })?;
        Ok(all && same)
    }

    /// Hashes a member; the bytes of what may be a manifest come along.
    fn member(&mut self, member: &VolumeMember) -> Result<(BlobState, Option<Vec<u8>>)> {
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
        })?;
        let state = match hasher.map(Hasher::finish) {
            _ if !all => BlobState::Wrong(self.broken.clone().unwrap_or_default()),
            Some(found) if found != member.digest => BlobState::Wrong(format!("its bytes hash to {found}")),
            None if member.part.is_none() => unknown(&member.digest),
            _ => BlobState::Right,
        };
        Ok((state, bytes))
    }

    fn has_length(&self, size: u64) -> Result<bool> {
        Ok(self.file.metadata().map_err(|error| Error::io(OP, self.path, &error))?.len() == size)
    }

    /// What is wrong with the volume as a whole.
    fn close(&mut self, size: u64, sound: bool, sha256: Option<&str>) -> Result<Option<String>> {
        if let Some(broken) = &self.broken {
            return Ok(Some(format!("{broken}, and should have {size}")));
        }
        let length = self.file.metadata().map_err(|error| Error::io(OP, self.path, &error))?.len();
        if length != size {
            return Ok(Some(format!("it has {length} bytes, and should have {size}")));
        }
        let found = self.hasher.clone().finish();
        Ok(match sha256 {
            Some(expected) if found.encoded() != expected => Some(format!("its sha256 is {}, and should be {expected}", found.encoded())),
            _ => (!sound).then(|| "it is not as larder writes volumes".to_owned()),
        })
    }
}
