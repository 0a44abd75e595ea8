//! A layout as a [`Sink`]. Blobs belong to the whole layout: what one repository has, all have.

use async_trait::async_trait;

use super::files::{blocking, found};
use super::ingest::{InMemory, ingest};
use super::{Layout, damaged, graph};
use crate::content::{Charge, Descriptor, Manifest, OpenBlob, Place, Presence, Publication, Sink};
use crate::name::Reference;
use crate::{Error, Kind, Result, Side};

impl Layout {
    async fn complete(&self, root: Descriptor) -> Result<bool> {
        let files = self.0.files.clone();
        blocking(move || graph::complete(&files, &root)).await
    }

    fn has(&self, blob: &Descriptor) -> Result<bool> {
        Ok(self.0.files.blob_len(&blob.digest)? == Some(blob.size))
    }
}

/// What `org.opencontainers.image.ref.name` says: `library/alpine:3.20`, `repo@sha256:…`.
pub(super) fn full_name(place: &Place, reference: &Reference) -> String {
    format!("{place}{}", reference.suffix())
}

#[async_trait]
impl Sink for Layout {
    async fn published(&self, place: &Place, reference: &Reference, _charge: &Charge) -> Result<Option<Descriptor>> {
        let index = self.index().await?;
        // Only larder's own name counts: an image that another tool put here under a bare tag still needs its entry.
        let Some(entry) = index.named(&full_name(place, reference)) else { return Ok(None) };
        let root = bare(&entry.descriptor);
        Ok(self.complete(root.clone()).await?.then_some(root))
    }

    async fn holds_blob(&self, _place: &Place, blob: &Descriptor, _charge: &Charge) -> Result<Presence> {
        Ok(if self.has(blob)? { Presence::Here } else { Presence::Absent })
    }

    async fn holds_manifest(&self, _place: &Place, manifest: &Descriptor, _charge: &Charge) -> Result<Presence> {
        Ok(if self.complete(manifest.clone()).await? { Presence::Here } else { Presence::Absent })
    }

    async fn link(&self, _from: &Place, _to: &Place, blob: &Descriptor, _charge: &Charge) -> Result<bool> {
        self.has(blob)
    }

    async fn write_blob(&self, _place: &Place, blob: &Descriptor, open: &dyn OpenBlob, charge: &Charge) -> Result<()> {
        self.writer().await?;
        ingest(&self.0.files, blob, &|| self.has(blob), open, charge).await
    }

    async fn put_manifest(&self, _place: &Place, manifest: &Manifest, charge: &Charge) -> Result<()> {
        self.writer().await?;
        if manifest.digest.hasher().is_some() && !manifest.digest.matches(&manifest.bytes) {
            return Err(damaged("put manifest", format!("the bytes are not those of {}", manifest.digest)));
        }
        // Compared, not measured: a manifest with a turned bit has its length still, and is small enough to look at.
        let path = self.0.files.blob(&manifest.digest);
        let present = || {
            let bytes = found(std::fs::read(&path)).map_err(|error| Error::io("put manifest", &path, &error))?;
            Ok(bytes.is_some_and(|bytes| bytes == manifest.bytes))
        };
        ingest(&self.0.files, &manifest.descriptor(), &present, &InMemory(manifest.bytes.clone()), charge).await
    }

    async fn publish(&self, publication: &Publication, charge: &Charge) -> Result<()> {
        let Publication { place, reference, manifest, source } = publication;
        self.put_manifest(place, manifest, charge).await?;
        let root = manifest.descriptor();
        let name = full_name(place, reference);
        if !self.complete(root.clone()).await? {
            let message = "content of the image is not in the layout, so it gets no name there";
            return Err(Error::new(Side::Target, "publish", Kind::ContentMissing, message).subject(name));
        }
        self.0.index.publish(name, &root, source).await
    }
}

/// A descriptor without what belongs to one entry only.
pub(super) fn bare(descriptor: &Descriptor) -> Descriptor {
    Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size)
}
