//! When an image was created, as its index, its manifest or its config says.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::descriptor::null_as_default;
use super::{Descriptor, Manifest, ManifestKind, kind_of};
use crate::Result;

/// "Date and time on which the image was built" (image-spec annotations.md), on an index, a manifest or a child's descriptor.
const ANNOTATION: &str = "org.opencontainers.image.created";

/// What BuildKit puts on the descriptor of an attestation among an index's children.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// Go's zero time: nobody has set the date.
const UNSET: &str = "0001-01-01T00:00:00Z";

/// Where a manifest says when it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Created {
    /// Here.
    At(Timestamp),
    /// In this config.
    Config(Descriptor),
    /// In this child: the first that is for a platform.
    Child(Descriptor),
    /// Nowhere.
    Unsaid,
}

#[derive(Deserialize)]
struct Annotated {
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct DatedConfig {
    created: Option<String>,
}

/// Where `manifest` says when it was created.
///
/// # Errors
/// If it is not what its type says.
pub(crate) fn created(manifest: &Manifest) -> Result<Created> {
    if manifest.kind() == ManifestKind::Opaque {
        return Ok(Created::Unsaid);
    }
    let annotated = serde_json::from_slice::<Annotated>(manifest.bytes()).ok();
    if let Some(at) = annotated.as_ref().and_then(|annotated| said(&annotated.annotations)) {
        return Ok(Created::At(at));
    }
    let links = manifest.links();
    Ok(match manifest.kind() {
        ManifestKind::Index => links
            .manifests
            .iter()
            .find(|child| is_real(child))
            .map_or(Created::Unsaid, |child| said(&child.annotations).map_or(Created::Child(child.clone()), Created::At)),
        ManifestKind::Image => {
            // Other artifacts' configs have no date.
            let config = links.blobs.first().filter(|config| config.is_image_config());
            config.map_or(Created::Unsaid, |config| Created::Config(config.clone()))
        }
        ManifestKind::Opaque => Created::Unsaid,
    })
}

/// When the config says its image was created.
pub(crate) fn created_in_config(config: &[u8]) -> Option<Timestamp> {
    time(&serde_json::from_slice::<DatedConfig>(config).ok()?.created?)
}

/// Whether this child of an index is an image, not an attestation about one.
fn is_real(child: &Descriptor) -> bool {
    let runs = child.platform.as_ref().is_none_or(|platform| platform.os != "unknown");
    runs && !child.annotations.contains_key(ATTESTATION) && kind_of(&child.media_type) != ManifestKind::Opaque
}

fn said(annotations: &BTreeMap<String, String>) -> Option<Timestamp> {
    time(annotations.get(ANNOTATION)?)
}

fn time(text: &str) -> Option<Timestamp> {
    if text == UNSET { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn of(value: &Value) -> Created {
        let bytes = Bytes::from(value.to_string());
        let digest = Digest::sha256(&bytes);
        created(&Manifest::known(bytes, None, digest, crate::Side::Upstream).unwrap()).unwrap()
    }

    fn descriptor(media_type: &str, text: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::sha256(text.as_bytes()), "size": 7})
    }

    fn at(text: &str) -> Created {
        Created::At(text.parse().unwrap())
    }

    #[test]
    fn an_image_says_it_in_an_annotation_or_in_its_config() {
        let config = descriptor("application/vnd.docker.container.image.v1+json", "c");
        let mut image = json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": null});
        assert!(matches!(of(&image), Created::Config(found) if found.digest == Digest::sha256(b"c")));
        for (said, expected) in [
            (json!({ANNOTATION: "2024-02-03T04:05:06+02:00"}), Some("2024-02-03T02:05:06Z")),
            (json!({ANNOTATION: UNSET}), None),
            (json!({ANNOTATION: "last week"}), None),
            (json!({ANNOTATION: 7}), None),
            (Value::Null, None),
        ] {
            image["annotations"] = said;
            assert_eq!(matches!(of(&image), Created::Config(_)), expected.is_none(), "{image}");
            if let Some(expected) = expected {
                assert_eq!(of(&image), at(expected));
            }
        }
        let empty = descriptor("application/vnd.oci.empty.v1+json", "e");
        assert_eq!(of(&json!({"schemaVersion": 2, "mediaType": IMAGE, "config": empty, "layers": []})), Created::Unsaid);
        assert_eq!(of(&json!({"mediaType": "application/vnd.example"})), Created::Unsaid);
    }

    #[test]
    fn an_index_says_it_or_its_first_real_child_does() {
        let child = |name: &str, os: &str, annotations: Value| {
            let mut child = descriptor(IMAGE, name);
            child["platform"] = json!({"os": os, "architecture": "amd64"});
            child["annotations"] = annotations;
            child
        };
        let attestation = child("attestation", "unknown", json!({ATTESTATION: "attestation-manifest"}));
        let plain = child("plain", "linux", json!({}));
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [attestation, plain]});
        assert!(matches!(of(&index), Created::Child(found) if found.digest == Digest::sha256(b"plain")));
        // Docker's official images say it on each child's descriptor.
        let dated = child("dated", "linux", json!({ANNOTATION: "2024-01-01T00:00:00Z"}));
        assert_eq!(
            of(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [attestation, dated, plain]})),
            at("2024-01-01T00:00:00Z")
        );
        let annotated =
            json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [plain], "annotations": {ANNOTATION: "2024-01-02T00:00:00Z"}});
        assert_eq!(of(&annotated), at("2024-01-02T00:00:00Z"));
        assert_eq!(of(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [attestation]})), Created::Unsaid);
        assert_eq!(of(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": null})), Created::Unsaid);
    }

    #[test]
    fn a_config_has_a_date_or_none() {
        for (config, expected) in [
            (r#"{"created":"2015-10-31T22:22:56.015925234Z","os":"linux"}"#, Some("2015-10-31T22:22:56.015925234Z")),
            (r#"{"created":"0001-01-01T00:00:00Z"}"#, None),
            (r#"{"created":null}"#, None),
            (r#"{"created":7}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            assert_eq!(created_in_config(config.as_bytes()), expected.map(|text| text.parse().unwrap()), "{config}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = created_in_config(json!({"created": text}).to_string().as_bytes());
            let _ = created_in_config(text.as_bytes());
        }
    }
}
