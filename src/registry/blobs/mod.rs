//! Blobs: whether a repository has one, and reading it (distribution-spec "Pulling blobs"; docs/registries.md, "Blobs and uploads").

mod foreign;
mod range;
mod read;

pub(super) use read::named;

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::error;
use super::manifests::is_head_refused;
use super::request::RegistryRequest;
use super::store::RegistryStore;
use super::transport::SendOutcome;
use crate::content::{Digest, Repository, RequestContext};
use crate::{Kind, Operation, Result};

impl RegistryStore {
    pub(super) fn blob_url(&self, repository: &Repository, digest: &Digest) -> url::Url {
        self.transport.host.endpoint.url(&format!("{repository}/blobs/{digest}"))
    }

    /// Whether `repository` has the blob, by HEAD, for who would put it there: a target that refuses the HEAD may take the blob, and the
    /// upload tells.
    pub(super) async fn head_blob(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<bool> {
        match self.ask_blob(repository, digest, &Scopes::push(repository.as_str()), context).await {
            Err(error) if is_head_refused(&error) => Ok(false),
            asked => Ok(asked? != BlobHead::Absent),
        }
    }

    /// How many bytes `repository`'s blob has, by HEAD; by a GET whose body is not read where the HEAD does not say.
    pub(super) async fn size_of_blob(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<u64>> {
        let scopes = Scopes::pull(repository.as_str());
        match self.ask_blob(repository, digest, &scopes, context).await? {
            BlobHead::Absent => return Ok(None),
            BlobHead::Here(Some(size), _) => return Ok(Some(size)),
            BlobHead::Here(None, _) => {}
        }
        let url = self.blob_url(repository, digest);
        let call = RegistryRequest::new((RequestKind::BlobGet, Operation::GetBlob, Method::GET), url, repository, &scopes, context);
        match self.transport.send(&call, &mut self.transport.host.patience()).await {
            Ok(answer) => answer.content_length().map(Some).ok_or_else(|| {
                self.transport.topic(&call).error(Kind::Unsupported, format!("the registry does not say how many bytes {digest} has"))
            }),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a blob by HEAD.
    ///
    /// A registry may redirect the HEAD to a store whose signed address is good for GET only, which refuses it. That a
    /// registry redirects says that it has the blob; should it be wrong, the manifest's PUT is refused and the copy heals.
    pub(super) async fn ask_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        scopes: &Scopes,
        context: &RequestContext,
    ) -> Result<BlobHead> {
        let url = self.blob_url(repository, digest);
        let call = RegistryRequest::new((RequestKind::BlobHead, Operation::HeadBlob, Method::HEAD), url, repository, scopes, context);
        match self.transport.deliver(&call, &mut self.transport.host.patience()).await? {
            SendOutcome::Answer(answer) => {
                self.transport.host.behaviour.note_etag(&answer.headers);
                Ok(BlobHead::Here(answer.content_length(), answer.headers))
            }
            SendOutcome::Refused(refusal, _) if refusal.foreign.is_some() && matches!(refusal.status, 400 | 401 | 403 | 405) => {
                Ok(BlobHead::Here(None, HeaderMap::new()))
            }
            SendOutcome::Refused(refusal, _) => match error::refused(&self.transport.topic(&call), &refusal) {
                error if error.kind() == Kind::NotFound => Ok(BlobHead::Absent),
                error => Err(error),
            },
        }
    }
}

/// What a registry says of a blob.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BlobHead {
    /// It has the blob; its size, if the answer has it, and the answer's headers.
    Here(Option<u64>, HeaderMap),
    /// It does not have it.
    Absent,
}
