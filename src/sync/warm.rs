//! Images that are warmed: how they are made, surveyed and finished beside those that are copied.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::found::MissingImage;
use super::{ImageRequest, RuledEntry, SyncOptions, TargetStore, Upstreams};
use crate::config::profiles::CACHE_REMEDY;
use crate::content::{Digest, ForeignLayers, IndexMode, Policy, Repository, RequestContext};
use crate::copy::{self, BlobCounts, Comparison, CopyImage, CopyOptions, CopyOutcome, Engine, ImageState as Compared, NextStep};
use crate::limits::{AccountId, AccountStatus, Gate, Quota};
use crate::name::Reference;
use crate::registry::{RegistryStore, pull_row};
use crate::report::{RegistryRow, Reporter, Requests};
use crate::rules::{CacheRule, Delivery};
use crate::warm::{Belief, Cache, CacheUpstream, CachedImage};
use crate::{Error, Kind, Result, Side};

/// Whom an upstream counts when a cache pulls from it with a login that larder does not know.
const CACHES_OWN: &str = "cache";

/// An image, where its pulls are counted, and how it comes through the cache if it is to be warmed.
pub(super) type Made = (CopyImage, Option<Arc<Gate>>, Option<Arc<CachedImage>>);

/// The cache of a run, with an engine of its own: what holds for a registry that is pushed to does not hold for it.
pub(super) struct WarmTarget {
    pub(super) engine: Arc<Engine>,
    cache: Arc<Cache>,
    verify: bool,
}

/// Both engines of a run.
pub(super) struct CopyEngines {
    push: Arc<Engine>,
    warm: Option<WarmTarget>,
    target: copy::TargetEnds,
    stop: CancellationToken,
}

impl CopyEngines {
    /// Engines that fill `target`; the second one only where rules may warm it.
    pub(super) fn new(
        supply: &Upstreams,
        target: &TargetStore,
        options: &SyncOptions,
        reporter: &Arc<dyn Reporter>,
        stop: &CancellationToken,
    ) -> Self {
        let engine = |ends, warm| {
            // What refers to an image is warmed with it: nobody could say later what of it the cache has.
            let deliveries = if warm { None } else { supply.deliveries(&target.target) };
            let options = CopyOptions { room: options.room.clone(), recheck: options.recheck, deliveries, warm };
            Engine::new(ends, Arc::clone(reporter), options, stop.clone())
        };
        let warm = target.registry.as_ref().filter(|_| options.warm).map(|store| {
            let cache = Cache::new(Arc::clone(store), Arc::clone(&supply.warmed));
            WarmTarget { engine: engine(cache.ends(), true), cache, verify: options.verify_warm }
        });
        CopyEngines { push: engine(target.ends.clone(), false), warm, target: target.ends.clone(), stop: stop.clone() }
    }

    /// The engine that copies.
    pub(super) fn push(&self) -> &Arc<Engine> {
        &self.push
    }

    /// The cache, if that is who must be asked for an item's tags: its upstream is not to be.
    pub(super) fn lists_at_cache(&self, item: &RuledEntry) -> Option<&RegistryStore> {
        let rule = item.rule.as_deref().filter(|rule| rule.delivery == Delivery::Warm && !rule.warm.upstream_check);
        self.warm.as_ref().filter(|_| rule.is_some()).map(|warming| warming.cache.store())
    }

    /// The engine that brings an image.
    pub(super) fn of(&self, through: Option<&Arc<CachedImage>>) -> &Arc<Engine> {
        match (&self.warm, through) {
            (Some(warming), Some(_)) => &warming.engine,
            _ => &self.push,
        }
    }

    /// Whether no new work is to begin.
    pub(super) fn stop_requested(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The failure that ended the run.
    pub(super) fn fatal(&self) -> Option<Error> {
        self.push.fatal()
    }

    /// What both did for blobs, by one of their counts.
    pub(super) fn count(&self, of: impl Fn(&BlobCounts) -> u64) -> u64 {
        of(self.push.counts()) + self.warm.as_ref().map_or(0, |warming| of(warming.engine.counts()))
    }

    /// The image that `want` asks for.
    ///
    /// # Errors
    /// If its credentials cannot be had, or the cache cannot serve it under its name.
    pub(super) async fn image(&self, supply: &Upstreams, want: &ImageRequest) -> Result<Made> {
        let rule = want.item.rule.as_deref().filter(|rule| rule.delivery == Delivery::Warm);
        match (&self.warm, rule) {
            (Some(warming), Some(rule)) => {
                let (image, gate, through) = supply.warm_image(want, rule, &warming.cache).await?;
                Ok((image, Some(gate), Some(through)))
            }
            _ => supply.image(want).await.map(|(image, gate)| (image, gate, None)),
        }
    }

    /// Asks what is to be done for an image.
    ///
    /// # Errors
    /// As [`Engine::survey`].
    pub(super) async fn survey(&self, image: &CopyImage, through: Option<&Arc<CachedImage>>, recheck: bool) -> Result<NextStep> {
        match through {
            Some(_) if self.stop_requested() => Err(Error::cancelled("resolve tag")),
            Some(through) => {
                let belief = match (recheck, self.warm.as_ref().is_some_and(|warming| warming.verify)) {
                    (true, _) => Belief::Nothing,
                    (false, true) => Belief::Answers,
                    (false, false) => Belief::Memory,
                };
                through.survey(image.immutable, belief, &image.context).await
            }
            None => self.survey_push(image).await,
        }
    }

    /// As [`Engine::survey`], for an image that is pushed: what the target says to have must be its own, and one that takes no pushes is
    /// found out before anything is pulled for it.
    async fn survey_push(&self, image: &CopyImage) -> Result<NextStep> {
        let next = self.push.survey(image).await?;
        let asked = match &next {
            NextStep::Nothing(_) => self.target.sink.vouches(&image.to, &image.context).await,
            NextStep::Bring(_) => self.target.sink.prepare_any(&image.to, &image.context).await,
        };
        asked.map_err(|error| error.subject(&*image.context.image))?;
        Ok(next)
    }

    /// Sees that the target takes an image that is about to be brought.
    ///
    /// # Errors
    /// If it refuses pushes there.
    pub(super) async fn prepare(&self, found: &MissingImage) -> Result<()> {
        if found.through.is_some() {
            return Ok(());
        }
        let prepared = self.target.sink.prepare(&found.image.to, &found.image.context).await;
        prepared.map_err(|error| error.subject(&*found.image.context.image))
    }

    /// How an image stands, by HEADs alone, its digest at the upstream, and what would be brought.
    ///
    /// # Errors
    /// As [`Engine::compare`].
    pub(super) async fn compare(
        &self,
        image: &CopyImage,
        through: Option<&Arc<CachedImage>>,
    ) -> Result<(Compared, Option<Digest>, Option<Comparison>)> {
        let Some(through) = through else {
            let (standing, survey) = self.push.compare(image).await?;
            return Ok((standing, Some(survey.wanted.digest.clone()), Some(survey)));
        };
        Ok(match through.survey(image.immutable, Belief::Memory, &image.context).await? {
            NextStep::Nothing(current) => (Compared::Current(current.digest), current.source_digest, None),
            NextStep::Bring(survey) => {
                let to = survey.wanted.digest.clone();
                // What a cold cache would have to be pulled for, a plan does not know.
                let at_upstream = Some(to.clone()).filter(|digest| !through.is_unknown(digest));
                let standing = match survey.held.clone() {
                    Some(from) => Compared::Moved { from, to },
                    None => Compared::Missing(to),
                };
                (standing, at_upstream, Some(*survey))
            }
        })
    }

    /// What remains to be done once an image was pulled through: its row, the proof that was asked for, and the note that it was.
    ///
    /// # Errors
    /// If `--verify-warm` was given and the cache does not answer by itself.
    pub(super) async fn finish(
        &self,
        image: &CopyImage,
        through: Option<&Arc<CachedImage>>,
        mut delivered: CopyOutcome,
    ) -> Result<CopyOutcome> {
        let (Some(warming), Some(through)) = (&self.warm, through) else { return Ok(delivered) };
        if warming.verify {
            through.verify(&image.context, &self.stop).await.map_err(|error| error.subject(&*image.context.image))?;
            through.keep();
        } else if through.is_stored(&image.context, &self.stop).await {
            through.keep();
        }
        through.describe(&mut delivered);
        if let (Reference::Digest(_), Reference::Tag(tag)) = (&image.wanted, &image.publish) {
            delivered.notes.push(format!("it was pulled by its digest; what `{tag}` means at the cache, its upstream decides"));
        }
        Ok(delivered)
    }
}

impl Upstreams {
    /// The image that `want` asks for, to be pulled through `cache` by `rule`, and where that is counted.
    async fn warm_image(
        &self,
        want: &ImageRequest,
        rule: &CacheRule,
        cache: &Arc<Cache>,
    ) -> Result<(CopyImage, Arc<Gate>, Arc<CachedImage>)> {
        let source = &want.item.entry.source;
        let store = if rule.warm.upstream_check { Some(self.upstream(&want.item).await?) } else { None };
        let gate = match (&store, &rule.credentials) {
            (Some(store), Some(_)) => store.gate(),
            _ => None,
        };
        let gate = gate.unwrap_or_else(|| self.payer(&source.host, rule, cache.host()));
        let upstream =
            CacheUpstream { store, host: source.host.clone(), repository: Repository::new(source.path.as_str()), resolved: None };
        // The index stays as it is; of its children only those asked for are pulled.
        // What only its vendor has, no cache is filled with.
        let kept = Policy::clone(&want.item.policy);
        let policy = Arc::new(Policy { index: IndexMode::Sparse, foreign_layers: ForeignLayers::Skip, ..kept });
        let name = (want.item.to.clone(), name_at_cache(want)?);
        let resolved = want.resolved.as_ref().and_then(|resolved| resolved.descriptor.clone());
        let through =
            CachedImage::new(cache, CacheUpstream { resolved: resolved.clone(), ..upstream }, name, Arc::clone(&policy), rule.warm);
        let mut context = RequestContext { account: Some(Arc::clone(&gate)), ..RequestContext::new(want.source()) };
        if let Some(resolved) = &want.resolved {
            context.tally = Arc::clone(&resolved.tally);
        }
        let image = CopyImage {
            name: want.canonical().into(),
            upstream: Arc::clone(&through) as _,
            from: want.item.to.clone(),
            wanted: want.wanted.clone(),
            resolved,
            to: want.item.to.clone(),
            publish: want.publish.clone(),
            context,
            immutable: matches!(&want.publish, Reference::Tag(tag) if rule.immutable_tags.matches(tag)),
            policy,
        };
        Ok((image, gate, through))
    }

    /// The account that a cache's pulls are charged to, where it cannot be asked: the rule's set, or one that stands for the login
    /// that the cache has itself. Only configured limits are known of it.
    fn payer(&self, upstream: &str, rule: &CacheRule, cache: &str) -> Arc<Gate> {
        let account = match &rule.credentials {
            Some(set) => AccountId { host: upstream.to_owned(), name: set.clone() },
            None => AccountId { host: format!("{upstream} via {cache}"), name: CACHES_OWN.to_owned() },
        };
        let gate = self.accounts.gate(&account, self.config.registry(upstream).pulls, None);
        // No answer will ever tell: what is not configured is not counted, until a refusal says otherwise.
        gate.observe(&Quota::default(), Instant::now());
        gate
    }
}

/// Why nothing is pushed into a target whose profile is that of a pull-through cache.
pub(super) fn into_cache(target: &TargetStore) -> Error {
    let profile = target.cache.map_or("", |profile| profile.name);
    let message = format!(
        "{} is a pull-through cache (profile \"{profile}\"): it takes no pushes, and that it answers with the right digest does not prove that it \
         has the image",
        target.target
    );
    Error::new(Side::Target, "look for a cache", Kind::Refused, message).remedy(CACHE_REMEDY)
}

/// What the cache is asked for. It names only what its upstream names.
fn name_at_cache(want: &ImageRequest) -> Result<Reference> {
    match (&want.wanted, &want.publish) {
        (Reference::Tag(tag), Reference::Tag(renamed)) if tag != renamed => {
            let message = format!("a cache serves {} as `{tag}`, as its upstream names it, not as `{renamed}`", want.item.to);
            Err(Error::local("resolve", message).subject(want.source()).remedy("leave the tag out of the line's `target`"))
        }
        (wanted, _) => Ok(wanted.clone()),
    }
}

/// Rows for accounts that larder itself sends nothing with: what a cache spends for us.
pub(super) fn add_accounts(rows: &mut Vec<RegistryRow>, standings: &[(AccountId, AccountStatus)]) {
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
