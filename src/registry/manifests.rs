//! Manifests: HEAD to learn what a tag means, GET by digest, PUT (distribution-spec "Pulling manifests", "Pushing manifests";
//! docs/registries.md, "Manifests").

use std::sync::PoisonError;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::auth::Scopes;
use super::counters::RequestKind;
use super::error::Topic;
use super::store::RegistryStore;
use super::transport::{Answer, Call};
use crate::content::{self, Charge, Descriptor, Digest, MAX_MANIFEST, Manifest, Place};
use crate::name::Reference;
use crate::{Kind, Result};

/// Says what a manifest's bytes hash to.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// Says that the registry has seen the `subject` of a manifest that was put.
const SUBJECT: &str = "oci-subject";

impl RegistryStore {
    pub(super) fn manifest_url(&self, place: &Place, reference: &str) -> url::Url {
        self.transport.host.url(&format!("{place}/manifests/{reference}"))
    }

    /// What `reference` names now, by HEAD. A registry that does not say the digest is asked by GET, which counts as a
    /// pull; what came is kept for [`RegistryStore::get_manifest`].
    pub(super) async fn head_manifest(
        &self,
        place: &Place,
        reference: &Reference,
        operation: &'static str,
        scopes: &Scopes,
        charge: &Charge,
    ) -> Result<Option<Descriptor>> {
        let url = self.manifest_url(place, reference.as_str());
        let mut call = Call::new((RequestKind::ManifestHead, operation, Method::HEAD), url, place, scopes, charge);
        call.headers = accept();
        let answer = match self.transport.send(&call, &mut self.transport.host.patience()).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            // A registry without HEAD for manifests (405): as one that does not say the digest.
            Err(error) if error.http_status() == Some(405) => return self.read_to_resolve(place, reference, scopes, charge).await,
            Err(error) => return Err(error),
        };
        if self.is_passed_on(&answer) {
            return Ok(None);
        }
        let said = said_digest(&answer, &self.transport.topic(&call))?;
        let digest = match (reference, said) {
            (Reference::Digest(digest), said) => {
                agree(digest, said.as_ref(), &self.transport.topic(&call))?;
                digest.clone()
            }
            (Reference::Tag(_), Some(said)) if said.hasher().is_some() => said,
            (Reference::Tag(_), _) => {
                drop(answer);
                return self.read_to_resolve(place, reference, scopes, charge).await;
            }
        };
        Ok(Some(Descriptor::new(media_type(&answer), digest, answer.content_length().unwrap_or(0))))
    }

    async fn read_to_resolve(&self, place: &Place, reference: &Reference, scopes: &Scopes, charge: &Charge) -> Result<Option<Descriptor>> {
        let Some(manifest) = self.fetch_manifest(place, reference, scopes, charge).await? else { return Ok(None) };
        self.read.lock().unwrap_or_else(PoisonError::into_inner).add(place, &manifest);
        Ok(Some(manifest.descriptor()))
    }

    /// The manifest `digest`, verified.
    pub(super) async fn get_manifest(&self, place: &Place, digest: &Digest, charge: &Charge) -> Result<Option<Manifest>> {
        let kept = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(place, digest);
        match kept {
            Some(manifest) => Ok(Some(manifest)),
            None => self.fetch_manifest(place, &Reference::Digest(digest.clone()), &Scopes::pull(place.as_str()), charge).await,
        }
    }

    /// GET: checked against the reference, the header and the body.
    pub(super) async fn fetch_manifest(
        &self,
        place: &Place,
        reference: &Reference,
        scopes: &Scopes,
        charge: &Charge,
    ) -> Result<Option<Manifest>> {
        let url = self.manifest_url(place, reference.as_str());
        let mut call = Call::new((RequestKind::ManifestGet, "get manifest", Method::GET), url, place, scopes, charge);
        call.headers = accept();
        let (answer, body) = match self.transport.fetch(&call, MAX_MANIFEST, &mut self.transport.host.patience()).await {
            Ok(fetched) => fetched,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let side = self.transport.side;
        // Noted by the host, which is a cache then.
        let _ = self.is_passed_on(&answer);
        if self.transport.reads_upstream(charge) {
            charge.tally.add_read(body.len() as u64);
        }
        let topic = self.transport.topic(&call);
        if body.trim_ascii_start().starts_with(b"<") {
            let message =
                "what was served as a manifest is a web page (HTML): a login page, or a proxy's error, answers in the registry's place";
            return Err(topic.error(Kind::Damaged, message));
        }
        let said = said_digest(&answer, &topic)?;
        let expected = match (reference, said) {
            (Reference::Digest(digest), said) => {
                agree(digest, said.as_ref(), &topic)?;
                digest.clone()
            }
            (Reference::Tag(_), Some(said)) if said.hasher().is_some() => said,
            (Reference::Tag(_), _) => Digest::sha256(&body),
        };
        let content_type = answer.header(CONTENT_TYPE);
        Manifest::verify(body, content_type, &expected, side).map(Some).map_err(|error| error.subject(topic.image))
    }

    /// PUT, by digest or by tag. The registry must store these very bytes.
    pub(crate) async fn store_manifest(&self, place: &Place, reference: &Reference, manifest: &Manifest, charge: &Charge) -> Result<()> {
        self.put_manifest_if(place, reference, manifest, HeaderMap::new(), charge).await.map(drop)
    }

    /// As [`RegistryStore::store_manifest`], under the conditions that `headers` say. Gives the subject that the registry says to have
    /// seen: it lists the manifest as its referrer (distribution-spec "Pushing Manifests with Subject").
    pub(super) async fn put_manifest_if(
        &self,
        place: &Place,
        reference: &Reference,
        manifest: &Manifest,
        headers: HeaderMap,
        charge: &Charge,
    ) -> Result<Option<Digest>> {
        let url = self.manifest_url(place, reference.as_str());
        let scopes = Scopes::push(place.as_str());
        let mut call = Call::new((RequestKind::ManifestPut, "put manifest", Method::PUT), url, place, &scopes, charge);
        let topic = self.transport.topic(&call);
        let content_type = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| topic.error(Kind::Unsupported, format!("`{}` cannot be said in a header", manifest.media_type)))?;
        call.headers = headers;
        call.headers.insert(CONTENT_TYPE, content_type);
        call.body = Bytes::clone(&manifest.bytes);
        let answer = match self.transport.send(&call, &mut self.transport.host.patience()).await {
            Ok(answer) => answer,
            Err(error) => {
                if error.kind() == Kind::ContentMissing {
                    self.held().forget(place);
                }
                self.manifest_refused(place, &error);
                return Err(error);
            }
        };
        charge.tally.add_written(manifest.bytes.len() as u64);
        let topic = self.transport.topic(&call);
        if let Some(stored) = said_digest(&answer, &topic)?
            && stored.algorithm() == manifest.digest.algorithm()
            && stored != manifest.digest
        {
            return Err(topic.error(Kind::Damaged, format!("the target stored another manifest: {stored} instead of {}", manifest.digest)));
        }
        self.held().add(place, &manifest.digest);
        self.took_manifest(place);
        Ok(answer.header(SUBJECT).and_then(|said| Digest::parse(said.trim()).ok()))
    }
}

/// All in one line: there are proxies that pass on only one of several.
pub(super) fn accept() -> HeaderMap {
    // Media types are legal in a header: none is lost.
    HeaderValue::try_from(content::ACCEPT.join(", ")).into_iter().map(|all| (ACCEPT, all)).collect()
}

/// The media type, without parameters.
pub(super) fn media_type(answer: &Answer) -> String {
    answer.header(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or("").trim().to_ascii_lowercase()
}

/// The digest that the answer says, if it says one.
pub(super) fn said_digest(answer: &Answer, topic: &Topic<'_>) -> Result<Option<Digest>> {
    let Some(said) = answer.header(CONTENT_DIGEST).map(str::trim).filter(|said| !said.is_empty()) else { return Ok(None) };
    Digest::parse(said).map(Some).map_err(|why| topic.error(Kind::Damaged, format!("the answer's Docker-Content-Digest: {why}")))
}

/// A header of the same algorithm must say the digest that was asked for; another algorithm's is not comparable.
fn agree(asked: &Digest, said: Option<&Digest>, topic: &Topic<'_>) -> Result<()> {
    match said {
        Some(said) if said.algorithm() == asked.algorithm() && said != asked => {
            Err(topic.error(Kind::Damaged, format!("asked for {asked}, the registry answered with {said}")))
        }
        _ => Ok(()),
    }
}
