//! A target that refuses pushes is found out before a pull is spent on it.

use crate::support::corpus::simple;
use crate::support::fake::{FOREVER, Fake, Fault, Kind, Match};
use crate::support::program::Program;

/// An upstream with 20 images, in one repository or in one each; a target and a program that copies them into it.
fn scene(one_repository: bool) -> (Fake, Fake, Program) {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    let name = |n: u64| if one_repository { ("app".to_owned(), format!("v{n}")) } else { (format!("app{n}"), "v1".to_owned()) };
    let images = (0..20).map(|n| {
        let (repository, tag) = name(n);
        simple(&upstream, &repository, &tag, n);
        upstream.image(&format!("{repository}:{tag}"))
    });
    let images: Vec<String> = images.collect();
    program.list(images);
    program.configure(&target, &[&upstream]);
    (upstream, target, program)
}

#[test]
fn a_target_that_refuses_uploads_costs_no_pull() {
    for one_repository in [true, false] {
        for (status, code, message) in [
            (403, "DENIED", "requested access to the resource is denied"),
            (401, "UNAUTHORIZED", "authentication required"),
            (405, "UNSUPPORTED", "the registry is read-only"),
            (404, "NAME_UNKNOWN", "repository name not known to registry"),
        ] {
            let (upstream, target, program) = scene(one_repository);
            target.fault(Match::kind(Kind::UploadPost), FOREVER, Fault::error(status, code, message));
            let run = program.sync_list().exits(1);
            assert_eq!((run.total("failed"), run.total("images")), (20, 20), "{}", run.stderr);
            assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet)), (0, 0), "{status} {one_repository}");
            // Asked once where one answer tells for all; where it may not, once for each repository.
            let most = if one_repository || status == 405 { 1 } else { 20 };
            assert_eq!(target.count(Kind::UploadPost), most, "{status} {one_repository}");
            for row in run.images() {
                let error = &row["error"];
                assert_eq!((error["side"].as_str(), error["operation"].as_str()), (Some("target"), Some("start upload")), "{row}");
                assert!(error["message"].as_str().unwrap().contains(message), "{row}");
            }
        }
    }
}

#[test]
fn a_refusal_that_comes_with_the_bytes_stops_what_has_not_begun() {
    for (kind, begun) in [(Kind::UploadPut, 2), (Kind::ManifestPut, 4)] {
        let (upstream, target, program) = scene(true);
        target.fault(Match::kind(kind), FOREVER, Fault::error(403, "DENIED", "the quota is used up"));
        let run = program.sync(&["list.txt", "--concurrency", "1"]).exits(1);
        assert_eq!(run.total("failed"), 20);
        assert!(
            run.images().iter().all(|row| row["error"]["message"].as_str().unwrap().contains("the quota is used up")),
            "{}",
            run.stderr
        );
        // Two images of an upstream are worked on at once for each request that may be in flight.
        // A refused manifest may be refused for itself; the second is not.
        assert!(upstream.count(Kind::ManifestGet) <= begun, "{kind:?}: {}", upstream.count(Kind::ManifestGet));
    }
}

#[test]
fn one_tag_that_is_locked_stops_no_other() {
    let (_upstream, target, program) = scene(true);
    target.fault(Match::kind(Kind::ManifestPut).reference("v0"), FOREVER, Fault::error(403, "DENIED", "the tag is locked"));
    let run = program.sync(&["list.txt", "--concurrency", "1"]).exits(1);
    assert_eq!((run.total("copied"), run.total("failed")), (19, 1), "{}", run.stderr);
}

#[test]
fn an_upload_that_was_opened_to_find_out_is_used_or_given_back() {
    let (upstream, target, program) = scene(false);
    program.sync_list().exits(0);
    assert_eq!((target.open_uploads(), target.count(Kind::UploadDelete)), (0, 0));
    assert_eq!(target.count(Kind::UploadPost), target.count(Kind::UploadPut));
    // New tags of the same images: their blobs are there, and nothing is uploaded.
    for n in 0..20 {
        let digest = upstream.digest(&format!("app{n}"), "v1").unwrap();
        upstream.tag(&format!("app{n}"), "v2", &digest);
    }
    program.list((0..20).map(|n| upstream.image(&format!("app{n}:v2"))));
    target.reset_log();
    program.sync_list().exits(0);
    assert_eq!((target.open_uploads(), target.count(Kind::UploadPut)), (0, 0));
    assert_eq!(target.count(Kind::UploadPost), target.count(Kind::UploadDelete));
}
