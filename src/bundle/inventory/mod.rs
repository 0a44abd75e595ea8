//! What a store holds, and in which repositories: the lines `digest repository` that `larder inventory` prints and that `--base` takes.
//!
//! Small to carry: a line is about 90 bytes, and as zstd (RFC 8878) about half of that, because digests do not compress.

mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::content::{Digest, Repository};
use crate::{Error, Result, input};
pub use walk::{Roots, walk};

const OP: &str = "read inventory";

/// How a zstd frame begins (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A digest has at most 200 characters here and a repository 255; what is longer is another kind of file.
const LONGEST_LINE: u64 = 512;

/// As text, unpacked: 5 million digests, as many as a registry of 100,000 images has. Of what compresses better than digests do, a few KB could
/// unpack to any size.
const MAX_TEXT: u64 = 512 * 1024 * 1024;

/// The digests that a store holds, each with its repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    digests: BTreeMap<Digest, BTreeSet<Repository>>,
}

impl Inventory {
    /// Notes that `repository` holds `digest`.
    pub fn add(&mut self, digest: Digest, repository: Repository) {
        self.digests.entry(digest).or_default().insert(repository);
    }

    /// Keeps what `keep` says; how many digests that left out.
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
    pub fn places(&self, digest: &Digest) -> impl Iterator<Item = &Repository> {
        self.digests.get(digest).into_iter().flatten()
    }

    /// All digests, sorted, each with its repositories.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &BTreeSet<Repository>)> {
        self.digests.iter()
    }

    /// How many digests it names.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether it names none: of an empty store.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Reads the file at `path`, plain or as zstd, which its first bytes tell.
    ///
    /// # Errors
    /// If it cannot be read, or a line is none of an inventory: `file:line: what is wrong`.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |error| Error::io(OP, path, &error);
        let mut file = input::open(path).map_err(io)?;
        // An empty file is the inventory of an empty store.
        let mut magic = vec![];
        (&mut file).take(ZSTD.len() as u64).read_to_end(&mut magic).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let name = path.display().to_string();
        if magic != ZSTD {
            return Self::parse(&name, BufReader::new(file));
        }
        let frame =
            StreamingDecoder::new(BufReader::new(file)).map_err(|error| Error::local(OP, format!("{name}: no zstd frame: {error}")))?;
        Self::parse(&name, BufReader::new(frame))
    }

    /// Reads its lines; `name` is what messages call them.
    ///
    /// # Errors
    /// As [`Inventory::read`].
    pub fn parse(name: &str, mut lines: impl BufRead) -> Result<Self> {
        let mut inventory = Inventory::default();
        let mut left = MAX_TEXT;
        // Most lines name one of few repositories: they share their text.
        let mut places: HashMap<Box<str>, Repository> = HashMap::new();
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
            let known = match places.get(repository) {
                Some(known) => known.clone(),
                None => places.entry(repository.into()).or_insert_with(|| Repository::new(repository)).clone(),
            };
            inventory.add(digest, known);
        }
        Ok(inventory)
    }

    /// Its lines, sorted, each ended by a line feed.
    pub fn to_text(&self) -> String {
        let lines =
            self.digests.iter().flat_map(|(digest, places)| places.iter().map(move |repository| format!("{digest} {repository}\n")));
        lines.collect()
    }

    /// Its lines as one zstd frame.
    pub fn to_zstd(&self) -> Vec<u8> {
        compress_to_vec(self.to_text().as_bytes(), CompressionLevel::Fastest)
    }
}

/// Reads `digest repository`. The error is for a person.
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
        assert_eq!(written.places(&x).map(Repository::as_str).collect::<Vec<_>>(), ["library/a", "library/b"]);
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
    fn an_empty_file_is_of_an_empty_store_and_windows_line_ends_do_no_harm() {
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
    fn what_is_no_line_is_named_with_its_place() {
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
        assert!(Inventory::read(&path).is_err(), "a torn frame is no inventory");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(lines in proptest::collection::vec(("[a-d]{1,2}", "[a-z]{1,4}(/[a-z]{1,4})?"), 0..20)) {
            let lines: Vec<(&str, &str)> = lines.iter().map(|(content, repository)| (content.as_str(), repository.as_str())).collect();
            let written = inventory(&lines);
            let text = written.to_text();
            let mut sorted: Vec<&str> = text.lines().collect();
            sorted.sort_unstable();
            prop_assert_eq!(text.lines().collect::<Vec<_>>(), sorted);
            prop_assert_eq!(Inventory::parse("i", text.as_bytes()).unwrap(), written);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), frame in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("any");
            let bytes = if frame { [&ZSTD[..], &bytes].concat() } else { bytes };
            std::fs::write(&path, bytes).unwrap();
            let _ = Inventory::read(&path);
        }
    }
}
