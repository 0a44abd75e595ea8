//! Reading a blob: a stream that mends itself. A body that breaks off is asked for again from the byte it had reached, at the
//! registry's own address (what it redirected to may have expired), out of the same retry budget as the request was. A registry that
//! gives no parts is asked for the whole, of which what is known is passed over. Through a
//! cache it is read again from its beginning, because a part may never fill the cache.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::range;
use crate::content::{BlobStream, Descriptor, Digest, Repository, RequestContext};
use crate::error::Kind;
use crate::registry::auth::Scopes;
use crate::registry::counters::RequestKind;
use crate::registry::error;
use crate::registry::request::RequestTopic;
use crate::registry::request::{ConnectionKind, PermitRequest, RegistryRequest, RequestIdentity};
use crate::registry::store::RegistryStore;
use crate::registry::transport::{BlobReadSlot, EMPTY, OpenResponse, RetryBudget, RetryableError, SendOutcome, Transport, coding};
use crate::{Error, Operation, Result, Side};

impl RegistryStore {
    /// The blob's bytes from `offset` on; `None` if `repository` does not have it.
    pub(in crate::registry) async fn read_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
        context: &RequestContext,
    ) -> Result<Option<BlobStream>> {
        Ok(self.open_blob(repository, blob, offset, context).await?.map(|(_, stream)| stream))
    }

    /// [`RegistryStore::read_blob`], with the headers of the answer.
    pub(in crate::registry) async fn open_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
        context: &RequestContext,
    ) -> Result<Option<(HeaderMap, BlobStream)>> {
        if offset >= blob.size && self.transport.through(context).is_none() {
            // Nothing is left to request. The caller still checks what it has.
            return Ok(Some((HeaderMap::new(), stream::empty().boxed())));
        }
        if blob.is_foreign() && !blob.urls.is_empty() && self.transport.side == Side::Upstream {
            return self.read_foreign(repository, blob, offset, context).await.map(|stream| Some((HeaderMap::new(), stream)));
        }
        let mut reading = self.reading(repository, blob, offset, context);
        match reading.open(PermitRequest::Fresh).await {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let headers = reading.body.as_ref().map(|body| body.headers.clone()).unwrap_or_default();
        let chunks = stream::try_unfold(reading, |mut reading| async move { Ok(reading.next().await?.map(|chunk| (chunk, reading))) });
        Ok(Some((headers, chunks.boxed())))
    }

    /// A reading of `blob` at the registry that has yet to begin.
    pub(super) fn reading(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> BlobReader {
        BlobReader {
            url: self.blob_url(repository, &blob.digest),
            external_url: false,
            scopes: Scopes::pull(repository.as_str()),
            repository: repository.clone(),
            blob: blob.clone(),
            context: context.clone(),
            at: offset,
            whole: self.transport.through(context).is_some(),
            gives_no_part: false,
            skip: 0,
            body: None,
            patience: self.transport.host.patience(),
            _reader: self.transport.host.reader(),
            transport: self.transport.clone(),
        }
    }
}

/// A blob that is being read.
pub(super) struct BlobReader {
    pub(super) transport: Transport,
    repository: Repository,
    pub(super) blob: Descriptor,
    pub(super) context: RequestContext,
    /// Where it is asked for.
    pub(super) url: url::Url,
    /// That is not the registry.
    pub(super) external_url: bool,
    scopes: Scopes,
    /// The next byte the reader wants.
    pub(super) at: u64,
    /// No part of it is asked for, even if it breaks off.
    whole: bool,
    /// Where it is asked for, no part of it is given.
    gives_no_part: bool,
    /// How many bytes of the present body the reader has had already.
    skip: u64,
    body: Option<OpenResponse>,
    patience: RetryBudget,
    _reader: BlobReadSlot,
}

impl BlobReader {
    /// From now on it is asked for at `url`, with a fresh retry budget.
    pub(super) fn turn_to(&mut self, url: url::Url, stranger: bool) {
        self.body = None;
        (self.url, self.external_url, self.gives_no_part) = (url, stranger, false);
        self.patience = self.transport.host.patience();
    }

    /// The next piece.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(body) = &mut self.body else {
                self.open(PermitRequest::Continued).await?;
                continue;
            };
            let (sent, cut) = (body.sent, body.broken(format!("the body ended after {} of {} bytes", self.at, self.blob.size)));
            match body.chunk().await {
                Ok(Some(chunk)) => {
                    if let Some(chunk) = self.take(chunk)? {
                        return Ok(Some(chunk));
                    }
                }
                Ok(None) if self.at == self.blob.size => {
                    self.body = None;
                    return Ok(None);
                }
                Ok(None) => self.mend(cut, sent).await?,
                Err(trouble) => self.mend(trouble, sent).await?,
            }
        }
    }

    /// Takes in a piece of the present body. `None`: the reader had all of it before.
    fn take(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>> {
        if self.transport.reads_upstream(&self.context) {
            self.context.tally.add_read(chunk.len() as u64);
        }
        let old = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
        self.skip -= old as u64;
        let chunk = chunk.split_off(old);
        let new = chunk.len() as u64;
        if new > self.blob.size - self.at {
            self.body = None;
            return Err(self.damaged(format!("the body is longer than the {} bytes the descriptor says", self.blob.size)));
        }
        self.at += new;
        self.patience.progressed(new);
        Ok((new > 0).then_some(chunk))
    }

    /// The body broke off: its permit is given back, and what is left is asked for when it is time.
    async fn mend(&mut self, trouble: RetryableError, sent: Instant) -> Result<()> {
        self.body = None;
        let trouble = if self.external_url { trouble.of_external_url() } else { trouble };
        let topic = self.transport.topic_of(Operation::GetBlob, Some(&self.repository), &self.context);
        self.transport.retry_after_failure(&topic, &mut self.patience, trouble, sent).await.map_err(|error| named(error, &self.blob.digest))
    }

    /// Asks for the bytes from `at` on; for all of them where the registry does not give a part.
    pub(super) async fn open(&mut self, mut claim: PermitRequest) -> Result<()> {
        loop {
            match self.ask(claim).await? {
                Asked::Body(answer) if answer.content_length() == Some(0) && self.at < self.blob.size => {
                    let (trouble, sent) = (answer.broken(EMPTY), answer.sent);
                    drop(answer);
                    self.mend(trouble, sent).await?;
                    claim = PermitRequest::Continued;
                }
                Asked::Body(answer) => {
                    self.body = Some(*answer);
                    return Ok(());
                }
                // Once: without a part to ask for there is no such answer.
                Asked::NoPart => self.gives_no_part = true,
            }
        }
    }

    /// Asks once, with the retries of the transport.
    async fn ask(&mut self, claim: PermitRequest) -> Result<Asked> {
        let url = self.url.clone();
        let mut call = RegistryRequest::new(
            (RequestKind::BlobGet, Operation::GetBlob, Method::GET),
            url,
            &self.repository,
            &self.scopes,
            &self.context,
        );
        call.lane = ConnectionKind::Bulk;
        call.claim = claim;
        if self.external_url {
            call.external_url = true;
            call.credentials = RequestIdentity::Given(None);
        }
        let part = self.at > 0 && !self.whole && !self.gives_no_part;
        if part {
            // Closed, because go-containerregistry's server knows no other ranges.
            let range = HeaderValue::from_str(&format!("bytes={}-{}", self.at, self.blob.size.saturating_sub(1)));
            call.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let answer = match self.transport.deliver(&call, &mut self.patience).await {
            Ok(SendOutcome::Answer(answer)) => answer,
            Ok(SendOutcome::Refused(refusal, _)) if part && !matches!(refusal.status, 401 | 403 | 404 | 410) => return Ok(Asked::NoPart),
            Ok(SendOutcome::Refused(refusal, _)) if self.external_url => {
                return Err(self.transport.topic(&call).error(Kind::Refused, refusal.plain_words()));
            }
            Ok(SendOutcome::Refused(refusal, _)) => return Err(error::refused(&self.transport.topic(&call), &refusal)),
            // It fails at the range, as far as we know: the last attempt goes without.
            Err(error) if part && error.outage().is_none() && error.http_status().is_some_and(|status| status >= 500) => {
                self.patience = RetryBudget::new(self.transport.host.retry, 1);
                return Ok(Asked::NoPart);
            }
            Err(error) => return Err(named(error, &self.blob.digest)),
        };
        match begins_at(&answer, self.at, self.blob.size) {
            Ok(first) => self.skip = self.at - first,
            Err(_) if answer.content_length() == Some(0) => {}
            Err(_) if part => return Ok(Asked::NoPart),
            Err(why) => {
                let compressed = coding(&answer.headers).map_or_else(String::new, |coding| {
                    format!(
                        "; it comes compressed (Content-Encoding: {coding}), which larder did not ask for: a proxy on the way may do that"
                    )
                });
                let message = format!("{}: {why}{compressed}", self.blob.digest);
                return Err(self.transport.topic(&call).error(Kind::Damaged, message));
            }
        }
        Ok(Asked::Body(answer))
    }

    fn damaged(&self, message: String) -> Error {
        let topic: RequestTopic<'_> = self.transport.topic_of(Operation::GetBlob, Some(&self.repository), &self.context);
        topic.error(Kind::Damaged, message)
    }
}

/// What a question for a blob has led to.
enum Asked {
    /// A body, from a byte that is not after the one that was asked for.
    Body(Box<OpenResponse>),
    /// The registry gives no part of the blob, or not the part that was asked for.
    NoPart,
}

/// A failure that is about one blob names it.
pub(in crate::registry) fn named(error: Error, digest: &Digest) -> Error {
    match error.kind() {
        Kind::Unavailable | Kind::Limited => error.about(format!("blob {}", digest.short())),
        _ => error,
    }
}

/// At which byte of the blob an answer begins: not after `at`, or what is wrong with it. A whole answer to a question for a
/// part is taken, and what is known of it passed over: not every registry knows ranges.
fn begins_at(answer: &OpenResponse, at: u64, size: u64) -> Result<u64, String> {
    let (first, left) = match answer.status {
        StatusCode::PARTIAL_CONTENT => {
            let header = answer.header(CONTENT_RANGE).unwrap_or("");
            let range = range::parse(header).ok_or_else(|| format!("a part without a readable Content-Range: `{header}`"))?;
            if range.total.is_some_and(|total| total != size) {
                return Err(format!("the registry has {} bytes, the descriptor says {size}", range.total.unwrap_or(0)));
            }
            if range.first > at || range.last >= size {
                return Err(format!("asked for the bytes from {at} on, got {} to {} of {size}", range.first, range.last));
            }
            (range.first, range.last - range.first + 1)
        }
        _ => (0, size),
    };
    match answer.content_length() {
        Some(length) if length != left => Err(format!("the registry has {length} bytes, the descriptor says {left}")),
        _ => Ok(first),
    }
}
