//! A disk that is full at each stage: one clear line, nothing lost or wrongly named, and the next run goes on. On a small file system in
//! memory, mounted in a namespace of its own.

use std::process::Command;

use crate::support::corpus::{ImageSpec, image};
use crate::support::fake::{Fake, Kind};
use crate::support::layer::layer;
use crate::support::real;
use crate::support::room::{Ran, Room, Running};

fn room(fake: &Fake) -> Room {
    let room = Room::new();
    room.configure("layout = \"disk/store\"", &[(fake.addr(), "m")]);
    for number in 0..3 {
        image(fake, "app", Some(&format!("v{number}")), &ImageSpec::new([layer(number, 300_000)]));
    }
    room.list((0..3).map(|number| fake.image(&format!("app:v{number}"))));
    std::fs::create_dir(room.path("disk")).unwrap();
    room
}

/// Whether small file systems can be mounted here.
fn no_namespaces() -> bool {
    let works = Command::new("unshare").args(["-Urm", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]).output();
    if works.is_ok_and(|output| output.status.success()) {
        return false;
    }
    !real::not_tested("small file systems cannot be mounted here (unshare -Urm)")
}

/// Runs a script in which `disk` is a file system of `size`, and `larder` the program.
fn on_a_disk_of(room: &Room, size: &str, script: &str) -> Ran {
    let program = env!("CARGO_BIN_EXE_larder");
    let script = format!("set -u\nlarder() {{ '{program}' \"$@\"; }}\nmount -t tmpfs -o size={size} none disk\n{script}");
    Running::start(room.wrapped(Command::new("unshare"), ["-Urm", "sh", "-c", &script])).finish()
}

/// How often a text is in another.
fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn a_layout_on_a_full_disk_is_valid_and_gone_on_with() {
    if no_namespaces() {
        return;
    }
    let fake = Fake::start();
    let room = room(&fake);
    // One image fits; then the disk grows.
    let script = "larder sync; echo first $?; larder verify disk/store; echo verified $?
        mount -o remount,size=8m disk; larder sync; echo second $?; larder verify disk/store; echo verified $?";
    let ran = on_a_disk_of(&room, "700k", script).ended(0);
    let lines: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("first") || line.starts_with("verified")).collect();
    assert_eq!(lines, ["first 1", "verified 0", "verified 0"], "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("second 0"), "{}", ran.stderr);
    assert_eq!(count(&ran.stderr, "no space left on the disk of "), 1, "{}", ran.stderr);
    // What had arrived of a blob is not read again.
    assert!(fake.requests().iter().any(|request| request.range().is_some_and(|range| !range.starts_with("bytes=0-"))));
}

#[test]
fn volumes_on_a_full_disk_are_gone_on_with() {
    if no_namespaces() {
        return;
    }
    let fake = Fake::start();
    let room = room(&fake);
    room.larder(["export", "--cache", "cache", "--to", "whole", "--name", "b", "--volume-size", "400kB"]).ended(0);
    fake.reset_log();
    // The check beforehand takes a volume that was begun for what it seems to be; this one is a hole, so that its room is missing when it
    // is written. Then a disk that has room for the volumes, and none for the record.
    let sizes = [1, 2, 3].map(|number| std::fs::metadata(room.path(format!("whole/b-000{number}.tar"))).unwrap().len());
    let pages = |bytes: u64| bytes.next_multiple_of(4096);
    assert!(sizes[2] > 40_000, "{sizes:?}");
    for (size, hole, had) in [
        (pages(sizes[0]) + pages(sizes[1]) + 20_480, true, "b-0001.tar b-0002.tar b-0003.tar.partial"),
        (sizes.iter().map(|size| pages(*size)).sum(), false, "b-0001.tar b-0002.tar b-0003.tar"),
    ] {
        let hole = if hole { format!("truncate -s {} disk/out/b-0003.tar.partial", sizes[2]) } else { String::new() };
        let export = "larder export --cache cache --to disk/out --name b --volume-size 400kB >>log 2>&1";
        let script = format!(
            "mkdir disk/out; {hole}
            {export}; echo first $? $(ls disk/out); mount -o remount,size=8m disk; {export}; echo second $?
            for file in $(ls whole); do cmp disk/out/$file whole/$file || echo $file differs; done; ls disk/out"
        );
        let ran = on_a_disk_of(&room, &size.to_string(), &script).ended(0);
        let log = room.read("log");
        assert_eq!(
            ran.stdout.lines().collect::<Vec<_>>(),
            [&format!("first 1 {had}"), "second 0", "b-0001.tar", "b-0002.tar", "b-0003.tar", "b.bundle.json"],
            "{log}"
        );
        assert_eq!(count(&log, "no space left on the disk of disk/out/b"), 1, "{log}");
        std::fs::remove_file(room.path("log")).unwrap();
    }
    assert_eq!(fake.count(Kind::BlobGet) + fake.count(Kind::ManifestGet), 0);
}

#[test]
fn a_disk_that_is_too_small_for_the_bundle_is_refused_before_a_blob_is_read() {
    if no_namespaces() {
        return;
    }
    let fake = Fake::start();
    let room = room(&fake);
    room.list([fake.image("app:v1")]);
    // The cache has room, the disk for the volumes has not; then both are on one disk, which has room for one of them.
    for (size, cache) in [("200k", "cache"), ("500k", "disk/cache")] {
        let ran = on_a_disk_of(&room, size, &format!("larder export --cache {cache} --to disk/out; echo ended $?; ls disk/out")).ended(0);
        assert_eq!(ran.stdout.lines().filter(|line| !line.contains("app:v1")).collect::<Vec<_>>(), ["ended 1"], "{}", ran.stderr);
        assert!(ran.stderr.contains("the bundle in disk/out needs 30"), "{}", ran.stderr);
        assert_eq!(count(&ran.stderr, "are free"), 1, "{}", ran.stderr);
        assert_eq!(fake.count(Kind::BlobGet), 0);
    }
    let script = "larder export --cache disk/cache --to disk/out; echo ended $?";
    assert!(on_a_disk_of(&room, "1m", script).ended(0).stdout.contains("ended 0"));
    // What the far side has needs no room.
    room.larder(["export", "--cache", "cache", "--to", "first", "--name", "first"]).ended(0);
    std::fs::remove_dir_all(room.path("cache")).unwrap();
    let script = "larder export --cache cache --to disk/out --base first/first.bundle.json; echo ended $?";
    assert!(on_a_disk_of(&room, "200k", script).ended(0).stdout.contains("ended 0"));
}
