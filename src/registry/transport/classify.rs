//! What an answer, or its absence, means.

use std::time::Duration;

use super::cause::Cause;
use crate::error::ErrorSource;
use crate::registry::error_answer::ErrorAnswer;

/// What to do about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseClass {
    /// It is what was asked for.
    Done,
    /// Ask again. `throttled`: the host says that we ask too much.
    Retry {
        /// Whether it is our pace that the host complains of.
        throttled: bool,
    },
    /// It will not get better.
    Fail,
}

/// An attempt that did not bring what was asked for, and is worth another.
#[derive(Debug, Clone)]
pub(crate) enum RetryableError {
    /// An answer that says: not now.
    Answer(ErrorAnswer),
    /// No answer of the registry, or not all of it; the cause in words.
    Broken(Cause),
    /// The same at another host, to which the registry sent us: that host, and the cause.
    BrokenElsewhere(String, Cause),
    /// No usable answer, and another attempt would go the same way; the cause in words.
    Hopeless(Cause),
    /// It went wrong in a way that is about this piece of work alone; how, in words.
    Lost(Cause),
}

impl RetryableError {
    /// A connection that broke: to the registry, or to the host that it sent us to.
    pub(crate) fn broken(elsewhere: Option<&str>, cause: impl Into<Cause>) -> Self {
        match elsewhere {
            Some(host) => RetryableError::BrokenElsewhere(host.to_owned(), cause.into()),
            None => RetryableError::Broken(cause.into()),
        }
    }
    /// Whether the connection broke.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, RetryableError::Broken(_) | RetryableError::BrokenElsewhere(..))
    }
    /// Whether it says something about the host that it happened at, so that all who speak to it should know. A redirect that has
    /// expired and an upload session that is gone do not.
    pub(crate) fn is_the_hosts(&self) -> bool {
        match self {
            RetryableError::Answer(refusal) => {
                matches!(classify(refusal.status, refusal.code.as_deref(), false), ResponseClass::Retry { .. })
            }
            RetryableError::Broken(_) | RetryableError::BrokenElsewhere(..) | RetryableError::Hopeless(_) => true,
            RetryableError::Lost(_) => false,
        }
    }
    /// The host that it happened at, if that is not the registry.
    pub(crate) fn elsewhere(&self) -> Option<&str> {
        match self {
            RetryableError::Answer(refusal) => refusal.elsewhere.as_deref(),
            RetryableError::BrokenElsewhere(host, _) => Some(host),
            RetryableError::Broken(_) | RetryableError::Hopeless(_) | RetryableError::Lost(_) => None,
        }
    }
    /// Whether the host said that we ask too much.
    pub(crate) fn is_throttled(&self) -> bool {
        match self {
            RetryableError::Answer(refusal) => {
                classify(refusal.status, refusal.code.as_deref(), false) == (ResponseClass::Retry { throttled: true })
            }
            _ => false,
        }
    }
    /// The same at a host that is not the registry: only the work that met it waits.
    pub(crate) fn of_external_url(self) -> Self {
        match self {
            RetryableError::Answer(refusal) => RetryableError::Lost(refusal.plain_words().into()),
            RetryableError::Broken(cause)
            | RetryableError::BrokenElsewhere(_, cause)
            | RetryableError::Hopeless(cause)
            | RetryableError::Lost(cause) => RetryableError::Lost(cause),
        }
    }
    /// What went wrong, in words.
    pub(crate) fn plain_words(&self) -> String {
        match self {
            RetryableError::Answer(refusal) => refusal.plain_words(),
            RetryableError::BrokenElsewhere(host, cause) => format!("{host}: {cause}"),
            RetryableError::Broken(cause) | RetryableError::Hopeless(cause) | RetryableError::Lost(cause) => cause.to_string(),
        }
    }
    /// The library's error below it, if there was no answer.
    pub(crate) fn source(&self) -> Option<ErrorSource> {
        match self {
            RetryableError::Answer(_) => None,
            RetryableError::Broken(cause)
            | RetryableError::BrokenElsewhere(_, cause)
            | RetryableError::Hopeless(cause)
            | RetryableError::Lost(cause) => cause.source(),
        }
    }
    /// What the host asked for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            RetryableError::Answer(refusal) => refusal.retry_after,
            _ => None,
        }
    }
    /// The status, where there was an answer.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            RetryableError::Answer(refusal) => Some(refusal.status),
            _ => None,
        }
    }
}

/// Judges an answer by its status and the registry's error code; `foreign`: it came from a host that the registry
/// redirected to.
///
/// Retried are 408, 424, 429, 499 (nginx: the client closed the request, which happens to a proxy's upstream side) and 5xx but 501;
/// whatever says `TOOMANYREQUESTS` or `UNAVAILABLE` (docs/registries.md, "Errors"), as some gateways do with other statuses; and 400, 401 and 403 of
/// a redirect's target, because signed addresses expire (403 at S3 and Azure, 400 `ExpiredToken` at Google) and the registry gives a fresh one.
pub(crate) fn classify(status: u16, code: Option<&str>, foreign: bool) -> ResponseClass {
    match (status, code) {
        (200..=299, _) => ResponseClass::Done,
        (429 | 503, _) | (_, Some("TOOMANYREQUESTS")) => ResponseClass::Retry { throttled: true },
        // The server does not have this method, and will not have it in a minute (RFC 9110, 15.6.2).
        (501, _) => ResponseClass::Fail,
        // 424: a cache's upstream did not answer it (Azure/acr#892).
        (408 | 424 | 499 | 500..=599, _) | (_, Some("UNAVAILABLE")) => ResponseClass::Retry { throttled: false },
        (400 | 401 | 403, _) if foreign => ResponseClass::Retry { throttled: false },
        _ => ResponseClass::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: ResponseClass = ResponseClass::Retry { throttled: false };
    const THROTTLED: ResponseClass = ResponseClass::Retry { throttled: true };

    #[test]
    fn verdicts() {
        for (status, code, foreign, expected) in [
            (200, None, false, ResponseClass::Done),
            (201, None, false, ResponseClass::Done),
            (202, None, false, ResponseClass::Done),
            (206, None, true, ResponseClass::Done),
            (302, None, false, ResponseClass::Fail),
            (400, None, false, ResponseClass::Fail),
            (400, None, true, RETRY),
            (401, None, false, ResponseClass::Fail),
            (401, None, true, RETRY),
            (403, Some("DENIED"), false, ResponseClass::Fail),
            (403, None, true, RETRY),
            (404, Some("MANIFEST_UNKNOWN"), false, ResponseClass::Fail),
            (404, None, true, ResponseClass::Fail),
            (405, Some("UNSUPPORTED"), false, ResponseClass::Fail),
            (408, None, false, RETRY),
            (412, None, false, ResponseClass::Fail),
            (413, None, false, ResponseClass::Fail),
            (416, None, false, ResponseClass::Fail),
            (424, None, false, RETRY),
            (429, Some("TOOMANYREQUESTS"), false, THROTTLED),
            (429, None, true, THROTTLED),
            (403, Some("TOOMANYREQUESTS"), false, THROTTLED),
            (400, Some("UNAVAILABLE"), false, RETRY),
            (499, None, false, RETRY),
            (500, Some("UNKNOWN"), false, RETRY),
            (501, None, false, ResponseClass::Fail),
            (502, None, false, RETRY),
            (503, None, false, THROTTLED),
            (504, None, true, RETRY),
            (522, None, false, RETRY),
        ] {
            assert_eq!(classify(status, code, foreign), expected, "{status} {code:?} {foreign}");
        }
    }
}
