//! Retries, pauses, logins and permits, seen from the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::content::{Repository, Sink, Source};
use crate::name::Reference;
use crate::registry::testing::{Nobody, Server, answer, context, limits, refuse, repository, store};
use crate::registry::{HostSettings, Registries, RetryPolicy};
use crate::{Kind, Side};

fn tag() -> Reference {
    Reference::Tag("1".to_owned())
}

fn found() -> axum::response::Response {
    let digest = format!("sha256:{}", "a".repeat(64));
    answer(200, &[("docker-content-digest", &digest), ("content-type", "application/vnd.oci.image.index.v1+json; x=y")], "")
}

#[tokio::test]
async fn trouble_is_tried_again_and_a_final_no_is_not() {
    // 429 and 503 come from a host that is alive: it is given twice the attempts.
    let transient = [(408, 4), (429, 8), (499, 4), (500, 4), (502, 4), (503, 8), (504, 4)];
    for (status, attempts) in transient.into_iter().chain([(400, 2), (403, 2), (405, 2), (418, 1), (501, 2)]) {
        let server = Server::start(move |_| refuse(status, "X")).await;
        let (_, store) = store(&server, Side::Upstream);
        let error = store.resolve(&repository(), &tag(), &context()).await.unwrap_err();
        assert_eq!((server.seen().len(), error.http_status()), (attempts, Some(status)), "{status}");
    }
}

#[tokio::test]
async fn a_registry_that_comes_back_is_not_an_error() {
    let server = Server::start(|seen| if seen.nth < 3 { refuse(503, "UNAVAILABLE") } else { found() }).await;
    let (registries, store) = store(&server, Side::Upstream);
    let resolved = store.resolve(&repository(), &tag(), &context()).await.unwrap().unwrap();
    assert_eq!(resolved.media_type, "application/vnd.oci.image.index.v1+json");
    let row = &registries.rows()[0];
    assert_eq!((row.requests.manifest_head, row.retries, row.throttled), (4, 3, 3));
    assert!(row.waited_seconds > 0.0);
}

#[tokio::test]
async fn the_last_error_says_how_often_and_why() {
    let server = Server::start(|_| refuse(502, "UNKNOWN")).await;
    let (_, at) = store(&server, Side::Target);
    let error = at.published(&repository(), &tag(), &context()).await.unwrap_err();
    assert_eq!((error.kind(), error.side(), error.http_status()), (Kind::Unavailable, Side::Target, Some(502)));
    assert!(
        error.to_string().starts_with(&format!("target {}: resolve tag image:1: 502 still so after 4 attempts in ", server.host)),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_there_is_said_in_words_and_later_images_do_not_wait_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let retry = RetryPolicy { attempts: 3, base: Duration::from_millis(1), cap: Duration::from_millis(2), ..RetryPolicy::default() };
    let registries = Registries::new(|_| HostSettings::default(), retry, limits());
    let store = registries.store(Side::Upstream, &host, Arc::new(Nobody)).unwrap();
    let error = store.resolve(&repository(), &tag(), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().starts_with("no answer after 3 attempts in 0.") && error.message().contains("refused"), "{error}");
    // The host has answered no request: the next image fails at once, with the same cause.
    let next = store.resolve(&repository(), &tag(), &crate::content::RequestContext::new("image:2")).await.unwrap_err();
    assert_eq!(next.to_string(), error.to_string().replace("image:1", "image:2"));
    assert!(error.outage().is_some() && next.outage().is_some_and(|outage| !outage.is_over()));
    assert_eq!(registries.rows()[0].requests.manifest_head, 3);
}

#[tokio::test]
async fn retry_after_zero_costs_only_the_attempts_own_wait_and_a_long_one_ends_the_work() {
    let server = Server::start(|seen| match (seen.path(), seen.nth) {
        ("/v2/a/b/manifests/1", 0) => answer(429, &[("retry-after", "0")], "slow down"),
        ("/v2/a/b/manifests/1", _) => found(),
        _ => answer(429, &[("retry-after", "7200")], "come back later"),
    })
    .await;
    let (registries, store) = store(&server, Side::Upstream);
    assert!(store.resolve(&repository(), &tag(), &context()).await.unwrap().is_some());
    let error = store.tags(&repository(), &context()).await.unwrap_err();
    assert_eq!((error.kind(), error.http_status()), (Kind::Deferred, Some(429)));
    let hours = error.until().unwrap().duration_since(jiff::Timestamp::now()).as_secs_f64() / 3600.0;
    assert!((1.9..=2.0).contains(&hours), "{hours}");
    assert!(error.message().contains("is rate limiting us: Retry-After 2 h"), "{error}");
    // The whole host pauses: no other request is sent either.
    let before = server.seen().len();
    let error = store.resolve(&repository(), &tag(), &context()).await.unwrap_err();
    assert_eq!((error.kind(), server.seen().len()), (Kind::Deferred, before));
    assert_eq!(registries.rows()[0].throttled, 2);
}

#[tokio::test]
async fn a_token_is_fetched_when_asked_for_and_counted() {
    let server = Server::start(|seen| {
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", seen.header("host").unwrap());
        match (seen.path(), seen.header("authorization")) {
            ("/token", None) => answer(200, &[], "{\"token\":\"secret\"}"),
            (_, Some("Bearer secret")) => found(),
            _ => answer(401, &[("www-authenticate", &realm)], ""),
        }
    })
    .await;
    let (registries, store) = store(&server, Side::Upstream);
    store.resolve(&repository(), &tag(), &context()).await.unwrap().unwrap();
    store.resolve(&repository(), &tag(), &context()).await.unwrap().unwrap();
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/1", "GET /token", "HEAD /v2/a/b/manifests/1", "HEAD /v2/a/b/manifests/1"]);
    let row = &registries.rows()[0];
    assert_eq!((row.requests.token, row.requests.manifest_head, row.retries), (1, 3, 0));
}

#[tokio::test]
async fn a_token_servers_trouble_is_waited_out() {
    let server = Server::start(|seen| {
        let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
        match (seen.path(), seen.header("authorization")) {
            ("/token", _) if seen.nth == 0 => answer(503, &[("retry-after", "0")], ""),
            ("/token", _) if seen.nth == 1 => crate::registry::testing::broken(200, &[], b"{\"tok", 40),
            ("/token", _) => answer(200, &[], "{\"token\":\"secret\"}"),
            (_, Some(_)) => found(),
            _ => answer(401, &[("www-authenticate", &realm)], ""),
        }
    })
    .await;
    let (registries, store) = store(&server, Side::Upstream);
    assert!(store.resolve(&repository(), &tag(), &context()).await.unwrap().is_some());
    assert_eq!(registries.rows()[0].requests.token, 3);
}

#[tokio::test]
async fn a_401_that_no_login_helps_against_says_what_the_registry_said() {
    let server = Server::start(|_| refuse(401, "UNAUTHORIZED")).await;
    let (_, store) = store(&server, Side::Upstream);
    let error = store.tags(&repository(), &context()).await.unwrap_err();
    assert_eq!((error.kind(), error.http_status(), error.registry_code()), (Kind::Unauthorized, Some(401), Some("UNAUTHORIZED")));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn one_host_and_account_is_one_store_one_row_and_one_set_of_permits() {
    let server = Server::start(|_| found()).await;
    let (registries, upstream) = store(&server, Side::Upstream);
    assert!(Arc::ptr_eq(&upstream, &registries.store(Side::Upstream, &server.host, Arc::new(Nobody)).unwrap()));
    let target = registries.store(Side::Target, &server.host, Arc::new(Nobody)).unwrap();
    upstream.resolve(&repository(), &tag(), &context()).await.unwrap();
    target.published(&repository(), &tag(), &context()).await.unwrap();
    assert_eq!(registries.rows().len(), 1);
    assert_eq!(registries.rows()[0].requests.manifest_head, 2);
    assert!(Arc::ptr_eq(&upstream.transport.host, &target.transport.host));
}

#[tokio::test]
async fn no_more_requests_are_in_flight_than_there_are_permits() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&now), Arc::clone(&most));
    // A body that takes a few turns: the permit must be held until its end.
    let server = Server::start(move |_| {
        let running = counted.fetch_add(1, Ordering::SeqCst) + 1;
        highest.fetch_max(running, Ordering::SeqCst);
        let counted = Arc::clone(&counted);
        let body = futures_util::stream::unfold(0, move |turn| {
            let counted = Arc::clone(&counted);
            async move {
                tokio::task::yield_now().await;
                match turn {
                    0..20 => Some((Ok::<_, std::io::Error>(bytes::Bytes::from_static(b" ")), turn + 1)),
                    20 => {
                        counted.fetch_sub(1, Ordering::SeqCst);
                        Some((Ok(bytes::Bytes::from_static(b"{\"tags\":[]}")), 21))
                    }
                    _ => None,
                }
            }
        });
        answer(200, &[], axum::body::Body::from_stream(body))
    })
    .await;
    let settings = |_: &str| HostSettings { concurrency: Some(2), ..HostSettings::default() };
    let registries = Registries::new(settings, RetryPolicy::default(), limits());
    let store = registries.store(Side::Upstream, &server.host, Arc::new(Nobody)).unwrap();
    let (places, context) = ((0..20).map(|n| Repository::new(format!("a/b{n}"))).collect::<Vec<_>>(), context());
    futures_util::future::try_join_all(places.iter().map(|repository| store.tags(repository, &context))).await.unwrap();
    assert_eq!((server.seen().len(), most.load(Ordering::SeqCst)), (20, 2));
}

#[tokio::test]
async fn a_registry_that_falls_silent_is_asked_again_and_then_given_up() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => found(),
        _ => answer(200, &[], axum::body::Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>())),
    })
    .await;
    let idle = Duration::from_millis(20);
    let retry = RetryPolicy { attempts: 2, base: Duration::from_millis(1), idle, ..RetryPolicy::default() };
    let registries = Registries::new(|_| HostSettings::default(), retry, limits());
    let store = registries.store(Side::Upstream, &server.host, Arc::new(Nobody)).unwrap();
    let error = store.tags(&repository(), &context()).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.message().contains("no byte came for 0.02 s"), "{error}");
    assert_eq!(server.seen().len(), 2);
}

/// A server that answers each connection's first request by `first`, and then by `says` again and again; how many connections it got.
async fn babbling(first: &'static [u8], says: &'static [u8]) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (host, count) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(first).await;
                if says.is_empty() {
                    std::future::pending::<()>().await;
                }
                while socket.write_all(says).await.is_ok() {}
            });
        }
    });
    (host, count)
}

#[tokio::test]
async fn answers_that_never_begin_end_after_one_deadline() {
    for (says, expected) in [
        (&b""[..], "no answer came within 0.2 s"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "no answer came within 0.2 s"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", "no answer came within 0.2 s"),
    ] {
        let (host, connections) = babbling(b"", says).await;
        let retry = RetryPolicy { base: Duration::from_millis(1), idle: Duration::from_millis(200), ..RetryPolicy::default() };
        let registries = Registries::new(|_| HostSettings::default(), retry, limits());
        let store = registries.store(Side::Upstream, &host, Arc::new(Nobody)).unwrap();
        let error = store.tags(&repository(), &context()).await.unwrap_err();
        assert!(error.kind() == Kind::Unavailable && error.message() == expected, "{error}");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn headers_without_end_are_an_error_at_once() {
    let server = babbling(b"HTTP/1.1 200 OK\r\n", b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").await;
    let registries = Registries::new(|_| HostSettings::default(), RetryPolicy::default(), limits());
    let store = registries.store(Side::Upstream, &server.0, Arc::new(Nobody)).unwrap();
    let error = store.tags(&repository(), &context()).await.unwrap_err();
    assert!(error.message().starts_with("the answer's headers are larger"), "{error}");
}

/// Somebody.
struct Ann;

#[async_trait::async_trait]
impl crate::registry::auth::Logins for Ann {
    async fn login(&self) -> crate::Result<crate::registry::auth::Login> {
        Ok(crate::registry::auth::Login::Basic { username: "ann".to_owned(), password: "pw".to_owned().into() })
    }
    async fn renew(&self, _: &crate::registry::auth::Login) -> crate::Result<Option<crate::registry::auth::Login>> {
        Ok(None)
    }
    fn name(&self) -> &str {
        "ann"
    }
}

#[tokio::test]
async fn credentials_that_nobody_asked_for_are_tried_if_the_root_asks_for_them() {
    for hidden in [401, 403, 404] {
        let server = Server::start(move |seen| match (seen.path(), seen.header("authorization")) {
            ("/v2/", None) => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
            (_, None) => refuse(hidden, "NAME_UNKNOWN"),
            _ => found(),
        })
        .await;
        let registries = Registries::new(|_| HostSettings::default(), RetryPolicy::default(), limits());
        let store = registries.store(Side::Upstream, &server.host, Arc::new(Ann)).unwrap();
        for _ in 0..2 {
            assert!(store.resolve(&repository(), &tag(), &context()).await.unwrap().is_some(), "{hidden}");
        }
        let head = "HEAD /v2/a/b/manifests/1";
        // Without a login, the root without and with one, and then with it.
        assert_eq!(server.lines(), [head, "GET /v2/", "GET /v2/", head, head], "{hidden}");
    }
    // A root without a login has nothing to offer.
    let server = Server::start(|seen| if seen.path() == "/v2/" { answer(200, &[], "{}") } else { refuse(404, "NAME_UNKNOWN") }).await;
    let registries = Registries::new(|_| HostSettings::default(), RetryPolicy::default(), limits());
    let store = registries.store(Side::Upstream, &server.host, Arc::new(Ann)).unwrap();
    for _ in 0..3 {
        assert!(store.resolve(&repository(), &tag(), &context()).await.unwrap().is_none());
    }
    assert_eq!(server.lines().iter().filter(|line| *line == "GET /v2/").count(), 1);
}

#[tokio::test]
async fn a_host_that_the_registry_redirects_to_gets_a_token_of_its_own() {
    let other = Server::start(|seen| {
        let host = seen.header("host").unwrap().to_owned();
        match (seen.path(), seen.header("authorization")) {
            ("/token", None) => answer(200, &[], "{\"token\":\"theirs\",\"expires_in\":300}"),
            ("/token", Some(_)) => answer(500, &[], "a login of another registry"),
            (_, Some("Bearer theirs")) => found(),
            _ => {
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"{host}\",scope=\"repository:a/b:pull\"");
                answer(401, &[("www-authenticate", &challenge)], "")
            }
        }
    })
    .await;
    let to = format!("http://{}/v2/a/b/manifests/1", other.host);
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some("Bearer ours") => answer(307, &[("location", &to)], ""),
        _ if seen.path() == "/token" => answer(200, &[], "{\"token\":\"ours\"}"),
        _ => answer(401, &[("www-authenticate", "Bearer realm=\"/token\"")], ""),
    })
    .await;
    let registries = Registries::new(|_| HostSettings::default(), RetryPolicy::default(), limits());
    let store = registries.store(Side::Upstream, &server.host, Arc::new(Ann)).unwrap();
    for _ in 0..2 {
        assert!(store.resolve(&repository(), &tag(), &context()).await.unwrap().is_some());
    }
    assert_eq!(other.lines().iter().filter(|line| *line == "GET /token").count(), 1, "its token is kept");
    assert!(other.seen().iter().all(|seen| seen.header("authorization").is_none_or(|said| said == "Bearer theirs")));
    assert!(server.seen().iter().all(|seen| seen.header("authorization") != Some("Bearer theirs")));
}

#[tokio::test]
async fn a_host_that_gives_no_token_is_asked_once() {
    let other = Server::start(|_| answer(401, &[("www-authenticate", "Bearer realm=\"http://127.0.0.2:1/token\"")], "")).await;
    let to = format!("http://{}/v2/a/b/manifests/1", other.host);
    let server = Server::start(move |_| answer(307, &[("location", &to)], "")).await;
    let (_, store) = store(&server, Side::Upstream);
    assert_eq!(store.resolve(&repository(), &tag(), &context()).await.unwrap_err().http_status(), Some(401));
    assert_eq!((server.seen().len(), other.seen().len()), (1, 1));
}

#[tokio::test]
async fn plain_http_that_leads_to_https_says_what_to_set_at_once() {
    // The https side: as far as this test goes, any that asks for a login.
    let server = Server::start(|seen| {
        let host = seen.header("host").unwrap().to_owned();
        answer(308, &[("location", &format!("https://{host}{}", seen.path()))], "")
    })
    .await;
    let (_, store) = store(&server, Side::Target);
    let manifest = {
        let body = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        crate::content::Manifest::known(bytes::Bytes::from_static(body), None, crate::content::Digest::sha256(body), Side::Target).unwrap()
    };
    let error = store.put_manifest(&repository(), &manifest, &context()).await.unwrap_err();
    let expected = format!("set endpoint = \"https://{0}\" in [registry.\"{0}\"]", server.host);
    assert!(error.message().contains("redirects plain HTTP to https") && error.message().contains(&expected), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn an_upload_location_that_cannot_be_connected_to_is_named() {
    let server = Server::start(|_| answer(202, &[("location", "http://127.0.0.1:1/upload")], "")).await;
    let (_, store) = store(&server, Side::Target);
    let bytes = crate::registry::testing::bytes(10);
    let blob = crate::registry::testing::descriptor(&bytes);
    let source = crate::registry::testing::AtHand::new(&bytes);
    let error = store.write_blob(&repository(), &blob, &source, &context()).await.unwrap_err();
    assert!(error.message().contains("no answer from 127.0.0.1:1 ") && error.message().contains("no connection"), "{error}");
}
