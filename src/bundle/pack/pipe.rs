//! Bytes on their way into a file: one thread reads and hashes blobs, another hashes the whole and writes it.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use super::OP;
use crate::content::Hasher;
use crate::{Error, Result};

/// How much is handed over at a time, and read from a blob: large enough that system calls and hand-overs do not count.
pub(super) const CHUNK: usize = 1024 * 1024;

/// Chunks between the two threads, so that neither waits for a single slow read or write of the other.
const IN_FLIGHT: usize = 4;

/// Where the reading thread puts bytes.
pub(super) struct ReadAhead {
    full: SyncSender<(Vec<u8>, usize)>,
    empty: Receiver<Vec<u8>>,
    buffer: Vec<u8>,
    filled: usize,
}

/// Runs `fill`, and appends what it puts into the pipe to `file`; the hash of everything, of which `hasher` has taken in what was before.
///
/// # Errors
/// Of writing, else of `fill`.
pub(super) fn through(
    mut file: File,
    path: &Path,
    mut hasher: Hasher,
    fill: impl FnOnce(&mut ReadAhead) -> Result<()>,
) -> Result<(File, Hasher)> {
    let (full, chunks) = sync_channel::<(Vec<u8>, usize)>(IN_FLIGHT);
    let (used, empty) = channel();
    let (filled, drained) = std::thread::scope(|scope| {
        let drain = scope.spawn(move || -> io::Result<(File, Hasher)> {
            for (buffer, len) in chunks {
                let bytes = buffer.get(..len).unwrap_or_default();
                hasher.update(bytes);
                file.write_all(bytes)?;
                // Who fills may be done.
                let _ = used.send(buffer);
            }
            Ok((file, hasher))
        });
        let mut pipe = ReadAhead { full, empty, buffer: vec![0; CHUNK], filled: 0 };
        let filled = fill(&mut pipe).and_then(|()| pipe.hand_over());
        drop(pipe);
        (filled, drain.join())
    });
    let drained = drained.unwrap_or_else(|_| Err(io::Error::other("the writing ended early")));
    let done = drained.map_err(|error| Error::io(OP, path, &error))?;
    filled.map(|()| done)
}

impl ReadAhead {
    /// Puts in bytes.
    ///
    /// # Errors
    /// If nobody writes any more; [`through`] then has the reason.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let len = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            if let Some(room) = room.get_mut(..len) {
                room.copy_from_slice(now);
            }
            self.took(len)?;
            bytes = later;
        }
        Ok(())
    }

    /// Puts in zeros.
    ///
    /// # Errors
    /// As [`ReadAhead::put`].
    pub(super) fn zeros(&mut self, count: u64) -> Result<()> {
        self.put(&vec![0; usize::try_from(count).unwrap_or_default()])
    }

    /// Puts in at most `most` bytes of `file`, showing them to `see`; how many there were, 0 at the end of the file.
    ///
    /// # Errors
    /// As [`ReadAhead::put`]; if reading fails, the inner error.
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
        self.took(read)?;
        Ok(Ok(read))
    }

    fn took(&mut self, len: usize) -> Result<()> {
        self.filled += len;
        if self.filled == self.buffer.len() { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<()> {
        let next = self.empty.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        let buffer = std::mem::replace(&mut self.buffer, next);
        let filled = std::mem::take(&mut self.filled);
        self.full.send((buffer, filled)).map_err(|_| Error::local(OP, "the writing ended early"))
    }
}
