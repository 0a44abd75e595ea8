//! Verified reading: length and digest are checked while bytes pass, and nothing is complete before they are right.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;

use super::{BlobStream, Descriptor, Hasher};
use crate::mutex::Mutex;
use crate::{Error, Kind, Operation, Result, Side};

/// A blob's stream, hashed on the way. It holds back the last chunk until the digest is known to be right, so that who
/// reads it never has all the bytes of a wrong blob: an upload of it stays short of its Content-Length and is dropped by
/// the registry.
pub struct Verified {
    inner: BlobStream,
    held: Option<Bytes>,
    check: Option<VerifyState>,
    side: Side,
}

struct VerifyState {
    hasher: Hasher,
    seen: u64,
    blob: Descriptor,
    checkpoints: Option<Arc<Checkpoints>>,
}

/// How many [`Checkpoints`] a blob has at most: so much of it, and no more, is read twice after a break.
const MAX_CHECKPOINTS: u64 = 64;

/// States of a blob's hash on the way, so that a transfer can go on from a byte in the middle without reading all that came before.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints(Mutex<Vec<Checkpoint>>);

/// The hash of the bytes before `offset`.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) offset: u64,
    pub(crate) hasher: Hasher,
}

impl Checkpoints {
    /// The last one at or before byte `offset`. Later ones are forgotten: their bytes come again.
    pub(crate) fn rewind(&self, offset: u64) -> Option<Checkpoint> {
        let mut all = self.0.lock();
        all.retain(|checkpoint| checkpoint.offset <= offset);
        all.last().cloned()
    }

    /// Notes that `hasher` has taken in the first `seen` bytes of `blob`, if that is far enough from the last checkpoint.
    fn note(&self, seen: u64, blob: &Descriptor, hasher: &Hasher) {
        let mut all = self.0.lock();
        if seen >= all.last().map_or(0, |last| last.offset) + blob.size.div_ceil(MAX_CHECKPOINTS) {
            all.push(Checkpoint { offset: seen, hasher: hasher.clone() });
        }
    }
}

impl Verified {
    /// Checks `inner`, which starts at byte `seen` of `blob`; `hasher` has taken in everything before it.
    pub fn resume(inner: BlobStream, blob: &Descriptor, hasher: Hasher, seen: u64, side: Side) -> Self {
        Verified { inner, held: None, check: Some(VerifyState { hasher, seen, blob: blob.clone(), checkpoints: None }), side }
    }

    /// Checks `inner`, the whole of `blob`.
    ///
    /// # Errors
    /// `Kind::Unsupported` if larder cannot compute the blob's digest algorithm.
    pub fn whole(inner: BlobStream, blob: &Descriptor, side: Side) -> Result<Self> {
        Ok(Self::resume(inner, blob, hasher(blob, side)?, 0, side))
    }

    /// Notes states of the hash in `checkpoints`.
    #[must_use]
    pub(crate) fn noting(mut self, checkpoints: &Arc<Checkpoints>) -> Self {
        if let Some(check) = &mut self.check {
            check.checkpoints = Some(Arc::clone(checkpoints));
        }
        self
    }
}

/// A hasher for `blob`, or a clear error.
///
/// # Errors
/// `Kind::Unsupported` if larder cannot compute the blob's digest algorithm.
pub(crate) fn hasher(blob: &Descriptor, side: Side) -> Result<Hasher> {
    blob.digest.hasher().ok_or_else(|| {
        Error::new(side, Operation::CheckBlob, Kind::Unsupported, format!("larder cannot compute {} digests", blob.digest.algorithm()))
    })
}

/// Whether what a manifest says of `blob` can be checked at all: known before a byte is asked for.
///
/// # Errors
/// `Kind::Unsupported` as [`hasher`]; `Kind::Damaged` for an empty blob that is not the empty blob.
pub(crate) fn checkable(blob: &Descriptor, side: Side) -> Result<()> {
    hasher(blob, side)?;
    if blob.size == 0 && !blob.digest.matches(b"") {
        let message = format!("{} is said to be empty, and is not the digest of nothing", blob.digest);
        return Err(Error::new(side, Operation::CheckBlob, Kind::Damaged, message));
    }
    Ok(())
}

impl VerifyState {
    fn take(&mut self, chunk: &Bytes, side: Side) -> Result<()> {
        self.seen += chunk.len() as u64;
        if self.seen > self.blob.size {
            return Err(Error::new(
                side,
                Operation::CheckBlob,
                Kind::Damaged,
                format!("{} is longer than the {} bytes its descriptor says", self.blob.digest, self.blob.size),
            ));
        }
        self.hasher.update(chunk);
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.note(self.seen, &self.blob, &self.hasher);
        }
        Ok(())
    }

    fn finish(self, side: Side) -> Result<()> {
        if self.seen != self.blob.size {
            return Err(Error::new(
                side,
                Operation::CheckBlob,
                Kind::Damaged,
                format!("{} ended after {} of {} bytes", self.blob.digest, self.seen, self.blob.size),
            ));
        }
        let found = self.hasher.finish();
        if found == self.blob.digest {
            Ok(())
        } else {
            Err(Error::new(
                side,
                Operation::CheckBlob,
                Kind::Damaged,
                format!("the bytes received hash to {found}, not to {}", self.blob.digest),
            ))
        }
    }
}

impl Stream for Verified {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let Some(check) = &mut this.check else { return Poll::Ready(None) };
            match ready!(this.inner.as_mut().poll_next(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    if let Err(error) = check.take(&chunk, this.side) {
                        this.check = None;
                        return Poll::Ready(Some(Err(error)));
                    }
                    if let Some(before) = this.held.replace(chunk) {
                        return Poll::Ready(Some(Ok(before)));
                    }
                }
                Some(Err(error)) => {
                    this.check = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let side = this.side;
                    let verdict = this.check.take().map_or(Ok(()), |check| check.finish(side));
                    return Poll::Ready(match verdict {
                        Ok(()) => this.held.take().map(Ok),
                        Err(error) => Some(Err(error)),
                    });
                }
            }
        }
    }
}

/// Reads `reader` to its end, as much at once as `buffer` holds; the number of bytes. Blocks.
///
/// # Errors
/// If it cannot be read. An interrupted read is tried again.
pub(crate) fn each_chunk(reader: &mut dyn Read, buffer: &mut [u8], see: &mut dyn FnMut(&[u8])) -> io::Result<u64> {
    let mut total = 0;
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => {
                // `read` is never more than the buffer holds.
                see(buffer.get(..read).unwrap_or_default());
                total += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;
    use futures_util::{StreamExt, stream};

    async fn read(chunks: &[&'static [u8]], blob: &Descriptor) -> (Vec<u8>, Option<Error>) {
        let chunks: Vec<Result<Bytes>> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk))).collect();
        let mut verified = Verified::whole(stream::iter(chunks).boxed(), blob, Side::Upstream).unwrap();
        let mut out = vec![];
        while let Some(item) = verified.next().await {
            match item {
                Ok(chunk) => out.extend_from_slice(&chunk),
                Err(error) => return (out, Some(error)),
            }
        }
        (out, None)
    }

    #[tokio::test]
    async fn right_bytes_pass_whole_and_wrong_ones_never_arrive_complete() {
        let blob = Descriptor::new("x", Digest::sha256(b"hello world"), 11);
        assert_eq!(read(&[b"hello", b"", b" world"], &blob).await.0, b"hello world");
        for (chunks, word) in [
            (&[b"hello" as &[u8], b" worle"] as &[&[u8]], "hash to"),
            (&[b"hello", b" worl"], "ended after 10 of 11"),
            (&[b"hello", b" world", b"!"], "longer than"),
        ] {
            let (out, error) = read(chunks, &blob).await;
            assert!(error.unwrap().message().contains(word));
            assert!(out.len() < 11, "{out:?}");
        }
    }

    #[tokio::test]
    async fn an_empty_blob_is_a_blob() {
        let blob = Descriptor::new("x", Digest::sha256(b""), 0);
        assert!(read(&[], &blob).await.1.is_none());
    }
}
