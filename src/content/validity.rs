//! Whether bytes are a manifest at all: one check for everything that reads manifests, wherever they come from.
//!
//! Registries' answers are not always registries' answers: login pages, proxies and error envelopes come with status 200, too. What is
//! taken for a manifest has `schemaVersion` 2, the members of its kind, and a media type that agrees with both (image-spec manifest.md
//! and image-index.md; Docker image manifest v2 schema 2). Bytes that are both kinds at once mean one thing to one client and another to
//! the next (CVE-2021-41190), and are refused.

use std::fmt;

use oci_client::manifest as media;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::manifest::{ManifestKind, OCI_ARTIFACT, is_schema1, kind_of};

/// As much of the bytes is shown to say what they are.
const SHOWN: usize = 40;

/// Why bytes are not a manifest that larder carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    /// They are something else, or lack what a manifest needs.
    NotAManifest(NotAManifest),
    /// The Content-Type header and the bytes name two types.
    TwoTypes { served: String, stated: String },
    /// Docker schema 1.
    Schema1,
}

/// What the bytes are instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAManifest {
    /// As what they were served.
    served: Option<String>,
    /// How they begin.
    start: String,
    /// What they lack; empty for a web page.
    why: String,
    /// They are whole: neither JSON that ends too early nor something else that a broken transfer could be.
    pub(super) whole: bool,
}

impl NotAManifest {
    /// What `who` answered, for a person; of a file, nobody did.
    pub(super) fn message(&self, who: Option<&str>) -> String {
        let served = self.served.as_deref().unwrap_or("no Content-Type");
        let start = if self.start.is_empty() { "an empty body".to_owned() } else { format!("starts with `{}`", self.start) };
        let why = if self.why.is_empty() { String::new() } else { format!(": {}", self.why) };
        match (who, &self.served) {
            (Some(who), _) => format!("{who} answered something that is not a manifest ({served}, {start}){why}"),
            (None, Some(served)) => format!("it is not a manifest ({served}, {start}){why}"),
            (None, None) => format!("it is not a manifest ({start}){why}"),
        }
    }

    /// What can be done about it, where a proxy or a login is the likely cause.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        let page = self.start.starts_with('<');
        page.then_some("a web page (HTML) in the registry's place comes from a login or a proxy on the way")
    }
}

/// What stands under a name, as far as its presence matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Member {
    #[default]
    Absent,
    /// Go writes an empty slice or map as `null`.
    Null,
    /// A list of so many.
    List(usize),
    Object,
    Other,
}

impl Member {
    /// Whether it says nothing: not there, or empty.
    fn is_empty(self) -> bool {
        matches!(self, Member::Absent | Member::Null | Member::List(0))
    }

    fn is_list(self) -> bool {
        matches!(self, Member::Null | Member::List(_))
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Member;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }
            fn visit_unit<E>(self) -> Result<Member, E> {
                Ok(Member::Null)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Member, E> {
                Ok(Member::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Member, E> {
                Ok(Member::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Member, E> {
                Ok(Member::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Member, E> {
                Ok(Member::Other)
            }
            fn visit_str<E>(self, _: &str) -> Result<Member, E> {
                Ok(Member::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Member, A::Error> {
                let mut count = 0;
                while items.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Member::List(count))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Member, A::Error> {
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Member::Object)
            }
        }
        deserializer.deserialize_any(Look)
    }
}

/// What tells a manifest's kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Shape {
    schema_version: serde_json::Value,
    media_type: Option<serde_json::Value>,
    config: Member,
    layers: Member,
    manifests: Member,
    blobs: Member,
    subject: Member,
    /// Docker schema 1's layers.
    fs_layers: Member,
}

/// The media type of `bytes`, which are a manifest; `content_type` is what they were served as, or what a descriptor says of them.
///
/// # Errors
/// If they are none that larder carries.
pub(super) fn media_type(bytes: &[u8], content_type: Option<&str>) -> Result<String, Invalid> {
    let served = content_type.map(bare).filter(|value| !value.is_empty());
    let wrong =
        |why: &str, whole| Invalid::NotAManifest(NotAManifest { served: served.clone(), start: start(bytes), why: why.to_owned(), whole });
    let first = bytes.trim_ascii_start().first();
    if first == Some(&b'<') {
        return Err(wrong("", true));
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string(), false))?;
    if first != Some(&b'{') {
        return Err(wrong("it is not a JSON object", true));
    }
    let stated = match &shape.media_type {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(stated)) => Some(stated.as_str()),
        Some(_) => return Err(wrong("its `mediaType` is not a string", true)),
    };
    let media_type = match (&served, stated) {
        (Some(served), Some(stated)) if *served != stated.to_ascii_lowercase() && !is_generic(served) => {
            return Err(Invalid::TwoTypes { served: served.clone(), stated: stated.to_owned() });
        }
        (_, Some(stated)) => stated.to_owned(),
        (Some(served), None) if !is_generic(served) => served.clone(),
        // image-spec lets `mediaType` be absent; the shape tells then.
        _ if shape.schema_version == 1 && shape.config.is_empty() => return Err(Invalid::Schema1),
        _ if shape.manifests != Member::Absent => media::OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned(),
        _ => media::OCI_IMAGE_MEDIA_TYPE.to_owned(),
    };
    if is_schema1(&media_type) {
        return Err(Invalid::Schema1);
    }
    match shape.lacks(&media_type, stated.is_some()) {
        Some(why) => Err(wrong(why, true)),
        None => Ok(media_type),
    }
}

impl Shape {
    /// What it lacks to be a manifest of this type.
    fn lacks(&self, media_type: &str, stated: bool) -> Option<&'static str> {
        let versioned = self.schema_version == 2;
        let of_an_image = [self.config, self.layers, self.fs_layers].into_iter().any(|member| !member.is_empty());
        if of_an_image && !self.manifests.is_empty() {
            return Some("it is an image and an index at once");
        }
        match kind_of(media_type) {
            // Larder does not know what such a manifest needs, but it says itself what it is.
            ManifestKind::Opaque if stated && !is_generic(media_type) && !media_type.starts_with("text/") => None,
            ManifestKind::Opaque if !versioned => Some("it has no `schemaVersion` 2"),
            ManifestKind::Opaque => Some("its media type is not one of a manifest"),
            // The specification of artifact manifests (image-spec v1.1.0-rc2) has no `schemaVersion`.
            ManifestKind::Image if media_type == OCI_ARTIFACT => {
                let made_of = self.blobs.is_list() || self.subject == Member::Object;
                (!made_of).then_some("it has neither `blobs` nor a `subject`")
            }
            _ if !versioned => Some("it has no `schemaVersion` 2"),
            ManifestKind::Index => (!self.manifests.is_list()).then_some("it has no list `manifests`"),
            ManifestKind::Image if self.config != Member::Object => Some("it has no `config`"),
            ManifestKind::Image => (!self.layers.is_list()).then_some("it has no list `layers`"),
        }
    }
}

/// A Content-Type without its parameters.
fn bare(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// Types that servers give to what they know nothing about.
fn is_generic(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "text/plain" | "application/octet-stream" | "binary/octet-stream")
}

/// How the bytes begin: of a web page the first tag, else a few characters.
fn start(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    let shown = String::from_utf8_lossy(bytes.get(..SHOWN * 4).unwrap_or(bytes));
    if shown.starts_with('<')
        && let Some((tag, _)) = shown.split_once('>')
        && tag.chars().count() < SHOWN
    {
        return format!("{tag}>");
    }
    let mut start: String = shown.chars().take(SHOWN).collect();
    if shown.chars().count() > SHOWN {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn said(body: &str, content_type: Option<&str>) -> String {
        match media_type(body.as_bytes(), content_type) {
            Ok(media_type) => media_type,
            Err(Invalid::NotAManifest(not)) => not.message(Some("docker.io")),
            Err(Invalid::TwoTypes { served, stated }) => format!("{served} and {stated}"),
            Err(Invalid::Schema1) => "schema 1".to_owned(),
        }
    }

    #[test]
    fn what_is_not_a_manifest_is_named() {
        let not = |told: &str| format!("docker.io answered something that is not a manifest ({told}");
        for (body, content_type, expected) in [
            ("<html>\n<body>log in</body>", Some("text/html; charset=utf-8"), not("text/html, starts with `<html>`)")),
            ("<!DOCTYPE html><html>", None, not("no Content-Type, starts with `<!DOCTYPE html>`)")),
            ("", Some("application/json"), not("application/json, an empty body): EOF while parsing a value at line 1 column 0")),
            ("{}", Some("application/json"), not("application/json, starts with `{}`): it has no `schemaVersion` 2")),
            ("{}", Some(IMAGE), not(&format!("{IMAGE}, starts with `{{}}`): it has no `schemaVersion` 2"))),
            ("{}", Some("text/html"), not("text/html, starts with `{}`): it has no `schemaVersion` 2")),
            (
                r#"{"login": "https://portal.example.com/?from=registry"}"#,
                None,
                not("no Content-Type, starts with `{\"login\": \"https://portal.example.com/?f…`): it has no `schemaVersion` 2"),
            ),
            (r#"{"schemaVersion":2}"#, None, not(r#"no Content-Type, starts with `{"schemaVersion":2}`): it has no `config`"#)),
            (
                r#"{"schemaVersion":2,"config":{}}"#,
                None,
                not(r#"no Content-Type, starts with `{"schemaVersion":2,"config":{}}`): it has no list `layers`"#),
            ),
            ("[2]", None, not("no Content-Type, starts with `[2]`): it is not a JSON object")),
        ] {
            assert_eq!(said(body, content_type), expected, "{body}");
        }
    }

    #[test]
    fn two_kinds_at_once_are_neither() {
        for (kind, members) in [
            (IMAGE, r#""config":{},"layers":[],"manifests":[{}]"#),
            (INDEX, r#""manifests":[{}],"config":{}"#),
            (INDEX, r#""manifests":[{}],"layers":[{}]"#),
            (INDEX, r#""manifests":[{}],"fsLayers":[{}]"#),
        ] {
            for media_type in [format!(r#""mediaType":"{kind}","#), String::new()] {
                let said = said(&format!(r#"{{"schemaVersion":2,{media_type}{members}}}"#), Some(kind));
                assert!(said.ends_with("it is an image and an index at once"), "{said}");
            }
        }
        // Empty, it says nothing: some builders write every member.
        let both = r#"{"schemaVersion":2,"config":{},"layers":null,"manifests":[]}"#;
        assert_eq!(said(both, Some(IMAGE)), IMAGE);
        assert_eq!(said(r#"{"schemaVersion":2,"manifests":[{}],"layers":[],"config":null}"#, None), INDEX);
    }

    #[test]
    fn a_type_that_larder_does_not_know_must_be_stated_inside() {
        let example = "application/vnd.example+json";
        assert_eq!(said(r#"{"mediaType":"application/vnd.example+json"}"#, Some(example)), example);
        assert!(said(r#"{"a":1}"#, Some(example)).ends_with("it has no `schemaVersion` 2"));
        assert!(said(r#"{"mediaType":"text/html","schemaVersion":2}"#, Some("text/html")).ends_with("not one of a manifest"));
        assert!(said(r#"{"mediaType":"application/json","errors":[]}"#, None).ends_with("it has no `schemaVersion` 2"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200), served: Option<String>) {
            let _ = media_type(&bytes, served.as_deref());
        }

        #[test]
        fn an_object_without_the_members_of_a_kind_is_no_manifest(
            names in proptest::collection::btree_map("[a-z]{1,9}|schemaVersion|errors", 0i64..4, 0..6),
            served in proptest::sample::select(vec![None, Some(IMAGE), Some(INDEX), Some("application/json"), Some("text/html")]),
        ) {
            let body = serde_json::to_vec(&names).unwrap();
            prop_assert!(media_type(&body, served).is_err());
        }
    }
}
