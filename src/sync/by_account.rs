//! A target registry whose repositories have accounts of their own: docker's and podman's files may hold one for each path.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::config::CredentialStore;
use crate::content::{
    BlobStream, Descriptor, Digest, DigestTags, Manifest, OpenBlob, Presence, Publication, ReferrerList, Repository, RequestContext, Sink,
    Source,
};
use crate::name::Reference;
use crate::registry::{Registries, RegistryStore};
use crate::state::Pushes;
use crate::{Result, Side};

/// A target registry, each repository as the account that is its own.
pub(super) struct ByAccount {
    host: String,
    registries: Arc<Registries>,
    credentials: Arc<CredentialStore>,
    /// Of what is about no repository.
    first: Arc<RegistryStore>,
    /// Where pushes are known to be taken.
    pushes: Arc<Pushes>,
    known: Mutex<HashMap<Repository, Arc<RegistryStore>>>,
}

impl ByAccount {
    pub(super) fn new(
        host: &str,
        registries: &Arc<Registries>,
        credentials: &Arc<CredentialStore>,
        first: Arc<RegistryStore>,
        pushes: &Arc<Pushes>,
    ) -> Self {
        let (registries, credentials, pushes) = (Arc::clone(registries), Arc::clone(credentials), Arc::clone(pushes));
        ByAccount { host: host.to_owned(), registries, credentials, first, pushes, known: Mutex::default() }
    }

    /// The registry as the account of `place` sees it.
    async fn at(&self, place: &Repository) -> Result<Arc<RegistryStore>> {
        let known = |by_place: &HashMap<Repository, Arc<RegistryStore>>| by_place.get(place).cloned();
        if let Some(store) = known(&self.known.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(store);
        }
        let account = self.credentials.account_for_host(&self.host, place.as_str()).await?;
        let store = self.registries.store(Side::Target, &self.host, Arc::new(account))?;
        store.remember_pushes(Arc::clone(&self.pushes));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone(), Arc::clone(&store));
        Ok(store)
    }
}

#[async_trait]
impl Source for ByAccount {
    async fn ready(&self) {
        self.first.ready().await;
    }

    async fn resolve(&self, place: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.at(place).await?.resolve(place, reference, context).await
    }

    async fn tags(&self, place: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        self.at(place).await?.tags(place, context).await
    }

    async fn repositories(&self, context: &RequestContext) -> Result<Option<Vec<Repository>>> {
        self.first.repositories(context).await
    }

    async fn referrers(&self, place: &Repository, subject: &Digest, context: &RequestContext) -> Result<Vec<Descriptor>> {
        self.at(place).await?.referrers(place, subject, context).await
    }

    async fn listed_referrers(
        &self,
        place: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        context: &RequestContext,
    ) -> Result<ReferrerList> {
        self.at(place).await?.listed_referrers(place, subject, artifact_type, context).await
    }

    async fn find_tag(&self, place: &Repository, tag: &str, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.at(place).await?.find_tag(place, tag, context).await
    }

    async fn digest_tags(&self, place: &Repository, context: &RequestContext) -> Result<Arc<DigestTags>> {
        self.at(place).await?.digest_tags(place, context).await
    }

    async fn manifest(&self, place: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        self.at(place).await?.manifest(place, digest, context).await
    }

    async fn blob(&self, place: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        self.at(place).await?.blob(place, blob, offset, context).await
    }

    async fn blob_size(&self, place: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<u64>> {
        self.at(place).await?.blob_size(place, digest, context).await
    }
}

#[async_trait]
impl Sink for ByAccount {
    async fn published(&self, place: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.at(place).await?.published(place, reference, context).await
    }

    async fn admits(&self, place: &Repository, context: &RequestContext) -> Result<()> {
        self.at(place).await?.admits(place, context).await
    }

    async fn holds_blob(&self, place: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<Presence> {
        self.at(place).await?.holds_blob(place, blob, context).await
    }

    async fn holds_manifest(&self, place: &Repository, manifest: &Descriptor, context: &RequestContext) -> Result<Presence> {
        self.at(place).await?.holds_manifest(place, manifest, context).await
    }

    /// Only within one account: what another may read, this one need not.
    async fn link(&self, from: &Repository, to: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<bool> {
        let (theirs, ours) = (self.at(from).await?, self.at(to).await?);
        if Arc::ptr_eq(&theirs, &ours) { ours.link(from, to, blob, context).await } else { Ok(false) }
    }

    async fn write_blob(&self, place: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()> {
        self.at(place).await?.write_blob(place, blob, open, context).await
    }

    async fn put_manifest(&self, place: &Repository, manifest: &Manifest, context: &RequestContext) -> Result<()> {
        self.at(place).await?.put_manifest(place, manifest, context).await
    }

    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()> {
        self.at(&publication.place).await?.publish(publication, context).await
    }

    async fn attach(&self, place: &Repository, subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        self.at(place).await?.attach(place, subject, referrers, context).await
    }

    async fn attach_tagged(&self, publication: &Publication, subject: &Digest, context: &RequestContext) -> Result<()> {
        self.at(&publication.place).await?.attach_tagged(publication, subject, context).await
    }
}
