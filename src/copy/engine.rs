//! One image at a time: ask both sides, copy what is missing, give the name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::at_hand::CachedContent;
use super::choose::{SelectedContent, TargetIndex, fits};
use super::cost::{ChildCounts, LIKELY_IN_INDEX};
use super::listing::{ReferrerMemory, ReferrerWalk};
use super::presence::{KeyedLocks, PresenceMap};
use super::recheck::RecheckResult;
use crate::content::{Descriptor, Digest, Policy, Publication, Referrer, Repository, RequestContext, Sink, Source, is_schema1, schema1};
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::report::{Reporter, Status};
use crate::state::Deliveries;
use crate::{Error, Kind, Result, Side};

/// The store that is being stocked: the same one, to write and to read.
#[derive(Clone)]
pub struct TargetEnds {
    /// Where content is put.
    pub sink: Arc<dyn Sink>,
    /// Where it is read back, so that the upstream need not be asked again.
    pub source: Arc<dyn Source>,
}

/// One image to be delivered.
#[derive(Clone)]
pub struct CopyImage {
    /// Its canonical name at the upstream (`docker.io/library/alpine:3.20`).
    pub name: Arc<str>,
    /// Who is asked what it is, and where its content is read.
    pub upstream: Arc<dyn Source>,
    /// Its repository there.
    pub from: Repository,
    /// What is asked for there. A digest is not resolved.
    pub wanted: Reference,
    /// What the upstream has said it is, if it was asked before.
    pub resolved: Option<Descriptor>,
    /// Its repository at the target.
    pub to: Repository,
    /// The name it gets there.
    pub publish: Reference,
    /// Who pays.
    pub context: RequestContext,
    /// The tag is one that never moves: if the target has it, the upstream is not asked.
    pub immutable: bool,
    /// What of it is delivered.
    pub policy: Arc<Policy>,
}

/// What became of an image that did not fail.
#[derive(Debug)]
pub struct CopyOutcome {
    /// `copied`, `current` or `warmed`.
    pub status: Status,
    /// The digest at the target.
    pub digest: Digest,
    /// The digest at the upstream; `None` where it was not asked.
    pub source_digest: Option<Digest>,
    /// The platforms that were delivered, as an index or a single image's config names them.
    pub platforms: Vec<String>,
    /// The child manifests that were delivered, of an index that was read; none if the image was current without a look.
    pub children: Vec<Descriptor>,
    /// The referrers that were delivered or found at the target, in the order they were found.
    pub referrers: Vec<Referrer>,
    /// Remarks.
    pub notes: Vec<String>,
}

/// What both sides say of an image.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What the upstream names.
    pub wanted: Descriptor,
    /// The bytes of its manifest, as far as a HEAD has said; 0: it has not. A hint: what is read may differ.
    pub(crate) size: u64,
    /// What the target has under the image's name, complete.
    pub held: Option<Digest>,
    /// Whether that is what the image's policy makes of what the upstream names.
    pub current: bool,
    /// What of the upstream's it was made from, if that is known: itself, or the index that was cut to some platforms.
    pub(super) made_from: Option<Digest>,
    /// What the target's index has told, where it was read.
    pub(super) look: Box<TargetIndex>,
    /// What is known of the image's referrers.
    pub(super) walk: Arc<tokio::sync::Mutex<ReferrerWalk>>,
    /// The target has the image, and lacks some of its referrers.
    pub(super) rechecked: Option<Arc<RecheckResult>>,
}

/// What a survey leads to.
#[derive(Debug)]
pub enum NextStep {
    /// Nothing is to be done.
    Nothing(CopyOutcome),
    /// The image must be brought.
    Bring(Box<Comparison>),
}

/// How upstream and target compare, by HEADs alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// The target has what the upstream names, or, of this digest, what is made of it.
    Current(Digest),
    /// The target has nothing under that name.
    Missing(Digest),
    /// The target's name points elsewhere.
    Moved {
        /// At the target.
        from: Digest,
        /// At the upstream.
        to: Digest,
    },
}

/// Blobs, by what had to be done for them.
#[derive(Debug, Default)]
pub struct BlobCounts {
    pub(super) copied: AtomicU64,
    pub(super) mounted: AtomicU64,
    pub(super) present: AtomicU64,
}

impl BlobCounts {
    /// Blobs whose bytes were moved.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }
    /// Blobs linked from another repository of the target.
    pub fn mounted(&self) -> u64 {
        self.mounted.load(Ordering::Relaxed)
    }
    /// Blobs the target had.
    pub fn present(&self) -> u64 {
        self.present.load(Ordering::Relaxed)
    }
}

/// Says whether there is room for content before it is read.
pub trait Room: std::fmt::Debug + Send + Sync {
    /// Told of the blobs of each manifest before any of them is read.
    ///
    /// # Errors
    /// `Kind::DiskFull` if there is no room for all that is known so far: the run ends.
    fn admit(&self, blobs: &[Descriptor]) -> Result<()>;
}

/// How an [`Engine`] behaves.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Asked before blobs are read.
    pub room: Option<Arc<dyn Room>>,
    /// Do not take an equal digest as proof that the target has the whole image: ask it for every piece.
    pub recheck: bool,
    /// When images were first delivered; without it, that is now.
    pub deliveries: Option<Arc<Deliveries>>,
    /// The target is a cache that is filled by being read (`crate::warm`): each repository needs each piece for itself, an image is
    /// read by its name each time, and what was done is called `warmed`.
    pub warm: bool,
}

/// Copies images into one target. Shared by all images of a run, because what one of them brought the others need not.
pub struct Engine {
    pub(super) target: TargetEnds,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) options: CopyOptions,
    pub(super) presence: PresenceMap,
    /// One task at a time brings a digest into a repository.
    pub(super) nodes: KeyedLocks<(Repository, Digest)>,
    /// One task at a time reads a digest from an upstream; held only while it is asked for and moved.
    pub(super) leaders: KeyedLocks<Digest>,
    pub(super) counts: BlobCounts,
    pub(super) seen: ChildCounts,
    pub(super) referrers: ReferrerMemory,
    pub(super) at_hand: CachedContent,
    /// No new work is begun once this is cancelled.
    pub(super) stop: CancellationToken,
    fatal: Mutex<Option<Error>>,
}

impl Engine {
    /// An engine that fills `target`. When `stop` is cancelled, transfers under way go on and nothing new begins.
    pub fn new(target: TargetEnds, reporter: Arc<dyn Reporter>, options: CopyOptions, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Engine {
            target,
            reporter,
            at_hand: CachedContent::new(!options.warm),
            options,
            presence: PresenceMap::default(),
            nodes: KeyedLocks::default(),
            leaders: KeyedLocks::default(),
            counts: BlobCounts::default(),
            seen: ChildCounts::default(),
            referrers: ReferrerMemory::default(),
            stop,
            fatal: Mutex::new(None),
        })
    }

    /// What was done for blobs so far.
    pub fn counts(&self) -> &BlobCounts {
        &self.counts
    }

    /// A repository of the target, as useful to `to` as any, that is known to hold `digest`.
    pub(super) fn elsewhere(&self, to: &Repository, digest: &Digest) -> Option<Repository> {
        if self.options.warm { self.presence.has(to, digest).then(|| to.clone()) } else { self.presence.anywhere(digest) }
    }

    /// Whether the run is to end: no new image need be begun.
    pub fn stop_requested(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The failure that ended the whole run (a full disk), if one did.
    pub fn fatal(&self) -> Option<Error> {
        self.fatal.lock().clone()
    }

    /// Compares both sides, spending HEADs only.
    ///
    /// # Errors
    /// If one of them cannot be asked, or the upstream does not have the image.
    pub async fn compare(&self, image: &CopyImage) -> Result<(ImageState, Comparison)> {
        if let Some(held) = self.immutable(image).await? {
            let survey = Comparison::of(Descriptor::new("", held.clone(), 0), Some(held.clone()));
            return Ok((ImageState::Current(held), survey));
        }
        let mut survey = self.ask(image).await?;
        let standing = match &survey.held {
            Some(held) if survey.current => ImageState::Current(held.clone()),
            Some(held) if *held != survey.wanted.digest => ImageState::Moved { from: held.clone(), to: survey.wanted.digest.clone() },
            // The right name of what is not (all) there.
            Some(_) | None => ImageState::Missing(survey.wanted.digest.clone()),
        };
        if matches!(standing, ImageState::Current(_)) {
            survey.rechecked = self.recheck(image, &survey).await?.filter(|rechecked| !rechecked.is_quiet()).map(Arc::new);
        }
        Ok((standing, survey))
    }

    /// Asks both sides what is to be done.
    ///
    /// # Errors
    /// As [`Engine::compare`].
    pub async fn survey(&self, image: &CopyImage) -> Result<NextStep> {
        let surveyed = self.try_survey(image).await;
        surveyed.map_err(|error| error.subject(&*image.context.image))
    }

    async fn try_survey(&self, image: &CopyImage) -> Result<NextStep> {
        if !self.options.recheck
            && let Some(held) = self.immutable(image).await?
        {
            let delivered = CopyOutcome { source_digest: None, ..CopyOutcome::new(Status::Current, held, None) };
            return Ok(NextStep::Nothing(delivered));
        }
        let survey = self.ask(image).await?;
        if let Some(held) = survey.held.as_ref().filter(|_| image.immutable && survey.made_from.as_ref() != Some(&survey.wanted.digest)) {
            let mut delivered = CopyOutcome::new(Status::Current, held.clone(), None);
            let moved = &survey.wanted.digest;
            delivered.notes = vec![format!("the upstream has moved this immutable tag to {moved}; the target keeps {held}")];
            delivered.source_digest = Some(moved.clone());
            return Ok(NextStep::Nothing(delivered));
        }
        match &survey.held {
            Some(held) if survey.current && !self.options.recheck => {
                let delivered = survey.current(held.clone());
                self.look_again(image, survey, delivered).await
            }
            _ => Ok(NextStep::Bring(Box::new(survey))),
        }
    }

    /// What the target has under an immutable tag: it cannot have changed upstream, so nobody is asked there.
    pub(super) async fn immutable(&self, image: &CopyImage) -> Result<Option<Digest>> {
        if !image.immutable {
            return Ok(None);
        }
        let held = self.target.sink.published(&image.to, &image.publish, &image.context).await?;
        Ok(held.filter(|held| fits(&image.policy, held)).map(|held| held.digest))
    }

    /// Makes the target hold `image` under its name.
    ///
    /// # Errors
    /// The first failure; nothing is named then. A full disk fails the first image that meets it and stops the run, see
    /// [`Engine::fatal`]; for the others it is an interruption.
    pub async fn deliver(self: &Arc<Self>, image: &CopyImage) -> Result<CopyOutcome> {
        match self.survey(image).await? {
            NextStep::Nothing(delivered) => Ok(delivered),
            NextStep::Bring(survey) => self.bring_image(image, *survey).await,
        }
    }

    /// Brings an image that [`Engine::survey`] found to be missing or moved.
    ///
    /// # Errors
    /// As [`Engine::deliver`].
    pub async fn bring_image(self: &Arc<Self>, image: &CopyImage, survey: Comparison) -> Result<CopyOutcome> {
        let delivered = self.try_bring(image, survey).await;
        if let Err(error) = &delivered
            && error.kind() == Kind::DiskFull
        {
            let mut fatal = self.fatal.lock();
            self.stop.cancel();
            if fatal.is_some() {
                // Said once: the others that met it are unfinished.
                return Err(Error::cancelled("copy image"));
            }
            *fatal = Some(error.clone());
        }
        delivered.map_err(|error| error.subject(&*image.context.image))
    }

    async fn try_bring(self: &Arc<Self>, image: &CopyImage, survey: Comparison) -> Result<CopyOutcome> {
        if let Some(rechecked) = &survey.rechecked {
            return self.bring_new(image, &survey, rechecked).await;
        }
        let Comparison { wanted, held, walk, .. } = survey;
        let mut job = super::graph::CopyJob::new(image);
        let mut walk = std::mem::take(&mut *walk.lock().await);
        // First, because it is free: where the lists cannot be had, no pull is spent.
        self.list_referrers(image, &mut walk, std::slice::from_ref(&wanted.digest)).await?;
        job.referrers = walk.reads(LIKELY_IN_INDEX);
        let mut holding = Some(self.nodes.hold((image.to.clone(), wanted.digest.clone())).await);
        let (portion, moved) = self.root(&job, &wanted).await?;
        let named = held.as_ref() == Some(portion.manifest.digest());
        let status = match (self.options.warm, named && !moved) {
            (true, _) => Status::Warmed,
            (false, true) => Status::Current,
            (false, false) => Status::Copied,
        };
        let mut delivered = CopyOutcome::new(status, portion.manifest.digest().clone(), Some(&portion));
        delivered.source_digest = Some(wanted.digest);
        let (children, gone) = self.with_referrers(&job, walk, &portion, &mut delivered, named, &mut holding).await?;
        if !named || moved {
            self.publish(&job, &portion).await?;
        }
        if portion.sparse.is_empty() {
            self.presence.add(&image.to, portion.manifest.digest());
        }
        job.release();
        delivered.notes.splice(0..0, job.notes());
        self.remember(image, &delivered.digest, children, gone);
        Ok(delivered)
    }

    /// What the upstream names, and what the target has under that name. A digest that is asked for needs no upstream.
    async fn ask(&self, image: &CopyImage) -> Result<Comparison> {
        if self.stop.is_cancelled() {
            return Err(Error::cancelled("resolve tag"));
        }
        let upstream = async {
            match (&image.wanted, &image.resolved) {
                (Reference::Digest(digest), _) => Ok(Descriptor::new("", digest.clone(), 0)),
                (Reference::Tag(_), Some(resolved)) => Ok(resolved.clone()),
                (Reference::Tag(_), None) => {
                    image.upstream.resolve(&image.from, &image.wanted, &image.context).await?.ok_or_else(|| not_found(image))
                }
            }
            .and_then(carried)
        };
        let target = self.target.sink.published(&image.to, &image.publish, &image.context);
        // The target first: while it is down, nothing is asked of the upstream.
        let (held, wanted) = futures_util::future::try_join(target, upstream).await?;
        self.compare_content(image, wanted, held).await
    }

    /// Makes the target hold an image that is complete but for its name.
    pub(super) async fn put_by_digest(self: &Arc<Self>, job: &super::graph::CopyJob<'_>, portion: &SelectedContent) -> Result<()> {
        let (image, digest) = (job.image, portion.manifest.digest());
        if self.presence.has(&image.to, digest) {
            return Ok(());
        }
        match self.target.sink.put_manifest(&image.to, &portion.manifest, &image.context).await {
            Err(error) if !portion.sparse.is_empty() && error.http_status().is_some() => return Err(super::choose::no_sparse(error)),
            Err(error) if error.kind() == Kind::ContentMissing && !job.absent().is_empty() => return Err(no_absent(error)),
            Err(error) if error.kind() == Kind::ContentMissing => {
                self.refill(job, &portion.links).await?;
                self.target.sink.put_manifest(&image.to, &portion.manifest, &image.context).await?;
            }
            done => done?,
        }
        if portion.sparse.is_empty() {
            self.presence.add(&image.to, digest);
        }
        Ok(())
    }

    async fn publish(self: &Arc<Self>, job: &super::graph::CopyJob<'_>, portion: &SelectedContent) -> Result<()> {
        let image = job.image;
        let publication = Publication {
            repository: image.to.clone(),
            reference: image.publish.clone(),
            manifest: portion.manifest.clone(),
            source: Arc::clone(&image.name),
            sparse: portion.sparse.clone(),
        };
        match self.target.sink.publish(&publication, &image.context).await {
            Err(error) if !portion.sparse.is_empty() && error.http_status().is_some() => return Err(super::choose::no_sparse(error)),
            Err(error) if error.kind() == Kind::ContentMissing && !job.absent().is_empty() => return Err(no_absent(error)),
            Err(error) if error.kind() == Kind::ContentMissing => {
                self.refill(job, &portion.links).await?;
                self.target.sink.publish(&publication, &image.context).await?;
            }
            done => done?,
        }
        self.target.sink.confirm(&publication, self.options.recheck, &image.context).await
    }
}

/// What the upstream names, if it is of a kind that is carried: known from its HEAD, so that no pull is spent on it.
fn carried(wanted: Descriptor) -> Result<Descriptor> {
    if is_schema1(&wanted.media_type) { Err(schema1(Side::Upstream)) } else { Ok(wanted) }
}

/// What to do where the target takes no index without all that it lists, and the upstream does not have that.
fn no_absent(error: Error) -> Error {
    error.rather("the upstream lacks some of what its own index lists, and the target takes no such index: deliver the platforms that are there (`platforms` of the rule)")
}

fn not_found(image: &CopyImage) -> Error {
    Error::new(Side::Upstream, "resolve tag", Kind::NotFound, "the upstream has no such tag or repository")
        .status(404)
        .code("MANIFEST_UNKNOWN")
        .subject(&image.name)
        .remedy("check the name and tag in the list")
}

impl Comparison {
    /// What both sides said, before anybody has looked closer.
    pub(crate) fn of(wanted: Descriptor, held: Option<Digest>) -> Self {
        let current = held.as_ref() == Some(&wanted.digest);
        Comparison {
            size: wanted.size,
            wanted,
            made_from: held.clone(),
            held,
            current,
            look: Box::default(),
            walk: Arc::default(),
            rechecked: None,
        }
    }

    /// What there is to say of an image that the target has, under `held`.
    pub(super) fn current(&self, held: Digest) -> CopyOutcome {
        let TargetIndex { platforms, children, notes, .. } = TargetIndex::clone(&self.look);
        let source_digest = Some(self.wanted.digest.clone());
        CopyOutcome { source_digest, platforms, children, notes, ..CopyOutcome::new(Status::Current, held, None) }
    }

    /// Whether the target has the image, and lacks some of its referrers.
    pub fn lacks_referrers(&self) -> bool {
        self.rechecked.is_some()
    }
}

impl CopyOutcome {
    pub(super) fn new(status: Status, digest: Digest, portion: Option<&SelectedContent>) -> Self {
        let (platforms, children) = portion.map(|portion| (portion.platforms.clone(), portion.links.manifests.clone())).unwrap_or_default();
        let source_digest = Some(digest.clone());
        CopyOutcome { status, source_digest, digest, platforms, children, referrers: vec![], notes: vec![] }
    }
}
