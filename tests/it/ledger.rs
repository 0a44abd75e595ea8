//! The pull ledger: what cannot be written down is not spent, and what processes share they spend together.

use std::time::Duration;

use serde_json::json;

use crate::support::fake::{ANONYMOUS, Fake, Options, Pulls};
use crate::support::limited::{LONG, limited, singles};
use crate::support::program::{Program, Run, configuration};

/// Pulls per window of the upstreams that do not say so.
const LIMIT: u64 = 12;

/// An upstream that counts nothing and says nothing, a target, and who was told that it allows twelve pulls an hour; with 30 images.
fn silent() -> (Fake, Fake, Program) {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    let pulls = format!("[registry.\"{}\"]\npulls = {{ limit = {LIMIT}, window = \"1h\" }}\n", upstream.addr());
    program.write("larder.toml", configuration(&target.addr(), &[&upstream]) + &pulls);
    program.list(singles(&upstream, 30));
    std::fs::create_dir_all(program.path("state")).unwrap();
    (upstream, target, program)
}

fn pulls(upstream: &Fake) -> (u64, u64) {
    (upstream.pulls(ANONYMOUS), upstream.pull_refusals())
}

fn gets(upstream: &Fake) -> usize {
    upstream.count(crate::support::fake::Kind::ManifestGet)
}

fn warnings(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter(|line| line.to_lowercase().contains("warn")).collect()
}

#[test]
fn a_reservation_that_cannot_be_written_is_not_spent() {
    type Obstacle<'a> = (&'a str, &'a dyn Fn(&Program));
    let obstacles: [Obstacle<'_>; 5] = [
        ("a folder in the file's place", &|program| std::fs::create_dir(program.path("state/pulls.json")).unwrap()),
        ("a folder in the way of its replacement", &|program| std::fs::create_dir(program.path("state/pulls.json.new")).unwrap()),
        ("a folder in the lock's place", &|program| std::fs::create_dir(program.path("state/pulls.lock")).unwrap()),
        ("a file of a newer version", &|program| drop(program.write("state/pulls.json", r#"{"version": 2, "accounts": {}}"#))),
        ("a state of which nothing can be kept", &|program| drop(program.write("state/manifests", "a file"))),
    ];
    for (what, obstacle) in obstacles {
        let (upstream, target, program) = silent();
        obstacle(&program);
        if what.starts_with("a state") {
            std::fs::create_dir(program.path("state/pulls.json")).unwrap();
        }
        let run = program.sync(&["list.txt", "--state", "state"]).exits(1);
        assert_eq!((gets(&upstream), run.total("deferred"), run.total("failed")), (0, 30, 0), "{what}: {}", run.stderr);
        assert_eq!(warnings(&run).len(), 1, "{what}: {}", run.stderr);
        for row in run.with_status("deferred") {
            let reason = row["reason"].as_str().unwrap();
            assert!(reason.contains("no pull can be reserved") && reason.contains("--state none"), "{what}: {reason}");
        }
        assert_eq!(run.report["exit"], 1, "{what}");
        // And what is not counted is not held up.
        let free = Fake::start();
        program.write("free.toml", configuration(&target.addr(), &[&free]));
        program.list(singles(&free, 3));
        let run = program.run(&["-c", "free.toml", "sync", "list.txt", "--state", "state"]);
        assert_eq!((run.code, gets(&free)), (0, 3), "{what}: {}", run.stderr);
    }
}

#[test]
fn a_disk_that_is_full_defers_and_the_same_command_goes_on_when_there_is_room() {
    let (upstream, target, program) = silent();
    // No file may grow: as on a full disk, only that the error is another one.
    let script = program.script("narrow", "ulimit -f 0\nexec \"$@\"\n");
    let binary = env!("CARGO_BIN_EXE_larder");
    let output = std::process::Command::new(script)
        .args([binary, "sync", "list.txt", "--state", "state"])
        .current_dir(program.path("."))
        .env("HOME", program.path("home"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), gets(&upstream)), (Some(3), 0), "{said}");
    assert_eq!(said.matches("no pull can be reserved").count(), 1 + 30 + 1, "a warning, the rows and the summary: {said}");
    let run = program.sync(&["list.txt", "--state", "state"]).exits(3);
    assert_eq!((gets(&upstream) as u64, run.total("copied"), target.tags("m/app").len() as u64), (LIMIT, LIMIT, LIMIT));
}

#[test]
fn a_lock_that_is_held_elsewhere_is_said_once() {
    let (upstream, _target, program) = silent();
    let lock = std::fs::File::create(program.path("state/pulls.lock")).unwrap();
    lock.lock().unwrap();
    let run = program.sync(&["list.txt", "--state", "state"]).exits(3);
    assert_eq!((gets(&upstream), run.total("deferred"), warnings(&run).len()), (0, 30, 1), "{}", run.stderr);
    drop(lock);
    program.sync(&["list.txt", "--state", "state"]).exits(3);
    assert_eq!(gets(&upstream) as u64, LIMIT);
}

#[test]
fn without_a_state_pulls_are_counted_within_the_run_and_nothing_is_left_behind() {
    let (upstream, _target, program) = silent();
    let run = program.sync(&["list.txt", "--state", "none"]).exits(3);
    assert_eq!((gets(&upstream) as u64, run.total("copied"), run.total("deferred")), (LIMIT, LIMIT, 30 - LIMIT), "{}", run.stderr);
    assert!(!program.path("home").exists() && !program.path("none").exists());
    assert_eq!(warnings(&run), [""; 0]);
    // The next run knows nothing of it.
    program.sync(&["list.txt", "--state", "none"]).exits(3);
    assert_eq!(gets(&upstream) as u64, 2 * LIMIT);
}

#[test]
fn a_state_at_an_unknown_address_is_refused_by_name() {
    let (upstream, _target, program) = silent();
    for state in ["ftp://bucket/prefix", "https://bucket.example.com/x", "S4://c", "sftp:///b"] {
        for command in [&["sync", "list.txt"][..], &["plan", "list.txt"], &["limits"], &["export", "list.txt", "--to", "out"]] {
            let run = program.run(&[command, &["--state", state]].concat()).exits(2);
            let scheme = &state[..state.find("://").unwrap() + 3];
            assert!(run.stderr.contains(&format!("{scheme} is not a place that larder knows")), "{}", run.stderr);
        }
    }
    assert_eq!(upstream.requests().len(), 0);
    assert!(!program.path("ftp:").exists() && !program.path("https:").exists());
}

#[test]
fn a_dry_run_is_a_plan() {
    let (upstream, target, program) = silent();
    let plan = program.run(&["plan", "list.txt"]).exits(0);
    let dry = program.sync(&["list.txt", "--dry-run"]).exits(0);
    assert_eq!((dry.stdout.as_str(), gets(&upstream)), (plan.stdout.as_str(), 0));
    assert_eq!(dry.report, serde_json::Value::Null, "nothing is reported, because nothing was done");
    assert!(dry.stdout.starts_with("missing ") && target.repositories().is_empty());
}

/// A ledger that was written while the clock was days ahead: nothing is left.
fn from_the_future(upstream: &Fake, program: &Program, source: &str, heard: bool) {
    let ahead = |hours: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(120 + hours)).to_string();
    let heard = if heard { json!({"sent": ahead(0), "arrived": ahead(0)}) } else { json!(null) };
    let window = json!({"limit": 25, "window_seconds": 3600, "left": 0, "heard": heard, "source": if source.is_empty() { json!(null) } else { source.into() },
        "unheard": 0, "unheard_at": null, "closes": ahead(1), "exact": true, "since": null, "spent": 25, "leases": []});
    let book = json!({"version": 1, "accounts": {format!("{}|anonymous|{source}", upstream.addr()): window}});
    program.write("home/state/larder/pulls.json", book.to_string());
}

#[test]
fn an_answer_beats_a_ledger_from_the_future() {
    let (upstream, target, program) = (limited(25, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 10));
    std::fs::create_dir_all(program.path("home/state/larder")).unwrap();
    from_the_future(&upstream, &program, "127.0.0.1", true);
    program.sync_list().exits(0);
    assert_eq!(pulls(&upstream), (10, 0));
}

#[test]
fn where_nothing_is_answered_a_window_from_the_future_ends_one_length_from_now() {
    let (upstream, _target, program) = silent();
    std::fs::create_dir_all(program.path("home/state/larder")).unwrap();
    from_the_future(&upstream, &program, "", true);
    let run = program.sync_list().exits(3);
    assert_eq!((gets(&upstream), run.total("deferred")), (0, 30), "{}", run.stderr);
    for row in run.with_status("deferred") {
        let until: jiff::Timestamp = row["until"].as_str().unwrap().parse().unwrap();
        assert!(until.duration_since(jiff::Timestamp::now()).as_secs() <= 3600, "{until}");
    }
}

/// `n` processes on one state and one window; how many pulls were spent and refused.
fn together(n: usize, kills: bool) -> (u64, u64) {
    let (upstream, target) = (limited(25, LONG), Fake::start());
    let images = singles(&upstream, 64);
    let programs: Vec<Program> = (0..n).map(|_| Program::new()).collect();
    let state = programs[0].path("state").display().to_string();
    for (program, images) in programs.iter().zip(images.chunks(64 / n)) {
        program.configure(&target, &[&upstream]);
        program.list(images.to_vec());
    }
    if kills {
        let killed: Vec<_> = programs.iter().map(|program| program.start(&["sync", "list.txt", "--state", &state])).collect();
        assert!(upstream.wait_until(Duration::from_secs(60), |_| upstream.pulls(ANONYMOUS) >= 8));
        killed.into_iter().for_each(crate::support::program::Started::kill);
    }
    let runs: Vec<_> = programs.iter().map(|program| program.start_sync(&["list.txt", "--state", &state])).collect();
    for run in runs {
        let run = run.join().unwrap();
        assert!(matches!(run.code, 0 | 3), "{}", run.stderr);
    }
    pulls(&upstream)
}

/// How often the processes are let loose: `LARDER_REPEAT=30` to look for what happens seldom.
fn times() -> usize {
    std::env::var("LARDER_REPEAT").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

#[test]
fn eight_processes_spend_the_first_window_and_nothing_beyond_it() {
    for turn in 0..times() {
        assert_eq!(together(8, false), (25, 0), "turn {turn}");
    }
}

#[test]
fn eight_processes_that_are_killed_and_started_again_spend_nothing_beyond_the_window() {
    for turn in 0..times() {
        let (spent, refused) = together(8, true);
        assert!(refused == 0 && spent <= 25, "turn {turn}: {spent} spent, {refused} refused");
    }
}

#[test]
fn a_window_of_an_upstream_that_says_nothing_is_shared_too() {
    for turn in 0..times() {
        let (upstream, target) =
            (Fake::with(Options { pulls: Some(Pulls { headers: false, ..Pulls::new(100, LONG) }), ..Options::default() }), Fake::start());
        let images = singles(&upstream, 40);
        let programs: Vec<Program> = (0..4).map(|_| Program::new()).collect();
        let state = programs[0].path("state").display().to_string();
        let counted = format!("[registry.\"{}\"]\npulls = {{ limit = {LIMIT}, window = \"1h\" }}\n", upstream.addr());
        for (program, images) in programs.iter().zip(images.chunks(10)) {
            program.write("larder.toml", configuration(&target.addr(), &[&upstream]) + &counted);
            program.list(images.to_vec());
        }
        let runs: Vec<_> = programs.iter().map(|program| program.start_sync(&["list.txt", "--state", &state])).collect();
        for run in runs {
            // The window holds all ten images of one process, so the first to begin may deliver them all.
            let run = run.join().unwrap();
            assert!(matches!(run.code, 0 | 3), "{}", run.stderr);
        }
        assert_eq!(upstream.pulls(ANONYMOUS), LIMIT, "turn {turn}");
    }
}

#[test]
fn eight_processes_wait_for_windows_together() {
    for turn in 0..times() {
        let (upstream, target) = (limited(10, Duration::from_secs(4)), Fake::start());
        let images = singles(&upstream, 24);
        let programs: Vec<Program> = (0..8).map(|_| Program::new()).collect();
        let state = programs[0].path("state").display().to_string();
        for (program, images) in programs.iter().zip(images.chunks(3)) {
            program.configure(&target, &[&upstream]);
            program.list(images.to_vec());
        }
        let run = |program: &Program| program.start_sync(&["list.txt", "--max-wait", "60s", "--state", &state]);
        let runs: Vec<_> = programs.iter().map(run).collect();
        runs.into_iter().for_each(|run| drop(run.join().unwrap().exits(0)));
        assert_eq!(pulls(&upstream), (24, 0), "turn {turn}");
    }
}
