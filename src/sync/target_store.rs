//! A target that has been opened.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use crate::config::{Profile, TargetConfig};
use crate::content::{Repository, RequestContext};
use crate::copy;
use crate::layout::Layout;
use crate::registry::RegistryStore;
use crate::{Error, Kind, Operation, Result, Side};

/// Repositories that are asked at once whether they take pushes; requests are limited by the registry's own concurrency.
const PROBED_AT_ONCE: usize = 16;

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
    pub(super) writable: bool,
    /// The empty layout that stands for one that does not exist yet, removed with this.
    pub(super) _stand_in: Option<Arc<tempfile::TempDir>>,
}

impl TargetStore {
    /// Stands for a layout that does not exist and is not to be created.
    pub(super) async fn absent(target: &TargetConfig) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|error| Error::io(Operation::OpenLayout, &std::env::temp_dir(), &error))?;
        let layout = Arc::new(Layout::open_or_create(folder.path()).await?);
        let ends = copy::TargetEnds { sink: Arc::clone(&layout) as _, source: layout };
        Ok(TargetStore { target: target.clone(), ends, registry: None, cache: None, writable: false, _stand_in: Some(Arc::new(folder)) })
    }

    /// Whether the configuration says that it is a pull-through cache.
    pub fn is_known_cache(&self) -> bool {
        self.writable || self.cache.is_some()
    }

    /// Why answers to HEADs prove nothing there, if the configuration or the answers so far say that it is a pull-through cache. Where they
    /// only look like it, an upload to each of `repositories` is opened and cancelled: a cache refuses it.
    pub async fn cache_among<'a>(&self, repositories: impl Iterator<Item = &'a Repository>) -> Option<Error> {
        let registry = self.registry.as_ref()?;
        let refused = match (self.is_known_cache(), registry.has_passed_on()) {
            (true, _) => None,
            (false, true) => Some("it says so (X-Azure-Origin)".to_owned()),
            (false, false) if !registry.may_be_a_cache() => return None,
            (false, false) => {
                let asked = stream::iter(repositories.cloned()).map(|repository| async move {
                    let context = RequestContext::new(format!("{}/{repository}", registry.host()));
                    registry.refuses_as_cache(&repository, &context).await
                });
                let refused = asked.buffered(PROBED_AT_ONCE).filter_map(std::future::ready);
                Some(std::pin::pin!(refused).next().await?)
            }
        };
        let why = refused.map(|why| format!(": {why}")).unwrap_or_default();
        let message =
            format!("{} is a pull-through cache{why}; what it answers to HEAD proves nothing, as it asks its upstream", self.target);
        Some(Error::new(Side::Target, Operation::Verify, Kind::Refused, message).remedy("--deep reads and hashes everything through it"))
    }
}
