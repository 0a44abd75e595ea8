//! The graph of an image: manifests are read from where they cost least, and put after everything they refer to.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::task::JoinSet;

use super::choose::SelectedContent;
use super::engine::{CopyImage, Engine};
use crate::content::{Descriptor, Digest, ForeignLayers, Links, Manifest, NodeRole, Presence as At, check_depth};
use crate::mutex::Mutex;
use crate::{Error, Kind, Result, Side, internal};

/// Children of one index that are worked on at once. Requests are limited by each registry's own concurrency; this bounds
/// the manifests that one image holds in memory.
pub(super) const CHILDREN: usize = 8;

/// An image being delivered.
pub(super) struct CopyJob<'a> {
    pub(super) image: &'a CopyImage,
    /// Set once a piece has failed: what has not begun need not.
    pub(super) failed: Arc<AtomicBool>,
    /// Set once anything was written to the target.
    moved: AtomicBool,
    notes: Mutex<Vec<String>>,
    /// Pulls that its referrers need, as far as they are known.
    pub(super) referrers: u64,
    /// Manifests read for it, which a source may have kept until now.
    read: Mutex<Vec<Digest>>,
    /// What its index lists, and the upstream does not have.
    absent: Mutex<Vec<Descriptor>>,
}

impl<'a> CopyJob<'a> {
    pub(super) fn new(image: &'a CopyImage) -> Self {
        CopyJob {
            image,
            failed: Arc::default(),
            moved: AtomicBool::new(false),
            notes: Mutex::default(),
            referrers: 0,
            read: Mutex::default(),
            absent: Mutex::default(),
        }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock())
    }

    pub(super) fn note(&self, note: String) {
        let mut notes = self.notes.lock();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// What its index lists, and the upstream does not have.
    pub(super) fn absent(&self) -> Vec<Descriptor> {
        self.absent.lock().clone()
    }

    /// `manifest` was read for this image, now or in an earlier run.
    fn has_read(&self, manifest: &Descriptor) {
        self.read.lock().push(manifest.digest.clone());
    }

    /// `manifest` is kept beyond the image's delivery: a later run will meet it again, or needs it to know what was left out of it, and
    /// reading it is not to cost another pull.
    pub(super) fn keep(&self, manifest: &Digest) {
        self.read.lock().retain(|digest| digest != manifest);
    }

    /// The image is delivered: what its source kept for another attempt can go.
    pub(super) fn release(&self) {
        for digest in self.read.lock().drain(..) {
            self.image.upstream.release(&digest);
        }
    }
}

/// Both, or the first error. A piece that gave up because another one failed is not the cause.
fn both(one: Result<()>, other: Result<()>) -> Result<()> {
    match (one, other) {
        (Err(given_up), Err(cause)) if given_up.kind() == Kind::Cancelled => Err(cause),
        (one, other) => one.and(other),
    }
}

/// A child as people know it: its platform, if it says one.
fn called(child: &Descriptor) -> String {
    match &child.platform {
        Some(platform) if platform.os != "unknown" && !platform.os.is_empty() => format!("{platform} ({})", child.digest.short()),
        _ => child.digest.to_string(),
    }
}

/// Whether a child that was not found as a manifest may be a blob.
fn may_be_a_blob(child: &Descriptor, error: &Error) -> bool {
    error.kind() == Kind::NotFound && NodeRole::of_child(&child.media_type) == NodeRole::Unknown
}

/// The upstream does not have a manifest that its own index lists: nothing can bring it.
fn is_gone(error: &Error) -> bool {
    error.kind() == Kind::NotFound && error.side() == Side::Upstream && error.http_status() == Some(404)
}

/// Whether `blob` is a foreign layer that is not to be fetched.
fn left_to_its_vendor(job: &CopyJob<'_>, blob: &Descriptor) -> bool {
    blob.is_foreign() && job.image.policy.foreign_layers == ForeignLayers::Skip
}

impl Engine {
    /// Brings what the image's policy wants of what its top manifest refers to; gives that, and whether anything had to be written.
    /// The caller holds the digest until its name is given, so that another tag of it finds it there.
    pub(super) async fn root(self: &Arc<Self>, job: &CopyJob<'_>, wanted: &Descriptor) -> Result<(SelectedContent, bool)> {
        let image = job.image;
        // A cache learns a name by being asked for it, whatever it holds.
        let held = if self.options.warm { At::Absent } else { self.holds_manifest(job, wanted).await? };
        if held == At::Here
            && !self.options.recheck
            && image.policy.platforms.is_empty()
            && let Some(manifest) = self.target.source.manifest(&image.to, &wanted.digest, &image.context).await?
        {
            job.has_read(wanted);
            return Ok((SelectedContent::whole(manifest)?, false));
        }
        // A HEAD's Content-Length is a hint (of a compressed answer it is another): the digest decides.
        let hinted = Descriptor { size: 0, ..wanted.clone() };
        let manifest = self.read(job, &hinted, &held).await?;
        self.at_hand.add_inline(&manifest);
        self.seen.learn(&image.to, &manifest);
        let portion = self.portion(job, manifest).await?;
        let children =
            portion.links.manifests.iter().filter(|child| NodeRole::of_child(&child.media_type) != NodeRole::Blob).count() as u64;
        self.seen.add(children);
        if let Some(lease) = &image.context.lease {
            // Now it is known how many pulls are still needed, at most: the rest is for others.
            lease.trim(children + job.referrers);
        }
        self.fill(job, &portion.links, 0).await?;
        let portion = self.without_absent(job, portion)?;
        Ok((portion, job.moved.load(Ordering::Relaxed)))
    }

    /// The portion as it could be brought: an index that lists what its upstream does not have is carried as it is.
    fn without_absent(&self, job: &CopyJob<'_>, mut portion: SelectedContent) -> Result<SelectedContent> {
        let absent = job.absent();
        if absent.is_empty() {
            return Ok(portion);
        }
        let is_absent = |child: &Descriptor| absent.iter().any(|one| one.digest == child.digest);
        let listed = portion.links.manifests.len();
        portion.links.manifests.retain(|child| !is_absent(child));
        let words: Vec<String> = absent.iter().map(called).collect();
        let lacks = format!("the upstream does not have {}, which its own index lists", words.join(", "));
        let policy = &job.image.policy;
        if portion.links.manifests.is_empty() && listed > 0 || policy.platforms_required && !policy.platforms.is_empty() {
            return Err(Error::new(Side::Upstream, "get manifest", Kind::NotFound, lacks).status(404));
        }
        let gone = crate::content::platforms_of(&absent);
        let there = crate::content::platforms_of(&portion.links.manifests);
        portion.platforms.retain(|platform| there.contains(platform) || !gone.contains(platform));
        let digests: Vec<Digest> = absent.into_iter().map(|child| child.digest).collect();
        self.target.sink.accept_without(portion.manifest.digest(), &digests);
        job.note(format!("{lacks}: the index is carried as it is"));
        Ok(portion)
    }

    /// Brings one child manifest with all it refers to.
    fn child<'a>(self: &'a Arc<Self>, job: &'a CopyJob<'_>, child: Descriptor, depth: usize) -> BoxFuture<'a, Result<()>> {
        async move {
            if NodeRole::of_child(&child.media_type) == NodeRole::Blob {
                job.note("its index lists layers, as a build cache does: they are carried as layers".to_owned());
                return self.blobs(job, &[child]).await;
            }
            let repository = &job.image.to;
            let holding = self.nodes.hold((repository.clone(), child.digest.clone())).await;
            if job.failed.load(Ordering::Relaxed) {
                return Err(Error::cancelled("copy manifest"));
            }
            let held = self.holds_manifest(job, &child).await?;
            if held == At::Here && !self.options.recheck {
                job.has_read(&child);
                return Ok(());
            }
            let manifest = match self.read(job, &child, &held).await {
                Err(error) if may_be_a_blob(&child, &error) => {
                    drop(holding);
                    return self.blobs(job, &[child]).await;
                }
                Err(error) if is_gone(&error) && !self.options.warm => {
                    job.absent.lock().push(child);
                    return Ok(());
                }
                read => read?,
            };
            self.at_hand.add_inline(&manifest);
            self.fill(job, manifest.links(), depth).await?;
            if held != At::Here {
                self.put(job, &manifest).await?;
            }
            self.presence.add(repository, manifest.digest());
            Ok(())
        }
        .boxed()
    }

    /// Brings what a manifest refers to. When a piece fails, those under way are let finish (their pulls are spent, and other
    /// images may be waiting for them), and those not begun are not.
    pub(super) async fn fill(self: &Arc<Self>, job: &CopyJob<'_>, links: &Links, depth: usize) -> Result<()> {
        check_depth(depth, links, Side::Upstream)?;
        let mut seen = HashSet::new();
        let distinct: Vec<Descriptor> = links.manifests.iter().filter(|child| seen.insert(&child.digest)).cloned().collect();
        let children = async {
            let mut children = stream::iter(distinct).map(|child| self.child(job, child, depth + 1)).buffer_unordered(CHILDREN);
            let mut all = Ok(());
            while let Some(done) = children.next().await {
                if done.is_err() {
                    job.failed.store(true, Ordering::Relaxed);
                }
                all = both(all, done);
            }
            all
        };
        let (children, blobs) = futures_util::future::join(children, self.blobs(job, &links.blobs)).await;
        both(children, blobs)
    }

    /// Brings blobs, each in a task of its own so that hashing uses all cores.
    async fn blobs(self: &Arc<Self>, job: &CopyJob<'_>, blobs: &[Descriptor]) -> Result<()> {
        self.options.room.as_ref().map_or(Ok(()), |room| room.admit(blobs))?;
        let mut tasks = JoinSet::new();
        let mut seen = HashSet::new();
        for blob in blobs {
            if !seen.insert(blob.digest.clone()) {
                continue;
            }
            if left_to_its_vendor(job, blob) {
                job.note(format!("foreign layer {} is not copied: its licence lets only its vendor distribute it", blob.digest.short()));
                continue;
            }
            let (engine, image, blob, failed) = (Arc::clone(self), job.image.clone(), blob.clone(), Arc::clone(&job.failed));
            tasks.spawn(async move {
                if failed.load(Ordering::Relaxed) {
                    return Err(Error::cancelled("copy blob"));
                }
                let done = internal::caught("copy blob", engine.blob(&image, &blob)).await.and_then(|done| done);
                if done.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                done
            });
        }
        let mut all = Ok(());
        while let Some(done) = tasks.join_next().await {
            let done = done.unwrap_or_else(|lost| Err(internal::lost("copy blob", lost)));
            if let Ok(moved) = done {
                job.moved.fetch_or(moved, Ordering::Relaxed);
            }
            all = both(all, done.map(|_| ()));
        }
        all
    }

    /// Reads a manifest from the cheapest place: the target if it is known to have it, in any repository, else the
    /// upstream. `held`: whether the image's own repository has it.
    pub(super) async fn read(&self, job: &CopyJob<'_>, wanted: &Descriptor, held: &At) -> Result<Manifest> {
        let image = job.image;
        if self.at_hand.get(&wanted.digest).is_some()
            && let Some(manifest) = self.manifest_at_hand(image, wanted)
        {
            return Ok(manifest);
        }
        // One task at a time: whoever comes second reads what the first one's source has kept, or the target got.
        let _leading = self.leaders.hold(wanted.digest.clone()).await;
        let at = match held {
            At::Here | At::Incomplete => Some(image.to.clone()),
            At::At(repository) => Some(repository.clone()),
            At::Absent if self.options.warm => None,
            At::Absent => self.presence.anywhere(&wanted.digest),
        };
        if let Some(repository) = at {
            match self.target.source.manifest(&repository, &wanted.digest, &image.context).await {
                Ok(Some(manifest)) => return Ok(manifest),
                Ok(None) => {}
                // A target whose copy is damaged is mended from the upstream.
                Err(error) if error.kind() == Kind::Damaged => tracing::debug!(%error, "the target's manifest is not what it should be"),
                Err(error) => return Err(error),
            }
        }
        // A pull is not spent on what will not be finished.
        if self.stop.is_cancelled() {
            return Err(Error::cancelled("get manifest"));
        }
        let found = image.upstream.manifest(&image.from, &wanted.digest, &image.context).await?;
        let manifest = found.ok_or_else(|| {
            Error::new(Side::Upstream, "get manifest", Kind::NotFound, format!("the upstream does not have manifest {}", wanted.digest))
                .status(404)
        })?;
        // A size of 0 says that nobody has told the size (an image asked for by digest).
        if wanted.size != 0 && wanted.size != manifest.size() {
            let message = format!("manifest {} has {} bytes where {} were announced", wanted.digest, manifest.bytes().len(), wanted.size);
            return Err(Error::new(Side::Upstream, "get manifest", Kind::Damaged, message));
        }
        job.has_read(wanted);
        Ok(manifest)
    }

    pub(super) async fn holds_manifest(&self, job: &CopyJob<'_>, manifest: &Descriptor) -> Result<At> {
        let image = job.image;
        if self.presence.has(&image.to, &manifest.digest) {
            return Ok(At::Here);
        }
        let held = self.target.sink.holds_manifest(&image.to, manifest, &image.context).await?;
        if held == At::Here && self.presence.is_sparse(&image.to, &manifest.digest) {
            // A registry that takes an index without its children would say the same of a whole one.
            return Ok(At::Incomplete);
        }
        if held == At::Here {
            self.presence.add(&image.to, &manifest.digest);
        }
        Ok(held)
    }

    async fn put(self: &Arc<Self>, job: &CopyJob<'_>, manifest: &Manifest) -> Result<()> {
        let image = job.image;
        job.moved.store(true, Ordering::Relaxed);
        match self.target.sink.put_manifest(&image.to, manifest, &image.context).await {
            Err(error) if error.kind() == Kind::ContentMissing => {
                self.refill(job, manifest.links()).await?;
                self.target.sink.put_manifest(&image.to, manifest, &image.context).await
            }
            done => done,
        }
    }

    /// The target refused a manifest because it misses something that it, or a mount, said to be there: everything the
    /// manifest refers to is brought again, once, without believing either.
    pub(super) fn refill<'a>(
        self: &'a Arc<Self>,
        job: &'a CopyJob<'_>,
        Links { manifests, blobs, .. }: &'a Links,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            for blob in blobs.iter().filter(|blob| !left_to_its_vendor(job, blob)) {
                self.presence.forget(&job.image.to, &blob.digest);
                self.transfer(job.image, blob, None).await?;
            }
            for child in manifests {
                self.presence.forget(&job.image.to, &child.digest);
                if NodeRole::of_child(&child.media_type) == NodeRole::Blob {
                    self.transfer(job.image, child, None).await?;
                    continue;
                }
                let manifest = match self.read(job, child, &At::Absent).await {
                    Err(error) if may_be_a_blob(child, &error) => {
                        self.transfer(job.image, child, None).await?;
                        continue;
                    }
                    read => read?,
                };
                self.refill(job, manifest.links()).await?;
                self.target.sink.put_manifest(&job.image.to, &manifest, &job.image.context).await?;
                self.presence.add(&job.image.to, &child.digest);
            }
            Ok(())
        }
        .boxed()
    }
}
