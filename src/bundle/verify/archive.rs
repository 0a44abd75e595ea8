//! Checks archives that can be imported: hashes everything once, on all cores, then walks the graph of every image.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rayon::prelude::*;

use crate::bundle::read::{Availability, BundleSource, GatheredContent};
use crate::content::{Descriptor, Digest, GraphWalk, NodeRole, PlatformFilter};
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
    let mut archive = CheckedArchive {
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
        archive.image(&image.entry.descriptor, &platforms, &format!("{}{}", image.repository, image.reference.suffix()));
    }
    let reached: BTreeSet<&Digest> = archive.manifests.iter().chain(&archive.blobs).collect();
    let loose = content.iter().map(|(digest, _)| *digest).filter(|digest| !reached.contains(digest));
    let (unreferenced, loose_damage): (Vec<&Digest>, Vec<&Digest>) = loose.partition(|digest| !wrong.contains_key(*digest));
    for digest in loose_damage {
        archive.damaged.entry(digest.clone()).or_insert_with(|| (wrong.get(digest).cloned().unwrap_or_default(), vec![]));
    }
    VerifyReport {
        entries: gathered.images.len(),
        manifests: archive.manifests.len(),
        blobs: archive.blobs.len(),
        bytes: content.iter().map(|(_, size)| size).sum(),
        damaged: listed(archive.damaged),
        missing: listed(archive.missing),
        unreferenced: unreferenced.into_iter().cloned().collect(),
        problems: gathered.problems.iter().map(crate::Error::message).collect(),
        ..VerifyReport::default()
    }
}

fn listed(findings: Findings) -> Vec<LayoutFinding> {
    findings.into_iter().map(|(digest, (why, images))| LayoutFinding { digest, images, why }).collect()
}

struct CheckedArchive<'a> {
    source: &'a BundleSource,
    wrong: &'a BTreeMap<&'a Digest, String>,
    manifests: HashSet<Digest>,
    blobs: HashSet<Digest>,
    damaged: Findings,
    missing: Findings,
}

impl CheckedArchive<'_> {
    fn image(&mut self, root: &Descriptor, platforms: &[PlatformFilter], name: &str) {
        let mut walk = GraphWalk::new(root, NodeRole::Manifest).only_platforms(platforms);
        while let Some(node) = walk.next_node() {
            let digest = &node.descriptor.digest;
            if let Some(why) = self.wrong.get(digest) {
                note(&mut self.damaged, digest, why, name);
                continue;
            }
            if self.source.availability(&node.descriptor) != Availability::Here {
                note(&mut self.missing, digest, "it is not in the archive", name);
                continue;
            }
            let links = if node.role == NodeRole::Blob { None } else { self.source.verified_links(digest) };
            match links {
                Some(links) => {
                    walk.expand(&node, &links);
                    self.manifests.insert(node.descriptor.digest);
                }
                None if node.role == NodeRole::Manifest => note(&mut self.damaged, digest, "it is not a manifest", name),
                None => _ = self.blobs.insert(node.descriptor.digest),
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
