//! `larder doctor` and `larder config check`: what a run would meet, told before it.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::corpus::simple;
use crate::support::fake::{Auth, FOREVER, Fake, Fault, Kind, Match, Options, Pulls, Tokens};
use crate::support::limited::LONG;
use crate::support::program::{Program, Run};

/// An upstream with one image, a target, and a program that knows both.
fn setting(upstream: Options, target: Options) -> (Fake, Fake, Program) {
    let (upstream, target, program) = (Fake::with(upstream), Fake::with(target), Program::new());
    simple(&upstream, "app", "v1", 1);
    program.configure(&target, &[&upstream]);
    program.write("larder.toml", format!("lists = [\"list.txt\"]\n{}", program.read("larder.toml")));
    program.list([upstream.image("app:v1")]);
    (upstream, target, program)
}

fn lines(run: &Run) -> Vec<&str> {
    run.stdout.lines().collect()
}

#[test]
fn a_doctor_who_finds_nothing_has_asked_both_sides_and_spent_no_pull() {
    let pulls = Options { pulls: Some(Pulls::new(25, LONG)), ..Options::default() };
    let (upstream, target, program) = setting(pulls, Options::default());
    for command in [&["doctor"][..], &["config", "check", "--online"]] {
        let run = program.run(command).exits(0);
        assert_eq!(run.stdout, "");
        assert!(run.stderr.contains(&format!("{} (anonymous): may pull, 25 of 25 pulls left\n", upstream.addr())), "{}", run.stderr);
        assert!(run.stderr.contains(&format!("{} (anonymous): may pull, may push\n", target.addr())), "{}", run.stderr);
    }
    assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::ManifestHead)), (0, 2));
    // The upload that was opened was given back, and nothing was left.
    assert_eq!((target.open_uploads(), target.count(Kind::ManifestPut)), (0, 0));
    assert_eq!(target.repositories(), Vec::<String>::new());
}

#[test]
fn a_wrong_password_is_a_finding_of_its_registry_only() {
    let (upstream, target, mut program) = setting(Options { auth: Auth::basic("ci", "right"), ..Options::default() }, Options::default());
    let set = format!(
        "[[credentials]]\nname = \"ci\"\nlogin_server = \"{}\"\nusername = \"ci\"\npassword = {{ env = \"P\" }}\n",
        upstream.addr()
    );
    program.write("larder.toml", program.read("larder.toml") + &set);
    // Not set: both commands say so, and nobody is asked with half a login.
    let run = program.run(&["config", "check"]).exits(1);
    assert_eq!(lines(&run), ["error: credential set \"ci\": password: environment variable P is not set (set it where larder runs)"]);
    program.set("P", "wrong");
    program.run(&["config", "check"]).exits(0);
    let run = program.run(&["doctor"]).exits(1);
    assert_eq!(lines(&run).len(), 1, "{}", run.stdout);
    assert!(run.stdout.starts_with("error: upstream: ") && run.stdout.contains(&upstream.addr()), "{}", run.stdout);
    assert!(run.stdout.contains("401") && !run.stdout.contains("wrong"), "{}", run.stdout);
    assert!(run.stderr.contains(&format!("{} (anonymous): may pull, may push", target.addr())), "{}", run.stderr);
    program.set("P", "right");
    program.run(&["doctor"]).exits(0);
}

#[test]
fn a_target_that_takes_no_push_is_found_out() {
    let (_upstream, target, program) = setting(Options::default(), Options::default());
    target.fault(Match::kind(Kind::UploadPost), FOREVER, Fault::status(403));
    let run = program.run(&["doctor"]).exits(1);
    assert_eq!(lines(&run).len(), 1, "{}", run.stdout);
    assert!(run.stdout.starts_with("error: target: start upload ") && run.stdout.contains("403"), "{}", run.stdout);
    assert!(run.stderr.contains(&format!("{} (anonymous): may pull\n", target.addr())), "{}", run.stderr);
}

#[test]
fn a_spent_window_and_a_missing_image_are_findings() {
    let pulls = Options { pulls: Some(Pulls::new(2, LONG)), ..Options::default() };
    let (upstream, _target, program) = setting(pulls, Options::default());
    assert!(upstream.spend_pulls(crate::support::fake::ANONYMOUS, 2));
    let run = program.run(&["doctor"]).exits(1);
    assert!(lines(&run).len() == 1 && run.stdout.contains("the pull window is spent until "), "{}", run.stdout);
    upstream.end_windows();
    program.list([upstream.image("app:gone")]);
    let run = program.run(&["doctor"]).exits(1);
    assert!(lines(&run).len() == 1 && run.stdout.contains("app:gone") && run.stdout.contains("no such tag"), "{}", run.stdout);
}

#[test]
fn a_registry_that_is_not_there_and_one_that_no_list_names_are_asked_too() {
    let (mut upstream, _target, program) = setting(Options::default(), Options::default());
    let silent = Fake::with(Options { auth: Auth::Token(Tokens::default()), ..Options::default() });
    program.write("larder.toml", program.read("larder.toml") + &format!("[registry.\"{}\"]\nconcurrency = 2\n", silent.addr()));
    let run = program.run(&["doctor"]).exits(0);
    assert!(run.stderr.contains(&format!("{} (anonymous): answers\n", silent.addr())), "{}", run.stderr);
    upstream.stop();
    let run = program.run(&["doctor"]).exits(1);
    assert!(lines(&run).len() == 1 && run.stdout.contains(&upstream.addr()), "{}", run.stdout);
}

#[test]
fn a_clock_that_is_wrong_is_a_finding() {
    let (upstream, _target, program) = setting(Options::default(), Options::default());
    let headers =
        vec![("date", "Tue, 01 Jan 2030 00:00:00 GMT".to_owned()), ("docker-content-digest", format!("sha256:{}", "a".repeat(64)))];
    upstream.fault(Match::kind(Kind::ManifestHead), FOREVER, Fault::Status { code: 200, headers, body: "".into() });
    let run = program.run(&["doctor"]).exits(1);
    assert_eq!(lines(&run).len(), 1, "{}", run.stdout);
    assert!(run.stdout.contains("this machine's clock is ") && run.stdout.contains(&format!(" behind the clock of {}", upstream.addr())));
    assert!(run.stdout.contains("set the clock (NTP)"), "{}", run.stdout);
}

#[test]
fn config_check_reads_what_the_run_will_read() {
    let (upstream, target, program) = setting(Options::default(), Options::default());
    program.run(&["config", "check"]).exits(0);
    let configuration = program.read("larder.toml");

    program.write("list.txt", format!("{}\nnot an image\nquay.io/other:v1\n", upstream.image("app:v1")));
    let run = program.run(&["config", "check"]).exits(1);
    assert!(lines(&run).len() == 2 && run.stdout.starts_with("error: list.txt:2: "), "{}", run.stdout);
    assert!(lines(&run)[1].starts_with("error: list.txt:3: quay.io/other"), "{}", run.stdout);
    std::fs::remove_file(program.path("list.txt")).unwrap();
    let run = program.run(&["config", "check"]).exits(1);
    assert!(lines(&run).len() == 1 && run.stdout.contains("list.txt"), "{}", run.stdout);
    program.list([upstream.image("app:v1")]);

    program.write("empty.pem", "");
    for (ca, named) in [("none.pem", "none.pem"), ("empty.pem", "empty.pem")] {
        program.write("larder.toml", format!("{configuration}[registry.\"{}\"]\nca = \"{ca}\"\n", target.addr()));
        let run = program.run(&["config", "check"]).exits(1);
        assert!(lines(&run).len() == 1 && run.stdout.contains(named), "{}", run.stdout);
    }
    program.write("token", "\n");
    for (password, named) in [
        ("{ file = \"token\" }", "token is empty"),
        ("{ file = \"none\" }", "none: No such file"),
        ("{ command = [\"no-such-program\"] }", "command no-such-program was not found"),
    ] {
        let set = format!("[[credentials]]\nname = \"a\"\nlogin_server = \"quay.io\"\nusername = \"u\"\npassword = {password}\n");
        program.write("larder.toml", format!("{configuration}{set}"));
        let run = program.run(&["config", "check"]).exits(1);
        assert!(lines(&run).len() == 1 && run.stdout.contains(named), "{}", run.stdout);
    }
    assert_eq!((upstream.requests().len(), target.requests().len()), (0, 0), "offline");
}

#[test]
fn folders_that_cannot_be_written_to_are_findings() {
    let (_upstream, _target, program) = setting(Options::default(), Options::default());
    program.write("file", "");
    let run = program.run(&["doctor", "--state", "file/state"]).exits(1);
    assert!(run.stdout.contains("state folder file/state: "), "{}", run.stdout);
    let closed = program.path("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere.
    if tempfile::tempfile_in(&closed).is_err() {
        let run = program.run(&["doctor", "--state", "closed"]).exits(1);
        assert!(run.stdout.contains("state folder closed: "), "{}", run.stdout);
    }
}

#[test]
fn rules_that_push_into_a_cache_are_findings_of_the_check_and_of_the_doctor() {
    let (_upstream, target, program) = setting(Options::default(), Options::default());
    let profile = format!("[registry.\"{}\"]\nprofile = \"distribution-proxy\"\n", target.addr());
    program.write("larder.toml", program.read("larder.toml") + &profile);
    for command in ["doctor", "config"] {
        let arguments: &[&str] = if command == "doctor" { &["doctor"] } else { &["config", "check"] };
        let run = program.run(arguments).exits(1);
        assert!(lines(&run).len() == 1 && run.stdout.contains("which is a pull-through cache"), "{}", run.stdout);
    }
    assert_eq!(target.count(Kind::UploadPost), 0, "nothing is pushed to it to find out");
}

/// Debian's docker-registry as a pull-through cache that nobody has named as one.
#[test]
fn a_target_that_behaves_as_a_cache_is_found_out_by_the_doctor() {
    let (upstream, _target, program) = setting(Options::default(), Options::default());
    let Some(cache) = crate::support::real::DockerRegistry::start_proxy(&upstream.url()) else { return };
    let rule = format!("[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\n", upstream.addr());
    program.write("larder.toml", format!("version = 1\nlists = [\"list.txt\"]\n[target]\nregistry = \"{}\"\n{rule}", cache.addr()));
    let run = program.run(&["doctor"]).exits(1);
    assert!(lines(&run).len() == 1 && run.stdout.starts_with("error: target: ") && run.stdout.contains("cache"), "{}", run.stdout);
}
