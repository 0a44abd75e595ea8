//! What is at hand of a bundle: its record, and some of its volumes, by whatever names and in whatever folders.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{OP, name_of};
use crate::bundle::format::{
    BUNDLE_SUFFIX, Bundle, INDEX_PATH, IndexMember, MARKER, MARKER_PATH, MAX_RECORD, RECORD_PATH, VolumeMember, VolumeRecord,
};
use crate::bundle::format::{default_name, volume_file};
use crate::bundle::plan::PlannedVolume;
use crate::bundle::tar;
use crate::content::Digest;
use crate::folder;
use crate::{Error, Kind, Result, Side};

/// One bundle.
pub(super) struct BundleFiles {
    /// Its name, or what it would be called.
    pub(super) name: String,
    record: Option<Bundle>,
    pub(super) index: IndexMember,
    /// How many volumes it has.
    pub(super) volumes: u32,
    /// The volumes at hand.
    pub(super) files: BTreeMap<u32, AvailableVolume>,
    /// What its base has.
    pub(super) relied: HashMap<Digest, u64>,
    pub(super) problems: Vec<String>,
}

/// A volume at hand.
pub(super) struct AvailableVolume {
    pub(super) path: PathBuf,
    /// What it should hold.
    record: VolumeRecord,
}

impl AvailableVolume {
    /// What it carries.
    pub(super) fn members(&self) -> &[VolumeMember] {
        &self.record.members
    }
}

impl BundleFiles {
    /// What a volume should be, byte by byte.
    pub(super) fn sheet(&self, volume: &AvailableVolume) -> PlannedVolume {
        PlannedVolume::new(&self.index, volume.record.clone())
    }

    /// The sha256 that a volume should have, where the record tells.
    pub(super) fn sha256(&self, number: u32) -> Option<&str> {
        let volume = self.record.as_ref()?.volumes.iter().find(|volume| volume.number == number)?;
        Some(&volume.sha256)
    }

    /// The name of a volume's file.
    pub(super) fn file(&self, number: u32) -> String {
        self.files.get(&number).map_or_else(|| volume_file(&self.name, number), |at_hand| name_of(&at_hand.path))
    }

    /// Every member, with the number of its volume: of all volumes if the record tells, else of those at hand.
    pub(super) fn members(&self) -> Box<dyn Iterator<Item = (u32, &VolumeMember)> + '_> {
        match &self.record {
            Some(record) => Box::new(record.members()),
            None => Box::new(self.files.iter().flat_map(|(number, file)| file.members().iter().map(move |member| (*number, member)))),
        }
    }

    /// Whether it is known what the volumes that are not at hand hold.
    pub(super) fn has_record(&self) -> bool {
        self.record.is_some()
    }
}

/// Whether `path` is a folder with a bundle in it, rather than a layout.
pub fn is_at(path: &Path) -> bool {
    let named = |path: PathBuf| path.to_str().is_some_and(|name| name.ends_with(BUNDLE_SUFFIX));
    !path.join(MARKER_PATH).exists()
        && list(path).is_ok_and(|files| files.into_iter().any(|file| named(file.clone()) || head(&file).is_ok_and(|head| head.is_some())))
}

/// The bundles at `paths`, in the order of their names.
pub(super) fn available(paths: &[PathBuf]) -> Result<Vec<BundleFiles>> {
    let mut hands: BTreeMap<Digest, BundleFiles> = BTreeMap::new();
    let (mut records, mut volumes) = (vec![], vec![]);
    for path in paths {
        let path = &folder::named(path);
        if path.is_dir() {
            let (named, others): (Vec<PathBuf>, Vec<PathBuf>) = list(path)?.into_iter().partition(|file| is_record(file));
            records.extend(named);
            // Whatever lies beside a bundle is no concern of it.
            volumes.extend(others.into_iter().map(|file| (file, false)));
        } else if is_record(path) {
            records.push(path.clone());
        } else {
            volumes.push((path.clone(), true));
        }
    }
    for path in &records {
        let hand = with_record(path)?;
        volumes.extend(hand.1.into_iter().map(|file| (file, false)));
        hands.entry(hand.0.record.as_ref().map_or_else(|| Digest::sha256(b""), |record| record.id.clone())).or_insert(hand.0);
    }
    for (path, asked_for) in volumes {
        repository(&path, asked_for, &mut hands)?;
    }
    let mut hands: Vec<BundleFiles> = hands.into_values().collect();
    hands.sort_by(|a, b| a.name.cmp(&b.name));
    match hands.is_empty() {
        true => Err(Error::new(Side::Local, OP, Kind::NotFound, "there is neither a layout nor a bundle")),
        false => Ok(hands),
    }
}

fn is_record(path: &Path) -> bool {
    path.to_str().is_some_and(|name| name.ends_with(BUNDLE_SUFFIX))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |error| Error::io(OP, folder, &error);
    let entries = fs::read_dir(folder).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(|path| folder::is_file(path)).collect();
    files.sort();
    Ok(files)
}

/// The bundle of a record, and the files that it names, as far as they are beside it.
fn with_record(path: &Path) -> Result<(BundleFiles, Vec<PathBuf>)> {
    let io = |error| Error::io(OP, path, &error);
    let bytes = folder::read_found(path).and_then(|file| crate::input::read_from(file, MAX_RECORD)).map_err(io)?;
    let record = Bundle::parse(&bytes).map_err(|error| error.subject(path.display().to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let beside = record.volumes.iter().map(|volume| folder.join(&volume.file)).filter(|file| folder::is_file(file)).collect();
    let hand = BundleFiles {
        name: record.name.clone(),
        index: record.index.clone(),
        volumes: u32::try_from(record.volumes.len()).unwrap_or(u32::MAX),
        files: BTreeMap::new(),
        relied: record.base.content.iter().map(|relied| (relied.digest.clone(), relied.size)).collect(),
        problems: vec![],
        record: Some(record),
    };
    Ok((hand, beside))
}

/// Finds out which bundle's volume a file is. One that cannot be read is known by its name, if a record has that.
fn repository(path: &Path, asked_for: bool, hands: &mut BTreeMap<Digest, BundleFiles>) -> Result<()> {
    let found = head(path)?;
    let file = name_of(path);
    let (id, number) = match &found {
        Some((_, record)) => (record.bundle.clone(), record.volume),
        None => {
            let named =
                |hand: &BundleFiles| hand.record.as_ref()?.volumes.iter().find(|volume| volume.file == file).map(|volume| volume.number);
            match hands.iter().find_map(|(id, hand)| Some((id.clone(), named(hand)?))) {
                Some(known) => known,
                None if asked_for => {
                    return Err(Error::new(Side::Local, OP, Kind::Damaged, format!("{} is no volume of a bundle", path.display())));
                }
                None => return Ok(()),
            }
        }
    };
    let hand = match (hands.get_mut(&id), &found) {
        (Some(hand), _) => hand,
        (None, Some((index, record))) => hands.entry(id.clone()).or_insert_with(|| BundleFiles {
            name: default_name(&record.bundle),
            record: None,
            index: index.clone(),
            volumes: record.volumes,
            files: BTreeMap::new(),
            relied: HashMap::new(),
            problems: vec![],
        }),
        (None, None) => return Ok(()),
    };
    let record = match (&hand.record, found) {
        (Some(bundle), _) => bundle.record(number),
        (None, found) => found.map(|(_, record)| record),
    };
    match record {
        Some(record) => {
            hand.files.entry(number).or_insert(AvailableVolume { path: path.to_owned(), record });
        }
        None => hand.problems.push(format!("{file} says to be volume {number}, which the bundle does not have")),
    }
    Ok(())
}

/// What a volume says of itself; `None` if the file is no volume, or one whose head is damaged.
fn head(path: &Path) -> Result<Option<(IndexMember, VolumeRecord)>> {
    let mut file = folder::read_found(path).map_err(|error| Error::io(OP, path, &error))?;
    let mut read = || -> Option<(IndexMember, VolumeRecord)> {
        let marker = next(&mut file, MARKER_PATH)?;
        let index = next(&mut file, INDEX_PATH).filter(|_| marker == MARKER)?;
        let record = next(&mut file, RECORD_PATH)?;
        Some((serde_json::from_slice(&index).ok()?, VolumeRecord::parse(&record).ok()?))
    };
    Ok(read())
}

/// The file that comes next in a tar, if it is `path`.
fn next(file: &mut File, path: &str) -> Option<Vec<u8>> {
    let mut block = [0; 512];
    file.read_exact(&mut block).ok()?;
    let size = tar::expect(&block, path).ok().filter(|size| *size <= MAX_RECORD)?;
    let mut bytes = vec![];
    file.take(tar::padded(size)).read_to_end(&mut bytes).ok()?;
    bytes.truncate(usize::try_from(size).ok()?);
    (bytes.len() as u64 == size).then_some(bytes)
}
