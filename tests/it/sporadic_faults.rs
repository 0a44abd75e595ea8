//! Registries that fail now and then: whatever goes wrong, however often, at whichever side, every image arrives.

use bytes::Bytes;
use larder::content::{Descriptor, Digest};

use crate::support::corpus::{ImageSpec, image};
use crate::support::fake::{self, Auth, Chance, FOREVER, Fake, Fault, Kind, Match, Options, Redirect};
use crate::support::layer::layer;
use crate::support::program::{Program, Run};

/// Images of two layers each, all different.
struct Images {
    upstream: Fake,
    target: Fake,
    program: Program,
    made: Vec<Descriptor>,
    bytes: u64,
}

fn images(count: u64, upstream: Options, target: Options) -> Images {
    let (upstream, target, program) = (Fake::with(upstream), Fake::with(target), Program::new());
    program.configure(&target, &[&upstream]);
    let put = |number: u64| {
        image(&upstream, "app", Some(&format!("v{number}")), &ImageSpec::new([layer(2 * number, 9_000), layer(2 * number + 1, 3_000)]))
    };
    let made: Vec<Descriptor> = (0..count).map(put).collect();
    program.list((0..count).map(|number| upstream.image(&format!("app:v{number}"))));
    // What all of them have: read once, without any fault.
    let first = Fake::start();
    program.write("plain.toml", crate::support::program::configuration(&first.addr(), &[&upstream]));
    let plain = ["-c", "plain.toml", "sync", "list.txt", "--state", "plain", "--report", "report.json"];
    let bytes = if count == 0 { 0 } else { program.run(&plain).exits(0).total("bytes_read") };
    upstream.reset_log();
    Images { upstream, target, program, made, bytes }
}

impl Images {
    /// Runs; every image must arrive, with hardly more bytes read than it has.
    #[track_caller]
    fn all_arrive(&self, what: &str) -> Run {
        let run = self.program.sync_list();
        assert_eq!(run.code, 0, "{what}: {}", run.stderr);
        assert_eq!(run.total("copied"), self.made.len() as u64, "{what}");
        for (number, made) in self.made.iter().enumerate() {
            assert_eq!(self.target.digest("m/app", &format!("v{number}")), Some(made.digest.clone()), "{what}");
        }
        let read = run.total("bytes_read");
        // A twentieth, and one layer: of a transfer that the target breaks off in its middle, the bytes are read again.
        assert!(read * 100 <= self.bytes * 105 + 100 * 12_000, "{what}: {read} bytes read of {}", self.bytes);
        run
    }
}

/// Answers of every kind that may pass, and no answer.
fn passing() -> Vec<(&'static str, Fault)> {
    let limited = |name: &'static str, body: &'static str| Fault::Status {
        code: 429,
        headers: vec![("content-type", name.to_owned())],
        body: body.into(),
    };
    vec![
        ("500", Fault::status(500)),
        (
            "502 web page",
            Fault::Status { code: 502, headers: vec![("content-type", "text/html".to_owned())], body: "<html>bad gateway</html>".into() },
        ),
        ("503", Fault::status(503)),
        ("429 JSON", Fault::error(429, "TOOMANYREQUESTS", "slow down")),
        ("429 empty", limited("text/plain", "")),
        ("429 web page", limited("text/html", "<html>slow down</html>")),
        ("reset", Fault::Reset),
    ]
}

fn with_all_hosts() -> (Options, Options) {
    let upstream = Options { auth: Auth::tokens("hub", "pw"), redirect: Some(Redirect::default()), ..Options::default() };
    (upstream, Options::default())
}

#[test]
fn a_target_whose_every_seventh_answer_is_a_500_gets_every_image() {
    let all = images(12, Options::default(), Options::default());
    all.target.sporadic_fault(Match::any(), Chance::Every(7), Fault::status(500));
    all.all_arrive("every 7th");
}

#[test]
fn a_target_and_an_upstream_with_faults_of_every_kind_at_random_lose_no_image() {
    let (upstream, target) = with_all_hosts();
    let all = images(12, upstream, target);
    for (_, fault) in passing() {
        all.upstream.sporadic_fault(Match::any(), Chance::Percent(3), fault.clone());
        all.target.sporadic_fault(Match::any(), Chance::Percent(3), fault);
    }
    let run = all.all_arrive("21 % of all kinds");
    assert!(run.registry(&all.target.addr())["retries"].as_u64().unwrap() > 0);
}

#[test]
fn a_target_that_refuses_a_third_of_all_requests_for_their_pace_gets_every_image() {
    let all = images(8, Options::default(), Options::default());
    all.target.sporadic_fault(Match::any(), Chance::Percent(33), Fault::Status { code: 429, headers: vec![], body: "".into() });
    all.all_arrive("33 % 429");
}

/// Minutes long: every kind of fault, at every share, at every kind of request, at both sides.
#[test]
#[ignore = "takes many minutes"]
fn every_kind_of_fault_at_every_share_on_every_kind_of_request_loses_no_image() {
    let shares = [Chance::Percent(3), Chance::Percent(10), Chance::Percent(30), Chance::Every(3), Chance::Every(7)];
    for (name, fault) in passing() {
        for chance in shares {
            for kind in [Kind::ManifestHead, Kind::ManifestGet, Kind::BlobGet, Kind::Cdn, Kind::Token] {
                let (upstream, target) = with_all_hosts();
                let all = images(6, upstream, target);
                all.upstream.sporadic_fault(Match::kind(kind), chance, fault.clone());
                all.all_arrive(&format!("{name} {chance:?} {kind:?} upstream"));
            }
            for (kind, patches) in [
                (Kind::ManifestHead, false),
                (Kind::BlobHead, false),
                (Kind::Mount, false),
                (Kind::UploadPost, false),
                (Kind::UploadPut, false),
                (Kind::UploadPatch, true),
                (Kind::UploadPut, true),
                (Kind::ManifestPut, false),
            ] {
                let options = Options { max_put: patches.then_some(0), ..Options::default() };
                let all = images(6, Options::default(), options);
                all.target.sporadic_fault(Match::kind(kind), chance, fault.clone());
                all.all_arrive(&format!("{name} {chance:?} {kind:?} target"));
            }
        }
    }
}

#[test]
fn an_image_that_used_up_its_attempts_is_tried_once_more_at_the_end() {
    let all = images(3, Options::default(), Options::default());
    // The target answers another image meanwhile, so that it counts as alive.
    all.upstream.fault(Match::kind(Kind::BlobGet).reference(&first_layer(&all)), 1, Fault::Delay(std::time::Duration::from_secs(3)));
    // Seven attempts, and one more for the second time.
    all.target.fault(Match::kind(Kind::ManifestPut).reference("v1"), 8, Fault::status(500));
    let run = all.all_arrive("8 failures of one tag");
    assert_eq!(all.target.count_matching(|request| request.kind == Kind::ManifestPut && request.reference.as_deref() == Some("v1")), 9);
    assert_eq!(run.stderr.lines().filter(|line| line.contains("app:v1")).count(), 1, "one line for the image: {}", run.stderr);
}

#[test]
fn a_blob_that_is_damaged_on_its_way_is_read_again_on_another_connection() {
    let all = images(1, Options::default(), Options::default());
    let first = first_layer(&all);
    all.upstream.fault(Match::kind(Kind::BlobGet).reference(&first), 2, Fault::WrongBody(damaged(&layer(0, 9_000))));
    let run = all.program.sync_list().exits(0);
    assert_eq!(run.total("copied"), 1);
    let of_first = |request: &fake::Request| request.kind == Kind::BlobGet && request.reference.as_deref() == Some(first.as_str());
    let connections: Vec<u64> =
        all.upstream.requests().iter().filter(|request| of_first(request)).map(|request| request.connection).collect();
    assert_eq!(connections.len(), 3);
    assert_eq!(connections.iter().collect::<std::collections::HashSet<_>>().len(), 3, "{connections:?}");
}

#[test]
fn bytes_that_are_wrong_three_times_are_wrong() {
    for kind in [Kind::BlobGet, Kind::ManifestGet] {
        let all = images(1, Options::default(), Options::default());
        let first = first_layer(&all);
        let matching = if kind == Kind::BlobGet { Match::kind(kind).reference(&first) } else { Match::kind(kind) };
        // Of the right length.
        let wrong = if kind == Kind::BlobGet { damaged(&layer(0, 9_000)) } else { "{\"schemaVersion\":2}".into() };
        all.upstream.fault(matching, FOREVER, Fault::WrongBody(wrong));
        let run = all.program.sync_list().exits(1);
        let asked = all.upstream.count_matching(|request| {
            request.kind == kind && (kind == Kind::ManifestGet || request.reference.as_deref() == Some(first.as_str()))
        });
        assert_eq!(asked, 3, "{kind:?}: {}", run.stderr);
        assert!(run.error()["message"].as_str().unwrap().contains("hash to"), "{}", run.stderr);
        assert!(all.target.tags("m/app").is_empty());
    }
}

/// The digest of the first image's first layer.
fn first_layer(all: &Images) -> Digest {
    let digest = Digest::sha256(&layer(0, 9_000));
    assert!(all.upstream.has_blob("app", &digest));
    digest
}

/// Bytes of the same length, one of them wrong.
fn damaged(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[100] ^= 1;
    bytes.into()
}

#[test]
fn an_empty_200_is_asked_for_again() {
    for kind in [Kind::ManifestGet, Kind::BlobGet, Kind::Token] {
        let options = Options { auth: Auth::tokens("hub", "pw"), ..Options::default() };
        let all = images(2, options, Options::default());
        all.upstream.fault(Match::kind(kind), 2, Fault::Status { code: 200, headers: vec![], body: "".into() });
        all.all_arrive(&format!("{kind:?}"));
        assert_eq!(all.upstream.faults_left(), 0);
    }
}

#[test]
fn an_upstream_that_cuts_every_answer_ends_well_because_each_part_is_progress() {
    let all = images(0, Options::default(), Options::default());
    let bytes = layer(5, 1_000_000);
    let size = bytes.len() as u64;
    let large = Digest::sha256(&bytes);
    image(&all.upstream, "app", Some("cut"), &ImageSpec::new([bytes]));
    all.program.list([all.upstream.image("app:cut")]);
    all.upstream.fault(Match::kind(Kind::BlobGet).reference(&large), FOREVER, Fault::CutBody { after: 100_000 });
    let run = all.program.sync_list().exits(0);
    assert!(all.target.has_blob("m/app", &large));
    let gets = all.upstream.count_matching(|request| request.reference.as_deref() == Some(large.as_str()) && request.kind == Kind::BlobGet);
    assert_eq!(gets as u64, size.div_ceil(100_000));
    assert!(run.total("bytes_read") < size + 10_000, "no byte is read twice");
}

#[test]
fn a_registry_that_knows_closed_ranges_only_or_none_is_read_all_the_same() {
    for (closed, refused, gets) in [(true, false, 2), (false, true, 3)] {
        let options = Options { closed_ranges_only: closed, refuse_ranges: refused, ..Options::default() };
        let all = images(1, options, Options::default());
        let first = first_layer(&all);
        all.upstream.fault(Match::kind(Kind::BlobGet).reference(&first), 1, Fault::CutBody { after: 5_000 });
        let run = all.program.sync_list().exits(0);
        assert_eq!(run.total("copied"), 1);
        let asked = |request: &fake::Request| request.kind == Kind::BlobGet && request.reference.as_deref() == Some(first.as_str());
        assert_eq!(all.upstream.count_matching(asked), gets, "the part is asked for once, and the whole once");
    }
}

#[test]
fn what_a_layout_kept_of_a_blob_fails_no_run_at_a_registry_that_refuses_ranges() {
    let all = images(0, Options::default(), Options::default());
    let bytes = layer(5, 1_000_000);
    let large = Digest::sha256(&bytes);
    image(&all.upstream, "app", Some("v0"), &ImageSpec::new([bytes]));
    all.program.list([all.upstream.image("app:v0")]);
    let of_large = || Match::kind(Kind::BlobGet).reference(&large);
    all.upstream.fault(of_large(), 1, Fault::CutBody { after: 500_000 });
    all.upstream.fault(of_large(), 1, Fault::error(403, "DENIED", "no"));
    let arguments = ["list.txt", "--to", "oci:store", "--unmatched", "mirror"];
    all.program.sync(&arguments).exits(1);
    assert!(partials(&all.program) > 0, "the first part is kept");
    all.upstream.configure(|options| options.refuse_ranges = true);
    let run = all.program.sync(&arguments).exits(0);
    assert_eq!(run.total("copied"), 1);
}

/// Bytes in the partial files of the layout `store`.
fn partials(program: &Program) -> u64 {
    let folder = std::fs::read_dir(program.path("store/.larder/partial")).into_iter().flatten();
    folder.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn an_unspoken_limit_of_requests_a_second_loses_no_image() {
    let limit = fake::Rate { per_second: 50.0, burst: 50.0, retry_after: None };
    let all = images(40, Options::default(), Options::default());
    all.upstream.configure(|options| options.rate = Some(limit));
    all.all_arrive("50 a second");
    // Half of all were refused before the limit was looked for. How few they are is shown under a paused clock (`limits::adaptive_pace`).
    let (asked, refused) = (all.upstream.requests().len() as u64, all.upstream.throttled());
    assert!(refused * 10 < asked, "{refused} of {asked} refused");
}
