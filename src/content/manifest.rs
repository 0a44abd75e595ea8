//! Manifests: raw bytes that are never re-serialised, and a tolerant view of what they refer to
//! (OCI image-spec manifest.md and image-index.md; Docker image manifest v2 schema 2).

use std::collections::BTreeMap;

use bytes::Bytes;
use oci_client::manifest as media;
use serde::{Deserialize, Deserializer, Serialize};

use super::Digest;
use super::validity::{self, Invalid, NotAManifest};
use crate::{Error, Kind, Result, Side};

/// The largest manifest that is read: registries need to accept 4 MiB (distribution-spec "Pushing Manifests"); a little
/// more is allowed for those that take more, and an endless body ends here.
pub const MAX_MANIFEST: usize = 8 * 1024 * 1024;

const CHECK: &str = "check manifest";

const DOCKER_SCHEMA1: [&str; 2] =
    ["application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws"];
/// The predecessor of `artifactType` (image-spec v1.1.0-rc2): withdrawn, but still stored in registries.
pub(super) const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
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
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// What its bytes hash to.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// Where else it may be had; only for foreign layers.
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
    /// A descriptor of just these three.
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

    /// Whether this is the config of an image to run, which says what it runs on.
    pub fn is_image_config(&self) -> bool {
        [media::IMAGE_CONFIG_MEDIA_TYPE, media::IMAGE_DOCKER_CONFIG_MEDIA_TYPE].contains(&self.media_type.as_str())
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

/// The families of manifests, by what they refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// OCI index or Docker manifest list: refers to manifests.
    Index,
    /// OCI or Docker image manifest, Helm chart, artifact: refers to a config and layers.
    Image,
    /// A media type that larder does not know: carried as bytes, refers to nothing.
    Opaque,
}

/// A manifest: its exact bytes, checked against its digest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The bytes as they were received.
    pub bytes: Bytes,
    /// Its media type, without parameters: what a PUT must say in Content-Type.
    pub media_type: String,
    /// What the bytes hash to; checked.
    pub digest: Digest,
}

/// What a manifest refers to. Order and duplicates are those of the manifest.
#[derive(Debug, Clone, Default)]
pub struct Links {
    /// Child manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// Config and layers, config first.
    pub blobs: Vec<Descriptor>,
    /// The manifest this one is about (a referrer's subject).
    pub subject: Option<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestView {
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_as_default")]
    layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_as_default")]
    blobs: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_as_default")]
    manifests: Vec<Descriptor>,
    subject: Option<Descriptor>,
}

/// Go writes an empty slice or map as `null`.
pub(super) fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Manifest {
    /// Checks `bytes` against `expected`, that they are a manifest, and settles the media type: the Content-Type (without parameters) must
    /// not contradict the body's own `mediaType` (distribution-spec "Pulling manifests").
    ///
    /// # Errors
    /// `Kind::Damaged` for a wrong digest, contradicting types or what is not a manifest; `Kind::Unsupported` for Docker schema 1.
    pub fn verify(bytes: Bytes, content_type: Option<&str>, expected: &Digest, side: Side) -> Result<Self> {
        Self::check(bytes, content_type, expected, side, None)
    }

    /// As [`Manifest::verify`], for what the registry `host` has answered.
    ///
    /// # Errors
    /// As [`Manifest::verify`].
    pub(crate) fn received(bytes: Bytes, content_type: Option<&str>, expected: &Digest, side: Side, host: &str) -> Result<Self> {
        Self::check(bytes, content_type, expected, side, Some(host))
    }

    fn check(bytes: Bytes, content_type: Option<&str>, expected: &Digest, side: Side, host: Option<&str>) -> Result<Self> {
        if expected.hasher().is_none() {
            return Err(Error::new(side, CHECK, Kind::Unsupported, format!("larder cannot compute {} digests", expected.algorithm())));
        }
        if expected.matches(&bytes) {
            return Self::of(bytes, content_type, expected.clone(), side, host);
        }
        let hashes = format!("the bytes received hash to {}, not to {expected}", Digest::sha256(&bytes));
        Err(match validity::media_type(&bytes, content_type) {
            // What was sent in the manifest's place tells more than its hash.
            Err(Invalid::NotAManifest(other)) if other.whole => not_a_manifest(&other, side, host, &format!("; {hashes}")),
            _ => Error::new(side, CHECK, Kind::Damaged, hashes),
        })
    }

    /// As [`Manifest::verify`], for bytes whose digest `digest` has just been computed from them.
    ///
    /// # Errors
    /// As [`Manifest::verify`], but for the digest.
    pub fn known(bytes: Bytes, content_type: Option<&str>, digest: Digest, side: Side) -> Result<Self> {
        Self::of(bytes, content_type, digest, side, None)
    }

    fn of(bytes: Bytes, content_type: Option<&str>, digest: Digest, side: Side, host: Option<&str>) -> Result<Self> {
        let media_type = validity::media_type(&bytes, content_type).map_err(|invalid| match invalid {
            Invalid::NotAManifest(other) => not_a_manifest(&other, side, host, ""),
            Invalid::TwoTypes { served, stated } => {
                Error::new(side, CHECK, Kind::Damaged, format!("served as `{served}`, but the manifest says it is `{stated}`"))
            }
            Invalid::Schema1 => schema1(side),
        })?;
        if kind_of(&media_type) != ManifestKind::Opaque {
            serde_json::from_slice::<ManifestView>(&bytes)
                .map_err(|error| Error::new(side, CHECK, Kind::Damaged, format!("invalid manifest: {error}")))?;
        }
        Ok(Manifest { bytes, media_type, digest })
    }

    /// Which family it belongs to.
    pub fn kind(&self) -> ManifestKind {
        kind_of(&self.media_type)
    }

    /// A descriptor of it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest.clone(), self.bytes.len() as u64)
    }

    /// What it refers to.
    ///
    /// # Errors
    /// `Kind::Damaged` if it is not JSON of the expected shape.
    pub fn links(&self) -> Result<Links> {
        if self.kind() == ManifestKind::Opaque {
            return Ok(Links::default());
        }
        let view: ManifestView = serde_json::from_slice(&self.bytes)
            .map_err(|error| Error::new(Side::Local, "read manifest", Kind::Damaged, format!("{}: {error}", self.digest)))?;
        Ok(match self.kind() {
            ManifestKind::Index => Links { manifests: view.manifests, blobs: vec![], subject: view.subject },
            ManifestKind::Image => {
                let blobs = view.config.into_iter().chain(view.layers).chain(view.blobs).collect();
                Links { manifests: vec![], blobs, subject: view.subject }
            }
            ManifestKind::Opaque => Links::default(),
        })
    }
}

/// The platforms that these children of an index name, in their order, each once. `unknown/unknown` marks attestations, which run
/// nowhere.
pub(crate) fn platforms_of(children: &[Descriptor]) -> Vec<String> {
    let platforms = children.iter().filter_map(|child| child.platform.as_ref()).filter(|platform| platform.os != "unknown");
    let mut seen = std::collections::HashSet::new();
    platforms.map(ToString::to_string).filter(|name| seen.insert(name.clone())).collect()
}

/// Whether a media type is one of layers or configs. An index may list such things: BuildKit's cache does, in its older form.
pub(crate) fn is_blob_type(media_type: &str) -> bool {
    const FAMILIES: [&str; 3] =
        ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.", "application/vnd.buildkit.cacheconfig."];
    let is_config = [media::IMAGE_CONFIG_MEDIA_TYPE, media::IMAGE_DOCKER_CONFIG_MEDIA_TYPE].contains(&media_type);
    is_config || FAMILIES.iter().any(|family| media_type.starts_with(family))
}

/// Whether a media type is one of Docker's schema 1.
pub(crate) fn is_schema1(media_type: &str) -> bool {
    DOCKER_SCHEMA1.contains(&media_type)
}

/// Why a manifest of Docker's schema 1 is not carried.
pub(crate) fn schema1(side: Side) -> Error {
    Error::new(side, CHECK, Kind::Unsupported, "this is a Docker schema 1 manifest, which larder does not carry")
        .remedy("rebuild or re-push the image with a current tool; schema 1 was withdrawn in 2019")
}

fn not_a_manifest(other: &NotAManifest, side: Side, host: Option<&str>, more: &str) -> Error {
    let error = Error::new(side, CHECK, Kind::Damaged, format!("{}{more}", other.message(host)));
    match other.remedy() {
        Some(remedy) => error.remedy(remedy),
        None => error,
    }
}

/// The family of a media type.
pub(crate) fn kind_of(media_type: &str) -> ManifestKind {
    match media_type {
        media::OCI_IMAGE_INDEX_MEDIA_TYPE | media::IMAGE_MANIFEST_LIST_MEDIA_TYPE => ManifestKind::Index,
        media::OCI_IMAGE_MEDIA_TYPE | media::IMAGE_MANIFEST_MEDIA_TYPE | OCI_ARTIFACT => ManifestKind::Image,
        _ => ManifestKind::Opaque,
    }
}

/// Everything a manifest request says it accepts (docs/registries.md, "Manifests": without the matching type, registries answer 404
/// or another digest).
pub(crate) const ACCEPT: [&str; 6] = [
    media::OCI_IMAGE_INDEX_MEDIA_TYPE,
    media::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    media::OCI_IMAGE_MEDIA_TYPE,
    media::IMAGE_MANIFEST_MEDIA_TYPE,
    OCI_ARTIFACT,
    "*/*;q=0.5",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(body: &str, content_type: Option<&str>) -> Result<Manifest> {
        Manifest::verify(Bytes::copy_from_slice(body.as_bytes()), content_type, &Digest::sha256(body.as_bytes()), Side::Upstream)
    }

    #[test]
    fn go_nulls_and_strange_white_space_are_read_and_bytes_are_kept() {
        let body = "{ \"schemaVersion\" :2,\n\t\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":null }\n\n";
        let manifest = verify(body, Some("application/vnd.oci.image.index.v1+json; charset=utf-8")).unwrap();
        assert_eq!(manifest.kind(), ManifestKind::Index);
        assert_eq!(manifest.links().unwrap().manifests.len(), 0);
        assert_eq!(manifest.bytes, body.as_bytes());
    }

    #[test]
    fn a_wrong_digest_names_both() {
        let wrong = Digest::sha256(b"other");
        let error = Manifest::verify(Bytes::from_static(b"{}"), None, &wrong, Side::Upstream).unwrap_err();
        assert!(error.message().starts_with("it is not a manifest (starts with `{}`)"), "{error}");
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.message().contains("44136fa3") && error.message().contains(wrong.as_str()));
    }

    #[test]
    fn html_and_schema_1_and_contradicting_types_are_refused_by_name() {
        assert!(verify("<html>login</html>", Some("text/html")).unwrap_err().message().contains("web page"));
        let schema1 = verify("{\"schemaVersion\":1}", Some("application/vnd.docker.distribution.manifest.v1+prettyjws")).unwrap_err();
        assert_eq!(schema1.kind(), Kind::Unsupported);
        assert!(schema1.message().contains("schema 1"));
        let both =
            verify("{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\"}", Some("application/vnd.oci.image.index.v1+json"));
        assert_eq!(both.unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn an_absent_media_type_is_told_from_the_shape() {
        let child = "{\"digest\":\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\"size\":2}";
        assert_eq!(
            verify(&format!("{{\"schemaVersion\":2,\"manifests\":[{child}]}}"), Some("application/json")).unwrap().kind(),
            ManifestKind::Index
        );
        let image = verify(&format!("{{\"schemaVersion\":2,\"config\":{child},\"layers\":[{child}]}}"), None).unwrap();
        assert_eq!((image.kind(), image.links().unwrap().blobs.len()), (ManifestKind::Image, 2));
    }

    #[test]
    fn an_unknown_media_type_is_carried() {
        // Whatever stands in it, under names that mean something elsewhere.
        for fields in ["", r#","layers":[{"digest":"none"}]"#, r#","manifests":7,"schemaVersion":"3","subject":[]"#] {
            let body = format!("{{\"mediaType\":\"application/vnd.example+json\"{fields}}}");
            let manifest = verify(&body, Some("application/vnd.example+json")).unwrap();
            assert_eq!((manifest.kind(), manifest.links().unwrap().blobs.len()), (ManifestKind::Opaque, 0));
        }
        let image = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[{"digest":"none"}]}"#;
        assert_eq!(verify(image, None).unwrap_err().kind(), Kind::Damaged);
    }
}
