//! Into a pull-through cache: by pulling through it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::delivery::{ImageDelivery, ImagePlan, OpenedImage};
use super::{ImageRequest, SyncOptions, TargetStore, Upstreams};
use crate::config::profiles::CACHE_REMEDY;
use crate::content::{ForeignLayers, IndexMode, Policy, Repository, RequestContext};
use crate::copy::{BlobCounts, Comparison, CopyImage, CopyOutcome, Engine, ImageState, NextStep, TargetEnds};
use crate::name::Reference;
use crate::registry::RegistryStore;
use crate::rules::CacheRule;
use crate::warm::{Belief, Cache, CacheUpstream, CachedImage};
use crate::{Error, Kind, Operation, Result, Side};

/// The cache that a run warms. It has an engine of its own: what holds for a registry that takes pushes does not hold for a cache.
pub(super) struct WarmTarget {
    engine: Arc<Engine>,
    cache: Arc<Cache>,
    recheck: bool,
    verify: bool,
    stop: CancellationToken,
}

impl WarmTarget {
    /// The cache at `store`, filled by what `engine` makes.
    pub(super) fn new(
        store: &Arc<RegistryStore>,
        upstreams: &Upstreams,
        options: &SyncOptions,
        stop: &CancellationToken,
        engine: impl FnOnce(TargetEnds) -> Arc<Engine>,
    ) -> Self {
        let cache = Cache::new(Arc::clone(store), Arc::clone(&upstreams.warmed));
        WarmTarget { engine: engine(cache.ends()), cache, recheck: options.recheck, verify: options.verify_warm, stop: stop.clone() }
    }

    /// The registry that the cache is.
    pub(super) fn store(&self) -> &RegistryStore {
        self.cache.store()
    }

    /// What was done for blobs.
    pub(super) fn counts(&self) -> &BlobCounts {
        self.engine.counts()
    }

    /// The image that `request` asks for, to be pulled through the cache as `rule` says.
    pub(super) async fn open(&self, upstreams: &Upstreams, request: &ImageRequest, rule: &CacheRule) -> Result<OpenedImage> {
        let source = &request.line.entry.source;
        let store = if rule.warm.upstream_check { Some(upstreams.upstream(&request.line).await?) } else { None };
        let gate = match (&store, &rule.credentials) {
            (Some(store), Some(_)) => store.gate(),
            _ => None,
        };
        let gate = gate.unwrap_or_else(|| upstreams.gate_of_cache(&source.host, rule, self.cache.host()));
        let resolved = request.resolved.as_ref().and_then(|resolved| resolved.descriptor.clone());
        let repository = Repository::new(source.path.as_str());
        let upstream = CacheUpstream { store, host: source.host.clone(), repository, resolved: resolved.clone() };
        // The index stays as it is; of its children only those asked for are pulled. A cache does not hold foreign layers.
        let policy = Policy { index: IndexMode::Sparse, foreign_layers: ForeignLayers::Skip, ..Policy::clone(&request.line.policy) };
        let policy = Arc::new(policy);
        let name = (request.line.to.clone(), name_at_cache(request)?);
        let cached = CachedImage::new(&self.cache, upstream, name, Arc::clone(&policy), rule.warm);
        let mut context = RequestContext { account: Some(Arc::clone(&gate)), ..RequestContext::new(request.source()) };
        if let Some(resolved) = &request.resolved {
            context.tally = Arc::clone(&resolved.tally);
        }
        let image = CopyImage {
            name: request.canonical().into(),
            upstream: Arc::clone(&cached) as _,
            from: request.line.to.clone(),
            wanted: request.wanted.clone(),
            resolved,
            to: request.line.to.clone(),
            publish: request.publish.clone(),
            context,
            immutable: request.is_immutable(),
            policy,
        };
        let (engine, stop) = (Arc::clone(&self.engine), self.stop.clone());
        let delivery = WarmDelivery { engine, cached, recheck: self.recheck, verify: self.verify, stop };
        Ok(OpenedImage { image, gate: Some(gate), delivery: Arc::new(delivery) })
    }
}

/// One image, pulled through the cache.
struct WarmDelivery {
    engine: Arc<Engine>,
    cached: Arc<CachedImage>,
    recheck: bool,
    verify: bool,
    stop: CancellationToken,
}

#[async_trait]
impl ImageDelivery for WarmDelivery {
    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// A cache learns a name only by being asked for it.
    fn shares_manifests(&self) -> bool {
        false
    }

    async fn next_step(&self, image: &CopyImage) -> Result<NextStep> {
        if self.stop.is_cancelled() {
            return Err(Error::cancelled(Operation::ResolveTag));
        }
        let belief = match (self.recheck, self.verify) {
            (true, _) => Belief::Nothing,
            (false, true) => Belief::Answers,
            (false, false) => Belief::Memory,
        };
        self.cached.survey(image.immutable, belief, &image.context).await
    }

    async fn compare(&self, image: &CopyImage) -> Result<ImagePlan> {
        Ok(match self.cached.survey(image.immutable, Belief::Memory, &image.context).await? {
            NextStep::Nothing(current) => (ImageState::Current(current.digest), current.source_digest, None),
            NextStep::Copy(comparison) => {
                let to = comparison.wanted.digest.clone();
                // A plan does not know what only a pull through a cold cache would tell.
                let at_upstream = Some(to.clone()).filter(|digest| !self.cached.is_unknown(digest));
                let state = match comparison.held.clone() {
                    Some(from) => ImageState::Moved { from, to },
                    None => ImageState::Missing(to),
                };
                (state, at_upstream, Some(*comparison))
            }
        })
    }

    /// Pulls the image through, proves that the cache holds it if that was asked for, and notes that it was pulled.
    async fn bring(&self, image: &mut CopyImage, comparison: Comparison, slot: OwnedSemaphorePermit) -> Result<CopyOutcome> {
        let mut outcome = self.engine.copy_image(image, comparison, &mut None).await?;
        drop(slot);
        image.context.lease = None;
        if self.verify {
            self.cached.verify(&image.context, &self.stop).await.map_err(|error| error.subject(&*image.context.image))?;
            self.cached.keep();
        } else if self.cached.is_stored(&image.context, &self.stop).await {
            self.cached.keep();
        }
        self.cached.describe(&mut outcome);
        if let (Reference::Digest(_), Reference::Tag(tag)) = (&image.wanted, &image.publish) {
            outcome.notes.push(format!("it was pulled by its digest; what `{tag}` means at the cache, its upstream decides"));
        }
        Ok(outcome)
    }
}

/// Why nothing is pushed into a target whose profile is that of a pull-through cache.
pub(super) fn refuse_push_into_cache(target: &TargetStore) -> Error {
    let profile = target.cache.map_or("", |profile| profile.name);
    let message = format!(
        "{} is a pull-through cache (profile \"{profile}\"): it takes no pushes, and that it answers with the right digest does not prove that it \
         has the image",
        target.target
    );
    Error::new(Side::Target, Operation::LookForCache, Kind::Refused, message).remedy(CACHE_REMEDY)
}

/// What the cache is asked for: it serves an image only under its upstream's name.
fn name_at_cache(request: &ImageRequest) -> Result<Reference> {
    match (&request.wanted, &request.publish) {
        (Reference::Tag(tag), Reference::Tag(renamed)) if tag != renamed => {
            let message = format!("a cache serves {} as `{tag}`, as its upstream names it, not as `{renamed}`", request.line.to);
            Err(Error::local(Operation::Resolve, message).subject(request.source()).remedy("leave the tag out of the line's `target`"))
        }
        (wanted, _) => Ok(wanted.clone()),
    }
}
