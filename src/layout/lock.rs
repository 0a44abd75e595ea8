//! The two locks of a layout: `.larder/lock`, held for the instant in which `index.json` is replaced, and
//! `.larder/users`, held shared by all who write and alone by `gc`. Advisory, by the kernel, so that a killed process
//! leaves none behind.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::files::{Files, own};
use crate::{Error, Operation, Result};

/// How often a lock that somebody else holds is tried again. A tenth of a second is not felt by a person and costs
/// ten system calls a second.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// A program that another thread just starts holds copies of our open files, and so of our locks, until it runs: a lock that nobody holds any
/// more is free after this many tries.
const TRIES: u32 = 5;

const OP: Operation = Operation::LockLayout;

fn open(files: &Files, name: &str) -> Result<(File, std::path::PathBuf)> {
    let name = own().join(name);
    let opened = files.folder().create_folder(own()).and_then(|()| files.folder().open_or_create(&name));
    let file = opened.map_err(|error| files.failed(OP, &name, &error))?;
    Ok((file, files.path(&name)))
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
    for tries in 0..TRIES {
        if tries > 0 {
            std::thread::sleep(POLL);
        }
        if tried(file.try_lock(), &path)? {
            return Ok(file);
        }
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
