//! Descriptors: references to content by digest (OCI image-spec descriptor.md).

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Deserializer, Serialize};

use super::media_type::is_image_config;
use crate::name::Digest;

/// The annotation, on a layout's entry and on what [`super::Sink::published`] returns, that names the platforms that are
/// there, separated by commas: the children for other platforms were left out of the index on purpose.
pub const SPARSE: &str = "dev.larder.platforms";

/// The annotation, on a layout's entry, that names what its index lists and its upstream does not have: digests, separated
/// by commas.
pub(crate) const ABSENT: &str = "dev.larder.absent";

const FOREIGN_LAYERS: [&str; 4] = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
];

/// A reference to content by digest (OCI image-spec descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type; empty if it is not stated.
    #[serde(default)]
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where else it can be downloaded; only used for foreign layers.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations, in key order so that what larder writes is stable.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform of an index's child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The artifact's type, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Gives back the memory of annotations that were removed, if none is left: a map that was emptied keeps half a KiB.
    pub(crate) fn free_empty_annotations(&mut self) {
        if self.annotations.is_empty() {
            self.annotations = BTreeMap::new();
        }
    }

    /// A descriptor with just these three members.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: vec![],
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// Whether this is a layer that must not be uploaded (image-spec layer.md "Non-Distributable Layers"). The media
    /// type decides; the presence of `urls` does not.
    pub fn is_foreign(&self) -> bool {
        FOREIGN_LAYERS.contains(&self.media_type.as_str())
    }

    /// Whether this is the config of a container image, which states the platform.
    pub fn is_image_config(&self) -> bool {
        is_image_config(&self.media_type)
    }

    /// The digests that the upstream of a layout's entry did not have, as the entry's annotation says.
    pub(crate) fn absent(&self) -> HashSet<Digest> {
        let text = self.annotations.get(ABSENT).map(String::as_str).unwrap_or_default();
        text.split(',').filter_map(|digest| Digest::parse(digest).ok()).collect()
    }
}

/// What an image runs on (OCI image-spec image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, as Go's GOOS.
    #[serde(default)]
    pub os: String,
    /// Architecture, as Go's GOARCH.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the architecture (`v7`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Version of the operating system (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", crate::error::printable(&self.os), crate::error::printable(&self.architecture))?;
        if let Some(variant) = &self.variant {
            write!(f, "/{}", crate::error::printable(variant))?;
        }
        if let Some(version) = &self.os_version {
            write!(f, ":{}", crate::error::printable(version))?;
        }
        Ok(())
    }
}

/// The platforms of these children of an index, in order, each once. `unknown/unknown` marks attestations, which run nowhere.
pub(crate) fn platforms_of(children: &[Descriptor]) -> Vec<String> {
    let platforms = children.iter().filter_map(|child| child.platform.as_ref()).filter(|platform| platform.os != "unknown");
    let mut seen = HashSet::new();
    platforms.map(ToString::to_string).filter(|name| seen.insert(name.clone())).collect()
}

/// Go writes an empty slice or map as `null`.
pub(super) fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
