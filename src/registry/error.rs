//! Errors of registries: what they answered, what it means, and what its reader can do.

use std::time::Duration;

use jiff::Timestamp;
use oci_client::errors::{OciEnvelope, OciError};
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::remedy;
use super::toll;
use super::transport::{RetryBudget, RetryableError};
use crate::config::profiles::Profile;
use crate::content::Repository;
use crate::limits::{self, Deferred, Throttle};
use crate::{Error, Kind, Side};

/// As much of an error's body is read: what a registry has to say fits, a web page or an endless body does not cost more
/// (ggcr's `maxErrorBodySize`).
pub(crate) const MAX_ERROR_BODY: usize = 64 * 1024;

/// What a request is about, as messages name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestTopic<'a> {
    pub(crate) side: Side,
    pub(crate) operation: &'static str,
    /// The registry's name.
    pub(crate) host: &'a str,
    /// What kind of registry it is.
    pub(crate) profile: &'static Profile,
    /// Whom the registry sees.
    pub(crate) account: &'a str,
    /// The repository.
    pub(crate) repository: Option<&'a Repository>,
    /// The image on whose behalf it is asked.
    pub(crate) image: &'a str,
}

impl RequestTopic<'_> {
    /// An error about this.
    pub(crate) fn error(&self, kind: Kind, message: impl AsRef<str>) -> Error {
        Error::new(self.side, self.operation, kind, message).subject(self.image).host(self.host)
    }
}

/// An answer that is not what was asked for: its status, and what can be made of its body.
#[derive(Debug, Clone)]
pub(crate) struct ErrorAnswer {
    pub(crate) status: u16,
    /// The first error's code, in capitals (Docker Hub writes `toomanyrequests`).
    pub(crate) code: Option<String>,
    /// The codes of all errors: a registry may list one for each missing blob.
    pub(crate) codes: Vec<String>,
    /// One line for a person, possibly empty.
    pub(crate) message: String,
    /// How long the host asks to be left alone.
    pub(crate) retry_after: Option<Duration>,
    /// It is the account's pull window that is spent: no haste of ours.
    pub(crate) pulls_spent: bool,
    /// The host that answered, if the registry redirected to another.
    pub(crate) foreign: Option<String>,
    /// The host that answered, if it is not the registry itself, however we came to it.
    pub(crate) elsewhere: Option<String>,
    /// How the host wants us to log in.
    pub(crate) challenges: Vec<HeaderValue>,
    /// What it says of the connection, beside HTTP.
    pub(crate) hint: Option<Hint>,
}

/// What servers say of a connection that is not what they expect, in a 400 (nginx, Go, Apache).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// It got plain HTTP where it speaks TLS.
    SpeaksTls,
    /// It wants a client certificate.
    WantsCertificate,
}

impl Hint {
    fn read(status: u16, body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body).to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        if status != 400 {
            None
        } else if says(&["http request to an https server", "plain http request was sent to https port", "plain http to an ssl-enabled"]) {
            Some(Hint::SpeaksTls)
        } else if says(&["no required ssl certificate was sent", "ssl certificate error"]) {
            Some(Hint::WantsCertificate)
        } else {
            None
        }
    }
}

impl ErrorAnswer {
    /// Reads an answer's status, headers and body (of which the first 64 KiB are enough).
    pub(crate) fn read(status: u16, headers: &HeaderMap, body: &[u8], foreign: Option<String>, now: Timestamp) -> Self {
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|value| limits::retry_after(value, now));
        let errors = serde_json::from_slice::<OciEnvelope>(body).map(|envelope| envelope.errors).unwrap_or_default();
        let codes: Vec<String> = errors.iter().map(code).collect();
        let message = match errors.first() {
            Some(first) => words(first),
            None => summary(body),
        };
        let wrapped = errors.iter().flat_map(wrapped).any(|error| code(&error) == "TOOMANYREQUESTS");
        let throttled = status == 429 || wrapped || codes.iter().any(|code| code == "TOOMANYREQUESTS");
        // GHCR says how long in the message (docs/registries.md, "GitHub").
        let retry_after = retry_after.or_else(|| if throttled { limits::retry_after_in_message(&message) } else { None });
        let pulls_spent = throttled && foreign.is_none() && is_spent(headers, body);
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect();
        let hint = Hint::read(status, body);
        let elsewhere = foreign.clone();
        ErrorAnswer { status, code: codes.first().cloned(), codes, message, retry_after, pulls_spent, foreign, elsewhere, challenges, hint }
    }

    fn has(&self, code: &str) -> bool {
        self.codes.iter().any(|found| found == code)
    }

    /// Status and message, whoever answered.
    pub(crate) fn plain_words(&self) -> String {
        let said = ErrorAnswer { foreign: None, ..self.clone() }.words();
        format!("{} {said}", self.status)
    }

    /// The message, or the status's own name where there is none.
    pub(crate) fn words(&self) -> String {
        let standard = || {
            let name = reqwest::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
            name.map_or_else(|| "no reason was given".to_owned(), str::to_lowercase)
        };
        let said = if self.message.is_empty() { standard() } else { self.message.clone() };
        match &self.foreign {
            Some(host) => format!("the registry redirected to {host}, which answered: {said}"),
            None => said,
        }
    }
}

/// Whether a 429 is about pulls. The answer to a HEAD has no body to say so, but headers that do.
fn is_spent(headers: &HeaderMap, body: &[u8]) -> bool {
    match body {
        [] => toll::quota(headers).remaining == Some(0),
        body => matches!(limits::classify(&String::from_utf8_lossy(body)), Throttle::PullLimit { .. }),
    }
}

/// The code as the specification writes it.
fn code(error: &OciError) -> String {
    match serde_json::to_value(&error.code) {
        Ok(serde_json::Value::String(code)) => code.to_ascii_uppercase(),
        _ => "UNKNOWN".to_owned(),
    }
}

/// The errors that an error's detail repeats: a cache may wrap its upstream's (Distribution's proxy answers a 429 of its upstream
/// with 500 `UNKNOWN`, and the upstream's errors as the detail).
fn wrapped(error: &OciError) -> Vec<OciError> {
    OciEnvelope::deserialize(&error.detail).map(|envelope| envelope.errors).unwrap_or_default()
}

/// An error's message, with its detail where that is text, or another error, and says more.
fn words(error: &OciError) -> String {
    let wrapped = wrapped(error);
    let detail = wrapped.first().map(|inner| inner.message.as_str()).or(error.detail.as_str());
    match detail {
        Some(detail) if error.message.is_empty() => detail.to_owned(),
        Some(detail) if !detail.is_empty() && !error.message.contains(detail) => format!("{}: {detail}", error.message),
        _ => error.message.clone(),
    }
}

/// One line out of a body that is no OCI envelope: JSON of another shape, a web page, or text.
fn summary(body: &[u8]) -> String {
    /// Enough for a sentence of plain text; what is longer is rarely one.
    const MOST: usize = 300;
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.starts_with('<') {
        return "it answered with a web page (HTML)".to_owned();
    }
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(text) {
        let member = |value: &serde_json::Value| {
            ["message", "error_description", "error", "details"].iter().find_map(|key| value.get(key)?.as_str().map(str::to_owned))
        };
        let first = json.get("errors").and_then(|errors| errors.get(0));
        return first.and_then(member).or_else(|| member(&json)).unwrap_or_default();
    }
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The error that a final refusal is.
pub(crate) fn refused(topic: &RequestTopic<'_>, refusal: &ErrorAnswer) -> Error {
    detailed(topic, refusal, refusal.words())
}

fn detailed(topic: &RequestTopic<'_>, refusal: &ErrorAnswer, message: String) -> Error {
    let error = topic.error(kind_of(topic.operation, refusal), message).status(refusal.status);
    let error = match &refusal.code {
        Some(code) => error.code(code),
        None => error,
    };
    match remedy::of(topic, refusal) {
        Some(remedy) => error.remedy(remedy),
        None => error,
    }
}

/// The error of a 401 that no login helps against: what the registry said, and what the login said.
pub(crate) fn unauthorized(topic: &RequestTopic<'_>, refusal: &ErrorAnswer, login: &Error) -> Error {
    let message = format!("{}; {}", refusal.words(), login.message());
    let error = topic.error(Kind::Unauthorized, message).status(refusal.status).with_cause(login.cause());
    let error = match refusal.code.as_deref().or(login.registry_code()) {
        Some(code) => error.code(code),
        None => error,
    };
    match remedy::beyond_login(topic, refusal) {
        Some(remedy) => error.remedy(remedy),
        None => error,
    }
}

/// The error that is left when patience is at its end.
pub(crate) fn exhausted(topic: &RequestTopic<'_>, patience: &RetryBudget, trouble: &RetryableError) -> Error {
    let attempts = patience.attempts();
    let after =
        format!("{attempts} attempt{} in {:.1} s", if attempts == 1 { "" } else { "s" }, patience.started().elapsed().as_secs_f64());
    match trouble {
        RetryableError::Broken(cause) => topic.error(Kind::Unavailable, format!("no answer after {after}: {cause}")),
        RetryableError::BrokenElsewhere(host, cause) => {
            topic.error(Kind::Unavailable, format!("no answer from {host} after {after}: {cause}"))
        }
        RetryableError::Hopeless(cause) => topic.error(Kind::Unavailable, cause),
        RetryableError::Lost(cause) => topic.error(Kind::Unavailable, format!("still so after {after}: {cause}")),
        RetryableError::Answer(refusal) => detailed(topic, refusal, format!("still so after {after}: {}", refusal.words())),
    }
}

/// The error of work that the host has asked to be left alone for longer than anybody waits.
pub(crate) fn told_to_wait(topic: &RequestTopic<'_>, pause: Duration) -> Error {
    let seconds = pause.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
    let length = if hours > 0 { format!("{hours} h {minutes} min") } else { format!("{minutes} min {} s", seconds % 60) };
    let until = Timestamp::now().checked_add(pause).ok();
    deferred(topic, &Deferred { reason: format!("{} asks to be left alone for another {length}", topic.host), until })
}

/// The error of work that waits for more than this run does.
pub(crate) fn deferred(topic: &RequestTopic<'_>, why: &Deferred) -> Error {
    let error = topic.error(Kind::Deferred, &why.reason).waiting_until(why.until);
    error.remedy("run the same command again then: it goes on where it stopped")
}

/// Operations that put something, for which a missing repository is no missing content.
pub(crate) fn is_push(operation: &str) -> bool {
    matches!(operation, "start upload" | "upload blob" | "mount blob" | "put manifest")
}

/// What a refusal means to the code that goes on from there.
fn kind_of(operation: &str, refusal: &ErrorAnswer) -> Kind {
    let upload = matches!(operation, "start upload" | "upload blob");
    let put = operation == "put manifest";
    let blob_missing = refusal.has("MANIFEST_BLOB_UNKNOWN")
        || refusal.has("BLOB_UNKNOWN")
        || refusal.has("MANIFEST_UNKNOWN")
        || refusal.has("MANIFEST_INVALID") && refusal.message.to_ascii_lowercase().contains("blob unknown");
    match refusal.status {
        400..=499 if put && blob_missing => Kind::ContentMissing,
        400..=499 if upload && (refusal.has("BLOB_UPLOAD_INVALID") || refusal.has("BLOB_UPLOAD_UNKNOWN")) => Kind::UploadLost,
        416 if upload => Kind::UploadLost,
        429 => Kind::Limited,
        _ if refusal.has("TOOMANYREQUESTS") => Kind::Limited,
        401 => Kind::Unauthorized,
        501 => Kind::Refused,
        404 | 410 if !is_push(operation) => Kind::NotFound,
        500..=599 | 408 | 424 | 499 => Kind::Unavailable,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> ErrorAnswer {
        ErrorAnswer::read(status, &HeaderMap::new(), body.as_bytes(), None, Timestamp::UNIX_EPOCH)
    }

    fn envelope(code: &str, message: &str) -> String {
        format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{message}\"}}]}}")
    }

    #[test]
    fn bodies_of_every_kind_become_one_line() {
        let long = "x".repeat(5000);
        for (body, code, message) in [
            (envelope("MANIFEST_UNKNOWN", "manifest unknown"), Some("MANIFEST_UNKNOWN"), "manifest unknown"),
            (
                envelope("toomanyrequests", "You have reached your pull rate limit."),
                Some("TOOMANYREQUESTS"),
                "You have reached your pull rate limit.",
            ),
            (envelope("ARTIFACT_LOCKED", "locked"), Some("ARTIFACT_LOCKED"), "locked"),
            ("{\"errors\":[{\"code\":\"DENIED\",\"message\":\"\",\"detail\":\"quota\"}]}".to_owned(), Some("DENIED"), "quota"),
            ("{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\",\"detail\":\"quota\"}]}".to_owned(), Some("DENIED"), "no: quota"),
            ("{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\",\"detail\":[1]}]}".to_owned(), Some("DENIED"), "no"),
            (
                "{\"errors\":[{\"code\":\"UNKNOWN\",\"message\":\"unknown error\",\"detail\":{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"slow down\"}]}}]}"
                    .to_owned(),
                Some("UNKNOWN"),
                "unknown error: slow down",
            ),
            ("{\"errors\":[]}".to_owned(), None, "bad gateway"),
            ("{\"errors\":[{\"message\":\"without code\"}]}".to_owned(), None, "without code"),
            ("{\"details\":\"incorrect username or password\"}".to_owned(), None, "incorrect username or password"),
            ("<!DOCTYPE html><html>login</html>".to_owned(), None, "it answered with a web page (HTML)"),
            ("Too Many Requests\n".to_owned(), None, "Too Many Requests"),
            (String::new(), None, "bad gateway"),
        ] {
            let refusal = refusal(502, &body);
            assert_eq!((refusal.code.as_deref(), refusal.words().as_str()), (code, message), "{body}");
        }
        assert_eq!(refusal(502, &long).words().chars().count(), 301);
    }

    #[test]
    fn kinds() {
        for (operation, status, code, message, kind) in [
            ("get manifest", 404, "MANIFEST_UNKNOWN", "", Kind::NotFound),
            ("get blob", 404, "BLOB_UNKNOWN", "", Kind::NotFound),
            ("list tags", 404, "NAME_UNKNOWN", "", Kind::NotFound),
            ("get manifest", 401, "UNAUTHORIZED", "", Kind::Unauthorized),
            ("get manifest", 403, "DENIED", "", Kind::Refused),
            ("put manifest", 400, "MANIFEST_BLOB_UNKNOWN", "", Kind::ContentMissing),
            ("put manifest", 404, "MANIFEST_BLOB_UNKNOWN", "", Kind::ContentMissing),
            ("put manifest", 404, "MANIFEST_UNKNOWN", "", Kind::ContentMissing),
            ("put manifest", 400, "MANIFEST_INVALID", "manifest invalid: blob unknown to registry", Kind::ContentMissing),
            ("put manifest", 400, "MANIFEST_INVALID", "schema", Kind::Refused),
            ("put manifest", 404, "NAME_UNKNOWN", "", Kind::Refused),
            ("put manifest", 412, "PRECONDITION", "", Kind::Refused),
            ("start upload", 404, "NAME_UNKNOWN", "", Kind::Refused),
            ("upload blob", 404, "BLOB_UPLOAD_UNKNOWN", "", Kind::UploadLost),
            ("upload blob", 400, "BLOB_UPLOAD_INVALID", "", Kind::UploadLost),
            ("upload blob", 416, "RANGE_INVALID", "", Kind::UploadLost),
            ("get blob", 416, "RANGE_INVALID", "", Kind::Refused),
            ("upload blob", 400, "DIGEST_INVALID", "", Kind::Refused),
            ("upload blob", 413, "", "", Kind::Refused),
            ("get manifest", 429, "TOOMANYREQUESTS", "", Kind::Limited),
            ("get manifest", 403, "TOOMANYREQUESTS", "", Kind::Limited),
            ("get manifest", 503, "UNAVAILABLE", "", Kind::Unavailable),
            ("list tags", 500, "", "", Kind::Unavailable),
            ("list tags", 501, "", "", Kind::Refused),
        ] {
            assert_eq!(kind_of(operation, &refusal(status, &envelope(code, message))), kind, "{operation} {status} {code}");
        }
    }

    #[test]
    fn a_missing_child_among_other_errors_is_seen() {
        let both =
            "{\"errors\":[{\"code\":\"MANIFEST_INVALID\",\"message\":\"x\"},{\"code\":\"MANIFEST_BLOB_UNKNOWN\",\"message\":\"y\"}]}";
        assert_eq!(kind_of("put manifest", &refusal(400, both)), Kind::ContentMissing);
    }

    #[test]
    fn an_error_names_everything_and_cannot_write_to_the_terminal() {
        let topic = RequestTopic {
            side: Side::Upstream,
            operation: "get manifest",
            host: "quay.io",
            profile: &crate::config::profiles::UNKNOWN,
            account: "anonymous",
            repository: None,
            image: "quay.io/a/b:1",
        };
        let error = refused(&topic, &refusal(404, &envelope("MANIFEST_UNKNOWN", "gone\\u001b[2J")));
        assert_eq!(error.to_string(), "upstream: get manifest quay.io/a/b:1: 404 MANIFEST_UNKNOWN gone\\u{1b}[2J");
    }

    #[test]
    fn a_wait_is_told_in_hours_and_minutes() {
        let profile = &crate::config::profiles::UNKNOWN;
        let topic = RequestTopic {
            side: Side::Upstream,
            operation: "get blob",
            host: "quay.io",
            profile,
            account: "a",
            repository: None,
            image: "i",
        };
        assert!(told_to_wait(&topic, Duration::from_secs(6 * 3600 + 61)).message().contains("another 6 h 1 min"));
        assert!(told_to_wait(&topic, Duration::from_secs(301)).message().contains("another 5 min 1 s"));
    }

    #[test]
    fn retry_after_is_read_from_the_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("17"));
        let refusal = ErrorAnswer::read(429, &headers, b"", None, Timestamp::UNIX_EPOCH);
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(17)));
    }

    #[test]
    fn retry_after_is_read_from_ghcrs_message() {
        let body = envelope("TOOMANYREQUESTS", "retry-after: 10.5ms, allowed: 2000/minute");
        assert_eq!(refusal(429, &body).retry_after, Some(Duration::from_micros(10_500)));
        assert_eq!(refusal(404, &body.replace("TOOMANYREQUESTS", "NAME_UNKNOWN")).retry_after, None);
    }

    #[test]
    fn a_spent_window_is_told_from_haste() {
        let spent = envelope("TOOMANYREQUESTS", "You have reached your pull rate limit.");
        assert!(refusal(429, &spent).pulls_spent);
        assert!(
            !refusal(429, "Too Many Requests").pulls_spent
                && !refusal(429, "").pulls_spent
                && !refusal(503, &spent.replace("TOO", "X")).pulls_spent
        );
        // As Distribution's proxy and the artifact cache pass it on.
        let wrapped = format!("{{\"errors\":[{{\"code\":\"UNKNOWN\",\"message\":\"unknown error\",\"detail\":{spent}}}]}}");
        assert!(refusal(500, &wrapped).pulls_spent && !refusal(500, &wrapped.replace("TOOM", "M")).pulls_spent);
        assert!(refusal(429, &envelope("TOOMANYREQUESTS", "too many requests to source registry for cache rule hub")).pulls_spent);
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-remaining", HeaderValue::from_static("0;w=21600"));
        assert!(ErrorAnswer::read(429, &headers, b"", None, Timestamp::UNIX_EPOCH).pulls_spent);
        assert!(!ErrorAnswer::read(429, &headers, b"Too Many Requests", None, Timestamp::UNIX_EPOCH).pulls_spent);
        assert!(!ErrorAnswer::read(429, &headers, b"", Some("cdn".to_owned()), Timestamp::UNIX_EPOCH).pulls_spent);
    }
}
