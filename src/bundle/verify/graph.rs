//! Walking the images of a bundle: what each is made of, and whether that is at hand.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::hand::BundleFiles;
use super::volume::BlobState;
use super::{BundleReport, DigestStates};
use crate::content::{ChildChoice, Descriptor, Digest, PlatformFilter, SPARSE, absent_from};
use crate::layout::LayoutFinding;

/// The annotation that names an entry of `index.json` (image-spec annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// For each digest, why, and the images.
type Findings = BTreeMap<Digest, (String, Vec<String>)>;

/// Walks every entry of the index and reports what is wrong; the images that need something of each volume, by its number.
pub(super) fn walk(hand: &BundleFiles, content: &DigestStates<'_>, report: &mut BundleReport) -> BTreeMap<u32, Vec<String>> {
    let mut affected: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let (mut damaged, mut missing) = (Findings::new(), Findings::new());
    for entry in &hand.index.manifests {
        report.images += 1;
        let name = entry.annotations.get(REF_NAME).cloned().unwrap_or_else(|| format!("an entry without a name ({})", entry.digest));
        let mut image = CheckedImage { hand, content, volumes: BTreeSet::new(), lacking: vec![], seen: HashSet::new() };
        image.walk(entry);
        for number in &image.volumes {
            affected.entry(*number).or_default().push(name.clone());
        }
        let mut reasons = BTreeSet::new();
        for (digest, lack) in image.lacking {
            match lack {
                MissingReason::Damaged(why) => {
                    reasons.insert(format!("{digest} is damaged"));
                    note(&mut damaged, digest, why, &name);
                }
                MissingReason::Missing => {
                    reasons.insert(format!("{digest} is missing"));
                    note(&mut missing, digest, "neither the bundle nor its base has it".to_owned(), &name);
                }
                MissingReason::Absent(volumes) => reasons.extend(volumes.iter().map(|number| format!("volume {number} is not at hand"))),
                MissingReason::Unknown => {
                    reasons.insert(format!("{digest} is not at hand, and without the bundle's record it is not known who has it"));
                }
            }
        }
        if !reasons.is_empty() {
            report.incomplete.push((name, reasons.into_iter().collect::<Vec<_>>().join("; ")));
        }
    }
    // What no image needs does no harm to any; damaged it is nevertheless.
    for (digest, state) in &content.states {
        if let BlobState::Wrong(why) = state {
            damaged.entry((*digest).clone()).or_insert_with(|| (why.clone(), vec![]));
        }
    }
    report.damaged = findings(damaged);
    report.missing = findings(missing);
    affected
}

/// Why a piece cannot be had.
enum MissingReason {
    Damaged(String),
    /// It is in these volumes, or parts of it are.
    Absent(Vec<u32>),
    Missing,
    /// It may be in a volume that is not at hand, or left to the base.
    Unknown,
}

struct CheckedImage<'a> {
    hand: &'a BundleFiles,
    content: &'a DigestStates<'a>,
    /// The volumes that hold something of it.
    volumes: BTreeSet<u32>,
    lacking: Vec<(Digest, MissingReason)>,
    seen: HashSet<Digest>,
}

impl CheckedImage<'_> {
    fn walk(&mut self, root: &Descriptor) {
        let filters = root.annotations.get(SPARSE).map(|text| PlatformFilter::split(text)).unwrap_or_default();
        let absent = absent_from(root);
        let mut stack = vec![root.clone()];
        while let Some(node) = stack.pop() {
            if absent.contains(&node.digest) {
                continue;
            }
            if node.is_foreign() && !self.content.places.contains_key(&node.digest) {
                continue;
            }
            if !self.seen.insert(node.digest.clone()) {
                continue;
            }
            if let Some(lack) = self.look(&node) {
                self.lacking.push((node.digest.clone(), lack));
                continue;
            }
            let links = match self.content.links.get(&node.digest) {
                // What an image's name points to must be a manifest; an index may list other things.
                Some(Err(why)) if node.digest == root.digest => {
                    self.lacking.push((node.digest.clone(), MissingReason::Damaged(why.clone())));
                    None
                }
                Some(Ok(links)) => Some(links),
                Some(Err(_)) | None => None,
            };
            if let Some(links) = links {
                // Of a sparse index the children that were left out are not missing.
                let children =
                    if node.digest == root.digest { ChildChoice::of(&links.manifests, &filters).kept } else { links.manifests.clone() };
                stack.extend(children.into_iter().chain(links.blobs.iter().cloned()));
            }
        }
    }

    /// Why this piece cannot be had, if it cannot.
    fn look(&mut self, node: &Descriptor) -> Option<MissingReason> {
        let Some(places) = self.content.places.get(&node.digest) else {
            return match self.hand.relied.get(&node.digest) {
                Some(size) if *size == node.size => None,
                Some(size) => Some(MissingReason::Damaged(size_differs(*size, node.size))),
                None if !self.hand.has_record() => Some(MissingReason::Unknown),
                None => Some(MissingReason::Missing),
            };
        };
        self.volumes.extend(places.iter().map(|(number, _)| number));
        let size = places.first().map_or(0, |(_, member)| member.whole_size());
        if size != node.size {
            return Some(MissingReason::Damaged(size_differs(size, node.size)));
        }
        match self.content.states.get(&node.digest) {
            Some(BlobState::Right) => None,
            Some(BlobState::Wrong(why)) => Some(MissingReason::Damaged(why.clone())),
            None if !self.hand.has_record() => Some(MissingReason::Unknown),
            None => {
                let absent = places.iter().map(|(number, _)| *number).filter(|number| !self.hand.files.contains_key(number));
                Some(MissingReason::Absent(absent.collect()))
            }
        }
    }
}

fn size_differs(found: u64, said: u64) -> String {
    format!("it has {found} bytes, its descriptor says {said}")
}

fn note(findings: &mut Findings, digest: Digest, why: String, image: &str) {
    let (_, images) = findings.entry(digest).or_insert_with(|| (why, vec![]));
    images.push(image.to_owned());
}

fn findings(found: Findings) -> Vec<LayoutFinding> {
    found.into_iter().map(|(digest, (why, images))| LayoutFinding { digest, images, why }).collect()
}
