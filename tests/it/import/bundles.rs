//! Bundles into a target.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::support::program::Run;
use larder::content::{Descriptor, Digest};
use serde_json::Value;

use super::*;

/// A near side with three repositories, and a folder where larder runs. The far side is named in each test.
struct Sides {
    near: Fake,
    far: Fake,
    program: Program,
}

/// Enough for a blob to be larger than a volume's share of small ones.
const LARGE: usize = 40_000;

fn sides(far: Options) -> Sides {
    let near = Fake::start();
    image(&near, "library/base", Some("1"), &ImageSpec::new([noise(1, LARGE).into()]));
    image(&near, "team/app", Some("1"), &ImageSpec::new([noise(1, LARGE).into(), noise(2, LARGE).into()]));
    let children = [3, 4].map(|n| image(&near, "team/multi", None, &ImageSpec::new([noise(1, LARGE).into(), noise(n, LARGE).into()])));
    corpus::index(&near, "team/multi", Some("2"), &children);
    let program = Program::new();
    let far = Fake::with(far);
    let rules = |name: &str, source: &str| format!("[[rule]]\nname = \"{name}\"\nsource = \"{source}/*\"\ntarget = \"*\"\n");
    program.write(
        "larder.toml",
        format!("version = 1\nlists = [\"list.txt\"]\n[target]\nregistry = \"{}\"\n{}", far.addr(), rules("near", &near.addr())),
    );
    program.list(["library/base:1", "team/app:1", "team/multi:2"].map(|name| near.image(name)));
    Sides { near, far, program }
}

impl Sides {
    fn export(&self, name: &str, more: &[&str]) -> PathBuf {
        self.program.run(&[&["export", "--to", "out", "--name", name], more].concat()).exits(0);
        self.program.path("out")
    }

    fn import(&self, what: &[&str]) -> Run {
        self.program.run(&[&["import", "--report", "report.json"], what].concat())
    }

    /// What the far side has under a name is what the near side has, with everything below it.
    fn equal(&self, repository: &str, tag: &str) {
        let (near, far) = (self.near.manifest(repository, tag), self.far.manifest(repository, tag));
        assert!(near.is_some() && near == far, "{repository}:{tag}: {far:?}");
        self.complete(repository, &near.unwrap().1);
    }

    fn complete(&self, repository: &str, manifest: &[u8]) {
        let manifest: Value = serde_json::from_slice(manifest).unwrap();
        let descriptors = |key: &str| serde_json::from_value::<Vec<Descriptor>>(manifest[key].clone()).unwrap_or_default();
        for child in descriptors("manifests") {
            let (_, bytes) = self.far.manifest(repository, child.digest.as_str()).unwrap();
            self.complete(repository, &bytes);
        }
        for blob in descriptors("layers") {
            assert_eq!(self.far.blob(repository, &blob.digest), self.near.blob(repository, &blob.digest), "{repository} {}", blob.digest);
        }
    }

    fn all_equal(&self) {
        for (repository, tag) in [("library/base", "1"), ("team/app", "1"), ("team/multi", "2")] {
            self.equal(repository, tag);
        }
    }

    /// What is kept between imports, beside the journal.
    fn kept(&self) -> BTreeSet<String> {
        let folder = self.program.path("home/state/larder/import");
        let names = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "journal.jsonl").collect()
    }

    fn without_hosts(&self, text: &str) -> String {
        text.replace(&self.near.addr(), "NEAR").replace(&self.far.addr(), "FAR")
    }
}

/// Turns a byte in the middle of a blob's bytes in a volume.
fn damage(path: &std::path::Path, blob: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(64).position(|window| window == &blob[..64]).expect("the blob is in this volume");
    bytes[at + blob.len() / 2] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn volumes(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    files.sort();
    files
}

#[test]
fn a_bundle_fills_a_registry_blobs_first_and_names_last_and_each_byte_moves_once() {
    let sides = sides(Options::default());
    sides.export("jan", &[]);
    let run = sides.import(&["out"]).exits(0);
    sides.all_equal();
    let report = &run.report;
    assert_eq!((&report["command"], &report["exit"], &report["version"]), (&"import".into(), &0.into(), &1.into()));
    assert_eq!(run.with_status("copied").len(), 3);
    let row = &run.images()[0];
    assert_eq!(row["source"], sides.near.image("library/base:1"));
    assert_eq!(row["target"], sides.far.image("library/base:1"));
    assert_eq!(row["digest"], sides.near.digest("library/base", "1").unwrap().as_str());
    // Layers 1 to 4 and the configs; layer 1 is mounted into the two other repositories.
    assert_eq!((run.total("blobs_copied"), run.total("blobs_mounted")), (8, 2));
    let layers = 4 * LARGE as u64;
    assert!(run.total("bytes_written") >= layers && run.total("bytes_written") < layers + 10_000);
    assert_eq!(run.total("bytes_read"), run.total("bytes_written"));
    let puts: Vec<(Kind, String)> =
        sides.far.requests().iter().map(|r| (r.kind, r.path.clone())).filter(|(kind, _)| *kind == Kind::ManifestPut).collect();
    assert_eq!(puts.len(), 2 + 3, "two children by digest, three names: {puts:?}");
    assert!(sides.kept().is_empty());

    let asked = sides.far.requests().len();
    let again = sides.import(&["out"]).exits(0);
    assert_eq!(again.with_status("current").len(), 3);
    assert_eq!(sides.far.requests().len() - asked, 3, "a HEAD for each name");
    assert_eq!((again.total("bytes_read"), again.total("bytes_written")), (0, 0));
}

#[test]
fn below_a_prefix_and_into_a_layout() {
    let sides = sides(Options::default());
    sides.export("jan", &["--volume-size", "60kB"]);
    let to = format!("{}/mirror/x", sides.far.addr());
    let run = sides.import(&["out/jan.bundle.json", "--to", &to]).exits(0);
    assert_eq!(run.images()[0]["target"], sides.far.image("mirror/x/library/base:1"));
    assert_eq!(sides.far.digest("mirror/x/team/multi", "2"), sides.near.digest("team/multi", "2"));
    sides.import(&["out", "--to", "oci:store"]).exits(0);
    let run = sides.program.run(&["verify", "store"]).exits(0);
    assert!(run.stderr.contains("3 names"), "{}", run.stderr);
    let digests: BTreeSet<String> = sides.program.run(&["inventory", "--of", "store"]).stdout.lines().map(str::to_owned).collect();
    let prefixed = sides.program.run(&["inventory", "--of", &to]).stdout;
    assert_eq!(digests, prefixed.lines().map(str::to_owned).collect(), "a layout and a prefix hold the same, by the same names");
}

#[test]
fn volumes_come_one_by_one_in_any_order_and_go_again() {
    let sides = sides(Options::default());
    // Smaller than a layer: every layer is cut.
    sides.export("jan", &["--volume-size", "30kB"]);
    let mut volumes = volumes(&sides.program.path("out"));
    assert!(volumes.len() >= 6, "{volumes:?}");
    fs::create_dir(sides.program.path("record")).unwrap();
    fs::rename(sides.program.path("out/jan.bundle.json"), sides.program.path("record/jan.bundle.json")).unwrap();
    // The last first, and the one with the manifests neither first nor last.
    volumes.reverse();
    let last = volumes.len() - 2;
    volumes.swap(last, last + 1);
    let mut read = 0;
    for (at, volume) in volumes.iter().enumerate() {
        let record = if at == 2 { vec!["record/jan.bundle.json"] } else { vec![] };
        let run = sides.import(&[&[volume.to_str().unwrap()], &record[..]].concat());
        let run = run.exits(if at + 1 == volumes.len() { 0 } else { 3 });
        read += run.total("bytes_read");
        fs::remove_file(volume).unwrap();
        assert_eq!(sides.kept().is_empty(), at + 1 == volumes.len(), "{at}");
    }
    sides.all_equal();
    assert!(read < 4 * LARGE as u64 + 40_000, "no blob is read twice, though manifests are: {read}");
}

#[test]
fn what_is_missing_is_named_with_the_volume_that_brings_it() {
    let sides = sides(Options::default());
    sides.export("jan", &["--volume-size", "60kB"]);
    let volumes = volumes(&sides.program.path("out"));
    assert_eq!(volumes.len(), 4, "a layer each");
    fs::create_dir(sides.program.path("away")).unwrap();
    // Which volume has the layer that all share.
    let shared = noise(1, LARGE);
    let at = volumes.iter().position(|path| fs::read(path).unwrap().windows(64).any(|window| window == &shared[..64])).unwrap();
    let file = format!("jan-000{}.tar", at + 1);
    fs::rename(&volumes[at], sides.program.path("away").join(&file)).unwrap();
    let run = sides.import(&["out"]).exits(3);
    assert_eq!(run.with_status("deferred").len(), 3);
    let reason = format!("not here yet: volume {} of jan ({file}): {}", at + 1, Digest::sha256(&shared));
    assert!(run.images().iter().all(|row| row["reason"].as_str().unwrap().starts_with(&reason)), "{}", run.report);
    assert!(run.stderr.contains(&format!("waiting for volume {} of jan ({file}): ", at + 1)), "{}", run.stderr);
    assert_eq!(sides.far.tags("team/app"), [] as [&str; 0], "nothing is named that is not complete");
    assert!(sides.far.has_blob("team/app", &Digest::sha256(&noise(2, LARGE))), "what is at hand is there");
    let before = sides.far.bytes_received();
    sides.import(&[&format!("away/{file}")]).exits(0);
    sides.all_equal();
    assert!(sides.far.bytes_received() - before < LARGE as u64 + 15_000, "only what was missing");
}

#[test]
fn a_damaged_volume_is_named_and_the_rest_is_imported() {
    let sides = sides(Options::default());
    sides.export("jan", &["--volume-size", "60kB"]);
    let layer = noise(2, LARGE);
    let volumes = volumes(&sides.program.path("out"));
    let at = volumes.iter().position(|path| fs::read(path).unwrap().windows(64).any(|window| window == &layer[..64])).unwrap();
    damage(&volumes[at], &layer);
    let run = sides.import(&["out"]).exits(1);
    assert_eq!(run.with_status("copied").len(), 2);
    let error = run.error();
    let number = at + 1;
    let message = error["message"].as_str().unwrap();
    let remedy = format!("write it again where the bundle was made: larder export --repair jan.bundle.json --volume {number} --to DIR");
    assert_eq!(error["side"], "local");
    assert!(
        message.starts_with(&format!("volume {number} of jan (out/jan-000{number}.tar) is damaged: {}", Digest::sha256(&layer))),
        "{message}"
    );
    assert!(message.ends_with(&format!("({remedy})")), "{message}");
    let line = format!(
        "error: volume {number} of jan (out/jan-000{number}.tar) is damaged: {}; not imported: {}; {remedy}",
        Digest::sha256(&layer),
        sides.far.image("team/app:1")
    );
    assert!(run.stderr.contains(&line), "{}", run.stderr);
    sides.equal("library/base", "1");
    sides.equal("team/multi", "2");
    assert_eq!(sides.far.tags("team/app"), [] as [&str; 0]);

    sides.program.run(&["export", "--repair", "out/jan.bundle.json", "--volume", &number.to_string(), "--to", "again"]).exits(0);
    // Both are given: the damaged one is read no further than it must be.
    let run = sides.import(&["out", &format!("again/jan-000{number}.tar")]).exits(0);
    assert_eq!(run.with_status("copied").len(), 1);
    assert!(run.stderr.contains("is damaged") && run.stderr.contains("another copy was used"), "{}", run.stderr);
    sides.all_equal();
}

#[test]
fn of_a_blob_in_parts_the_volumes_own_hashes_tell_which_is_wrong() {
    let sides = sides(Options::default());
    sides.export("jan", &["--volume-size", "30kB"]);
    let layer = noise(2, LARGE);
    let volumes = volumes(&sides.program.path("out"));
    let at = volumes.iter().position(|path| fs::read(path).unwrap().windows(64).any(|window| window == &layer[..64])).unwrap();
    let mut bytes = fs::read(&volumes[at]).unwrap();
    let begin = bytes.windows(64).position(|window| window == &layer[..64]).unwrap();
    bytes[begin + 100] ^= 1;
    fs::write(&volumes[at], bytes).unwrap();
    let run = sides.import(&["out"]).exits(1);
    let number = at + 1;
    let named: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: volume ")).collect();
    assert_eq!(named.len(), 1, "{}", run.stderr);
    assert!(named[0].starts_with(&format!("error: volume {number} of jan")), "{named:?}");
    // The row and the report say the same, and nothing of the other volumes that have a part of it.
    let message = run.error()["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("volume {number} of jan (out/jan-000{number}.tar) is damaged: ")), "{message}");
    assert!(message.contains(&format!("--volume {number} --to DIR")), "{message}");
    let others = (1..=volumes.len()).filter(|other| *other != number).map(|other| format!("volume {other} of jan"));
    assert!(others.into_iter().all(|other| !run.stderr.contains(&other)), "{}", run.stderr);
    sides.program.run(&["export", "--repair", "out/jan.bundle.json", "--volume", &number.to_string(), "--to", "again"]).exits(0);
    fs::remove_file(&volumes[at]).unwrap();
    sides.import(&["out", "again"]).exits(0);
    sides.all_equal();
}

#[test]
fn heads_that_are_damaged_are_told_by_the_record_and_without_it_the_volume_is_named() {
    let sides = sides(Options::default());
    sides.export("jan", &["--volume-size", "60kB"]);
    let path = sides.program.path("out/jan-0002.tar");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1030] ^= 1;
    fs::write(&path, bytes).unwrap();
    let record = fs::read(sides.program.path("out/jan.bundle.json")).unwrap();
    fs::remove_file(sides.program.path("out/jan.bundle.json")).unwrap();
    let run = sides.import(&["out"]).exits(1);
    assert!(run.stderr.contains("out/jan-0002.tar: cannot read volume"), "{}", run.stderr);
    assert!(run.stderr.contains("larder export --repair jan.bundle.json --volume 2 --to DIR"), "{}", run.stderr);
    fs::write(sides.program.path("out/jan.bundle.json"), &record).unwrap();
    let run = sides.import(&["out"]).exits(0);
    assert!(run.stderr.contains("the bundle's record is used instead"), "{}", run.stderr);
    sides.all_equal();
    // A record that was changed is not believed: a name might be another's.
    let changed = String::from_utf8(record).unwrap().replace("team/app:1", "team/abb:1");
    fs::write(sides.program.path("out/jan.bundle.json"), changed).unwrap();
    let run = sides.import(&["out/jan.bundle.json"]).exits(2);
    assert!(run.stderr.contains("it has been changed"), "{}", run.stderr);
}

#[test]
fn what_a_base_promised_is_asked_for_and_mounted_and_what_is_gone_is_named() {
    let sides = sides(Options::default());
    sides.export("jan", &[]);
    sides.import(&["out"]).exits(0);
    let inventory = sides.program.run(&["inventory"]).exits(0).stdout;
    sides.program.write("far.txt", inventory);
    // A new repository whose layers are at the far side, in other repositories.
    image(&sides.near, "team/new", Some("1"), &ImageSpec::new([noise(1, LARGE).into(), noise(2, LARGE).into()]));
    sides.program.list([sides.near.image("team/new:1")]);
    sides.export("feb", &["--base", "far.txt"]);
    let size = fs::metadata(sides.program.path("out/feb-0001.tar")).unwrap().len();
    assert!(size < 12_000, "only manifests travel: {size}");
    sides.far.reset_log();
    let run = sides.import(&["out/feb.bundle.json"]).exits(0);
    assert_eq!((run.total("blobs_mounted"), run.total("blobs_copied")), (3, 0), "{}", run.report);
    sides.equal("team/new", "1");

    // One is gone from everywhere: the image is parked.
    let lost = Digest::sha256(&noise(2, LARGE));
    image(&sides.near, "team/late", Some("1"), &ImageSpec::new([noise(1, LARGE).into(), noise(2, LARGE).into()]));
    sides.program.list([sides.near.image("team/late:1")]);
    sides.export("mar", &["--base", "far.txt", "--base", "out/feb.bundle.json"]);
    for repository in ["team/app", "team/new"] {
        sides.far.delete_blob(repository, &lost);
    }
    let run = sides.import(&["out/mar.bundle.json"]).exits(3);
    let reason = run.images()[0]["reason"].as_str().unwrap().to_owned();
    insta::assert_snapshot!(reason.replace(lost.as_str(), "LOST"), @"not here yet: the target was said to have it when mar was made: export that again with a new inventory: LOST");
    assert_eq!(sides.far.tags("team/late"), [] as [&str; 0]);
}

#[test]
fn bundles_come_in_any_order_and_name_the_one_they_wait_for() {
    let sides = sides(Options::default());
    sides.export("jan", &[]);
    image(&sides.near, "team/app", Some("1"), &ImageSpec::new([noise(1, LARGE).into(), noise(7, LARGE).into()]));
    sides.export("feb", &["--base", "out/jan.bundle.json"]);
    let run = sides.import(&["out/feb.bundle.json"]).exits(3);
    let waiting: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("waiting for")).collect();
    assert_eq!(waiting.len(), 1);
    assert!(waiting[0].starts_with("waiting for bundle jan: "), "{}", run.stderr);
    let reason = run.images()[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("not here yet: bundle jan: ") && reason.contains(Digest::sha256(&noise(1, LARGE)).as_str()), "{reason}");
    // Both at once, in the wrong order: of two images of one name the later one stays.
    let run = sides.import(&["out/feb.bundle.json", "out/jan.bundle.json"]).exits(0);
    sides.all_equal();
    assert!(run.stderr.contains("1 image is left out: a later bundle has another one of that name"), "{}", run.stderr);
    assert_eq!(run.images().len(), 3);
}

#[test]
fn a_volume_of_last_month_is_named_and_what_can_be_delivered_is() {
    let sides = sides(Options::default());
    // Every month's bundle has the same name.
    sides.export("monthly", &["--volume-size", "60kB"]);
    let out = sides.program.path("out");
    fs::rename(&out, sides.program.path("last")).unwrap();
    image(&sides.near, "team/app", Some("1"), &ImageSpec::new([noise(1, LARGE).into(), noise(7, LARGE).into()]));
    image(&sides.near, "team/multi", Some("2"), &ImageSpec::new([noise(8, LARGE).into()]));
    sides.export("monthly", &["--volume-size", "60kB"]);
    let count = volumes(&out).len();
    assert!(count > 2 && volumes(&sides.program.path("last")).len() > count - 1);
    let last = count;
    let (name, kept) = (format!("monthly-000{last}.tar"), sides.program.path("kept.tar"));
    fs::rename(out.join(&name), &kept).unwrap();
    fs::copy(sides.program.path("last").join(&name), out.join(&name)).unwrap();
    let run = sides.import(&["out"]).exits(3);
    let told = format!("out/{name} is volume {last} of another bundle (");
    assert!(run.stderr.contains(&told) && run.stderr.contains("not of monthly ("), "{}", run.stderr);
    let deferred = run.with_status("deferred");
    assert!(!deferred.is_empty() && deferred.len() < 3, "{}", run.report);
    for row in &deferred {
        assert!(row["reason"].as_str().unwrap().starts_with(&format!("not here yet: volume {last} of monthly ({name}): ")), "{row}");
    }
    assert_eq!(run.with_status("copied").len() + deferred.len(), 3, "{}", run.report);
    fs::rename(&kept, out.join(&name)).unwrap();
    sides.import(&["out"]).exits(0);
    sides.all_equal();
}

#[test]
fn a_stray_volume_of_another_bundle_takes_no_name_from_one_whose_record_is_here() {
    let sides = sides(Options::default());
    // By name it comes later.
    sides.export("zulu", &["--volume-size", "60kB"]);
    let out = sides.program.path("out");
    fs::rename(out.join("zulu-0002.tar"), sides.program.path("zulu-0002.tar")).unwrap();
    fs::remove_dir_all(&out).unwrap();
    image(&sides.near, "team/app", Some("1"), &ImageSpec::new([noise(1, LARGE).into(), noise(7, LARGE).into()]));
    sides.export("alpha", &[]);
    fs::rename(sides.program.path("zulu-0002.tar"), out.join("zulu-0002.tar")).unwrap();
    let run = sides.import(&["out"]).exits(0);
    assert!(run.stderr.contains("out/zulu-0002.tar is volume 2 of another bundle (zulu, "), "{}", run.stderr);
    sides.all_equal();
}

#[test]
fn evidence_says_what_was_put_where_and_is_checked_against_the_target() {
    let sides = sides(Options::default());
    sides.export("jan", &["--volume-size", "60kB"]);
    // In two runs: what the first has hashed, the second knows.
    let volume = sides.program.path("out/jan-0003.tar");
    fs::rename(&volume, sides.program.path("jan-0003.tar")).unwrap();
    sides.import(&["out"]).exits(3);
    fs::rename(sides.program.path("jan-0003.tar"), &volume).unwrap();
    for name in ["evidence.json", "evidence.csv"] {
        sides.import(&["out", "--evidence", name]).exits(0);
    }
    let evidence: Value = serde_json::from_str(&sides.program.read("evidence.json")).unwrap();
    let rows = evidence["rows"].as_array().unwrap();
    // base: manifest, config, layer; app: manifest, config, 2 layers; multi: index, 2 children, 2 configs, 3 layers.
    assert_eq!(rows.len(), 3 + 4 + 8);
    let count = |key: &str, value: &str| rows.iter().filter(|row| row[key] == value).count();
    assert_eq!((count("kind", "image"), count("kind", "manifest"), count("kind", "blob")), (3, 2, 10));
    assert_eq!((count("how", "written"), count("how", "mounted"), count("how", "present")), (13, 2, 0));
    for row in rows.iter().filter(|row| row["how"] == "written") {
        assert!(row["from"].as_str().unwrap().starts_with("volume "), "{row}");
        assert!(row["hashed"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{row}");
        assert_eq!(row["by"], concat!("larder ", env!("CARGO_PKG_VERSION")));
    }
    for name in ["evidence.json", "evidence.csv"] {
        let run = sides.program.run(&["verify", "--evidence", name]).exits(0);
        assert!(run.stderr.contains("15 rows of evidence") && run.stderr.contains("0 differ"), "{}", run.stderr);
    }
    let lost = Digest::sha256(&noise(2, LARGE));
    sides.far.delete_blob("team/app", &lost);
    image(&sides.far, "library/base", Some("1"), &ImageSpec::new([layer(5)]));
    let now = sides.far.digest("library/base", "1").unwrap();
    let then = sides.near.digest("library/base", "1").unwrap();
    let run = sides.program.run(&["verify", "--evidence", "evidence.csv"]).exits(1);
    assert_eq!(run.stdout, format!("image library/base:1 {then}: `1` is {now} now\nblob team/app {lost}: the target does not have it\n"));
    sides.program.write("evidence.csv", sides.program.read("evidence.csv").replace("team/app", "team/abb"));
    let run = sides.program.run(&["verify", "--evidence", "evidence.csv"]).exits(1);
    assert!(run.stderr.contains("evidence.csv: it has been changed"), "{}", run.stderr);
}

#[test]
fn nothing_is_written_unless_all_can_be() {
    let sides = sides(Options { auto_create: false, ..Options::default() });
    sides.far.create("library/base");
    sides.export("jan", &[]);
    let run = sides.import(&["out"]).exits(1);
    insta::assert_snapshot!(sides.without_hosts(&run.shown(&[])), @"
    ---
    error: target FAR: start upload NEAR/team/app:1: 404 NAME_UNKNOWN repository name not known to registry: team/app (create the repository `team/app` at FAR first, if it does not make one by itself)
    error: target FAR: start upload NEAR/team/multi:2: 404 NAME_UNKNOWN repository name not known to registry: team/multi (create the repository `team/multi` at FAR first, if it does not make one by itself)
    exit 1
    ");
    assert_eq!((sides.far.count(Kind::UploadPut), sides.far.count(Kind::ManifestPut), sides.far.open_uploads()), (0, 0, 0));
    assert_eq!(run.images().len(), 0, "nothing was attempted");
    for repository in ["team/app", "team/multi"] {
        sides.far.create(repository);
    }
    sides.import(&["out"]).exits(0);
    sides.all_equal();
}

#[test]
fn a_target_that_does_not_answer_is_told_once() {
    let mut sides = sides(Options::default());
    sides.export("jan", &[]);
    sides.far.stop();
    let run = sides.import(&["out"]).exits(1);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.starts_with(&format!("error: target {}: resolve tag ", sides.far.addr())), "{}", run.stderr);
}

#[test]
fn one_of_every_kind_comes_through_byte_for_byte() {
    let (near, far, program) = (Fake::start(), Fake::start(), Program::new());
    let cases = corpus::corpus(&near);
    program.write(
        "larder.toml",
        format!(
            "version = 1\n[target]\nregistry = \"{}\"\n[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\n",
            far.addr(),
            near.addr()
        ),
    );
    program.list(cases.iter().map(|case| near.image(&case.image())));
    program.run(&["export", "list.txt", "--to", "out", "--name", "all", "--volume-size", "200kB"]);
    let record: Value = serde_json::from_str(&program.read("out/all.bundle.json")).unwrap();
    let carried: Vec<&str> = record["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert!(carried.len() > cases.len() / 2, "{} of {}", carried.len(), cases.len());
    let run = program.run(&["import", "out", "--report", "report.json"]).exits(0);
    assert_eq!(run.images().len(), carried.len());
    program.run(&["import", "out", "--to", "oci:store"]).exits(0);
    program.run(&["verify", "store"]).exits(0);
    for case in cases.iter().filter(|case| carried.iter().any(|name| **name == case.image())) {
        assert_eq!(far.manifest(&case.repository, case.reference()), near.manifest(&case.repository, case.reference()), "{}", case.name);
    }
}

#[test]
fn signatures_travel_with_what_they_are_about() {
    let signed = |near: &Fake| {
        let app = near.manifest("team/app", "1").unwrap().1;
        let app = Descriptor::new(corpus::OCI_IMAGE, Digest::sha256(&app), app.len() as u64);
        let sbom = ImageSpec { subject: Some(app.clone()), ..ImageSpec::new([noise(50, 700).into()]) };
        let sbom = image(near, "team/app", None, &sbom);
        (app.clone(), sbom, corpus::cosign_signature(near, "team/app", &app))
    };
    for api in [true, false] {
        let sides = sides(Options { referrers: api, ..Options::default() });
        sides.export("jan", &[]);
        sides.import(&["out/jan.bundle.json"]).exits(0);
        // The image is there when its signatures come.
        let (app, sbom, signature) = signed(&sides.near);
        let inventory = sides.program.run(&["inventory"]).exits(0).stdout;
        sides.program.write("far.txt", inventory);
        sides.export("feb", &["--base", "far.txt"]);
        let run = sides.import(&["out/feb.bundle.json"]).exits(0);
        let row = run.images().iter().find(|row| row["target"] == sides.far.image("team/app:1")).unwrap();
        assert_eq!(row["referrers"], 2, "{}", run.report);
        assert_eq!(run.images().len(), 3, "what is about an image has no row of its own");
        for about in [&sbom, &signature] {
            assert!(sides.far.manifest("team/app", about.digest.as_str()).is_some(), "{api}");
        }
        let tag = format!("sha256-{}", app.digest.encoded());
        assert_eq!(sides.far.digest("team/app", &format!("{tag}.sig")), Some(signature.digest));
        let listed = sides.far.manifest("team/app", &tag);
        assert_eq!(listed.is_some(), !api, "an index under a tag stands for the API");
        if let Some((_, index)) = listed {
            let index: Value = serde_json::from_slice(&index).unwrap();
            assert_eq!(index["manifests"][0]["digest"], sbom.digest.as_str());
        }
        let again = sides.import(&["out/feb.bundle.json"]).exits(0);
        assert_eq!((again.with_status("current").len(), again.total("bytes_written")), (3, 0));
    }
}

#[test]
fn an_interrupted_import_says_so_and_goes_on() {
    let sides = sides(Options::default());
    sides.export("jan", &[]);
    let gate = crate::support::fake::Gate::closed();
    sides.far.fault(
        crate::support::fake::Match::kind(Kind::ManifestPut),
        crate::support::fake::FOREVER,
        crate::support::fake::Fault::Hold(gate.clone()),
    );
    let run = sides.program.start(&["import", "out", "--report", "report.json"]);
    assert!(
        sides.far.wait_until(crate::support::room::PATIENCE, |requests| requests.iter().any(|request| request.kind == Kind::ManifestPut))
    );
    let terminating = std::thread::spawn(move || run.terminate());
    assert!(crate::support::room::until(|| sides.program.read("said.txt").contains("interrupted")));
    gate.open();
    let code = terminating.join().unwrap();
    let report: Value = serde_json::from_str(&sides.program.read("report.json")).unwrap();
    let rows = report["images"].as_array().unwrap();
    assert_eq!((rows.len(), &report["exit"]), (3, &Value::from(code)));
    // What was on its way may have come to its end.
    assert!(code == 3 || rows.iter().all(|row| row["status"] == "copied"), "{report}");
    assert!(rows.iter().all(|row| row["status"] == "copied" || row["reason"] == "interrupted"), "{report}");
    sides.far.clear_faults();
    sides.import(&["out"]).exits(0);
    sides.all_equal();
}

#[test]
fn what_is_no_bundle_is_refused_before_anything_is_done() {
    let sides = sides(Options::default());
    sides.program.write("letter.txt", "dear");
    fs::create_dir(sides.program.path("empty")).unwrap();
    for (what, word) in [("letter.txt", "is not a bundle"), ("empty", "is not a bundle"), ("nowhere", "No such file")] {
        let run = sides.import(&[what]).exits(2);
        assert!(run.stderr.contains(word), "{what}: {}", run.stderr);
    }
    assert_eq!(sides.far.requests().len(), 0);
}
