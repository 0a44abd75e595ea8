//! Content inside a manifest: the `data` of its descriptors (image-spec descriptor.md "Properties").

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::{Digest, Manifest, ManifestKind};

#[derive(Deserialize)]
struct InlineView {
    config: Option<Inline>,
    #[serde(default)]
    layers: Option<Vec<Inline>>,
    #[serde(default)]
    blobs: Option<Vec<Inline>>,
    #[serde(default)]
    manifests: Option<Vec<Inline>>,
}

#[derive(Deserialize)]
struct Inline {
    digest: Digest,
    size: u64,
    /// Of any JSON type; only a text is used.
    #[serde(default)]
    data: serde_json::Value,
}

impl Inline {
    fn content(self) -> Option<(Digest, Bytes)> {
        let bytes = BASE64_STANDARD.decode(self.data.as_str()?).ok()?;
        (bytes.len() as u64 == self.size && self.digest.matches(&bytes)).then(|| (self.digest, bytes.into()))
    }
}

/// The content that stands inside `manifest`, as far as it has the digest and size of its descriptor. Anything else is
/// ignored; the content itself is requested then.
pub(crate) fn inline_content(manifest: &Manifest) -> Vec<(Digest, Bytes)> {
    // Few manifests have any; the others are not parsed a second time.
    let has = manifest.bytes().windows(6).any(|window| window == b"\"data\"");
    if !has || manifest.kind() == ManifestKind::Opaque {
        return vec![];
    }
    let Ok(view) = serde_json::from_slice::<InlineView>(manifest.bytes()) else { return vec![] };
    let lists = [view.layers, view.blobs, view.manifests].into_iter().flatten().flatten();
    view.config.into_iter().chain(lists).filter_map(Inline::content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;
    use serde_json::json;

    #[test]
    fn only_matching_content_is_taken() {
        let of = |content: &[u8], data: serde_json::Value| json!({"mediaType": "x", "digest": Digest::sha256(content), "size": content.len(), "data": data});
        let config = of(b"{}", "e30=".into());
        for (layers, expected) in [
            (json!([of(b"layer", "bGF5ZXI=".into())]), vec![&b"{}"[..], b"layer"]),
            (json!([of(b"other", "bGF5ZXI=".into()), of(b"l", "%".into()), of(b"l", 7.into()), of(b"l", json!(null))]), vec![b"{}"]),
            (json!(null), vec![b"{}"]),
        ] {
            let bytes = Bytes::from(
                json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers})
                    .to_string(),
            );
            let digest = Digest::sha256(&bytes);
            let manifest = Manifest::known(bytes, None, digest, Side::Upstream).unwrap();
            let found: Vec<Bytes> = inline_content(&manifest).into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_child_of_an_index_may_be_inline_and_an_unknown_type_has_none() {
        let child =
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::sha256(b"{}"), "size": 2, "data": "e30="});
        for (media_type, expected) in [("application/vnd.oci.image.index.v1+json", 1), ("application/vnd.example+json", 0)] {
            let bytes = Bytes::from(json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [child]}).to_string());
            let digest = Digest::sha256(&bytes);
            assert_eq!(inline_content(&Manifest::known(bytes, None, digest, Side::Upstream).unwrap()).len(), expected);
        }
    }
}
