//! A registry as a `Sink`.

use async_trait::async_trait;
use reqwest::header::HeaderMap;

use super::auth::Scopes;
use super::manifests::unless_refused;
use super::store::RegistryStore;
use crate::content::{Descriptor, Digest, Manifest, OpenBlob, Presence, Publication, Repository, RequestContext, Sink};
use crate::name::Reference;
use crate::{Operation, Result};

/// A registry keeps what it lists: whoever put a manifest there had to put its content first. So a manifest found is
/// `Here` with all it refers to; where that is wrong, a later PUT is answered `MANIFEST_BLOB_UNKNOWN` and the copy heals.
///
/// Reading a name (`published`) asks for pull rights only, so that a plan and a night with nothing to do need no others;
/// everything else asks for push rights at once, so that a repository costs one token.
#[async_trait]
impl Sink for RegistryStore {
    async fn published(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        unless_refused(self.head_manifest(repository, reference, Operation::ResolveTag, &Scopes::pull(repository.as_str()), context).await)
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
        let found = self.head_manifest(repository, &reference, Operation::HeadManifest, &Scopes::push(repository.as_str()), context).await;
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
        self.store_manifest(repository, &Reference::Digest(manifest.digest().clone()), manifest, context).await
    }

    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()> {
        let Publication { repository, reference, manifest, .. } = publication;
        if matches!(reference, Reference::Digest(_)) && self.held().has(repository, manifest.digest()) {
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
        if always || unproven { self.find_name(repository, reference, manifest.digest(), context).await } else { Ok(()) }
    }

    async fn attach(&self, repository: &Repository, subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        self.put_referrers(repository, subject, referrers, context).await
    }
}
