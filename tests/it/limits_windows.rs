//! Pull windows: used to the last pull and never over it, by the upstream's own count.

use std::time::Duration;

use crate::support::corpus::{multi, simple};
use crate::support::fake::{ANONYMOUS, FOREVER, Fake, Fault, Gate, Kind, Match};
use crate::support::limited::{LONG, by_kind, limited, multis, pulled_twice, singles};
use crate::support::program::{Program, Run, configuration};
use crate::support::room::PATIENCE;

fn pulls(upstream: &Fake) -> (u64, u64) {
    (upstream.pulls(ANONYMOUS), upstream.pull_refusals())
}

fn statuses(run: &Run) -> (u64, u64, u64, u64) {
    (run.total("copied"), run.total("current"), run.total("deferred"), run.total("failed"))
}

#[test]
fn sixty_images_and_25_pulls_a_window_are_done_in_three_windows_without_a_refusal() {
    // On a busy machine a short window may be over before it is used up: then a longer one must do.
    let done = [5, 20, 60].into_iter().any(sixty_images_are_done_in_three_windows_of);
    assert!(done, "more than three windows were used, however long they were");
}

fn sixty_images_are_done_in_three_windows_of(seconds: u64) -> bool {
    let (upstream, target, program) = (limited(25, Duration::from_secs(seconds)), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 60));
    let run = program.sync(&["list.txt", "--max-wait", "10m"]).exits(0);
    assert_eq!(statuses(&run), (60, 0, 0, 0));
    assert_eq!(pulls(&upstream), (60, 0));
    if upstream.windows(ANONYMOUS) != 3 {
        return false;
    }
    assert_eq!(pulled_twice(&upstream), [""; 0]);
    let row = run.registry(&upstream.addr());
    assert_eq!(
        (&row["pulls"]["spent"], &row["pulls"]["limit"], &row["pulls"]["window_seconds"]),
        (&60.into(), &25.into(), &seconds.into())
    );
    assert!(row["waited_seconds"].as_f64().unwrap() > 1.0, "{row}");
    // It says that it waits, and for what.
    assert!(run.stderr.contains("pulls left, the window opens in 0:0"), "{}", run.stderr);
    assert!(run.stderr.contains(&format!("{} (anonymous): ", upstream.addr())) && run.stderr.contains(", waited "), "{}", run.stderr);
    true
}

#[test]
fn without_waiting_what_a_window_does_not_cover_is_deferred_and_the_same_command_goes_on_in_the_next() {
    let (upstream, target, program) = (limited(25, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 60));
    let before = jiff::Timestamp::now();
    let run = program.sync_list().exits(3);
    let after = jiff::Timestamp::now();
    assert_eq!((statuses(&run), run.report["exit"].as_u64()), ((25, 0, 35, 0), Some(3)));
    assert_eq!((pulls(&upstream), upstream.count(Kind::ManifestGet)), ((25, 0), 25));
    for row in run.with_status("deferred") {
        let reason = row["reason"].as_str().unwrap();
        assert_eq!(reason, format!("{} (anonymous): the pull window is spent (0 left, 1 needed)", upstream.addr()));
        let until: jiff::Timestamp = row["until"].as_str().unwrap().parse().unwrap();
        // An hour from the first pull, which was between the two.
        let (most, least) = (until.duration_since(before).as_secs(), until.duration_since(after).as_secs());
        assert!(most >= 3590 && least <= 3602, "{most} s, {least} s");
        assert_eq!((&row["error"], &row["digest"], &row["pulls"]), (&serde_json::Value::Null, &serde_json::Value::Null, &0.into()));
    }
    assert!(run.stderr.contains("the same command goes on where this one stopped"), "{}", run.stderr);
    assert!(run.stderr.contains("0 of 25 pulls left"), "{}", run.stderr);

    // Too early: nothing is tried.
    let early = program.sync_list().exits(3);
    assert_eq!((statuses(&early), upstream.count(Kind::ManifestGet)), ((0, 25, 35, 0), 25));

    upstream.end_windows();
    let second = program.sync_list().exits(3);
    assert_eq!((statuses(&second), pulls(&upstream)), ((25, 25, 10, 0), (50, 0)));
    upstream.end_windows();
    let third = program.sync_list().exits(0);
    assert_eq!((statuses(&third), pulls(&upstream)), ((10, 50, 0, 0), (60, 0)));
    assert_eq!(pulled_twice(&upstream), [""; 0]);
    assert_eq!(target.tags("m/app").len(), 60);
}

#[test]
fn under_scarcity_no_pull_is_wasted_on_half_an_image() {
    let (upstream, target, program) = (limited(32, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(multis(&upstream, 16));
    let mut delivered = 0;
    for window in 1..=2 {
        let run = program.sync_list().exits(if window == 1 { 3 } else { 0 });
        delivered += run.total("copied");
        // What was pulled and is not at the target is in the state, for the next run.
        let kept = std::fs::read_dir(program.path("home/state/larder/manifests")).unwrap().count() as u64;
        assert_eq!(upstream.pulls(ANONYMOUS), delivered * 4 + kept, "window {window}");
        upstream.end_windows();
    }
    assert_eq!((delivered, pulls(&upstream)), (16, (64, 0)));
    assert_eq!(pulled_twice(&upstream), [""; 0]);
}

#[test]
fn an_image_larger_than_a_window_goes_on_in_the_next_and_nothing_is_pulled_twice() {
    let (upstream, target, program) = (limited(4, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let platforms = ["linux/amd64", "linux/arm64", "linux/s390x", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/arm/v7"];
    let index = multi(&upstream, "large", "v1", 1, &platforms);
    program.list([upstream.image("large:v1")]);
    let first = program.sync_list().exits(3);
    assert_eq!((statuses(&first), pulls(&upstream)), ((0, 0, 1, 0), (4, 0)));
    assert!(target.tags("m/large").is_empty());
    upstream.end_windows();
    program.sync_list().exits(0);
    assert_eq!((pulls(&upstream), pulled_twice(&upstream)), ((8, 0), vec![]));
    assert_eq!(target.digest("m/large", "v1"), Some(index.digest));
    // Delivered: nothing is kept any longer.
    let kept: Vec<_> =
        std::fs::read_dir(program.path("home/state/larder/manifests")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(kept, [""; 0]);
}

#[test]
fn an_image_larger_than_a_window_is_waited_for_over_windows() {
    // As above: short windows do only on an idle machine.
    let done = [3, 15, 60].into_iter().any(a_large_image_takes_two_windows_of);
    assert!(done, "more than two windows were used, however long they were");
}

fn a_large_image_takes_two_windows_of(seconds: u64) -> bool {
    let (upstream, target, program) = (limited(3, Duration::from_secs(seconds)), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    multi(&upstream, "large", "v1", 1, &["linux/amd64", "linux/arm64", "linux/s390x", "linux/386", "linux/riscv64"]);
    program.list([upstream.image("large:v1")]);
    program.sync(&["list.txt", "--max-wait", "10m"]).exits(0);
    assert_eq!(pulls(&upstream), (6, 0));
    upstream.windows(ANONYMOUS) == 2
}

#[test]
fn under_scarcity_priority_goes_first_and_then_what_costs_less() {
    let (upstream, target, program) = (limited(9, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let (multi, single) = (multis(&upstream, 3), singles(&upstream, 6));
    let mut csv = "image,priority\n".to_owned();
    // The index with priority takes 4 of 9 pulls, the singles the rest: none is left for the other indexes.
    for (image, priority) in [(&multi[0], 0), (&multi[1], 7), (&single[0], -1), (&multi[2], 0)] {
        csv += &format!("{image},{priority}\n");
    }
    single[1..].iter().for_each(|image| csv += &format!("{image},0\n"));
    program.write("list.csv", csv);
    let run = program.sync(&["list.csv"]).exits(3);
    let copied: Vec<&str> = run.with_status("copied").iter().map(|row| row["source"].as_str().unwrap()).collect();
    let expected: Vec<&str> = std::iter::once(&multi[1]).chain(&single[1..]).map(String::as_str).collect();
    assert_eq!(copied, expected, "{}", run.stderr);
    assert_eq!(pulls(&upstream), (9, 0));
}

#[test]
fn a_limited_upstream_holds_a_free_one_back_in_nothing() {
    let fill = |free: &Fake| {
        let mut images = singles(free, 20);
        images.extend(multis(free, 4));
        images
    };
    // Alone.
    let (free, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&free]);
    program.list(fill(&free));
    program.sync_list().exits(0);
    let alone = by_kind(&free);

    // Beside one whose window does not open: it is waited for, and the free one's images arrive meanwhile.
    let (limited, free, target, program) = (limited(5, LONG), Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&limited, &free]);
    // Of other content: what one upstream has brought, the other need not.
    let images = (0..12).map(|number| {
        simple(&limited, "app", &format!("v{number}"), 700 + number);
        limited.image(&format!("app:v{number}"))
    });
    program.list(images.chain(fill(&free)));
    let mut run = program.start(&["sync", "list.txt", "--max-wait", "2h", "--report", "report.json"]);
    let arrived = target.wait_until(PATIENCE, |_| {
        let multis = (0..4).filter(|number| target.digest(&format!("m/1/multi{number}"), "v1").is_some()).count();
        target.tags("m/1/app").len() + multis == 24 && target.tags("m/0/app").len() == 5
    });
    assert!(arrived && run.is_running(), "{}", program.read("said.txt"));
    // Whoever waits for a window can be told to stop: it ends with a true report.
    assert_eq!(run.terminate(), 3);
    assert_eq!(by_kind(&free), alone);
    assert_eq!(pulls(&limited), (5, 0));
    let report: serde_json::Value = serde_json::from_str(&program.read("report.json")).unwrap();
    assert_eq!((&report["totals"]["copied"], &report["totals"]["deferred"]), (&29.into(), &7.into()));
}

#[test]
fn a_night_with_nothing_new_costs_no_pull_and_moved_tags_cost_their_manifests() {
    let (upstream, target, program) = (limited(100, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let images: Vec<String> = singles(&upstream, 30).into_iter().chain(multis(&upstream, 10)).collect();
    program.list(images);
    program.sync_list().exits(0);
    assert_eq!(pulls(&upstream), (70, 0));

    let night = program.sync_list().exits(0);
    assert_eq!((statuses(&night), pulls(&upstream)), ((0, 40, 0, 0), (70, 0)));
    assert!(night.stderr.contains(&format!("pulls spent: {} 0", upstream.addr())), "{}", night.stderr);

    // A tenth moves: three images, and an index of which two of three children are new.
    upstream.reset_log();
    let mut moved: Vec<String> = (0..3).map(|n| simple(&upstream, "app", &format!("v{n:03}"), 900 + n).digest.to_string()).collect();
    let old = index_of(&upstream, "multi0");
    let new = index_of_children(&upstream, &old[0]);
    moved.extend(new);
    let run = program.sync_list().exits(0);
    let mut pulled: Vec<String> = upstream
        .requests()
        .into_iter()
        .filter(|request| request.kind == Kind::ManifestGet)
        .filter_map(|request| request.reference)
        .collect();
    pulled.sort();
    moved.sort();
    assert_eq!((pulled, statuses(&run)), (moved, (4, 36, 0, 0)));
    assert_eq!(run.registry(&upstream.addr())["pulls"]["spent"], 6);
}

/// The children's descriptors of `repository:v1`.
fn index_of(upstream: &Fake, repository: &str) -> Vec<serde_json::Value> {
    let (_, bytes) = upstream.manifest(repository, "v1").unwrap();
    let index: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    index["manifests"].as_array().unwrap().clone()
}

/// Moves `multi0:v1` to an index of the old child and two new ones; what is new of it.
fn index_of_children(upstream: &Fake, old: &serde_json::Value) -> Vec<String> {
    use crate::support::corpus::{ImageSpec, image, index};
    let child =
        |seed, platform| image(upstream, "multi0", None, &ImageSpec::new([crate::support::layer::layer(seed, 300)]).platform(platform));
    let (one, two) = (child(8001, "linux/arm64"), child(8002, "linux/s390x"));
    let old: larder::content::Descriptor = serde_json::from_value(old.clone()).unwrap();
    let top = index(upstream, "multi0", Some("v1"), &[old, one.clone(), two.clone()]);
    [top, one, two].iter().map(|made| made.digest.to_string()).collect()
}

#[test]
fn killed_in_mid_window_and_started_again_no_pull_is_spent_twice() {
    let (upstream, target, program) = (limited(25, LONG), Fake::start(), Program::new());
    let lists = "lists = [\"list.txt\"]\n".to_owned();
    program.write("larder.toml", lists + &configuration(&target.addr(), &[&upstream]));
    program.list(singles(&upstream, 8));
    // Three images get their manifests, and wait for their blobs; the other manifests do not come.
    let gate = Gate::closed();
    upstream.fault(Match::kind(Kind::BlobGet), FOREVER, Fault::Hold(gate.clone()));
    for number in 3..8 {
        let digest = upstream.digest("app", &format!("v{number:03}")).unwrap();
        upstream.fault(Match::kind(Kind::ManifestGet).reference(&digest), FOREVER, Fault::Hold(gate.clone()));
    }
    let run = program.start(&["sync", "list.txt", "--concurrency", "64"]);
    let blobs = |requests: &[crate::support::fake::Request]| requests.iter().filter(|request| request.kind == Kind::BlobGet).count();
    assert!(upstream.wait_until(PATIENCE, |requests| blobs(requests) == 9), "{} blobs", blobs(&upstream.requests()));
    run.kill();
    assert_eq!(pulls(&upstream), (3, 0));

    // The upstream's word counts more than what the dead process may have spent.
    let limits = program.run(&["limits", "--format", "json"]).exits(0);
    let limits: serde_json::Value = serde_json::from_str(&limits.stdout).unwrap();
    assert_eq!((&limits["accounts"][0]["limit"], &limits["accounts"][0]["remaining"]), (&25.into(), &22.into()));
    upstream.clear_faults();
    let again = program.sync_list().exits(0);
    assert_eq!((statuses(&again), pulls(&upstream)), ((8, 0, 0, 0), (8, 0)));
    assert_eq!(pulled_twice(&upstream), [""; 0]);
}

#[test]
fn killed_at_any_moment_the_windows_limit_holds() {
    for answered in [1, 6, 14] {
        let (upstream, target, program) = (limited(25, LONG), Fake::start(), Program::new());
        program.configure(&target, &[&upstream]);
        program.list(singles(&upstream, 60));
        let run = program.start(&["sync", "list.txt"]);
        let given = |requests: &[crate::support::fake::Request]| {
            requests.iter().filter(|request| request.kind == Kind::ManifestGet && request.status.is_some()).count() >= answered
        };
        assert!(upstream.wait_until(PATIENCE, given));
        run.kill();
        let again = program.sync_list().exits(3);
        // Of what was under way when it was killed, no answer was seen: at most as many requests as may be in flight. After so few answers
        // these are 8, or 16 once the limit was doubled. Their images are pulled once more, if the window has pulls left by then.
        let (twice, lost) = (pulled_twice(&upstream).len(), 25 - target.tags("m/app").len());
        assert!(lost <= 16, "{lost} pulls were lost");
        assert!(twice <= lost, "{twice} pulls were spent twice, and {lost} lost");
        assert_eq!(pulls(&upstream), (25, 0), "{answered}: {}", again.stderr);
    }
}

#[test]
fn two_processes_on_one_account_stay_within_one_window_together() {
    let (upstream, target) = (limited(25, LONG), Fake::start());
    let images = singles(&upstream, 60);
    let (one, two) = (Program::new(), Program::new());
    let state = one.path("state").display().to_string();
    let runs: Vec<_> = [(&one, &images[..30]), (&two, &images[30..])]
        .map(|(program, images)| {
            program.configure(&target, &[&upstream]);
            program.list(images.to_vec());
            program.start_sync(&["list.txt", "--state", &state])
        })
        .into_iter()
        .collect();
    let runs: Vec<Run> = runs.into_iter().map(|run| run.join().unwrap().exits(3)).collect();
    assert_eq!(pulls(&upstream), (25, 0));
    assert_eq!(runs.iter().map(|run| run.total("copied")).sum::<u64>(), 25);
    assert_eq!(runs.iter().map(|run| run.total("deferred")).sum::<u64>(), 35);
}

#[test]
fn two_processes_wait_for_windows_together() {
    let (upstream, target) = (limited(10, Duration::from_secs(4)), Fake::start());
    let images = singles(&upstream, 30);
    let (one, two) = (Program::new(), Program::new());
    let state = one.path("state").display().to_string();
    let runs: Vec<_> = [(&one, &images[..15]), (&two, &images[15..])]
        .map(|(program, images)| {
            program.configure(&target, &[&upstream]);
            program.list(images.to_vec());
            program.start_sync(&["list.txt", "--max-wait", "10m", "--state", &state])
        })
        .into_iter()
        .collect();
    for run in runs {
        assert_eq!(run.join().unwrap().exits(0).total("copied"), 15);
    }
    assert_eq!((pulls(&upstream), pulled_twice(&upstream)), ((30, 0), vec![]));
}
