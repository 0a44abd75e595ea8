//! The index of a tar file of any tool: the offset of each file, from the headers alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bundle::read::{FileSlice, Piece, PieceLocation};
use crate::{Error, Kind, Operation, Result, Side};

/// The operation in errors about archives.
pub(super) const OP: Operation = Operation::ReadArchive;

/// The largest number of members that is accepted. The largest `docker save` archives have a few thousand.
const MOST_MEMBERS: usize = 4_000_000;

/// The number of links that are followed one after the other: `docker save` writes one at most.
const MOST_LINKS: usize = 8;

/// A file in a tar file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TarMember {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The files and links of a tar file.
#[derive(Debug)]
pub(super) struct TarIndex {
    path: PathBuf,
    file: Arc<File>,
    files: BTreeMap<String, TarMember>,
    links: BTreeMap<String, String>,
    /// Files that are stored without their holes (`tar --sparse`): their bytes are not in one piece.
    sparse: BTreeSet<String>,
}

impl TarIndex {
    /// Reads the headers of `file`, whose name in messages is `path`. `None`: it is no tar file.
    ///
    /// # Errors
    /// If it cannot be read, or is a damaged tar file.
    pub(super) fn scan(path: &Path, file: &Arc<File>) -> Result<Option<Self>> {
        let (files, links, sparse) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut index = TarIndex { path: path.to_owned(), file: Arc::clone(file), files, links, sparse };
        (&**file).rewind().map_err(|error| Error::io(OP, path, &error))?;
        let mut archive = tar::Archive::new(&**file);
        let Ok(entries) = archive.entries_with_seek() else { return Ok(None) };
        for entry in entries {
            let mut entry = match entry {
                Ok(entry) => entry,
                // A file whose first header is invalid is no tar file.
                Err(_) if index.is_empty() => return Ok(None),
                Err(error) => return Err(damaged(path, &error.to_string())),
            };
            if let Some(name) = sparse_name(&mut entry) {
                index.sparse.extend(normal(&name));
                continue;
            }
            let Some(name) = std::str::from_utf8(&entry.path_bytes()).ok().and_then(normal) else { continue };
            let kind = entry.header().entry_type();
            if kind.is_file() || kind.is_contiguous() {
                index.files.insert(name, TarMember { offset: entry.raw_file_position(), len: entry.size() });
            } else if let Some(link) = entry.link_name_bytes().and_then(|link| String::from_utf8(link.into_owned()).ok())
                && let Some(target) = if kind.is_hard_link() { normal(&link) } else { beside(&name, &link) }
            {
                index.links.insert(name, target);
            }
            if index.files.len() + index.links.len() + index.sparse.len() > MOST_MEMBERS {
                return Err(damaged(path, &format!("it has more than {MOST_MEMBERS} members")));
            }
        }
        Ok(if index.is_empty() { None } else { Some(index) })
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.links.is_empty() && self.sparse.is_empty()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Regular files, by name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, TarMember)> {
        self.files.iter().map(|(name, member)| (name.as_str(), *member))
    }

    /// The file of this name; follows links.
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

    /// Why [`TarIndex::find`] does not find this file.
    pub(super) fn lacks(&self, name: &str) -> String {
        let name = normal(name).unwrap_or_else(|| name.to_owned());
        match self.links.get(&name) {
            _ if self.sparse.contains(&name) => format!("`{name}` is stored as a sparse file: pack the archive again without `--sparse`"),
            Some(target) => format!("`{name}` is a link to `{target}`, which is not in the archive"),
            None => format!("it has no `{name}`"),
        }
    }

    /// The bytes of a file of at most `most` bytes.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let member = self.find(name).ok_or_else(|| damaged(&self.path, &self.lacks(name)))?;
        if member.len > most {
            return Err(damaged(&self.path, &format!("`{name}` has {} bytes", member.len)));
        }
        let mut bytes = vec![];
        self.open(member).read_to_end(&mut bytes).map_err(|error| Error::io(OP, &self.path, &error))?;
        if bytes.len() as u64 == member.len { Ok(bytes) } else { Err(damaged(&self.path, &format!("it ends within `{name}`"))) }
    }

    /// The member's bytes.
    pub(super) fn open(&self, member: TarMember) -> impl Read + use<> {
        FileSlice { file: Arc::clone(&self.file), offset: member.offset, len: member.len }
    }

    /// The member as a piece of the file with the index `origin`.
    pub(super) fn piece(&self, origin: usize, member: TarMember) -> Piece {
        Piece { origin, location: PieceLocation::Open { file: Arc::clone(&self.file), offset: member.offset }, len: member.len }
    }

    /// Some of its files, for a message.
    pub(super) fn some_names(&self) -> String {
        let mut names: Vec<&str> = self.files.keys().map(String::as_str).take(3).collect();
        if self.files.len() > names.len() {
            names.push("...");
        }
        names.join(", ")
    }
}

/// The name of a file that is stored without its holes: GNU tar's own entry type, or its version for pax archives.
fn sparse_name(entry: &mut tar::Entry<'_, &File>) -> Option<String> {
    if entry.header().entry_type().is_gnu_sparse() {
        return String::from_utf8(entry.path_bytes().into_owned()).ok();
    }
    let extensions = entry.pax_extensions().ok()??;
    let (mut sparse, mut name) = (false, None);
    for (key, value) in extensions.flatten().filter_map(|extension| Some((extension.key().ok()?, extension.value().ok()?))) {
        sparse |= key.starts_with("GNU.sparse.");
        if key == "GNU.sparse.name" {
            name = Some(value.to_owned());
        }
    }
    if sparse { name.or_else(|| String::from_utf8(entry.path_bytes().into_owned()).ok()) } else { None }
}

pub(super) fn damaged(path: &Path, why: &str) -> Error {
    Error::new(Side::Local, OP, Kind::Damaged, format!("{}: {why}", path.display()))
}

/// The name without `.` and empty parts; `None` if it leads out of the archive.
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

/// The target of the symbolic link `name`.
fn beside(name: &str, link: &str) -> Option<String> {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    if link.starts_with('/') { None } else { normal(&format!("{folder}/{link}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(bytes: &[u8]) -> Result<Option<TarIndex>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        TarIndex::scan(file.path(), &Arc::new(File::open(file.path()).unwrap()))
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
    fn files_are_found_by_any_spelling_and_through_links() {
        let index = scan(&archive()).unwrap().unwrap();
        let one = index.find("a/one").unwrap();
        assert_eq!(one.len, 1);
        for name in ["./a/one", "a//one", "a/b/../one", "b/soft", "b/hard", "chain"] {
            assert_eq!(index.find(name), Some(one), "{name}");
        }
        assert_eq!(index.find(&format!("{}/long", "d".repeat(150))).unwrap().len, 2);
        for name in ["loop", "out", "root", "a", "../a/one", ""] {
            assert_eq!(index.find(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_found_has_a_reason() {
        let mut members = archive();
        members.truncate(members.len() - 1024);
        let mut builder = tar::Builder::new(members);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.as_gnu_mut().unwrap().set_real_size(0);
        header.set_size(0);
        builder.append_data(&mut header, "old.tar", &b""[..]).unwrap();
        builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.name", b"./new.tar")]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        builder.append_data(&mut header, "GNUSparseFile.1/new.tar", &b"map"[..]).unwrap();
        let index = scan(&builder.into_inner().unwrap()).unwrap().unwrap();
        for name in ["old.tar", "new.tar"] {
            assert!(index.find(name).is_none());
            assert_eq!(index.lacks(name), format!("`{name}` is stored as a sparse file: pack the archive again without `--sparse`"));
        }
        assert_eq!(index.lacks("loop"), "`loop` is a link to `loop`, which is not in the archive");
        assert_eq!(index.lacks("nothing"), "it has no `nothing`");
    }

    #[test]
    fn other_files_have_no_index_and_a_truncated_tar_file_is_damaged() {
        assert!(scan(b"").unwrap().is_none());
        assert!(scan(&[0; 2048]).unwrap().is_none());
        assert!(scan(&[7; 2048]).unwrap().is_none());
        let mut broken = archive();
        broken[1024] ^= 1;
        assert_eq!(scan(&broken).unwrap_err().kind(), Kind::Damaged);
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in 0usize..3000, turned in any::<u8>()) {
            let _ = scan(&bytes);
            let mut turned_archive = archive();
            let length = turned_archive.len();
            turned_archive[at % length] ^= turned;
            let _ = scan(&turned_archive);
        }
    }
}
