//! Parsing a manifest: whether bytes are one at all, of which media type, and what it refers to.
//!
//! Every reader of manifests uses this one check, wherever the bytes come from. Login pages, proxies and error envelopes
//! also come with status 200. A manifest has `schemaVersion` 2, the members of its kind, and a media type that agrees with
//! both (image-spec manifest.md and image-index.md; Docker image manifest v2 schema 2). Bytes that are both kinds at once
//! mean different things to different clients (CVE-2021-41190) and are refused.

use oci_client::manifest as media;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::descriptor::Descriptor;
use super::media_type::{ManifestKind, OCI_ARTIFACT, is_schema1, kind_of};

/// How many characters of the bytes an error shows.
const SHOWN: usize = 40;

/// What a manifest refers to. Order and duplicates are those of the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Child manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// Config and layers, config first.
    pub blobs: Vec<Descriptor>,
    /// The manifest that this one refers to as its subject.
    pub subject: Option<Descriptor>,
}

/// What parsing found.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) media_type: String,
    pub(super) links: Links,
}

/// Why bytes are not a manifest that larder copies.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    /// They are something else, or lack what a manifest needs.
    NotAManifest(NotAManifest),
    /// The Content-Type header and the bytes state two types.
    TwoTypes { served: String, stated: String },
    /// Docker schema 1.
    Schema1,
    /// A descriptor is malformed; the parser's message.
    Malformed(String),
}

/// What the bytes are instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAManifest {
    /// The media type that they were served with.
    served: Option<String>,
    /// How they begin.
    start: String,
    /// What they lack; empty for a web page.
    why: String,
    /// They are complete: neither JSON that ends too early nor anything else that a broken transfer could be.
    pub(super) whole: bool,
}

impl NotAManifest {
    /// The message. `host` is the registry that answered; `None` for a file.
    pub(super) fn message(&self, host: Option<&str>) -> String {
        let served = self.served.as_deref().unwrap_or("no Content-Type");
        let start = if self.start.is_empty() { "an empty body".to_owned() } else { format!("starts with `{}`", self.start) };
        let why = if self.why.is_empty() { String::new() } else { format!(": {}", self.why) };
        match (host, &self.served) {
            (Some(host), _) => format!("{host} answered something that is not a manifest ({served}, {start}){why}"),
            (None, Some(served)) => format!("it is not a manifest ({served}, {start}){why}"),
            (None, None) => format!("it is not a manifest ({start}){why}"),
        }
    }

    /// What can be done about it, where a proxy or a login page is the likely cause.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        let page = self.start.starts_with('<');
        page.then_some("a web page (HTML) in the registry's place comes from a login or a proxy on the way")
    }
}

/// The members of a manifest that tell its kind, not yet parsed: what they may hold depends on the kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Members<'a> {
    schema_version: serde_json::Value,
    media_type: Option<serde_json::Value>,
    #[serde(borrow, deserialize_with = "present")]
    config: Member<'a>,
    #[serde(borrow, deserialize_with = "present")]
    layers: Member<'a>,
    #[serde(borrow, deserialize_with = "present")]
    manifests: Member<'a>,
    #[serde(borrow, deserialize_with = "present")]
    blobs: Member<'a>,
    #[serde(borrow, deserialize_with = "present")]
    subject: Member<'a>,
    /// Docker schema 1's layers.
    #[serde(borrow, deserialize_with = "present")]
    fs_layers: Member<'a>,
}

/// The JSON text of a member; `None` if it is absent.
type Member<'a> = Option<&'a RawValue>;

/// Tells `null` from an absent member.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Member<'de>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Whether a member says nothing: absent, `null` (as Go writes an empty slice or map), or an empty list.
fn is_empty(member: Member<'_>) -> bool {
    member.is_none_or(|json| {
        let inside = json.get().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        json.get() == "null" || inside.is_some_and(|inside| inside.trim_ascii().is_empty())
    })
}

fn is_list(member: Member<'_>) -> bool {
    member.is_some_and(|json| json.get() == "null" || json.get().starts_with('['))
}

fn is_object(member: Member<'_>) -> bool {
    member.is_some_and(|json| json.get().starts_with('{'))
}

/// Parses `bytes`. `content_type` is what they were served as, or what a descriptor says of them.
///
/// # Errors
/// If they are not a manifest that larder copies.
pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Parsed, Invalid> {
    let served = content_type.map(bare).filter(|value| !value.is_empty());
    let wrong =
        |why: &str, whole| Invalid::NotAManifest(NotAManifest { served: served.clone(), start: start(bytes), why: why.to_owned(), whole });
    let first = bytes.trim_ascii_start().first();
    if first == Some(&b'<') {
        return Err(wrong("", true));
    }
    let members: Members<'_> = serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string(), false))?;
    if first != Some(&b'{') {
        return Err(wrong("it is not a JSON object", true));
    }
    let stated = match &members.media_type {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(stated)) => Some(stated.as_str()),
        Some(_) => return Err(wrong("its `mediaType` is not a string", true)),
    };
    let media_type = match (&served, stated) {
        (Some(served), Some(stated)) if !agree(served, &stated.to_ascii_lowercase()) => {
            return Err(Invalid::TwoTypes { served: served.clone(), stated: stated.to_owned() });
        }
        (_, Some(stated)) => stated.to_owned(),
        (Some(served), None) if !is_generic(served) => served.clone(),
        // image-spec allows `mediaType` to be absent; the other members tell then.
        _ if members.schema_version == 1 && is_empty(members.config) => return Err(Invalid::Schema1),
        _ if members.manifests.is_some() => media::OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned(),
        _ => media::OCI_IMAGE_MEDIA_TYPE.to_owned(),
    };
    if is_schema1(&media_type) {
        return Err(Invalid::Schema1);
    }
    if let Some(why) = members.lacks(&media_type, stated.is_some()) {
        return Err(wrong(why, true));
    }
    let links = members.links(kind_of(&media_type)).map_err(|error| Invalid::Malformed(error.to_string()))?;
    Ok(Parsed { media_type, links })
}

impl Members<'_> {
    /// What is missing for a manifest of this type.
    fn lacks(&self, media_type: &str, stated: bool) -> Option<&'static str> {
        let versioned = self.schema_version == 2;
        let of_an_image = [self.config, self.layers, self.fs_layers].into_iter().any(|member| !is_empty(member));
        if of_an_image && !is_empty(self.manifests) {
            return Some("it is an image and an index at once");
        }
        match kind_of(media_type) {
            // Larder does not know what such a manifest needs, but the bytes state their type.
            ManifestKind::Opaque if stated && !is_generic(media_type) && !media_type.starts_with("text/") => None,
            ManifestKind::Opaque if !versioned => Some("it has no `schemaVersion` 2"),
            ManifestKind::Opaque => Some("its media type is not one of a manifest"),
            // The specification of artifact manifests (image-spec v1.1.0-rc2) has no `schemaVersion`.
            ManifestKind::Image if media_type == OCI_ARTIFACT => {
                let complete = is_list(self.blobs) || is_object(self.subject);
                (!complete).then_some("it has neither `blobs` nor a `subject`")
            }
            _ if !versioned => Some("it has no `schemaVersion` 2"),
            ManifestKind::Index => (!is_list(self.manifests)).then_some("it has no list `manifests`"),
            ManifestKind::Image if !is_object(self.config) => Some("it has no `config`"),
            ManifestKind::Image => (!is_list(self.layers)).then_some("it has no list `layers`"),
        }
    }

    /// The descriptors. All members must be well-formed, also those that a manifest of this kind does not use.
    fn links(&self, kind: ManifestKind) -> serde_json::Result<Links> {
        fn one(member: Member<'_>) -> serde_json::Result<Option<Descriptor>> {
            member.map_or(Ok(None), |json| serde_json::from_str(json.get()))
        }
        fn list(member: Member<'_>) -> serde_json::Result<Vec<Descriptor>> {
            Ok(member.map_or(Ok(None), |json| serde_json::from_str(json.get()))?.unwrap_or_default())
        }
        if kind == ManifestKind::Opaque {
            return Ok(Links::default());
        }
        let (config, layers, blobs) = (one(self.config)?, list(self.layers)?, list(self.blobs)?);
        let (manifests, subject) = (list(self.manifests)?, one(self.subject)?);
        Ok(match kind {
            ManifestKind::Index => Links { manifests, blobs: vec![], subject },
            _ => Links { manifests: vec![], blobs: config.into_iter().chain(layers).chain(blobs).collect(), subject },
        })
    }
}

/// A Content-Type without its parameters.
fn bare(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// Whether a Content-Type allows what the manifest says that it is. Registries that convert manifests serve Docker's types as OCI's and the
/// reverse (an image as an image, an index as an index): the bytes, which the digest proves, decide.
fn agree(served: &str, stated: &str) -> bool {
    served == stated || is_generic(served) || (kind_of(served) == kind_of(stated) && kind_of(stated) != ManifestKind::Opaque)
}

/// Types that servers send for content whose type they do not know.
fn is_generic(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "text/plain" | "application/octet-stream" | "binary/octet-stream")
}

/// How the bytes begin: the first tag of a web page, else a few characters.
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

    fn result(body: &str, content_type: Option<&str>) -> String {
        match parse(body.as_bytes(), content_type) {
            Ok(parsed) => parsed.media_type,
            Err(Invalid::Malformed(why)) => why,
            Err(Invalid::NotAManifest(not)) => not.message(Some("docker.io")),
            Err(Invalid::TwoTypes { served, stated }) => format!("{served} and {stated}"),
            Err(Invalid::Schema1) => "schema 1".to_owned(),
        }
    }

    #[test]
    fn bytes_that_are_not_a_manifest_are_described() {
        let not = |rest: &str| format!("docker.io answered something that is not a manifest ({rest}");
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
            assert_eq!(result(body, content_type), expected, "{body}");
        }
    }

    #[test]
    fn bytes_of_two_kinds_at_once_are_refused() {
        for (kind, members) in [
            (IMAGE, r#""config":{},"layers":[],"manifests":[{}]"#),
            (INDEX, r#""manifests":[{}],"config":{}"#),
            (INDEX, r#""manifests":[{}],"layers":[{}]"#),
            (INDEX, r#""manifests":[{}],"fsLayers":[{}]"#),
        ] {
            for media_type in [format!(r#""mediaType":"{kind}","#), String::new()] {
                let result = result(&format!(r#"{{"schemaVersion":2,{media_type}{members}}}"#), Some(kind));
                assert!(result.ends_with("it is an image and an index at once"), "{result}");
            }
        }
        // An empty member says nothing: some builders write every member.
        let child = r#"{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}"#;
        let both = format!(r#"{{"schemaVersion":2,"config":{child},"layers":null,"manifests":[ ]}}"#);
        assert_eq!(result(&both, Some(IMAGE)), IMAGE);
        assert_eq!(result(&format!(r#"{{"schemaVersion":2,"manifests":[{child}],"layers":[],"config":null}}"#), None), INDEX);
    }

    #[test]
    fn an_unknown_type_must_be_stated_in_the_bytes() {
        let example = "application/vnd.example+json";
        assert_eq!(result(r#"{"mediaType":"application/vnd.example+json"}"#, Some(example)), example);
        assert!(result(r#"{"a":1}"#, Some(example)).ends_with("it has no `schemaVersion` 2"));
        assert!(result(r#"{"mediaType":"text/html","schemaVersion":2}"#, Some("text/html")).ends_with("not one of a manifest"));
        assert!(result(r#"{"mediaType":"application/json","errors":[]}"#, None).ends_with("it has no `schemaVersion` 2"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), served: Option<String>) {
            let _ = parse(&bytes, served.as_deref());
        }

        #[test]
        fn an_object_without_the_members_of_a_kind_is_refused(
            names in proptest::collection::btree_map("[a-z]{1,9}|schemaVersion|errors", 0i64..4, 0..6),
            served in proptest::sample::select(vec![None, Some(IMAGE), Some(INDEX), Some("application/json"), Some("text/html")]),
        ) {
            let body = serde_json::to_vec(&names).unwrap();
            prop_assert!(parse(&body, served).is_err());
        }
    }
}
