//! One cause, one line: what fails many images is told once, with their number; the report has a row for each.

use crate::support::corpus::simple;
use crate::support::fake::{self, Auth, FOREVER, Fake, Fault, Kind, Match, Options};
use crate::support::program::{Program, Run};

const IMAGES: usize = 12;

/// `app:v0` and so on, from one registry into another.
fn start(upstream: Options, target: Options) -> (Fake, Fake, Program) {
    let (upstream, target, program) = (Fake::with(upstream), Fake::with(target), Program::new());
    program.configure(&target, &[&upstream]);
    for number in 0..IMAGES {
        simple(&upstream, "app", &format!("v{number}"), number as u64 + 1);
    }
    program.list((0..IMAGES).map(|number| upstream.image(&format!("app:v{number}"))));
    (upstream, target, program)
}

/// The only line that tells a failure.
#[track_caller]
fn the_line(run: &Run) -> &str {
    let lines: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{}", run.stderr);
    assert_eq!(run.with_status("failed").len(), IMAGES, "a row an image");
    lines[0]
}

#[test]
fn a_dead_target_is_named_once_and_asks_the_upstream_nothing_more() {
    for quiet in [false, true] {
        let (upstream, mut target, program) = start(Options::default(), Options::default());
        target.stop();
        let arguments: &[&str] = if quiet { &["list.txt", "-q"] } else { &["list.txt"] };
        let run = program.sync(arguments).exits(1);
        let line = the_line(&run);
        let expected = format!("error: {IMAGES} images failed: target {}: no answer after ", target.addr());
        assert!(line.starts_with(&expected) && line.ends_with("Connection refused (os error 111)"), "{line}");
        assert!(run.with_status("failed").iter().all(|row| row["error"]["side"] == "target"));
        assert_eq!(upstream.count(Kind::ManifestGet), 0);
        assert_eq!(quiet, !run.stderr.contains("pulls spent"), "{}", run.stderr);
    }
}

#[test]
fn a_single_image_that_a_dead_target_fails_is_named() {
    let (upstream, mut target, program) = start(Options::default(), Options::default());
    target.stop();
    program.list([upstream.image("app:v0")]);
    let run = program.sync_list().exits(1);
    let expected = format!("error: list.txt:1: target {}: resolve tag {}: no answer after ", target.addr(), upstream.image("app:v0"));
    assert!(run.stderr.starts_with(&expected), "{}", run.stderr);
}

#[test]
fn a_wrong_password_is_told_once() {
    let (upstream, target, program) = start(Options::default(), Options { auth: Auth::tokens("ci", "right"), ..Options::default() });
    let credentials = format!(
        "[[credentials]]\nname = \"ci\"\nlogin_server = \"{}\"\nusername = \"ci\"\npassword = {{ env = \"CI_PASSWORD\" }}\n",
        target.addr()
    );
    program.write("larder.toml", program.read("larder.toml") + &credentials);
    // Not set at all.
    let run = program.sync_list().exits(1);
    let line = the_line(&run);
    assert!(line.starts_with(&format!("error: {IMAGES} images failed: ")) && line.contains("CI_PASSWORD is not set"), "{line}");
    // Wrong.
    let mut program = program;
    program.set("CI_PASSWORD", "wrong");
    let run = program.sync_list().exits(1);
    let line = the_line(&run);
    assert!(
        line.starts_with(&format!("error: {IMAGES} images failed: target")) && line.contains("does not accept the credentials `ci`"),
        "{line}"
    );
    assert!(line.contains(&target.addr()), "{line}");
    assert_eq!(upstream.count(Kind::ManifestGet), 0);
}

#[test]
fn a_refused_push_is_told_once() {
    let (_upstream, target, program) = start(Options::default(), Options::default());
    target.fault(Match::kind(Kind::UploadPost), FOREVER, Fault::error(403, "DENIED", "requested access to the resource is denied"));
    let run = program.sync_list().exits(1);
    let line = the_line(&run);
    let expected = format!("error: {IMAGES} images failed: target {}: start upload: 403 DENIED requested access", target.addr());
    assert!(line.starts_with(&expected), "{line}");
}

#[test]
fn causes_that_differ_have_a_line_each() {
    let (upstream, target, program) = start(Options::default(), Options::default());
    program.list(["app:v0", "gone:v1", "gone:v2"].map(|name| upstream.image(name)));
    let run = program.sync_list().exits(1);
    assert_eq!(run.stderr.lines().filter(|line| line.starts_with("error: list.txt:")).count(), 2, "{}", run.stderr);
    assert_eq!(target.tags("m/app"), ["v0"]);
}

#[test]
fn a_501_is_final_at_once() {
    let (upstream, _target, program) = start(Options::default(), Options::default());
    program.list([upstream.image("app:v0")]);
    upstream.fault(Match::kind(Kind::ManifestGet), FOREVER, Fault::status(501));
    let run = program.sync_list().exits(1);
    assert_eq!((run.error()["status"].as_u64(), upstream.count(Kind::ManifestGet)), (Some(501), 1));
}

#[test]
fn a_transfer_that_breaks_for_good_names_its_blob_and_the_host_that_failed() {
    let options = Options { redirect: Some(fake::Redirect::default()), ..Options::default() };
    let (upstream, _target, program) = start(options, Options::default());
    program.list([upstream.image("app:v0")]);
    upstream.fault(Match::kind(Kind::Cdn), FOREVER, Fault::CutBody { after: 1 });
    let run = program.sync_list().exits(1);
    let message = run.error()["message"].as_str().unwrap();
    assert!(message.starts_with("blob "), "{message}");
    assert!(message.contains(&format!("no answer from localhost:{} after ", upstream.cdn_addr().port())), "{message}");
}

#[test]
fn loopback_addresses_never_go_through_a_proxy() {
    let (_upstream, target, mut program) = start(Options::default(), Options::default());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        program.set(name, "http://proxy.invalid:3128");
    }
    program.sync_list().exits(0);
    assert_eq!(target.tags("m/app").len(), IMAGES);
    program.run(&["demo"]).exits(0);
}

#[test]
fn a_malformed_proxy_is_an_error_and_a_proxy_that_fails_is_named() {
    let (upstream, target, mut program) = start(Options::default(), Options::default());
    program.set("HTTP_PROXY", "http://user:secret@proxy:port");
    let run = program.sync_list().exits(2);
    assert!(run.stderr.contains("environment variable HTTP_PROXY is not an address"), "{}", run.stderr);
    assert!(!run.stderr.contains("secret"), "{}", run.stderr);
    assert_eq!((upstream.requests().len(), target.requests().len()), (0, 0));

    let mut program = Program::new();
    let closed = Fake::start().addr();
    program.write(
        "larder.toml",
        format!("version = 1\n[target]\nregistry = \"{}\"\n[registry.\"r.invalid\"]\nplain_http = true\n", target.addr()),
    );
    program.set("HTTP_PROXY", format!("http://{closed}"));
    let run = program.sync(&["--image", "r.invalid/app:v1", "--unmatched", "mirror"]).exits(1);
    assert!(run.stderr.contains(&format!("(through the proxy {closed})")), "{}", run.stderr);
}

#[test]
fn the_errors_below_an_error_are_shown_with_v_only() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    let tls = format!("[registry.\"{}\"]\nplain_http = false\n", upstream.addr());
    program.write("larder.toml", crate::support::program::configuration(&target.addr(), &[&upstream]) + &tls);
    program.list([upstream.image("a:v1")]);
    let said = |arguments: &[&str]| program.sync(arguments).exits(1).stderr;
    let plain = said(&["list.txt"]);
    assert!(plain.contains("does not speak TLS") && !plain.contains("caused by"), "{plain}");
    let verbose = said(&["-v", "list.txt"]);
    let below: Vec<&str> = verbose.lines().filter_map(|line| line.strip_prefix("  caused by: ")).collect();
    assert!(below.len() > 1 && below[0].contains("error sending request"), "{verbose}");
    // Addresses may be signed.
    assert!(!below.iter().any(|line| line.contains("http")), "{verbose}");
    let json = said(&["-v", "--log-format", "json", "list.txt"]);
    assert!(json.contains("\"caused_by\":[\"error sending request\""), "{json}");
}
