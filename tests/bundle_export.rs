//! `larder export` and the checking of bundles: what is in the volumes, what is left out of them, and what a kill, a damaged disk or a lost volume
//! leaves to be done.
// clippy.toml lets tests unwrap; their helper functions are no tests to it.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use larder::bundle::format::{Bundle, MemberKind};
use larder::content::Digest;
use serde_json::Value;
use support::corpus::{self, ImageSpec, image};
use support::fake::{FOREVER, Fake, Fault, Kind, Match};
use support::layer::layer;
use support::real;
use support::room::{Ran, Room};

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
    assert_eq!(names[3..], members.iter().map(|member| member.path()).collect::<Vec<_>>());
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
    assert!(again.stderr.contains("1 of them there already"), "{}", again.stderr);
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
    assert_eq!(bundle.images[0].source, fake.image("app:v2"));
    assert_eq!(bundle.volumes[0].members.len(), 4);
    assert!(bundle.volumes[0].members.iter().all(|member| member.repositories == ["m/app"]));
    assert!(room.read("failed.csv").contains("broken:v1"));
    room.larder(["verify", "second"]).ended(0);

    room.list([fake.image("broken:v1")]);
    let nothing = export(&room, &["--to", "third"]).ended(1);
    assert!(nothing.stderr.contains("nothing was packed: no image was delivered"), "{}", nothing.stderr);
    assert_eq!((nothing.stdout.as_str(), files(&room.path("third"))), ("", BTreeMap::new()));

    // A deadline that has passed defers what is not there; the rest is packed.
    room.list([fake.image("app:v1")]);
    fake.fault(Match::kind(Kind::ManifestHead).repository("app"), FOREVER, Fault::limited("3600"));
    corpus::simple(&fake, "other", "v1", 10);
    room.list([fake.image("app:v1"), fake.image("other:v1")]);
    let ran = export(&room, &["--to", "fourth"]);
    let report = room.json("report.json");
    assert_eq!((ran.code, &report["exit"]), (3, &3.into()), "{}", ran.stderr);
    assert!(!room.path("fourth").join("x").exists());
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
    let relied: BTreeMap<&Digest, &larder::bundle::format::Relied> =
        second.base.content.iter().map(|relied| (&relied.digest, relied)).collect();
    assert_eq!(relied.len(), 3);
    assert_eq!(relied[&Digest::sha256(&base)].bundle.as_ref(), Some(&first.id));
    assert_eq!(
        (relied[&Digest::sha256(&old)].held.join(" "), relied[&Digest::sha256(&old)].repositories.join(" ")),
        ("m/app".into(), "m/app m/other".into())
    );
    assert_eq!((second.base.bundles[0].id.clone(), second.base.bundles[0].name.as_str()), (first.id.clone(), "month-1"));
    assert!(ran.stderr.contains("left out, because the base has them: 3 blobs, "), "{}", ran.stderr);
    let verified = room.larder(["verify", "month-2"]).ended(0);
    assert!(verified.stderr.contains("3 more at the base"), "{}", verified.stderr);

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
    // What a killed run has left under the name is no bundle: it is written over, and what is too much of it goes.
    std::fs::remove_file(room.path("out/nightly.bundle.json")).unwrap();
    std::fs::write(room.path("out/nightly-0002.tar"), "left over").unwrap();
    std::fs::write(room.path("out/nightly-0003.tar.partial"), "left over").unwrap();
    std::fs::write(room.path("out/nightly-0003.tar.txt"), "mine").unwrap();
    export(&room, &["--to", "out", "--name", "nightly"]).ended(0);
    let names: Vec<String> = files(&room.path("out")).into_keys().collect();
    assert_eq!(names, ["nightly-0001.tar", "nightly-0003.tar.txt", "nightly.bundle.json"]);
    room.larder(["verify", "out"]).ended(0);
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
    assert!(found[0].ends_with(&format!("(to mend it: larder export --repair b.bundle.json --volume {middle} --to DIR)")), "{found:?}");
    assert_eq!(found[1], format!("damaged {large} (m/large:v1): its parts hash to {}", found[1].rsplit(' ').next().unwrap()));
    assert_eq!(found[2..], [format!("incomplete m/large:v1: {large} is damaged")]);
    // And mended by what it says.
    export(&room, &["--repair", "out/b.bundle.json", "--volume", &middle.to_string(), "--to", "out"]).ended(0);
    assert_eq!(room.larder(["verify", "out"]).ended(0).stdout, "");

    // Not at hand.
    std::fs::remove_file(volume(middle)).unwrap();
    let ran = room.larder(["verify", "out"]).ended(1);
    assert_eq!(
        lines(&ran),
        [
            format!("absent volume {middle} b-000{middle}.tar (m/large:v1): it is not at hand"),
            format!("incomplete m/large:v1: volume {middle} is not at hand")
        ]
    );
    assert!(ran.stderr.contains("3 of 4 volumes at hand"), "{}", ran.stderr);
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
    assert!(ran.stderr.starts_with(&format!("bundle bundle-{}: 3 images, 4 of 4 volumes at hand", bundle.id.short())), "{}", ran.stderr);
    room.larder(["verify", "elsewhere"]).ended(0);
    let ran = room.larder(&arguments[..arguments.len() - 1]).ended(1);
    assert!(ran.stdout.contains("is not at hand, and without the bundle's record it is not known who has it"), "{}", ran.stdout);
    // The record finds them again.
    restore();
    (1..=4).for_each(|number| std::fs::remove_file(volume(number)).unwrap());
    let with_record: Vec<&str> = arguments.iter().copied().chain(["out/b.bundle.json"]).collect();
    assert_eq!(room.larder(with_record).ended(0).stdout, "");

    room.write("stray.tar", "no volume");
    assert!(room.larder(["verify", "stray.tar"]).ended(1).stderr.contains("stray.tar is no volume of a bundle"));
}
