//! Referrers: listed by the API, or by an index under a tag where a registry has no API (distribution-spec "Referrers Tag Schema"); and
//! put so that they are listed (docs/registries.md, "Referrers").

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use reqwest::header::{ETAG, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::request::RegistryRequest;
use super::store::RegistryStore;
use crate::content::{
    self, Descriptor, Digest, DigestTags, MAX_MANIFEST, Manifest, ManifestKind, ReferrerList, Repository, RequestContext, fallback_tag,
};
use crate::name::Reference;
use crate::{Error, Kind, Operation, Result, Side};

/// An image that is signed anew every night for ten years has 3,650 signatures. More than this are a registry that invents them.
pub(super) const MOST_REFERRERS: usize = 10_000;

/// Manifests of one subject that are put at once.
const PUTS: usize = 4;

/// So often an index under a tag is read, changed and put, until it holds what it is to hold. Each turn is lost to somebody else who
/// changed the same image's index within the same milliseconds.
const TURNS: usize = 8;

/// An index of referrers.
#[derive(Deserialize)]
pub(super) struct ReferrersPage {
    /// Go writes no referrers as `null`.
    pub(super) manifests: Option<Vec<Descriptor>>,
}

impl RegistryStore {
    /// The referrers of `subject`, by the API or by the index under its tag.
    pub(super) async fn all_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        context: &RequestContext,
    ) -> Result<Vec<Descriptor>> {
        if let ReferrerList::Listed(listed) = self.ask_referrers(repository, subject, None, context).await? {
            return Ok(listed);
        }
        let tag = match self.transport.side {
            // There a GET may be a pull, and most images have no such tag.
            Side::Upstream => self.tags_of_digests(repository, context).await?.fallback(subject),
            Side::Target | Side::Local => Some(fallback_tag(subject)),
        };
        let Some(tag) = tag else { return Ok(vec![]) };
        match self.fetch_manifest(repository, &Reference::Tag(tag), &Scopes::pull(repository.as_str()), context).await {
            Ok(Some(index)) if index.kind() == ManifestKind::Index => Ok(index.links().manifests.clone()),
            Ok(_) => Ok(vec![]),
            // A target that refuses to say that something is not there.
            Err(error) if self.transport.side == Side::Target && error.kind() == Kind::Refused => Ok(vec![]),
            Err(error) => Err(error),
        }
    }

    /// The tags of `repository` that say a digest: one listing for all images of it.
    pub(super) async fn tags_of_digests(&self, repository: &Repository, context: &RequestContext) -> Result<Arc<DigestTags>> {
        let cell = Arc::clone(self.digest_tags.lock().entry(repository.clone()).or_default());
        let listed = cell.get_or_try_init(|| async {
            match self.tag_list(repository, context).await {
                Ok(tags) => Ok(Arc::new(DigestTags::of(tags.to_vec()))),
                // Many registries let one pull that do not let one list (ECR without `ecr:ListImages`, tokens of Azure without
                // `metadata/read`), and some have no lists. What is there can still be looked for by its name.
                Err(error) if is_unlistable(&error) => {
                    tracing::debug!(%error, "tags cannot be listed; signatures are looked for by their names");
                    Ok(Arc::new(DigestTags::unlisted()))
                }
                Err(error) => Err(remedied(error)),
            }
        });
        listed.await.cloned()
    }

    /// Puts manifests about `subject`, and sees to it that they are listed: a registry that has seen the subject says so, for the
    /// others the index under the subject's tag is kept.
    pub(super) async fn put_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Manifest],
        context: &RequestContext,
    ) -> Result<()> {
        let puts = stream::iter(referrers.iter().cloned()).map(|referrer| async move {
            let reference = Reference::Digest(referrer.digest().clone());
            let seen = self.put_manifest_if(repository, &reference, &referrer, HeaderMap::new(), context).await?.subject;
            Ok::<_, Error>((referrer.as_referrer(), seen.as_ref() == Some(subject)))
        });
        let put: Vec<(Descriptor, bool)> = puts.buffered(PUTS).try_collect().await?;
        // Some say that they have seen the subject, and have no list to show it in.
        let listed = put.iter().any(|(_, seen)| *seen) && self.has_referrers_api(repository, subject, context).await?;
        let unlisted: Vec<Descriptor> = put.into_iter().filter(|(_, seen)| !(*seen && listed)).map(|(referrer, _)| referrer).collect();
        if unlisted.is_empty() {
            return Ok(());
        }
        let tag = fallback_tag(subject);
        let _alone = self.index_locks.hold(repository, &tag).await;
        let mut gone = HashSet::new();
        for _ in 0..TURNS {
            // Checked also after it was put: another program may have replaced it meanwhile.
            let (before, etag) = self.referrers_index(repository, &tag, context).await?;
            let index = content::with_referrers(before.as_deref(), &unlisted, &gone).map_err(|why| {
                let message = format!("the target's tag {tag}, where referrers are listed, cannot be used: {why}");
                self.about(repository, context, Kind::Refused, &message)
            })?;
            let Some(index) = index else { return Ok(()) };
            match self.put_index(repository, &tag, index, etag, context).await {
                Ok(()) => {}
                Err(error) if error.http_status() == Some(412) => {}
                // It lists what is not there any more, which the registry does not take.
                Err(error) if error.kind() == Kind::ContentMissing && gone.is_empty() => {
                    gone = self.absent(repository, before.as_deref(), context).await?;
                    if gone.is_empty() {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let message = format!("the index of referrers under {tag} was changed by somebody else {TURNS} times while it was written");
        Err(self.about(repository, context, Kind::Refused, &message))
    }

    /// The index under `tag` as it is now, and its ETag.
    async fn referrers_index(
        &self,
        repository: &Repository,
        tag: &str,
        context: &RequestContext,
    ) -> Result<(Option<Bytes>, Option<HeaderValue>)> {
        let scopes = Scopes::push(repository.as_str());
        let url = self.transport.host.endpoint.url(&format!("{repository}/manifests/{tag}"));
        let mut call =
            RegistryRequest::new((RequestKind::ManifestGet, Operation::GetManifest, Method::GET), url, repository, &scopes, context);
        call.headers = super::headers::accept();
        match self.transport.fetch(&call, MAX_MANIFEST, &mut self.transport.host.patience()).await {
            Ok((answer, body)) => Ok((Some(body), answer.headers.get(ETAG).cloned())),
            Err(error) if error.kind() == Kind::NotFound => Ok((None, None)),
            // A target that refuses to say that something is not there.
            Err(error) if error.http_status() == Some(403) => Ok((None, None)),
            Err(error) => Err(error),
        }
    }

    async fn put_index(
        &self,
        repository: &Repository,
        tag: &str,
        index: Vec<u8>,
        etag: Option<HeaderValue>,
        context: &RequestContext,
    ) -> Result<()> {
        let bytes = Bytes::from(index);
        let manifest = Manifest::known(bytes.clone(), None, Digest::sha256(&bytes), self.transport.side)?;
        // A registry that knows `If-Match` refuses if the index was changed meanwhile; at others it is read again afterwards.
        let headers = etag.into_iter().map(|etag| (reqwest::header::IF_MATCH, etag)).collect();
        self.put_manifest_if(repository, &Reference::Tag(tag.to_owned()), &manifest, headers, context).await.map(drop)
    }

    /// What an index of referrers lists, and `repository` does not hold.
    async fn absent(&self, repository: &Repository, index: Option<&[u8]>, context: &RequestContext) -> Result<HashSet<Digest>> {
        let page = index.and_then(|bytes| serde_json::from_slice::<ReferrersPage>(bytes).ok());
        let listed = page.and_then(|page| page.manifests).unwrap_or_default();
        let scopes = Scopes::push(repository.as_str());
        let looks = stream::iter(listed.into_iter().take(MOST_REFERRERS)).map(|entry| {
            let scopes = &scopes;
            async move {
                let reference = Reference::Digest(entry.digest.clone());
                let found = self.head_manifest(repository, &reference, Operation::HeadManifest, scopes, context).await?;
                Ok::<_, Error>(if found.is_some() { None } else { Some(entry.digest) })
            }
        });
        looks.buffered(PUTS).try_filter_map(|absent| async move { Ok(absent) }).try_collect().await
    }

    pub(super) fn about(&self, repository: &Repository, context: &RequestContext, kind: Kind, message: &str) -> Error {
        remedied(self.transport.topic_of(Operation::ListReferrers, Some(repository), context).error(kind, message))
    }

    pub(super) fn invented(&self, repository: &Repository, context: &RequestContext, what: &str) -> Error {
        self.about(repository, context, Kind::Untrusted, &format!("the registry lists {what}"))
    }
}

/// Whether a registry does not list the tags of a repository, whatever else it lets us do there.
fn is_unlistable(error: &Error) -> bool {
    let refused = matches!(error.kind(), Kind::NotFound | Kind::Refused | Kind::Unauthorized);
    refused || matches!(error.http_status(), Some(500 | 501)) || error.kind() == Kind::Damaged
}

/// Says what can be done where a registry will not have its referrers listed.
pub(super) fn remedied(error: Error) -> Error {
    match error.kind() {
        Kind::Refused | Kind::Unauthorized | Kind::Damaged | Kind::Untrusted => {
            error.replace_remedy("`referrers = false` in the rule copies its images without signatures and the like")
        }
        _ => error,
    }
}
