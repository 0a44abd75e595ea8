//! Rules that push into a pull-through cache: it answers a HEAD by asking its upstream, and holds nothing. And caches that take pushes.

use crate::support::corpus::{multi, simple};
use crate::support::fake::{Acr, FOREVER, Fake, Fault, Kind, Match, Options, PROXY_PROJECT};
use crate::support::program::{Program, Run};
use crate::support::real::DockerRegistry;
use serde_json::Value;

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// A configuration whose rule `hub` pushes into `cache`, below `m/`, from `upstream`; `target` and `more` are further lines.
fn pushing(upstream: &str, cache: &str, target: &str, more: &str) -> String {
    format!(
        "version = 1\n[target]\nregistry = \"{cache}\"\n{target}\n\
         [[rule]]\nname = \"hub\"\nsource = \"{upstream}/*\"\ntarget = \"m/*\"\nreferrers = false\n{more}\n"
    )
}

fn profile(cache: &str, name: &str) -> String {
    format!("[registry.\"{cache}\"]\nprofile = \"{name}\"")
}

/// A cache rule as Azure has it, or a cache that says nothing of itself.
fn cache(upstream: &Fake, change: impl FnOnce(&mut Acr)) -> Fake {
    let mut acr = Acr::new(upstream, "m/");
    change(&mut acr);
    Fake::with(Options { acr: Some(acr), ..Options::default() })
}

fn only(run: &Run) -> &Value {
    assert_eq!(run.images().len(), 1, "{}", run.report);
    &run.images()[0]
}

fn uploads(registry: &Fake) -> (usize, usize) {
    (registry.count(Kind::UploadPost), registry.count(Kind::UploadDelete))
}

#[test]
fn a_push_rule_into_a_profile_that_is_a_cache_is_an_error_of_rules_check_plan_and_run() {
    let name = "distribution-proxy";
    let (upstream, program) = (Fake::start(), Program::new());
    let cache = cache(&upstream, |acr| acr.says_origin = false);
    simple(&upstream, "app", "v1", 1);
    let image = upstream.image("app:v1");
    program.write("larder.toml", pushing(&upstream.addr(), &cache.addr(), "", &profile(&cache.addr(), name)));
    let checked = program.run(&["rules", "check"]).exits(1);
    let expected = format!(
        "error: larder.toml:6: rule \"hub\": delivery = \"push\" into {}, which is a pull-through cache (profile \"{name}\") (set delivery = \
         \"warm\" in the rule, or writable_cache = true in [target] if the cache accepts pushes)\n",
        cache.addr()
    );
    assert_eq!(checked.stdout, expected);
    let run = program.sync(&["--image", &image]).exits(1);
    let error = run.error();
    assert_eq!(error["side"], "target");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("is a pull-through cache") && message.contains("delivery = \"warm\""), "{message}");
    program.run(&["plan", "--image", &image]).exits(1);
    // Nobody was asked anything.
    assert_eq!((upstream.requests().len(), cache.requests().len()), (0, 0), "{name}");
    // Another target is none of this.
    program.sync(&["--image", &image, "--to", "oci:store"]).exits(0);
    let warm = program.read("larder.toml").replace("target = \"m/*\"\n", "target = \"m/*\"\ndelivery = \"warm\"\n");
    program.write("larder.toml", warm);
    program.run(&["rules", "check"]).exits(0);
    program.sync(&["--image", &image]).exits(0);
}

#[test]
fn a_harbor_proxy_that_gives_no_sign_of_itself_is_told_by_its_refusal() {
    let (upstream, program) = (Fake::start(), Program::new());
    let cache = cache(&upstream, |acr| (acr.says_origin, acr.refusal) = (false, Some(PROXY_PROJECT)));
    let names: Vec<String> = (0..3)
        .map(|n| simple(&upstream, &format!("app{n}"), "v1", n))
        .zip(0..)
        .map(|(_, n)| upstream.image(&format!("app{n}:v1")))
        .collect();
    program.list(names);
    for more in [String::new(), profile(&cache.addr(), "harbor")] {
        program.write("larder.toml", pushing(&upstream.addr(), &cache.addr(), "", &more));
        program.run(&["rules", "check"]).exits(0);
        cache.reset_log();
        let run = program.sync_list().exits(1);
        assert_eq!((run.total("failed"), run.total("current")), (3, 0), "{}", run.report);
        let error = &run.images()[0]["error"];
        let message = error["message"].as_str().unwrap();
        let parts =
            ["refuses pushes, as a pull-through cache does (403 can not push artifact to a proxy project: m)", "delivery = \"warm\""];
        assert!(error["side"] == "target" && parts.iter().all(|part| message.contains(part)), "{message}");
        // The project is asked once for all its repositories.
        assert_eq!(uploads(&cache), (1, 0));
        let online = program.run(&["rules", "check", "--online"]);
        assert_eq!(online.code, 0, "no place is known: {}", online.stdout);
    }
    // With a list, the places of the rule are known.
    let lists = program.read("larder.toml").replace("version = 1\n", "version = 1\nlists = [\"list.txt\"]\n");
    program.write("larder.toml", lists);
    let online = program.run(&["rules", "check", "--online"]).exits(1);
    assert!(online.stdout.contains("error: larder.toml:7: rule \"hub\": delivery = \"push\" into a cache: "), "{}", online.stdout);
    // An import would be refused as well, and says so at once.
    let doubled = online.stdout.lines().count();
    assert_eq!(doubled, 1, "{}", online.stdout);
}

#[test]
fn an_artifact_cache_whose_index_is_there_and_whose_children_are_cold_is_not_current() {
    let (upstream, program) = (Fake::start(), Program::new());
    let cache = cache(&upstream, |_| {});
    let list = multi(&upstream, "app", "v1", 1, &PLATFORMS);
    let image = upstream.image("app:v1");
    // Somebody has pulled the index alone.
    let (media_type, bytes) = upstream.manifest("app", "v1").unwrap();
    cache.put_manifest("m/app", Some("v1"), &media_type, bytes);
    for more in [String::new(), profile(&cache.addr(), "acr")] {
        program.write("larder.toml", pushing(&upstream.addr(), &cache.addr(), "", &more));
        let run = program.sync(&["--image", &image]).exits(1);
        let message = run.error()["message"].as_str().unwrap();
        assert!(message.contains("as a pull-through cache does (403 The cache rule blocks pushes"), "{message}");
    }
    // Where the cache takes pushes, what is cold is put there.
    cache.configure(|options| options.acr.as_mut().unwrap().refusal = None);
    program.write("larder.toml", pushing(&upstream.addr(), &cache.addr(), "writable_cache = true", &profile(&cache.addr(), "acr")));
    program.run(&["rules", "check"]).exits(0);
    let run = program.sync(&["--image", &image]).exits(0);
    assert_eq!((only(&run)["status"].as_str(), only(&run)["digest"].as_str()), (Some("copied"), Some(list.digest.as_str())));
    for child in ["linux/amd64", "linux/arm64"] {
        let digest = serde_json::from_slice::<Value>(&upstream.manifest("app", "v1").unwrap().1).unwrap()["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| format!("linux/{}", entry["platform"]["architecture"].as_str().unwrap()) == child)
            .unwrap()["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(cache.manifest("m/app", &digest).is_some(), "{child} is not there");
    }
    // What was pushed is remembered: a quiet night is one HEAD at each side.
    upstream.reset_log();
    cache.reset_log();
    let run = program.sync(&["--image", &image]).exits(0);
    assert_eq!(only(&run)["status"], "current");
    assert_eq!((upstream.count(Kind::ManifestGet), cache.requests().len(), cache.count(Kind::ManifestHead)), (0, 1, 1));
    // Without that memory nothing is believed; what is the cache's own is found there, and costs the upstream no pull.
    upstream.reset_log();
    let run = program.sync(&["--image", &image, "--state", "empty"]).exits(0);
    assert_eq!(only(&run)["status"], "copied");
    assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet)), (0, 0));
}

#[test]
fn a_writable_cache_that_gives_no_sign_of_itself_is_given_everything_and_remembered() {
    let (upstream, program) = (Fake::start(), Program::new());
    let cache = cache(&upstream, |acr| (acr.says_origin, acr.refusal) = (false, None));
    multi(&upstream, "app", "v1", 1, &PLATFORMS);
    let image = upstream.image("app:v1");
    program.write("larder.toml", pushing(&upstream.addr(), &cache.addr(), "writable_cache = true", &profile(&cache.addr(), "generic")));
    let run = program.sync(&["--image", &image]).exits(0);
    assert_eq!(only(&run)["status"], "copied");
    let upstream_blobs: Vec<_> = upstream.requests().into_iter().filter(|request| request.kind == Kind::BlobGet).collect();
    assert_eq!(upstream_blobs.len(), 5);
    for request in upstream_blobs {
        let digest = larder::content::Digest::parse(request.reference.as_deref().unwrap()).unwrap();
        assert!(cache.has_blob("m/app", &digest), "{digest}");
    }
    assert!(cache.manifest("m/app", "v1").is_some());
    upstream.reset_log();
    assert_eq!(only(&program.sync(&["--image", &image]).exits(0))["status"], "current");
    assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet)), (0, 0));
    let show = program.run(&["config", "show"]).exits(0);
    assert!(show.stdout.contains("writable_cache = true\n"), "{}", show.stdout);
    // Its HEADs prove nothing to anybody.
    let verify = program.run(&["verify", &cache.addr(), "--image", &image]).exits(1);
    assert!(verify.stderr.contains("what it answers to HEAD proves nothing") && verify.stderr.contains("--deep"), "{}", verify.stderr);
    program.run(&["verify", &cache.addr(), "--deep", "--image", &image]).exits(0);
}

#[test]
fn writable_cache_is_a_boolean_of_registry_targets() {
    let program = Program::new();
    for (text, told) in [
        ("[target]\nlayout = \"x\"\nwritable_cache = true\n", "larder.toml:4: writable_cache is for registry targets only"),
        ("[target]\nregistry = \"r.io\"\nwritable_cache = \"yes\"\n", "larder.toml:4: "),
    ] {
        program.write("larder.toml", format!("version = 1\n{text}"));
        let run = program.run(&["config", "check"]).exits(1);
        assert!(run.stdout.contains(told), "{}", run.stdout);
    }
}

#[test]
fn a_registry_that_took_a_push_is_believed_and_a_quiet_night_has_no_more_requests() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    simple(&upstream, "app", "v1", 1);
    let image = upstream.image("app:v1");
    program.write("larder.toml", pushing(&upstream.addr(), &target.addr(), "", ""));
    let run = program.sync(&["--image", &image]).exits(0);
    assert_eq!((only(&run)["status"].as_str(), target.open_uploads()), (Some("copied"), 0));
    // The upload that was opened to find out is the first blob's.
    assert_eq!(uploads(&target), (target.count(Kind::UploadPut), 0));
    target.reset_log();
    assert_eq!(only(&program.sync(&["--image", &image]).exits(0))["status"], "current");
    assert_eq!((target.requests().len(), target.count(Kind::ManifestHead)), (1, 1));
    // Without its memory, larder looks once.
    for expected in [(1, 1), (0, 0)] {
        target.reset_log();
        assert_eq!(only(&program.sync(&["--image", &image, "--state", "new"]).exits(0))["status"], "current");
        assert_eq!((uploads(&target), target.open_uploads()), (expected, 0));
    }
}

#[test]
fn who_may_only_read_finds_a_target_current_that_is() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    simple(&upstream, "app", "v1", 1);
    simple(&target, "m/app", "v1", 1);
    target.fault(Match::kind(Kind::UploadPost), FOREVER, Fault::error(403, "DENIED", "requested access to the resource is denied"));
    program.write("larder.toml", pushing(&upstream.addr(), &target.addr(), "", ""));
    assert_eq!(only(&program.sync(&["--image", &upstream.image("app:v1")]).exits(0))["status"], "current");
    program.run(&["verify", &target.addr(), "--image", &upstream.image("app:v1")]).exits(0);
}

#[test]
fn verify_of_a_cache_says_that_heads_prove_nothing_and_fails_unless_deep() {
    let (upstream, program) = (Fake::start(), Program::new());
    let cache = cache(&upstream, |acr| (acr.says_origin, acr.bare_etag, acr.refusal) = (false, true, Some(PROXY_PROJECT)));
    simple(&upstream, "app", "v1", 1);
    simple(&upstream, "other", "v1", 1);
    let images = [upstream.image("app:v1"), upstream.image("other:v1")];
    program.list(images.clone());
    for more in [String::new(), profile(&cache.addr(), "generic")] {
        program.write("larder.toml", pushing(&upstream.addr(), &cache.addr(), "", &more));
        let run = program.run(&["verify", &cache.addr(), "--list", "list.txt"]).exits(1);
        assert!(
            run.stderr.contains("is a pull-through cache") && run.stderr.contains("proves nothing") && run.stderr.contains("--deep"),
            "{}",
            run.stderr
        );
        cache.reset_log();
        program.run(&["verify", &cache.addr(), "--deep", "--list", "list.txt"]).exits(0);
        // Each repository's own blobs are read, although they are the same.
        let read = |repository: &str| {
            cache.requests().iter().filter(|request| request.kind == Kind::BlobGet && request.path.contains(repository)).count()
        };
        assert!(read("m/app/") >= 2 && read("m/other/") >= 2, "{more}");
    }
}

#[test]
fn a_push_into_a_real_proxy_is_refused_and_not_called_current() {
    let upstream = Fake::start();
    let Some(cache) = DockerRegistry::start_proxy(&upstream.url()) else { return };
    let program = Program::new();
    multi(&upstream, "team/app", "v1", 1, &PLATFORMS);
    let image = upstream.image("team/app:v1");
    let text = pushing(&upstream.addr(), &cache.addr(), "", "").replace("target = \"m/*\"", "target = \"*\"");
    program.write("larder.toml", &text);
    let run = program.sync(&["--image", &image]).exits(1);
    let message = run.error()["message"].as_str().unwrap();
    let parts =
        ["refuses pushes, as a pull-through cache, or a read-only registry, does (405 ", "delivery = \"warm\"", "writable_cache = true"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    assert_eq!(upstream.count(Kind::BlobGet), 0);
    let run = program.run(&["verify", &cache.addr(), "--image", &image]).exits(1);
    assert!(run.stderr.contains("proves nothing"), "{}", run.stderr);
    // By its profile it is known before anybody is asked.
    program.write("larder.toml", text + &profile(&cache.addr(), "distribution-proxy"));
    let run = program.sync(&["--image", &image]).exits(1);
    let asked: Vec<u64> = run.report["registries"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row["requests"].as_object().unwrap().values())
        .filter_map(Value::as_u64)
        .collect();
    assert!(asked.iter().all(|count| *count == 0), "{}", run.report);
    let run = program.run(&["verify", &cache.addr(), "--image", &image]).exits(1);
    assert!(run.stderr.contains("proves nothing"), "{}", run.stderr);
    program.run(&["verify", &cache.addr(), "--deep", "--image", &image]).exits(0);
}
