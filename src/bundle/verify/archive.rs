//! Checks archives that can be imported: hashes everything once, on all cores, then walks the graph of every image.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rayon::prelude::*;

use crate::bundle::read::{Availability, BundleSource, GatheredContent};
use crate::content::{ChildChoice, Descriptor, Digest, ManifestKind, PlatformFilter, kind_of};
use crate::layout::{LayoutFinding, VerifyReport};

/// For each digest, the problem and the images that need it.
type Findings = BTreeMap<Digest, (String, Vec<String>)>;

/// Hashes all content of `gathered`, and checks that every image is complete. Blocks. `progress` is called from many threads
/// with the number of bytes hashed since its last call.
pub fn verify_archives(gathered: &GatheredContent, progress: &(dyn Fn(u64) + Sync)) -> VerifyReport {
    let source = &gathered.source;
    let content: Vec<(&Digest, u64)> = source.content().collect();
    let wrong: BTreeMap<&Digest, String> =
        content.par_iter().filter_map(|(digest, _)| Some((*digest, source.check(digest, progress)?))).collect();
    let mut walk = Walk {
        source,
        wrong: &wrong,
        manifests: HashSet::new(),
        blobs: HashSet::new(),
        damaged: Findings::new(),
        missing: Findings::new(),
    };
    for image in &gathered.images {
        let platforms = image.available_platforms.as_ref().map(|available| available.platforms.clone());
        let platforms = platforms.unwrap_or_else(|| PlatformFilter::of_sparse(&image.entry.descriptor));
        walk.image(&image.entry.descriptor, &platforms, &format!("{}{}", image.repository, image.reference.suffix()));
    }
    let reached: BTreeSet<&Digest> = walk.manifests.iter().chain(&walk.blobs).collect();
    let loose = content.iter().map(|(digest, _)| *digest).filter(|digest| !reached.contains(digest));
    let (unreferenced, loose_damage): (Vec<&Digest>, Vec<&Digest>) = loose.partition(|digest| !wrong.contains_key(*digest));
    for digest in loose_damage {
        walk.damaged.entry(digest.clone()).or_insert_with(|| (wrong.get(digest).cloned().unwrap_or_default(), vec![]));
    }
    VerifyReport {
        entries: gathered.images.len(),
        manifests: walk.manifests.len(),
        blobs: walk.blobs.len(),
        bytes: content.iter().map(|(_, size)| size).sum(),
        damaged: listed(walk.damaged),
        missing: listed(walk.missing),
        unreferenced: unreferenced.into_iter().cloned().collect(),
        problems: gathered.problems.iter().map(crate::Error::message).collect(),
        ..VerifyReport::default()
    }
}

fn listed(findings: Findings) -> Vec<LayoutFinding> {
    findings.into_iter().map(|(digest, (why, images))| LayoutFinding { digest, images, why }).collect()
}

struct Walk<'a> {
    source: &'a BundleSource,
    wrong: &'a BTreeMap<&'a Digest, String>,
    manifests: HashSet<Digest>,
    blobs: HashSet<Digest>,
    damaged: Findings,
    missing: Findings,
}

impl Walk<'_> {
    fn image(&mut self, root: &Descriptor, platforms: &[PlatformFilter], name: &str) {
        let mut seen = HashSet::new();
        let mut stack = vec![(root.clone(), true)];
        while let Some((node, may_be_manifest)) = stack.pop() {
            if !seen.insert(node.digest.clone()) {
                continue;
            }
            if let Some(why) = self.wrong.get(&node.digest) {
                note(&mut self.damaged, &node.digest, why, name);
                continue;
            }
            if self.source.availability(&node) != Availability::Here {
                note(&mut self.missing, &node.digest, "it is not in the archive", name);
                continue;
            }
            // An index may list blobs (BuildKit's cache does).
            let is_opaque = !node.media_type.is_empty() && kind_of(&node.media_type) == ManifestKind::Opaque;
            if !may_be_manifest {
                self.blobs.insert(node.digest);
                continue;
            }
            match self.source.verified_links(&node.digest) {
                Some(links) => {
                    let children = if node.digest == root.digest {
                        ChildChoice::of(&links.manifests, platforms).kept
                    } else {
                        links.manifests.clone()
                    };
                    stack.extend(children.into_iter().map(|child| (child, true)));
                    stack.extend(links.blobs.iter().filter(|blob| !blob.is_foreign()).map(|blob| (blob.clone(), false)));
                    self.manifests.insert(node.digest);
                }
                None if is_opaque => {
                    self.blobs.insert(node.digest);
                }
                None => note(&mut self.damaged, &node.digest, "it is not a manifest", name),
            }
        }
    }
}

fn note(findings: &mut Findings, digest: &Digest, why: &str, image: &str) {
    let (_, images) = findings.entry(digest.clone()).or_insert_with(|| (why.to_owned(), vec![]));
    if images.last().is_none_or(|last| last != image) {
        images.push(image.to_owned());
    }
}
