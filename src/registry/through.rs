//! Asking a pull-through cache: what it has of its own, what it must ask its upstream for, and pulling through it.

use reqwest::Method;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::manifests::{accept, media_type, said_digest};
use super::profiles::Caching;
use super::store::RegistryStore;
use super::transport::{Answer, Call};
use crate::content::{Charge, Descriptor, Digest, Manifest, Place};
use crate::name::Reference;
use crate::{Kind, Result};

/// What a cache answered to a HEAD of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Looked {
    /// What the reference names; an index's or image's media type, and its size, as far as they were said.
    pub(crate) descriptor: Descriptor,
    /// It says that this is its own. False for caches that do not say where an answer came from.
    pub(crate) own: bool,
}

impl RegistryStore {
    /// The registry's name.
    pub(crate) fn host(&self) -> &str {
        &self.transport.host.name
    }

    /// How it behaves as a cache.
    pub(crate) fn caching(&self) -> &'static Caching {
        self.transport.host.profile.caching
    }

    /// Asks for a manifest by HEAD, and by nothing else. `None`: it is not there, or its digest is not said.
    pub(crate) async fn look(&self, place: &Place, reference: &Reference, charge: &Charge) -> Result<Option<Looked>> {
        let scopes = Scopes::pull(place.as_str());
        let url = self.manifest_url(place, reference.as_str());
        let mut call = Call::new((RequestKind::ManifestHead, "head manifest", Method::HEAD), url, place, &scopes, charge);
        call.headers = accept();
        let answer = match self.transport.send(&call, &mut self.transport.host.patience()).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NotFound || error.http_status() == Some(405) => return Ok(None),
            Err(error) => return Err(error),
        };
        let said = said_digest(&answer, &self.transport.topic(&call))?;
        let Some(digest) = said.or(named(reference)) else { return Ok(None) };
        let descriptor = Descriptor::new(media_type(&answer), digest, answer.content_length().unwrap_or(0));
        Ok(Some(Looked { descriptor, own: self.is_own(&answer) }))
    }

    /// Whether an answer is the cache's own, as its kind says that.
    fn is_own(&self, answer: &Answer) -> bool {
        self.caching().origin.is_some_and(|header| !answer.headers.contains_key(header))
    }

    /// Reads the manifest that `reference` names, by GET: a pull, if `charge` has an account for it.
    pub(crate) async fn pull(&self, place: &Place, reference: &Reference, charge: &Charge) -> Result<Option<Manifest>> {
        self.fetch_manifest(place, reference, &Scopes::pull(place.as_str()), charge).await
    }

    /// Whether it says to have the blob, by HEAD.
    pub(crate) async fn has_blob(&self, place: &Place, digest: &Digest, charge: &Charge) -> Result<bool> {
        self.head_blob_as(place, digest, &Scopes::pull(place.as_str()), charge).await
    }
}

fn named(reference: &Reference) -> Option<Digest> {
    match reference {
        Reference::Digest(digest) => Some(digest.clone()),
        Reference::Tag(_) => None,
    }
}
