//! A registry's answer that is not what was asked for: its status, and what its headers and body say.

use std::time::Duration;

use jiff::Timestamp;
use oci_client::errors::{OciEnvelope, OciError};
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::pull_meter::quota;
use crate::limits::{self, Throttle};

/// As much of an error's body is read: what a registry has to say fits, a web page or an endless body does not cost more
/// (ggcr's `maxErrorBodySize`).
pub(crate) const MAX_ERROR_BODY: usize = 64 * 1024;

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
    /// The pause that the host asks for.
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

    pub(crate) fn has(&self, code: &str) -> bool {
        self.codes.iter().any(|found| found == code)
    }

    /// Status and message, of any host.
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
        [] => quota(headers).remaining == Some(0),
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
