//! One image on its way through the cache: who is asked what it is, under which name it is pulled, and what was read of it.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::Cache;
use super::differs;
use super::proof::{Belief, ProofQuery, WarmProof, context_without_account, depth};
use super::read_content::{ReadContent, RootManifest};
use crate::config::profiles::{CacheLists, CacheNaming, HeadCost};
use crate::content::{
    BlobStream, ChildChoice, Descriptor, Digest, DigestTags, Manifest, Policy, ReferrerList, Repository, RequestContext, Source,
    is_schema1, schema1,
};
use crate::copy::{Comparison, CopyOutcome, NextStep};
use crate::mutex::{Mutex, MutexGuard};
use crate::name::Reference;
use crate::registry::RegistryStore;
use crate::report::Status;
use crate::rules::WarmSettings;
use crate::state::WarmedRecord;
use crate::{Error, Kind, Operation, Result, Side};

/// The registry behind the cache.
pub(crate) struct CacheUpstream {
    /// It, as an account of ours; `None`: it is not asked (`upstream_check = false`).
    pub(crate) store: Option<Arc<RegistryStore>>,
    /// Its name.
    pub(crate) host: String,
    /// The repository there.
    pub(crate) repository: Repository,
    /// What it has said the image is, if it was asked before.
    pub(crate) resolved: Option<Descriptor>,
}

/// One image, seen through the cache.
pub(crate) struct CachedImage {
    pub(super) cache: Arc<Cache>,
    upstream: CacheUpstream,
    /// Its repository at the cache.
    pub(super) repository: Repository,
    /// What the cache is asked for: the tag, or the digest.
    pub(super) reference: Reference,
    pub(super) policy: Arc<Policy>,
    pub(super) warm: WarmSettings,
    pub(super) read: Mutex<ReadContent>,
}

impl CachedImage {
    /// The image `reference` of `upstream`, which the cache serves at `repository`.
    pub(crate) fn new(
        cache: &Arc<Cache>,
        upstream: CacheUpstream,
        (repository, reference): (Repository, Reference),
        policy: Arc<Policy>,
        warm: WarmSettings,
    ) -> Arc<Self> {
        cache.ask_for_blobs(&repository, warm.blobs);
        Arc::new(CachedImage { cache: Arc::clone(cache), upstream, repository, reference, policy, warm, read: Mutex::default() })
    }

    pub(super) fn read(&self) -> MutexGuard<'_, ReadContent> {
        self.read.lock()
    }

    pub(super) fn note(&self, note: String) {
        let notes = &mut self.read().notes;
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Asks what is to be done, spending no pull. `immutable`: the tag never moves; `belief`: which proof counts.
    ///
    /// # Errors
    /// If one side cannot be asked, or does not have the image.
    pub(crate) async fn survey(&self, immutable: bool, belief: Belief, context: &RequestContext) -> Result<NextStep> {
        let surveyed = self.try_survey(immutable, belief, context).await;
        surveyed.map_err(|error| error.subject(&*context.image))
    }

    async fn try_survey(&self, immutable: bool, belief: Belief, context: &RequestContext) -> Result<NextStep> {
        let (wanted, proof) = if belief == Belief::Nothing {
            (self.named(None, context).await?, None)
        } else if immutable {
            match self.proof(belief, context).await? {
                // It cannot have moved: nobody is asked upstream.
                Some(proof) => return Ok(NextStep::Nothing(self.current(proof))),
                None => (self.named(None, context).await?, None),
            }
        } else if self.cache.caching().says_origin {
            let (named, proof) = futures_util::future::join(self.named(None, context), self.proof(belief, context)).await;
            (named?, proof?)
        } else {
            // What is remembered is known at once, and says what the cache may be asked.
            let proof = self.proof(belief, context).await?;
            (self.named(proof.as_ref(), context).await?, proof)
        };
        // Asked of the cache, it is the cache's digest that is named; asked of the upstream, the upstream's.
        match proof {
            Some(proof) if proof.source == wanted.digest || proof.digest == wanted.digest => Ok(NextStep::Nothing(self.current(proof))),
            proof => {
                let size = self.read().size;
                let mut survey = Comparison::of(wanted, proof.map(|proof| proof.digest));
                survey.size = size;
                Ok(NextStep::Copy(Box::new(survey)))
            }
        }
    }

    /// What proves that the cache has the image now, if anything does. Spends no pull.
    async fn proof(&self, belief: Belief, context: &RequestContext) -> Result<Option<WarmProof>> {
        let CachedImage { cache, repository, reference, policy, warm, .. } = self;
        ProofQuery { cache, repository, reference, policy, warm }.proof(belief, context).await
    }

    fn current(&self, proof: WarmProof) -> CopyOutcome {
        if proof.source != proof.digest {
            self.note(differs::trimmed(self.cache.host(), &proof.digest, &proof.source));
        }
        let mut read = self.read();
        CopyOutcome {
            status: Status::Current,
            digest: proof.digest,
            source_digest: read.asked.then_some(proof.source),
            platforms: vec![],
            children: vec![],
            referrers: vec![],
            notes: std::mem::take(&mut read.notes),
        }
    }

    /// What the image's name means now: at the upstream, or, if that is not to be asked or does not let us, at the cache. `proof`: what
    /// the cache is known to have under the name.
    async fn named(&self, proof: Option<&WarmProof>, context: &RequestContext) -> Result<Descriptor> {
        if let Reference::Digest(digest) = &self.reference {
            return Ok(Descriptor::new("", digest.clone(), 0));
        }
        if let Some(named) = self.at_upstream(context).await? {
            return Ok(named);
        }
        if self.cache.caching().head == HeadCost::Pull && proof.is_none() {
            return Ok(self.unknown());
        }
        let looked = self.cache.store.look(&self.repository, &self.reference, &context_without_account(context)).await?;
        let Some(looked) = looked else { return Ok(self.unknown()) };
        let digest = &looked.descriptor.digest;
        if self.cache.caching().head == HeadCost::Pull && proof.is_some_and(|proof| proof.digest != *digest) {
            // The name has moved, and the cache has fetched the new manifest to be able to say so.
            self.cache.spent_another(context).await;
        }
        self.read().size = looked.descriptor.size;
        // No size: what is pulled may have moved again.
        Ok(Descriptor { size: 0, ..looked.descriptor })
    }

    /// What the upstream says, if it is asked and lets us.
    async fn at_upstream(&self, context: &RequestContext) -> Result<Option<Descriptor>> {
        if let Some(resolved) = &self.upstream.resolved {
            let mut read = self.read();
            (read.asked, read.size) = (true, resolved.size);
            return Ok(Some(Descriptor { size: 0, ..resolved.clone() }));
        }
        let Some(upstream) = &self.upstream.store else { return Ok(None) };
        match upstream.resolve(&self.upstream.repository, &self.reference, context).await {
            Ok(Some(named)) if is_schema1(&named.media_type) => Err(schema1(Side::Upstream)),
            Ok(Some(named)) => {
                let mut read = self.read();
                (read.asked, read.size) = (true, named.size);
                Ok(Some(Descriptor { size: 0, ..named }))
            }
            Ok(None) => {
                Err(Error::new(Side::Upstream, Operation::ResolveTag, Kind::NotFound, "the upstream has no such tag or repository")
                    .status(404)
                    .code("MANIFEST_UNKNOWN")
                    .remedy("check the name and tag in the list"))
            }
            Err(error) if is_refused(&error) => {
                let host = &self.upstream.host;
                self.note(format!("{host} does not let larder ask whether the cache is stale: {}", error.message()));
                Ok(None)
            }
            Err(error) if error.kind() == Kind::Unavailable => {
                Err(error.remedy("where the upstream cannot be reached from here, say `upstream_check = false` in the rule"))
            }
            Err(error) => Err(error),
        }
    }

    /// Stands for a digest that only the pull will tell: of the name itself, so that it is nobody else's.
    fn unknown(&self) -> Descriptor {
        let digest = Digest::sha256(format!("{}/{}{}", self.cache.host(), self.repository, self.reference.suffix()).as_bytes());
        Descriptor::new("", digest, 0)
    }

    /// Whether `digest` only stands for one that is not known.
    pub(crate) fn is_unknown(&self, digest: &Digest) -> bool {
        *digest == self.unknown().digest
    }

    /// Completes what the engine says of a pulled image: the digests, and the remarks.
    pub(crate) fn describe(&self, delivered: &mut CopyOutcome) {
        let mut read = self.read();
        delivered.notes.append(&mut read.notes);
        let Some(root) = &read.root else { return };
        delivered.digest = root.digest.clone();
        delivered.source_digest = read.asked.then(|| root.source.clone());
    }

    /// Writes down that the image was pulled through.
    pub(crate) fn keep(&self) {
        let read = self.read();
        let (Some(root), Some(at)) = (&read.root, read.begun) else { return };
        // Another tag of the run may have read what this one has in common with it.
        let (manifests, blobs) = self.cache.pieces(&self.repository, read.manifests.clone());
        let pulled = WarmedRecord {
            cache: self.cache.host().to_owned(),
            repository: self.repository.as_str().to_owned(),
            reference: self.reference.as_str().to_owned(),
            source: root.source.clone(),
            digest: root.digest.clone(),
            platforms: self.policy.platforms.iter().map(ToString::to_string).collect(),
            depth: depth(self.warm.blobs),
            manifests,
            blobs,
            at,
        };
        if let Err(error) = self.cache.warmed.add(pulled) {
            tracing::warn!("{error}; the next run pulls {} through again", self.repository);
        }
    }

    /// Pulls the image's own manifest by its name, which is how the cache learns the name.
    async fn root(&self, wanted: &Digest, context: &RequestContext) -> Result<Manifest> {
        self.read().begun.get_or_insert_with(Timestamp::now);
        let got = self.get(&self.reference, context).await?;
        let (manifest, root) = if got.digest() == wanted || self.is_unknown(wanted) {
            let root = (got.digest().clone(), got.digest().clone());
            (got, root)
        } else {
            self.differs(wanted, got, context).await?
        };
        if self.cache.caching().by_address && matches!(self.reference, Reference::Tag(_)) {
            self.by_all_addresses(&root.1, context).await?;
        }
        let listed = &manifest.links().manifests;
        let chosen = self.chosen(listed);
        if self.cache.caching().lists == CacheLists::Whole {
            for _ in chosen.len()..listed.len() {
                self.cache.spent_another(context).await;
            }
        }
        let listed = listed.iter().map(|child| child.digest.clone()).collect();
        self.read().root = Some(RootManifest { source: root.0, digest: root.1, listed, chosen });
        Ok(manifest)
    }

    /// The upstream has `wanted`, the cache answered `got`: what is to be pulled, and the digests of upstream and cache.
    ///
    /// # Errors
    /// The cache is stale: of kind [`Kind::Deferred`] where it will look again by itself.
    async fn differs(&self, wanted: &Digest, got: Manifest, context: &RequestContext) -> Result<(Manifest, (Digest, Digest))> {
        // The tag may have moved between the two questions.
        let now = match self.resolve(&self.repository, &self.reference, context).await {
            Ok(Some(now)) if matches!(self.reference, Reference::Tag(_)) => now.digest,
            _ => wanted.clone(),
        };
        if *got.digest() == now {
            return Ok((got, (now.clone(), now)));
        }
        if self.cache.caching().lists == CacheLists::Trimmed
            && let Some(whole) = self.cache.store.pull(&self.repository, &Reference::Digest(now.clone()), context).await?
            && differs::is_trimmed(&got, &whole)
        {
            self.note(differs::trimmed(self.cache.host(), got.digest(), &now));
            return Ok((whole, (now, got.digest().clone())));
        }
        // The pull may have made it look.
        let again = self.get(&self.reference, context).await?;
        if *again.digest() == now {
            Ok((again, (now.clone(), now)))
        } else {
            Err(differs::stale(self.cache.host(), &self.cache.caching().refresh, &now, again.digest()))
        }
    }

    /// Asks a cache that keeps answers by their address for the image as its clients will: containerd and docker ask what the tag means by
    /// HEAD, and get the manifest by its digest.
    async fn by_all_addresses(&self, digest: &Digest, context: &RequestContext) -> Result<()> {
        let by_digest = Reference::Digest(digest.clone());
        self.cache.ping(&self.repository, &context_without_account(context)).await;
        self.get(&by_digest, context).await?;
        // After the GETs: a cache may answer a HEAD from what it kept of them.
        for reference in [&self.reference, &by_digest] {
            self.cache.store.look(&self.repository, reference, &context_without_account(context)).await?;
        }
        Ok(())
    }

    /// The children of an index that are wanted: what the engine brings of it.
    pub(super) fn chosen(&self, children: &[Descriptor]) -> Vec<Descriptor> {
        ChildChoice::of(children, &self.policy.platforms).kept
    }

    /// Pulls another manifest: by the tag that led to it, if one did, so that the cache learns that name as well.
    async fn below(&self, digest: &Digest, context: &RequestContext) -> Result<Manifest> {
        let tag = self.read().tags.get(digest).cloned();
        if let Some(tag) = tag {
            let tagged = self.get(&Reference::Tag(tag), context).await?;
            if tagged.digest() == digest {
                return Ok(tagged);
            }
        }
        self.get(&Reference::Digest(digest.clone()), context).await
    }

    /// Whether `error` is about what was found by a tag beside the image, and the cache does not give it (zot, which syncs on demand, has no
    /// fallback tags of referrers): the image is warm without it, and that is noted.
    fn is_beside(&self, digest: &Digest, error: &Error) -> bool {
        let final_refusal = matches!(error.kind(), Kind::NotFound | Kind::Refused | Kind::Unauthorized);
        let tag = self.read().tags.get(digest).cloned().filter(|_| final_refusal);
        if let Some(tag) = &tag {
            self.note(format!(
                "{} does not serve {}:{tag}, which is about the image: it is not warmed",
                self.cache.host(),
                self.repository
            ));
        }
        tag.is_some()
    }

    /// The upstream, if it is asked and has answered.
    fn asked(&self) -> Option<&Arc<RegistryStore>> {
        self.upstream.store.as_ref().filter(|_| self.read().asked || matches!(self.reference, Reference::Digest(_)))
    }

    /// Reads a manifest through the cache; that it is not there is an error with advice.
    pub(super) async fn get(&self, reference: &Reference, context: &RequestContext) -> Result<Manifest> {
        let found = self.cache.store.pull(&self.repository, reference, context).await?;
        found.ok_or_else(|| self.not_served(Operation::GetManifest, &reference.suffix()))
    }

    fn not_served(&self, operation: Operation, what: &str) -> Error {
        let (host, repository, upstream) = (self.cache.host(), &self.repository, &self.upstream);
        let message = format!("{host} does not serve {repository}{what} through its cache");
        let (served, path) = (format!("{}/{}", upstream.host, upstream.repository), upstream.repository.as_str());
        let remedy = match self.cache.caching().naming {
            CacheNaming::Prefix if !repository.as_str().ends_with(path) => {
                format!("this kind of cache has {served} under `<prefix>/{path}`: give the rule such a target")
            }
            CacheNaming::Same if repository.as_str() != path => {
                format!("this kind of cache has {served} under its own name, `{path}`: give the rule that target")
            }
            _ => format!("see that a rule of the cache serves {served} under that name, and that its credentials are good"),
        };
        Error::new(Side::Target, operation, Kind::NotFound, message).status(404).remedy(remedy)
    }
}

/// Whether a registry does not let us ask.
fn is_refused(error: &Error) -> bool {
    error.kind() == Kind::Unauthorized || error.http_status() == Some(403)
}

/// The engine asks for the image by the digest that the survey found; it is pulled by its name all the same.
#[async_trait]
impl Source for CachedImage {
    fn is_remote(&self) -> bool {
        true
    }

    async fn ready(&self) {
        self.cache.store.ready().await;
    }

    /// Once by its tag, once by its digest.
    fn more_reads_of_the_root(&self) -> u64 {
        u64::from(self.cache.caching().by_address && matches!(self.reference, Reference::Tag(_)))
    }

    /// For the tags of what refers to the image: they are pulled by these names, too.
    async fn resolve(&self, _: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        let resolved = match self.asked() {
            Some(upstream) => upstream.resolve(&self.upstream.repository, reference, context).await?,
            // A cache that may pull for a HEAD is not asked for what nobody is sure to pull.
            None if self.cache.caching().head == HeadCost::Pull => None,
            None => {
                self.cache.store.look(&self.repository, reference, &context_without_account(context)).await?.map(|looked| looked.descriptor)
            }
        };
        if let (Some(resolved), Reference::Tag(tag)) = (&resolved, reference) {
            self.read().tags.insert(resolved.digest.clone(), tag.clone());
        }
        Ok(resolved)
    }

    async fn tags(&self, _: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        match self.asked() {
            Some(upstream) => upstream.tags(&self.upstream.repository, context).await,
            None => self.cache.store.tags(&self.repository, context).await,
        }
    }

    async fn digest_tags(&self, _: &Repository, context: &RequestContext) -> Result<Arc<DigestTags>> {
        let none = || Arc::new(DigestTags::of(Vec::<String>::new()));
        match self.asked() {
            // An image that is wanted by its digest is no concern of the upstream: what it says of tags is welcome, no more.
            Some(upstream) => match upstream.digest_tags(&self.upstream.repository, context).await {
                Err(error) if is_refused(&error) => Ok(none()),
                listed => listed,
            },
            // None of them could be resolved.
            None if self.cache.caching().head == HeadCost::Pull => Ok(none()),
            None => self.cache.store.digest_tags(&self.repository, context).await,
        }
    }

    /// What the cache lists itself: whoever asks it later finds nothing else. Where it lists nothing, tags may stand for it.
    async fn listed_referrers(
        &self,
        _: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        context: &RequestContext,
    ) -> Result<ReferrerList> {
        if !self.cache.store.lists_referrers() {
            return Ok(ReferrerList::Missing(None));
        }
        let listed = self.cache.store.listed_referrers(&self.repository, subject, artifact_type, &context_without_account(context)).await?;
        Ok(match listed {
            ReferrerList::Listed(listed) if listed.is_empty() => ReferrerList::Missing(None),
            listed => listed,
        })
    }

    async fn find_tag(&self, repository: &Repository, tag: &str, context: &RequestContext) -> Result<Option<Descriptor>> {
        match self.asked() {
            Some(upstream) => {
                let found = upstream.find_tag(&self.upstream.repository, tag, context).await?;
                if let Some(found) = &found {
                    self.read().tags.insert(found.digest.clone(), tag.to_owned());
                }
                Ok(found)
            }
            None => self.resolve(repository, &Reference::Tag(tag.to_owned()), context).await,
        }
    }

    async fn manifest(&self, _: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        // Everything below the root comes after it.
        let is_root = self.read().root.is_none();
        let manifest = if is_root {
            self.root(digest, context).await?
        } else {
            match self.below(digest, context).await {
                Err(error) if self.is_beside(digest, &error) => return Ok(None),
                below => below?,
            }
        };
        if !is_root && self.cache.caching().by_address {
            self.cache
                .store
                .look(&self.repository, &Reference::Digest(manifest.digest().clone()), &context_without_account(context))
                .await?;
        }
        let links = manifest.links();
        self.cache.learn(&self.repository, manifest.digest(), links);
        let mut read = self.read();
        read.manifests.push(manifest.digest().clone());
        read.blobs.extend(links.blobs.iter().filter(|blob| !blob.is_foreign()).cloned());
        drop(read);
        Ok(Some(manifest))
    }

    async fn blob(&self, _: &Repository, blob: &Descriptor, _: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        let pulled = self.cache.store.pull_blob(&self.repository, blob, context).await?;
        let (seen, stream) = pulled.ok_or_else(|| self.not_served(Operation::GetBlob, &format!("@{}", blob.digest)))?;
        self.cache.seen(&blob.digest, &self.repository, seen);
        Ok(Some(stream))
    }
}
