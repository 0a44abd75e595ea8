//! Media types: which of them are manifests, and what a request for a manifest accepts.

use oci_client::manifest as media;

const DOCKER_SCHEMA1: [&str; 2] =
    ["application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws"];
/// The predecessor of `artifactType` (image-spec v1.1.0-rc2). It was withdrawn, but registries still store such manifests.
pub(super) const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";

/// The `Accept` header of every manifest request (docs/registries.md, "Manifests": without the matching type, registries
/// answer 404 or another digest).
pub(crate) const ACCEPT: [&str; 6] = [
    media::OCI_IMAGE_INDEX_MEDIA_TYPE,
    media::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    media::OCI_IMAGE_MEDIA_TYPE,
    media::IMAGE_MANIFEST_MEDIA_TYPE,
    OCI_ARTIFACT,
    "*/*;q=0.5",
];

/// The families of manifests, by what they refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// OCI index or Docker manifest list: refers to manifests.
    Index,
    /// OCI or Docker image manifest, Helm chart, artifact: refers to a config and layers.
    Image,
    /// A media type that larder does not know: copied as bytes, refers to nothing.
    Opaque,
}

/// The family of a media type.
pub(crate) fn kind_of(media_type: &str) -> ManifestKind {
    match media_type {
        media::OCI_IMAGE_INDEX_MEDIA_TYPE | media::IMAGE_MANIFEST_LIST_MEDIA_TYPE => ManifestKind::Index,
        media::OCI_IMAGE_MEDIA_TYPE | media::IMAGE_MANIFEST_MEDIA_TYPE | OCI_ARTIFACT => ManifestKind::Image,
        _ => ManifestKind::Opaque,
    }
}

/// Whether a media type is one of layers or configs. An index may list such content: BuildKit's older cache format does.
pub(crate) fn is_blob_type(media_type: &str) -> bool {
    const FAMILIES: [&str; 3] =
        ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.", "application/vnd.buildkit.cacheconfig."];
    is_image_config(media_type) || FAMILIES.iter().any(|family| media_type.starts_with(family))
}

/// Whether a media type is that of a container image's config.
pub(super) fn is_image_config(media_type: &str) -> bool {
    [media::IMAGE_CONFIG_MEDIA_TYPE, media::IMAGE_DOCKER_CONFIG_MEDIA_TYPE].contains(&media_type)
}

/// Whether a media type is one of Docker's schema 1.
pub(crate) fn is_schema1(media_type: &str) -> bool {
    DOCKER_SCHEMA1.contains(&media_type)
}
