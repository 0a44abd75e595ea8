//! Answers.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use serde_json::json;

pub type Reply = Response<Body>;

/// An answer with a body.
pub fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Body::from(body.into()));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap();
    reply
}

/// The same answer with one more header.
pub fn with(mut reply: Reply, name: &str, value: impl AsRef<str>) -> Reply {
    let name = HeaderName::try_from(name).unwrap();
    reply.headers_mut().append(name, HeaderValue::from_bytes(value.as_ref().as_bytes()).unwrap());
    reply
}

/// An error as distribution-spec has it ("Error Codes").
pub fn error(status: u16, code: &str, message: impl AsRef<str>) -> Reply {
    let body = json!({"errors": [{"code": code, "message": message.as_ref(), "detail": null}]});
    with(reply(status, body.to_string()), "content-type", "application/json")
}

/// What Go's `http.NotFound` says, for routes that do not exist.
pub fn not_found() -> Reply {
    with(reply(404, "404 page not found\n"), "content-type", "text/plain; charset=utf-8")
}

pub(super) fn name_unknown(repository: &str) -> Reply {
    error(404, "NAME_UNKNOWN", format!("repository name not known to registry: {repository}"))
}
