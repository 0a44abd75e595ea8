//! `larder plan`: how every image stands, found out by HEADs alone.

use crate::support::corpus::simple;
use crate::support::fake::{Fake, Kind};
use crate::support::program::Program;
use insta::assert_snapshot;
use serde_json::Value;

/// An image of each state, and who is to plan for them.
fn states() -> (Fake, Fake, Program) {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for (number, tag) in ["current", "moved"].iter().enumerate() {
        simple(&upstream, "app", tag, number as u64 + 1);
    }
    program.list([upstream.image("app:current"), upstream.image("app:moved")]);
    program.sync_list().exits(0);
    simple(&upstream, "app", "moved", 3);
    simple(&upstream, "app", "missing", 4);
    program.write(
        "list.csv",
        format!("image,tags\n{0}:current,\n{0}:moved,\n{0}:missing,\n{0}:gone,\nquay.io/x/y:1,\nNot OK,\n", upstream.image("app")),
    );
    upstream.reset_log();
    target.reset_log();
    (upstream, target, program)
}

#[test]
fn tags_of_one_digest_are_planned_and_pulled_once() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for (repository, tag) in [("app", "v1"), ("app", "v2"), ("other", "v1")] {
        simple(&upstream, repository, tag, 2);
    }
    program.list(["app:v1", "app:v2", "other:v1"].map(|name| upstream.image(name)));
    let plan = program.run(&["plan", "list.txt"]).exits(0);
    assert!(plan.stderr.contains(": about 1 (at most 3) pulls for 1 image;"), "{}", plan.stderr);
    program.run(&["sync", "list.txt"]).exits(0);
    assert_eq!(upstream.count(Kind::ManifestGet), 1);
}

#[test]
fn the_table_says_how_each_image_stands() {
    let (upstream, target, program) = states();
    let run = program.run(&["plan", "list.csv"]);
    // The width of the second column is that of the longest address.
    let text = run
        .shown(&[(&upstream, "UPSTREAM"), (&target, "TARGET")])
        .lines()
        .map(|line| line.split("  ").filter(|part| !part.is_empty()).map(str::trim).collect::<Vec<_>>().join(" | "))
        .collect::<Vec<_>>()
        .join("\n");
    assert_snapshot!(text, @r#"
    current | UPSTREAM/app:current | TARGET/m/app:current | c4ef96b34774
    moved | UPSTREAM/app:moved | TARGET/m/app:moved | 43b9044e39aa -> b35e13ca41f3
    missing | UPSTREAM/app:missing | TARGET/m/app:missing | 53d1953a34ef
    unresolvable UPSTREAM/app:gone | TARGET/m/app:gone
    unresolvable quay.io/x/y:1
    unresolvable Not OK,
    ---
    error: list.csv:5: upstream: resolve tag UPSTREAM/app:gone: 404 MANIFEST_UNKNOWN the upstream has no such tag or repository (check the name and tag in the list)
    error: list.csv:6: local: resolve quay.io/x/y:1: no cache rule covers quay.io/x/y; the nearest is "u0" (UPSTREAM/* to m/*) (add a rule to larder.toml, or use --unmatched mirror)
    error: list.csv:7: `Not OK`: repository names are lower case
    6 images: 1 current, 1 missing, 1 moved, 3 unresolvable; no pull was spent
    UPSTREAM (anonymous): 2 pulls for 2 images; no pull limit known; 2 images of unknown size
    exit 1
    "#);
    for registry in [&upstream, &target] {
        assert_eq!(registry.requests().len(), registry.count(Kind::ManifestHead), "HEADs alone");
    }
    assert_eq!(upstream.requests().len(), 4);
    // And nothing has been done.
    assert!(target.digest("m/app", "missing").is_none());
}

#[test]
fn the_json_has_the_same_and_more() {
    let (upstream, target, program) = states();
    let run = program.run(&["plan", "list.csv", "--format", "json"]).exits(1);
    let plan: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&plan["version"], plan["target"].as_str()), (&1.into(), Some(target.addr().as_str())));
    assert_eq!(plan["totals"], serde_json::json!({"images": 6, "current": 1, "missing": 1, "moved": 1, "unresolvable": 3}));
    let rows = plan["images"].as_array().unwrap();
    let states: Vec<&str> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["current", "moved", "missing", "unresolvable", "unresolvable", "unresolvable"]);
    let at = |registry: &Fake, repository: &str, tag: &str| registry.digest(repository, tag).unwrap().to_string();
    assert_eq!(rows[1]["source_digest"], at(&upstream, "app", "moved"));
    assert_eq!(rows[1]["target_digest"], at(&target, "m/app", "moved"));
    assert_eq!((&rows[2]["target_digest"], &rows[2]["error"]), (&Value::Null, &Value::Null));
    assert_eq!((&rows[0]["rule"], &rows[0]["line"]), (&"u0".into(), &2.into()));
    assert!(rows[3]["error"].as_str().unwrap().contains("404"));
}

#[test]
fn a_plan_with_work_to_do_ends_with_0() {
    let (upstream, _target, program) = states();
    program.list(["app:current", "app:moved", "app:missing"].map(|name| upstream.image(name)));
    program.run(&["plan", "list.txt"]).exits(0);
    let quiet = program.run(&["plan", "list.txt", "-q"]).exits(0);
    assert_eq!((quiet.stdout.lines().count(), quiet.stderr.as_str()), (3, ""));
}

#[test]
fn globs_are_listed_and_explained_without_a_pull() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for (number, tag) in ["1.1", "1.2", "1.2-rc1", "2.0"].iter().enumerate() {
        simple(&upstream, "app", tag, number as u64 + 1);
    }
    program.write("list.csv", format!("image,tags,exclude\n{},1.*,*-rc*\n", upstream.image("app")));
    let run = program.run(&["plan", "list.csv", "--explain"]).exits(0);
    assert_snapshot!(run.shown(&[(&upstream, "UPSTREAM"), (&target, "TARGET")]), @"
    selected     UPSTREAM/app: 4 tags listed, 4 candidates, 3 matched, 1 excluded
    missing      UPSTREAM/app:1.1  TARGET/m/app:1.1  c4ef96b34774
    missing      UPSTREAM/app:1.2  TARGET/m/app:1.2  43b9044e39aa
    ---
    2 images: 0 current, 2 missing, 0 moved, 0 unresolvable; no pull was spent
    UPSTREAM (anonymous): 2 pulls for 2 images; no pull limit known; 2 images of unknown size
    exit 0
    ");
    assert_eq!((upstream.count(Kind::Tags), upstream.count(Kind::ManifestGet)), (1, 0));
}

#[test]
fn a_plan_for_a_layout_that_is_not_there_makes_none() {
    let (upstream, program) = (Fake::start(), Program::new());
    simple(&upstream, "app", "v1", 1);
    let run = program.run(&["plan", "--image", &upstream.image("app:v1")]).exits(0);
    assert!(run.stdout.starts_with("missing "), "{}", run.stdout);
    assert!(!program.path("larder-store").exists());
}
