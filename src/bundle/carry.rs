//! What is to be carried: the images of a run, out of the layout they were copied into, and everything they are made of.

use std::collections::{BTreeMap, BTreeSet};

use super::format::{Image, Index, MemberKind};
use super::plan::Piece;
use crate::content::{Descriptor, Digest, ManifestKind};
use crate::layout::{IndexEntry, Layout};
use crate::{Error, Result};

/// The annotation that names an entry of `index.json` (image-spec annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation for the full name of an image (containerd `images/annotations.go`).
const IMAGE_NAME: &str = "io.containerd.image.name";

/// An image that a run has delivered into the layout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivered {
    /// Its name there (`library/alpine:3.20`).
    pub name: String,
    /// The name of what it was copied from, for an entry that does not say.
    pub source: String,
    /// Its digest there.
    pub digest: Digest,
}

/// All of it.
#[derive(Debug)]
pub struct Cargo {
    /// What `index.json` will hold.
    pub index: Index,
    /// The images, in the order of their names.
    pub images: Vec<Image>,
    /// What they are made of, each once.
    pub pieces: Vec<Piece>,
    /// Images that cannot be carried, with the reason.
    pub failed: Vec<(String, Error)>,
}

/// Finds in `layout`, whose entries these are, what the images `delivered` are made of. Blocks.
pub fn gather(layout: &Layout, entries: &[IndexEntry], delivered: Vec<Delivered>) -> Cargo {
    let named: BTreeMap<&str, &IndexEntry> = entries.iter().filter_map(|entry| Some((entry.name.as_deref()?, entry))).collect();
    let delivered: BTreeMap<String, Delivered> = delivered.into_iter().map(|image| (image.name.clone(), image)).collect();
    let mut found = Found::default();
    let (mut images, mut manifests, mut failed) = (vec![], vec![], vec![]);
    for (name, image) in delivered {
        let source = named.get(name.as_str()).and_then(|entry| entry.source.clone()).unwrap_or_else(|| image.source.clone());
        match one(layout, &name, &image.digest, named.get(name.as_str()).copied(), &mut found) {
            Ok((root, platforms)) => {
                manifests.push(entry(root, &name, &source));
                images.push(Image { name, source, digest: image.digest, platforms, referrers: vec![] });
            }
            Err(error) => failed.push((name.clone(), error.subject(name))),
        }
    }
    Cargo { index: Index::new(manifests), images, pieces: found.pieces(), failed }
}

/// One image: its top manifest's descriptor, and what it runs on.
fn one(layout: &Layout, name: &str, digest: &Digest, entry: Option<&IndexEntry>, found: &mut Found) -> Result<(Descriptor, Vec<String>)> {
    // The entry may have moved on since the image was delivered; its digest has not.
    let hint = entry.filter(|entry| entry.descriptor.digest == *digest).map_or("", |entry| entry.descriptor.media_type.as_str());
    let Some(root) = layout.stored_manifest(digest, hint)? else {
        return Err(Error::local("pack image", format!("the cache does not have {digest} any more")).remedy("run the same command again"));
    };
    let reached = layout.reach(&root.descriptor())?;
    let platforms = match root.kind() {
        ManifestKind::Index => {
            let children = root.links()?.manifests.into_iter().filter_map(|child| child.platform);
            children.filter(|platform| platform.os != "unknown").map(|platform| platform.to_string()).collect::<BTreeSet<_>>()
        }
        _ => BTreeSet::new(),
    };
    let repository = repository(name);
    for reached in reached {
        found.add(&reached.descriptor, if reached.manifest { MemberKind::Manifest } else { MemberKind::Blob }, repository);
    }
    Ok((root.descriptor(), platforms.into_iter().collect()))
}

/// The repository in an image's name.
fn repository(name: &str) -> &str {
    match name.split_once('@') {
        Some((repository, _)) => repository,
        None => name.rsplit_once(':').map_or(name, |(repository, _)| repository),
    }
}

/// An entry of `index.json`.
fn entry(mut root: Descriptor, name: &str, source: &str) -> Descriptor {
    root.annotations.insert(REF_NAME.to_owned(), name.to_owned());
    root.annotations.insert(IMAGE_NAME.to_owned(), source.to_owned());
    root
}

/// What has been found so far.
#[derive(Default)]
struct Found(BTreeMap<Digest, Seen>);

struct Seen {
    size: u64,
    kind: MemberKind,
    repositories: BTreeSet<String>,
}

impl Found {
    fn add(&mut self, descriptor: &Descriptor, kind: MemberKind, repository: &str) {
        let seen = self.0.entry(descriptor.digest.clone()).or_insert(Seen { size: descriptor.size, kind, repositories: BTreeSet::new() });
        // What is a manifest to anybody is one.
        seen.kind = seen.kind.min(kind);
        if !seen.repositories.contains(repository) {
            seen.repositories.insert(repository.to_owned());
        }
    }

    fn pieces(self) -> Vec<Piece> {
        let piece = |(digest, seen): (Digest, Seen)| {
            let repositories = seen.repositories.into_iter().collect();
            Piece { digest, size: seen.size, kind: seen.kind, repositories }
        };
        self.0.into_iter().map(piece).collect()
    }
}
