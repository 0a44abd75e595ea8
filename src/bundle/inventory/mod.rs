//! The digests that a target holds, and their repositories: lines of the form `digest repository`, which `larder inventory`
//! prints and `--base` takes.
//!
//! A line has about 90 bytes, and compressed by zstd (RFC 8878) about half of that, because digests do not compress.

mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::content::{Digest, Repository};
use crate::{Error, Operation, Result, input};
pub use walk::{Roots, walk};

const OP: Operation = Operation::ReadInventory;

/// The magic number of a zstd frame (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The longest line in bytes. A digest has at most 200 characters here and a repository 255; a file with longer lines is
/// not an inventory.
const LONGEST_LINE: u64 = 512;

/// The largest uncompressed inventory in bytes: 5 million digests, as many as a registry of 100,000 images has. Without a
/// limit, a few KB of other content could decompress to any size.
const MAX_TEXT: u64 = 512 * 1024 * 1024;

/// The digests that a target holds, each with its repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    digests: BTreeMap<Digest, BTreeSet<Repository>>,
}

impl Inventory {
    /// Adds that `repository` holds `digest`.
    pub fn add(&mut self, digest: Digest, repository: Repository) {
        self.digests.entry(digest).or_default().insert(repository);
    }

    /// Keeps the digests for which `keep` is true; the number of those removed.
    pub fn retain(&mut self, mut keep: impl FnMut(&Digest) -> bool) -> usize {
        let before = self.digests.len();
        self.digests.retain(|digest, _| keep(digest));
        before - self.digests.len()
    }

    /// Whether any repository holds `digest`.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.digests.contains_key(digest)
    }

    /// The repositories that hold `digest`, sorted.
    pub fn repositories(&self, digest: &Digest) -> impl Iterator<Item = &Repository> {
        self.digests.get(digest).into_iter().flatten()
    }

    /// All digests, sorted, each with its repositories.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &BTreeSet<Repository>)> {
        self.digests.iter()
    }

    /// The number of digests.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether it has no digests: the inventory of an empty target.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Reads the file at `path`, plain text or zstd, which its first bytes tell.
    ///
    /// # Errors
    /// If it cannot be read, or a line is invalid: `file:line: reason`.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |error| Error::io(OP, path, &error);
        let mut file = input::open(path).map_err(io)?;
        // An empty file is the inventory of an empty target.
        let mut magic = vec![];
        (&mut file).take(ZSTD.len() as u64).read_to_end(&mut magic).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let name = path.display().to_string();
        if magic != ZSTD {
            return Self::parse(&name, BufReader::new(file));
        }
        let frame = StreamingDecoder::new(BufReader::new(file))
            .map_err(|error| Error::local(OP, format!("{name}: invalid zstd frame: {error}")))?;
        Self::parse(&name, BufReader::new(frame))
    }

    /// Parses its lines; `name` is the name of the file in messages.
    ///
    /// # Errors
    /// As [`Inventory::read`].
    pub fn parse(name: &str, mut lines: impl BufRead) -> Result<Self> {
        let mut inventory = Inventory::default();
        let mut left = MAX_TEXT;
        // Most lines have one of few repositories: share their text.
        let mut repositories: HashMap<Box<str>, Repository> = HashMap::new();
        let mut line = String::new();
        for number in 1.. {
            line.clear();
            let read = (&mut lines).take(LONGEST_LINE).read_line(&mut line);
            let wrong = |why: &str| Error::local(OP, format!("{name}:{number}: {why}"));
            if read.map_err(|error| wrong(&error.to_string()))? == 0 {
                break;
            }
            left = left.checked_sub(line.len() as u64).ok_or_else(|| wrong(&format!("it has more than {}", input::size(MAX_TEXT))))?;
            let text = line.strip_prefix('\u{feff}').unwrap_or(&line).trim_end();
            if text.is_empty() {
                continue;
            }
            let (digest, repository) = entry(text).map_err(|why| wrong(&why))?;
            let known = match repositories.get(repository) {
                Some(known) => known.clone(),
                None => repositories.entry(repository.into()).or_insert_with(|| Repository::new(repository)).clone(),
            };
            inventory.add(digest, known);
        }
        Ok(inventory)
    }

    /// Its lines, sorted, each with a line feed at its end.
    pub fn to_text(&self) -> String {
        let lines = self
            .digests
            .iter()
            .flat_map(|(digest, repositories)| repositories.iter().map(move |repository| format!("{digest} {repository}\n")));
        lines.collect()
    }

    /// Its lines as one zstd frame.
    pub fn to_zstd(&self) -> Vec<u8> {
        compress_to_vec(self.to_text().as_bytes(), CompressionLevel::Fastest)
    }
}

/// Parses `digest repository`; the error is a message.
fn entry(text: &str) -> Result<(Digest, &str), String> {
    const SHAPE: &str = "an inventory's lines are `digest repository`, as `larder inventory` prints them";
    let (digest, repository) = text.split_once(' ').ok_or(SHAPE)?;
    let repository = repository.trim_start();
    if repository.is_empty() || repository.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(SHAPE.to_owned());
    }
    let digest = Digest::parse(digest).map_err(|_| SHAPE.to_owned())?;
    Ok((digest, repository))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inventory(lines: &[(&str, &str)]) -> Inventory {
        let mut inventory = Inventory::default();
        for (content, repository) in lines {
            inventory.add(Digest::sha256(content.as_bytes()), Repository::new(*repository));
        }
        inventory
    }

    #[test]
    fn lines_are_sorted_and_read_back_plain_and_compressed() {
        let written = inventory(&[("x", "library/b"), ("y", "team/app"), ("x", "library/a"), ("x", "library/b")]);
        insta::assert_snapshot!(written.to_text(), @r"
        sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 library/a
        sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 library/b
        sha256:a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa team/app
        ");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inventory");
        for bytes in [written.to_text().into_bytes(), written.to_zstd()] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Inventory::read(&path).unwrap(), written);
        }
        let x = Digest::sha256(b"x");
        assert_eq!(written.repositories(&x).map(Repository::as_str).collect::<Vec<_>>(), ["library/a", "library/b"]);
        assert!(written.holds(&x) && !written.holds(&Digest::sha256(b"z")));
    }

    #[test]
    fn compressed_it_is_about_half_as_long() {
        let mut many = Inventory::default();
        for n in 0..5000 {
            many.add(Digest::sha256(format!("{n}").as_bytes()), Repository::new(format!("team/app-{}", n % 20)));
        }
        let (plain, compressed) = (many.to_text().len(), many.to_zstd().len());
        assert!(compressed * 100 < plain * 60, "{compressed} of {plain}");
    }

    #[test]
    fn an_empty_file_is_an_empty_inventory_and_windows_line_ends_are_accepted() {
        assert!(Inventory::parse("i", &b""[..]).unwrap().is_empty());
        let line = inventory(&[("x", "a")]).to_text();
        let windows = format!("\u{feff}{}\r\n\r\n", line.trim_end());
        assert_eq!(Inventory::parse("i", windows.as_bytes()).unwrap().len(), 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, Inventory::default().to_zstd()).unwrap();
        assert!(Inventory::read(&path).unwrap().is_empty());
    }

    #[test]
    fn an_invalid_line_is_reported_with_its_number() {
        let good = inventory(&[("x", "a")]).to_text();
        let digest = &good[..71];
        for bad in [digest, &format!("{digest} "), &format!("{digest} a b"), "sha256:abc a", "a b", &"x".repeat(1000)] {
            let error = Inventory::parse("far.txt", format!("{good}{bad}\n").as_bytes()).unwrap_err().message();
            assert!(error.starts_with("far.txt:2: an inventory's lines are"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("torn.zst");
        let whole = inventory(&[("x", "a")]).to_zstd();
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        assert!(Inventory::read(&path).is_err(), "a truncated frame is invalid");
    }

    proptest! {
        #[test]
        fn written_inventories_are_read_back(lines in proptest::collection::vec(("[a-d]{1,2}", "[a-z]{1,4}(/[a-z]{1,4})?"), 0..20)) {
            let lines: Vec<(&str, &str)> = lines.iter().map(|(content, repository)| (content.as_str(), repository.as_str())).collect();
            let written = inventory(&lines);
            let text = written.to_text();
            let mut sorted: Vec<&str> = text.lines().collect();
            sorted.sort_unstable();
            prop_assert_eq!(text.lines().collect::<Vec<_>>(), sorted);
            prop_assert_eq!(Inventory::parse("i", text.as_bytes()).unwrap(), written);
        }

        #[test]
        fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..200), frame in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("any");
            let bytes = if frame { [&ZSTD[..], &bytes].concat() } else { bytes };
            std::fs::write(&path, bytes).unwrap();
            let _ = Inventory::read(&path);
        }
    }
}
