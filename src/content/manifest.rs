//! Manifests: their exact bytes, which are never re-serialised, with what was parsed from them
//! (OCI image-spec manifest.md and image-index.md; Docker image manifest v2 schema 2).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::descriptor::Descriptor;
use super::media_type::{ManifestKind, kind_of};
use super::parse::{Invalid, Links, NotAManifest, parse};
use crate::name::Digest;
use crate::{Error, Kind, Operation, Result, Side};

/// The largest manifest that is read, in bytes. Registries must accept 4 MiB (distribution-spec "Pushing Manifests"); the
/// rest is for those that accept more. An endless body ends here.
pub const MAX_MANIFEST: usize = 8 * 1024 * 1024;

const CHECK: Operation = Operation::CheckManifest;

/// A manifest: its exact bytes, which have its digest, parsed once. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Manifest {
    bytes: Bytes,
    media_type: Arc<str>,
    digest: Digest,
    links: Arc<Links>,
}

impl Manifest {
    /// Hashes `bytes`, which must have the digest `expected`, and parses them. The Content-Type (without parameters) must
    /// not contradict the body's own `mediaType` (distribution-spec "Pulling manifests").
    ///
    /// # Errors
    /// `Kind::Damaged` for a wrong digest, contradicting types or bytes that are not a manifest; `Kind::Unsupported` for
    /// Docker schema 1.
    pub fn verify(bytes: Bytes, content_type: Option<&str>, expected: &Digest, side: Side) -> Result<Self> {
        Self::check(bytes, content_type, expected, side, None)
    }

    /// As [`Manifest::verify`], for the answer of the registry `host`.
    ///
    /// # Errors
    /// As [`Manifest::verify`].
    pub(crate) fn received(bytes: Bytes, content_type: Option<&str>, expected: &Digest, side: Side, host: &str) -> Result<Self> {
        Self::check(bytes, content_type, expected, side, Some(host))
    }

    /// As [`Manifest::verify`], for bytes from which the caller has just computed `digest`.
    ///
    /// # Errors
    /// As [`Manifest::verify`], but for the digest.
    pub fn known(bytes: Bytes, content_type: Option<&str>, digest: Digest, side: Side) -> Result<Self> {
        Self::of(bytes, content_type, digest, side, None)
    }

    fn check(bytes: Bytes, content_type: Option<&str>, expected: &Digest, side: Side, host: Option<&str>) -> Result<Self> {
        if expected.hasher().is_none() {
            return Err(Error::new(side, CHECK, Kind::Unsupported, format!("larder cannot compute {} digests", expected.algorithm())));
        }
        if expected.matches(&bytes) {
            return Self::of(bytes, content_type, expected.clone(), side, host);
        }
        let hashes = format!("the bytes received hash to {}, not to {expected}", Digest::sha256(&bytes));
        Err(match parse(&bytes, content_type) {
            // What was sent in the manifest's place tells more than its hash.
            Err(Invalid::NotAManifest(other)) if other.whole => not_a_manifest(&other, side, host, &format!("; {hashes}")),
            _ => Error::new(side, CHECK, Kind::Damaged, hashes),
        })
    }

    fn of(bytes: Bytes, content_type: Option<&str>, digest: Digest, side: Side, host: Option<&str>) -> Result<Self> {
        let parsed = parse(&bytes, content_type).map_err(|invalid| match invalid {
            Invalid::NotAManifest(other) => not_a_manifest(&other, side, host, ""),
            Invalid::TwoTypes { served, stated } => {
                Error::new(side, CHECK, Kind::Damaged, format!("served as `{served}`, but the manifest says it is `{stated}`"))
            }
            Invalid::Malformed(why) => Error::new(side, CHECK, Kind::Damaged, format!("invalid manifest: {why}")),
            Invalid::Schema1 => schema1(side),
        })?;
        Ok(Manifest { bytes, media_type: parsed.media_type.into(), digest, links: Arc::new(parsed.links) })
    }

    /// The bytes as they were received.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The length of the bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The media type without parameters: the Content-Type of a PUT.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The family of its media type.
    pub fn kind(&self) -> ManifestKind {
        kind_of(&self.media_type)
    }

    /// What it refers to.
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// A descriptor of it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&*self.media_type, self.digest.clone(), self.size())
    }

    /// Its descriptor as a list of referrers has it: with its artifact type, which is its config's media type where it
    /// states none, and its annotations (distribution-spec "Listing Referrers"). Taken from the manifest itself, because
    /// lists may lack both (cosign#4641).
    pub fn as_referrer(&self) -> Descriptor {
        let mut descriptor = self.descriptor();
        // If annotations are not texts, neither is taken.
        if let Ok(view) = serde_json::from_slice::<ReferrerView>(&self.bytes) {
            let stated = view.artifact_type.filter(|stated| !stated.is_empty());
            let of_config = || view.config.and_then(|config| config.media_type).filter(|_| self.kind() == ManifestKind::Image);
            descriptor.artifact_type = stated.or_else(of_config);
            descriptor.annotations = view.annotations.unwrap_or_default();
        }
        descriptor
    }
}

/// What a manifest says of itself as a referrer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerView {
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<ConfigView>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigView {
    #[serde(default)]
    media_type: Option<String>,
}

/// The error for Docker's schema 1.
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
        assert_eq!(manifest.links().manifests.len(), 0);
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
        assert_eq!((image.kind(), image.links().blobs.len()), (ManifestKind::Image, 2));
    }

    #[test]
    fn an_unknown_media_type_is_carried() {
        // Whatever stands in it, under names that mean something elsewhere.
        for fields in ["", r#","layers":[{"digest":"none"}]"#, r#","manifests":7,"schemaVersion":"3","subject":[]"#] {
            let body = format!("{{\"mediaType\":\"application/vnd.example+json\"{fields}}}");
            let manifest = verify(&body, Some("application/vnd.example+json")).unwrap();
            assert_eq!((manifest.kind(), manifest.links().blobs.len()), (ManifestKind::Opaque, 0));
        }
        let image = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[{"digest":"none"}]}"#;
        assert_eq!(verify(image, None).unwrap_err().kind(), Kind::Damaged);
    }
}
