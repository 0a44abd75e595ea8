//! Registries that fail now and then: whatever goes wrong, however often, at whichever side, every image arrives.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use larder::content::{Descriptor, Digest};

use crate::support::corpus::{ImageSpec, image, simple};
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
    let made = put_images(&upstream, count);
    program.list((0..count).map(|number| upstream.image(&format!("app:v{number}"))));
    Images { upstream, target, program, made, bytes: bytes_of(count) }
}

/// The bytes of `count` images, as a run without faults reads them. All images of one count have the same.
fn bytes_of(count: u64) -> u64 {
    static KNOWN: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());
    if count == 0 {
        return 0;
    }
    let mut known = KNOWN.lock().unwrap();
    *known.entry(count).or_insert_with(|| {
        let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
        program.configure(&target, &[&upstream]);
        put_images(&upstream, count);
        program.list((0..count).map(|number| upstream.image(&format!("app:v{number}"))));
        program.sync_list().exits(0).total("bytes_read")
    })
}

fn put_images(upstream: &Fake, count: u64) -> Vec<Descriptor> {
    let layers = |number: u64| [layer(2 * number, 9_000), layer(2 * number + 1, 3_000)];
    (0..count).map(|number| image(upstream, "app", Some(&format!("v{number}")), &ImageSpec::new(layers(number)))).collect()
}

impl Images {
    /// Runs; every image must arrive, with hardly more bytes read than it has.
    #[track_caller]
    fn all_arrive(&self, what: &str) -> Run {
        self.try_all(what).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    fn try_all(&self, what: &str) -> Result<Run, String> {
        let run = self.program.sync_list();
        if run.code != 0 {
            return Err(format!("{what}: {}", run.stderr));
        }
        let arrived = |number: usize, made: &Descriptor| self.target.digest("m/app", &format!("v{number}")) == Some(made.digest.clone());
        let lost = self.made.iter().enumerate().filter(|(number, made)| !arrived(*number, made)).count();
        let (copied, read) = (run.total("copied"), run.total("bytes_read"));
        if copied != self.made.len() as u64 || lost > 0 {
            return Err(format!("{what}: {copied} copied, {lost} of {} lost", self.made.len()));
        }
        if read * 100 > self.bytes * 105 {
            return Err(format!("{what}: {read} bytes read of {}", self.bytes));
        }
        Ok(run)
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

#[test]
fn a_target_that_refuses_most_requests_for_their_pace_gets_every_image() {
    // Without a word on how long to wait, and with one. Neither host accepts anybody for seconds at a time.
    let empty = Fault::Status { code: 429, headers: vec![], body: "".into() };
    let cases = [(Chance::Percent(60), empty), (Chance::Percent(50), Fault::limited("1")), (Chance::Every(2), Fault::limited("1"))];
    side_by_side(cases.to_vec(), |(chance, fault)| {
        let all = images(6, Options::default(), Options::default());
        all.target.sporadic_fault(Match::any(), chance, fault);
        all.try_all(&format!("{chance:?} 429")).map(drop)
    });
}

/// What fails, and how often, at which side, for which requests.
#[derive(Clone)]
struct Case {
    name: &'static str,
    fault: Fault,
    chance: Chance,
    at_target: bool,
    kind: Kind,
    /// Whether the target takes blobs only by PATCH.
    patches: bool,
}

impl Case {
    fn run(&self) -> Result<(), String> {
        let Case { name, chance, kind, at_target, patches, .. } = self;
        let all = match at_target {
            true => images(6, Options::default(), Options { max_put: patches.then_some(0), ..Options::default() }),
            false => {
                let (upstream, target) = with_all_hosts();
                images(6, upstream, target)
            }
        };
        let failing = if *at_target { &all.target } else { &all.upstream };
        failing.sporadic_fault(Match::kind(*kind), *chance, self.fault.clone());
        let side = if *at_target { "target" } else { "upstream" };
        all.try_all(&format!("{name}, {chance:?}, {kind:?} at the {side}")).map(drop)
    }
}

/// Every kind of request at every host, with these faults and shares.
fn cases(faults: &[(&'static str, Fault)], shares: &[Chance]) -> Vec<Case> {
    let upstream = [Kind::ManifestHead, Kind::ManifestGet, Kind::BlobGet, Kind::Cdn, Kind::Token].map(|kind| (false, kind, false));
    let target = [
        (Kind::ManifestHead, false),
        (Kind::BlobHead, false),
        (Kind::Mount, false),
        (Kind::UploadPost, false),
        (Kind::UploadPut, false),
        (Kind::UploadPatch, true),
        (Kind::UploadPut, true),
        (Kind::ManifestPut, false),
    ]
    .map(|(kind, patches)| (true, kind, patches));
    let mut cases = vec![];
    for (name, fault) in faults {
        for chance in shares {
            for (at_target, kind, patches) in upstream.iter().chain(&target).copied() {
                cases.push(Case { name, fault: fault.clone(), chance: *chance, at_target, kind, patches });
            }
        }
    }
    cases
}

/// Judges all cases, many at once: most of their time is spent waiting.
#[track_caller]
fn side_by_side<C: Send>(cases: Vec<C>, judge: impl Fn(C) -> Result<(), String> + Sync) {
    let (cases, wrong) = (Mutex::new(cases), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                loop {
                    let Some(case) = cases.lock().unwrap().pop() else { break };
                    if let Err(why) = judge(case) {
                        eprintln!("{why}");
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_tenth_of_failures_of_any_kind_of_request_loses_no_image() {
    // The ignored test below has every fault, and 3 %, 30 %, every third and every seventh.
    let faults: Vec<_> = passing().into_iter().filter(|(name, _)| ["500", "reset"].contains(name)).collect();
    side_by_side(cases(&faults, &[Chance::Percent(10)]), |case| case.run());
}

#[test]
#[ignore = "takes minutes: every fault, at every share, for every kind of request, at the upstream, its CDN, its token server, and the target"]
fn every_kind_of_fault_at_every_share_on_every_kind_of_request_loses_no_image() {
    let shares = [Chance::Percent(3), Chance::Percent(10), Chance::Percent(30), Chance::Every(3), Chance::Every(7)];
    side_by_side(cases(&passing(), &shares), |case| case.run());
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

/// An image whose HEAD is answered late: after the first failure of others, so that its upstream counts as alive.
fn answered_late(upstream: &Fake) -> String {
    simple(upstream, "other", "w1", 100);
    upstream.fault(Match::kind(Kind::ManifestHead).repository("other"), 1, Fault::Delay(std::time::Duration::from_secs(2)));
    upstream.image("other:w1")
}

#[test]
fn a_line_whose_tags_could_not_be_listed_is_tried_once_more() {
    // A line that is alone in its repository of the target is tried again after all others; for lines that share one, others may wait.
    for alone in [true, false] {
        let all = images(3, Options::default(), Options::default());
        let (app, other) = (all.upstream.image("app"), answered_late(&all.upstream));
        let more = if alone { String::new() } else { format!("\n{app},v1") };
        all.program.list([format!("image,tags\n{other},\n{app},v*{more}")]);
        all.upstream.fault(Match::kind(Kind::Tags).repository("app"), 7, Fault::status(500));
        let run = all.program.sync_list().exits(0);
        assert_eq!((run.total("copied"), run.total("failed")), (4, 0), "{}", run.stderr);
        let lists = all.upstream.count_matching(|request| request.kind == Kind::Tags);
        assert_eq!(lists, 8, "seven attempts, and the second try");
        assert_eq!(all.target.tags("m/app").len(), 3);
    }
}

#[test]
fn a_line_whose_tags_cannot_be_listed_at_all_fails_after_the_second_try() {
    let all = images(1, Options::default(), Options::default());
    let other = answered_late(&all.upstream);
    all.program.list([format!("image,tags\n{other},\n{},v*", all.upstream.image("app"))]);
    all.upstream.fault(Match::kind(Kind::Tags), FOREVER, Fault::error(500, "UNKNOWN", "no"));
    let run = all.program.sync_list().exits(1);
    assert_eq!((run.total("copied"), run.total("failed")), (1, 1), "{}", run.stderr);
    assert!(all.upstream.count_matching(|request| request.kind == Kind::Tags) > 7, "{}", run.stderr);
    assert_eq!(run.stderr.lines().filter(|line| line.contains("list tags")).count(), 1, "one line for it: {}", run.stderr);
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
