//! Runs that cannot go to their end: interrupted once or twice, on a full disk, in folders that cannot be written to.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::corpus::{self, ImageSpec, image};
use crate::support::fake::{FOREVER, Fake, Fault, Gate, Kind, Match, Request};
use crate::support::layer::layer;
use crate::support::limited::{LONG, limited, singles};
use crate::support::room::{PATIENCE, Ran, Report, Room, Running, until};

/// Images `a` to `f`: the content of `c` does not come before the gate opens, and of those after it not even the digest.
fn stock(fake: &Fake, gate: &Gate) -> Vec<String> {
    let names = ["a", "b", "c", "d", "e", "f"];
    for (seed, name) in (1..).zip(names) {
        image(fake, name, Some("v1"), &ImageSpec::new([layer(seed, 300_000)]));
        let held = if name == "c" { Kind::BlobGet } else { Kind::ManifestHead };
        if name >= "c" {
            fake.fault(Match::kind(held).repository(name), FOREVER, Fault::Hold(gate.clone()));
        }
    }
    names.iter().map(|name| fake.image(&format!("{name}:v1"))).collect()
}

/// A run that has `a` and `b`, waits for config and layer of `c`, and asks what `d`, `e` and `f` are.
fn waiting(fake: &Fake, gate: &Gate, room: &Room) -> Running {
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    room.list(stock(fake, gate));
    let run = room.start(["sync", "--report", "report.json", "--failed", "failed.csv"]);
    let held = |request: &&Request| match request.repository.as_deref() {
        Some("c") => request.kind == Kind::BlobGet,
        Some("d" | "e" | "f") => request.kind == Kind::ManifestHead,
        _ => false,
    };
    assert!(fake.wait_until(PATIENCE, |requests| requests.iter().filter(held).count() == 5), "{}", run.stderr());
    assert!(until(|| ["a", "b"].iter().all(|name| room.read("store/index.json").contains(&format!("m/{name}:v1")))), "{}", run.stderr());
    run
}

fn told(run: &Running) {
    assert!(until(|| run.stderr().contains("interrupted")), "{}", run.stderr());
}

/// Sees that the report is true of the layout: what it calls delivered is there, what it calls deferred is not.
fn check_report(room: &Room, run: &Ran, delivered: &[&str]) {
    let report = Report(room.json("report.json"));
    assert_eq!((run.code, &report.0["exit"]), (3, &3.into()), "{}", run.stderr);
    let index = room.read("store/index.json");
    for (row, name) in report.images().iter().zip(["a", "b", "c", "d", "e", "f"]) {
        let here = delivered.contains(&name);
        assert_eq!(row["status"], if here { "copied" } else { "deferred" }, "{name}: {row}");
        assert_eq!(row["reason"].as_str(), (!here).then_some("interrupted"));
        assert_eq!((row["digest"].is_null(), index.contains(&format!("m/{name}:v1"))), (!here, here));
        assert_eq!(room.read("failed.csv").contains(&format!("/{name}:v1,")), !here, "{name}");
    }
    assert_eq!((report.total("copied"), report.total("deferred")), (delivered.len() as u64, 6 - delivered.len() as u64));
    assert!(run.stderr.contains("the same command goes on where this one stopped"), "{}", run.stderr);
    room.larder(["verify", "store"]).ended(0);
}

#[test]
fn what_waits_for_a_window_is_deferred_at_once() {
    let (fake, room) = (limited(2, LONG), Room::new());
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    room.list(singles(&fake, 4));
    let run = room.start(["sync", "--max-wait", "5h", "--report", "report.json"]);
    assert!(until(|| run.stderr().contains("2 images wait")), "{}", run.stderr());
    let began = Instant::now();
    run.signal("INT");
    let ran = run.finish();
    assert!(began.elapsed() < Duration::from_secs(9), "{}", ran.stderr);
    let report = Report(room.json("report.json"));
    assert_eq!((ran.code, report.total("copied"), report.total("deferred")), (3, 2, 2), "{}", ran.stderr);
}

/// A run that was interrupted while `c` was being copied, if it ended before its time was over.
fn interrupted_while_c_is_copied(signal: &str) -> Option<(Fake, Room, Ran)> {
    let (fake, gate, room) = (Fake::start(), Gate::closed(), Room::new());
    let run = waiting(&fake, &gate, &room);
    let began = Instant::now();
    run.signal(signal);
    told(&run);
    gate.open();
    let ran = run.finish();
    (began.elapsed() < Duration::from_secs(9)).then_some((fake, room, ran))
}

#[test]
fn an_interrupt_lets_what_is_under_way_end_and_begins_nothing_new() {
    for signal in ["INT", "TERM", "HUP"] {
        // A machine so busy that this takes the 10 seconds that larder gives itself shows nothing: then once more.
        let mut ended = (0..4).filter_map(|_| interrupted_while_c_is_copied(signal));
        let (fake, room, ran) = ended.next().expect("it did not end when it was done, but when its time was over");
        check_report(&room, &ran, &["a", "b", "c"]);
        assert_eq!(fake.count(Kind::ManifestGet), 3, "a pull was spent after the interrupt");
        // What was not delivered, as the list that can be given back; then the same command.
        let rest = room.larder(["plan", "failed.csv", "--format", "json"]).ended(0);
        assert!(rest.stdout.contains("\"missing\": 3"), "{}", rest.stdout);
        let (ran, report) = room.sync(&[]);
        assert_eq!((ran.code, report.total("current"), report.total("copied")), (0, 3, 3));
    }
}

#[test]
fn what_does_not_end_in_time_is_deferred() {
    let (fake, gate, room) = (Fake::start(), Gate::closed(), Room::new());
    let run = waiting(&fake, &gate, &room);
    run.signal("TERM");
    let ran = run.finish();
    check_report(&room, &ran, &["a", "b"]);
    // What was cut off has cost what it has cost.
    let report = Report(room.json("report.json"));
    let cost = |name: &str| (report.row(&format!("/{name}:v1"))["pulls"].as_u64(), report.row(&format!("/{name}:v1"))["bytes"] != 0);
    assert_eq!([cost("c"), cost("d")], [(Some(1), true), (Some(0), false)]);
    assert!(report.row("/c:v1")["seconds"].as_f64().unwrap() > 9.0);
    gate.open();
    let (ran, report) = room.sync(&[]);
    assert_eq!((ran.code, report.total("current"), report.total("copied")), (0, 2, 4));
}

#[test]
fn a_second_interrupt_ends_it_at_once() {
    for (first, second) in [("INT", "INT"), ("TERM", "INT"), ("INT", "TERM"), ("HUP", "HUP")] {
        let (fake, gate, room) = (Fake::start(), Gate::closed(), Room::new());
        let run = waiting(&fake, &gate, &room);
        run.signal(first);
        told(&run);
        run.signal(second);
        // 130, and no report: it did not wait until its time was over, which is exit status 3.
        run.finish().ended(130);
        assert!(!room.path("report.json").exists());
        room.larder(["verify", "store"]).ended(0);
        gate.open();
        room.sync(&[]).0.ended(0);
    }
}

#[test]
fn under_nohup_a_closed_terminal_is_no_interrupt() {
    let (fake, gate, room) = (Fake::start(), Gate::closed(), Room::new());
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    image(&fake, "a", Some("v1"), &ImageSpec::new([layer(1, 1000)]));
    fake.fault(Match::kind(Kind::BlobGet), FOREVER, Fault::Hold(gate.clone()));
    room.list([fake.image("a:v1")]);
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_larder"));
    let run = Running::start(room.wrapped(command, ["sync"]));
    assert!(fake.wait_until(PATIENCE, |requests| requests.iter().any(|request| request.kind == Kind::BlobGet)), "{}", run.stderr());
    run.signal("HUP");
    gate.open();
    let ran = run.finish().ended(0);
    assert!(!ran.stderr.contains("interrupted"), "{}", ran.stderr);
}

/// A file system of its own, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    /// `None`, said aloud, where mounting is not permitted.
    fn mount(at: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Disk(at));
        }
        let _ = writeln!(std::io::stderr(), "\n*** NOT TESTED: a full disk; mounting a tmpfs is not permitted here ***\n");
        None
    }
    fn remount(&self, options: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn errors(ran: &Ran) -> Vec<&str> {
    ran.stderr.lines().filter(|line| line.starts_with("error")).collect()
}

#[test]
fn a_full_disk_ends_the_run_with_one_line_and_space_lets_it_go_on() {
    let (fake, room) = (Fake::start(), Room::new());
    let Some(disk) = Disk::mount(room.path("disk"), "size=2m") else { return };
    let names: Vec<String> = (0..12).map(|number| format!("app-{number}")).collect();
    for (seed, name) in (1..).zip(&names) {
        image(&fake, name, Some("v1"), &ImageSpec::new([layer(seed, 300_000), layer(100 + seed, 20_000)]));
    }
    room.configure("layout = \"disk/store\"", &[(fake.addr(), "m")]);
    room.list(names.iter().map(|name| fake.image(&format!("{name}:v1"))));
    for _ in 0..2 {
        let (ran, report) = room.sync(&[]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        let errors = errors(&ran);
        assert!(errors.len() == 1 && errors[0].contains("no space left on the disk of disk/store"), "{}", ran.stderr);
        assert!(errors[0].contains("run the same command again"), "{}", errors[0]);
        assert_eq!(
            (report.total("failed"), report.total("failed") + report.total("deferred") + report.total("copied") + report.total("current")),
            (1, 12)
        );
        let deferred = report.images().iter().find(|row| row["status"] == "deferred").unwrap();
        assert!(deferred["reason"].as_str().unwrap().starts_with("the run ended early: the disk is full"), "{deferred}");
        room.larder(["verify", "disk/store"]).ended(0);
    }
    disk.remount("size=20m");
    fake.reset_log();
    let (ran, report) = room.sync(&[]);
    assert_eq!((ran.code, report.total("copied") + report.total("current")), (0, 12), "{}", ran.stderr);
    let continued = |request: &Request| request.kind == Kind::BlobGet && request.range().is_some();
    assert!(fake.count_matching(continued) > 0, "what had come was thrown away");
    room.larder(["verify", "disk/store"]).ended(0);

    // And the same disk, when nothing may be written to it any more.
    disk.remount("ro");
    room.larder(["verify", "disk/store"]).ended(0);
    room.larder(["plan"]).ended(0);
    let refused = room.larder(["sync"]).ended(1);
    assert!(errors(&refused).len() == 1 && refused.stderr.contains("disk/store/.larder"), "{}", refused.stderr);
    let refused = room.larder(["sync", "--to", "oci:elsewhere", "--report", "disk/report.json"]).ended(2);
    assert!(refused.stderr.contains("disk/report.json") && !room.path("elsewhere").exists(), "{}", refused.stderr);
}

/// A copy of the program that runs as nobody, if the tests run as root: to root, no folder is read-only.
struct Nobody {
    room: Room,
    program: PathBuf,
}

impl Nobody {
    /// The id that nobody has by convention (LSB 3.1).
    const ID: u32 = 65534;

    fn new() -> Self {
        let room = Room::new();
        mode(&room.path(""), 0o777);
        let program = room.path("larder");
        if std::fs::hard_link(env!("CARGO_BIN_EXE_larder"), &program).is_err() {
            std::fs::copy(env!("CARGO_BIN_EXE_larder"), &program).unwrap();
        }
        Nobody { room, program }
    }

    fn larder(&self, arguments: &[&str]) -> Ran {
        let mut command = self.room.wrapped(Command::new(&self.program), arguments);
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.uid(Self::ID).gid(Self::ID);
        }
        Running::start(command).finish()
    }

    /// Makes a folder that only its owner, or nobody at all, may write to.
    fn folder(&self, name: &str, bits: u32) {
        std::fs::create_dir(self.room.path(name)).unwrap();
        mode(&self.room.path(name), bits);
    }
}

fn mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
}

#[test]
fn what_cannot_be_written_to_is_named_before_anything_is_asked() {
    let fake = Fake::start();
    corpus::simple(&fake, "app", "v1", 1);
    let nobody = Nobody::new();
    nobody.folder("closed", 0o555);
    nobody.folder("folder.json", 0o777);
    nobody.room.write("file", "");
    let image = fake.image("app:v1");
    for (more, code, named) in [
        (&["--report", "closed/report.json"][..], 2, "closed/report.json"),
        (&["--report", "none/report.json"], 2, "none/report.json"),
        (&["--report", "file/report.json"], 2, "file/report.json"),
        (&["--report", "folder.json"], 2, "folder.json"),
        (&["--failed", "closed/failed.csv"], 2, "closed/failed.csv"),
        (&["--state", "closed/state"], 2, "closed/state"),
        (&["--to", "oci:closed/store"], 1, "closed/store"),
        (&["--to", "oci:file"], 1, "file"),
        (&["--to", "oci:folder.json/../closed"], 1, "closed"),
    ] {
        let ran = nobody.larder(&[&["sync", "--image", &image], more].concat());
        assert_eq!(ran.code, code, "{more:?}: {}", ran.stderr);
        let errors = errors(&ran);
        assert!(errors.len() == 1 && errors[0].contains(named), "{more:?}: {}", ran.stderr);
        assert_eq!(fake.requests().len(), 0, "{more:?}");
    }
    // What was there before is untouched.
    assert!(nobody.room.path("folder.json").is_dir() && nobody.room.read("file").is_empty());
}

#[test]
fn without_a_place_for_its_state_it_says_so_and_does_its_work() {
    let fake = Fake::start();
    corpus::simple(&fake, "app", "v1", 1);
    let room = Room::new();
    room.write("xdg-state", "a file where a folder should be");
    let (ran, report) = room.sync(&["--image", &fake.image("app:v1")]);
    assert_eq!((ran.code, report.total("copied")), (0, 1));
    assert!(
        ran.stderr.starts_with("warning:") && ran.stderr.contains("continuing without it, and spending no pull where pulls are counted"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_report_may_go_to_standard_output_and_replaces_what_was_there() {
    let fake = Fake::start();
    corpus::simple(&fake, "app", "v1", 1);
    let room = Room::new();
    room.write("report.csv", "old");
    // What /dev/stdout is, but where a mistake does no harm to the machine.
    std::os::unix::fs::symlink("/proc/self/fd/1", room.path("stdout")).unwrap();
    let ran = room.larder(["sync", "--image", &fake.image("app:v1"), "--report", "stdout", "--report", "report.csv", "-q"]).ended(0);
    assert!(room.path("stdout").symlink_metadata().unwrap().is_symlink());
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["totals"]["copied"], ran.stderr.as_str()), (&1.into(), ""));
    assert!(room.read("report.csv").starts_with("source,target,"));
}
