//! Opens what a run needs: the target, and for each image its upstream as the right account.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::Instant;

use super::target_accounts::PerRepositoryAccounts;
use super::{ImageRequest, RuledEntry, TargetStore};
use crate::config::{Config, CredentialStore, RegistrySettings, TargetConfig};
use crate::content::{Digest, Repository, RequestContext, Source};
use crate::copy::{self, CopyImage};
use crate::layout::Layout;
use crate::limits::{AccountId, AccountStatus, Accounts, Bandwidth, Clock, Gate, Ledger, Quota, Rate};
use crate::registry::{HostSettings, HttpSettings, Registries, RegistryStore, RetryPolicy, SharedLimits, check_files, pull_row};
use crate::report::{RegistryRow, Requests};
use crate::rules::CacheRule;
use crate::state::{CreatedDates, Deliveries, Pushes, SavedManifests, SharedState, WarmedRecords};
use crate::warm::WritableCache;
use crate::{Error, Kind, Operation, Result, Side};

/// The account of a cache whose login larder does not know.
const CACHES_OWN: &str = "cache";

/// The registries and credentials of a run.
pub struct Upstreams {
    pub(super) registries: Arc<Registries>,
    pub(super) credentials: Arc<CredentialStore>,
    /// Manifests of images that are not delivered yet; none when a command delivers nothing.
    kept: Option<Arc<SavedManifests>>,
    /// Creation dates of images, as far as they were read.
    pub(super) created: CreatedDates,
    /// What was pulled through caches.
    pub(super) warmed: Arc<WarmedRecords>,
    /// Which registries have taken pushes.
    pushes: Arc<Pushes>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) config: Config,
    /// The folder for what outlives a run.
    state: Option<PathBuf>,
    /// The store that the state goes back to.
    shared: Option<Arc<SharedState>>,
}

/// What the command line says of all registries.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpstreamOptions<'a> {
    /// Requests in flight to each registry at most, where it is given.
    pub concurrency: Option<usize>,
    /// Bytes per second over all registries, read and written.
    pub bandwidth: Option<Rate>,
    /// The folder for what outlives a run; `None` keeps nothing.
    pub state: Option<&'a Path>,
    /// It cannot be written: it is not used, except that no counted pull is spent without it.
    pub read_only: bool,
}

impl Upstreams {
    /// The upstreams that `config` describes.
    ///
    /// # Errors
    /// If the state folder cannot be used.
    pub fn new(config: &Config, options: &UpstreamOptions<'_>) -> Result<Self> {
        let ledger = options.state.map(if options.read_only { Ledger::unwritable } else { Ledger::open });
        let options = &UpstreamOptions { state: options.state.filter(|_| !options.read_only), ..*options };
        Self::build(config, options, Clock::of_system(), ledger, None)
    }

    /// As [`Upstreams::new`], with a state that machines share; `options.state` does not count. Windows run by the store's clock.
    ///
    /// # Errors
    /// If the folder of this run cannot be used.
    pub async fn with_shared_state(config: &Config, options: &UpstreamOptions<'_>, shared: Arc<SharedState>) -> Result<Self> {
        let ledger = Ledger::shared(Arc::clone(shared.store())).await;
        let clock = Clock::start(shared.clock().at(jiff::Timestamp::now()));
        let folder = shared.folder().to_owned();
        Self::build(config, &UpstreamOptions { state: Some(&folder), ..*options }, clock, Some(ledger), Some(shared))
    }

    fn build(
        config: &Config,
        options: &UpstreamOptions<'_>,
        clock: Clock,
        ledger: Option<Ledger>,
        shared: Option<Arc<SharedState>>,
    ) -> Result<Self> {
        let kept = options.state.map(|state| SavedManifests::open(&state.join("manifests"))).transpose()?;
        let kept = kept.map(|kept| match &shared {
            Some(shared) => kept.shared(Arc::clone(shared.store())),
            None => kept,
        });
        let now = jiff::Timestamp::now();
        let warmed = options.state.map(|state| WarmedRecords::open(state, now)).transpose()?.unwrap_or_default();
        let pushes = options.state.map(|state| Pushes::open(state, now)).unwrap_or_default();
        let accounts = Arc::new(Accounts::new(clock, ledger));
        let limits =
            SharedLimits { accounts: Arc::clone(&accounts), bandwidth: options.bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))) };
        let created = CreatedDates::new(options.state);
        let registries = Arc::new(registries(config, options.concurrency, limits));
        Ok(Upstreams {
            registries,
            credentials: Arc::new(CredentialStore::new(config)),
            kept: kept.map(Arc::new),
            created,
            warmed: Arc::new(warmed),
            pushes: Arc::new(pushes),
            accounts,
            config: config.clone(),
            state: options.state.map(Path::to_owned),
            shared,
        })
    }

    /// When the image of this digest was created, if that was ever read.
    pub fn created(&self, digest: &Digest) -> Option<jiff::Timestamp> {
        self.created.get(digest).flatten()
    }

    /// Opens `target`; a layout is created if it is not there and `create` says so.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn target(&self, target: &TargetConfig, create: bool) -> Result<TargetStore> {
        let mut registry = None;
        let ends = match target {
            TargetConfig::Registry { host, prefix } => {
                let account = self.credentials.account_for_host(host, prefix).await?;
                let store = self.registries.store(Side::Target, host, Arc::new(account))?;
                store.remember_pushes(Arc::clone(&self.pushes));
                registry = Some(Arc::clone(&store));
                if self.is_writable_cache(target) {
                    copy::TargetEnds { sink: WritableCache::new(Arc::clone(&store), Arc::clone(&self.warmed)), source: store }
                } else if self.credentials.depends_on_path(host).await {
                    let each = Arc::new(PerRepositoryAccounts::new(host, &self.registries, &self.credentials, store, &self.pushes));
                    copy::TargetEnds { sink: Arc::clone(&each) as _, source: each }
                } else {
                    copy::TargetEnds { sink: Arc::clone(&store) as _, source: store }
                }
            }
            TargetConfig::Layout { path } if create || Layout::is_there(path) => {
                let layout = Arc::new(if create { Layout::open_or_create(path).await? } else { Layout::open(path).await? });
                copy::TargetEnds { sink: Arc::clone(&layout) as _, source: layout }
            }
            TargetConfig::Layout { .. } => return TargetStore::absent(target).await,
        };
        let cache = self.config.cache_profile(target);
        let writable = self.is_writable_cache(target);
        Ok(TargetStore { target: target.clone(), ends, registry, cache, writable, _stand_in: None })
    }

    fn is_writable_cache(&self, target: &TargetConfig) -> bool {
        self.config.writable_cache && *target == self.config.target
    }

    /// The upstream of `line`, with the account that its rule names or that is configured for its repository.
    ///
    /// # Errors
    /// If its credentials cannot be read.
    pub(crate) async fn upstream(&self, line: &RuledEntry) -> Result<Arc<RegistryStore>> {
        let source = &line.entry.source;
        let set = line.rule.as_ref().and_then(|rule| rule.credentials.as_deref());
        let account = self.credentials.account_for(source, set).await?;
        self.registries.store(Side::Upstream, &source.host, Arc::new(account))
    }

    /// The image that `request` asks for, and the gate of the pulls it will spend, where there is one.
    ///
    /// # Errors
    /// If its credentials cannot be read.
    pub async fn image(&self, request: &ImageRequest) -> Result<(CopyImage, Option<Arc<Gate>>)> {
        let store = self.upstream(&request.line).await?;
        let gate = store.gate();
        let upstream: Arc<dyn Source> = match &self.kept {
            Some(kept) => Arc::new(kept.before(store)),
            None => store,
        };
        let context = RequestContext::new(request.source());
        let context = match &request.resolved {
            Some(resolved) => RequestContext { tally: Arc::clone(&resolved.tally), ..context },
            None => context,
        };
        let image = CopyImage {
            name: request.canonical().into(),
            upstream,
            from: Repository::new(request.line.entry.source.path.as_str()),
            wanted: request.wanted.clone(),
            resolved: request.resolved.as_ref().and_then(|resolved| resolved.descriptor.clone()),
            to: request.line.to.clone(),
            publish: request.publish.clone(),
            context,
            immutable: request.is_immutable(),
            policy: Arc::clone(&request.line.policy),
        };
        Ok((image, gate))
    }

    /// The gate of the account that a cache pulls with, where that account cannot be asked: the rule's credential set, or one that stands
    /// for the cache's own login. Only configured limits are known of it.
    pub(super) fn gate_of_cache(&self, upstream: &str, rule: &CacheRule, cache: &str) -> Arc<Gate> {
        let account = match &rule.credentials {
            Some(set) => AccountId { host: upstream.to_owned(), name: set.clone() },
            None => AccountId { host: format!("{upstream} via {cache}"), name: CACHES_OWN.to_owned() },
        };
        let gate = self.accounts.gate(&account, self.config.registry(upstream).pulls, None);
        // No answer will ever tell its limit: unless one is configured, nothing is counted until a refusal says otherwise.
        gate.observe(&Quota::default(), Instant::now());
        gate
    }

    /// When which image was first delivered to `target`, where that is kept.
    pub(crate) fn deliveries(&self, target: &TargetConfig) -> Option<Arc<Deliveries>> {
        let name = match target {
            TargetConfig::Layout { path } => format!("oci:{}", std::path::absolute(path).as_ref().unwrap_or(path).display()),
            TargetConfig::Registry { host, .. } => host.clone(),
        };
        // Without it, images are looked at once more.
        Deliveries::open(self.state.as_ref()?, &name).ok().map(Arc::new)
    }

    /// No pulls of some account can be spent, now or later, because the state folder cannot be written.
    pub fn pulls_blocked(&self) -> bool {
        self.accounts.blocked()
    }

    /// The folder with the state of this run, if there is one.
    pub fn state_folder(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// Tells other processes and machines, and later runs, what this run knows. To be called at its end.
    pub async fn finish(&self) {
        self.accounts.tell().await;
        if let Some(kept) = &self.kept {
            kept.finish().await;
        }
        self.share_state().await;
    }

    /// Sends what was added to a state that machines share: for commands that spend no pull.
    pub async fn share_state(&self) {
        if let Some(shared) = &self.shared
            && let Err(error) = shared.send().await
        {
            tracing::warn!("{error}; the next run asks again for what this one learnt");
        }
    }

    /// What is known of each account's pulls.
    pub fn standings(&self) -> Vec<(AccountId, AccountStatus)> {
        self.accounts.standings()
    }

    /// What the account that `host` sees says of its pulls, after a look by HEAD; the error says why it could not be asked. `about` is an
    /// image to ask about, for upstreams that have none of their own for that.
    ///
    /// # Errors
    /// If its credentials cannot be had, or it gives no answer.
    pub async fn look(&self, host: &str, about: Option<&RuledEntry>) -> Result<(AccountId, AccountStatus)> {
        let path = about.map_or("", |line| line.entry.source.path.as_str());
        let account = match about {
            Some(line) => {
                let set = line.rule.as_ref().and_then(|rule| rule.credentials.as_deref());
                self.credentials.account_for(&line.entry.source, set).await?
            }
            None => self.credentials.account_for_host(host, path).await?,
        };
        let store = self.registries.store(Side::Upstream, host, Arc::new(account))?;
        let gate = store
            .gate()
            .ok_or_else(|| Error::new(Side::Upstream, Operation::AskForLimits, Kind::Local, "pulls are not counted here").subject(host))?;
        let request = about.and_then(RuledEntry::probe);
        let asked = match request {
            Some(reference) => {
                let context = RequestContext::new(format!("{host}/{path}{}", reference.suffix()));
                store.resolve(&Repository::new(path), &reference, &context).await?.is_some()
            }
            None => gate.look().await,
        };
        if !asked {
            let error = Error::new(Side::Upstream, Operation::AskForLimits, Kind::NotFound, "there is no image to ask about").subject(host);
            return Err(error.remedy("set `lists` in larder.toml, so that larder knows an image there"));
        }
        Ok((gate.account().clone(), gate.standing()))
    }

    /// What was asked of each registry so far.
    pub fn rows(&self) -> Vec<RegistryRow> {
        let mut rows = self.registries.rows();
        add_accounts(&mut rows, &self.standings());
        rows
    }
}

/// Adds rows for accounts that larder itself sends nothing with: what a cache spends for us.
fn add_accounts(rows: &mut Vec<RegistryRow>, standings: &[(AccountId, AccountStatus)]) {
    for (account, standing) in standings {
        if rows.iter().any(|row| row.host == account.host && row.account == account.name) {
            continue;
        }
        let Some(pulls) = pull_row(standing.clone()) else { continue };
        rows.push(RegistryRow {
            host: account.host.clone(),
            account: account.name.clone(),
            requests: Requests::default(),
            throttled: standing.refused,
            retries: 0,
            waited_seconds: standing.waited.as_secs_f64(),
            pulls: Some(pulls),
        });
    }
    rows.sort_by(|a, b| (&a.host, &a.account).cmp(&(&b.host, &b.account)));
}

fn http_settings(settings: &RegistrySettings) -> HttpSettings {
    HttpSettings {
        ca: settings.ca.clone(),
        client_cert: settings.client_cert.clone(),
        client_key: settings.client_key.clone(),
        insecure_skip_verify: settings.insecure_skip_verify,
    }
}

/// Reads the certificate and key files that the configuration names for `host`.
///
/// # Errors
/// Which of them is at fault, and why.
pub fn check_certificates(config: &Config, host: &str) -> Result<()> {
    check_files(&http_settings(&config.registry(host)))
}

/// Registries as `config` describes them; `concurrency`, if given, is the ceiling of all of them, from the command line.
fn registries(config: &Config, concurrency: Option<usize>, limits: SharedLimits) -> Registries {
    let named: std::sync::Arc<[(String, u16)]> = config.named_ports().into();
    let config = config.clone();
    let settings = move |host: &str| {
        let settings = config.registry(host);
        HostSettings {
            endpoint: settings.endpoint.as_ref().map(ToString::to_string),
            plain_http: settings.plain_http,
            http: http_settings(&settings),
            concurrency: concurrency.or(settings.concurrency),
            allow_private: settings.allow_private,
            profile: settings.profile,
            pulls: settings.pulls,
            requests_per_second: settings.requests_per_second,
            bandwidth: settings.bandwidth,
            min_rate: settings.min_rate,
            named: std::sync::Arc::clone(&named),
            retry_after_max: settings.retry_after_max,
        }
    };
    Registries::new(settings, RetryPolicy::default(), limits)
}
