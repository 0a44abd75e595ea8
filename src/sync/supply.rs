//! Opens what a run needs: the target, and for each image its upstream as the right account.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use crate::config::{Config, CredentialStore, Profile, RegistrySettings, TARGET_CONCURRENCY, TargetConfig, UPSTREAM_CONCURRENCY};
use crate::content::{Digest, Repository, RequestContext, Source};
use crate::copy::{self, CopyImage};
use crate::layout::Layout;
use crate::limits::{AccountId, AccountStatus, Accounts, Bandwidth, Clock, Gate, Ledger, Rate};
use crate::name::Reference;
use crate::registry::{Concurrency, HostSettings, HttpSettings, Registries, RegistryStore, RetryPolicy, SharedLimits, check_files};
use crate::report::RegistryRow;
use crate::state::{CreatedDates, Deliveries, Pushes, SavedManifests, WarmedRecords};
use crate::sync::by_account::ByAccount;
use crate::sync::{ImageRequest, RuledEntry};
use crate::warm::WritableCache;
use crate::{Error, Kind, Result, Side};

/// Repositories that are asked at once whether they take pushes; requests are limited by the registry's own concurrency.
const PLACES: usize = 16;

/// The registries and credentials of a run.
pub struct Upstreams {
    pub(super) registries: Arc<Registries>,
    pub(super) credentials: Arc<CredentialStore>,
    /// Where manifests of undelivered images are kept; none when a command delivers nothing.
    kept: Option<Arc<SavedManifests>>,
    /// When images were created, as far as anybody has read it.
    pub(super) created: CreatedDates,
    /// What was pulled through caches.
    pub(super) warmed: Arc<WarmedRecords>,
    /// Which registries have taken pushes.
    pushes: Arc<Pushes>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) config: Config,
    /// The folder for what outlives a run.
    state: Option<PathBuf>,
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

/// A target that has been opened.
#[derive(Clone)]
pub struct TargetStore {
    /// Its name, as the user gave it.
    pub target: TargetConfig,
    /// Its two ends.
    pub ends: copy::TargetEnds,
    /// It, where it is a registry: it may be a cache to be warmed.
    pub(super) registry: Option<Arc<RegistryStore>>,
    /// Its profile, if that says that it is a pull-through cache, which takes no pushes.
    pub(super) cache: Option<&'static Profile>,
    /// The configuration says that it is a cache which takes pushes.
    writable: bool,
    /// The empty layout that stands for one that does not exist yet, removed with this.
    _stand_in: Option<Arc<tempfile::TempDir>>,
}

/// A layout that does not exist and is not to be made: an empty one elsewhere answers for it.
async fn absent(target: &TargetConfig) -> Result<TargetStore> {
    let folder = tempfile::tempdir().map_err(|error| Error::io("open layout", &std::env::temp_dir(), &error))?;
    let layout = Arc::new(Layout::open_or_create(folder.path()).await?);
    let ends = copy::TargetEnds { sink: Arc::clone(&layout) as _, source: layout };
    Ok(TargetStore { target: target.clone(), ends, registry: None, cache: None, writable: false, _stand_in: Some(Arc::new(folder)) })
}

impl TargetStore {
    /// Whether the configuration says that it is a pull-through cache.
    pub fn is_known_cache(&self) -> bool {
        self.writable || self.cache.is_some()
    }

    /// Why answers to HEADs prove nothing there, if the configuration or the answers so far say that it is a pull-through cache. Where they
    /// only look like it, an upload to each of `places` is opened and cancelled: a cache refuses it.
    pub async fn cache_among<'a>(&self, places: impl Iterator<Item = &'a Repository>) -> Option<Error> {
        let registry = self.registry.as_ref()?;
        let refused = match (self.is_known_cache(), registry.has_passed_on()) {
            (true, _) => None,
            (false, true) => Some("it says so (X-Azure-Origin)".to_owned()),
            (false, false) if !registry.may_be_a_cache() => return None,
            (false, false) => {
                let asked = stream::iter(places.cloned()).map(|repository| async move {
                    let context = RequestContext::new(format!("{}/{repository}", registry.host()));
                    registry.refuses_as_cache(&repository, &context).await
                });
                let refused = asked.buffered(PLACES).filter_map(std::future::ready);
                Some(std::pin::pin!(refused).next().await?)
            }
        };
        let why = refused.map(|why| format!(": {why}")).unwrap_or_default();
        let message =
            format!("{} is a pull-through cache{why}; what it answers to HEAD proves nothing, as it asks its upstream", self.target);
        Some(Error::new(Side::Target, "verify", Kind::Refused, message).remedy("--deep reads and hashes everything through it"))
    }
}

impl Upstreams {
    /// The supply that `config` describes.
    ///
    /// # Errors
    /// If the state folder cannot be used.
    pub fn new(config: &Config, options: &UpstreamOptions<'_>) -> Result<Self> {
        let ledger = options.state.map(if options.read_only { Ledger::unwritable } else { Ledger::open });
        let options = &UpstreamOptions { state: options.state.filter(|_| !options.read_only), ..*options };
        let kept = options.state.map(|state| SavedManifests::open(&state.join("manifests"))).transpose()?.map(Arc::new);
        let now = jiff::Timestamp::now();
        let warmed = options.state.map(|state| WarmedRecords::open(state, now)).transpose()?.unwrap_or_default();
        let pushes = options.state.map(|state| Pushes::open(state, now)).unwrap_or_default();
        let accounts = Arc::new(Accounts::new(Clock::of_system(), ledger));
        let limits =
            SharedLimits { accounts: Arc::clone(&accounts), bandwidth: options.bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))) };
        let created = CreatedDates::new(options.state);
        let registries = Arc::new(registries(config, options.concurrency, limits));
        Ok(Upstreams {
            registries,
            credentials: Arc::new(CredentialStore::new(config)),
            kept,
            created,
            warmed: Arc::new(warmed),
            pushes: Arc::new(pushes),
            accounts,
            config: config.clone(),
            state: options.state.map(Path::to_owned),
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
                    let each = Arc::new(ByAccount::new(host, &self.registries, &self.credentials, store, &self.pushes));
                    copy::TargetEnds { sink: Arc::clone(&each) as _, source: each }
                } else {
                    copy::TargetEnds { sink: Arc::clone(&store) as _, source: store }
                }
            }
            TargetConfig::Layout { path } if create || Layout::is_there(path) => {
                let layout = Arc::new(if create { Layout::open_or_create(path).await? } else { Layout::open(path).await? });
                copy::TargetEnds { sink: Arc::clone(&layout) as _, source: layout }
            }
            TargetConfig::Layout { .. } => return absent(target).await,
        };
        let cache = self.config.cache_profile(target);
        let writable = self.is_writable_cache(target);
        Ok(TargetStore { target: target.clone(), ends, registry, cache, writable, _stand_in: None })
    }

    fn is_writable_cache(&self, target: &TargetConfig) -> bool {
        self.config.writable_cache && *target == self.config.target
    }

    /// The upstream of `want`, as the account its rule names or the lookup finds.
    ///
    /// # Errors
    /// If its credentials cannot be had.
    pub(crate) async fn upstream(&self, item: &RuledEntry) -> Result<Arc<RegistryStore>> {
        let source = &item.entry.source;
        let set = item.rule.as_ref().and_then(|rule| rule.credentials.as_deref());
        let account = self.credentials.account_for(source, set).await?;
        self.registries.store(Side::Upstream, &source.host, Arc::new(account))
    }

    /// The image that `want` asks for, and the gate of the pulls it will spend, where there is one.
    ///
    /// # Errors
    /// If its credentials cannot be had.
    pub async fn image(&self, want: &ImageRequest) -> Result<(CopyImage, Option<Arc<Gate>>)> {
        let store = self.upstream(&want.item).await?;
        let gate = store.gate();
        let upstream: Arc<dyn Source> = match &self.kept {
            Some(kept) => Arc::new(kept.before(store)),
            None => store,
        };
        let rule = want.item.rule.as_ref();
        let immutable = matches!(&want.publish, Reference::Tag(tag) if rule.is_some_and(|rule| rule.immutable_tags.matches(tag)));
        let context = RequestContext::new(want.source());
        let context = match &want.resolved {
            Some(resolved) => RequestContext { tally: Arc::clone(&resolved.tally), ..context },
            None => context,
        };
        let image = CopyImage {
            name: want.canonical().into(),
            upstream,
            from: Repository::new(want.item.entry.source.path.as_str()),
            wanted: want.wanted.clone(),
            resolved: want.resolved.as_ref().and_then(|resolved| resolved.descriptor.clone()),
            to: want.item.to.clone(),
            publish: want.publish.clone(),
            context,
            immutable,
            policy: Arc::clone(&want.item.policy),
        };
        Ok((image, gate))
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
        let path = about.map_or("", |item| item.entry.source.path.as_str());
        let account = match about {
            Some(item) => {
                let set = item.rule.as_ref().and_then(|rule| rule.credentials.as_deref());
                self.credentials.account_for(&item.entry.source, set).await?
            }
            None => self.credentials.account_for_host(host, path).await?,
        };
        let store = self.registries.store(Side::Upstream, host, Arc::new(account))?;
        let gate = store
            .gate()
            .ok_or_else(|| Error::new(Side::Upstream, "ask for limits", Kind::Local, "pulls are not counted here").subject(host))?;
        let want = about.and_then(RuledEntry::probe);
        let asked = match want {
            Some(reference) => {
                let context = RequestContext::new(format!("{host}/{path}{}", reference.suffix()));
                store.resolve(&Repository::new(path), &reference, &context).await?.is_some()
            }
            None => gate.look().await,
        };
        if !asked {
            let error = Error::new(Side::Upstream, "ask for limits", Kind::NotFound, "there is no image to ask about").subject(host);
            return Err(error.remedy("set `lists` in larder.toml, so that larder knows an image there"));
        }
        Ok((gate.account().clone(), gate.standing()))
    }

    /// What was asked of each registry so far.
    pub fn rows(&self) -> Vec<RegistryRow> {
        let mut rows = self.registries.rows();
        super::warm::add_accounts(&mut rows, &self.standings());
        rows
    }
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

/// Registries as `config` describes them; `concurrency`, if given, is what the command line says for all of them.
fn registries(config: &Config, concurrency: Option<usize>, limits: SharedLimits) -> Registries {
    let defaults = Concurrency { upstream: concurrency.unwrap_or(UPSTREAM_CONCURRENCY), target: concurrency.unwrap_or(TARGET_CONCURRENCY) };
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
    Registries::new(settings, defaults, RetryPolicy::default(), limits)
}
