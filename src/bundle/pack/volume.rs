//! Writing one volume, or going on with it.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::kept::{self, Kept};
use super::pipe::{self, Pipe};
use super::{OP, Packing, partial, settle};
use crate::bundle::format::Member;
use crate::bundle::plan::Sheet;
use crate::bundle::tar;
use crate::content::{Digest, Hasher};
use crate::{Error, Kind, Result, Side};

/// A volume that is there now.
pub(super) struct Written {
    pub(super) size: u64,
    /// As 64 hex digits.
    pub(super) sha256: String,
    /// Bytes that had to be written for that.
    pub(super) written: u64,
}

/// Writes volumes in their order.
pub(super) struct Writer<'a> {
    packing: &'a Packing<'a>,
    across: Option<Across>,
}

/// A blob whose parts are in several volumes: what has been hashed of it.
#[derive(Clone)]
pub(super) struct Across {
    pub(super) digest: Digest,
    pub(super) hasher: Hasher,
    pub(super) at: u64,
}

/// The hash of nothing yet.
pub(super) fn fresh() -> Hasher {
    Hasher::Sha256(sha2::Sha256::default())
}

impl<'a> Writer<'a> {
    pub(super) fn new(packing: &'a Packing<'a>) -> Self {
        Writer { packing, across: None }
    }

    /// Makes `path` the volume `sheet`: what is there of it is kept. `expected`: the sha256 that it must have.
    pub(super) fn write(&mut self, sheet: &Sheet, path: &Path, expected: Option<&str>) -> Result<Written> {
        let temporary = partial(path);
        if let Some(mut whole) = open(path)? {
            let kept = kept::inspect(&mut whole, path, sheet, self.across.clone(), self.packing)?;
            if let Some(Kept { whole: true, hasher, across, .. }) = kept {
                self.across = across;
                // What a killed run had begun beside it is of no use.
                let _ = fs::remove_file(&temporary);
                return finished(sheet, hasher, 0, expected, path);
            }
            // A run that was killed had something else to carry: what is alike is kept.
            fs::rename(path, &temporary).map_err(|error| Error::io(OP, path, &error))?;
        }
        let (file, kept) = self.begin(sheet, &temporary)?;
        let start = kept.position;
        self.across = kept.across.clone();
        let (file, hasher) = pipe::through(file, &temporary, kept.hasher, |pipe| self.fill(pipe, sheet, start, kept.members))?;
        let written = finished(sheet, hasher, sheet.size() - start, expected, &temporary)?;
        file.sync_all().and_then(|()| settle(&temporary, path)).map_err(|error| Error::io(OP, path, &error))?;
        Ok(written)
    }

    /// Opens the unfinished file, cut to what is right of it.
    fn begin(&self, sheet: &Sheet, temporary: &Path) -> Result<(File, Kept)> {
        let io = |error| Error::io(OP, temporary, &error);
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(temporary).map_err(io)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::local(OP, format!("another larder is writing {}", temporary.display())).remedy("try again when it is done"));
        }
        let kept = kept::inspect(&mut file, temporary, sheet, self.across.clone(), self.packing)?;
        let kept = kept.unwrap_or_else(|| Kept { members: 0, position: 0, hasher: fresh(), across: self.across.clone(), whole: false });
        file.set_len(kept.position).and_then(|()| file.seek(SeekFrom::Start(kept.position))).map_err(io)?;
        Ok((file, kept))
    }

    /// Everything from member `first` on, and the head before it if nothing is there yet.
    fn fill(&mut self, pipe: &mut Pipe, sheet: &Sheet, start: u64, first: usize) -> Result<()> {
        if start == 0 {
            pipe.put(&sheet.head)?;
            (self.packing.progress)(sheet.head.len() as u64);
        }
        for member in sheet.members.iter().skip(first) {
            let header = tar::header(&member.path(), member.size);
            pipe.put(&header)?;
            (self.packing.progress)(header.len() as u64 + tar::padding(member.size));
            self.copy(pipe, member)?;
            pipe.zeros(tar::padding(member.size))?;
        }
        (self.packing.progress)(tar::END.len() as u64);
        pipe.put(&tar::END)
    }

    /// A member's bytes out of the layout, hashed.
    fn copy(&mut self, pipe: &mut Pipe, member: &Member) -> Result<()> {
        let path = self.packing.layout.blob_path(&member.digest);
        let mut file = blob(member, &path)?;
        let mut across = begin_hash(self.across.take(), member)?;
        let mut left = member.size;
        while left > 0 {
            if (self.packing.stop)() {
                return Err(Error::cancelled(OP));
            }
            let see = |bytes: &[u8]| {
                if let Some(across) = &mut across {
                    across.take(bytes);
                }
            };
            match pipe.read(&mut file, left, see)?.map_err(|error| Error::io(OP, &path, &error))? {
                0 => return Err(lost(member)),
                read => {
                    left -= read as u64;
                    (self.packing.progress)(read as u64);
                }
            }
        }
        self.across = end_hash(across, member, &path)?;
        Ok(())
    }
}

impl Across {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
    }
}

/// The hash that the member's bytes go on with: its own, or that of the parts before it. None if those were not seen, as when one volume is
/// written by itself.
pub(super) fn begin_hash(before: Option<Across>, member: &Member) -> Result<Option<Across>> {
    if member.offset > 0 {
        return Ok(before.filter(|across| across.digest == member.digest && across.at == member.offset));
    }
    let hasher = member.digest.hasher().ok_or_else(|| {
        Error::new(Side::Local, OP, Kind::Unsupported, format!("larder cannot compute {} digests", member.digest.algorithm()))
    })?;
    Ok(Some(Across { digest: member.digest.clone(), hasher, at: 0 }))
}

/// Checks the hash if the blob ends with this member. A file of the layout that is wrong is removed: it is of no use to anybody, and the next run
/// fetches it.
fn end_hash(across: Option<Across>, member: &Member, path: &Path) -> Result<Option<Across>> {
    let Some(across) = across else { return Ok(None) };
    if across.at < member.whole_size() {
        return Ok(Some(across));
    }
    let found = across.hasher.finish();
    if found == member.digest {
        return Ok(None);
    }
    fs::remove_file(path).map_err(|error| Error::io(OP, path, &error))?;
    let message = format!("{} in the cache was damaged (its bytes hash to {found}), and has been removed", member.digest);
    Err(Error::new(Side::Local, OP, Kind::Damaged, message).remedy("run the same command again: it fetches it"))
}

/// Sees that the blob that `member` is a part of is right in the layout, as a whole.
pub(super) fn check_whole(packing: &Packing<'_>, member: &Member) -> Result<()> {
    let whole = Member { part: None, blob_size: None, offset: 0, size: member.whole_size(), ..member.clone() };
    let path = packing.layout.blob_path(&member.digest);
    let mut file = blob(&whole, &path)?;
    let mut across = begin_hash(None, &whole)?;
    let mut buffer = vec![0; pipe::CHUNK];
    loop {
        if (packing.stop)() {
            return Err(Error::cancelled(OP));
        }
        match file.read(&mut buffer) {
            Ok(0) => return end_hash(across, &whole, &path).map(drop),
            Ok(read) => across.iter_mut().for_each(|across| across.take(buffer.get(..read).unwrap_or_default())),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(OP, &path, &error)),
        }
    }
}

/// The layout's file, at the member's first byte.
pub(super) fn blob(member: &Member, path: &Path) -> Result<File> {
    let mut file = open(path)?.ok_or_else(|| lost(member))?;
    let io = |error| Error::io(OP, path, &error);
    if file.metadata().map_err(io)?.len() != member.whole_size() {
        return Err(lost(member));
    }
    file.seek(SeekFrom::Start(member.offset)).map_err(io)?;
    Ok(file)
}

fn lost(member: &Member) -> Error {
    let message = format!("the cache does not have {} any more", member.digest);
    Error::new(Side::Local, OP, Kind::ContentMissing, message).remedy("run the same command again: it fetches it")
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(OP, path, &error)),
    }
}

/// Sees that the volume has the hash it must have; if not, its file goes.
fn finished(sheet: &Sheet, hasher: Hasher, written: u64, expected: Option<&str>, path: &Path) -> Result<Written> {
    let sha256 = hasher.finish().encoded().to_owned();
    if let Some(expected) = expected.filter(|expected| **expected != sha256) {
        fs::remove_file(path).map_err(|error| Error::io(OP, path, &error))?;
        let message = format!("the volume's sha256 would be {sha256}, where the bundle's record has {expected}");
        return Err(Error::new(Side::Local, OP, Kind::Damaged, message).remedy("check the record, and the cache with larder verify"));
    }
    Ok(Written { size: sheet.size(), sha256, written })
}
