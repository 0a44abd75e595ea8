//! An export that is killed at each step of writing its volumes and their record, and what `--repair` may do to files that are there.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::corpus::{self, ImageSpec, image};
use crate::support::fake::{FOREVER, Fake, Fault, Kind, Match};
use crate::support::layer::layer;
use crate::support::room::{Ran, Room};
use serde_json::Value;

type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

/// Makes the folder hold exactly these files.
fn put(folder: &Path, files: &Files) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

fn export(room: &Room, more: &[&str]) -> Ran {
    room.larder([&["export", "--cache", "cache", "--to", "out", "--name", "b", "--volume-size", "60kB"], more].concat())
}

fn repair(room: &Room, volume: u32) -> Ran {
    room.larder(["export", "--cache", "cache", "--repair", "out/b.bundle.json", "--volume", &volume.to_string(), "--to", "out"])
}

/// A bundle of four volumes in `out`, one blob of it cut; its files.
fn bundle(fake: &Fake) -> (Room, Files) {
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    image(fake, "large", Some("v1"), &ImageSpec::new([layer(1, 150_000)]));
    corpus::simple(fake, "app", "v1", 2);
    corpus::multi(fake, "many", "v1", 3, &["linux/amd64", "linux/arm64"]);
    room.list(["large:v1", "app:v1", "many:v1"].map(|name| fake.image(name)));
    export(&room, &[]).ended(0);
    let whole = files(&room.path("out"));
    assert_eq!(whole.len(), 5);
    (room, whole)
}

/// Flips a bit of a byte near the end of a volume's last blob.
fn damaged(volume: &[u8]) -> Vec<u8> {
    let mut bytes = volume.to_vec();
    let at = bytes.len() - 2000;
    bytes[at] ^= 1;
    bytes
}

#[test]
fn an_export_that_was_killed_at_any_step_ends_with_the_right_record() {
    let fake = Fake::start();
    let (room, whole) = bundle(&fake);
    let (out, record) = (room.path("out"), "b.bundle.json");
    let volumes: Vec<&String> = whole.keys().filter(|name| *name != record).collect();
    let mut states: Vec<(String, Files)> = vec![];
    for (at, volume) in volumes.iter().enumerate() {
        let before: Files = volumes[..at].iter().map(|name| ((*name).clone(), whole[*name].clone())).collect();
        let bytes = &whole[*volume];
        // While it is written; after its last byte; after its last byte, with what the file system had room for beyond it.
        for cut in [0, 100, 1024, bytes.len() / 2, bytes.len() - 1024, bytes.len() - 1, bytes.len(), bytes.len() + 512] {
            let mut partial = bytes.clone();
            partial.resize(cut, 0);
            let mut state = before.clone();
            state.insert(format!("{volume}.partial"), partial);
            states.push((format!("{volume}, {cut} bytes"), state));
        }
        // After its rename.
        let mut state = before;
        state.insert((*volume).clone(), bytes.clone());
        states.push((format!("{volume} renamed"), state));
    }
    let volumes: Files = whole.iter().filter(|(name, _)| *name != record).map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
    for cut in [0, 1, whole[record].len() / 2, whole[record].len()] {
        let mut state = volumes.clone();
        state.insert(format!("{record}.partial"), whole[record][..cut].to_vec());
        states.push((format!("record, {cut} bytes"), state));
    }
    fake.reset_log();
    for (what, state) in states {
        put(&out, &state);
        export(&room, &[]).ended(0);
        assert!(files(&out) == whole, "{what}: {:?}", files(&out).keys());
    }
    assert_eq!(fake.count(Kind::BlobGet) + fake.count(Kind::ManifestGet), 0);
    assert_eq!(room.larder(["verify", "out"]).ended(0).stdout, "");
    for volume in 1..=4 {
        repair(&room, volume).ended(0);
        assert!(files(&out) == whole);
    }
}

#[test]
fn a_record_with_a_wrong_hash_costs_no_volume_and_the_next_export_corrects_it() {
    let fake = Fake::start();
    let (room, whole) = bundle(&fake);
    let out = room.path("out");
    // As larder wrote it when it was killed between a volume's last byte and its rename.
    let mut record: Value = serde_json::from_slice(&whole["b.bundle.json"]).unwrap();
    record["volumes"][3]["sha256"] = "0".repeat(64).into();
    let mut wrong = whole.clone();
    wrong.insert("b.bundle.json".to_owned(), record.to_string().into_bytes());
    put(&out, &wrong);
    let found = room.larder(["verify", "out"]).ended(1);
    assert!(
        found.stdout.contains("damaged volume 4 b-0004.tar") && found.stdout.contains("the bundle's record is wrong"),
        "{}",
        found.stdout
    );
    assert!(!found.stdout.contains("--repair"), "{}", found.stdout);
    let refused = repair(&room, 4).ended(1);
    assert!(refused.stderr.contains("the record is wrong"), "{}", refused.stderr);
    assert!(files(&out) == wrong, "the good volume is still there");

    // The same with a volume that has not got its name.
    let bytes = wrong.remove("b-0004.tar").unwrap();
    wrong.insert("b-0004.tar.partial".to_owned(), bytes);
    put(&out, &wrong);
    repair(&room, 4).ended(1);
    assert!(files(&out) == wrong);
    // And with none at all: what this run wrote goes again.
    wrong.remove("b-0004.tar.partial");
    put(&out, &wrong);
    repair(&room, 4).ended(1);
    assert!(files(&out) == wrong);

    wrong.insert("b-0004.tar".to_owned(), whole["b-0004.tar"].clone());
    put(&out, &wrong);
    export(&room, &[]).ended(0);
    assert!(files(&out) == whole);
    room.larder(["verify", "out"]).ended(0);
}

#[test]
fn a_damaged_volume_stays_until_the_right_one_is_whole() {
    let fake = Fake::start();
    let (room, whole) = bundle(&fake);
    let out = room.path("out");
    let mut state = whole.clone();
    state.insert("b-0002.tar".to_owned(), damaged(&whole["b-0002.tar"]));
    put(&out, &state);
    std::fs::rename(room.path("cache"), room.path("cache away")).unwrap();
    fake.fault(Match::kind(Kind::ManifestGet), FOREVER, Fault::error(403, "DENIED", "no"));
    repair(&room, 2).ended(1);
    assert!(files(&out)["b-0002.tar"] == state["b-0002.tar"], "what is right of it is still there");
    fake.clear_faults();
    std::fs::remove_dir_all(room.path("cache")).unwrap();
    std::fs::rename(room.path("cache away"), room.path("cache")).unwrap();
    put(&out, &state);
    repair(&room, 2).ended(0);
    assert!(files(&out) == whole);
    // An export does the same.
    put(&out, &state);
    export(&room, &[]).ended(0);
    assert!(files(&out) == whole);

    // What is not this volume at all is not replaced.
    state.insert("b-0002.tar".to_owned(), b"somebody's archive".to_vec());
    put(&out, &state);
    let ran = repair(&room, 2).ended(0);
    assert!(ran.stderr.contains("out/b-0002.tar is not a volume of this bundle: it is now out/b-0002.tar.old"), "{}", ran.stderr);
    let mut expected = whole.clone();
    expected.insert("b-0002.tar.old".to_owned(), b"somebody's archive".to_vec());
    assert!(files(&out) == expected);
}

#[test]
fn damaged_content_of_the_cache_is_kept_aside() {
    let fake = Fake::start();
    let (room, whole) = bundle(&fake);
    let hex = crate::support::corpus::digest_of("sha256", &layer(1, 150_000)).encoded().to_owned();
    let path = room.path("cache/blobs/sha256").join(&hex);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    std::fs::remove_dir_all(room.path("out")).unwrap();
    let ran = export(&room, &[]).ended(1);
    let aside = format!("cache/.larder/damaged/sha256-{hex}");
    assert!(ran.stderr.contains(&aside), "{}", ran.stderr);
    assert!(std::fs::read(room.path(&aside)).unwrap() == bytes);
    export(&room, &[]).ended(0);
    assert!(files(&room.path("out")) == whole);
    room.larder(["verify", "cache"]).ended(0);
}
