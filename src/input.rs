//! Files that users name: which kinds of files are read and written, and how much of them.
//!
//! A named pipe that nobody writes to never answers, `/dev/zero` never ends, and a file of gigabytes would be taken into memory whole before
//! anybody finds that it is no list. So only regular files are opened, and pipes that the shell has opened already (`-`, `/dev/fd/63`), and
//! each kind of file has a largest size.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

const MIB: u64 = 1024 * 1024;

/// A configuration: 1,000 rules, the most that there may be, have some 200 KB.
pub(crate) const MAX_CONFIG: u64 = 16 * MIB;
/// An image list: half a million images.
pub(crate) const MAX_LIST: u64 = 64 * MIB;
/// A lock: an image with children and referrers has 1 to 2 KB, so these are 100,000 images and more.
pub(crate) const MAX_LOCK: u64 = 256 * MIB;
/// What other systems print of their rules, and manifests that are scanned for images: a cluster's whole YAML has some 10 MB.
pub(crate) const MAX_FOREIGN: u64 = 64 * MIB;
/// A certificate or key: the bundle of all public authorities has 250 KB.
pub(crate) const MAX_PEM: u64 = 16 * MIB;

/// The whole file, if it is one that ends and has no more than `most` bytes.
///
/// # Errors
/// If it cannot be read, is a device or a named pipe, or is larger. The error says which, for a person.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_from(open(path)?, most)
}

/// As [`read`], for text.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Everything of a stream, if that is no more than `most` bytes.
///
/// # Errors
/// If it cannot be read, or is larger.
pub(crate) fn read_from(stream: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    stream.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {}", size(most))));
    }
    Ok(bytes)
}

/// Opens a file for reading, if it is one that ends.
///
/// # Errors
/// If it cannot be opened, or is a device, a socket or a named pipe.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let meta = fs::metadata(path)?;
    match unsuitable(path, &meta) {
        None => File::open(path),
        Some(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
    }
}

/// Why a file of this kind is not read: looked at before it is opened, because opening a pipe waits for its writer.
pub(crate) fn unsuitable(path: &Path, meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    if kind.is_file() || is_opened_already(path) || is_null(path) {
        None
    } else if kind.is_dir() {
        Some("it is a folder")
    } else if kind.is_fifo() {
        Some("it is a named pipe: name a file, or - and pipe into standard input")
    } else if kind.is_socket() {
        Some("it is a socket, not a file")
    } else {
        Some("it is a device, not a file")
    }
}

/// Why a file of this kind is not written to; `None` also if there is none yet.
pub(crate) fn unsuitable_output(path: &Path) -> Option<&'static str> {
    let kind = fs::metadata(path).ok()?.file_type();
    if kind.is_file() || is_opened_already(path) || is_null(path) {
        None
    } else if kind.is_dir() {
        Some("it is a folder")
    } else if kind.is_fifo() {
        Some("it is a named pipe, which waits for a reader: name a file")
    } else if kind.is_socket() {
        Some("it is a socket, not a file")
    } else {
        Some("it is a device, not a file")
    }
}

/// Whether the path means something that this process has open: `/dev/stdin`, and what a shell gives for `<(command)`.
pub(crate) fn is_opened_already(path: &Path) -> bool {
    let std = ["/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/tty"];
    std.iter().any(|name| path == Path::new(name)) || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

/// The device that holds nothing and takes everything.
fn is_null(path: &Path) -> bool {
    path == Path::new("/dev/null")
}

/// A bound, for a person.
pub(crate) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_end_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, pipe, link) = (folder.path().join("file"), folder.path().join("pipe"), folder.path().join("link"));
        fs::write(&file, "four").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert_eq!(read(&file, 4).unwrap(), b"four");
        assert_eq!(read(Path::new("/dev/null"), 4).unwrap(), b"");
        for (path, most, why) in [
            (file.as_path(), 3, "it has more than 3 B"),
            (&pipe, 4, "it is a named pipe"),
            (&link, 4, "it is a device"),
            (Path::new("/dev/zero"), 4, "it is a device"),
            (folder.path(), 4, "it is a folder"),
        ] {
            assert!(read(path, most).unwrap_err().to_string().starts_with(why), "{}", path.display());
        }
        assert_eq!(read(&folder.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
        for (path, allowed) in
            [(file.as_path(), true), (&pipe, false), (&link, false), (Path::new("/dev/null"), true), (Path::new("/dev/full"), false)]
        {
            assert_eq!(unsuitable_output(path).is_none(), allowed, "{}", path.display());
        }
        assert!(unsuitable_output(&folder.path().join("none")).is_none());
    }

    #[test]
    fn a_stream_is_read_up_to_its_bound() {
        assert_eq!(read_from(&b"four"[..], 4).unwrap(), b"four");
        assert!(read_from(io::repeat(0), 4).is_err());
    }
}
