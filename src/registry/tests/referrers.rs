//! Lists of referrers: read page by page, refused where they lead astray, and what shows that there are none.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::json;

use crate::content::{Descriptor, Digest, Source};
use crate::registry::RegistryStore;
use crate::registry::testing::{Server, answer, charge, endless, place, refuse, store};
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
    let listed = store.listed_referrers(&place(), &subject(), artifact_type, &charge()).await?;
    Ok(listed.map(|listed| listed.iter().map(|found| found.size).collect()))
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
        (Box::new(|| refuse(403, "DENIED")), Kind::Refused, "no"),
        (Box::new(|| refuse(429, "TOOMANYREQUESTS")), Kind::Limited, "no"),
        (Box::new(|| refuse(500, "UNKNOWN")), Kind::Unavailable, "no"),
        (Box::new(|| answer(200, &[("content-type", INDEX)], "<html>")), Kind::Damaged, "is none"),
        (
            Box::new(|| answer(200, &[("content-type", INDEX)], "{\"manifests\":[{\"digest\":\"../x\",\"size\":1}]}")),
            Kind::Damaged,
            "is none",
        ),
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
async fn where_tags_cannot_be_listed_nothing_is_found_by_them() {
    for (status, expected) in [(404, true), (405, true), (403, false)] {
        let server = Server::start(move |_| refuse(status, "UNSUPPORTED")).await;
        let (_, store) = store(&server, Side::Upstream);
        let (place, charge) = (place(), charge());
        let found = join_all((0..3).map(|_| store.digest_tags(&place, &charge))).await;
        assert!(found.iter().all(|found| found.is_ok() == expected), "{status}: {found:?}");
        assert_eq!(server.seen().len(), 1, "one listing for all");
    }
}
