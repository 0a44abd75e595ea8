//! Blobs: whether a repository has one, and reading it (distribution-spec "Pulling blobs"; registries.md 4.3).

mod foreign;
mod range;
mod read;

use reqwest::Method;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::error;
use super::store::RegistryStore;
use super::transport::{Call, Outcome};
use crate::content::{Charge, Digest, Place};
use crate::{Kind, Result};

impl RegistryStore {
    pub(super) fn blob_url(&self, place: &Place, digest: &Digest) -> url::Url {
        self.transport.host.url(&format!("{place}/blobs/{digest}"))
    }

    /// Whether `place` has the blob, by HEAD.
    ///
    /// A registry may redirect the HEAD to a store whose signed address is good for GET only, which refuses it. That a
    /// registry redirects says that it has the blob; should it be wrong, the manifest's PUT is refused and the copy heals.
    pub(super) async fn head_blob(&self, place: &Place, digest: &Digest, charge: &Charge) -> Result<bool> {
        let scopes = Scopes::push(place.as_str());
        let url = self.blob_url(place, digest);
        let call = Call::new((RequestKind::BlobHead, "head blob", Method::HEAD), url, place, &scopes, charge);
        match self.transport.deliver(&call, &mut self.transport.host.patience()).await? {
            Outcome::Answer(_) => Ok(true),
            Outcome::Refused(refusal, _) if refusal.foreign.is_some() && matches!(refusal.status, 400 | 401 | 403 | 405) => Ok(true),
            Outcome::Refused(refusal, _) => match error::refused(&self.transport.topic(&call), &refusal) {
                error if error.kind() == Kind::NotFound => Ok(false),
                error => Err(error),
            },
        }
    }
}
