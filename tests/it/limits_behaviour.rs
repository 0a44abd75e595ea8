//! Limits as configured, as heard, and as felt: reserves, immutable tags, abuse limits, paces, concurrency, bandwidth.

use std::time::Duration;

use crate::support::corpus::simple;
use crate::support::fake::{ANONYMOUS, FOREVER, Fake, Fault, Kind, Match, Options, Pulls, Rate};
use crate::support::limited::{LONG, limited, multis, pulled_twice, singles};
use crate::support::program::{Program, configuration};

/// The configuration of [`Program::configure`], and `more` about `upstream`.
fn configure(program: &Program, target: &Fake, upstream: &Fake, more: &str) {
    let text = configuration(&target.addr(), &[upstream]);
    program.write("larder.toml", format!("lists = [\"list.txt\"]\n{text}[registry.\"{}\"]\n{more}\n", upstream.addr()));
}

#[test]
fn pulls_that_are_reserved_for_others_are_left_to_them() {
    let (upstream, target, program) = (limited(25, LONG), Fake::start(), Program::new());
    configure(&program, &target, &upstream, "pulls = { reserve = 10 }");
    program.list(singles(&upstream, 20));
    let run = program.sync_list().exits(3);
    assert_eq!((run.total("copied"), run.total("deferred")), (15, 5));
    assert_eq!((upstream.pulls(ANONYMOUS), upstream.pull_refusals()), (15, 0));
    let reason = run.with_status("deferred")[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.ends_with("the pull window is spent (0 left, 1 needed, 10 kept for others)"), "{reason}");
    assert!(upstream.spend_pulls(ANONYMOUS, 10), "they are there for others");
}

#[test]
fn a_configured_limit_below_the_upstreams_counts() {
    let (upstream, target, program) = (limited(25, LONG), Fake::start(), Program::new());
    configure(&program, &target, &upstream, "pulls = { limit = 8 }");
    program.list(singles(&upstream, 12));
    assert_eq!(program.sync_list().exits(3).total("copied"), 8);
    assert_eq!((upstream.pulls(ANONYMOUS), upstream.pull_refusals()), (8, 0));
}

#[test]
fn an_upstream_that_says_nothing_is_counted_as_configured_from_run_to_run() {
    let pulls = Pulls { headers: false, ..Pulls::new(25, LONG) };
    let upstream = Fake::with(Options { pulls: Some(pulls), ..Options::default() });
    let (target, program) = (Fake::start(), Program::new());
    configure(&program, &target, &upstream, "pulls = { limit = 25, window = \"1h\" }");
    let images = singles(&upstream, 40);
    program.list(images[..10].to_vec());
    program.sync_list().exits(0);
    let left = || {
        let limits = program.run(&["limits", "--format", "json"]).exits(0);
        let limits: serde_json::Value = serde_json::from_str(&limits.stdout).unwrap();
        (limits["accounts"][0]["remaining"].clone(), limits["accounts"][0]["window_seconds"].clone())
    };
    assert_eq!(left(), (15.into(), 3600.into()));
    program.list(images);
    let run = program.sync_list().exits(3);
    assert_eq!((run.total("copied"), run.total("current"), run.total("deferred")), (15, 10, 15));
    assert_eq!((upstream.pulls(ANONYMOUS), upstream.pull_refusals()), (25, 0));
    assert_eq!(left().0, 0);
    let row = &run.registry(&upstream.addr())["pulls"];
    assert_eq!((&row["spent"], &row["limit"], &row["remaining"]), (&15.into(), &25.into(), &0.into()));
}

#[test]
fn an_upstream_that_refuses_without_a_word_of_numbers_defers_until_its_retry_after() {
    let pulls = Pulls { headers: false, retry_after: true, ..Pulls::new(5, LONG) };
    let upstream = Fake::with(Options { pulls: Some(pulls), ..Options::default() });
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 20));
    let before = jiff::Timestamp::now();
    let run = program.sync_list().exits(3);
    let after = jiff::Timestamp::now();
    assert_eq!((run.total("copied"), run.total("deferred"), run.total("failed")), (5, 15, 0));
    // Nobody could know: those that were about to leave when it refused, one for each image under way, and no more.
    assert!(upstream.pull_refusals() <= 16, "{} refusals", upstream.pull_refusals());
    let until: jiff::Timestamp = run.with_status("deferred")[0]["until"].as_str().unwrap().parse().unwrap();
    let (most, least) = (until.duration_since(before).as_secs(), until.duration_since(after).as_secs());
    assert!(most >= 3590 && least <= 3602, "{most} s, {least} s");
    assert!(run.registry(&upstream.addr())["throttled"].as_u64().unwrap() >= 1);
    // The next run knows.
    let refusals = upstream.pull_refusals();
    program.sync_list().exits(3);
    assert_eq!(upstream.pull_refusals(), refusals);
}

/// The pulls of a dozen images wait for the one permit when the window turns out to be spent: they must not leave.
#[test]
fn requests_that_wait_for_a_permit_do_not_leave_after_the_window_was_refused() {
    let pulls = Pulls { headers: false, ..Pulls::new(2, LONG) };
    let upstream = Fake::with(Options { pulls: Some(pulls), ..Options::default() });
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 12));
    let run = program.sync(&["list.txt", "--concurrency", "1"]).exits(3);
    assert_eq!((run.total("copied"), run.total("deferred"), run.total("failed")), (2, 10, 0));
    assert_eq!((upstream.pulls(ANONYMOUS), upstream.pull_refusals()), (2, 1));
}

#[test]
fn an_immutable_tag_that_the_target_has_costs_no_request_upstream_and_is_never_overwritten() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    let rules = configuration(&target.addr(), &[&upstream]) + "immutable_tags = [\"v*\", \"/^[0-9]+\\\\.[0-9]+$/\"]\n";
    program.write("larder.toml", rules);
    simple(&upstream, "app", "v1", 1);
    simple(&upstream, "app", "1.27", 2);
    simple(&upstream, "app", "latest", 3);
    program.list(["app:v1", "app:1.27", "app:latest"].map(|name| upstream.image(name)));
    program.sync_list().exits(0);
    let first = target.digest("m/app", "v1").unwrap();

    let moved = simple(&upstream, "app", "v1", 4);
    upstream.reset_log();
    let run = program.sync_list().exits(0);
    assert_eq!((run.total("current"), upstream.requests().len(), upstream.count(Kind::ManifestHead)), (3, 1, 1));
    assert_eq!(upstream.requests()[0].reference.as_deref(), Some("latest"));
    assert_eq!((&run.images()[0]["digest"], &run.images()[0]["source_digest"]), (&first.as_str().into(), &serde_json::Value::Null));

    let run = program.sync(&["list.txt", "--recheck"]).exits(0);
    let row = &run.images()[0];
    assert_eq!((&row["status"], &row["source_digest"]), (&"current".into(), &moved.digest.as_str().into()));
    let note = format!("the upstream has moved this immutable tag to {}; the target keeps {first}", moved.digest);
    assert_eq!(row["notes"], serde_json::json!([note]));
    assert!(run.stderr.contains(&note), "{}", run.stderr);
    assert_eq!(target.digest("m/app", "v1").unwrap(), first);
}

#[test]
fn an_abuse_limit_pauses_the_host_and_closes_no_window() {
    let (upstream, target, program) = (limited(25, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 10));
    upstream.fault(Match::kind(Kind::ManifestGet), 2, Fault::limited("1"));
    let run = program.sync_list().exits(0);
    assert_eq!((run.total("copied"), upstream.pulls(ANONYMOUS), upstream.faults_left()), (10, 10, 0));
    let row = run.registry(&upstream.addr());
    assert_eq!((&row["throttled"], &row["pulls"]["remaining"]), (&2.into(), &15.into()));
    assert!(row["waited_seconds"].as_f64().unwrap() >= 1.0, "{row}");
    assert!(run.stderr.contains("throttled 2 times"), "{}", run.stderr);
}

#[test]
fn a_delay_in_the_message_is_honoured() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 5));
    let message = "retry-after: 10.3ms, allowed: 44000/minute";
    upstream.fault(Match::kind(Kind::BlobGet), 3, Fault::error(429, "TOOMANYREQUESTS", message));
    let run = program.sync_list().exits(0);
    assert_eq!((run.total("copied"), run.total("deferred"), upstream.faults_left()), (5, 0, 0));
}

#[test]
fn a_pause_longer_than_anybody_waits_defers_that_registrys_images_and_no_others() {
    let (upstream, free, target, program) = (Fake::start(), Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream, &free]);
    program.list(singles(&upstream, 6).into_iter().chain(multis(&free, 6)));
    upstream.fault(Match::kind(Kind::ManifestGet), FOREVER, Fault::limited("7200"));
    let run = program.sync_list().exits(3);
    assert_eq!((run.total("copied"), run.total("deferred"), run.total("failed")), (6, 6, 0));
    for row in run.with_status("deferred") {
        assert!(row["source"].as_str().unwrap().starts_with(&upstream.addr()), "{row}");
        let until: jiff::Timestamp = row["until"].as_str().unwrap().parse().unwrap();
        assert!(until.duration_since(jiff::Timestamp::now()).as_secs() > 7000, "{row}");
    }
    // One refusal tells all: who had not asked yet does not.
    assert!(upstream.count(Kind::ManifestGet) <= 6);

    // The user decides how long is too long.
    upstream.clear_faults();
    upstream.fault(Match::kind(Kind::ManifestGet), 1, Fault::limited("2"));
    configure(&program, &target, &upstream, "retry_after_max = \"1s\"");
    program.list(singles(&upstream, 1));
    program.sync_list().exits(3);
}

#[test]
fn a_configured_pace_keeps_below_the_limit_of_the_upstream() {
    // It bears bursts of 5; 21 requests at once would be too many.
    let rate = Rate { per_second: 25.0, burst: 5.0, retry_after: None };
    let upstream = Fake::with(Options { rate: Some(rate), ..Options::default() });
    let (target, program) = (Fake::start(), Program::new());
    configure(&program, &target, &upstream, "requests_per_second = 20");
    program.list(singles(&upstream, 5));
    let run = program.sync_list().exits(0);
    assert_eq!((run.total("copied"), upstream.throttled(), &run.registry(&upstream.addr())["throttled"]), (5, 0, &0.into()));
    assert!(upstream.requests().len() >= 20);
}

#[test]
fn an_upstream_that_throttles_is_slowed_down_for_and_everything_arrives() {
    let rate = Rate { per_second: 60.0, burst: 4.0, retry_after: None };
    let upstream = Fake::with(Options { rate: Some(rate), ..Options::default() });
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 12));
    let run = program.sync_list().exits(0);
    assert_eq!(run.total("copied"), 12);
    assert_eq!(run.registry(&upstream.addr())["throttled"], upstream.throttled());
    // As many as are needed, and few more: half of what is under way is held back each time.
    assert!(upstream.throttled() < 60, "{} refusals", upstream.throttled());
}

#[test]
fn no_more_requests_are_in_flight_than_are_allowed() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    upstream.configure(|options| options.latency = Some(Duration::from_millis(5)));
    configure(&program, &target, &upstream, "concurrency = 3");
    program.list(singles(&upstream, 20).into_iter().chain(multis(&upstream, 4)));
    program.sync_list().exits(0);
    assert!(upstream.max_in_flight() <= 3, "{}", upstream.max_in_flight());
    assert_eq!(pulled_twice(&upstream), [""; 0]);
}

#[test]
fn with_one_request_at_a_time_nobody_waits_in_a_circle() {
    for limit in [1000, 30] {
        let (upstream, target, program) = (limited(limit, LONG), Fake::start(), Program::new());
        program.configure(&target, &[&upstream]);
        program.list(singles(&upstream, 12).into_iter().chain(multis(&upstream, 8)));
        let run = program.sync(&["list.txt", "--concurrency", "1"]).exits(if limit == 30 { 3 } else { 0 });
        assert_eq!((run.total("failed"), upstream.max_in_flight(), upstream.pull_refusals()), (0, 1, 0));
        assert_eq!(upstream.pulls(ANONYMOUS), 44.min(u64::from(limit)));
    }
}

#[test]
fn bandwidth_is_read_with_care_and_what_comes_slowly_comes_whole() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let digest = upstream.put_fill("app", 1, 1_500_000);
    let config = upstream.put_blob("app", "{}");
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": crate::support::corpus::OCI_IMAGE,
        "config": {"mediaType": crate::support::corpus::OCI_CONFIG, "digest": config, "size": 2},
        "layers": [{"mediaType": crate::support::corpus::OCI_LAYER, "digest": digest, "size": 1_500_000}]});
    upstream.put_manifest("app", Some("v1"), crate::support::corpus::OCI_IMAGE, manifest.to_string());
    program.list([upstream.image("app:v1")]);
    for wrong in ["fast", "20", "20MB", "0MB/s", "-1MB/s", "20MB/h", ""] {
        let run = program.run(&["sync", "list.txt", &format!("--bandwidth={wrong}")]).exits(2);
        assert!(run.stderr.contains("bandwidth"), "{wrong}: {}", run.stderr);
    }
    assert!(upstream.requests().is_empty(), "nothing was attempted");
    configure(&program, &target, &upstream, "bandwidth = \"plenty\"");
    let wrong = program.sync_list().exits(2);
    assert!(wrong.stderr.contains("larder.toml:11: "), "{}", wrong.stderr);

    configure(&program, &target, &upstream, "bandwidth = \"4MB/s\"");
    let run = program.sync(&["list.txt", "--bandwidth", "2MB/s"]).exits(0);
    assert!(run.total("bytes_read") >= 1_500_002);
    assert!(target.has_blob("m/app", &digest));
    // Bytes read and written draw on the same rate: 3 MB at 2 MB/s, less what runs ahead.
    assert!(run.images()[0]["seconds"].as_f64().unwrap() > 1.0, "{}", run.images()[0]);
}

#[test]
fn times_to_wait_are_read_with_care() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 1));
    for wrong in [
        &["--max-wait", "soon"][..],
        &["--max-wait", "2"],
        &["--until", "25:00"],
        &["--until", "2020-01-01T00:00:00Z"],
        &["--until", "06:00", "--max-wait", "2h"],
    ] {
        let run = program.run(&[&["sync", "list.txt"], wrong].concat()).exits(2);
        assert!(run.stderr.contains(wrong[0]), "{wrong:?}: {}", run.stderr);
    }
    assert!(upstream.requests().is_empty() && target.requests().is_empty(), "nothing was attempted");
    program.sync(&["list.txt", "--max-wait", "1h 30m"]).exits(0);
    program.sync(&["list.txt", "--until", "06:00"]).exits(0);
}

#[test]
fn nobody_waits_past_the_time_that_was_given() {
    let (upstream, target, program) = (limited(5, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 8));
    let run = program.sync(&["list.txt", "--max-wait", "2s"]).exits(3);
    assert_eq!((run.total("copied"), run.total("deferred"), upstream.pull_refusals()), (5, 3, 0));
    assert!(run.with_status("deferred").iter().all(|row| row["reason"].as_str().unwrap().contains("pull")), "{}", run.stderr);
}
