//! `larder demo`: what a person sees who has just installed it.

use crate::support::real::{require, skopeo_ok};
use crate::support::room::Room;

/// What differs between two demos: ports, durations, and which of two images was first to move what they share.
const FILTERS: [(&str, &str); 3] =
    [(r"127\.0\.0\.1:\d+", "[upstream]"), (r"\d+\.\d s;", "[time];"), (r"(?m)^(copied .*) \(.*\)$", "$1 ([size])")];

#[test]
fn the_demo_tells_its_story_and_leaves_a_layout() {
    let room = Room::new();
    let ran = room.larder(["demo"]).ended(0);
    // Images finish in any order.
    let (mut images, talk): (Vec<&str>, Vec<&str>) =
        ran.stderr.lines().partition(|line| line.starts_with("copied") || line.starts_with("current"));
    images.sort_unstable();
    insta::with_settings!({filters => FILTERS}, {
        insta::assert_snapshot!(talk.join("\n"), @r"

        [1] An upstream is open at [upstream]: 9 images in 6 repositories, 54.9 MB.

        [2] A cold run: larder sync -c larder-demo/larder.toml
        9 images: 9 copied
        54.9 MB read, 54.9 MB written in [time]; blobs: 33 copied, 0 mounted, 15 present
        pulls spent: [upstream] 22

        [3] The same command again, with nothing new upstream:
        9 images: 9 current
        0 B read, 0 B written in [time]; blobs: 0 copied, 0 mounted, 0 present
        pulls spent: [upstream] 0
        ");
        insta::assert_snapshot!(images.join("\n"), @r"
        copied   [upstream]/acme/api:1.4.0 -> apps/api:1.4.0 ([size])
        copied   [upstream]/acme/api:1.4.1 -> apps/api:1.4.1 ([size])
        copied   [upstream]/acme/worker:1.4.1 -> apps/worker:1.4.1 ([size])
        copied   [upstream]/charts/web:0.3.0 -> helm/web:0.3.0 ([size])
        copied   [upstream]/library/alpine:3.20 -> library/alpine:3.20 ([size])
        copied   [upstream]/library/alpine:3.21 -> library/alpine:3.21 ([size])
        copied   [upstream]/library/alpine:latest -> library/alpine:latest ([size])
        copied   [upstream]/library/nginx:1.27 -> edge/proxy:1.27 ([size])
        copied   [upstream]/library/redis:7 -> library/redis:7 ([size])
        current  [upstream]/acme/api:1.4.0 -> apps/api:1.4.0
        current  [upstream]/acme/api:1.4.1 -> apps/api:1.4.1
        current  [upstream]/acme/worker:1.4.1 -> apps/worker:1.4.1
        current  [upstream]/charts/web:0.3.0 -> helm/web:0.3.0
        current  [upstream]/library/alpine:3.20 -> library/alpine:3.20
        current  [upstream]/library/alpine:3.21 -> library/alpine:3.21
        current  [upstream]/library/alpine:latest -> library/alpine:latest
        current  [upstream]/library/nginx:1.27 -> edge/proxy:1.27
        current  [upstream]/library/redis:7 -> library/redis:7
        ");
        insta::assert_snapshot!(ran.stdout, @r"

        What happened
          cold run   9 images delivered: 22 manifests and 33 blobs were read, 54.9 MB in all. Layers that
                     several images share were read once: 17 transfers and 62.1 MB saved.
          second run 9 of 9 images were current: 9 HEAD requests, 0 manifest GETs (pulls), 0 bytes of blobs.
          larder-demo/larder.toml  the cache rules and the target
          larder-demo/images.csv   the image list
          larder-demo/store        the layout that was filled
        Look around:
          larder verify larder-demo/store
          larder rules explain -c larder-demo/larder.toml [upstream]/library/alpine:3.20
          skopeo inspect oci:larder-demo/store:library/alpine:3.20
        ");
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
    insta::assert_snapshot!(refused.stderr, @"error: local: prepare demo: theirs exists and was not made by larder demo (give another folder with --dir)");
    room.write("file", "");
    room.larder(["demo", "--dir", "file"]).ended(2);
    assert_eq!((room.read("theirs/larder.toml").as_str(), std::fs::read_dir(room.path("theirs")).unwrap().count()), ("version = 1\n", 1));
}
