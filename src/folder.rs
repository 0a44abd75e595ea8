//! Files below a folder that other people may have written to: a medium, another tool's layout, a bundle. They are opened relative to the
//! opened folder; no symbolic link on the way is followed, and what is not a regular file is refused. So whoever made the folder
//! decides nothing about files outside of it.
//!
//! Also what makes a replaced file last: written beside its place, synced, renamed, and the folder synced.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::mutex::Mutex;

/// What the permissions of new files and folders are, before the umask: as `open` and `mkdir` of every tool.
const FILE_MODE: u32 = 0o666;
const FOLDER_MODE: u32 = 0o777;

#[cfg(test)]
thread_local! {
    /// The calls of this thread that make a new name last, in order.
    static LASTING: std::cell::RefCell<Vec<&'static str>> = const { std::cell::RefCell::new(vec![]) };
}

/// Notes a call for the tests, which cannot cut the power.
fn note(_call: &'static str) {
    #[cfg(test)]
    LASTING.with(|calls| calls.borrow_mut().push(_call));
}

/// Bytes that go to a file at once.
const WRITE_BUFFER: usize = 128 * 1024;

/// Writes the content of a file.
pub(crate) type WriteContent<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// An opened folder. Names below it are relative paths of plain components.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    handle: Arc<OwnedFd>,
    path: Arc<Path>,
    /// Folders below it that stay open, by name; `None`: none does.
    kept: Option<Arc<KeptFolders>>,
}

type KeptFolders = Mutex<HashMap<PathBuf, Arc<OwnedFd>>>;

/// What is at a name; of a link, the link itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileStatus(Stat);

impl FileStatus {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        Ok(FileStatus(rustix::fs::fstat(file)?))
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    pub(crate) fn is_folder(&self) -> bool {
        self.kind() == FileType::Directory
    }

    pub(crate) fn is_link(&self) -> bool {
        self.kind() == FileType::Symlink
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.0.st_mode)
    }

    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.0.st_size).unwrap_or_default()
    }

    /// Whether the file has other names too: writing to it changes what they lead to.
    pub(crate) fn has_other_names(&self) -> bool {
        self.0.st_nlink > 1
    }

    /// Whether both are one file.
    pub(crate) fn is_same(&self, other: &FileStatus) -> bool {
        self.0.st_dev == other.0.st_dev && self.0.st_ino == other.0.st_ino
    }

    /// Whether both are one file in one state: another process's replacement differs in the inode, a tool's writing in place in the
    /// length or the time.
    pub(crate) fn is_unchanged(&self, other: &FileStatus) -> bool {
        let times = self.0.st_mtime == other.0.st_mtime && self.0.st_mtime_nsec == other.0.st_mtime_nsec;
        self.is_same(other) && times && self.0.st_size == other.0.st_size
    }
}

impl Folder {
    /// Opens the folder at `path`, which the user named: links in it are followed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let named = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let handle = rustix::fs::openat(CWD, named, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Folder { handle: Arc::new(handle), path: path.into(), kept: None })
    }

    /// As [`Folder::open`]; makes the folder if it does not exist.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::open(path)
    }

    /// The same folder, which keeps the folders below it open once files in them were used: for who uses many files in a few folders. A
    /// folder that is replaced by another one meanwhile is not noticed before [`Folder::close_kept`].
    pub(crate) fn keeping_folders(self) -> Self {
        Folder { kept: Some(Arc::default()), ..self }
    }

    /// Closes the folders that were kept open. They are opened again when they are used.
    pub(crate) fn close_kept(&self) {
        if let Some(kept) = &self.kept {
            kept.lock().clear();
        }
    }

    /// What the user called it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file for reading.
    pub(crate) fn read(&self, name: &Path) -> io::Result<File> {
        self.open_file(name, OFlags::RDONLY)
    }

    /// Opens a regular file for reading and writing, and makes an empty one if there is none.
    pub(crate) fn open_or_create(&self, name: &Path) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR | OFlags::CREATE)
    }

    /// Opens a regular file to read it and to write at its end; makes an empty one if there is none.
    pub(crate) fn append(&self, name: &Path) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)
    }

    /// Makes a file that does not exist yet.
    pub(crate) fn create_new(&self, name: &Path) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open_file(&self, name: &Path, flags: OFlags) -> io::Result<File> {
        let (parent, last) = self.parent(name)?;
        open_file(parent.as_ref().map_or(self.handle.as_fd(), AsFd::as_fd), last, flags)
    }

    /// What is at `name`.
    pub(crate) fn status(&self, name: &Path) -> io::Result<FileStatus> {
        let (parent, last) = self.parent(name)?;
        Ok(FileStatus(rustix::fs::statat(self.or(parent.as_deref()), last, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// The names in a folder, in no order.
    pub(crate) fn list(&self, name: &Path) -> io::Result<Vec<OsString>> {
        let folder = self.folder(name)?;
        let mut names = vec![];
        for entry in Dir::read_from(self.or(folder.as_ref()))? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Makes the folder `name`, and those above it, unless they exist.
    pub(crate) fn create_folder(&self, name: &Path) -> io::Result<()> {
        let mut at: Option<OwnedFd> = None;
        for part in parts(name)? {
            let parent = self.or(at.as_ref());
            match rustix::fs::mkdirat(parent, part, Mode::from_raw_mode(FOLDER_MODE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = Some(open_folder(parent, part)?);
        }
        Ok(())
    }

    /// Renames a file; what has the new name is replaced, and a link there is not followed. Not lasting before [`Folder::sync`].
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        note("rename");
        let ((from_parent, from), (to_parent, to)) = (self.parent(from)?, self.parent(to)?);
        Ok(rustix::fs::renameat(self.or(from_parent.as_deref()), from, self.or(to_parent.as_deref()), to)?)
    }

    /// Removes a file, or a link.
    pub(crate) fn remove(&self, name: &Path) -> io::Result<()> {
        let (parent, last) = self.parent(name)?;
        Ok(rustix::fs::unlinkat(self.or(parent.as_deref()), last, AtFlags::empty())?)
    }

    /// Makes the names in a folder lasting.
    pub(crate) fn sync(&self, name: &Path) -> io::Result<()> {
        note("sync folder");
        let folder = self.folder(name)?;
        match rustix::fs::fsync(self.or(folder.as_ref())) {
            // Some network file systems know no sync of a folder, and some of those need none.
            Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Makes everything lasting that was written to the file system of this folder. `false`: on this system, that would not tell of a write
    /// that failed, or not reach the disk, and each file must be synced.
    pub(crate) fn sync_file_system(&self) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        if reports_failed_syncs() && SYNCED_TOGETHER.contains(&rustix::fs::fstatfs(&self.handle)?.f_type) {
            rustix::fs::syncfs(&self.handle)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives a synced file another name, for good.
    pub(crate) fn settle(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename(from, to)?;
        self.sync(to.parent().unwrap_or(Path::new("")))
    }

    /// Replaces the file `name` in one step, by way of `temporary`, which nobody else uses; the file written. Whatever is at `temporary` is
    /// what a killed run has left.
    pub(crate) fn replace(&self, name: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<File> {
        self.replace_with(name, temporary, &mut |file| file.write_all(bytes))
    }

    /// As [`Folder::replace`], by what `write` writes, so that a long file is never in memory as a whole.
    pub(crate) fn replace_with(&self, name: &Path, temporary: &Path, write: WriteContent<'_>) -> io::Result<File> {
        match self.remove(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.create_new(temporary)?;
        let mut buffered = BufWriter::with_capacity(WRITE_BUFFER, &file);
        let written = write(&mut buffered).and_then(|()| buffered.flush());
        // What could not be written is not tried again.
        drop(buffered.into_parts());
        let written = written.and_then(|()| sync_file(&file)).and_then(|()| self.settle(temporary, name));
        if let Err(error) = written {
            // Of this call, and of no use: on a full disk it would only take up room.
            let _ = self.remove(temporary);
            return Err(error);
        }
        Ok(file)
    }

    /// The folder `name`; none for this folder itself.
    fn folder(&self, name: &Path) -> io::Result<Option<OwnedFd>> {
        let mut at: Option<OwnedFd> = None;
        for part in parts(name)? {
            at = Some(open_folder(self.or(at.as_ref()), part)?);
        }
        Ok(at)
    }

    /// The folder that holds `name` (none: this one), and the last part of the name.
    fn parent<'n>(&self, name: &'n Path) -> io::Result<(Option<Arc<OwnedFd>>, &'n OsStr)> {
        let last = *parts(name)?.last().ok_or_else(no_name)?;
        let folder = name.parent().unwrap_or(Path::new(""));
        if let Some(kept) = self.kept.as_ref().and_then(|kept| kept.lock().get(folder).cloned()) {
            return Ok((Some(kept), last));
        }
        let opened = self.folder(folder)?.map(Arc::new);
        if let (Some(kept), Some(opened)) = (&self.kept, &opened) {
            kept.lock().insert(folder.to_owned(), Arc::clone(opened));
        }
        Ok((opened, last))
    }

    fn or<'f>(&'f self, other: Option<&'f OwnedFd>) -> BorrowedFd<'f> {
        other.map_or(self.handle.as_fd(), AsFd::as_fd)
    }
}

/// File systems on local disks: ext2 to ext4, XFS, Btrfs, F2FS (`linux/magic.h`). A file system of another machine or in user space need
/// not pass `syncfs` on.
#[cfg(target_os = "linux")]
const SYNCED_TOGETHER: [rustix::fs::FsWord; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010];

/// Whether `syncfs` reports writes that failed: Linux does since 5.8 (syncfs(2), "VERSIONS").
#[cfg(target_os = "linux")]
fn reports_failed_syncs() -> bool {
    static REPORTS: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
        (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) >= (5, 8)
    });
    *REPORTS
}

/// Opens a regular file that was found in a folder, rather than named by the user: if its name is a link, that is not followed.
pub(crate) fn read_found(path: &Path) -> io::Result<File> {
    open_file(CWD, path.as_os_str(), OFlags::RDONLY)
}

/// The file that the user named: if `path` is a link, what it leads to. What is found beside it is then found there.
pub(crate) fn named(path: &Path) -> PathBuf {
    let is_link = path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let resolved = if is_link { path.canonicalize().ok() } else { None };
    resolved.unwrap_or_else(|| path.to_owned())
}

/// Whether there is a regular file at `path`, which was found in a folder.
pub(crate) fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file())
}

/// Makes a file's new name in `folder` lasting.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    Folder::open(folder)?.sync(Path::new(""))
}

fn sync_file(file: &File) -> io::Result<()> {
    note("sync file");
    file.sync_all()
}

fn open_file(parent: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> io::Result<File> {
    // Without NONBLOCK, opening a FIFO waits for somebody to write to it.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(FILE_MODE)) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err(link()),
        // A FIFO or socket without anybody at its other end.
        Err(Errno::NXIO) => return Err(irregular()),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(irregular()) }
}

fn open_folder(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|error| {
        // Linux says "not a directory" of a link, too.
        let status = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        if status.is_ok_and(|status| FileStatus(status).is_link()) { link() } else { error.into() }
    })
}

fn parts(name: &Path) -> io::Result<Vec<&OsStr>> {
    let plain = |part| match part {
        Component::Normal(part) => Ok(part),
        _ => Err(no_name()),
    };
    name.components().map(plain).collect()
}

fn no_name() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "this is no name of a file in the folder")
}

fn link() -> io::Error {
    io::Error::other("it is a symbolic link, and larder follows none here")
}

fn irregular() -> io::Error {
    io::Error::other("it is not a regular file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    /// A folder, and beside it a file that is none of its business.
    fn attacked() -> (tempfile::TempDir, Folder, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "precious").unwrap();
        let folder = Folder::create(&dir.path().join("folder")).unwrap();
        (dir, folder, outside)
    }

    #[test]
    fn links_are_followed_neither_as_files_nor_on_the_way() {
        let (dir, folder, outside) = attacked();
        symlink(&outside, folder.path().join("file")).unwrap();
        symlink(dir.path(), folder.path().join("way")).unwrap();
        symlink(dir.path().join("absent"), folder.path().join("dangling")).unwrap();
        for name in ["file", "way/outside", "dangling"].map(Path::new) {
            let opened = [folder.read(name), folder.open_or_create(name), folder.append(name)];
            for opened in opened {
                assert!(opened.unwrap_err().to_string().contains("symbolic link"), "{}", name.display());
            }
            assert!(folder.create_new(name).is_err());
        }
        for name in ["way", "way/new"].map(Path::new) {
            assert!(folder.list(name).is_err() && folder.create_folder(name).is_err() && folder.sync(name).is_err());
        }
        assert!(folder.remove(Path::new("way/outside")).is_err() && folder.rename(Path::new("file"), Path::new("way/x")).is_err());
        assert!(folder.status(Path::new("file")).unwrap().is_link() && folder.status(Path::new("way/outside")).is_err());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
        assert!(!dir.path().join("absent").exists() && !dir.path().join("new").exists());
        // Replacing and removing concern the link, not what it leads to.
        folder.replace(Path::new("file"), Path::new("dangling"), b"new").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "new");
        folder.remove(Path::new("way")).unwrap();
        assert!(outside.exists() && !dir.path().join("absent").exists());
        // The folder itself is the user's choice.
        symlink(folder.path(), dir.path().join("chosen")).unwrap();
        assert!(Folder::open(&dir.path().join("chosen")).unwrap().read(Path::new("file")).is_ok());
        symlink(&outside, dir.path().join("chosen file")).unwrap();
        assert!(read_found(&dir.path().join("chosen file")).is_err());
        assert!(read_found(&named(&dir.path().join("chosen file"))).is_ok() && named(&outside) == outside);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let (_dir, folder, _) = attacked();
        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        for name in ["fifo", "socket", "sub"].map(Path::new) {
            for opened in [folder.read(name), folder.open_or_create(name), read_found(&folder.path().join(name))] {
                assert!(opened.is_err(), "{}", name.display());
            }
            assert!(!folder.status(name).unwrap().is_file() && !is_file(&folder.path().join(name)));
        }
        assert!(read_found(Path::new("/dev/zero")).unwrap_err().to_string().contains("not a regular file"));
    }

    #[test]
    fn after_a_rename_the_folder_is_synced_and_before_it_the_file() {
        let (_dir, folder, _) = attacked();
        let calls = || LASTING.with(|calls| std::mem::take(&mut *calls.borrow_mut()));
        folder.create_folder(Path::new("a")).unwrap();
        calls();
        folder.replace(Path::new("a/file"), Path::new("new"), b"bytes").unwrap();
        assert_eq!(calls(), ["sync file", "rename", "sync folder"]);
        folder.settle(Path::new("a/file"), Path::new("a/other")).unwrap();
        assert_eq!(calls(), ["rename", "sync folder"]);
        // The other way to replace a file is in `report::file`, which ends with this.
        sync(folder.path()).unwrap();
        assert_eq!(calls(), ["sync folder"]);
    }

    #[test]
    fn names_stay_inside() {
        let (_dir, folder, _) = attacked();
        for name in ["../outside", "/etc/passwd", "", "a/../../outside"].map(Path::new) {
            assert!(folder.read(name).is_err() && folder.create_new(name).is_err(), "{}", name.display());
        }
    }

    #[test]
    fn files_are_made_listed_replaced_and_told_apart() {
        let (_dir, folder, _) = attacked();
        let [name, other] = ["a/b/file", "a/b/other"].map(Path::new);
        folder.create_folder(Path::new("a/b")).unwrap();
        folder.create_folder(Path::new("a/b")).unwrap();
        let mut file = folder.create_new(name).unwrap();
        file.write_all(b"one").unwrap();
        assert_eq!(folder.create_new(name).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let status = folder.status(name).unwrap();
        assert!(status.is_unchanged(&FileStatus::of(&file).unwrap()) && status.len() == 3 && !status.has_other_names());
        fs::hard_link(folder.path().join(name), folder.path().join(other)).unwrap();
        assert!(folder.status(name).unwrap().has_other_names());
        folder.replace(other, Path::new("new"), b"three").unwrap();
        assert!(!folder.status(other).unwrap().is_same(&status));
        let mut text = String::new();
        folder.read(other).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), folder.list(Path::new("")).unwrap()), ("three", vec![OsString::from("a")]));
        let mut names = folder.list(Path::new("a/b")).unwrap();
        names.sort();
        assert_eq!(names, ["file", "other"]);
        folder.append(other).unwrap().write_all(b"+").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join(other)).unwrap(), "three+");
        folder.sync(Path::new("a")).unwrap();
        assert_eq!(folder.read(Path::new("a/none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_folder_that_is_kept_open_is_opened_again_after_it_was_replaced() {
        let (_dir, folder, _) = attacked();
        let (kept, name) = (folder.clone().keeping_folders(), Path::new("a/file"));
        folder.create_folder(Path::new("a")).unwrap();
        kept.create_new(name).unwrap();
        fs::remove_dir_all(folder.path().join("a")).unwrap();
        assert_eq!(kept.create_new(name).unwrap_err().kind(), io::ErrorKind::NotFound);
        folder.create_folder(Path::new("a")).unwrap();
        kept.close_kept();
        kept.create_new(name).unwrap();
        assert!(folder.status(name).unwrap().is_file());
    }
}
