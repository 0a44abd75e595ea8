//! Registries that lie, and registries that send larder where it should not go: each ends in one clear line for that image,
//! and nothing is named at the target.

use crate::support::corpus::{ImageSpec, OCI_IMAGE, OCI_INDEX, OCI_LAYER, image, index, simple};
use crate::support::fake::{self, Auth, FOREVER, Fake, Fault, Kind, Match, Options, Tokens};
use crate::support::layer::layer;
use crate::support::program::{Program, Run};
use larder::content::{Descriptor, Digest};
use serde_json::{Value, json};

/// The layer of the image that is lied about.
const SIZE: usize = 200_000;

fn big() -> bytes::Bytes {
    layer(1, SIZE)
}

/// Puts the image `app:v1`.
fn honest(upstream: &Fake) -> Descriptor {
    image(upstream, "app", Some("v1"), &ImageSpec::new([big()]))
}

/// Bytes that never end.
fn endless() -> axum::body::Body {
    let piece = bytes::Bytes::from_static(&[b'x'; 1 << 14]);
    axum::body::Body::from_stream(futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone())))
}

/// No control character that a terminal acts on has been written, and no line is a novel.
#[track_caller]
fn tame(run: &Run) {
    for text in [&run.stdout, &run.stderr] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.lines().all(|line| line.chars().count() < 2500), "{text}");
    }
}

/// Copies `app:v1` of `upstream` into a registry and into a layout: both fail, in one line that says `expected`.
#[track_caller]
fn refused(name: &str, upstream: &Fake, expected: &str) {
    let (target, program) = (Fake::start(), Program::new());
    program.list([upstream.image("app:v1")]);
    for to in [target.addr(), "oci:store".to_owned()] {
        let run = program.sync(&["list.txt", "--to", &to]);
        assert_eq!(run.code, 1, "{name} into {to}: {}", run.stderr);
        tame(&run);
        assert_eq!(run.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{name}: {}", run.stderr);
        let message = run.error()["message"].as_str().unwrap();
        assert!(message.contains(expected), "{name} into {to}: {message}");
        assert_eq!(run.error()["side"], "upstream", "{name}: {message}");
    }
    assert!(target.repositories().iter().all(|repository| target.tags(repository).is_empty()), "{name}");
    assert_eq!(target.count(Kind::ManifestPut), 0, "{name}");
    assert_eq!(target.open_uploads(), 0, "{name}");
    let listed: Value = serde_json::from_str(&program.read("store/index.json")).unwrap();
    assert_eq!(listed["manifests"], json!([]), "{name}");
    assert!(program.run(&["verify", "store"]).stderr.contains("0 damaged, 0 missing"), "{name}");
}

#[test]
fn lies_about_bytes() {
    let other = Digest::sha256(b"other").to_string();
    let said = |value: &str| Fault::Header { name: "docker-content-digest", value: Some(value.to_owned()) };
    let wrong = |bytes: &'static [u8]| Fault::WrongBody(bytes.into());
    let mut flipped = big().to_vec();
    flipped[SIZE / 2] ^= 1;
    let longer = [&big()[..], b"more"].concat();
    let table: Vec<(&str, Kind, Fault, &str)> = vec![
        ("another digest at HEAD", Kind::ManifestHead, said(&other), "the upstream does not have manifest"),
        ("no digest at HEAD", Kind::ManifestHead, said("sha256:../../etc/passwd"), "Docker-Content-Digest"),
        ("another digest at GET", Kind::ManifestGet, said(&other), "the registry answered with sha256:"),
        ("another manifest", Kind::ManifestGet, wrong(b"{}"), "the bytes received hash to"),
        ("a web page", Kind::ManifestGet, wrong(b"<!DOCTYPE html>\n<title>\x1b[2JLog in</title>"), "web page (HTML)"),
        ("an endless manifest", Kind::ManifestGet, Fault::Endless, "longer than the"),
        ("another layer of this length", Kind::BlobGet, Fault::WrongBody(flipped.into()), "sha256:"),
        ("a layer cut short", Kind::BlobGet, wrong(b"short"), "the descriptor says"),
        ("a layer too long", Kind::BlobGet, Fault::WrongBody(longer.into()), "the descriptor says"),
        ("an endless layer", Kind::BlobGet, Fault::Endless, "the body is longer than the"),
        ("escapes in an error", Kind::ManifestGet, Fault::error(418, "\u{1b}[31mTEAPOT", "\u{1b}]0;pwned\u{7}"), "\\u{1b}]0;pwned"),
        ("escapes in plain text", Kind::ManifestGet, escapes(), "\\u{1b}[2J"),
        ("an endless refusal", Kind::ManifestGet, Fault::custom(|_| endless_refusal()), ""),
    ];
    std::thread::scope(|scope| {
        for (name, kind, fault, expected) in table {
            scope.spawn(move || {
                let upstream = Fake::start();
                honest(&upstream);
                let matching = Match::kind(kind);
                // The config of the image stays as it is.
                let matching = if kind == Kind::BlobGet { matching.reference(&Digest::sha256(&big())) } else { matching };
                upstream.fault(matching, FOREVER, fault);
                refused(name, &upstream, expected);
            });
        }
    });
}

fn escapes() -> Fault {
    let body = "\u{1b}[2J\u{1b}[1;31mAll is well\r\n\u{202e}\u{7}".into();
    Fault::Status { code: 403, headers: vec![("content-type", "text/plain".to_owned())], body }
}

fn endless_refusal() -> fake::Reply {
    let (mut parts, _) = fake::reply(403, "").into_parts();
    parts.headers.clear();
    fake::Reply::from_parts(parts, endless())
}

#[test]
fn manifests_that_are_tricks() {
    let fine = big();
    let layer = |digest: &str, size: Value| json!({"mediaType": OCI_LAYER, "digest": digest, "size": size});
    let config = layer(Digest::sha256(b"{}").as_str(), json!(2));
    let manifest = |layers: Value| json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config, "layers": layers}).to_string();
    let digest = Digest::sha256(&fine).to_string();
    let table: Vec<(&str, String, &str)> = vec![
        ("a path for a digest", manifest(json!([layer("sha256:../../../../etc/passwd", json!(5))])), "is not a digest"),
        ("a digest of no known algorithm", manifest(json!([layer("md5:d41d8cd98f00b204e9800998ecf8427e", json!(5))])), "md5"),
        ("a size below nothing", manifest(json!([layer(&digest, json!(-1))])), "invalid manifest"),
        ("a size beyond all disks", manifest(json!([layer(&digest, json!(u64::MAX))])), "the descriptor says 18446744073709551615"),
        ("a size too small", manifest(json!([layer(&digest, json!(7))])), "the descriptor says 7"),
        ("nothing that has a digest", manifest(json!([layer(&digest, json!(0))])), "is said to be empty"),
        ("a list of numbers", "[1,2,3]".to_owned(), "answered something that is not a manifest"),
        ("deep nesting", "[".repeat(100_000), "answered something that is not a manifest"),
        ("another type inside", json!({"mediaType": OCI_INDEX, "manifests": []}).to_string(), "but the manifest says it is"),
    ];
    std::thread::scope(|scope| {
        for (name, text, expected) in table {
            let fine = fine.clone();
            scope.spawn(move || {
                let upstream = Fake::start();
                upstream.put_blob("app", fine);
                upstream.put_blob("app", "{}");
                upstream.put_manifest("app", Some("v1"), OCI_IMAGE, text);
                refused(name, &upstream, expected);
            });
        }
    });
}

#[test]
fn indexes_that_never_end() {
    let upstream = Fake::start();
    let mut inner = simple(&upstream, "app", "inner", 3);
    for _ in 0..12 {
        inner = index(&upstream, "app", None, &[inner]);
    }
    upstream.tag("app", "v1", &inner.digest);
    refused("nested indexes", &upstream, "nested more than");
}

#[test]
fn redirects_that_lead_nowhere_good() {
    let table = [
        ("a loop", "{self}", "redirects more than"),
        ("a file", "file:///etc/passwd", "scheme `file`"),
        ("credentials in the address", "http://user:secret@127.0.0.1/", "user name or password"),
        // A registry on loopback may send us to its own network, and nobody to these.
        ("link-local", "http://169.254.1.1/x", "where no registry may send us"),
        ("metadata", "http://169.254.169.254/latest/meta-data/", "where no registry may send us"),
        ("metadata as a number", "http://2852039166/", "where no registry may send us"),
        ("metadata in IPv6", "http://[::ffff:a9fe:a9fe]/", "where no registry may send us"),
        ("metadata by name", "http://metadata.google.internal/computeMetadata/v1/", "metadata service"),
    ];
    std::thread::scope(|scope| {
        for (name, location, expected) in table {
            for kind in [Kind::ManifestHead, Kind::BlobGet] {
                scope.spawn(move || {
                    let upstream = Fake::start();
                    honest(&upstream);
                    let redirect = move |request: &fake::Request| {
                        let location = location.replace("{self}", &request.path);
                        fake::with(fake::reply(307, ""), "location", location)
                    };
                    upstream.fault(Match::kind(kind), FOREVER, Fault::custom(redirect));
                    refused(name, &upstream, expected);
                });
            }
        }
    });
}

#[test]
fn tags_that_are_tricks_are_no_tags() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    honest(&upstream);
    let tags = json!({"name": "app", "tags": ["v1", "v1\u{1b}[31m", "../../v2", "v 3", "\u{202e}v4", "v".repeat(129), ""]});
    upstream.fault(Match::kind(Kind::Tags), FOREVER, Fault::custom(move |_| fake::reply(200, tags.to_string())));
    program.write("list.csv", format!("image,tags\n{},v*\n", upstream.image("app")));
    let run = program.sync(&["list.csv", "-vv", "--to", &target.addr()]).exits(0);
    tame(&run);
    assert_eq!(run.total("images"), 1);
    let plan = program.run(&["plan", "list.csv", "--explain", "--to", &target.addr()]).exits(0);
    tame(&plan);
}

#[test]
fn tag_lists_that_never_end() {
    for (fault, expected) in [
        (Fault::Endless, "longer than the"),
        (Fault::custom(|request| next_page(&format!("<{}>; rel=\"next\"", request.path))), "a next page that was there before"),
        (Fault::custom(|_| next_page("<http://169.254.169.254/v2/x/tags/list>; rel=\"next\"")), "another host"),
        (Fault::custom(|_| fake::reply(200, "<html>\u{1b}[2J</html>")), "web page"),
    ] {
        let (upstream, program) = (Fake::start(), Program::new());
        honest(&upstream);
        upstream.fault(Match::kind(Kind::Tags), FOREVER, fault);
        program.write("list.csv", format!("image,tags\n{},v*\n", upstream.image("app")));
        let run = program.sync(&["list.csv"]).exits(1);
        tame(&run);
        let message = run.error()["message"].as_str().unwrap();
        assert!(message.contains(expected), "{message}");
        assert!(upstream.requests().len() < 5, "{}", upstream.requests().len());
    }
}

fn next_page(link: &str) -> fake::Reply {
    fake::with(fake::reply(200, r#"{"tags":["a"]}"#), "link", link)
}

#[test]
fn token_servers_that_lie() {
    let tokens = |change: fn(&mut Tokens)| {
        let mut tokens = Tokens::default();
        change(&mut tokens);
        Fake::with(Options { auth: Auth::Token(tokens), ..Options::default() })
    };
    let metadata = tokens(|tokens| tokens.realm = Some("http://169.254.169.254/token".to_owned()));
    honest(&metadata);
    refused("a realm at the metadata service", &metadata, "where no registry may send us");
    for (name, fault, expected) in [
        ("an endless token", Fault::Endless, "longer than"),
        ("no token", Fault::WrongBody(b"{}".as_slice().into()), "token"),
        ("a web page", Fault::WrongBody(b"<html>\x1b[2J".as_slice().into()), "token"),
        ("a token of two lines", Fault::WrongBody(br#"{"token":"a\r\nX-Evil: 1"}"#.as_slice().into()), "token"),
    ] {
        let upstream = tokens(|_| {});
        honest(&upstream);
        upstream.fault(Match::kind(Kind::Token), FOREVER, fault);
        refused(name, &upstream, expected);
        assert!(upstream.count(Kind::Token) <= 4, "{name}: {} requests for tokens", upstream.count(Kind::Token));
    }
}

/// Ways to write an address of this machine or its network. `{port}` is that of a registry that listens there.
const INSIDE: [&str; 20] = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST.:{port}/",
    "http://registry.localhost:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://0.0.0.0:{port}/",
    "http://[::]:{port}/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://[fd12:3456::1]/",
    "http://169.254.169.254/",
    "http://[fe80::1]/",
];

/// A registry that is reached by name through a proxy, and so counts as public: the fake is the proxy, and answers itself.
/// Its images are `registry.example/src<n>/app:v1`, one for each address of [`INSIDE`]; they go to `target.example/m`.
fn public(options: Options, settings: &str) -> (Fake, Fake, Program) {
    let (registry, inside, mut program) = (Fake::with(options), Fake::start(), Program::new());
    program.set("HTTP_PROXY", registry.url());
    program.set("NO_PROXY", "127.0.0.1");
    program.write(
        "larder.toml",
        format!(
            "version = 1\n[target]\nregistry = \"target.example\"\n[[rule]]\nname = \"all\"\nsource = \"registry.example/*\"\ntarget = \"m/*\"\n\
             [registry.\"registry.example\"]\nplain_http = true\n{settings}\n[registry.\"target.example\"]\nplain_http = true\n"
        ),
    );
    for number in 0..INSIDE.len() {
        simple(&registry, &format!("src{number}/app"), "v1", number as u64 + 1);
    }
    program.list((0..INSIDE.len()).map(|number| format!("registry.example/src{number}/app:v1")));
    (registry, inside, program)
}

/// Where the repository `src<n>/…` or `m/src<n>/…` is sent.
fn sent_to(repository: &str, port: &str) -> Option<String> {
    let number: usize = repository.trim_start_matches("m/").strip_prefix("src")?.split('/').next()?.parse().ok()?;
    Some(INSIDE[number].replace("{port}", port))
}

#[test]
fn a_public_registry_that_is_honest_is_copied_through_the_proxy() {
    let (registry, _inside, program) = public(Options::default(), "");
    assert_eq!(program.sync_list().exits(0).total("copied"), INSIDE.len() as u64);
    assert_eq!(registry.tags("m/src0/app"), ["v1"]);
}

#[test]
fn a_public_registry_sends_us_to_no_private_address_in_any_spelling() {
    type Trick = (&'static str, Kind, fn(&str) -> fake::Reply);
    let tricks: [Trick; 4] = [
        ("redirect of a blob", Kind::BlobGet, |to| fake::with(fake::reply(307, ""), "location", to)),
        ("redirect of a manifest", Kind::ManifestGet, |to| fake::with(fake::reply(302, ""), "location", to)),
        ("realm", Kind::ManifestHead, |to| {
            fake::with(fake::reply(401, ""), "www-authenticate", format!("Bearer realm=\"{to}token\",service=\"x\""))
        }),
        ("upload Location", Kind::UploadPost, |to| fake::with(fake::reply(202, ""), "location", format!("{to}v2/m/blobs/uploads/1"))),
    ];
    for (name, kind, answer) in tricks {
        let (registry, inside, program) = public(Options::default(), "");
        let port = inside.addr().rsplit(':').next().unwrap().to_owned();
        let trick = move |request: &fake::Request| {
            let repository = request.repository.as_deref().unwrap();
            // The fake is both registries. Where both are asked the same, the target is honest: it has nothing.
            if kind == Kind::ManifestHead && repository.starts_with("m/") {
                return fake::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
            }
            answer(&sent_to(repository, &port).unwrap())
        };
        registry.fault(Match::kind(kind), FOREVER, Fault::custom(trick));
        let run = program.sync_list().exits(1);
        tame(&run);
        assert_eq!(run.total("failed"), INSIDE.len() as u64, "{name}: {}", run.stderr);
        for (row, spelling) in run.images().iter().zip(INSIDE) {
            let message = row["error"]["message"].as_str().unwrap();
            assert!(message.contains("may not send us") || message.contains("no registry may send us"), "{name} to {spelling}: {message}");
            // Both sides are asked at once for a manifest's HEAD, and both are the fake: either may be the first to refuse.
            let sides: &[&str] = match kind {
                Kind::UploadPost => &["target"],
                Kind::ManifestHead => &["upstream", "target"],
                _ => &["upstream"],
            };
            assert!(sides.contains(&row["error"]["side"].as_str().unwrap()), "{name} to {spelling}: {}", row["error"]);
        }
        assert_eq!(inside.requests().len(), 0, "{name}: {:?}", inside.requests());
        assert!(registry.repositories().iter().all(|repository| !repository.starts_with("m/") || registry.tags(repository).is_empty()));
    }
}

#[test]
fn allow_private_lifts_the_rule_for_a_registry() {
    let redirect = || Options { redirect: Some(fake::Redirect { host: "127.0.0.1".to_owned(), uses: None }), ..Options::default() };
    let (_registry, _inside, program) = public(redirect(), "");
    let run = program.sync_list().exits(1);
    let message = run.images()[0]["error"]["message"].as_str().unwrap();
    assert!(message.contains("`allow_private = true` for this registry permits it"), "{message}");
    let (registry, _inside, program) = public(redirect(), "allow_private = true");
    assert_eq!(program.sync_list().exits(0).total("copied"), INSIDE.len() as u64);
    assert!(registry.count(Kind::Cdn) > 0);
}

#[test]
fn escapes_in_what_is_copied_reach_no_terminal() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    let child = image(&upstream, "app", None, &ImageSpec::new([layer(2, 50)]));
    let mut child = json!(child);
    child["platform"] = json!({"os": "linux\u{1b}[2J", "architecture": "amd64\r\n"});
    let text = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child], "annotations": {"a": "\u{1b}[31m"}}).to_string();
    let made = upstream.put_manifest("app", Some("v1"), OCI_INDEX, text);
    program.list([upstream.image("app:v1")]);
    let run = program.sync(&["list.txt", "-vv", "--report", "report.csv", "--to", &target.addr()]).exits(0);
    tame(&run);
    assert_eq!(run.images()[0]["platforms"][0], "linux\\u{1b}[2J/amd64  ");
    assert!(!program.read("report.csv").contains('\u{1b}'));
    let repository = target.repositories().into_iter().find(|name| name.ends_with("/app")).unwrap();
    assert_eq!(target.digest(&repository, "v1"), Some(made), "and the bytes are what they were");
}
