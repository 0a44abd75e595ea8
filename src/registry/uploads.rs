//! Uploads and mounts (distribution-spec "Pushing blobs", "Mounting a blob from another repository"; docs/registries.md, "Blobs and uploads").
//!
//! A blob of known length goes in two requests, POST and PUT. Where a single PUT of the whole is refused (Azure; whoever
//! answered 413 before) it goes in three: POST, one streaming PATCH, an empty PUT. A transfer that breaks off goes on where the registry says
//! that its session stands (distribution-spec "Pushing a blob in chunks"); where the registry has forgotten the session, the transfer starts
//! again with a new one and a freshly opened source, and other broken uploads there are not asked about. All turns share one retry budget,
//! which is full again after a turn that got further, and a small blob is not read from its source again.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::auth::Scopes;
use super::blobs::named;
use super::counters::RequestKind;
use super::error;
use super::link;
use super::request::{ConnectionKind, PermitRequest, RegistryRequest};
use super::store::RegistryStore;
use super::transport::{AttemptOutcome, EMPTY, OpenResponse, RetryBudget, RetryableError, UploadBody, UploadProgress, commit_time};
use crate::content::{self, BlobStream, Checkpoint, Checkpoints, Descriptor, Digest, OpenBlob, Repository, RequestContext, Verified};
use crate::mutex::{Mutex, MutexGuard};
use crate::{Kind, Operation, Result, Side};

/// So many times a login may run out under one upload before that is an error: tokens live minutes, an upload's turn that
/// began with a fresh one is not told twice in a row that it has none.
const MOST_LOGINS: u32 = 2;

/// One blob on its way to one repository.
struct BlobUpload<'a> {
    store: &'a RegistryStore,
    repository: &'a Repository,
    scopes: Scopes,
    blob: &'a Descriptor,
    open: &'a dyn OpenBlob,
    context: &'a RequestContext,
    /// The bytes of a small blob that have come: sent again, they are not read again.
    kept: Kept,
    /// States of a larger blob's hash, to go on from.
    checkpoints: Arc<Checkpoints>,
}

/// Blobs up to this size are kept in memory until they are uploaded: configs and most layers of small images, of which a target that
/// fails now and then would else be sent every failed one's bytes twice by the upstream. 1 MiB for each upload under way is 16 MiB.
const SMALL: u64 = 1024 * 1024;

/// The bytes that a source has given, as far as they are kept.
type Kept = Arc<Mutex<Vec<Bytes>>>;

/// Where a turn begins.
enum UploadStart {
    /// With a session of its own.
    New,
    /// With a session of which nothing was used.
    Unused(Url),
    /// With a session that has the first bytes, so many of them.
    Continued(Url, u64),
}

/// What one turn came to.
enum UploadTurn {
    Done,
    /// Another may succeed; when the failed one was sent, and whether every byte had left.
    Again(RetryableError, Instant, bool),
    /// The connection broke while bytes were on their way to this session; when it was sent, and how many bytes of the blob had left.
    Broken(RetryableError, Instant, Url, u64),
    /// The body was refused for its pace, unread: the session is still open.
    Refused(RetryableError, Instant, Url),
    /// Another is due at once: the login was renewed.
    LoggedIn,
    /// Another is due at once, by PATCH.
    TooLarge,
}

impl RegistryStore {
    /// Puts the blob that `open` gives into `repository`.
    pub(super) async fn upload(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        open: &dyn OpenBlob,
        context: &RequestContext,
    ) -> Result<()> {
        // No session is opened for what cannot be checked on the way.
        content::checkable(blob, Side::Upstream).map_err(|error| error.subject(&*context.image))?;
        let scopes = Scopes::push(repository.as_str());
        let (kept, checkpoints) = (Kept::default(), Arc::default());
        let upload = BlobUpload { store: self, repository, scopes, blob, open, context, kept, checkpoints };
        upload.run().await.map_err(|error| if error.side() == self.transport.side { named(error, &blob.digest) } else { error })
    }

    /// Mounts a blob of `from` in `to`. `false`: refused; it has to be copied.
    pub(super) async fn mount(&self, from: &Repository, to: &Repository, digest: &Digest, context: &RequestContext) -> Result<bool> {
        let host = &self.transport.host;
        let _trial = host.behaviour.mount_trial().await;
        if !host.behaviour.mounts() {
            return Ok(false);
        }
        let scopes = Scopes::mount(to.as_str(), from.as_str());
        let mut url = host.endpoint.url(&format!("{to}/blobs/uploads/"));
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from.as_str());
        let call = RegistryRequest::new((RequestKind::Mount, Operation::MountBlob, Method::POST), url, to, &scopes, context);
        let done = match self.transport.send(&call, &mut host.patience()).await {
            Ok(answer) if answer.status == StatusCode::CREATED => true,
            Ok(answer) => {
                // 202: the registry opened an upload instead. Nothing will come, so it is given back.
                let session = self.location(&answer, &call).await;
                drop(answer);
                if let Ok(session) = session {
                    self.cancel(session, to, &scopes, context).await;
                }
                false
            }
            // A registry may refuse because of `from` alone (ggcr#1404: no pull right there); if it is about `to`, the upload
            // that follows is refused too, and says so.
            Err(error)
                if error.http_status().is_some_and(|status| (400..500).contains(&status))
                    && !matches!(error.kind(), Kind::Limited | Kind::Deferred) =>
            {
                false
            }
            Err(error) => return Err(error),
        };
        host.behaviour.mounted(done);
        Ok(done)
    }

    /// Where the answer says to go on: relative to what was asked, and only where a registry may send us.
    pub(super) async fn location(&self, answer: &OpenResponse, call: &RegistryRequest<'_>) -> Result<Url> {
        let topic = self.transport.topic(call);
        let location = answer.headers.get(LOCATION).map(link::address);
        let location = location.ok_or_else(|| topic.error(Kind::Refused, "the registry opened an upload, but said no Location"))?;
        let refuse = |why: String| topic.error(Kind::Untrusted, format!("the registry's upload Location is not followed: {why}"));
        let url = self.transport.host.endpoint.resolve(&answer.url, &location).map_err(refuse)?;
        self.transport.allowed(&url).await.map_err(refuse)?;
        Ok(url)
    }

    /// Gives an upload session back. A courtesy, asked once: the specification lets registries have no DELETE, and sessions
    /// end by themselves.
    pub(super) async fn cancel(&self, session: Url, repository: &Repository, scopes: &Scopes, context: &RequestContext) {
        let call =
            RegistryRequest::new((RequestKind::BlobPut, Operation::UploadBlob, Method::DELETE), session, repository, scopes, context);
        let mut once = RetryBudget::new(self.transport.host.retry, 1);
        if let Err(error) = self.transport.send(&call, &mut once).await {
            tracing::debug!(%error, "the upload session could not be given back");
        }
    }
}

impl BlobUpload<'_> {
    /// Turns, until one succeeds or the retry budget is spent. The short requests of a turn have budgets of their own: that a session
    /// took three attempts to open says nothing about the bytes.
    async fn run(&self) -> Result<()> {
        let transport = &self.store.transport;
        let mut patience = transport.host.patience();
        let mut logins = 0;
        let mut hold = false;
        let (mut start, mut reached) = (UploadStart::New, 0);
        loop {
            let by_patch = transport.host.behaviour.patches();
            match self.turn(by_patch, hold, std::mem::replace(&mut start, UploadStart::New)).await? {
                UploadTurn::Done => return Ok(()),
                UploadTurn::TooLarge => transport.host.behaviour.patch_from_now_on(),
                UploadTurn::LoggedIn if logins < MOST_LOGINS => logins += 1,
                UploadTurn::LoggedIn => {
                    let topic = transport.topic_of(Operation::UploadBlob, Some(self.repository), self.context);
                    return Err(topic.error(Kind::Unauthorized, "the registry refuses each login as soon as it is used").status(401));
                }
                UploadTurn::Refused(trouble, sent, open) => {
                    let topic = transport.topic_of(Operation::UploadBlob, Some(self.repository), self.context);
                    transport.retry_after_failure(&topic, &mut patience, trouble, sent).await?;
                    start = UploadStart::Unused(open);
                }
                UploadTurn::Broken(trouble, sent, session, left) => {
                    let topic = transport.topic_of(Operation::UploadBlob, Some(self.repository), self.context);
                    transport.retry_after_failure(&topic, &mut patience, trouble, sent).await?;
                    // If only the answer was lost, the blob is there, and is not read from the upstream a second time.
                    if left == self.blob.size && self.store.head_blob(self.repository, &self.blob.digest, self.context).await? {
                        return Ok(());
                    }
                    match self.standing(session, left).await {
                        Some((session, offset)) => {
                            if offset > reached {
                                (reached, patience) = (offset, transport.host.patience());
                            }
                            start = UploadStart::Continued(session, offset);
                        }
                        None => hold = left < self.blob.size,
                    }
                }
                UploadTurn::Again(trouble, sent, all_left) => {
                    // Perhaps it was answered and closed while the body was still on its way (413 of a proxy), and the break
                    // was seen before the answer. Next time the body waits for such an answer, as curl's does after
                    // `Expect: 100-continue`.
                    hold = trouble.is_broken() && !all_left;
                    let topic = transport.topic_of(Operation::UploadBlob, Some(self.repository), self.context);
                    transport.retry_after_failure(&topic, &mut patience, trouble, sent).await?;
                    // If only the answer was lost, the blob is there, and is not read from the upstream a second time.
                    if all_left && self.store.head_blob(self.repository, &self.blob.digest, self.context).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Where the registry says that a broken upload stands: where to send the rest, and how many bytes it has. `None`: it starts again.
    async fn standing(&self, session: Url, left: u64) -> Option<(Url, u64)> {
        let host = &self.store.transport.host;
        // Another upload may have found out meanwhile.
        if !host.behaviour.keeps_uploads() {
            return None;
        }
        let call = self.call(Operation::UploadBlob, Method::GET, session.clone());
        let answer = match self.store.transport.send(&call, &mut host.patience()).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "a broken upload is not known any more");
                if error.http_status().is_some_and(|status| (400..500).contains(&status)) {
                    host.behaviour.restart_uploads_from_now_on();
                }
                return None;
            }
        };
        let has = answer.header(RANGE).and_then(received).unwrap_or_default();
        let location =
            if answer.header(LOCATION).is_some() { self.store.location(&answer, &call).await.ok() } else { Some(session.clone()) };
        drop(answer);
        match location {
            Some(location) if has > 0 && has <= left => Some((location, has)),
            _ => {
                // It keeps the session and not the bytes, or says what cannot be.
                host.behaviour.restart_uploads_from_now_on();
                self.give_back(session).await;
                None
            }
        }
    }

    /// The blob from byte `offset` on, and how many bytes before it come too, because the hash begins there.
    async fn source_from(&self, offset: u64) -> Result<(Verified, u64)> {
        if self.blob.size <= SMALL {
            return Ok((Verified::whole(self.source().await?, self.blob, Side::Upstream)?, offset));
        }
        let (from, hasher) = match self.checkpoints.rewind(offset) {
            Some(Checkpoint { offset, hasher }) => (offset, hasher),
            None => (0, content::hasher(self.blob, Side::Upstream)?),
        };
        let source = Verified::resume(self.open.open(from).await?, self.blob, hasher, from, Side::Upstream);
        Ok((source.noting(&self.checkpoints), offset - from))
    }

    /// The bytes of a small blob: those that came before from memory, the rest from the source.
    async fn source(&self) -> Result<BlobStream> {
        let chunks = self.kept().clone();
        let have = chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let first = stream::iter(chunks.into_iter().map(Ok));
        if have > 0 && have == self.blob.size {
            return Ok(first.boxed());
        }
        let rest = self.open.open(have).await?;
        let (kept, mut room) = (Arc::clone(&self.kept), self.blob.size - have);
        let keeping = rest.inspect(move |item| {
            // A source that gives too much is refused where it is checked; here it only must not be kept.
            if let Ok(chunk) = item {
                match room.checked_sub(chunk.len() as u64) {
                    Some(less) => {
                        room = less;
                        kept.lock().push(chunk.clone());
                    }
                    None => room = 0,
                }
            }
        });
        Ok(first.chain(keeping).boxed())
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.kept.lock()
    }

    /// One session to its end.
    async fn turn(&self, by_patch: bool, hold: bool, start: UploadStart) -> Result<UploadTurn> {
        let transport = &self.store.transport;
        let reused = !matches!(start, UploadStart::New);
        let (session, offset) = match start {
            UploadStart::New => (self.start().await?, 0),
            UploadStart::Unused(session) => (session, 0),
            UploadStart::Continued(session, offset) => (session, offset),
        };
        if self.blob.size == offset {
            return self.put_empty(session).await;
        }
        // The source is opened when its bytes can go: an open source whose target is paused would time out.
        let topic = transport.topic_of(Operation::UploadBlob, Some(self.repository), self.context);
        transport.host.clear().await.map_err(|pause| error::told_to_wait(&topic, pause))?;
        let (source, skip) = match self.source_from(offset).await {
            Ok(source) => source,
            Err(error) => {
                self.give_back(session).await;
                return Err(error.subject(&*self.context.image));
            }
        };
        let progress = UploadProgress::new(self.blob.size - offset);
        let feed = UploadBody::new(source, Arc::clone(&progress), Arc::clone(&self.context.tally), transport.host.bandwidth.clone());
        let feed = feed.skip(skip);
        let feed = if hold { feed.hold(transport.host.retry.base) } else { feed };
        let method = if by_patch { Method::PATCH } else { Method::PUT };
        let url = if by_patch { session.clone() } else { with_digest(session.clone(), &self.blob.digest) };
        let mut call = self.call(Operation::UploadBlob, method, url);
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if offset > 0 {
            // Digits and a hyphen are a header's value.
            let range = HeaderValue::try_from(format!("{offset}-{}", self.blob.size - 1)).ok();
            call.headers.extend(range.map(|range| (CONTENT_RANGE, range)));
        }
        call.lane = ConnectionKind::Bulk;
        call.claim = PermitRequest::Fed;
        let attempt = transport.stream(&call, feed, &progress, self.blob.size - offset).await?;
        if let Some(error) = progress.take_failure() {
            // Whatever the registry made of the end of the body: this is why it ended.
            self.give_back(session).await;
            return Err(error.subject(&*self.context.image));
        }
        match attempt {
            AttemptOutcome::Answer(answer) if by_patch => self.commit(*answer, &call).await,
            AttemptOutcome::Answer(answer) if progress.complete() => self.stored(&answer).map(|()| UploadTurn::Done),
            // Stored without all of its bytes: perhaps it had them. Then it says so when asked; if not, this has failed.
            AttemptOutcome::Answer(answer) => {
                Ok(UploadTurn::Again(lost("the registry answered before it had the whole blob"), answer.sent, true))
            }
            AttemptOutcome::LoggedIn(_) => Ok(UploadTurn::LoggedIn),
            // Uploads spend no pulls; should it happen, the same request is made again.
            AttemptOutcome::NotSent => Ok(UploadTurn::LoggedIn),
            // A limiter stands before the registry, so the session is used once more. (503 may come from behind it, where the body may have
            // been read.)
            AttemptOutcome::Retryable(trouble, sent) if trouble.status() == Some(429) && !by_patch && !reused => {
                Ok(UploadTurn::Refused(trouble, sent, session))
            }
            AttemptOutcome::Retryable(trouble, sent)
                if trouble.is_broken() && self.blob.size > SMALL && progress.given() > 0 && transport.host.behaviour.keeps_uploads() =>
            {
                Ok(UploadTurn::Broken(trouble, sent, session, offset + progress.given()))
            }
            AttemptOutcome::Retryable(trouble, sent) => Ok(UploadTurn::Again(trouble, sent, progress.complete())),
            AttemptOutcome::Refused(refusal, _) if refusal.status == 413 && !by_patch && transport.host.behaviour.takes_patches() => {
                self.give_back(session).await;
                Ok(UploadTurn::TooLarge)
            }
            // Perhaps only because a part of the body was read when it was refused before: a new session tells.
            AttemptOutcome::Refused(refusal, _) if reused => {
                self.give_back(session).await;
                Ok(UploadTurn::Again(RetryableError::Answer(refusal), Instant::now(), progress.complete()))
            }
            AttemptOutcome::Refused(refusal, _) => match error::refused(&topic, &refusal) {
                error if error.kind() == Kind::UploadLost => {
                    Ok(UploadTurn::Again(RetryableError::Answer(refusal), Instant::now(), progress.complete()))
                }
                error => Err(error),
            },
        }
    }

    /// The last request of an upload by PATCH.
    async fn commit(&self, answer: OpenResponse, patched: &RegistryRequest<'_>) -> Result<UploadTurn> {
        let session = self.store.location(&answer, patched).await?;
        drop(answer);
        self.put_empty(session).await
    }

    /// PUT without a body: ends the session.
    async fn put_empty(&self, session: Url) -> Result<UploadTurn> {
        let mut call = self.call(Operation::UploadBlob, Method::PUT, with_digest(session, &self.blob.digest));
        call.grace = commit_time(self.blob.size);
        match self.store.transport.send(&call, &mut self.store.transport.host.patience()).await {
            Ok(answer) => self.stored(&answer).map(|()| UploadTurn::Done),
            // An earlier attempt of this very request may have ended the session: then the blob is there.
            Err(error) if error.kind() == Kind::UploadLost => {
                Ok(UploadTurn::Again(lost(&format!("the upload session is gone: {}", error.message())), Instant::now(), true))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a session.
    async fn start(&self) -> Result<Url> {
        // Opened to find out whether the registry takes it.
        if let Some(session) = self.store.admissions.take(self.repository) {
            return Ok(session);
        }
        let transport = &self.store.transport;
        let call =
            self.call(Operation::StartUpload, Method::POST, transport.host.endpoint.url(&format!("{}/blobs/uploads/", self.repository)));
        let mut patience = transport.host.patience();
        loop {
            let answer = transport.send(&call, &mut patience).await?;
            if answer.status != StatusCode::OK || answer.header(LOCATION).is_some() {
                return self.store.location(&answer, &call).await;
            }
            // A session is opened with 202; a bare 200 is something else's answer.
            let (trouble, sent) = (answer.broken(EMPTY), answer.sent);
            drop(answer);
            transport.retry_after_failure(&transport.topic(&call), &mut patience, trouble, sent).await?;
        }
    }

    async fn give_back(&self, session: Url) {
        self.store.cancel(session, self.repository, &self.scopes, self.context).await;
    }

    fn call(&self, operation: Operation, method: Method, url: Url) -> RegistryRequest<'_> {
        RegistryRequest::new((RequestKind::BlobPut, operation, method), url, self.repository, &self.scopes, self.context)
    }

    /// The registry says that it has the blob; if it says its digest too, that must be the blob's.
    fn stored(&self, answer: &OpenResponse) -> Result<()> {
        let said = answer.header("docker-content-digest").and_then(|said| Digest::parse(said.trim()).ok());
        match said {
            Some(said) if said.algorithm() == self.blob.digest.algorithm() && said != self.blob.digest => {
                let topic = self.store.transport.topic_of(Operation::UploadBlob, Some(self.repository), self.context);
                Err(topic.error(Kind::Damaged, format!("the target stored another blob: {said} instead of {}", self.blob.digest)))
            }
            _ => Ok(()),
        }
    }
}

/// How many bytes an upload has, by the `Range` of its status: `0-99` says 100. `0-0` is said of an upload without any.
fn received(range: &str) -> Option<u64> {
    let (first, last) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first == "0").then_some(if last == 0 { 0 } else { last.checked_add(1)? })
}

fn lost(how: &str) -> RetryableError {
    RetryableError::Lost(how.into())
}

/// The session's address with the digest that ends it; what its query says already stays as it is.
fn with_digest(mut session: Url, digest: &Digest) -> Url {
    session.query_pairs_mut().append_pair("digest", digest.as_str());
    session
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_digest_joins_any_query() {
        let digest = Digest::sha256(b"x");
        let hex = digest.encoded();
        for (session, expected) in [
            ("https://r.io/u/1", format!("https://r.io/u/1?digest=sha256%3A{hex}")),
            ("https://r.io/u/1?", format!("https://r.io/u/1?digest=sha256%3A{hex}")),
            ("https://r.io/u/1?_state=a%3D%3D&b", format!("https://r.io/u/1?_state=a%3D%3D&b&digest=sha256%3A{hex}")),
        ] {
            assert_eq!(with_digest(Url::parse(session).unwrap(), &digest).as_str(), expected);
        }
    }

    proptest! {
        #[test]
        fn what_the_query_said_is_kept_byte_by_byte(query in "[a-zA-Z0-9%&=_.~+-]{1,40}") {
            let session = Url::parse(&format!("https://r.io/u?{query}")).unwrap();
            let url = with_digest(session.clone(), &Digest::sha256(b"x"));
            let kept = format!("{}&digest=", session.query().unwrap());
            prop_assert!(url.query().unwrap().starts_with(&kept));
        }
    }
}
