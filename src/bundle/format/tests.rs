//! What the records accept and refuse.

use super::*;
use serde_json::{Value, json};

fn hex(byte: u8) -> String {
    hex::encode([byte; 32])
}

/// A bundle of two volumes: a manifest, and a blob in two parts.
fn sample() -> Value {
    let part = |number: u32, offset: u64, size: u64| {
        json!({"digest": format!("sha256:{}", hex(2)), "kind": "blob", "part": number, "blob_size": 30, "offset": offset, "size": size,
            "repositories": ["library/alpine", "127.0.0.1:5000/a/b"]})
    };
    let manifest =
        json!({"digest": format!("sha256:{}", hex(1)), "kind": "manifest", "offset": 0, "size": 7, "repositories": ["library/alpine"]});
    let volume = |number: u32, members: Value| json!({"number": number, "file": format!("b-000{number}.tar"), "size": 9000, "sha256": hex(7), "members": members});
    json!({
        "version": 1, "id": format!("sha256:{}", hex(9)), "name": "b",
        "index": {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []},
        "images": [{"name": "library/alpine:3.20", "source": "docker.io/library/alpine:3.20", "digest": format!("sha256:{}", hex(1)),
            "platforms": [], "referrers": []}],
        "lock": {"library/alpine:3.20": format!("sha256:{}", hex(1))},
        "base": {"bundles": [], "inventories": [], "content": [{"digest": format!("sha256:{}", hex(3)), "size": 5,
            "repositories": ["library/alpine"], "held": ["x"], "bundle": null}]},
        "volumes": [volume(1, json!([manifest, part(1, 0, 10)])), volume(2, json!([part(2, 10, 20)]))],
    })
}

fn parse(value: &Value) -> Result<Bundle> {
    Bundle::parse(value.to_string().as_bytes())
}

#[test]
fn records_are_read_as_they_were_written() {
    let bundle = parse(&sample()).unwrap();
    assert_eq!(Bundle::parse(&bundle.to_bytes()).unwrap(), bundle);
    assert!(bundle.to_bytes().ends_with(b"}\n"));
    let record = bundle.record(2).unwrap();
    assert_eq!((record.volume, record.volumes, record.members.len()), (2, 2, 1));
    assert_eq!(VolumeRecord::parse(&record.to_bytes()).unwrap(), record);
    assert!(!record.to_bytes().contains(&b' '));
    assert!(bundle.record(3).is_none());
    let paths: Vec<String> = bundle.members().map(|(_, member)| member.path()).collect();
    assert_eq!(paths[0], format!("blobs/sha256/{}", hex(1)));
    assert_eq!(paths[2], format!("larder/parts/sha256/{}/0002", hex(2)));
}

#[test]
fn what_a_later_version_writes_beside_is_passed_over_and_its_version_is_not() {
    let mut value = sample();
    value["more"] = json!({"of": "it"});
    parse(&value).unwrap();
    value["version"] = 2.into();
    let error = parse(&value).unwrap_err();
    assert_eq!((error.kind(), error.message().contains("version 2")), (Kind::Unsupported, true));
}

/// Replaces what is at a JSON pointer.
fn with(pointer: &str, new: Value) -> Value {
    let mut value = sample();
    *value.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = new;
    value
}

#[test]
fn tricks_are_refused() {
    let part = "/volumes/1/members/0";
    let mut values = vec![
        with("/name", json!("../b")),
        with("/name", json!("")),
        with("/name", json!(".b")),
        with("/name", json!("x".repeat(201))),
        with("/id", json!("sha256:../../etc")),
        with("/volumes", json!([])),
        with("/volumes/0/file", json!("/etc/passwd")),
        with("/volumes/0/file", json!("b-0002.tar")),
        with("/volumes/1/number", json!(3)),
        with("/volumes/0/size", json!(u64::MAX)),
        with("/volumes/0/size", json!(-1)),
        with("/volumes/0/sha256", json!("A".repeat(64))),
        with("/volumes/0/members/0/digest", json!(format!("sha256/../{}", hex(1)))),
        with("/volumes/0/members/0/digest", json!(format!("sha256:{}", hex(2)))),
        with("/volumes/0/members/0/size", json!(u64::MAX)),
        with("/volumes/0/members/0/offset", json!(1)),
        with("/volumes/0/members/0/kind", json!("device")),
        with("/images/0/name", json!("library/alpine")),
        with("/images/0/name", json!("../../alpine:3")),
        with("/images/0/name", json!("library/alpine@sha256:short")),
        with("/base/content/0/size", json!(u64::MAX)),
        with("/base/content/0/held/0", json!("../x")),
        with("/lock", json!({"a\u{1b}[2J:1": format!("sha256:{}", hex(1))})),
    ];
    for (key, wrong) in [
        ("part", 1),
        ("part", 3),
        ("part", 0),
        ("offset", 9),
        ("offset", u64::MAX),
        ("size", 19),
        ("size", 21),
        ("size", 0),
        ("blob_size", 31),
    ] {
        values.push(with(&format!("{part}/{key}"), json!(wrong)));
    }
    for repository in ["", "/", "/etc", "a//b", "..", "a/../b", "a/.", "-x", "a\\b", "a b", "a\u{202e}b", &"x".repeat(600)] {
        values.push(with(&format!("{part}/repositories/0"), json!(repository)));
    }
    let mut alone = sample();
    alone["volumes"][1]["members"][0].as_object_mut().unwrap().remove("part");
    values.push(alone);
    for value in values {
        assert_eq!(parse(&value).map(|_| value.to_string()).unwrap_err().kind(), Kind::Damaged);
    }
    for text in ["", "{}", "[]", "null", "{\"version\":1}", "\u{0}"] {
        assert!(Bundle::parse(text.as_bytes()).is_err() && VolumeRecord::parse(text.as_bytes()).is_err());
    }
    let record = json!({"version": 1, "bundle": format!("sha256:{}", hex(9)), "volume": 3, "volumes": 2, "members": []});
    assert!(VolumeRecord::parse(record.to_string().as_bytes()).is_err());
}
