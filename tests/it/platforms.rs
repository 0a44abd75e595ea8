//! Some platforms of an image: what is chosen, what it costs, and what the target holds then.

use crate::support::corpus::{self, ImageSpec, image, index, multi, official};
use crate::support::fake::{Fake, Kind, Options};
use crate::support::layer::layer;
use crate::support::program::{Program, Run};
use crate::support::real::{DockerRegistry, skopeo_ok};
use bytes::Bytes;
use insta::assert_snapshot;
use larder::Side;
use larder::content::{Digest, Manifest, PlatformFilter, rewrite, source_of};
use serde_json::{Value, json};

const SEVEN: [&str; 7] = ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64/v8", "linux/ppc64le", "linux/riscv64", "linux/s390x"];

/// What `keys` add to the only rule, from `upstream` to `target` below `m/`. Referrers are not looked for: every request is counted here.
fn configure(program: &Program, target: &str, upstream: &Fake, keys: &str) {
    let rule = format!("[[rule]]\nname = \"u0\"\nsource = \"{}/*\"\ntarget = \"m/*\"\nreferrers = false\n", upstream.addr());
    program.write("larder.toml", format!("version = 1\n[target]\n{target}\n{rule}{keys}"));
}

/// An upstream, a target registry, and a program with such a rule between them and `app:v1` on its list.
fn world(keys: &str) -> (Fake, Fake, Program) {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    at_registry(&program, &target, &upstream, keys);
    program.list([upstream.image("app:v1")]);
    (upstream, target, program)
}

fn at_registry(program: &Program, target: &Fake, upstream: &Fake, keys: &str) {
    configure(program, &format!("registry = \"{}\"", target.addr()), upstream, keys);
}

fn filters(all: &[&str]) -> Vec<PlatformFilter> {
    all.iter().map(|text| PlatformFilter::parse(text).unwrap()).collect()
}

fn manifest(registry: &Fake, repository: &str, reference: &str) -> Manifest {
    let (media_type, bytes) = registry.manifest(repository, reference).unwrap();
    let digest = Digest::sha256(&bytes);
    Manifest::known(bytes, Some(&media_type), digest, Side::Local).unwrap()
}

/// What larder makes of the upstream's `app:v1`.
fn cut(upstream: &Fake, all: &[&str]) -> Manifest {
    rewrite(&manifest(upstream, "app", "v1"), &filters(all)).unwrap()
}

/// The only row, after a run in which nothing failed.
#[track_caller]
fn row(run: &Run, status: &str) -> Value {
    assert_eq!(run.images().len(), 1, "{}", run.stderr);
    assert_eq!(run.images()[0]["status"], status, "{}", run.stderr);
    run.images()[0].clone()
}

fn forget(program: &Program) {
    std::fs::remove_dir_all(program.path("home/state")).unwrap();
}

#[test]
fn two_of_seven_platforms_cost_an_index_and_two_pulls_and_attestations_only_where_there_are_any() {
    for (attested, pulls) in [(false, 3), (true, 5)] {
        let (upstream, target, program) = world("platforms = [\"linux/arm64\", \"linux/amd64\"]\n");
        let make = if attested { official } else { multi };
        let source = make(&upstream, "app", "v1", 1, &SEVEN);
        let run = program.sync_list().exits(0);
        let row = row(&run, "copied");
        assert_eq!((upstream.count(Kind::ManifestGet), &row["pulls"]), (pulls, &json!(pulls)));
        // The index, the children, and what they refer to: nothing of another platform is read.
        let made = cut(&upstream, &["linux/arm64", "linux/amd64"]);
        assert_eq!(manifest(&target, "m/app", "v1").bytes(), made.bytes());
        let children = &made.links().manifests;
        let blobs: std::collections::HashSet<Digest> = children
            .iter()
            .flat_map(|child| manifest(&upstream, "app", child.digest.as_str()).links().blobs.clone())
            .map(|blob| blob.digest)
            .collect();
        assert_eq!((children.len(), upstream.count(Kind::BlobGet)), (pulls - 1, blobs.len()));
        assert_eq!(upstream.requests().len(), 1 + pulls + blobs.len());
        assert_eq!(target.count(Kind::ManifestPut), pulls);

        assert_eq!((&row["digest"], &row["source_digest"]), (&json!(made.digest().clone()), &json!(source.digest)));
        assert_eq!(row["platforms"], json!(["linux/amd64", "linux/arm64/v8"]));
        assert_eq!(row["notes"], json!([]));
        assert_eq!(source_of(&made), Some(source.digest));
    }
}

#[test]
fn a_night_with_nothing_new_costs_no_pull_also_with_the_state_deleted_and_the_plan_says_so() {
    let (upstream, target, program) = world("platforms = [\"linux/amd64\", \"linux/arm/v7\"]\n");
    official(&upstream, "app", "v1", 1, &SEVEN);
    let first = program.sync_list().exits(0);
    for state_lost in [false, true] {
        upstream.reset_log();
        target.reset_log();
        if state_lost {
            forget(&program);
        }
        let again = row(&program.sync_list().exits(0), "current");
        assert_eq!((upstream.count(Kind::ManifestHead), upstream.requests().len()), (1, 1));
        assert_eq!((target.count(Kind::ManifestHead), target.count(Kind::ManifestGet)), (1, 1));
        // Without its memory, larder opens an upload and cancels it: the target might be a cache, which answers for its upstream.
        let looked = if state_lost { [1, 1] } else { [0, 0] };
        assert_eq!([Kind::UploadPost, Kind::UploadDelete].map(|kind| target.count(kind)), looked);
        assert_eq!(target.requests().len(), 2 + 2 * usize::from(state_lost));
        for same in ["digest", "source_digest", "platforms"] {
            assert_eq!(again[same], first.images()[0][same], "{same}");
        }
        let plan: Value = serde_json::from_str(&program.run(&["plan", "list.txt", "--format", "json"]).exits(0).stdout).unwrap();
        assert_eq!((&plan["images"][0]["state"], &plan["images"][0]["pulls"]), (&json!("current"), &Value::Null));
        assert_eq!((&plan["images"][0]["target_digest"], &plan["images"][0]["source_digest"]), (&again["digest"], &again["source_digest"]));
        assert_eq!(upstream.count(Kind::ManifestGet), 0);
    }
    // An upstream that moves is noticed, and only what is new is read.
    let unchanged = cut(&upstream, &["linux/amd64"]).links().manifests[0].clone();
    upstream.reset_log();
    let arm = image(&upstream, "app", None, &ImageSpec::new([layer(77, 500)]).platform("linux/arm/v7"));
    index(&upstream, "app", Some("v1"), &[unchanged, arm]);
    let moved = row(&program.sync_list().exits(0), "copied");
    assert_eq!((upstream.count(Kind::ManifestGet), &moved["pulls"]), (2, &json!(2)));
    assert_eq!(moved["digest"], moved["source_digest"], "nothing was left out of it");
}

#[test]
fn other_platforms_asked_for_are_another_index() {
    let (upstream, target, program) = world("platforms = [\"linux/amd64\"]\n");
    multi(&upstream, "app", "v1", 1, &SEVEN);
    program.sync_list().exits(0);
    for (platforms, pulls) in [
        (&["linux/amd64", "linux/s390x"] as &[&str], 2),
        (&["linux/s390x"], 1),
        // More than one may match: the source must be asked, and is kept for the next night.
        (&["linux/arm"], 3),
        (&["linux/arm", "linux/arm/v5"], 0),
        (&["linux/arm/v7"], 0),
        (&[], 1 + 3),
    ] {
        at_registry(&program, &target, &upstream, &format!("platforms = {platforms:?}\n"));
        upstream.reset_log();
        let plan = program.run(&["plan", "list.txt"]).exits(0);
        let run = program.sync_list().exits(0);
        let expected = cut(&upstream, platforms);
        assert_eq!(target.digest("m/app", "v1").unwrap(), expected.digest().clone(), "{platforms:?}");
        assert_eq!(upstream.count(Kind::ManifestGet), pulls, "{platforms:?}");
        let changed = platforms != ["linux/arm", "linux/arm/v5"];
        assert_eq!(plan.stdout.starts_with("moved "), changed, "{platforms:?}: {}", plan.stdout);
        row(&run, if changed { "copied" } else { "current" });
        upstream.reset_log();
        row(&program.sync_list().exits(0), "current");
        assert_eq!((upstream.count(Kind::ManifestHead), upstream.requests().len()), (1, 1), "{platforms:?}");
    }
}

#[test]
fn a_whole_index_at_the_target_is_cut_without_a_pull_when_platforms_are_asked_for() {
    let (upstream, target, program) = world("");
    multi(&upstream, "app", "v1", 1, &SEVEN);
    program.sync_list().exits(0);
    upstream.reset_log();
    let run = program.sync(&["list.txt", "--platform", "linux/s390x", "--platform", "linux/arm"]).exits(0);
    let row = row(&run, "copied");
    assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet), &row["pulls"]), (0, 0, &json!(0)));
    assert_eq!(row["platforms"], json!(["linux/arm/v5", "linux/arm/v7", "linux/s390x"]));
    assert_eq!(manifest(&target, "m/app", "v1").bytes(), cut(&upstream, &["linux/s390x", "linux/arm"]).bytes());
}

#[test]
fn the_list_chooses_for_its_lines() {
    let (upstream, target, program) = world("platforms = [\"linux/amd64\"]\n");
    multi(&upstream, "app", "v1", 1, &SEVEN);
    upstream.tag("app", "v2", &upstream.digest("app", "v1").unwrap());
    let app = upstream.image("app");
    program.write("list.csv", format!("image,platforms\n{app}:v1,linux/s390x;linux/riscv64\n{app}:v2,\n"));
    let run = program.sync(&["list.csv", "--failed", "failed.csv"]).exits(0);
    assert_eq!(run.images()[0]["platforms"], json!(["linux/riscv64", "linux/s390x"]));
    assert_eq!(run.images()[1]["platforms"], json!(["linux/amd64"]));
    assert_eq!(upstream.count(Kind::ManifestGet), 4, "one index and three children");
    assert_eq!(manifest(&target, "m/app", "v1").bytes(), cut(&upstream, &["linux/riscv64", "linux/s390x"]).bytes());
}

#[test]
fn what_is_missing_is_a_note_or_a_failure_and_what_has_none_of_it_fails() {
    let (upstream, target, program) = world("platforms = [\"linux/amd64\", \"windows/amd64\"]\n");
    multi(&upstream, "app", "v1", 1, &["linux/amd64", "linux/s390x"]);
    let note = json!(["it has no windows/amd64, only linux/amd64, linux/s390x"]);
    let run = program.sync_list().exits(0);
    assert_eq!(row(&run, "copied")["notes"], note);
    let delivered = target.digest("m/app", "v1").unwrap();
    // Whether windows was not there or not asked for, only the source can tell: it is kept, and without it asked once more.
    for (state_lost, pulls) in [(false, 0), (true, 1), (false, 0)] {
        if state_lost {
            forget(&program);
        }
        upstream.reset_log();
        target.reset_log();
        assert_eq!(row(&program.sync_list().exits(0), "current")["notes"], note);
        assert_eq!((upstream.count(Kind::ManifestGet), target.count(Kind::ManifestPut)), (pulls, 0));
    }

    let failing = [
        ("platforms = [\"linux/amd64\", \"windows/amd64\"]\nplatforms_required = true\n", 0),
        ("platforms = [\"linux/arm64\", \"linux/arm\"]\n", 0),
    ];
    let mut said = String::new();
    for (keys, pulls) in failing {
        at_registry(&program, &target, &upstream, keys);
        upstream.reset_log();
        let run = program.sync_list().exits(1);
        assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet)), (pulls, 0));
        assert_eq!(run.error()["side"], "upstream");
        said += &run.stderr.lines().next().unwrap().replace(&upstream.addr(), "UPSTREAM");
        said += "\n";
    }
    assert_eq!(target.digest("m/app", "v1").unwrap(), delivered);
    assert_snapshot!(said, @r"
    error: list.txt:1: upstream: choose platforms UPSTREAM/app:v1: it has no windows/amd64, only linux/amd64, linux/s390x (`platforms_required` is set for its rule)
    error: list.txt:1: upstream: choose platforms UPSTREAM/app:v1: it is for none of the platforms asked for (linux/arm64, linux/arm): it has linux/amd64, linux/s390x (change `platforms` of the rule or the line)
    ");
}

#[test]
fn a_single_image_is_checked_by_its_config_which_is_read_once() {
    let (upstream, target, program) = world("platforms = [\"linux/arm64\", \"linux/amd64\"]\n");
    for (repository, platform) in [("app", "linux/amd64"), ("other", "linux/s390x")] {
        image(&upstream, repository, Some("v1"), &ImageSpec::new([layer(1, 500)]).platform(platform));
    }
    program.list(["app:v1", "other:v1"].map(|name| upstream.image(name)));
    let run = program.sync_list().exits(1);
    let rows = run.images();
    assert_eq!((&rows[0]["status"], &rows[0]["platforms"]), (&json!("copied"), &json!(["linux/amd64"])));
    assert_eq!(rows[0]["notes"], json!(["it has no linux/arm64, only linux/amd64"]));
    let message = "it is for none of the platforms asked for (linux/arm64, linux/amd64): it has linux/s390x (change `platforms` of the rule or the line)";
    assert_eq!((&rows[1]["error"]["side"], rows[1]["error"]["message"].as_str()), (&json!("upstream"), Some(message)));
    assert_eq!(upstream.count(Kind::BlobGet), 3, "two configs and a layer");
    assert!(target.tags("m/other").is_empty() && !target.repositories().contains(&"m/other".to_owned()));
    upstream.reset_log();
    let again = program.sync_list().exits(1);
    assert_eq!((&again.images()[0]["status"], upstream.count(Kind::ManifestGet)), (&json!("current"), 0), "what was read of it is kept");
}

#[test]
fn what_is_no_image_to_run_passes_whole() {
    let (upstream, target, program) = world("platforms = [\"linux/s390x\"]\n");
    let cases: Vec<corpus::Case> = corpus::corpus(&upstream)
        .into_iter()
        .filter(|case| ["artifact", "helm-chart", "odd-index", "sha512-child", "unknown-media-type", "inline-child"].contains(&case.name))
        .collect();
    assert_eq!(cases.len(), 6);
    program.list(cases.iter().map(|case| upstream.image(&case.image())));
    let run = program.sync_list().exits(0);
    assert_eq!(run.total("copied"), 6);
    for case in &cases {
        let there = target.manifest(&format!("m/{}", case.repository), "v1");
        assert_eq!(there, upstream.manifest(&case.repository, "v1"), "{}", case.name);
    }
    assert_eq!(program.sync_list().exits(0).total("current"), 6);
}

#[test]
fn a_nested_index_is_kept_whole_where_it_says_no_platform() {
    let (upstream, target, program) = world("platforms = [\"linux/amd64\"]\n");
    let inner = multi(&upstream, "app", "inner", 1, &["linux/amd64", "linux/arm64"]);
    let riscv = image(&upstream, "app", None, &ImageSpec::new([layer(9, 80)]).platform("linux/riscv64"));
    index(&upstream, "app", Some("v1"), &[inner.clone(), riscv]);
    let run = program.sync_list().exits(0);
    assert_eq!((&row(&run, "copied")["platforms"], upstream.count(Kind::ManifestGet)), (&json!(["linux/amd64", "linux/arm64"]), 4));
    assert_eq!(manifest(&target, "m/app", "v1").links().manifests, [inner]);
    upstream.reset_log();
    row(&program.sync_list().exits(0), "current");
    assert_eq!(upstream.count(Kind::ManifestGet), 0);
    at_registry(&program, &target, &upstream, "platforms = [\"linux/s390x\"]\n");
    let error = program.sync_list().exits(1).error()["message"].as_str().unwrap().to_owned();
    assert!(error.contains("it has linux/riscv64, linux/amd64, linux/arm64"), "{error}");
}

#[test]
fn an_immutable_tag_that_was_cut_costs_the_upstream_nothing() {
    let (upstream, _target, program) = world("platforms = [\"linux/amd64\"]\nimmutable_tags = [\"v*\"]\n");
    multi(&upstream, "app", "v1", 1, &SEVEN);
    program.sync_list().exits(0);
    upstream.reset_log();
    row(&program.sync_list().exits(0), "current");
    assert_eq!(upstream.requests().len(), 0);
    let rechecked = program.sync(&["list.txt", "--recheck"]).exits(0);
    assert_eq!(row(&rechecked, "current")["notes"], json!([]), "the upstream has not moved it");
}

#[test]
fn a_plan_counts_only_what_is_asked_for() {
    let (upstream, _target, program) = world("platforms = [\"linux/amd64\", \"linux/s390x\"]\n");
    official(&upstream, "app", "v1", 1, &SEVEN);
    let pulls = |run: &Run| {
        let plan: Value = serde_json::from_str(&run.stdout).unwrap();
        (plan["images"][0]["pulls"].as_u64().unwrap(), plan["images"][0]["pulls_exact"].as_bool().unwrap())
    };
    let plan = || program.run(&["plan", "list.txt", "--format", "json"]).exits(0);
    assert_eq!(pulls(&plan()), (5, false));
    // Once the index is known (here: a layer could not be read, so that everything else was), the number is exact.
    let child = cut(&upstream, &["linux/s390x"]).links().manifests[0].clone();
    let layer = manifest(&upstream, "app", child.digest.as_str()).links().blobs[1].clone();
    let content = upstream.blob("app", &layer.digest).unwrap();
    upstream.delete_blob("app", &layer.digest);
    program.sync_list().exits(1);
    assert_eq!(pulls(&plan()), (0, true));
    upstream.put_blob("app", content);
    upstream.reset_log();
    row(&program.sync_list().exits(0), "copied");
    assert_eq!(upstream.count(Kind::ManifestGet), 0);
}

/// Reads one platform of an image out of where skopeo finds it, with every digest checked.
fn skopeo_takes(from: &str, architecture: &str) -> Option<Value> {
    let to = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:x", to.path().join("copy").display());
    let options = ["--override-os", "linux", "--override-arch", architecture];
    skopeo_ok([&options[..], &["copy", "--src-tls-verify=false", from, &to]].concat())?;
    Some(serde_json::from_str(&skopeo_ok(["inspect", "--config", &to])?).unwrap())
}

#[tokio::test]
async fn a_real_registry_takes_a_cut_index_and_other_tools_read_it() {
    let Some(registry) = DockerRegistry::start() else { return };
    let (upstream, program) = (Fake::start(), Program::new());
    let at = format!("registry = \"{}\"", registry.addr());
    configure(&program, &at, &upstream, "platforms = [\"linux/amd64\", \"linux/s390x\"]\n");
    official(&upstream, "app", "v1", 1, &SEVEN);
    docker_list(&upstream);
    program.list(["app:v1", "list:v1"].map(|name| upstream.image(name)));
    let run = program.sync_list().exits(0);
    assert_eq!(run.total("copied"), 2);
    for (name, media_type) in [("app", corpus::OCI_INDEX), ("list", corpus::DOCKER_LIST)] {
        let made = rewrite(&manifest(&upstream, name, "v1"), &filters(&["linux/amd64", "linux/s390x"])).unwrap();
        let image = format!("{}/m/{name}:v1", registry.addr());
        let _ = crate::support::push::client();
        let config = oci_client::client::ClientConfig { protocol: oci_client::client::ClientProtocol::Http, ..Default::default() };
        let client = oci_client::Client::try_from(config).unwrap();
        let reference = image.parse().unwrap();
        let pulled = client.pull_manifest_raw(&reference, &oci_client::secrets::RegistryAuth::Anonymous, &[media_type]).await.unwrap();
        assert_eq!((pulled.0, pulled.1.as_str()), (made.bytes().clone(), made.digest().as_str()));
        for architecture in ["amd64", "s390x"] {
            let Some(config) = skopeo_takes(&format!("docker://{image}"), architecture) else { continue };
            assert_eq!(config["architecture"], architecture);
        }
    }
    upstream.reset_log();
    assert_eq!(program.sync_list().exits(0).total("current"), 2);
    assert_eq!(upstream.count(Kind::ManifestGet), 0);

    // It takes no sparse ones, and larder says what would help.
    configure(&program, &at, &upstream, SPARSE);
    let refused = program.sync_list().exits(1);
    for row in refused.with_status("failed") {
        assert!(row["error"]["message"].as_str().unwrap().contains("set index = \"rewrite\""), "{row}");
    }
    assert_eq!(refused.total("failed"), 2);
}

/// `list:v1`: what Docker wrote before OCI.
fn docker_list(upstream: &Fake) {
    let child = |seed, platform| image(upstream, "list", None, &ImageSpec::new([layer(seed, 500)]).platform(platform).docker());
    let children = [child(1, "linux/amd64"), child(2, "linux/arm64"), child(3, "linux/s390x")];
    corpus::docker_list(upstream, "list", Some("v1"), &children);
}

#[test]
fn the_newest_images_are_told_by_their_cut_indexes_without_a_pull() {
    let (upstream, _target, program) = world("platforms = [\"linux/amd64\"]\n");
    for (seed, tag) in ["a", "b", "c"].into_iter().enumerate() {
        multi(&upstream, "app", tag, seed as u64 + 1, &SEVEN);
    }
    program.write("list.csv", format!("image,tags\n{},newest:3\n", upstream.image("app")));
    program.sync(&["list.csv"]).exits(0);
    forget(&program);
    upstream.reset_log();
    assert_eq!(program.sync(&["list.csv"]).exits(0).total("current"), 3);
    assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet)), (0, 0));
}

const SPARSE: &str = "platforms = [\"linux/amd64\"]\nindex = \"sparse\"\n";

#[test]
fn a_sparse_layout_is_verified_read_and_cleaned_as_what_it_is() {
    let (upstream, program) = (Fake::start(), Program::new());
    let at_layout = |keys: &str| configure(&program, "layout = \"store\"", &upstream, keys);
    at_layout(SPARSE);
    program.list([upstream.image("app:v1")]);
    let source = official(&upstream, "app", "v1", 1, &SEVEN);
    let copied = row(&program.sync_list().exits(0), "copied");
    assert_eq!((&copied["digest"], &copied["source_digest"]), (&json!(source.digest), &json!(source.digest)));
    assert_eq!((&copied["platforms"], &copied["pulls"]), (&json!(["linux/amd64"]), &json!(3)));
    let entry = || serde_json::from_str::<Value>(&program.read("store/index.json")).unwrap()["manifests"][0].clone();
    assert_eq!(entry()["annotations"]["dev.larder.platforms"], "linux/amd64");
    let verified = program.run(&["verify", "store"]).exits(0);
    assert!(
        verified.stderr.contains("1 name, 3 manifests,") && verified.stderr.contains("0 damaged, 0 missing, 0 unreferenced"),
        "{}",
        verified.stderr
    );
    for state_lost in [false, true] {
        if state_lost {
            forget(&program);
        }
        upstream.reset_log();
        assert_eq!(row(&program.sync_list().exits(0), "current")["platforms"], json!(["linux/amd64"]));
        assert_eq!((upstream.count(Kind::ManifestHead), upstream.requests().len()), (1, 1));
    }

    let from = format!("oci:{}:m/app:v1", program.path("store").display());
    if let Some(config) = skopeo_takes(&from, "amd64") {
        assert_eq!(config["architecture"], "amd64");
    }

    // Another platform, then all: only what is new is read, and the entry says what is there.
    for (keys, pulls, says) in [
        ("platforms = [\"linux/amd64\", \"linux/s390x\"]\nindex = \"sparse\"\n", 2, json!("linux/amd64,linux/s390x")),
        ("", 10, Value::Null),
        (SPARSE, 0, Value::Null),
    ] {
        at_layout(keys);
        upstream.reset_log();
        program.sync_list().exits(0);
        assert_eq!(upstream.count(Kind::ManifestGet), pulls, "{keys}");
        assert_eq!(entry()["annotations"].get("dev.larder.platforms").cloned().unwrap_or_default(), says, "{keys}");
        program.run(&["verify", "store"]).exits(0);
        assert!(program.run(&["gc", "store"]).exits(0).stdout.is_empty());
    }

    // A child that is lost is fetched; one that was never asked for is not.
    let child = cut(&upstream, &["linux/amd64"]).links().manifests[0].clone();
    std::fs::remove_file(program.path(&format!("store/blobs/sha256/{}", child.digest.encoded()))).unwrap();
    assert!(program.run(&["verify", "store"]).exits(1).stdout.contains(child.digest.as_str()));
    upstream.reset_log();
    row(&program.sync_list().exits(0), "copied");
    assert_eq!(upstream.count(Kind::ManifestGet), 1);
    program.run(&["verify", "store"]).exits(0);
}

#[test]
fn what_was_chosen_is_exported_and_verified_as_what_it_is() {
    let (upstream, program) = (Fake::start(), Program::new());
    official(&upstream, "app", "v1", 1, &SEVEN);
    program.list([upstream.image("app:v1")]);
    for (number, keys) in [SPARSE, "platforms = [\"linux/amd64\"]\n"].into_iter().enumerate() {
        let to = format!("bundle{number}");
        configure(&program, "layout = \"store\"", &upstream, keys);
        program.run(&["export", "list.txt", "--to", &to]).exits(0);
        let verified = program.run(&["verify", &to]).exits(0);
        assert!(verified.stdout.is_empty(), "{}", verified.stdout);
        let record = std::fs::read_dir(program.path(&to)).unwrap().map(|entry| entry.unwrap().path());
        let record = record.into_iter().find(|path| path.to_string_lossy().ends_with(".bundle.json")).unwrap();
        let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        assert_eq!(record["images"][0]["platforms"], json!(["linux/amd64"]));
        let says = record["index"]["manifests"][0]["annotations"].get("dev.larder.platforms").cloned();
        assert_eq!(says, (number == 0).then(|| json!("linux/amd64")));
    }
}

#[test]
fn a_registry_is_verified_for_the_platforms_that_are_asked_for() {
    let (upstream, target, program) = (Fake::start(), Fake::with(Options { check_children: false, ..Options::default() }), Program::new());
    official(&upstream, "app", "v1", 1, &SEVEN);
    program.list([upstream.image("app:v1")]);
    for keys in [SPARSE, "platforms = [\"linux/amd64\"]\n"] {
        at_registry(&program, &target, &upstream, keys);
        program.sync_list().exits(0);
        let verify = || program.run(&["verify", &target.addr(), "--list", "list.txt"]);
        verify().exits(0);
        // The platform's attestation is part of it.
        let attestation = cut(&upstream, &["linux/amd64"]).links().manifests[1].clone();
        target.delete_manifest("m/app", &attestation.digest);
        assert!(verify().exits(1).stdout.contains(attestation.digest.as_str()));
        program.sync(&["list.txt", "--recheck"]).exits(0);
        verify().exits(0);
    }
}

#[test]
fn a_lock_delivers_the_same_cut_again_whatever_the_upstream_has_now() {
    for keys in ["platforms = [\"linux/amd64\", \"linux/arm/v7\"]\n", SPARSE, "platforms = [\"linux/amd64\"]\nimmutable_tags = [\"v*\"]\n"]
    {
        let (upstream, program) = (Fake::start(), Program::new());
        let target = Fake::with(Options { check_children: false, ..Options::default() });
        at_registry(&program, &target, &upstream, keys);
        program.list([upstream.image("app:v1")]);
        let source = official(&upstream, "app", "v1", 1, &SEVEN);
        program.sync_list().exits(0);
        let delivered = target.digest("m/app", "v1").unwrap();
        program.sync(&["list.txt", "--lock", "images.lock"]).exits(0);
        let lock: Value = serde_json::from_str(&program.read("images.lock")).unwrap();
        assert_eq!(
            (&lock["images"][0]["digest"], &lock["images"][0]["source_digest"]),
            (&json!(delivered), &json!(source.digest)),
            "{keys}"
        );

        official(&upstream, "app", "v1", 2, &SEVEN);
        let again = Fake::with(Options { check_children: false, ..Options::default() });
        at_registry(&program, &again, &upstream, keys);
        upstream.reset_log();
        row(&program.sync(&["--lock", "images.lock", "--frozen"]).exits(0), "copied");
        assert_eq!(again.digest("m/app", "v1"), Some(delivered), "{keys}");
        assert_eq!(upstream.count(Kind::ManifestHead), 0);
    }
}

#[test]
fn a_registry_that_takes_sparse_indexes_is_asked_for_the_children_by_head() {
    let (upstream, target, program) = (Fake::start(), Fake::with(Options { check_children: false, ..Options::default() }), Program::new());
    at_registry(&program, &target, &upstream, SPARSE);
    program.list([upstream.image("app:v1")]);
    let source = official(&upstream, "app", "v1", 1, &SEVEN);
    let copied = row(&program.sync_list().exits(0), "copied");
    assert_eq!(
        (&copied["digest"], &copied["pulls"], target.digest("m/app", "v1")),
        (&json!(source.digest), &json!(3), Some(source.digest.clone()))
    );
    for state_lost in [false, true] {
        if state_lost {
            forget(&program);
        }
        upstream.reset_log();
        target.reset_log();
        row(&program.sync_list().exits(0), "current");
        assert_eq!(upstream.requests().len(), 1);
        // And, without its memory, an upload that is opened and cancelled.
        let looked = 2 * usize::from(state_lost);
        assert_eq!((target.count(Kind::ManifestHead), target.count(Kind::ManifestGet), target.requests().len()), (3, 1, 4 + looked));
    }
    // A child that the target has lost is missed; another platform is fetched, and nothing else.
    let child = cut(&upstream, &["linux/amd64"]).links().manifests[0].clone();
    target.delete_manifest("m/app", &child.digest);
    upstream.reset_log();
    assert!(program.run(&["plan", "list.txt"]).exits(0).stderr.contains(" 1 pull for 1 image;"));
    assert_eq!(row(&program.sync_list().exits(0), "copied")["pulls"], 1);
    assert!(target.manifest("m/app", child.digest.as_str()).is_some());
    at_registry(&program, &target, &upstream, "platforms = [\"linux/amd64\", \"linux/s390x\"]\nindex = \"sparse\"\n");
    assert_eq!(row(&program.sync_list().exits(0), "copied")["pulls"], 2);
}

#[test]
fn a_sparse_index_is_not_taken_for_a_whole_one_within_a_run() {
    let (upstream, target, program) = (Fake::start(), Fake::with(Options { check_children: false, ..Options::default() }), Program::new());
    at_registry(&program, &target, &upstream, "index = \"sparse\"\n");
    let source = multi(&upstream, "app", "v1", 1, &SEVEN);
    upstream.tag("app", "whole", &source.digest);
    let app = upstream.image("app");
    program.write("list.csv", format!("image,platforms,priority\n{app}:v1,linux/amd64,5\n{app}:whole,,\n"));
    let run = program.sync(&["list.csv", "--concurrency", "1"]).exits(0);
    assert_eq!(run.total("copied"), 2);
    for child in &manifest(&upstream, "app", "v1").links().manifests {
        assert!(target.manifest("m/app", child.digest.as_str()).is_some(), "{:?}", child.platform);
    }
}

#[test]
fn a_registry_that_refuses_sparse_indexes_is_told_from_one_that_lost_something() {
    let (upstream, target, program) = world(SPARSE);
    multi(&upstream, "app", "v1", 1, &SEVEN);
    let run = program.sync_list().exits(1);
    assert_eq!(upstream.count(Kind::BlobGet), 3, "nothing is read twice for it");
    assert_eq!((&run.error()["side"], &run.error()["code"]), (&json!("target"), &json!("MANIFEST_BLOB_UNKNOWN")));
    assert!(target.tags("m/app").is_empty());
    let said = run.stderr.lines().next().unwrap().replace(&upstream.addr(), "UPSTREAM").replace(&target.addr(), "TARGET");
    let (before, after) = (said.find("sha256:").unwrap(), said.find(" (it takes").unwrap());
    assert_snapshot!(format!("{}DIGEST{}", &said[..before], &said[after..]), @r#"error: list.txt:1: target TARGET: put manifest UPSTREAM/app:v1: 404 MANIFEST_BLOB_UNKNOWN blob unknown to registry: DIGEST (it takes no index without all of its platforms: set index = "rewrite" for the rule; where it is distribution's own registry, `validation.manifests.indexes.platforms: none` (or `list`) in its configuration lets it take one)"#);
}

#[test]
fn foreign_layers_are_fetched_where_the_rule_says_so() {
    let (upstream, vendor, target, program) = (Fake::start(), Fake::start(), Fake::start(), Program::new());
    let content = layer(18, 30_000);
    let digest = vendor.put_blob("base", content.clone());
    let url = format!("{}/v2/base/blobs/{digest}", vendor.url());
    corpus::foreign(&upstream, "app", "v1", &url, &content);
    at_registry(&program, &target, &upstream, "");
    program.list([upstream.image("app:v1")]);
    let skipped = row(&program.sync_list().exits(0), "copied");
    assert!(skipped["notes"][0].as_str().unwrap().contains("is not copied") && vendor.requests().is_empty());

    at_registry(&program, &target, &upstream, "foreign_layers = \"fetch\"\n");
    row(&program.sync_list().exits(0), "current");
    let fetched = row(&program.sync(&["list.txt", "--recheck"]).exits(0), "copied");
    assert_eq!((&fetched["notes"], target.blob("m/app", &digest)), (&json!([]), Some(content.clone())));
    assert!(vendor.requests().iter().all(|request| !request.authorized()) && vendor.requests().len() == 1);
    assert_eq!(manifest(&target, "m/app", "v1").bytes(), manifest(&upstream, "app", "v1").bytes());

    // Into a layout at once, where it may be missing, and is checked where it is not.
    configure(&program, "layout = \"store\"", &upstream, "foreign_layers = \"fetch\"\n");
    let stored = row(&program.sync_list().exits(0), "copied");
    assert!(stored["bytes"].as_u64().unwrap() > 30_000);
    let path = program.path(&format!("store/blobs/sha256/{}", digest.encoded()));
    assert_eq!(std::fs::read(&path).unwrap(), content);
    program.run(&["verify", "store"]).exits(0);
    std::fs::remove_file(&path).unwrap();
    program.run(&["verify", "store"]).exits(0);
    row(&program.sync_list().exits(0), "current");
    row(&program.sync(&["list.txt", "--recheck"]).exits(0), "copied");
    assert!(path.exists());

    // What is nowhere fails, and says where it was looked for.
    vendor.delete_blob("base", &digest);
    std::fs::remove_file(&path).unwrap();
    let error = program.sync(&["list.txt", "--recheck"]).exits(1).error()["message"].as_str().unwrap().to_owned();
    assert!(error.contains("could not download foreign layer") && error.contains(&url), "{error}");
}

#[test]
fn what_stands_inside_a_manifest_is_not_asked_for() {
    let (upstream, target, program) = world("");
    let spec = ImageSpec { inline_config: true, ..ImageSpec::new([layer(1, 500)]) };
    let child = image(&upstream, "app", None, &spec);
    let (_, bytes) = upstream.manifest("app", child.digest.as_str()).unwrap();
    let mut inline = json!(child);
    inline["data"] = corpus::base64(&bytes).into();
    // Data that is not what its digest says is as if it were not there.
    let other = image(&upstream, "app", None, &ImageSpec::new([layer(2, 500)]).platform("linux/arm64"));
    let mut wrong = json!(other);
    wrong["data"] = "e30=".into();
    let value = json!({"schemaVersion": 2, "mediaType": corpus::OCI_INDEX, "manifests": [inline, wrong]});
    upstream.put_manifest("app", Some("v1"), corpus::OCI_INDEX, Bytes::from(value.to_string()));
    let copied = row(&program.sync_list().exits(0), "copied");
    assert_eq!((upstream.count(Kind::ManifestGet), &copied["pulls"]), (2, &json!(2)), "the index, and the child that is not inside");
    assert_eq!(upstream.count(Kind::BlobGet), 3, "two layers, and the config that is not inside");
    assert_eq!(target.manifest("m/app", child.digest.as_str()).unwrap().1, bytes);
    assert_eq!(target.digest("m/app", "v1"), upstream.digest("app", "v1"));
}
