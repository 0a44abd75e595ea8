//! What is there of a volume already: everything up to the last member that is right.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::pipe::CHUNK;
use super::volume::{SplitBlob, begin_hash, blob, fresh};
use super::{OP, PackOptions};
use crate::bundle::format::VolumeMember;
use crate::bundle::plan::PlannedVolume;
use crate::bundle::tar;
use crate::content::Hasher;
use crate::{Error, Result};

/// What is right of a file.
pub(super) struct VerifiedPrefix {
    /// So many members are.
    pub(super) members: usize,
    /// Where the next one begins.
    pub(super) position: u64,
    /// The hash of everything before that.
    pub(super) hasher: Hasher,
    /// The blob that is continued there.
    pub(super) across: Option<SplitBlob>,
    /// The hash of the whole file, if it is the whole volume and nothing more.
    pub(super) whole: Option<Hasher>,
}

/// Reads `file` as far as it is the volume `sheet`: blobs by their hashes, parts by comparing them with the layout's. `None`: not even its head is right.
pub(super) fn inspect(
    file: &mut File,
    path: &Path,
    sheet: &PlannedVolume,
    across: Option<SplitBlob>,
    packing: &PackOptions<'_>,
) -> Result<Option<VerifiedPrefix>> {
    let io = |error| Error::io(OP, path, &error);
    let length = file.metadata().map_err(io)?.len();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let reader = BufReader::with_capacity(CHUNK, &*file);
    let mut reading = PrefixReader { reader, hasher: fresh(), packing, buffer: vec![0; CHUNK] };
    if !reading.literal(&sheet.head).map_err(io)? {
        return Ok(None);
    }
    let mut kept = VerifiedPrefix { members: 0, position: sheet.head.len() as u64, hasher: reading.hasher.clone(), across, whole: None };
    for member in &sheet.members {
        let Some(across) = reading.member(member, kept.across.clone(), path)? else { return Ok(Some(kept)) };
        kept.members += 1;
        kept.position += crate::bundle::plan::taken(member);
        kept.hasher = reading.hasher.clone();
        kept.across = across;
    }
    if length == sheet.size() && reading.literal(&tar::END).map_err(io)? {
        kept.whole = Some(reading.hasher);
    }
    Ok(Some(kept))
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
    fn literal(&mut self, expected: &[u8]) -> io::Result<bool> {
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

    /// Whether this member comes next, and is right: then the blob that goes on in the next volume, if any does.
    fn member(&mut self, member: &VolumeMember, before: Option<SplitBlob>, path: &Path) -> Result<Option<Option<SplitBlob>>> {
        let io = |error| Error::io(OP, path, &error);
        if !self.literal(&tar::header(&member.path(), member.size)).map_err(io)? {
            return Ok(None);
        }
        let mut across = begin_hash(before, member)?;
        // A part has no hash of its own; it is compared with what it is a part of.
        let mut source = match member.part {
            Some(_) => Some(blob(member, self.packing.layout)?),
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
            if let Some(across) = &mut across {
                across.take(bytes);
            }
            left -= len as u64;
            (self.packing.progress)(len as u64);
        }
        let ended = across.as_ref().is_none_or(|across| across.at == member.whole_size());
        let right = !ended || across.as_ref().is_none_or(|across| across.hasher.clone().finish() == member.digest);
        let padding = vec![0; usize::try_from(tar::padding(member.size)).unwrap_or_default()];
        if !right || !self.literal(&padding).map_err(io)? {
            return Ok(None);
        }
        Ok(Some(across.filter(|_| !ended)))
    }
}

/// Tells *ends here* from *cannot be read*.
fn filled(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
