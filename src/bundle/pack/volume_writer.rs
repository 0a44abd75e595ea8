//! Writes one volume, or continues an unfinished one.

use std::fs::{File, TryLockError};
use std::io::{self, Seek as _, SeekFrom};
use std::path::Path;

use super::files::{partial, set_aside};
use super::member::{BlobHash, begin_hash, end_hash, lost, open_blob};
use super::options::{OP, PackOptions};
use super::pipeline::{self, PipelineInput};
use super::verified_prefix::{VerifiedPrefix, inspect};
use crate::bundle::format::VolumeMember;
use crate::bundle::plan::PlannedVolume;
use crate::bundle::tar;
use crate::content::Hasher;
use crate::folder::{FileStatus, Folder};
use crate::{Error, Kind, Result, Side};

/// A finished volume.
pub(super) struct WrittenVolume {
    /// Its length in bytes.
    pub(super) size: u64,
    /// As 64 hex digits.
    pub(super) sha256: String,
    /// How many bytes had to be written.
    pub(super) written: u64,
}

/// Writes volumes in their order.
pub(super) struct VolumeWriter<'a> {
    packing: &'a PackOptions<'a>,
    folder: &'a Folder,
    /// The hash of the blob that continues in the next volume.
    blob: Option<BlobHash>,
    notes: Vec<String>,
}

/// The file that has a volume's name before it is written.
enum ExistingFile {
    None,
    /// The volume itself.
    Whole(Box<(Hasher, Option<BlobHash>)>),
    /// A damaged copy of the volume: replaced when the new one is whole.
    Damaged,
    /// Something else.
    Other,
}

/// The unfinished file of a volume, locked by this process.
struct PartialFile {
    file: File,
    prefix: VerifiedPrefix,
    /// It did not exist before.
    new: bool,
}

impl<'a> VolumeWriter<'a> {
    pub(super) fn new(packing: &'a PackOptions<'a>, folder: &'a Folder) -> Self {
        VolumeWriter { packing, folder, blob: None, notes: vec![] }
    }

    /// Notes on files that were renamed.
    pub(super) fn into_notes(self) -> Vec<String> {
        self.notes
    }

    /// Writes the volume to the file `name`, and keeps what is there of it. `expected`: the sha256 that it must have.
    pub(super) fn write(&mut self, volume: &PlannedVolume, name: &Path, expected: Option<&str>) -> Result<WrittenVolume> {
        let io = |error: io::Error| Error::io(OP, &self.folder.path().join(name), &error);
        let existing = self.existing(volume, name)?;
        if let ExistingFile::Whole(whole) = existing {
            let (hasher, blob) = *whole;
            self.blob = blob;
            return finish(volume, hasher, 0, expected);
        }
        let temporary = partial(name);
        let PartialFile { file, prefix, new } = self.open_partial(volume, &temporary)?;
        let start = prefix.position;
        self.blob = prefix.blob.clone();
        let path = self.folder.path().join(&temporary);
        let (file, hasher) = pipeline::write(file, &path, prefix.hasher, |input| self.fill(input, volume, start, prefix.members))?;
        let written = match finish(volume, hasher, volume.size() - start, expected) {
            Err(error) => {
                if new {
                    self.folder.remove(&temporary).map_err(|error| Error::io(OP, &path, &error))?;
                }
                return Err(error);
            }
            written => written?,
        };
        file.sync_all().map_err(io)?;
        if matches!(existing, ExistingFile::Other) {
            set_aside(self.folder, name, &mut self.notes)?;
        }
        self.folder.settle(&temporary, name).map_err(io)?;
        Ok(written)
    }

    /// Checks the file that has the volume's name.
    fn existing(&self, volume: &PlannedVolume, name: &Path) -> Result<ExistingFile> {
        let path = self.folder.path().join(name);
        let io = |error: io::Error| Error::io(OP, &path, &error);
        let Some(mut file) = if_exists(self.folder.read(name)).map_err(io)? else { return Ok(ExistingFile::None) };
        let empty = file.metadata().map_err(io)?.len() == 0;
        Ok(match inspect(&mut file, &path, volume, self.blob.clone(), self.packing)? {
            Some(VerifiedPrefix { whole: Some(hasher), blob, .. }) => ExistingFile::Whole(Box::new((hasher, blob))),
            Some(_) => ExistingFile::Damaged,
            None if empty => ExistingFile::Damaged,
            None => ExistingFile::Other,
        })
    }

    /// Opens the unfinished file and truncates it to its correct part.
    fn open_partial(&self, volume: &PlannedVolume, temporary: &Path) -> Result<PartialFile> {
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
        // Another process may have renamed it to the volume between opening and lock: then it must not be truncated.
        let status = FileStatus::of(&file).map_err(io)?;
        if !if_exists(self.folder.status(temporary)).map_err(io)?.is_some_and(|now| now.is_same(&status)) {
            return Err(busy());
        }
        if status.has_other_names() {
            return Err(Error::local(OP, format!("{} is not written to, because it has hard links", path.display())).remedy("remove it"));
        }
        let prefix = inspect(&mut file, &path, volume, self.blob.clone(), self.packing)?;
        let prefix = prefix.unwrap_or_else(|| VerifiedPrefix::empty(self.blob.clone()));
        file.set_len(prefix.position).and_then(|()| file.seek(SeekFrom::Start(prefix.position))).map_err(io)?;
        Ok(PartialFile { file, prefix, new })
    }

    /// Writes everything from member `first` on, and the head if the file is empty.
    fn fill(&mut self, input: &mut PipelineInput, volume: &PlannedVolume, start: u64, first: usize) -> Result<()> {
        if start == 0 {
            input.put(&volume.head)?;
            (self.packing.progress)(volume.head.len() as u64);
        }
        for member in volume.members.iter().skip(first) {
            let header = tar::header(&member.path(), member.size);
            input.put(&header)?;
            (self.packing.progress)(header.len() as u64 + tar::padding(member.size));
            self.copy(input, member)?;
            input.zeros(tar::padding(member.size))?;
        }
        (self.packing.progress)(tar::END.len() as u64);
        input.put(&tar::END)
    }

    /// Copies a member's bytes from the layout, and checks their hash.
    fn copy(&mut self, input: &mut PipelineInput, member: &VolumeMember) -> Result<()> {
        let layout = self.packing.layout;
        let mut file = open_blob(member, layout)?;
        let mut hash = begin_hash(self.blob.take(), member)?;
        let mut left = member.size;
        while left > 0 {
            if (self.packing.stop)() {
                return Err(Error::cancelled(OP));
            }
            let see = |bytes: &[u8]| {
                if let Some(hash) = &mut hash {
                    hash.update(bytes);
                }
            };
            match input.read(&mut file, left, see)?.map_err(|error| Error::io(OP, &layout.blob_path(&member.digest), &error))? {
                0 => return Err(lost(member)),
                read => {
                    left -= read as u64;
                    (self.packing.progress)(read as u64);
                }
            }
        }
        self.blob = end_hash(hash, member, layout)?;
        Ok(())
    }
}

fn if_exists<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Checks the hash of a finished volume. Its content was checked before, so a difference means that the record is wrong.
fn finish(volume: &PlannedVolume, hasher: Hasher, written: u64, expected: Option<&str>) -> Result<WrittenVolume> {
    let sha256 = hasher.finish().encoded().to_owned();
    if let Some(expected) = expected.filter(|expected| **expected != sha256) {
        let message = format!("the volume's sha256 is {sha256}, where the bundle's record has {expected}: the record is wrong");
        let error = Error::new(Side::Local, OP, Kind::Damaged, message);
        return Err(error.remedy("run the export again where the bundle was made: it keeps the volumes and writes the record anew"));
    }
    Ok(WrittenVolume { size: volume.size(), sha256, written })
}
