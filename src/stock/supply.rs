//! Opens what a run needs: the target, and for each image its upstream as the right account.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use crate::config::{Config, CredentialStore, Profile, RegistrySettings, TARGET_CONCURRENCY, Target, UPSTREAM_CONCURRENCY};
use crate::content::{Charge, Digest, Place, Source};
use crate::copy::{self, Image};
use crate::layout::Layout;
use crate::limits::{AccountId, Accounts, Bandwidth, Clock, Gate, Ledger, Rate, Standing};
use crate::name::Reference;
use crate::registry::{Concurrency, HostSettings, HttpSettings, Limits, Registries, RegistryStore, RetryPolicy, check_files};
use crate::report::RegistryRow;
use crate::resume::{CreatedDates, Deliveries, Kept, Pushes, Warmed};
use crate::stock::by_account::ByAccount;
use crate::stock::{Item, Want};
use crate::warm::WritableCache;
use crate::{Error, Kind, Result, Side};

/// Repositories that are asked at once whether they take pushes; requests are limited by the registry's own concurrency.
const PLACES: usize = 16;

/// The registries and credentials of a run.
pub struct Supply {
    pub(super) registries: Arc<Registries>,
    pub(super) credentials: Arc<CredentialStore>,
    /// Where manifests of undelivered images are kept; none when a command delivers nothing.
    kept: Option<Arc<Kept>>,
    /// When images were created, as far as anybody has read it.
    pub(super) created: CreatedDates,
    /// What was pulled through caches.
    pub(super) warmed: Arc<Warmed>,
    /// Which registries have taken pushes.
    pushes: Arc<Pushes>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) config: Config,
    /// The folder for what outlives a run.
    state: Option<PathBuf>,
}

/// What the command line says of all registries.
#[derive(Debug, Clone, Copy, Default)]
pub struct SupplyOptions<'a> {
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
    pub target: Target,
    /// Its two ends.
    pub ends: copy::Target,
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
async fn absent(target: &Target) -> Result<TargetStore> {
    let folder = tempfile::tempdir().map_err(|error| Error::io("open layout", &std::env::temp_dir(), &error))?;
    let layout = Arc::new(Layout::open_or_create(folder.path()).await?);
    let ends = copy::Target { sink: Arc::clone(&layout) as _, source: layout };
    Ok(TargetStore { target: target.clone(), ends, registry: None, cache: None, writable: false, _stand_in: Some(Arc::new(folder)) })
}

impl TargetStore {
    /// Whether the configuration says that it is a pull-through cache.
    pub fn is_known_cache(&self) -> bool {
        self.writable || self.cache.is_some()
    }

    /// Why answers to HEADs prove nothing there, if the configuration or the answers so far say that it is a pull-through cache. Where they
    /// only look like it, an upload to each of `places` is opened and cancelled: a cache refuses it.
    pub async fn cache_among<'a>(&self, places: impl Iterator<Item = &'a Place>) -> Option<Error> {
        let registry = self.registry.as_ref()?;
        let refused = match (self.is_known_cache(), registry.has_passed_on()) {
            (true, _) => None,
            (false, true) => Some("it says so (X-Azure-Origin)".to_owned()),
            (false, false) if !registry.may_be_a_cache() => return None,
            (false, false) => {
                let asked = stream::iter(places.cloned()).map(|place| async move {
                    let charge = Charge::new(format!("{}/{place}", registry.host()));
                    registry.refuses_as_cache(&place, &charge).await
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

impl Supply {
    /// The supply that `config` describes.
    ///
    /// # Errors
    /// If the state folder cannot be used.
    pub fn new(config: &Config, options: &SupplyOptions<'_>) -> Result<Self> {
        let ledger = options.state.map(if options.read_only { Ledger::unwritable } else { Ledger::open });
        let options = &SupplyOptions { state: options.state.filter(|_| !options.read_only), ..*options };
        let kept = options.state.map(|state| Kept::open(&state.join("manifests"))).transpose()?.map(Arc::new);
        let now = jiff::Timestamp::now();
        let warmed = options.state.map(|state| Warmed::open(state, now)).transpose()?.unwrap_or_default();
        let pushes = options.state.map(|state| Pushes::open(state, now)).unwrap_or_default();
        let accounts = Arc::new(Accounts::new(Clock::of_system(), ledger));
        let limits = Limits { accounts: Arc::clone(&accounts), bandwidth: options.bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))) };
        let created = CreatedDates::new(options.state);
        let registries = Arc::new(registries(config, options.concurrency, limits));
        Ok(Supply {
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
    pub async fn target(&self, target: &Target, create: bool) -> Result<TargetStore> {
        let mut registry = None;
        let ends = match target {
            Target::Registry { host, prefix } => {
                let account = self.credentials.account_for_host(host, prefix).await?;
                let store = self.registries.store(Side::Target, host, Arc::new(account))?;
                store.remember_pushes(Arc::clone(&self.pushes));
                registry = Some(Arc::clone(&store));
                if self.is_writable_cache(target) {
                    copy::Target { sink: WritableCache::new(Arc::clone(&store), Arc::clone(&self.warmed)), source: store }
                } else if self.credentials.depends_on_path(host).await {
                    let each = Arc::new(ByAccount::new(host, &self.registries, &self.credentials, store, &self.pushes));
                    copy::Target { sink: Arc::clone(&each) as _, source: each }
                } else {
                    copy::Target { sink: Arc::clone(&store) as _, source: store }
                }
            }
            Target::Layout { path } if create || Layout::is_there(path) => {
                let layout = Arc::new(if create { Layout::open_or_create(path).await? } else { Layout::open(path).await? });
                copy::Target { sink: Arc::clone(&layout) as _, source: layout }
            }
            Target::Layout { .. } => return absent(target).await,
        };
        let cache = self.config.cache_profile(target);
        let writable = self.is_writable_cache(target);
        Ok(TargetStore { target: target.clone(), ends, registry, cache, writable, _stand_in: None })
    }

    fn is_writable_cache(&self, target: &Target) -> bool {
        self.config.writable_cache && *target == self.config.target
    }

    /// The upstream of `want`, as the account its rule names or the lookup finds.
    ///
    /// # Errors
    /// If its credentials cannot be had.
    pub(crate) async fn upstream(&self, item: &Item) -> Result<Arc<RegistryStore>> {
        let source = &item.entry.source;
        let set = item.rule.as_ref().and_then(|rule| rule.credentials.as_deref());
        let account = self.credentials.account_for(source, set).await?;
        self.registries.store(Side::Upstream, &source.host, Arc::new(account))
    }

    /// The image that `want` asks for, and the gate of the pulls it will spend, where there is one.
    ///
    /// # Errors
    /// If its credentials cannot be had.
    pub async fn image(&self, want: &Want) -> Result<(Image, Option<Arc<Gate>>)> {
        let store = self.upstream(&want.item).await?;
        let gate = store.gate();
        let upstream: Arc<dyn Source> = match &self.kept {
            Some(kept) => Arc::new(kept.before(store)),
            None => store,
        };
        let rule = want.item.rule.as_ref();
        let immutable = matches!(&want.publish, Reference::Tag(tag) if rule.is_some_and(|rule| rule.immutable_tags.matches(tag)));
        let charge = Charge::new(want.source());
        let charge = match &want.resolved {
            Some(resolved) => Charge { tally: Arc::clone(&resolved.tally), ..charge },
            None => charge,
        };
        let image = Image {
            name: want.canonical().into(),
            upstream,
            from: Place::new(want.item.entry.source.path.as_str()),
            wanted: want.wanted.clone(),
            resolved: want.resolved.as_ref().and_then(|resolved| resolved.descriptor.clone()),
            to: want.item.to.clone(),
            publish: want.publish.clone(),
            charge,
            immutable,
            policy: Arc::clone(&want.item.policy),
        };
        Ok((image, gate))
    }

    /// When which image was first delivered to `target`, where that is kept.
    pub(crate) fn deliveries(&self, target: &Target) -> Option<Arc<Deliveries>> {
        let name = match target {
            Target::Layout { path } => format!("oci:{}", std::path::absolute(path).as_ref().unwrap_or(path).display()),
            Target::Registry { host, .. } => host.clone(),
        };
        // Without it, images are looked at once more.
        Deliveries::open(self.state.as_ref()?, &name).ok().map(Arc::new)
    }

    /// No pulls of some account can be spent, now or later, because the state folder cannot be written.
    pub fn pulls_blocked(&self) -> bool {
        self.accounts.blocked()
    }

    /// What is known of each account's pulls.
    pub fn standings(&self) -> Vec<(AccountId, Standing)> {
        self.accounts.standings()
    }

    /// What the account that `host` sees says of its pulls, after a look by HEAD; the error says why it could not be asked. `about` is an
    /// image to ask about, for upstreams that have none of their own for that.
    ///
    /// # Errors
    /// If its credentials cannot be had, or it gives no answer.
    pub async fn look(&self, host: &str, about: Option<&Item>) -> Result<(AccountId, Standing)> {
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
        let want = about.and_then(Item::probe);
        let asked = match want {
            Some(reference) => {
                let charge = Charge::new(format!("{host}/{path}{}", reference.suffix()));
                store.resolve(&Place::new(path), &reference, &charge).await?.is_some()
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
fn registries(config: &Config, concurrency: Option<usize>, limits: Limits) -> Registries {
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
