//! Lists without an image: a file that was emptied by accident is not a night that went well.

use crate::support::corpus::simple;
use crate::support::fake::Fake;
use crate::support::program::Program;

const EMPTY: [(&str, &str); 4] =
    [("empty.txt", ""), ("comments.txt", "# nothing\n\n  # yet\n"), ("header.csv", "image,tags\n"), ("blank.csv", "image,tags\n,\n\n")];

#[test]
fn a_list_without_an_image_is_refused_before_anything_is_attempted() {
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[]);
    for (name, text) in EMPTY {
        program.write(name, text);
        let commands: [&[&str]; 6] = [
            &["sync", name, "--metrics", "run.prom"],
            &["plan", name],
            &["export", name, "--to", "bundle"],
            &["list", "check", name],
            &["verify", &target.addr(), "--list", name],
            &["sync", name, "--to", "oci:store"],
        ];
        for arguments in commands {
            let run = program.run(arguments).exits(2);
            assert_eq!(
                run.stderr,
                format!("error: local: read lists: {name} lists no image (if this is intended: --allow-empty)\n"),
                "{arguments:?}"
            );
        }
        assert!(!program.read_if_there("run.prom").contains("last_success"), "{name}");
        for arguments in [&["sync", name, "--allow-empty"] as &[&str], &["plan", name, "--allow-empty"], &["sync", "--allow-empty"]] {
            program.run(arguments).exits(0);
        }
    }
    assert!(target.requests().is_empty());
    assert!(!program.path("store").exists());
    let run = program.run(&["sync", "empty.txt", "comments.txt"]).exits(2);
    assert!(run.stderr.contains("no image is listed in empty.txt, comments.txt"), "{}", run.stderr);
}

#[test]
fn no_lists_in_the_configuration_are_no_lists() {
    let (target, program) = (Fake::start(), Program::new());
    program.write("larder.toml", format!("version = 1\nlists = []\n[target]\nregistry = \"{}\"\n", target.addr()));
    let run = program.run(&["sync"]).exits(2);
    assert!(run.stderr.contains("no image list is given"), "{}", run.stderr);
    program.run(&["sync", "--allow-empty"]).exits(0);
}

#[test]
fn lines_that_do_not_parse_are_failures_as_ever_and_one_list_may_be_empty() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.write("wrong.txt", "not an image\n");
    program.run(&["sync", "wrong.txt"]).exits(1);
    simple(&upstream, "app", "v1", 1);
    program.write("empty.txt", "# later\n");
    program.list([upstream.image("app:v1")]);
    program.run(&["sync", "empty.txt", "list.txt"]).exits(0);
}
