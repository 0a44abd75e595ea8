//! The HEAD that tells how many pulls are left, and costs none.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use reqwest::Method;
use url::Url;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::headers::accept;
use super::pull_meter::{PullMeter, SeenManifest};
use super::request::RegistryRequest;
use super::transport::{Host, RetryBudget, Transport, TransportAccount};
use crate::config::profiles::PullCounting;
use crate::content::{Repository, RequestContext};
use crate::limits::{AccountId, Accounts, LimitProbe, PullLimit, Quota};
use crate::{Operation, Side};

/// The meter of `account` at `host`; `configured` is what the configuration says of its limit.
pub(super) fn meter(accounts: &Accounts, host: &Arc<Host>, account: &Arc<TransportAccount>, configured: Option<PullLimit>) -> PullMeter {
    let id = AccountId { host: host.name.clone(), name: account.name.clone() };
    let seen = Arc::new(SeenManifest::default());
    let usual = match host.profile.pulls {
        PullCounting::ManifestGet { probe: (repository, tag) } => {
            Some((Repository::new(repository), host.endpoint.url(&format!("{repository}/manifests/{tag}"))))
        }
        PullCounting::NothingKnown => None,
    };
    let probe = HeadProbe { host: Arc::downgrade(host), account: Arc::downgrade(account), seen: Arc::clone(&seen), usual };
    PullMeter::new(accounts.gate(&id, configured, Some(Arc::new(probe))), seen)
}

/// Asks by HEAD. The gate owns it, and the accounts of the run own the gate; so it must not keep the run alive.
struct HeadProbe {
    host: Weak<Host>,
    account: Weak<TransportAccount>,
    seen: Arc<SeenManifest>,
    /// What is asked for as long as nothing was seen.
    usual: Option<(Repository, Url)>,
}

#[async_trait]
impl LimitProbe for HeadProbe {
    async fn look(&self) -> Option<Quota> {
        let seen = self.seen.lock().clone();
        let (repository, url) = seen.or_else(|| self.usual.clone())?;
        // Without a meter: the caller observes the answer.
        let transport = Transport { side: Side::Upstream, host: self.host.upgrade()?, account: self.account.upgrade()?, pull_meter: None };
        let (scopes, context) = (Scopes::pull(repository.as_str()), RequestContext::new("the pulls that are left"));
        let mut call =
            RegistryRequest::new((RequestKind::ManifestHead, Operation::ReadLimits, Method::HEAD), url, &repository, &scopes, &context);
        call.headers = accept();
        // Once: there will be another look.
        match transport.send(&call, &mut RetryBudget::new(transport.host.retry, 1)).await {
            Ok(answer) => Some(answer.quota),
            Err(error) => {
                tracing::debug!(%error, "the registry did not say how many pulls are left");
                None
            }
        }
    }
}
