//! What an answer, or its absence, means.

use std::time::Duration;

use crate::registry::error::Refusal;

/// What to do about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
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
pub(crate) enum Trouble {
    /// An answer that says: not now.
    Answer(Refusal),
    /// No answer of the registry, or not all of it; the cause in words.
    Broken(String),
    /// The same at another host, to which the registry sent us: that host, and the cause.
    BrokenElsewhere(String, String),
    /// No usable answer, and another attempt would go the same way; the cause in words.
    Hopeless(String),
    /// It went wrong in a way that is about this piece of work alone; how, in words.
    Lost(String),
}

impl Trouble {
    /// A connection that broke: to the registry, or to the host that it sent us to.
    pub(crate) fn broken(elsewhere: Option<&str>, cause: impl Into<String>) -> Self {
        match elsewhere {
            Some(host) => Trouble::BrokenElsewhere(host.to_owned(), cause.into()),
            None => Trouble::Broken(cause.into()),
        }
    }
    /// Whether the connection broke.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Trouble::Broken(_) | Trouble::BrokenElsewhere(..))
    }
    /// Whether it says something about the host that it happened at, so that all who speak to it should know. A redirect that has
    /// expired and an upload session that is gone do not.
    pub(crate) fn is_the_hosts(&self) -> bool {
        match self {
            Trouble::Answer(refusal) => matches!(classify(refusal.status, refusal.code.as_deref(), false), Verdict::Retry { .. }),
            Trouble::Broken(_) | Trouble::BrokenElsewhere(..) | Trouble::Hopeless(_) => true,
            Trouble::Lost(_) => false,
        }
    }
    /// The host that it happened at, if that is not the registry.
    pub(crate) fn elsewhere(&self) -> Option<&str> {
        match self {
            Trouble::Answer(refusal) => refusal.elsewhere.as_deref(),
            Trouble::BrokenElsewhere(host, _) => Some(host),
            Trouble::Broken(_) | Trouble::Hopeless(_) | Trouble::Lost(_) => None,
        }
    }
    /// Whether the host said that we ask too much.
    pub(crate) fn is_throttled(&self) -> bool {
        match self {
            Trouble::Answer(refusal) => classify(refusal.status, refusal.code.as_deref(), false) == (Verdict::Retry { throttled: true }),
            _ => false,
        }
    }
    /// The same at a host that is not the registry: the work that met it waits, and nobody else.
    pub(crate) fn of_a_stranger(self) -> Self {
        match self {
            Trouble::Answer(refusal) => Trouble::Lost(refusal.plain_words()),
            Trouble::Broken(cause) | Trouble::BrokenElsewhere(_, cause) | Trouble::Hopeless(cause) | Trouble::Lost(cause) => {
                Trouble::Lost(cause)
            }
        }
    }
    /// What the host asked for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Trouble::Answer(refusal) => refusal.retry_after,
            _ => None,
        }
    }
    /// The status, where there was an answer.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Trouble::Answer(refusal) => Some(refusal.status),
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
pub(crate) fn classify(status: u16, code: Option<&str>, foreign: bool) -> Verdict {
    match (status, code) {
        (200..=299, _) => Verdict::Done,
        (429 | 503, _) | (_, Some("TOOMANYREQUESTS")) => Verdict::Retry { throttled: true },
        // The server does not have this method, and will not have it in a minute (RFC 9110, 15.6.2).
        (501, _) => Verdict::Fail,
        // 424: a cache's upstream did not answer it (Azure/acr#892).
        (408 | 424 | 499 | 500..=599, _) | (_, Some("UNAVAILABLE")) => Verdict::Retry { throttled: false },
        (400 | 401 | 403, _) if foreign => Verdict::Retry { throttled: false },
        _ => Verdict::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Verdict = Verdict::Retry { throttled: false };
    const THROTTLED: Verdict = Verdict::Retry { throttled: true };

    #[test]
    fn verdicts() {
        for (status, code, foreign, expected) in [
            (200, None, false, Verdict::Done),
            (201, None, false, Verdict::Done),
            (202, None, false, Verdict::Done),
            (206, None, true, Verdict::Done),
            (302, None, false, Verdict::Fail),
            (400, None, false, Verdict::Fail),
            (400, None, true, RETRY),
            (401, None, false, Verdict::Fail),
            (401, None, true, RETRY),
            (403, Some("DENIED"), false, Verdict::Fail),
            (403, None, true, RETRY),
            (404, Some("MANIFEST_UNKNOWN"), false, Verdict::Fail),
            (404, None, true, Verdict::Fail),
            (405, Some("UNSUPPORTED"), false, Verdict::Fail),
            (408, None, false, RETRY),
            (412, None, false, Verdict::Fail),
            (413, None, false, Verdict::Fail),
            (416, None, false, Verdict::Fail),
            (424, None, false, RETRY),
            (429, Some("TOOMANYREQUESTS"), false, THROTTLED),
            (429, None, true, THROTTLED),
            (403, Some("TOOMANYREQUESTS"), false, THROTTLED),
            (400, Some("UNAVAILABLE"), false, RETRY),
            (499, None, false, RETRY),
            (500, Some("UNKNOWN"), false, RETRY),
            (501, None, false, Verdict::Fail),
            (502, None, false, RETRY),
            (503, None, false, THROTTLED),
            (504, None, true, RETRY),
            (522, None, false, RETRY),
        ] {
            assert_eq!(classify(status, code, foreign), expected, "{status} {code:?} {foreign}");
        }
    }
}
