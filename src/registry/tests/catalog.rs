//! The catalogue.

use crate::Side;
use crate::content::{Repository, Source};
use crate::registry::testing::{Server, answer, context, refuse, store};

#[tokio::test]
async fn repositories_of_all_pages_come_sorted_and_tricks_are_dropped() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/v2/_catalog?n=1000" => {
            answer(200, &[("link", "</v2/_catalog?last=b%2Fc&n=1000>; rel=\"next\"")], r#"{"repositories":["z","b/c","../etc","A b"]}"#)
        }
        "/v2/_catalog?last=b%2Fc&n=1000" => answer(200, &[], r#"{"repositories":["a","z"]}"#),
        _ => refuse(404, "NAME_UNKNOWN"),
    })
    .await;
    let (registries, store) = store(&server, Side::Target);
    let places = store.repositories(&context()).await.unwrap().unwrap();
    assert_eq!(places.iter().map(Repository::as_str).collect::<Vec<_>>(), ["a", "b/c", "z"]);
    assert_eq!(registries.rows()[0].requests.tags, 2);
}

#[tokio::test]
async fn a_registry_that_does_not_tell_is_no_error() {
    for (status, code) in [(401, "UNAUTHORIZED"), (403, "DENIED"), (404, "NOT_FOUND"), (405, "UNSUPPORTED")] {
        let server = Server::start(move |_| refuse(status, code)).await;
        let (_, store) = store(&server, Side::Target);
        assert_eq!(store.repositories(&context()).await.unwrap(), None, "{status}");
    }
}

#[tokio::test]
async fn no_repositories_are_an_answer_and_what_is_no_catalogue_is_an_error() {
    let server = Server::start(|_| answer(200, &[], r#"{"repositories":null}"#)).await;
    let (_, empty) = store(&server, Side::Target);
    assert_eq!(empty.repositories(&context()).await.unwrap(), Some(vec![]));
    let server = Server::start(|_| answer(200, &[], "<html>")).await;
    let (_, page) = store(&server, Side::Target);
    assert!(page.repositories(&context()).await.unwrap_err().message().contains("served as a catalogue is none: a web page"));
}
