//! State in object storage: machines that share it spend the pulls of one account together, and no pull twice.

use crate::support::fake::{ANONYMOUS, FOREVER, Fake, Fault, Kind, Match};
use crate::support::limited::{LONG, limited, pulled_twice, singles};
use crate::support::object_storage::ObjectStorage;
use crate::support::program::Program;

/// A machine: a home of its own, and state in `storage`.
fn machine(storage: &ObjectStorage, target: &Fake, upstream: &Fake, images: &[String]) -> Program {
    let mut program = Program::new();
    storage.configure(&mut program);
    program.configure(target, &[upstream]);
    program.list(images.to_vec());
    program
}

#[test]
fn machines_share_a_window_and_are_never_refused() {
    for storage in ObjectStorage::each() {
        let (upstream, target) = (limited(20, LONG), Fake::start());
        let images = singles(&upstream, 30);
        let (first, second) = images.split_at(15);
        let machines = [first, second].map(|images| machine(&storage, &target, &upstream, images));
        let url = storage.url("night");
        let runs = machines.each_ref().map(|machine| machine.start_sync(&["list.txt", "--state", &url]));
        let runs = runs.map(|run| run.join().unwrap());
        let (copied, deferred) =
            runs.iter().fold((0, 0), |(copied, deferred), run| (copied + run.total("copied"), deferred + run.total("deferred")));
        let said = runs.map(|run| run.stderr).join("\n");
        assert_eq!((copied, deferred), (20, 10), "{url}: {said}");
        assert_eq!((upstream.pulls(ANONYMOUS), upstream.pull_refusals()), (20, 0), "{url}: {said}");
        // A machine that was not there knows that nothing is left, and asks by HEAD only.
        upstream.reset_log();
        let third = machine(&storage, &target, &upstream, &images);
        let run = third.sync(&["list.txt", "--state", &url]).exits(3);
        assert_eq!((run.total("current"), run.total("deferred")), (20, 10), "{}", run.stderr);
        assert_eq!(upstream.count(Kind::ManifestGet), 0);
    }
}

#[test]
fn a_manifest_that_one_machine_has_pulled_costs_the_next_one_nothing() {
    for storage in ObjectStorage::each() {
        let (upstream, target) = (limited(100, LONG), Fake::start());
        let images = singles(&upstream, 5);
        // Its target takes no manifest: they were pulled, and nothing is delivered.
        let broken = Fake::start();
        broken.fault(Match::kind(Kind::ManifestPut), FOREVER, Fault::error(400, "MANIFEST_INVALID", "no"));
        let first = machine(&storage, &broken, &upstream, &images);
        let url = storage.url("manifests");
        first.sync(&["list.txt", "--state", &url]).exits(1);
        assert_eq!(upstream.pulls(ANONYMOUS), 5);
        let second = machine(&storage, &target, &upstream, &images);
        let run = second.sync(&["list.txt", "--state", &url]).exits(0);
        assert_eq!(run.total("copied"), 5, "{}", run.stderr);
        assert_eq!((pulled_twice(&upstream), upstream.pulls(ANONYMOUS)), (vec![], 5), "{}", run.stderr);
    }
}

#[test]
fn state_in_object_storage_may_be_configured() {
    for storage in ObjectStorage::each() {
        let (upstream, target) = (limited(3, LONG), Fake::start());
        let images = singles(&upstream, 5);
        for machine in [(); 2].map(|()| machine(&storage, &target, &upstream, &images)) {
            let text = machine.read("larder.toml") + &format!("[state]\nurl = \"{}\"\n", storage.url("configured"));
            machine.write("larder.toml", text);
            machine.sync_list().exits(3);
            assert!(!machine.path("home/state/larder").exists(), "nothing is kept at home");
        }
        assert_eq!((upstream.pulls(ANONYMOUS), upstream.pull_refusals()), (3, 0));
    }
}

#[test]
fn a_store_that_cannot_be_used_is_one_line_and_no_request() {
    let Some(mut storage) = ObjectStorage::s3() else { return };
    let (upstream, target) = (Fake::start(), Fake::start());
    let images = singles(&upstream, 2);
    let mut program = machine(&storage, &target, &upstream, &images);
    let refused = |program: &Program, url: &str, named: &[&str]| {
        let run = program.sync(&["list.txt", "--state", url]).exits(2);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        for named in named {
            assert!(run.stderr.contains(named), "{named}: {}", run.stderr);
        }
    };
    refused(
        &program,
        "s3://no-such-bucket/x",
        &["could not write s3://no-such-bucket/x", "there is no such bucket (create it, or correct the name)"],
    );
    refused(&program, "s3://user:secret@larder/x", &["credentials come from the environment"]);
    refused(&program, "ftp://larder/x", &["ftp:// is not a place that larder knows"]);
    storage.stop();
    refused(&program, &storage.url("x"), &["could not write s3://larder/x", "see whether the store is reachable"]);
    program.set("AWS_ENDPOINT_URL", "not a URL");
    refused(&program, &storage.url("x"), &["could not open s3://larder/x: AWS_ENDPOINT_URL is not a URL (write https://HOST:PORT)"]);
    assert_eq!(upstream.requests().len() + target.requests().len(), 0);
}

#[test]
fn a_shared_folder_may_be_written_as_a_url() {
    let (upstream, target) = (limited(3, LONG), Fake::start());
    let images = singles(&upstream, 5);
    let share = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let program = Program::new();
        program.configure(&target, &[&upstream]);
        program.list(images.clone());
        let url = format!("file://{}", share.path().display());
        program.sync(&["list.txt", "--state", &url]).exits(3);
    }
    assert!(share.path().join("pulls.json").exists());
    assert_eq!((upstream.pulls(ANONYMOUS), upstream.pull_refusals()), (3, 0));
}

#[test]
fn manifests_of_delivered_images_are_gone_from_the_store_when_the_run_ends() {
    let Some(storage) = ObjectStorage::s3() else { return };
    let (upstream, target) = (limited(100, LONG), Fake::start());
    let images = singles(&upstream, 40);
    let broken = Fake::start();
    broken.fault(Match::kind(Kind::ManifestPut), FOREVER, Fault::error(400, "MANIFEST_INVALID", "no"));
    machine(&storage, &broken, &upstream, &images).sync(&["list.txt", "--state", &storage.url("night")]).exits(1);
    assert_eq!(storage.keys("night/manifests/").len(), 40);
    machine(&storage, &target, &upstream, &images).sync(&["list.txt", "--state", &storage.url("night")]).exits(0);
    assert_eq!(storage.keys("night/manifests/"), [""; 0]);
    assert_eq!(storage.keys("night/pulls.json").len(), 1);
}

#[test]
fn an_import_leaves_its_notes_in_the_store() {
    let Some(storage) = ObjectStorage::s3() else { return };
    let (upstream, target) = (Fake::start(), Fake::start());
    let images = singles(&upstream, 2);
    let program = machine(&storage, &target, &upstream, &images);
    program.run(&["export", "list.txt", "--to", "bundle", "--state", "state"]).exits(0);
    let to = format!("{}/m", target.addr());
    program.run(&["import", "bundle", "--to", &to, "--state", &storage.url("gap"), "--evidence", "evidence.json"]).exits(0);
    assert_eq!(storage.keys("gap/journals/import/journal.jsonl/").len(), 1);
}
