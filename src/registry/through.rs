//! Asking a pull-through cache: what it has of its own, what it must ask its upstream for, and pulling through it.

use reqwest::Method;
use reqwest::header::{ETAG, HeaderMap};

use super::auth::Scopes;
use super::blobs::BlobHead;
use super::counters::RequestKind;
use super::headers::{accept, media_type, said_digest};
use super::request::RegistryRequest;
use super::store::RegistryStore;
use super::transport::{OpenResponse, RetryBudget};
use crate::config::profiles::{BlobOrigin, Caching, Support};
use crate::content::{BlobStream, Descriptor, Digest, Manifest, Repository, RequestContext};
use crate::name::Reference;
use crate::{Kind, Operation, Result, Side};

/// What a cache answered to a HEAD of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct CacheHead {
    /// What the reference names; an index's or image's media type, and its size, as far as they were said.
    pub(crate) descriptor: Descriptor,
    /// It says that this is its own. False for caches that do not say where an answer came from.
    pub(crate) own: bool,
}

/// What a cache's answer says of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlobSeen {
    /// It is not there.
    Absent,
    /// The cache has asked its upstream for it.
    PassedOn,
    /// It is there, for all that the cache says.
    There,
}

impl RegistryStore {
    /// The registry's name.
    pub(crate) fn host(&self) -> &str {
        &self.transport.host.name
    }

    /// How it behaves as a cache.
    pub(crate) fn caching(&self) -> &'static Caching {
        self.transport.host.behaviour.caching()
    }

    /// Whether an answer has said that it came from the upstream of a cache.
    pub(crate) fn has_passed_on(&self) -> bool {
        self.transport.host.behaviour.has_passed_on()
    }

    /// Whether it may be a cache, by its kind or its answers.
    pub(crate) fn may_be_a_cache(&self) -> bool {
        self.transport.host.behaviour.may_be_a_cache()
    }

    /// Whether it is of a kind that has the referrers API.
    pub(crate) fn lists_referrers(&self) -> bool {
        self.transport.host.profile.referrers == Support::Yes
    }

    /// Asks for a manifest by HEAD, and by nothing else. `None`: it is not there, or its digest is not said.
    pub(crate) async fn look(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<CacheHead>> {
        let scopes = Scopes::pull(repository.as_str());
        let url = self.manifest_url(repository, reference.as_str());
        let mut call =
            RegistryRequest::new((RequestKind::ManifestHead, Operation::HeadManifest, Method::HEAD), url, repository, &scopes, context);
        call.headers = accept();
        let answer = match self.transport.send(&call, &mut self.transport.host.patience()).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NotFound || matches!(error.http_status(), Some(405 | 501)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let said = said_digest(&answer, &self.transport.topic(&call))?;
        let Some(digest) = said.or(named(reference)) else { return Ok(None) };
        let descriptor = Descriptor::new(media_type(&answer), digest, answer.content_length().unwrap_or(0));
        Ok(Some(CacheHead { descriptor, own: self.is_own(&answer) }))
    }

    /// Whether an answer is the cache's own, as its kind says that.
    fn is_own(&self, answer: &OpenResponse) -> bool {
        !self.transport.host.behaviour.passed_on(&answer.headers) && self.caching().says_origin
    }

    /// Whether a target answers for its upstream, by a cache rule that owns the repository: it does not have that itself, and what is
    /// put there would be refused.
    pub(super) fn is_passed_on(&self, answer: &OpenResponse) -> bool {
        self.transport.side == Side::Target && self.transport.host.behaviour.passed_on(&answer.headers)
    }

    /// Reads the manifest that `reference` names, by GET: a pull, if `context` has an account for it.
    pub(crate) async fn pull(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Manifest>> {
        self.fetch_manifest(repository, reference, &Scopes::pull(repository.as_str()), context).await
    }

    /// Asks for `/v2/`, as clients do before anything else: a cache that keeps answers by their address has it for them then.
    pub(crate) async fn ping(&self, repository: &Repository, context: &RequestContext) {
        let scopes = Scopes::pull(repository.as_str());
        let url = self.transport.host.endpoint.url("");
        let call = RegistryRequest::new((RequestKind::Token, Operation::Ping, Method::GET), url, repository, &scopes, context);
        if let Err(error) = self.transport.send(&call, &mut RetryBudget::new(self.transport.host.retry, 1)).await {
            tracing::debug!(%error, "the cache does not answer /v2/");
        }
    }

    /// Whether it has the blob, by HEAD.
    pub(crate) async fn look_for_blob(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<BlobSeen> {
        Ok(match self.ask_blob(repository, digest, &Scopes::pull(repository.as_str()), context).await? {
            BlobHead::Here(_, headers) => self.seen(digest, &headers),
            BlobHead::Absent => BlobSeen::Absent,
        })
    }

    /// The blob, whole, and what the answer says of where it is.
    pub(crate) async fn pull_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        context: &RequestContext,
    ) -> Result<Option<(BlobSeen, BlobStream)>> {
        let opened = self.open_blob(repository, blob, 0, context).await?;
        Ok(opened.map(|(headers, stream)| (self.seen(&blob.digest, &headers), stream)))
    }

    fn seen(&self, digest: &Digest, headers: &HeaderMap) -> BlobSeen {
        let bare = headers.get(ETAG).is_some_and(|etag| etag.as_bytes() == digest.as_str().as_bytes());
        if bare && self.caching().blobs == BlobOrigin::BareEtag { BlobSeen::PassedOn } else { BlobSeen::There }
    }
}

fn named(reference: &Reference) -> Option<Digest> {
    match reference {
        Reference::Digest(digest) => Some(digest.clone()),
        Reference::Tag(_) => None,
    }
}
