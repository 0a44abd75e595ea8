//! Errors of registry requests: what an answer means to the caller, and what its reader can do.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, LOCATION};
use url::Url;

use super::error_answer::ErrorAnswer;
use super::link;
use super::remedy;
use super::request::RequestTopic;
use super::transport::{Endpoint, RetryBudget, RetryableError};
use crate::limits::Deferred;
use crate::{Error, Kind, Operation};

/// The error of a final refusal.
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

/// The error of a 401 that remains after a login: the words of the registry, and of the login.
pub(crate) fn unauthorized(topic: &RequestTopic<'_>, refusal: &ErrorAnswer, login: &Error) -> Error {
    let message = format!("{}; {}", refusal.words(), login.message());
    let error = topic.error(Kind::Unauthorized, message).status(refusal.status).with_shared_cause(login.shared_cause());
    let error = match refusal.code.as_deref().or(login.registry_code()) {
        Some(code) => error.code(code),
        None => error,
    };
    match remedy::beyond_login(topic, refusal) {
        Some(remedy) => error.remedy(remedy),
        None => error,
    }
}

/// The error of a redirect that is not followed: of a request that writes, or without an address.
pub(crate) fn misdirected(topic: &RequestTopic<'_>, endpoint: &Endpoint, headers: &HeaderMap) -> Error {
    let to = headers.get(LOCATION).and_then(|value| Url::parse(&link::address(value)).ok());
    if let Some(url) = to.as_ref().filter(|url| endpoint.is_upgrade(url)) {
        return upgraded(topic, url);
    }
    let to = to.and_then(|url| url.host_str().map(str::to_owned)).map_or("nowhere".to_owned(), |host| format!("to {host}"));
    topic
        .error(Kind::Refused, format!("{} redirects this request {to}", topic.host))
        .remedy("if the registry has moved, name its address as `endpoint` in [registry]")
}

/// The error of a registry that redirects plain HTTP to https, where its login is not sent.
pub(crate) fn upgraded(topic: &RequestTopic<'_>, to: &Url) -> Error {
    topic.error(Kind::Refused, format!("{} redirects plain HTTP to https", topic.host)).remedy(format!(
        "set endpoint = \"{}\" in [registry.\"{}\"]",
        to.origin().ascii_serialization(),
        topic.host
    ))
}

/// The error of a request that has no attempt left.
pub(crate) fn exhausted(topic: &RequestTopic<'_>, patience: &RetryBudget, trouble: &RetryableError) -> Error {
    let attempts = patience.attempts();
    let after =
        format!("{attempts} attempt{} in {:.1} s", if attempts == 1 { "" } else { "s" }, patience.started().elapsed().as_secs_f64());
    let error = match trouble {
        RetryableError::Broken(cause) => topic.error(Kind::Unavailable, format!("no answer after {after}: {cause}")),
        RetryableError::BrokenElsewhere(host, cause) => {
            topic.error(Kind::Unavailable, format!("no answer from {host} after {after}: {cause}"))
        }
        RetryableError::Hopeless(cause) => topic.error(Kind::Unavailable, cause.to_string()),
        RetryableError::Lost(cause) => topic.error(Kind::Unavailable, format!("still so after {after}: {cause}")),
        RetryableError::Answer(refusal) => detailed(topic, refusal, format!("still so after {after}: {}", refusal.words())),
    };
    error.with_source(trouble.source())
}

/// As [`told_to_wait`], with the status that said so.
pub(crate) fn told_to_wait_by(topic: &RequestTopic<'_>, pause: Duration, trouble: &RetryableError) -> Error {
    let error = told_to_wait(topic, pause);
    match trouble.status() {
        Some(status) => error.status(status),
        None => error,
    }
}

/// The error where the host names a longer Retry-After than this run waits.
pub(crate) fn told_to_wait(topic: &RequestTopic<'_>, pause: Duration) -> Error {
    let seconds = pause.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
    let length = match (hours, minutes, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    };
    let until = Timestamp::now().checked_add(pause).ok();
    deferred(topic, &Deferred { reason: format!("{} is rate limiting us: Retry-After {length}", topic.host), until })
}

/// The error of work that waits for more than this run does.
pub(crate) fn deferred(topic: &RequestTopic<'_>, why: &Deferred) -> Error {
    let error = topic.error(Kind::Deferred, &why.reason).waiting_until(why.until);
    error.remedy("run the same command again then: it goes on where it stopped")
}

/// What a refusal means to the code that goes on from there.
fn kind_of(operation: Operation, refusal: &ErrorAnswer) -> Kind {
    let blob_missing = refusal.has("MANIFEST_BLOB_UNKNOWN")
        || refusal.has("BLOB_UNKNOWN")
        || refusal.has("MANIFEST_UNKNOWN")
        || refusal.has("MANIFEST_INVALID") && refusal.message.to_ascii_lowercase().contains("blob unknown");
    match refusal.status {
        400..=499 if operation == Operation::PutManifest && blob_missing => Kind::ContentMissing,
        400..=499 if operation.is_upload() && (refusal.has("BLOB_UPLOAD_INVALID") || refusal.has("BLOB_UPLOAD_UNKNOWN")) => {
            Kind::UploadLost
        }
        416 if operation.is_upload() => Kind::UploadLost,
        429 => Kind::Limited,
        _ if refusal.has("TOOMANYREQUESTS") => Kind::Limited,
        401 => Kind::Unauthorized,
        501 => Kind::Refused,
        404 | 410 if !operation.is_push() => Kind::NotFound,
        500..=599 | 408 | 424 | 499 => Kind::Unavailable,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;
    use reqwest::header::HeaderMap;

    fn refusal(status: u16, body: &str) -> ErrorAnswer {
        ErrorAnswer::read(status, &HeaderMap::new(), body.as_bytes(), None, Timestamp::UNIX_EPOCH)
    }

    fn envelope(code: &str, message: &str) -> String {
        format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{message}\"}}]}}")
    }

    #[test]
    fn kinds() {
        for (operation, status, code, message, kind) in [
            (Operation::GetManifest, 404, "MANIFEST_UNKNOWN", "", Kind::NotFound),
            (Operation::GetBlob, 404, "BLOB_UNKNOWN", "", Kind::NotFound),
            (Operation::ListTags, 404, "NAME_UNKNOWN", "", Kind::NotFound),
            (Operation::GetManifest, 401, "UNAUTHORIZED", "", Kind::Unauthorized),
            (Operation::GetManifest, 403, "DENIED", "", Kind::Refused),
            (Operation::PutManifest, 400, "MANIFEST_BLOB_UNKNOWN", "", Kind::ContentMissing),
            (Operation::PutManifest, 404, "MANIFEST_BLOB_UNKNOWN", "", Kind::ContentMissing),
            (Operation::PutManifest, 404, "MANIFEST_UNKNOWN", "", Kind::ContentMissing),
            (Operation::PutManifest, 400, "MANIFEST_INVALID", "manifest invalid: blob unknown to registry", Kind::ContentMissing),
            (Operation::PutManifest, 400, "MANIFEST_INVALID", "schema", Kind::Refused),
            (Operation::PutManifest, 404, "NAME_UNKNOWN", "", Kind::Refused),
            (Operation::PutManifest, 412, "PRECONDITION", "", Kind::Refused),
            (Operation::StartUpload, 404, "NAME_UNKNOWN", "", Kind::Refused),
            (Operation::UploadBlob, 404, "BLOB_UPLOAD_UNKNOWN", "", Kind::UploadLost),
            (Operation::UploadBlob, 400, "BLOB_UPLOAD_INVALID", "", Kind::UploadLost),
            (Operation::UploadBlob, 416, "RANGE_INVALID", "", Kind::UploadLost),
            (Operation::GetBlob, 416, "RANGE_INVALID", "", Kind::Refused),
            (Operation::UploadBlob, 400, "DIGEST_INVALID", "", Kind::Refused),
            (Operation::UploadBlob, 413, "", "", Kind::Refused),
            (Operation::GetManifest, 429, "TOOMANYREQUESTS", "", Kind::Limited),
            (Operation::GetManifest, 403, "TOOMANYREQUESTS", "", Kind::Limited),
            (Operation::GetManifest, 503, "UNAVAILABLE", "", Kind::Unavailable),
            (Operation::ListTags, 500, "", "", Kind::Unavailable),
            (Operation::ListTags, 501, "", "", Kind::Refused),
        ] {
            assert_eq!(kind_of(operation, &refusal(status, &envelope(code, message))), kind, "{operation:?} {status} {code}");
        }
    }

    #[test]
    fn a_missing_child_among_other_errors_is_seen() {
        let both =
            "{\"errors\":[{\"code\":\"MANIFEST_INVALID\",\"message\":\"x\"},{\"code\":\"MANIFEST_BLOB_UNKNOWN\",\"message\":\"y\"}]}";
        assert_eq!(kind_of(Operation::PutManifest, &refusal(400, both)), Kind::ContentMissing);
    }

    #[test]
    fn an_error_names_everything_and_cannot_write_to_the_terminal() {
        let topic = RequestTopic {
            side: Side::Upstream,
            operation: Operation::GetManifest,
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
            operation: Operation::GetBlob,
            host: "quay.io",
            profile,
            account: "a",
            repository: None,
            image: "i",
        };
        for (seconds, length) in [(6 * 3600 + 61, "6 h 1 min"), (3600, "1 h"), (301, "5 min 1 s"), (300, "5 min"), (7, "7 s")] {
            let error = told_to_wait(&topic, Duration::from_secs(seconds));
            let said = format!("quay.io is rate limiting us: Retry-After {length} (run ");
            assert!(error.message().starts_with(&said), "{error}");
        }
    }
}
