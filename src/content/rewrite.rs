//! An index cut to some platforms: a new one, whose bytes depend on the source's bytes and the platforms asked for alone, so
//! that every run, and every machine, gives it the same digest.

use std::collections::HashMap;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ChildChoice, Digest, Manifest, ManifestKind, PlatformFilter};
use crate::{Error, Kind, Operation, Result, Side};

/// The annotation of a rewritten index that names the index it was made from.
pub const SOURCE_DIGEST: &str = "dev.larder.source.digest";

/// `source` with only the children that `filters` keep. If they keep all, or `source` is no index, it is `source` itself. Else: compact
/// JSON, with the source's members and children in their order, kept as they are to the letter, and [`SOURCE_DIGEST`] as the last of its
/// annotations.
///
/// # Errors
/// `Kind::Damaged` if `source` is not JSON of the expected shape.
pub fn rewrite(source: &Manifest, filters: &[PlatformFilter]) -> Result<Manifest> {
    if source.kind() != ManifestKind::Index {
        return Ok(source.clone());
    }
    let choice = ChildChoice::of(&source.links().manifests, filters);
    if choice.left_out == 0 {
        return Ok(source.clone());
    }
    let bytes = cut(source, &choice.positions)
        .map_err(|error| Error::new(Side::Local, Operation::RewriteIndex, Kind::Damaged, format!("{}: {error}", source.digest())))?;
    let digest = Digest::sha256(&bytes);
    Manifest::known(bytes, Some(source.media_type()), digest, Side::Local)
}

/// The index that `index` was made from, if it is a rewritten one.
pub fn source_of(index: &Manifest) -> Option<Digest> {
    #[derive(Deserialize)]
    struct RewriteView {
        annotations: HashMap<String, Value>,
    }
    let view: RewriteView = serde_json::from_slice(index.bytes()).ok()?;
    Digest::parse(view.annotations.get(SOURCE_DIGEST)?.as_str()?).ok()
}

/// Whether `held` is what `filters` make of the index of digest `source`, as far as `held` alone tells. `None`: the source must be
/// looked at, because what was left out of it is not known.
///
/// # Errors
/// `Kind::Damaged` if `held` is not JSON of the expected shape.
pub fn is_cut_of(held: &Manifest, source: &Digest, filters: &[PlatformFilter]) -> Result<Option<bool>> {
    if source_of(held).as_ref() != Some(source) {
        return Ok(Some(false));
    }
    let choice = ChildChoice::of(&held.links().manifests, filters);
    Ok(match choice.speaks_for_itself() {
        true => Some(true),
        // It holds what nobody asks for.
        false if choice.left_out > 0 => Some(false),
        false => None,
    })
}

/// The bytes of the new index.
fn cut(source: &Manifest, positions: &[usize]) -> serde_json::Result<Bytes> {
    let text = compact(source.bytes());
    let mut members: RawMembers = serde_json::from_slice(&text)?;
    let annotation = serde_json::to_string(source.digest().as_str())?;
    let mut annotated = false;
    for (name, value) in &mut members.0 {
        match name.as_str() {
            "manifests" => *value = kept(value, positions)?,
            "annotations" => {
                *value = with_annotation(value, &annotation)?;
                annotated = true;
            }
            _ => {}
        }
    }
    if !annotated {
        members.0.push(("annotations".to_owned(), format!("{{\"{SOURCE_DIGEST}\":{annotation}}}")));
    }
    Ok(members.to_json()?.into())
}

/// The children at `positions`.
fn kept(manifests: &str, positions: &[usize]) -> serde_json::Result<String> {
    let children: Vec<&RawValue> = serde_json::from_str(manifests)?;
    let kept: Vec<&str> = positions.iter().filter_map(|at| children.get(*at).map(|child| child.get())).collect();
    Ok(format!("[{}]", kept.join(",")))
}

/// `annotations` (which Go may write as `null`) and ours, in the place of one of its name.
fn with_annotation(annotations: &str, ours: &str) -> serde_json::Result<String> {
    let mut members = serde_json::from_str::<Option<RawMembers>>(annotations)?.unwrap_or_default();
    match members.0.iter_mut().find(|(name, _)| name == SOURCE_DIGEST) {
        Some((_, value)) => ours.clone_into(value),
        None => members.0.push((SOURCE_DIGEST.to_owned(), ours.to_owned())),
    }
    members.to_json()
}

/// The members of an object in their order, values as they are written. (`serde_json::Value` would sort them, and write numbers and
/// escapes in its own way.)
#[derive(Default)]
struct RawMembers(Vec<(String, String)>);

impl RawMembers {
    fn to_json(&self) -> serde_json::Result<String> {
        let mut out = String::from("{");
        for (at, (name, value)) in self.0.iter().enumerate() {
            out += if at == 0 { "" } else { "," };
            out += &serde_json::to_string(name)?;
            out += ":";
            out += value;
        }
        out += "}";
        Ok(out)
    }
}

impl<'de> Deserialize<'de> for RawMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = RawMembers;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawMembers, A::Error> {
                let mut members = vec![];
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    members.push((name, value.get().to_owned()));
                }
                Ok(RawMembers(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// JSON without the white space between its tokens; the tokens as they are.
fn compact(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut quoted, mut escaped) = (false, false);
    for &byte in json {
        if !quoted && matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            continue;
        }
        if byte == b'"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && byte == b'\\' && !escaped;
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

    fn manifest(text: &str) -> Manifest {
        let bytes = Bytes::from(text.to_owned());
        Manifest::known(bytes.clone(), None, Digest::sha256(&bytes), Side::Upstream).unwrap()
    }

    fn filters(all: &[&str]) -> Vec<PlatformFilter> {
        all.iter().map(|text| PlatformFilter::parse(text).unwrap()).collect()
    }

    fn child(seed: &str, platform: &str) -> String {
        let (os, architecture) = platform.split_once('/').unwrap();
        let digest = Digest::sha256(seed.as_bytes());
        format!(
            "{{\"size\":1e2,\"digest\":\"{digest}\",\"x\":\"a \\u003e b\\\"\",\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"platform\":{{\"os\":\"{os}\",\"architecture\":\"{architecture}\"}}}}"
        )
        .replace("1e2", "100")
    }

    #[test]
    fn members_children_and_letters_stay_and_the_source_is_named() {
        let (amd, arm, riscv) = (child("a", "linux/amd64"), child("b", "linux/arm64"), child("c", "linux/riscv64"));
        let source = manifest(&format!(
            "{{\n  \"annotations\": {{\"z\": \"1\", \"a\": \"\\u00e9 é\"}},\n\t\"manifests\": [ {amd},\r\n {arm} , {riscv}],\"schemaVersion\": 2,\"mediaType\": \"{INDEX}\", \"more\": [1.0, null] }}\n"
        ));
        let made = rewrite(&source, &filters(&["linux/riscv64", "linux/amd64"])).unwrap();
        let expected = format!(
            "{{\"annotations\":{{\"z\":\"1\",\"a\":\"\\u00e9 é\",\"dev.larder.source.digest\":\"{}\"}},\"manifests\":[{amd},{riscv}],\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"more\":[1.0,null]}}",
            source.digest()
        );
        assert_eq!(std::str::from_utf8(made.bytes()).unwrap(), expected);
        assert_eq!((made.media_type(), source_of(&made)), (INDEX, Some(source.digest().clone())));
        // One child still gives an index.
        let one = rewrite(&source, &filters(&["linux/arm64"])).unwrap();
        assert_eq!((one.kind(), one.links().manifests.len()), (ManifestKind::Index, 1));
    }

    #[test]
    fn a_docker_list_stays_one_and_absent_annotations_come_last() {
        let (amd, arm) = (child("a", "linux/amd64"), child("b", "linux/arm64"));
        for before in ["", ",\"annotations\":null"] {
            let source = manifest(&format!("{{\"schemaVersion\":2,\"mediaType\":\"{LIST}\",\"manifests\":[{amd},{arm}]{before}}}"));
            let made = rewrite(&source, &filters(&["linux/amd64"])).unwrap();
            let expected = format!(
                "{{\"schemaVersion\":2,\"mediaType\":\"{LIST}\",\"manifests\":[{amd}],\"annotations\":{{\"dev.larder.source.digest\":\"{}\"}}}}",
                source.digest()
            );
            assert_eq!(std::str::from_utf8(made.bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn where_nothing_is_left_out_the_bytes_are_the_sources() {
        let (amd, arm) = (child("a", "linux/amd64"), child("b", "linux/arm64"));
        let source = manifest(&format!("{{ \"schemaVersion\":2, \"mediaType\":\"{INDEX}\", \"manifests\":[{amd}, {arm}]}}"));
        for all in [&[] as &[&str], &["linux/amd64", "linux/arm64", "linux/s390x"]] {
            assert_eq!(rewrite(&source, &filters(all)).unwrap().bytes(), source.bytes());
        }
        let image = manifest(
            "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{\"digest\":\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\"size\":2},\"layers\":[]}",
        );
        assert_eq!(rewrite(&image, &filters(&["linux/amd64"])).unwrap().digest(), image.digest());
    }

    #[test]
    fn a_rewritten_index_of_a_rewritten_index_names_the_latter() {
        let (amd, arm, riscv) = (child("a", "linux/amd64"), child("b", "linux/arm64"), child("c", "linux/riscv64"));
        let source = manifest(&format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{amd},{arm},{riscv}]}}"));
        let first = rewrite(&source, &filters(&["linux/amd64", "linux/arm64"])).unwrap();
        let second = rewrite(&first, &filters(&["linux/amd64"])).unwrap();
        assert_eq!(source_of(&second), Some(first.digest().clone()));
        assert_eq!(std::str::from_utf8(second.bytes()).unwrap().matches(SOURCE_DIGEST).count(), 1);
    }

    #[test]
    fn a_cut_index_tells_whether_it_is_still_what_is_asked_for_or_that_it_cannot() {
        let children = [child("a", "linux/amd64"), child("b", "linux/arm64"), child("c", "windows/amd64")].join(",");
        let source = manifest(&format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{children}]}}"));
        let held = rewrite(&source, &filters(&["linux/amd64", "linux/arm64"])).unwrap();
        let asked = |all: &[&str]| is_cut_of(&held, source.digest(), &filters(all)).unwrap();
        assert_eq!(asked(&["linux/amd64", "linux/arm64"]), Some(true));
        assert_eq!(asked(&["linux/arm64/v8", "linux/amd64"]), Some(true));
        assert_eq!(asked(&["linux/amd64"]), Some(false));
        // Was s390x not there, or not asked for? Only the source knows.
        assert_eq!(asked(&["linux/amd64", "linux/arm64", "linux/s390x"]), None);
        assert_eq!(is_cut_of(&held, &Digest::sha256(b"moved"), &filters(&["linux/amd64", "linux/arm64"])).unwrap(), Some(false));
        assert_eq!(is_cut_of(&source, source.digest(), &filters(&["linux/amd64"])).unwrap(), Some(false));
        // Other versions may have been left out by a narrower wish.
        let windows = rewrite(&source, &filters(&["windows/amd64"])).unwrap();
        assert_eq!(is_cut_of(&windows, source.digest(), &filters(&["windows/amd64"])).unwrap(), None);
    }

    /// An index with white space, odd members and any children.
    fn any_index() -> impl Strategy<Value = String> {
        let platforms = ["linux/amd64", "linux/arm64", "linux/riscv64", "unknown/unknown"];
        let children = proptest::collection::vec((0u8..=255, proptest::sample::select(platforms.to_vec())), 0..8);
        let space = proptest::sample::select(vec!["", " ", "\n\t", "\r\n  "]);
        let annotations = proptest::option::of(proptest::collection::btree_map("[a-z.\"\\\\ é]{1,8}", "\\PC{0,8}", 0..3));
        (children, space, annotations).prop_map(|(children, space, annotations)| {
            let children: Vec<String> = children.iter().map(|(seed, platform)| child(&seed.to_string(), platform)).collect();
            let mut members = vec![
                format!("\"schemaVersion\":{space}2"),
                format!("\"mediaType\":{space}\"{INDEX}\""),
                format!("\"manifests\"{space}:[{}]", children.join(&format!("{space},{space}"))),
            ];
            members.extend(annotations.map(|annotations| format!("{space}\"annotations\":{}", json!(annotations))));
            format!("{space}{{{}}}{space}", members.join(&format!(",{space}")))
        })
    }

    proptest! {
        #[test]
        fn a_new_index_is_deterministic_keeps_descriptors_to_the_letter_and_parses(text in any_index()) {
            let source = manifest(&text);
            let wanted = filters(&["linux/amd64", "linux/riscv64"]);
            let made = rewrite(&source, &wanted).unwrap();
            let again = rewrite(&source, &wanted).unwrap();
            prop_assert_eq!(made.bytes(), again.bytes());
            prop_assert!(made.digest().matches(made.bytes()));
            let choice = ChildChoice::of(&source.links().manifests, &wanted);
            prop_assert_eq!(&made.links().manifests, &choice.kept);
            if choice.left_out == 0 {
                prop_assert_eq!(made.bytes(), source.bytes());
            } else {
                prop_assert_eq!(source_of(&made), Some(source.digest().clone()));
                let text = std::str::from_utf8(made.bytes()).unwrap();
                let (before, after): (Value, Value) = (serde_json::from_slice(source.bytes()).unwrap(), serde_json::from_str(text).unwrap());
                for at in &choice.positions {
                    prop_assert!(text.contains(&before["manifests"][*at]["digest"].to_string()));
                }
                let mut annotations = after["annotations"].as_object().unwrap().clone();
                annotations.remove(SOURCE_DIGEST);
                prop_assert_eq!(json!(annotations), before.get("annotations").cloned().unwrap_or(json!({})));
                prop_assert_eq!(compact(text.as_bytes()), text.as_bytes());
            }
        }
        #[test]
        fn taking_out_white_space_changes_no_value(text in any_index(), other in "\\PC{0,40}") {
            let value: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&compact(text.as_bytes())).unwrap(), value);
            let string = json!(other).to_string();
            prop_assert_eq!(compact(string.as_bytes()), string.as_bytes());
        }
    }
}
