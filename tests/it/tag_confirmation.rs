//! A target that accepts a manifest and loses it has not got the image.

use crate::support::corpus::{cosign_signature, simple};
use crate::support::fake::{Fake, Fault, Kind, Match, Options, reply, with};
use crate::support::program::{Program, configuration};

/// Heads of tags at the target after they were put.
fn asked_afterwards(target: &Fake) -> usize {
    let requests = target.requests();
    let put = requests.iter().position(|request| request.kind == Kind::ManifestPut && request.reference.as_deref() == Some("v1"));
    requests.iter().skip(put.map_or(0, |at| at + 1)).filter(|request| request.kind == Kind::ManifestHead).count()
}

#[test]
fn a_tag_that_was_accepted_and_lost_is_a_failure() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    simple(&upstream, "app", "v1", 1);
    program.list([upstream.image("app:v1")]);
    let lost = Match::kind(Kind::ManifestPut).reference("v1");
    target.fault(lost.clone(), 1, Fault::custom(|_| reply(201, "")));
    let run = program.sync_list().exits(1);
    let error = run.error();
    assert_eq!(
        (error["side"].as_str(), error["operation"].as_str(), error["status"].as_u64()),
        (Some("target"), Some("check tag"), Some(404))
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("the target accepted the manifest, and does not have it under this name"), "{message}");
    assert_eq!(run.total("copied"), 0);
    // The next night puts it again.
    let run = program.sync_list().exits(0);
    assert_eq!((run.total("copied"), run.total("blobs_copied")), (1, 0));
}

#[test]
fn an_answer_that_proves_the_tag_saves_the_question_and_recheck_asks_always() {
    for (digest_header, recheck, expected) in [(true, false, 0), (true, true, 1), (false, false, 1), (false, true, 1)] {
        let (upstream, target, program) = (Fake::start(), Fake::with(Options { digest_header, ..Options::default() }), Program::new());
        program.configure(&target, &[&upstream]);
        simple(&upstream, "app", "v1", 1);
        program.list([upstream.image("app:v1")]);
        let arguments: &[&str] = if recheck { &["list.txt", "--recheck"] } else { &["list.txt"] };
        assert_eq!(program.sync(arguments).exits(0).total("copied"), 1);
        assert_eq!(asked_afterwards(&target), expected, "digest header {digest_header}, recheck {recheck}");
        assert_eq!(target.count(Kind::ManifestGet), 0, "nothing is read to know that it is there");
    }
}

#[test]
fn with_recheck_even_a_convincing_answer_is_checked() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let image = simple(&upstream, "app", "v1", 1);
    program.list([upstream.image("app:v1")]);
    let digest = image.digest.to_string();
    let convincing = move |_: &crate::support::fake::Request| {
        with(with(reply(201, ""), "docker-content-digest", &digest), "location", format!("/v2/m/app/manifests/{digest}"))
    };
    target.fault(Match::kind(Kind::ManifestPut).reference("v1"), 1, Fault::custom(convincing));
    let run = program.sync(&["list.txt", "--recheck"]).exits(1);
    assert_eq!(run.error()["operation"], "check tag");
}

#[test]
fn a_lost_signature_is_a_failure_too() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.write("larder.toml", configuration(&target.addr(), &[&upstream]).replace("referrers = false", "referrers = true"));
    let image = simple(&upstream, "app", "v1", 1);
    cosign_signature(&upstream, "app", &image);
    program.list([upstream.image("app:v1")]);
    let tag = format!("sha256-{}.sig", image.digest.encoded());
    target.fault(Match::kind(Kind::ManifestPut).reference(&tag), 1, Fault::custom(|_| reply(201, "")));
    assert_eq!(program.sync_list().exits(1).error()["operation"], "check tag");
    program.sync_list().exits(0);
    assert!(target.digest("m/app", &tag).is_some());
}
