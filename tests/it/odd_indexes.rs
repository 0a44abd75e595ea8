//! Indexes that do not list what one expects: layers (a build cache), what their own registry does not have, and images that are not
//! carried at all.

use crate::support::corpus::{
    DOCKER_IMAGE, DOCKER_SCHEMA1, ImageSpec, OCI_INDEX, OCI_LAYER, artifact, blob, image, index, manifest, multi, simple,
};
use crate::support::fake::{FOREVER, Fake, Fault, Kind, Match, Options, reply, with};
use crate::support::layer::layer;
use crate::support::program::{Program, Run, configuration};
use larder::content::Descriptor;
use serde_json::json;

fn notes(run: &Run) -> Vec<String> {
    run.images()[0]["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()).collect()
}

/// A target, in words: where to, and what stands for it in `larder.toml`.
fn to(program: &Program, upstream: &Fake, target: Option<&Fake>) {
    match target {
        Some(target) => program.configure(target, &[upstream]),
        None => {
            let rule = format!("[[rule]]\nname = \"u\"\nsource = \"{}/*\"\ntarget = \"m/*\"\nreferrers = false\n", upstream.addr());
            program.write("larder.toml", format!("version = 1\n[target]\nlayout = \"store\"\n{rule}"));
        }
    }
}

/// Puts a cache as BuildKit writes it without `image-manifest=true`: an index of layers, and of a config of its own.
fn build_cache(upstream: &Fake) -> Descriptor {
    let layers: Vec<Descriptor> = (1..4).map(|seed| blob(upstream, "cache", OCI_LAYER, layer(seed, 300))).collect();
    let config = blob(upstream, "cache", "application/vnd.buildkit.cacheconfig.v0", r#"{"layers":[],"records":[]}"#);
    let listed: Vec<Descriptor> = layers.into_iter().chain([config]).collect();
    let text = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).to_string();
    manifest(upstream, "cache", Some("v1"), OCI_INDEX, text)
}

#[test]
fn a_build_cache_in_index_form_is_carried_as_it_is_at_one_pull() {
    let upstream = Fake::start();
    let cache = build_cache(&upstream);
    for target in [Some(Fake::start()), None] {
        let program = Program::new();
        to(&program, &upstream, target.as_ref());
        upstream.reset_log();
        program.list([upstream.image("cache:v1")]);
        let run = program.sync_list().exits(0);
        assert_eq!((run.total("copied"), run.total("blobs_copied")), (1, 4));
        assert_eq!(notes(&run), ["its index lists layers, as a build cache does: they are carried as layers"]);
        assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet)), (1, 4), "layers are not asked for as manifests");
        upstream.reset_log();
        let again = program.sync_list().exits(0);
        assert_eq!((again.total("current"), upstream.requests().len(), upstream.count(Kind::ManifestHead)), (1, 1, 1));
        let verified = match &target {
            Some(target) => {
                assert_eq!(target.digest("m/cache", "v1"), Some(cache.digest.clone()));
                program.run(&["verify", &target.addr(), "--list", "list.txt"])
            }
            None => program.run(&["verify", "store"]),
        };
        verified.exits(0);
    }
}

/// An index of three platforms, of which the upstream has two.
fn sparse_upstream() -> (Fake, Descriptor) {
    let upstream = Fake::start();
    let index = multi(&upstream, "app", "v1", 1, &["linux/amd64", "linux/arm64", "linux/s390x"]);
    let (_, bytes) = upstream.manifest("app", "v1").unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let lost = larder::content::Digest::parse(listed["manifests"][1]["digest"].as_str().unwrap()).unwrap();
    upstream.delete_manifest("app", &lost);
    (upstream, index)
}

#[test]
fn an_upstreams_sparse_index_is_carried_as_it_is_and_costs_no_pull_the_next_night() {
    let (upstream, index) = sparse_upstream();
    for target in [Some(Fake::with(Options { check_children: false, ..Options::default() })), None] {
        let program = Program::new();
        to(&program, &upstream, target.as_ref());
        upstream.reset_log();
        program.list([upstream.image("app:v1")]);
        let run = program.sync_list().exits(0);
        assert_eq!(run.total("copied"), 1);
        let [note] = notes(&run).try_into().unwrap();
        assert!(note.starts_with("the upstream does not have linux/arm64 ("), "{note}");
        assert!(note.ends_with("which its own index lists: the index is carried as it is"), "{note}");
        assert_eq!(run.images()[0]["platforms"], json!(["linux/amd64", "linux/s390x"]));
        assert_eq!(upstream.count(Kind::ManifestGet), 4, "each once");
        upstream.reset_log();
        let again = program.sync_list().exits(0);
        assert_eq!((again.total("current"), upstream.requests().len(), upstream.count(Kind::ManifestHead)), (1, 1, 1));
        match &target {
            Some(target) => assert_eq!(target.digest("m/app", "v1"), Some(index.digest.clone())),
            None => {
                program.run(&["verify", "store"]).exits(0);
                program.run(&["gc", "store"]).exits(0);
                program.run(&["verify", "store"]).exits(0);
            }
        }
    }
}

#[test]
fn a_sparse_index_travels_in_a_bundle() {
    let (upstream, index) = sparse_upstream();
    let (far, program) = (Fake::with(Options { check_children: false, ..Options::default() }), Program::new());
    to(&program, &upstream, None);
    program.list([upstream.image("app:v1")]);
    program.run(&["export", "list.txt", "--to", "bundle"]).exits(0);
    program.run(&["verify", "bundle"]).exits(0);
    for target in [far.addr(), "oci:far".to_owned()] {
        program.run(&["import", "bundle", "--to", &target]).exits(0);
    }
    assert_eq!(far.digest("m/app", "v1"), Some(index.digest));
    program.run(&["verify", "far"]).exits(0);
}

#[test]
fn where_a_target_refuses_a_sparse_index_it_is_said_once_and_not_tried_again() {
    let (upstream, _) = sparse_upstream();
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(1);
    let message = run.error()["message"].as_str().unwrap();
    assert!(message.contains("the upstream lacks some of what its own index lists, and the target takes no such index"), "{message}");
    assert_eq!(target.count_matching(|request| request.kind == Kind::ManifestPut && request.reference.as_deref() == Some("v1")), 1);
    let read: Vec<_> =
        upstream.requests().into_iter().filter(|request| request.kind == Kind::BlobGet).map(|request| request.reference).collect();
    let distinct: std::collections::HashSet<_> = read.iter().collect();
    assert_eq!(read.len(), distinct.len(), "each blob once");
}

#[test]
fn an_index_of_which_nothing_is_there_is_a_failure() {
    let (upstream, program) = (Fake::start(), Program::new());
    let child = image(&upstream, "app", None, &ImageSpec::new([layer(1, 100)]));
    index(&upstream, "app", Some("v1"), std::slice::from_ref(&child));
    upstream.delete_manifest("app", &child.digest);
    program.list([upstream.image("app:v1")]);
    let run = program.sync(&["list.txt", "--to", "oci:store"]).exits(1);
    assert!(run.error()["message"].as_str().unwrap().contains("which its own index lists"));
}

#[test]
fn a_schema_1_tag_is_refused_from_its_head_and_a_plan_knows() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    manifest(&upstream, "old", Some("v1"), DOCKER_SCHEMA1, r#"{"schemaVersion":1,"name":"old","tag":"v1","fsLayers":[]}"#);
    program.list([upstream.image("old:v1")]);
    let plan = program.run(&["plan", "list.txt"]).exits(1);
    assert!(plan.stderr.contains("1 unresolvable") && plan.stderr.contains("Docker schema 1"), "{}", plan.stderr);
    let run = program.sync_list().exits(1);
    assert!(run.error()["message"].as_str().unwrap().starts_with("this is a Docker schema 1 manifest"), "{}", run.stderr);
    assert_eq!((upstream.count(Kind::ManifestGet), run.error()["side"].as_str()), (0, Some("upstream")));
}

#[test]
fn a_registry_that_takes_oci_types_only_is_told_from_others() {
    let (upstream, program) = (Fake::start(), Program::new());
    image(&upstream, "docker", Some("v1"), &ImageSpec::new([layer(1, 100)]).docker());
    simple(&upstream, "oci", "v1", 2);
    for (status, said) in [(415, "this registry takes OCI types only"), (400, "it may be that this registry takes OCI types only")] {
        let target = Fake::start();
        program.configure(&target, &[&upstream]);
        target.fault(Match::kind(Kind::ManifestPut), FOREVER, Fault::error(status, "MANIFEST_INVALID", "no"));
        for (name, expected) in [("docker:v1", true), ("oci:v1", false)] {
            let run = program.sync(&["--image", &upstream.image(name)]).exits(1);
            let message = run.error()["message"].as_str().unwrap().to_owned();
            let told = format!("the manifest is of type {DOCKER_IMAGE}: {said}");
            assert_eq!(message.contains(&told), expected, "{status} {name}: {message}");
        }
    }
}

#[test]
fn a_wrong_size_in_a_list_of_referrers_is_not_believed() {
    let upstream = Fake::with(Options { referrers: true, ..Options::default() });
    let signed = simple(&upstream, "app", "v1", 1);
    let signature = artifact(&upstream, "app", None, "application/vnd.cncf.notary.signature", "jws", Some(&signed));
    let listed = json!([{"mediaType": signature.media_type, "digest": signature.digest, "size": signature.size + 1188,
        "artifactType": "application/vnd.cncf.notary.signature"}]);
    let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).to_string();
    upstream.fault(
        Match::kind(Kind::Referrers),
        FOREVER,
        Fault::custom(move |_| with(reply(200, list.clone()), "content-type", OCI_INDEX)),
    );
    for target in [Some(Fake::with(Options { referrers: true, ..Options::default() })), None] {
        let program = Program::new();
        match &target {
            Some(target) => {
                program.write("larder.toml", configuration(&target.addr(), &[&upstream]).replace("referrers = false", "referrers = true"));
            }
            None => {
                to(&program, &upstream, None);
                program.write("larder.toml", program.read("larder.toml").replace("referrers = false", "referrers = true"));
            }
        }
        program.list([upstream.image("app:v1")]);
        let run = program.sync(&["list.txt"]).exits(0);
        assert_eq!((run.total("copied"), &run.images()[0]["referrers"]), (1, &json!(1)));
        match &target {
            Some(target) => assert!(target.manifest("m/app", signature.digest.as_str()).is_some()),
            None => {
                program.run(&["verify", "store"]).exits(0);
                assert!(program.read("store/index.json").contains(signature.digest.as_str()));
            }
        }
        upstream.reset_log();
        program.sync(&["list.txt"]).exits(0);
        assert_eq!(upstream.count(Kind::ManifestGet), 0);
    }
}

#[test]
fn a_head_whose_length_is_another_is_a_hint() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    simple(&upstream, "app", "v1", 1);
    upstream.fault(Match::kind(Kind::ManifestHead), FOREVER, Fault::Header { name: "content-length", value: Some("7".to_owned()) });
    program.list([upstream.image("app:v1")]);
    assert_eq!(program.sync_list().exits(0).total("copied"), 1);
}

#[test]
fn a_choice_says_which_newer_looking_tags_it_leaves_out() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for (seed, tag) in ["3.0.17", "3.5.3-0", "3.5.4-0", "4.0.0-alpine"].iter().enumerate() {
        simple(&upstream, "etcd", tag, 1 + seed as u64);
    }
    program.write("list.csv", format!("image,tags\n{},latest:1\n", upstream.image("etcd")));
    let run = program.sync(&["list.csv"]).exits(0);
    assert_eq!(target.tags("m/etcd"), ["3.5.4-0"], "a bare number is a revision");
    assert_eq!(notes(&run), ["latest:N chooses among plain versions, and leaves out tags that look newer: `4.0.0-alpine`"]);
    let plan = program.run(&["plan", "list.csv", "--explain"]).exits(0);
    assert!(plan.stdout.contains("leaves out tags that look newer: `4.0.0-alpine`"), "{}", plan.stdout);
}
