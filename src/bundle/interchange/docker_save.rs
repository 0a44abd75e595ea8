//! Archives of `docker save` (moby `image/spec/spec.md` "Combined Image JSON + Filesystem Changeset Format"):
//! `manifest.json` names the config, the layers and the tags of each image. There are no manifests, so they are built: an
//! OCI image manifest, its fields in the specification's order, layers as they are. The same archive always gives the
//! same manifests.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::tar_index::{OP, TarIndex, TarMember, damaged};
use super::unpack::{Compression, peek};
use crate::bundle::read::{BundleSource, Piece, PieceLocation, each_chunk};
use crate::content::{Descriptor, Digest, MAX_MANIFEST};
use crate::layout::{IndexEntry, MOST_ENTRIES};
use crate::{Error, Result};

/// The file that tells a `docker save` archive from others.
pub(super) const LIST: &str = "manifest.json";

/// The largest `manifest.json` that is read, in bytes. An image with a hundred layers takes 8 KB in it.
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

/// The part of an image's config that lists its layers.
#[derive(Deserialize)]
struct SavedConfig {
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

/// The manifest that is built.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuiltManifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Parses `manifest.json`.
fn parse_list(bytes: &[u8]) -> Result<Vec<SavedImage>, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("invalid `{LIST}`: {error}"))
}

/// Adds the archive's content and the manifests built for it to `source`; the entries of its images.
pub(super) fn read(source: &mut BundleSource, tar: &TarIndex, origin: usize) -> Result<Vec<IndexEntry>> {
    let images = parse_list(&tar.read(LIST, MAX_LIST)?).map_err(|why| damaged(tar.path(), &why))?;
    let compressed = compressed_layers(tar, &images)?;
    let mut entries = vec![];
    for image in images {
        let descriptor = add_image(source, tar, origin, &image, &compressed)?;
        let names = image.repo_tags.unwrap_or_default();
        if names.is_empty() {
            entries.push(IndexEntry { descriptor: descriptor.clone(), name: None, source: None });
        }
        let normal = |name: String| crate::name::ImageName::parse(&name).map(|name| name.to_string()).unwrap_or(name);
        if entries.len() + names.len() > MOST_ENTRIES {
            return Err(damaged(tar.path(), &format!("`{LIST}` has more than {MOST_ENTRIES} names")));
        }
        entries.extend(names.into_iter().map(|name| IndexEntry { descriptor: descriptor.clone(), name: None, source: Some(normal(name)) }));
    }
    Ok(entries)
}

/// Adds one image to `source`; the descriptor of its manifest.
fn add_image(
    source: &mut BundleSource,
    tar: &TarIndex,
    origin: usize,
    image: &SavedImage,
    compressed: &HashMap<u64, CompressedLayer>,
) -> Result<Descriptor> {
    let bytes = tar.read(&image.config, MAX_MANIFEST as u64)?;
    let config = Descriptor::new(CONFIG, Digest::sha256(&bytes), bytes.len() as u64);
    let parsed: SavedConfig = serde_json::from_slice(&bytes)
        .map_err(|error| damaged(tar.path(), &format!("invalid image config `{}`: {error}", image.config)))?;
    let diff_ids = parsed.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
    let names = image.layers.as_deref().unwrap_or_default();
    if names.len() != diff_ids.len() {
        let why = format!("`{}` has {} layers, `{LIST}` has {}", image.config, diff_ids.len(), names.len());
        return Err(damaged(tar.path(), &why));
    }
    let mut layers = Vec::with_capacity(names.len());
    for (name, diff_id) in names.iter().zip(diff_ids) {
        let member = member(tar, name)?;
        // The config has the digests of uncompressed layers. They are checked when the layers are read.
        let layer = match compressed.get(&member.offset) {
            Some(layer) => Descriptor::new(layer.media_type, layer.digest.clone(), member.len),
            None => Descriptor::new(LAYER, diff_id, member.len),
        };
        source.add(layer.digest.clone(), tar.piece(origin, member));
        layers.push(layer);
    }
    if let Some(member) = tar.find(&image.config) {
        source.add(config.digest.clone(), tar.piece(origin, member));
    }
    let manifest = BuiltManifest { schema_version: 2, media_type: MANIFEST, config, layers };
    let bytes = serde_json::to_vec(&manifest).map_err(|error| Error::local(OP, error.to_string()))?;
    let descriptor = Descriptor::new(MANIFEST, Digest::sha256(&bytes), bytes.len() as u64);
    let len = descriptor.size;
    source.add(descriptor.digest.clone(), Piece { origin, location: PieceLocation::Memory(bytes.into()), len });
    Ok(descriptor)
}

/// A compressed layer, whose digest is not in the config.
struct CompressedLayer {
    digest: Digest,
    media_type: &'static str,
}

/// The compressed layers of an archive by their offset, hashed on all cores. Docker and podman write none; other tools do.
fn compressed_layers(tar: &TarIndex, images: &[SavedImage]) -> Result<HashMap<u64, CompressedLayer>> {
    let mut members: HashMap<u64, TarMember> = HashMap::new();
    for name in images.iter().flat_map(|image| image.layers.as_deref().unwrap_or_default()) {
        let member = member(tar, name)?;
        members.insert(member.offset, member);
    }
    let members: Vec<TarMember> = members.into_values().collect();
    let layers: Vec<Option<(u64, CompressedLayer)>> = members.into_par_iter().map(|member| hash(tar, member)).collect::<Result<_>>()?;
    Ok(layers.into_iter().flatten().collect())
}

fn member(tar: &TarIndex, name: &str) -> Result<TarMember> {
    tar.find(name).ok_or_else(|| damaged(tar.path(), &format!("`{LIST}` names `{name}`: {}", tar.lacks(name))))
}

fn hash(tar: &TarIndex, member: TarMember) -> Result<Option<(u64, CompressedLayer)>> {
    let io = |error: std::io::Error| Error::io(OP, tar.path(), &error);
    let (first, mut stream) = peek(tar.open(member)).map_err(io)?;
    let media_type = match Compression::of(&first) {
        Some(Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
        Some(Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => return Ok(None),
    };
    let Some(mut hasher) = Digest::sha256(b"").hasher() else { return Ok(None) };
    each_chunk(&mut stream, member.len, &mut |bytes| hasher.update(bytes)).map_err(io)?;
    Ok(Some((member.offset, CompressedLayer { digest: hasher.finish(), media_type })))
}
