//! Reads manifests and small blobs from where they cost least: memory, then the target, then the upstream.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;

use super::image::CopyImage;
use super::job::CopyJob;
use super::target::TargetState;
use crate::content::{Descriptor, Digest, MAX_MANIFEST, Manifest, Presence as At, Repository, RequestContext, Source, Verified};
use crate::{Error, Kind, Operation, Result, Side};

/// Child manifests of one image that are worked on at once. Each registry's own concurrency limits requests; this
/// bounds the manifests that one image holds in memory.
pub(super) const CONCURRENT_CHILDREN: usize = 8;

/// Reads content from where it costs least.
#[derive(Clone)]
pub(super) struct ContentReader {
    target: Arc<TargetState>,
}

impl ContentReader {
    pub(super) fn new(target: Arc<TargetState>) -> Self {
        ContentReader { target }
    }

    /// A manifest that can be had without a request.
    pub(super) fn cached_manifest(&self, image: &CopyImage, manifest: &Descriptor) -> Option<Manifest> {
        let bytes = self.target.cached().get(&manifest.digest);
        let known = |bytes| Manifest::known(bytes, Some(&manifest.media_type), manifest.digest.clone(), Side::Upstream).ok();
        bytes.and_then(known).or_else(|| image.upstream.cached(&manifest.digest))
    }

    /// A manifest that the target has: from the upstream's cache, else from the target.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub(super) async fn cached_or_target_manifest(&self, image: &CopyImage, digest: &Digest) -> Result<Option<Manifest>> {
        match image.upstream.cached(digest) {
            Some(manifest) => Ok(Some(manifest)),
            None => self.target.source().manifest(&image.to, digest, &image.context).await,
        }
    }

    /// A manifest as `repository` of the target has it; `None` if it has none, or a damaged one, which a copy will
    /// repair.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub(super) async fn intact_target_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        context: &RequestContext,
    ) -> Result<Option<Manifest>> {
        match self.target.source().manifest(repository, digest, context).await {
            Err(error) if error.kind() == Kind::Damaged => {
                tracing::debug!(%error, "the target's manifest is damaged");
                Ok(None)
            }
            read => read,
        }
    }

    /// Reads a manifest. `held`: whether the image's own repository has it.
    ///
    /// # Errors
    /// If it cannot be read, or no side has it.
    pub(super) async fn manifest(&self, job: &CopyJob<'_>, wanted: &Descriptor, held: &At) -> Result<Manifest> {
        let image = job.image;
        if self.target.cached().get(&wanted.digest).is_some()
            && let Some(manifest) = self.cached_manifest(image, wanted)
        {
            return Ok(manifest);
        }
        let _reading = self.target.lock_read(&wanted.digest).await;
        let repository = match held {
            At::Here | At::Incomplete => Some(image.to.clone()),
            At::At(repository) => Some(repository.clone()),
            At::Absent if self.target.options().warm => None,
            At::Absent => self.target.presence().anywhere(&wanted.digest),
        };
        if let Some(repository) = repository
            && let Some(manifest) = self.intact_target_manifest(&repository, &wanted.digest, &image.context).await?
        {
            return Ok(manifest);
        }
        // Spend no pull on an image that will not be finished.
        self.target.check_running(Operation::GetManifest)?;
        let manifest = image.upstream.manifest(&image.from, &wanted.digest, &image.context).await?.ok_or_else(|| {
            Error::new(
                Side::Upstream,
                Operation::GetManifest,
                Kind::NotFound,
                format!("the upstream does not have manifest {}", wanted.digest),
            )
            .status(404)
        })?;
        // 0 means that the size is unknown, as for an image named by digest.
        if wanted.size != 0 && wanted.size != manifest.size() {
            let message = format!("manifest {} has {} bytes where {} were announced", wanted.digest, manifest.bytes().len(), wanted.size);
            return Err(Error::new(Side::Upstream, Operation::GetManifest, Kind::Damaged, message));
        }
        job.add_read(wanted);
        Ok(manifest)
    }

    /// Reads a small blob of `manifest` (its config) into memory.
    ///
    /// # Errors
    /// If it is too large, cannot be read, or no side has it.
    pub(super) async fn small_blob(&self, image: &CopyImage, manifest: &Digest, blob: &Descriptor) -> Result<Bytes> {
        if blob.size > MAX_MANIFEST as u64 {
            let message = format!("the config has {} bytes, too many to look into", blob.size);
            return Err(Error::new(Side::Upstream, Operation::ChoosePlatforms, Kind::Unsupported, message));
        }
        let (cached, presence) = (self.target.cached(), self.target.presence());
        let at_target = || {
            let with_its_manifest = presence.has(&image.to, manifest).then(|| image.to.clone());
            presence.anywhere(&blob.digest).or(with_its_manifest)
        };
        if cached.get(&blob.digest).is_none() && at_target().is_none() {
            // Wait for any rate-limit pause before taking the lock.
            image.upstream.ready().await;
        }
        let _reading = self.target.lock_read(&blob.digest).await;
        if let Some(bytes) = cached.get(&blob.digest) {
            return Ok(bytes);
        }
        let mut bytes = None;
        if let Some(repository) = at_target() {
            bytes = match read_whole(&**self.target.source(), &repository, blob, &image.context, Side::Target).await {
                Err(error) if error.kind() == Kind::Damaged => None,
                read => read?,
            };
        }
        if bytes.is_none() {
            bytes = read_whole(&*image.upstream, &image.from, blob, &image.context, Side::Upstream).await?;
        }
        let bytes = bytes.ok_or_else(|| blob_not_found(blob))?;
        cached.add(&blob.digest, bytes.clone());
        Ok(bytes)
    }
}

/// All bytes of `blob`, checked against its digest.
async fn read_whole(
    source: &dyn Source,
    repository: &Repository,
    blob: &Descriptor,
    context: &RequestContext,
    side: Side,
) -> Result<Option<Bytes>> {
    let Some(stream) = source.blob(repository, blob, 0, context).await? else { return Ok(None) };
    let mut verified = Verified::whole(stream, blob, side)?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = verified.try_next().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.freeze()))
}

/// The upstream does not have a blob that one of its manifests refers to.
pub(super) fn blob_not_found(blob: &Descriptor) -> Error {
    Error::new(Side::Upstream, Operation::GetBlob, Kind::NotFound, format!("the upstream does not have blob {}", blob.digest)).status(404)
}
