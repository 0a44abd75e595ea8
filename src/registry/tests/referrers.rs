//! Lists of referrers: read page by page, refused where they lead astray, and what shows that there are none.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::json;

use crate::config::profiles;
use crate::content::{Descriptor, Digest, ReferrerList, Repository, Source};
use crate::registry::testing::{Nobody, Server, answer, context, endless, limits, refuse, repository, store};
use crate::registry::{HostSettings, Registries, RegistryStore, RetryPolicy};
use crate::{Kind, Result, Side};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn subject() -> Digest {
    Digest::sha256(b"subject")
}

fn path() -> String {
    format!("/v2/a/b/referrers/{}", subject())
}

fn entry(n: u32) -> Descriptor {
    Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(&n.to_le_bytes()), u64::from(n))
}

fn page(entries: impl IntoIterator<Item = u32>) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries.into_iter().map(entry).collect::<Vec<_>>()}).to_string()
}

async fn list(store: &Arc<RegistryStore>, artifact_type: Option<&str>) -> Result<Option<Vec<u64>>> {
    Ok(match store.listed_referrers(&repository(), &subject(), artifact_type, &context()).await? {
        ReferrerList::Listed(listed) => Some(listed.iter().map(|found| found.size).collect()),
        ReferrerList::Missing(_) => None,
    })
}

/// Why there is no list, as a note says it.
async fn missing(store: &Arc<RegistryStore>, repository: &str) -> Option<String> {
    match store.listed_referrers(&Repository::new(repository), &subject(), None, &context()).await.unwrap() {
        ReferrerList::Listed(_) => panic!("there is a list"),
        ReferrerList::Missing(why) => why.map(|why| why.replace(store.host(), "HOST")),
    }
}

#[tokio::test]
async fn pages_are_followed_and_the_type_is_asked_for() {
    let server = Server::start(|seen| {
        let query = seen.target.split_once('?').map_or("", |(_, query)| query);
        let host = seen.header("host").unwrap();
        match query {
            "artifactType=a%2Fsig%2Bjson" => {
                let next = format!("<http://{host}{}?artifactType=a%2Fsig%2Bjson&page=2>; rel=\"next\"", seen.path());
                answer(200, &[("content-type", "application/vnd.oci.image.index.v1+json; charset=utf-8"), ("link", &next)], page([1, 2]))
            }
            "artifactType=a%2Fsig%2Bjson&page=2" => answer(200, &[("content-type", INDEX)], page([3])),
            _ => answer(200, &[("content-type", INDEX)], "{\"manifests\":null}"),
        }
    })
    .await;
    let (registries, store) = store(&server, Side::Upstream);
    assert_eq!(list(&store, Some("a/sig+json")).await.unwrap(), Some(vec![1, 2, 3]));
    assert_eq!(list(&store, None).await.unwrap(), Some(vec![]));
    assert_eq!(registries.rows()[0].requests.referrers, 3);
}

#[tokio::test]
async fn what_shows_that_there_is_no_api_is_asked_for_once() {
    let elsewhere = Server::start(|_| answer(200, &[("content-type", INDEX)], page([1]))).await;
    let away = format!("http://{}/v2/", elsewhere.host);
    type Made = Box<dyn Fn() -> axum::response::Response + Send + Sync>;
    let signs: Vec<Made> = vec![
        Box::new(|| refuse(404, "NOT_FOUND")),
        Box::new(|| answer(404, &[], "404 page not found\n")),
        Box::new(|| refuse(400, "UNSUPPORTED")),
        Box::new(|| refuse(405, "UNSUPPORTED")),
        Box::new(|| answer(406, &[], "")),
        Box::new(|| answer(200, &[("content-type", "text/html")], "<html>log in</html>")),
        Box::new(|| answer(200, &[("content-type", "application/json")], "{\"manifests\":[]}")),
        Box::new(|| answer(200, &[], page([1]))),
        Box::new(|| answer(200, &[("content-type", INDEX)], "")),
        Box::new(|| answer(200, &[("content-type", INDEX)], "<html>")),
        Box::new(|| answer(200, &[("content-type", INDEX)], "{\"manifests\":[{\"digest\":\"../x\",\"size\":1}]}")),
        Box::new(|| answer(401, &[], "")),
        Box::new(|| refuse(403, "DENIED")),
        Box::new(|| refuse(424, "UNKNOWN")),
        Box::new(|| refuse(501, "UNSUPPORTED")),
        Box::new(move || answer(303, &[("location", &away)], "")),
        Box::new(|| answer(302, &[], "")),
    ];
    for (number, made) in signs.into_iter().enumerate() {
        let server = Server::start(move |_| made()).await;
        let (_, store) = store(&server, Side::Upstream);
        let listed = join_all((0..10).map(|_| list(&store, None))).await;
        assert!(listed.into_iter().all(|listed| listed.unwrap().is_none()), "{number}");
        assert_eq!(server.seen().len(), 1, "{number}");
    }
    assert!(elsewhere.seen().is_empty(), "nobody is followed to another host");
}

#[tokio::test]
async fn a_registry_that_has_answered_once_has_the_api() {
    let server = Server::start(|seen| match seen.nth {
        0 => answer(200, &[("content-type", INDEX)], page([1])),
        1 => refuse(404, "NAME_UNKNOWN"),
        2 => answer(307, &[("location", &format!("{}?moved", seen.path()))], ""),
        _ => answer(200, &[("content-type", INDEX)], page([2])),
    })
    .await;
    let (_, store) = store(&server, Side::Upstream);
    assert_eq!(list(&store, None).await.unwrap(), Some(vec![1]));
    assert_eq!(list(&store, None).await.unwrap(), None);
    assert_eq!(list(&store, None).await.unwrap(), Some(vec![2]), "within the registry a redirect is followed");
}

#[tokio::test]
async fn refusals_and_tricks_are_errors_that_say_what_can_be_done() {
    let far = |page: String, link: &'static str| move || answer(200, &[("content-type", INDEX), ("link", link)], page.clone());
    type Made = Box<dyn Fn() -> axum::response::Response + Send + Sync>;
    let cases: Vec<(Made, Kind, &str)> = vec![
        (Box::new(|| refuse(429, "TOOMANYREQUESTS")), Kind::Limited, "no"),
        (Box::new(|| refuse(502, "UNKNOWN")), Kind::Unavailable, "no"),
        (Box::new(|| endless(200, &[("content-type", INDEX)])), Kind::Untrusted, "longer than"),
        (Box::new(far(page([1]), "<http://127.0.0.2:9/v2/>; rel=next")), Kind::Untrusted, "another host"),
        (Box::new(far(page([1]), "<file:///etc/passwd>; rel=next")), Kind::Untrusted, "scheme"),
        (Box::new(far(page([1]), "<?>; rel=next")), Kind::Untrusted, "was there before"),
        (Box::new(far(page(0..10_001), "<?x>; rel=prev")), Kind::Untrusted, "more than 10000 referrers"),
    ];
    for (made, kind, word) in cases {
        let server = Server::start(move |_| made()).await;
        let (_, store) = store(&server, Side::Upstream);
        let error = list(&store, None).await.unwrap_err();
        assert!(error.kind() == kind && error.message().contains(word), "{word}: {error:?}");
        assert!(error.to_string().starts_with(&format!("upstream {}: list referrers image:1: ", server.host)), "{error}");
        let hint = matches!(kind, Kind::Refused | Kind::Damaged | Kind::Untrusted);
        assert!(!hint || error.message().contains("`referrers = false`"), "{error}");
    }
}

#[tokio::test]
async fn a_list_that_breaks_off_is_no_list() {
    let server = Server::start(|seen| match seen.nth {
        0 => answer(200, &[("content-type", INDEX), ("link", "<?page=2>; rel=next")], page([1])),
        _ => refuse(404, "NOT_FOUND"),
    })
    .await;
    let (_, store) = store(&server, Side::Upstream);
    let error = list(&store, None).await.unwrap_err();
    assert!(error.message().contains("does not give the next page"), "{error}");
    assert_eq!(server.lines(), [format!("GET {}", path()), format!("GET {}", path())]);
}

#[tokio::test]
async fn why_there_is_no_list_is_a_note_unless_the_registry_does_not_know_the_request() {
    for (status, content_type, body, expected) in [
        (404, "", "404 page not found", None),
        (401, "", "", Some("401")),
        (424, "", "", Some("424")),
        (500, "", "", Some("500")),
        (200, INDEX, "", Some("an empty answer")),
        (200, "text/html", "<html>log in</html>", Some("a web page")),
        (200, "application/json", "{}", Some("an answer that is no index")),
    ] {
        let server = Server::start(move |_| answer(status, &[("content-type", content_type)], body)).await;
        let (_, store) = store(&server, Side::Upstream);
        let note = expected.map(|why| format!("HOST has no list of referrers ({why}): signatures were looked for by tag"));
        assert_eq!(missing(&store, "a/b").await, note, "{status} {body}");
        assert_eq!(missing(&store, "a/b").await, note, "it is said of each image");
    }
}

#[tokio::test]
async fn a_cache_has_lists_for_some_of_its_upstreams_only() {
    let server = Server::start(|seen| match seen.path().starts_with("/v2/ghcr/") {
        true => refuse(424, "UNKNOWN"),
        false => answer(200, &[("content-type", INDEX)], page([])),
    })
    .await;
    let settings = |_: &str| HostSettings { profile: Some(profiles::named("acr").unwrap()), ..HostSettings::default() };
    let registries = Registries::new(settings, RetryPolicy::default(), limits());
    let store = registries.store(Side::Upstream, &server.host, Arc::new(Nobody)).unwrap();
    for _ in 0..2 {
        assert!(missing(&store, "ghcr/org/a").await.unwrap().contains("424"));
        assert!(missing(&store, "ghcr/org/b").await.is_some());
        assert_eq!(list(&store, None).await.unwrap(), Some(vec![]));
    }
    let asked = server.lines().into_iter().filter(|line| line.contains("/ghcr/")).count();
    assert_eq!((asked, server.seen().len()), (1, 3), "a rule is asked once, where it has no list");
}

#[tokio::test]
async fn a_list_that_fails_now_and_then_is_asked_for_again_and_a_broken_one_is_none() {
    let server = Server::start(|seen| match seen.nth {
        0 | 1 => refuse(500, "UNKNOWN"),
        2 => answer(200, &[("content-type", INDEX)], page([1])),
        _ => refuse(500, "UNKNOWN"),
    })
    .await;
    let (_, of_some) = store(&server, Side::Upstream);
    assert_eq!(list(&of_some, None).await.unwrap(), Some(vec![1]));
    // It has lists: that this one does not come is a failure.
    assert_eq!(list(&of_some, None).await.unwrap_err().kind(), Kind::Unavailable);
    let broken = Server::start(|_| refuse(500, "UNKNOWN")).await;
    let (_, of_none) = store(&broken, Side::Upstream);
    assert!(missing(&of_none, "a/b").await.is_some());
    assert_eq!(broken.seen().len(), 4);
}

#[tokio::test]
async fn where_tags_cannot_be_listed_they_are_looked_for_by_name() {
    for (status, expected) in [(400, true), (401, true), (403, true), (404, true), (405, true), (501, true), (429, false)] {
        let server = Server::start(move |_| refuse(status, "UNSUPPORTED")).await;
        let (_, store) = store(&server, Side::Upstream);
        let (repository, context) = (repository(), context());
        let found = join_all((0..3).map(|_| store.digest_tags(&repository, &context))).await;
        assert!(found.iter().all(|found| found.as_ref().is_ok_and(|tags| tags.are_unlisted()) == expected), "{status}: {found:?}");
        let lists = server.lines().len();
        assert!(if status == 400 { lists == 2 } else { status == 429 || lists == 1 }, "{status}: one listing for all, not {lists}");
    }
}

#[tokio::test]
async fn a_tag_that_may_be_there_is_looked_for_by_head_alone() {
    let server = Server::start(|seen| if seen.path().ends_with(".sig") { refuse(403, "DENIED") } else { refuse(404, "UNKNOWN") }).await;
    let (_, store) = store(&server, Side::Upstream);
    assert_eq!(store.find_tag(&repository(), "sha256-1.sig", &context()).await.unwrap_err().http_status(), Some(403));
    assert_eq!(store.find_tag(&repository(), "sha256-1.att", &context()).await.unwrap(), None);
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/sha256-1.sig", "HEAD /v2/a/b/manifests/sha256-1.att"]);
}
