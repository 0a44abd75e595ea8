//! The cache as a sink: bytes are checked and dropped, nothing is put, because being asked for is what fills a cache.

use async_trait::async_trait;
use futures_util::TryStreamExt;

use super::Cache;
use crate::content::{
    BlobStream, Charge, Descriptor, Digest, Manifest, OpenBlob, Place, Presence, Publication, Sink, Source, Verified, checkable,
};
use crate::name::Reference;
use crate::registry::BlobSeen;
use crate::rules::WarmBlobs;
use crate::{Result, Side};

/// Whether the cache has an image is [`super::Through`]'s to prove, as a whole; here nothing is known of it.
#[async_trait]
impl Sink for Cache {
    async fn published(&self, _: &Place, _: &Reference, _: &Charge) -> Result<Option<Descriptor>> {
        Ok(None)
    }

    async fn holds_blob(&self, place: &Place, blob: &Descriptor, charge: &Charge) -> Result<Presence> {
        let here = match self.blobs(place) {
            WarmBlobs::Get => false,
            // Where a HEAD of a blob fetches nothing, the answer is no, and the blob is read after all.
            WarmBlobs::Head => {
                self.settle(&blob.digest, charge).await?;
                let seen = self.store.look_for_blob(place, &blob.digest, charge).await?;
                self.seen(&blob.digest, place, seen);
                seen != BlobSeen::Absent
            }
            WarmBlobs::None => true,
        };
        Ok(if here { Presence::Here } else { Presence::Absent })
    }

    async fn holds_manifest(&self, _: &Place, _: &Descriptor, _: &Charge) -> Result<Presence> {
        Ok(Presence::Absent)
    }

    async fn link(&self, _: &Place, _: &Place, _: &Descriptor, _: &Charge) -> Result<bool> {
        Ok(false)
    }

    async fn write_blob(&self, _: &Place, blob: &Descriptor, open: &dyn OpenBlob, charge: &Charge) -> Result<()> {
        checkable(blob, Side::Target)?;
        self.settle(&blob.digest, charge).await?;
        let mut stream = Verified::whole(open.open(0).await?, blob, Side::Target)?;
        while stream.try_next().await?.is_some() {}
        Ok(())
    }

    async fn put_manifest(&self, _: &Place, _: &Manifest, _: &Charge) -> Result<()> {
        Ok(())
    }

    async fn publish(&self, _: &Publication, _: &Charge) -> Result<()> {
        Ok(())
    }
}

/// What can be read back of what was dropped.
pub(super) struct Nothing;

#[async_trait]
impl Source for Nothing {
    async fn resolve(&self, _: &Place, _: &Reference, _: &Charge) -> Result<Option<Descriptor>> {
        Ok(None)
    }
    async fn tags(&self, _: &Place, _: &Charge) -> Result<Vec<String>> {
        Ok(vec![])
    }
    async fn manifest(&self, _: &Place, _: &Digest, _: &Charge) -> Result<Option<Manifest>> {
        Ok(None)
    }
    async fn blob(&self, _: &Place, _: &Descriptor, _: u64, _: &Charge) -> Result<Option<BlobStream>> {
        Ok(None)
    }
}
