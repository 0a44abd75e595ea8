//! Error responses of the API: status, code and message in the OCI envelope (distribution-spec, "Error Codes").

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::printable;
use crate::{Error, Kind};

/// An error code: those of the distribution-spec that reading can cause, and those that the `distribution` registry
/// adds, which clients know too (`TAG_INVALID`, `RANGE_INVALID`, `PAGINATION_NUMBER_INVALID`, `UNAVAILABLE`,
/// `UNKNOWN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    BlobUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    TagInvalid,
    TooManyRequests,
    Unavailable,
    Unknown,
    Unsupported,
}

impl Code {
    /// Its text in the envelope.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Code::RangeInvalid => "RANGE_INVALID",
            Code::TagInvalid => "TAG_INVALID",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unknown => "UNKNOWN",
            Code::Unsupported => "UNSUPPORTED",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Code::BlobUnknown | Code::ManifestUnknown | Code::NameUnknown => StatusCode::NOT_FOUND,
            Code::DigestInvalid | Code::NameInvalid | Code::PaginationNumberInvalid | Code::TagInvalid => StatusCode::BAD_REQUEST,
            Code::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// An error response.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: Code,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    /// An error with the usual status of its code. `message` may contain text of the client: it is made printable.
    pub(crate) fn new(code: Code, message: impl AsRef<str>) -> Self {
        ApiError { status: code.status(), code, message: printable(message.as_ref()), header: None }
    }

    /// This registry is read-only.
    pub(crate) fn read_only() -> Self {
        let refusal = Self::new(Code::Unsupported, "this registry is read-only: GET and HEAD are all it answers");
        ApiError { header: Some((ALLOW, HeaderValue::from_static("GET, HEAD"))), ..refusal }
    }

    /// The path is not part of the API, or of a part that this server does not offer.
    pub(crate) fn no_such_endpoint() -> Self {
        let offered =
            "manifests, blobs, tags/list and referrers below /v2/<name>/, and /v2/_catalog where the store knows its repositories";
        let refusal = Self::new(Code::Unsupported, format!("there is no such endpoint: offered are {offered}"));
        ApiError { status: StatusCode::NOT_FOUND, ..refusal }
    }

    /// The requested range is outside the blob's `size` bytes; the header gives the size (RFC 9110, 15.5.17).
    pub(crate) fn range(size: u64) -> Self {
        let refusal = Self::new(Code::RangeInvalid, format!("the range lies outside the {size} bytes there are"));
        ApiError { header: HeaderValue::from_str(&format!("bytes */{size}")).ok().map(|value| (CONTENT_RANGE, value)), ..refusal }
    }

    /// The source failed. The reason is only logged, because it may contain paths of this machine.
    pub(crate) fn source(error: &Error, absent: Code) -> Self {
        match error.kind() {
            Kind::NotFound => Self::new(absent, "not known here"),
            Kind::Limited => Self::new(Code::TooManyRequests, "the store behind this registry is at its limit"),
            Kind::Unavailable => Self::new(Code::Unavailable, "the store behind this registry cannot be reached"),
            _ => Self::new(Code::Unknown, "the store behind this registry could not be read; its log says why"),
        }
    }

    /// The response cannot be sent over HTTP (a media type with a line break in it).
    pub(crate) fn unservable(error: &axum::http::Error) -> Self {
        tracing::warn!(%error, "an answer could not be written");
        Self::new(Code::Unknown, "the answer could not be written; the log says why")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let envelope = json!({ "errors": [{ "code": self.code.as_str(), "message": self.message }] });
        let mut response = Response::new(Body::from(envelope.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.header);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Operation, Side};

    #[test]
    fn what_the_source_says_about_this_machine_stays_here() {
        for (kind, code, status) in [
            (Kind::NotFound, "NAME_UNKNOWN", 404),
            (Kind::Limited, "TOOMANYREQUESTS", 429),
            (Kind::Unavailable, "UNAVAILABLE", 503),
            (Kind::Local, "UNKNOWN", 500),
            (Kind::Damaged, "UNKNOWN", 500),
        ] {
            let refusal = ApiError::source(&Error::new(Side::Local, Operation::Read, kind, "/srv/secret/store: denied"), Code::NameUnknown);
            assert_eq!((refusal.code.as_str(), refusal.status.as_u16()), (code, status), "{kind:?}");
            assert!(!refusal.message.contains("secret"), "{}", refusal.message);
        }
    }
}
