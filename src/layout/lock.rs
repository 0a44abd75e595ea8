//! The two locks of a layout: `.larder/lock`, held for the instant in which `index.json` is replaced, and
//! `.larder/users`, held shared by all who write and alone by `gc`. Advisory, by the kernel, so that a killed process
//! leaves none behind.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::files::Files;
use crate::{Error, Result};

/// How often a lock that somebody else holds is tried again. A tenth of a second is not felt by a person and costs
/// ten system calls a second.
pub(super) const POLL: Duration = Duration::from_millis(100);

const OP: &str = "lock layout";

fn open(files: &Files, name: &str) -> Result<(File, std::path::PathBuf)> {
    let own = files.own();
    fs::create_dir_all(&own).map_err(|error| Error::io(OP, &own, &error))?;
    let path = own.join(name);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| Error::io(OP, &path, &error))?;
    Ok((file, path))
}

/// Waits for the right to replace `index.json`; it ends when the file is dropped. Blocks, but never for long: nobody
/// holds it while bytes move.
pub(super) fn index(files: &Files) -> Result<File> {
    let (file, path) = open(files, "lock")?;
    file.lock().map_err(|error| Error::io(OP, &path, &error))?;
    Ok(file)
}

/// Declares a writer, waiting while a `gc` runs.
pub(super) async fn share(files: &Files) -> Result<File> {
    let (file, path) = open(files, "users")?;
    while !tried(file.try_lock_shared(), &path)? {
        tokio::time::sleep(POLL).await;
    }
    Ok(file)
}

/// Sees that nobody writes, and keeps everybody from it.
pub(super) fn alone(files: &Files) -> Result<File> {
    let (file, path) = open(files, "users")?;
    if tried(file.try_lock(), &path)? {
        return Ok(file);
    }
    Err(Error::local(OP, format!("another larder is writing to {}", files.root().display())).remedy("try again when it is done"))
}

/// Whether the lock was got.
pub(super) fn tried(result: Result<(), TryLockError>, path: &Path) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::io(OP, path, &error)),
    }
}
