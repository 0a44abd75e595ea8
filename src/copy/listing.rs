//! What refers to an image, what refers to that, and so on: found out by lists, which cost no pull.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::OnceCell;

use super::engine::{CopyImage, Engine};
use super::presence::KeyedLocks;
use crate::content::{Descriptor, Digest, DigestTags, MAX_DEPTH, Manifest, ManifestKind, Referrer, ReferrerList, Referrers, Repository};
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::{Error, Kind, Result, Side};

/// Lists of one image that are asked for at once. Requests are limited by each registry's own concurrency; this bounds the lists that
/// one image holds in memory.
const LISTS: usize = 8;

/// Referrers that one image may have, all together. Each is a pull, or may be: an image that is signed anew every night for years has as
/// many, and a registry that lists more spends our pulls on nothing.
const MOST: usize = 1000;

const OPERATION: &str = "list referrers";

/// What the lists say about an image's referrers, as far as they have been asked.
#[derive(Debug, Clone, Default)]
pub(super) struct ReferrerWalk {
    /// Those that are wanted, as far as that is known, in the order they were found: those of a subject together.
    pub(super) found: Vec<FoundReferrer>,
    /// What must be read to know more.
    pub(super) unread: Vec<UnreadIndex>,
    /// Remarks on what could not be looked for, each once.
    pub(super) notes: BTreeSet<String>,
    /// What was asked about.
    asked: HashSet<Digest>,
    seen: HashSet<Referrer>,
}

/// A referrer, and how far from the image it is.
#[derive(Debug, Clone)]
pub(super) struct FoundReferrer {
    pub(super) referrer: Referrer,
    pub(super) depth: usize,
}

/// An index of referrers, under the tag that stands for the API, that nobody has read.
#[derive(Debug, Clone)]
pub(super) struct UnreadIndex {
    pub(super) subject: Digest,
    pub(super) index: Descriptor,
    depth: usize,
}

/// What refers to one digest.
#[derive(Debug, Default)]
pub(super) struct ListedReferrers {
    referrers: Vec<Referrer>,
    index: Option<Descriptor>,
    notes: Vec<String>,
}

/// The upstream's host, its repository, the subject, and what is wanted of it.
type Asked = (String, Repository, Digest, Referrers);

/// Where a referrer is found at the target: the repository, what it is about, its own digest, and its tag if it has one.
pub(super) type Spot = (Repository, Digest, Digest, Option<String>);

/// Asked for once, whoever else wants it.
type Once<K, V> = Mutex<HashMap<K, Arc<OnceCell<Arc<V>>>>>;

/// What a run knows of referrers, at both ends.
#[derive(Debug, Default)]
pub(super) struct ReferrerMemory {
    lists: Once<Asked, ListedReferrers>,
    /// What the target lists for a subject.
    pub(super) at_target: Once<(Repository, Digest), HashSet<Digest>>,
    /// What is known to be at the target as a referrer, where it is found.
    pub(super) attached: Mutex<HashSet<Spot>>,
    /// One task at a time carries the referrers of a digest. Never taken by who holds a node: an image's referrer may be another image.
    pub(super) carrying: KeyedLocks<(Repository, Digest)>,
}

pub(super) fn cell<K: Eq + std::hash::Hash, V>(of: &Once<K, V>, key: K) -> Arc<OnceCell<Arc<V>>> {
    Arc::clone(of.lock().entry(key).or_default())
}

impl ReferrerWalk {
    /// Takes in what refers to a subject at `depth`; gives what must be asked about next.
    fn take(&mut self, listed: impl IntoIterator<Item = Referrer>, depth: usize) -> Result<Vec<(Digest, usize)>> {
        let mut next = vec![];
        for referrer in listed {
            // Lists differ in what they say of a manifest, and the same one may be in two.
            let plain = Descriptor::new("", referrer.manifest.digest.clone(), 0);
            if !self.seen.insert(Referrer { manifest: plain, ..referrer.clone() }) {
                continue;
            }
            if self.found.len() == MOST {
                return Err(astray(format!("the image has more than {MOST} referrers")));
            }
            next.push((referrer.manifest.digest.clone(), depth + 1));
            self.found.push(FoundReferrer { referrer, depth });
        }
        Ok(next)
    }

    /// Manifests that are to be read, at most: of an index that nobody has read itself, and what such a one usually lists.
    pub(super) fn reads(&self, in_each_index: u64) -> u64 {
        self.found.len() as u64 + self.unread.len() as u64 * (1 + in_each_index)
    }
}

fn astray(message: String) -> Error {
    let error = Error::new(Side::Upstream, OPERATION, Kind::Untrusted, message);
    error.remedy("name the artifact types that you need as `referrers` in the rule")
}

/// The host that an image is from, by its canonical name.
fn host(image: &CopyImage) -> &str {
    image.name.split('/').next().unwrap_or_default()
}

impl Engine {
    /// Asks what refers to `subjects`, and to that; nothing is asked twice. Spends no pull.
    ///
    /// # Errors
    /// If it cannot be asked, or the answers lead astray.
    pub(super) async fn list_referrers(&self, image: &CopyImage, walk: &mut ReferrerWalk, subjects: &[Digest]) -> Result<()> {
        match &image.policy.referrers {
            Referrers::No => Ok(()),
            Referrers::Exactly(given) => walk.take(given.iter().cloned(), 0).map(drop),
            Referrers::All | Referrers::Types(_) => {
                let level = subjects.iter().map(|subject| (subject.clone(), 0)).collect();
                self.follow(image, walk, level).await
            }
        }
    }

    /// Reads the indexes that `walk` could not look into, and goes on from there. Those are pulls.
    ///
    /// # Errors
    /// As [`Engine::list_referrers`].
    pub(super) async fn read_indexes(&self, job: &super::graph::CopyJob<'_>, walk: &mut ReferrerWalk) -> Result<()> {
        while let Some(unread) = walk.unread.pop() {
            let image = job.image;
            let leading = self.leaders.hold(unread.index.digest.clone()).await;
            if self.stop.is_cancelled() {
                return Err(Error::cancelled(OPERATION));
            }
            // It is not let go of when the image is delivered: as long as its source keeps it, looking again costs no pull.
            let index = image.upstream.manifest(&image.from, &unread.index.digest, &image.context).await?;
            drop(leading);
            let listed = index.as_ref().map(|index| entries(index, &unread.subject)).unwrap_or_default();
            let wanted = listed.into_iter().filter(|referrer| wants(image, referrer));
            let next = walk.take(wanted, unread.depth)?;
            self.follow(image, walk, next).await?;
        }
        Ok(())
    }

    /// Level by level, from subjects and their depths.
    async fn follow(&self, image: &CopyImage, walk: &mut ReferrerWalk, mut level: Vec<(Digest, usize)>) -> Result<()> {
        loop {
            level.retain(|(subject, _)| walk.asked.insert(subject.clone()));
            if level.is_empty() {
                return Ok(());
            }
            if level.iter().any(|(_, depth)| *depth > MAX_DEPTH) {
                return Err(astray(format!("referrers refer to each other more than {MAX_DEPTH} deep")));
            }
            let lists: Vec<Arc<ListedReferrers>> =
                stream::iter(level.clone()).map(|(subject, _)| self.list(image, subject)).buffered(LISTS).try_collect().await?;
            let mut next = vec![];
            for ((subject, depth), listed) in level.into_iter().zip(lists) {
                walk.notes.extend(listed.notes.iter().cloned());
                next.extend(walk.take(listed.referrers.iter().cloned(), depth)?);
                walk.unread.extend(listed.index.clone().map(|index| UnreadIndex { subject, index, depth }));
            }
            level = next;
        }
    }

    async fn list(&self, image: &CopyImage, subject: Digest) -> Result<Arc<ListedReferrers>> {
        let key = (host(image).to_owned(), image.from.clone(), subject.clone(), image.policy.referrers.clone());
        let cell = cell(&self.referrers.lists, key);
        let listed = cell.get_or_try_init(|| async { self.ask_for_list(image, &subject).await.map(Arc::new) });
        listed.await.cloned()
    }

    async fn ask_for_list(&self, image: &CopyImage, subject: &Digest) -> Result<ListedReferrers> {
        if self.stop.is_cancelled() {
            return Err(Error::cancelled(OPERATION));
        }
        let (upstream, from, context, wanted) = (&image.upstream, &image.from, &image.context, &image.policy.referrers);
        let mut found = ListedReferrers::default();
        let listed = match upstream.listed_referrers(from, subject, wanted.only_type(), context).await? {
            ReferrerList::Listed(listed) => Some(listed),
            ReferrerList::Missing(why) => {
                found.notes.extend(why.map(|why| why.to_string()));
                None
            }
        };
        if listed.is_none() || wanted.wants_tags() {
            let tags = upstream.digest_tags(from, context).await?;
            if let Some(tag) = tags.fallback(subject).filter(|_| listed.is_none()) {
                found.index = self.tag_about(image, &tags, &tag, &mut found.notes).await?;
            }
            for (tag, artifact_type) in tags.cosign(subject).into_iter().filter(|(_, of)| wanted.wants(Some(of))) {
                // A tag that has gone meanwhile is none.
                if let Some(manifest) = self.tag_about(image, &tags, &tag, &mut found.notes).await? {
                    let manifest = Descriptor { artifact_type: Some(artifact_type.to_owned()), ..manifest };
                    found.referrers.push(Referrer { manifest, subject: subject.clone(), tag: Some(tag) });
                }
            }
        }
        let at_hand = found.index.as_ref().and_then(|index| upstream.cached(&index.digest));
        let mut by_subject = match (listed, &at_hand) {
            (Some(listed), _) => about(listed, subject),
            (None, Some(index)) => {
                found.index = None;
                entries(index, subject)
            }
            (None, None) => vec![],
        };
        by_subject.retain(|referrer| wants(image, referrer));
        found.referrers.splice(0..0, by_subject);
        Ok(found)
    }
}

impl Engine {
    /// What a tag about a manifest names. Where tags could not be listed, one that may not be looked at either is a note.
    async fn tag_about(&self, image: &CopyImage, tags: &DigestTags, tag: &str, notes: &mut Vec<String>) -> Result<Option<Descriptor>> {
        let (upstream, from, context) = (&image.upstream, &image.from, &image.context);
        if !tags.are_unlisted() {
            return upstream.resolve(from, &Reference::Tag(tag.to_owned()), context).await;
        }
        match upstream.find_tag(from, tag, context).await {
            Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Refused | Kind::Unavailable) => {
                let why = error.http_status().map_or_else(|| error.message(), |status| status.to_string());
                notes.push(format!(
                    "could not look for signatures: the tags of {} can neither be listed nor looked at ({why})",
                    repository(image)
                ));
                Ok(None)
            }
            found => found,
        }
    }
}

/// The repository that an image is from, by its canonical name.
fn repository(image: &CopyImage) -> String {
    format!("{}/{}", host(image), image.from)
}

/// Whether `referrer` is wanted, as far as what lists say of it tells.
fn wants(image: &CopyImage, referrer: &Referrer) -> bool {
    image.policy.referrers.wants(referrer.manifest.artifact_type.as_deref())
}

/// What an index of referrers lists; nothing, if it is something else.
fn entries(index: &Manifest, subject: &Digest) -> Vec<Referrer> {
    match index.kind() {
        ManifestKind::Index => about(index.links().manifests.clone(), subject),
        _ => vec![],
    }
}

fn about(listed: Vec<Descriptor>, subject: &Digest) -> Vec<Referrer> {
    listed.into_iter().map(|manifest| Referrer { manifest, subject: subject.clone(), tag: None }).collect()
}
