//! The lock: written by a run, read by a frozen one, compared by a plan.

use crate::support::corpus::{multi, simple};
use crate::support::fake::{Fake, Kind};
use crate::support::program::Program;
use serde_json::Value;

/// An upstream, a target, and a program that copies `app:v1`, `app:v2` and `other:1` with a lock.
struct Stage {
    upstream: Fake,
    target: Fake,
    program: Program,
}

impl Stage {
    fn new() -> Self {
        let stage = Stage { upstream: Fake::start(), target: Fake::start(), program: Program::new() };
        simple(&stage.upstream, "app", "v1", 1);
        simple(&stage.upstream, "app", "v2", 2);
        multi(&stage.upstream, "other", "1", 3, &["linux/amd64", "linux/arm64"]);
        stage.program.configure(&stage.target, &[&stage.upstream]);
        stage.list(&["app:v1", "app:v2", "other:1"]);
        stage
    }
    fn list(&self, images: &[&str]) {
        self.program.list(images.iter().map(|image| self.upstream.image(image)));
    }
    fn sync(&self, more: &[&str]) -> crate::support::program::Run {
        self.program.sync(&[&["list.txt", "--lock", "larder.lock"], more].concat())
    }
    fn lock(&self) -> Value {
        serde_json::from_str(&self.program.read("larder.lock")).unwrap()
    }
    fn names(&self) -> Vec<String> {
        self.lock()["images"].as_array().unwrap().iter().map(|record| record["target"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn what_is_delivered_is_recorded_what_fails_keeps_its_record_and_what_is_not_listed_goes() {
    let stage = Stage::new();
    stage.sync(&[]).exits(0);
    assert_eq!(stage.names(), ["m/app:v1", "m/app:v2", "m/other:1"]);
    let lock = stage.lock();
    let other = &lock["images"][2];
    assert_eq!(other["source"], stage.upstream.image("other:1"));
    assert_eq!((&other["index"], &other["platforms"]), (&"whole".into(), &serde_json::json!(["linux/amd64", "linux/arm64"])));
    assert_eq!(other["children"].as_array().unwrap().len(), 2);
    assert_eq!(other["digest"], other["source_digest"]);
    // A night with nothing new writes the same bytes, and reads no manifest anywhere.
    let before = (stage.program.read("larder.lock"), stage.upstream.count(Kind::ManifestGet), stage.target.count(Kind::ManifestGet));
    stage.sync(&[]).exits(0);
    let after = (stage.program.read("larder.lock"), stage.upstream.count(Kind::ManifestGet), stage.target.count(Kind::ManifestGet));
    assert_eq!(before, after);
    // v1 moves, v2 disappears, other is no longer listed.
    simple(&stage.upstream, "app", "v1", 9);
    stage.upstream.untag("app", "v2");
    stage.list(&["app:v1", "app:v2"]);
    stage.sync(&[]).exits(1);
    let now = stage.lock();
    assert_eq!(stage.names(), ["m/app:v1", "m/app:v2"]);
    assert_ne!(now["images"][0]["digest"], lock["images"][0]["digest"]);
    assert_eq!(now["images"][1], lock["images"][1]);
}

#[test]
fn a_frozen_run_delivers_the_lock_whatever_tags_do_now_with_no_tag_request() {
    let stage = Stage::new();
    stage.sync(&[]).exits(0);
    let locked = stage.lock();
    for (repository, tag) in [("app", "v1"), ("app", "v2"), ("other", "1")] {
        simple(&stage.upstream, repository, tag, 77);
    }
    let fresh = Fake::start();
    stage.program.configure(&fresh, &[&stage.upstream]);
    stage.upstream.reset_log();
    let run = stage.program.sync(&["--lock", "larder.lock", "--frozen", "list.txt"]).exits(0);
    assert_eq!(run.total("copied"), 3);
    for record in locked["images"].as_array().unwrap() {
        let (repository, tag) = record["target"].as_str().unwrap().rsplit_once(':').unwrap();
        assert_eq!(fresh.digest(repository, tag).unwrap().to_string(), record["digest"].as_str().unwrap());
    }
    assert_eq!(stage.upstream.count(Kind::Tags), 0);
    assert_eq!(stage.upstream.count(Kind::ManifestHead), 0);
    assert_eq!(stage.lock(), locked, "a frozen run only reads it");
    assert_eq!(run.images()[0]["file"], "larder.lock");
    // Without the lock there is nothing to be frozen.
    let run = stage.program.run(&["sync", "--lock", "none.lock", "--frozen"]).exits(2);
    assert_eq!(run.stderr, "error: local: read lock: none.lock: there is no such file (write it with `larder sync --lock FILE` first)\n");
}

#[test]
fn a_plan_shows_drift_with_exit_status_1() {
    let stage = Stage::new();
    stage.sync(&[]).exits(0);
    let run = stage.program.run(&["plan", "--lock", "larder.lock"]).exits(0);
    assert!(run.stderr.contains("larder.lock: no differences\n"), "{}", run.stderr);
    simple(&stage.upstream, "app", "v1", 9);
    stage.target.untag("m/app", "v2");
    let run = stage.program.run(&["plan", "--lock", "larder.lock"]).exits(1);
    let drift: Vec<&str> = run.stdout.lines().filter(|line| line.starts_with("drift ")).collect();
    assert_eq!(drift.len(), 2, "{}", run.stdout);
    assert!(
        drift[0].contains("(m/app:v1): upstream moved, locked sha256:") && drift[1].contains("(m/app:v2): target differs, locked sha256:")
    );
    let json = stage.program.run(&["plan", "--lock", "larder.lock", "--format", "json"]).exits(1);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["drift"][0]["what"], &json["drift"][1]["found"]), (&"upstream moved".into(), &Value::Null));
    // With a list, what only one of the two knows is told as well.
    simple(&stage.upstream, "app", "v3", 4);
    stage.list(&["app:v3", "other:1"]);
    let run = stage.program.run(&["plan", "--lock", "larder.lock", "list.txt"]).exits(1);
    let told: Vec<&str> = run.stdout.lines().filter_map(|line| line.strip_prefix("drift ")).collect();
    assert_eq!(told.len(), 3);
    assert!(told[0].contains("not locked") && told[1].contains("not listed") && told[2].contains("not listed"), "{told:?}");
}
