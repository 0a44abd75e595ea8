//! Whether a registry takes what is to be put there, and whether what it lists is its own: an upload is opened, and given back or used.
//!
//! A pull-through cache answers a HEAD by asking its upstream, so an equal digest says nothing of what it holds. Many say nothing of
//! themselves in their answers (Harbor's proxy projects, Distribution's proxy); but they refuse uploads.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use jiff::Timestamp;
use reqwest::Method;
use tokio::time::Instant;
use url::Url;

use super::admissions::{ManifestPuts, PushAnswer};
use super::auth::Scopes;
use super::counters::RequestKind;
use super::remedy::is_said_by_a_cache;
use super::request::RegistryRequest;
use super::store::RegistryStore;
use crate::config::profiles::{CACHE_REMEDY, Creation};
use crate::content::{Repository, RequestContext};
use crate::state::Pushes;
use crate::{Error, Kind, Operation, Result, Side};

impl RegistryStore {
    /// Pushes that are taken are written down in `pushes`, and those that were are believed.
    pub(crate) fn remember_pushes(&self, pushes: Arc<Pushes>) {
        let _ = self.admissions.pushes.set(pushes);
    }

    /// Opens an upload in `repository`, and gives it back. What makes repositories by itself is asked once for each of its projects, what does not, or
    /// is not known, for each repository.
    pub(super) async fn try_upload(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.ask_once(&self.unit(repository), repository, context).await?;
        self.give_back(repository).await;
        Ok(())
    }

    /// As [`RegistryStore::try_upload`]; the upload that was opened is used by the first blob.
    pub(super) async fn open_early(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.ask_once(&self.unit(repository), repository, context).await
    }

    /// As [`RegistryStore::open_early`], unless the registry has taken a push in this run.
    pub(super) async fn open_first(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.admissions.check(&self.unit(repository))?;
        if self.admissions.open.get().is_some() {
            return Ok(());
        }
        let _first = self.admissions.first.lock().await;
        if self.admissions.open.get().is_some() {
            return Ok(());
        }
        self.open_early(repository, context).await
    }

    async fn ask_once(&self, unit: &str, repository: &Repository, context: &RequestContext) -> Result<()> {
        let part = self.admissions.part(unit);
        let mut known = part.lock().await;
        self.admissions.check(unit)?;
        match &*known {
            Some(PushAnswer::Takes) => return Ok(()),
            Some(PushAnswer::Refuses(error)) => return Err(error.clone()),
            None => {}
        }
        match self.open_upload(repository, context).await {
            Ok(session) => {
                self.admissions.sessions.lock().insert(repository.clone(), (session, Instant::now()));
                *known = Some(PushAnswer::Takes);
                self.took_push(repository);
                Ok(())
            }
            Err(error) => {
                if is_final(&error) {
                    *known = Some(PushAnswer::Refuses(anonymous(&error)));
                }
                Err(error)
            }
        }
    }

    /// Opens an upload. That the registry takes none anywhere is remembered.
    async fn open_upload(&self, repository: &Repository, context: &RequestContext) -> Result<Url> {
        let scopes = Scopes::push(repository.as_str());
        let url = self.transport.host.endpoint.url(&format!("{repository}/blobs/uploads/"));
        let call = RegistryRequest::new((RequestKind::BlobPut, Operation::StartUpload, Method::POST), url, repository, &scopes, context);
        let opened = async {
            let answer = self.transport.send(&call, &mut self.transport.host.patience()).await?;
            self.location(&answer, &call).await
        };
        let opened = opened.await;
        if let Err(error) = &opened
            && takes_no_pushes(error)
        {
            let _ = self.admissions.closed.set(anonymous(error));
        }
        opened
    }

    /// Gives back the upload that was opened in `repository`, if it was not used.
    async fn give_back(&self, repository: &Repository) {
        let session = self.admissions.sessions.lock().remove(repository);
        if let Some((session, _)) = session {
            self.cancel(session, repository, &Scopes::push(repository.as_str()), &RequestContext::new(self.name_of(repository))).await;
        }
    }

    /// Gives back all that was opened.
    pub(super) async fn give_all_back(&self) {
        let places: Vec<Repository> = self.admissions.sessions.lock().keys().cloned().collect();
        futures_util::future::join_all(places.iter().map(|repository| self.give_back(repository))).await;
    }

    /// The registry has taken a push to `repository`.
    pub(super) fn took_push(&self, repository: &Repository) {
        let _ = self.admissions.open.set(());
        if let Some(pushes) = self.admissions.pushes.get() {
            pushes.note(self.host(), self.part(repository), Timestamp::now());
        }
    }

    /// The registry has taken a manifest in `repository`.
    pub(super) fn took_manifest(&self, repository: &Repository) {
        self.admissions.manifests.lock().insert(self.unit(repository), ManifestPuts::Taken);
        self.took_push(repository);
    }

    /// A manifest was refused. One may be refused for itself (a tag that is locked, a policy); a second, where none was taken, is for the
    /// place.
    pub(super) fn manifest_refused(&self, repository: &Repository, error: &Error) {
        let before = match self.admissions.manifests.lock().entry(self.unit(repository)) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(unknown) => {
                unknown.insert(ManifestPuts::Refused);
                None
            }
        };
        if before == Some(ManifestPuts::Refused) {
            self.push_refused(repository, error);
        }
    }

    /// A blob was refused. That is for its place and not for itself, and need not be tried with the next image.
    pub(super) fn push_refused(&self, repository: &Repository, error: &Error) {
        if !matches!(error.http_status(), Some(401 | 403)) || error.kind() == Kind::Limited {
            return;
        }
        self.admissions.refused.lock().entry(self.unit(repository)).or_insert_with(|| anonymous(error));
    }

    /// Sees that the registry's answers about `repository` are its own: it has taken a push there, or takes one now. What refuses the push
    /// for another reason is believed.
    ///
    /// # Errors
    /// If it behaves as a pull-through cache.
    pub(crate) async fn answers_for_itself(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        let name = self.part(repository);
        if self.admissions.pushes.get().is_some_and(|pushes| pushes.knows(self.host(), name, Timestamp::now())) {
            return Ok(());
        }
        let part = Arc::clone(self.admissions.vouched.lock().entry(name.to_owned()).or_default());
        let mut known = part.lock().await;
        let known = match &mut *known {
            Some(known) => known,
            unknown => unknown.insert(self.ask_for_a_cache(repository, context).await?),
        };
        match known {
            PushAnswer::Takes => Ok(()),
            PushAnswer::Refuses(error) => {
                let message =
                    format!("{}: that it answers with the right digest does not prove that it has the image", error.bare_message());
                Err(Error::new(Side::Target, Operation::LookForCache, Kind::Refused, message).remedy(CACHE_REMEDY))
            }
        }
    }

    /// How it refuses pushes to `repository`, if it does so as a pull-through cache.
    pub(crate) async fn refuses_as_cache(&self, repository: &Repository, context: &RequestContext) -> Option<String> {
        let error = self.answers_for_itself(repository, context).await.err()?;
        let part = Arc::clone(self.admissions.vouched.lock().get(self.part(repository))?);
        let known = part.lock().await;
        match &*known {
            Some(PushAnswer::Refuses(refused)) => Some(refused.bare_message().to_owned()),
            _ => {
                tracing::debug!(%error, "whether it is a cache is not known");
                None
            }
        }
    }

    async fn ask_for_a_cache(&self, repository: &Repository, context: &RequestContext) -> Result<PushAnswer> {
        let refused = match self.admissions.closed.get() {
            Some(error) => error.clone(),
            None => match self.open_upload(repository, context).await {
                Ok(session) => {
                    self.cancel(session, repository, &Scopes::push(repository.as_str()), context).await;
                    self.took_push(repository);
                    return Ok(PushAnswer::Takes);
                }
                Err(error) => error,
            },
        };
        match refusal_of_a_cache(&refused) {
            Some(what) => {
                let (status, said) = (refused.http_status().unwrap_or_default(), refused.bare_message());
                let message = format!("{} refuses pushes, as {what} does ({status} {said})", self.name_of(repository));
                Ok(PushAnswer::Refuses(Error::new(Side::Target, Operation::LookForCache, Kind::Refused, message)))
            }
            None if is_final(&refused) => Ok(PushAnswer::Takes),
            // It may answer the next time.
            None => Err(refused),
        }
    }

    fn name_of(&self, repository: &Repository) -> String {
        format!("{}/{repository}", self.host())
    }

    /// The part of the registry that is a cache, or is none, as a whole.
    fn part<'p>(&self, repository: &'p Repository) -> &'p str {
        self.transport.host.profile.cached_as_one(repository.as_str())
    }

    /// What is admitted with `repository`: the part of its path that has to exist beforehand.
    fn unit(&self, repository: &Repository) -> String {
        let path = repository.as_str();
        let parts = |n: usize| path.split('/').take(n).collect::<Vec<_>>().join("/");
        let profile = self.transport.host.profile;
        match profile.creation {
            Creation::HarborProject => parts(1),
            Creation::ArtifactRegistry => parts(2),
            Creation::OnPush if profile.name != crate::config::profiles::UNKNOWN.name && profile.name != "acr" => parts(1),
            Creation::OnPush | Creation::Ecr | Creation::EcrPublic | Creation::ReadOnly => path.to_owned(),
        }
    }
}

/// Whether asking again would bring the same.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), Kind::Refused | Kind::Unauthorized | Kind::NotFound | Kind::Untrusted | Kind::Unsupported)
}

/// A refusal that is kept for other images names none.
fn anonymous(error: &Error) -> Error {
    let mut kept = Error::new(error.side(), error.operation(), error.kind(), error.bare_message());
    if let Some(host) = error.at_host() {
        kept = kept.host(host);
    }
    if let Some(status) = error.http_status() {
        kept = kept.status(status);
    }
    if let Some(code) = error.registry_code() {
        kept = kept.code(code);
    }
    match error.remedy_text() {
        Some(remedy) => kept.remedy(remedy),
        None => kept,
    }
}

/// Whether a refused upload says that the registry takes none, wherever it goes (Distribution's proxy: 405 `UNSUPPORTED`).
fn takes_no_pushes(error: &Error) -> bool {
    matches!(error.http_status(), Some(405 | 501)) && matches!(error.registry_code(), None | Some("UNSUPPORTED"))
}

/// What refuses an upload like this, if it is a pull-through cache, or may be one.
fn refusal_of_a_cache(error: &Error) -> Option<&'static str> {
    if is_said_by_a_cache(error.bare_message()) {
        return Some("a pull-through cache");
    }
    takes_no_pushes(error).then_some("a pull-through cache, or a read-only registry,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_told_by_how_they_refuse() {
        for (status, code, message, cache) in [
            (405, Some("UNSUPPORTED"), "The operation is unsupported.", true),
            (405, None, "method not allowed", true),
            (501, None, "not implemented", true),
            (405, Some("DENIED"), "The operation is disallowed on this registry, repository or image", false),
            (403, Some("DENIED"), "can not push artifact to a proxy project: hub", true),
            (405, Some("METHOD_NOT_ALLOWED"), "can not push artifact to a proxy project: hub", true),
            (403, Some("DENIED"), "The cache rule blocks pushes for the target-repo in the cache rule", true),
            (403, Some("DENIED"), "requested access to the resource is denied", false),
            (401, Some("UNAUTHORIZED"), "authentication required", false),
            (404, Some("NAME_UNKNOWN"), "repository name not known to registry", false),
        ] {
            let error = Error::new(Side::Target, Operation::StartUpload, Kind::Refused, message).status(status);
            let error = match code {
                Some(code) => error.code(code),
                None => error,
            };
            // A remedy that speaks of caches is not the registry's word.
            let error = error.remedy("a cache rule that owns the repository refuses pushes too");
            assert_eq!(refusal_of_a_cache(&error).is_some(), cache, "{status} {code:?} {message}");
        }
    }
}
