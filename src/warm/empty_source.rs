//! What can be read back from a target that drops what it gets: nothing.

use async_trait::async_trait;

use crate::Result;
use crate::content::{BlobStream, Descriptor, Digest, Manifest, Repository, RequestContext, Source};
use crate::name::Reference;

/// A source that has nothing.
pub(super) struct EmptySource;

#[async_trait]
impl Source for EmptySource {
    async fn resolve(&self, _: &Repository, _: &Reference, _: &RequestContext) -> Result<Option<Descriptor>> {
        Ok(None)
    }
    async fn tags(&self, _: &Repository, _: &RequestContext) -> Result<Vec<String>> {
        Ok(vec![])
    }
    async fn manifest(&self, _: &Repository, _: &Digest, _: &RequestContext) -> Result<Option<Manifest>> {
        Ok(None)
    }
    async fn blob(&self, _: &Repository, _: &Descriptor, _: u64, _: &RequestContext) -> Result<Option<BlobStream>> {
        Ok(None)
    }
}
