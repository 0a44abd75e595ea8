//! The ledger in a state folder: a file that is read, changed and replaced under a lock.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::data::{LedgerData, ParsedLedger, VERSION};
use super::failure::Failure;
use crate::input;

/// A transaction takes milliseconds. A process that holds the lock for longer than this is stopped or hung, and is not waited for.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// The largest file that is read. An account has 1 KB, with the leases of several processes: 10,000 accounts and more.
const MAX_LEDGER: u64 = 16 * 1024 * 1024;

/// The ledger's file, `pulls.json` in the state folder, and the lock beside it. Losing the file costs a HEAD, never correctness; so it is
/// replaced atomically, but not synced to the disk: it survives a kill, not a power cut.
#[derive(Debug)]
pub(super) struct LedgerFile {
    file: PathBuf,
    lock: PathBuf,
    /// How often the file was replaced.
    #[cfg(test)]
    writes: std::sync::atomic::AtomicU64,
}

impl LedgerFile {
    pub(super) fn new(state: &Path) -> Self {
        LedgerFile {
            file: state.join("pulls.json"),
            lock: state.join("pulls.lock"),
            #[cfg(test)]
            writes: Default::default(),
        }
    }

    /// What the file holds now; nothing, if it cannot be read. It is replaced as a whole, so reading needs no lock. Damage is left to the
    /// first transaction.
    pub(super) fn peek(&self) -> LedgerData {
        let text = read_bounded(&self.file).unwrap_or_default();
        match LedgerData::parse(&text) {
            ParsedLedger::Known(data) => data,
            ParsedLedger::Newer(_) | ParsedLedger::Damaged => LedgerData::empty(),
        }
    }

    /// Reads, changes and replaces the data while no other process does. If `change` returns `None`, nothing is written. `change` decides by
    /// the data alone, so that it may be called again with newer ones.
    ///
    /// # Errors
    /// If the data cannot be locked, read or written. Nothing was changed then.
    pub(super) fn transact<T>(&self, mut change: impl FnMut(&mut LedgerData) -> Option<T>) -> Result<Option<T>, Failure> {
        let _lock = self.locked()?;
        let mut data = self.read()?;
        let answer = change(&mut data);
        if answer.is_some() {
            self.write(&data)?;
        }
        Ok(answer)
    }

    /// The lock goes with the file handle: the system frees it even if we are killed.
    fn locked(&self) -> Result<File, Failure> {
        let failed = |error: &std::io::Error| Failure::io("lock", &self.lock, error);
        let file = File::options().create(true).truncate(false).write(true).open(&self.lock).map_err(|error| failed(&error))?;
        let start = std::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::Error(error)) => return Err(failed(&error)),
                Err(std::fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => std::thread::sleep(LOCK_RETRY),
                Err(std::fs::TryLockError::WouldBlock) => {
                    let held = format!("another process has held {} for {} s", self.lock.display(), LOCK_TIMEOUT.as_secs());
                    return Err(Failure::new(&held, "see whether another larder is stopped", false));
                }
            }
        }
    }

    fn read(&self) -> Result<LedgerData, Failure> {
        let text = match read_bounded(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(self.put_aside()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LedgerData::empty()),
            Err(error) => return Err(Failure::io("read", &self.file, &error)),
        };
        match LedgerData::parse(&text) {
            ParsedLedger::Known(data) => Ok(data),
            ParsedLedger::Newer(version) => Err(Failure::newer(&self.file.display().to_string(), version, VERSION)),
            ParsedLedger::Damaged => Ok(self.put_aside()),
        }
    }

    /// Renames a damaged file, so that it can be looked at, and starts with no accounts.
    fn put_aside(&self) -> LedgerData {
        let aside = self.file.with_extension("json.damaged");
        let moved = std::fs::rename(&self.file, &aside);
        tracing::warn!(
            "{} is damaged; {}; what is left of pull windows is asked of the upstreams again",
            self.file.display(),
            match &moved {
                Ok(()) => format!("moved to {}", aside.display()),
                Err(error) => format!("it could not be moved aside: {error}"),
            }
        );
        LedgerData::empty()
    }

    fn write(&self, data: &LedgerData) -> Result<(), Failure> {
        // Under the lock no other process writes this name. What a kill leaves behind is overwritten.
        let next = self.file.with_extension("json.new");
        #[cfg(test)]
        self.writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let written = serde_json::to_vec_pretty(data).map_err(std::io::Error::from).and_then(|text| std::fs::write(&next, text));
        written.and_then(|()| std::fs::rename(&next, &self.file)).map_err(|error| Failure::io("write", &self.file, &error))
    }

    /// How often the file was replaced.
    #[cfg(test)]
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// # Errors
/// If it cannot be read; `InvalidData` if it is larger than [`MAX_LEDGER`].
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    input::read_from(File::open(path)?, MAX_LEDGER)
}
