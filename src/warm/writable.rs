//! A cache that takes pushes, too (`writable_cache = true`), as the sink of rules that push. It answers a HEAD of what it does not hold by
//! asking its upstream, so that an equal digest proves nothing: what counts is what larder remembers to have pushed.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::Result;
use crate::content::{
    Descriptor, Digest, Manifest, ManifestKind, OpenBlob, PlatformFilter, Presence, Publication, Repository, RequestContext, SPARSE, Sink,
    kind_of,
};
use crate::mutex::{Mutex, MutexGuard};
use crate::name::Reference;
use crate::registry::RegistryStore;
use crate::rules::WarmBlobs;
use crate::state::{WarmedRecord, WarmedRecords};

/// The cache as a target of pushes.
pub(crate) struct WritableCache {
    store: Arc<RegistryStore>,
    /// What was pushed before, under the names it was given.
    warmed: Arc<WarmedRecords>,
    /// What was put there in this run.
    put: Mutex<HashSet<(Repository, Digest)>>,
}

impl WritableCache {
    /// The cache at `store`, of which `warmed` says what was pushed before.
    pub(crate) fn new(store: Arc<RegistryStore>, warmed: Arc<WarmedRecords>) -> Arc<Self> {
        Arc::new(WritableCache { store, warmed, put: Mutex::default() })
    }

    fn put(&self) -> MutexGuard<'_, HashSet<(Repository, Digest)>> {
        self.put.lock()
    }

    fn has_put(&self, repository: &Repository, digest: &Digest) -> bool {
        self.put().contains(&(repository.clone(), digest.clone()))
    }

    fn note(&self, repository: &Repository, digest: &Digest) {
        self.put().insert((repository.clone(), digest.clone()));
    }

    /// Whether an answer of the cache is its own if it does not say that it is the upstream's.
    fn says_origin(&self) -> bool {
        self.store.caching().says_origin
    }
}

#[async_trait]
impl Sink for WritableCache {
    async fn published(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        let Some(mut found) = self.store.published(repository, reference, context).await? else { return Ok(None) };
        let pushed = self.warmed.get(self.store.host(), repository.as_str(), reference.as_str());
        let Some(pushed) = pushed.filter(|pushed| pushed.digest == found.digest && is_fresh(pushed, &self.store)) else {
            return Ok(None);
        };
        if !pushed.platforms.is_empty() {
            found.annotations.insert(SPARSE.to_owned(), pushed.platforms.join(","));
        }
        Ok(Some(found))
    }

    async fn admits(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.store.admits(repository, context).await
    }

    async fn prepare(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.store.prepare(repository, context).await
    }

    async fn prepare_any(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.store.prepare_any(repository, context).await
    }

    async fn close(&self) {
        self.store.close().await;
    }

    /// A registry that takes a manifest has looked for its blobs. One that says where its answers come from is asked what it holds, and
    /// what it is wrong about is put again when it refuses the manifest.
    async fn holds_blob(&self, repository: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<Presence> {
        if self.says_origin() || self.has_put(repository, &blob.digest) {
            return self.store.holds_blob(repository, blob, context).await;
        }
        Ok(Presence::Absent)
    }

    /// Of an index that is the cache's own, the children may not be.
    async fn holds_manifest(&self, repository: &Repository, manifest: &Descriptor, context: &RequestContext) -> Result<Presence> {
        if self.has_put(repository, &manifest.digest) {
            return Ok(Presence::Here);
        }
        if !self.says_origin() {
            return Ok(Presence::Absent);
        }
        match self.store.holds_manifest(repository, manifest, context).await? {
            Presence::Here if kind_of(&manifest.media_type) != ManifestKind::Image => Ok(Presence::Incomplete),
            held => Ok(held),
        }
    }

    async fn link(&self, from: &Repository, to: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<bool> {
        let linked = self.store.link(from, to, blob, context).await?;
        if linked {
            self.note(to, &blob.digest);
        }
        Ok(linked)
    }

    async fn write_blob(&self, repository: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()> {
        self.store.write_blob(repository, blob, open, context).await?;
        self.note(repository, &blob.digest);
        Ok(())
    }

    async fn put_manifest(&self, repository: &Repository, manifest: &Manifest, context: &RequestContext) -> Result<()> {
        self.store.put_manifest(repository, manifest, context).await?;
        self.note(repository, manifest.digest());
        Ok(())
    }

    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()> {
        let Publication { repository, reference, manifest, sparse, .. } = publication;
        let at = Timestamp::now();
        self.store.store_manifest(repository, reference, manifest, context).await?;
        self.note(repository, manifest.digest());
        let pushed = WarmedRecord {
            cache: self.store.host().to_owned(),
            repository: repository.as_str().to_owned(),
            reference: reference.as_str().to_owned(),
            source: manifest.digest().clone(),
            digest: manifest.digest().clone(),
            platforms: sparse.iter().map(PlatformFilter::to_string).collect(),
            depth: super::proof::depth(WarmBlobs::Get),
            manifests: vec![],
            blobs: vec![],
            at,
        };
        if let Err(error) = self.warmed.add(pushed) {
            tracing::warn!("{error}; the next run pushes {repository} again");
        }
        Ok(())
    }

    async fn attach(&self, repository: &Repository, subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        self.store.attach(repository, subject, referrers, context).await?;
        referrers.iter().for_each(|referrer| self.note(repository, referrer.digest()));
        Ok(())
    }
}

/// Whether a push is not older than the cache keeps what nobody asks for.
fn is_fresh(pushed: &WarmedRecord, store: &RegistryStore) -> bool {
    Timestamp::now().duration_since(pushed.at).unsigned_abs() < store.caching().warm_ttl
}
