//! What a run asks of upstream and target, counted by the registries themselves.

use crate::support::corpus::{ImageSpec, image, index, multi, simple};
use crate::support::fake::{Auth, Fake, Fault, Gate, Kind, Match, Options, Tokens};
use crate::support::layer::layer;
use crate::support::program::Program;
use crate::support::room::PATIENCE;

/// 100 images: ten tags in each of ten repositories.
fn hundred(upstream: &Fake) -> Vec<String> {
    let mut images = vec![];
    for repository in 0..10 {
        for tag in 0..10 {
            let name = format!("team/app{repository}");
            simple(upstream, &name, &format!("v{tag}"), 1 + repository * 10 + tag);
            images.push(upstream.image(&format!("{name}:v{tag}")));
        }
    }
    images
}

#[test]
fn a_night_with_nothing_new_costs_a_head_on_each_side_for_an_image_and_nothing_else() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(hundred(&upstream));
    let first = program.sync_list().exits(0);
    assert_eq!((first.total("copied"), first.total("failed")), (100, 0));

    for state_lost in [false, true] {
        upstream.reset_log();
        target.reset_log();
        if state_lost {
            std::fs::remove_dir_all(program.path("home/state")).unwrap();
        }
        let again = program.sync_list().exits(0);
        assert_eq!((again.total("images"), again.total("current"), again.total("bytes_read")), (100, 100, 0));
        // Without its memory, larder opens one upload and cancels it: the target might be a cache, which answers for its upstream.
        let looked = [Kind::UploadPost, Kind::UploadDelete].map(|kind| target.count(kind));
        assert_eq!(looked, if state_lost { [1, 1] } else { [0, 0] });
        for (registry, more) in [(&upstream, 0), (&target, looked.iter().sum())] {
            assert_eq!(registry.count(Kind::ManifestHead), 100);
            assert_eq!(registry.requests().len(), 100 + more, "{:?}", registry.requests());
        }
        assert!(again.stderr.contains(&format!("pulls spent: {} 0", upstream.addr())), "{}", again.stderr);
    }
}

#[test]
fn a_night_with_nothing_new_asks_for_one_token_a_repository_where_tokens_are_asked_for() {
    let tokens = || Fake::with(Options { auth: Auth::tokens("ci", "pass"), ..Options::default() });
    let (upstream, target, mut program) = (tokens(), tokens(), Program::new());
    let set = format!(
        "[[credentials]]\nname = \"to\"\nlogin_server = \"{}\"\nusername = \"ci\"\npassword = {{ env = \"PASSWORD\" }}\n",
        target.addr()
    );
    program.write("larder.toml", crate::support::program::configuration(&target.addr(), &[&upstream]) + &set);
    program.set("PASSWORD", "pass");
    program.list(hundred(&upstream));
    program.sync_list().exits(0);

    upstream.reset_log();
    target.reset_log();
    program.sync_list().exits(0);
    for registry in [&upstream, &target] {
        let answered = registry.count_matching(|request| request.kind == Kind::ManifestHead && request.status == Some(200));
        let challenged = registry.count_matching(|request| request.kind == Kind::ManifestHead && request.status == Some(401));
        assert_eq!(answered, 100);
        // Those that were about to leave when the first challenge came: no more than images are worked on at once.
        assert!(challenged <= 16, "{challenged} requests were challenged");
        assert_eq!(registry.count(Kind::Token), 10, "one for each repository");
        assert_eq!(registry.requests().len(), answered + challenged + 10);
    }
}

/// 30 repositories whose images share a layer, each with one of its own; the shared layer's digest.
fn sharing(upstream: &Fake, program: &Program) -> String {
    let shared = layer(7, 40_000);
    for number in 0..30 {
        let own = layer(100 + number, 500);
        image(upstream, &format!("app{number}"), Some("v1"), &ImageSpec::new([shared.clone(), own]));
    }
    program.list((0..30).map(|number| upstream.image(&format!("app{number}:v1"))));
    larder::content::Digest::sha256(&shared).to_string()
}

#[test]
fn a_layer_shared_by_30_images_is_read_once_and_mounted_29_times() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let shared = sharing(&upstream, &program);
    let run = program.sync_list().exits(0);
    let about =
        |registry: &Fake, kind| registry.count_matching(|request| request.kind == kind && request.reference.as_ref() == Some(&shared));
    assert_eq!(about(&upstream, Kind::BlobGet), 1);
    assert_eq!(about(&target, Kind::Mount), 29);
    assert_eq!(target.count(Kind::UploadPut), 61, "the shared layer, 30 layers and 30 configs");
    assert_eq!((run.total("blobs_mounted"), run.total("blobs_copied"), run.total("blobs_present")), (29, 61, 0));
    assert_eq!(target.open_uploads(), 0);
    // Nothing is asked for twice: one HEAD, one GET for each image, one GET for each blob.
    assert_eq!(upstream.requests().len(), 30 + 30 + 61);
}

#[test]
fn where_mounts_are_refused_the_target_is_filled_from_itself_and_the_upstream_read_once() {
    let upstream = Fake::start();
    let (target, program) = (Fake::with(Options { mount: false, ..Options::default() }), Program::new());
    program.configure(&target, &[&upstream]);
    let shared = sharing(&upstream, &program);
    let run = program.sync_list().exits(0);
    let about =
        |registry: &Fake, kind| registry.count_matching(|request| request.kind == kind && request.reference.as_ref() == Some(&shared));
    assert_eq!(about(&upstream, Kind::BlobGet), 1);
    assert_eq!(about(&target, Kind::BlobGet), 29);
    assert_eq!((run.total("blobs_mounted"), run.total("blobs_copied")), (0, 90));
    // Refusals are learnt from: a few in flight, not 29.
    assert!(target.count(Kind::Mount) <= 16, "{} mounts", target.count(Kind::Mount));
    assert_eq!(target.open_uploads(), 0, "what a refused mount opened is given back");
    for number in 0..30 {
        assert!(target.digest(&format!("m/app{number}"), "v1").is_some());
    }
}

#[test]
fn child_manifests_that_the_target_holds_are_not_fetched() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list([upstream.image("app:latest")]);
    let child = |seed, platform| image(&upstream, "app", None, &ImageSpec::new([layer(seed, 900)]).platform(platform));
    let (amd, arm, riscv) = (child(1, "linux/amd64"), child(2, "linux/arm64"), child(3, "linux/riscv64"));
    index(&upstream, "app", Some("latest"), &[amd.clone(), arm.clone()]);
    let first = program.sync_list().exits(0);
    assert_eq!(first.images()[0]["platforms"], serde_json::json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(first.images()[0]["pulls"], 3);

    let moved = index(&upstream, "app", Some("latest"), &[amd.clone(), arm.clone(), riscv.clone()]);
    upstream.reset_log();
    let run = program.sync_list().exits(0);
    let fetched: Vec<String> = references(&upstream, Kind::ManifestGet);
    assert_eq!(fetched, [moved.digest.to_string(), riscv.digest.to_string()]);
    assert_eq!(upstream.count(Kind::BlobGet), 2, "the new child's config and layer");
    assert_eq!(run.images()[0]["pulls"], 2);
    assert_eq!(target.digest("m/app", "latest").unwrap(), moved.digest);
}

/// What was asked for by requests of this kind, in order.
fn references(registry: &Fake, kind: Kind) -> Vec<String> {
    registry.requests().into_iter().filter(|request| request.kind == kind).filter_map(|request| request.reference).collect()
}

#[test]
fn a_tag_that_moved_fetches_exactly_what_is_new() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(["app:a", "app:b"].map(|name| upstream.image(name)));
    image(&upstream, "app", Some("a"), &ImageSpec::new([layer(1, 900), layer(2, 900)]));
    image(&upstream, "app", Some("b"), &ImageSpec::new([layer(1, 900), layer(3, 900)]));
    program.sync_list().exits(0);

    let moved = image(&upstream, "app", Some("a"), &ImageSpec::new([layer(1, 900), layer(4, 900)]));
    upstream.reset_log();
    target.reset_log();
    let run = program.sync_list().exits(0);
    assert_eq!((run.total("copied"), run.total("current"), run.total("blobs_copied"), run.total("blobs_present")), (1, 1, 2, 1));
    assert_eq!(references(&upstream, Kind::ManifestGet), [moved.digest.to_string()]);
    assert!(!references(&upstream, Kind::BlobGet).contains(&larder::content::Digest::sha256(&layer(1, 900)).to_string()));
    assert_eq!((upstream.count(Kind::ManifestHead), upstream.count(Kind::BlobGet), upstream.requests().len()), (2, 2, 5));
    assert_eq!(target.count(Kind::UploadPut), 2);
    assert_eq!(target.digest("m/app", "a").unwrap(), moved.digest);
}

#[test]
fn a_pinned_digest_that_the_target_has_costs_the_upstream_nothing() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let (tagged, bare) = (simple(&upstream, "app", "v1", 1), simple(&upstream, "app", "v2", 2));
    program.list([format!("app:v1@{}", tagged.digest), format!("app@{}", bare.digest)].map(|name| upstream.image(&name)));
    let first = program.sync_list().exits(0);
    assert_eq!(first.total("copied"), 2);
    assert_eq!(upstream.count(Kind::ManifestHead), 0, "a digest needs no resolving");
    assert_eq!(target.tags("m/app"), ["v1"]);

    // Whatever the tag does upstream now.
    simple(&upstream, "app", "v1", 3);
    upstream.reset_log();
    target.reset_log();
    assert_eq!(program.sync_list().exits(0).total("current"), 2);
    assert_eq!((upstream.requests().len(), target.requests().len()), (0, 2));
    assert_eq!(target.digest("m/app", "v1").unwrap(), tagged.digest);
}

#[test]
fn transfers_start_before_the_last_image_is_resolved() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list((0..40).map(|number| upstream.image(&format!("app:v{number}"))));
    for number in 0..40 {
        simple(&upstream, "app", &format!("v{number}"), number + 1);
    }
    let gate = Gate::closed();
    upstream.fault(Match::kind(Kind::ManifestHead).reference("v39"), 1, Fault::Hold(gate.clone()));
    let run = program.start_sync(&["list.txt"]);
    let named = |requests: &[crate::support::fake::Request]| {
        requests.iter().filter(|request| request.kind == Kind::ManifestPut && request.status == Some(201)).count()
    };
    assert!(target.wait_until(PATIENCE, |requests| named(requests) == 39), "{} of 39", named(&target.requests()));
    gate.open();
    assert_eq!(run.join().unwrap().exits(0).total("copied"), 40);
}

#[test]
fn one_upstream_that_hangs_holds_no_other_back() {
    let (slow, fast, target, program) = (Fake::start(), Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&slow, &fast]);
    let gate = Gate::closed();
    slow.fault(Match::any(), crate::support::fake::FOREVER, Fault::Hold(gate.clone()));
    let mut images = vec![];
    for number in 0..30 {
        simple(&slow, "app", &format!("v{number}"), number + 1);
        simple(&fast, "app", &format!("v{number}"), number + 101);
        images.extend([slow.image(&format!("app:v{number}")), fast.image(&format!("app:v{number}"))]);
    }
    program.list(images);
    let run = program.start_sync(&["list.txt"]);
    let arrived = target.wait_until(PATIENCE, |_| target_has(&target, 30));
    assert!(arrived, "{:?}", target.tags("m/1/app"));
    assert!(target.tags("m/0/app").is_empty());
    gate.open();
    assert_eq!(run.join().unwrap().exits(0).total("copied"), 60);
}

fn target_has(target: &Fake, tags: usize) -> bool {
    target.tags("m/1/app").len() == tags
}

#[test]
fn one_image_that_fails_fails_alone() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for number in 0..5 {
        simple(&upstream, "app", &format!("v{number}"), number + 1);
    }
    // One tag is gone, one layer is.
    upstream.untag("app", "v1");
    let (_, manifest) = upstream.manifest("app", "v3").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = larder::content::Digest::parse(manifest["layers"][0]["digest"].as_str().unwrap()).unwrap();
    upstream.delete_blob("app", &layer);
    program.list((0..5).map(|number| upstream.image(&format!("app:v{number}"))));

    let run = program.sync_list().exits(1);
    assert_eq!((run.total("images"), run.total("copied"), run.total("failed")), (5, 3, 2));
    assert_eq!(run.report["exit"], 1);
    assert_eq!(target.tags("m/app"), ["v0", "v2", "v4"]);
    let rows = run.images();
    assert_eq!(rows[1]["error"]["side"], "upstream");
    assert_eq!((&rows[1]["error"]["operation"], &rows[1]["error"]["status"]), (&"resolve tag".into(), &404.into()));
    assert_eq!((&rows[3]["error"]["operation"], &rows[3]["error"]["status"]), (&"get blob".into(), &404.into()));
    assert!(rows[3]["error"]["message"].as_str().unwrap().contains(layer.as_str()), "{}", rows[3]);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!((row["file"].as_str(), row["line"].as_u64()), (Some("list.txt"), Some(number as u64 + 1)));
    }
    assert!(run.stderr.contains(&format!("error: list.txt:2: upstream: resolve tag {}/app:v1: 404 ", upstream.addr())), "{}", run.stderr);
}

/// A survey that was only buffered kept its permit and stood still while another image was begun.
#[test]
fn with_one_request_at_a_time_a_run_does_not_lock_itself_up() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let images: Vec<String> = (0..12)
        .map(|number| {
            simple(&upstream, &format!("app{number}"), "v1", number + 1);
            upstream.image(&format!("app{number}:v1"))
        })
        .collect();
    program.list(images);
    let run = program.sync(&["list.txt", "--concurrency", "1"]).exits(0);
    assert_eq!(run.total("copied"), 12);
    assert_eq!((upstream.max_in_flight(), target.max_in_flight()), (1, 1));
}

/// Requests that were answered with something else than 401, by kind.
fn answered(registry: &Fake) -> String {
    const KINDS: [(Kind, &str); 6] = [
        (Kind::ManifestHead, "HEAD"),
        (Kind::ManifestGet, "manifest"),
        (Kind::BlobGet, "blob"),
        (Kind::Referrers, "referrers"),
        (Kind::Tags, "tags"),
        (Kind::BlobHead, "blob HEAD"),
    ];
    let counts = KINDS.map(|(kind, name)| {
        (registry.count_matching(|request| request.kind == kind && request.status.is_some_and(|status| status != 401)), name)
    });
    counts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

/// What `docs/registries.md` ("What an image costs") says: 30 indexes of two platforms, in 30 repositories.
#[test]
fn a_cold_and_a_quiet_run_cost_what_the_documentation_says() {
    let tokens = |claims| Auth::Token(Tokens { users: vec![("ci".to_owned(), "pass".to_owned())], claims, ..Tokens::default() });
    let hub = Options { auth: tokens(true), referrers: false, ..Options::default() };
    let ghcr = Options { auth: tokens(false), referrers: false, ..Options::default() };
    let acr = Options { auth: tokens(true), ..Options::default() };
    let mut costs = String::new();
    for (name, options) in [("Hub", hub), ("GHCR", ghcr), ("ACR", acr)] {
        let (upstream, target, program) = (Fake::with(options), Fake::start(), Program::new());
        let configuration = crate::support::program::configuration(&target.addr(), &[&upstream]);
        program.write("larder.toml", configuration.replace("referrers = false\n", ""));
        for number in 0..30 {
            multi(&upstream, &format!("app{number}"), "v1", number + 1, &["linux/amd64", "linux/arm64"]);
        }
        program.list((0..30).map(|number| upstream.image(&format!("app{number}:v1"))));
        for run in ["cold", "quiet"] {
            upstream.reset_log();
            target.reset_log();
            program.sync_list().exits(0);
            costs += &format!("{name} {run}: {}\n", answered(&upstream));
            let requests = upstream.count(Kind::Token);
            // How many wait for a token at a time depends on the machine.
            match name {
                "GHCR" => assert!((30..=31).contains(&requests), "{name} {run}: {requests} tokens"),
                _ => assert!(requests < 20, "{name} {run}: {requests} tokens"),
            }
        }
        costs += &format!("{name} target, quiet: {}\n", answered(&target));
    }
    insta::assert_snapshot!(costs, @"
    Hub cold: 30 HEAD, 90 manifest, 150 blob, 1 referrers, 30 tags
    Hub quiet: 30 HEAD, 1 referrers, 30 tags
    Hub target, quiet: 30 HEAD
    GHCR cold: 30 HEAD, 90 manifest, 150 blob, 1 referrers, 30 tags
    GHCR quiet: 30 HEAD, 1 referrers, 30 tags
    GHCR target, quiet: 30 HEAD
    ACR cold: 30 HEAD, 90 manifest, 150 blob, 90 referrers, 30 tags
    ACR quiet: 30 HEAD, 90 referrers, 30 tags
    ACR target, quiet: 30 HEAD
    ");
}
