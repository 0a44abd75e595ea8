//! `larder demo`: what a person sees who has just installed it.
// clippy.toml lets tests unwrap; their helper functions are no tests to it.
#![allow(clippy::unwrap_used)]

mod support;

use support::program::Room;
use support::real::{require, skopeo_ok};

/// What differs between two demos: ports, durations.
const FILTERS: [(&str, &str); 2] = [(r"127\.0\.0\.1:\d+", "[upstream]"), (r"\d+\.\d s", "[time]")];

#[test]
fn the_demo_tells_its_story_and_leaves_a_layout() {
    let room = Room::new();
    let ran = room.larder(["demo"]).ended(0);
    // Images finish in any order.
    let (mut images, talk): (Vec<&str>, Vec<&str>) =
        ran.stderr.lines().partition(|line| line.starts_with("copied") || line.starts_with("current"));
    images.sort_unstable();
    insta::with_settings!({filters => FILTERS}, {
        insta::assert_snapshot!(talk.join("\n"), @"");
        insta::assert_snapshot!(images.join("\n"), @"");
        insta::assert_snapshot!(ran.stdout, @"");
    });

    // The commands it names do what it says.
    room.larder(["verify", "larder-demo/store"]).ended(0);
    let explained = ran.stdout.lines().find_map(|line| line.trim().strip_prefix("larder rules explain")).unwrap();
    let explained = room.larder(["rules", "explain"].into_iter().chain(explained.split_whitespace())).ended(0);
    assert!(explained.stdout.contains("target: "), "{}", explained.stdout);
    if require("skopeo") {
        let inspect = ran.stdout.lines().find_map(|line| line.trim().strip_prefix("skopeo inspect oci:")).unwrap();
        let inspected = skopeo_ok(["inspect", &format!("oci:{}", room.path(inspect).display())]).unwrap();
        assert!(inspected.contains("linux") && inspected.contains("sha256:"), "{inspected}");
    }
}

#[test]
fn a_second_demo_replaces_the_first_and_nothing_else() {
    let room = Room::new();
    let first = room.larder(["demo", "--dir", "mine"]).ended(0);
    room.write("mine/notes.txt", "mine");
    let second = room.larder(["demo", "--dir", "mine", "-q"]).ended(0);
    assert_eq!(second.stderr, "");
    let without_ports = |text: &str| text.lines().filter(|line| !line.contains("127.0.0.1")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_ports(&first.stdout), without_ports(&second.stdout));
    assert_eq!(room.read("mine/notes.txt"), "mine");
    room.larder(["verify", "mine/store"]).ended(0);

    std::fs::create_dir(room.path("theirs")).unwrap();
    room.write("theirs/larder.toml", "version = 1\n");
    let refused = room.larder(["demo", "--dir", "theirs"]).ended(2);
    insta::assert_snapshot!(refused.stderr, @"");
    room.write("file", "");
    room.larder(["demo", "--dir", "file"]).ended(2);
    assert_eq!((room.read("theirs/larder.toml").as_str(), std::fs::read_dir(room.path("theirs")).unwrap().count()), ("version = 1\n", 1));
}
