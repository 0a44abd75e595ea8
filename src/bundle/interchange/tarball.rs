//! A tar file of any tool's making, by its headers only: where each file begins.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bundle::read::{OpenPart, Where};
use crate::{Error, Kind, Result, Side};

/// Members of an archive: the largest `docker save` archives have a few thousand. More is a trap.
const MOST_MEMBERS: usize = 4_000_000;

/// As many links are followed: `docker save` writes one at most.
const MOST_LINKS: usize = 8;

/// A file in a tar file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TarMember {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// What a tar file holds.
#[derive(Debug)]
pub(super) struct Tarball {
    path: PathBuf,
    file: Arc<File>,
    files: BTreeMap<String, TarMember>,
    links: BTreeMap<String, String>,
}

impl Tarball {
    /// Goes through the headers of `file`, which messages call `path`. `None`: it is no tar file.
    ///
    /// # Errors
    /// If it cannot be read, or is a tar file that breaks off.
    pub(super) fn scan(path: &Path, file: &Arc<File>) -> Result<Option<Self>> {
        let io = |error: io::Error| Error::io(super::OP, path, &error);
        let mut tarball = Tarball { path: path.to_owned(), file: Arc::clone(file), files: BTreeMap::new(), links: BTreeMap::new() };
        (&**file).rewind().map_err(io)?;
        let mut archive = tar::Archive::new(&**file);
        let Ok(entries) = archive.entries_with_seek() else { return Ok(None) };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                // What is wrong with its first header is no tar file.
                Err(_) if tarball.is_empty() => return Ok(None),
                Err(error) => return Err(damaged(path, &error.to_string())),
            };
            let Some(name) = std::str::from_utf8(&entry.path_bytes()).ok().and_then(normal) else { continue };
            let kind = entry.header().entry_type();
            if kind.is_file() || kind.is_contiguous() {
                tarball.files.insert(name, TarMember { offset: entry.raw_file_position(), len: entry.size() });
            } else if let Some(link) = entry.link_name_bytes().and_then(|link| String::from_utf8(link.into_owned()).ok())
                && let Some(target) = if kind.is_hard_link() { normal(&link) } else { beside(&name, &link) }
            {
                tarball.links.insert(name, target);
            }
            if tarball.files.len() + tarball.links.len() > MOST_MEMBERS {
                return Err(damaged(path, &format!("it has more than {MOST_MEMBERS} members")));
            }
        }
        Ok(if tarball.is_empty() { None } else { Some(tarball) })
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.links.is_empty()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Plain files, by name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, TarMember)> {
        self.files.iter().map(|(name, member)| (name.as_str(), *member))
    }

    /// The file of this name, through links.
    pub(super) fn find(&self, name: &str) -> Option<TarMember> {
        let mut name = normal(name)?;
        for _ in 0..MOST_LINKS {
            if let Some(member) = self.files.get(&name) {
                return Some(*member);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }

    /// The bytes of a small file.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let member = self.find(name).ok_or_else(|| damaged(&self.path, &format!("it has no `{name}`")))?;
        if member.len > most {
            return Err(damaged(&self.path, &format!("`{name}` has {} bytes", member.len)));
        }
        let mut bytes = vec![];
        self.open(member).read_to_end(&mut bytes).map_err(|error| Error::io(super::OP, &self.path, &error))?;
        if bytes.len() as u64 == member.len { Ok(bytes) } else { Err(damaged(&self.path, &format!("it ends within `{name}`"))) }
    }

    /// The member's bytes.
    pub(super) fn open(&self, member: TarMember) -> impl Read + use<> {
        OpenPart { file: Arc::clone(&self.file), at: member.offset, left: member.len }
    }

    /// Where the member's bytes are.
    pub(super) fn at(&self, member: TarMember) -> Where {
        Where::Open { file: Arc::clone(&self.file), offset: member.offset }
    }

    /// Some of its files, for a person.
    pub(super) fn some_names(&self) -> String {
        let mut names: Vec<&str> = self.files.keys().map(String::as_str).take(3).collect();
        if self.files.len() > names.len() {
            names.push("...");
        }
        names.join(", ")
    }
}

pub(super) fn damaged(path: &Path, why: &str) -> Error {
    Error::new(Side::Local, super::OP, Kind::Damaged, format!("{}: {why}", path.display()))
}

/// A name without `.` and empty parts; none if it leads out of the archive.
fn normal(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = vec![];
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// What a symbolic link in `name`'s folder leads to.
fn beside(name: &str, link: &str) -> Option<String> {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    if link.starts_with('/') { None } else { normal(&format!("{folder}/{link}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(bytes: &[u8]) -> Result<Option<Tarball>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Tarball::scan(file.path(), &Arc::new(File::open(file.path()).unwrap()))
    }

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add("./a/one", b"1");
        add(&format!("{}/long", "d".repeat(150)), b"22");
        let mut link = |kind, name: &str, to: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            builder.append_link(&mut header, name, to).unwrap();
        };
        link(tar::EntryType::Symlink, "b/soft", "../a/one");
        link(tar::EntryType::Link, "b/hard", "a/one");
        link(tar::EntryType::Symlink, "chain", "b/soft");
        link(tar::EntryType::Symlink, "loop", "loop");
        link(tar::EntryType::Symlink, "out", "../../etc/passwd");
        link(tar::EntryType::Symlink, "root", "/etc/passwd");
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_are_found_under_any_spelling_and_through_links() {
        let tarball = scan(&archive()).unwrap().unwrap();
        let one = tarball.find("a/one").unwrap();
        assert_eq!(one.len, 1);
        for name in ["./a/one", "a//one", "a/b/../one", "b/soft", "b/hard", "chain"] {
            assert_eq!(tarball.find(name), Some(one), "{name}");
        }
        assert_eq!(tarball.find(&format!("{}/long", "d".repeat(150))).unwrap().len, 2);
        for name in ["loop", "out", "root", "a", "../a/one", ""] {
            assert_eq!(tarball.find(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_tar_file_is_none_and_one_that_breaks_off_is_damaged() {
        assert!(scan(b"").unwrap().is_none());
        assert!(scan(&[0; 2048]).unwrap().is_none());
        assert!(scan(&[7; 2048]).unwrap().is_none());
        let mut broken = archive();
        broken[1024] ^= 1;
        assert_eq!(scan(&broken).unwrap_err().kind(), Kind::Damaged);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in 0usize..3000, turned in any::<u8>()) {
            let _ = scan(&bytes);
            let mut turned_archive = archive();
            let length = turned_archive.len();
            turned_archive[at % length] ^= turned;
            let _ = scan(&turned_archive);
        }
    }
}
