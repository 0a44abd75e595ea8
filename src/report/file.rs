//! The files that a run leaves behind, replaced in one step so that a reader never sees half of one.

use std::io::{self, BufWriter, Write};
use std::path::Path;

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether `path` is written to where it is: a device, a pipe, or a link, which leads to a file that has its own place
/// (`/dev/stdout`, a link that an operator made). All else is replaced.
pub(crate) fn in_place(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
}

/// Sees that writing there ends.
fn suitable(path: &Path) -> io::Result<()> {
    crate::input::unsuitable_output(path).map_or(Ok(()), |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why)))
}

/// Replaces the file `path` by `bytes`.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(path, |file| file.write_all(bytes))
}

/// As [`replace`], by what `write` writes, so that a long file is never in memory as a whole.
pub(crate) fn replace_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    suitable(path)?;
    if in_place(path) {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        write(&mut file)?;
        return file.flush();
    }
    let mut file = tempfile::Builder::new().permissions(permissions()).tempfile_in(folder(path))?;
    let mut writer = BufWriter::new(file.as_file_mut());
    write(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    crate::folder::sync(folder(path))
}

/// Sees whether [`replace`] has a chance, which is better known before a run than after it. Nothing is left behind.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    suitable(path)?;
    if in_place(path) {
        return Ok(());
    }
    let folder = folder(path);
    if !folder.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its folder does not exist"));
    }
    tempfile::tempfile_in(folder)
        .map(drop)
        .map_err(|error| io::Error::new(error.kind(), format!("its folder cannot be written to: {}", plain(&error))))
}

/// What went wrong, without the temporary file's name that the error carries.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" at path ").next().unwrap_or(&text).to_owned()
}

/// Temporary files are private by default; a report is to be read by others, as far as the umask lets them.
#[cfg(unix)]
fn permissions() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_replaced_and_a_link_is_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("report.json"), folder.path().join("latest.json"));
        fs::write(&file, "old, and longer").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for (path, bytes) in [(&file, "one"), (&link, "two")] {
            check(path).unwrap();
            replace(path, bytes.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), bytes);
        }
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for (name, why) in [("", "is a folder"), ("none/report", "does not exist"), ("file/report", "does not exist")] {
            let error = check(&folder.path().join(name)).unwrap_err();
            assert!(error.to_string().contains(why), "{name}: {error}");
        }
        check(&folder.path().join("report")).unwrap();
        check(Path::new("/dev/null")).unwrap();
        assert!(replace(Path::new("/dev/full"), b"x").unwrap_err().to_string().contains("is a device"));
    }
}
