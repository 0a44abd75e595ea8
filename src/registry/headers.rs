//! Headers of the distribution API, read and written.

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::request::RequestTopic;
use super::transport::OpenResponse;
use crate::content::{self, Digest};
use crate::{Kind, Result};

/// Says what a manifest's or blob's bytes hash to.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// All in one line: there are proxies that pass on only one of several.
pub(super) fn accept() -> HeaderMap {
    // Media types are legal in a header: none is lost.
    HeaderValue::try_from(content::ACCEPT.join(", ")).into_iter().map(|all| (ACCEPT, all)).collect()
}

/// The media type, without parameters.
pub(super) fn media_type(answer: &OpenResponse) -> String {
    answer.header(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or("").trim().to_ascii_lowercase()
}

/// The digest that the answer says, if it says one.
pub(super) fn said_digest(answer: &OpenResponse, topic: &RequestTopic<'_>) -> Result<Option<Digest>> {
    // Some write it in quotes, as ETags are, or in capitals.
    let Some(said) = answer.header(CONTENT_DIGEST).map(|said| said.trim().trim_matches('"')).filter(|said| !said.is_empty()) else {
        return Ok(None);
    };
    Digest::parse(&said.to_ascii_lowercase())
        .map(Some)
        .map_err(|why| topic.error(Kind::Damaged, format!("the answer's Docker-Content-Digest: {why}")))
}
