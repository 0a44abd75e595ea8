//! Which tags a line's terms choose, and what choosing asks of upstream and target, counted by the registries themselves.

use std::collections::HashMap;
use std::time::Duration;

use crate::support::corpus::{ImageSpec, image, index, simple};
use crate::support::fake::{Fake, Kind, Options, Pulls};
use crate::support::layer::layer;
use crate::support::limited::{LONG, limited, pulled_twice};
use crate::support::program::{Program, Run, configuration};
use insta::assert_snapshot;
use larder::content::Descriptor;

/// A date in 2026, by the day of the year's first months.
fn day(day: u32) -> String {
    format!("2026-{:02}-{:02}T00:00:00Z", 1 + day / 28, 1 + day % 28)
}

/// An image of one small layer, created on that day.
fn dated(upstream: &Fake, tag: &str, seed: u64, created: &str) -> Descriptor {
    image(upstream, "app", Some(tag), &ImageSpec::new([layer(seed, 300)]).created(created))
}

/// An index of two platforms, created on that day.
fn dated_index(upstream: &Fake, tag: &str, seed: u64, created: &str) -> Descriptor {
    let child = |seed, platform| image(upstream, "app", None, &ImageSpec::new([layer(seed, 300)]).created(created).platform(platform));
    index(upstream, "app", Some(tag), &[child(seed, "linux/amd64"), child(seed + 1, "linux/arm64")])
}

/// Upstream, target and who fills one from the other by `list.csv`.
fn setting(options: Options, list: &str) -> (Fake, Fake, Program) {
    let (upstream, target, program) = (Fake::with(options), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.write("list.csv", list.replace("APP", &upstream.image("app")));
    (upstream, target, program)
}

fn delivered(target: &Fake) -> Vec<String> {
    let mut tags = target.tags("m/app");
    tags.sort();
    tags
}

/// How many of these were requested more than once, with success.
fn read_twice(registry: &Fake, kind: Kind) -> Vec<String> {
    let mut given: HashMap<String, usize> = HashMap::new();
    for request in registry.requests().into_iter().filter(|request| request.kind == kind && request.status == Some(200)) {
        *given.entry(request.reference.unwrap()).or_default() += 1;
    }
    given.into_iter().filter(|(_, times)| *times > 1).map(|(digest, _)| digest).collect()
}

#[test]
fn the_latest_3_of_400_tags_cost_one_listing_and_no_pull_to_choose() {
    let (upstream, target, program) =
        setting(Options { page: Some(100), ..Options::default() }, "image,tags,exclude\nAPP,semver:>=1;latest:3,/^1\\.39\\.7$/\n");
    let images: Vec<Descriptor> = (0..4).map(|seed| simple(&upstream, "app", "latest", 1 + seed)).collect();
    for tag in 0..400usize {
        // In no order a version sort would leave alone.
        let tag = (tag * 7) % 400;
        upstream.tag("app", &format!("1.{}.{}", tag / 10, tag % 10), &images[tag % 4].digest);
    }
    upstream.reset_log();
    let plan = program.run(&["plan", "list.csv", "--explain"]).exits(0);
    assert!(
        plan.stdout.contains("app: 401 tags listed, 401 candidates, 400 matched, 1 excluded, 396 cut by latest: 3 selected"),
        "{}",
        plan.stdout
    );
    assert_eq!((upstream.count(Kind::Tags), upstream.count(Kind::ManifestGet)), (5, 0), "401 tags in pages of 100");
    assert_eq!(upstream.count(Kind::ManifestHead), 3);

    upstream.reset_log();
    let run = program.sync(&["list.csv"]).exits(0);
    assert_eq!(delivered(&target), ["1.39.6", "1.39.8", "1.39.9"]);
    assert_eq!((run.total("images"), upstream.count(Kind::Tags), upstream.count(Kind::ManifestHead)), (3, 5, 3));
    assert_eq!(upstream.count(Kind::ManifestGet), 3, "one for each image");
}

/// Ten images; the newest three are not those with the highest versions.
fn ten(upstream: &Fake) {
    for number in 0..10u32 {
        let seed = u64::from(100 + number * 10);
        if number % 2 == 0 {
            dated_index(upstream, &format!("1.{number}"), seed, &day((number * 7) % 10));
        } else {
            dated(upstream, &format!("1.{number}"), seed, &day((number * 7) % 10));
        }
    }
}

#[test]
fn dates_are_read_once_and_kept_and_nothing_is_read_twice() {
    let (upstream, target, program) = setting(Options::default(), "image,tags\nAPP,newest:3\n");
    ten(&upstream);
    let run = program.sync(&["list.csv"]).exits(0);
    // 7n mod 10 is 9, 8 and 7 for 7, 4 and 1.
    assert_eq!(delivered(&target), ["1.1", "1.4", "1.7"]);
    // Dates: an index and one child for five, one manifest for five. Delivery adds the other child of the one index chosen.
    assert_eq!(upstream.count(Kind::ManifestGet), 5 * 2 + 5 + 1);
    assert_eq!((pulled_twice(&upstream), read_twice(&upstream, Kind::BlobGet)), (vec![], vec![]));
    assert_eq!((upstream.count(Kind::Tags), upstream.count(Kind::ManifestHead)), (1, 10), "each tag is resolved once");
    let pulls: u64 = run.images().iter().map(|row| row["pulls"].as_u64().unwrap()).sum();
    assert_eq!(pulls, 16, "what choosing cost is in the report");
    assert!(run.stderr.contains(&format!("pulls spent: {} 16", upstream.addr())), "{}", run.stderr);

    // The second night knows all dates: nothing is spent, and nothing but tags and names is asked.
    upstream.reset_log();
    target.reset_log();
    let again = program.sync(&["list.csv"]).exits(0);
    assert_eq!((again.total("current"), again.total("bytes_read")), (3, 0));
    assert_eq!((upstream.requests().len(), upstream.count(Kind::Tags), upstream.count(Kind::ManifestHead)), (11, 1, 10));
    assert_eq!((target.requests().len(), target.count(Kind::ManifestHead)), (3, 3));

    // A new tag costs its own date and no other.
    dated(&upstream, "0.1", 900, &day(60));
    upstream.reset_log();
    let third = program.sync(&["list.csv"]).exits(0);
    assert_eq!((third.total("copied"), upstream.count(Kind::ManifestGet)), (1, 1));
    assert!(delivered(&target).contains(&"0.1".to_owned()));
}

#[test]
fn a_lock_knows_the_dates_of_what_it_records() {
    let (upstream, target, program) = setting(Options::default(), "image,tags\nAPP,newest:3\n");
    ten(&upstream);
    program.sync(&["list.csv", "--lock", "larder.lock"]).exits(0);
    let lock: serde_json::Value = serde_json::from_str(&program.read("larder.lock")).unwrap();
    assert!(lock["images"].as_array().unwrap().iter().all(|image| image["created"].as_str().is_some()), "{lock}");
    // State and target are lost: with the lock, the dates of three images need not be read again.
    let dates_read = |lock: &[&str]| {
        std::fs::remove_dir_all(program.path("home/state")).unwrap();
        for tag in target.tags("m/app") {
            target.untag("m/app", &tag);
        }
        upstream.reset_log();
        program.run(&[&["sync", "list.csv"], lock].concat()).exits(0);
        upstream.count(Kind::ManifestGet)
    };
    let (without, with) = (dates_read(&[]), dates_read(&["--lock", "larder.lock"]));
    assert!(with + 3 <= without, "{with} pulls with the lock, {without} without");
}

#[test]
fn a_plan_spends_no_pull_and_says_what_choosing_would_cost() {
    let (upstream, target, program) =
        setting(Options { pulls: Some(Pulls::new(100, LONG)), ..Options::default() }, "image,tags\nAPP,newest:2;1.0;1.99\n");
    ten(&upstream);
    upstream.reset_log();
    let plan = program.run(&["plan", "list.csv", "--explain"]);
    assert_snapshot!(shown(&plan, &upstream, &target), @"
    missing | UPSTREAM/app:1.0 | TARGET/m/app:1.0 | ddd15bf241e8
    unresolvable UPSTREAM/app:1.99 | TARGET/m/app:1.99
    selected | UPSTREAM/app: 10 tags listed, 10 candidates, 10 matched, 0 excluded; 10 creation dates are not known: choosing costs at most 15 pulls
    undecided | UPSTREAM/app:newest:2;1.0;1.99 | TARGET/m/app
    ---
    error: list.csv:2: upstream: resolve tag UPSTREAM/app:1.99: 404 MANIFEST_UNKNOWN the upstream has no such tag or repository (check the name and tag in the list)
    2 images: 0 current, 1 missing, 0 moved, 1 unresolvable, 1 undecided; no pull was spent
    UPSTREAM (anonymous): about 23 (at most 27) pulls for 2 images; 100 of 100 left, all can be pulled now; 2 images of unknown size
    exit 1
    ");
    assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet)), (0, 0));
    let json = program.run(&["plan", "list.csv", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["totals"], serde_json::json!({"images": 2, "current": 0, "missing": 1, "moved": 0, "unresolvable": 1, "undecided": 1}));
    let pulls = |key| [0, 2].map(|at| json["images"][at][key].as_u64().unwrap()).iter().sum::<u64>();
    assert_eq!((&json["images"][2]["state"], pulls("pulls"), pulls("pulls_at_most")), (&"undecided".into(), 23, 27), "{json:#}");

    // Once somebody has read them, a plan decides.
    program.write("list.csv", format!("image,tags\n{},newest:2\n", upstream.image("app")));
    program.sync(&["list.csv"]).exits(0);
    dated_index(&upstream, "2.0", 700, &day(50));
    upstream.reset_log();
    let plan = program.run(&["plan", "list.csv", "--explain"]).exits(0);
    assert_snapshot!(shown(&plan, &upstream, &target), @"
    selected | UPSTREAM/app: 11 tags listed, 11 candidates, 11 matched, 0 excluded; 1 creation date is not known: choosing costs at most 2 pulls
    undecided | UPSTREAM/app:newest:2 | TARGET/m/app
    ---
    0 images: 0 current, 0 missing, 0 moved, 0 unresolvable, 1 undecided; no pull was spent
    UPSTREAM (anonymous): about 5 (at most 6) pulls for 1 image; 84 of 100 left, all can be pulled now; 1 image of unknown size
    exit 0
    ");
    assert_eq!(upstream.count(Kind::ManifestGet), 0);
}

/// What a plan said, its columns not aligned.
fn shown(run: &Run, upstream: &Fake, target: &Fake) -> String {
    let text = run.shown(&[(upstream, "UPSTREAM"), (target, "TARGET")]);
    let joined = |line: &str| line.split("  ").filter(|part| !part.is_empty()).map(str::trim).collect::<Vec<_>>().join(" | ");
    text.lines().map(joined).collect::<Vec<_>>().join("\n")
}

#[test]
fn dates_of_what_the_target_has_are_read_there() {
    // Whole, or cut to a platform.
    for platforms in ["", "linux/amd64"] {
        let (upstream, target, program) = setting(Options::default(), &format!("image,tags,platforms\nAPP,*,{platforms}\n"));
        ten(&upstream);
        program.sync(&["list.csv"]).exits(0);
        std::fs::remove_dir_all(program.path("home/state")).unwrap();
        upstream.reset_log();
        program.write("list.csv", format!("image,tags,platforms\n{},newest:4,{platforms}\n", upstream.image("app")));
        let run = program.sync(&["list.csv"]).exits(0);
        let names: Vec<&str> = run.images().iter().map(|row| row["source"].as_str().unwrap().rsplit(':').next().unwrap()).collect();
        assert_eq!((names, run.total("current")), (vec!["1.1", "1.4", "1.7", "1.8"], 4));
        assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet), upstream.requests().len()), (0, 0, 11));
        // And they are known from then on, whoever holds what.
        target.reset_log();
        let again = program.sync(&["list.csv"]).exits(0);
        assert_eq!((again.total("current"), target.count(Kind::ManifestHead)), (4, 4), "{platforms}");
        if platforms.is_empty() {
            assert_eq!(target.requests().len(), 4);
        }
    }
}

#[test]
fn immutable_tags_that_the_target_has_cost_no_upstream_request_when_dates_choose() {
    let (upstream, target, program) = setting(Options::default(), "image,tags\nAPP,newest:3\n");
    program.write("larder.toml", configuration(&target.addr(), &[&upstream]) + "immutable_tags = [\"1.*\"]\n");
    ten(&upstream);
    program.sync(&["list.csv"]).exits(0);
    upstream.reset_log();
    let again = program.sync(&["list.csv"]).exits(0);
    assert_eq!((again.total("current"), upstream.count(Kind::ManifestHead), upstream.requests().len()), (3, 7, 8));
}

#[test]
fn annotations_save_reading_configs_and_children() {
    let (upstream, target, program) = setting(Options::default(), "image,tags\nAPP,newest:1\n");
    let key = "org.opencontainers.image.created";
    image(&upstream, "app", Some("a"), &ImageSpec::new([layer(1, 300)]).annotation(key, day(5)));
    let mut child = image(&upstream, "app", None, &ImageSpec::new([layer(2, 300)]).created(day(1)));
    child.annotations.insert(key.to_owned(), day(6));
    index(&upstream, "app", Some("b"), &[child]);
    upstream.reset_log();
    program.sync(&["list.csv"]).exits(0);
    assert_eq!(delivered(&target), ["b"]);
    assert_eq!(
        (upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet)),
        (3, 2),
        "two to choose; then the child, its config and layer"
    );
}

#[test]
fn images_that_are_too_old_or_have_no_date_are_left_out() {
    let (upstream, target, program) = setting(Options::default(), "image,tags\nAPP,max-age:30d\n");
    let now = jiff::Timestamp::now();
    let ago = |days: u64| (now - Duration::from_secs(days * 86_400)).to_string();
    dated(&upstream, "young", 1, &ago(1));
    dated(&upstream, "younger", 2, &ago(29));
    dated(&upstream, "old", 3, &ago(31));
    dated(&upstream, "zero", 4, "0001-01-01T00:00:00Z");
    dated(&upstream, "odd", 5, "yesterday");
    program.sync(&["list.csv"]).exits(0);
    assert_eq!(delivered(&target), ["young", "younger"]);
    let plan = program.run(&["plan", "list.csv", "--explain"]).exits(0);
    let told = "5 tags listed, 5 candidates, 5 matched, 0 excluded, 3 too old (2 without a date): 2 selected";
    assert!(plan.stdout.contains(told), "{}", plan.stdout);
}

#[test]
fn a_choice_that_a_window_does_not_pay_for_goes_on_in_the_next() {
    let upstream = limited(5, LONG);
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for number in 0..8u32 {
        dated(&upstream, &format!("v{number}"), 10 + u64::from(number), &day(number));
    }
    program.write("list.csv", format!("image,tags\n{},newest:2\n", upstream.image("app")));
    let first = program.sync(&["list.csv", "--failed", "failed.csv"]).exits(3);
    assert_eq!((upstream.pulls("anonymous"), upstream.pull_refusals(), first.total("deferred")), (5, 0, 1));
    let row = &first.images()[0];
    assert_eq!(row["source"], format!("{}:newest:2", upstream.image("app")));
    assert_eq!((&row["pulls"], row["reason"].as_str().unwrap().contains("pull")), (&5.into(), true), "{row}");
    assert_eq!(
        program.read("failed.csv"),
        format!("image,tags,exclude,platforms,target,priority\n{},newest:2,,,,0\n", upstream.image("app"))
    );
    assert_eq!(target.repositories(), Vec::<String>::new());

    // The list of what failed is taken up where it stopped: three dates; what was chosen is at hand.
    upstream.end_windows();
    upstream.reset_log();
    program.sync(&["failed.csv"]).exits(0);
    assert_eq!((upstream.pulls("anonymous"), upstream.count(Kind::ManifestGet)), (8, 3));
    assert_eq!(delivered(&target), ["v6", "v7"]);
}

#[test]
fn a_run_may_wait_for_the_windows_that_choosing_takes() {
    let upstream = limited(3, Duration::from_millis(1500));
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for number in 0..7u32 {
        dated(&upstream, &format!("v{number}"), 10 + u64::from(number), &day(number));
    }
    simple(&upstream, "other", "v1", 1);
    program.write("list.csv", format!("image,tags\n{},newest:1\n{},v1\n", upstream.image("app"), upstream.image("other")));
    program.sync(&["list.csv", "--max-wait", "10m"]).exits(0);
    assert_eq!((delivered(&target), target.tags("m/other")), (vec!["v6".to_owned()], vec!["v1".to_owned()]));
    assert_eq!(upstream.pull_refusals(), 0);
    assert_eq!(pulled_twice(&upstream), Vec::<String>::new());
}

#[test]
fn fewer_tags_than_the_rule_asks_for_fail_the_line_and_change_nothing() {
    let (upstream, target, program) = setting(Options::default(), "image,tags\nAPP,1.*\n");
    program.write("larder.toml", configuration(&target.addr(), &[&upstream]) + "min_tags = 3\n");
    for (seed, tag) in ["1.1", "1.2", "2.0"].iter().enumerate() {
        simple(&upstream, "app", tag, 1 + seed as u64);
    }
    let run = program.sync(&["list.csv", "--failed", "failed.csv"]).exits(1);
    assert_eq!(
        run.error()["message"],
        "only 2 of the 3 tags listed are selected by `1.*`, and rule \"u0\" asks for 3 (min_tags) \
         (check `tags` and `exclude`, and whether the upstream has lost tags; nothing was changed)"
    );
    assert_eq!((&run.error()["side"], &run.error()["operation"]), (&"upstream".into(), &"select tags".into()));
    assert_eq!((target.requests().len(), upstream.count(Kind::ManifestHead)), (0, 0));
    assert_eq!(program.read("failed.csv"), format!("image,tags,exclude,platforms,target,priority\n{},1.*,,,,0\n", upstream.image("app")));
    let plan = program.run(&["plan", "list.csv"]).exits(1);
    assert!(plan.stdout.starts_with("unresolvable"), "{}", plan.stdout);

    // Where dates decide, as many as that cannot be chosen whatever they are: nothing is spent to know.
    program.write("list.csv", format!("image,tags\n{},newest:2\n", upstream.image("app")));
    let run = program.sync(&["list.csv"]).exits(1);
    assert!(run.error()["message"].as_str().unwrap().starts_with("only 2 of the 3 tags"), "{}", run.error());
    assert_eq!(upstream.count(Kind::ManifestGet), 0);

    simple(&upstream, "app", "1.3", 9);
    program.write("list.csv", format!("image,tags\n{},1.*\n", upstream.image("app")));
    program.sync(&["list.csv"]).exits(0);
    assert_eq!(delivered(&target), ["1.1", "1.2", "1.3"]);
    // A line that names its image chooses nothing.
    program.sync(&["--image", &upstream.image("app:2.0")]).exits(0);
}

#[test]
fn a_line_may_choose_nothing_where_its_rule_allows_that() {
    let (upstream, target, program) = setting(Options::default(), "image,tags\nAPP,9.*\n");
    simple(&upstream, "app", "1.1", 1);
    let none = program.sync(&["list.csv"]).exits(1);
    assert!(none.error()["message"].as_str().unwrap().starts_with("none of the 1 tags listed is selected by `9.*`"), "{}", none.error());

    program.write("larder.toml", configuration(&target.addr(), &[&upstream]) + "min_tags = 0\n");
    let run = program.sync(&["list.csv"]).exits(0);
    assert_eq!(run.images(), Vec::<serde_json::Value>::new());
    let note = format!(
        "note     {}: no tag is selected, which min_tags = 0 allows: 1 tags listed, 1 candidates, 0 matched, 0 excluded",
        upstream.image("app")
    );
    assert!(run.stderr.contains(&note), "{}", run.stderr);
    let plan = program.run(&["plan", "list.csv", "--explain"]).exits(0);
    assert!(plan.stderr.contains(&note) && plan.stdout.starts_with("selected "), "{}{}", plan.stdout, plan.stderr);
    assert_eq!(target.repositories(), Vec::<String>::new());
}

#[test]
fn an_exact_tag_that_is_absent_fails_alone() {
    let (upstream, target, program) =
        setting(Options::default(), "image,tags,exclude,target\nAPP,1.*;latest:1;gone;old,*,mine\nAPP,1.*;latest:1;gone;old,,mine\n");
    for (seed, tag) in ["1.1", "1.2", "old"].iter().enumerate() {
        simple(&upstream, "app", tag, 1 + seed as u64);
    }
    let run = program.sync(&["list.csv", "--failed", "failed.csv"]).exits(1);
    let mut tags = target.tags("mine");
    tags.sort();
    assert_eq!((tags, run.total("failed"), run.total("copied")), (vec!["1.2".to_owned(), "old".to_owned()], 1, 2));
    let failed = run.with_status("failed")[0];
    assert_eq!((&failed["source"], &failed["error"]["status"]), (&upstream.image("app:gone").into(), &404.into()));
    assert_eq!(
        program.read("failed.csv"),
        format!("image,tags,exclude,platforms,target,priority\n{},,,,mine,0\n", upstream.image("app:gone"))
    );
    assert_eq!(upstream.count(Kind::Tags), 1);
}

#[test]
fn all_lines_of_a_repository_share_one_listing() {
    let lines = ["1.*", "semver:>=2", "/^edge$/", "latest:1", "*;newest:1", "nothing*"];
    let list: String = lines.iter().enumerate().map(|(n, terms)| format!("APP,{terms},line{n}\n")).collect();
    let (upstream, target, program) = setting(Options::default(), &format!("image,tags,target\n{list}"));
    for (seed, tag) in ["1.1", "1.2", "2.0", "edge"].iter().enumerate() {
        dated(&upstream, tag, 1 + seed as u64, &day(seed as u32));
    }
    upstream.reset_log();
    let run = program.sync(&["list.csv", "--concurrency", "16"]).exits(1);
    assert_eq!((upstream.count(Kind::Tags), run.total("failed")), (1, 1));
    for (line, tags) in [(0, "1.1 1.2"), (1, "2.0"), (2, "edge"), (3, "2.0"), (4, "edge")] {
        let mut found = target.tags(&format!("line{line}"));
        found.sort();
        assert_eq!(found.join(" "), tags, "line {line}");
    }
    assert_eq!((pulled_twice(&upstream), read_twice(&upstream, Kind::BlobGet)), (vec![], vec![]), "also by who reads dates");
    let count = |row: &serde_json::Value| row["requests"]["tags"].as_u64().unwrap();
    assert_eq!(count(run.registry(&upstream.addr())), 1);
}

#[test]
fn a_line_that_is_not_decided_is_no_drift() {
    let (upstream, target, program) = setting(Options::default(), "image,tags\nAPP,newest:2\n");
    ten(&upstream);
    program.sync(&["list.csv", "--lock", "l.lock"]).exits(0);
    std::fs::remove_dir_all(program.path("home/state")).unwrap();
    let plan = program.run(&["plan", "list.csv", "--lock", "l.lock"]).exits(0);
    assert!(plan.stdout.starts_with("undecided ") && plan.stderr.contains("l.lock: no differences"), "{}{}", plan.stdout, plan.stderr);
    // Nor is a line that fails for too few tags.
    program.write("larder.toml", configuration(&target.addr(), &[&upstream]) + "min_tags = 30\n");
    let plan = program.run(&["plan", "list.csv", "--lock", "l.lock"]).exits(1);
    assert!(plan.stderr.contains("no differences"), "{}", plan.stderr);
    let before = program.read("l.lock");
    program.sync(&["list.csv", "--lock", "l.lock"]).exits(1);
    assert_eq!(program.read("l.lock"), before);
}

/// Who knows dates beforehand (a lock does) is asked before anybody else.
#[tokio::test(flavor = "multi_thread")]
async fn dates_that_are_known_beforehand_cost_nothing() {
    use larder::sync::{KnownDates, Sync, SyncOptions, UpstreamOptions, Upstreams};
    let (upstream, _target, program) = setting(Options::default(), "image,tags\nAPP,newest:1\n");
    ten(&upstream);
    let oldest = upstream.digest("app", "1.0").unwrap().to_string();
    upstream.reset_log();
    let config = larder::config::Config::load(Some(&program.path("larder.toml"))).unwrap();
    let supply = std::sync::Arc::new(Upstreams::new(&config, &UpstreamOptions::default()).unwrap());
    let target = supply.target(&config.target, false).await.unwrap();
    let lock = move |digest: &str| Some(if digest == oldest { jiff::Timestamp::MAX } else { jiff::Timestamp::UNIX_EPOCH });
    let options = SyncOptions { dates: KnownDates::new(lock), ..SyncOptions::default() };
    let lists = vec![larder::list::parse("list.csv", &program.read("list.csv")).unwrap()];
    let plan = Sync::new(supply, target, options).plan(lists, &config.rules).await;
    let sources: Vec<&str> = plan.images.iter().map(|image| image.row.source.as_str()).collect();
    assert_eq!(sources, [upstream.image("app:1.0")]);
    assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::ManifestHead)), (0, 10));
}

/// What `docs/selection.md` shows is what the program prints.
#[test]
fn the_page_shows_what_plan_prints() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let tags = "latest stable mainline alpine 1 1.27 1.27.3 1.27.2 1.27.1 1.27.0 1.26 1.26.2 1.26.1 1.25.5 1.24.0 1-alpine 1.27-alpine \
                1.27.3-alpine 1.27.3-alpine3.20 1.27.2-alpine 1.26.2-alpine 1.27.3-perl 1.27.3-bookworm";
    for (seed, tag) in tags.split_whitespace().enumerate() {
        let spec = ImageSpec::new([layer(1 + seed as u64, 300)]).created(day(seed as u32));
        image(&upstream, "library/nginx", Some(tag), &spec);
    }
    let lines = ["semver:>=1.25 <2;latest:3;stable,", "semver:>=1.25-alpine <2;/alpine3/;latest:2,1.27.3-alpine", "1.27.*;newest:2,"];
    let list: String = lines.iter().map(|line| format!("{},{line}\n", upstream.image("library/nginx"))).collect();
    program.write("nginx.csv", format!("image,tags,exclude\n{list}"));
    let run = program.run(&["plan", "nginx.csv", "--explain"]).exits(0);
    let names = |text: &str| text.replace(&upstream.addr(), "docker.io").replace(&target.addr(), "registry.example.com");
    // The columns are as wide as the addresses that stood there.
    let width = run.stdout.lines().filter_map(|line| line.find(&target.addr())).max().unwrap();
    let line = |line: &str| match line.split_once(&target.addr()) {
        Some((left, right)) => {
            let left = names(left.trim_end());
            format!("{left:<0$}{1}{right}", width + "docker.io".len() - upstream.addr().len(), "registry.example.com")
        }
        None => names(line),
    };
    let shown: Vec<String> = run.stdout.lines().chain(run.stderr.lines()).map(line).collect();
    let page = include_str!("../../docs/selection.md");
    let expected =
        format!("```\n$ cat nginx.csv\nimage,tags,exclude\n{}$ larder plan nginx.csv --explain\n{}\n```\n", names(&list), shown.join("\n"));
    assert!(page.contains(&expected), "docs/selection.md should have\n{expected}");
}

#[test]
fn malformed_terms_are_told_with_their_lines_and_can_be_given_back() {
    let (upstream, target, program) =
        setting(Options::default(), "image,tags,exclude\nAPP,semver:>=one,\nAPP,1.*;latest:0,\nAPP,/(/,\nAPP,*,semver:<2\nAPP,1.1,\n");
    simple(&upstream, "app", "1.1", 1);
    let run = program.sync(&["list.csv"]).exits(1);
    assert_eq!((delivered(&target), run.total("failed")), (vec!["1.1".to_owned()], 4));
    let errors: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(
        errors,
        [
            "error: list.csv:2: `semver:>=one`: `one` is no version: it begins with a number",
            "error: list.csv:3: `latest:0`: how many? A number of 1 or more belongs behind the colon",
            "error: list.csv:4: `/(/` is not a regex: unclosed group",
            "error: list.csv:5: `semver:<2`: `exclude` takes tags, globs and regexes, not semver",
        ]
    );
}
