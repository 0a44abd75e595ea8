//! Writes a file with two threads: one reads and hashes blobs, the other hashes the whole file and writes it.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use super::options::OP;
use crate::content::Hasher;
use crate::{Error, Result};

/// Bytes in a chunk between the threads, and in a read: large enough that system calls and channel operations do not
/// matter.
pub(super) const CHUNK: usize = 1024 * 1024;

/// Chunks between the threads, so that neither waits for a single slow read or write of the other.
const IN_FLIGHT: usize = 4;

/// The end of the pipeline that bytes are put into.
pub(super) struct PipelineInput {
    full: SyncSender<(Vec<u8>, usize)>,
    empty: Receiver<Vec<u8>>,
    buffer: Vec<u8>,
    filled: usize,
}

/// Runs `fill`, and appends its bytes to `file`; the file, and `hasher` updated with these bytes.
///
/// # Errors
/// Of writing, else of `fill`.
pub(super) fn write(
    mut file: File,
    path: &Path,
    mut hasher: Hasher,
    fill: impl FnOnce(&mut PipelineInput) -> Result<()>,
) -> Result<(File, Hasher)> {
    let (full, chunks) = sync_channel::<(Vec<u8>, usize)>(IN_FLIGHT);
    let (used, empty) = channel();
    let (filled, drained) = std::thread::scope(|scope| {
        let drain = scope.spawn(move || -> io::Result<(File, Hasher)> {
            for (buffer, len) in chunks {
                let bytes = buffer.get(..len).unwrap_or_default();
                hasher.update(bytes);
                file.write_all(bytes)?;
                // The other thread may be done.
                let _ = used.send(buffer);
            }
            Ok((file, hasher))
        });
        let mut input = PipelineInput { full, empty, buffer: vec![0; CHUNK], filled: 0 };
        let filled = fill(&mut input).and_then(|()| input.send());
        drop(input);
        (filled, drain.join())
    });
    let drained = drained.unwrap_or_else(|_| Err(io::Error::other("writing ended early")));
    let done = drained.map_err(|error| Error::io(OP, path, &error))?;
    filled.map(|()| done)
}

impl PipelineInput {
    /// Puts in bytes.
    ///
    /// # Errors
    /// If the writing thread has ended; `write` then gives the reason.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let len = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            if let Some(room) = room.get_mut(..len) {
                room.copy_from_slice(now);
            }
            self.advance(len)?;
            bytes = later;
        }
        Ok(())
    }

    /// Puts in zeros.
    ///
    /// # Errors
    /// As [`PipelineInput::put`].
    pub(super) fn zeros(&mut self, count: u64) -> Result<()> {
        self.put(&vec![0; usize::try_from(count).unwrap_or_default()])
    }

    /// Puts in at most `most` bytes of `file` and calls `see` with them; their number, 0 at the end of the file.
    ///
    /// # Errors
    /// As [`PipelineInput::put`]; if reading fails, the inner error.
    pub(super) fn read(&mut self, file: &mut File, most: u64, see: impl FnOnce(&[u8])) -> Result<io::Result<usize>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let len = room.len().min(most);
        let room = room.get_mut(..len).unwrap_or_default();
        let read = loop {
            match file.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
                Ok(read) => break read,
            }
        };
        see(room.get(..read).unwrap_or_default());
        self.advance(read)?;
        Ok(Ok(read))
    }

    fn advance(&mut self, len: usize) -> Result<()> {
        self.filled += len;
        if self.filled == self.buffer.len() { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        let next = self.empty.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        let buffer = std::mem::replace(&mut self.buffer, next);
        let filled = std::mem::take(&mut self.filled);
        self.full.send((buffer, filled)).map_err(|_| Error::local(OP, "writing ended early"))
    }
}
