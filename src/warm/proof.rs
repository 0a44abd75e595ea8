//! Is it warm already? Nothing but a proof of the whole chosen graph counts: a cold cache answers a tag with the right digest, too.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::Cache;
use crate::content::{
    ChildChoice, Descriptor, Digest, GraphNode, GraphWalk, Links, ManifestKind, NodeRole, Policy, Repository, RequestContext, check_depth,
    kind_of, walk_concurrently,
};
use crate::name::Reference;
use crate::registry::CacheHead;
use crate::rules::{WarmBlobs, WarmSettings};
use crate::state::WarmedRecord;
use crate::{Error, Result, Side};

/// Children of one index that are asked about at once, as in the engine.
const CHILDREN: usize = 8;

/// Which proof that the cache has an image counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    /// The cache's own word, or what larder remembers.
    Memory,
    /// What the cache says when it is asked about each piece.
    Answers,
    /// None: the image is pulled.
    Nothing,
}

/// The cache has the image, all of it that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WarmProof {
    /// The upstream's digest.
    pub(super) source: Digest,
    /// The cache's: another one only where it trims lists.
    pub(super) digest: Digest,
}

/// Why a walk of what the cache has ended early.
enum NotProven {
    /// Something is missing, or is not the cache's own.
    Missing,
    Failed(Error),
}

impl From<Error> for NotProven {
    fn from(error: Error) -> Self {
        NotProven::Failed(error)
    }
}

/// The same image, for requests that cost no pull.
pub(super) fn context_without_account(context: &RequestContext) -> RequestContext {
    RequestContext { account: None, lease: None, ..context.clone() }
}

/// How thoroughly blobs are asked for, as [`WarmedRecord::depth`] has it.
pub(super) fn depth(blobs: WarmBlobs) -> u8 {
    match blobs {
        WarmBlobs::None => 0,
        WarmBlobs::Head => 1,
        WarmBlobs::Get => 2,
    }
}

/// One image, and the cache that may have it.
pub(super) struct ProofQuery<'a> {
    pub(super) cache: &'a Cache,
    /// Its repository at the cache.
    pub(super) repository: &'a Repository,
    pub(super) reference: &'a Reference,
    pub(super) policy: &'a Policy,
    pub(super) warm: &'a WarmSettings,
}

impl ProofQuery<'_> {
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
        let (store, repository) = (&self.cache.store, self.repository);
        if self.warm.blobs != WarmBlobs::None {
            let asked = stream::iter(pulled.blobs).map(|blob| async move { self.cache.confirms(repository, &blob, context).await });
            if !asked.buffer_unordered(CHILDREN).try_all(std::future::ready).await? {
                return Ok(None);
            }
        }
        let named = store.look(repository, self.reference, context).await?;
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
        let Some(CacheHead { descriptor, own: true }) = self.cache.store.look(self.repository, self.reference, context).await? else {
            return Ok(None);
        };
        let digest = descriptor.digest.clone();
        let single = kind_of(&descriptor.media_type) != ManifestKind::Index;
        if single && !self.policy.platforms.is_empty() && self.remembered().is_none_or(|pulled| pulled.digest != digest) {
            // Which platform it is for, its config says: that was looked at if it was pulled before.
            return Ok(None);
        }
        Ok(self.has_below(&descriptor, context).await?.then(|| WarmProof { source: digest.clone(), digest }))
    }

    /// Whether the cache has what is below a manifest that is its own.
    async fn has_below(&self, root: &Descriptor, context: &RequestContext) -> Result<bool> {
        let walk = GraphWalk::new(root, NodeRole::Manifest);
        match walk_concurrently(walk, CHILDREN, |node| self.own_children(node, context)).await {
            Ok(()) => Ok(true),
            Err(NotProven::Missing) => Ok(false),
            Err(NotProven::Failed(error)) => Err(error),
        }
    }

    /// The chosen children of a manifest, if it is the cache's own. An image has none: the cache imports images whole.
    async fn own_children(&self, node: GraphNode, context: &RequestContext) -> Result<Arc<Links>, NotProven> {
        let reference = Reference::Digest(node.descriptor.digest);
        let media_type = match node.depth {
            0 => node.descriptor.media_type,
            _ => match self.cache.store.look(self.repository, &reference, context).await? {
                Some(CacheHead { descriptor, own: true }) => descriptor.media_type,
                _ => return Err(NotProven::Missing),
            },
        };
        if kind_of(&media_type) != ManifestKind::Index {
            return Ok(Arc::default());
        }
        // Its own: reading it costs the upstream nothing.
        let index = self.cache.store.pull(self.repository, &reference, context).await?.ok_or(NotProven::Missing)?;
        check_depth(node.depth, index.links(), Side::Target)?;
        Ok(Arc::new(Links { manifests: ChildChoice::of(&index.links().manifests, &self.policy.platforms).kept, ..Links::default() }))
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
