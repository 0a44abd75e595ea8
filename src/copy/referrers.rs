//! Carrying referrers (signatures, attestations, SBOMs): after the image is at the target by its digest, before it gets its name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};

use super::choose::SelectedContent;
use super::engine::{CopyImage, CopyOutcome, Engine};
use super::graph::CopyJob;
use super::listing::{FoundReferrer, ReferrerWalk, Spot, cell};
use super::presence::KeyGuard;
use super::recheck::new_referrers;
use crate::content::{Descriptor, Digest, Manifest, ManifestKind, Presence as At, Publication, Referrer, Referrers, Repository, kind_of};
use crate::name::Reference;
use crate::report::Status;
use crate::{Error, Kind, Result};

/// Subjects whose referrers are carried at once, and referrers of one subject that are read at once. Requests are limited by each
/// registry's own concurrency; these bound the manifests that one image holds in memory.
const SUBJECTS: usize = 8;
const READS: usize = 4;

/// Referrers of one subject that are attached together, and held in memory until then: the index that lists them where there is no API is
/// written once for so many.
const TOGETHER: usize = 16;

/// What became of an image's referrers.
#[derive(Debug, Default)]
pub(super) struct CopiedReferrers {
    /// Those that the target has now, in the order they were found.
    pub(super) referrers: Vec<Referrer>,
    /// How many of them were not there before.
    pub(super) new: u64,
    /// What is listed as a referrer, and is not there.
    pub(super) gone: Vec<Digest>,
}

/// What came of reading one.
enum ReferrerRead {
    /// The target has it, where it is looked for.
    There,
    /// It must be attached; whether the target lacked it.
    Read(Box<Manifest>, bool),
    /// It is about something else.
    Another,
    /// Its type is not one of those that are wanted.
    Unwanted,
    /// There is no such manifest.
    Gone,
}

/// What became of one subject's referrers.
#[derive(Default)]
struct ReferrerGroup {
    /// What is at the target now, each by how it was listed.
    there: Vec<(Referrer, AttachedReferrer)>,
    /// What is not there to be carried.
    gone: Vec<Digest>,
    notes: Vec<String>,
}

/// A referrer that is at the target, as its own manifest describes it.
struct AttachedReferrer {
    referrer: Referrer,
    new: bool,
}

impl Engine {
    /// The manifests below an image that may have referrers: the children, and what is below those that are indexes themselves.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub(super) async fn subjects(&self, image: &CopyImage, children: &[Descriptor]) -> Result<Vec<Digest>> {
        let (mut subjects, mut seen) = (vec![], HashSet::new());
        let mut level = children.to_vec();
        while !level.is_empty() {
            let mut next = vec![];
            for child in std::mem::take(&mut level) {
                // What an index lists beside manifests (BuildKit's cache lists blobs) is signed by nobody.
                let kind = kind_of(&child.media_type);
                if (kind == ManifestKind::Opaque && !child.media_type.is_empty()) || !seen.insert(child.digest.clone()) {
                    continue;
                }
                if kind == ManifestKind::Index
                    && let Some(index) = self.read_cached_or_target(image, &child.digest).await?
                {
                    next.extend(index.links().manifests.iter().cloned());
                }
                subjects.push(child.digest);
            }
            level = next;
        }
        Ok(subjects)
    }

    /// A manifest that the target has: from there, if the upstream does not have it at hand.
    pub(super) async fn read_cached_or_target(&self, image: &CopyImage, digest: &Digest) -> Result<Option<Manifest>> {
        match image.upstream.cached(digest) {
            Some(manifest) => Ok(Some(manifest)),
            None => self.target.source.manifest(&image.to, digest, &image.context).await,
        }
    }

    /// Brings what refers to an image that has just been brought, all but its name, and to its children: nothing, or the image is put
    /// by its digest and `holding`, which kept others from that digest, let go. Gives the manifests that were asked about beside the
    /// image's own, and what was listed and is not there.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn with_referrers(
        self: &Arc<Self>,
        job: &CopyJob<'_>,
        mut walk: ReferrerWalk,
        portion: &SelectedContent,
        delivered: &mut CopyOutcome,
        was_there: bool,
        holding: &mut Option<KeyGuard<(Repository, Digest)>>,
    ) -> Result<(Vec<Digest>, Vec<Digest>)> {
        let image = job.image;
        if image.policy.referrers == Referrers::No {
            return Ok((vec![], vec![]));
        }
        let digest = portion.manifest.digest();
        let rewritten = delivered.source_digest.as_ref().filter(|source| *source != digest);
        if let Some(source) = rewritten {
            delivered.notes.extend(left_behind(&walk, source));
            // What refers to the children alone; nothing is asked twice for it.
            walk = ReferrerWalk::default();
        }
        let children = self.subjects(image, &delivered.children).await?;
        self.list_referrers(image, &mut walk, &children).await?;
        if walk.found.is_empty() && walk.unread.is_empty() {
            delivered.notes.extend(walk.notes);
            return Ok((children, vec![]));
        }
        self.put_by_digest(job, portion).await?;
        *holding = None;
        let _carrying = self.referrers.carrying.hold((image.to.clone(), digest.clone())).await;
        self.read_indexes(job, &mut walk).await?;
        delivered.notes.append(&mut std::mem::take(&mut walk.notes).into_iter().collect());
        let carried = self.carry_referrers(job, &walk, was_there).await?;
        if delivered.status == Status::Current {
            delivered.notes.extend(new_referrers(carried.new));
        }
        delivered.referrers = carried.referrers;
        Ok((children, carried.gone))
    }

    /// Makes the target hold all that `walk` found, each after what it is about. Of an image that was there before, the target is asked
    /// what it has; of a new one it has nothing.
    ///
    /// # Errors
    /// The first failure: an image is not delivered without its referrers.
    pub(super) async fn carry_referrers(
        self: &Arc<Self>,
        job: &CopyJob<'_>,
        walk: &ReferrerWalk,
        was_there: bool,
    ) -> Result<CopiedReferrers> {
        let mut levels: BTreeMap<usize, Vec<(Digest, Vec<Referrer>)>> = BTreeMap::new();
        for FoundReferrer { referrer, depth } in &walk.found {
            let groups = levels.entry(*depth).or_default();
            match groups.iter_mut().find(|(subject, _)| *subject == referrer.subject) {
                Some((_, group)) => group.push(referrer.clone()),
                None => groups.push((referrer.subject.clone(), vec![referrer.clone()])),
            }
        }
        let mut carried = CopiedReferrers::default();
        let mut arrived = HashMap::new();
        for groups in levels.into_values() {
            let groups = stream::iter(groups).map(|(subject, group)| self.group(job, subject, group, was_there)).buffered(SUBJECTS);
            for ReferrerGroup { there, gone, notes } in all(groups.collect().await)? {
                arrived.extend(there);
                carried.gone.extend(gone);
                notes.into_iter().for_each(|note| job.note(note));
            }
        }
        for FoundReferrer { referrer, .. } in &walk.found {
            if let Some(AttachedReferrer { referrer, new }) = arrived.remove(referrer) {
                carried.new += u64::from(new);
                carried.referrers.push(referrer);
            }
        }
        Ok(carried)
    }

    /// Carries what refers to one subject.
    async fn group(self: &Arc<Self>, job: &CopyJob<'_>, subject: Digest, group: Vec<Referrer>, was_there: bool) -> Result<ReferrerGroup> {
        let mut done = ReferrerGroup::default();
        for together in group.chunks(TOGETHER) {
            let reads = stream::iter(together.to_vec()).map(|referrer| async move {
                let read = self.one(job, &referrer, was_there).await;
                if read.is_err() {
                    job.failed.store(true, Ordering::Relaxed);
                }
                read
            });
            // All of them, before anything is attached: one that is not polled would keep its permit from that.
            let read = all(reads.buffered(READS).collect().await)?;
            self.attach_all(job, &subject, together.iter().zip(read), &mut done).await?;
        }
        for (referrer, _) in &done.there {
            self.is_attached_now(job.image, referrer);
        }
        Ok(done)
    }

    /// Attaches what was read of one subject's referrers.
    async fn attach_all(
        self: &Arc<Self>,
        job: &CopyJob<'_>,
        subject: &Digest,
        read: impl Iterator<Item = (&Referrer, ReferrerRead)> + Send,
        done: &mut ReferrerGroup,
    ) -> Result<()> {
        let mut listed = vec![];
        for (referrer, read) in read {
            match read {
                ReferrerRead::There => done.there.push((referrer.clone(), AttachedReferrer { referrer: referrer.clone(), new: false })),
                ReferrerRead::Read(manifest, new) => {
                    let mut described = manifest.as_referrer();
                    if let Some(tag) = &referrer.tag {
                        // What it counts as is said by its tag.
                        described.artifact_type.clone_from(&referrer.manifest.artifact_type);
                        self.attach_tagged(job, subject, tag, &manifest).await?;
                    } else {
                        listed.push(*manifest);
                    }
                    let arrived = AttachedReferrer { referrer: Referrer { manifest: described, ..referrer.clone() }, new };
                    done.there.push((referrer.clone(), arrived));
                }
                ReferrerRead::Unwanted => {}
                ReferrerRead::Another => {
                    let digest = referrer.manifest.digest.short();
                    done.notes.push(format!("referrer {digest} is not carried: it says itself that it is about something else"));
                }
                ReferrerRead::Gone => {
                    done.notes.push(format!("referrer {} is listed upstream, and is not there", referrer.manifest.digest.short()));
                    done.gone.push(referrer.manifest.digest.clone());
                }
            }
        }
        self.attach(job, subject, &listed).await
    }

    /// Reads one referrer and brings what it refers to, if it is what it is listed as.
    async fn one(self: &Arc<Self>, job: &CopyJob<'_>, referrer: &Referrer, was_there: bool) -> Result<ReferrerRead> {
        if job.failed.load(Ordering::Relaxed) {
            return Err(Error::cancelled("copy referrer"));
        }
        let known = self.knows_attached(job.image, referrer);
        let attached = known || (was_there && self.asks_attached(job.image, referrer).await?);
        if attached && (known || !self.options.recheck) {
            return Ok(ReferrerRead::There);
        }
        let held = self.holds_manifest(job, &referrer.manifest).await?;
        // Lists state sizes that are not the manifest's (Harbor before 2.11 adds those of its layers): the digest decides.
        let listed = Descriptor { size: 0, ..referrer.manifest.clone() };
        let manifest = match self.read(job, &listed, &held).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(ReferrerRead::Gone),
            read => read?,
        };
        if referrer.tag.is_none() {
            let subject = manifest.links().subject.as_ref();
            if subject.is_none_or(|subject| subject.digest != referrer.subject) {
                job.keep(manifest.digest());
                return Ok(ReferrerRead::Another);
            }
            // Lists may lack the type; the manifest itself has it, or has none.
            let artifact_type = manifest.as_referrer().artifact_type.unwrap_or_default();
            if !job.image.policy.referrers.wants(Some(&artifact_type)) {
                job.keep(manifest.digest());
                return Ok(ReferrerRead::Unwanted);
            }
        }
        if held != At::Here || self.options.recheck {
            self.at_hand.add_inline(&manifest);
            self.fill(job, manifest.links(), 0).await?;
        }
        Ok(if attached { ReferrerRead::There } else { ReferrerRead::Read(Box::new(manifest), held != At::Here) })
    }

    /// Puts manifests where they are listed as what refers to `subject`.
    async fn attach(self: &Arc<Self>, job: &CopyJob<'_>, subject: &Digest, referrers: &[Manifest]) -> Result<()> {
        if referrers.is_empty() {
            return Ok(());
        }
        let image = job.image;
        let attached = self.target.sink.attach(&image.to, subject, referrers, &image.context).await;
        match attached {
            Err(error) if error.kind() == Kind::ContentMissing => {
                for referrer in referrers {
                    self.refill(job, referrer.links()).await?;
                }
                self.target.sink.attach(&image.to, subject, referrers, &image.context).await?;
            }
            done => done?,
        }
        referrers.iter().for_each(|referrer| self.presence.add(&image.to, referrer.digest()));
        Ok(())
    }

    async fn attach_tagged(self: &Arc<Self>, job: &CopyJob<'_>, subject: &Digest, tag: &str, manifest: &Manifest) -> Result<()> {
        let image = job.image;
        let publication = Publication {
            repository: image.to.clone(),
            reference: Reference::Tag(tag.to_owned()),
            manifest: manifest.clone(),
            source: format!("{}:{tag}", repository(&image.name)).into(),
            sparse: vec![],
        };
        match self.target.sink.attach_tagged(&publication, subject, &image.context).await {
            Err(error) if error.kind() == Kind::ContentMissing => {
                self.refill(job, manifest.links()).await?;
                self.target.sink.attach_tagged(&publication, subject, &image.context).await?;
            }
            done => done?,
        }
        self.target.sink.confirm(&publication, self.options.recheck, &image.context).await?;
        self.presence.add(&image.to, manifest.digest());
        Ok(())
    }

    /// Whether this run has seen, or made it so, that the target has `referrer` where it is looked for.
    fn knows_attached(&self, image: &CopyImage, referrer: &Referrer) -> bool {
        self.referrers.attached.lock().contains(&key(image, referrer))
    }

    fn is_attached_now(&self, image: &CopyImage, referrer: &Referrer) {
        self.referrers.attached.lock().insert(key(image, referrer));
    }

    /// As [`Engine::knows_attached`], by asking the target: one list for all that refers to one subject, a HEAD for a tag.
    pub(super) async fn asks_attached(&self, image: &CopyImage, referrer: &Referrer) -> Result<bool> {
        if self.knows_attached(image, referrer) {
            return Ok(true);
        }
        let (repository, context) = (&image.to, &image.context);
        let there = match &referrer.tag {
            Some(tag) => {
                let named = self.target.sink.published(repository, &Reference::Tag(tag.clone()), context).await?;
                named.is_some_and(|named| named.digest == referrer.manifest.digest)
            }
            None => {
                let cell = cell(&self.referrers.at_target, (repository.clone(), referrer.subject.clone()));
                let listed = cell.get_or_try_init(|| async {
                    let listed = self.target.source.referrers(repository, &referrer.subject, context).await?;
                    Ok::<_, crate::Error>(Arc::new(listed.into_iter().map(|listed| listed.digest).collect()))
                });
                listed.await?.contains(&referrer.manifest.digest)
            }
        };
        if there {
            self.is_attached_now(image, referrer);
        }
        Ok(there)
    }
}

/// All, or the first error. What gave up because another one failed is not the cause.
fn all<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let mut errors: Vec<Error> = failed.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| error.kind() == Kind::Cancelled);
    match errors.into_iter().next() {
        Some(cause) => Err(cause),
        None => Ok(done.into_iter().filter_map(Result::ok).collect()),
    }
}

/// The remark on referrers of an index that is not what is delivered.
fn left_behind(walk: &ReferrerWalk, source: &Digest) -> Option<String> {
    let about = walk.found.iter().filter(|found| found.referrer.subject == *source).count();
    let unread = walk.unread.iter().any(|unread| unread.subject == *source);
    let what = match (about, unread) {
        (0, false) => return None,
        (_, true) => "referrers of the source index are".to_owned(),
        (1, false) => "1 referrer of the source index is".to_owned(),
        (about, false) => format!("{about} referrers of the source index are"),
    };
    Some(format!("{what} not carried: the index delivered is another, cut to the platforms asked for"))
}

/// An image's canonical name without its tag or digest.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        // What follows a port is a path.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

fn key(image: &CopyImage, Referrer { manifest, subject, tag }: &Referrer) -> Spot {
    (image.to.clone(), subject.clone(), manifest.digest.clone(), tag.clone())
}
