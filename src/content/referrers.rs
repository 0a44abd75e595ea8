//! Manifests about other manifests (signatures, attestations, SBOMs): how they are found, told apart and listed.
//!
//! Three ways lead from a digest to what refers to it: the referrers API; where that is missing, an index under the tag
//! `sha256-<hex>` (distribution-spec "Referrers Tag Schema"); and cosign's own tags `sha256-<hex>.sig`, `.att` and `.sbom`
//! (cosign specs/SIGNATURE_SPEC.md), whose manifests need not have a `subject`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE as OCI_INDEX;
use serde_json::{Map, Value, json};

use super::{Descriptor, Digest, ManifestKind, kind_of};

/// cosign's tags: what stands behind the digest, and the artifact type that cosign gives such content where it stores it with
/// a `subject` (cosign `pkg/oci/remote`, `ArtifactType`).
const COSIGN: [(&str, &str); 3] = [
    (".sig", "application/vnd.dev.cosign.artifact.sig.v1+json"),
    (".att", "application/vnd.dev.cosign.artifact.att.v1+json"),
    (".sbom", "application/vnd.dev.cosign.artifact.sbom.v1+json"),
];

/// A manifest that refers to another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Referrer {
    /// Its descriptor, with artifact type and annotations as far as they are known.
    pub manifest: Descriptor,
    /// What it is about.
    pub subject: Digest,
    /// The tag it is found by, where that is how it is found (`sha256-….sig`).
    pub tag: Option<String>,
}

/// What a store says when it is asked for a list of what refers to a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferrerList {
    /// The list.
    Listed(Vec<Descriptor>),
    /// It has no such list; an index under a tag may stand for it (distribution-spec "Unavailable Referrers API"). Why, where that is
    /// worth a note.
    Missing(Option<Arc<str>>),
}

/// Which referrers (signatures, attestations, SBOMs) travel with an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Referrers {
    /// All.
    #[default]
    All,
    /// None.
    No,
    /// Those of these artifact types.
    Types(Vec<String>),
    /// These, whatever the upstream lists now: those of a lock.
    Exactly(Vec<Referrer>),
}

impl Referrers {
    /// The type, if exactly one is asked for: a registry can be asked for that alone.
    pub fn only_type(&self) -> Option<&str> {
        match self {
            Referrers::Types(types) => match types.as_slice() {
                [only] => Some(only),
                _ => None,
            },
            Referrers::All | Referrers::No | Referrers::Exactly(_) => None,
        }
    }

    /// Whether referrers of this artifact type are wanted. Of one whose type is not known yet (`None`), whether it may be.
    pub fn wants(&self, artifact_type: Option<&str>) -> bool {
        match self {
            Referrers::All => true,
            Referrers::No => false,
            Referrers::Types(types) => artifact_type.is_none_or(|wanted| types.iter().any(|of| of == wanted)),
            Referrers::Exactly(_) => true,
        }
    }

    /// Whether what cosign keeps under tags may be wanted.
    pub fn wants_tags(&self) -> bool {
        COSIGN.iter().any(|(_, of)| self.wants(Some(of)))
    }
}

/// The tag under which the index of a digest's referrers is kept where there is no API: the algorithm's first 32 characters, a
/// dash, and the first 64 of the rest.
pub fn fallback_tag(subject: &Digest) -> String {
    let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    format!("{}-{}", cut(subject.algorithm(), 32), cut(subject.encoded(), 64))
}

/// The tags of a repository that say a digest (`sha256-<hex>`, `sha256-<hex>.sig`), by what they say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestTags {
    found: HashMap<String, Vec<&'static str>>,
    /// Nobody could list the tags: any of them may be there.
    unlisted: bool,
}

/// What stands behind the digest in a fallback tag.
const NOTHING: &str = "";

impl DigestTags {
    /// Of all `tags`, those that say a digest.
    pub fn of<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> Self {
        let mut found: HashMap<String, Vec<&'static str>> = HashMap::new();
        for tag in tags {
            let tag = tag.as_ref();
            let split = COSIGN.iter().find_map(|(suffix, _)| tag.strip_suffix(suffix).map(|stem| (stem, *suffix)));
            let (stem, suffix) = split.unwrap_or((tag, NOTHING));
            if is_digest(stem) {
                found.entry(stem.to_owned()).or_default().push(suffix);
            }
        }
        found.values_mut().for_each(|suffixes| suffixes.sort_unstable());
        DigestTags { found, unlisted: false }
    }

    /// Those of a repository whose tags cannot be listed: each may be there, and has to be looked for by its name.
    pub fn unlisted() -> Self {
        DigestTags { found: HashMap::new(), unlisted: true }
    }

    /// Whether the tags are only those that may be there.
    pub fn are_unlisted(&self) -> bool {
        self.unlisted
    }

    /// The tag of the index of what refers to `subject`, if it is there, or may be.
    pub fn fallback(&self, subject: &Digest) -> Option<String> {
        let tag = fallback_tag(subject);
        let there = self.found.get(&tag).is_some_and(|suffixes| suffixes.contains(&NOTHING));
        (there || self.unlisted).then_some(tag)
    }

    /// cosign's tags about `subject` that are there, or may be, each with the artifact type that it counts as.
    pub fn cosign(&self, subject: &Digest) -> Vec<(String, &'static str)> {
        let stem = format!("{}-{}", subject.algorithm(), subject.encoded());
        let suffixes = self.found.get(&stem);
        let is_there = |suffix: &&str| self.unlisted || suffixes.is_some_and(|suffixes| suffixes.contains(suffix));
        let there = COSIGN.iter().filter(|(suffix, _)| is_there(suffix));
        there.map(|(suffix, of)| (format!("{stem}{suffix}"), *of)).collect()
    }
}

/// Whether a tag's stem has the shape of a digest: `sha256-`, or another algorithm's name, and many hex digits.
fn is_digest(stem: &str) -> bool {
    stem.split_once('-').is_some_and(|(algorithm, encoded)| {
        !algorithm.is_empty() && encoded.len() >= 32 && encoded.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The index of referrers `before`, with `ours` in it: entries of ours are replaced, those of others kept as they are, but for those
/// that are `gone`; sorted by digest, each once. `None`: there is nothing to change. The error, for a person, says why `before` is no index.
pub(crate) fn with_referrers(before: Option<&[u8]>, ours: &[Descriptor], gone: &HashSet<Digest>) -> Result<Option<Vec<u8>>, String> {
    let mut index = match before {
        Some(bytes) => serde_json::from_slice::<Map<String, Value>>(bytes).map_err(|error| error.to_string())?,
        None => Map::new(),
    };
    if index.get("mediaType").is_some_and(|said| kind_of(said.as_str().unwrap_or_default()) != ManifestKind::Index) {
        return Err("it is another kind of manifest".to_owned());
    }
    let listed = match index.remove("manifests") {
        Some(Value::Array(entries)) => entries,
        None | Some(Value::Null) => vec![],
        Some(_) => return Err("its `manifests` are no list".to_owned()),
    };
    let is_gone = |entry: &Value| gone.iter().any(|gone| entry["digest"] == gone.as_str());
    let ours: Vec<(String, Value)> = ours.iter().map(|our| (our.digest.to_string(), json!(our))).collect();
    if before.is_some() && ours.iter().all(|(_, our)| listed.contains(our)) && !listed.iter().any(is_gone) {
        return Ok(None);
    }
    let mut entries: BTreeMap<String, Value> = BTreeMap::new();
    for entry in listed.into_iter().filter(|entry| !is_gone(entry)) {
        let digest = entry["digest"].as_str().unwrap_or_default().to_owned();
        entries.entry(digest).or_insert(entry);
    }
    entries.extend(ours);
    let entries: Vec<Value> = entries.into_values().collect();
    index.insert("schemaVersion".to_owned(), json!(2));
    index.entry("mediaType").or_insert_with(|| json!(OCI_INDEX));
    index.insert("manifests".to_owned(), entries.into());
    Ok(Some(Value::from(index).to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;
    use crate::content::Manifest;
    use bytes::Bytes;
    use proptest::prelude::*;

    const HEX: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn digest() -> Digest {
        Digest::parse(&format!("sha256:{HEX}")).unwrap()
    }

    #[test]
    fn tags_that_say_a_digest_are_found_among_all() {
        let long = Digest::parse(&format!("sha512:{}", "ab".repeat(64))).unwrap();
        assert_eq!(fallback_tag(&digest()), format!("sha256-{HEX}"));
        assert_eq!(fallback_tag(&long), format!("sha512-{}", "ab".repeat(32)));
        let tags = [
            "latest".to_owned(),
            format!("sha256-{HEX}.sbom"),
            format!("sha256-{HEX}.sig"),
            format!("sha256-{HEX}.asc"),
            format!("sha512-{}", "ab".repeat(32)),
            "sha256-12.sig".to_owned(),
            "v1.sig".to_owned(),
        ];
        let found = DigestTags::of(&tags);
        assert_eq!(found.fallback(&digest()), None, "a signature is no index");
        assert_eq!(found.fallback(&long), Some(tags[4].clone()));
        let types: Vec<(String, &str)> = found.cosign(&digest());
        assert_eq!(
            types,
            [
                (tags[2].clone(), "application/vnd.dev.cosign.artifact.sig.v1+json"),
                (tags[1].clone(), "application/vnd.dev.cosign.artifact.sbom.v1+json"),
            ]
        );
        assert!(found.cosign(&long).is_empty() && found.cosign(&Digest::sha256(b"other")).is_empty());
        let unlisted = DigestTags::unlisted();
        let names: Vec<String> = unlisted.cosign(&digest()).into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(names, [".sig", ".att", ".sbom"].map(|suffix| format!("sha256-{HEX}{suffix}")));
        assert_eq!(unlisted.fallback(&digest()), Some(format!("sha256-{HEX}")));
    }

    #[test]
    fn wishes_meet_types() {
        let types = |types: &[&str]| Referrers::Types(types.iter().map(|&of| of.to_owned()).collect());
        let (one, two) = (types(&["a/b"]), types(&["a/b", COSIGN[1].1]));
        assert_eq!((one.only_type(), two.only_type(), Referrers::All.only_type()), (Some("a/b"), None, None));
        assert!(one.wants(Some("a/b")) && one.wants(None) && !one.wants(Some("a/c")));
        assert!(!one.wants_tags() && two.wants_tags() && Referrers::All.wants_tags() && !Referrers::No.wants_tags());
        assert!(!Referrers::No.wants(None));
    }

    fn manifest(body: &Value) -> Manifest {
        let bytes = Bytes::from(body.to_string());
        Manifest::known(bytes.clone(), None, Digest::sha256(&bytes), Side::Upstream).unwrap()
    }

    /// With the members that every manifest has.
    fn made(mut body: Value) -> Value {
        body["schemaVersion"] = json!(2);
        if body.get("config").is_some() {
            body["layers"] = json!([]);
        }
        body
    }

    #[test]
    fn a_referrer_is_described_by_its_own_manifest() {
        let config = |of: &str| json!({"mediaType": of, "digest": format!("sha256:{HEX}"), "size": 2});
        let image = "application/vnd.oci.image.manifest.v1+json";
        for (body, artifact_type) in [
            (made(json!({"mediaType": image, "artifactType": "a/sig", "config": config("c/x"), "annotations": {"k": "v"}})), Some("a/sig")),
            (made(json!({"mediaType": image, "config": config("c/x"), "annotations": {"k": "v"}})), Some("c/x")),
            (made(json!({"mediaType": image, "artifactType": "", "config": config("c/x"), "annotations": {"k": "v"}})), Some("c/x")),
            (made(json!({"mediaType": OCI_INDEX, "manifests": null, "artifactType": null, "annotations": {"k": "v"}})), None),
        ] {
            let described = manifest(&body).as_referrer();
            assert_eq!((described.artifact_type.as_deref(), described.annotations["k"].as_str()), (artifact_type, "v"), "{body}");
        }
        let odd = manifest(&made(json!({"mediaType": image, "config": config("c/x"), "annotations": {"k": 7}})));
        assert_eq!(odd.as_referrer(), odd.descriptor());
    }

    fn entry(n: u8) -> Descriptor {
        Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(&[n]), u64::from(n))
    }

    fn digests(index: &[u8]) -> Vec<String> {
        let index: Value = serde_json::from_slice(index).unwrap();
        index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn an_index_keeps_what_others_wrote_and_says_what_manifests_say() {
        let foreign = json!({"digest": Digest::sha256(&[9]).as_str(), "size": 9, "mediaType": "x", "strange": [1]});
        let stale = json!({"digest": Digest::sha256(&[1]).as_str(), "size": 1, "mediaType": "x"});
        let before = json!({"schemaVersion": 2, "annotations": {"k": "v"}, "manifests": [stale, foreign, foreign]}).to_string();
        let ours = Descriptor { artifact_type: Some("a/sig".to_owned()), ..entry(1) };
        let after = with_referrers(Some(before.as_bytes()), std::slice::from_ref(&ours), &HashSet::new()).unwrap().unwrap();
        let value: Value = serde_json::from_slice(&after).unwrap();
        assert_eq!((&value["annotations"]["k"], &value["mediaType"]), (&json!("v"), &json!(OCI_INDEX)));
        let entries = value["manifests"].as_array().unwrap();
        assert!(entries.len() == 2 && entries.contains(&foreign) && entries.contains(&json!(ours)), "{entries:?}");
        assert_eq!(with_referrers(Some(&after), &[ours], &HashSet::new()).unwrap(), None, "nothing is left to change");
        let gone = HashSet::from([Digest::sha256(&[9])]);
        let without = with_referrers(Some(&after), &[], &gone).unwrap().unwrap();
        assert_eq!(digests(&without), [Digest::sha256(&[1]).as_str()]);
        for bad in ["[]", "{\"manifests\":7}", "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\"}", "<html>"] {
            assert!(with_referrers(Some(bad.as_bytes()), &[], &HashSet::new()).is_err(), "{bad}");
        }
        let fresh = with_referrers(None, &[entry(1)], &HashSet::new()).unwrap().unwrap();
        let found = Manifest::known(fresh.clone().into(), Some(OCI_INDEX), Digest::sha256(&fresh), Side::Target).unwrap();
        assert_eq!(found.links().manifests, [entry(1)]);
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_show(mut order in prop::collection::vec(0u8..20, 1..12)) {
            let add = |before: Option<Vec<u8>>, n: &u8| {
                with_referrers(before.as_deref(), &[entry(*n)], &HashSet::new()).unwrap().or(before)
            };
            let one = order.iter().fold(None, add).unwrap();
            order.reverse();
            let other = order.iter().fold(None, add).unwrap();
            prop_assert_eq!(&one, &other);
            let mut expected = digests(&one);
            expected.sort();
            expected.dedup();
            prop_assert_eq!(digests(&one), expected);
        }
        #[test]
        fn any_tag_is_survived(tag in "sha256-[0-9a-f.]{0,70}|\\PC{0,40}") {
            let found = DigestTags::of([&tag]);
            let _ = (found.fallback(&digest()), found.cosign(&digest()));
        }
    }
}
