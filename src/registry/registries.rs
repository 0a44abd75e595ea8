//! All registries of a run: one state per host, one login per host and account, one store per side.

use std::collections::HashMap;
use std::sync::Arc;

use super::RegistryStore;
use super::auth::{Authenticator, Logins};
use super::counters::Counters;
use super::limit_probe;
use super::settings::HostSettings;
use super::transport::{BURST, Host, RetryPolicy, Transport, TransportAccount};
use crate::limits::{Accounts, Bandwidth, RequestPacer};
use crate::mutex::Mutex;
use crate::report::RegistryRow;
use crate::{Result, Side};

/// What limits all registries of a run together.
#[derive(Clone)]
pub(crate) struct SharedLimits {
    /// The pull budgets.
    pub(crate) accounts: Arc<Accounts>,
    /// `--bandwidth`: the sum of all bytes.
    pub(crate) bandwidth: Option<Arc<Bandwidth>>,
}

/// What an account without a login is called ([`Logins::name`]).
const ANONYMOUS: &str = "anonymous";

type Lookup = dyn Fn(&str) -> HostSettings + Send + Sync;

/// All registries of a run. Whoever speaks to a host speaks through this, so that permits, pauses and counts are the host's,
/// not the caller's.
pub(crate) struct Registries {
    settings: Box<Lookup>,
    retry: RetryPolicy,
    limits: SharedLimits,
    known: Mutex<KnownRegistries>,
}

#[derive(Default)]
struct KnownRegistries {
    hosts: HashMap<String, Arc<Host>>,
    accounts: HashMap<(String, String), Arc<TransportAccount>>,
    stores: HashMap<(Side, String, String), Arc<RegistryStore>>,
}

impl Registries {
    /// Registries of which nothing is known but how to look up their settings, by their normal name (`docker.io`).
    pub(crate) fn new(settings: impl Fn(&str) -> HostSettings + Send + Sync + 'static, retry: RetryPolicy, limits: SharedLimits) -> Self {
        Registries { settings: Box::new(settings), retry, limits, known: Mutex::default() }
    }

    /// The store at `host`, as `account` sees it. The same three give the same store; the same host and account share
    /// their tokens and counts, the same host shares permits and pauses.
    ///
    /// # Errors
    /// If the host's settings do not hold: an endpoint that is no address, a certificate that cannot be read.
    pub(crate) fn store(&self, side: Side, host: &str, account: Arc<dyn Logins>) -> Result<Arc<RegistryStore>> {
        let mut known = self.known.lock();
        let name = account.name().to_owned();
        let key = (side, host.to_owned(), name.clone());
        if let Some(store) = known.stores.get(&key) {
            return Ok(Arc::clone(store));
        }
        let settings = (self.settings)(host);
        let shared = self.host(&mut known, host, &settings)?;
        let account = known.accounts.entry((host.to_owned(), name.clone())).or_insert_with(|| {
            let policy = Arc::clone(&shared.policy);
            let authenticator = Authenticator::new(host, shared.endpoint.root().clone(), side, account, policy, settings.named.clone());
            let usual =
                || shared.profile.requests_per_second(name == ANONYMOUS).and_then(|rate| RequestPacer::new(rate, BURST)).map(Arc::new);
            let pace = shared.pace.clone().or_else(usual);
            Arc::new(TransportAccount { name, counters: Counters::default(), authenticator, pace })
        });
        let account = Arc::clone(account);
        if side == Side::Upstream && account.pace.is_none() {
            shared.begin_slowly();
        }
        // Only what is read from an upstream is a pull.
        let pull_meter = (side == Side::Upstream).then(|| limit_probe::meter(&self.limits.accounts, &shared, &account, settings.pulls));
        let transport = Transport { side, host: shared, account, pull_meter };
        let store = Arc::new(RegistryStore::new(transport));
        known.stores.insert(key, Arc::clone(&store));
        Ok(store)
    }

    fn host(&self, known: &mut KnownRegistries, host: &str, settings: &HostSettings) -> Result<Arc<Host>> {
        if let Some(shared) = known.hosts.get(host) {
            return Ok(Arc::clone(shared));
        }
        let shared = Arc::new(Host::new(host, settings, self.retry, self.limits.bandwidth.clone())?);
        known.hosts.insert(host.to_owned(), Arc::clone(&shared));
        Ok(shared)
    }

    /// What was asked of whom so far, by host and account: the report's `registries`.
    pub(crate) fn rows(&self) -> Vec<RegistryRow> {
        let known = self.known.lock();
        let standing = |host: &String, name: &String| {
            let store = known.stores.get(&(Side::Upstream, host.clone(), name.clone()))?;
            store.gate().map(|gate| gate.standing())
        };
        let row =
            |((host, name), account): (&(String, String), &Arc<TransportAccount>)| account.counters.row(host, name, standing(host, name));
        let mut rows: Vec<RegistryRow> = known.accounts.iter().map(row).collect();
        rows.sort_by(|a, b| (&a.host, &a.account).cmp(&(&b.host, &b.account)));
        rows
    }
}
