//! Lists what refers to an image, what refers to that, and so on. Lists cost no pull.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::image::CopyImage;
use super::once::OnceMap;
use super::reader::ContentReader;
use super::referrer_walk::{ReferrerWalk, UnreadIndex, untrusted};
use super::target::TargetState;
use crate::content::{
    Descriptor, Digest, DigestTags, MAX_DEPTH, Manifest, ManifestKind, Referrer, ReferrerList, Referrers, Repository, kind_of,
};
use crate::name::Reference;
use crate::{Kind, Operation, Result};

/// Lists of one image that are requested at once. Each registry's own concurrency limits requests; this bounds the
/// lists that one image holds in memory.
const CONCURRENT_LISTS: usize = 8;

/// The upstream's host, its repository, the subject, and the wanted types.
type ListKey = (String, Repository, Digest, Referrers);

/// What refers to one digest.
#[derive(Debug, Default)]
struct ListedReferrers {
    referrers: Vec<Referrer>,
    /// A tag's index that is not read yet. Most subjects have none, and a list of each is kept.
    index: Option<Box<Descriptor>>,
    notes: Vec<String>,
}

/// Lists referrers at upstreams, each subject's once a run.
pub(super) struct ReferrerLister {
    target: Arc<TargetState>,
    reader: ContentReader,
    lists: OnceMap<ListKey, ListedReferrers>,
}

impl ReferrerLister {
    pub(super) fn new(target: Arc<TargetState>) -> Self {
        ReferrerLister { reader: ContentReader::new(Arc::clone(&target)), target, lists: OnceMap::default() }
    }

    /// The manifests below an image that may have referrers: its children, and the children of nested indexes.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub(super) async fn subjects(&self, image: &CopyImage, children: &[Descriptor]) -> Result<Vec<Digest>> {
        let (mut subjects, mut seen) = (vec![], HashSet::new());
        let mut level = children.to_vec();
        while !level.is_empty() {
            let mut next = vec![];
            for child in std::mem::take(&mut level) {
                // Blobs in an index (BuildKit's cache lists them) are not signed.
                let kind = kind_of(&child.media_type);
                if (kind == ManifestKind::Opaque && !child.media_type.is_empty()) || !seen.insert(child.digest.clone()) {
                    continue;
                }
                if kind == ManifestKind::Index
                    && let Some(index) = self.reader.cached_or_target_manifest(image, &child.digest).await?
                {
                    next.extend(index.links().manifests.iter().cloned());
                }
                subjects.push(child.digest);
            }
            level = next;
        }
        Ok(subjects)
    }

    /// Lists what refers to `subjects`, and to that. Nothing is listed twice. Spends no pull.
    ///
    /// # Errors
    /// If the upstream cannot be asked, or lists too much.
    pub(super) async fn list(&self, image: &CopyImage, walk: &mut ReferrerWalk, subjects: &[Digest]) -> Result<()> {
        match &image.policy.referrers {
            Referrers::No => Ok(()),
            Referrers::Exactly(given) => walk.add(given.iter().cloned(), 0).map(drop),
            Referrers::All | Referrers::Types(_) => {
                let level = subjects.iter().map(|subject| (subject.clone(), 0)).collect();
                self.list_levels(image, walk, level).await
            }
        }
    }

    /// Reads the unread indexes of `walk`, and lists what refers to their entries. The reads are pulls.
    ///
    /// # Errors
    /// As [`ReferrerLister::list`].
    pub(super) async fn read_indexes(&self, image: &CopyImage, walk: &mut ReferrerWalk) -> Result<()> {
        while let Some(unread) = walk.unread.pop() {
            let reading = self.target.lock_read(&unread.index.digest).await;
            self.target.check_running(Operation::ListReferrers)?;
            // Not released when the image is delivered: while its source has it cached, a recheck costs no pull.
            let index = image.upstream.manifest(&image.from, &unread.index.digest, &image.context).await?;
            drop(reading);
            let listed = index.as_ref().map(|index| entries(index, &unread.subject)).unwrap_or_default();
            let next = walk.add(listed.into_iter().filter(|referrer| wants(image, referrer)), unread.depth)?;
            self.list_levels(image, walk, next).await?;
        }
        Ok(())
    }

    /// Level by level, from subjects and their depths.
    async fn list_levels(&self, image: &CopyImage, walk: &mut ReferrerWalk, mut level: Vec<(Digest, usize)>) -> Result<()> {
        loop {
            level.retain(|(subject, _)| walk.start(subject));
            if level.is_empty() {
                return Ok(());
            }
            if level.iter().any(|(_, depth)| *depth > MAX_DEPTH) {
                return Err(untrusted(format!("referrers refer to each other more than {MAX_DEPTH} deep")));
            }
            let lists: Vec<Arc<ListedReferrers>> = stream::iter(level.clone())
                .map(|(subject, _)| self.list_once(image, subject))
                .buffered(CONCURRENT_LISTS)
                .try_collect()
                .await?;
            let mut next = vec![];
            for ((subject, depth), listed) in level.into_iter().zip(lists) {
                walk.notes.extend(listed.notes.iter().cloned());
                next.extend(walk.add(listed.referrers.iter().cloned(), depth)?);
                walk.unread.extend(listed.index.as_deref().cloned().map(|index| UnreadIndex { subject, index, depth }));
            }
            level = next;
        }
    }

    async fn list_once(&self, image: &CopyImage, subject: Digest) -> Result<Arc<ListedReferrers>> {
        let key = (host(image).to_owned(), image.from.clone(), subject.clone(), image.policy.referrers.clone());
        self.lists.get_or_try_init(key, self.request_list(image, &subject)).await
    }

    async fn request_list(&self, image: &CopyImage, subject: &Digest) -> Result<ListedReferrers> {
        self.target.check_running(Operation::ListReferrers)?;
        let (upstream, from, context, wanted) = (&image.upstream, &image.from, &image.context, &image.policy.referrers);
        let mut result = ListedReferrers::default();
        // Both lists are needed where signatures under tags are wanted: one does not wait for the other.
        let tags_wanted = async { if wanted.wants_tags() { upstream.digest_tags(from, context).await.map(Some) } else { Ok(None) } };
        let (listed, tags) = join(upstream.listed_referrers(from, subject, wanted.only_type(), context), tags_wanted).await;
        let listed = match listed? {
            ReferrerList::Listed(listed) => Some(listed),
            ReferrerList::Missing(why) => {
                result.notes.extend(why.map(|why| why.to_string()));
                None
            }
        };
        if listed.is_none() || wanted.wants_tags() {
            let tags = match tags? {
                Some(tags) => tags,
                None => upstream.digest_tags(from, context).await?,
            };
            if let Some(tag) = tags.fallback(subject).filter(|_| listed.is_none()) {
                result.index = resolve_tag(image, &tags, &tag, &mut result.notes).await?.map(Box::new);
            }
            for (tag, artifact_type) in tags.cosign(subject).into_iter().filter(|(_, of)| wanted.wants(Some(of))) {
                // A tag may have been deleted since the tags were listed.
                if let Some(manifest) = resolve_tag(image, &tags, &tag, &mut result.notes).await? {
                    let manifest = Descriptor { artifact_type: Some(artifact_type.to_owned()), ..manifest };
                    result.referrers.push(Referrer { manifest, subject: subject.clone(), tag: Some(tag) });
                }
            }
        }
        let cached = result.index.as_ref().and_then(|index| upstream.cached(&index.digest));
        let mut by_subject = match (listed, &cached) {
            (Some(listed), _) => referrers_of(subject, listed),
            (None, Some(index)) => {
                result.index = None;
                entries(index, subject)
            }
            (None, None) => vec![],
        };
        by_subject.retain(|referrer| wants(image, referrer));
        result.referrers.splice(0..0, by_subject);
        Ok(result)
    }
}

/// Resolves a tag that belongs to a digest. If the upstream neither lists tags nor gives access to this one, that is a
/// remark.
async fn resolve_tag(image: &CopyImage, tags: &DigestTags, tag: &str, notes: &mut Vec<String>) -> Result<Option<Descriptor>> {
    let (upstream, from, context) = (&image.upstream, &image.from, &image.context);
    if !tags.are_unlisted() {
        return upstream.resolve(from, &Reference::Tag(tag.to_owned()), context).await;
    }
    match upstream.find_tag(from, tag, context).await {
        Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Refused | Kind::Unavailable) => {
            let why = error.http_status().map_or_else(|| error.message(), |status| status.to_string());
            let repository = format!("{}/{from}", host(image));
            notes.push(format!("could not look for signatures: the tags of {repository} can neither be listed nor looked at ({why})"));
            Ok(None)
        }
        resolved => resolved,
    }
}

/// The upstream's host, from the image's canonical name.
fn host(image: &CopyImage) -> &str {
    image.name.split('/').next().unwrap_or_default()
}

/// Whether the policy wants `referrer`, as far as its list describes it.
fn wants(image: &CopyImage, referrer: &Referrer) -> bool {
    image.policy.referrers.wants(referrer.manifest.artifact_type.as_deref())
}

/// The entries of an index of referrers; none if the manifest is no index.
fn entries(index: &Manifest, subject: &Digest) -> Vec<Referrer> {
    match index.kind() {
        ManifestKind::Index => referrers_of(subject, index.links().manifests.clone()),
        _ => vec![],
    }
}

fn referrers_of(subject: &Digest, listed: Vec<Descriptor>) -> Vec<Referrer> {
    listed.into_iter().map(|manifest| Referrer { manifest, subject: subject.clone(), tag: None }).collect()
}
