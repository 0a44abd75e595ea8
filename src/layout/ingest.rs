//! How content enters a layout: into a locked partial file, hashed on the way, then by one rename to its place. What an
//! interrupted attempt left is hashed again and gone on with.

use std::fs;
use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::files::{Files, READ, blocking, found, hash};
use super::{damaged, lock};
use crate::content::{BlobStream, Charge, Descriptor, Digest, Hasher, OpenBlob, Verified, hasher};
use crate::{Error, Kind, Result, Side};

const OP: &str = "write blob";

/// Bytes in memory as something to ingest.
pub(super) struct InMemory(pub(super) Bytes);

#[async_trait]
impl OpenBlob for InMemory {
    async fn open(&self, offset: u64) -> Result<BlobStream> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(stream::iter([Ok(self.0.slice(start..))]).boxed())
    }
}

/// A blob that is not there yet, held by this task alone.
struct Partial {
    file: fs::File,
    path: PathBuf,
    len: u64,
}

/// Brings `blob` into the layout, unless `present` finds it there. Bytes written are added to the charge.
///
/// # Errors
/// `Kind::Damaged` if the source's bytes are wrong: nothing is left of them. After other errors the right bytes that came
/// so far stay for the next attempt.
pub(super) async fn ingest(
    files: &Files,
    blob: &Descriptor,
    present: &(dyn Fn() -> Result<bool> + Sync),
    open: &dyn OpenBlob,
    charge: &Charge,
) -> Result<()> {
    let fresh = hasher(blob, Side::Local)?;
    let Some(mut partial) = hold(files, &blob.digest, present).await? else { return Ok(()) };
    if partial.len > blob.size {
        partial.file.set_len(0).map_err(|error| Error::io(OP, &partial.path, &error))?;
        partial.len = 0;
    }
    let kept = partial.len;
    let (partial, hasher) = rehash(partial, fresh.clone()).await?;
    let path = partial.path;
    let mut file = File::from_std(partial.file);
    let mut result = fill(&mut file, &path, blob, kept, hasher, open, charge).await;
    if kept > 0 && is_damaged(&result) {
        // What was kept may be what is wrong: a power cut leaves holes. The source is blamed only for a whole reading.
        file.set_len(0).await.map_err(|error| Error::io(OP, &path, &error))?;
        result = fill(&mut file, &path, blob, 0, fresh, open, charge).await;
    }
    if is_damaged(&result) {
        tokio::fs::remove_file(&path).await.map_err(|error| Error::io(OP, &path, &error))?;
    }
    result?;
    settle(files, file, path, &blob.digest).await
}

fn is_damaged(result: &Result<()>) -> bool {
    matches!(result, Err(error) if error.kind() == Kind::Damaged)
}

/// Waits until nobody else writes this blob. `None`: it is there by then.
async fn hold(files: &Files, digest: &Digest, present: &(dyn Fn() -> Result<bool> + Sync)) -> Result<Option<Partial>> {
    let path = files.partial(digest);
    for folder in [path.parent(), files.blob(digest).parent()].into_iter().flatten() {
        tokio::fs::create_dir_all(folder).await.map_err(|error| Error::io(OP, folder, &error))?;
    }
    // The calls below are a few microseconds on a local file; a thread hop costs more.
    while !present()? {
        if let Some(partial) = try_hold(&path)? {
            // Whoever held it before may have finished between the look and the lock.
            if !present()? {
                return Ok(Some(partial));
            }
            fs::remove_file(&path).map_err(|error| Error::io(OP, &path, &error))?;
            return Ok(None);
        }
        tokio::time::sleep(lock::POLL).await;
    }
    Ok(None)
}

fn try_hold(path: &PathBuf) -> Result<Option<Partial>> {
    let io = |error| Error::io(OP, path, &error);
    let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
    if !lock::tried(file.try_lock(), path)? {
        return Ok(None);
    }
    let held = file.metadata().map_err(io)?;
    // Its holder may have renamed it to its place, or `gc` removed it, after it was opened here: then the lock is on
    // a file that is no partial any more.
    let same = found(fs::metadata(path)).map_err(io)?.is_some_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino()));
    Ok(same.then(|| Partial { file, path: path.clone(), len: held.len() }))
}

/// Takes in what an earlier attempt left.
async fn rehash(mut partial: Partial, mut hasher: Hasher) -> Result<(Partial, Hasher)> {
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

/// Writes the blob's bytes from `start` on; `hasher` has taken in those before.
async fn fill(
    file: &mut File,
    path: &PathBuf,
    blob: &Descriptor,
    start: u64,
    hasher: Hasher,
    open: &dyn OpenBlob,
    charge: &Charge,
) -> Result<()> {
    if start == blob.size {
        // Nothing is missing, so nothing is asked for.
        let found = hasher.finish();
        return if found == blob.digest { Ok(()) } else { Err(damaged(OP, format!("the bytes hash to {found}, not to {}", blob.digest))) };
    }
    let io = |error| Error::io(OP, path, &error);
    file.seek(SeekFrom::Start(start)).await.map_err(io)?;
    let mut stream = Verified::resume(open.open(start).await?, blob, hasher, start, Side::Upstream);
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                // Straight to the file: tokio's File hands up to 2 MiB to its thread as it is, a BufWriter above it halves
                // the speed (measured, 600 against 300 MB/s).
                file.write_all(&chunk).await.map_err(io)?;
                charge.tally.add_written(chunk.len() as u64);
            }
            Err(error) => {
                // What is on its way to the file is worth keeping; if it does not arrive, the next attempt starts earlier.
                let _ = file.flush().await;
                return Err(error);
            }
        }
    }
    // `sync_data` alone would not report that the last write failed.
    file.flush().await.map_err(io)
}

/// Gives a verified file its name.
async fn settle(files: &Files, file: File, path: PathBuf, digest: &Digest) -> Result<()> {
    let io = |error| Error::io(OP, &path, &error);
    // Before the rename: a power cut must not leave the name without the bytes.
    file.sync_data().await.map_err(io)?;
    tokio::fs::rename(&path, files.blob(digest)).await.map_err(io)?;
    // Content never changes again. After the rename, because a partial file that cannot be written to could not be gone
    // on with. File systems that know no such thing (FAT) may refuse; it is a courtesy.
    if let Ok(meta) = file.metadata().await {
        let mut permissions = meta.permissions();
        permissions.set_readonly(true);
        let _ = file.set_permissions(permissions).await;
    }
    Ok(())
}
