//! Answers that are not written as the specification has them, and say clearly enough what is meant: compressed ones, lists whose next page is
//! at a host that only the registry knows, digests in quotes, media types that were converted.

use std::io::Write as _;

use bytes::Bytes;
use larder::content::Digest;

use crate::support::corpus::{DOCKER_IMAGE, DOCKER_LIST, OCI_IMAGE, OCI_INDEX, simple};
use crate::support::fake::{FOREVER, Fake, Fault, Kind, Match, reply, with};
use crate::support::program::Program;

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

/// An upstream with one image, a target, and a program whose list has these lines.
fn setting(list: &str) -> (Fake, Fake, Program, Digest) {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    let digest = simple(&upstream, "app", "v1", 1).digest;
    program.configure(&target, &[&upstream]);
    program.write("list.csv", format!("image,tags\n{},{list}\n", upstream.image("app")));
    (upstream, target, program, digest)
}

#[test]
fn a_manifest_or_list_that_comes_compressed_is_decompressed_and_its_digest_decides() {
    let (upstream, target, program, digest) = setting("v*");
    let manifest = upstream.manifest("app", "v1").unwrap().1;
    for (kind, body) in [(Kind::ManifestGet, manifest), (Kind::Tags, Bytes::from_static(br#"{"name":"app","tags":["v1"]}"#))] {
        let (compressed, digest) = (gzip(&body), digest.to_string());
        let answer = move |_: &_| {
            let answer = with(reply(200, compressed.clone()), "content-encoding", "gzip");
            with(with(answer, "content-type", OCI_IMAGE), "docker-content-digest", &digest)
        };
        upstream.fault(Match::kind(kind), FOREVER, Fault::custom(answer));
    }
    // A HEAD whose length is that of the compressed manifest, too.
    let length = Fault::Header { name: "content-length", value: Some("77".to_owned()) };
    upstream.fault(Match::kind(Kind::ManifestHead), FOREVER, length);
    program.sync(&["list.csv"]).exits(0);
    assert_eq!(target.digest("m/app", "v1"), Some(digest));
    assert!(upstream.requests().iter().all(|request| request.header("accept-encoding") == Some("identity")));
}

#[test]
fn a_manifest_in_a_coding_that_nobody_asked_for_and_a_compressed_blob_are_named() {
    let (upstream, target, program, _) = setting("v1");
    let unreadable = Fault::custom(|_| with(reply(200, &b"\x0b\x02\x80"[..]), "content-encoding", "br"));
    upstream.fault(Match::kind(Kind::ManifestGet), FOREVER, unreadable);
    let run = program.sync(&["list.csv"]).exits(1);
    let said = "the answer is compressed (Content-Encoding: br), which larder did not ask for and cannot read";
    assert!(run.stderr.contains(said), "{}", run.stderr);

    upstream.clear_faults();
    let compressed = Fault::custom(|_| with(reply(200, gzip(&[7; 9])), "content-encoding", "gzip"));
    upstream.fault(Match::kind(Kind::BlobGet), FOREVER, compressed);
    let run = program.sync(&["list.csv"]).exits(1);
    assert!(run.stderr.contains("; it comes compressed (Content-Encoding: gzip), which larder did not ask for"), "{}", run.stderr);
    assert!(target.tags("m/app").is_empty());
}

#[test]
fn a_next_page_at_a_host_that_only_the_registry_knows_is_asked_for_where_the_first_was() {
    let (upstream, target, program, _) = setting("v*");
    simple(&upstream, "app", "v2", 2);
    let pages = Fault::custom(|request| {
        let next = "<http://registry.internal.example:5000/v2/app/tags/list?n=1&last=v1>; rel=\"next\"";
        match request.query.contains("last=v1") {
            true => reply(200, r#"{"name":"app","tags":["v2"]}"#),
            false => with(reply(200, r#"{"name":"app","tags":["v1",null]}"#), "link", next),
        }
    });
    upstream.fault(Match::kind(Kind::Tags), FOREVER, pages);
    program.sync(&["list.csv"]).exits(0);
    assert_eq!(target.tags("m/app"), ["v1", "v2"]);

    upstream.clear_faults();
    let elsewhere = Fault::custom(|_| with(reply(200, r#"{"tags":["v1"]}"#), "link", "<http://registry.internal.example/other>; rel=next"));
    upstream.fault(Match::kind(Kind::Tags), FOREVER, elsewhere);
    let run = program.sync(&["list.csv"]).exits(1);
    assert!(run.stderr.contains("it is at registry.internal.example, another host"), "{}", run.stderr);
}

#[test]
fn a_digest_header_in_quotes_or_capitals_is_read() {
    for write in [|digest: &Digest| format!("\"{digest}\""), |digest: &Digest| format!("sha256:{}", digest.encoded().to_uppercase())] {
        let (upstream, target, program, digest) = setting("v1");
        for kind in [Kind::ManifestHead, Kind::ManifestGet] {
            let odd = Fault::Header { name: "docker-content-digest", value: Some(write(&digest)) };
            upstream.fault(Match::kind(kind), FOREVER, odd);
        }
        program.sync(&["list.csv"]).exits(0);
        assert_eq!(target.digest("m/app", "v1"), Some(digest));
    }
}

#[test]
fn the_manifest_says_of_which_type_it_is_unless_the_other_is_of_another_kind() {
    let (upstream, target, program, digest) = setting("v1");
    let served_as = |media_type: &'static str| {
        upstream.clear_faults();
        for kind in [Kind::ManifestHead, Kind::ManifestGet] {
            let header = Fault::Header { name: "content-type", value: Some(media_type.to_owned()) };
            upstream.fault(Match::kind(kind), FOREVER, header);
        }
    };
    served_as(DOCKER_LIST);
    let run = program.sync(&["list.csv"]).exits(1);
    assert!(run.stderr.contains("but the manifest says it is"), "{}", run.stderr);
    served_as(OCI_INDEX);
    program.sync(&["list.csv"]).exits(1);
    served_as(DOCKER_IMAGE);
    program.sync(&["list.csv"]).exits(0);
    assert_eq!(target.digest("m/app", "v1"), Some(digest));
    assert_eq!(target.manifest("m/app", "v1").unwrap().0, OCI_IMAGE);
}
