//! Is it warm already? Nothing but a proof of the whole chosen graph counts: a cold cache answers a tag with the right digest, too.

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::CachedImage;
use super::through::{Belief, context_without_account};
use crate::content::{Descriptor, Digest, ManifestKind, RequestContext, kind_of};
use crate::name::Reference;
use crate::registry::CacheHead;
use crate::rules::WarmBlobs;
use crate::state::WarmedRecord;
use crate::{Error, Result};

/// Children of one index that are asked about at once, as in the engine.
const CHILDREN: usize = 8;

/// How deep an index that the cache has is followed, as in the engine.
const MAX_DEPTH: usize = 8;

/// The cache has the image, all of it that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WarmProof {
    /// The upstream's digest.
    pub(super) source: Digest,
    /// The cache's: another one only where it trims lists.
    pub(super) digest: Digest,
}

/// How thoroughly blobs are asked for, as [`WarmedRecord::depth`] has it.
pub(super) fn depth(blobs: WarmBlobs) -> u8 {
    match blobs {
        WarmBlobs::None => 0,
        WarmBlobs::Head => 1,
        WarmBlobs::Get => 2,
    }
}

impl CachedImage {
    /// What proves that the cache has the image now, if anything does. Spends no pull.
    pub(super) async fn proof(&self, belief: Belief, context: &RequestContext) -> Result<Option<WarmProof>> {
        let context = context_without_account(context);
        match belief {
            Belief::Nothing => Ok(None),
            _ if self.cache.caching().says_origin => self.said_by_cache(&context).await,
            Belief::Memory => Ok(self.remembered().map(|pulled| WarmProof { source: pulled.source, digest: pulled.digest })),
            Belief::Answers => match self.remembered() {
                Some(pulled) => self.confirmed(pulled, &context).await,
                None => Ok(None),
            },
        }
    }

    /// Asks the cache for each piece that larder remembers to have pulled, blobs first: a manifest that is not there may cost a pull.
    async fn confirmed(&self, pulled: WarmedRecord, context: &RequestContext) -> Result<Option<WarmProof>> {
        if pulled.manifests.is_empty() {
            // Pulled by a version that did not write down what.
            return Ok(None);
        }
        let (store, repository) = (&self.cache.store, &self.repository);
        if self.warm.blobs != WarmBlobs::None {
            let asked = stream::iter(pulled.blobs).map(|blob| async move { self.cache.confirms(repository, &blob, context).await });
            if !asked.buffer_unordered(CHILDREN).try_all(std::future::ready).await? {
                return Ok(None);
            }
        }
        let named = store.look(repository, &self.reference, context).await?;
        if named.is_none_or(|named| named.descriptor.digest != pulled.digest) {
            return Ok(None);
        }
        let asked = stream::iter(pulled.manifests).map(|manifest| async move {
            let answered = store.look(repository, &Reference::Digest(manifest.clone()), context).await?;
            Ok::<_, Error>(answered.is_some_and(|answered| answered.descriptor.digest == manifest))
        });
        let all = asked.buffer_unordered(CHILDREN).try_all(std::future::ready).await?;
        Ok(all.then_some(WarmProof { source: pulled.source, digest: pulled.digest }))
    }

    /// The cache says where its answers come from: the name, and each child that is wanted, must be its own.
    async fn said_by_cache(&self, context: &RequestContext) -> Result<Option<WarmProof>> {
        let Some(CacheHead { descriptor, own: true }) = self.cache.store.look(&self.repository, &self.reference, context).await? else {
            return Ok(None);
        };
        let digest = descriptor.digest.clone();
        let single = kind_of(&descriptor.media_type) != ManifestKind::Index;
        if single && !self.policy.platforms.is_empty() && self.remembered().is_none_or(|pulled| pulled.digest != digest) {
            // Which platform it is for, its config says: that was looked at if it was pulled before.
            return Ok(None);
        }
        Ok(self.has_below(descriptor, 0, context).await?.then(|| WarmProof { source: digest.clone(), digest }))
    }

    /// Whether the cache has what is below a manifest that is its own: for an image it has, because it imports it whole.
    fn has_below<'a>(&'a self, manifest: Descriptor, depth: usize, context: &'a RequestContext) -> BoxFuture<'a, Result<bool>> {
        async move {
            if kind_of(&manifest.media_type) != ManifestKind::Index || depth >= MAX_DEPTH {
                return Ok(true);
            }
            // Its own: reading it costs the upstream nothing.
            let index = self.cache.store.pull(&self.repository, &Reference::Digest(manifest.digest), context).await?;
            let Some(index) = index else { return Ok(false) };
            let chosen = self.chosen(&index.links().manifests);
            let has = |child: Descriptor| async move {
                match self.cache.store.look(&self.repository, &Reference::Digest(child.digest), context).await? {
                    Some(CacheHead { descriptor, own: true }) => self.has_below(descriptor, depth + 1, context).await,
                    _ => Ok(false),
                }
            };
            let answers = stream::iter(chosen).map(has).buffer_unordered(CHILDREN);
            answers.try_all(std::future::ready).await
        }
        .boxed()
    }

    /// The cache says nothing, but larder has pulled the image through it, not too long ago.
    fn remembered(&self) -> Option<WarmedRecord> {
        let pulled = self.cache.warmed.get(self.cache.host(), self.repository.as_str(), self.reference.as_str())?;
        self.proves(&pulled, Timestamp::now()).then_some(pulled)
    }

    fn proves(&self, pulled: &WarmedRecord, now: Timestamp) -> bool {
        let ttl = self.warm.ttl.unwrap_or(self.cache.caching().warm_ttl);
        let fresh = now.duration_since(pulled.at).unsigned_abs() < ttl;
        let all = pulled.platforms.is_empty();
        let wanted = &self.policy.platforms;
        let platforms = all || !wanted.is_empty() && wanted.iter().all(|wanted| pulled.platforms.contains(&wanted.to_string()));
        // Earlier versions did not pull by all addresses.
        let addresses = !self.cache.caching().by_address || !pulled.manifests.is_empty();
        fresh && platforms && addresses && pulled.depth >= depth(self.warm.blobs)
    }
}
