//! `delivery = "warm"` through fake caches: an artifact cache as Azure has it, and caches whose answers differ from their upstream's.

use crate::support::corpus::{ImageSpec, OCI_CONFIG, OCI_IMAGE, OCI_LAYER, artifact, cosign_signature, image, index, multi, simple};
use crate::support::fake::{Acr, Auth, FOREVER, Fake, Fault, Kind, Match, Options, Pulls};
use crate::support::layer::{layer, noise};
use crate::support::limited::LONG;
use crate::support::program::{Program, Run};
use larder::content::{Descriptor, Digest};
use serde_json::{Value, json};

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// A configuration whose rule `hub` warms `cache` below `m/` from `upstream`.
fn configuration(upstream: &Fake, cache: &Fake, profile: &str, rule: &str) -> String {
    let (upstream, cache) = (upstream.addr(), cache.addr());
    format!(
        "version = 1\n[target]\nregistry = \"{cache}\"\n\
         [[rule]]\nname = \"hub\"\nsource = \"{upstream}/*\"\ntarget = \"m/*\"\ndelivery = \"warm\"\n{rule}\n\
         [registry.\"{cache}\"]\nprofile = \"{profile}\"\n"
    )
}

/// An upstream, an artifact cache in front of it, and who warms it.
fn acr(change: impl FnOnce(&mut Acr)) -> (Fake, Fake, Program) {
    let upstream = Fake::start();
    let mut acr = Acr::new(&upstream, "m/");
    change(&mut acr);
    let cache = Fake::with(Options { acr: Some(acr), ..Options::default() });
    let program = Program::new();
    program.write("larder.toml", configuration(&upstream, &cache, "acr", ""));
    (upstream, cache, program)
}

/// An upstream and a cache that is a registry with content of its own.
fn cache(profile: &str, rule: &str) -> (Fake, Fake, Program) {
    let (upstream, cache, program) = (Fake::start(), Fake::start(), Program::new());
    program.write("larder.toml", configuration(&upstream, &cache, profile, rule));
    (upstream, cache, program)
}

fn only(run: &Run) -> &Value {
    assert_eq!(run.images().len(), 1, "{}", run.report);
    &run.images()[0]
}

/// Manifests and blobs read from a registry.
fn reads(registry: &Fake) -> (usize, usize) {
    (registry.count(Kind::ManifestGet), registry.count(Kind::BlobGet))
}

#[test]
fn an_artifact_cache_proves_itself_what_it_has() {
    let (upstream, cache, program) = acr(|_| {});
    let list = multi(&upstream, "app", "v1", 1, &PLATFORMS);
    let name = upstream.image("app:v1");
    let run = program.sync(&["--image", &name]).exits(0);
    let row = only(&run);
    assert_eq!((row["status"].as_str(), row["pulls"].as_u64()), (Some("warmed"), Some(3)));
    assert_eq!((&row["digest"], &row["source_digest"]), (&json!(list.digest.as_str()), &json!(list.digest.as_str())));
    assert_eq!((row["target"].as_str(), &row["platforms"]), (Some(&*cache.image("m/app:v1")), &json!(PLATFORMS)));
    // Whatever the state says: the cache's own word counts.
    upstream.reset_log();
    cache.reset_log();
    let run = program.sync(&["--image", &name, "--state", "empty"]).exits(0);
    assert_eq!((only(&run)["status"].as_str(), only(&run)["pulls"].as_u64()), (Some("current"), Some(0)));
    // The questions let it import what was pulled; larder has read the index only, which the cache has.
    assert_eq!(reads(&cache), (1, 0));
    assert_eq!(cache.count(Kind::ManifestHead), 3);
}

#[test]
fn a_push_into_a_rules_target_is_refused_and_warm_is_the_way() {
    let (upstream, cache, program) = acr(|_| {});
    simple(&upstream, "app", "v1", 1);
    let text = configuration(&upstream, &cache, "acr", "").replace("delivery = \"warm\"", "delivery = \"push\"");
    program.write("larder.toml", text);
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(1);
    let message = run.error()["message"].as_str().unwrap();
    assert!(message.contains("blocks pushes") && message.contains("cache rule that owns the repository"), "{message}");
    program.write("larder.toml", configuration(&upstream, &cache, "acr", ""));
    cache.reset_log();
    program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    let asked = cache.requests();
    assert!(asked.iter().all(|request| matches!(request.method.as_str(), "GET" | "HEAD")), "{asked:?}");
}

#[test]
fn verify_warm_waits_until_the_import_is_done() {
    let (upstream, _cache, program) = acr(|acr| acr.lag = 1);
    multi(&upstream, "app", "v1", 1, &PLATFORMS);
    let run = program.sync(&["--image", &upstream.image("app:v1"), "--verify-warm"]).exits(0);
    assert_eq!(only(&run)["status"], "warmed");
    upstream.reset_log();
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    assert_eq!((only(&run)["status"].as_str(), reads(&upstream)), (Some("current"), (0, 0)));
}

#[test]
fn without_verification_an_import_that_is_not_done_is_pulled_again() {
    let (upstream, _cache, program) = acr(|acr| acr.lag = usize::MAX);
    multi(&upstream, "app", "v1", 1, &PLATFORMS);
    for _ in 0..2 {
        let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
        assert_eq!((only(&run)["status"].as_str(), only(&run)["pulls"].as_u64()), (Some("warmed"), Some(3)));
    }
}

#[test]
fn a_platform_that_nobody_pulled_is_not_there() {
    let (upstream, cache, program) = acr(|_| {});
    let list = multi(&upstream, "app", "v1", 1, &PLATFORMS);
    let name = upstream.image("app:v1");
    program.write("larder.toml", configuration(&upstream, &cache, "acr", "platforms = [\"linux/amd64\"]"));
    let run = program.sync(&["--image", &name, "--verify-warm"]).exits(0);
    assert_eq!((only(&run)["platforms"].clone(), only(&run)["pulls"].as_u64()), (json!(["linux/amd64"]), Some(2)));
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "current");
    // The tag is the cache's own by now, and right; arm64 is not there.
    program.write("larder.toml", configuration(&upstream, &cache, "acr", ""));
    let run = program.sync(&["--image", &name, "--verify-warm"]).exits(0);
    let row = only(&run);
    assert_eq!((row["status"].as_str(), row["digest"].as_str()), (Some("warmed"), Some(list.digest.as_str())));
    // What the cache had of its own cost the upstream nothing: only arm64 was a pull.
    assert_eq!(row["pulls"], 1);
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "current");
}

#[test]
fn a_stale_tag_is_deferred_until_the_cache_looks_again() {
    let (upstream, cache, program) = acr(|_| {});
    let old = simple(&upstream, "app", "v1", 1);
    let name = upstream.image("app:v1");
    program.sync(&["--image", &name, "--verify-warm"]).exits(0);
    let new = simple(&upstream, "app", "v1", 2);
    cache.configure(|options| options.acr.as_mut().unwrap().stale = true);
    let before = jiff::Timestamp::now();
    let run = program.sync(&["--image", &name]).exits(3);
    let row = only(&run);
    let reason = format!(
        "{} still answers {} where the upstream has {}: it asks again within 5 min",
        cache.addr(),
        old.digest.short(),
        new.digest.short()
    );
    assert_eq!((row["status"].as_str(), row["reason"].as_str()), (Some("deferred"), Some(&*reason)));
    let until: jiff::Timestamp = row["until"].as_str().unwrap().parse().unwrap();
    assert!((299..=310).contains(&until.duration_since(before).as_secs()), "{until}");
    cache.configure(|options| options.acr.as_mut().unwrap().stale = false);
    let run = program.sync(&["--image", &name]).exits(0);
    assert_eq!((only(&run)["status"].as_str(), only(&run)["digest"].as_str()), (Some("warmed"), Some(new.digest.as_str())));
}

#[test]
fn the_upstreams_limit_is_understood_through_the_cache() {
    let (upstream, _cache, program) = acr(|_| {});
    upstream.configure(|options| options.pulls = Some(Pulls { headers: false, ..Pulls::new(2, LONG) }));
    let names: Vec<String> =
        (0..6).map(|n| simple(&upstream, "app", &format!("v{n}"), n)).zip(0..).map(|(_, n)| upstream.image(&format!("app:v{n}"))).collect();
    program.list(names);
    let run = program.sync(&["list.txt", "--concurrency", "1"]).exits(3);
    assert_eq!(run.total("failed"), 0, "{}", run.stderr);
    let deferred = run.with_status("deferred");
    assert!(!deferred.is_empty());
    for row in deferred {
        assert!(row["reason"].as_str().unwrap().contains("the pull window is spent"), "{row}");
        assert!(row["until"].is_string(), "{row}");
    }
    // Whoever was told so once does not go on asking: at most what was under way.
    assert!(upstream.pull_refusals() <= 2, "{}", upstream.pull_refusals());
}

#[test]
fn a_plan_asks_by_head_and_a_cold_cache_of_unknown_kind_not_at_all() {
    let (upstream, cache, program) = acr(|_| {});
    multi(&upstream, "app", "v1", 1, &PLATFORMS);
    let name = upstream.image("app:v1");
    let plan = |program: &Program| -> Value {
        let run = program.run(&["plan", "--format", "json", "--image", &name]).exits(0);
        serde_json::from_str::<Value>(&run.stdout).unwrap()["images"][0].clone()
    };
    let row = plan(&program);
    assert_eq!((row["state"].as_str(), row["pulls_exact"].as_bool()), (Some("missing"), Some(false)));
    assert_eq!((reads(&cache), cache.count(Kind::ManifestHead)), ((0, 0), 1));
    program.write("larder.toml", configuration(&upstream, &cache, "generic", ""));
    cache.reset_log();
    assert_eq!(plan(&program)["state"], "missing");
    assert_eq!(cache.requests().len(), 0);
    // Nor does anybody know what a tag means if the upstream is not to be asked.
    program.write("larder.toml", configuration(&upstream, &cache, "generic", "upstream_check = false"));
    assert!(plan(&program)["source_digest"].is_null());
    assert_eq!((cache.requests().len(), reads(&upstream)), (0, (0, 0)));
    program.sync(&["--image", &name]).exits(0);
    cache.reset_log();
    assert_eq!(plan(&program)["state"], "current");
    assert_eq!((cache.requests().len(), cache.count(Kind::ManifestHead)), (1, 1));
}

/// The cache has what the upstream has, and an index without the last of its children under the tag.
fn trimmed(upstream: &Fake, cache: &Fake) -> (Descriptor, Descriptor) {
    let fill = |put: &Fake, repository: &str| -> Vec<Descriptor> {
        let child = |(n, platform): (u64, &&'static str)| image(put, repository, None, &ImageSpec::new([layer(n, 100)]).platform(platform));
        (1..).zip(&PLATFORMS).map(child).collect()
    };
    let children = fill(upstream, "app");
    let whole = index(upstream, "app", Some("v1"), &children);
    fill(cache, "m/app");
    index(cache, "m/app", None, &children);
    (whole, index(cache, "m/app", Some("v1"), &children[..1]))
}

#[test]
fn a_trimmed_list_is_explained_and_not_failed() {
    let (upstream, cache, program) = cache("harbor", "");
    let (whole, part) = trimmed(&upstream, &cache);
    let name = upstream.image("app:v1");
    let run = program.sync(&["--image", &name, "--verify-warm"]).exits(0);
    let row = only(&run);
    assert_eq!((row["status"].as_str(), row["digest"].as_str()), (Some("warmed"), Some(part.digest.as_str())));
    assert_eq!(row["source_digest"], whole.digest.as_str());
    let note = format!(
        "{} keeps the list of platforms without those that nobody pulled: its digest is {}, the upstream's {}",
        cache.addr(),
        part.digest.short(),
        whole.digest.short()
    );
    assert_eq!(row["notes"], json!([note]));
    // All that was wanted was pulled all the same.
    assert_eq!(cache.count(Kind::BlobGet), 4);
    let run = program.sync(&["--image", &name]).exits(0);
    assert_eq!((only(&run)["status"].as_str(), &only(&run)["notes"]), (Some("current"), &json!([note])));
}

#[test]
fn what_kind_of_cache_is_stale_decides_what_that_means() {
    for (profile, code, status, word) in [
        ("ecr", 3, "deferred", "it asks again within 24 h"),
        ("artifact-registry", 3, "deferred", "when it asks again is not known"),
        ("generic", 3, "deferred", "when it asks again is not known"),
        ("harbor", 1, "failed", "it seems that it cannot ask its upstream"),
        ("distribution-proxy", 1, "failed", "it seems that it cannot ask its upstream"),
    ] {
        let (upstream, cache, program) = cache(profile, "");
        simple(&upstream, "app", "v1", 2);
        simple(&cache, "m/app", "v1", 1);
        let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(code);
        let row = only(&run);
        let said = row["reason"].as_str().or(row["error"]["message"].as_str()).unwrap();
        assert!(row["status"] == status && said.contains(word), "{profile}: {row}");
        assert_eq!(row["until"].is_string(), profile == "ecr", "{profile}");
        assert_eq!(cache.count(Kind::BlobGet), 0, "{profile}");
    }
}

#[test]
fn an_upstream_that_does_not_let_larder_ask_is_gone_without() {
    let (upstream, cache, program) = cache("generic", "");
    upstream.configure(|options| options.auth = Auth::basic("somebody", "else"));
    let image = simple(&cache, "m/app", "v1", 1);
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    let row = only(&run);
    assert_eq!((row["status"].as_str(), row["digest"].as_str()), (Some("warmed"), Some(image.digest.as_str())));
    assert!(row["source_digest"].is_null());
    let note = row["notes"][0].as_str().unwrap();
    assert!(note.starts_with(&format!("{} does not let larder ask whether the cache is stale: ", upstream.addr())), "{note}");
    assert_eq!(only(&program.sync(&["--image", &upstream.image("app:v1")]).exits(0))["status"], "current");
    let by_digest = upstream.image(&format!("app@{}", image.digest));
    assert_eq!(only(&program.sync(&["--image", &by_digest]).exits(0))["status"], "warmed");
}

#[test]
fn an_upstream_out_of_reach_is_a_failure_that_names_the_switch() {
    let (mut upstream, cache, program) = cache("generic", "");
    simple(&cache, "m/app", "v1", 1);
    let name = upstream.image("app:v1");
    upstream.stop();
    let run = program.sync(&["--image", &name]).exits(1);
    let error = run.error();
    assert_eq!(error["side"], "upstream");
    assert!(error["message"].as_str().unwrap().contains("`upstream_check = false`"), "{error}");
}

#[test]
fn a_transfer_that_breaks_is_read_again_from_its_beginning() {
    let (upstream, cache, program) = cache("generic", "");
    let bytes = noise(3, 300_000);
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        image(registry, repository, Some("v1"), &ImageSpec::new([bytes.clone().into()]));
    }
    let blob = Digest::sha256(&bytes);
    cache.fault(Match::kind(Kind::BlobGet).reference(&blob), 1, Fault::CutBody { after: 100_000 });
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    let asked: Vec<_> = cache.requests().into_iter().filter(|request| request.reference.as_deref() == Some(blob.as_str())).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|request| request.range().is_none() && request.kind == Kind::BlobGet));
    assert_eq!(asked[1].bytes_out, 300_000);
    assert!(only(&run)["bytes"].as_u64().unwrap() >= 400_000, "{}", run.report);
}

#[test]
fn wrong_bytes_fail_the_image_and_are_no_proof() {
    let (upstream, cache, program) = cache("generic", "");
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        simple(registry, repository, "v1", 1);
    }
    let wrong = cache.requests().len();
    assert_eq!(wrong, 0);
    cache.fault(Match::kind(Kind::BlobGet), 1, Fault::WrongBody(noise(5, 50).into()));
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(1);
    assert_eq!(run.error()["side"], "target", "{}", run.stderr);
    assert_eq!(only(&program.sync(&["--image", &upstream.image("app:v1")]).exits(0))["status"], "warmed");
}

#[test]
fn blobs_are_read_asked_for_or_left_to_the_cache() {
    for (mode, gets, heads) in [("get", 3, 0), ("head", 0, 3), ("none", 0, 0)] {
        let (upstream, cache, program) = cache("generic", &format!("blobs = \"{mode}\""));
        let layers = || ImageSpec::new([layer(1, 1000), layer(2, 1000)]);
        for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
            image(registry, repository, Some("v1"), &layers());
        }
        program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
        assert_eq!((cache.count(Kind::BlobGet), cache.count(Kind::BlobHead)), (gets, heads), "{mode}");
        // What was pulled less thoroughly proves nothing to who asks for more.
        program.write("larder.toml", configuration(&upstream, &cache, "generic", "blobs = \"get\""));
        let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
        assert_eq!(only(&run)["status"] == "current", mode == "get", "{mode}");
    }
}

#[test]
fn a_blob_is_pulled_once_into_each_repository_that_needs_it() {
    let (upstream, cache, program) = cache("generic", "");
    let shared = layer(1, 5000);
    let mut names = vec![];
    for (repository, tag, own) in [("one", "v1", 2), ("one", "v2", 3), ("two", "v1", 4)] {
        for (registry, repository) in [(&upstream, repository.to_owned()), (&cache, format!("m/{repository}"))] {
            image(registry, &repository, Some(tag), &ImageSpec::new([shared.clone(), layer(own, 10)]));
        }
        names.push(upstream.image(&format!("{repository}:{tag}")));
    }
    program.list(names);
    program.sync_list().exits(0);
    let digest = Digest::sha256(&shared);
    let mut read: Vec<String> = cache
        .requests()
        .into_iter()
        .filter(|request| request.kind == Kind::BlobGet && request.reference.as_deref() == Some(digest.as_str()))
        .map(|request| request.repository.unwrap())
        .collect();
    read.sort();
    assert_eq!(read, ["m/one", "m/two"]);
}

#[test]
fn another_target_is_copied_to_and_the_cache_left_alone() {
    let (upstream, cache, program) = cache("generic", "");
    simple(&upstream, "app", "v1", 1);
    let other = Fake::start();
    let run = program.sync(&["--image", &upstream.image("app:v1"), "--to", &other.addr()]).exits(0);
    assert_eq!((only(&run)["status"].as_str(), cache.requests().len()), (Some("copied"), 0));
    program.sync(&["--image", &upstream.image("app:v1"), "--to", "oci:store"]).exits(0);
    assert_eq!((cache.requests().len(), other.tags("m/app")), (0, vec!["v1".to_owned()]));
}

#[test]
fn rules_of_both_kinds_go_side_by_side() {
    let (upstream, cache, program) = cache("generic", "");
    simple(&upstream, "app", "v1", 1);
    simple(&cache, "m/app", "v1", 1);
    let pushed = simple(&upstream, "own", "v1", 2);
    let rule = format!("[[rule]]\nname = \"own\"\nsource = \"{}/own\"\ntarget = \"own\"\n", upstream.addr());
    program.write("larder.toml", program.read("larder.toml") + &rule);
    program.list([upstream.image("app:v1"), upstream.image("own:v1")]);
    let run = program.sync_list().exits(0);
    let statuses: Vec<&str> = run.images().iter().map(|row| row["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["warmed", "copied"]);
    assert_eq!((cache.digest("own", "v1"), cache.count(Kind::ManifestPut)), (Some(pushed.digest), 1));
}

#[test]
fn what_the_cache_does_not_serve_is_said_with_the_name_it_would_have() {
    for (profile, remedy) in [
        ("harbor", "under `<prefix>/team/app`: give the rule such a target"),
        ("distribution-proxy", "under its own name, `team/app`: give the rule that target"),
        ("acr", "see that a rule of the cache serves"),
    ] {
        let (upstream, cache, program) = cache(profile, "");
        simple(&upstream, "team/app", "v1", 1);
        let text = program.read("larder.toml").replace("/*\"\ntarget = \"m/*\"", "/team/*\"\ntarget = \"m/*\"");
        program.write("larder.toml", text);
        let run = program.sync(&["--image", &upstream.image("team/app:v1")]).exits(1);
        let error = run.error();
        assert_eq!((error["side"].as_str(), error["status"].as_u64()), (Some("target"), Some(404)));
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("{} does not serve m/app:v1 through its cache", cache.addr())), "{message}");
        assert!(message.contains(remedy), "{profile}: {message}");
    }
}

#[test]
fn a_tag_cannot_be_renamed_by_a_cache() {
    let (upstream, _cache, program) = cache("generic", "");
    simple(&upstream, "app", "v1", 1);
    program.write("list.csv", format!("image,target\n{},m/app:other\n", upstream.image("app:v1")));
    let run = program.sync(&["list.csv"]).exits(1);
    assert!(run.error()["message"].as_str().unwrap().contains("as its upstream names it, not as `other`"), "{}", run.stderr);
}

#[test]
fn the_rules_account_pays_for_what_the_cache_pulls() {
    let (upstream, cache, mut program) = cache("generic", "credentials = \"hub\"");
    upstream.configure(|options| {
        options.pulls = Some(Pulls::new(100, LONG));
        options.auth = Auth::tokens("bob", "secret");
    });
    program.set("HUB_PASSWORD", "secret");
    let set = format!(
        "[[credentials]]\nname = \"hub\"\nlogin_server = \"{}\"\nusername = \"bob\"\npassword = {{ env = \"HUB_PASSWORD\" }}\n",
        upstream.addr()
    );
    program.write("larder.toml", program.read("larder.toml") + &set);
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        multi(registry, repository, "v1", 1, &PLATFORMS);
    }
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    let row = run.registry(&upstream.addr());
    // The index by its tag and by its digest, as this cache may keep answers by their address; and two children.
    assert_eq!(
        (row["account"].as_str(), row["pulls"]["spent"].as_u64(), row["pulls"]["limit"].as_u64()),
        (Some("hub"), Some(4), Some(100))
    );
    assert!(run.stderr.contains(&format!("pulls spent: {} 4", upstream.addr())), "{}", run.stderr);
}

#[test]
fn explain_says_that_a_cache_is_warmed_and_who_pays() {
    let program = Program::new();
    program.write(
        "larder.toml",
        "version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\n\
         [[rule]]\nname = \"hub\"\nsource = \"docker.io/library/*\"\ntarget = \"library/*\"\ndelivery = \"warm\"\n",
    );
    let run = program.run(&["rules", "explain", "alpine:3.20"]).exits(0);
    let line = |key: &str| run.stdout.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
    assert_eq!(line("delivery: "), "warm");
    assert_eq!(
        line("pulls: "),
        "0 if the cache is proved to have it; else, through the cache, 1 for a single image, or 1 for an index and 1 for each of its platforms"
    );
}

#[test]
fn a_remembered_pull_is_believed_for_the_time_that_the_rule_says() {
    let (upstream, cache, program) = cache("generic", "warm_ttl = \"1h\"");
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        simple(registry, repository, "v1", 1);
    }
    let name = upstream.image("app:v1");
    program.sync(&["--image", &name]).exits(0);
    let state = "home/state/larder/warmed.jsonl";
    let age = |hours: i64| {
        let mut line: Value = serde_json::from_str(program.read(state).lines().last().unwrap()).unwrap();
        let at = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_mins(60 * hours - 5)).unwrap();
        line["at"] = at.to_string().into();
        program.write(state, line.to_string() + "\n");
    };
    age(1);
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "current");
    age(2);
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "warmed");
    // Another cache, or the same under another name, is another cache.
    let text = program.read("larder.toml").replace("target = \"m/*\"", "target = \"n/*\"");
    program.write("larder.toml", text);
    simple(&cache, "n/app", "v1", 1);
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "warmed");
}

#[test]
fn an_immutable_tag_that_is_proved_to_be_there_asks_nobody() {
    let (upstream, cache, program) = cache("generic", "immutable_tags = [\"v*\"]");
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        simple(registry, repository, "v1", 1);
    }
    let name = upstream.image("app:v1");
    program.sync(&["--image", &name]).exits(0);
    upstream.reset_log();
    cache.reset_log();
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "current");
    assert_eq!((upstream.requests().len(), cache.requests().len()), (0, 0));
}

#[test]
fn an_ecr_cache_pulls_the_whole_list_and_that_is_charged() {
    let (upstream, cache, program) = cache("ecr", "platforms = [\"linux/amd64\"]");
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        multi(registry, repository, "v1", 1, &PLATFORMS);
    }
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    assert_eq!((only(&run)["pulls"].as_u64(), cache.count(Kind::ManifestGet)), (Some(3), 2));
}

#[test]
fn what_the_cache_goes_on_passing_on_is_said_and_proves_nothing() {
    let (upstream, cache, program) = cache("generic", "");
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        image(registry, repository, Some("v1"), &ImageSpec::new([layer(1, 1000), layer(2, 1000)]));
    }
    let blob = Digest::sha256(&layer(1, 1000));
    // As Distribution's proxy marks what it does not have yet: the digest without quotes.
    for kind in [Kind::BlobGet, Kind::BlobHead] {
        cache.fault(Match::kind(kind).reference(&blob), FOREVER, Fault::Header { name: "etag", value: Some(blob.to_string()) });
    }
    let name = upstream.image("app:v1");
    let run = program.sync(&["--image", &name]).exits(0);
    let note = format!("{} has not stored all of it yet: 1 blob still comes from its upstream", cache.addr());
    assert_eq!((only(&run)["status"].as_str(), &only(&run)["notes"]), (Some("warmed"), &json!([note])));
    assert!(cache.requests().iter().all(|request| request.kind != Kind::BlobHead || request.reference.as_deref() == Some(blob.as_str())));
    cache.clear_faults();
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "warmed");
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "current");
}

#[test]
fn what_refers_to_an_image_is_pulled_by_its_tags() {
    let (upstream, cache, program) = cache("generic", "");
    upstream.configure(|options| options.referrers = false);
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        let image = simple(registry, repository, "v1", 1);
        cosign_signature(registry, repository, &image);
    }
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    let row = only(&run);
    assert_eq!((row["status"].as_str(), row["referrers"].as_u64(), row["pulls"].as_u64()), (Some("warmed"), Some(1), Some(3)));
    let tags = |request: &crate::support::fake::Request| request.reference.as_ref().is_some_and(|reference| reference.ends_with(".sig"));
    assert_eq!(cache.count_matching(|request| request.kind == Kind::ManifestGet && tags(request)), 1);
    assert_eq!(cache.count(Kind::Referrers), 0);
    cache.reset_log();
    assert_eq!(only(&program.sync(&["--image", &upstream.image("app:v1")]).exits(0))["status"], "current");
    assert_eq!(cache.requests().len(), 0);
}

#[test]
fn tags_are_listed_at_the_cache_where_its_upstream_is_out_of_reach() {
    let (mut upstream, cache, program) = cache("generic", "upstream_check = false");
    for (tag, seed) in [("v1", 1), ("v2", 2), ("latest", 3)] {
        simple(&cache, "m/app", tag, seed);
    }
    upstream.stop();
    program.write("list.csv", format!("image,tags\n{},v*\n", upstream.image("app")));
    let run = program.sync(&["list.csv"]).exits(0);
    assert_eq!((run.total("images"), run.total("warmed")), (2, 2));
    assert_eq!(program.sync(&["list.csv"]).exits(0).total("current"), 2);
}

#[test]
fn a_digest_is_pulled_as_it_is_and_the_tag_left_to_the_upstream() {
    let (upstream, cache, program) = cache("generic", "");
    let old = simple(&cache, "m/app", "v1", 1);
    simple(&cache, "m/app", "v1", 2);
    simple(&upstream, "app", "v1", 2);
    let name = upstream.image(&format!("app:v1@{}", old.digest));
    let run = program.sync(&["--image", &name]).exits(0);
    assert_eq!(only(&run)["digest"], old.digest.as_str());
    assert_eq!(only(&run)["notes"], json!(["it was pulled by its digest; what `v1` means at the cache, its upstream decides"]));
    let asked: Vec<_> = cache.requests().into_iter().filter(|request| request.kind == Kind::ManifestGet).collect();
    assert_eq!((asked.len(), asked[0].reference.as_deref()), (1, Some(old.digest.as_str())));
    assert_eq!(only(&program.sync(&["--image", &name]).exits(0))["status"], "current");
}

#[test]
fn a_single_image_for_another_platform_fails_each_time() {
    for profile in ["acr", "generic"] {
        let (upstream, cache, program) = cache(profile, "platforms = [\"linux/arm64\"]");
        for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
            simple(registry, repository, "v1", 1);
        }
        for _ in 0..2 {
            let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(1);
            assert!(run.error()["message"].as_str().unwrap().contains("linux/amd64"), "{profile}: {}", run.stderr);
        }
        program.write("larder.toml", configuration(&upstream, &cache, profile, "platforms = [\"linux/amd64\"]"));
        assert_eq!(only(&program.sync(&["--image", &upstream.image("app:v1")]).exits(0))["status"], "warmed");
        assert_eq!(only(&program.sync(&["--image", &upstream.image("app:v1")]).exits(0))["status"], "current");
    }
}

#[test]
fn a_large_blob_is_not_kept_in_memory() {
    const SIZE: u64 = 512 << 20;
    // What the benches hold one blob of any size to (`benches/memory.rs`).
    const MOST: u64 = 64 << 20;
    let (upstream, cache, program) = cache("generic", "");
    for (registry, repository) in [(&upstream, "app"), (&cache, "m/app")] {
        let config = registry.put_blob(repository, b"{}".as_slice());
        let large = registry.put_fill(repository, 1, SIZE);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "config": Descriptor::new(OCI_CONFIG, config, 2),
            "layers": [Descriptor::new(OCI_LAYER, large, SIZE)],
        });
        registry.put_manifest(repository, Some("v1"), OCI_IMAGE, manifest.to_string());
    }
    let mut started = program.start(&["sync", "--image", &upstream.image("app:v1"), "--report", "report.json"]);
    let mut peak = 0;
    while started.is_running() {
        peak = peak.max(started.peak_memory().unwrap_or(0));
        std::thread::sleep(crate::support::room::GLANCE);
    }
    let report: Value = serde_json::from_str(&program.read("report.json")).unwrap();
    assert_eq!(report["totals"]["warmed"], 1, "{report}");
    assert!(report["totals"]["bytes_read"].as_u64().unwrap() > SIZE);
    assert!(peak < MOST, "{} MiB", peak >> 20);
    println!("peak {} MiB", peak >> 20);
}

#[test]
fn a_cache_of_unknown_kind_that_says_its_origin_is_believed() {
    let (upstream, cache, program) = acr(|acr| acr.lag = 1);
    program.write("larder.toml", configuration(&upstream, &cache, "generic", ""));
    multi(&upstream, "app", "v1", 1, &PLATFORMS);
    let name = upstream.image("app:v1");
    // Its own answers alone end the waiting: without that, HEADs would do at once.
    program.sync(&["--image", &name, "--verify-warm"]).exits(0);
    let origin = |request: &crate::support::fake::Request| request.kind == Kind::ManifestHead;
    assert_eq!(cache.count_matching(origin), 6);
}

#[test]
fn what_a_cache_does_not_give_beside_the_image_is_a_note() {
    // zot, which syncs on demand, gives the image and no fallback tag of its referrers.
    let (upstream, cache, program) = cache("generic", "");
    upstream.configure(|options| options.referrers = false);
    let image = simple(&upstream, "app", "v1", 1);
    simple(&cache, "m/app", "v1", 1);
    let signature = artifact(&upstream, "app", None, "application/vnd.example.signature", "signed", Some(&image));
    let tag = format!("sha256-{}", image.digest.encoded());
    index(&upstream, "app", Some(&tag), &[signature]);
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    let row = only(&run);
    assert_eq!(row["status"], "warmed");
    let note = format!("{} does not serve m/app:{tag}, which is about the image: it is not warmed", cache.addr());
    assert_eq!(row["notes"], json!([note]), "{row}");
    // The same for a signature that a tag of cosign's names.
    cosign_signature(&upstream, "app", &image);
    upstream.untag("app", &tag);
    let run = program.sync(&["--image", &upstream.image("app:v1"), "--recheck"]).exits(0);
    assert!(
        only(&run)["status"] == "warmed" && only(&run)["notes"].to_string().contains(".sig, which is about the image"),
        "{}",
        run.report
    );
}

#[test]
fn a_424_of_a_cache_is_temporary_and_says_whom_to_ask() {
    let (upstream, cache, program) = acr(|_| {});
    simple(&upstream, "app", "v1", 1);
    let answer = || Fault::Status { code: 424, headers: vec![], body: "".into() };
    cache.fault(Match::kind(Kind::ManifestGet), 2, answer());
    let run = program.sync(&["--image", &upstream.image("app:v1")]).exits(0);
    assert_eq!((only(&run)["status"].as_str(), cache.faults_left()), (Some("warmed"), 0));
    // A list of referrers that is answered so is no list, and is not asked for again and again.
    simple(&upstream, "other", "v1", 2);
    cache.fault(Match::kind(Kind::Referrers), FOREVER, answer());
    cache.reset_log();
    let run = program.sync(&["--image", &upstream.image("other:v1")]);
    assert!(cache.count(Kind::Referrers) <= 1, "{}", run.report);
}
