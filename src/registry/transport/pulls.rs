//! The pull that a manifest GET spends: reserved before the request, reported after its answer.

use std::sync::Arc;

use tokio::time::Instant;

use super::{OpenResponse, Transport};
use crate::content::RequestContext;
use crate::limits::{Deferred, Gate, Lease, PullRequest, WaitMode};
use crate::registry::counters::RequestKind;
use crate::registry::error;
use crate::registry::error_answer::ErrorAnswer;
use crate::registry::pull_meter::MeteredPull;
use crate::registry::request::RegistryRequest;
use crate::{Result, Side};

/// A refused request waits for the next window as long as its image does. Where others spend from the same account it may be
/// refused again then. After this many refusals in a row we assume that others take every pull.
const MOST_REFUSALS: u32 = 16;

impl Transport {
    /// Whose pulls a request of `context` spends through this registry, if it is a cache that spends its upstream's.
    pub(crate) fn through<'c>(&self, context: &'c RequestContext) -> Option<&'c Arc<Gate>> {
        context.account.as_ref().filter(|_| self.side == Side::Target)
    }

    /// Whether what `context` reads here was read from an upstream, by us or by a cache for us.
    pub(crate) fn reads_upstream(&self, context: &RequestContext) -> bool {
        self.side == Side::Upstream || self.through(context).is_some()
    }

    /// The gate of the pulls that `call` spends.
    fn gate<'c>(&'c self, call: &RegistryRequest<'c>) -> Option<&'c Arc<Gate>> {
        self.through(call.context).or(self.pull_meter.as_ref().map(|meter| &meter.gate))
    }

    /// Whether the answers to `call` are about pulls.
    pub(super) fn pays(&self, call: &RegistryRequest<'_>) -> bool {
        self.gate(call).is_some() && matches!(call.kind, RequestKind::ManifestGet | RequestKind::ManifestHead)
    }

    /// A pull for `call`, if it is one: the image's own, or one of the account's. A request that waits here holds nothing.
    pub(super) async fn pull(&self, call: &RegistryRequest<'_>) -> Result<Option<MeteredPull>> {
        let Some(gate) = self.gate(call).filter(|_| call.kind == RequestKind::ManifestGet) else { return Ok(None) };
        let topic = self.topic(call);
        // A pull that then waited for the host would be taken from others meanwhile.
        self.host.clear().await.map_err(|pause| error::told_to_wait(&topic, pause))?;
        let flight = match &call.context.lease {
            Some(lease) => lease.spend().await,
            None => match Lease::acquire(gate, PullRequest { pulls: 1, priority: 0 }, WaitMode::Defer).await {
                Ok(lease) => lease.spend().await,
                Err(deferred) => Err(deferred),
            },
        };
        let flight = flight.map_err(|why| error::deferred(&topic, &why))?;
        Ok(Some(MeteredPull::new(flight)))
    }

    /// `call` was answered.
    pub(super) fn learn(&self, call: &RegistryRequest<'_>, answer: &OpenResponse, pull: Option<MeteredPull>) {
        if let Some(flight) = pull.and_then(MeteredPull::take) {
            match self.through(call.context) {
                // A cache that says when it asked its upstream has not asked it: no pull was spent.
                Some(_) if self.answered_itself(answer) => return flight.free(),
                Some(_) => call.context.tally.add_pull(),
                None => {}
            }
            flight.answered(&answer.quota);
        } else if let (Some(meter), RequestKind::ManifestHead, Some(repository)) = (&self.pull_meter, call.kind, call.repository) {
            meter.learn(repository, &call.url, &answer.quota, answer.sent);
        }
    }

    /// Whether a cache has this answer of its own, as far as its kind says that.
    fn answered_itself(&self, answer: &OpenResponse) -> bool {
        !self.host.behaviour.passed_on(&answer.headers) && self.host.behaviour.caching().says_origin
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
        match pull.and_then(MeteredPull::take) {
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
