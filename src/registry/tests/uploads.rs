//! Uploads and mounts.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::content::{BlobStream, Descriptor, Digest, OpenBlob, Presence, Repository, Sink, Source};
use crate::registry::testing::{AtHand, Nobody, Server, answer, bytes, context, descriptor, limits, pieces, refuse, repository, store};
use crate::registry::{HostSettings, Registries, RetryPolicy};
use crate::{Error, Kind, Operation, Result, Side};

const START: &str = "POST /v2/a/b/blobs/uploads/";

fn opened(location: &str) -> axum::response::Response {
    answer(202, &[("location", location)], "")
}

#[tokio::test]
async fn a_blob_goes_in_two_requests_wherever_the_location_points() {
    let other = Server::start(|_| answer(201, &[], "")).await;
    let absolute = format!("http://{}/elsewhere?state=x", other.host);
    for (location, foreign, expected) in [
        ("/v2/a/b/blobs/uploads/1", false, "/v2/a/b/blobs/uploads/1?digest="),
        ("/v2/a/b/blobs/uploads/1?_state=a%3D&x", false, "/v2/a/b/blobs/uploads/1?_state=a%3D&x&digest="),
        ("session", false, "/v2/a/b/blobs/uploads/session?digest="),
        (absolute.as_str(), true, "/elsewhere?state=x&digest="),
    ] {
        let all = bytes(200_000);
        let to = location.to_owned();
        let server = Server::start(move |seen| {
            let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
            match (seen.line().as_str(), seen.header("authorization")) {
                ("GET /token", _) => answer(200, &[], "{\"token\":\"secret\"}"),
                (_, None) => answer(401, &[("www-authenticate", &realm)], ""),
                (START, _) => opened(&to),
                _ => answer(201, &[], ""),
            }
        })
        .await;
        let (_, store) = store(&server, Side::Target);
        let (context, blob) = (context(), descriptor(&all));
        store.write_blob(&repository(), &blob, &AtHand::new(&all), &context).await.unwrap();
        let seen = if foreign { other.seen() } else { server.seen() };
        let put = seen.last().unwrap();
        assert_eq!(put.method, "PUT");
        assert!(put.target.starts_with(expected) && put.target.ends_with(blob.digest.encoded()), "{}", put.target);
        assert_eq!((put.body.as_ref(), put.header("content-length")), (all.as_ref(), Some("200000")));
        assert_eq!(put.header("transfer-encoding"), None);
        assert_eq!(put.header("authorization").is_none(), foreign);
        let start = server.seen().into_iter().rfind(|seen| seen.line() == START).unwrap();
        assert_eq!(start.header("content-length"), Some("0"));
        assert_eq!(context.tally.bytes_written(), 200_000);
        assert_eq!(store.holds_blob(&repository(), &blob, &context).await.unwrap(), Presence::Here);
    }
}

#[tokio::test]
async fn uploads_are_counted_request_by_request() {
    let server = Server::start(|seen| if seen.method == "POST" { opened("/u") } else { answer(201, &[], "") }).await;
    let (registries, store) = store(&server, Side::Target);
    let all = bytes(10);
    store.write_blob(&repository(), &descriptor(&all), &AtHand::new(&all), &context()).await.unwrap();
    assert_eq!(server.lines(), [START, "PUT /u"]);
    assert_eq!(registries.rows()[0].requests.blob_put, 2);
}

#[tokio::test]
async fn after_a_413_blobs_go_by_patch_and_each_step_uses_the_latest_location() {
    let server = Server::start(|seen| match (seen.method.as_str(), seen.path()) {
        ("POST", _) => opened(&format!("/session/{}", seen.nth)),
        ("PUT", path) if path.starts_with("/session") => answer(413, &[], "too large"),
        ("PATCH", _) => answer(202, &[("location", "/patched?s=1")], ""),
        ("PUT", "/patched") => answer(201, &[], ""),
        ("DELETE", _) => answer(204, &[], ""),
        _ => refuse(404, "X"),
    })
    .await;
    let (_, store) = store(&server, Side::Target);
    let all = bytes(100_000);
    let source = AtHand::new(&all);
    store.write_blob(&repository(), &descriptor(&all), &source, &context()).await.unwrap();
    assert_eq!(server.lines(), [START, "PUT /session/0", "DELETE /session/0", START, "PATCH /session/1", "PUT /patched"]);
    let seen = server.seen();
    let (patch, put) = (&seen[4], &seen[5]);
    assert_eq!((patch.body.as_ref(), patch.header("content-length")), (all.as_ref(), Some("100000")));
    assert_eq!(patch.header("content-type"), Some("application/octet-stream"));
    assert_eq!((put.body.len(), put.header("content-length")), (0, Some("0")));
    assert!(put.target.starts_with("/patched?s=1&digest=sha256"));
    // The next blob does not try PUT first.
    store.write_blob(&Repository::new("c"), &descriptor(&all), &source, &context()).await.unwrap();
    assert_eq!(server.lines()[6..], ["POST /v2/c/blobs/uploads/", "PATCH /session/0", "PUT /patched"]);
}

#[tokio::test]
async fn an_answer_before_the_body_has_left_is_heard() {
    let server = Server::with(
        |seen| match seen.method.as_str() {
            "POST" => opened("/u"),
            "PUT" => refuse(403, "DENIED"),
            _ => answer(204, &[], ""),
        },
        |method| method == "PUT",
    )
    .await;
    let (_, store) = store(&server, Side::Target);
    let all = bytes(64 * 1024);
    // The rest of the body would never come: the answer alone ends the request.
    struct Stalls(Bytes);
    #[async_trait::async_trait]
    impl OpenBlob for Stalls {
        async fn open(&self, _offset: u64) -> Result<BlobStream> {
            Ok(stream::iter(pieces(&self.0)).chain(stream::pending()).boxed())
        }
    }
    let blob = Descriptor::new("x", Digest::sha256(b"x"), 10_000_000);
    let error = store.write_blob(&repository(), &blob, &Stalls(all), &context()).await.unwrap_err();
    assert_eq!((error.http_status(), error.registry_code(), error.operation()), (Some(403), Some("DENIED"), Operation::UploadBlob));
}

#[tokio::test]
async fn a_413_is_heard_even_if_the_connection_breaks_before_it() {
    let server = Server::with(
        |seen| match (seen.method.as_str(), seen.path()) {
            ("POST", _) => opened("/u"),
            ("PUT", "/u") => answer(413, &[("connection", "close")], "too large"),
            ("PATCH", _) => answer(202, &[("location", "/patched")], ""),
            ("PUT", _) => answer(201, &[], ""),
            _ => answer(204, &[], ""),
        },
        |method| method == "PUT",
    )
    .await;
    let retry = RetryPolicy { attempts: 2, base: std::time::Duration::from_millis(100), ..RetryPolicy::default() };
    let registries = Registries::new(|_| HostSettings::default(), retry, limits());
    let store = registries.store(Side::Target, &server.host, Arc::new(Nobody)).unwrap();
    let all = bytes(8 * 1024 * 1024);
    store.write_blob(&repository(), &descriptor(&all), &AtHand::new(&all), &context()).await.unwrap();
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PATCH")).count(), 1);
}

#[tokio::test]
async fn lost_sessions_and_trouble_start_a_new_session_and_only_a_large_source_is_read_again() {
    // A session is used once more after a 429.
    let turns = |status, code| [(status, code, 1000, 1), (status, code, 2 * 1024 * 1024, if status == 429 { 3 } else { 2 })];
    let refusals = [(404, "BLOB_UPLOAD_UNKNOWN"), (400, "BLOB_UPLOAD_INVALID"), (416, ""), (500, ""), (429, "TOOMANYREQUESTS")];
    for (status, code, length, opened_source) in refusals.into_iter().flat_map(|(status, code)| turns(status, code)) {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "POST" => opened(&format!("/u/{}", seen.nth)),
            "PUT" if seen.path() == "/u/0" => refuse(status, code),
            "PUT" => answer(201, &[], ""),
            "HEAD" => refuse(404, "BLOB_UNKNOWN"),
            _ => refuse(405, "UNSUPPORTED"),
        })
        .await;
        let (_, store) = store(&server, Side::Target);
        let all = bytes(length);
        let source = AtHand::new(&all);
        store.write_blob(&repository(), &descriptor(&all), &source, &context()).await.unwrap();
        assert_eq!(source.opened(), opened_source, "{status}");
        let last = server.seen().pop().unwrap();
        assert_eq!((last.path(), last.body.len()), ("/u/1", length));
    }
}

#[tokio::test]
async fn a_token_that_runs_out_under_an_upload_is_replaced_and_the_bytes_are_sent_again() {
    for lasting in [true, false] {
        let server = Server::start(move |seen| {
            let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
            match (seen.method.as_str(), seen.path(), seen.header("authorization")) {
                (_, "/token", _) => answer(200, &[], format!("{{\"token\":\"t{}\"}}", seen.nth)),
                ("POST", _, Some(_)) => opened(&format!("/u/{}", seen.nth)),
                ("PUT", _, Some("Bearer t1")) if lasting => answer(201, &[], ""),
                _ => answer(401, &[("www-authenticate", &realm)], ""),
            }
        })
        .await;
        let (_, store) = store(&server, Side::Target);
        let all = bytes(1000);
        let source = AtHand::new(&all);
        let written = store.write_blob(&repository(), &descriptor(&all), &source, &context()).await;
        if lasting {
            written.unwrap();
            // A small blob is kept until it is uploaded.
            assert_eq!(source.opened(), 1);
        } else {
            assert_eq!(written.unwrap_err().kind(), Kind::Unauthorized);
            assert!(source.opened() <= 3);
        }
    }
}

#[tokio::test]
async fn uploads_share_one_budget() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "POST" => opened("/u"),
        "HEAD" => refuse(404, "BLOB_UNKNOWN"),
        _ => refuse(500, "UNKNOWN"),
    })
    .await;
    let (_, store) = store(&server, Side::Target);
    let all = bytes(10);
    let error = store.write_blob(&repository(), &descriptor(&all), &AtHand::new(&all), &context()).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.message().contains("after 4 attempts"), "{error}");
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), 4);
}

#[tokio::test]
async fn an_upload_of_which_only_the_answer_was_lost_is_not_repeated() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "POST" => opened("/u"),
        "PUT" => answer(504, &[], ""),
        "HEAD" => answer(200, &[], ""),
        _ => refuse(404, "X"),
    })
    .await;
    let (_, store) = store(&server, Side::Target);
    let all = bytes(10);
    let source = AtHand::new(&all);
    store.write_blob(&repository(), &descriptor(&all), &source, &context()).await.unwrap();
    assert_eq!(source.opened(), 1);
}

#[tokio::test]
async fn a_source_that_fails_is_the_cause_and_the_session_is_given_back() {
    let all = bytes(100_000);
    let cause = Error::new(Side::Upstream, Operation::GetBlob, Kind::Unavailable, "the upstream broke");
    let mut broken = pieces(&all);
    broken.truncate(3);
    broken.push(Err(cause));
    let mut longer = pieces(&all);
    longer.push(Ok(Bytes::from_static(b"x")));
    let shorter = pieces(&all.slice(..99_999));
    let mut wrong = pieces(&all);
    wrong[0] = Ok(Bytes::from(vec![0; 16 * 1024]));
    for (turn, kind, word) in [
        (broken, Kind::Unavailable, "the upstream broke"),
        (longer, Kind::Damaged, "longer than"),
        (shorter, Kind::Damaged, "ended after 99999 of 100000"),
        (wrong, Kind::Damaged, "hash to"),
    ] {
        let server = Server::start(|seen| match seen.method.as_str() {
            "POST" => opened("/u"),
            "DELETE" => answer(204, &[], ""),
            _ => refuse(400, "DIGEST_INVALID"),
        })
        .await;
        let (_, store) = store(&server, Side::Target);
        let source = AtHand::scripted(vec![turn]);
        let error = store.write_blob(&repository(), &descriptor(&all), &source, &context()).await.unwrap_err();
        assert!(error.kind() == kind && error.side() == Side::Upstream && error.message().contains(word), "{word}: {error:?}");
        assert_eq!(source.opened(), 1);
        assert_eq!(server.lines().last().map(String::as_str), Some("DELETE /u"), "{word}");
        // The registry never had all of it.
        assert!(server.seen().iter().all(|seen| seen.body.len() < 100_000));
    }
}

#[tokio::test]
async fn the_empty_blob_needs_no_source_and_must_be_the_empty_blob() {
    let server = Server::start(|seen| if seen.method == "POST" { opened("/u") } else { answer(201, &[], "") }).await;
    let (_, store) = store(&server, Side::Target);
    let source = AtHand::new(&Bytes::new());
    store.write_blob(&repository(), &descriptor(b""), &source, &context()).await.unwrap();
    let false_one = Descriptor::new("x", Digest::sha256(b"x"), 0);
    assert_eq!(store.write_blob(&repository(), &false_one, &source, &context()).await.unwrap_err().kind(), Kind::Damaged);
    assert_eq!((source.opened(), server.seen().len()), (0, 2));
}

#[tokio::test]
async fn locations_that_lead_astray_are_refused() {
    for (location, word) in [("http://169.254.169.254/u", "169.254.169.254"), ("file:///etc/passwd", "scheme"), ("", "no Location")] {
        let server = Server::start(move |_| if location.is_empty() { answer(202, &[], "") } else { opened(location) }).await;
        let (_, store) = store(&server, Side::Target);
        let all = bytes(10);
        let source = AtHand::new(&all);
        let error = store.write_blob(&repository(), &descriptor(&all), &source, &context()).await.unwrap_err();
        assert!(error.message().contains(word), "{location}: {error}");
        assert_eq!((server.seen().len(), source.opened()), (1, 0));
    }
}

#[tokio::test]
async fn a_target_that_stored_something_else_is_found_out() {
    let other = Digest::sha256(b"other").to_string();
    let server =
        Server::start(move |seen| if seen.method == "POST" { opened("/u") } else { answer(201, &[("docker-content-digest", &other)], "") })
            .await;
    let (_, store) = store(&server, Side::Target);
    let all = bytes(10);
    let error = store.write_blob(&repository(), &descriptor(&all), &AtHand::new(&all), &context()).await.unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.message().contains("stored another blob"), "{error}");
}

#[tokio::test]
async fn a_mount_is_asked_for_by_digest_and_repository() {
    let server = Server::start(|_| answer(201, &[("location", "/v2/a/b/blobs/x")], "")).await;
    let (registries, store) = store(&server, Side::Target);
    let blob = descriptor(b"abc");
    assert!(store.link(&Repository::new("from/here"), &repository(), &blob, &context()).await.unwrap());
    let seen = &server.seen()[0];
    assert_eq!(seen.line(), START);
    assert!(seen.target.ends_with(&format!("?mount=sha256%3A{}&from=from%2Fhere", blob.digest.encoded())), "{}", seen.target);
    assert_eq!(store.holds_blob(&repository(), &blob, &context()).await.unwrap(), Presence::Here);
    let row = &registries.rows()[0];
    assert_eq!((row.requests.mount, row.requests.blob_put, row.requests.blob_head), (1, 0, 0));
}

#[tokio::test]
async fn a_refused_mount_is_no_failure_its_session_is_given_back_and_soon_none_is_asked_for() {
    let server = Server::start(|seen| match (seen.method.as_str(), seen.path()) {
        ("POST", START_A) => opened("/session?x=1"),
        ("POST", _) => refuse(405, "UNSUPPORTED"),
        _ => answer(204, &[], ""),
    })
    .await;
    const START_A: &str = "/v2/a/b/blobs/uploads/";
    let (registries, store) = store(&server, Side::Target);
    let (from, blob) = (Repository::new("from"), descriptor(b"abc"));
    assert!(!store.link(&from, &repository(), &blob, &context()).await.unwrap());
    assert_eq!(server.lines(), [START, "DELETE /session"]);
    assert!(!store.link(&from, &Repository::new("c"), &blob, &context()).await.unwrap());
    assert!(!store.link(&from, &Repository::new("d"), &blob, &context()).await.unwrap());
    let asked = server.seen().len();
    assert!(!store.link(&from, &Repository::new("e"), &blob, &context()).await.unwrap());
    assert_eq!(server.seen().len(), asked);
    let row = &registries.rows()[0];
    assert_eq!((row.requests.mount, row.requests.blob_put), (3, 1));
}

#[tokio::test]
async fn a_blob_known_elsewhere_is_said_to_be_there() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => refuse(404, "BLOB_UNKNOWN"),
        "POST" => opened("/u"),
        _ => answer(201, &[], ""),
    })
    .await;
    let (_, store) = store(&server, Side::Target);
    let all = bytes(10);
    let blob = descriptor(&all);
    store.write_blob(&repository(), &blob, &AtHand::new(&all), &context()).await.unwrap();
    assert_eq!(store.holds_blob(&Repository::new("c"), &blob, &context()).await.unwrap(), Presence::At(repository()));
}

/// Opens a blob of a store.
struct From {
    store: Arc<crate::registry::RegistryStore>,
    blob: Descriptor,
}

#[async_trait::async_trait]
impl OpenBlob for From {
    async fn open(&self, offset: u64) -> Result<BlobStream> {
        Ok(self.store.blob(&Repository::new("from"), &self.blob, offset, &context()).await?.unwrap())
    }
}

#[tokio::test]
async fn a_copy_within_one_registry_of_one_permit_does_not_wait_for_itself() {
    let all = bytes(3_000_000);
    let (served, blob) = (all.clone(), descriptor(&all));
    let server = Server::start(move |seen| match seen.method.as_str() {
        "GET" => answer(200, &[], served.clone()),
        "POST" => opened("/u"),
        _ => answer(201, &[], ""),
    })
    .await;
    let settings = |_: &str| HostSettings { concurrency: Some(1), ..HostSettings::default() };
    let registries = Registries::new(settings, RetryPolicy::default(), limits());
    let store = registries.store(Side::Target, &server.host, Arc::new(Nobody)).unwrap();
    let source = From { store: Arc::clone(&store), blob: blob.clone() };
    let copies = ["x", "y", "z"].map(Repository::new);
    let context = context();
    let written = copies.iter().map(|repository| store.write_blob(repository, &blob, &source, &context));
    futures_util::future::try_join_all(written).await.unwrap();
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), 3);
}
