//! The graph below an entry, as it is on disk. Blocks.

use std::fs;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;

use super::files::{self, Files};
use crate::content::{Descriptor, Digest, GraphNode, GraphWalk, Links, MAX_MANIFEST, Manifest, NodeRole};
use crate::{Error, Kind, Operation, Result, Side};

/// Visits everything that `root` reaches ([`GraphWalk`]), foreign layers too. The visitor returns what a node refers to, or
/// `None` to end the walk; whether it came to its end.
pub(super) fn walk(root: &Descriptor, role: NodeRole, mut visit: impl FnMut(&GraphNode) -> Result<Option<Arc<Links>>>) -> Result<bool> {
    let mut walk = GraphWalk::new(root, role).with_foreign_layers();
    while let Some(node) = walk.next_node() {
        let Some(links) = visit(&node)? else { return Ok(false) };
        walk.expand(&node, &links);
    }
    Ok(true)
}

/// What became of a manifest's file.
#[derive(Debug)]
pub(super) enum ManifestRead {
    /// It is there and right.
    Found(Arc<Links>),
    /// It is there, but is not a manifest and need not be one.
    Blob,
    /// There is no such file.
    Missing,
    /// It is not what its descriptor says; why.
    Damaged(String),
}

/// Reads a node with every check.
pub(super) fn read(files: &Files, node: &GraphNode) -> Result<ManifestRead> {
    let descriptor = &node.descriptor;
    let must_be_manifest = node.role == NodeRole::Manifest;
    let Some(len) = files.blob_len(&descriptor.digest)? else { return Ok(ManifestRead::Missing) };
    if len != descriptor.size {
        return Ok(ManifestRead::Damaged(size_differs(len, descriptor.size)));
    }
    if node.role == NodeRole::Blob || len > MAX_MANIFEST as u64 && !must_be_manifest {
        return Ok(ManifestRead::Blob);
    }
    if len > MAX_MANIFEST as u64 {
        return Ok(ManifestRead::Damaged(too_large(len)));
    }
    let Some(bytes) = bytes(files, &descriptor.digest)? else { return Ok(ManifestRead::Missing) };
    Ok(match parse(bytes.clone(), &descriptor.digest, &descriptor.media_type) {
        Ok(manifest) => ManifestRead::Found(Arc::clone(manifest.links())),
        Err(_) if !must_be_manifest && descriptor.digest.matches(&bytes) => ManifestRead::Blob,
        Err(error) => ManifestRead::Damaged(error.message()),
    })
}

/// Whether `root` is a manifest and everything below it is on disk: manifests by their hashes, blobs by their lengths.
/// Foreign layers may be absent.
pub(super) fn complete(files: &Files, root: &Descriptor) -> Result<bool> {
    walk(root, NodeRole::Manifest, |node| {
        Ok(match read(files, node)? {
            ManifestRead::Found(links) => Some(links),
            ManifestRead::Blob => Some(Arc::default()),
            ManifestRead::Missing | ManifestRead::Damaged(_) => node.descriptor.is_foreign().then(Arc::default),
        })
    })
}

/// The manifest of this digest, if there is a file of that name and it is one. `hint` is the media type that a descriptor gave it.
pub(super) fn manifest(files: &Files, digest: &Digest, hint: &str) -> Result<Option<Manifest>> {
    match files.blob_len(digest)? {
        None => return Ok(None),
        // A layer, of which nobody has said that it is a manifest.
        Some(len) if len > MAX_MANIFEST as u64 && hint.is_empty() => return Ok(None),
        Some(len) if len > MAX_MANIFEST as u64 => {
            return Err(Error::new(Side::Local, Operation::ReadManifest, Kind::Damaged, too_large(len)));
        }
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
        return if hint.is_empty() {
            Ok(None)
        } else {
            Err(Error::new(Side::Local, Operation::ReadManifest, Kind::Damaged, too_large(len)))
        };
    }
    let mut bytes = vec![];
    file.take(len).read_to_end(&mut bytes).map_err(|error| Error::local(Operation::ReadManifest, format!("{digest}: {error}")))?;
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
    Ok(files.read(Operation::ReadManifest, &files::blob(digest), MAX_MANIFEST as u64)?.map(Bytes::from))
}

pub(super) fn size_differs(found: u64, said: u64) -> String {
    format!("the file has {found} bytes, its descriptor says {said}")
}

fn too_large(len: u64) -> String {
    format!("it has {len} bytes, more than a manifest may have ({MAX_MANIFEST})")
}
