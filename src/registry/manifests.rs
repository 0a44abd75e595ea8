//! Manifests: HEAD to learn what a tag means, GET by digest, PUT (distribution-spec "Pulling manifests", "Pushing manifests";
//! docs/registries.md, "Manifests").

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};

use super::auth::Scopes;
use super::counters::RequestKind;
use super::headers::{accept, media_type, said_digest};
use super::request::RegistryRequest;
use super::request::RequestTopic;
use super::store::RegistryStore;
use crate::content::{Descriptor, Digest, MAX_MANIFEST, Manifest, Repository, RequestContext};
use crate::name::Reference;
use crate::{Error, Kind, Operation, Result};

/// How long a name that was just put, and is not there, is waited for before it is asked for again: registries that answer from a replica
/// need a moment.
const NAME_WAITS: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(1)];

/// A proxy or a line damages now this and now that; bytes that are wrong three times, on three connections, are wrong at the upstream.
const MOST_DAMAGED: u32 = 3;

/// Says that the registry has seen the `subject` of a manifest that was put.
const SUBJECT: &str = "oci-subject";

/// What the answer to a PUT of a manifest says.
pub(super) struct PutManifest {
    /// The subject that the registry says to have seen: it lists the manifest as its referrer (distribution-spec "Pushing Manifests with
    /// Subject").
    pub(super) subject: Option<Digest>,
    /// The registry says where the manifest is now, and its right digest: it has looked at what it stored.
    pub(super) proven: bool,
}

impl RegistryStore {
    pub(super) fn manifest_url(&self, repository: &Repository, reference: &str) -> url::Url {
        self.transport.host.endpoint.url(&format!("{repository}/manifests/{reference}"))
    }

    /// What `reference` names now, by HEAD. A registry that does not say the digest, or refuses HEADs, is asked by GET, which counts as
    /// a pull; what came is kept for [`RegistryStore::get_manifest`].
    pub(super) async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        operation: Operation,
        scopes: &Scopes,
        context: &RequestContext,
    ) -> Result<Option<Descriptor>> {
        if self.transport.host.behaviour.refuses_heads() {
            return self.read_to_resolve(repository, reference, scopes, context).await;
        }
        let url = self.manifest_url(repository, reference.as_str());
        let mut call = RegistryRequest::new((RequestKind::ManifestHead, operation, Method::HEAD), url, repository, scopes, context);
        call.headers = accept();
        let answer = match self.transport.send(&call, &mut self.transport.host.patience()).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) if is_head_refused(&error) => {
                // Should it be refused too, its answer has a body that says why.
                let found = self.read_to_resolve(repository, reference, scopes, context).await?;
                if found.is_some() {
                    self.transport.host.behaviour.refused_head();
                }
                return Ok(found);
            }
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
                return self.read_to_resolve(repository, reference, scopes, context).await;
            }
        };
        Ok(Some(Descriptor::new(media_type(&answer), digest, answer.content_length().unwrap_or(0))))
    }

    /// As [`RegistryStore::head_manifest`], for a tag that may not be there: by HEAD alone, unless that says that it is there and not
    /// what it is.
    pub(super) async fn look_for_tag(&self, repository: &Repository, tag: &str, context: &RequestContext) -> Result<Option<Descriptor>> {
        let (reference, scopes) = (Reference::Tag(tag.to_owned()), Scopes::pull(repository.as_str()));
        let url = self.manifest_url(repository, tag);
        let mut call =
            RegistryRequest::new((RequestKind::ManifestHead, Operation::ResolveTag, Method::HEAD), url, repository, &scopes, context);
        call.headers = accept();
        let answer = match self.transport.send(&call, &mut self.transport.host.patience()).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match said_digest(&answer, &self.transport.topic(&call))? {
            Some(digest) if digest.hasher().is_some() => {
                Ok(Some(Descriptor::new(media_type(&answer), digest, answer.content_length().unwrap_or(0))))
            }
            _ => {
                drop(answer);
                self.read_to_resolve(repository, &reference, &scopes, context).await
            }
        }
    }

    async fn read_to_resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        scopes: &Scopes,
        context: &RequestContext,
    ) -> Result<Option<Descriptor>> {
        let Some(manifest) = self.fetch_manifest(repository, reference, scopes, context).await? else { return Ok(None) };
        self.read.lock().add(repository, &manifest);
        Ok(Some(manifest.descriptor()))
    }

    /// The manifest `digest`, verified.
    pub(super) async fn get_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        context: &RequestContext,
    ) -> Result<Option<Manifest>> {
        let kept = self.read.lock().get(repository, digest);
        match kept {
            Some(manifest) => Ok(Some(manifest)),
            None => self.fetch_manifest(repository, &Reference::Digest(digest.clone()), &Scopes::pull(repository.as_str()), context).await,
        }
    }

    /// GET: checked against the reference, the header and the body.
    pub(super) async fn fetch_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        scopes: &Scopes,
        context: &RequestContext,
    ) -> Result<Option<Manifest>> {
        let url = self.manifest_url(repository, reference.as_str());
        let mut call =
            RegistryRequest::new((RequestKind::ManifestGet, Operation::GetManifest, Method::GET), url, repository, scopes, context);
        call.headers = accept();
        let mut damaged = 0;
        loop {
            let (answer, body) = match self.transport.fetch(&call, MAX_MANIFEST, &mut self.transport.host.patience()).await {
                Ok(fetched) => fetched,
                Err(error) if error.kind() == Kind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let side = self.transport.side;
            // Noted by the host, which is a cache then.
            let _ = self.is_passed_on(&answer);
            if self.transport.reads_upstream(context) {
                context.tally.add_read(body.len() as u64);
            }
            let topic = self.transport.topic(&call);
            let said = said_digest(&answer, &topic)?;
            let expected = match (reference, said) {
                (Reference::Digest(digest), said) => {
                    agree(digest, said.as_ref(), &topic)?;
                    digest.clone()
                }
                (Reference::Tag(_), Some(said)) if said.hasher().is_some() => said,
                (Reference::Tag(_), _) => Digest::sha256(&body),
            };
            damaged += 1;
            // A web page in the manifest's place is no damage.
            let was_damaged = body.trim_ascii_start().starts_with(b"{") && expected.hasher().is_some() && !expected.matches(&body);
            if was_damaged && damaged < MOST_DAMAGED {
                tracing::warn!(
                    host = topic.host,
                    image = topic.image,
                    "a manifest was damaged on its way; reading it again on another connection"
                );
                call.fresh = true;
                continue;
            }
            let content_type = answer.header(CONTENT_TYPE);
            return Manifest::received(body, content_type, &expected, side, topic.host)
                .map(Some)
                .map_err(|error| error.subject(topic.image).host(topic.host));
        }
    }

    /// PUT, by digest or by tag. The registry must store these very bytes.
    pub(crate) async fn store_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        manifest: &Manifest,
        context: &RequestContext,
    ) -> Result<()> {
        self.put_manifest_if(repository, reference, manifest, HeaderMap::new(), context).await.map(drop)
    }

    /// As [`RegistryStore::store_manifest`], under the conditions that `headers` say.
    pub(super) async fn put_manifest_if(
        &self,
        repository: &Repository,
        reference: &Reference,
        manifest: &Manifest,
        headers: HeaderMap,
        context: &RequestContext,
    ) -> Result<PutManifest> {
        let url = self.manifest_url(repository, reference.as_str());
        let scopes = Scopes::push(repository.as_str());
        let mut call =
            RegistryRequest::new((RequestKind::ManifestPut, Operation::PutManifest, Method::PUT), url, repository, &scopes, context);
        let topic = self.transport.topic(&call);
        let content_type = HeaderValue::from_str(manifest.media_type())
            .map_err(|_| topic.error(Kind::Unsupported, format!("`{}` cannot be said in a header", manifest.media_type())))?;
        call.headers = headers;
        call.headers.insert(CONTENT_TYPE, content_type);
        call.body = Bytes::clone(manifest.bytes());
        let answer = match self.transport.send(&call, &mut self.transport.host.patience()).await {
            Ok(answer) => answer,
            Err(error) => {
                if error.kind() == Kind::ContentMissing {
                    self.held().forget(repository);
                    return Err(error);
                }
                self.manifest_refused(repository, &error);
                return Err(oci_only(error, manifest.media_type()));
            }
        };
        context.tally.add_written(manifest.size());
        let topic = self.transport.topic(&call);
        let said = said_digest(&answer, &topic)?;
        if let Some(stored) = &said
            && stored.algorithm() == manifest.digest().algorithm()
            && stored != manifest.digest()
        {
            return Err(
                topic.error(Kind::Damaged, format!("the target stored another manifest: {stored} instead of {}", manifest.digest()))
            );
        }
        self.held().add(repository, manifest.digest());
        self.took_manifest(repository);
        let place_of = |location: &str| location.split('?').next().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
        let location = answer.header(LOCATION).and_then(place_of);
        let located = location.is_some_and(|last| last == manifest.digest().as_str() || last == reference.as_str());
        let subject = answer.header(SUBJECT).and_then(|said| Digest::parse(said.trim()).ok());
        Ok(PutManifest { subject, proven: located && said.as_ref() == Some(manifest.digest()) })
    }

    /// Asks by HEAD for a name that was just put: it must be there, and mean `digest`. A registry that does not answer HEADs of manifests
    /// is believed.
    ///
    /// # Errors
    /// If the name is not there, or means something else.
    pub(super) async fn find_name(
        &self,
        repository: &Repository,
        reference: &Reference,
        digest: &Digest,
        context: &RequestContext,
    ) -> Result<()> {
        let scopes = Scopes::push(repository.as_str());
        let mut waits = NAME_WAITS.into_iter();
        loop {
            let url = self.manifest_url(repository, reference.as_str());
            let mut call =
                RegistryRequest::new((RequestKind::ManifestHead, Operation::CheckTag, Method::HEAD), url, repository, &scopes, context);
            call.headers = accept();
            let found = match self.transport.send(&call, &mut self.transport.host.patience()).await {
                Ok(answer) => said_digest(&answer, &self.transport.topic(&call))?,
                Err(error) if error.kind() == Kind::NotFound => {
                    if let Some(wait) = waits.next() {
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    self.held().forget(repository);
                    let message = "the target accepted the manifest, and does not have it under this name";
                    let error = self.transport.topic(&call).error(Kind::Damaged, message).status(404);
                    return Err(error.remedy("look at the target's storage; larder puts it again in the next run"));
                }
                Err(error) if matches!(error.http_status(), Some(400 | 401 | 403 | 405 | 501)) => None,
                Err(error) => return Err(error),
            };
            return match found {
                Some(found) if found.algorithm() == digest.algorithm() && found != *digest => {
                    self.held().forget(repository);
                    let message = format!("the target accepted {digest}, and has {found} under this name");
                    Err(self.transport.topic(&call).error(Kind::Damaged, message))
                }
                _ => Ok(()),
            };
        }
    }
}

/// Says of which type a manifest was that a registry refuses, if that may be why.
fn oci_only(error: Error, media_type: &str) -> Error {
    let docker = media_type.starts_with("application/vnd.docker.");
    match error.http_status() {
        Some(415) if docker => error.replace_remedy(format!("the manifest is of type {media_type}: this registry takes OCI types only")),
        Some(400) if docker => {
            error.replace_remedy(format!("the manifest is of type {media_type}: it may be that this registry takes OCI types only"))
        }
        _ => error,
    }
}

/// What a target answers to who would put something there: one that refuses to say whether it has it may take it all the same (GHCR and
/// Artifactory answer 403 for what is absent).
pub(super) fn unless_refused(found: Result<Option<Descriptor>>) -> Result<Option<Descriptor>> {
    match found {
        Err(error) if is_head_refused(&error) => Ok(None),
        found => found,
    }
}

/// Whether a registry refuses a HEAD as such, which says nothing of what it asks for.
pub(super) fn is_head_refused(error: &crate::Error) -> bool {
    matches!(error.http_status(), Some(400 | 403 | 405 | 501)) && !matches!(error.kind(), Kind::Limited | Kind::Deferred)
}

/// A header of the same algorithm must say the digest that was asked for; another algorithm's is not comparable.
fn agree(asked: &Digest, said: Option<&Digest>, topic: &RequestTopic<'_>) -> Result<()> {
    match said {
        Some(said) if said.algorithm() == asked.algorithm() && said != asked => {
            Err(topic.error(Kind::Damaged, format!("asked for {asked}, the registry answered with {said}")))
        }
        _ => Ok(()),
    }
}
