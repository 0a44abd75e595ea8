//! Room on disks.

use std::path::Path;

use crate::{Error, Result};

/// How many bytes an unprivileged process may still write to the file system of `path`, which must exist.
///
/// # Errors
/// If the file system does not say.
pub fn free(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).map_err(|error| Error::io("look for free space", path, &error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Sees that `needed` more bytes fit below `path`, which must exist.
///
/// # Errors
/// `Kind::DiskFull`, naming both numbers.
pub fn check(path: &Path, needed: u64) -> Result<()> {
    let free = free(path)?;
    if needed <= free {
        return Ok(());
    }
    let message = format!("{} has {free} bytes free, and {needed} are needed", path.display());
    Err(Error::new(crate::Side::Local, "look for free space", crate::Kind::DiskFull, message)
        .remedy("free space there, or name another folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let free = free(folder.path()).unwrap();
        assert!(free > 0);
        check(folder.path(), 1).unwrap();
        let error = check(folder.path(), u64::MAX).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::DiskFull);
        assert!(error.message().contains(&u64::MAX.to_string()) && error.message().contains("bytes free"), "{error}");
        assert!(check(&folder.path().join("none"), 1).is_err());
    }
}
