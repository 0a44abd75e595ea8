//! The files of a bundle that are available: its record, and some of its volumes, under any names and in any folders.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::bundle::format::{Bundle, IndexMember, MARKER_PATH, VolumeMember, VolumeRecord, default_name, is_bundle_file, volume_file};
use crate::bundle::plan::PlannedVolume;
use crate::bundle::read::{VolumeHead, read_record};
use crate::content::Digest;
use crate::folder;
use crate::{Error, Kind, Operation, Result, Side};

/// The operation in errors.
pub(super) const OP: Operation = Operation::VerifyBundle;

/// One bundle.
pub(super) struct BundleFiles {
    /// Its name, or its default name.
    pub(super) name: String,
    record: Option<Bundle>,
    pub(super) index: IndexMember,
    /// How many volumes it has.
    pub(super) volumes: u32,
    /// The available volumes, by number.
    pub(super) files: BTreeMap<u32, AvailableVolume>,
    /// Content of its base, with its size in bytes.
    pub(super) relied: HashMap<Digest, u64>,
    pub(super) problems: Vec<String>,
}

/// A volume that can be read.
pub(super) struct AvailableVolume {
    pub(super) path: PathBuf,
    /// What it should hold.
    record: VolumeRecord,
}

impl BundleFiles {
    /// What a volume should be, byte by byte.
    pub(super) fn planned(&self, volume: &AvailableVolume) -> PlannedVolume {
        PlannedVolume::new(&self.index, volume.record.clone())
    }

    /// The sha256 of a volume in the record, if there is one.
    pub(super) fn sha256(&self, number: u32) -> Option<&str> {
        let volume = self.record.as_ref()?.volumes.iter().find(|volume| volume.number == number)?;
        Some(&volume.sha256)
    }

    /// The name of a volume's file.
    pub(super) fn file_name(&self, number: u32) -> String {
        self.files.get(&number).map_or_else(|| volume_file(&self.name, number), |volume| file_name(&volume.path))
    }

    /// Every member, with the number of its volume: of all volumes if there is a record, else of those available.
    pub(super) fn members(&self) -> Box<dyn Iterator<Item = (u32, &VolumeMember)> + '_> {
        match &self.record {
            Some(record) => Box::new(record.members()),
            None => Box::new(self.files.iter().flat_map(|(number, file)| file.record.members.iter().map(move |member| (*number, member)))),
        }
    }

    /// Whether the bundle's record is there, which says what missing volumes hold.
    pub(super) fn has_record(&self) -> bool {
        self.record.is_some()
    }
}

/// Whether `path` is a folder with a bundle in it, rather than a layout.
pub fn contains_bundle(path: &Path) -> bool {
    !path.join(MARKER_PATH).exists()
        && list(path).is_ok_and(|files| files.iter().any(|file| is_bundle_file(file) || head(file).is_ok_and(|head| head.is_some())))
}

/// The bundles at `paths`, sorted by name.
pub(super) fn find_bundles(paths: &[PathBuf]) -> Result<Vec<BundleFiles>> {
    let mut bundles: BTreeMap<Digest, BundleFiles> = BTreeMap::new();
    // Volumes, and whether the user named them.
    let (mut records, mut volumes) = (vec![], vec![]);
    for path in paths {
        let path = &folder::named(path);
        if path.is_dir() {
            // Other files beside a bundle are ignored.
            let (found, others): (Vec<PathBuf>, Vec<PathBuf>) = list(path)?.into_iter().partition(|file| is_bundle_file(file));
            records.extend(found);
            volumes.extend(others.into_iter().map(|file| (file, false)));
        } else if is_bundle_file(path) {
            records.push(path.clone());
        } else {
            volumes.push((path.clone(), true));
        }
    }
    for path in &records {
        let record = read_record(OP, path)?;
        let beside = record.volumes.iter().map(|volume| path.with_file_name(&volume.file)).filter(|file| folder::is_file(file));
        volumes.extend(beside.map(|file| (file, false)));
        bundles.entry(record.id.clone()).or_insert_with(|| from_record(record));
    }
    for (path, named) in volumes {
        add_volume(&path, named, &mut bundles)?;
    }
    let mut bundles: Vec<BundleFiles> = bundles.into_values().collect();
    bundles.sort_by(|a, b| a.name.cmp(&b.name));
    match bundles.is_empty() {
        true => Err(Error::new(Side::Local, OP, Kind::NotFound, "there is neither a layout nor a bundle")),
        false => Ok(bundles),
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |error| Error::io(OP, folder, &error);
    let entries = fs::read_dir(folder).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(|path| folder::is_file(path)).collect();
    files.sort();
    Ok(files)
}

/// The bundle of a record, without volumes.
fn from_record(record: Bundle) -> BundleFiles {
    BundleFiles {
        name: record.name.clone(),
        index: record.index.clone(),
        volumes: u32::try_from(record.volumes.len()).unwrap_or(u32::MAX),
        files: BTreeMap::new(),
        relied: record.base.content.iter().map(|relied| (relied.digest.clone(), relied.size)).collect(),
        problems: vec![],
        record: Some(record),
    }
}

/// Adds a file to the bundle whose volume it is. A file that cannot be read is known by its name, if a record has that.
fn add_volume(path: &Path, named: bool, bundles: &mut BTreeMap<Digest, BundleFiles>) -> Result<()> {
    let head = head(path)?;
    let file = file_name(path);
    let (id, number) = match &head {
        Some(head) => (head.record.bundle.clone(), head.record.volume),
        None => {
            let number_of = |bundle: &BundleFiles| {
                bundle.record.as_ref()?.volumes.iter().find(|volume| volume.file == file).map(|volume| volume.number)
            };
            match bundles.iter().find_map(|(id, bundle)| Some((id.clone(), number_of(bundle)?))) {
                Some(known) => known,
                None if named => {
                    return Err(Error::new(Side::Local, OP, Kind::Damaged, format!("{} is not a volume of a bundle", path.display())));
                }
                None => return Ok(()),
            }
        }
    };
    let bundle = match (bundles.get_mut(&id), &head) {
        (Some(bundle), _) => bundle,
        (None, Some(head)) => bundles.entry(id).or_insert_with(|| BundleFiles {
            name: default_name(&head.record.bundle),
            record: None,
            index: head.index.clone(),
            volumes: head.record.volumes,
            files: BTreeMap::new(),
            relied: HashMap::new(),
            problems: vec![],
        }),
        (None, None) => return Ok(()),
    };
    let record = match &bundle.record {
        Some(bundle) => bundle.record(number),
        None => head.map(|head| head.record),
    };
    match record {
        Some(record) => {
            bundle.files.entry(number).or_insert(AvailableVolume { path: path.to_owned(), record });
        }
        None => bundle.problems.push(format!("{file} has the number {number}, which is not a volume of the bundle")),
    }
    Ok(())
}

/// The head of a volume; `None` if the file is no volume, or its head is damaged or cannot be read.
fn head(path: &Path) -> Result<Option<VolumeHead>> {
    let io = |error| Error::io(OP, path, &error);
    Ok(VolumeHead::parse(&mut folder::read_found(path).map_err(io)?, io).ok())
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
