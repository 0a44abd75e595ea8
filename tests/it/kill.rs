//! Killed at any moment, nothing is lost: the next run goes on where the last one was, and what is listed is whole at
//! every instant. Two processes at once, and the cleaning of a layout beside a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crate::support::corpus::{self, ImageSpec, image};
use crate::support::fake::{FOREVER, Fake, Fault, Gate, Kind, Match, Options, Request};
use crate::support::layer::layer;
use crate::support::room::{PATIENCE, Room, until};
use larder::content::Digest;
use serde_json::Value;

/// At how many moments a layout's filling is killed.
const MOMENTS: u64 = 50;

/// The size of an image's own layer. Long enough that most kills meet several under way.
const LAYER: usize = 2_000_000;

/// Images that share a layer by fours, an index, and last the one that [`hold`] holds.
fn stock(fake: &Fake) -> Vec<String> {
    let shared = |repository: u64| layer(900 + repository, LAYER);
    let mut names = vec![];
    for number in 0..16_u64 {
        let repository = format!("apps/{}", number % 4);
        image(fake, &repository, Some(&format!("v{number}")), &ImageSpec::new([shared(number % 4), layer(number, LAYER)]));
        names.push(format!("{repository}:v{number}"));
    }
    corpus::multi(fake, "many", "v1", 7, &["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    corpus::simple(fake, "gated", "v1", 8);
    names.extend(["many:v1".to_owned(), "gated:v1".to_owned()]);
    names.into_iter().map(|name| fake.image(&name)).collect()
}

/// Puts the last image's manifest behind `gate`: while it is closed, no run comes to its end, and every kill is one.
fn hold(fake: &Fake, gate: &Gate) {
    fake.fault(Match::kind(Kind::ManifestGet).repository("gated"), FOREVER, Fault::Hold(gate.clone()));
}

/// Files below a folder by name, with their lengths; none if there is no such folder.
fn files(folder: &Path) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // A file may go between the two looks.
    entries.filter_map(|entry| Some((entry.file_name().into_string().unwrap(), entry.metadata().ok()?.len()))).collect()
}

fn blobs(layout: &Path) -> BTreeMap<String, u64> {
    files(&layout.join("blobs/sha256"))
}

/// Unfinished transfers, by the hexadecimal part of their digests.
fn partials(layout: &Path) -> BTreeMap<String, u64> {
    files(&layout.join(".larder/partial")).into_iter().map(|(name, len)| (name.replace("sha256-", ""), len)).collect()
}

fn bytes_in(layout: &Path) -> u64 {
    blobs(layout).values().chain(partials(layout).values()).sum()
}

/// What an index says, by name.
fn entries(layout: &Path) -> BTreeMap<String, Value> {
    let Ok(bytes) = std::fs::read(layout.join("index.json")) else { return BTreeMap::new() };
    let index: Value = serde_json::from_slice(&bytes).unwrap();
    let name = |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned();
    index["manifests"].as_array().unwrap().iter().map(|entry| (name(entry), entry.clone())).collect()
}

fn hex(request: &Request) -> String {
    Digest::parse(request.reference.as_ref().unwrap()).unwrap().encoded().to_owned()
}

fn blob_gets(fake: &Fake) -> Vec<Request> {
    fake.requests().into_iter().filter(|request| request.kind == Kind::BlobGet).collect()
}

/// Sees that a run asked only for what was not there: nothing of a blob that was whole, and the rest of one that was begun.
fn check_requests(fake: &Fake, whole: &BTreeMap<String, u64>, begun: &BTreeMap<String, u64>) -> usize {
    let mut continued = 0;
    for request in blob_gets(fake) {
        let hex = hex(&request);
        assert!(!whole.contains_key(&hex), "{hex} was there, and was read again");
        let from = begun.get(&hex).copied().filter(|len| *len > 0).map(|len| format!("bytes={len}"));
        assert_eq!(request.range().and_then(|range| range.split('-').next()), from.as_deref(), "{hex}");
        continued += usize::from(from.is_some());
    }
    continued
}

#[test]
fn a_layout_survives_fifty_kills_and_loses_no_byte() {
    let (fake, gate) = (Fake::start(), Gate::closed());
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    let images = stock(&fake);
    room.list(&images);
    let undisturbed = Room::new();
    undisturbed.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    undisturbed.list(&images[..images.len() - 1]);
    undisturbed.sync(&[]).0.ended(0);
    let total = bytes_in(&undisturbed.path("store"));

    let layout = room.path("store");
    let (mut continued, mut named) = (0, BTreeSet::new());
    for moment in 1..=MOMENTS {
        let (whole, begun, had) = (blobs(&layout), partials(&layout), bytes_in(&layout));
        // Transfers stall, so that each run leaves their share to those after it; eight of them go on at a time.
        let share = (total - had) / (MOMENTS + 1 - moment) / 3;
        fake.clear_faults();
        hold(&fake, &gate);
        fake.fault(Match::kind(Kind::BlobGet), FOREVER, Fault::Stall { after: share });
        fake.reset_log();
        let run = room.start(["sync", "--report", "report.json"]);
        assert!(until(|| bytes_in(&layout) >= had + share), "{}", run.stderr());
        assert!(run.kill(), "it was not killed, it had ended");
        continued += check_requests(&fake, &whole, &begun);
        let verified = room.larder(["verify", "store"]);
        assert_eq!(verified.code, 0, "moment {moment}: {}{}", verified.stdout, verified.stderr);
        let now: BTreeSet<String> = entries(&layout).into_keys().collect();
        assert!(now.is_superset(&named), "a name is gone");
        named = now;
    }
    // The moments were spread over the run, within transfers; whether a name is given between two of them is chance.
    assert!(continued >= 50, "{continued} {}", named.len());
    assert!(!room.path("report.json").exists());

    gate.open();
    fake.clear_faults();
    let (whole, begun) = (blobs(&layout), partials(&layout));
    fake.reset_log();
    room.sync(&[]).0.ended(0);
    check_requests(&fake, &whole, &begun);
    room.larder(["verify", "store"]).ended(0);
    assert_eq!(room.larder(["gc", "store"]).ended(0).stdout, "");
    assert_eq!(partials(&layout), BTreeMap::new());

    undisturbed.list(&images);
    undisturbed.sync(&[]).0.ended(0);
    assert_eq!(entries(&layout), entries(&undisturbed.path("store")));
    assert_eq!(blobs(&layout), blobs(&undisturbed.path("store")));
}

/// Small images: their blobs are synced and their names written in batches, and each kill meets some of both.
#[test]
fn small_images_that_are_written_in_batches_survive_kills() {
    const IMAGES: u64 = 240;
    const MOMENTS: usize = 8;
    let (fake, gate) = (Fake::with(Options { latency: Some(Duration::from_millis(1)), ..Options::default() }), Gate::closed());
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    let mut names: Vec<String> = (0..IMAGES).map(|number| format!("small/{}:v{number}", number % 7)).collect();
    for (number, name) in (1000..).zip(&names) {
        let (repository, tag) = name.rsplit_once(':').unwrap();
        corpus::simple(&fake, repository, tag, number);
    }
    corpus::simple(&fake, "gated", "v1", 8);
    names.push("gated:v1".to_owned());
    room.list(names.iter().map(|name| fake.image(name)));
    hold(&fake, &gate);

    let layout = room.path("store");
    let mut named = BTreeSet::new();
    for moment in 1..=MOMENTS {
        let (whole, begun) = (blobs(&layout), partials(&layout));
        fake.reset_log();
        let run = room.start(["sync"]);
        // At least two blobs an image: its manifest, and what no other image has.
        let enough = 2 * usize::try_from(IMAGES).unwrap() * moment / MOMENTS;
        assert!(until(|| blobs(&layout).len() >= enough), "{}", run.stderr());
        assert!(run.kill(), "it was not killed, it had ended");
        check_requests(&fake, &whole, &begun);
        room.larder(["verify", "store"]).ended(0);
        let now: BTreeSet<String> = entries(&layout).into_keys().collect();
        assert!(now.is_superset(&named), "a name is gone");
        named = now;
    }
    gate.open();
    let (whole, begun) = (blobs(&layout), partials(&layout));
    fake.clear_faults();
    fake.reset_log();
    room.sync(&[]).0.ended(0);
    check_requests(&fake, &whole, &begun);
    assert_eq!(entries(&layout).len(), names.len());
    room.larder(["verify", "store"]).ended(0);
    assert_eq!(room.larder(["gc", "store"]).ended(0).stdout, "");
    assert_eq!(partials(&layout), BTreeMap::new());
}

#[test]
fn a_registry_survives_kills_and_no_blob_that_it_has_is_read_again() {
    let (from, to, gate) = (Fake::start(), Fake::start(), Gate::closed());
    let room = Room::new();
    room.configure(&format!("registry = \"{}\"", to.addr()), &[(from.addr(), "m")]);
    room.list(stock(&from));
    hold(&from, &gate);
    let there = || -> BTreeSet<String> {
        let put = |request: &Request| request.kind == Kind::UploadPut && request.status == Some(201);
        to.requests().iter().filter(|request| put(request)).map(hex).collect()
    };
    for moment in [1, 4, 9, 15, 20] {
        let before = there();
        from.reset_log();
        let run = room.start(["sync"]);
        let done = |requests: &[Request]| requests.iter().filter(|r| r.kind == Kind::UploadPut && r.status == Some(201)).count();
        assert!(to.wait_until(PATIENCE, |requests| done(requests) >= moment), "{}", run.stderr());
        assert!(run.kill(), "it was not killed, it had ended");
        let again: Vec<String> = blob_gets(&from).iter().map(hex).filter(|hex| before.contains(hex)).collect();
        assert_eq!(again, [""; 0], "before moment {moment}");
        // Whatever has a tag by now is whole.
        for repository in to.repositories() {
            for tag in to.tags(&repository) {
                let digest = to.digest(&repository, &tag).unwrap();
                let (_, bytes) = to.manifest(&repository, digest.as_str()).unwrap();
                let manifest: Value = serde_json::from_slice(&bytes).unwrap();
                for blob in manifest["layers"].as_array().into_iter().flatten().chain(manifest.get("config")) {
                    assert!(to.has_blob(&repository, &Digest::parse(blob["digest"].as_str().unwrap()).unwrap()), "{repository}:{tag}");
                }
            }
        }
    }
    let before = there();
    gate.open();
    from.reset_log();
    let (ran, report) = room.sync(&[]);
    ran.ended(0);
    assert!(blob_gets(&from).iter().all(|request| !before.contains(&hex(request))));
    assert_eq!(report.total("copied") + report.total("current"), 18);
    for repository in from.repositories() {
        for tag in from.tags(&repository) {
            assert_eq!(to.digest(&format!("m/{repository}"), &tag), from.digest(&repository, &tag));
        }
    }
    assert!(room.sync(&[]).1.statuses().iter().all(|status| *status == "current"));
}

/// Found by kills at random: an import into a layout whose making was cut short failed for good.
#[test]
fn a_layout_whose_making_was_cut_short_is_made_by_the_next_run() {
    let (fake, room) = (Fake::start(), Room::new());
    corpus::simple(&fake, "app", "v1", 1);
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    room.list([fake.image("app:v1")]);
    room.larder(["export", "--to", "out", "--cache", "cache"]).ended(0);
    // An empty folder; and what a kill leaves before `oci-layout` is written.
    for (name, folders) in [("empty", &[""][..]), ("begun", &[".larder/partial"]), ("nearly", &[".larder/partial", "blobs/sha256"])] {
        for folder in folders {
            std::fs::create_dir_all(room.path(name).join(folder)).unwrap();
        }
        let target = format!("oci:{name}");
        room.larder(["plan", "--to", &target]).ended(0);
        room.larder(["import", "out", "--to", &target]).ended(0);
        room.larder(["verify", name]).ended(0);
    }
    // What is somebody else's is not written into.
    std::fs::create_dir(room.path("home")).unwrap();
    room.write("home/letter.txt", "dear");
    room.larder(["import", "out", "--to", "oci:home"]).ended(1);
    assert_eq!(files(&room.path("home")).into_keys().collect::<Vec<_>>(), ["letter.txt"]);
}

#[test]
fn two_processes_fill_one_layout_and_read_each_blob_once() {
    let (fake, gate) = (Fake::with(Options { latency: Some(Duration::from_millis(2)), ..Options::default() }), Gate::closed());
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    room.list(stock(&fake));
    hold(&fake, &gate);
    let runs = ["one", "two"].map(|state| room.start(["sync", "--state", state]));
    // Both are under way: the gated image's manifest is asked for by each.
    let asked =
        |requests: &[Request]| requests.iter().filter(|r| r.kind == Kind::ManifestGet && r.repository.as_deref() == Some("gated")).count();
    assert!(fake.wait_until(PATIENCE, |requests| asked(requests) == 2));
    gate.open();
    for run in runs {
        run.finish().ended(0);
    }
    room.larder(["verify", "store"]).ended(0);
    assert_eq!(entries(&room.path("store")).len(), 18);
    assert_eq!(partials(&room.path("store")), BTreeMap::new());
    let gets: Vec<String> = blob_gets(&fake).iter().map(hex).collect();
    assert_eq!(gets.iter().collect::<BTreeSet<_>>().len(), gets.len(), "a blob was read twice");
}

#[test]
fn gc_refuses_while_a_run_writes_and_the_run_goes_on() {
    let (fake, gate) = (Fake::start(), Gate::closed());
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    room.list(stock(&fake));
    hold(&fake, &gate);
    let mut run = room.start(["sync"]);
    // All but the gated image are there; its blobs have no name yet.
    assert!(until(|| entries(&room.path("store")).len() == 17), "{}", run.stderr());
    for gc in [&["gc", "store"][..], &["gc", "--dry-run", "store"]] {
        let refused = room.larder(gc).ended(1);
        assert!(refused.stderr.contains("another larder is writing to store") && refused.stdout.is_empty(), "{}", refused.stderr);
    }
    room.larder(["verify", "store"]).ended(0);
    assert!(run.is_running());
    gate.open();
    run.finish().ended(0);
    assert_eq!(room.larder(["gc", "store"]).ended(0).stdout, "");
    room.larder(["verify", "store"]).ended(0);
}
