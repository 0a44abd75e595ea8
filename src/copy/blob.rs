//! One blob into one repository: found there, linked, or moved; read from the upstream at most once a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::engine::{CopyImage, Engine};
use crate::content::{self, BlobStream, Descriptor, OpenBlob, Presence as At, Repository, RequestContext, Source};
use crate::report::{Event, Reporter};
use crate::{Error, Kind, Result, Side};

impl Engine {
    /// Makes the image's repository hold `blob`; says whether the target had to be written to.
    pub(super) async fn blob(&self, image: &CopyImage, blob: &Descriptor) -> Result<bool> {
        let to = &image.to;
        let _held = self.nodes.hold((to.clone(), blob.digest.clone())).await;
        if self.presence.has(to, &blob.digest) {
            return Ok(self.present());
        }
        let mut elsewhere = self.elsewhere(to, &blob.digest);
        if elsewhere.is_none() {
            image.upstream.ready().await;
            let _leading = self.leaders.hold(blob.digest.clone()).await;
            elsewhere = self.elsewhere(to, &blob.digest);
            if elsewhere.is_none() {
                return self.bring(image, blob).await;
            }
        }
        match elsewhere {
            Some(from) => self.link(image, blob, &from).await,
            None => Ok(false),
        }
    }

    /// No repository of the target is known to have it: ask, else move it from the upstream.
    async fn bring(&self, image: &CopyImage, blob: &Descriptor) -> Result<bool> {
        let known = match self.target.sink.holds_blob(&image.to, blob, &image.context).await? {
            At::Here => {
                self.presence.add(&image.to, &blob.digest);
                return Ok(self.present());
            }
            At::At(from) => Some(from),
            At::Absent | At::Incomplete => None,
        };
        if let Some(from) = known {
            return self.link(image, blob, &from).await;
        }
        self.transfer(image, blob, None).await?;
        Ok(true)
    }

    /// Another repository of the target has it: mount it, or, where that is refused, fill it from there.
    async fn link(&self, image: &CopyImage, blob: &Descriptor, from: &Repository) -> Result<bool> {
        if self.target.sink.link(from, &image.to, blob, &image.context).await? {
            self.presence.add(&image.to, &blob.digest);
            if self.target.sink.shares_blobs() {
                return Ok(self.present());
            }
            self.counts.mounted.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        if self.target.sink.holds_blob(&image.to, blob, &image.context).await? == At::Here {
            self.presence.add(&image.to, &blob.digest);
            return Ok(self.present());
        }
        self.transfer(image, blob, Some(from)).await?;
        Ok(true)
    }

    fn present(&self) -> bool {
        self.counts.present.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Moves the bytes: from repository `other` of the target if it is given and has them, else from the upstream.
    pub(super) async fn transfer(&self, image: &CopyImage, blob: &Descriptor, other: Option<&Repository>) -> Result<()> {
        if self.stop.is_cancelled() {
            return Err(Error::cancelled("copy blob"));
        }
        let mut sources: Vec<(Arc<dyn Source>, Repository)> = Vec::with_capacity(2);
        sources.extend(other.map(|repository| (Arc::clone(&self.target.source), repository.clone())));
        sources.push((Arc::clone(&image.upstream), image.from.clone()));
        let mut opener = Opener {
            sources,
            blob: blob.clone(),
            inline: self.at_hand.get(&blob.digest),
            context: image.context.clone(),
            reporter: Arc::clone(&self.reporter),
            announced: AtomicBool::new(false),
        };
        let mut damaged = 0;
        while let Err(error) = self.target.sink.write_blob(&image.to, blob, &opener, &image.context).await {
            damaged += 1;
            if damaged >= MOST_DAMAGED || !was_damaged_on_its_way(&error) || !image.upstream.is_remote() {
                return Err(error);
            }
            tracing::warn!(%error, "a blob was damaged on its way; reading it again on another connection");
            opener.context.fresh = true;
        }
        self.counts.copied.fetch_add(1, Ordering::Relaxed);
        self.presence.add(&image.to, &blob.digest);
        Ok(())
    }
}

/// A proxy or a line damages now this and now that; bytes that are wrong three times, on three connections, are wrong at the upstream.
const MOST_DAMAGED: u32 = 3;

/// Whether the bytes that came are not the ones that the upstream should have.
fn was_damaged_on_its_way(error: &Error) -> bool {
    error.kind() == Kind::Damaged && error.side() == Side::Upstream && error.operation() == content::CHECK_BLOB
}

/// Opens a blob at the first of several sources that has it.
struct Opener {
    sources: Vec<(Arc<dyn Source>, Repository)>,
    blob: Descriptor,
    /// The bytes, where nobody need be asked for them.
    inline: Option<Bytes>,
    context: RequestContext,
    reporter: Arc<dyn Reporter>,
    /// Whether it is known how many bytes are to come; what an earlier run has left is not.
    announced: AtomicBool,
}

#[async_trait]
impl OpenBlob for Opener {
    async fn open(&self, offset: u64) -> Result<BlobStream> {
        if !self.announced.swap(true, Ordering::Relaxed) {
            self.reporter.event(&Event::Expected { bytes: self.blob.size.saturating_sub(offset) });
        }
        if let Some(bytes) = &self.inline {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(stream::iter([Ok(bytes.slice(start..))]).boxed());
        }
        for (source, repository) in &self.sources {
            if let Some(stream) = source.blob(repository, &self.blob, offset, &self.context).await? {
                let reporter = Arc::clone(&self.reporter);
                let told = stream.inspect(move |item| {
                    if let Ok(chunk) = item {
                        reporter.event(&Event::Moved { bytes: chunk.len() as u64 });
                    }
                });
                return Ok(told.boxed());
            }
        }
        Err(not_there(&self.blob))
    }
}

/// The upstream names a blob that it does not have.
pub(super) fn not_there(blob: &Descriptor) -> Error {
    Error::new(Side::Upstream, "get blob", Kind::NotFound, format!("the upstream does not have blob {}", blob.digest)).status(404)
}
