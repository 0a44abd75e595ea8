//! `larder export` and the checking of bundles: what is in the volumes, what is left out of them, and what a kill, a damaged disk or a lost volume
//! leaves to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::corpus::{self, ImageSpec, image};
use crate::support::fake::{FOREVER, Fake, Fault, Gate, Kind, Match};
use crate::support::layer::layer;
use crate::support::real;
use crate::support::room::{Ran, Room, until};
use larder::bundle::format::{Bundle, MemberKind};
use larder::content::Digest;
use serde_json::Value;

/// A room whose images come from `fake`, below `m/`.
fn room(fake: &Fake) -> Room {
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    room
}

/// Runs `larder export` with a report.
fn export(room: &Room, more: &[&str]) -> Ran {
    room.larder([&["export", "--cache", "cache", "--report", "report.json"], more].concat())
}

/// The files of a folder by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

/// The one record in a folder.
fn record(folder: &Path) -> Bundle {
    let files = files(folder);
    let mut records = files.iter().filter(|(name, _)| name.ends_with(".bundle.json"));
    let (_, bytes) = records.next().unwrap();
    assert!(records.next().is_none());
    Bundle::parse(bytes).unwrap()
}

/// The names of a tar file's members.
fn listed(tar: &Path) -> Vec<String> {
    let output = Command::new("tar").arg("--list").arg("--file").arg(tar).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Unpacks all volumes of a bundle over each other.
fn unpack(folder: &Path, into: &Path) {
    std::fs::create_dir_all(into).unwrap();
    for volume in record(folder).volumes {
        let done =
            Command::new("tar").arg("--extract").arg("--directory").arg(into).arg("--file").arg(folder.join(volume.file)).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Every content of the corpus that is carried.
fn whole_corpus(fake: &Fake) -> Vec<String> {
    corpus::corpus(fake).into_iter().filter(|case| case.carried).map(|case| fake.image(&case.image())).collect()
}

#[test]
fn a_bundle_of_everything_is_a_layout_and_the_same_bytes_again() {
    let fake = Fake::start();
    let room = room(&fake);
    let images = whole_corpus(&fake);
    room.list(&images);
    let ran = export(&room, &["--to", "out"]).ended(0);
    let bundle = record(&room.path("out"));
    assert_eq!(ran.stdout, format!("out/{}.bundle.json\n", bundle.name));
    assert_eq!(bundle.name, format!("bundle-{}", &bundle.id.encoded()[..12]));
    assert_eq!((bundle.images.len(), bundle.lock.len(), bundle.volumes.len()), (images.len(), images.len(), 1));
    assert!(ran.stderr.contains(&format!("bundle {}: {} images in 1 volume, ", bundle.name, images.len())), "{}", ran.stderr);

    // The order: the layout's own files, then manifests, then blobs, each by digest.
    let volume = room.path("out").join(&bundle.volumes[0].file);
    let names = listed(&volume);
    assert_eq!(names[..3], ["oci-layout", "index.json", "larder/volume.json"]);
    let members = &bundle.volumes[0].members;
    assert_eq!(names[3..], members.iter().map(larder::bundle::format::VolumeMember::path).collect::<Vec<_>>());
    let order: Vec<(MemberKind, &Digest)> = members.iter().map(|member| (member.kind, &member.digest)).collect();
    assert!(order.is_sorted() && order.iter().any(|(kind, _)| *kind == MemberKind::Manifest));
    let bytes = std::fs::read(&volume).unwrap();
    assert_eq!((bytes.len() as u64, Digest::sha256(&bytes).encoded()), (bundle.volumes[0].size, bundle.volumes[0].sha256.as_str()));

    // Unpacked it is a layout, of exactly that.
    unpack(&room.path("out"), &room.path("unpacked"));
    let verified = room.larder(["verify", "unpacked"]).ended(0);
    assert_eq!(verified.stdout, "");
    assert!(verified.stderr.starts_with(&format!("{} names, ", images.len())), "{}", verified.stderr);
    room.larder(["verify", "out"]).ended(0);

    // No time, host or folder of this machine is in it: another room, another day, the same bytes.
    let other = self::room(&fake);
    other.list(images.iter().rev());
    other.larder(["export", "--to", "there"]).ended(0);
    assert!(files(&other.path("there")) == files(&room.path("out")));
    assert!(other.path("xdg-state/larder/cache/oci-layout").exists());

    // Once more: nothing is asked for but what is named, nothing is written.
    fake.reset_log();
    let again = export(&room, &["--to", "out"]).ended(0);
    assert_eq!(fake.count(Kind::ManifestGet) + fake.count(Kind::BlobGet), 0);
    assert!(again.stderr.contains("1 of them present already"), "{}", again.stderr);
    let report = room.json("report.json");
    assert_eq!((&report["command"], &report["target"], &report["exit"]), (&"export".into(), &"out".into(), &0.into()));
}

#[test]
fn volumes_keep_to_their_cap_and_hold_everything_once() {
    let fake = Fake::start();
    let room = room(&fake);
    room.list(whole_corpus(&fake));
    // The large manifest has 4 MiB: below that it must be cut.
    for (size, bytes, cut) in
        [("4300kB", 4_300_000, false), ("4100KiB", 4100 << 10, true), ("100kB", 100_000, true), ("64 KiB", 65_536, true)]
    {
        let out = size.replace(' ', "");
        export(&room, &["--to", &out, "--volume-size", size, "--name", "month-1"]).ended(0);
        let bundle = record(&room.path(&out));
        let mut seen = BTreeMap::new();
        for (number, member) in bundle.members() {
            assert!(member.part.is_none() || cut, "{member:?} in volume {number}");
            *seen.entry(member.digest.clone()).or_insert(0) += member.size;
        }
        for (_, member) in bundle.members() {
            assert_eq!(seen[&member.digest], member.whole_size());
        }
        let mut index = None;
        for volume in &bundle.volumes {
            let path = room.path(&out).join(&volume.file);
            assert_eq!(volume.file, format!("month-1-{:04}.tar", volume.number));
            assert!(volume.size <= bytes && path.metadata().unwrap().len() == volume.size, "{volume:?}");
            let head: Vec<u8> = std::fs::read(&path).unwrap();
            // `oci-layout` takes two blocks; then the index, with its header.
            let same = head[..1024 + 512 + bundle.index.to_bytes().len()].to_vec();
            assert_eq!(index.get_or_insert_with(|| same.clone()), &same);
        }
        let verified = room.larder(["verify", &out]).ended(0);
        assert_eq!(verified.stdout, "");
        if !cut {
            assert!(bundle.volumes.len() > 1);
            unpack(&room.path(&out), &room.path("unpacked").join(&out));
            room.larder(["verify", &format!("unpacked/{out}")]).ended(0);
        }
    }
    let refused = export(&room, &["--to", "tiny", "--volume-size", "10kB"]).ended(1);
    assert!(refused.stderr.contains("volumes of 10000 bytes have no room for content"), "{}", refused.stderr);
    assert_eq!(files(&room.path("tiny")), BTreeMap::new());
    for wrong in ["0", "much", "-1"] {
        assert_eq!(export(&room, &["--to", "tiny", "--volume-size", wrong]).code, 2, "{wrong}");
    }
}

#[test]
fn skopeo_reads_a_bundle_of_one_volume() {
    if !real::require("skopeo") {
        return;
    }
    let fake = Fake::start();
    let room = room(&fake);
    corpus::multi(&fake, "many", "v1", 7, &["linux/amd64", "linux/arm64"]);
    corpus::simple(&fake, "app", "v1", 8);
    room.list([fake.image("many:v1"), fake.image("app:v1")]);
    export(&room, &["--to", "out", "--name", "b"]).ended(0);
    for (name, repository) in [("m/many:v1", "many"), ("m/app:v1", "app")] {
        let from = format!("oci-archive:{}:{name}", room.path("out/b-0001.tar").display());
        let to = format!("oci:{}:copy", room.path(repository).display());
        real::skopeo_ok(["copy", "--all", "--preserve-digests", &from, &to]);
        let index: Value = serde_json::from_slice(&std::fs::read(room.path(repository).join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"][0]["digest"], fake.digest(repository, "v1").unwrap().as_str());
    }
}

#[test]
fn umoci_reads_volumes_unpacked_over_each_other() {
    if !real::require("umoci") {
        return;
    }
    let fake = Fake::start();
    let room = room(&fake);
    image(&fake, "app", Some("v1"), &ImageSpec::new([layer(1, 30_000), layer(2, 30_000)]));
    room.list([fake.image("app:v1")]);
    export(&room, &["--to", "out", "--volume-size", "48kB"]).ended(0);
    assert_eq!(record(&room.path("out")).volumes.len(), 2);
    unpack(&room.path("out"), &room.path("unpacked"));
    let umoci = |arguments: &[&str]| {
        let output = Command::new("umoci").args(arguments).current_dir(room.path("")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(umoci(&["list", "--layout", "unpacked"]), "m/app:v1\n");
}

#[test]
fn only_what_this_run_delivered_is_packed() {
    let fake = Fake::start();
    let room = room(&fake);
    for (number, tag) in ["v1", "v2", "v3"].iter().enumerate() {
        corpus::simple(&fake, "app", tag, number as u64 + 1);
    }
    corpus::simple(&fake, "broken", "v1", 9);
    room.list([fake.image("app:v1")]);
    export(&room, &["--to", "first"]).ended(0);
    // The cache holds v1 too, and what is left of a broken one.
    room.list([fake.image("app:v2"), fake.image("broken:v1"), "not a line".to_owned()]);
    fake.fault(Match::kind(Kind::BlobGet).repository("broken"), FOREVER, Fault::error(403, "DENIED", "no"));
    let ran = export(&room, &["--to", "second", "--failed", "failed.csv"]).ended(1);
    assert!(ran.stderr.contains("1 image in 1 volume"), "{}", ran.stderr);
    let bundle = record(&room.path("second"));
    assert_eq!(bundle.images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(), ["m/app:v2"]);
    assert_eq!(
        (bundle.images[0].source.as_str(), bundle.images[0].platforms.join(" ")),
        (fake.image("app:v2").as_str(), "linux/amd64".to_owned())
    );
    assert_eq!(bundle.volumes[0].members.len(), 4);
    assert!(bundle.volumes[0].members.iter().all(|member| member.repositories == ["m/app"]));
    assert!(room.read("failed.csv").contains("broken:v1"));
    assert!(ran.stderr.contains("not in the bundle: 2 images, of unknown size"), "{}", ran.stderr);
    room.larder(["verify", "second"]).ended(0);

    room.list([fake.image("broken:v1")]);
    let nothing = export(&room, &["--to", "third"]).ended(1);
    assert!(nothing.stderr.contains("nothing was packed: no image was delivered"), "{}", nothing.stderr);
    assert_eq!((nothing.stdout.as_str(), files(&room.path("third"))), ("", BTreeMap::new()));
}

#[test]
fn what_is_deferred_is_not_packed_and_the_rest_is() {
    let (fake, slow) = (Fake::start(), Fake::start());
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m"), (slow.addr(), "n")]);
    corpus::simple(&fake, "app", "v1", 1);
    corpus::simple(&slow, "app", "v1", 2);
    room.list([fake.image("app:v1"), slow.image("app:v1")]);
    slow.fault(Match::kind(Kind::ManifestHead), FOREVER, Fault::limited("3600"));
    let ran = export(&room, &["--to", "out"]).ended(3);
    assert_eq!((&room.json("report.json")["exit"], ran.stdout.is_empty()), (&3.into(), false));
    assert_eq!(record(&room.path("out")).images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(), ["m/app:v1"]);
    room.larder(["verify", "out"]).ended(0);
    slow.clear_faults();
    export(&room, &["--to", "all"]).ended(0);
    assert_eq!(record(&room.path("all")).images.len(), 2);
}

#[test]
fn what_the_base_has_is_left_out() {
    let fake = Fake::start();
    let room = room(&fake);
    let (base, old, new) = (layer(1, 40_000), layer(2, 3000), layer(3, 3000));
    image(&fake, "app", Some("v1"), &ImageSpec::new([base.clone(), old.clone()]));
    room.list([fake.image("app:v1")]);
    export(&room, &["--to", "month-1", "--name", "month-1"]).ended(0);
    image(&fake, "app", Some("v2"), &ImageSpec::new([base.clone(), new.clone()]));
    image(&fake, "other", Some("v1"), &ImageSpec::new([old.clone()]));
    room.list([fake.image("app:v1"), fake.image("app:v2"), fake.image("other:v1")]);

    let ran = export(&room, &["--to", "month-2", "--name", "month-2", "--base", "month-1/month-1.bundle.json"]).ended(0);
    let (first, second) = (record(&room.path("month-1")), record(&room.path("month-2")));
    // All three manifests travel; of configs and layers only those of v2 and other that month 1 lacks.
    let carried: BTreeSet<&Digest> =
        second.members().filter(|(_, member)| member.kind == MemberKind::Blob).map(|(_, member)| &member.digest).collect();
    assert_eq!(second.volumes[0].members.len(), 3 + 3);
    assert!(carried.contains(&Digest::sha256(&new)) && !carried.contains(&Digest::sha256(&base)));
    let relied: BTreeMap<&Digest, &larder::bundle::format::ReliedBlob> =
        second.base.content.iter().map(|relied| (&relied.digest, relied)).collect();
    assert_eq!(relied.len(), 3);
    assert_eq!(relied[&Digest::sha256(&base)].bundle.as_ref(), Some(&first.id));
    assert_eq!(
        (relied[&Digest::sha256(&old)].held.join(" "), relied[&Digest::sha256(&old)].repositories.join(" ")),
        ("m/app".into(), "m/app m/other".into())
    );
    assert_eq!((second.base.bundles[0].id.clone(), second.base.bundles[0].name.as_str()), (first.id.clone(), "month-1"));
    assert!(ran.stderr.contains("left out, because the base has it: 3 blobs, "), "{}", ran.stderr);
    let verified = room.larder(["verify", "month-2"]).ended(0);
    assert!(verified.stderr.contains("3 more in the base"), "{}", verified.stderr);

    // A bundle on a bundle on a bundle: what the first brought is still not carried.
    image(&fake, "app", Some("v3"), &ImageSpec::new([base.clone(), layer(4, 10)]));
    room.list([fake.image("app:v3")]);
    export(&room, &["--to", "month-3", "--base", "month-2/month-2.bundle.json"]).ended(0);
    let third = record(&room.path("month-3"));
    assert_eq!(
        third.base.content.iter().map(|relied| (&relied.digest, relied.bundle.as_ref())).collect::<Vec<_>>(),
        [(&Digest::sha256(&base), Some(&first.id))]
    );

    // An inventory says what is there, wherever; plain or compressed it is the same base.
    let lines = format!("{} elsewhere\n{} a/b\n", Digest::sha256(&base), Digest::sha256(b"unknown"));
    room.write("far.txt", &lines);
    export(&room, &["--to", "by-text", "--base", "far.txt"]).ended(0);
    let by_text = record(&room.path("by-text"));
    assert_eq!(by_text.base.content.len(), 1);
    assert_eq!((by_text.base.content[0].held.join(" "), &by_text.base.content[0].bundle), ("elsewhere".to_owned(), &None));
    export(&room, &["--to", "by-both", "--base", "far.txt", "--base", "month-2/month-2.bundle.json"]).ended(0);
    assert_eq!(record(&room.path("by-both")).base.content[0].bundle, None);

    for (base, word) in [("none.txt", "none.txt"), ("month-1", "is a folder"), ("larder.toml", "larder.toml:1: ")] {
        let refused = export(&room, &["--to", "refused", "--base", base]).ended(2);
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    room.write("broken.json", "{\"version\":1}");
    assert!(export(&room, &["--to", "refused", "--base", "broken.json"]).ended(2).stderr.contains("broken.json"));
    assert!(!room.path("refused").exists());
}

#[test]
fn a_name_that_another_bundle_has_is_not_taken() {
    let fake = Fake::start();
    let room = room(&fake);
    corpus::simple(&fake, "app", "v1", 1);
    room.list([fake.image("app:v1")]);
    export(&room, &["--to", "out", "--name", "nightly"]).ended(0);
    let before = files(&room.path("out"));
    corpus::simple(&fake, "app", "v1", 2);
    let refused = export(&room, &["--to", "out", "--name", "nightly"]).ended(1);
    assert!(refused.stderr.contains("out/nightly.bundle.json is another bundle ("), "{}", refused.stderr);
    assert!(files(&room.path("out")) == before);
    for wrong in ["../x", "a/b", "", ".hidden", "-x"] {
        assert_eq!(export(&room, &["--to", "out", &format!("--name={wrong}")]).code, 2, "{wrong}");
    }
    // What has a volume's name and is not of this bundle is kept under another name; nothing is deleted that this run did not write.
    let other = before["nightly-0001.tar"].clone();
    std::fs::remove_file(room.path("out/nightly.bundle.json")).unwrap();
    std::fs::write(room.path("out/nightly-0002.tar"), "left over").unwrap();
    std::fs::write(room.path("out/nightly-0003.tar.partial"), "left over").unwrap();
    std::fs::write(room.path("out/nightly-0003.tar.txt"), "mine").unwrap();
    let ran = export(&room, &["--to", "out", "--name", "nightly"]).ended(0);
    let after = files(&room.path("out"));
    let names: Vec<&str> = after.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "nightly-0001.tar",
            "nightly-0001.tar.old",
            "nightly-0002.tar.old",
            "nightly-0003.tar.partial",
            "nightly-0003.tar.txt",
            "nightly.bundle.json"
        ]
    );
    assert!(after["nightly-0001.tar.old"] == other && after["nightly-0002.tar.old"] == b"left over");
    for told in [
        "out/nightly-0001.tar is not a volume of this bundle: it is now out/nightly-0001.tar.old",
        "out/nightly-0002.tar is not a volume of this bundle: it is now out/nightly-0002.tar.old",
        "out/nightly-0003.tar.partial is left from an earlier run; it can be removed",
    ] {
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
    room.larder(["verify", "out"]).ended(0);
}

#[test]
fn a_dry_run_shows_the_plan_of_the_cache_and_writes_nothing() {
    let fake = Fake::start();
    let room = room(&fake);
    corpus::simple(&fake, "app", "v1", 2);
    corpus::multi(&fake, "many", "v1", 3, &["linux/amd64", "linux/arm64"]);
    room.list(["app:v1", "many:v1"].map(|name| fake.image(name)));
    let planned = export(&room, &["--to", "out", "--dry-run"]).ended(0);
    assert_eq!(planned.stdout.lines().filter(|line| line.starts_with("missing ")).count(), 2, "{}", planned.stdout);
    assert!(planned.stderr.contains("pulls for 2 images; no pull limit known; 2 images of unknown size"), "{}", planned.stderr);
    assert_eq!(fake.count(Kind::ManifestGet), 0, "a plan spends no pull");
    assert!(!room.path("out").exists() && !room.path("cache").exists());
    export(&room, &["--to", "out"]).ended(0);
    let again = export(&room, &["--to", "out", "--dry-run"]).ended(0);
    assert_eq!(again.stdout.lines().filter(|line| line.starts_with("current ")).count(), 2, "{}", again.stdout);
}

/// Makes a bundle of several volumes, one blob of it cut.
fn several(fake: &Fake) -> Room {
    let room = room(fake);
    image(fake, "large", Some("v1"), &ImageSpec::new([layer(1, 150_000)]));
    corpus::simple(fake, "app", "v1", 2);
    corpus::multi(fake, "many", "v1", 3, &["linux/amd64", "linux/arm64"]);
    room.list(["large:v1", "app:v1", "many:v1"].map(|name| fake.image(name)));
    export(&room, &["--to", "out", "--name", "b", "--volume-size", "60kB"]).ended(0);
    assert_eq!(record(&room.path("out")).volumes.len(), 4);
    room
}

fn cache_blob(room: &Room, digest: &Digest) -> PathBuf {
    room.path("cache/blobs").join(digest.algorithm()).join(digest.encoded())
}

#[test]
fn one_volume_is_written_again_by_digest() {
    let fake = Fake::start();
    let room = several(&fake);
    let before = files(&room.path("out"));
    // Tags have moved on; the bundle is what it was.
    corpus::simple(&fake, "app", "v1", 9);
    fake.reset_log();
    for number in 1..=4 {
        let number = number.to_string();
        let ran = export(&room, &["--repair", "out/b.bundle.json", "--volume", &number, "--to", "again"]).ended(0);
        assert_eq!(ran.stdout, format!("again/b-000{number}.tar\n"));
    }
    assert_eq!(fake.requests().len(), 0, "the cache has everything");
    let mut again = files(&room.path("again"));
    again.insert("b.bundle.json".to_owned(), before["b.bundle.json"].clone());
    assert!(again == before);

    // What the cache has lost is fetched by digest; no name in it moves.
    let index = || std::fs::read_to_string(room.path("cache/index.json")).unwrap();
    let names = index().matches("ref.name").count();
    for (_, member) in record(&room.path("out")).members() {
        let _ = std::fs::remove_file(cache_blob(&room, &member.digest));
    }
    for number in 1..=4 {
        export(&room, &["--repair", "out/b.bundle.json", "--volume", &number.to_string(), "--to", "third"]).ended(0);
    }
    let mut third = files(&room.path("third"));
    third.insert("b.bundle.json".to_owned(), before["b.bundle.json"].clone());
    assert!(third == before);
    assert_eq!(fake.count(Kind::ManifestHead), 0, "no tag is asked for");
    assert_eq!(index().matches("ref.name").count(), names + 3, "kept by digest");

    let refused = export(&room, &["--repair", "out/b.bundle.json", "--volume", "5", "--to", "third"]).ended(1);
    assert!(refused.stderr.contains("bundle b has no volume 5: it has 4"), "{}", refused.stderr);
    for wrong in [
        &["--volume", "1"][..],
        &["--repair", "out/b.bundle.json"],
        &["--repair", "none", "--volume", "1"],
        &["--repair", "larder.toml", "--volume", "1"],
    ] {
        assert_eq!(export(&room, &[wrong, &["--to", "third"]].concat()).code, 2, "{wrong:?}");
    }

    // Neither the cache nor the upstream has it.
    std::fs::remove_dir_all(room.path("cache")).unwrap();
    fake.fault(Match::kind(Kind::ManifestGet), FOREVER, Fault::error(403, "DENIED", "no"));
    let lost = export(&room, &["--repair", "out/b.bundle.json", "--volume", "2", "--to", "fourth"]).ended(1);
    assert!(lost.stderr.contains("the cache does not have sha256:"), "{}", lost.stderr);
    assert!(!room.path("fourth/b-0002.tar").exists());
}

#[test]
fn damage_in_the_cache_is_found_and_mended_by_the_next_run() {
    let fake = Fake::start();
    let room = several(&fake);
    let before = files(&room.path("out"));
    let bundle = record(&room.path("out"));
    let (_, cut) = bundle.members().find(|(_, member)| member.part.is_some()).unwrap();
    let (_, whole) = bundle.members().find(|(_, member)| member.part.is_none() && member.kind == MemberKind::Blob).unwrap();
    for member in [cut, whole] {
        let path = cache_blob(&room, &member.digest);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let found = export(&room, &["--to", "fresh", "--name", "b", "--volume-size", "60kB"]).ended(1);
        assert!(found.stderr.contains(&format!("{} in the cache was damaged", member.digest)), "{}", found.stderr);
        assert!(!room.path("fresh/b.bundle.json").exists());
        export(&room, &["--to", "fresh", "--name", "b", "--volume-size", "60kB"]).ended(0);
        assert!(files(&room.path("fresh")) == before);
        std::fs::remove_dir_all(room.path("fresh")).unwrap();
    }
    // A volume by itself does not show what a part of a blob is worth; the whole blob does.
    let path = cache_blob(&room, &cut.digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let (last, _) = bundle.members().filter(|(_, member)| member.digest == cut.digest).last().unwrap();
    let repair = ["--repair", "out/b.bundle.json", "--volume", &last.to_string(), "--to", "fresh"];
    let found = export(&room, &repair).ended(1);
    assert!(found.stderr.contains(&format!("{} in the cache was damaged", cut.digest)), "{}", found.stderr);
    assert_eq!(files(&room.path("fresh")), BTreeMap::new());
    export(&room, &repair).ended(0);
    for (name, bytes) in files(&room.path("fresh")) {
        assert!(before[&name] == bytes);
    }
}

#[test]
fn damage_and_loss_of_volumes_are_told() {
    let fake = Fake::start();
    let room = several(&fake);
    let bundle = record(&room.path("out"));
    let volume = |number: usize| room.path("out").join(&bundle.volumes[number - 1].file);
    let kept = |number: usize| std::fs::read(volume(number)).unwrap();
    let all = files(&room.path("out"));
    let restore = || {
        for (name, bytes) in &all {
            std::fs::write(room.path("out").join(name), bytes).unwrap();
        }
    };
    let lines = |ran: &Ran| ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>();

    // A turned bit in the large layer, which is cut.
    let large = Digest::sha256(&layer(1, 150_000));
    let cut: Vec<u32> = bundle.members().filter(|(_, member)| member.digest == large).map(|(number, _)| number).collect();
    let middle = cut[1] as usize;
    let mut bytes = kept(middle);
    let len = bytes.len();
    bytes[len - 2000] ^= 4;
    std::fs::write(volume(middle), &bytes).unwrap();
    let ran = room.larder(["verify", "out"]).ended(1);
    let found = lines(&ran);
    assert!(found[0].starts_with(&format!("damaged volume {middle} b-000{middle}.tar (m/large:v1): its sha256 is ")), "{found:?}");
    assert!(found[0].ends_with(&format!("(to repair it: larder export --repair b.bundle.json --volume {middle} --to DIR)")), "{found:?}");
    assert_eq!(found[1], format!("damaged {large} (m/large:v1): its parts hash to {}", found[1].rsplit(' ').next().unwrap()));
    assert_eq!(found[2..], [format!("incomplete m/large:v1: {large} is damaged")]);
    // And mended by what it says.
    export(&room, &["--repair", "out/b.bundle.json", "--volume", &middle.to_string(), "--to", "out"]).ended(0);
    assert_eq!(room.larder(["verify", "out"]).ended(0).stdout, "");

    // Missing.
    std::fs::remove_file(volume(middle)).unwrap();
    let ran = room.larder(["verify", "out"]).ended(1);
    assert_eq!(
        lines(&ran),
        [
            format!("absent volume {middle} b-000{middle}.tar (m/large:v1): it is missing"),
            format!("incomplete m/large:v1: volume {middle} is missing")
        ]
    );
    assert!(ran.stderr.contains("3 of 4 volumes present"), "{}", ran.stderr);
    restore();

    // Cut short, and a head that nobody can read.
    std::fs::write(volume(4), &kept(4)[..1000]).unwrap();
    let ran = room.larder(["verify", "out/b.bundle.json"]).ended(1);
    assert!(
        ran.stdout.starts_with("damaged volume 4 b-0004.tar (") && ran.stdout.contains("it ends after 1000 bytes, and should have"),
        "{}",
        ran.stdout
    );
    restore();
    let mut longer = kept(4);
    longer.push(0);
    std::fs::write(volume(4), longer).unwrap();
    assert!(room.larder(["verify", "out"]).ended(1).stdout.contains("bytes, and should have"));
    restore();

    // Volumes without the record, under other names and in other folders.
    let paths: Vec<String> = (1..=4).map(|number| format!("elsewhere/{number}.bin")).collect();
    std::fs::create_dir(room.path("elsewhere")).unwrap();
    for (number, path) in paths.iter().enumerate() {
        std::fs::rename(volume(number + 1), room.path(path)).unwrap();
    }
    std::fs::remove_file(room.path("out/b.bundle.json")).unwrap();
    let arguments: Vec<&str> = ["verify"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let ran = room.larder(&arguments).ended(0);
    assert!(ran.stderr.starts_with(&format!("bundle bundle-{}: 3 images, 4 of 4 volumes present", bundle.id.short())), "{}", ran.stderr);
    room.larder(["verify", "elsewhere"]).ended(0);
    let ran = room.larder(&arguments[..arguments.len() - 1]).ended(1);
    assert!(ran.stdout.contains("is missing, and only the bundle's record says which volume has it"), "{}", ran.stdout);
    // The record finds them again.
    restore();
    (1..=4).for_each(|number| std::fs::remove_file(volume(number)).unwrap());
    let with_record: Vec<&str> = arguments.iter().copied().chain(["out/b.bundle.json"]).collect();
    assert_eq!(room.larder(with_record).ended(0).stdout, "");

    room.write("stray.tar", "no volume");
    assert!(room.larder(["verify", "stray.tar"]).ended(2).stderr.contains("stray.tar is not a bundle, volume, OCI layout or archive"));
}

/// At how many moments the copying into the cache is killed, and at how many the packing.
const MOMENTS: [u64; 2] = [25, 25];

/// The size of a layer. Long enough that most kills meet one under way.
const LAYER: usize = 4_000_000;

/// Large enough for several layers, and cut so that some are not whole.
const VOLUME: &str = "18MB";

/// Images that share a layer by fours, one of them larger than a volume.
fn stock(fake: &Fake) -> Vec<String> {
    let mut names = vec![];
    for number in 0..12_u64 {
        let repository = format!("apps/{}", number % 3);
        image(fake, &repository, Some(&format!("v{number}")), &ImageSpec::new([layer(900 + number % 3, LAYER), layer(number, LAYER)]));
        names.push(format!("{repository}:v{number}"));
    }
    image(fake, "large", Some("v1"), &ImageSpec::new([layer(100, 6 * LAYER)]));
    corpus::simple(fake, "gated", "v1", 999);
    names.extend(["large:v1".to_owned(), "gated:v1".to_owned()]);
    names.into_iter().map(|name| fake.image(&name)).collect()
}

/// How long the files of a folder, and of those in it, are together.
fn length(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(if entry.path().is_dir() { length(&entry.path()) } else { entry.metadata().ok()?.len() })).sum()
}

/// The blobs that are whole in the volumes of `to` and in the one under way, given where each should be.
fn packed(to: &Path, bundle: &Bundle) -> BTreeSet<Digest> {
    let mut whole = BTreeMap::new();
    for volume in &bundle.volumes {
        let path = to.join(&volume.file);
        let partial = to.join(format!("{}.partial", volume.file));
        let there = std::fs::metadata(path).or_else(|_| std::fs::metadata(partial)).map_or(0, |meta| meta.len());
        // Headers and bytes from the end of the volume backwards: all members but these are before.
        let mut end = volume.size - 1024;
        for member in volume.members.iter().rev() {
            *whole.entry(member.digest.clone()).or_insert(true) &= end <= there;
            let header = if member.path().len() > 100 { 3 * 512 } else { 512 };
            end -= header + member.size.next_multiple_of(512);
        }
    }
    whole.into_iter().filter(|(_, whole)| *whole).map(|(digest, _)| digest).collect()
}

#[test]
fn an_export_survives_fifty_kills_and_reads_nothing_again_but_what_was_under_way() {
    let (fake, gate) = (Fake::start(), Gate::closed());
    let images = stock(&fake);
    let arguments = ["--to", "out", "--name", "b", "--volume-size", VOLUME];
    let undisturbed = room(&fake);
    undisturbed.list(&images);
    export(&undisturbed, &arguments).ended(0);
    let (expected, bundle) = (files(&undisturbed.path("out")), record(&undisturbed.path("out")));
    assert!(bundle.volumes.len() > 4 && bundle.members().any(|(_, member)| member.part.is_some()));

    let room = room(&fake);
    room.list(&images);
    let (cache, out) = (room.path("cache"), room.path("out"));
    let all = [&["export", "--cache", "cache"], &arguments[..]].concat();
    let total = length(&undisturbed.path("cache"));
    // While it copies. One manifest is held, so that no run comes to its end.
    for moment in 1..=MOMENTS[0] {
        let had = length(&cache);
        let share = (total - had) / (MOMENTS[0] + 1 - moment) / 3;
        fake.clear_faults();
        fake.fault(Match::kind(Kind::ManifestGet).repository("gated"), FOREVER, Fault::Hold(gate.clone()));
        // One transfer alone must get there too, of which the last piece read is not written yet.
        fake.fault(Match::kind(Kind::BlobGet), FOREVER, Fault::Stall { after: share + 300_000 });
        let run = room.start(&all);
        assert!(until(|| length(&cache) >= had + share), "{}", run.stderr());
        assert!(run.kill(), "it was not killed, it had ended");
        assert_eq!(length(&out), 0);
    }
    fake.clear_faults();
    gate.open();
    let transferred = fake.bytes_sent();
    room.larder(["sync", "--to", "oci:cache"]).ended(0);
    assert!(fake.bytes_sent() - transferred < total, "what was there was transferred again");

    // While it packs. What is packed is not read again: in the cache it is overwritten, and nobody notices.
    let total: u64 = bundle.volumes.iter().map(|volume| volume.size).sum();
    let mut spoilt = BTreeSet::new();
    fake.reset_log();
    for moment in 1..=MOMENTS[1] {
        let had = length(&out);
        let share = (total - had) / (MOMENTS[1] + 1 - moment);
        let run = room.start(&all);
        assert!(until(|| length(&out) > had + share / 2), "{}", run.stderr());
        assert!(run.kill(), "it was not killed, it had ended");
        for (name, bytes) in files(&out) {
            assert!(name.ends_with(".partial") || bytes == expected[&name], "half of {name}");
        }
        for digest in packed(&out, &bundle) {
            let path = cache.join("blobs/sha256").join(digest.encoded());
            let len = path.metadata().unwrap().len();
            // Manifests are needed to know what is to be packed.
            if len > 100_000 && !bundle.members().any(|(_, member)| member.digest == digest && member.part.is_some()) {
                std::fs::remove_file(&path).unwrap();
                std::fs::File::create(&path).unwrap().set_len(len).unwrap();
                spoilt.insert(digest);
            }
        }
    }
    assert!(spoilt.len() > 8, "{}", spoilt.len());
    export(&room, &arguments).ended(0);
    assert_eq!(fake.count(Kind::BlobGet) + fake.count(Kind::ManifestGet), 0);
    assert!(files(&out) == expected);
    room.larder(["verify", "out"]).ended(0);
}

#[test]
fn an_interrupted_packing_goes_on_where_it_was() {
    let fake = Fake::start();
    let room = room(&fake);
    room.list(stock(&fake));
    room.larder(["sync", "--to", "oci:cache"]).ended(0);
    let all = ["export", "--cache", "cache", "--to", "out", "--name", "b", "--report", "report.json"];
    let run = room.start(all);
    assert!(until(|| length(&room.path("out")) > LAYER as u64), "{}", run.stderr());
    run.signal("TERM");
    let ran = run.finish().ended(3);
    assert!(ran.stderr.contains("interrupted while packing; the same command goes on where this one stopped"), "{}", ran.stderr);
    assert_eq!((ran.stdout.as_str(), &room.json("report.json")["exit"]), ("", &3.into()));
    assert_eq!(files(&room.path("out")).into_keys().collect::<Vec<_>>(), ["b-0001.tar.partial"]);
    // While it copies, nothing is packed.
    let (gate, other) = (Gate::closed(), self::room(&fake));
    other.list([fake.image("apps/0:v0")]);
    fake.fault(Match::kind(Kind::ManifestGet), FOREVER, Fault::Hold(gate.clone()));
    fake.reset_log();
    let run = other.start(["export", "--to", "out"]);
    assert!(fake.wait_until(crate::support::room::PATIENCE, |requests| requests.iter().any(|request| request.kind == Kind::ManifestGet)));
    run.signal("INT");
    assert!(until(|| run.stderr().contains("interrupted")));
    gate.open();
    let ran = run.finish();
    assert!(ran.code == 3 && ran.stderr.contains("nothing was packed"), "{ran:?}");
    assert_eq!(length(&other.path("out")), 0);
}

#[test]
fn images_are_packed_as_their_rules_cut_them() {
    let fake = Fake::start();
    for index in ["rewrite", "sparse"] {
        let room = room(&fake);
        let rules = room.read("larder.toml");
        room.write("larder.toml", format!("{rules}platforms = [\"linux/arm64\"]\nindex = \"{index}\"\n"));
        corpus::multi(&fake, "many", "v1", 7, &["linux/amd64", "linux/arm64"]);
        room.list([fake.image("many:v1")]);
        export(&room, &["--to", "out", "--name", "b"]).ended(0);
        let bundle = record(&room.path("out"));
        assert_eq!(bundle.images[0].platforms, ["linux/arm64"]);
        // The index, one image, its config, two layers.
        assert_eq!(bundle.volumes[0].members.len(), 5, "{index}");
        assert_eq!(bundle.images[0].digest == fake.digest("many", "v1").unwrap(), index == "sparse");
        room.larder(["verify", "out"]).ended(0);
        unpack(&room.path("out"), &room.path("unpacked"));
        room.larder(["verify", "unpacked"]).ended(0);
        // A lost layer comes back, and nothing that was left out with it.
        let (_, layer) = bundle.members().find(|(_, member)| member.kind == MemberKind::Blob).unwrap();
        std::fs::remove_file(cache_blob(&room, &layer.digest)).unwrap();
        fake.reset_log();
        export(&room, &["--repair", "out/b.bundle.json", "--volume", "1", "--to", "again"]).ended(0);
        assert_eq!((fake.count(Kind::BlobGet), fake.count(Kind::ManifestGet)), (1, 0), "{index}");
        assert_eq!(files(&room.path("again"))["b-0001.tar"], files(&room.path("out"))["b-0001.tar"]);
    }
}

#[test]
fn signatures_travel_with_their_images() {
    let fake = Fake::start();
    let room = room(&fake);
    room.write("larder.toml", room.read("larder.toml").replace("referrers = false\n", ""));
    let signed = corpus::simple(&fake, "app", "v1", 1);
    let artifact = corpus::artifact(&fake, "app", None, "application/vnd.example.signature", "signed", Some(&signed));
    let cosign = corpus::cosign_signature(&fake, "app", &signed);
    corpus::simple(&fake, "app", "v2", 2);
    room.list([fake.image("app:v1")]);
    export(&room, &["--to", "out", "--name", "b"]).ended(0);
    let bundle = record(&room.path("out"));
    let mut expected = [artifact.digest, cosign.digest];
    expected.sort();
    assert_eq!((bundle.images.len(), bundle.images[0].referrers.as_slice()), (1, expected.as_slice()));
    room.larder(["verify", "out"]).ended(0);
    unpack(&room.path("out"), &room.path("unpacked"));
    assert_eq!(room.larder(["verify", "unpacked"]).ended(0).stdout, "");
    // The next night the image is current, and its signatures are not looked for again: the bundle is the same.
    export(&room, &["--to", "again", "--name", "b"]).ended(0);
    assert!(files(&room.path("again")) == files(&room.path("out")));
}

#[test]
fn a_volume_size_without_a_unit_or_without_room_is_refused_before_anything_is_asked() {
    let fake = Fake::start();
    let room = room(&fake);
    corpus::simple(&fake, "app", "v1", 1);
    room.list([fake.image("app:v1")]);
    for (size, why) in [
        ("4", "`4` has no unit: write 4GB, or 4GiB"),
        ("4.7", "`4.7` has no unit"),
        ("0", "`0` has no unit"),
        ("4B", "a volume of 4B has no room for content"),
        ("0GB", "a volume of 0GB has no room for content"),
        ("many", "write it like 4GB or 4GiB"),
    ] {
        let refused = export(&room, &["--to", "out", "--volume-size", size]).ended(2);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    assert_eq!(fake.requests().len(), 0);
    assert!(!room.path("out").exists());
}
