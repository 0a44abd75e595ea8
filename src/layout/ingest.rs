//! How content enters a layout: into a locked partial file, hashed on the way, then by one rename to its place. What an
//! interrupted attempt left is hashed again and gone on with.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::blob_commit::{BlobCommit, VerifiedBlob};
use super::files::{self, Files, READ, blocking, damaged, found, hash};
use super::lock;
use crate::content::{BlobStream, Descriptor, Digest, Hasher, OpenBlob, RequestContext, Verified, checkable, hasher};
use crate::folder::FileStatus;
use crate::{Error, Kind, Operation, Result, Side};

const OP: Operation = Operation::WriteBlob;

/// Bytes in memory as something to ingest.
pub(super) struct BytesSource(pub(super) Bytes);

#[async_trait]
impl OpenBlob for BytesSource {
    async fn open(&self, offset: u64) -> Result<BlobStream> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(stream::iter([Ok(self.0.slice(start..))]).boxed())
    }
}

/// A blob that is not there yet, held by this task alone.
struct PartialFile {
    file: fs::File,
    /// Its name in the layout.
    name: PathBuf,
    /// Where that is, for messages.
    path: PathBuf,
    len: u64,
}

/// The rest of a blob of at most this size is written in one step with those of other blobs, so that it costs no further hop to another
/// thread. Larger ones go to the file as they come, and what has come survives a kill.
const SMALL: u64 = 32 * 1024;

/// A blob of this size is synced by itself, so that smaller ones need not wait for it.
const LARGE: u64 = 1024 * 1024;

/// Brings `blob` into the layout, unless `present` finds it there. Bytes written are added to the charge.
///
/// # Errors
/// `Kind::Damaged` if the source's bytes are wrong: nothing is left of them. After other errors the right bytes that came
/// so far stay for the next attempt.
pub(super) async fn ingest(
    blobs: &BlobCommit,
    blob: &Descriptor,
    present: &(dyn Fn() -> Result<bool> + Sync),
    open: &dyn OpenBlob,
    context: &RequestContext,
) -> Result<()> {
    checkable(blob, Side::Upstream)?;
    let files = blobs.files();
    let fresh = hasher(blob, Side::Upstream)?;
    let Some(mut partial) = hold(files, &blob.digest, present).await? else { return Ok(()) };
    if partial.len > blob.size {
        partial.file.set_len(0).map_err(|error| Error::io(OP, &partial.path, &error))?;
        partial.len = 0;
    }
    let kept = partial.len;
    let (partial, hasher) = rehash(partial, fresh.clone()).await?;
    let (name, path) = (partial.name, partial.path);
    let mut file = File::from_std(partial.file);
    // The file stands at the end of what was kept.
    let mut result = fill(&mut file, &path, blob, kept, hasher, open, context).await;
    if kept > 0 && matches!(&result, Err(error) if error.kind() == Kind::Damaged) {
        // What was kept may be what is wrong: a power cut leaves holes. The source is blamed only for a whole reading.
        let emptied = async {
            file.set_len(0).await?;
            file.rewind().await
        };
        emptied.await.map_err(|error| Error::io(OP, &path, &error))?;
        result = fill(&mut file, &path, blob, 0, fresh, open, context).await;
    }
    let rest = match result {
        Ok(rest) => rest,
        Err(error) => {
            // Wrong bytes are not kept, and neither is a file without any.
            if error.kind() == Kind::Damaged || file.metadata().await.is_ok_and(|meta| meta.len() == 0) {
                files.folder().remove(&name).map_err(|error| Error::io(OP, &path, &error))?;
            }
            return Err(error);
        }
    };
    if blob.size >= LARGE {
        file.sync_data().await.map_err(|error| Error::io(OP, &path, &error))?;
    }
    blobs.commit(VerifiedBlob { file: file.into_std().await, name, digest: blob.digest.clone(), rest }).await
}

/// Waits until nobody else writes this blob. `None`: it is there by then.
async fn hold(files: &Files, digest: &Digest, present: &(dyn Fn() -> Result<bool> + Sync)) -> Result<Option<PartialFile>> {
    let name = files::partial(digest);
    // The calls below are a few microseconds on a local file; a thread hop costs more.
    while !present()? {
        if let Some(partial) = try_hold(files, &name)? {
            // Whoever held it before may have finished between the look and the lock.
            if !present()? {
                return Ok(Some(partial));
            }
            files.folder().remove(&name).map_err(|error| files.failed(OP, &name, &error))?;
            return Ok(None);
        }
        tokio::time::sleep(lock::POLL).await;
    }
    Ok(None)
}

fn try_hold(files: &Files, name: &Path) -> Result<Option<PartialFile>> {
    let io = |error| files.failed(OP, name, &error);
    let file = files.in_folder(name, || files.folder().open_or_create(name)).map_err(io)?;
    if !lock::tried(file.try_lock(), &files.path(name))? {
        return Ok(None);
    }
    let held = FileStatus::of(&file).map_err(io)?;
    // Its holder may have renamed it to its place, or `gc` removed it, after it was opened here: then the lock is on
    // a file that is no partial any more.
    if !found(files.folder().status(name)).map_err(io)?.is_some_and(|now| now.is_same(&held)) {
        return Ok(None);
    }
    if held.has_other_names() {
        // Writing to it would change another file: this name is given up, the other one keeps the content.
        files.folder().remove(name).map_err(io)?;
        return Ok(None);
    }
    Ok(Some(PartialFile { file, name: name.to_owned(), path: files.path(name), len: held.len() }))
}

/// Takes in what an earlier attempt left.
async fn rehash(mut partial: PartialFile, mut hasher: Hasher) -> Result<(PartialFile, Hasher)> {
    if partial.len == 0 {
        return Ok((partial, hasher));
    }
    blocking(move || {
        let mut buffer = vec![0; READ];
        let read = hash(&mut partial.file, &mut hasher, &mut buffer, &|_| {}).map_err(|error| Error::io(OP, &partial.path, &error))?;
        // Nobody else writes to it while it is locked; if somebody does, the digest will tell, but only of what was hashed.
        if read != partial.len {
            return Err(Error::local(OP, format!("{} changes while it is read", partial.path.display())));
        }
        Ok((partial, hasher))
    })
    .await
}

/// Writes the blob's bytes from `start` on, where `file` stands; `hasher` has taken in those before. Returns what is still to be written.
async fn fill(
    file: &mut File,
    path: &Path,
    blob: &Descriptor,
    start: u64,
    hasher: Hasher,
    open: &dyn OpenBlob,
    context: &RequestContext,
) -> Result<Vec<u8>> {
    if start == blob.size {
        // Nothing is missing, so nothing is asked for.
        let found = hasher.finish();
        let right = found == blob.digest;
        return if right { Ok(vec![]) } else { Err(damaged(OP, format!("the bytes hash to {found}, not to {}", blob.digest))) };
    }
    let io = |error| Error::io(OP, path, &error);
    let is_small = blob.size.saturating_sub(start) <= SMALL;
    let mut rest = vec![];
    let mut stream = Verified::resume(open.open(start).await?, blob, hasher, start, Side::Upstream);
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                context.tally.add_written(chunk.len() as u64);
                if is_small {
                    rest.extend_from_slice(&chunk);
                } else {
                    // Straight to the file: tokio's File hands up to 2 MiB to its thread as it is, a BufWriter above it halves
                    // the speed (measured, 600 against 300 MB/s).
                    file.write_all(&chunk).await.map_err(io)?;
                }
            }
            Err(error) => {
                // What has come is worth keeping; if it does not reach the file, the next attempt starts earlier.
                let _ = file.write_all(&rest).await;
                let _ = file.flush().await;
                return Err(error);
            }
        }
    }
    // A sync alone would not report that the last write failed.
    file.flush().await.map_err(io)?;
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::super::testing::{Upstream, blob, context, folder, path_of, read_blob};
    use super::*;
    use crate::content::{Repository, Sink as _};

    fn noise(len: usize) -> Bytes {
        (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
    }

    async fn write(layout: &Layout, blob: &Descriptor, from: &Upstream, context: &RequestContext) -> Result<()> {
        layout.write_blob(&Repository::new("library/alpine"), blob, from, context).await
    }

    fn partials(layout: &Layout) -> Vec<u64> {
        fs::read_dir(layout.path().join(".larder/partial")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
    }

    #[tokio::test]
    async fn a_broken_transfer_goes_on_from_the_byte_it_had_reached() {
        let dir = folder();
        let bytes = noise(10_500);
        let blob = blob(&bytes);
        let context = context();
        let first = Layout::open_or_create(dir.path()).await.unwrap();
        let broken = Upstream { breaks_at: Some(5_000), ..Upstream::new(&bytes) };
        assert_eq!(write(&first, &blob, &broken, &context).await.unwrap_err().kind(), Kind::Unavailable);
        assert!(!path_of(&first, &blob.digest).exists());
        let kept = partials(&first)[0];
        assert!(kept >= 4_000, "all but the chunk held back: {kept}");
        drop(first);

        let second = Layout::open_or_create(dir.path()).await.unwrap();
        let whole = Upstream::new(&bytes);
        write(&second, &blob, &whole, &context).await.unwrap();
        assert_eq!(whole.opened(), [kept]);
        assert_eq!(context.tally.bytes_written(), blob.size, "no byte is written twice");
        assert_eq!(read_blob(&second, &blob, 0).await.unwrap(), bytes);
        assert!(partials(&second).is_empty());
        assert!(fs::metadata(path_of(&second, &blob.digest)).unwrap().permissions().readonly());

        write(&second, &blob, &whole, &context).await.unwrap();
        assert_eq!(whole.opened(), [kept], "what is there is not read again");
    }

    #[tokio::test]
    async fn what_an_earlier_attempt_left_is_used_as_far_as_it_is_right() {
        let bytes = noise(3_000);
        let torn = [&bytes[..1_000], &[0; 500]].concat();
        let longer = [&bytes[..], b"more"].concat();
        for (left, opened) in [
            (&b""[..], &[0][..]),
            (&bytes[..1], &[1]),
            (&bytes[..2_999], &[2_999]),
            (&bytes[..], &[]),
            (&torn, &[1_500, 0]),
            (&longer, &[0]),
            (&[7; 3_000], &[0]),
        ] {
            let dir = folder();
            let layout = Layout::open_or_create(dir.path()).await.unwrap();
            let blob = blob(&bytes);
            fs::write(layout.0.files.path(&files::partial(&blob.digest)), left).unwrap();
            let source = Upstream::new(&bytes);
            write(&layout, &blob, &source, &context()).await.unwrap();
            assert_eq!(source.opened(), opened, "{} bytes were left", left.len());
            assert_eq!(read_blob(&layout, &blob, 0).await.unwrap(), bytes);
            assert!(partials(&layout).is_empty());
        }
    }

    #[tokio::test]
    async fn wrong_bytes_leave_nothing() {
        let bytes = noise(3_000);
        let mut flipped = bytes.to_vec();
        flipped[1_234] ^= 1;
        for wrong in [flipped, bytes[..2_000].to_vec(), [&bytes[..], b"more"].concat(), vec![]] {
            let dir = folder();
            let layout = Layout::open_or_create(dir.path()).await.unwrap();
            let blob = blob(&bytes);
            let error = write(&layout, &blob, &Upstream::new(&Bytes::from(wrong)), &context()).await.unwrap_err();
            assert_eq!((error.kind(), error.side()), (Kind::Damaged, Side::Upstream));
            assert!(!path_of(&layout, &blob.digest).exists());
            assert!(partials(&layout).is_empty());
        }
    }

    #[tokio::test]
    async fn a_source_that_gives_nothing_leaves_no_file_and_an_unknown_algorithm_is_not_asked_for() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let bytes = noise(10);
        let silent = Upstream { breaks_at: Some(0), ..Upstream::new(&bytes) };
        assert_eq!(write(&layout, &blob(&bytes), &silent, &context()).await.unwrap_err().kind(), Kind::Unavailable);
        assert!(partials(&layout).is_empty());
        let strange = Descriptor::new("x", Digest::parse("blake3:abcd").unwrap(), 10);
        let source = Upstream::new(&bytes);
        assert_eq!(write(&layout, &strange, &source, &context()).await.unwrap_err().kind(), Kind::Unsupported);
        assert!(source.opened().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_writers_of_one_blob_one_reads_the_source() {
        let dir = folder();
        let bytes = noise(100_000);
        let blob = blob(&bytes);
        let (one, two) = (Layout::open_or_create(dir.path()).await.unwrap(), Layout::open_or_create(dir.path()).await.unwrap());
        let (source, context) = (Upstream::new(&bytes), context());
        let results = tokio::join!(
            write(&one, &blob, &source, &context),
            write(&two, &blob, &source, &context),
            write(&one, &blob, &source, &context),
        );
        assert!(results.0.is_ok() && results.1.is_ok() && results.2.is_ok(), "{results:?}");
        assert_eq!(source.opened(), [0]);
        assert_eq!(read_blob(&two, &blob, 0).await.unwrap(), bytes);
        assert!(partials(&one).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_takes_over_from_a_writer_that_fails_and_takes_what_one_that_succeeds_made() {
        let bytes = noise(50_000);
        let blob = blob(&bytes);
        for (end, opened) in [("killed", &[30_000][..]), ("cleaned up", &[0]), ("done", &[])] {
            let dir = folder();
            let layout = Layout::open_or_create(dir.path()).await.unwrap();
            let path = layout.0.files.path(&files::partial(&blob.digest));
            // Another process, as far as the kernel can tell.
            let mut other = fs::File::create(&path).unwrap();
            other.lock().unwrap();
            std::io::Write::write_all(&mut other, &bytes[..30_000]).unwrap();
            let (source, context) = (Upstream::new(&bytes), context());
            let mut writing = Box::pin(write(&layout, &blob, &source, &context));
            assert!(tokio::time::timeout(std::time::Duration::from_secs(10), &mut writing).await.is_err());
            assert!(source.opened().is_empty(), "nothing is read while another reads it");
            match end {
                "cleaned up" => fs::remove_file(&path).unwrap(),
                "done" => {
                    std::io::Write::write_all(&mut other, &bytes[30_000..]).unwrap();
                    fs::rename(&path, path_of(&layout, &blob.digest)).unwrap();
                }
                _ => {}
            }
            drop(other);
            writing.await.unwrap();
            assert_eq!(source.opened(), opened, "{end}");
            assert_eq!(read_blob(&layout, &blob, 0).await.unwrap(), bytes);
            assert!(partials(&layout).is_empty());
        }
    }
}
