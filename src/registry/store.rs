//! A registry as one account sees it: the two traits, in the API's terms.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::HeaderMap;
use tokio::sync::OnceCell;

use super::auth::Scopes;
use super::known::{KnownContent, ManifestCache};
use super::manifests::unless_refused;
use super::probe::Admissions;
use super::referrers::IndexLocks;
use super::tags::TagLists;
use super::transport::Transport;
use crate::Result;
use crate::content::{
    BlobStream, Descriptor, Digest, DigestTags, Manifest, OpenBlob, Presence, Publication, ReferrerList, Repository, RequestContext, Sink,
    Source,
};
use crate::limits::Gate;
use crate::mutex::{Mutex, MutexGuard};
use crate::name::Reference;

/// A registry, to read from and to write to. Made by [`super::Registries::store`].
pub(crate) struct RegistryStore {
    pub(super) transport: Transport,
    held: Mutex<KnownContent>,
    pub(super) read: Mutex<ManifestCache>,
    /// Where pushes are known to be taken, or refused.
    pub(super) admissions: Admissions,
    /// Names that were put, where the answer did not say that they are there.
    unproven: Mutex<HashSet<(Repository, Reference)>>,
    /// Of each repository that was looked through for them.
    pub(super) digest_tags: Mutex<HashMap<Repository, Arc<OnceCell<Arc<DigestTags>>>>>,
    pub(super) index_locks: IndexLocks,
    pub(super) listed: TagLists,
}

impl RegistryStore {
    pub(super) fn new(transport: Transport) -> Self {
        RegistryStore {
            transport,
            held: Mutex::default(),
            read: Mutex::default(),
            admissions: Admissions::default(),
            unproven: Mutex::default(),
            listed: TagLists::default(),
            digest_tags: Mutex::default(),
            index_locks: IndexLocks::default(),
        }
    }

    /// The gate that its manifest GETs pass, if it is an upstream.
    pub(crate) fn gate(&self) -> Option<Arc<Gate>> {
        self.transport.toll.as_ref().map(|toll| Arc::clone(&toll.gate))
    }

    fn unproven(&self) -> MutexGuard<'_, HashSet<(Repository, Reference)>> {
        self.unproven.lock()
    }

    /// What is known to be there.
    pub(super) fn held(&self) -> MutexGuard<'_, KnownContent> {
        self.held.lock()
    }
}

#[async_trait]
impl Source for RegistryStore {
    fn is_remote(&self) -> bool {
        true
    }

    async fn ready(&self) {
        // A pause that nobody waits for is met, and reported, by the request itself.
        let _ = self.transport.host.clear().await;
    }

    async fn resolve(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.head_manifest(repository, reference, "resolve tag", &Scopes::pull(repository.as_str()), context).await
    }

    async fn tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        self.tag_list(repository, context).await.map(|tags| tags.to_vec())
    }

    async fn repositories(&self, context: &RequestContext) -> Result<Option<Vec<Repository>>> {
        self.catalog(context).await
    }

    async fn referrers(&self, repository: &Repository, subject: &Digest, context: &RequestContext) -> Result<Vec<Descriptor>> {
        self.all_referrers(repository, subject, context).await
    }

    async fn listed_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        context: &RequestContext,
    ) -> Result<ReferrerList> {
        self.ask_referrers(repository, subject, artifact_type, context).await
    }

    async fn find_tag(&self, repository: &Repository, tag: &str, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.look_for_tag(repository, tag, context).await
    }

    async fn digest_tags(&self, repository: &Repository, context: &RequestContext) -> Result<Arc<DigestTags>> {
        self.tags_of_digests(repository, context).await
    }

    async fn manifest(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        self.get_manifest(repository, digest, context).await
    }

    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        self.read_blob(repository, blob, offset, context).await
    }

    async fn blob_size(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<u64>> {
        self.size_of_blob(repository, digest, context).await
    }
}

/// A registry keeps what it lists: whoever put a manifest there had to put its content first. So a manifest found is
/// `Here` with all it refers to; where that is wrong, a later PUT is answered `MANIFEST_BLOB_UNKNOWN` and the copy heals.
///
/// Reading a name (`published`) asks for pull rights only, so that a plan and a night with nothing to do need no others;
/// everything else asks for push rights at once, so that a repository costs one token.
#[async_trait]
impl Sink for RegistryStore {
    async fn published(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        unless_refused(self.head_manifest(repository, reference, "resolve tag", &Scopes::pull(repository.as_str()), context).await)
    }

    async fn admits(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.try_upload(repository, context).await
    }

    async fn prepare(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.open_early(repository, context).await
    }

    async fn prepare_any(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.open_first(repository, context).await
    }

    async fn vouches(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.answers_for_itself(repository, context).await
    }

    async fn close(&self) {
        self.give_all_back().await;
    }

    async fn holds_blob(&self, repository: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<Presence> {
        if self.held().has(repository, &blob.digest) {
            return Ok(Presence::Here);
        }
        if self.head_blob(repository, &blob.digest, context).await? {
            self.held().add(repository, &blob.digest);
            return Ok(Presence::Here);
        }
        Ok(self.held().elsewhere(repository, &blob.digest).map_or(Presence::Absent, Presence::At))
    }

    async fn holds_manifest(&self, repository: &Repository, manifest: &Descriptor, context: &RequestContext) -> Result<Presence> {
        if self.held().has(repository, &manifest.digest) {
            return Ok(Presence::Here);
        }
        let reference = Reference::Digest(manifest.digest.clone());
        let found = self.head_manifest(repository, &reference, "head manifest", &Scopes::push(repository.as_str()), context).await;
        let found = unless_refused(found)?;
        if found.is_none() {
            return Ok(Presence::Absent);
        }
        self.held().add(repository, &manifest.digest);
        Ok(Presence::Here)
    }

    async fn link(&self, from: &Repository, to: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<bool> {
        let done = self.mount(from, to, &blob.digest, context).await?;
        if done {
            self.held().add(to, &blob.digest);
        }
        Ok(done)
    }

    async fn write_blob(&self, repository: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()> {
        self.upload(repository, blob, open, context).await.inspect_err(|error| self.push_refused(repository, error))?;
        self.took_push(repository);
        self.held().add(repository, &blob.digest);
        Ok(())
    }

    async fn put_manifest(&self, repository: &Repository, manifest: &Manifest, context: &RequestContext) -> Result<()> {
        self.store_manifest(repository, &Reference::Digest(manifest.digest.clone()), manifest, context).await
    }

    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()> {
        let Publication { repository, reference, manifest, .. } = publication;
        if matches!(reference, Reference::Digest(_)) && self.held().has(repository, &manifest.digest) {
            // The digest is the name, and it is there.
            return Ok(());
        }
        let stored = self.put_manifest_if(repository, reference, manifest, HeaderMap::new(), context).await?;
        if !stored.proven {
            self.unproven().insert((repository.clone(), reference.clone()));
        }
        Ok(())
    }

    async fn confirm(&self, publication: &Publication, always: bool, context: &RequestContext) -> Result<()> {
        let Publication { repository, reference, manifest, .. } = publication;
        let unproven = self.unproven().remove(&(repository.clone(), reference.clone()));
        if always || unproven { self.find_name(repository, reference, &manifest.digest, context).await } else { Ok(()) }
    }

    async fn attach(&self, repository: &Repository, subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        self.put_referrers(repository, subject, referrers, context).await
    }
}
