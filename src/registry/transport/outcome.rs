//! What a request, an attempt at it, or a single hop came to.

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::HeaderValue;
use tokio::time::Instant;
use url::Url;

use super::body::OpenResponse;
use super::classify::RetryableError;
use crate::Error;
use crate::limits::{Permit, Quota};
use crate::registry::error_answer::ErrorAnswer;

/// What a request came to.
pub(crate) enum SendOutcome {
    /// A 2xx answer; its body is still to be read.
    Answer(Box<OpenResponse>),
    /// A final refusal, and its body.
    Refused(ErrorAnswer, Bytes),
}

/// What one attempt came to.
pub(crate) enum AttemptOutcome {
    /// A 2xx answer; its body is still to be read.
    Answer(Box<OpenResponse>),
    /// A final refusal, and its body.
    Refused(ErrorAnswer, Bytes),
    /// A failure that another attempt may mend, and when the failed one was sent.
    Retryable(RetryableError, Instant),
    /// 401, and a login that has not been tried: the same request may be sent again with it.
    LoggedIn(HeaderValue),
    /// Nothing was sent: the pull window was found to be spent while the request waited for its permit.
    NotSent,
}

/// An answer at the end of its redirects.
pub(super) struct RedirectReply {
    pub(super) response: Response,
    pub(super) url: Url,
    /// What the registry's own answer, or redirect, said about pulls.
    pub(super) quota: Quota,
    /// The host that gave it, if the registry redirected there.
    pub(super) foreign: Option<String>,
    /// The host that gave it, if it is not the registry itself.
    pub(super) elsewhere: Option<String>,
}

/// Why there is no answer.
pub(super) enum SendError {
    /// Another attempt may get one.
    Retryable(RetryableError),
    /// No further attempt will get one.
    Fatal(Error),
}

impl From<RetryableError> for SendError {
    fn from(trouble: RetryableError) -> Self {
        SendError::Retryable(trouble)
    }
}

/// A request that was sent: its permit, when, and the size of its body.
pub(super) struct SentRequest {
    pub(super) permit: Permit,
    pub(super) sent: Instant,
    pub(super) size: u64,
}
