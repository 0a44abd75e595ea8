//! What goes wrong on the way, and what larder makes of it: tried again as it should be, or given up with a reason.

use std::time::{Duration, Instant};

use crate::support::corpus::{ImageSpec, image, simple};
use crate::support::fake::{self, FOREVER, Fake, Fault, Gate, Kind, Link, Match, Options, Redirect, Request};
use crate::support::layer::layer;
use crate::support::program::{Program, Run};
use crate::support::room::PATIENCE;
use larder::content::{Descriptor, Digest};

/// Large enough to travel in several pieces.
const LARGE: usize = 300_000;

/// One image `app:v1` of two layers, and who is to copy it.
struct Copy {
    upstream: Fake,
    target: Fake,
    program: Program,
    made: Descriptor,
    large: Digest,
}

fn copy(upstream: Options, target: Options) -> Copy {
    let (upstream, target, program) = (Fake::with(upstream), Fake::with(target), Program::new());
    program.configure(&target, &[&upstream]);
    program.list([upstream.image("app:v1")]);
    let bytes = layer(1, LARGE);
    let large = Digest::sha256(&bytes);
    let made = image(&upstream, "app", Some("v1"), &ImageSpec::new([bytes, layer(2, 3000)]));
    Copy { upstream, target, program, made, large }
}

fn plain() -> Copy {
    copy(Options::default(), Options::default())
}

impl Copy {
    /// Runs, and checks that the image has arrived whole.
    #[track_caller]
    fn arrives(&self) -> Run {
        let run = self.program.sync_list().exits(0);
        self.arrived(&run);
        run
    }

    #[track_caller]
    fn arrived(&self, run: &Run) {
        assert_eq!(run.total("copied"), 1);
        assert_eq!(self.target.digest("m/app", "v1"), Some(self.made.digest.clone()));
        assert!(self.target.has_blob("m/app", &self.large));
        assert_eq!((self.upstream.faults_left(), self.target.faults_left(), self.target.open_uploads()), (0, 0, 0));
    }

    fn of_large(&self, kind: Kind) -> Vec<Request> {
        let about = |request: &Request| request.kind == kind && request.reference.as_deref() == Some(self.large.as_str());
        self.upstream.requests().into_iter().filter(about).collect()
    }

    fn retries(&self, run: &Run) -> (u64, u64) {
        let of = |registry: &Fake| run.registry(&registry.addr())["retries"].as_u64().unwrap();
        (of(&self.upstream), of(&self.target))
    }
}

#[test]
fn what_may_pass_is_tried_again_once() {
    let upstream: [(Kind, Fault); 8] = [
        (Kind::ManifestHead, Fault::status(500)),
        (Kind::ManifestHead, Fault::status(408)),
        (Kind::ManifestGet, Fault::status(499)),
        (Kind::ManifestGet, Fault::Reset),
        (Kind::ManifestGet, Fault::CutBody { after: 20 }),
        (Kind::BlobGet, Fault::status(504)),
        (Kind::BlobGet, Fault::Reset),
        (Kind::BlobGet, Fault::error(400, "TOOMANYREQUESTS", "slow down")),
    ];
    for (number, (kind, fault)) in upstream.into_iter().enumerate() {
        let copy = plain();
        copy.upstream.fault(Match::kind(kind), 1, fault);
        let run = copy.arrives();
        assert_eq!(copy.retries(&run), (1, 0), "upstream fault {number} of {kind:?}");
    }
}

#[test]
fn what_may_pass_at_the_target_is_tried_again_once() {
    let target: [(Kind, Fault); 10] = [
        (Kind::ManifestHead, Fault::status(502)),
        (Kind::BlobHead, Fault::status(500)),
        (Kind::UploadPost, Fault::status(503)),
        (Kind::UploadPost, Fault::Reset),
        (Kind::UploadPut, Fault::status(500)),
        (Kind::UploadPut, Fault::Reset),
        (Kind::UploadPut, Fault::error(400, "BLOB_UPLOAD_INVALID", "out of step")),
        (Kind::UploadPut, Fault::status(416)),
        (Kind::ManifestPut, Fault::status(500)),
        (Kind::ManifestPut, Fault::Reset),
    ];
    for (number, (kind, fault)) in target.into_iter().enumerate() {
        let copy = plain();
        copy.target.fault(Match::kind(kind), 1, fault);
        let run = copy.program.sync_list();
        assert_eq!(run.code, 0, "target fault {number} of {kind:?}: {}", run.stderr);
        assert_eq!(copy.target.digest("m/app", "v1"), Some(copy.made.digest.clone()));
        assert_eq!(copy.retries(&run), (0, 1), "target fault {number} of {kind:?}");
        assert_eq!(copy.target.faults_left(), 0);
    }
}

#[test]
fn retry_after_holds_the_whole_host_and_no_other() {
    for (status, times) in [(429, 1), (503, 1)] {
        let (limited, free, target, program) = (Fake::start(), Fake::start(), Fake::start(), Program::new());
        program.configure(&target, &[&limited, &free]);
        let mut images = vec![];
        for number in 0..10 {
            simple(&limited, "app", &format!("v{number}"), number + 1);
            simple(&free, "app", &format!("v{number}"), number + 51);
            images.extend([limited.image(&format!("app:v{number}")), free.image(&format!("app:v{number}"))]);
        }
        program.list(images);
        let headers = vec![("retry-after", "1".to_owned())];
        limited.fault(Match::kind(Kind::ManifestGet), times, Fault::Status { code: status, headers, body: "slow down".into() });
        let began = Instant::now();
        let run = program.sync_list().exits(0);
        assert!(began.elapsed() >= Duration::from_secs(1));
        assert_eq!(run.total("copied"), 20);
        let row = run.registry(&limited.addr());
        assert_eq!((row["throttled"].as_u64(), row["retries"].as_u64()), (Some(1), Some(1)));
        let waited = row["waited_seconds"].as_f64().unwrap();
        assert!((0.9..1.5).contains(&waited), "{waited}");
        let row = run.registry(&free.addr());
        assert_eq!((row["throttled"].as_u64(), row["waited_seconds"].as_f64()), (Some(0), Some(0.0)));
    }
}

#[test]
fn a_retry_after_of_hours_is_not_waited_for_and_is_said() {
    let (limited, free, target, program) = (Fake::start(), Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&limited, &free]);
    simple(&limited, "app", "v1", 1);
    simple(&free, "app", "v1", 2);
    program.list([limited.image("app:v1"), free.image("app:v1")]);
    limited.fault(Match::any(), FOREVER, Fault::limited("7200"));
    let run = program.sync_list();
    assert_eq!((run.total("copied"), target.tags("m/1/app").len()), (1, 1));
    assert_ne!(run.code, 0);
    assert_eq!(limited.requests().len(), 1);
    assert!(run.stderr.contains("7200") || run.stderr.contains("2 h") || run.stderr.contains("120"), "{}", run.stderr);
}

#[test]
fn a_body_that_breaks_off_goes_on_from_the_byte_it_had_reached() {
    let copy = plain();
    let of_large = || Match::kind(Kind::BlobGet).reference(&copy.large);
    copy.upstream.fault(of_large(), 1, Fault::CutBody { after: 100_000 });
    copy.upstream.fault(of_large(), 1, Fault::CutBody { after: 50_000 });
    let run = copy.arrives();
    let ranges: Vec<Option<String>> = copy.of_large(Kind::BlobGet).iter().map(|request| request.range().map(str::to_owned)).collect();
    let last = layer(1, LARGE).len() - 1;
    assert_eq!(ranges, [None, Some(format!("bytes=100000-{last}")), Some(format!("bytes=150000-{last}"))]);
    assert_eq!(run.total("bytes_read"), copy.upstream.bytes_sent(), "no byte is read twice");
}

#[test]
fn where_ranges_are_not_known_the_body_comes_again_from_its_start() {
    let copy = copy(Options { ranges: false, ..Options::default() }, Options::default());
    copy.upstream.fault(Match::kind(Kind::BlobGet).reference(&copy.large), 1, Fault::CutBody { after: 100_000 });
    copy.arrives();
    assert_eq!(copy.of_large(Kind::BlobGet).len(), 2);
}

#[test]
fn a_redirect_that_has_expired_or_breaks_off_is_asked_of_the_registry_again() {
    for fault in [Fault::status(403), Fault::status(500), Fault::CutBody { after: 100 }, Fault::Reset] {
        let copy = copy(Options { redirect: Some(Redirect::default()), ..Options::default() }, Options::default());
        copy.upstream.fault(Match::kind(Kind::Cdn), 1, fault);
        copy.arrives();
        assert_eq!((copy.upstream.count(Kind::BlobGet), copy.upstream.count(Kind::Cdn)), (4, 4));
    }
}

#[test]
fn a_body_that_is_too_large_for_one_put_goes_by_patch_from_then_on() {
    // An answer that comes early may meet a client that is still sending, whose connection then breaks: that is tried again,
    // and the session it left behind is the target's to clear away.
    for (early_answers, most) in [(false, 1), (true, 2)] {
        let options = Options { max_put: Some(100_000), early_answers, location_query: true, ..Options::default() };
        let copy = copy(Options::default(), options);
        let tags: Vec<String> = (0..6).map(|number| format!("w{number}")).collect();
        for (number, tag) in tags.iter().enumerate() {
            image(&copy.upstream, "app", Some(tag), &ImageSpec::new([layer(70 + number as u64, LARGE)]));
        }
        copy.program.list(tags[..1].iter().map(|tag| copy.upstream.image(&format!("app:{tag}"))));
        copy.program.sync(&["list.txt", "--concurrency", "1"]).exits(0);
        let refused = || copy.target.count_matching(|request| request.status == Some(413));
        assert!((1..=most).contains(&refused()), "{}", refused());
        assert!(copy.target.open_uploads() < most);

        // Within a run it is learnt once: from then on there is no PUT with a body.
        copy.target.reset_log();
        copy.program.list(tags.iter().map(|tag| copy.upstream.image(&format!("app:{tag}"))));
        copy.program.sync(&["list.txt", "--concurrency", "1"]).exits(0);
        assert_eq!(copy.target.tags("m/app"), tags);
        assert!(copy.target.count(Kind::UploadPatch) >= 5 + 3, "{} of 5 layers and 5 configs", copy.target.count(Kind::UploadPatch));
        assert!(refused() <= 4, "{}", refused());
    }
}

#[test]
fn an_upload_that_the_target_has_forgotten_begins_again() {
    let copy = plain();
    let gate = Gate::closed();
    copy.target.fault(Match::kind(Kind::UploadPut), 3, Fault::Hold(gate.clone()));
    let run = copy.program.start_sync(&["list.txt"]);
    let begun = |requests: &[Request]| requests.iter().filter(|request| request.kind == Kind::UploadPut).count() == 3;
    assert!(copy.target.wait_until(PATIENCE, begun));
    copy.target.forget_uploads();
    gate.open();
    copy.arrived(&run.join().unwrap().exits(0));
    assert_eq!((copy.target.count(Kind::UploadPost), copy.target.count(Kind::UploadPut)), (6, 6));
}

#[test]
fn a_target_that_says_it_has_what_it_has_not_is_given_it_once_it_misses_it() {
    let copy = plain();
    let lie = |_: &Request| fake::with(fake::reply(200, ""), "content-length", "7");
    copy.target.fault(Match::kind(Kind::BlobHead).reference(&copy.large), FOREVER, Fault::custom(lie));
    copy.arrives();
    assert_eq!(copy.of_large(Kind::BlobGet).len(), 1);
    let refused = copy.target.count_matching(|request| request.kind == Kind::ManifestPut && request.status == Some(404));
    assert_eq!(refused, 1);
}

#[test]
fn a_mount_that_did_not_happen_is_made_good() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let shared = layer(5, 9000);
    for repository in ["one", "two"] {
        image(&upstream, repository, Some("v1"), &ImageSpec::new([shared.clone()]));
    }
    program.list(["one:v1", "two:v1"].map(|name| upstream.image(name)));
    target.fault(Match::kind(Kind::Mount), FOREVER, Fault::custom(|_| fake::reply(201, "")));
    assert_eq!(program.sync_list().exits(0).total("copied"), 2);
    for repository in ["m/one", "m/two"] {
        assert!(target.has_blob(repository, &Digest::sha256(&shared)));
    }
}

#[test]
fn a_target_that_misses_everything_always_is_believed_after_one_more_try() {
    let copy = plain();
    let unknown = Fault::error(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
    copy.target.fault(Match::kind(Kind::ManifestPut), FOREVER, unknown);
    let run = copy.program.sync_list().exits(1);
    assert_eq!((&run.error()["side"], &run.error()["code"]), (&"target".into(), &"MANIFEST_BLOB_UNKNOWN".into()));
    assert_eq!(copy.target.count(Kind::ManifestPut), 2);
    assert_eq!(copy.of_large(Kind::BlobGet).len(), 2);
    assert!(copy.target.tags("m/app").is_empty());
}

#[test]
fn a_repository_that_must_exist_first_is_named() {
    let copy = copy(Options::default(), Options { auto_create: false, ..Options::default() });
    let run = copy.program.sync_list().exits(1);
    let error = run.error();
    assert_eq!((&error["side"], &error["status"], &error["code"]), (&"target".into(), &404.into(), &"NAME_UNKNOWN".into()));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&format!("create the repository `m/app` at {} first", copy.target.addr())), "{message}");
    assert_eq!(copy.retries(&run), (0, 0));
    // Once it is there, the same command does it.
    copy.target.create("m/app");
    copy.arrives();
}

#[test]
fn what_will_not_pass_is_asked_once() {
    for (kind, code) in [(Kind::ManifestHead, 402), (Kind::ManifestGet, 400), (Kind::ManifestGet, 404), (Kind::BlobGet, 403)] {
        let copy = plain();
        copy.upstream.fault(Match::kind(kind), FOREVER, Fault::error(code, "DENIED", "requested access is denied"));
        let run = copy.program.sync_list().exits(1);
        assert_eq!((&run.error()["side"], &run.error()["status"]), (&"upstream".into(), &code.into()), "{kind:?} {code}");
        assert_eq!(copy.retries(&run), (0, 0));
        // The blobs of one image may be asked for at the same time.
        assert!(copy.upstream.count(kind) <= if kind == Kind::BlobGet { 3 } else { 1 });
        assert!(copy.target.tags("m/app").is_empty());
        assert_eq!(copy.target.open_uploads(), 0, "{kind:?} {code}: sessions are given back");
    }
}

#[test]
fn a_dead_upstream_fails_its_own_images_and_says_how_often_it_was_tried() {
    let (mut dead, alive, target, program) = (Fake::start(), Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&dead, &alive]);
    dead.stop();
    simple(&alive, "app", "v1", 1);
    program.list((0..20).map(|number| dead.image(&format!("app:v{number}"))).chain([alive.image("app:v1")]));
    let run = program.sync_list().exits(1);
    assert_eq!((run.total("failed"), run.total("copied")), (20, 1));
    for row in run.with_status("failed") {
        let message = row["error"]["message"].as_str().unwrap();
        assert!(message.contains("no answer after ") && message.contains(" attempt"), "{message}");
    }
    // Eight images are worked on at once, with six retries each at most. After that the host is known to be dead, and the others do not retry.
    let retries = run.registry(&dead.addr())["retries"].as_u64().unwrap();
    assert!((6..=48).contains(&retries), "{retries}");
}

#[test]
fn tags_are_listed_page_by_page_whatever_the_next_page_is_called() {
    for link in [Link::Relative, Link::Absolute, Link::Quay] {
        let (upstream, target, program) =
            (Fake::with(Options { page: Some(3), link, ..Options::default() }), Fake::start(), Program::new());
        program.configure(&target, &[&upstream]);
        for (number, tag) in ["1.20", "1.21", "1.21-rc1", "1.22", "1.30", "2.0", "latest", "sha256-aa.sig"].iter().enumerate() {
            simple(&upstream, "app", tag, number as u64 + 1);
        }
        program.write("list.csv", format!("image,tags,exclude\n{},1.2*;latest,*-rc*\n{0},9.*,\n", upstream.image("app")));
        let run = program.sync(&["list.csv"]).exits(1);
        assert_eq!(target.tags("m/app"), ["1.20", "1.21", "1.22", "latest"], "{link:?}");
        assert_eq!((run.total("copied"), run.total("failed")), (4, 1));
        let message = run.error()["message"].as_str().unwrap();
        assert!(message.contains("none of the 8 tags listed is selected by `9.*`"), "{message}");
        assert_eq!(upstream.count(Kind::Tags), 3, "{link:?}: three pages, once for both lines");
    }
}

#[test]
fn without_a_digest_header_a_get_resolves_and_is_counted() {
    let copy = copy(Options { digest_header: false, ..Options::default() }, Options::default());
    let run = copy.arrives();
    assert_eq!((copy.upstream.count(Kind::ManifestHead), copy.upstream.count(Kind::ManifestGet)), (1, 1), "what came is not fetched again");
    assert_eq!(run.images()[0]["pulls"], 1);
    copy.upstream.reset_log();
    let again = copy.program.sync_list().exits(0);
    assert_eq!((again.total("current"), &again.images()[0]["pulls"]), (1, &1.into()));
    assert_eq!(copy.upstream.count(Kind::ManifestGet), 1);
    assert!(again.stderr.contains(&format!("pulls spent: {} 1", copy.upstream.addr())), "{}", again.stderr);
}
