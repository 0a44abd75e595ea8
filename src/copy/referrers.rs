//! Copies referrers (signatures, attestations, SBOMs): after the image is at the target by its digest, before it gets
//! its name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::attached::AttachedReferrers;
use super::comparison::{Comparison, RecheckResult};
use super::graph::GraphCopy;
use super::image::{CopyImage, CopyOutcome};
use super::job::CopyJob;
use super::keyed_locks::{KeyGuard, KeyedLocks};
use super::listing::ReferrerLister;
use super::reader::ContentReader;
use super::referrer_walk::{FoundReferrer, ReferrerWalk};
use super::selection::SelectedContent;
use super::target::TargetState;
use crate::content::{Descriptor, Digest, Links, Manifest, Presence as At, Publication, Referrer, Referrers, Repository};
use crate::name::Reference;
use crate::report::Status;
use crate::{Error, Kind, Operation, Result};

/// Subjects whose referrers are copied at once, and referrers of one subject that are read at once. Each registry's own
/// concurrency limits requests; these bound the manifests that one image holds in memory.
const CONCURRENT_SUBJECTS: usize = 8;
const CONCURRENT_READS: usize = 4;

/// Referrers of one subject that are attached together, and held in memory until then. A registry without the referrers
/// API needs its index of referrers written once for each such group.
const GROUP_SIZE: usize = 16;

/// The referrers of an image that were copied.
#[derive(Debug, Default)]
struct CopiedReferrers {
    /// Those that the target has now, in the order they were listed.
    referrers: Vec<Referrer>,
    /// How many of them it did not have before.
    new: u64,
    /// Those that are listed, and that the upstream does not have.
    gone: Vec<Digest>,
}

/// The result of reading one referrer.
enum ReferrerRead {
    /// The target has it.
    There,
    /// It must be attached; whether the target lacked its manifest.
    Read(Box<Manifest>, bool),
    /// Its manifest names another subject.
    Another,
    /// The policy does not want its type.
    Unwanted,
    /// The upstream does not have it.
    Gone,
}

/// The referrers of one subject that were copied.
#[derive(Default)]
struct ReferrerGroup {
    /// Those that the target has now, each with its entry in the list.
    there: Vec<(Referrer, AttachedReferrer)>,
    /// Those that the upstream does not have.
    gone: Vec<Digest>,
    notes: Vec<String>,
}

/// A referrer at the target, as its own manifest describes it.
struct AttachedReferrer {
    referrer: Referrer,
    new: bool,
}

/// Copies referrers.
pub(super) struct ReferrerCopy {
    target: Arc<TargetState>,
    reader: ContentReader,
    graph: GraphCopy,
    lister: Arc<ReferrerLister>,
    attached: Arc<AttachedReferrers>,
    /// Only one task at a time copies the referrers of a digest. Never lock it while holding a write lock: a referrer
    /// may itself be another image of the run.
    copying: KeyedLocks<(Repository, Digest)>,
}

impl ReferrerCopy {
    pub(super) fn new(target: Arc<TargetState>, graph: GraphCopy, lister: Arc<ReferrerLister>, attached: Arc<AttachedReferrers>) -> Self {
        ReferrerCopy { reader: ContentReader::new(Arc::clone(&target)), target, graph, lister, attached, copying: KeyedLocks::default() }
    }

    /// Copies the referrers of an image, and of its children, that has been copied but has no name yet. If there are
    /// any, the image is written by its digest first, and `writing`, the lock of that digest, is released. Returns the
    /// child manifests whose referrers were listed, and the referrers that are listed but that the upstream does not
    /// have.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn copy(
        &self,
        job: &CopyJob<'_>,
        mut walk: ReferrerWalk,
        selected: &SelectedContent,
        outcome: &mut CopyOutcome,
        was_there: bool,
        writing: &mut Option<KeyGuard<(Repository, Digest)>>,
    ) -> Result<(Vec<Digest>, Vec<Digest>)> {
        let image = job.image;
        if image.policy.referrers == Referrers::No {
            return Ok((vec![], vec![]));
        }
        let digest = selected.manifest.digest();
        let rewritten = outcome.source_digest.as_ref().filter(|source| *source != digest);
        if let Some(source) = rewritten {
            outcome.notes.extend(left_behind(&walk, source));
            // Only the referrers of the children are copied. Their lists are not requested again.
            walk = ReferrerWalk::default();
        }
        let children = self.lister.subjects(image, &outcome.children).await?;
        self.lister.list(image, &mut walk, &children).await?;
        if walk.found.is_empty() && walk.unread.is_empty() {
            outcome.notes.extend(walk.notes);
            return Ok((children, vec![]));
        }
        self.graph.put_selected(job, selected).await?;
        *writing = None;
        let _copying = self.copying.lock((image.to.clone(), digest.clone())).await;
        self.lister.read_indexes(image, &mut walk).await?;
        outcome.notes.extend(std::mem::take(&mut walk.notes));
        let copied = self.copy_all(job, &walk, was_there).await?;
        if outcome.status == Status::Current {
            outcome.notes.extend(new_referrers(copied.new));
        }
        outcome.referrers = copied.referrers;
        Ok((children, copied.gone))
    }

    /// Copies all referrers in `walk`, each after its subject. If the target had the image before, it is asked which of
    /// them it has; of a new image it has none.
    ///
    /// # Errors
    /// The first failure: an image is not delivered without its referrers.
    async fn copy_all(&self, job: &CopyJob<'_>, walk: &ReferrerWalk, was_there: bool) -> Result<CopiedReferrers> {
        let mut levels: BTreeMap<usize, Vec<(Digest, Vec<Referrer>)>> = BTreeMap::new();
        for FoundReferrer { referrer, depth } in &walk.found {
            let groups = levels.entry(*depth).or_default();
            match groups.iter_mut().find(|(subject, _)| *subject == referrer.subject) {
                Some((_, group)) => group.push(referrer.clone()),
                None => groups.push((referrer.subject.clone(), vec![referrer.clone()])),
            }
        }
        let mut copied = CopiedReferrers::default();
        let mut arrived = HashMap::new();
        for groups in levels.into_values() {
            let groups =
                stream::iter(groups).map(|(subject, group)| self.copy_group(job, subject, group, was_there)).buffered(CONCURRENT_SUBJECTS);
            for ReferrerGroup { there, gone, notes } in all(groups.collect().await)? {
                arrived.extend(there);
                copied.gone.extend(gone);
                notes.into_iter().for_each(|note| job.note(note));
            }
        }
        for FoundReferrer { referrer, .. } in &walk.found {
            if let Some(AttachedReferrer { referrer, new }) = arrived.remove(referrer) {
                copied.new += u64::from(new);
                copied.referrers.push(referrer);
            }
        }
        Ok(copied)
    }

    /// Copies the referrers of one subject.
    async fn copy_group(&self, job: &CopyJob<'_>, subject: Digest, group: Vec<Referrer>, was_there: bool) -> Result<ReferrerGroup> {
        let mut done = ReferrerGroup::default();
        for together in group.chunks(GROUP_SIZE) {
            let reads = stream::iter(together.to_vec()).map(|referrer| async move {
                let read = self.read_one(job, &referrer, was_there).await;
                if read.is_err() {
                    job.failed().set();
                }
                read
            });
            // All reads finish before anything is attached: a read that is not polled would keep its request permit.
            let read = all(reads.buffered(CONCURRENT_READS).collect().await)?;
            self.attach_all(job, &subject, together.iter().zip(read), &mut done).await?;
        }
        for (referrer, _) in &done.there {
            self.attached.add(job.image, referrer);
        }
        Ok(done)
    }

    /// Attaches the referrers of one subject that were read.
    async fn attach_all(
        &self,
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
                        // Its tag says what type it is.
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

    /// Reads one referrer, and copies what it refers to if it is what its list says.
    async fn read_one(&self, job: &CopyJob<'_>, referrer: &Referrer, was_there: bool) -> Result<ReferrerRead> {
        if job.failed().is_set() {
            return Err(Error::cancelled(Operation::CopyReferrer));
        }
        let known = self.attached.knows(job.image, referrer);
        let attached = known || (was_there && self.attached.contains(job.image, referrer).await?);
        if attached && (known || !self.target.options().recheck) {
            return Ok(ReferrerRead::There);
        }
        let held = self.target.holds_manifest(job.image, &referrer.manifest).await?;
        // Some lists have wrong sizes (Harbor before 2.11 adds those of the layers): only the digest counts.
        let any_size = Descriptor { size: 0, ..referrer.manifest.clone() };
        let manifest = match self.reader.manifest(job, &any_size, &held).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(ReferrerRead::Gone),
            read => read?,
        };
        if referrer.tag.is_none() {
            let subject = manifest.links().subject.as_ref();
            if subject.is_none_or(|subject| subject.digest != referrer.subject) {
                job.keep(manifest.digest());
                return Ok(ReferrerRead::Another);
            }
            // A list may lack the type.
            let artifact_type = manifest.as_referrer().artifact_type.unwrap_or_default();
            if !job.image.policy.referrers.wants(Some(&artifact_type)) {
                job.keep(manifest.digest());
                return Ok(ReferrerRead::Unwanted);
            }
        }
        if held != At::Here || self.target.options().recheck {
            self.target.cached().add_inline(&manifest);
            self.graph.fill(job, manifest.links(), 0).await?;
        }
        Ok(if attached { ReferrerRead::There } else { ReferrerRead::Read(Box::new(manifest), held != At::Here) })
    }

    /// Writes manifests and has the target list them as referrers of `subject`.
    async fn attach(&self, job: &CopyJob<'_>, subject: &Digest, referrers: &[Manifest]) -> Result<()> {
        if referrers.is_empty() {
            return Ok(());
        }
        let image = job.image;
        let links: Vec<&Links> = referrers.iter().map(|referrer| &**referrer.links()).collect();
        let attach = || self.target.sink().attach(&image.to, subject, referrers, &image.context);
        self.graph.write_or_refill(job, &links, attach).await?;
        referrers.iter().for_each(|referrer| self.target.presence().add(&image.to, referrer.digest()));
        Ok(())
    }

    async fn attach_tagged(&self, job: &CopyJob<'_>, subject: &Digest, tag: &str, manifest: &Manifest) -> Result<()> {
        let image = job.image;
        let publication = Publication {
            repository: image.to.clone(),
            reference: Reference::Tag(tag.to_owned()),
            manifest: manifest.clone(),
            source: format!("{}:{tag}", repository(&image.name)).into(),
            sparse: vec![],
        };
        let attach = || self.target.sink().attach_tagged(&publication, subject, &image.context);
        self.graph.write_or_refill(job, &[manifest.links()], attach).await?;
        self.target.sink().confirm(&publication, self.target.options().recheck, &image.context).await?;
        self.target.presence().add(&image.to, manifest.digest());
        Ok(())
    }

    /// Copies the referrers that a recheck found to be missing. The image itself is not touched.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn copy_missing(&self, image: &CopyImage, comparison: &Comparison, rechecked: &RecheckResult) -> Result<CopyOutcome> {
        let job = CopyJob::new(image, 0);
        let digest = comparison.held.clone().unwrap_or_else(|| comparison.wanted.digest.clone());
        let _copying = self.copying.lock((image.to.clone(), digest.clone())).await;
        let mut walk = rechecked.walk.clone();
        self.lister.read_indexes(image, &mut walk).await?;
        walk.found.retain(|FoundReferrer { referrer, .. }| !rechecked.gone.contains(&referrer.manifest.digest));
        let copied = self.copy_all(&job, &walk, true).await?;
        job.release();
        let mut outcome = comparison.current_outcome(digest.clone());
        outcome.notes.extend(job.take_notes());
        outcome.notes.extend(walk.notes);
        outcome.notes.extend(new_referrers(copied.new));
        outcome.referrers = copied.referrers;
        self.target.record_delivery(image, &digest, rechecked.children.clone(), [copied.gone, rechecked.gone.clone()].concat());
        Ok(outcome)
    }
}

/// All, or the first error. An error of a part that was cancelled because another one failed is not the cause.
fn all<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let mut errors: Vec<Error> = failed.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| error.kind() == Kind::Cancelled);
    match errors.into_iter().next() {
        Some(cause) => Err(cause),
        None => Ok(done.into_iter().filter_map(Result::ok).collect()),
    }
}

/// The remark on referrers of a source index that is not delivered itself.
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
        // A colon before a slash belongs to a port.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// The remark on an image that the target had, and that has new referrers.
fn new_referrers(new: u64) -> Option<String> {
    match new {
        0 => None,
        1 => Some("1 new referrer".to_owned()),
        new => Some(format!("{new} new referrers")),
    }
}
