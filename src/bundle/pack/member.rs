//! The blobs of the layout that become members of volumes, and their hashes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use super::options::{OP, PackOptions};
use super::pipeline::CHUNK;
use crate::bundle::format::VolumeMember;
use crate::content::{Digest, Hasher};
use crate::layout::Layout;
use crate::{Error, Kind, Result, Side};

/// The hash of a blob so far. It outlives a volume if the blob continues in the next one.
#[derive(Clone)]
pub(super) struct BlobHash {
    digest: Digest,
    hasher: Hasher,
    /// The number of bytes hashed.
    len: u64,
}

impl BlobHash {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
    }

    /// Whether all of the blob of `member` was hashed.
    pub(super) fn is_complete(&self, member: &VolumeMember) -> bool {
        self.len == member.whole_size()
    }

    /// Whether the bytes so far have the digest.
    pub(super) fn matches(&self) -> bool {
        self.hasher.clone().finish() == self.digest
    }
}

/// The hash that continues with the bytes of `member`: a new one, or that of the parts before it. `None` if those were not
/// hashed, as when one volume is written by itself.
pub(super) fn begin_hash(before: Option<BlobHash>, member: &VolumeMember) -> Result<Option<BlobHash>> {
    if member.offset > 0 {
        return Ok(before.filter(|hash| hash.digest == member.digest && hash.len == member.offset));
    }
    let hasher = member.digest.hasher().ok_or_else(|| {
        Error::new(Side::Local, OP, Kind::Unsupported, format!("larder cannot compute {} digests", member.digest.algorithm()))
    })?;
    Ok(Some(BlobHash { digest: member.digest.clone(), hasher, len: 0 }))
}

/// Checks the hash if the blob ends with this member. Sets a damaged file of the layout aside, so that the next run fetches
/// it again.
pub(super) fn end_hash(hash: Option<BlobHash>, member: &VolumeMember, layout: &Layout) -> Result<Option<BlobHash>> {
    let Some(hash) = hash else { return Ok(None) };
    if hash.len < member.whole_size() {
        return Ok(Some(hash));
    }
    let actual = hash.hasher.finish();
    if actual == member.digest {
        return Ok(None);
    }
    let aside = layout.set_aside(&member.digest)?;
    let message = format!("{} in the cache was damaged (its bytes hash to {actual}); it is now {}", member.digest, aside.display());
    Err(Error::new(Side::Local, OP, Kind::Damaged, message).remedy("run the same command again: it fetches it"))
}

/// Checks in the layout the whole blob that `member` is a part of.
pub(super) fn check_whole(packing: &PackOptions<'_>, member: &VolumeMember) -> Result<()> {
    let whole = VolumeMember { part: None, blob_size: None, offset: 0, size: member.whole_size(), ..member.clone() };
    let mut file = open_blob(&whole, packing.layout)?;
    let mut hash = begin_hash(None, &whole)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        if (packing.stop)() {
            return Err(Error::cancelled(OP));
        }
        match file.read(&mut buffer) {
            Ok(0) => return end_hash(hash, &whole, packing.layout).map(drop),
            Ok(read) => hash.iter_mut().for_each(|hash| hash.update(buffer.get(..read).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(OP, &packing.layout.blob_path(&member.digest), &error)),
        }
    }
}

/// The layout's file, positioned at the member's first byte.
pub(super) fn open_blob(member: &VolumeMember, layout: &Layout) -> Result<File> {
    let mut file = layout.open_blob(&member.digest)?.ok_or_else(|| lost(member))?;
    let io = |error| Error::io(OP, &layout.blob_path(&member.digest), &error);
    if file.metadata().map_err(io)?.len() != member.whole_size() {
        return Err(lost(member));
    }
    file.seek(SeekFrom::Start(member.offset)).map_err(io)?;
    Ok(file)
}

/// The error for a blob that was in the layout when the bundle was planned.
pub(super) fn lost(member: &VolumeMember) -> Error {
    let message = format!("the cache does not have {} any more", member.digest);
    Error::new(Side::Local, OP, Kind::ContentMissing, message).remedy("run the same command again: it fetches it")
}
