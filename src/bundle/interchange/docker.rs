//! Archives of `docker save` (moby `image/spec/spec.md` "Combined Image JSON + Filesystem Changeset Format"): `manifest.json` names for
//! each image its config, its layers and its tags; manifests there are none. What is made here is always the same for the same
//! archive: an OCI image manifest, its fields in the specification's order, layers as they lie there.

use std::collections::HashMap;
use std::io::Read as _;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::tarball::{TarMember, Tarball, damaged};
use crate::bundle::read::{BundleReader, Piece, Where};
use crate::content::{Descriptor, Digest, MAX_MANIFEST};
use crate::layout::{IndexEntry, MOST_ENTRIES};
use crate::{Error, Result};

/// What tells a `docker save` archive from another.
pub(super) const LIST: &str = "manifest.json";

/// An image with a hundred layers has 8 KB in it.
const MAX_LIST: u64 = 16 * 1024 * 1024;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// What of an image's config tells its layers.
#[derive(Deserialize)]
struct SavedConfig {
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

/// The manifest that is made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuiltManifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Puts the archive's content and the manifests made for it on the shelf; the names of its images.
pub(super) fn read(gathering: &mut BundleReader<'_>, tarball: &Tarball, origin: usize) -> Result<Vec<IndexEntry>> {
    let list = tarball.read(LIST, MAX_LIST)?;
    let images: Vec<SavedImage> =
        serde_json::from_slice(&list).map_err(|error| damaged(tarball.path(), &format!("`{LIST}` is no list of images: {error}")))?;
    let compressed = compressed(tarball, &images)?;
    let mut entries = vec![];
    for image in images {
        let made = make(gathering, tarball, origin, &image, &compressed)?;
        let names = image.repo_tags.unwrap_or_default();
        if names.is_empty() {
            entries.push(IndexEntry { descriptor: made.clone(), name: None, source: None });
        }
        let normal = |name: String| crate::name::ImageName::parse(&name).map(|name| name.to_string()).unwrap_or(name);
        if entries.len() + names.len() > MOST_ENTRIES {
            return Err(damaged(tarball.path(), &format!("`{LIST}` has more than {MOST_ENTRIES} names")));
        }
        entries.extend(names.into_iter().map(|name| IndexEntry { descriptor: made.clone(), name: None, source: Some(normal(name)) }));
    }
    Ok(entries)
}

/// Puts one image on the shelf; its manifest's descriptor.
fn make(
    gathering: &mut BundleReader<'_>,
    tarball: &Tarball,
    origin: usize,
    image: &SavedImage,
    compressed: &HashMap<u64, SavedLayer>,
) -> Result<Descriptor> {
    let piece = |member: TarMember| Piece { origin, at: tarball.at(member), len: member.len };
    let bytes = tarball.read(&image.config, MAX_MANIFEST as u64)?;
    let config = Descriptor::new(CONFIG, Digest::sha256(&bytes), bytes.len() as u64);
    let parsed: SavedConfig = serde_json::from_slice(&bytes)
        .map_err(|error| damaged(tarball.path(), &format!("`{}` is no image's config: {error}", image.config)))?;
    let diff_ids = parsed.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
    let names = image.layers.as_deref().unwrap_or_default();
    if names.len() != diff_ids.len() {
        let why = format!("`{}` speaks of {} layers, `{LIST}` of {}", image.config, diff_ids.len(), names.len());
        return Err(damaged(tarball.path(), &why));
    }
    let mut layers = Vec::with_capacity(names.len());
    for (name, diff_id) in names.iter().zip(diff_ids) {
        let member = member(tarball, name)?;
        // What is not compressed is what the config has the digest of; whether it is, is seen when it is read.
        let layer = match compressed.get(&member.offset) {
            Some(layer) => Descriptor::new(layer.media_type, layer.digest.clone(), member.len),
            None => Descriptor::new(LAYER, diff_id, member.len),
        };
        gathering.shelf.add(layer.digest.clone(), piece(member));
        layers.push(layer);
    }
    if let Some(member) = tarball.find(&image.config) {
        gathering.shelf.add(config.digest.clone(), piece(member));
    }
    let made = BuiltManifest { schema_version: 2, media_type: MANIFEST, config, layers };
    // A value of ours, whose keys are all strings, always serialises.
    let bytes = serde_json::to_vec(&made).map_err(|error| Error::local(super::OP, error.to_string()))?;
    let descriptor = Descriptor::new(MANIFEST, Digest::sha256(&bytes), bytes.len() as u64);
    let len = bytes.len() as u64;
    gathering.shelf.add(descriptor.digest.clone(), Piece { origin, at: Where::Memory(bytes.into()), len });
    Ok(descriptor)
}

/// A compressed layer: its digest is in no config.
struct SavedLayer {
    digest: Digest,
    media_type: &'static str,
}

/// The compressed layers of an archive, each hashed once, on all cores. Docker and podman write none; other tools do.
fn compressed(tarball: &Tarball, images: &[SavedImage]) -> Result<HashMap<u64, SavedLayer>> {
    let mut members: HashMap<u64, TarMember> = HashMap::new();
    for name in images.iter().flat_map(|image| image.layers.as_deref().unwrap_or_default()) {
        let member = member(tarball, name)?;
        members.insert(member.offset, member);
    }
    let members: Vec<TarMember> = members.into_values().collect();
    let layers: Vec<Option<(u64, SavedLayer)>> = members.into_par_iter().map(|member| hash(tarball, member)).collect::<Result<_>>()?;
    Ok(layers.into_iter().flatten().collect())
}

fn member(tarball: &Tarball, name: &str) -> Result<TarMember> {
    tarball.find(name).ok_or_else(|| damaged(tarball.path(), &format!("it has no `{name}`, which `{LIST}` names")))
}

fn hash(tarball: &Tarball, member: TarMember) -> Result<Option<(u64, SavedLayer)>> {
    let io = |error: std::io::Error| Error::io(super::OP, tarball.path(), &error);
    let mut file = tarball.open(member);
    let mut buffer = vec![0; 1024 * 1024];
    let mut read = file.read(&mut buffer).map_err(io)?;
    // RFC 1952 2.3.1 and RFC 8878 3.1.1.
    let media_type = match buffer.get(..read.min(4)) {
        Some([0x1f, 0x8b, ..]) => "application/vnd.oci.image.layer.v1.tar+gzip",
        Some([0x28, 0xb5, 0x2f, 0xfd]) => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => return Ok(None),
    };
    let Some(mut hasher) = Digest::sha256(b"").hasher() else { return Ok(None) };
    while read > 0 {
        hasher.update(buffer.get(..read).unwrap_or_default());
        read = file.read(&mut buffer).map_err(io)?;
    }
    Ok(Some((member.offset, SavedLayer { digest: hasher.finish(), media_type })))
}
