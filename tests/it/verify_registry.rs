//! `larder verify` of a registry: what it asks, what it finds; and `--metrics`, which tells how a run ended.

use crate::support::corpus::{self, ImageSpec, corpus, foreign, image, index, multi, simple};
use crate::support::fake::{FOREVER, Fake, Fault, Kind, Match, Options};
use crate::support::layer::layer;
use crate::support::limited::{LONG, by_kind, limited};
use crate::support::program::{Program, Run};
use crate::support::real::{DockerRegistry, require};
use larder::content::{Descriptor, Digest};
use serde_json::Value;

/// What differs from run to run.
fn shown(run: &Run, target: &Fake) -> String {
    run.shown(&[(target, "[target]")])
}

/// A target that was filled from an upstream which is gone: `m/app:1`, `m/multi:v1` (two platforms), `m/twin:1` (the same image as
/// `m/app:1`).
fn filled() -> (Program, Fake) {
    let (mut upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    simple(&upstream, "app", "1", 1);
    simple(&upstream, "twin", "1", 1);
    multi(&upstream, "multi", "v1", 2, &["linux/amd64", "linux/arm64"]);
    program.list(["app:1", "twin:1", "multi:v1"].map(|name| upstream.image(name)));
    program.sync(&["list.txt", "--lock", "larder.lock"]).exits(0);
    upstream.stop();
    target.reset_log();
    (program, target)
}

fn verify(program: &Program, target: &Fake, more: &[&str]) -> Run {
    program.run(&[&["verify", &target.addr(), "--list", "list.txt"], more].concat())
}

/// The digests that an image's manifest names: config and layers.
fn pieces(target: &Fake, repository: &str, reference: &str) -> Vec<Digest> {
    let manifest: Value = serde_json::from_slice(&target.manifest(repository, reference).unwrap().1).unwrap();
    let config = std::iter::once(&manifest["config"]);
    let all = config.chain(manifest["layers"].as_array().unwrap());
    all.map(|piece| Digest::parse(piece["digest"].as_str().unwrap()).unwrap()).collect()
}

fn children(target: &Fake, repository: &str, reference: &str) -> Vec<Digest> {
    let manifest: Value = serde_json::from_slice(&target.manifest(repository, reference).unwrap().1).unwrap();
    manifest["manifests"].as_array().unwrap().iter().map(|child| Digest::parse(child["digest"].as_str().unwrap()).unwrap()).collect()
}

#[test]
fn a_whole_target_costs_a_head_a_name_and_each_piece_once() {
    let (program, target) = filled();
    let run = verify(&program, &target, &[]).exits(0);
    insta::assert_snapshot!(shown(&run, &target), @r"
    ---
    [target]: 3 images, 5 manifests, 11 blobs: 0 damaged, 0 missing, 0 moved, 0 unchecked
    exit 0
    ");
    // Blobs: three of each single image, and of the index's two images a layer they share, a layer and a config each.
    let counts = by_kind(&target);
    let expected = [(Kind::ManifestHead, 3), (Kind::ManifestGet, 5), (Kind::BlobHead, 11)];
    assert_eq!((counts.len(), expected.map(|(kind, _)| counts[&kind])), (3, expected.map(|(_, count)| count)), "{counts:?}");
}

#[test]
fn what_is_missing_is_named_with_its_images() {
    let (program, target) = filled();
    let shared = pieces(&target, "m/app", "1")[1].clone();
    let child = children(&target, "m/multi", "v1")[1].clone();
    target.delete_blob("m/app", &shared);
    target.delete_blob("m/twin", &shared);
    target.delete_manifest("m/multi", &child);
    target.tag("m/app", "2", &target.digest("m/app", "1").unwrap());
    target.untag("m/twin", "1");
    let names = ["app:1", "app:2", "twin:1"].map(|name| target.image(&format!("m/{name}")));
    let [one, two, gone] = &names;
    let lists = ["--image", one, "--image", two];
    let run = verify(&program, &target, &lists).exits(1);
    let mut lines: Vec<&str> = run.stdout.lines().collect();
    lines.sort_unstable();
    let mut expected = [
        format!("missing {shared} in m/app ({one}, {two}): this blob is not there"),
        format!("missing {child} in m/multi ({}): this manifest is not there", target.image("m/multi:v1")),
        format!("missing {gone}: the target has no such image"),
    ];
    expected.sort();
    assert_eq!(lines, expected);
    assert!(run.stderr.contains("4 images") && run.stderr.ends_with("0 damaged, 3 missing, 0 moved, 0 unchecked\n"), "{}", run.stderr);
}

#[test]
fn only_deep_reads_bytes_and_each_once() {
    let (program, target) = filled();
    let config = pieces(&target, "m/multi", children(&target, "m/multi", "v1")[0].as_str())[0].clone();
    let sizes: usize = {
        let mut all: Vec<Digest> = pieces(&target, "m/app", "1");
        all.extend(children(&target, "m/multi", "v1").iter().flat_map(|child| pieces(&target, "m/multi", child.as_str())));
        all.sort();
        all.dedup();
        all.iter().map(|digest| target.blob("m/app", digest).or_else(|| target.blob("m/multi", digest)).unwrap().len()).sum()
    };
    let run = verify(&program, &target, &["--deep"]).exits(0);
    assert_eq!(target.bytes_sent() as usize - manifests_sent(&target), sizes, "{}", run.stderr);
    // The twin's blobs are the same bytes: that they are in its repository, too, is asked.
    assert_eq!((target.count(Kind::BlobGet), target.count(Kind::BlobHead)), (8, 3));
    assert!(run.stderr.contains(" hashed: 0 damaged"), "{}", run.stderr);

    let mut turned = target.blob("m/multi", &config).unwrap().to_vec();
    turned[7] ^= 1;
    target.fault(Match::kind(Kind::BlobGet).reference(&config), FOREVER, Fault::WrongBody(turned.into()));
    verify(&program, &target, &[]).exits(0);
    let run = verify(&program, &target, &["--deep"]).exits(1);
    let line = format!("damaged {config} in m/multi ({}): target: check blob: ", target.image("m/multi:v1"));
    assert!(run.stdout.starts_with(&line) && run.stdout.lines().count() == 1, "{}", run.stdout);
}

/// Body bytes of manifests that the target has sent.
fn manifests_sent(target: &Fake) -> usize {
    let sent = target.requests().into_iter().filter(|request| request.kind == Kind::ManifestGet);
    sent.map(|request| usize::try_from(request.bytes_out).unwrap()).sum()
}

#[test]
fn a_wrong_size_or_manifest_is_damage() {
    let (program, target) = filled();
    let layer = pieces(&target, "m/app", "1")[2].clone();
    let short = Fault::Header { name: "content-length", value: Some("5".to_owned()) };
    target.fault(Match::kind(Kind::BlobHead).repository("m/app").reference(&layer), FOREVER, short);
    let manifest = target.digest("m/multi", "v1").unwrap();
    target.put_manifest_as("m/multi", &manifest, corpus::OCI_INDEX, "{}");
    let run = verify(&program, &target, &[]).exits(1);
    let mut found: Vec<String> = run.stdout.lines().map(|line| line.split(" (").next().unwrap().to_owned()).collect();
    found.sort();
    let mut expected = [format!("damaged {layer} in m/app"), format!("damaged {manifest} in m/multi")];
    expected.sort();
    assert_eq!(found, expected);
    assert!(run.stdout.contains("the target has 5 bytes, its descriptor says"), "{}", run.stdout);
}

#[test]
fn a_lock_says_which_digest_a_name_must_have() {
    let (program, target) = filled();
    let verify = || program.run(&["verify", &target.addr(), "--lock", "larder.lock"]);
    let run = verify().exits(0);
    assert!(run.stderr.contains("3 images"), "{}", run.stderr);
    let was = target.digest("m/app", "1").unwrap();
    let is = simple(&target, "m/app", "1", 77).digest;
    let run = verify().exits(1);
    assert_eq!(run.stdout, format!("moved {}: it is {is}, the lock says {was}\n", target.image("m/app:1")));
    program.run(&["verify", &target.addr(), "--list", "list.txt"]).exits(0);
    program.run(&["verify", &target.addr(), "--lock", "none.lock"]).exits(2);
    program.run(&["verify", &target.addr(), "--lock", "larder.lock", "--list", "list.txt"]).exits(2);
}

#[test]
fn selections_are_made_among_the_tags_that_the_target_has() {
    let (program, target) = filled();
    let one = target.digest("m/app", "1").unwrap();
    target.tag("m/app", "1.1", &one);
    target.tag("m/app", "2", &one);
    let source = |name: &str| target.image(&format!("m/{name}"));
    program.write("list.csv", format!("image,tags\n{},1*\n{},9*;8\n{},x*\n", source("app"), source("twin"), source("multi")));
    let run = program.run(&["verify", &target.addr(), "--list", "list.csv"]).exits(1);
    assert_eq!(run.stdout, format!("missing {}: the target has no such image\n", source("twin:8")));
    let none = "list.csv:4: target: select tags ";
    assert!(run.stderr.contains(none) && run.stderr.contains("of the 1 tags that"), "{}", run.stderr);
    assert!(run.stderr.contains("3 images, 1 manifest, 3 blobs: 0 damaged, 1 missing"), "{}", run.stderr);
}

#[test]
fn what_cannot_be_asked_is_told_as_such() {
    let (program, target) = filled();
    let layer = pieces(&target, "m/app", "1")[2].clone();
    let refused = Fault::Status { code: 403, headers: vec![], body: "".into() };
    target.fault(Match::kind(Kind::BlobHead).repository("m/app").reference(&layer), FOREVER, refused.clone());
    // A refused HEAD alone proves nothing: GET is asked too.
    target.fault(Match::kind(Kind::ManifestHead).repository("m/twin"), FOREVER, refused.clone());
    target.fault(Match::kind(Kind::ManifestGet).repository("m/twin"), FOREVER, refused);
    let run = verify(&program, &target, &[]).exits(1);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let starts = [
        format!("unchecked {layer} in m/app ({}): target: head blob ", target.image("m/app:1")),
        format!("unchecked {}: target: get manifest ", target.image("m/twin:1")),
    ];
    assert_eq!(lines.len(), 2, "{}", run.stdout);
    assert!(lines.iter().zip(&starts).all(|(line, start)| line.starts_with(start)), "{}", run.stdout);
    assert!(run.stderr.ends_with("0 damaged, 0 missing, 0 moved, 2 unchecked\n"), "{}", run.stderr);
}

#[test]
fn a_head_that_is_redirected_and_refused_does_not_make_a_blob_missing() {
    let (program, target) = filled();
    // As stores do whose signed addresses are good for GET only.
    let to = Fault::Redirect { code: 307, location: format!("http://localhost:{}/nothing", target.cdn_addr().port()) };
    target.fault(Match::kind(Kind::BlobHead).repository("m/app"), FOREVER, to);
    let run = verify(&program, &target, &[]).exits(0);
    assert_eq!(target.count(Kind::BlobGet), 3, "{}", run.stderr);
}

#[test]
fn what_is_not_delivered_is_not_missed() {
    let (upstream, target, program) = (Fake::start(), Fake::with(Options { check_children: false, ..Options::default() }), Program::new());
    let rule = |name: &str, more: &str| {
        format!("[[rule]]\nname = \"{name}\"\nsource = \"{}/{name}/*\"\ntarget = \"{name}/*\"\n{more}", upstream.addr())
    };
    let sparse = "platforms = [\"linux/amd64\"]\nindex = \"sparse\"\n";
    let rules = [rule("sparse", sparse), rule("foreign", "")].concat();
    program.write("larder.toml", format!("version = 1\n[target]\nregistry = \"{}\"\n{rules}", target.addr()));
    // What a sparse delivery leaves: the index, one of its children.
    let child = |put: &Fake, platform| image(put, "sparse/app", None, &ImageSpec::new([layer(7, 100)]).platform(platform));
    let (amd64, arm64): (Descriptor, Descriptor) = (child(&target, "linux/amd64"), child(&upstream, "linux/arm64"));
    index(&target, "sparse/app", Some("1"), &[amd64.clone(), arm64]);
    foreign(&target, "foreign/app", "1", "https://layers.example.com/base.tar.gz", &layer(8, 100));
    target.delete_blob("foreign/app", &Digest::sha256(&layer(8, 100)));
    program.list(["sparse/app:1", "foreign/app:1"].map(|name| upstream.image(name)));
    verify(&program, &target, &[]).exits(0);
    target.delete_manifest("sparse/app", &amd64.digest);
    let run = verify(&program, &target, &[]).exits(1);
    assert!(run.stdout.starts_with(&format!("missing {} in sparse/app", amd64.digest)), "{}", run.stdout);
}

#[test]
fn the_whole_corpus_is_proven() {
    let (upstream, target, program) = (Fake::start(), Fake::with(Options { check_children: false, ..Options::default() }), Program::new());
    program.configure(&target, &[&upstream]);
    let cases: Vec<_> = corpus(&upstream).into_iter().filter(|case| case.carried).collect();
    program.list(cases.iter().map(|case| upstream.image(&case.image())));
    program.sync_list().exits(0);
    for more in [&[] as &[&str], &["--deep"]] {
        let run = verify(&program, &target, more).exits(0);
        assert!(run.stderr.contains(&format!("{} images", cases.len())), "{}", run.stderr);
    }
}

#[test]
fn a_layout_is_hashed_and_compared_with_what_it_should_hold() {
    let (upstream, program) = (Fake::start(), Program::new());
    simple(&upstream, "app", "1", 1);
    let (one, two) = (upstream.image("app:1"), upstream.image("app:2"));
    program.run(&["sync", "--to", "oci:store", "--image", &one]).exits(0);
    program.run(&["verify", "store", "--image", &one]).exits(0);
    let run = program.run(&["verify", "oci:store", "--image", &two]).exits(1);
    assert_eq!(run.stdout, format!("missing {two}: the target has no such image\n"));
    program.run(&["verify", "oci:none"]).exits(2);
    let run = program.run(&["verify", "none"]).exits(2);
    assert!(run.stderr.contains("`none`: no such path, and not a target"), "{}", run.stderr);
    let run = program.run(&["verify", &upstream.addr()]).exits(2);
    assert!(run.stderr.contains("no list or lock says which images the registry should hold"), "{}", run.stderr);
}

#[test]
fn a_real_registry_that_lost_a_file_is_found_out() {
    if !require("docker-registry") {
        return;
    }
    let (upstream, program, target) = (Fake::start(), Program::new(), DockerRegistry::start().unwrap());
    let made = multi(&upstream, "multi", "v1", 2, &["linux/amd64", "linux/arm64"]);
    let name = upstream.image("multi:v1");
    program.run(&["sync", "--to", &target.addr(), "--unmatched", "mirror", "--image", &name]).exits(0);
    let verify = |more: &[&str]| program.run(&[&["verify", &target.addr(), "--image", &name], more].concat());
    verify(&["--deep"]).exits(0);
    let child: Digest = children(&upstream, "multi", made.digest.as_str())[1].clone();
    let layer = pieces(&upstream, "multi", child.as_str())[2].clone();
    let file = target.dir().join(format!("docker/registry/v2/blobs/sha256/{}/{}/data", &layer.encoded()[..2], layer.encoded()));
    let good = std::fs::read(&file).unwrap();
    let mut turned = good.clone();
    turned[20] ^= 1;
    std::fs::write(&file, turned).unwrap();
    verify(&[]).exits(0);
    assert!(verify(&["--deep"]).exits(1).stdout.starts_with(&format!("damaged {layer} in ")));
    std::fs::remove_file(&file).unwrap();
    let run = verify(&[]).exits(1);
    assert!(run.stdout.starts_with(&format!("missing {layer} in ")) && run.stdout.lines().count() == 1, "{}", run.stdout);
}

/// The value of a sample, by its name and labels.
fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn metrics_tell_of_the_last_run_and_the_last_success() {
    let (upstream, target, program) = (limited(10, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    simple(&upstream, "app", "1", 1);
    let account = format!("{{registry=\"{}\",account=\"anonymous\"}}", upstream.addr());
    let run = |code: i32, images: &[&str]| {
        program.list(images.iter().map(|name| upstream.image(name)));
        program.sync(&["list.txt", "--metrics", "larder.prom"]).exits(code);
        program.read("larder.prom")
    };
    let good = run(0, &["app:1"]);
    assert!(good.ends_with("# EOF\n"));
    for (name, value) in [
        ("larder_images{status=\"copied\"}", 1.0),
        ("larder_images{status=\"failed\"}", 0.0),
        ("larder_exit_status", 0.0),
        (&format!("larder_pulls_spent{account}"), 1.0),
        (&format!("larder_pulls_left{account}"), 9.0),
        (&format!("larder_pulls_limit{account}"), 10.0),
    ] {
        assert_eq!(sample(&good, name), Some(value), "{name}\n{good}");
    }
    assert!(sample(&good, "larder_read_bytes").unwrap() > 2000.0);
    let success = sample(&good, "larder_last_success_timestamp_seconds").unwrap();
    assert_eq!(Some(success), sample(&good, "larder_last_run_timestamp_seconds"));

    let bad = run(1, &["app:1", "app:none"]);
    assert_eq!((sample(&bad, "larder_exit_status"), sample(&bad, "larder_images{status=\"failed\"}")), (Some(1.0), Some(1.0)));
    assert_eq!(sample(&bad, "larder_last_success_timestamp_seconds"), Some(success));
    assert!(sample(&bad, "larder_last_run_timestamp_seconds").unwrap() > success);
    let again = run(0, &["app:1"]);
    assert!(sample(&again, "larder_last_success_timestamp_seconds").unwrap() > success);
    assert_eq!(
        (sample(&again, "larder_images{status=\"current\"}"), sample(&again, &format!("larder_pulls_spent{account}"))),
        (Some(1.0), Some(0.0))
    );

    let run = program.sync(&["list.txt", "--metrics", "no/such/folder.prom"]).exits(2);
    assert!(run.stderr.contains("no/such/folder.prom: its folder does not exist"), "{}", run.stderr);
}

#[test]
fn verify_alone_takes_the_target_of_the_configuration_with_its_prefix() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    simple(&upstream, "app", "1", 1);
    let rule = format!("[[rule]]\nname = \"r\"\nsource = \"{}/*\"\ntarget = \"m/*\"\n", upstream.addr());
    let configure = |target: &str| program.write("larder.toml", format!("version = 1\nlists = [\"list.txt\"]\n[target]\n{target}\n{rule}"));
    program.list([upstream.image("app:1")]);
    for repository in [format!("registry = \"{}\"\nrepository_prefix = \"mirror/here\"", target.addr()), "layout = \"store\"".to_owned()] {
        configure(&repository);
        program.sync(&["list.txt"]).exits(0);
        program.run(&["verify"]).exits(0);
    }
    std::fs::remove_file(program.path(&format!("store/blobs/sha256/{}", upstream.digest("app", "1").unwrap().encoded()))).unwrap();
    assert!(program.run(&["verify"]).exits(1).stdout.starts_with("missing sha256:"));
    configure(&format!("registry = \"{}\"\nrepository_prefix = \"mirror/here\"", target.addr()));
    target.untag("mirror/here/m/app", "1");
    let run = program.run(&["verify"]).exits(1);
    assert!(run.stdout.contains("mirror/here/m/app:1"), "{}", run.stdout);
    configure("layout = \"nowhere\"");
    assert!(program.run(&["verify"]).exits(2).stderr.contains("nowhere"));
}
