//! Writing one volume, or going on with it.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::kept::{self, VerifiedPrefix};
use super::pipe::{self, ReadAhead};
use super::{OP, PackOptions, partial, set_aside};
use crate::bundle::format::VolumeMember;
use crate::bundle::plan::PlannedVolume;
use crate::bundle::tar;
use crate::content::{Digest, Hasher};
use crate::folder::{Folder, Status};
use crate::layout::Layout;
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
    packing: &'a PackOptions<'a>,
    folder: &'a Folder,
    across: Option<SplitBlob>,
    /// What was renamed.
    pub(super) notes: Vec<String>,
}

/// What has a volume's name already.
enum There {
    Nothing,
    /// The volume.
    Whole(Box<(Hasher, Option<SplitBlob>)>),
    /// A damaged copy of the volume: it goes when the right one is whole.
    Damaged,
    /// Something else.
    Other,
}

/// The unfinished file, held by this process alone.
struct Begun {
    file: File,
    kept: VerifiedPrefix,
    /// It was not there before.
    new: bool,
}

/// A blob whose parts are in several volumes: what has been hashed of it.
#[derive(Clone)]
pub(super) struct SplitBlob {
    pub(super) digest: Digest,
    pub(super) hasher: Hasher,
    pub(super) at: u64,
}

/// The hash of nothing yet.
pub(super) fn fresh() -> Hasher {
    Hasher::Sha256(sha2::Sha256::default())
}

impl<'a> Writer<'a> {
    pub(super) fn new(packing: &'a PackOptions<'a>, folder: &'a Folder) -> Self {
        Writer { packing, folder, across: None, notes: vec![] }
    }

    /// Makes the file `name` the volume `sheet`: what is there of it is kept. `expected`: the sha256 that it must have.
    pub(super) fn write(&mut self, sheet: &PlannedVolume, name: &Path, expected: Option<&str>) -> Result<Written> {
        let io = |error: io::Error| Error::io(OP, &self.folder.path().join(name), &error);
        let there = self.there(sheet, name)?;
        if let There::Whole(whole) = there {
            let (hasher, across) = *whole;
            self.across = across;
            return finished(sheet, hasher, 0, expected);
        }
        let temporary = partial(name);
        let Begun { file, kept, new } = self.begin(sheet, &temporary)?;
        let start = kept.position;
        self.across = kept.across.clone();
        let path = self.folder.path().join(&temporary);
        let (file, hasher) = pipe::through(file, &path, kept.hasher, |pipe| self.fill(pipe, sheet, start, kept.members))?;
        let written = match finished(sheet, hasher, sheet.size() - start, expected) {
            Err(error) => {
                if new {
                    self.folder.remove(&temporary).map_err(|error| Error::io(OP, &path, &error))?;
                }
                return Err(error);
            }
            written => written?,
        };
        file.sync_all().map_err(io)?;
        if matches!(there, There::Other) {
            set_aside(self.folder, name, &mut self.notes)?;
        }
        self.folder.settle(&temporary, name).map_err(io)?;
        Ok(written)
    }

    /// Looks at what has the volume's name.
    fn there(&self, sheet: &PlannedVolume, name: &Path) -> Result<There> {
        let path = self.folder.path().join(name);
        let io = |error: io::Error| Error::io(OP, &path, &error);
        let Some(mut file) = found(self.folder.read(name)).map_err(io)? else { return Ok(There::Nothing) };
        let empty = file.metadata().map_err(io)?.len() == 0;
        Ok(match kept::inspect(&mut file, &path, sheet, self.across.clone(), self.packing)? {
            Some(VerifiedPrefix { whole: Some(hasher), across, .. }) => There::Whole(Box::new((hasher, across))),
            Some(_) => There::Damaged,
            None if empty => There::Damaged,
            None => There::Other,
        })
    }

    /// Opens the unfinished file, cut to what is right of it.
    fn begin(&self, sheet: &PlannedVolume, temporary: &Path) -> Result<Begun> {
        let path = self.folder.path().join(temporary);
        let io = |error: io::Error| Error::io(OP, &path, &error);
        let busy = || Error::local(OP, format!("another larder is writing {}", path.display())).remedy("try again when it is done");
        let (mut file, new) = match self.folder.create_new(temporary) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (self.folder.open_or_create(temporary).map_err(io)?, false),
            Err(error) => return Err(io(error)),
        };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(busy());
        }
        // Its writer may have given it the volume's name between the opening and the lock: then it is not ours to cut.
        let held = Status::of(&file).map_err(io)?;
        if !found(self.folder.status(temporary)).map_err(io)?.is_some_and(|now| now.is_same(&held)) {
            return Err(busy());
        }
        if held.has_other_names() {
            return Err(Error::local(OP, format!("{} has another name too, so it is not written to", path.display())).remedy("remove it"));
        }
        let kept = kept::inspect(&mut file, &path, sheet, self.across.clone(), self.packing)?;
        let kept =
            kept.unwrap_or_else(|| VerifiedPrefix { members: 0, position: 0, hasher: fresh(), across: self.across.clone(), whole: None });
        file.set_len(kept.position).and_then(|()| file.seek(SeekFrom::Start(kept.position))).map_err(io)?;
        Ok(Begun { file, kept, new })
    }

    /// Everything from member `first` on, and the head before it if nothing is there yet.
    fn fill(&mut self, pipe: &mut ReadAhead, sheet: &PlannedVolume, start: u64, first: usize) -> Result<()> {
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
    fn copy(&mut self, pipe: &mut ReadAhead, member: &VolumeMember) -> Result<()> {
        let layout = self.packing.layout;
        let mut file = blob(member, layout)?;
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
            match pipe.read(&mut file, left, see)?.map_err(|error| Error::io(OP, &layout.blob_path(&member.digest), &error))? {
                0 => return Err(lost(member)),
                read => {
                    left -= read as u64;
                    (self.packing.progress)(read as u64);
                }
            }
        }
        self.across = end_hash(across, member, layout)?;
        Ok(())
    }
}

impl SplitBlob {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
    }
}

/// The hash that the member's bytes go on with: its own, or that of the parts before it. None if those were not seen, as when one volume is
/// written by itself.
pub(super) fn begin_hash(before: Option<SplitBlob>, member: &VolumeMember) -> Result<Option<SplitBlob>> {
    if member.offset > 0 {
        return Ok(before.filter(|across| across.digest == member.digest && across.at == member.offset));
    }
    let hasher = member.digest.hasher().ok_or_else(|| {
        Error::new(Side::Local, OP, Kind::Unsupported, format!("larder cannot compute {} digests", member.digest.algorithm()))
    })?;
    Ok(Some(SplitBlob { digest: member.digest.clone(), hasher, at: 0 }))
}

/// Checks the hash if the blob ends with this member. A file of the layout that is wrong is set aside, so that the next run fetches it.
fn end_hash(across: Option<SplitBlob>, member: &VolumeMember, layout: &Layout) -> Result<Option<SplitBlob>> {
    let Some(across) = across else { return Ok(None) };
    if across.at < member.whole_size() {
        return Ok(Some(across));
    }
    let found = across.hasher.finish();
    if found == member.digest {
        return Ok(None);
    }
    let aside = layout.set_aside(&member.digest)?;
    let message = format!("{} in the cache was damaged (its bytes hash to {found}); it is now {}", member.digest, aside.display());
    Err(Error::new(Side::Local, OP, Kind::Damaged, message).remedy("run the same command again: it fetches it"))
}

/// Sees that the blob that `member` is a part of is right in the layout, as a whole.
pub(super) fn check_whole(packing: &PackOptions<'_>, member: &VolumeMember) -> Result<()> {
    let whole = VolumeMember { part: None, blob_size: None, offset: 0, size: member.whole_size(), ..member.clone() };
    let mut file = blob(&whole, packing.layout)?;
    let mut across = begin_hash(None, &whole)?;
    let mut buffer = vec![0; pipe::CHUNK];
    loop {
        if (packing.stop)() {
            return Err(Error::cancelled(OP));
        }
        match file.read(&mut buffer) {
            Ok(0) => return end_hash(across, &whole, packing.layout).map(drop),
            Ok(read) => across.iter_mut().for_each(|across| across.take(buffer.get(..read).unwrap_or_default())),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(OP, &packing.layout.blob_path(&member.digest), &error)),
        }
    }
}

/// The layout's file, at the member's first byte.
pub(super) fn blob(member: &VolumeMember, layout: &Layout) -> Result<File> {
    let mut file = layout.open_blob(&member.digest)?.ok_or_else(|| lost(member))?;
    let io = |error| Error::io(OP, &layout.blob_path(&member.digest), &error);
    if file.metadata().map_err(io)?.len() != member.whole_size() {
        return Err(lost(member));
    }
    file.seek(SeekFrom::Start(member.offset)).map_err(io)?;
    Ok(file)
}

fn lost(member: &VolumeMember) -> Error {
    let message = format!("the cache does not have {} any more", member.digest);
    Error::new(Side::Local, OP, Kind::ContentMissing, message).remedy("run the same command again: it fetches it")
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Sees that the volume has the hash it must have. Its content is right by then, so if it has not, the record is wrong.
fn finished(sheet: &PlannedVolume, hasher: Hasher, written: u64, expected: Option<&str>) -> Result<Written> {
    let sha256 = hasher.finish().encoded().to_owned();
    if let Some(expected) = expected.filter(|expected| **expected != sha256) {
        let message = format!("the volume's sha256 is {sha256}, where the bundle's record has {expected}: the record is wrong");
        let error = Error::new(Side::Local, OP, Kind::Damaged, message);
        return Err(error.remedy("run the export again where the bundle was made: it keeps the volumes and writes the record anew"));
    }
    Ok(Written { size: sheet.size(), sha256, written })
}
