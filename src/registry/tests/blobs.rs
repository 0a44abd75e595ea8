//! Blobs: found, read, mended.

use bytes::Bytes;

use crate::content::{Presence, Sink, Source};
use crate::registry::testing::{Seen, Server, answer, broken, bytes, context, descriptor, endless, read, refuse, repository, store};
use crate::{Kind, Side};

/// Answers with what a Range asks for.
fn part(seen: &Seen, all: &Bytes) -> axum::response::Response {
    match from(seen) {
        None => answer(200, &[], all.clone()),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", all.len() - 1, all.len());
            answer(206, &[("content-range", &range)], all.slice(from..))
        }
    }
}

fn from(seen: &Seen) -> Option<usize> {
    seen.header("range").map(|range| range.strip_prefix("bytes=").unwrap().split('-').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_blob_arrives_from_any_offset() {
    let all = bytes(100_000);
    let (served, blob) = (all.clone(), descriptor(&all));
    let server = Server::start(move |seen| part(seen, &served)).await;
    let (registries, store) = store(&server, Side::Upstream);
    for offset in [0, 1, 99_999] {
        let context = context();
        let stream = store.blob(&repository(), &blob, offset, &context).await.unwrap().unwrap();
        let at = usize::try_from(offset).unwrap();
        assert_eq!(read(stream).await.unwrap(), all[at..]);
        assert_eq!(context.tally.bytes_read(), 100_000 - offset);
    }
    // Nothing is left: nothing is asked.
    assert_eq!(read(store.blob(&repository(), &blob, 100_000, &context()).await.unwrap().unwrap()).await.unwrap(), b"");
    assert_eq!((server.seen().len(), registries.rows()[0].requests.blob_get), (3, 3));
}

/// Serves at most `most` bytes at a time, then breaks the connection.
fn in_pieces(seen: &Seen, all: &Bytes, most: usize) -> axum::response::Response {
    let start = from(seen).unwrap_or(0);
    let end = (start + most).min(all.len());
    let range = format!("bytes {start}-{}/{}", all.len() - 1, all.len());
    let (status, headers): (_, &[(&str, &str)]) = if start == 0 { (200, &[]) } else { (206, &[("content-range", &range)]) };
    if end == all.len() {
        answer(status, headers, all.slice(start..))
    } else {
        broken(status, headers, &all[start..end], all.len() - start)
    }
}

#[tokio::test]
async fn a_body_that_breaks_is_continued_at_the_registry_from_the_very_byte() {
    let all = bytes(50_000);
    let (served, blob) = (all.clone(), descriptor(&all));
    let cdn = Server::start(move |seen| in_pieces(seen, &served, 15_000)).await;
    let to = cdn.host.clone();
    let server = Server::start(move |seen| answer(307, &[("location", &format!("http://{to}/signed/{}", seen.nth))], "")).await;
    let (registries, store) = store(&server, Side::Upstream);
    let context = context();
    assert_eq!(read(store.blob(&repository(), &blob, 0, &context).await.unwrap().unwrap()).await.unwrap(), all);
    assert_eq!(cdn.seen().iter().map(from).collect::<Vec<_>>(), [None, Some(15_000), Some(30_000), Some(45_000)]);
    // Each continuation was asked of the registry, and got a fresh address.
    let paths: Vec<_> = cdn.seen().iter().map(|seen| seen.target.clone()).collect();
    assert_eq!(paths, ["/signed/0", "/signed/1", "/signed/2", "/signed/3"]);
    assert_eq!(context.tally.bytes_read(), 50_000);
    let row = &registries.rows()[0];
    assert_eq!((row.requests.blob_get, row.retries), (4, 3));
}

#[tokio::test]
async fn a_bad_line_brings_a_large_blob_in_more_pieces_than_the_budget_has_attempts() {
    let all = bytes(9 * 1024 * 1024);
    let (served, blob) = (all.clone(), descriptor(&all));
    let server = Server::start(move |seen| in_pieces(seen, &served, 1_300_000)).await;
    let (_, store) = store(&server, Side::Upstream);
    assert_eq!(read(store.blob(&repository(), &blob, 0, &context()).await.unwrap().unwrap()).await.unwrap(), all);
    assert_eq!(server.seen().len(), 8);
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_from_the_start_and_passed_over() {
    let all = bytes(30_000);
    let (served, blob) = (all.clone(), descriptor(&all));
    let server = Server::start(move |seen| match seen.nth {
        0 => broken(200, &[], &served[..10_000], served.len()),
        _ => answer(200, &[], served.clone()),
    })
    .await;
    let (_, store) = store(&server, Side::Upstream);
    assert_eq!(read(store.blob(&repository(), &blob, 0, &context()).await.unwrap().unwrap()).await.unwrap(), all);
    assert_eq!(read(store.blob(&repository(), &blob, 20_000, &context()).await.unwrap().unwrap()).await.unwrap(), all[20_000..]);
}

#[tokio::test]
async fn a_blob_that_never_gets_further_ends_the_budget() {
    let all = bytes(1000);
    let (served, blob) = (all.clone(), descriptor(&all));
    let server = Server::start(move |seen| match seen.nth {
        0 => broken(200, &[], &served[..500], served.len()),
        _ => broken(206, &[("content-range", "bytes 500-999/1000")], b"", 500),
    })
    .await;
    let (_, store) = store(&server, Side::Upstream);
    let error = read(store.blob(&repository(), &blob, 0, &context()).await.unwrap().unwrap()).await.unwrap_err();
    assert!(
        error.kind() == Kind::Unavailable
            && error.message().starts_with(&format!("blob {}: no answer after 4 attempts in ", blob.digest.short())),
        "{error}"
    );
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn an_expired_address_is_asked_for_again() {
    let all = bytes(1000);
    let (served, blob) = (all.clone(), descriptor(&all));
    let cdn = Server::start(move |seen| match seen.path() {
        "/0" => answer(403, &[], "<Error>expired</Error>"),
        "/1" => answer(400, &[], "ExpiredToken"),
        _ => part(seen, &served),
    })
    .await;
    let to = cdn.host.clone();
    let server = Server::start(move |seen| answer(302, &[("location", &format!("http://{to}/{}", seen.nth))], "")).await;
    let (registries, at) = store(&server, Side::Upstream);
    assert_eq!(read(at.blob(&repository(), &blob, 0, &context()).await.unwrap().unwrap()).await.unwrap(), all);
    assert_eq!((registries.rows()[0].requests.blob_get, registries.rows()[0].retries), (3, 2));
    // The registry itself is well: no other request waits.
    assert!(registries.rows()[0].waited_seconds.abs() < f64::EPSILON);

    let cdn = Server::start(|_| answer(403, &[], "no")).await;
    let to = cdn.host.clone();
    let server = Server::start(move |_| answer(302, &[("location", &format!("http://{to}/"))], "")).await;
    let (_, at) = store(&server, Side::Upstream);
    let error = at.blob(&repository(), &blob, 0, &context()).await.err().unwrap();
    assert_eq!((error.http_status(), server.seen().len()), (Some(403), 4));
    assert!(error.message().contains("redirected to 127.0.0.1, which answered: no"), "{error}");
}

#[tokio::test]
async fn wrong_lengths_are_refused_at_once_and_wrong_parts_after_the_whole_was_asked_for() {
    let blob = descriptor(&bytes(1000));
    type Made = Box<dyn Fn() -> axum::response::Response + Send + Sync>;
    let cases: Vec<(u64, Made, &str)> = vec![
        (0, Box::new(|| answer(200, &[], bytes(999))), "has 999 bytes, the descriptor says 1000"),
        (0, Box::new(|| answer(200, &[], bytes(1001))), "has 1001 bytes"),
        (0, Box::new(|| endless(200, &[])), "longer than the 1000 bytes"),
        (500, Box::new(|| answer(206, &[], bytes(500))), "without a readable Content-Range"),
        (500, Box::new(|| answer(206, &[("content-range", "bytes 501-999/1000")], bytes(499))), "asked for the bytes from 500 on"),
        (500, Box::new(|| answer(206, &[("content-range", "bytes 500-999/1001")], bytes(500))), "has 1001 bytes"),
        (500, Box::new(|| answer(206, &[("content-range", "bytes 500-1000/*")], bytes(501))), "asked for the bytes from 500 on"),
        (500, Box::new(|| answer(206, &[("content-range", "bytes 500-999/1000")], bytes(499))), "has 499 bytes, the descriptor says 500"),
        (500, Box::new(|| refuse(416, "RANGE_INVALID")), "no"),
    ];
    for (offset, made, word) in cases {
        let server = Server::start(move |_| made()).await;
        let (_, store) = store(&server, Side::Upstream);
        let error = match store.blob(&repository(), &blob, offset, &context()).await {
            Ok(stream) => read(stream.unwrap()).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.message().contains(word), "{word}: {error}");
        // Where a part is not given as it should be, the whole is asked for, once.
        let asked: Vec<bool> = server.seen().iter().map(|seen| seen.header("range").is_some()).collect();
        assert_eq!(asked, if offset == 0 { vec![false] } else { vec![true, false] }, "{word}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_none() {
    let blob = descriptor(b"abc");
    let server = Server::start(|_| refuse(404, "BLOB_UNKNOWN")).await;
    let (registries, store) = store(&server, Side::Target);
    assert!(store.blob(&repository(), &blob, 0, &context()).await.unwrap().is_none());
    assert_eq!(store.holds_blob(&repository(), &blob, &context()).await.unwrap(), Presence::Absent);
    assert_eq!((registries.rows()[0].requests.blob_get, registries.rows()[0].requests.blob_head), (1, 1));
}

#[tokio::test]
async fn a_blob_is_there_if_head_says_so_even_by_an_address_that_is_good_for_get_only() {
    let blob = descriptor(b"abc");
    for (status, expected) in [(200, Presence::Here), (403, Presence::Here), (404, Presence::Absent)] {
        let cdn = Server::start(move |_| answer(status, &[], "")).await;
        let to = format!("http://{}/x", cdn.host);
        let server = Server::start(move |_| answer(307, &[("location", &to)], "")).await;
        let (_, store) = store(&server, Side::Target);
        assert_eq!(store.holds_blob(&repository(), &blob, &context()).await.unwrap(), expected, "{status}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn reading_from_the_target_is_no_reading_from_an_upstream() {
    let all = bytes(10);
    let (served, blob) = (all.clone(), descriptor(&all));
    let server = Server::start(move |seen| part(seen, &served)).await;
    let (_, store) = store(&server, Side::Target);
    let context = context();
    read(store.blob(&repository(), &blob, 0, &context).await.unwrap().unwrap()).await.unwrap();
    assert_eq!(context.tally.bytes_read(), 0);
}

/// A foreign layer at these addresses.
fn foreign(all: &[u8], urls: &[String]) -> crate::content::Descriptor {
    let media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".to_owned();
    crate::content::Descriptor { media_type, urls: urls.to_vec(), ..descriptor(all) }
}

#[tokio::test]
async fn a_foreign_layer_is_read_where_its_urls_lead_in_their_order_without_a_login() {
    let all = bytes(40_000);
    let served = all.clone();
    let gone = Server::start(|_| answer(404, &[], "no such file")).await;
    let page = Server::start(|_| answer(200, &[], "<html>buy a licence</html>")).await;
    let vendor = Server::start(move |seen| match seen.path() {
        "/layer" => answer(302, &[("location", "/moved")], ""),
        _ => in_pieces(seen, &served, 15_000),
    })
    .await;
    let server = Server::start(|_| refuse(404, "BLOB_UNKNOWN")).await;
    let urls = [
        "mailto:x".to_owned(),
        format!("http://{}/a", gone.host),
        format!("http://{}/b", page.host),
        format!("http://{}/layer", vendor.host),
    ];
    let (registries, at) = store(&server, Side::Upstream);
    for offset in [0, 20_000] {
        let context = context();
        let stream = at.blob(&repository(), &foreign(&all, &urls), offset, &context).await.unwrap().unwrap();
        assert_eq!(read(stream).await.unwrap(), all[usize::try_from(offset).unwrap()..]);
        assert_eq!(context.tally.bytes_read(), 40_000 - offset);
    }
    // The page is asked for the part, and for the whole, before it is given up.
    assert_eq!((gone.seen().len(), page.seen().len(), server.seen().len()), (2, 3, 0));
    let ranges: Vec<_> = vendor.seen().iter().filter(|seen| seen.path() == "/moved").map(from).collect();
    assert_eq!(ranges, [None, Some(15_000), Some(30_000), Some(20_000), Some(35_000)]);
    assert!(vendor.seen().iter().all(|seen| seen.header("authorization").is_none()));
    let row = &registries.rows()[0];
    assert_eq!(row.requests.blob_get, 0, "nothing of it was asked of the registry");
    assert!(row.waited_seconds.abs() < f64::EPSILON, "and the registry is in no trouble");
}

#[tokio::test]
async fn a_foreign_layer_that_breaks_off_for_good_is_continued_at_the_next_url_and_last_at_the_registry() {
    let all = bytes(30_000);
    let (first, second, third) = (all.clone(), all.clone(), all.clone());
    // Each gives one piece, and then fails.
    let one =
        Server::start(move |seen| if seen.nth == 0 { broken(200, &[], &first[..10_000], first.len()) } else { answer(500, &[], "") }).await;
    let two = Server::start(move |seen| if seen.nth == 0 { in_pieces(seen, &second, 10_000) } else { answer(403, &[], "spent") }).await;
    let server = Server::start(move |seen| part(seen, &third)).await;
    let urls = [format!("http://{}/", one.host), format!("http://{}/", two.host)];
    let (registries, at) = store(&server, Side::Upstream);
    let stream = at.blob(&repository(), &foreign(&all, &urls), 0, &context()).await.unwrap().unwrap();
    assert_eq!(read(stream).await.unwrap(), all);
    assert_eq!(server.seen().iter().map(from).collect::<Vec<_>>(), [Some(20_000)]);
    assert_eq!((registries.rows()[0].requests.blob_get, registries.rows()[0].waited_seconds), (1, 0.0));
}

#[tokio::test]
async fn a_foreign_layer_that_is_nowhere_says_where_it_was_looked_for() {
    let all = bytes(100);
    let vendor = Server::start(|_| answer(403, &[], "no")).await;
    let server = Server::start(|_| refuse(404, "BLOB_UNKNOWN")).await;
    let host = vendor.host.clone();
    let urls = [
        "no address".to_owned(),
        format!("http://user:pw@{host}/x"),
        "http://169.254.169.254/latest".to_owned(),
        format!("http://{host}/y?sig=s"),
    ];
    let (_, at) = store(&server, Side::Upstream);
    let error = at.blob(&repository(), &foreign(&all, &urls), 0, &context()).await.err().unwrap();
    let message = error.message().replace(&host, "VENDOR").replace(&server.host, "REGISTRY");
    for part in [
        "could not download foreign layer",
        "`no address` is no address",
        "user name or password",
        "169.254.169.254 (link-local)",
        "`http://VENDOR/y`: 403 no",
        "`http://REGISTRY/v2/a/b/blobs/",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(!message.contains("sig="), "{message}");
    assert_eq!((vendor.seen().len(), server.seen().len()), (1, 1));
}

#[tokio::test]
async fn at_a_target_a_foreign_layer_is_the_targets_own() {
    let all = bytes(100);
    let served = all.clone();
    let vendor = Server::start(|_| answer(500, &[], "")).await;
    let server = Server::start(move |seen| part(seen, &served)).await;
    let (_, at) = store(&server, Side::Target);
    let layer = foreign(&all, &[format!("http://{}/", vendor.host)]);
    assert_eq!(read(at.blob(&repository(), &layer, 0, &context()).await.unwrap().unwrap()).await.unwrap(), all);
    assert_eq!(vendor.seen().len(), 0);
}
