//! What all requests to one host share: its address and clients, its permits and its pauses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::HeaderMap;
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::bandwidth::BandwidthStack;
use super::behaviour::HostBehaviour;
use super::cause::{self, TlsFault};
use super::endpoint::Endpoint;
use super::min_rate::MinRate;
use super::permit::{BlobReadSlot, Permits};
use super::retry_budget::RetryBudget;
use super::retry_policy::RetryPolicy;
use crate::config::profiles::{self, Profile};
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

/// Requests are sent one by one, at even intervals: an upstream that counts by the second sees no second with more, and over any longer time
/// as many requests are sent.
pub(crate) const BURST: u32 = 1;

/// Of this many hosts that a registry sends us to (token server, storage, upload) the failures are remembered. Real registries have three or
/// four; beyond this we assume a hostile one.
const MOST_ELSEWHERE: usize = 64;

/// One host of a run.
pub(crate) struct Host {
    /// Its name, as image names have it (`docker.io`).
    pub(crate) name: String,
    /// The root of its API.
    pub(crate) endpoint: Endpoint,
    /// The addresses that it may send us to.
    pub(crate) policy: Arc<AddressPolicy>,
    pub(crate) retry: RetryPolicy,
    /// What kind of registry it is taken for.
    pub(crate) profile: &'static Profile,
    /// How it behaves: as its kind does, unless its answers show otherwise.
    pub(crate) behaviour: HostBehaviour,
    /// Whether it has the referrers API.
    pub(crate) referrers: ReferrersApi,
    /// Requests a second, as configured.
    pub(crate) pace: Option<Arc<RequestPacer>>,
    /// Bytes a second.
    pub(crate) bandwidth: BandwidthStack,
    /// The slowest rate at which a blob may arrive.
    pub(super) min_rate: MinRate,
    pub(super) clients: Clients,
    permits: Permits,
    /// The pause that it asked for.
    pause: Pause,
    /// The pause after failures.
    backoff: Mutex<Backoff>,
    /// The same for the hosts that it sends us to, by host and port.
    elsewhere: Mutex<HashMap<String, Backoff>>,
    went_down: Notify,
    /// The requests a second that it takes, as its refusals show.
    adaptive_pace: AdaptivePace,
    /// Anonymous tokens of hosts that it redirected to.
    pub(super) foreign_tokens: ForeignTokens,
    /// It has answered a request of this run.
    answered: AtomicBool,
    /// The fault that a handshake showed, if requests broke before the first answer.
    handshake: OnceCell<Option<TlsFault>>,
    /// How far our clock is ahead of the `Date` of its first answer.
    clock_skew: OnceLock<jiff::SignedDuration>,
}

impl Host {
    pub(crate) fn new(name: &str, settings: &HostSettings, retry: RetryPolicy, bandwidth: Option<Arc<Bandwidth>>) -> Result<Self> {
        let retry = RetryPolicy { longest_pause: settings.retry_after_max.unwrap_or(retry.longest_pause), ..retry };
        let profile = settings.profile.or_else(|| profiles::recognised(name)).unwrap_or(&profiles::UNKNOWN);
        let ceiling = settings.concurrency.unwrap_or(profile.concurrency);
        let endpoint = http::endpoint(name, settings.endpoint.as_deref(), settings.plain_http)?;
        let policy = Arc::new(AddressPolicy::new(&endpoint, settings.allow_private));
        Ok(Host {
            name: name.to_owned(),
            clients: http::build(&settings.http, &policy)?,
            endpoint: Endpoint::new(endpoint),
            policy,
            retry,
            referrers: ReferrersApi::new(profile.referrers),
            behaviour: HostBehaviour::new(profile),
            profile,
            pace: settings.requests_per_second.and_then(|rate| RequestPacer::new(rate, BURST)).map(Arc::new),
            bandwidth: BandwidthStack::new(bandwidth, settings.bandwidth),
            min_rate: settings.min_rate.map_or_else(MinRate::default, |rate| MinRate::new(rate.per_second())),
            permits: Permits::new(ceiling),
            pause: Pause::new(retry.longest_pause),
            backoff: Mutex::new(Backoff::new(retry)),
            elsewhere: Mutex::default(),
            went_down: Notify::new(),
            adaptive_pace: AdaptivePace::new(retry.second()),
            foreign_tokens: ForeignTokens::default(),
            answered: AtomicBool::new(false),
            handshake: OnceCell::new(),
            clock_skew: OnceLock::new(),
        })
    }

    /// Reads the host's time (`Date`: RFC 9110, section 6.6.1) from the first answer that has it.
    pub(super) fn compare_clocks(&self, headers: &HeaderMap) {
        if self.clock_skew.get().is_none()
            && let Some(date) = headers.get(reqwest::header::DATE).and_then(|date| date.to_str().ok())
            && let Ok(there) = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date)
        {
            let _ = self.clock_skew.set(jiff::Timestamp::now().duration_since(there));
        }
    }

    /// How far this machine's clock is ahead of the host's; negative: behind. `None`: no answer had a `Date`.
    pub(crate) fn clock_skew(&self) -> Option<jiff::SignedDuration> {
        self.clock_skew.get().copied()
    }

    pub(super) fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock()
    }

    /// The retry budget of new work.
    pub(crate) fn patience(&self) -> RetryBudget {
        RetryBudget::new(self.retry, self.backoff().attempts())
    }

    /// Sends its first requests one by one, because its limits are not known.
    pub(crate) fn begin_slowly(&self) {
        self.adaptive_pace.begin_slowly();
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

    /// The time of its latest answer.
    pub(super) fn last_answer(&self, elsewhere: Option<&str>) -> Option<Instant> {
        self.state(elsewhere, |state| state.last_success())
    }

    /// The error that a request fails with at once, because the host answers no request. `leaves`: the request would be sent now.
    pub(super) fn refuses(&self, elsewhere: Option<&str>, leaves: bool) -> Option<(Error, Outage)> {
        self.state(elsewhere, |state| state.refuses(Instant::now(), leaves))
    }

    /// Whether it answers no request.
    pub(super) fn is_failing(&self, elsewhere: Option<&str>) -> bool {
        self.state(elsewhere, |state| state.is_failing())
    }

    /// Work ended with `error`. `since`: it used up its whole budget, and had no answer since then. Returns the outage that it is part of,
    /// if the host answers no request.
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

    /// A request to another host failed: only the request itself waits.
    pub(super) fn troubled_elsewhere(&self, host: &str, sent: Instant, throttled: bool) {
        self.state(Some(host), |state| state.failed(Instant::now(), sent, throttled));
    }

    /// Waits until requests may be sent, holding nothing. `Err`: the rest of the pause, if it is longer than `retry_after_max`.
    pub(crate) async fn clear(&self) -> Result<(), Duration> {
        loop {
            self.pause.passed().await.map_err(|until| until.duration_since(Instant::now()))?;
            let went_down = self.went_down.notified();
            // The guard must not live as long as the sleep.
            let pause = self.backoff().pause(Instant::now());
            let Some(pause) = pause else { return Ok(()) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // All waiting requests fail now.
                () = went_down => {}
            }
        }
    }

    /// A request sent at `sent` failed; `throttled`: it was refused for its pace; `asked`: the pause that the host asked for.
    /// Returns by how much that makes the host's pause longer.
    ///
    /// A host that refuses some requests for their pace, and answers others, is slowed down by its pace. It is paused only for as long as it
    /// asks, or once it has refused several requests in a row ([`AdaptivePace::refused`]).
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

    /// The rest of the pause.
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

    /// How many small requests may be in flight now.
    #[cfg(test)]
    pub(crate) fn in_flight_limit(&self) -> usize {
        self.permits.limit()
    }

    /// Waits for a permit, at a time when the host is not paused and the pace allows a request. A pause that begins meanwhile counts too;
    /// after it the pace is asked again.
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

    pub(super) fn has_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Why connections break to a host that has never answered, if TLS is the reason. Found out once, by a connection of its own: a server
    /// that ends a TLS 1.3 connection because it wants a client certificate, and one that gets plain HTTP instead of TLS, both just close the
    /// connection as far as a request can see.
    pub(super) async fn handshake_fault(&self) -> Option<TlsFault> {
        if self.answered.load(Ordering::Relaxed) {
            return None;
        }
        let found = self.handshake.get_or_init(|| async {
            let addresses = self.policy.direct_addresses(self.endpoint.root()).await;
            let shaken = http::shake_hands(self.endpoint.root(), &addresses, &self.clients.tls).await;
            let origin = host_and_port(self.endpoint.root());
            match (self.endpoint.root().scheme(), shaken) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(endpoint: &str) -> Host {
        let settings = HostSettings { endpoint: Some(endpoint.to_owned()), concurrency: Some(1), ..Default::default() };
        Host::new("registry.example", &settings, RetryPolicy::default(), None).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_waited_for_to_its_end_and_a_long_one_is_refused() {
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
        let settings = HostSettings { retry_after_max: Some(Duration::from_millis(1)), concurrency: Some(1), ..HostSettings::default() };
        let host = Host::new("registry.example", &settings, RetryPolicy::default(), None).unwrap();
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
