//! What is answered with 200 in a manifest's place is not an image: it fails, nothing of it is kept, and what was there before stays.

use crate::support::corpus::{DOCKER_IMAGE, OCI_CONFIG, OCI_IMAGE, OCI_INDEX, simple};
use crate::support::fake::{FOREVER, Fake, Fault, Kind, Match, reply, with};
use crate::support::program::Program;
use larder::content::Digest;
use serde_json::{Value, json};

/// Bodies, what they are served as, and what is said of them.
fn impostors() -> Vec<(String, &'static str, &'static str)> {
    let blob = json!({"mediaType": OCI_CONFIG, "digest": Digest::sha256(b"{}"), "size": 2});
    let text = |value: &Value| value.to_string();
    let said = "not a manifest";
    vec![
        ("{}".to_owned(), OCI_IMAGE, "starts with `{}`): it has no `schemaVersion` 2"),
        ("{}".to_owned(), "application/json", "(application/json, starts with `{}`): it has no `schemaVersion` 2"),
        ("{}".to_owned(), "text/html", "(text/html, starts with `{}`)"),
        (r#"{"errors":[{"code":"UNKNOWN"}]}"#.to_owned(), "application/json", r#"starts with `{"errors":[{"code":"UNKNOWN"}]}`)"#),
        (r#"{"login":"https://portal.example.com/"}"#.to_owned(), OCI_INDEX, r#"starts with `{"login":"#),
        ("<html>log in</html>".to_owned(), "text/html", "(text/html, starts with `<html>`)"),
        (text(&json!({"schemaVersion": 2})), "application/json", "it has no `config`"),
        (text(&json!({"schemaVersion": 2, "config": blob})), DOCKER_IMAGE, "it has no list `layers`"),
        (text(&json!({"schemaVersion": 2})), OCI_INDEX, "it has no list `manifests`"),
        (text(&json!({"schemaVersion": 1, "config": blob, "layers": []})), OCI_IMAGE, "it has no `schemaVersion` 2"),
        (text(&json!({"mediaType": OCI_IMAGE, "config": blob, "layers": []})), OCI_IMAGE, "it has no `schemaVersion` 2"),
        (
            text(&json!({"schemaVersion": 2, "config": blob, "layers": [blob], "manifests": [blob]})),
            OCI_IMAGE,
            "an image and an index at once",
        ),
        (text(&json!({"schemaVersion": 2, "manifests": [blob], "layers": [blob]})), OCI_INDEX, "an image and an index at once"),
        (text(&json!({"schemaVersion": 2, "a": said})), "application/vnd.example+json", "its media type is not one of a manifest"),
    ]
}

#[test]
fn what_is_not_a_manifest_replaces_nothing_and_is_not_kept() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    upstream.put_blob("app", "{}");
    for to in [target.addr(), "oci:store".to_owned()] {
        let good = simple(&upstream, "app", "v1", 1);
        program.list([upstream.image("app:v1")]);
        program.sync(&["list.txt", "--to", &to]).exits(0);
        let index = program.path("store/index.json").exists().then(|| program.read("store/index.json"));
        for (body, media_type, expected) in impostors() {
            let digest = upstream.put_manifest("app", Some("v1"), media_type, body.clone());
            let run = program.sync(&["list.txt", "--to", &to]).exits(1);
            let error = run.error();
            let message = error["message"].as_str().unwrap();
            let start = format!("{} answered something that is not a manifest (", upstream.addr());
            assert!(message.starts_with(&start) && message.contains(expected), "{body} as {media_type} into {to}: {message}");
            assert_eq!((&error["side"], run.total("copied")), (&json!("upstream"), 0));
            if to == target.addr() {
                let repository = target.repositories().into_iter().find(|repository| repository.ends_with("app")).unwrap();
                assert_eq!(target.digest(&repository, "v1"), Some(good.digest.clone()), "{body}");
            } else {
                assert_eq!(Some(program.read("store/index.json")), index, "{body}");
                assert!(!program.path("store/blobs/sha256").join(digest.encoded()).exists(), "{body}");
                program.run(&["verify", "store"]).exits(0);
            }
            assert!(!program.path("home/state/larder/manifests").join(format!("sha256-{}", digest.encoded())).exists(), "{body}");
        }
    }
}

#[test]
fn a_portal_in_the_registrys_place_is_named() {
    let (upstream, program) = (Fake::start(), Program::new());
    let page = |_: &crate::support::fake::Request| {
        with(reply(200, "<html><body>Log in</body></html>"), "content-type", "text/html; charset=utf-8")
    };
    for kind in [Kind::ManifestHead, Kind::ManifestGet] {
        upstream.fault(Match::kind(kind), FOREVER, Fault::custom(page));
    }
    program.list([upstream.image("app:v1")]);
    let run = program.sync(&["list.txt", "--to", "oci:store"]).exits(1);
    let expected = format!(
        "{} answered something that is not a manifest (text/html, starts with `<html>`) (a web page (HTML) in the registry's place comes \
         from a login or a proxy on the way)",
        upstream.addr()
    );
    assert_eq!(run.error()["message"], expected);
    let plan = program.run(&["plan", "list.txt", "--to", "oci:store"]).exits(1);
    assert!(plan.stderr.contains("answered something that is not a manifest"), "{}", plan.stderr);
}

/// Writes a layout whose only image is what these bytes are.
fn layout(program: &Program, body: &str, media_type: &str) -> Digest {
    let digest = Digest::sha256(body.as_bytes());
    program.write("forged/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    program.write(&format!("forged/blobs/sha256/{}", digest.encoded()), body);
    let annotations = json!({"org.opencontainers.image.ref.name": "app:v1"});
    let entry = json!({"mediaType": media_type, "digest": digest, "size": body.len(), "annotations": annotations});
    program.write("forged/index.json", json!({"schemaVersion": 2, "manifests": [entry]}).to_string());
    digest
}

#[test]
fn verify_and_import_refuse_what_a_layout_calls_an_image() {
    for (body, media_type, expected) in impostors() {
        let (target, program) = (Fake::start(), Program::new());
        let digest = layout(&program, &body, media_type);
        // The message for a file names no host.
        let expected = expected.rsplit_once("): ").map_or("is not a manifest", |(_, why)| why);
        let verified = program.run(&["verify", "forged"]).exits(1);
        assert!(verified.stdout.contains(digest.as_str()) && verified.stdout.contains(expected), "{body}: {}", verified.stdout);
        assert!(verified.stderr.contains("1 damaged"), "{body}: {}", verified.stderr);
        for to in [target.addr(), "oci:store".to_owned()] {
            let run = program.run(&["import", "forged", "--to", &to, "--report", "report.json"]).exits(1);
            assert!(run.stderr.contains(expected), "{body} as {media_type} into {to}: {}", run.stderr);
        }
        assert_eq!(target.count(Kind::ManifestPut), 0, "{body}");
    }
}
