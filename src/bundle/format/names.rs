//! Names in a bundle: of the bundle, its files, its images and their repositories.

use std::path::Path;

use crate::content::Digest;
use crate::name::check_tag;

/// The end of the file name of a bundle's record.
pub const BUNDLE_SUFFIX: &str = ".bundle.json";

/// The longest bundle name, in bytes. With `-0001.tar.partial` it stays within the 255 bytes that file systems allow.
const MAX_NAME: usize = 200;

/// The longest repository name that is accepted, in bytes: 255 as in a registry (docs/registries.md, "Names"), and a host before it.
const MAX_REPOSITORY: usize = 512;

/// `NAME-0001.tar`
pub fn volume_file(name: &str, number: u32) -> String {
    format!("{name}-{number:04}.tar")
}

/// The bundle name and the volume number in a file name of the form `NAME-0007.tar`.
pub(in crate::bundle) fn parse_volume_file(path: &Path) -> Option<(String, u32)> {
    let (name, digits) = path.file_name()?.to_str()?.strip_suffix(".tar")?.rsplit_once('-')?;
    let plain = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|number| plain && *number > 0)?;
    (!name.is_empty()).then(|| (name.to_owned(), number))
}

/// `NAME.bundle.json`
pub fn bundle_file(name: &str) -> String {
    format!("{name}{BUNDLE_SUFFIX}")
}

/// Whether the file name at `path` is that of a bundle's record.
pub(in crate::bundle) fn is_bundle_file(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(BUNDLE_SUFFIX))
}

/// The name of a bundle without `--name`.
pub fn default_name(id: &Digest) -> String {
    format!("bundle-{}", id.short())
}

/// Checks a bundle's name, which becomes part of file names.
///
/// # Errors
/// What is wrong with it, as a message.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) || name.starts_with(['.', '-']) {
        return Err(format!(
            "invalid bundle name `{name}` (use letters, digits, `.`, `_` and `-`, at most {MAX_NAME}; do not begin with `.` or `-`)"
        ));
    }
    Ok(())
}

/// Checks an image's name at a target.
pub(super) fn check_image_name(name: &str) -> Result<(), String> {
    let wrong = || format!("invalid image name `{name}`");
    match name.split_once('@') {
        Some((repository, digest)) => check_repository(repository).and_then(|()| Digest::parse(digest).map(drop)).map_err(|_| wrong()),
        None => {
            let (repository, tag) = name.rsplit_once(':').ok_or_else(wrong)?;
            check_repository(repository).and_then(|()| check_tag(tag)).map_err(|_| wrong())
        }
    }
}

/// Checks a repository of a target: of a registry, or of a layout, where it may begin with a host and its port.
/// It must not be usable as a path to another folder.
pub(super) fn check_repository(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '[' | ']');
    let component = |part: &str| part.chars().all(plain) && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    if text.len() <= MAX_REPOSITORY && text.split('/').all(component) { Ok(()) } else { Err(format!("invalid repository `{text}`")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_file_name_has_the_bundle_name_and_the_number() {
        for (file, expected) in [
            ("jan-0007.tar", Some(("jan", 7))),
            ("a-b-12345.tar", Some(("a-b", 12345))),
            ("jan-7.tar", None),
            ("jan-0000.tar", None),
            ("-0001.tar", None),
            ("jan-000x.tar", None),
            ("jan-0001.tar.partial", None),
        ] {
            let parsed = parse_volume_file(Path::new(file));
            assert_eq!(parsed.as_ref().map(|(name, number)| (name.as_str(), *number)), expected, "{file}");
        }
    }
}
