//! What all who speak to one host share: its addresses and clients, its permits, its pauses, and what was learnt about it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{ETAG, HeaderMap};
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;
use url::Url;

use super::backoff::{Backoff, RetryBudget, RetryPolicy};
use super::bandwidth::BandwidthStack;
use super::cause::{self, TlsFault};
use super::min_rate::MinRate;
use super::permit::{BlobReadSlot, Permits};
use crate::config::profiles::{self, Caching, MountStyle, Profile, UploadStyle};
use crate::content::Digest;
use crate::error::Outage;
use crate::limits::{AdaptivePace, Bandwidth, Pause, PauseVerdict, Permit, RequestPacer};
use crate::mutex::{Mutex, MutexGuard};
use crate::registry::address::{AddressPolicy, host_and_port};
use crate::registry::auth::ForeignTokens;
use crate::registry::http::{self, Clients, Handshake};
use crate::registry::referrers_support::ReferrersApi;
use crate::registry::request::{ConnectionKind, PermitRequest};
use crate::registry::settings::HostSettings;
use crate::{Error, Result};

/// After so many mounts refused in a row, none is asked for any more. A refusal may be about one pair of repositories (no
/// pull right on the other), so one proves nothing; three different ones mean a registry that does not mount (ECR without its
/// setting), where each further one would cost a POST and a DELETE per blob.
const MOUNT_REFUSALS: u32 = 3;

/// Requests leave one by one, at even intervals: an upstream that counts by the second sees no second with more, and over any
/// longer time nothing is lost by it.
pub(crate) const BURST: u32 = 1;

/// Of so many hosts that a registry sends us to (token server, storage, upload) it is remembered whether they answer. Real registries have
/// three or four; beyond this we assume a hostile one.
const MOST_ELSEWHERE: usize = 64;

/// One host of a run.
pub(crate) struct Host {
    /// Its name, as images have it (`docker.io`).
    pub(crate) name: String,
    /// Where its API is.
    pub(crate) endpoint: Url,
    /// Where it may send us.
    pub(crate) policy: Arc<AddressPolicy>,
    pub(crate) retry: RetryPolicy,
    /// What kind of registry it is taken for.
    pub(crate) profile: &'static Profile,
    /// Whether it has the referrers API.
    pub(crate) referrers: ReferrersApi,
    /// Requests a second, as configured.
    pub(crate) pace: Option<Arc<RequestPacer>>,
    /// Bytes a second.
    pub(crate) bandwidth: BandwidthStack,
    /// The slowest that a blob may come.
    pub(super) min_rate: MinRate,
    pub(super) clients: Clients,
    permits: Permits,
    /// The pause that it asked for.
    pause: Pause,
    /// The pause because it fails.
    backoff: Mutex<Backoff>,
    /// The same of the hosts that it sends us to, by host and port.
    elsewhere: Mutex<HashMap<String, Backoff>>,
    went_down: Notify,
    /// How many requests a second it takes, as its refusals tell.
    adaptive_pace: AdaptivePace,
    /// What hosts that it redirected to gave to nobody.
    pub(super) foreign_tokens: ForeignTokens,
    /// It refuses HEADs of manifests that it answers GETs of.
    refuses_heads: AtomicBool,
    /// It has answered a request of this run.
    answered: AtomicBool,
    /// What a handshake showed, where requests broke before it had answered any.
    handshake: OnceCell<Option<TlsFault>>,
    patches: AtomicBool,
    /// It was seen to say that an answer came from its upstream.
    says_origin: AtomicBool,
    /// An answer had an ETag without quotes.
    bare_etag: AtomicBool,
    mounts_refused: AtomicU32,
    /// How far our clock is ahead of the `Date` of its first answer.
    clock_skew: OnceLock<jiff::SignedDuration>,
}

impl Host {
    pub(crate) fn new(
        name: &str,
        settings: &HostSettings,
        concurrency: usize,
        retry: RetryPolicy,
        bandwidth: Option<Arc<Bandwidth>>,
    ) -> Result<Self> {
        let retry = RetryPolicy { longest_pause: settings.retry_after_max.unwrap_or(retry.longest_pause), ..retry };
        let profile = settings.profile.or_else(|| profiles::recognised(name)).unwrap_or(&profiles::UNKNOWN);
        let endpoint = http::endpoint(name, settings.endpoint.as_deref(), settings.plain_http)?;
        let policy = Arc::new(AddressPolicy::new(&endpoint, settings.allow_private));
        Ok(Host {
            name: name.to_owned(),
            clients: http::build(&settings.http, &policy)?,
            endpoint,
            policy,
            retry,
            referrers: ReferrersApi::new(profile.referrers),
            profile,
            pace: settings.requests_per_second.and_then(|rate| RequestPacer::new(rate, BURST)).map(Arc::new),
            bandwidth: BandwidthStack::new(bandwidth, settings.bandwidth),
            min_rate: settings.min_rate.map_or_else(MinRate::default, |rate| MinRate::new(rate.per_second())),
            permits: Permits::new(concurrency),
            pause: Pause::new(retry.longest_pause),
            backoff: Mutex::new(Backoff::new(retry)),
            elsewhere: Mutex::default(),
            went_down: Notify::new(),
            adaptive_pace: AdaptivePace::new(retry.second()),
            foreign_tokens: ForeignTokens::default(),
            refuses_heads: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            handshake: OnceCell::new(),
            patches: AtomicBool::new(profile.upload == UploadStyle::Patch),
            says_origin: AtomicBool::new(false),
            bare_etag: AtomicBool::new(false),
            mounts_refused: AtomicU32::new(match profile.mount {
                MountStyle::Yes => 0,
                MountStyle::IfSwitchedOn => MOUNT_REFUSALS - 1,
            }),
            clock_skew: OnceLock::new(),
        })
    }

    /// Takes note of what time it is there (RFC 9110, section 6.6.1), at the first answer that says so.
    pub(super) fn compare_clocks(&self, headers: &HeaderMap) {
        if self.clock_skew.get().is_none()
            && let Some(date) = headers.get(reqwest::header::DATE).and_then(|date| date.to_str().ok())
            && let Ok(there) = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date)
        {
            let _ = self.clock_skew.set(jiff::Timestamp::now().duration_since(there));
        }
    }

    /// How far this machine's clock is ahead of the host's; negative: behind. `None`: it has not said.
    pub(crate) fn clock_skew(&self) -> Option<jiff::SignedDuration> {
        self.clock_skew.get().copied()
    }

    /// Lets at least so many requests be in flight.
    pub(crate) fn widen(&self, concurrency: usize) {
        self.permits.widen(concurrency);
    }

    pub(super) fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock()
    }

    /// The retry budget of new work.
    pub(crate) fn patience(&self) -> RetryBudget {
        RetryBudget::new(self.retry, self.backoff().attempts())
    }

    /// Lets its first requests leave one by one: an upstream whose limits nobody knows.
    pub(crate) fn begin_slowly(&self) {
        self.adaptive_pace.begin_slowly();
    }

    /// The host and port of `url`, if it does not lead to the registry itself.
    pub(super) fn elsewhere(&self, url: &Url) -> Option<String> {
        if self.is_registry_origin(url) {
            return None;
        }
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}{port}", url.host_str().unwrap_or("another host")))
    }

    /// The state of the registry, or of the host `elsewhere` that it sent us to.
    fn state<R>(&self, elsewhere: Option<&str>, ask: impl FnOnce(&mut Backoff) -> R) -> R {
        let Some(host) = elsewhere else { return ask(&mut self.backoff()) };
        let mut known = self.elsewhere.lock();
        if known.len() >= MOST_ELSEWHERE && !known.contains_key(host) {
            return ask(&mut Backoff::new(self.retry));
        }
        ask(known.entry(host.to_owned()).or_insert_with(|| Backoff::new(self.retry)))
    }

    /// A request that was sent at `sent` was answered.
    pub(super) fn answered(&self, elsewhere: Option<&str>, sent: Instant) {
        let now = Instant::now();
        self.state(elsewhere, |state| state.succeeded(now));
        if elsewhere.is_none() {
            self.adaptive_pace.accepted(sent, now);
        }
    }

    /// When it last answered.
    pub(super) fn last_answer(&self, elsewhere: Option<&str>) -> Option<Instant> {
        self.state(elsewhere, |state| state.last_success())
    }

    /// What a request fails with at once, because nobody is answered there; `leaves`: it would be sent now.
    pub(super) fn refuses(&self, elsewhere: Option<&str>, leaves: bool) -> Option<(Error, Outage)> {
        self.state(elsewhere, |state| state.refuses(Instant::now(), leaves))
    }

    /// Whether nobody is answered there.
    pub(super) fn is_failing(&self, elsewhere: Option<&str>) -> bool {
        self.state(elsewhere, |state| state.is_failing())
    }

    /// Work ended with `error`. `since`: it used up its whole budget, and had no answer since then. The outage that it is part of, if
    /// nobody is answered there.
    pub(super) fn gave_up(&self, elsewhere: Option<&str>, since: Option<Instant>, error: &Error) -> Option<Outage> {
        let outage = self.state(elsewhere, |state| {
            if let Some(since) = since {
                state.gave_up(since);
            }
            state.is_failing().then(|| state.goes_down(error, Instant::now()))
        });
        if outage.is_some() {
            self.went_down.notify_waiters();
        }
        outage
    }

    /// A request to another host failed: nobody waits for that but the request itself.
    pub(super) fn troubled_elsewhere(&self, host: &str, sent: Instant, throttled: bool) {
        self.state(Some(host), |state| state.failed(Instant::now(), sent, throttled));
    }

    /// Waits until the host may be spoken to, holding nothing. `Err`: the pause that is left, if it is longer than anybody waits.
    pub(crate) async fn clear(&self) -> Result<(), Duration> {
        loop {
            self.pause.passed().await.map_err(|until| until.duration_since(Instant::now()))?;
            let went_down = self.went_down.notified();
            // The guard must not live as long as the sleep.
            let pause = self.backoff().pause(Instant::now());
            let Some(pause) = pause else { return Ok(()) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Nobody waits any more: all fail.
                () = went_down => {}
            }
        }
    }

    /// A request sent at `sent` failed; `throttled`: it was refused for its pace; `asked`: the pause that the host asked for.
    /// By how much that makes the pause longer that everybody waits for.
    ///
    /// A host that refuses some for their pace, and answers others, is slowed down by its pace. It is paused only for as long as it asks,
    /// or once it has refused several in a row ([`AdaptivePace::refused`]).
    pub(super) fn troubled(&self, sent: Instant, throttled: bool, asked: Option<Duration>) -> Duration {
        let now = Instant::now();
        let before = self.left(now);
        if let Some(asked) = asked {
            self.pause.hold(asked, now);
        }
        // "Try again after 0 s" says nothing about the pace.
        let asked = asked.filter(|asked| !asked.is_zero());
        if !throttled {
            self.backoff().failed(now, sent, false);
        } else if asked.is_some() {
            self.backoff().refused(now, sent);
        } else if let Some(rest) = self.adaptive_pace.refused(sent, now) {
            let mut backoff = self.backoff();
            backoff.refused(now, sent);
            backoff.hold(rest, now);
        }
        self.left(now).saturating_sub(before)
    }

    /// How long is still to be waited.
    fn left(&self, now: Instant) -> Duration {
        let asked = match self.pause.check(now) {
            PauseVerdict::Wait(until) => until.duration_since(now),
            PauseVerdict::Go | PauseVerdict::Defer(_) => Duration::ZERO,
        };
        asked.max(self.backoff().pause(now).unwrap_or_default())
    }

    fn is_paused(&self) -> bool {
        let now = Instant::now();
        self.pause.check(now) != PauseVerdict::Go || self.backoff().pause(now).is_some()
    }

    /// How many requests may be in flight now.
    #[cfg(test)]
    pub(crate) fn in_flight_limit(&self) -> usize {
        self.permits.limit()
    }

    /// A permit, at a time when the host is not paused and it is our turn: a pause that begins while we wait for either counts
    /// too, and after it turns are taken anew.
    pub(super) async fn admit(&self, claim: PermitRequest, lane: ConnectionKind, pace: Option<&RequestPacer>) -> Result<Permit, Duration> {
        loop {
            self.clear().await?;
            if let Some(pace) = pace {
                pace.turn().await;
            }
            self.adaptive_pace.turn().await;
            if self.is_paused() {
                continue;
            }
            let permit = self.permits.take(claim, lane).await;
            if !self.is_paused() {
                return Ok(permit);
            }
        }
    }

    /// Whether HEADs of manifests are refused here, so that only a GET tells.
    pub(crate) fn refuses_heads(&self) -> bool {
        self.refuses_heads.load(Ordering::Relaxed)
    }
    /// A HEAD was refused, and the GET of the same manifest was not.
    pub(crate) fn refused_head(&self) {
        self.refuses_heads.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Why connections to a host break that has never answered, if TLS is the reason. Found out once, by a connection of its own: a
    /// server that ends a TLS 1.3 connection for want of a client certificate, and one that gets plain HTTP where it speaks TLS, both
    /// just close the connection as far as a request can see.
    pub(super) async fn handshake_fault(&self) -> Option<TlsFault> {
        if self.answered.load(Ordering::Relaxed) {
            return None;
        }
        let found = self.handshake.get_or_init(|| async {
            let addresses = self.policy.direct_addresses(&self.endpoint).await;
            let shaken = http::shake_hands(&self.endpoint, &addresses, &self.clients.tls).await;
            let origin = host_and_port(&self.endpoint);
            match (self.endpoint.scheme(), shaken) {
                (_, Handshake::Unknown) | ("https", Handshake::Done) => None,
                ("https", Handshake::Failed(error)) => cause::tls(&error, &origin, &self.name),
                (_, Handshake::Failed(error)) if !cause::is_of_tls(&error) => None,
                (_, Handshake::Done | Handshake::Failed(_)) => Some(TlsFault {
                    what: format!("{origin} speaks TLS, not plain HTTP"),
                    remedy: format!("set `plain_http = false` in [registry.\"{}\"]", self.name),
                }),
            }
        });
        found.await.clone()
    }

    /// Counts a reader of one of the host's blobs until it is dropped.
    pub(crate) fn reader(&self) -> BlobReadSlot {
        self.permits.reader()
    }

    /// Whether uploads go by PATCH: a single PUT of the whole is refused here.
    pub(crate) fn patches(&self) -> bool {
        self.patches.load(Ordering::Relaxed)
    }
    /// Whether they may.
    pub(crate) fn takes_patches(&self) -> bool {
        self.profile.upload != UploadStyle::OnlyPut
    }
    /// A PUT was too large (413): from now on uploads go by PATCH.
    pub(crate) fn patch_from_now_on(&self) {
        self.patches.store(true, Ordering::Relaxed);
    }

    /// How it behaves as a pull-through cache: as its kind does, or as what its answers have given it away for.
    pub(crate) fn caching(&self) -> &'static Caching {
        if self.says_origin.load(Ordering::Relaxed) { self.profile.caching.that_says_origin() } else { self.profile.caching }
    }

    /// Whether it is a cache, as its kind or its answers say: it passes on what others have, each in repositories of its own.
    pub(crate) fn is_cache(&self) -> bool {
        self.says_origin.load(Ordering::Relaxed) || !std::ptr::eq(self.profile.caching, profiles::UNKNOWN.caching)
    }

    /// Whether an answer says that it comes from the upstream of a cache (docs/registries.md, "Azure: what a pull does").
    pub(crate) fn passed_on(&self, headers: &HeaderMap) -> bool {
        let said = headers.get("x-azure-origin").is_some_and(|origin| origin.as_bytes().eq_ignore_ascii_case(b"upstream"));
        self.says_origin.fetch_or(said, Ordering::Relaxed);
        self.note_etag(headers);
        said
    }

    /// Takes note of an `ETag` that is a digest without quotes. Harbor's proxy projects, and Distribution's proxy for blobs, write it so in
    /// what they pass on from their upstream; but others may, too.
    pub(crate) fn note_etag(&self, headers: &HeaderMap) {
        let bare = headers.get(ETAG).and_then(|etag| etag.to_str().ok()).is_some_and(|etag| Digest::parse(etag).is_ok());
        self.bare_etag.fetch_or(bare, Ordering::Relaxed);
    }

    /// Whether its answers look as if a cache had passed them on, or its kind has caches that give no sign of themselves.
    pub(crate) fn may_be_a_cache(&self) -> bool {
        self.bare_etag.load(Ordering::Relaxed) || matches!(self.profile.name, "harbor" | "artifact-registry" | "generic")
    }

    /// Whether one of its answers has said so.
    pub(crate) fn has_passed_on(&self) -> bool {
        self.says_origin.load(Ordering::Relaxed)
    }

    /// Whether a mount is worth asking for.
    pub(crate) fn mounts(&self) -> bool {
        self.mounts_refused.load(Ordering::Relaxed) < MOUNT_REFUSALS
    }
    /// Remembers how a mount went.
    pub(crate) fn mounted(&self, done: bool) {
        if done {
            self.mounts_refused.store(0, Ordering::Relaxed);
        } else {
            self.mounts_refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An address below `/v2/` of the registry. `path` is joined from checked names, tags and digests, none of which can
    /// hold a `/..`, a `?` or a `#`.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("{}/v2/{path}", self.endpoint.path().trim_end_matches('/')));
        url
    }

    /// Whether `url` is the registry itself: scheme, host and port are its endpoint's. Only there do its credentials go.
    pub(crate) fn is_registry_origin(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Whether `url` is this host by https, which itself is spoken to by plain HTTP.
    pub(crate) fn is_upgrade(&self, url: &Url) -> bool {
        self.endpoint.scheme() == "http" && url.scheme() == "https" && url.host() == self.endpoint.host()
    }

    /// Reads the address of a list's next page, relative to `base`, where this page came from. Behind a proxy some registries name a host
    /// that only they know: what they say of the same list is asked for at `list`, where the first page was asked for.
    pub(crate) fn resolve_next_page(&self, base: &Url, list: &Url, text: &str) -> Result<Url, String> {
        let next = self.resolve(base, text)?;
        if self.is_registry_origin(&next) || next.origin() == base.origin() {
            return Ok(next);
        }
        if !list.path().ends_with(next.path()) || next.path().len() < "/v2/".len() {
            return Err(format!("it is at {}, another host", next.host_str().unwrap_or_default()));
        }
        let mut here = list.clone();
        here.set_query(next.query());
        Ok(here)
    }

    /// Reads an address that the registry sent (`Location`, `Link`), relative to `base`. A registry behind a TLS proxy
    /// often believes that it is reached by plain HTTP, and says so; that is put right rather than followed into the clear.
    pub(crate) fn resolve(&self, base: &Url, text: &str) -> Result<Url, String> {
        let mut url = base.join(text).map_err(|_| "it leads to an address that is none".to_owned())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("it leads to an address of scheme `{}`", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it leads to an address with a user name or password in it".to_owned());
        }
        let same_port = url.port().is_none() || url.port() == self.endpoint.port();
        if self.endpoint.scheme() == "https" && url.scheme() == "http" && url.host() == self.endpoint.host() && same_port {
            let changed = url.set_scheme("https").and_then(|()| url.set_port(self.endpoint.port()));
            changed.map_err(|()| "it leads to an address that is none".to_owned())?;
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(endpoint: &str) -> Host {
        let settings = HostSettings { endpoint: Some(endpoint.to_owned()), ..Default::default() };
        Host::new("registry.example", &settings, 1, RetryPolicy::default(), None).unwrap()
    }

    #[test]
    fn addresses_are_read_relative_to_the_request_and_kept_out_of_the_clear() {
        let host = host("https://registry.example");
        let base = host.url("a/b/blobs/uploads/");
        for (text, expected) in [
            ("/v2/a/b/blobs/uploads/1?_state=x%3D", "https://registry.example/v2/a/b/blobs/uploads/1?_state=x%3D"),
            ("uuid", "https://registry.example/v2/a/b/blobs/uploads/uuid"),
            ("https://upload.example/u?x=1", "https://upload.example/u?x=1"),
            ("//upload.example/u", "https://upload.example/u"),
            ("http://registry.example/v2/u?y", "https://registry.example/v2/u?y"),
            ("http://registry.example//evil.example/u", "https://registry.example//evil.example/u"),
            ("http://registry.example:8080/u", "http://registry.example:8080/u"),
            ("http://other.example/u", "http://other.example/u"),
            ("?n=5", "https://registry.example/v2/a/b/blobs/uploads/?n=5"),
        ] {
            assert_eq!(host.resolve(&base, text).unwrap().as_str(), expected, "{text}");
        }
        for bad in ["file:///etc/passwd", "ftp://x/y", "http://[::1", "data:text/plain,x", "https://", "https://user:pw@registry.example/u"]
        {
            assert!(host.resolve(&base, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_may_have_a_path_and_home_is_scheme_host_and_port() {
        let host = host("https://proxy.example:8443/hub/");
        assert_eq!(host.url("a/tags/list").as_str(), "https://proxy.example:8443/hub/v2/a/tags/list");
        for (url, home) in [
            ("https://proxy.example:8443/x", true),
            ("https://proxy.example/x", false),
            ("http://proxy.example:8443/x", false),
            ("https://proxy.example.evil:8443/x", false),
        ] {
            assert_eq!(host.is_registry_origin(&Url::parse(url).unwrap()), home, "{url}");
        }
    }

    #[test]
    fn three_refused_mounts_in_a_row_are_enough() {
        let host = host("https://registry.example");
        host.mounted(false);
        host.mounted(false);
        host.mounted(true);
        host.mounted(false);
        host.mounted(false);
        assert!(host.mounts());
        host.mounted(false);
        assert!(!host.mounts());
    }

    proptest! {
        #[test]
        fn no_location_makes_resolving_panic_or_leave_http(text in "\\PC{0,60}") {
            let host = host("https://registry.example");
            if let Ok(url) = host.resolve(&host.url("a/blobs/uploads/"), &text) {
                prop_assert!(matches!(url.scheme(), "http" | "https"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_pause_waits_for_all_of_it_and_a_long_one_is_refused() {
        let host = host("https://registry.example");
        let began = Instant::now();
        assert_eq!(host.troubled(began, false, Some(Duration::from_secs(90))), Duration::from_secs(90));
        // A shorter wish changes nothing, a longer one counts from now.
        assert_eq!(host.troubled(began, false, Some(Duration::from_secs(10))), Duration::ZERO);
        assert!(host.admit(PermitRequest::Fresh, ConnectionKind::Small, None).await.is_ok());
        assert_eq!(began.elapsed().as_secs(), 90);
        let now = Instant::now();
        assert_eq!(host.troubled(now, false, Some(Duration::from_secs(3600))), host.backoff().pause(now).unwrap());
        assert_eq!(host.admit(PermitRequest::Fresh, ConnectionKind::Small, None).await.unwrap_err().as_secs(), 3600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_begins_while_a_request_waits_for_its_permit_holds_it_back_too() {
        let host = Arc::new(host("https://registry.example"));
        let held = host.admit(PermitRequest::Fresh, ConnectionKind::Small, None).await.unwrap();
        let began = Instant::now();
        let waiting = tokio::spawn({
            let host = Arc::clone(&host);
            async move { host.admit(PermitRequest::Fresh, ConnectionKind::Small, None).await.map(|_| Instant::now()) }
        });
        tokio::task::yield_now().await;
        host.troubled(began, false, Some(Duration::from_secs(7)));
        drop(held);
        assert_eq!(waiting.await.unwrap().unwrap() - began, Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_too_long_is_refused_until_it_is_over_and_our_own_is_not() {
        let settings = HostSettings { retry_after_max: Some(Duration::from_millis(1)), ..HostSettings::default() };
        let host = Host::new("registry.example", &settings, 1, RetryPolicy::default(), None).unwrap();
        let began = Instant::now();
        host.troubled(began, false, None);
        assert!(host.clear().await.is_ok() && began.elapsed() > Duration::from_millis(1));
        host.troubled(Instant::now(), false, Some(Duration::from_secs(60)));
        for second in 0..60 {
            assert_eq!(host.clear().await.unwrap_err().as_secs(), 60 - second);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(host.clear().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_keep_the_pace_also_after_a_pause() {
        let host = Arc::new(host("https://registry.example"));
        let pace = Arc::new(RequestPacer::new(2.0, BURST).unwrap());
        let began = Instant::now();
        let mut left: Vec<_> = (0..4)
            .map(|_| {
                let (host, pace) = (Arc::clone(&host), Arc::clone(&pace));
                tokio::spawn(async move {
                    host.admit(PermitRequest::Continued, ConnectionKind::Small, Some(&pace)).await.map(|_| began.elapsed().as_millis())
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(600)).await;
        host.troubled(Instant::now(), false, Some(Duration::from_secs(10)));
        let mut times = Vec::new();
        for task in left.drain(..) {
            times.push(task.await.unwrap().unwrap());
        }
        times.sort_unstable();
        assert_eq!(times[..2], [0, 500]);
        assert!(times[2] >= 10_600 && times[3] >= times[2] + 500, "{times:?}");
    }
}
