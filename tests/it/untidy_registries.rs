//! Registries as they are: what they refuse, leave out and get wrong, where pulls and pushes work all the same.

use crate::support::corpus::{OCI_INDEX, artifact, base64, cosign_signature, simple};
use crate::support::fake::{Auth, FOREVER, Fake, Fault, Kind, Match, Options};
use crate::support::program::{Program, Run};
use larder::content::{Descriptor, fallback_tag};
use serde_json::Value;

const SIGNATURE: &str = "application/vnd.example.signature";

/// A program that copies from `upstream` into `target` with all that belongs to the images.
fn ready(target: &Fake, upstream: &Fake) -> Program {
    let program = Program::new();
    let rule = format!("[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"m/*\"\n", upstream.addr());
    program.write("larder.toml", format!("version = 1\n[target]\nregistry = \"{}\"\n{rule}", target.addr()));
    program.list([upstream.image("app:v1")]);
    program
}

fn row(run: &Run) -> &Value {
    assert_eq!(run.images().len(), 1);
    &run.images()[0]
}

fn notes(run: &Run) -> Vec<&str> {
    row(run)["notes"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

fn signature_of(image: &Descriptor) -> String {
    format!("sha256-{}.sig", image.digest.encoded())
}

#[test]
fn a_head_that_is_refused_says_nothing_where_the_get_works() {
    for code in [400, 403, 405, 501] {
        let (upstream, target) = (Fake::start(), Fake::start());
        let program = ready(&target, &upstream);
        simple(&upstream, "app", "v1", 1);
        upstream.fault(Match::kind(Kind::ManifestHead), FOREVER, Fault::error(code, "UNSUPPORTED", "no HEAD here"));
        let run = program.sync_list().exits(0);
        assert_eq!((&row(&run)["status"], &row(&run)["pulls"]), (&"copied".into(), &1.into()), "{code}");
        assert_eq!((upstream.count(Kind::ManifestHead), upstream.count(Kind::ManifestGet)), (1, 1), "{code}");
        assert_eq!(target.tags("m/app"), ["v1"]);
    }
}

#[test]
fn a_heads_length_is_a_hint() {
    for length in ["0", "17", "99999"] {
        let (upstream, target) = (Fake::start(), Fake::start());
        let program = ready(&target, &upstream);
        let image = simple(&upstream, "app", "v1", 1);
        let wrong = Fault::Header { name: "content-length", value: Some(length.to_owned()) };
        upstream.fault(Match::kind(Kind::ManifestHead), FOREVER, wrong);
        let run = program.sync(&["list.txt", "--to", "oci:store"]).exits(0);
        assert_eq!(row(&run)["digest"], image.digest.as_str(), "{length}");
        let verified = program.run(&["verify", "store"]).exits(0);
        assert!(verified.stderr.contains("0 damaged, 0 missing"), "{}", verified.stderr);
    }
}

#[test]
fn a_target_that_does_not_say_what_is_absent_is_pushed_to() {
    for (code, kinds) in [
        (403, vec![Kind::ManifestHead, Kind::ManifestGet, Kind::BlobHead, Kind::Tags, Kind::Referrers]),
        (400, vec![Kind::ManifestHead, Kind::ManifestGet, Kind::BlobHead]),
        (405, vec![Kind::ManifestHead, Kind::ManifestGet, Kind::BlobHead]),
        (501, vec![Kind::ManifestHead, Kind::ManifestGet, Kind::BlobHead]),
    ] {
        let (upstream, target) = (Fake::start(), Fake::start());
        let program = ready(&target, &upstream);
        simple(&upstream, "app", "v1", 1);
        for kind in kinds {
            target.fault(Match::kind(kind), FOREVER, Fault::error(code, "DENIED", "requested access to the resource is denied"));
        }
        let run = program.sync_list().exits(0);
        assert_eq!(row(&run)["status"], "copied", "{code}: {}", run.stderr);
        assert_eq!(target.tags("m/app"), ["v1"], "{code}");
    }
}

#[test]
fn a_target_that_refuses_the_push_itself_still_says_so() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream);
    simple(&upstream, "app", "v1", 1);
    target.fault(Match::any(), FOREVER, Fault::error(403, "DENIED", "not for you"));
    let run = program.sync_list().exits(1);
    assert_eq!((&run.error()["side"], &run.error()["status"]), (&"target".into(), &403.into()));
}

#[test]
fn where_tags_cannot_be_listed_signatures_are_found_by_name_one_head_each() {
    for code in [400, 401, 403, 404, 405, 501] {
        let (upstream, target) = (Fake::with(Options { referrers: false, ..Options::default() }), Fake::start());
        let program = ready(&target, &upstream);
        let image = simple(&upstream, "app", "v1", 1);
        cosign_signature(&upstream, "app", &image);
        upstream.fault(Match::kind(Kind::Tags), FOREVER, Fault::error(code, "DENIED", "not authorized to perform: ecr:ListImages"));
        let run = program.sync_list().exits(0);
        assert_eq!((&row(&run)["status"], &row(&run)["referrers"]), (&"copied".into(), &1.into()), "{code}: {}", run.stderr);
        assert!(target.tags("m/app").contains(&signature_of(&image)), "{code}");
        assert!(notes(&run).is_empty(), "all was looked for: {:?}", notes(&run));
        let about = |of: &Descriptor| {
            upstream.count_matching(|request| {
                let name = request.reference.as_deref().unwrap_or_default();
                request.kind == Kind::ManifestHead && name.starts_with(&format!("sha256-{}", of.digest.encoded()))
            })
        };
        assert_eq!(about(&image), 4, "the index of referrers, and cosign's three");
    }
}

#[test]
fn what_could_not_be_looked_for_is_a_note() {
    let (upstream, target) = (Fake::with(Options { referrers: false, ..Options::default() }), Fake::start());
    let program = ready(&target, &upstream);
    let image = simple(&upstream, "app", "v1", 1);
    upstream.fault(Match::kind(Kind::Tags), FOREVER, Fault::error(403, "DENIED", "no"));
    upstream.fault(Match::kind(Kind::ManifestHead).reference(&signature_of(&image)), FOREVER, Fault::error(403, "DENIED", "no"));
    let run = program.sync_list().exits(0);
    let note = format!("could not look for signatures: the tags of {} can neither be listed nor looked at (403)", upstream.image("app"));
    assert_eq!(notes(&run), [note]);
}

#[test]
fn whatever_is_no_list_of_referrers_means_that_there_is_none() {
    let json = || vec![("content-type", "application/json".to_owned())];
    let html = || vec![("content-type", "text/html".to_owned())];
    let index = || vec![("content-type", OCI_INDEX.to_owned())];
    for (code, headers, body, why) in [
        (401, json(), "{}", "401"),
        (403, json(), "{}", "403"),
        (406, json(), "{}", "406"),
        (424, json(), "{}", "424"),
        (500, json(), "{}", "500"),
        (501, json(), "{}", "501"),
        (200, index(), "", "an empty answer"),
        (200, html(), "<html>log in</html>", "a web page"),
        (200, json(), "{}", "an answer that is no index"),
        (404, json(), "{}", ""),
    ] {
        let (upstream, target) = (Fake::start(), Fake::start());
        let program = ready(&target, &upstream);
        let image = simple(&upstream, "app", "v1", 1);
        cosign_signature(&upstream, "app", &image);
        upstream.fault(Match::kind(Kind::Referrers), FOREVER, Fault::Status { code, headers, body: body.into() });
        let run = program.sync_list().exits(0);
        assert!(target.tags("m/app").contains(&signature_of(&image)), "{code} {body}");
        let note = format!("{} has no list of referrers ({why}): signatures were looked for by tag", upstream.addr());
        assert_eq!(notes(&run), if why.is_empty() { vec![] } else { vec![note] }, "{code} {body}");
    }
}

#[test]
fn a_target_that_sees_subjects_and_lists_none_gets_the_index_and_is_asked_once() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream);
    let images: Vec<Descriptor> = (1..=3).map(|n| simple(&upstream, "app", &format!("v{n}"), n)).collect();
    for (n, image) in images.iter().enumerate() {
        artifact(&upstream, "app", None, SIGNATURE, format!("signed {n}"), Some(image));
    }
    program.list((1..=3).map(|n| upstream.image(&format!("app:v{n}"))));
    target.fault(Match::kind(Kind::Referrers), FOREVER, Fault::error(404, "NOT_FOUND", "no such page"));
    program.sync_list().exits(0);
    for image in &images {
        let (_, index) = target.manifest("m/app", fallback_tag(&image.digest)).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&index).unwrap()["manifests"].as_array().unwrap().len(), 1);
    }
    assert_eq!(target.count(Kind::Referrers), 1);
}

#[test]
fn a_size_in_a_list_of_referrers_is_a_hint() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream);
    let image = simple(&upstream, "app", "v1", 1);
    let signature = artifact(&upstream, "app", None, SIGNATURE, "signed", Some(&image));
    let sum = Descriptor { artifact_type: Some(SIGNATURE.to_owned()), size: signature.size + 1188, ..signature.clone() };
    let body = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [sum]}).to_string();
    let headers = vec![("content-type", OCI_INDEX.to_owned())];
    let of_image = Match::kind(Kind::Referrers).reference(&image.digest);
    upstream.fault(of_image, FOREVER, Fault::Status { code: 200, headers, body: body.into() });
    for to in [target.addr(), "oci:store".to_owned()] {
        let run = program.sync(&["list.txt", "--to", &to]).exits(0);
        assert_eq!(row(&run)["referrers"], 1, "{to}");
    }
    program.run(&["verify", "store"]).exits(0);
}

#[test]
fn a_next_page_with_bytes_that_are_not_ascii_is_asked_for() {
    let upstream = Fake::with(Options { page: Some(1), ..Options::default() });
    let target = Fake::start();
    let program = ready(&target, &upstream);
    simple(&upstream, "app", "v1", 1);
    simple(&upstream, "app", "v2", 2);
    program.write("list.csv", format!("image,tags\n{},v*\n", upstream.image("app")));
    // As a proxy writes it that adds a parameter of its own.
    let next = "</v2/app/tags/list?n=1&last=v1&von=K\u{f6}ln>; rel=\"next\"";
    let list = Fault::custom(move |_| {
        let mut answer = axum::response::Response::new(axum::body::Body::from("{\"name\":\"app\",\"tags\":[\"v1\"]}"));
        let link = axum::http::HeaderValue::from_bytes(next.as_bytes()).unwrap();
        answer.headers_mut().insert("link", link);
        answer
    });
    upstream.fault(Match::kind(Kind::Tags), 1, list);
    program.sync(&["list.csv"]).exits(0);
    assert_eq!(target.tags("m/app"), ["v1", "v2"]);
}

#[test]
fn a_retry_after_in_the_year_9999_defers() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream);
    simple(&upstream, "app", "v1", 1);
    upstream.fault(Match::kind(Kind::ManifestHead), FOREVER, Fault::limited("Fri, 31 Dec 9999 23:59:59 GMT"));
    let run = program.sync_list().exits(3);
    assert_eq!(row(&run)["status"], "deferred");
    assert_eq!(upstream.count(Kind::ManifestHead), 1);
}

#[test]
fn passwords_in_urls_in_the_wrong_place_are_shown_nowhere() {
    const SECRET: &str = "hunter2";
    let rule = |source: &str| format!("version = 1\n[[rule]]\nname = \"a\"\nsource = \"{source}\"\ntarget = \"a/*\"\n");
    let url = format!("https://ann:{SECRET}@quay.io");
    let files = [
        rule(&format!("{url}/a/*")),
        rule(&format!("ann:{SECRET}@quay.io/a/*")),
        format!("version = 1\n[registry.\"{url}\"]\nconcurrency = 1\n"),
        format!("version = 1\n[registry.\"quay.io\"]\nendpoint = \"{url}/x\"\n"),
        format!("version = 1\n[registry.\"quay.io\"]\nprofile = \"{url}\"\n"),
        format!("version = 1\n[target]\nregistry = \"{url}\"\n"),
        format!("version = 1\n\"{url}\" = 1\n"),
        format!("version = 1\n[[credentials]]\nname = \"a\"\nlogin_server = \"{url}\"\nusername = \"a\"\npassword = {{ env = \"A\" }}\n"),
    ];
    let shown = |run: &Run| format!("{}{}{}", run.stdout, run.stderr, run.report);
    for file in &files {
        let program = Program::new();
        program.write("larder.toml", file);
        for arguments in [&["config", "check"][..], &["rules", "check"], &["sync", "--image", "quay.io/a/b", "--report", "report.json"]] {
            let run = program.run(arguments);
            assert!(run.code != 0 && !shown(&run).contains(SECRET), "{file}\n{}", shown(&run));
        }
    }
    let program = Program::new();
    program.write("list.txt", format!("{url}/a/b:1\nann:{SECRET}@quay.io/a/b:1\n"));
    program.write("list.csv", format!("image,tags\n{url}/a/b,1\n"));
    for list in ["list.txt", "list.csv"] {
        let run = program.sync(&[list, "--failed", "failed.csv", "--report", "report.csv"]);
        assert!(run.code != 0 && !shown(&run).contains(SECRET), "{}", shown(&run));
        for file in ["failed.csv", "report.csv"] {
            let text = std::fs::read_to_string(program.path(file)).unwrap_or_default();
            assert!(!text.contains(SECRET), "{text}");
        }
    }
    let run = program.run(&["sync", "--image", &format!("{url}/a/b:1")]);
    assert!(run.code != 0 && !shown(&run).contains(SECRET), "{}", shown(&run));
}

#[test]
fn what_a_password_command_says_on_standard_error_is_shown_without_passwords() {
    let (upstream, target) = (Fake::with(Options { auth: Auth::basic("ci", "pw"), ..Options::default() }), Fake::start());
    let program = ready(&target, &upstream);
    simple(&upstream, "app", "v1", 1);
    let script = program.script("get", "echo 'could not log in at https://ann:hunter2@vault.corp/v1' >&2; exit 1");
    let set = format!(
        "[[credentials]]\nname = \"ci\"\nlogin_server = \"{}\"\nusername = \"ci\"\npassword = {{ command = [\"{}\"] }}\n",
        upstream.addr(),
        script.display()
    );
    program.write("larder.toml", program.read("larder.toml") + &set);
    let run = program.sync_list().exits(1);
    let shown = format!("{}{}{}", run.stdout, run.stderr, run.report);
    assert!(shown.contains("https://[redacted]@vault.corp/v1") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn keys_with_a_path_in_docker_and_podman_files_count_for_targets() {
    let (upstream, target) = (Fake::start(), Fake::with(Options { auth: Auth::basic("ann", "pw"), ..Options::default() }));
    let auth = base64(b"ann:pw");
    for file in ["home/.docker/config.json", "home/.config/containers/auth.json"] {
        let program = ready(&target, &upstream);
        simple(&upstream, "app", "v1", 1);
        let other = base64(b"bob:other");
        let auths = format!(r#"{{"auths":{{"{0}/m":{{"auth":"{auth}"}},"{0}/other":{{"auth":"{other}"}}}}}}"#, target.addr());
        program.write(file, auths);
        let run = program.sync_list().exits(0);
        let accounts = run.report["registries"].as_array().unwrap().iter().filter(|row| row["host"] == target.addr().as_str());
        assert!(accounts.map(|row| row["account"].as_str().unwrap()).any(|account| account == "ann"), "{}", run.report);
        assert_eq!(target.tags("m/app"), ["v1"], "{file}");
        target.untag("m/app", "v1");
    }
}
