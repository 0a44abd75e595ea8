//! A registry as a `Source`.

use std::sync::Arc;

use async_trait::async_trait;

use super::auth::Scopes;
use super::store::RegistryStore;
use crate::content::{BlobStream, Descriptor, Digest, DigestTags, Manifest, ReferrerList, Repository, RequestContext, Source};
use crate::name::Reference;
use crate::{Operation, Result};

#[async_trait]
impl Source for RegistryStore {
    fn is_remote(&self) -> bool {
        true
    }

    async fn ready(&self) {
        // A pause that is too long to wait for is reported by the request itself.
        let _ = self.transport.host.clear().await;
    }

    async fn resolve(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.head_manifest(repository, reference, Operation::ResolveTag, &Scopes::pull(repository.as_str()), context).await
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
