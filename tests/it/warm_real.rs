//! `delivery = "warm"` through Debian's docker-registry as a pull-through cache in front of the fake upstream.

use crate::support::corpus::{self, ImageSpec};
use crate::support::fake::{Fake, Kind, Options, Pulls};
use crate::support::layer::layer;
use crate::support::limited::LONG;
use crate::support::program::Program;
use crate::support::real::{DockerRegistry, require, skopeo_ok};

const PLATFORMS: [&str; 3] = ["linux/amd64", "linux/arm64", "linux/s390x"];

/// An upstream, a cache in front of it, and a program whose rule warms the cache.
struct Scene {
    upstream: Fake,
    cache: DockerRegistry,
    program: Program,
}

/// A scene whose cache is known for what it is.
fn scene(options: Options, rule: &str) -> Option<Scene> {
    let upstream = Fake::with(options);
    let cache = DockerRegistry::start_proxy(&upstream.url())?;
    let program = Program::new();
    let scene = Scene { upstream, cache, program };
    scene.rule(rule);
    Some(scene)
}

impl Scene {
    /// The configuration, with more lines for its only rule.
    fn rule(&self, more: &str) {
        let (cache, upstream) = (self.cache.addr(), self.upstream.addr());
        let rule = format!("[[rule]]\nname = \"all\"\nsource = \"{upstream}/*\"\ntarget = \"*\"\ndelivery = \"warm\"\n{more}\n");
        let profile = format!("[registry.\"{cache}\"]\nprofile = \"distribution-proxy\"\n");
        self.program.write("larder.toml", format!("version = 1\n[target]\nregistry = \"{cache}\"\n{rule}{profile}"));
    }

    /// An index, another of its tags, a single image, and an image of another repository that shares a layer with it.
    fn stock(&self) -> Vec<String> {
        let upstream = &self.upstream;
        let list = corpus::multi(upstream, "team/multi", "v1", 1, &PLATFORMS);
        upstream.tag("team/multi", "latest", &list.digest);
        let shared = layer(7, 200_000);
        corpus::image(upstream, "team/one", Some("v1"), &ImageSpec::new([shared.clone(), layer(8, 100)]));
        corpus::image(upstream, "other/two", Some("v2"), &ImageSpec::new([shared, layer(9, 100)]).docker());
        let names: Vec<String> =
            ["team/multi:v1", "team/multi:latest", "team/one:v1", "other/two:v2"].iter().map(|name| upstream.image(name)).collect();
        self.program.list(names.clone());
        names
    }

    /// What was asked of the upstream since the last look: manifests and blobs read.
    fn read_upstream(&self) -> (usize, usize) {
        let counts = (self.upstream.count(Kind::ManifestGet), self.upstream.count(Kind::BlobGet));
        self.upstream.reset_log();
        counts
    }
}

#[test]
fn the_cache_serves_every_image_without_its_upstream() {
    let Some(mut scene) = scene(Options::default(), "") else { return };
    let names = scene.stock();
    let run = scene.program.sync(&["list.txt"]).exits(0);
    assert_eq!((run.total("images"), run.total("warmed")), (4, 4), "{}", run.stderr);
    let (manifests, _) = scene.read_upstream();
    assert_eq!(manifests, 1 + PLATFORMS.len() + 2);
    scene.upstream.stop();
    if !require("skopeo") {
        return;
    }
    for name in names {
        let path = name.split_once('/').unwrap().1;
        let from = format!("docker://{}/{path}", scene.cache.addr());
        let to = format!("dir:{}", scene.program.path(&path.replace(['/', ':'], "-")).display());
        skopeo_ok(["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to]).unwrap();
    }
}

#[test]
fn a_second_run_pulls_nothing_and_one_without_state_costs_the_upstream_nothing() {
    let Some(scene) = scene(Options::default(), "") else { return };
    scene.stock();
    let run = scene.program.sync(&["list.txt", "--verify-warm"]).exits(0);
    assert_eq!(run.total("warmed"), 4);
    assert!(run.total("bytes_read") > 400_000 && run.total("bytes_written") == 0, "{}", run.report);
    scene.read_upstream();

    let run = scene.program.sync_list().exits(0);
    assert_eq!((run.total("current"), run.total("bytes_read")), (4, 0));
    assert_eq!(scene.read_upstream(), (0, 0));
    // The state is the proof: the cache is not asked at all, the upstream once for each tag.
    let requests = &run.registry(&scene.cache.addr())["requests"];
    assert!(requests.as_object().unwrap().values().all(|count| *count == 0), "{requests}");
    assert_eq!(run.registry(&scene.upstream.addr())["requests"]["manifest_head"], 4);

    let run = scene.program.sync(&["list.txt", "--state", "elsewhere"]).exits(0);
    assert_eq!(run.total("warmed"), 4);
    assert_eq!(scene.read_upstream(), (0, 0));
    // What is pulled again, with everything believed lost, comes from the cache as well.
    let run = scene.program.sync(&["list.txt", "--recheck"]).exits(0);
    assert_eq!((run.total("warmed"), scene.read_upstream()), (4, (0, 0)));
}

#[test]
fn verify_warm_asks_a_cache_whose_storage_was_wiped_and_fills_it_again() {
    let Some(mut scene) = scene(Options::default(), "") else { return };
    let names = scene.stock();
    scene.program.sync_list().exits(0);
    scene.read_upstream();
    // The cache has everything: it is asked about every image, and its upstream for no content.
    let run = scene.program.sync(&["list.txt", "--verify-warm"]).exits(0);
    assert_eq!((run.total("current"), scene.read_upstream()), (4, (0, 0)));
    let requests = &run.registry(&scene.cache.addr())["requests"];
    // Four names, two indexes' and their children's manifests by digest, and each repository's blobs, once.
    let (heads, blobs) = (requests["manifest_head"].as_u64().unwrap(), requests["blob_head"].as_u64().unwrap());
    assert_eq!((heads, blobs), (4 + 2 * (1 + PLATFORMS.len() as u64) + 2, 7 + 3 + 3), "{requests}");
    assert_eq!((&requests["manifest_get"], &requests["blob_get"]), (&0.into(), &0.into()), "{requests}");

    std::fs::remove_dir_all(scene.cache.dir().join("docker")).unwrap();
    let run = scene.program.sync(&["list.txt", "--verify-warm"]).exits(0);
    assert_eq!((run.total("warmed"), run.total("current")), (4, 0), "{}", run.stderr);
    assert!(scene.read_upstream().1 > 0);
    scene.upstream.stop();
    for name in names.iter().filter(|_| require("skopeo")) {
        let path = name.split_once('/').unwrap().1;
        let from = format!("docker://{}/{path}", scene.cache.addr());
        let to = format!("dir:{}", scene.program.path(&path.replace(['/', ':'], "-")).display());
        skopeo_ok(["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to]).unwrap();
    }
}

#[test]
fn a_tag_that_moves_is_pulled_again_and_nothing_else() {
    let Some(scene) = scene(Options::default(), "") else { return };
    scene.stock();
    scene.program.sync_list().exits(0);
    let moved = corpus::simple(&scene.upstream, "team/one", "v1", 99);
    scene.upstream.reset_log();
    let run = scene.program.sync_list().exits(0);
    assert_eq!((run.total("warmed"), run.total("current")), (1, 3));
    let row = run.with_status("warmed")[0];
    assert_eq!((row["digest"].as_str(), row["pulls"].as_u64()), (Some(moved.digest.as_str()), Some(1)));
    let heads = scene.upstream.count_matching(|request| request.kind == Kind::ManifestGet);
    assert_eq!(heads, 1);
}

#[test]
fn only_the_platforms_asked_for_are_pulled_and_more_of_them_later() {
    let Some(scene) = scene(Options::default(), "platforms = [\"linux/arm64\"]") else { return };
    scene.stock();
    let name = scene.upstream.image("team/multi:v1");
    let run = scene.program.sync(&["--image", &name, "--verify-warm"]).exits(0);
    assert_eq!(run.images()[0]["platforms"], serde_json::json!(["linux/arm64"]));
    assert_eq!(scene.read_upstream().0, 2);
    scene.program.sync(&["--image", &name]).exits(0);
    assert_eq!(scene.read_upstream(), (0, 0));
    // The state proves arm64 only.
    scene.rule("");
    let run = scene.program.sync(&["--image", &name]).exits(0);
    assert_eq!((run.total("warmed"), scene.read_upstream().0), (1, 2));
    // And all platforms prove each of them.
    scene.rule("platforms = [\"linux/amd64\"]");
    assert_eq!(scene.program.sync(&["--image", &name]).exits(0).total("current"), 1);
}

#[test]
fn without_the_upstream_in_reach_the_cache_is_asked_what_a_tag_means() {
    let Some(scene) = scene(Options::default(), "upstream_check = false") else { return };
    scene.stock();
    let run = scene.program.sync(&["list.txt", "--verify-warm"]).exits(0);
    assert_eq!(run.total("warmed"), 4);
    assert!(run.images().iter().all(|row| row["source_digest"].is_null() && row["digest"].is_string()), "{}", run.report);
    // Nobody but the cache has asked it.
    let hosts: Vec<&str> = run.report["registries"].as_array().unwrap().iter().map(|row| row["host"].as_str().unwrap()).collect();
    assert_eq!(hosts, [scene.cache.addr()]);
    scene.read_upstream();
    assert_eq!(scene.program.sync_list().exits(0).total("current"), 4);
    assert_eq!(scene.read_upstream(), (0, 0));
    corpus::simple(&scene.upstream, "team/one", "v1", 99);
    let run = scene.program.sync_list().exits(0);
    assert_eq!((run.total("warmed"), run.total("current")), (1, 3));
    assert_eq!(scene.read_upstream().0, 1);
}

#[test]
fn the_upstreams_budget_is_kept_through_the_cache() {
    let pulls = Options { pulls: Some(Pulls::new(4, LONG)), ..Options::default() };
    let Some(scene) = scene(pulls, "") else { return };
    scene.stock();
    scene.program.write(
        "larder.toml",
        scene.program.read("larder.toml") + &format!("[registry.\"{}\"]\npulls = {{ limit = 4 }}\n", scene.upstream.addr()),
    );
    let run = scene.program.sync_list().exits(3);
    // Two of one pull each, and no index of four: none was refused.
    assert_eq!((scene.upstream.pull_refusals(), run.total("failed")), (0, 0), "{}", run.stderr);
    let account = format!("{} via {}", scene.upstream.addr(), scene.cache.addr());
    let row = run.registry(&account);
    assert_eq!((row["account"].as_str(), row["pulls"]["limit"].as_u64()), (Some("cache"), Some(4)));
    let spent: u64 = run.images().iter().map(|row| row["pulls"].as_u64().unwrap()).sum();
    assert_eq!((row["pulls"]["spent"].as_u64(), scene.upstream.pulls(crate::support::fake::ANONYMOUS)), (Some(spent), spent));
    let deferred = run.with_status("deferred");
    assert!(!deferred.is_empty() && deferred.iter().all(|row| row["reason"].as_str().unwrap().contains("4 needed")), "{}", run.stderr);
}

#[test]
fn a_cache_that_nobody_has_named_is_served_as_well() {
    let Some(mut scene) = scene(Options::default(), "") else { return };
    let text = scene.program.read("larder.toml").replace("profile = \"distribution-proxy\"", "");
    scene.program.write("larder.toml", text);
    let names = scene.stock();
    scene.program.sync_list().exits(0);
    assert_eq!(scene.program.sync_list().exits(0).total("current"), 4);
    scene.upstream.stop();
    let run = scene.program.sync(&["list.txt", "--recheck"]);
    assert_eq!((run.code, run.total("failed")), (1, 4), "the upstream is asked first");
    for name in names.iter().filter(|_| require("skopeo")) {
        let path = name.split_once('/').unwrap().1;
        let from = format!("docker://{}/{path}", scene.cache.addr());
        let to = format!("dir:{}", scene.program.path(&path.replace(['/', ':'], "-")).display());
        skopeo_ok(["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to]).unwrap();
    }
}

#[test]
fn a_limit_that_the_cache_meets_is_understood() {
    // The cache wraps its upstream's 429 in a 500.
    let pulls = Options { pulls: Some(Pulls { headers: false, ..Pulls::new(2, LONG) }), ..Options::default() };
    let Some(scene) = scene(pulls, "") else { return };
    scene.stock();
    let run = scene.program.sync(&["list.txt", "--concurrency", "1"]).exits(3);
    let deferred = run.with_status("deferred");
    assert!(!deferred.is_empty() && run.total("failed") == 0, "{}", run.stderr);
    for row in deferred {
        assert!(row["reason"].as_str().unwrap().contains("the pull window is spent") && row["until"].is_string(), "{row}");
    }
    // One request at a time: the first refusal is the last.
    assert_eq!(scene.upstream.pull_refusals(), 1);
    // The next run knows it before it asks.
    let before = scene.upstream.pull_refusals();
    scene.program.sync_list().exits(3);
    assert_eq!(scene.upstream.pull_refusals(), before);
}
