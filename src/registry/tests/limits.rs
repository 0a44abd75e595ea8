//! Pull budgets, throttles, paces and bandwidth, seen from the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::response::Response;
use futures_util::future::join_all;

use crate::config::profiles;
use crate::content::{Digest, RequestContext, Sink, Source};
use crate::limits::{Bandwidth, Lease, PullLimit, PullRequest, WaitMode};
use crate::name::Reference;
use crate::registry::testing::{AtHand, Nobody, Seen, Server, answer, bytes, context, descriptor, limits, read, refuse, repository};
use crate::registry::{HostSettings, Registries, RegistryStore, RetryPolicy, SharedLimits};
use crate::{Error, Kind, Result, Side};

const PULL_LIMIT: &str = "{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit\"}]}";

/// The manifests of the server, by number.
fn manifest(number: usize) -> String {
    format!("{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[],\"n\":{number}}}")
}

fn digest(number: usize) -> Digest {
    Digest::sha256(manifest(number).as_bytes())
}

/// The manifest that was asked for, or any for a tag, with `headers`.
fn found(seen: &Seen, headers: &[(&str, &str)]) -> Response {
    let number = (0..64).find(|number| seen.path().ends_with(digest(*number).as_str())).unwrap_or(0);
    let digest = digest(number);
    let mut headers = headers.to_vec();
    headers.extend([("docker-content-digest", digest.as_str()), ("content-type", "application/vnd.oci.image.index.v1+json")]);
    answer(200, &headers, if seen.method == "HEAD" { String::new() } else { manifest(number) })
}

/// Counts pulls as Docker Hub does: `limit` in a window of an hour.
fn counting(limit: u64) -> impl Fn(&Seen) -> Response + Send + Sync + 'static {
    let spent = AtomicU64::new(0);
    move |seen| {
        let spent = match seen.method.as_str() {
            "GET" => spent.fetch_add(1, Ordering::SeqCst) + 1,
            _ => spent.load(Ordering::SeqCst),
        };
        if spent > limit {
            return answer(429, &[], PULL_LIMIT);
        }
        let left = format!("{};w=3600", limit - spent);
        found(
            seen,
            &[("ratelimit-limit", &format!("{limit};w=3600")), ("ratelimit-remaining", &left), ("docker-ratelimit-source", "192.0.2.7")],
        )
    }
}

fn open(server: &Server, settings: HostSettings) -> (Registries, Arc<RegistryStore>) {
    open_with(server, settings, limits())
}

fn open_with(server: &Server, settings: HostSettings, limits: SharedLimits) -> (Registries, Arc<RegistryStore>) {
    let retry = RetryPolicy { attempts: 3, base: Duration::from_millis(1), cap: Duration::from_millis(2), ..RetryPolicy::default() };
    let registries = Registries::new(move |_| settings.clone(), retry, limits);
    let store = registries.store(Side::Upstream, &server.host, Arc::new(Nobody)).unwrap();
    (registries, store)
}

async fn resolve(store: &RegistryStore) -> Result<()> {
    store.resolve(&repository(), &Reference::Tag("1".to_owned()), &context()).await.map(|_| ())
}

async fn pull(store: &RegistryStore, number: usize) -> Result<()> {
    pull_as(store, number, &context()).await
}

async fn pull_as(store: &RegistryStore, number: usize, context: &RequestContext) -> Result<()> {
    store.manifest(&repository(), &digest(number), context).await.map(|_| ())
}

/// How many of 16 pulls at once arrived, and the errors of the others.
async fn sixteen(store: &RegistryStore) -> (usize, Vec<Error>) {
    let (good, bad): (Vec<_>, Vec<_>) = join_all((0..16).map(|number| pull(store, number))).await.into_iter().partition(Result::is_ok);
    (good.len(), bad.into_iter().filter_map(Result::err).collect())
}

fn gets(server: &Server) -> usize {
    server.seen().iter().filter(|seen| seen.method == "GET").count()
}

#[tokio::test]
async fn what_a_head_tells_stops_the_gets_over_budget() {
    let server = Server::start(counting(5)).await;
    let (registries, store) = open(&server, HostSettings::default());
    resolve(&store).await.unwrap();
    let (good, bad) = sixteen(&store).await;
    assert_eq!((good, bad.len(), gets(&server)), (5, 11, 5));
    for error in &bad {
        let wait = error.until().unwrap().duration_since(jiff::Timestamp::now()).as_secs();
        assert_eq!((error.kind(), error.side(), (3500..=3600).contains(&wait)), (Kind::Deferred, Side::Upstream, true), "{error}");
        assert!(error.message().contains("the pull window is spent (0 left, 1 needed)"), "{error}");
    }
    let row = &registries.rows()[0];
    let pulls = row.pulls.as_ref().unwrap();
    assert_eq!((pulls.spent, pulls.limit, pulls.remaining, pulls.window_seconds), (5, 5, 0, 3600));
    assert_eq!((pulls.source.as_deref(), row.throttled, row.retries), (Some("192.0.2.7"), 0, 0));
}

#[tokio::test]
async fn nothing_known_means_one_pull_that_finds_out() {
    let server = Server::start(counting(5)).await;
    let (_, store) = open(&server, HostSettings::default());
    assert_eq!((sixteen(&store).await.0, gets(&server)), (5, 5));
}

#[tokio::test]
async fn the_configured_limit_and_reserve_are_kept() {
    for (counted, pulls, sent) in [
        // The upstream says nothing: the configuration is all there is.
        (None, PullLimit { limit: Some(3), window: Duration::from_secs(60), reserve: 0 }, 3),
        (None, PullLimit { limit: Some(5), window: Duration::from_secs(60), reserve: 4 }, 1),
        // The smaller of both counts, and what is left to others is left.
        (Some(5), PullLimit { limit: Some(3), window: Duration::from_secs(60), reserve: 0 }, 3),
        (Some(5), PullLimit { limit: None, window: Duration::from_secs(60), reserve: 2 }, 3),
        (Some(5), PullLimit { limit: Some(100), window: Duration::from_secs(60), reserve: 1 }, 4),
    ] {
        let server = match counted {
            Some(limit) => Server::start(counting(limit)).await,
            None => Server::start(|seen| found(seen, &[])).await,
        };
        let (registries, store) = open(&server, HostSettings { pulls: Some(pulls), ..HostSettings::default() });
        resolve(&store).await.unwrap();
        let (good, bad) = sixteen(&store).await;
        assert_eq!((good, gets(&server)), (sent, sent), "{counted:?} {pulls:?}");
        assert!(bad.iter().all(|error| error.kind() == Kind::Deferred), "{bad:?}");
        assert_eq!(registries.rows()[0].pulls.as_ref().unwrap().spent, sent as u64);
    }
}

#[tokio::test]
async fn where_nothing_counts_pulls_none_is_held_back_and_none_is_reported() {
    let server = Server::start(|seen| found(seen, &[])).await;
    let (registries, store) = open(&server, HostSettings::default());
    resolve(&store).await.unwrap();
    assert_eq!((sixteen(&store).await.0, gets(&server)), (16, 16));
    assert!(registries.rows()[0].pulls.is_none() && store.gate().unwrap().standing().unlimited);
    let target = registries.store(Side::Target, &server.host, Arc::new(Nobody)).unwrap();
    assert!(target.gate().is_none());
}

#[tokio::test]
async fn a_pull_limit_closes_the_window_and_an_abuse_limit_pauses_the_host() {
    let server =
        Server::start(|seen| if seen.method == "HEAD" { found(seen, &[]) } else { answer(429, &[("retry-after", "3600")], PULL_LIMIT) })
            .await;
    let (registries, store) = open(&server, HostSettings::default());
    for _ in 0..2 {
        let error = pull(&store, 0).await.unwrap_err();
        assert_eq!((error.kind(), gets(&server)), (Kind::Deferred, 1), "{error}");
        assert!(error.until().is_some());
    }
    // The host is free: it is the account that has no pulls left.
    resolve(&store).await.unwrap();
    assert_eq!((registries.rows()[0].throttled, registries.rows()[0].retries), (1, 0));

    let server =
        Server::start(
            |seen| if seen.nth < 1 { answer(429, &[("content-type", "text/plain")], "Too Many Requests") } else { found(seen, &[]) },
        )
        .await;
    let (registries, store) = open(&server, HostSettings::default());
    pull(&store, 0).await.unwrap();
    let row = &registries.rows()[0];
    assert_eq!((gets(&server), row.throttled, row.retries), (2, 1, 1));
    assert!(row.waited_seconds > 0.0);
    assert_eq!(store.gate().unwrap().standing().refused, 0);
}

#[tokio::test]
async fn a_head_that_is_refused_for_pulls_is_deferred_at_once() {
    let server = Server::start(|_| answer(429, &[("ratelimit-limit", "100;w=60"), ("ratelimit-remaining", "0;w=60")], "")).await;
    let (_, store) = open(&server, HostSettings::default());
    let error = resolve(&store).await.unwrap_err();
    assert_eq!((error.kind(), error.http_status(), server.seen().len()), (Kind::Deferred, Some(429), 1), "{error}");
    assert_eq!((pull(&store, 0).await.unwrap_err().kind(), server.seen().len()), (Kind::Deferred, 1));
}

#[tokio::test]
async fn ghcr_says_in_its_message_how_long_to_wait() {
    let message = |wait: &str| {
        format!("{{\"errors\":[{{\"code\":\"TOOMANYREQUESTS\",\"message\":\"retry-after: {wait}, allowed: 44000/minute\"}}]}}")
    };
    let server = Server::start(move |seen| match seen.nth {
        0 => answer(429, &[], message("1.3ms")),
        1 => found(seen, &[]),
        _ => answer(429, &[], message("1h0m0s")),
    })
    .await;
    let (_, store) = open(&server, HostSettings::default());
    pull(&store, 0).await.unwrap();
    let error = pull(&store, 0).await.unwrap_err();
    assert_eq!((error.kind(), gets(&server)), (Kind::Deferred, 3));
    assert!(error.message().contains("is rate limiting us: Retry-After 1 h"), "{error}");
}

#[tokio::test]
async fn a_wait_beyond_the_configured_maximum_defers_unsent_and_takes_no_pull() {
    let server =
        Server::start(|seen| if seen.path().ends_with("/list") { answer(503, &[("retry-after", "20")], "") } else { found(seen, &[]) })
            .await;
    let (registries, store) = open(
        &server,
        HostSettings {
            retry_after_max: Some(Duration::from_secs(19)),
            pulls: Some(PullLimit { limit: Some(10), window: Duration::from_secs(60), reserve: 0 }),
            ..HostSettings::default()
        },
    );
    assert_eq!(store.tags(&repository(), &context()).await.unwrap_err().kind(), Kind::Deferred);
    let (good, bad) = sixteen(&store).await;
    assert!(good == 0 && bad.iter().all(|error| error.kind() == Kind::Deferred && error.until().is_some()), "{bad:?}");
    assert_eq!(server.seen().len(), 1);
    let pulls = registries.rows()[0].pulls.as_ref().map(|pulls| (pulls.spent, pulls.remaining));
    assert_eq!(pulls, Some((0, 10)));
}

#[tokio::test]
async fn an_image_spends_what_was_reserved_for_it() {
    let server = Server::start(counting(5)).await;
    let (_, store) = open(&server, HostSettings::default());
    resolve(&store).await.unwrap();
    let gate = store.gate().unwrap();
    let lease = Lease::acquire(&gate, PullRequest { pulls: 4, priority: 0 }, WaitMode::Defer).await.unwrap();
    let image = RequestContext { lease: Some(lease.clone()), ..context() };
    // One is left for all others.
    pull(&store, 0).await.unwrap();
    for number in 1..5 {
        pull_as(&store, number, &image).await.unwrap();
    }
    assert_eq!((lease.granted(), gets(&server)), (0, 5));
    assert_eq!(pull_as(&store, 5, &image).await.unwrap_err().kind(), Kind::Deferred);
    assert_eq!((gets(&server), gate.standing().refused), (5, 0));
}

#[tokio::test]
async fn a_refused_pull_waits_for_the_next_window_without_end_of_patience_but_not_for_ever() {
    for (refusals, arrives, sent) in [(5, true, 6), (usize::MAX, false, 16)] {
        let server = Server::start(
            move |seen| if seen.nth < refusals { answer(429, &[("retry-after", "0")], PULL_LIMIT) } else { found(seen, &[]) },
        )
        .await;
        let (registries, store) = open(&server, HostSettings::default());
        let mode = WaitMode::WaitUntil(tokio::time::Instant::now() + Duration::from_secs(60));
        let lease = Lease::acquire(&store.gate().unwrap(), PullRequest { pulls: 1, priority: 0 }, mode).await.unwrap();
        let pulled = pull_as(&store, 0, &RequestContext { lease: Some(lease), ..context() }).await;
        assert_eq!((pulled.is_ok(), gets(&server)), (arrives, sent), "{pulled:?}");
        assert!(pulled.err().is_none_or(|error| error.kind() == Kind::Deferred));
        // Three attempts are all that other failures have.
        assert_eq!(registries.rows()[0].retries, 0);
    }
}

#[tokio::test]
async fn a_login_costs_no_second_pull() {
    let server = Server::start(|seen| {
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", seen.header("host").unwrap());
        match (seen.path(), seen.header("authorization")) {
            ("/token", _) => answer(200, &[], "{\"token\":\"secret\"}"),
            (_, Some(_)) => found(seen, &[]),
            _ => answer(401, &[("www-authenticate", &realm)], ""),
        }
    })
    .await;
    let pulls = Some(PullLimit { limit: Some(1), window: Duration::from_secs(60), reserve: 0 });
    let (_, store) = open(&server, HostSettings { pulls, ..HostSettings::default() });
    pull(&store, 0).await.unwrap();
    assert_eq!(store.gate().unwrap().standing().spent, 1);
}

#[tokio::test]
async fn who_a_registry_redirects_to_says_nothing_about_its_limits() {
    let store_behind = Server::start(|seen| found(seen, &[("ratelimit-limit", "1;w=60"), ("ratelimit-remaining", "0;w=60")])).await;
    let behind = store_behind.host.clone();
    let server = Server::start(move |seen| answer(307, &[("location", &format!("http://{behind}{}", seen.target))], "")).await;
    let (_, store) = open(&server, HostSettings::default());
    resolve(&store).await.unwrap();
    assert_eq!(sixteen(&store).await.0, 16);
    assert!(store.gate().unwrap().standing().unlimited);
}

#[tokio::test]
async fn a_look_asks_again_by_head_for_what_was_asked_for_last() {
    let server = Server::start(counting(5)).await;
    let hub = profiles::named("docker-hub").unwrap();
    let (_, store) = open(&server, HostSettings { profile: Some(hub), ..HostSettings::default() });
    let gate = store.gate().unwrap();
    assert!(gate.look().await);
    assert_eq!(gate.standing().remaining, Some(5));
    resolve(&store).await.unwrap();
    assert!(gate.look().await);
    assert_eq!(server.lines(), ["HEAD /v2/ratelimitpreview/test/manifests/latest", "HEAD /v2/a/b/manifests/1", "HEAD /v2/a/b/manifests/1"]);
    // The gate outlives the run's registries, and does not keep them.
    drop(store);
}

#[tokio::test]
async fn throttles_halve_what_is_in_flight_and_pull_limits_do_not() {
    let server = Server::start(|seen| match (seen.method.as_str(), seen.nth) {
        ("HEAD", 0) => answer(503, &[], ""),
        ("HEAD", _) => found(seen, &[]),
        _ => answer(429, &[], PULL_LIMIT),
    })
    .await;
    let (_, store) = open(&server, HostSettings { concurrency: Some(8), ..HostSettings::default() });
    let host = &store.transport.host;
    assert_eq!(host.in_flight_limit(), 8);
    resolve(&store).await.unwrap();
    assert_eq!(host.in_flight_limit(), 4);
    pull(&store, 0).await.unwrap_err();
    assert_eq!(host.in_flight_limit(), 4);
}

#[tokio::test]
async fn bytes_read_and_written_draw_on_one_bandwidth() {
    let blob = bytes(120_000);
    let served = blob.clone();
    let server = Server::start(move |seen| match seen.method.as_str() {
        "GET" => answer(200, &[], served.clone()),
        "POST" => answer(202, &[("location", "/u/1")], ""),
        "PUT" => answer(201, &[], ""),
        _ => refuse(404, "BLOB_UNKNOWN"),
    })
    .await;
    let run = Some(Arc::new(Bandwidth::new("1MB/s".parse().unwrap())));
    let (registries, store) = open_with(&server, HostSettings::default(), SharedLimits { bandwidth: run, ..limits() });
    let target = registries.store(Side::Target, &server.host, Arc::new(Nobody)).unwrap();
    let began = Instant::now();
    let got = store.blob(&repository(), &descriptor(&blob), 0, &context()).await.unwrap().unwrap();
    assert_eq!(read(got).await.unwrap(), blob);
    target.write_blob(&repository(), &descriptor(&blob), &AtHand::new(&blob), &context()).await.unwrap();
    // 240 kB at 1 MB/s, of which 100 ms' worth may run ahead.
    assert!(began.elapsed() >= Duration::from_millis(140), "{:?}", began.elapsed());
    assert_eq!(server.seen().last().unwrap().body, blob);
}

#[tokio::test]
async fn a_registry_that_takes_no_chunks_gets_none() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "POST" => answer(202, &[("location", "/u/1")], ""),
        _ => answer(413, &[], ""),
    })
    .await;
    let blob = bytes(1000);
    for (profile, patched) in [("ghcr", false), ("quay", true)] {
        let (registries, _) = open(&server, HostSettings { profile: profiles::named(profile).ok(), ..HostSettings::default() });
        let target = registries.store(Side::Target, &server.host, Arc::new(Nobody)).unwrap();
        let error = target.write_blob(&repository(), &descriptor(&blob), &AtHand::new(&blob), &context()).await.unwrap_err();
        assert_eq!((error.http_status(), server.lines().iter().any(|line| line.starts_with("PATCH"))), (Some(413), patched), "{profile}");
    }
}
