//! Byte ranges of files: where content lies, and reading it by offset without unpacking anything.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::content::{self, BlobStream, Digest};
use crate::folder;
use crate::internal::blocking;
use crate::{Error, Kind, Operation, Result, Side};

/// The operation in errors about content that cannot be read.
pub(super) const OP: Operation = Operation::ReadVolume;

/// Bytes in a chunk of a stream: as a layout reads, one hop to a blocking thread each.
const CHUNK: usize = 256 * 1024;

/// Bytes read at once where everything is hashed: large enough that system calls do not matter.
const BLOCK: u64 = 1024 * 1024;

/// A blob, or a part of one, that can be read now.
#[derive(Debug, Clone)]
pub(in crate::bundle) struct Piece {
    /// The index of its file in [`BundleSource::file`](super::BundleSource::file).
    pub(in crate::bundle) origin: usize,
    pub(in crate::bundle) location: PieceLocation,
    /// Its length in bytes.
    pub(in crate::bundle) len: u64,
}

/// Where the bytes of a piece are.
#[derive(Debug, Clone)]
pub(in crate::bundle) enum PieceLocation {
    File {
        path: Arc<Path>,
        offset: u64,
    },
    /// In a file that is open and may have no name.
    Open {
        file: Arc<std::fs::File>,
        offset: u64,
    },
    Memory(Bytes),
}

/// A range of an open file. Reads do not move the file's own position, which others share.
pub(in crate::bundle) struct FileSlice {
    pub(in crate::bundle) file: Arc<std::fs::File>,
    pub(in crate::bundle) offset: u64,
    pub(in crate::bundle) len: u64,
}

impl Read for FileSlice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.len).unwrap_or(usize::MAX).min(buffer.len());
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, buffer.get_mut(..most).unwrap_or_default(), self.offset)?;
        self.offset += read as u64;
        self.len -= read as u64;
        Ok(read)
    }
}

impl Piece {
    /// Opens it at `skip` bytes after its start. Blocks.
    fn open(&self, skip: u64) -> Result<Box<dyn Read + Send>> {
        let len = self.len.saturating_sub(skip);
        Ok(match &self.location {
            PieceLocation::Memory(bytes) => Box::new(io::Cursor::new(tail(bytes, skip))),
            PieceLocation::Open { file, offset } => {
                Box::new(FileSlice { file: Arc::clone(file), offset: offset.saturating_add(skip), len })
            }
            PieceLocation::File { path, offset } => {
                let file = folder::read_found(path).map_err(|error| self.unreadable(&error))?;
                Box::new(FileSlice { file: Arc::new(file), offset: offset.saturating_add(skip), len })
            }
        })
    }

    /// Reads it from start to end; the number of bytes. Blocks.
    ///
    /// # Errors
    /// `Kind::Damaged` if it cannot be read. A piece that ends early is no error.
    pub(in crate::bundle) fn each_chunk(&self, see: &mut dyn FnMut(&[u8])) -> Result<u64> {
        each_chunk(&mut self.open(0)?, self.len, see).map_err(|error| self.unreadable(&error))
    }

    /// Its bytes from `skip` on.
    ///
    /// # Errors
    /// As [`Piece::each_chunk`].
    pub(super) async fn stream(self, skip: u64) -> Result<BlobStream> {
        if let PieceLocation::Memory(bytes) = &self.location {
            return Ok(stream::iter([Ok(tail(bytes, skip))]).boxed());
        }
        let (piece, reader) = blocking(OP, move || self.open(skip).map(|reader| (self, reader))).await?;
        let chunks = stream::try_unfold((piece, reader), |(piece, mut reader)| async move {
            let read = blocking(OP, move || {
                let mut chunk = vec![0; usize::try_from(piece.len).unwrap_or(CHUNK).clamp(1, CHUNK)];
                let read = reader.read(&mut chunk).map_err(|error| piece.unreadable(&error))?;
                chunk.truncate(read);
                Ok((Bytes::from(chunk), (piece, reader)))
            });
            read.await.map(|(chunk, rest)| (!chunk.is_empty()).then_some((chunk, rest)))
        });
        Ok(chunks.boxed())
    }

    /// Content that cannot be read counts as damaged: another copy may be right.
    fn unreadable(&self, error: &io::Error) -> Error {
        let path = if let PieceLocation::File { path, .. } = &self.location { path } else { Path::new("archive") };
        Error::new(Side::Local, OP, Kind::Damaged, format!("{}: {error}", path.display()))
    }
}

fn tail(bytes: &Bytes, skip: u64) -> Bytes {
    bytes.slice(usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len())..)
}

/// Reads `reader`, of about `size` bytes, to its end; the number of bytes. Blocks.
pub(in crate::bundle) fn each_chunk(reader: &mut dyn Read, size: u64, see: &mut dyn FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; usize::try_from(size.clamp(1, BLOCK)).unwrap_or_default()];
    content::each_chunk(reader, &mut buffer, see)
}

/// The problem with a blob of these pieces, if their bytes do not have the digest. Blocks.
pub(super) fn check(pieces: &[Piece], digest: &Digest, progress: &dyn Fn(u64)) -> Result<Option<String>> {
    let Some(mut hasher) = digest.hasher() else { return Ok(Some(format!("larder cannot compute {} digests", digest.algorithm()))) };
    let size: u64 = pieces.iter().map(|piece| piece.len).sum();
    let mut read = 0;
    for piece in pieces {
        read += piece.each_chunk(&mut |bytes| {
            hasher.update(bytes);
            progress(bytes.len() as u64);
        })?;
    }
    if read != size {
        return Ok(Some(format!("it ends after {read} of {size} bytes")));
    }
    let actual = hasher.finish();
    Ok((actual != *digest).then(|| format!("the bytes hash to {actual}")))
}

/// All bytes of these pieces. Blocks.
pub(super) fn read(pieces: &[Piece]) -> Result<Bytes> {
    if let [Piece { location: PieceLocation::Memory(bytes), .. }] = pieces {
        return Ok(bytes.clone());
    }
    let mut all = vec![];
    for piece in pieces {
        piece.each_chunk(&mut |bytes| all.extend_from_slice(bytes))?;
    }
    Ok(all.into())
}

/// The pieces that hold what comes after `offset`, each with the number of bytes to skip in it.
pub(super) fn after(pieces: &[Piece], mut offset: u64) -> Vec<(Piece, u64)> {
    let mut rest = vec![];
    for piece in pieces {
        if offset >= piece.len {
            offset -= piece.len;
        } else {
            rest.push((piece.clone(), offset));
            offset = 0;
        }
    }
    rest
}
