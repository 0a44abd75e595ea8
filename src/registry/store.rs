//! A registry as one account sees it: the two traits, in the API's terms.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known to be there.
    pub(super) fn held(&self) -> MutexGuard<'_, KnownContent> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn resolve(&self, place: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.head_manifest(place, reference, "resolve tag", &Scopes::pull(place.as_str()), context).await
    }

    async fn tags(&self, place: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        self.tag_list(place, context).await.map(|tags| tags.to_vec())
    }

    async fn repositories(&self, context: &RequestContext) -> Result<Option<Vec<Repository>>> {
        self.catalog(context).await
    }

    async fn referrers(&self, place: &Repository, subject: &Digest, context: &RequestContext) -> Result<Vec<Descriptor>> {
        self.all_referrers(place, subject, context).await
    }

    async fn listed_referrers(
        &self,
        place: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        context: &RequestContext,
    ) -> Result<ReferrerList> {
        self.ask_referrers(place, subject, artifact_type, context).await
    }

    async fn find_tag(&self, place: &Repository, tag: &str, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.look_for_tag(place, tag, context).await
    }

    async fn digest_tags(&self, place: &Repository, context: &RequestContext) -> Result<Arc<DigestTags>> {
        self.tags_of_digests(place, context).await
    }

    async fn manifest(&self, place: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        self.get_manifest(place, digest, context).await
    }

    async fn blob(&self, place: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        self.read_blob(place, blob, offset, context).await
    }

    async fn blob_size(&self, place: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<u64>> {
        self.size_of_blob(place, digest, context).await
    }
}

/// A registry keeps what it lists: whoever put a manifest there had to put its content first. So a manifest found is
/// `Here` with all it refers to; where that is wrong, a later PUT is answered `MANIFEST_BLOB_UNKNOWN` and the copy heals.
///
/// Reading a name (`published`) asks for pull rights only, so that a plan and a night with nothing to do need no others;
/// everything else asks for push rights at once, so that a repository costs one token.
#[async_trait]
impl Sink for RegistryStore {
    async fn published(&self, place: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        unless_refused(self.head_manifest(place, reference, "resolve tag", &Scopes::pull(place.as_str()), context).await)
    }

    async fn admits(&self, place: &Repository, context: &RequestContext) -> Result<()> {
        self.try_upload(place, context).await
    }

    async fn prepare(&self, place: &Repository, context: &RequestContext) -> Result<()> {
        self.open_early(place, context).await
    }

    async fn prepare_any(&self, place: &Repository, context: &RequestContext) -> Result<()> {
        self.open_first(place, context).await
    }

    async fn vouches(&self, place: &Repository, context: &RequestContext) -> Result<()> {
        self.answers_for_itself(place, context).await
    }

    async fn close(&self) {
        self.give_all_back().await;
    }

    async fn holds_blob(&self, place: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<Presence> {
        if self.held().has(place, &blob.digest) {
            return Ok(Presence::Here);
        }
        if self.head_blob(place, &blob.digest, context).await? {
            self.held().add(place, &blob.digest);
            return Ok(Presence::Here);
        }
        Ok(self.held().elsewhere(place, &blob.digest).map_or(Presence::Absent, Presence::At))
    }

    async fn holds_manifest(&self, place: &Repository, manifest: &Descriptor, context: &RequestContext) -> Result<Presence> {
        if self.held().has(place, &manifest.digest) {
            return Ok(Presence::Here);
        }
        let reference = Reference::Digest(manifest.digest.clone());
        let found = self.head_manifest(place, &reference, "head manifest", &Scopes::push(place.as_str()), context).await;
        let found = unless_refused(found)?;
        if found.is_none() {
            return Ok(Presence::Absent);
        }
        self.held().add(place, &manifest.digest);
        Ok(Presence::Here)
    }

    async fn link(&self, from: &Repository, to: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<bool> {
        let done = self.mount(from, to, &blob.digest, context).await?;
        if done {
            self.held().add(to, &blob.digest);
        }
        Ok(done)
    }

    async fn write_blob(&self, place: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()> {
        self.upload(place, blob, open, context).await.inspect_err(|error| self.push_refused(place, error))?;
        self.took_push(place);
        self.held().add(place, &blob.digest);
        Ok(())
    }

    async fn put_manifest(&self, place: &Repository, manifest: &Manifest, context: &RequestContext) -> Result<()> {
        self.store_manifest(place, &Reference::Digest(manifest.digest.clone()), manifest, context).await
    }

    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()> {
        let Publication { place, reference, manifest, .. } = publication;
        if matches!(reference, Reference::Digest(_)) && self.held().has(place, &manifest.digest) {
            // The digest is the name, and it is there.
            return Ok(());
        }
        let stored = self.put_manifest_if(place, reference, manifest, HeaderMap::new(), context).await?;
        if !stored.proven {
            self.unproven().insert((place.clone(), reference.clone()));
        }
        Ok(())
    }

    async fn confirm(&self, publication: &Publication, always: bool, context: &RequestContext) -> Result<()> {
        let Publication { place, reference, manifest, .. } = publication;
        let unproven = self.unproven().remove(&(place.clone(), reference.clone()));
        if always || unproven { self.find_name(place, reference, &manifest.digest, context).await } else { Ok(()) }
    }

    async fn attach(&self, place: &Repository, subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        self.put_referrers(place, subject, referrers, context).await
    }
}
