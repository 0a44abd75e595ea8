use super::*;

fn digest(n: u8) -> Digest {
    Digest::sha256(&[n])
}

fn record(target: &str, source: &str, n: u8) -> LockRecord {
    LockRecord {
        created: None,
        target: target.to_owned(),
        source: source.to_owned(),
        digest: digest(n),
        source_digest: digest(n),
        media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
        index: IndexCut::Whole,
        size: 1000,
        platforms: vec!["linux/amd64".to_owned()],
        children: vec![],
        referrers: vec![],
    }
}

fn lock(records: &[LockRecord]) -> Lock {
    Lock { records: records.iter().map(|record| (record.target.clone(), record.clone())).collect() }
}

fn parse(text: &str) -> Result<Lock> {
    Lock::parse(text.as_bytes(), Path::new("larder.lock"))
}

#[test]
fn what_is_written_is_sorted_and_reads_back() {
    let mut cut = record("library/alpine:3.20", "docker.io/library/alpine:3.20", 2);
    cut.source_digest = digest(3);
    cut.index = IndexCut::Rewrite;
    let piece = |n, platform: Option<&str>, kind: Option<&str>| LockedManifest {
        digest: digest(n),
        size: 7,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        platform: platform.map(str::to_owned),
        artifact_type: kind.map(str::to_owned),
        subject: None,
        tag: None,
    };
    cut.children = vec![piece(4, Some("linux/amd64"), None)];
    cut.referrers = vec![piece(5, None, Some("application/vnd.cncf.notary.signature"))];
    let lock = lock(&[record("quay/x@sha256:0", "quay.io/x", 1), cut]);
    insta::assert_snapshot!(lock.to_text(), @r#"
    {
      "version": 1,
      "images": [
        {
          "target": "library/alpine:3.20",
          "source": "docker.io/library/alpine:3.20",
          "digest": "sha256:dbc1b4c900ffe48d575b5da5c638040125f65db0fe3e24494b76ea986457d986",
          "source_digest": "sha256:084fed08b978af4d7d196a7446a86b58009e636b611db16211b65a9aadff29c5",
          "media_type": "application/vnd.oci.image.index.v1+json",
          "index": "rewrite",
          "size": 1000,
          "platforms": [
            "linux/amd64"
          ],
          "children": [
            {
              "digest": "sha256:e52d9c508c502347344d8c07ad91cbd6068afc75ff6292f062a09ca381c89e71",
              "size": 7,
              "media_type": "application/vnd.oci.image.manifest.v1+json",
              "platform": "linux/amd64"
            }
          ],
          "referrers": [
            {
              "digest": "sha256:e77b9a9ae9e30b0dbdb6f510a264ef9de781501d7b6b92ae89eb059c5ab743db",
              "size": 7,
              "media_type": "application/vnd.oci.image.manifest.v1+json",
              "artifact_type": "application/vnd.cncf.notary.signature"
            }
          ]
        },
        {
          "target": "quay/x@sha256:0",
          "source": "quay.io/x",
          "digest": "sha256:4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a",
          "source_digest": "sha256:4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a",
          "media_type": "application/vnd.oci.image.index.v1+json",
          "index": "whole",
          "size": 1000,
          "platforms": [
            "linux/amd64"
          ],
          "children": [],
          "referrers": []
        }
      ]
    }
    "#);
    assert_eq!(parse(&lock.to_text()).unwrap(), lock);
}

#[test]
fn a_frozen_entry_is_exactly_what_the_record_says() {
    let mut cut = record("library/alpine:3.20", "docker.io/library/alpine:3.20", 2);
    (cut.source_digest, cut.index) = (digest(3), IndexCut::Sparse);
    let list = lock(&[cut, record("b:1", "quay.io/b:2", 1)]).frozen(Path::new("l.lock"));
    let [b, alpine] = list.entries.as_slice() else { panic!("{list:?}") };
    assert_eq!(alpine.selection, ImageSelection::One { tag: Some("3.20".to_owned()), digest: Some(digest(3)) });
    let target = |repository: &str, tag: &str| Some(TargetName { repository: repository.to_owned(), tag: Some(tag.to_owned()) });
    assert_eq!((&alpine.target, &b.target), (&target("library/alpine", "3.20"), &target("b", "1")));
    let policy = alpine.decided.as_ref().unwrap();
    assert_eq!((policy.index, policy.platforms.len()), (IndexMode::Sparse, 1));
    // A whole image is delivered whole, whatever a rule says of platforms.
    assert_eq!(b.decided.as_ref().unwrap().platforms, []);
    assert_eq!([b.origin.to_string(), alpine.origin.to_string()], ["l.lock:5", "l.lock:19"]);
}

#[test]
fn what_is_no_lock_is_told_with_its_line() {
    for (text, message) in [
        ("", "larder.lock:1: EOF while parsing a value"),
        ("{\n \"version\": 1,\n \"image\": []}", "larder.lock:3: unknown field `image`, expected `version` or `images`"),
        ("{\"version\": 2, \"images\": []}", "larder.lock:1: version 2 is not known to this larder, which reads version 1"),
    ] {
        assert_eq!(parse(text).unwrap_err().message(), message);
    }
    let wrong = |target: &str, source: &str| {
        let text = lock(&[record(target, source, 1)]).to_text();
        parse(&text).unwrap_err().message()
    };
    assert_eq!(wrong("a", "quay.io/a:1"), "larder.lock:5: `a` has neither tag nor digest");
    assert_eq!(wrong("a:1", "quay.io/A:1"), "larder.lock:5: `quay.io/A`: repository names are lower case");
    let twice = lock(&[record("a:1", "quay.io/a:1", 1)]).to_text();
    let one = twice.split("\"images\": [").nth(1).unwrap().rsplit_once(']').unwrap().0.trim().to_owned();
    let text = format!("{{\"version\": 1, \"images\": [{one},\n{one}]}}");
    assert!(parse(&text).unwrap_err().message().ends_with("`a:1` is there twice"));
}

#[test]
fn dates_are_written_down_once_and_known_by_the_upstreams_digest() {
    let mut lock = lock(&[record("a:1", "quay.io/a:1", 1), record("b:1", "quay.io/b:1", 2)]);
    let (first, later): (jiff::Timestamp, jiff::Timestamp) = ("2026-01-02T03:04:05Z".parse().unwrap(), jiff::Timestamp::UNIX_EPOCH);
    lock.date(|of| (*of == digest(1)).then_some(first));
    lock.date(|of| (*of == digest(1)).then_some(later));
    assert_eq!(lock.dates(), [(digest(1), first)].into());
    assert!(lock.to_text().contains("\"created\": \"2026-01-02T03:04:05Z\""));
    assert_eq!(parse(&lock.to_text()).unwrap(), lock);
}

#[test]
fn every_kind_of_drift_is_told() {
    let lock = lock(&[
        record("a:1", "quay.io/a:1", 1),
        record("b:1", "quay.io/b:1", 2),
        record("c:1", "quay.io/c:1", 3),
        record("gone:1", "quay.io/gone:1", 4),
    ]);
    let (one, two, three, other) = (digest(1), digest(2), digest(3), digest(9));
    fn now<'a>(target: &'a str, upstream: Option<&'a Digest>, held: Option<&'a Digest>) -> CurrentDigest<'a> {
        CurrentDigest { target, source: "s", upstream, held }
    }
    let found = drift(
        &lock,
        &[
            now("a:1", Some(&one), Some(&one)),
            now("b:1", Some(&other), Some(&two)),
            now("c:1", Some(&three), None),
            now("new:1", Some(&other), None),
        ],
    );
    let told: Vec<String> = found.iter().map(|drift| format!("{} {}", drift.target, drift.what)).collect();
    assert_eq!(told, ["b:1 upstream moved", "c:1 target differs", "new:1 not locked", "gone:1 not listed"]);
    assert_eq!(found[0].to_string(), format!("s (b:1): upstream moved, locked {two}, now {other}"));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Lock::parse(&bytes, Path::new("x"));
    }
}
