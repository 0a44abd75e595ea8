//! Bodies and their time limits: reading an answer with limits on silence and slowness, and watching an upload's progress.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::Stream;
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, Sleep};
use url::Url;

use super::bandwidth::BandwidthStack;
use super::cause::Cause;
use super::classify::RetryableError;
use super::encoding::{DecodeError, decoded};
use super::min_rate::RateMeter;
use crate::Error;
use crate::content::{TransferStats, Verified};
use crate::limits::{AnswerGroup, Permit, Quota};
use crate::mutex::Mutex;
use crate::registry::counters::RequestKind;
use crate::registry::error_answer::MAX_ERROR_BODY;

/// An answer that is what was asked for, with its body still to be read. Its permit is held until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// What was asked, for addresses relative to it.
    pub(crate) url: Url,
    /// When it was asked for.
    pub(crate) sent: Instant,
    /// The host that gave it, if that is not the registry.
    pub(crate) elsewhere: Option<String>,
    /// What the registry itself (not the host that it redirected to) said about pulls.
    pub(crate) quota: Quota,
    pub(super) response: Response,
    pub(super) idle: Duration,
    /// How fast the body comes.
    pub(super) meter: RateMeter,
    pub(super) bandwidth: BandwidthStack,
    pub(super) permit: Permit,
    /// The latency that the permit's limit goes by ends with the body: more blobs at once are of use only as long as each comes as fast.
    pub(super) measured_at_end: bool,
    /// Bytes of the body so far.
    pub(super) received: u64,
}

/// What is said of a 200 that brings nothing.
pub(crate) const EMPTY: &str = "an empty answer";

/// Why a body could not be read whole.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is longer than it may be.
    TooLong,
    /// It broke off.
    Trouble(RetryableError),
    /// It is compressed in a way that cannot be read; in words.
    Unreadable(String),
    /// It kept coming, and did not end in time.
    Slow(String),
}

impl From<DecodeError> for BodyError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooLong => BodyError::TooLong,
            DecodeError::Unreadable(why) => BodyError::Unreadable(why),
        }
    }
}

impl OpenResponse {
    /// The header's text, if it is there and is text.
    pub(crate) fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What Content-Length says. Read from the header: a HEAD's body has no length of its own.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(reqwest::header::CONTENT_LENGTH).and_then(|value| value.trim().parse().ok())
    }

    /// The next piece of a blob. The clocks of silence and slowness run only while somebody waits here: a slow reader is not a
    /// slow registry (which is why reqwest's own `read_timeout` is not used; it would also end every upload after its time).
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RetryableError> {
        let asked = Instant::now();
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                // It is about this connection alone: the host answers others.
                self.meter.came(chunk.len() as u64, asked.elapsed()).map_err(|why| RetryableError::Lost(why.into()))?;
                self.received += chunk.len() as u64;
                self.bandwidth.take(chunk.len() as u64).await;
                Ok(Some(chunk))
            }
            Ok(Ok(None)) => {
                if std::mem::take(&mut self.measured_at_end) {
                    self.permit.answered(AnswerGroup::new(RequestKind::BlobGet as u8, self.received), self.sent.elapsed());
                }
                Ok(None)
            }
            Ok(Err(error)) => Err(self.broken(error)),
            Err(_) => Err(self.broken(silence(self.idle))),
        }
    }

    /// The failure of this answer's body.
    pub(crate) fn broken(&self, cause: impl Into<Cause>) -> RetryableError {
        RetryableError::broken(self.elsewhere.as_deref(), cause)
    }

    /// The whole body, decompressed if need be, of at most `most` bytes. It has as long in all as silence may last: what has to be read whole is small.
    pub(crate) async fn whole(&mut self, most: usize) -> Result<Bytes, BodyError> {
        let mut body = BytesMut::new();
        let mut left = self.idle;
        loop {
            let asked = Instant::now();
            match tokio::time::timeout(left, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    left = left.saturating_sub(asked.elapsed());
                    if body.len() + chunk.len() > most {
                        return Err(BodyError::TooLong);
                    }
                    body.extend_from_slice(&chunk);
                    self.bandwidth.take(chunk.len() as u64).await;
                }
                Ok(Ok(None)) => return Ok(decoded(&self.headers, body.freeze(), most)?),
                Ok(Err(error)) => return Err(BodyError::Trouble(self.broken(error))),
                // Nothing came for most of the time: the connection is dead, and another may be better.
                Err(_) if left > self.idle / 2 => return Err(BodyError::Trouble(self.broken(silence(left)))),
                Err(_) => {
                    let seconds = self.idle.as_secs_f32();
                    return Err(BodyError::Slow(format!("the answer did not end within {seconds} s; {} bytes came", body.len())));
                }
            }
        }
    }
}

pub(super) fn silence(idle: Duration) -> String {
    format!("no byte came for {} s", idle.as_secs_f32())
}

/// After an upload's last byte the registry may still hash and move it before it answers. 20 MB/s is what an object store's
/// server-side copy does at its worst; it is added to the time that silence may last.
const COMMIT_RATE: u64 = 20_000_000;

/// How long a registry may think about `size` bytes that it has got.
pub(crate) fn commit_time(size: u64) -> Duration {
    Duration::from_secs(size / COMMIT_RATE)
}

/// The progress of an upload's body, for the task that waits for the answer.
#[derive(Debug)]
pub(crate) struct UploadProgress {
    size: u64,
    given: AtomicU64,
    /// Since when the registry has had something to take, or to answer. `None`: we are waiting for the source.
    waiting_since: Mutex<Option<Instant>>,
    failure: Mutex<Option<Error>>,
}

impl UploadProgress {
    pub(crate) fn new(size: u64) -> Arc<Self> {
        Arc::new(UploadProgress { size, given: AtomicU64::new(0), waiting_since: Mutex::default(), failure: Mutex::default() })
    }

    /// The request leaves now.
    pub(super) fn begin(&self) {
        self.set_waiting(Some(Instant::now()));
    }

    /// Whether every byte has been handed over.
    pub(crate) fn complete(&self) -> bool {
        self.given() >= self.size
    }

    /// How many bytes have been handed over.
    pub(crate) fn given(&self) -> u64 {
        self.given.load(Ordering::SeqCst)
    }

    /// The source's failure, if that is why the body ended early.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().take()
    }

    fn set_waiting(&self, since: Option<Instant>) {
        *self.waiting_since.lock() = since;
    }

    /// Comes back when the registry has taken nothing, and said nothing, for too long.
    pub(super) async fn silence(&self, idle: Duration) -> String {
        loop {
            let since = *self.waiting_since.lock();
            let allowed = if self.complete() { idle + commit_time(self.size) } else { idle };
            let deadline = since.unwrap_or_else(Instant::now) + allowed;
            if since.is_some() && deadline <= Instant::now() {
                return silence(allowed);
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// The body of an upload: a verified stream whose failure is kept where the uploader finds it (what the HTTP library makes of
/// it is "connection closed"), and whose bytes are counted.
pub(crate) struct UploadBody {
    /// Until when nothing is given.
    held: Option<Pin<Box<Sleep>>>,
    /// What is given then: it has been taken from the source, and drawn from the bandwidth.
    ready: Option<Bytes>,
    bandwidth: BandwidthStack,
    inner: Verified,
    /// Bytes at the beginning of `inner` that the registry has.
    skip: u64,
    progress: Arc<UploadProgress>,
    tally: Arc<TransferStats>,
}

impl UploadBody {
    pub(crate) fn new(inner: Verified, progress: Arc<UploadProgress>, tally: Arc<TransferStats>, bandwidth: BandwidthStack) -> Self {
        UploadBody { held: None, ready: None, bandwidth, inner, skip: 0, progress, tally }
    }

    /// Leaves out the first `bytes`, which the registry has.
    #[must_use]
    pub(crate) fn skip(mut self, bytes: u64) -> Self {
        self.skip = bytes;
        self
    }

    /// Gives nothing for `pause` from now on: a server that decides by the headers alone can answer in that time.
    #[must_use]
    pub(crate) fn hold(mut self, pause: Duration) -> Self {
        self.held = Some(Box::pin(tokio::time::sleep(pause)));
        self
    }
}

impl Stream for UploadBody {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.progress.set_waiting(None);
        let item = loop {
            if let Some(held) = &mut self.held {
                ready!(held.as_mut().poll(cx));
                self.held = None;
            }
            if let Some(chunk) = self.ready.take() {
                break Some(Ok(chunk));
            }
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(mut chunk)) => {
                    let skipped = chunk.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                    chunk.advance(skipped);
                    self.skip -= skipped as u64;
                    if chunk.is_empty() {
                        continue;
                    }
                    self.held = self.bandwidth.draw(chunk.len() as u64).map(|at| Box::pin(tokio::time::sleep_until(at)));
                    self.ready = Some(chunk);
                }
                end => break end,
            }
        };
        self.progress.set_waiting(Some(Instant::now()));
        Poll::Ready(match item {
            Some(Ok(chunk)) => {
                let count = chunk.len() as u64;
                self.progress.given.fetch_add(count, Ordering::SeqCst);
                self.tally.add_written(count);
                Some(Ok(chunk))
            }
            Some(Err(error)) => {
                *self.progress.failure.lock() = Some(error);
                Some(Err(std::io::Error::other("the source failed")))
            }
            None => None,
        })
    }
}

/// The body of a refusal, which explains it, comes with its status. One that takes longer than this is not read.
const ERROR_BODY: Duration = Duration::from_secs(10);

/// As much of a refusal's body as arrives in a short time, at most `idle`.
pub(super) async fn error_body(response: &mut Response, idle: Duration) -> Bytes {
    let mut body = Vec::new();
    let deadline = Instant::now() + idle.min(ERROR_BODY);
    while body.len() < MAX_ERROR_BODY
        && let Ok(Ok(Some(chunk))) = tokio::time::timeout_at(deadline, response.chunk()).await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BODY - body.len())]);
    }
    body.into()
}

#[cfg(test)]
mod tests {
    use super::super::min_rate::MinRate;
    use super::super::permit::Permits;
    use super::*;
    use crate::Operation;
    use crate::content::{Descriptor, Digest};
    use crate::registry::request::{ConnectionKind, PermitRequest};
    use crate::{Kind, Side};
    use futures_util::{StreamExt, stream};

    /// An answer whose body is `bytes` bytes, one every `every`.
    async fn trickle(bytes: usize, every: Duration) -> OpenResponse {
        let drops = stream::iter(0..bytes).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
        });
        let response = axum::http::Response::new(reqwest::Body::wrap_stream(drops));
        OpenResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            url: Url::parse("https://registry.example/").unwrap(),
            sent: Instant::now(),
            quota: Quota::default(),
            response: Response::from(response),
            idle: Duration::from_secs(60),
            elsewhere: None,
            meter: RateMeter::new(MinRate::default()),
            bandwidth: BandwidthStack::new(None, None),
            permit: Permits::new(1).take(PermitRequest::Fresh, ConnectionKind::Small).await,
            measured_at_end: false,
            received: 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_answer_that_trickles_ends_after_a_minute() {
        let began = Instant::now();
        let mut answer = trickle(usize::MAX, Duration::from_secs(11)).await;
        let Err(BodyError::Slow(why)) = answer.whole(1 << 20).await else { panic!("it was read") };
        assert_eq!((why.as_str(), began.elapsed().as_secs()), ("the answer did not end within 60 s; 5 bytes came", 60));
        // Within its time, it may come as it likes.
        assert_eq!(trickle(5, Duration::from_secs(10)).await.whole(1 << 20).await.unwrap().len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_answer_that_falls_silent_is_told_from_one_that_trickles() {
        let mut answer = trickle(2, Duration::from_secs(61)).await;
        assert!(matches!(answer.whole(1 << 20).await, Err(BodyError::Trouble(RetryableError::Broken(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_that_trickles_is_broken_off_after_a_minute() {
        let began = Instant::now();
        let mut answer = trickle(usize::MAX, Duration::from_secs(10)).await;
        let trouble = loop {
            if let Err(trouble) = answer.chunk().await {
                break trouble;
            }
        };
        assert_eq!(began.elapsed().as_secs(), 60);
        let RetryableError::Lost(why) = trouble else { panic!("{trouble:?}") };
        assert_eq!(why.to_string(), "only 6 bytes came in 60 s, which is slower than min_rate (1.0 KiB/s)");
    }

    fn feed(progress: &Arc<UploadProgress>, chunks: Vec<crate::Result<Bytes>>) -> UploadBody {
        let blob = Descriptor::new("x", Digest::sha256(b"abcd"), 4);
        let verified = Verified::whole(stream::iter(chunks).boxed(), &blob, Side::Upstream).unwrap();
        UploadBody::new(verified, Arc::clone(progress), Arc::default(), BandwidthStack::new(None, None))
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_takes_nothing_is_noticed_and_a_slow_source_is_not() {
        let idle = Duration::from_secs(60);
        let progress = UploadProgress::new(4);
        progress.begin();
        let began = Instant::now();
        progress.silence(idle).await;
        assert_eq!(began.elapsed(), idle);
        progress.set_waiting(None);
        assert!(tokio::time::timeout(idle * 60, progress.silence(idle)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_may_think_about_a_large_blob() {
        let progress = UploadProgress::new(COMMIT_RATE * 100);
        progress.begin();
        progress.given.store(COMMIT_RATE * 100, Ordering::SeqCst);
        let began = Instant::now();
        progress.silence(Duration::from_secs(60)).await;
        assert_eq!(began.elapsed().as_secs(), 160);
    }

    #[tokio::test]
    async fn the_sources_own_error_is_kept() {
        let progress = UploadProgress::new(4);
        let broken = Error::new(Side::Upstream, Operation::GetBlob, Kind::Unavailable, "it broke");
        let mut feed = feed(&progress, vec![Ok(Bytes::from_static(b"ab")), Err(broken)]);
        while feed.next().await.is_some_and(|item| item.is_ok()) {}
        assert_eq!(progress.take_failure().unwrap().message(), "it broke");
        assert!(!progress.complete());
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_body_waits_before_its_first_byte() {
        let progress = UploadProgress::new(4);
        let began = Instant::now();
        let mut feed = feed(&progress, vec![Ok(Bytes::from_static(b"abcd"))]).hold(Duration::from_millis(250));
        assert!(feed.next().await.unwrap().is_ok());
        assert_eq!(began.elapsed(), Duration::from_millis(250));
    }

    #[tokio::test]
    async fn a_whole_body_is_counted_complete() {
        let progress = UploadProgress::new(4);
        let mut feed = feed(&progress, vec![Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"cd"))]);
        while feed.next().await.is_some() {}
        assert!(progress.complete() && feed.tally.bytes_written() == 4);
    }
}
