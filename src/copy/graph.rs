//! Copies the graph of an image. A manifest is written after everything it refers to.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::task::JoinSet;

use super::blob::BlobCopy;
use super::image::CopyImage;
use super::job::CopyJob;
use super::reader::{CONCURRENT_CHILDREN, ContentReader};
use super::selection::SelectedContent;
use super::target::TargetState;
use crate::content::{Descriptor, Links, Manifest, NodeRole, Presence as At, Publication, check_depth};
use crate::report::Reporter;
use crate::{Error, Kind, Operation, Result, Side, internal};

/// Copies manifests with everything they refer to into the target.
#[derive(Clone)]
pub(super) struct GraphCopy {
    target: Arc<TargetState>,
    reader: ContentReader,
    blobs: BlobCopy,
}

impl GraphCopy {
    pub(super) fn new(target: Arc<TargetState>, reporter: Arc<dyn Reporter>) -> Self {
        let (reader, blobs) = (ContentReader::new(Arc::clone(&target)), BlobCopy::new(Arc::clone(&target), reporter));
        GraphCopy { target, reader, blobs }
    }

    /// Copies `blob` into the image's repository, without the rest of the image.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub(super) async fn copy_blob(&self, image: &CopyImage, blob: &Descriptor) -> Result<()> {
        self.blobs.copy(image, blob).await.map(drop)
    }

    /// Copies what the image's policy selects below its top manifest. Returns the selection, and whether anything had
    /// to be written. The caller holds the write lock of the digest until the name is given, so that another tag of it
    /// finds it there.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn copy_selected(&self, job: &CopyJob<'_>, wanted: &Descriptor) -> Result<(SelectedContent, bool)> {
        let (image, options) = (job.image, self.target.options());
        // A cache learns a name when it is asked for it, whatever it holds.
        let held = if options.warm { At::Absent } else { self.target.holds_manifest(image, wanted).await? };
        if held == At::Here
            && !options.recheck
            && image.policy.platforms.is_empty()
            && let Some(manifest) = self.target.source().manifest(&image.to, &wanted.digest, &image.context).await?
        {
            job.add_read(wanted);
            return Ok((SelectedContent::whole(manifest), false));
        }
        // The Content-Length of a HEAD is a hint (compression changes it): only the digest counts.
        let any_size = Descriptor { size: 0, ..wanted.clone() };
        let manifest = self.reader.manifest(job, &any_size, &held).await?;
        self.target.cached().add_inline(&manifest);
        self.target.child_counts().learn(&image.to, &manifest);
        let mut selected = SelectedContent::select(&self.target, &self.reader, job, manifest).await?;
        let children =
            selected.links.manifests.iter().filter(|child| NodeRole::of_child(&child.media_type) != NodeRole::Blob).count() as u64;
        self.target.child_counts().add(children);
        if let Some(lease) = &image.context.lease {
            // Give back the pulls that this image cannot need.
            lease.trim(children + job.referrer_pulls());
        }
        self.fill(job, &selected.links, 0).await?;
        let absent = selected.drop_absent(job)?;
        if !absent.is_empty() {
            self.target.sink().accept_without(selected.manifest.digest(), &absent);
        }
        Ok((selected, job.wrote()))
    }

    /// Copies what a manifest refers to. If a part fails, those under way finish (their pulls are spent, and other
    /// images may be waiting for them), and no other part begins.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn fill(&self, job: &CopyJob<'_>, links: &Links, depth: usize) -> Result<()> {
        check_depth(depth, links, Side::Upstream)?;
        let mut seen = HashSet::new();
        let distinct: Vec<Descriptor> = links.manifests.iter().filter(|child| seen.insert(&child.digest)).cloned().collect();
        let children = async {
            let mut children =
                stream::iter(distinct).map(|child| self.copy_child(job, child, depth + 1)).buffer_unordered(CONCURRENT_CHILDREN);
            let mut all = Ok(());
            while let Some(done) = children.next().await {
                if done.is_err() {
                    job.failed().set();
                }
                all = both(all, done);
            }
            all
        };
        let (children, blobs) = futures_util::future::join(children, self.copy_blobs(job, &links.blobs)).await;
        both(children, blobs)
    }

    fn copy_child<'a>(&'a self, job: &'a CopyJob<'_>, child: Descriptor, depth: usize) -> BoxFuture<'a, Result<()>> {
        async move {
            if NodeRole::of_child(&child.media_type) == NodeRole::Blob {
                job.note("its index lists layers, as a build cache does: they are carried as layers".to_owned());
                return self.copy_blobs(job, &[child]).await;
            }
            let (image, options) = (job.image, self.target.options());
            let writing = self.target.lock_write(&image.to, &child.digest).await;
            if job.failed().is_set() {
                return Err(Error::cancelled(Operation::CopyManifest));
            }
            let held = self.target.holds_manifest(image, &child).await?;
            if held == At::Here && !options.recheck {
                job.add_read(&child);
                return Ok(());
            }
            let manifest = match self.reader.manifest(job, &child, &held).await {
                Err(error) if may_be_a_blob(&child, &error) => {
                    drop(writing);
                    return self.copy_blobs(job, &[child]).await;
                }
                Err(error) if is_absent_upstream(&error) && !options.warm => {
                    job.add_absent(child);
                    return Ok(());
                }
                read => read?,
            };
            self.target.cached().add_inline(&manifest);
            self.fill(job, manifest.links(), depth).await?;
            if held != At::Here {
                job.set_wrote();
                self.put(job, &manifest).await?;
            }
            self.target.presence().add(&image.to, manifest.digest());
            Ok(())
        }
        .boxed()
    }

    /// Copies each blob in its own task, so that hashing uses all cores.
    async fn copy_blobs(&self, job: &CopyJob<'_>, blobs: &[Descriptor]) -> Result<()> {
        self.target.options().room.as_ref().map_or(Ok(()), |room| room.admit(blobs))?;
        let mut tasks = JoinSet::new();
        let mut seen = HashSet::new();
        for blob in blobs {
            if !seen.insert(blob.digest.clone()) {
                continue;
            }
            if job.skips(blob) {
                job.note(format!("foreign layer {} is not copied: its licence lets only its vendor distribute it", blob.digest.short()));
                continue;
            }
            let (blobs, image, blob, failed) = (self.blobs.clone(), job.image.clone(), blob.clone(), job.failed().clone());
            tasks.spawn(async move {
                if failed.is_set() {
                    return Err(Error::cancelled(Operation::CopyBlob));
                }
                let done = internal::caught(Operation::CopyBlob, blobs.copy(&image, &blob)).await.and_then(|done| done);
                if done.is_err() {
                    failed.set();
                }
                done
            });
        }
        let mut all = Ok(());
        while let Some(done) = tasks.join_next().await {
            let done = done.unwrap_or_else(|lost| Err(internal::lost(Operation::CopyBlob, lost)));
            if let Ok(true) = done {
                job.set_wrote();
            }
            all = both(all, done.map(|_| ()));
        }
        all
    }

    async fn put(&self, job: &CopyJob<'_>, manifest: &Manifest) -> Result<()> {
        let put = || self.target.sink().put_manifest(&job.image.to, manifest, &job.image.context);
        self.write_or_refill(job, &[manifest.links()], put).await
    }

    /// Writes by digest an image whose content is complete.
    ///
    /// # Errors
    /// If the target refuses it.
    pub(super) async fn put_selected(&self, job: &CopyJob<'_>, selected: &SelectedContent) -> Result<()> {
        let (image, digest) = (job.image, selected.manifest.digest());
        if self.target.presence().has(&image.to, digest) {
            return Ok(());
        }
        let put = || self.target.sink().put_manifest(&image.to, &selected.manifest, &image.context);
        self.write_selected(job, selected, put).await?;
        if selected.sparse.is_empty() {
            self.target.presence().add(&image.to, digest);
        }
        Ok(())
    }

    /// Gives an image whose content is complete its name.
    ///
    /// # Errors
    /// If the target refuses it, or does not have it under that name afterwards.
    pub(super) async fn publish(&self, job: &CopyJob<'_>, selected: &SelectedContent) -> Result<()> {
        let image = job.image;
        let publication = Publication {
            repository: image.to.clone(),
            reference: image.publish.clone(),
            manifest: selected.manifest.clone(),
            source: Arc::clone(&image.name),
            sparse: selected.sparse.clone(),
        };
        let sink = self.target.sink();
        self.write_selected(job, selected, || sink.publish(&publication, &image.context)).await?;
        sink.confirm(&publication, self.target.options().recheck, &image.context).await
    }

    /// As [`GraphCopy::write_or_refill`], for an image of which the target may not have all children.
    async fn write_selected<'f, W>(&self, job: &CopyJob<'_>, selected: &SelectedContent, write: W) -> Result<()>
    where
        W: Fn() -> BoxFuture<'f, Result<()>> + Send + Sync,
    {
        match write().await {
            Err(error) if !selected.sparse.is_empty() && error.http_status().is_some() => Err(explain_sparse(error)),
            Err(error) if error.kind() == Kind::ContentMissing && !job.absent().is_empty() => Err(explain_absent(error)),
            Err(error) if error.kind() == Kind::ContentMissing => {
                self.refill(job, &selected.links).await?;
                write().await
            }
            done => done,
        }
    }

    /// Calls `write`. If the target refuses because content is missing that it, or a mount, reported as present, copies
    /// what `links` refer to again, and calls it once more.
    ///
    /// # Errors
    /// If the target refuses again, or the copy fails.
    pub(super) async fn write_or_refill<'f, W>(&self, job: &CopyJob<'_>, links: &[&Links], write: W) -> Result<()>
    where
        W: Fn() -> BoxFuture<'f, Result<()>> + Send + Sync,
    {
        match write().await {
            Err(error) if error.kind() == Kind::ContentMissing => {
                for links in links {
                    self.refill(job, links).await?;
                }
                write().await
            }
            done => done,
        }
    }

    /// Copies everything that a manifest refers to again, without asking the target what it has.
    fn refill<'a>(&'a self, job: &'a CopyJob<'_>, Links { manifests, blobs, .. }: &'a Links) -> BoxFuture<'a, Result<()>> {
        async move {
            let image = job.image;
            let presence = self.target.presence();
            for blob in blobs.iter().filter(|blob| !job.skips(blob)) {
                presence.forget(&image.to, &blob.digest);
                self.blobs.transfer(image, blob, None).await?;
            }
            for child in manifests {
                presence.forget(&image.to, &child.digest);
                if NodeRole::of_child(&child.media_type) == NodeRole::Blob {
                    self.blobs.transfer(image, child, None).await?;
                    continue;
                }
                let manifest = match self.reader.manifest(job, child, &At::Absent).await {
                    Err(error) if may_be_a_blob(child, &error) => {
                        self.blobs.transfer(image, child, None).await?;
                        continue;
                    }
                    read => read?,
                };
                self.refill(job, manifest.links()).await?;
                self.target.sink().put_manifest(&image.to, &manifest, &image.context).await?;
                presence.add(&image.to, &child.digest);
            }
            Ok(())
        }
        .boxed()
    }
}

/// Both, or the first error. An error of a part that was cancelled because another one failed is not the cause.
fn both(one: Result<()>, other: Result<()>) -> Result<()> {
    match (one, other) {
        (Err(cancelled), Err(cause)) if cancelled.kind() == Kind::Cancelled => Err(cause),
        (one, other) => one.and(other),
    }
}

/// Whether a child that was not found as a manifest may be a blob.
fn may_be_a_blob(child: &Descriptor, error: &Error) -> bool {
    error.kind() == Kind::NotFound && NodeRole::of_child(&child.media_type) == NodeRole::Unknown
}

/// Whether the upstream does not have a manifest that its own index lists.
fn is_absent_upstream(error: &Error) -> bool {
    error.kind() == Kind::NotFound && error.side() == Side::Upstream && error.http_status() == Some(404)
}

/// Adds what to do if a registry refuses a sparse index.
fn explain_sparse(error: Error) -> Error {
    let about_the_index = error.kind() == Kind::ContentMissing || matches!(error.http_status(), Some(400 | 404 | 422));
    if about_the_index {
        error.remedy(
            "it takes no index without all of its platforms: set index = \"rewrite\" for the rule; where it is distribution's own registry, \
             `validation.manifests.indexes.platforms: none` (or `list`) in its configuration lets it take one",
        )
    } else {
        error
    }
}

/// Adds what to do if a registry refuses an index with children that the upstream does not have.
fn explain_absent(error: Error) -> Error {
    error.replace_remedy("the upstream lacks some of what its own index lists, and the target takes no such index: deliver the platforms that are there (`platforms` of the rule)")
}
