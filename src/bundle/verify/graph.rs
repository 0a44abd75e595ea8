//! Walks the images of a bundle, and finds content that is damaged or missing.

use std::collections::{BTreeMap, BTreeSet};

use super::bundle_files::BundleFiles;
use super::digest_states::DigestStates;
use super::report::BundleReport;
use super::volume::BlobState;
use crate::content::{Descriptor, Digest, GraphWalk, NodeRole};
use crate::layout::LayoutFinding;

/// The annotation that names an entry of `index.json` (image-spec annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// For each digest, the problem and the images that need it.
type Findings = BTreeMap<Digest, (String, Vec<String>)>;

/// Walks every entry of the index and reports problems; the images that need content of each volume, by its number.
pub(super) fn walk(bundle: &BundleFiles, content: &DigestStates<'_>, report: &mut BundleReport) -> BTreeMap<u32, Vec<String>> {
    let mut affected: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let (mut damaged, mut missing) = (Findings::new(), Findings::new());
    for entry in &bundle.index.manifests {
        report.images += 1;
        let name = entry.annotations.get(REF_NAME).cloned().unwrap_or_else(|| format!("an entry without a name ({})", entry.digest));
        let mut image = CheckedImage { bundle, content, volumes: BTreeSet::new(), lacking: vec![] };
        image.walk(entry);
        for number in &image.volumes {
            affected.entry(*number).or_default().push(name.clone());
        }
        let mut reasons = BTreeSet::new();
        for (digest, reason) in image.lacking {
            match reason {
                MissingReason::Damaged(why) => {
                    reasons.insert(format!("{digest} is damaged"));
                    note(&mut damaged, digest, why, &name);
                }
                MissingReason::Missing => {
                    reasons.insert(format!("{digest} is missing"));
                    note(&mut missing, digest, "neither the bundle nor its base has it".to_owned(), &name);
                }
                MissingReason::Absent(volumes) => reasons.extend(volumes.iter().map(|number| format!("volume {number} is missing"))),
                MissingReason::Unknown => {
                    reasons.insert(format!("{digest} is missing, and only the bundle's record says which volume has it"));
                }
            }
        }
        if !reasons.is_empty() {
            report.incomplete.push((name, reasons.into_iter().collect::<Vec<_>>().join("; ")));
        }
    }
    // Damaged content that no image needs is reported too.
    for (digest, state) in &content.states {
        if let BlobState::Damaged(why) = state {
            damaged.entry((*digest).clone()).or_insert_with(|| (why.clone(), vec![]));
        }
    }
    report.damaged = findings(damaged);
    report.missing = findings(missing);
    affected
}

/// Why content is not available.
enum MissingReason {
    Damaged(String),
    /// It, or a part of it, is in these volumes.
    Absent(Vec<u32>),
    Missing,
    /// It may be in a missing volume, or at the base.
    Unknown,
}

struct CheckedImage<'a> {
    bundle: &'a BundleFiles,
    content: &'a DigestStates<'a>,
    /// The volumes that hold content of it.
    volumes: BTreeSet<u32>,
    lacking: Vec<(Digest, MissingReason)>,
}

impl CheckedImage<'_> {
    fn walk(&mut self, root: &Descriptor) {
        let mut walk = GraphWalk::new(root, NodeRole::Manifest).with_foreign_layers();
        while let Some(node) = walk.next_node() {
            let descriptor = &node.descriptor;
            if descriptor.is_foreign() && !self.content.members.contains_key(&descriptor.digest) {
                continue;
            }
            if let Some(reason) = self.missing_reason(descriptor) {
                self.lacking.push((descriptor.digest.clone(), reason));
                continue;
            }
            match self.content.links.get(&descriptor.digest) {
                Some(Ok(links)) => walk.expand(&node, links),
                // An image's name must point to a manifest; an index may list other content.
                Some(Err(why)) if descriptor.digest == root.digest => {
                    self.lacking.push((descriptor.digest.clone(), MissingReason::Damaged(why.clone())));
                }
                Some(Err(_)) | None => {}
            }
        }
    }

    /// Why this content is not available, if it is not.
    fn missing_reason(&mut self, node: &Descriptor) -> Option<MissingReason> {
        let Some(members) = self.content.members.get(&node.digest) else {
            return match self.bundle.relied.get(&node.digest) {
                Some(size) if *size == node.size => None,
                Some(size) => Some(MissingReason::Damaged(size_differs(*size, node.size))),
                None if !self.bundle.has_record() => Some(MissingReason::Unknown),
                None => Some(MissingReason::Missing),
            };
        };
        self.volumes.extend(members.iter().map(|(number, _)| number));
        let size = members.first().map_or(0, |(_, member)| member.whole_size());
        if size != node.size {
            return Some(MissingReason::Damaged(size_differs(size, node.size)));
        }
        match self.content.states.get(&node.digest) {
            Some(BlobState::Undamaged) => None,
            Some(BlobState::Damaged(why)) => Some(MissingReason::Damaged(why.clone())),
            None if !self.bundle.has_record() => Some(MissingReason::Unknown),
            None => {
                let absent = members.iter().map(|(number, _)| *number).filter(|number| !self.bundle.files.contains_key(number));
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
