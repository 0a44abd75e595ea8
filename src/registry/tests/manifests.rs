//! Manifests: resolved, read, put.

use std::sync::Arc;

use bytes::Bytes;

use crate::content::{Digest, Manifest, Presence, Publication, Sink, Source};
use crate::name::Reference;
use crate::registry::testing::{Server, answer, broken, context, endless, refuse, repository, store};
use crate::{Kind, Side};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BODY: &str = "{ \"schemaVersion\": 2,\n \"mediaType\": \"application/vnd.oci.image.index.v1+json\", \"manifests\": [] }\n";

fn digest() -> Digest {
    Digest::sha256(BODY.as_bytes())
}

fn manifest() -> Manifest {
    Manifest::known(Bytes::from_static(BODY.as_bytes()), Some(INDEX), digest(), crate::Side::Target).unwrap()
}

fn tag() -> Reference {
    Reference::Tag("1".to_owned())
}

#[tokio::test]
async fn a_tag_costs_one_head_and_its_manifest_one_get() {
    let server = Server::start(|seen| {
        let said = digest();
        answer(200, &[("docker-content-digest", said.as_str()), ("content-type", INDEX)], if seen.method == "HEAD" { "" } else { BODY })
    })
    .await;
    let (registries, store) = store(&server, Side::Upstream);
    let context = context();
    let resolved = store.resolve(&repository(), &tag(), &context).await.unwrap().unwrap();
    let read = store.manifest(&repository(), &resolved.digest, &context).await.unwrap().unwrap();
    assert_eq!((read.bytes().as_ref(), read.media_type()), (BODY.as_bytes(), INDEX));
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/1", &format!("GET /v2/a/b/manifests/{}", digest())]);
    for seen in server.seen() {
        let accept: Vec<_> = seen.header("accept").unwrap().split(", ").collect();
        assert_eq!(seen.headers.get_all("accept").iter().count(), 1, "a proxy may pass on only one");
        assert!(accept.contains(&INDEX) && accept.contains(&"application/vnd.docker.distribution.manifest.list.v2+json"), "{accept:?}");
    }
    assert_eq!((context.tally.pulls(), context.tally.bytes_read()), (1, BODY.len() as u64));
    let row = &registries.rows()[0];
    assert_eq!((row.requests.manifest_head, row.requests.manifest_get), (1, 1));
}

#[tokio::test]
async fn without_a_digest_header_the_manifest_is_read_once() {
    for status in [200, 405] {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => answer(status, &[("content-type", INDEX)], ""),
            _ => answer(200, &[("content-type", INDEX)], BODY),
        })
        .await;
        let (_, store) = store(&server, Side::Upstream);
        let context = context();
        let resolved = store.resolve(&repository(), &tag(), &context).await.unwrap().unwrap();
        assert_eq!((&resolved.digest, resolved.size), (&digest(), BODY.len() as u64));
        assert!(store.manifest(&repository(), &resolved.digest, &context).await.unwrap().is_some());
        assert_eq!((server.seen().len(), context.tally.pulls()), (2, 1));
    }
}

#[tokio::test]
async fn what_is_not_there_is_none_and_no_error() {
    let server = Server::start(|_| refuse(404, "MANIFEST_UNKNOWN")).await;
    let (_, store) = store(&server, Side::Upstream);
    assert!(store.resolve(&repository(), &tag(), &context()).await.unwrap().is_none());
    assert!(store.manifest(&repository(), &digest(), &context()).await.unwrap().is_none());
    let descriptor = manifest().descriptor();
    assert_eq!(store.holds_manifest(&repository(), &descriptor, &context()).await.unwrap(), Presence::Absent);
}

#[tokio::test]
async fn wrong_digests_in_header_and_body_and_other_tricks_are_refused() {
    let other = Digest::sha256(b"other");
    let said = other.to_string();
    type Made = Box<dyn Fn() -> axum::response::Response + Send + Sync>;
    let cases: Vec<(Made, Kind, &str)> = vec![
        (Box::new(move || answer(200, &[("docker-content-digest", &said), ("content-type", INDEX)], BODY)), Kind::Damaged, "answered with"),
        (Box::new(|| answer(200, &[("docker-content-digest", "sha256:../..")], BODY)), Kind::Damaged, "is not a digest"),
        (Box::new(|| answer(200, &[("content-type", INDEX)], format!("{BODY} "))), Kind::Damaged, "hash to"),
        (Box::new(|| answer(200, &[("content-type", "text/html")], "<html>log in</html>")), Kind::Damaged, "web page"),
        (Box::new(|| answer(200, &[("content-type", "application/vnd.oci.image.manifest.v1+json")], BODY)), Kind::Damaged, "served as"),
        (Box::new(|| endless(200, &[("content-type", INDEX)])), Kind::Untrusted, "longer than"),
    ];
    for (made, kind, word) in cases {
        let server = Server::start(move |_| made()).await;
        let (_, store) = store(&server, Side::Upstream);
        let error = store.manifest(&repository(), &digest(), &context()).await.unwrap_err();
        assert!(error.kind() == kind && error.message().contains(word), "{word}: {error:?}");
        assert!(error.to_string().contains("image:1"), "{error}");
    }
}

#[tokio::test]
async fn a_header_of_another_algorithm_says_nothing_against_the_digest() {
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let server = Server::start(move |_| answer(200, &[("docker-content-digest", &sha512), ("content-type", INDEX)], BODY)).await;
    let (_, store) = store(&server, Side::Upstream);
    assert!(store.manifest(&repository(), &digest(), &context()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_asked_for_again() {
    let server = Server::start(|seen| match seen.nth {
        0 | 1 => broken(200, &[("content-type", INDEX)], &BODY.as_bytes()[..10], BODY.len()),
        _ => answer(200, &[("content-type", INDEX)], BODY),
    })
    .await;
    let (registries, store) = store(&server, Side::Upstream);
    assert!(store.manifest(&repository(), &digest(), &context()).await.unwrap().is_some());
    let row = &registries.rows()[0];
    assert_eq!((row.requests.manifest_get, row.retries), (3, 2));
}

#[tokio::test]
async fn a_redirect_is_followed_without_our_login_and_not_counted() {
    let cdn = Server::start(|_| answer(200, &[("content-type", INDEX)], BODY)).await;
    let to = format!("http://{}/signed?x=1", cdn.host);
    let server = Server::start(move |seen| match seen.header("authorization") {
        None if seen.path() == "/token" => answer(200, &[], "{\"token\":\"secret\"}"),
        None => {
            let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
            answer(401, &[("www-authenticate", &realm)], "")
        }
        Some(_) => answer(307, &[("location", &to)], ""),
    })
    .await;
    let (registries, store) = store(&server, Side::Upstream);
    let context = context();
    assert!(store.manifest(&repository(), &digest(), &context).await.unwrap().is_some());
    assert_eq!(cdn.seen().len(), 1);
    assert_eq!(cdn.seen()[0].header("authorization"), None);
    assert!(cdn.seen()[0].header("accept").is_some());
    // The unauthenticated GET left too, and is counted.
    assert_eq!((registries.rows()[0].requests.manifest_get, context.tally.pulls()), (2, 2));
}

#[tokio::test]
async fn redirects_that_go_round_or_where_they_may_not_are_refused() {
    for (to, word) in [
        ("/v2/a/b/manifests/1", "more than 5 times"),
        ("http://169.254.169.254/latest", "169.254.169.254"),
        ("file:///etc/passwd", "scheme"),
        ("http://user:secret@127.0.0.1/", "user name"),
    ] {
        let server = Server::start(move |_| answer(302, &[("location", to)], "")).await;
        let (_, store) = store(&server, Side::Upstream);
        let error = store.resolve(&repository(), &tag(), &context()).await.unwrap_err();
        assert!(error.kind() == Kind::Untrusted && error.message().contains(word), "{to}: {error}");
        assert!(!error.message().contains("secret"));
        assert!(server.seen().len() <= 6);
    }
    let server = Server::start(|_| answer(302, &[], "")).await;
    let (_, store) = store(&server, Side::Upstream);
    assert!(store.resolve(&repository(), &tag(), &context()).await.unwrap_err().message().contains("redirects this request nowhere"));
}

#[tokio::test]
async fn a_manifest_is_put_by_digest_and_by_tag_as_it_is() {
    let server = Server::start(|_| {
        let said = digest();
        answer(201, &[("docker-content-digest", said.as_str())], "")
    })
    .await;
    let (_, store) = store(&server, Side::Target);
    let context = context();
    store.put_manifest(&repository(), &manifest(), &context).await.unwrap();
    let named =
        |reference| Publication { repository: repository(), reference, manifest: manifest(), source: Arc::from("source"), sparse: vec![] };
    store.publish(&named(tag()), &context).await.unwrap();
    // Its digest is its name already, and it is known to be there: no request.
    store.publish(&named(Reference::Digest(digest())), &context).await.unwrap();
    assert_eq!(store.holds_manifest(&repository(), &manifest().descriptor(), &context).await.unwrap(), Presence::Here);
    assert_eq!(server.lines(), [format!("PUT /v2/a/b/manifests/{}", digest()), "PUT /v2/a/b/manifests/1".to_owned()]);
    for seen in server.seen() {
        assert_eq!((seen.header("content-type"), seen.body.as_ref()), (Some(INDEX), BODY.as_bytes()));
    }
    assert_eq!(context.tally.bytes_written(), 2 * BODY.len() as u64);
    assert_eq!(context.tally.pulls(), 0);
}

#[tokio::test]
async fn a_target_that_stored_something_else_is_found_out() {
    let other = Digest::sha256(b"other").to_string();
    let server = Server::start(move |_| answer(201, &[("docker-content-digest", &other)], "")).await;
    let (_, store) = store(&server, Side::Target);
    let error = store.put_manifest(&repository(), &manifest(), &context()).await.unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.message().contains("stored another manifest"), "{error}");
}

#[tokio::test]
async fn a_missing_blob_is_told_from_other_refusals_and_nothing_is_believed_any_more() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => answer(200, &[("content-length", "3")], ""),
        _ => refuse(400, "MANIFEST_BLOB_UNKNOWN"),
    })
    .await;
    let (_, store) = store(&server, Side::Target);
    let blob = crate::registry::testing::descriptor(b"abc");
    assert_eq!(store.holds_blob(&repository(), &blob, &context()).await.unwrap(), Presence::Here);
    assert_eq!(store.holds_blob(&repository(), &blob, &context()).await.unwrap(), Presence::Here);
    assert_eq!(server.seen().len(), 1);
    let error = store.put_manifest(&repository(), &manifest(), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ContentMissing);
    store.holds_blob(&repository(), &blob, &context()).await.unwrap();
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("HEAD")).count(), 2);
}

#[tokio::test]
async fn schema_1_passes_head_and_is_refused_by_name_when_read() {
    const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let body = "{\"schemaVersion\":1}";
    let server = Server::start(move |seen| {
        let said = Digest::sha256(body.as_bytes()).to_string();
        answer(200, &[("docker-content-digest", &said), ("content-type", SCHEMA1)], if seen.method == "HEAD" { "" } else { body })
    })
    .await;
    let (_, store) = store(&server, Side::Upstream);
    let resolved = store.resolve(&repository(), &tag(), &context()).await.unwrap().unwrap();
    assert_eq!(resolved.media_type, SCHEMA1);
    let error = store.manifest(&repository(), &resolved.digest, &context()).await.unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.message().contains("schema 1"), "{error}");
}
