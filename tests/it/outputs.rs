//! Output files and log lines: no output overwrites a list, no log shows a proxy's password, and hosts are shown with their ports.

use crate::support::corpus::simple;
use crate::support::fake::Fake;
use crate::support::program::Program;

/// An upstream with one image, a target, and a program whose larder.toml names the list.
fn setting() -> (Fake, Fake, Program) {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    simple(&upstream, "app", "v1", 1);
    program.configure(&target, &[&upstream]);
    program.write("larder.toml", format!("lists = [\"base.csv\"]\n{}", program.read("larder.toml")));
    program.write("base.csv", format!("image\n{}\n", upstream.image("app:v1")));
    (upstream, target, program)
}

#[test]
fn no_output_overwrites_a_list_that_only_the_configuration_names() {
    let (upstream, target, program) = setting();
    let list = program.read("base.csv");
    let image = upstream.image("app:v1");
    for arguments in [
        &["sync", "--report", "base.csv"][..],
        &["sync", "--failed", "./base.csv"],
        &["sync", "--image", &image, "--metrics", "base.csv"],
        &["export", "--to", "out", "--report", "base.csv"],
        &["import", "out", "--report", "base.csv"],
        &["import", "out", "--evidence", "base.csv"],
    ] {
        let run = program.run(arguments).exits(2);
        assert!(run.stderr.contains("base.csv: this is one of the lists, and would be overwritten"), "{arguments:?}: {}", run.stderr);
        assert_eq!(program.read("base.csv"), list, "{arguments:?}");
    }
    assert_eq!((upstream.count(crate::support::fake::Kind::ManifestHead), target.repositories().len()), (0, 0));
}

#[test]
fn the_password_of_a_proxy_is_never_printed() {
    let (_upstream, _target, mut program) = setting();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        program.set(name, format!("http://robot:topsecret@{closed}"));
    }
    program.write("larder.toml", "version = 1\n[target]\nlayout = \"store\"\n[registry.\"registry.example\"]\nplain_http = true\n");
    for arguments in [
        &["sync", "-vv", "--unmatched", "mirror", "--image", "registry.example/app:v1", "--report", "report.json"][..],
        &["sync", "-v", "--unmatched", "mirror", "--log-format", "json", "--image", "registry.example/app:v1"],
        &["plan", "-vv", "--unmatched", "mirror", "--image", "registry.example/app:v1"],
        &["limits", "-vv", "registry.example"],
        &["doctor", "-vv"],
        &["config", "show"],
    ] {
        let run = program.run(arguments);
        for text in [&run.stdout, &run.stderr, &program.read_if_there("report.json")] {
            assert!(!text.contains("topsecret"), "{arguments:?}: {text}");
        }
        if arguments[0] == "sync" {
            assert!(run.stderr.contains(&closed.to_string()), "the proxy is not named: {}", run.stderr);
        }
    }
}

#[test]
fn log_lines_show_hosts_with_their_ports() {
    let (upstream, target, program) = setting();
    let run = program.run(&["sync", "-v"]).exits(0);
    let requests: Vec<&str> = run.stderr.lines().filter(|line| line.contains("DEBUG") && line.contains("127.0.0.1")).collect();
    assert!(!requests.is_empty(), "{}", run.stderr);
    for addr in [upstream.addr(), target.addr()] {
        assert!(requests.iter().any(|line| line.contains(&addr)), "{addr}: {}", run.stderr);
    }
    let known = [upstream.addr(), target.addr()];
    assert!(requests.iter().all(|line| known.iter().any(|addr| line.contains(addr.as_str()))), "{}", run.stderr);
}

#[test]
fn gc_removes_damaged_files_that_were_set_aside() {
    let (upstream, _target, program) = setting();
    program.run(&["sync", "--image", &upstream.image("app:v1"), "--to", "oci:store"]).exits(0);
    std::fs::create_dir_all(program.path("store/.larder/damaged")).unwrap();
    let damaged = program.write("store/.larder/damaged/sha256-0123", "wrong bytes");
    let run = program.run(&["gc", "store", "--dry-run"]).exits(0);
    assert!(run.stderr.contains("; 1 damaged file would be removed") && damaged.exists(), "{}", run.stderr);
    let run = program.run(&["gc", "store"]).exits(0);
    assert!(run.stderr.contains("; 1 damaged file removed") && !damaged.exists(), "{}", run.stderr);
    program.run(&["verify", "store"]).exits(0);
}

#[test]
fn doctor_without_state_checks_no_state_folder() {
    let (_upstream, _target, program) = setting();
    let run = program.run(&["doctor", "--state", "none"]).exits(0);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.ends_with("everything a run needs is there\n"), "{}", run.stderr);
}
