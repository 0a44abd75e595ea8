//! Tag lists.

use crate::content::Source;
use crate::registry::testing::{Server, answer, context, endless, refuse, repository, store};
use crate::{Kind, Side};

#[tokio::test]
async fn pages_are_followed_in_order_and_tricks_are_dropped() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/v2/a/b/tags/list?n=1000" => answer(
            200,
            &[("link", "</v2/a/b/tags/list?last=b&n=1000>; rel=\"next\"")],
            r#"{"name":"a/b","tags":["b","a","../../x","c d"]}"#,
        ),
        "/v2/a/b/tags/list?last=b&n=1000" => {
            let next = format!("<http://{}/v2/a/b/tags/list?next_page=zz>; rel=next", seen.header("host").unwrap());
            answer(200, &[("link", &next)], r#"{"tags":["v1","a"]}"#)
        }
        "/v2/a/b/tags/list?next_page=zz" => answer(200, &[], r#"{"name":"a/b","tags":null}"#),
        _ => refuse(404, "NAME_UNKNOWN"),
    })
    .await;
    let (registries, store) = store(&server, Side::Upstream);
    assert_eq!(store.tags(&repository(), &context()).await.unwrap(), ["b", "a", "v1"]);
    assert_eq!(registries.rows()[0].requests.tags, 3);
}

#[tokio::test]
async fn a_page_size_that_is_refused_is_left_to_the_registry() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/v2/a/b/tags/list" => answer(200, &[], r#"{"tags":["x"]}"#),
        _ => refuse(400, "PAGINATION_NUMBER_INVALID"),
    })
    .await;
    let (_, store) = store(&server, Side::Upstream);
    assert_eq!(store.tags(&repository(), &context()).await.unwrap(), ["x"]);
}

#[tokio::test]
async fn lists_that_lead_astray_are_refused() {
    for (link, word) in [
        ("</v2/a/b/tags/list?n=1000>; rel=next", "was there before"),
        ("<http://127.0.0.2:9/v2/c/tags/list>; rel=next", "another host"),
        ("<file:///etc/passwd>; rel=next", "scheme"),
    ] {
        let server = Server::start(move |_| answer(200, &[("link", link)], r#"{"tags":["x"]}"#)).await;
        let (_, store) = store(&server, Side::Upstream);
        let error = store.tags(&repository(), &context()).await.unwrap_err();
        assert!(error.kind() == Kind::Untrusted && error.message().contains(word), "{link}: {error}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn pages_without_end_and_bodies_without_end_end() {
    let server = Server::start(|seen| {
        let next = format!("</v2/a/b/tags/list?page={}>; rel=next", seen.nth);
        let tags: Vec<String> = (0..20_000).map(|n| format!("\"{}-{n}\"", seen.nth)).collect();
        answer(200, &[("link", &next)], format!("{{\"tags\":[{}]}}", tags.join(",")))
    })
    .await;
    let (_, at) = store(&server, Side::Upstream);
    let error = at.tags(&repository(), &context()).await.unwrap_err();
    assert!(error.message().contains("more than 1000000 tags"), "{error}");

    let server = Server::start(|_| endless(200, &[])).await;
    let (_, at) = store(&server, Side::Upstream);
    let error = at.tags(&repository(), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Untrusted);
}

#[tokio::test]
async fn what_is_no_list_is_an_error_in_words() {
    for (status, body, kind, word) in [
        (404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"unknown"}]}"#, Kind::NotFound, "unknown"),
        (200, "<html>log in</html>", Kind::Damaged, "web page"),
        (200, "[]", Kind::Damaged, "none"),
    ] {
        let server = Server::start(move |_| answer(status, &[], body)).await;
        let (_, store) = store(&server, Side::Upstream);
        let error = store.tags(&repository(), &context()).await.unwrap_err();
        assert!(error.kind() == kind && error.message().contains(word), "{error}");
    }
}

#[tokio::test]
async fn an_upstream_is_asked_once_a_run_however_many_want_to_know() {
    let server = Server::start(|seen| match seen.nth {
        0 => answer(200, &[("link", "</v2/a/b/tags/list?last=x>; rel=next")], r#"{"tags":["x"]}"#),
        _ => answer(200, &[], r#"{"tags":["y"]}"#),
    })
    .await;
    let (_, at) = store(&server, Side::Upstream);
    let (repository, context) = (repository(), context());
    let both = futures_util::future::join(at.tags(&repository, &context), at.tags(&repository, &context)).await;
    assert_eq!((both.0.unwrap(), both.1.unwrap()), (vec!["x".to_owned(), "y".to_owned()], vec!["x".to_owned(), "y".to_owned()]));
    at.tags(&repository, &context).await.unwrap();
    assert_eq!(server.seen().len(), 2, "two pages, once");

    // Of a target the tags change: it is asked each time. Failures of an upstream are remembered.
    for (side, asked) in [(Side::Target, 2), (Side::Upstream, 1)] {
        let server = Server::start(|_| refuse(403, "DENIED")).await;
        let (_, at) = store(&server, side);
        for _ in 0..2 {
            let error = at.tags(&repository, &context).await.unwrap_err();
            assert_eq!(error.http_status(), Some(403), "{error}");
        }
        assert_eq!(server.seen().len(), asked);
    }
}
