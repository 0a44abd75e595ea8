//! The fake registry keeps to what it says: tested with a bare HTTP client.

use std::time::Duration;

use crate::support::corpus::{self, OCI_IMAGE, OCI_INDEX};
use crate::support::fake::{self, ANONYMOUS, Auth, FOREVER, Fake, Fault, Gate, Kind, Link, Match, Options, Pulls, Rate, Redirect, Tokens};
use crate::support::layer::noise;
use crate::support::push::client;
use bytes::Bytes;
use larder::content::Digest;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;

/// One request to `registry`; a path that begins with `http` stands for itself.
async fn ask(registry: &Fake, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
    let url = if path.starts_with("http") { path.to_owned() } else { registry.url() + path };
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = client().request(method, url).body(reqwest::Body::from(body.into()));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

async fn get(registry: &Fake, path: &str, headers: &[(&str, &str)]) -> Response {
    ask(registry, "GET", path, headers, "").await
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn code(response: Response) -> String {
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    body["errors"][0]["code"].as_str().unwrap().to_owned()
}

async fn json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn manifests_are_kept_byte_for_byte_and_checked() {
    let registry = Fake::start();
    let body = format!("\n{{ \"schemaVersion\": 2,\t\"mediaType\": \"{OCI_INDEX}\", \"manifests\": [] }}\n");
    let digest = Digest::sha256(body.as_bytes());
    let put = |path: &'static str, kind: &'static str, body: String| {
        let registry = &registry;
        async move { ask(registry, "PUT", path, &[("content-type", kind)], body).await }
    };
    let created = put("/v2/a/b/manifests/v1", OCI_INDEX, body.clone()).await;
    assert_eq!((created.status(), header(&created, "docker-content-digest")), (StatusCode::CREATED, digest.as_str()));
    for reference in ["v1", digest.as_str()] {
        for method in ["GET", "HEAD"] {
            let path = format!("/v2/a/b/manifests/{reference}");
            let answer = ask(&registry, method, &path, &[("accept", &format!("x/y, {OCI_INDEX};q=0.9"))], "").await;
            assert_eq!((header(&answer, "docker-content-digest"), header(&answer, "content-type")), (digest.as_str(), OCI_INDEX));
            assert_eq!(header(&answer, "content-length"), body.len().to_string());
            assert_eq!(answer.bytes().await.unwrap(), if method == "GET" { body.as_bytes() } else { b"" });
        }
    }
    let unaccepted = get(&registry, "/v2/a/b/manifests/v1", &[("accept", OCI_IMAGE)]).await;
    assert_eq!((unaccepted.status().as_u16(), code(unaccepted).await.as_str()), (404, "MANIFEST_UNKNOWN"));
    let etag = format!("\"{digest}\"");
    let unchanged = get(&registry, "/v2/a/b/manifests/v1", &[("accept", OCI_INDEX), ("if-none-match", &etag)]).await;
    assert_eq!(unchanged.status(), StatusCode::NOT_MODIFIED);

    let orphan = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
    for (path, kind, body, status, expected) in [
        ("/v2/a/b/manifests/v2", OCI_IMAGE, body.clone(), 400, "MANIFEST_INVALID"),
        ("/v2/a/b/manifests/sha256:1234", OCI_INDEX, body.clone(), 400, "DIGEST_INVALID"),
        ("/v2/a/b/manifests/.v", OCI_INDEX, body.clone(), 400, "TAG_INVALID"),
        ("/v2/A/b/manifests/v", OCI_INDEX, body.clone(), 400, "NAME_INVALID"),
        ("/v2/other/manifests/v", OCI_INDEX, orphan.clone(), 404, "MANIFEST_BLOB_UNKNOWN"),
        ("/v2/a/b/manifests/v", OCI_INDEX, " ".repeat((4 << 20) + 1), 413, "MANIFEST_INVALID"),
    ] {
        let refused = put(path, kind, body).await;
        assert_eq!((refused.status().as_u16(), code(refused).await.as_str()), (status, expected), "{path}");
    }
    registry.configure(|options| options.check_children = false);
    assert_eq!(put("/v2/other/manifests/v", OCI_INDEX, orphan).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_blob_is_served_whole_and_in_ranges() {
    let registry = Fake::start();
    let bytes = Bytes::from(noise(1, 300_000));
    let kept = registry.put_blob("r", bytes.clone());
    for (range, status, expected, content_range) in [
        ("bytes=0-", 206, 0..300_000, "bytes 0-299999/300000"),
        ("bytes=5-9", 206, 5..10, "bytes 5-9/300000"),
        ("bytes=299999-", 206, 299_999..300_000, "bytes 299999-299999/300000"),
        ("bytes=-10", 206, 299_990..300_000, "bytes 299990-299999/300000"),
        ("bytes=7-9999999", 206, 7..300_000, "bytes 7-299999/300000"),
        ("lines=1-2", 200, 0..300_000, ""),
    ] {
        let answer = get(&registry, &format!("/v2/r/blobs/{kept}"), &[("range", range)]).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-range")), (status, content_range), "{range}");
        assert_eq!(answer.bytes().await.unwrap(), bytes.slice(expected), "{range}");
    }
    let outside = get(&registry, &format!("/v2/r/blobs/{kept}"), &[("range", "bytes=300000-")]).await;
    assert_eq!((outside.status().as_u16(), header(&outside, "content-range")), (416, "bytes */300000"));
    registry.configure(|options| options.ranges = false);
    assert_eq!(get(&registry, &format!("/v2/r/blobs/{kept}"), &[("range", "bytes=5-")]).await.status(), StatusCode::OK);
    assert_eq!(get(&registry, &format!("/v2/other/blobs/{kept}"), &[]).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_generated_blob_has_the_digest_it_says_also_in_parts() {
    let registry = Fake::start();
    let digest = registry.put_fill("r", 7, 5_000_000);
    let path = format!("/v2/r/blobs/{digest}");
    let whole = get(&registry, &path, &[]).await.bytes().await.unwrap();
    assert_eq!(Digest::sha256(&whole), digest);
    let part = get(&registry, &path, &[("range", "bytes=2999999-")]).await.bytes().await.unwrap();
    assert_eq!(part, whole.slice(2_999_999..));
    assert_eq!(registry.bytes_sent(), 5_000_000 + 2_000_001);
    let log = registry.requests();
    assert_eq!((log[1].bytes_out, log[1].range(), log[1].status), (2_000_001, Some("bytes=2999999-"), Some(206)));
}

#[tokio::test]
async fn redirected_blobs_come_from_another_host_without_credentials_until_the_link_expires() {
    let registry = Fake::with(Options { redirect: Some(Redirect { uses: Some(3), ..Redirect::default() }), ..Options::default() });
    let digest = registry.put_blob("r", &b"hello"[..]);
    let redirect = get(&registry, &format!("/v2/r/blobs/{digest}"), &[]).await;
    assert_eq!(redirect.status(), StatusCode::TEMPORARY_REDIRECT);
    let link = header(&redirect, "location").to_owned();
    assert!(link.starts_with(&format!("http://localhost:{}/", registry.cdn_addr().port())), "{link}");
    assert_eq!(get(&registry, &link, &[("authorization", "Bearer x")]).await.status(), StatusCode::BAD_REQUEST);
    for _ in 0..2 {
        assert_eq!(get(&registry, &link, &[]).await.bytes().await.unwrap(), "hello");
    }
    assert_eq!(get(&registry, &link, &[("range", "bytes=1-")]).await.bytes().await.unwrap(), "ello");
    assert_eq!(get(&registry, &link, &[]).await.status(), StatusCode::FORBIDDEN);
    assert_eq!((registry.count(Kind::BlobGet), registry.count(Kind::Cdn)), (1, 5));
}

/// Opens an upload and gives its absolute Location.
async fn open(registry: &Fake, repository: &str) -> String {
    let answer = ask(registry, "POST", &format!("/v2/{repository}/blobs/uploads/"), &[], "").await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    header(&answer, "location").to_owned()
}

#[tokio::test]
async fn uploads_in_chunks_go_on_where_they_stopped() {
    let registry = Fake::with(Options { location_query: true, location_absolute: true, ..Options::default() });
    let digest = Digest::sha256(b"hello world");
    let first = open(&registry, "r").await;
    let taken = ask(&registry, "PATCH", &first, &[("content-range", "0-4")], "hello").await;
    assert_eq!((taken.status().as_u16(), header(&taken, "range")), (202, "0-4"));
    let second = header(&taken, "location").to_owned();
    let stale = ask(&registry, "PATCH", &first, &[], "x").await;
    assert_eq!(code(stale).await, "BLOB_UPLOAD_INVALID");
    let gap = ask(&registry, "PATCH", &second, &[("content-range", "9-9")], "x").await;
    assert_eq!((gap.status().as_u16(), header(&gap, "range")), (416, "0-4"));
    let state = get(&registry, &second, &[]).await;
    assert_eq!((state.status().as_u16(), header(&state, "range")), (204, "0-4"));
    let third = header(&ask(&registry, "PATCH", &second, &[], " wor").await, "location").to_owned();
    let done = ask(&registry, "PUT", &format!("{third}&digest={digest}"), &[], "ld").await;
    assert_eq!(done.status(), StatusCode::CREATED);
    assert_eq!(registry.blob("r", &digest).unwrap(), "hello world");

    let wrong = ask(&registry, "PUT", &format!("{}&digest={digest}", open(&registry, "r").await), &[], "hello worlt").await;
    assert_eq!(code(wrong).await, "DIGEST_INVALID");
    let abandoned = open(&registry, "r").await;
    assert_eq!(ask(&registry, "DELETE", &abandoned, &[], "").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(code(ask(&registry, "PATCH", &abandoned, &[], "x").await).await, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(registry.open_uploads(), 0);
}

#[tokio::test]
async fn uploads_are_limited_as_the_options_say() {
    let registry = Fake::with(Options { max_put: Some(4), auto_create: false, keep_uploads: false, ..Options::default() });
    let digest = corpus::digest_of("sha256", b"hello");
    let nowhere = ask(&registry, "POST", "/v2/r/blobs/uploads/", &[], "").await;
    assert_eq!(code(nowhere).await, "NAME_UNKNOWN");
    registry.create("r");
    let upload = open(&registry, "r").await;
    let large = ask(&registry, "PUT", &format!("{upload}?digest={digest}"), &[], "hello").await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    ask(&registry, "PATCH", &upload, &[], "hello").await;
    assert_eq!(ask(&registry, "PUT", &format!("{upload}?digest={digest}"), &[], "").await.status(), StatusCode::CREATED);
    assert!(registry.has_blob("r", &digest) && registry.blob("r", &digest).is_none());

    registry.configure(|options| {
        options.chunked = false;
        options.keep_uploads = true;
        options.max_put = None;
    });
    let upload = open(&registry, "r").await;
    assert_eq!(ask(&registry, "PATCH", &upload, &[], "hello").await.status(), StatusCode::METHOD_NOT_ALLOWED);
    let digest = corpus::digest_of("sha512", b"hello");
    assert_eq!(ask(&registry, "PUT", &format!("{upload}?digest={digest}"), &[], "hello").await.status(), StatusCode::CREATED);
    assert_eq!(registry.blob("r", &digest).unwrap(), "hello");
}

#[tokio::test]
async fn blobs_are_mounted_where_they_are_and_where_that_is_allowed() {
    let registry = Fake::start();
    let digest = registry.put_blob("from", &b"hello"[..]);
    let mount = |to: &str, from: &str| format!("/v2/{to}/blobs/uploads/?mount={digest}&from={from}");
    assert_eq!(ask(&registry, "POST", &mount("a", "from"), &[], "").await.status(), StatusCode::CREATED);
    assert!(registry.has_blob("a", &digest));
    assert_eq!(ask(&registry, "POST", &mount("b", "elsewhere"), &[], "").await.status(), StatusCode::ACCEPTED);
    registry.configure(|options| options.mount = false);
    assert_eq!(ask(&registry, "POST", &mount("b", "from"), &[], "").await.status(), StatusCode::ACCEPTED);
    assert!(!registry.has_blob("b", &digest));
    assert_eq!((registry.count(Kind::Mount), registry.count(Kind::UploadPost), registry.open_uploads()), (3, 0, 2));
}

/// Asks the token server as a challenge says, and gives the answer.
async fn token(registry: &Fake, scope: &str, basic: Option<&str>) -> Response {
    let headers: Vec<_> = basic.iter().map(|basic| ("authorization", *basic)).collect();
    get(registry, &format!("/token?service=fake-registry&scope={scope}"), &headers).await
}

#[tokio::test]
async fn tokens_open_what_their_scopes_say_until_they_are_revoked() {
    let registry = Fake::with(Options { auth: Auth::tokens("me", "secret"), ..Options::default() });
    let digest = registry.put_blob("a/b", &b"x"[..]);
    let path = format!("/v2/a/b/blobs/{digest}");
    let asked = get(&registry, &path, &[]).await;
    let expected = format!(r#"Bearer realm="{}/token",service="fake-registry",scope="repository:a/b:pull""#, registry.url());
    assert_eq!((asked.status().as_u16(), header(&asked, "www-authenticate")), (401, expected.as_str()));

    let answer = json(token(&registry, "repository:a/b:pull,push", None).await).await;
    assert_eq!(answer["expires_in"], 300);
    let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
    let signed = [("authorization", bearer.as_str())];
    assert_eq!(get(&registry, &path, &signed).await.status(), StatusCode::OK);
    assert_eq!(get(&registry, "/v2/", &signed).await.status(), StatusCode::OK);
    let push = ask(&registry, "POST", "/v2/a/b/blobs/uploads/", &signed, "").await;
    assert!(header(&push, "www-authenticate").ends_with(r#"scope="repository:a/b:pull,push",error="insufficient_scope""#));
    registry.revoke_tokens();
    assert!(header(&get(&registry, &path, &signed).await, "www-authenticate").contains(r#"error="invalid_token""#));

    assert_eq!(token(&registry, "repository:a/b:pull", Some("Basic bWU6d3Jvbmc=")).await.status(), StatusCode::UNAUTHORIZED);
    let mine = json(token(&registry, "repository:a/b:pull,push", Some("Basic bWU6c2VjcmV0")).await).await;
    let bearer = format!("Bearer {}", mine["token"].as_str().unwrap());
    let push = ask(&registry, "POST", "/v2/a/b/blobs/uploads/", &[("authorization", &bearer)], "").await;
    assert_eq!((push.status(), registry.count(Kind::Token)), (StatusCode::ACCEPTED, 3));
}

#[tokio::test]
async fn identity_tokens_are_exchanged_by_post() {
    let tokens = Tokens {
        anonymous: false,
        identity_tokens: vec![("identity".to_owned(), "me".to_owned())],
        field: "access_token",
        expires_in: None,
        challenges: vec![fake::UNQUOTED.to_owned(), "Negotiate".to_owned()],
        ..Tokens::default()
    };
    let registry = Fake::with(Options { auth: Auth::Token(tokens), ..Options::default() });
    let asked = get(&registry, "/v2/a/tags/list", &[]).await;
    assert_eq!(asked.headers().get_all("www-authenticate").iter().count(), 2);
    assert!(header(&asked, "www-authenticate").contains(",service=fake-registry,"));
    assert_eq!(token(&registry, "repository:a:pull", None).await.status(), StatusCode::UNAUTHORIZED);
    let form =
        "grant_type=refresh_token&service=fake-registry&client_id=x&scope=repository:a:pull%20repository:b:pull&refresh_token=identity";
    let answer = json(ask(&registry, "POST", "/token", &[], form).await).await;
    assert!(answer.get("expires_in").is_none());
    let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    registry.create("b");
    assert_eq!(get(&registry, "/v2/b/tags/list", &[("authorization", &bearer)]).await.status(), StatusCode::OK);
    let wrong = ask(&registry, "POST", "/token", &[], form.replace("=identity", "=other")).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn token_servers_differ_in_challenges_and_in_what_they_grant() {
    // Challenge, token request, and what a GET in the private and the public repository is then answered.
    for (challenge, asked, statuses) in [
        (fake::QUOTED, "repository:public:pull%20repository:private:pull", [401, 200]),
        (fake::EMPTY_SCOPE, "", [401, 200]),
        (fake::NO_SCOPE, "", [401, 200]),
        (fake::NO_SERVICE, "repository:other:pull&scope=repository:public:pull", [401, 401]),
    ] {
        let first_scope_only = challenge == fake::NO_SERVICE;
        let (private, challenges) = (vec!["private".to_owned()], vec![challenge.to_owned()]);
        let tokens = Tokens { private, challenges, first_scope_only, ..Tokens::default() };
        let registry = Fake::with(Options { auth: Auth::Token(tokens), ..Options::default() });
        let answer = json(token(&registry, asked, None).await).await;
        let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
        for (repository, status) in ["private", "public"].iter().zip(statuses) {
            registry.create(repository);
            let answer = get(&registry, &format!("/v2/{repository}/tags/list"), &[("authorization", &bearer)]).await;
            assert_eq!(answer.status().as_u16(), status, "{challenge} {repository}");
        }
    }
}

/// All of `field` over all pages, and how many pages there were.
async fn pages(registry: &Fake, path: &str, field: &str) -> (Vec<Value>, usize) {
    let (mut all, mut count, mut next) = (vec![], 0, Some(registry.url() + path));
    while let Some(url) = next {
        let answer = get(registry, &url, &[]).await;
        count += 1;
        let link = header(&answer, "link").strip_suffix(">; rel=\"next\"").and_then(|link| link.strip_prefix('<')).map(str::to_owned);
        next = link.map(|link| url::Url::parse(&url).unwrap().join(&link).unwrap().to_string());
        all.extend(json(answer).await[field].as_array().unwrap().clone());
    }
    (all, count)
}

#[tokio::test]
async fn lists_come_in_pages_of_every_style() {
    let registry = Fake::with(Options { page: Some(3), ..Options::default() });
    let digest = Digest::sha256(b"x");
    let tags: Vec<String> = (0..10).map(|number| format!("t{number}")).collect();
    tags.iter().for_each(|tag| registry.tag("r", tag, &digest));
    ["a", "b", "c"].iter().for_each(|name| registry.create(name));
    for link in [Link::Relative, Link::Absolute, Link::Quay] {
        registry.configure(|options| options.link = link);
        let (all, count) = pages(&registry, "/v2/r/tags/list", "tags").await;
        assert_eq!((all, count), (tags.iter().map(|tag| tag.as_str().into()).collect(), 4), "{link:?}");
        assert_eq!(pages(&registry, "/v2/_catalog?n=2", "repositories").await, (vec!["a".into(), "b".into(), "c".into(), "r".into()], 2));
    }
    assert_eq!(pages(&registry, "/v2/r/tags/list?n=0", "tags").await, (vec![], 1));
    assert_eq!(code(get(&registry, "/v2/none/tags/list", &[]).await).await, "NAME_UNKNOWN");
}

#[tokio::test]
async fn referrers_are_listed_filtered_and_paged() {
    let registry = Fake::with(Options { referrers_page: Some(2), ..Options::default() });
    let subject = corpus::simple(&registry, "r", "v1", 1);
    for number in 0..3 {
        corpus::artifact(&registry, "r", None, "x/signature", format!("signed {number}"), Some(&subject));
    }
    let sbom = corpus::artifact(&registry, "r", None, "x/sbom", "sbom", Some(&subject));
    let path = format!("/v2/r/referrers/{}", subject.digest);
    let (all, count) = pages(&registry, &path, "manifests").await;
    assert_eq!((all.len(), count), (4, 2));
    let filtered = get(&registry, &format!("{path}?artifactType=x/sbom"), &[]).await;
    assert_eq!((header(&filtered, "oci-filters-applied"), header(&filtered, "content-type")), ("artifactType", OCI_INDEX));
    let filtered = json(filtered).await;
    assert_eq!(filtered["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&filtered["manifests"][0]["digest"], &filtered["manifests"][0]["artifactType"]),
        (&sbom.digest.as_str().into(), &"x/sbom".into())
    );
    assert_eq!(pages(&registry, &format!("{path}?artifactType=x/signature"), "manifests").await.1, 2);

    let (media_type, bytes) = registry.manifest("r", sbom.digest.as_str()).unwrap();
    let put = |bytes: Bytes| ask(&registry, "PUT", "/v2/r/manifests/x", &[("content-type", OCI_IMAGE)], bytes);
    assert_eq!((media_type.as_str(), header(&put(bytes.clone()).await, "oci-subject")), (OCI_IMAGE, subject.digest.as_str()));
    registry.configure(|options| options.referrers = false);
    assert_eq!(header(&put(bytes.clone()).await, "oci-subject"), "");
    assert_eq!(get(&registry, &path, &[]).await.status(), StatusCode::NOT_FOUND);
}

/// Reads a body as far as it comes.
async fn read(mut response: Response) -> (Vec<u8>, Option<reqwest::Error>) {
    let mut out = vec![];
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => out.extend_from_slice(&chunk),
            Ok(None) => return (out, None),
            Err(error) => return (out, Some(error)),
        }
    }
}

#[tokio::test]
async fn bodies_break_off_exactly_where_ordered() {
    let registry = Fake::start();
    let bytes = noise(1, 1_000_000);
    let digest = registry.put_blob("r", bytes.clone());
    let path = format!("/v2/r/blobs/{digest}");
    for after in [0usize, 1, 200_000, 999_999] {
        registry.fault(Match::kind(Kind::BlobGet).repository("r").reference(&digest), 1, Fault::CutBody { after: after as u64 });
        let answer = get(&registry, &path, &[]).await;
        assert_eq!(header(&answer, "content-length"), "1000000");
        let (got, error) = read(answer).await;
        assert!(error.is_some() && got == bytes[..after], "after {after}: {} bytes, {error:?}", got.len());
    }
    registry.fault(Match::kind(Kind::BlobGet), 1, Fault::Stall { after: 70_000 });
    let mut stalled = get(&registry, &path, &[]).await;
    let mut got = 0;
    while got < 70_000 {
        got += stalled.chunk().await.unwrap().unwrap().len();
    }
    // Nothing more comes: the answer is still being given, and its connection still open.
    assert_eq!(got, 70_000);
    assert!(tokio::time::timeout(Duration::from_millis(1), stalled.chunk()).await.is_err());
    assert_eq!(read(get(&registry, &path, &[]).await).await.0, bytes);
    assert_eq!(registry.faults_left(), 0);
}

#[tokio::test]
async fn every_fault_happens_as_often_as_ordered_and_in_order() {
    let registry = Fake::start();
    let digest = registry.put_blob("r", &b"hello"[..]);
    let path = format!("/v2/r/blobs/{digest}");
    let here = || Match::kind(Kind::BlobGet);
    registry.fault(here(), 2, Fault::status(503));
    registry.fault(here(), 1, Fault::limited("7"));
    registry.fault(here().repository("other"), FOREVER, Fault::Reset);
    registry.fault(here(), 1, Fault::WrongBody("HELLO!".into()));
    registry.fault(here(), 1, Fault::Redirect { code: 302, location: "http://10.0.0.1/".to_owned() });
    registry.fault(here(), 1, Fault::Header { name: "docker-content-digest", value: Some("sha256:no".to_owned()) });
    registry.fault(here(), 1, Fault::custom(|request| fake::reply(418, request.reference.clone().unwrap())));
    registry.fault(here(), 1, Fault::Raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".into()));
    let mut seen = vec![];
    for _ in 0..9 {
        let answer = get(&registry, &path, &[]).await;
        let notes = ["retry-after", "location", "docker-content-digest"].map(|name| header(&answer, name).to_owned()).concat();
        seen.push(format!("{} {notes} {}", answer.status().as_u16(), answer.text().await.unwrap()));
    }
    let unavailable = r#"503  {"errors":[{"code":"UNAVAILABLE","message":"ordered by the test"}]}"#;
    assert_eq!(seen[..3], [unavailable, unavailable, "429 7 Too Many Requests\n"]);
    assert_eq!(seen[3..6], [format!("200 {digest} HELLO!"), "302 http://10.0.0.1/ ".to_owned(), "200 sha256:no hello".to_owned()]);
    assert_eq!(seen[6..], [format!("418  {digest}"), "200  hi".to_owned(), format!("200 {digest} hello")]);

    registry.fault(here(), 1, Fault::Reset);
    assert!(client().get(registry.url() + &path).send().await.unwrap_err().is_request());
    registry.fault(here(), 1, Fault::Endless);
    let mut endless = get(&registry, &path, &[]).await;
    let mut got = 0;
    while got < 3_000_000 {
        got += endless.chunk().await.unwrap().unwrap().len();
    }
}

#[test]
fn a_body_can_be_longer_than_it_says() {
    use std::io::{Read, Write};
    let registry = Fake::start();
    let digest = registry.put_blob("r", &b"hello"[..]);
    registry.fault(Match::any(), 1, Fault::ExtraBody { more: 3 });
    let mut stream = std::net::TcpStream::connect(registry.addr()).unwrap();
    write!(stream, "GET /v2/r/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n") && answer.ends_with("\r\n\r\nhelloXXX"), "{answer}");
}

#[tokio::test]
async fn held_requests_wait_for_the_gate_and_count_as_in_flight() {
    let registry = Fake::start();
    let digest = registry.put_blob("r", &b"hello"[..]);
    let gate = Gate::closed();
    registry.fault(Match::kind(Kind::BlobGet), FOREVER, Fault::Hold(gate.clone()));
    let client: Client = client();
    let sent: Vec<_> = (0..4).map(|_| tokio::spawn(client.get(format!("{}/v2/r/blobs/{digest}", registry.url())).send())).collect();
    assert!(registry.reached(crate::support::room::PATIENCE, |requests| requests.len() == 4).await);
    assert_eq!((registry.max_in_flight(), registry.count_matching(|request| request.status.is_none())), (4, 4));
    gate.open();
    for answer in sent {
        assert_eq!(answer.await.unwrap().unwrap().text().await.unwrap(), "hello");
    }
    registry.reset_log();
    assert_eq!((registry.requests().len(), registry.max_in_flight()), (0, 0));
}

#[tokio::test]
async fn pulls_are_counted_in_windows_and_heads_are_free() {
    let pulls = Pulls { retry_after: true, ..Pulls::new(3, Duration::from_secs(21_600)) };
    let registry = Fake::with(Options { pulls: Some(pulls), strict_accept: false, ..Options::default() });
    corpus::simple(&registry, "r", "v1", 1);
    let path = "/v2/r/manifests/v1";
    for expected in ["3;w=21600", "2;w=21600", "1;w=21600"] {
        let head = ask(&registry, "HEAD", path, &[], "").await;
        assert_eq!((header(&head, "ratelimit-limit"), header(&head, "ratelimit-remaining")), ("3;w=21600", expected));
        assert_eq!(header(&head, "docker-ratelimit-source"), "127.0.0.1");
        assert_eq!(get(&registry, path, &[]).await.status(), StatusCode::OK);
    }
    let refused = get(&registry, path, &[]).await;
    assert_eq!(
        (refused.status().as_u16(), header(&refused, "ratelimit-remaining"), header(&refused, "retry-after")),
        (429, "0;w=21600", "21600")
    );
    assert_eq!(code(refused).await, "TOOMANYREQUESTS");
    assert_eq!((registry.pulls(ANONYMOUS), registry.pull_refusals(), registry.pulls("me")), (3, 1, 0));
    registry.configure(|options| options.pulls.as_mut().unwrap().window = Duration::ZERO);
    assert_eq!(get(&registry, path, &[]).await.status(), StatusCode::OK);
    assert!(registry.spend_pulls(ANONYMOUS, 3) && !registry.spend_pulls(ANONYMOUS, 4));
}

#[tokio::test]
async fn requests_per_second_are_limited() {
    let rate = Rate { per_second: 0.001, burst: 2.0, retry_after: Some("3".to_owned()) };
    let registry = Fake::with(Options { rate: Some(rate), ..Options::default() });
    let mut statuses = vec![];
    for _ in 0..3 {
        statuses.push(get(&registry, "/v2/", &[]).await.status().as_u16());
    }
    assert_eq!((statuses, registry.throttled()), (vec![200, 200, 429], 1));
}

#[test]
fn a_stopped_registry_refuses_connections() {
    let mut registry = Fake::start();
    assert!(std::net::TcpStream::connect(registry.addr()).is_ok());
    registry.stop();
    assert!(std::net::TcpStream::connect(registry.addr()).is_err());
}
