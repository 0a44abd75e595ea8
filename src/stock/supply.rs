//! Opens what a run needs: the target, and for each image its upstream as the right account.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, CredentialStore, TARGET_CONCURRENCY, Target, UPSTREAM_CONCURRENCY};
use crate::content::{Charge, Place, Source};
use crate::copy::{self, Image};
use crate::layout::Layout;
use crate::limits::{Accounts, Clock};
use crate::registry::{Concurrency, HostSettings, HttpSettings, Limits, Registries, RegistryStore, RetryPolicy};
use crate::report::RegistryRow;
use crate::resume::Kept;
use crate::stock::Want;
use crate::{Error, Result, Side};

/// The registries and credentials of a run.
pub struct Supply {
    registries: Registries,
    credentials: CredentialStore,
    /// Where manifests of undelivered images are kept; none when a command delivers nothing.
    kept: Option<Arc<Kept>>,
}

/// A target that has been opened.
#[derive(Clone)]
pub struct TargetStore {
    /// Its name, as the user gave it.
    pub target: Target,
    /// Its two ends.
    pub ends: copy::Target,
    /// The empty layout that stands for one that does not exist yet, removed with this.
    _stand_in: Option<Arc<tempfile::TempDir>>,
}

/// A layout that does not exist and is not to be made: an empty one elsewhere answers for it.
async fn absent(target: &Target) -> Result<TargetStore> {
    let folder = tempfile::tempdir().map_err(|error| Error::io("open layout", &std::env::temp_dir(), &error))?;
    let layout = Arc::new(Layout::open_or_create(folder.path()).await?);
    let ends = copy::Target { sink: Arc::clone(&layout) as _, source: layout };
    Ok(TargetStore { target: target.clone(), ends, _stand_in: Some(Arc::new(folder)) })
}

impl Supply {
    /// The supply that `config` describes, with at most `concurrency` requests in flight to each registry if that is
    /// given. `state` is the folder for what outlives a run; `None` keeps nothing.
    ///
    /// # Errors
    /// If the state folder cannot be used.
    pub fn new(config: &Config, concurrency: Option<usize>, state: Option<&Path>) -> Result<Self> {
        let kept = state.map(|state| Kept::open(&state.join("manifests"))).transpose()?.map(Arc::new);
        Ok(Supply { registries: registries(config, concurrency), credentials: CredentialStore::new(config), kept })
    }

    /// Opens `target`; a layout is created if it is not there and `create` says so.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn target(&self, target: &Target, create: bool) -> Result<TargetStore> {
        let ends = match target {
            Target::Registry { host, prefix } => {
                let account = self.credentials.account_for_host(host, prefix).await?;
                let store = self.registries.store(Side::Target, host, Arc::new(account))?;
                copy::Target { sink: Arc::clone(&store) as _, source: store }
            }
            Target::Layout { path } if create || path.exists() => {
                let layout = Arc::new(if create { Layout::open_or_create(path).await? } else { Layout::open(path).await? });
                copy::Target { sink: Arc::clone(&layout) as _, source: layout }
            }
            Target::Layout { .. } => return absent(target).await,
        };
        Ok(TargetStore { target: target.clone(), ends, _stand_in: None })
    }

    /// The upstream of `want`, as the account its rule names or the lookup finds.
    ///
    /// # Errors
    /// If its credentials cannot be had.
    pub(crate) async fn upstream(&self, want_of: &crate::stock::Item) -> Result<Arc<RegistryStore>> {
        let source = &want_of.entry.source;
        let set = want_of.rule.as_ref().and_then(|rule| rule.credentials.as_deref());
        let account = self.credentials.account_for(source, set).await?;
        self.registries.store(Side::Upstream, &source.host, Arc::new(account))
    }

    /// The image that `want` asks for.
    ///
    /// # Errors
    /// As [`Supply::upstream`].
    pub async fn image(&self, want: &Want) -> Result<Image> {
        let store = self.upstream(&want.item).await?;
        let upstream: Arc<dyn Source> = match &self.kept {
            Some(kept) => Arc::new(kept.before(store)),
            None => store,
        };
        Ok(Image {
            name: want.canonical().into(),
            upstream,
            from: Place::new(want.item.entry.source.path.as_str()),
            wanted: want.wanted.clone(),
            to: want.item.to.clone(),
            publish: want.publish.clone(),
            charge: Charge::new(want.source()),
        })
    }

    /// What was asked of each registry so far.
    pub fn rows(&self) -> Vec<RegistryRow> {
        self.registries.rows()
    }
}

/// Registries as `config` describes them; `concurrency`, if given, is what the command line says for all of them.
fn registries(config: &Config, concurrency: Option<usize>) -> Registries {
    let defaults = Concurrency { upstream: concurrency.unwrap_or(UPSTREAM_CONCURRENCY), target: concurrency.unwrap_or(TARGET_CONCURRENCY) };
    let config = config.clone();
    let settings = move |host: &str| {
        let settings = config.registry(host);
        HostSettings {
            endpoint: settings.endpoint.map(|endpoint| endpoint.to_string()),
            plain_http: settings.plain_http,
            http: HttpSettings {
                ca: settings.ca,
                client_cert: settings.client_cert,
                client_key: settings.client_key,
                insecure_skip_verify: settings.insecure_skip_verify,
            },
            concurrency: concurrency.or(settings.concurrency),
            allow_private: settings.allow_private,
            profile: settings.profile,
            pulls: settings.pulls,
            requests_per_second: settings.requests_per_second,
            bandwidth: settings.bandwidth,
            retry_after_max: settings.retry_after_max,
        }
    };
    let accounts = Arc::new(Accounts::new(Clock::start(jiff::Timestamp::now()), None));
    Registries::new(settings, defaults, RetryPolicy::default(), Limits { accounts, bandwidth: None })
}
