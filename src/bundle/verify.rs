//! Checking bundles: every byte of the volumes at hand is hashed, on all cores, then every image's graph is walked. Works with some of the volumes, and
//! without the record.

mod archive;
mod graph;
mod hand;
mod volume;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::format::VolumeMember;
use crate::Result;
use crate::content::Digest;
use crate::layout::LayoutFinding;
pub use archive::verify_archives;
pub use hand::is_at;
use hand::{BundleFiles, available};
use volume::{BlobState, CheckedVolume};

const OP: &str = "verify bundle";

/// What is wrong with one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFinding {
    /// Its number.
    pub number: u32,
    /// The name of its file.
    pub file: String,
    /// The images that need something of it, in the order of the index.
    pub images: Vec<String>,
    /// What is wrong, for a person.
    pub why: String,
}

/// What a [`verify()`] found of one bundle.
#[derive(Debug, Clone, Default)]
pub struct BundleReport {
    /// The bundle's name; its identity where no record tells the name.
    pub name: String,
    /// How many images it has.
    pub images: usize,
    /// How many volumes it has.
    pub volumes: usize,
    /// How many of them are at hand.
    pub present: usize,
    /// Distinct manifests in the volumes at hand that are right.
    pub manifests: usize,
    /// Distinct configs, layers and other content there that is right.
    pub blobs: usize,
    /// Configs and layers that are left to the base.
    pub relied: usize,
    /// Bytes hashed.
    pub bytes: u64,
    /// Volumes that are not what the record says.
    pub damaged_volumes: Vec<VolumeFinding>,
    /// Volumes that are not at hand.
    pub absent_volumes: Vec<VolumeFinding>,
    /// Content at hand that is not what its name says, in the order of digests.
    pub damaged: Vec<LayoutFinding>,
    /// Content that images need, and that neither the bundle nor its base has.
    pub missing: Vec<LayoutFinding>,
    /// Images that cannot be completed from what is at hand and the base, each with the reason.
    pub incomplete: Vec<(String, String)>,
    /// Whatever else makes it no proper bundle.
    pub problems: Vec<String>,
}

impl BundleReport {
    /// Whether what is at hand is right, and every image can be completed from it and the base.
    pub fn ok(&self) -> bool {
        let none = self.damaged_volumes.is_empty() && self.damaged.is_empty() && self.missing.is_empty();
        none && self.incomplete.is_empty() && self.problems.is_empty()
    }
}

/// Checks the bundles at `paths`: folders, records, volumes. Blocks. `progress` is called from many threads with the bytes hashed since its last call.
///
/// # Errors
/// If there is no bundle, or it cannot be read at all. What is wrong *in* it is in the reports, one for each bundle.
pub fn verify(paths: &[PathBuf], progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<BundleReport>> {
    available(paths)?.iter().map(|hand| one(hand, progress)).collect()
}

fn one(hand: &BundleFiles, progress: &(dyn Fn(u64) + Sync)) -> Result<BundleReport> {
    let mut report = BundleReport {
        name: hand.name.clone(),
        volumes: hand.volumes as usize,
        present: hand.files.len(),
        relied: hand.relied.len(),
        problems: hand.problems.clone(),
        ..BundleReport::default()
    };
    let checked: Vec<(u32, CheckedVolume)> = hand
        .files
        .par_iter()
        .map(|(number, at_hand)| Ok((*number, volume::check(&hand.sheet(at_hand), &at_hand.path, hand.sha256(*number), progress)?)))
        .collect::<Result<_>>()?;
    let mut checked: BTreeMap<u32, CheckedVolume> = checked.into_iter().collect();
    report.bytes = checked.values().map(|checked| checked.bytes).sum();
    let links = checked.values_mut().flat_map(|checked| std::mem::take(&mut checked.links)).collect();
    let content = DigestStates::new(hand, &checked, links)?;
    content.count(&mut report);
    let affected = graph::walk(hand, &content, &mut report);
    let images = |number: u32| affected.get(&number).cloned().unwrap_or_default();
    for (number, checked) in &checked {
        if let Some(why) = &checked.damage {
            let file = hand.file(*number);
            let mend = if checked.sound && content.is_right(*number) {
                "every byte of it is right, so the bundle's record is wrong: run the export again, it keeps the volumes".to_owned()
            } else {
                format!("to mend it: larder export --repair {}.bundle.json --volume {number} --to DIR", hand.name)
            };
            let finding = VolumeFinding { number: *number, file, images: images(*number), why: format!("{why} ({mend})") };
            report.damaged_volumes.push(finding);
        }
    }
    for number in (1..=hand.volumes).filter(|number| !checked.contains_key(number)) {
        let why = "it is not at hand".to_owned();
        report.absent_volumes.push(VolumeFinding { number, file: hand.file(number), images: images(number), why });
    }
    Ok(report)
}

/// What is known of each digest.
struct DigestStates<'a> {
    /// Where its bytes are, one place or, for parts, several.
    places: HashMap<&'a Digest, Vec<(u32, &'a VolumeMember)>>,
    /// What those that are at hand as a whole turned out to be.
    states: HashMap<&'a Digest, BlobState>,
    /// What manifests refer to.
    links: HashMap<Digest, volume::Read>,
}

impl<'a> DigestStates<'a> {
    fn new(hand: &'a BundleFiles, checked: &'a BTreeMap<u32, CheckedVolume>, mut links: HashMap<Digest, volume::Read>) -> Result<Self> {
        let mut places: HashMap<&Digest, Vec<(u32, &VolumeMember)>> = HashMap::new();
        for (number, member) in hand.members() {
            places.entry(&member.digest).or_default().push((number, member));
        }
        let mut states: HashMap<&Digest, BlobState> = HashMap::new();
        for checked in checked.values() {
            states.extend(checked.states.iter().map(|(digest, state)| (digest, state.clone())));
        }
        // What is cut is hashed again, over its parts, if all of them are at hand.
        let parted: Vec<_> = places.iter().filter(|(digest, _)| !states.contains_key(*digest)).collect();
        let joined: Vec<_> = parted
            .into_par_iter()
            .filter(|(_, parts)| is_whole(hand, parts))
            .map(|(digest, parts)| Ok((*digest, volume::join(hand, digest, parts)?)))
            .collect::<Result<_>>()?;
        for (digest, (state, more)) in joined {
            states.insert(digest, state);
            links.extend(more.map(|more| (digest.clone(), more)));
        }
        Ok(DigestStates { places, states, links })
    }

    /// Whether all content of a volume is known to be right: of blobs in parts, all parts.
    fn is_right(&self, number: u32) -> bool {
        let here = self.places.iter().filter(|(_, places)| places.iter().any(|(volume, _)| *volume == number));
        here.into_iter().all(|(digest, _)| matches!(self.states.get(digest), Some(BlobState::Right)))
    }

    fn count(&self, report: &mut BundleReport) {
        for (digest, state) in &self.states {
            if matches!(state, BlobState::Right) {
                *if self.links.contains_key(digest) { &mut report.manifests } else { &mut report.blobs } += 1;
            }
        }
    }
}

/// Whether these are all parts of a blob, and at hand.
fn is_whole(hand: &BundleFiles, parts: &[(u32, &VolumeMember)]) -> bool {
    let size: u64 = parts.iter().map(|(_, part)| part.size).sum();
    parts.iter().all(|(number, part)| hand.files.contains_key(number) && part.whole_size() == size)
}

/// A file's name for a person.
fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
