//! Estimates for indexes in the formats that common tools write.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The format of an index.
#[derive(Debug, Clone, Copy)]
struct Written {
    docker: bool,
    attested: bool,
    /// Spaces of indentation; 0: compact.
    indent: usize,
}

/// Architectures with their variants, as in official images.
const PLATFORMS: [(&str, &str); 10] = [
    ("amd64", ""),
    ("arm64", "v8"),
    ("arm64", ""),
    ("arm", "v7"),
    ("arm", "v6"),
    ("386", ""),
    ("ppc64le", ""),
    ("s390x", ""),
    ("riscv64", ""),
    ("mips64le", ""),
];

fn descriptor(written: Written, digest: u64, size: u64, platform: (&str, &str)) -> Map<String, Value> {
    let kind =
        if written.docker { "application/vnd.docker.distribution.manifest.v2+json" } else { "application/vnd.oci.image.manifest.v1+json" };
    let mut platform_value = json!({"architecture": platform.0, "os": if platform.0 == "unknown" { "unknown" } else { "linux" }});
    if !platform.1.is_empty() {
        platform_value["variant"] = platform.1.into();
    }
    let made = json!({"mediaType": kind, "digest": format!("sha256:{digest:064x}"), "size": size, "platform": platform_value});
    made.as_object().unwrap().clone()
}

/// An index of these platforms: its size, its media type, and its children.
fn index(written: Written, platforms: &[(usize, u64)]) -> (u64, &'static str, u64) {
    let mut manifests = vec![];
    for (at, (platform, size)) in platforms.iter().enumerate() {
        let child = descriptor(written, at as u64, *size, PLATFORMS[*platform]);
        let about = child["digest"].clone();
        manifests.push(child);
        if written.attested {
            let mut attestation = descriptor(written, 1000 + at as u64, 560, ("unknown", ""));
            attestation.insert(
                "annotations".into(),
                json!({"vnd.docker.reference.digest": about, "vnd.docker.reference.type": "attestation-manifest"}),
            );
            manifests.push(attestation);
        }
    }
    let children = manifests.len() as u64;
    let media_type = if written.docker { DOCKER_LIST } else { OCI_INDEX };
    let value = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    let bytes = if written.indent == 0 {
        serde_json::to_vec(&value).unwrap()
    } else {
        let indent = " ".repeat(written.indent);
        let mut bytes = vec![];
        let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
        serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).unwrap();
        bytes
    };
    (bytes.len() as u64, media_type, children)
}

fn ways() -> impl Strategy<Value = Written> {
    let ways = prop_oneof![Just((false, 0)), Just((false, 2)), Just((false, 3)), Just((true, 0)), Just((true, 3))];
    (ways, any::<bool>()).prop_map(|((docker, indent), attested)| Written { docker, attested: attested && !docker, indent })
}

fn platforms(most: usize) -> impl Strategy<Value = Vec<(usize, u64)>> {
    prop::collection::vec((0..PLATFORMS.len(), 400u64..2500), 1..=most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_index_has_more_children_than_its_size_allows(written in ways(), platforms in platforms(60)) {
        let (size, _, children) = index(written, &platforms);
        prop_assert!(children <= most_children(size), "{children} in {size} bytes");
    }

    /// The tags of one repository are written in one way. All of them together tell which, and are estimated within a
    /// tenth.
    #[test]
    fn the_indexes_of_a_repository_are_estimated_within_a_tenth(
        written in ways(),
        tags in prop::collection::vec(platforms(9), 20..40),
    ) {
        let made: Vec<_> = tags.iter().map(|platforms| index(written, platforms)).collect();
        let sizes: Vec<u64> = made.iter().map(|(size, ..)| *size).collect();
        let (mut estimate, mut truth) = (0, 0);
        for (size, media_type, children) in &made {
            // Each costs one pull more for itself.
            estimate += 1 + expected(media_type, *size, &sizes).unwrap().children;
            truth += 1 + children;
        }
        let off = estimate.abs_diff(truth) as f64 / truth as f64;
        prop_assert!(off <= 0.10, "{written:?}: {estimate} for {truth}");
    }

    #[test]
    fn an_index_like_one_that_was_read_is_estimated_within_a_child(
        written in ways(),
        before in platforms(9),
        next in platforms(9),
    ) {
        let (size, _, children) = index(written, &before);
        let (next_size, _, next_children) = index(written, &next);
        let estimate = alike(ReadIndex { size, children }, next_size);
        let per = if written.attested { 2 } else { 1 };
        prop_assert!(estimate.abs_diff(next_children) <= per + next_children / 8, "{estimate} for {next_children}");
    }

    #[test]
    fn any_size_is_survived(size in any::<u64>(), sizes in prop::collection::vec(any::<u64>(), 0..5), children in any::<u64>()) {
        let _ = expected(OCI_INDEX, size, &sizes);
        let _ = alike(ReadIndex { size, children }, size / 2);
        prop_assert!(most_children(size) <= u64::MAX / SHORTEST_DESCRIPTOR);
    }
}

#[test]
fn a_size_of_nothing_bounds_by_the_largest_manifest() {
    assert_eq!(most_children(0), (MAX_MANIFEST as u64 - SHORTEST_INDEX) / SHORTEST_DESCRIPTOR);
    assert_eq!((most_children(SHORTEST_INDEX), most_children(200)), (0, 1));
}

#[test]
fn three_platforms_are_three_however_they_are_written() {
    let three = [(0, 700), (1, 700), (6, 700)];
    for (written, children) in [
        (Written { docker: false, attested: false, indent: 0 }, 3),
        (Written { docker: true, attested: false, indent: 0 }, 3),
        (Written { docker: false, attested: true, indent: 0 }, 6),
    ] {
        let (size, media_type, _) = index(written, &three);
        assert_eq!(expected(media_type, size, &[]).unwrap().children, children, "{written:?} in {size} bytes");
    }
}
