//! Checks an existing file of a volume up to the last correct member, where writing continues.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::member::{BlobHash, begin_hash, open_blob};
use super::options::{OP, PackOptions};
use super::pipeline::CHUNK;
use crate::bundle::format::VolumeMember;
use crate::bundle::plan::{PlannedVolume, taken};
use crate::bundle::tar;
use crate::content::Hasher;
use crate::{Error, Result};

/// The correct part of a volume's file.
pub(super) struct VerifiedPrefix {
    /// The number of correct members.
    pub(super) members: usize,
    /// The offset of the next member.
    pub(super) position: u64,
    /// The hash of everything before `position`.
    pub(super) hasher: Hasher,
    /// The hash of the blob that continues at `position`.
    pub(super) blob: Option<BlobHash>,
    /// The hash of the file, if it is exactly the volume.
    pub(super) whole: Option<Hasher>,
}

impl VerifiedPrefix {
    /// The prefix of a new file, given the hash of a blob that continues from the volume before.
    pub(super) fn empty(blob: Option<BlobHash>) -> Self {
        VerifiedPrefix { members: 0, position: 0, hasher: sha256(), blob, whole: None }
    }
}

fn sha256() -> Hasher {
    Hasher::Sha256(sha2::Sha256::default())
}

/// Reads `file` while it is equal to `volume`: checks blobs by their hashes, and compares parts with the layout. `None` if
/// the head differs.
pub(super) fn inspect(
    file: &mut File,
    path: &Path,
    volume: &PlannedVolume,
    blob: Option<BlobHash>,
    packing: &PackOptions<'_>,
) -> Result<Option<VerifiedPrefix>> {
    let io = |error| Error::io(OP, path, &error);
    let length = file.metadata().map_err(io)?.len();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let reader = BufReader::with_capacity(CHUNK, &*file);
    let mut reader = PrefixReader { reader, hasher: sha256(), packing, buffer: vec![0; CHUNK] };
    if !reader.expect(&volume.head).map_err(io)? {
        return Ok(None);
    }
    let mut prefix = VerifiedPrefix { position: volume.head.len() as u64, hasher: reader.hasher.clone(), ..VerifiedPrefix::empty(blob) };
    for member in &volume.members {
        let Some(blob) = reader.member(member, prefix.blob.clone(), path)? else { return Ok(Some(prefix)) };
        prefix.members += 1;
        prefix.position += taken(member);
        prefix.hasher = reader.hasher.clone();
        prefix.blob = blob;
    }
    if length == volume.size() && reader.expect(&tar::END).map_err(io)? {
        prefix.whole = Some(reader.hasher);
    }
    Ok(Some(prefix))
}

struct PrefixReader<'a> {
    reader: BufReader<&'a File>,
    /// Of everything read.
    hasher: Hasher,
    packing: &'a PackOptions<'a>,
    buffer: Vec<u8>,
}

impl PrefixReader<'_> {
    /// Whether these bytes come next.
    fn expect(&mut self, expected: &[u8]) -> io::Result<bool> {
        for expected in expected.chunks(CHUNK) {
            let Some(bytes) = self.buffer.get_mut(..expected.len()) else { return Ok(false) };
            if !filled(self.reader.read_exact(bytes))? || bytes != expected {
                return Ok(false);
            }
            self.hasher.update(expected);
            (self.packing.progress)(expected.len() as u64);
        }
        Ok(true)
    }

    /// Reads the next member: `None` if it is not this one or not correct, else the hash of a blob that continues in the
    /// next volume.
    fn member(&mut self, member: &VolumeMember, before: Option<BlobHash>, path: &Path) -> Result<Option<Option<BlobHash>>> {
        let io = |error| Error::io(OP, path, &error);
        if !self.expect(&tar::header(&member.path(), member.size)).map_err(io)? {
            return Ok(None);
        }
        let mut hash = begin_hash(before, member)?;
        // A part has no hash of its own: compare it with the blob in the layout.
        let mut source = match member.part {
            Some(_) => Some(open_blob(member, self.packing.layout)?),
            None => None,
        };
        let mut other = vec![0; if source.is_some() { CHUNK } else { 0 }];
        let mut left = member.size;
        while left > 0 {
            if (self.packing.stop)() {
                return Err(Error::cancelled(OP));
            }
            let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let Some(bytes) = self.buffer.get_mut(..len) else { return Ok(None) };
            if !filled(self.reader.read_exact(bytes)).map_err(io)? {
                return Ok(None);
            }
            if let (Some(source), Some(other)) = (&mut source, other.get_mut(..len))
                && (!filled(source.read_exact(other)).map_err(io)? || other != bytes)
            {
                return Ok(None);
            }
            self.hasher.update(bytes);
            if let Some(hash) = &mut hash {
                hash.update(bytes);
            }
            left -= len as u64;
            (self.packing.progress)(len as u64);
        }
        let ended = hash.as_ref().is_none_or(|hash| hash.is_complete(member));
        let is_correct = !ended || hash.as_ref().is_none_or(BlobHash::matches);
        let padding = vec![0; usize::try_from(tar::padding(member.size)).unwrap_or_default()];
        if !is_correct || !self.expect(&padding).map_err(io)? {
            return Ok(None);
        }
        Ok(Some(hash.filter(|_| !ended)))
    }
}

/// Whether the bytes were read: `false` at the end of the file.
fn filled(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
