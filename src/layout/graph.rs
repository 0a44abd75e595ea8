//! The graph below an entry, as it is on disk. Blocks.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;

use bytes::Bytes;

use super::files::{self, Files};
use crate::content::{ChildChoice, Descriptor, Digest, Links, MAX_MANIFEST, Manifest, ManifestKind, PlatformFilter, is_blob_type, kind_of};
use crate::{Error, Kind, Result, Side};

/// As what a node of the graph is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum NodeRole {
    /// By an index, or by `index.json`.
    Manifest,
    /// As a config or layer.
    Blob,
}

/// Visits everything that `root` reaches, each node once. The visitor returns what a node refers to, or `None` to end
/// the walk; whether it came to its end. Subjects are not followed: an image does not need what it is about. Neither are the
/// children that have been left out, if `root` is an entry that says so ([`SPARSE`](crate::content::SPARSE)), and what its upstream did
/// not have.
pub(super) fn walk(root: &Descriptor, mut visit: impl FnMut(&Descriptor, NodeRole) -> Result<Option<Links>>) -> Result<bool> {
    let (filters, absent) = (PlatformFilter::of_sparse(root), root.absent());
    let mut visit = |node: &Descriptor, role| {
        let mut links = visit(node, role)?;
        if let Some(links) = links.as_mut().filter(|_| role == NodeRole::Manifest && node.digest == root.digest) {
            links.manifests = ChildChoice::of(&links.manifests, &filters).kept;
        }
        if let Some(links) = links.as_mut().filter(|_| !absent.is_empty()) {
            links.manifests.retain(|child| !absent.contains(&child.digest));
        }
        Ok::<_, Error>(links)
    };
    let mut seen = HashSet::new();
    let mut stack = vec![(root.clone(), NodeRole::Manifest)];
    while let Some((node, role)) = stack.pop() {
        // With the size: a descriptor that states another one is another claim to check.
        if !seen.insert((node.digest.clone(), node.size, role)) {
            continue;
        }
        let Some(links) = visit(&node, role)? else { return Ok(false) };
        stack.extend(links.manifests.into_iter().map(|child| (child, NodeRole::Manifest)));
        stack.extend(links.blobs.into_iter().map(|blob| (blob, NodeRole::Blob)));
    }
    Ok(true)
}

/// What became of a manifest's file.
#[derive(Debug)]
pub(super) enum ManifestRead {
    /// It is there and right.
    Found(Box<Links>),
    /// There is no such file.
    Missing,
    /// It is not what its descriptor says; why.
    Damaged(String),
}

/// Reads a manifest with every check. What an index may refer to beside manifests (image-spec: "unknown media types must
/// not generate an error") refers to nothing.
pub(super) fn read(files: &Files, node: &Descriptor) -> Result<ManifestRead> {
    read_as(files, node, is_manifest(&node.media_type))
}

/// As [`read()`]; `known`: it must be a manifest, whatever its media type says.
fn read_as(files: &Files, node: &Descriptor, known: bool) -> Result<ManifestRead> {
    let Some(len) = files.blob_len(&node.digest)? else { return Ok(ManifestRead::Missing) };
    if len != node.size {
        return Ok(ManifestRead::Damaged(size_differs(len, node.size)));
    }
    if !known && is_blob_type(&node.media_type) {
        return Ok(ManifestRead::Found(Box::default()));
    }
    if len > MAX_MANIFEST as u64 {
        return Ok(if known { ManifestRead::Damaged(too_large(len)) } else { ManifestRead::Found(Box::default()) });
    }
    let Some(bytes) = bytes(files, &node.digest)? else { return Ok(ManifestRead::Missing) };
    Ok(match parse(bytes.clone(), &node.digest, &node.media_type) {
        Ok(manifest) => ManifestRead::Found(Box::new(Links::clone(manifest.links()))),
        Err(_) if !known && node.digest.matches(&bytes) => ManifestRead::Found(Box::default()),
        Err(error) => ManifestRead::Damaged(error.message()),
    })
}

/// Whether `root` is a manifest and everything below it is on disk: manifests by their hashes, blobs by their lengths. Foreign layers may
/// be absent.
pub(super) fn complete(files: &Files, root: &Descriptor) -> Result<bool> {
    walk(root, |node, role| match role {
        NodeRole::Manifest => Ok(match read_as(files, node, node.digest == root.digest || is_manifest(&node.media_type))? {
            ManifestRead::Found(links) => Some(*links),
            ManifestRead::Missing | ManifestRead::Damaged(_) => None,
        }),
        NodeRole::Blob => Ok((node.is_foreign() || files.blob_len(&node.digest)? == Some(node.size)).then(Links::default)),
    })
}

/// The manifest of this digest, if there is a file of that name and it is one. `hint` is the media type that a descriptor gave it.
pub(super) fn manifest(files: &Files, digest: &Digest, hint: &str) -> Result<Option<Manifest>> {
    match files.blob_len(digest)? {
        None => return Ok(None),
        // A layer, of which nobody has said that it is a manifest.
        Some(len) if len > MAX_MANIFEST as u64 && hint.is_empty() => return Ok(None),
        Some(len) if len > MAX_MANIFEST as u64 => return Err(Error::new(Side::Local, "read manifest", Kind::Damaged, too_large(len))),
        Some(_) => {}
    }
    let Some(bytes) = bytes(files, digest)? else { return Ok(None) };
    match parse(bytes.clone(), digest, hint) {
        Err(_) if hint.is_empty() && digest.matches(&bytes) => Ok(None),
        parsed => parsed.map(Some),
    }
}

/// The same from a file of `len` bytes that was opened and hashed already.
pub(super) fn manifest_in(file: fs::File, len: u64, digest: &Digest, hint: &str) -> Result<Option<Manifest>> {
    if len > MAX_MANIFEST as u64 {
        return if hint.is_empty() { Ok(None) } else { Err(Error::new(Side::Local, "read manifest", Kind::Damaged, too_large(len))) };
    }
    let mut bytes = vec![];
    file.take(len).read_to_end(&mut bytes).map_err(|error| Error::local("read manifest", format!("{digest}: {error}")))?;
    match parse(bytes.into(), digest, hint) {
        Err(_) if hint.is_empty() => Ok(None),
        parsed => parsed.map(Some),
    }
}

/// The body's own media type counts; the descriptor's only where the body has none.
fn parse(bytes: Bytes, digest: &Digest, hint: &str) -> Result<Manifest> {
    Manifest::verify(bytes.clone(), Some(hint), digest, Side::Local).or_else(|_| Manifest::verify(bytes, None, digest, Side::Local))
}

fn bytes(files: &Files, digest: &Digest) -> Result<Option<Bytes>> {
    Ok(files.read("read manifest", &files::blob(digest), MAX_MANIFEST as u64)?.map(Bytes::from))
}

/// Whether a descriptor of this type must lead to a manifest. One without a type, in an index, must.
pub(super) fn is_manifest(media_type: &str) -> bool {
    media_type.is_empty() || kind_of(media_type) != ManifestKind::Opaque
}

pub(super) fn size_differs(found: u64, said: u64) -> String {
    format!("the file has {found} bytes, its descriptor says {said}")
}

fn too_large(len: u64) -> String {
    format!("it has {len} bytes, more than a manifest may have ({MAX_MANIFEST})")
}
