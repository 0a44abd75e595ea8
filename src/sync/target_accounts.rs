//! A target registry whose repositories have accounts of their own: docker's and podman's files may hold one for each path.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::config::CredentialStore;
use crate::content::{
    BlobStream, Descriptor, Digest, DigestTags, Manifest, OpenBlob, Presence, Publication, ReferrerList, Repository, RequestContext, Sink,
    Source,
};
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::registry::{Registries, RegistryStore};
use crate::state::Pushes;
use crate::{Result, Side};

/// A target registry, each repository as the account that is its own.
pub(super) struct PerRepositoryAccounts {
    host: String,
    registries: Arc<Registries>,
    credentials: Arc<CredentialStore>,
    /// Of what is about no repository.
    first: Arc<RegistryStore>,
    /// Where pushes are known to be taken.
    pushes: Arc<Pushes>,
    known: Mutex<HashMap<Repository, Arc<RegistryStore>>>,
}

impl PerRepositoryAccounts {
    pub(super) fn new(
        host: &str,
        registries: &Arc<Registries>,
        credentials: &Arc<CredentialStore>,
        first: Arc<RegistryStore>,
        pushes: &Arc<Pushes>,
    ) -> Self {
        let (registries, credentials, pushes) = (Arc::clone(registries), Arc::clone(credentials), Arc::clone(pushes));
        PerRepositoryAccounts { host: host.to_owned(), registries, credentials, first, pushes, known: Mutex::default() }
    }

    /// The registry as the account of `repository` sees it.
    async fn at(&self, repository: &Repository) -> Result<Arc<RegistryStore>> {
        let known = |by_place: &HashMap<Repository, Arc<RegistryStore>>| by_place.get(repository).cloned();
        if let Some(store) = known(&self.known.lock()) {
            return Ok(store);
        }
        let account = self.credentials.account_for_host(&self.host, repository.as_str()).await?;
        let store = self.registries.store(Side::Target, &self.host, Arc::new(account))?;
        store.remember_pushes(Arc::clone(&self.pushes));
        self.known.lock().insert(repository.clone(), Arc::clone(&store));
        Ok(store)
    }
}

#[async_trait]
impl Source for PerRepositoryAccounts {
    async fn ready(&self) {
        self.first.ready().await;
    }

    async fn resolve(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.at(repository).await?.resolve(repository, reference, context).await
    }

    async fn tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        self.at(repository).await?.tags(repository, context).await
    }

    async fn repositories(&self, context: &RequestContext) -> Result<Option<Vec<Repository>>> {
        self.first.repositories(context).await
    }

    async fn referrers(&self, repository: &Repository, subject: &Digest, context: &RequestContext) -> Result<Vec<Descriptor>> {
        self.at(repository).await?.referrers(repository, subject, context).await
    }

    async fn listed_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        context: &RequestContext,
    ) -> Result<ReferrerList> {
        self.at(repository).await?.listed_referrers(repository, subject, artifact_type, context).await
    }

    async fn find_tag(&self, repository: &Repository, tag: &str, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.at(repository).await?.find_tag(repository, tag, context).await
    }

    async fn digest_tags(&self, repository: &Repository, context: &RequestContext) -> Result<Arc<DigestTags>> {
        self.at(repository).await?.digest_tags(repository, context).await
    }

    async fn manifest(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        self.at(repository).await?.manifest(repository, digest, context).await
    }

    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        self.at(repository).await?.blob(repository, blob, offset, context).await
    }

    async fn blob_size(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<u64>> {
        self.at(repository).await?.blob_size(repository, digest, context).await
    }
}

#[async_trait]
impl Sink for PerRepositoryAccounts {
    async fn published(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.at(repository).await?.published(repository, reference, context).await
    }

    async fn admits(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.at(repository).await?.admits(repository, context).await
    }

    async fn holds_blob(&self, repository: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<Presence> {
        self.at(repository).await?.holds_blob(repository, blob, context).await
    }

    async fn holds_manifest(&self, repository: &Repository, manifest: &Descriptor, context: &RequestContext) -> Result<Presence> {
        self.at(repository).await?.holds_manifest(repository, manifest, context).await
    }

    /// Only within one account: what another may read, this one need not.
    async fn link(&self, from: &Repository, to: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<bool> {
        let (theirs, ours) = (self.at(from).await?, self.at(to).await?);
        if Arc::ptr_eq(&theirs, &ours) { ours.link(from, to, blob, context).await } else { Ok(false) }
    }

    async fn write_blob(&self, repository: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()> {
        self.at(repository).await?.write_blob(repository, blob, open, context).await
    }

    async fn put_manifest(&self, repository: &Repository, manifest: &Manifest, context: &RequestContext) -> Result<()> {
        self.at(repository).await?.put_manifest(repository, manifest, context).await
    }

    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()> {
        self.at(&publication.repository).await?.publish(publication, context).await
    }

    async fn attach(&self, repository: &Repository, subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        self.at(repository).await?.attach(repository, subject, referrers, context).await
    }

    async fn attach_tagged(&self, publication: &Publication, subject: &Digest, context: &RequestContext) -> Result<()> {
        self.at(&publication.repository).await?.attach_tagged(publication, subject, context).await
    }
}
