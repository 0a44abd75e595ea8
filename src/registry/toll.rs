//! Pulls, as an upstream counts them: the gate that manifest GETs pass, and the HEAD that tells what is left for nothing.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use reqwest::Method;
use reqwest::header::HeaderMap;
use tokio::time::Instant;
use url::Url;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::error::{self, ErrorAnswer};
use super::manifests::accept;
use super::transport::{Host, OpenResponse, RegistryRequest, RetryBudget, Transport, TransportAccount};
use crate::config::profiles;
use crate::content::{Repository, RequestContext};
use crate::limits::{AccountId, Accounts, Deferred, Gate, InFlightPull, LimitProbe, PullLimit, PullRequest, Quota, WaitMode};
use crate::mutex::Mutex;
use crate::{Result, Side};

/// After a refusal, a request waits for the next window, for as long as its image does. Where others spend from the same account
/// it may be refused again then; that many times in a row, and nothing is left for it here.
const MOST_REFUSALS: u32 = 16;

/// The toll that one account pays at one upstream.
#[derive(Clone)]
pub(crate) struct PullMeter {
    pub(crate) gate: Arc<Gate>,
    seen: Arc<Seen>,
}

/// The manifest that was asked for by HEAD last, with success: it can be asked for again.
type Seen = Mutex<Option<(Repository, Url)>>;

impl PullMeter {
    /// The toll of `account` at `host`, of which `configured` is known beforehand.
    pub(crate) fn new(accounts: &Accounts, host: &Arc<Host>, account: &Arc<TransportAccount>, configured: Option<PullLimit>) -> Self {
        let id = AccountId { host: host.name.clone(), name: account.name.clone() };
        let seen = Arc::new(Seen::default());
        let usual = match host.profile.pulls {
            profiles::PullCounting::ManifestGet { probe: (repository, tag) } => {
                Some((Repository::new(repository), host.url(&format!("{repository}/manifests/{tag}"))))
            }
            profiles::PullCounting::NothingKnown => None,
        };
        let probe = HeadProbe { host: Arc::downgrade(host), account: Arc::downgrade(account), seen: Arc::clone(&seen), usual };
        PullMeter { gate: accounts.gate(&id, configured, Some(Arc::new(probe))), seen }
    }

    /// A HEAD of the manifest at `url`, sent at `sent`, was answered with `quota`.
    pub(crate) fn learn(&self, repository: &Repository, url: &Url, quota: &Quota, sent: Instant) {
        *self.seen.lock() = Some((repository.clone(), url.clone()));
        self.gate.observe(quota, sent);
    }
}

impl Transport {
    /// Whose pulls a request of `context` spends through this registry, if it is a cache that spends its upstream's.
    pub(super) fn through<'c>(&self, context: &'c RequestContext) -> Option<&'c Arc<Gate>> {
        context.account.as_ref().filter(|_| self.side == Side::Target)
    }

    /// Whether what `context` reads here was read from an upstream, by us or by a cache for us.
    pub(super) fn reads_upstream(&self, context: &RequestContext) -> bool {
        self.side == Side::Upstream || self.through(context).is_some()
    }

    /// The gate of the pulls that `call` spends.
    fn gate<'c>(&'c self, call: &RegistryRequest<'c>) -> Option<&'c Arc<Gate>> {
        self.through(call.context).or(self.toll.as_ref().map(|toll| &toll.gate))
    }

    /// Whether the answers to `call` are about pulls.
    pub(super) fn pays(&self, call: &RegistryRequest<'_>) -> bool {
        self.gate(call).is_some() && matches!(call.kind, RequestKind::ManifestGet | RequestKind::ManifestHead)
    }

    /// A pull for `call`, if it is one: the image's own, or one of the account's. Whoever waits here for a budget holds nothing.
    pub(super) async fn pull(&self, call: &RegistryRequest<'_>) -> Result<Option<MeteredPull>> {
        let Some(gate) = self.gate(call).filter(|_| call.kind == RequestKind::ManifestGet) else { return Ok(None) };
        let topic = self.topic(call);
        // A pull that then waited for the host would be taken from others meanwhile.
        self.host.clear().await.map_err(|pause| error::told_to_wait(&topic, pause))?;
        let flight = match &call.context.lease {
            Some(lease) => lease.spend().await,
            None => match gate.acquire(PullRequest { pulls: 1, priority: 0 }, WaitMode::Defer).await {
                Ok(lease) => lease.spend().await,
                Err(deferred) => Err(deferred),
            },
        };
        let flight = flight.map_err(|why| error::deferred(&topic, &why))?;
        Ok(Some(MeteredPull { flight: Some(flight), left: false }))
    }

    /// `call` was answered.
    pub(super) fn learn(&self, call: &RegistryRequest<'_>, answer: &OpenResponse, pull: Option<MeteredPull>) {
        if let Some(flight) = pull.and_then(|mut pull| pull.flight.take()) {
            match self.through(call.context) {
                // A cache that says when it asked its upstream has not asked it: no pull was spent.
                Some(_) if self.answered_itself(answer) => return flight.free(),
                Some(_) => call.context.tally.add_pull(),
                None => {}
            }
            flight.answered(&answer.quota);
        } else if let (Some(toll), RequestKind::ManifestHead, Some(repository)) = (&self.toll, call.kind, call.repository) {
            toll.learn(repository, &call.url, &answer.quota, answer.sent);
        }
    }

    /// Whether a cache has this answer of its own, as far as its kind says that.
    fn answered_itself(&self, answer: &OpenResponse) -> bool {
        !self.host.passed_on(&answer.headers) && self.host.caching().says_origin
    }

    /// An answer to `call`, sent at `sent`, says that the window is spent. Call this before its permit goes to the next request, which
    /// would be refused too.
    pub(super) fn window_is_spent(&self, call: &RegistryRequest<'_>, refusal: &ErrorAnswer, sent: Instant) {
        if let Some(gate) = self.gate(call).filter(|_| refusal.pulls_spent && self.pays(call)) {
            gate.refused(sent, refusal.retry_after);
        }
    }

    /// `call`, sent at `sent`, was refused because the window is spent; it is so for the `times`th time in a row.
    ///
    /// # Errors
    /// If it does not queue for the next window: a HEAD, or a GET that was refused too often.
    pub(super) fn turned_away(
        &self,
        call: &RegistryRequest<'_>,
        refusal: &ErrorAnswer,
        pull: Option<MeteredPull>,
        sent: Instant,
        times: u32,
    ) -> Result<()> {
        self.account.counters.throttled();
        let Some(gate) = self.gate(call) else { return Ok(()) };
        match pull.and_then(|mut pull| pull.flight.take()) {
            Some(flight) => {
                flight.refused(refusal.retry_after);
                if times < MOST_REFUSALS {
                    return Ok(());
                }
            }
            None => gate.refused(sent, refusal.retry_after),
        }
        let reason = format!("{}: the pull window is spent: {}", gate.account(), refusal.words());
        let why = Deferred { reason, until: gate.standing().closes };
        Err(error::deferred(&self.topic(call), &why).status(refusal.status))
    }
}

/// One pull, paid for. If it is dropped before its request leaves, it goes back.
pub(crate) struct MeteredPull {
    flight: Option<InFlightPull>,
    left: bool,
}

impl MeteredPull {
    /// Its request leaves now. False: it may not, because the window was found to be spent while it waited for its permit.
    pub(super) fn leaves(&mut self) -> bool {
        self.left = self.left || self.flight.as_ref().is_none_or(InFlightPull::may_leave);
        self.left
    }
}

impl Drop for MeteredPull {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take().filter(|_| !self.left) {
            flight.unsent();
        }
    }
}

/// What an answer's headers say about pulls.
pub(crate) fn quota(headers: &HeaderMap) -> Quota {
    Quota::read(|name| headers.get(name).and_then(|value| value.to_str().ok()))
}

/// Looks by HEAD. It belongs to the gate, which the run's accounts keep; so it keeps nothing of the run itself.
struct HeadProbe {
    host: Weak<Host>,
    account: Weak<TransportAccount>,
    seen: Arc<Seen>,
    /// What is asked for as long as nothing was seen.
    usual: Option<(Repository, Url)>,
}

#[async_trait]
impl LimitProbe for HeadProbe {
    async fn look(&self) -> Option<Quota> {
        let seen = self.seen.lock().clone();
        let (repository, url) = seen.or_else(|| self.usual.clone())?;
        // Without a toll of its own: whoever looks takes in the answer.
        let transport = Transport { side: Side::Upstream, host: self.host.upgrade()?, account: self.account.upgrade()?, toll: None };
        let (scopes, context) = (Scopes::pull(repository.as_str()), RequestContext::new("the pulls that are left"));
        let mut call =
            RegistryRequest::new((RequestKind::ManifestHead, "look at the limits", Method::HEAD), url, &repository, &scopes, &context);
        call.headers = accept();
        // Once: there will be another look.
        match transport.send(&call, &mut RetryBudget::new(transport.host.retry, 1)).await {
            Ok(answer) => Some(answer.quota),
            Err(error) => {
                tracing::debug!(%error, "nobody said what is left of the pulls");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Clock;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_pull_whose_request_never_left_is_the_images_again() {
        let accounts = Accounts::new(Clock::start(jiff::Timestamp::UNIX_EPOCH), None);
        let id = AccountId { host: "docker.io".to_owned(), name: "hub".to_owned() };
        let pulls = PullLimit { limit: Some(5), window: Duration::from_secs(60), reserve: 0 };
        let gate = accounts.gate(&id, Some(pulls), None);
        let lease = gate.acquire(PullRequest { pulls: 2, priority: 0 }, WaitMode::Defer).await.unwrap();
        let pull = MeteredPull { flight: lease.spend().await.ok(), left: false };
        assert_eq!((lease.granted(), gate.standing().remaining), (1, Some(4)));
        drop(pull);
        assert_eq!((lease.granted(), gate.standing().remaining, gate.standing().spent), (2, Some(5), 0));
        let mut pull = MeteredPull { flight: lease.spend().await.ok(), left: false };
        assert!(pull.leaves());
        drop(pull);
        drop(lease);
        assert_eq!((gate.standing().remaining, gate.standing().spent), (Some(4), 1));
    }
}
