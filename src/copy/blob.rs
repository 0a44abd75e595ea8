//! Copies one blob: it is found at the target, mounted, or transferred. A run reads it from an upstream at most once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::image::CopyImage;
use super::reader::blob_not_found;
use super::target::TargetState;
use crate::content::{BlobStream, Descriptor, OpenBlob, Presence as At, Repository, RequestContext, Source};
use crate::report::{Event, Reporter};
use crate::{Error, Kind, Operation, Result, Side};

/// How often a blob is read until one with wrong bytes fails. A proxy or a bad line damages some transfers; bytes that
/// are wrong three times, on three connections, are wrong at the upstream.
const MAX_READS: u32 = 3;

/// Copies blobs into the target.
#[derive(Clone)]
pub(super) struct BlobCopy {
    target: Arc<TargetState>,
    reporter: Arc<dyn Reporter>,
}

impl BlobCopy {
    pub(super) fn new(target: Arc<TargetState>, reporter: Arc<dyn Reporter>) -> Self {
        BlobCopy { target, reporter }
    }

    /// Makes the image's repository hold `blob`. Returns whether the target had to be written to.
    ///
    /// # Errors
    /// If the blob cannot be read or written.
    pub(super) async fn copy(&self, image: &CopyImage, blob: &Descriptor) -> Result<bool> {
        let (to, digest) = (&image.to, &blob.digest);
        let _writing = self.target.lock_write(to, digest).await;
        if self.target.presence().has(to, digest) {
            return Ok(self.count_present());
        }
        if let Some(from) = self.target.repository_with(to, digest) {
            return self.mount(image, blob, &from).await;
        }
        // Wait for any rate-limit pause before taking the lock, so that it is not held while waiting.
        image.upstream.ready().await;
        let reading = self.target.lock_read(digest).await;
        if let Some(from) = self.target.repository_with(to, digest) {
            drop(reading);
            return self.mount(image, blob, &from).await;
        }
        match self.target.sink().holds_blob(to, blob, &image.context).await? {
            At::Here => {
                self.target.presence().add(to, digest);
                Ok(self.count_present())
            }
            At::At(from) => self.mount(image, blob, &from).await,
            At::Absent | At::Incomplete => self.transfer(image, blob, None).await.map(|()| true),
        }
    }

    /// Mounts the blob from repository `from` of the target. If the target refuses, copies the bytes from there.
    async fn mount(&self, image: &CopyImage, blob: &Descriptor, from: &Repository) -> Result<bool> {
        let sink = self.target.sink();
        if sink.link(from, &image.to, blob, &image.context).await? {
            self.target.presence().add(&image.to, &blob.digest);
            if sink.shares_blobs() {
                return Ok(self.count_present());
            }
            self.target.counts().add_mounted();
            return Ok(true);
        }
        if sink.holds_blob(&image.to, blob, &image.context).await? == At::Here {
            self.target.presence().add(&image.to, &blob.digest);
            return Ok(self.count_present());
        }
        self.transfer(image, blob, Some(from)).await?;
        Ok(true)
    }

    fn count_present(&self) -> bool {
        self.target.counts().add_present();
        false
    }

    /// Transfers the bytes: from repository `other` of the target if it has them, else from the upstream.
    ///
    /// # Errors
    /// If the blob cannot be read or written.
    pub(super) async fn transfer(&self, image: &CopyImage, blob: &Descriptor, other: Option<&Repository>) -> Result<()> {
        self.target.check_running(Operation::CopyBlob)?;
        let mut sources: Vec<(Arc<dyn Source>, Repository)> = Vec::with_capacity(2);
        sources.extend(other.map(|repository| (Arc::clone(self.target.source()), repository.clone())));
        sources.push((Arc::clone(&image.upstream), image.from.clone()));
        let mut opener = Opener {
            sources,
            blob: blob.clone(),
            cached: self.target.cached().get(&blob.digest),
            context: image.context.clone(),
            reporter: Arc::clone(&self.reporter),
            announced: AtomicBool::new(false),
        };
        let mut damaged = 0;
        while let Err(error) = self.target.sink().write_blob(&image.to, blob, &opener, &image.context).await {
            damaged += 1;
            if damaged >= MAX_READS || !was_damaged_on_its_way(&error) || !image.upstream.is_remote() {
                return Err(error);
            }
            tracing::warn!(%error, "a blob was damaged on its way; reading it again on another connection");
            opener.context.fresh = true;
        }
        self.target.counts().add_copied();
        self.target.presence().add(&image.to, &blob.digest);
        Ok(())
    }
}

/// Whether the upstream sent bytes with another digest.
fn was_damaged_on_its_way(error: &Error) -> bool {
    error.kind() == Kind::Damaged && error.side() == Side::Upstream && error.operation() == Operation::CheckBlob
}

/// Opens a blob at the first source that has it.
struct Opener {
    sources: Vec<(Arc<dyn Source>, Repository)>,
    blob: Descriptor,
    /// The bytes, if they are in memory.
    cached: Option<Bytes>,
    context: RequestContext,
    reporter: Arc<dyn Reporter>,
    /// Whether the size has been reported. Bytes that an earlier run has left at the target are not part of it.
    announced: AtomicBool,
}

#[async_trait]
impl OpenBlob for Opener {
    async fn open(&self, offset: u64) -> Result<BlobStream> {
        if !self.announced.swap(true, Ordering::Relaxed) {
            self.reporter.event(&Event::Expected { bytes: self.blob.size.saturating_sub(offset) });
        }
        if let Some(bytes) = &self.cached {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(stream::iter([Ok(bytes.slice(start..))]).boxed());
        }
        for (source, repository) in &self.sources {
            if let Some(stream) = source.blob(repository, &self.blob, offset, &self.context).await? {
                let reporter = Arc::clone(&self.reporter);
                let reported = stream.inspect(move |item| {
                    if let Ok(chunk) = item {
                        reporter.event(&Event::Moved { bytes: chunk.len() as u64 });
                    }
                });
                return Ok(reported.boxed());
            }
        }
        Err(blob_not_found(&self.blob))
    }
}
