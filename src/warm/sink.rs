//! The cache as a sink: bytes are checked and dropped, nothing is put, because being asked for is what fills a cache.

use async_trait::async_trait;
use futures_util::TryStreamExt;

use super::Cache;
use crate::content::{Descriptor, Manifest, OpenBlob, Presence, Publication, Repository, RequestContext, Sink, Verified, checkable};
use crate::name::Reference;
use crate::registry::BlobSeen;
use crate::rules::WarmBlobs;
use crate::{Result, Side};

/// Whether the cache has an image is [`super::CachedImage`]'s to prove, as a whole; here nothing is known of it.
#[async_trait]
impl Sink for Cache {
    async fn published(&self, _: &Repository, _: &Reference, _: &RequestContext) -> Result<Option<Descriptor>> {
        Ok(None)
    }

    async fn holds_blob(&self, repository: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<Presence> {
        let here = match self.blobs(repository) {
            WarmBlobs::Get => false,
            // Where a HEAD of a blob fetches nothing, the answer is no, and the blob is read after all.
            WarmBlobs::Head => {
                self.settle(&blob.digest, context).await?;
                let seen = self.store.look_for_blob(repository, &blob.digest, context).await?;
                self.seen(&blob.digest, repository, seen);
                seen != BlobSeen::Absent
            }
            WarmBlobs::None => true,
        };
        Ok(if here { Presence::Here } else { Presence::Absent })
    }

    async fn holds_manifest(&self, _: &Repository, _: &Descriptor, _: &RequestContext) -> Result<Presence> {
        Ok(Presence::Absent)
    }

    async fn link(&self, _: &Repository, _: &Repository, _: &Descriptor, _: &RequestContext) -> Result<bool> {
        Ok(false)
    }

    async fn write_blob(&self, _: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()> {
        checkable(blob, Side::Target)?;
        self.settle(&blob.digest, context).await?;
        let mut stream = Verified::whole(open.open(0).await?, blob, Side::Target)?;
        while stream.try_next().await?.is_some() {}
        Ok(())
    }

    async fn put_manifest(&self, _: &Repository, _: &Manifest, _: &RequestContext) -> Result<()> {
        Ok(())
    }

    async fn publish(&self, _: &Publication, _: &RequestContext) -> Result<()> {
        Ok(())
    }
}
