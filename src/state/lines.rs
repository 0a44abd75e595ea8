//! Journals as JSON Lines: files that processes append to and read whole, with one rule for what a kill leaves.
//!
//! - A line counts if it is an object of the journal's type, whatever other lines are: torn ones (the writer was killed, the disk was full),
//!   foreign ones and ones that are no UTF-8 are passed over.
//! - A line is appended in one write, under the journal's lock. If the file does not end with a line's end, a new line is begun first, so
//!   that a torn line swallows nothing.
//! - The file is rewritten under the lock too, from what it holds then, by one rename; so no line that another process has added is lost.
//!
//! The lock is on the file itself. Whoever gets it looks whether the file still has its name: another one may have been put in its place.
//! The kernel lets go of the lock when its holder is killed.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::folder::{FileStatus, Folder};
use crate::mutex::Mutex;

/// The largest part of a journal that is read, its end: a few hundred thousand lines. Who writes more than that forgets the oldest.
const MOST_READ: u64 = 64 * 1024 * 1024;

/// How long a lock is waited for, in how many steps. A line takes microseconds and a rewriting milliseconds; who holds it for longer is
/// stopped, and a line is not worth a stopped run.
const STEPS: u32 = 200;
const STEP: Duration = Duration::from_millis(10);

/// A journal of `T`.
#[derive(Debug)]
pub(crate) struct JsonLines<T> {
    folder: PathBuf,
    name: PathBuf,
    /// Held by the thread of this process that writes. The others wait for it here, because waiting for the file's lock takes whole steps.
    writing: Mutex<()>,
    of: PhantomData<fn() -> T>,
}

/// What a journal holds.
#[derive(Debug)]
pub(crate) struct Read<T> {
    /// In the order in which they were added.
    pub(crate) values: Vec<T>,
    /// How many lines there are, those that count for nothing included.
    pub(crate) lines: usize,
    /// The length of the file.
    pub(crate) bytes: u64,
}

impl<T: Serialize + DeserializeOwned> JsonLines<T> {
    /// The journal in the file `name` (which ends in `.jsonl`) of `folder`. Neither need exist yet.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        JsonLines { folder: folder.to_owned(), name: name.into(), writing: Mutex::default(), of: PhantomData }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// What it holds; nothing if there is no such file.
    pub(crate) fn read(&self) -> io::Result<Read<T>> {
        match Folder::open(&self.folder) {
            Ok(folder) => self.read_in(&folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Read::default()),
            Err(error) => Err(error),
        }
    }

    /// Adds a line.
    pub(crate) fn append(&self, value: &T) -> io::Result<()> {
        let line = serde_json::to_string(value)?;
        let _writing = self.writing.lock();
        let folder = Folder::open(&self.folder)?;
        let mut file = self.open_locked(&folder)?;
        let length = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if length > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        let begin = if last == *b"\n" { "" } else { "\n" };
        file.write_all(format!("{begin}{line}\n").as_bytes()).inspect_err(|_| {
            // Of a full disk: half a line is of no use.
            let _ = file.set_len(length);
        })
    }

    /// Replaces all it holds by what `keep` makes of that, which is returned too.
    pub(crate) fn rewrite(&self, keep: impl FnOnce(Vec<T>) -> Vec<T>) -> io::Result<Vec<T>> {
        let _writing = self.writing.lock();
        let folder = Folder::open(&self.folder)?;
        let _lock = self.open_locked(&folder)?;
        let kept = keep(self.read_in(&folder)?.values);
        let mut text = vec![];
        for value in &kept {
            serde_json::to_writer(&mut text, value)?;
            text.push(b'\n');
        }
        folder.replace(&self.name, &self.name.with_extension("new"), &text)?;
        Ok(kept)
    }

    fn read_in(&self, folder: &Folder) -> io::Result<Read<T>> {
        let mut file = match folder.read(&self.name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::default()),
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        // A line that is cut here is torn like any other.
        file.seek(SeekFrom::Start(bytes.saturating_sub(MOST_READ)))?;
        let mut text = vec![];
        file.take(MOST_READ).read_to_end(&mut text)?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut count = 0;
        let values = lines.inspect(|_| count += 1).filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Ok(Read { values, lines: count, bytes })
    }

    fn open_locked(&self, folder: &Folder) -> io::Result<File> {
        for _ in 0..STEPS {
            let file = folder.append(&self.name)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(STEP);
                    continue;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let held = FileStatus::of(&file)?;
            match folder.status(&self.name) {
                Ok(now) if now.is_same(&held) => return Ok(file),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "another larder holds its lock"))
    }
}

impl<T> Default for Read<T> {
    fn default() -> Self {
        Read { values: vec![], lines: 0, bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::fs;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Entry {
        name: String,
        count: u32,
    }

    fn entry(name: &str, count: u32) -> Entry {
        Entry { name: name.to_owned(), count }
    }

    fn journal(folder: &tempfile::TempDir) -> JsonLines<Entry> {
        JsonLines::new(folder.path(), "j.jsonl")
    }

    #[test]
    fn a_file_cut_at_any_byte_loses_its_last_line_only() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        // The numbers: a torn one must not count as another one.
        let all = [entry("one", 1), entry("zwölf\n\"", 1234), entry("three", 33)];
        for value in &all {
            journal.append(value).unwrap();
        }
        let whole = fs::read(journal.path()).unwrap();
        let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        for cut in 0..=whole.len() {
            // Zeros: what a power cut leaves of a file whose length was already written.
            for zeros in [0, 5] {
                let mut text = whole[..cut].to_vec();
                text.resize(cut + zeros, 0);
                fs::write(journal.path(), &text).unwrap();
                // A line without its end is whole if only that is missing.
                let left = ends.iter().filter(|end| **end < cut || (**end == cut && zeros == 0)).count();
                assert_eq!(journal.read().unwrap().values, all[..left], "{cut} bytes, {zeros} zeros");
                journal.append(&entry("next", 7)).unwrap();
                let expected: Vec<Entry> = all[..left].iter().cloned().chain([entry("next", 7)]).collect();
                assert_eq!(journal.read().unwrap().values, expected, "{cut} bytes, {zeros} zeros");
                assert_eq!(journal.rewrite(|values| values).unwrap(), expected);
                assert_eq!(journal.read().unwrap().lines, expected.len());
            }
        }
    }

    #[test]
    fn what_is_no_line_of_ours_costs_no_other_line() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        journal.append(&entry("one", 1)).unwrap();
        let mut text = fs::read(journal.path()).unwrap();
        text.extend(b"\xff\xfe not UTF-8\n[]\nnull\n{\"name\":1}\n\n{\"version\":2}\n");
        fs::write(journal.path(), &text).unwrap();
        journal.append(&entry("two", 2)).unwrap();
        let read = journal.read().unwrap();
        assert_eq!((read.values, read.lines), (vec![entry("one", 1), entry("two", 2)], 7));
        let kept = journal.rewrite(|mut values| values.split_off(1)).unwrap();
        assert_eq!(
            (kept, fs::read_to_string(journal.path()).unwrap()),
            (vec![entry("two", 2)], "{\"name\":\"two\",\"count\":2}\n".to_owned())
        );
    }

    #[test]
    fn what_others_add_while_the_file_is_rewritten_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let journal = std::sync::Arc::new(journal(&folder));
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let journal = journal.clone();
                std::thread::spawn(move || {
                    for count in 0..50 {
                        journal.append(&entry(&thread.to_string(), count)).unwrap();
                        if count % 10 == 0 {
                            journal.rewrite(|values| values).unwrap();
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let mut found: Vec<(String, u32)> = journal.read().unwrap().values.into_iter().map(|entry| (entry.name, entry.count)).collect();
        let in_order = |thread: &str| found.iter().filter(|(name, _)| name == thread).map(|(_, count)| *count).eq(0..50);
        assert!(["0", "1", "2", "3"].into_iter().all(in_order), "{found:?}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 200);
    }

    #[test]
    fn a_missing_folder_holds_nothing_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = JsonLines::<Entry>::new(&folder.path().join("none"), "j.jsonl");
        assert!(nowhere.read().unwrap().values.is_empty() && nowhere.append(&entry("one", 1)).is_err());
        let outside = folder.path().join("outside");
        fs::write(&outside, "precious").unwrap();
        std::os::unix::fs::symlink(&outside, folder.path().join("j.jsonl")).unwrap();
        assert!(journal(&folder).append(&entry("one", 1)).is_err() && journal(&folder).read().is_err());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    }
}
