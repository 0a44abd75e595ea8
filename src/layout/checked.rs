//! Files of blobs whose bytes are known to be right, because they were hashed: once a file, and again whenever it changes.
//!
//! Who hands out a layout that others made cannot trust a file's name. Hashing while the bytes leave would be found wrong when they have left
//! already; so a file is hashed before the first of them, and remembered by what changes with it.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use super::files::{Files, READ, blocking, damaged};
use crate::content::Digest;
use crate::mutex::Mutex;
use crate::{Error, Operation, Result};

const OP: Operation = Operation::ReadBlob;

/// What is known of the files of a layout.
#[derive(Debug, Default)]
pub(super) struct Checked {
    files: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<Option<Verdict>>>>>,
}

/// What hashing a file found.
#[derive(Debug, Clone)]
struct Verdict {
    stamp: Stamp,
    /// What is wrong, if anything is.
    wrong: Option<String>,
}

/// What tells a file from another, and from itself after a change.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

fn stamp(meta: &Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.len(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
}

impl Checked {
    /// The file of this digest and its length; `None`: there is no such file.
    ///
    /// # Errors
    /// `Kind::Damaged` if its bytes have another digest.
    pub(super) async fn open(&self, files: &Files, digest: &Digest) -> Result<Option<(File, u64)>> {
        // Only what exists is remembered, so that requests for anything else leave nothing behind.
        let (opened, wanted) = (files.clone(), digest.clone());
        let Some((file, meta)) = blocking(move || open(&opened, &wanted)).await? else { return Ok(None) };
        let known = self.files.lock().entry(digest.clone()).or_default().clone();
        // Held while the file is hashed: who comes meanwhile waits for the result.
        let mut known = known.lock().await;
        let now = stamp(&meta);
        let (file, verdict) = match &*known {
            Some(verdict) if verdict.stamp == now => (file, verdict.clone()),
            _ => {
                let digest = digest.clone();
                blocking(move || {
                    let io = |error: io::Error| Error::local(OP, format!("{digest}: {error}"));
                    let wrong = check(&file, &digest).map_err(io)?;
                    (&file).rewind().map_err(io)?;
                    Ok((file, Verdict { stamp: now, wrong }))
                })
                .await?
            }
        };
        *known = Some(verdict.clone());
        match verdict.wrong {
            None => Ok(Some((file, meta.len()))),
            Some(wrong) => Err(damaged(OP, format!("{digest}: {wrong}"))),
        }
    }
}

/// What is wrong with the bytes of `file`.
fn check(mut file: &File, digest: &Digest) -> io::Result<Option<String>> {
    let Some(mut hasher) = digest.hasher() else { return Ok(Some(format!("larder cannot compute {} digests", digest.algorithm()))) };
    let mut buffer = vec![0; READ];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    let hash = hasher.finish();
    Ok((hash != *digest).then(|| format!("its file hashes to {hash}")))
}

/// Opens a regular file under `blobs/`, no link on the way followed. What is there and something else is not there.
fn open(files: &Files, digest: &Digest) -> Result<Option<(File, Metadata)>> {
    if files.blob_len(digest)?.is_none() {
        return Ok(None);
    }
    let Some(file) = files.open_blob(OP, digest)? else { return Ok(None) };
    let meta = file.metadata().map_err(|error| Error::local(OP, format!("{digest}: {error}")))?;
    Ok(Some((file, meta)))
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::super::testing::{folder, image, path_of, put};
    use super::*;
    use crate::Kind;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn a_file_is_hashed_once_and_again_after_every_change() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = image(&["layer"]);
        put(&layout, "a:1", &image).await;
        let digest = Digest::sha256(&image.blobs[0]);
        let (checked, files, path) = (Checked::default(), layout.0.files.clone(), path_of(&layout, &digest));
        let verdicts = || checked.files.lock().len();
        assert!(checked.open(&files, &Digest::sha256(b"absent")).await.unwrap().is_none());
        assert_eq!(verdicts(), 0);
        assert!(checked.open(&files, &digest).await.unwrap().is_some());
        // What is remembered is believed: a verdict that is wrong on purpose shows that nothing is hashed again.
        let known = checked.files.lock().get(&digest).unwrap().clone();
        known.lock().await.as_mut().unwrap().wrong = Some("told so".to_owned());
        assert!(checked.open(&files, &digest).await.unwrap_err().message().contains("told so"));
        // Bytes of the same length in the same file, with the old time.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = image.blobs[0].to_vec();
        bytes[0] ^= 1;
        let writable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&path, writable).unwrap();
        fs::write(&path, &bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let error = checked.open(&files, &digest).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.message().contains("hashes to"), "{error}");
        fs::write(&path, &image.blobs[0]).unwrap();
        let (mut file, len) = checked.open(&files, &digest).await.unwrap().unwrap();
        let mut read = vec![];
        file.read_to_end(&mut read).unwrap();
        assert_eq!((read.len() as u64, read.as_slice()), (len, &image.blobs[0][..]));
    }

    #[tokio::test]
    async fn links_and_what_is_no_file_are_not_there() {
        let dir = folder();
        let layout = Layout::open_or_create(&dir.path().join("store")).await.unwrap();
        let image = image(&["layer"]);
        put(&layout, "a:1", &image).await;
        let digest = Digest::sha256(&image.blobs[0]);
        let (checked, files, path) = (Checked::default(), layout.0.files.clone(), path_of(&layout, &digest));
        let aside = dir.path().join("aside");
        // The right bytes, but somewhere else.
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        assert!(checked.open(&files, &digest).await.unwrap().is_none());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(checked.open(&files, &digest).await.unwrap().is_none());
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        assert!(checked.open(&files, &digest).await.unwrap().is_some());
        let (folder, aside) = (path.parent().unwrap(), dir.path().join("sha256"));
        fs::rename(folder, &aside).unwrap();
        symlink(&aside, folder).unwrap();
        assert!(checked.open(&files, &digest).await.is_err());
    }
}
