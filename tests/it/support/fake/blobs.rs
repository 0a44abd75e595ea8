//! Blobs: HEAD and GET, whole and in part.

use std::io;
use std::ops::Range;

use axum::body::Body;
use futures_util::stream;
use larder::content::Digest;

use super::content::Content;
use super::log::Kind;
use super::reply::{Reply, error, reply, with};
use super::service::{Exchange, Registry};

pub(super) fn get(registry: &Registry, exchange: &Exchange) -> Reply {
    let reference = &exchange.route.reference;
    let Ok(digest) = Digest::parse(reference) else { return error(400, "DIGEST_INVALID", "provided digest is no digest") };
    let Some(content) = registry.state.lock().blob(&exchange.route.repository, &digest) else {
        return error(404, "BLOB_UNKNOWN", format!("blob unknown to registry: {digest}"));
    };
    if exchange.route.kind == Kind::BlobHead {
        let answer = with(reply(200, ""), "content-length", content.len().to_string());
        return describe(answer, exchange, &digest);
    }
    if let Some(redirect) = &exchange.options.redirect {
        let path = registry.links.make(&digest, content, redirect.uses);
        return with(reply(307, ""), "location", format!("http://{}:{}{path}", redirect.host, registry.cdn_address.port()));
    }
    send(exchange, &digest, &content)
}

fn describe(answer: Reply, exchange: &Exchange, digest: &Digest) -> Reply {
    let answer = with(with(answer, "content-type", "application/octet-stream"), "etag", format!("\"{digest}\""));
    let answer = with(answer, "docker-content-digest", digest.as_str());
    if exchange.options.ranges { with(answer, "accept-ranges", "bytes") } else { answer }
}

/// The bytes that the request's `Range` asks for, or all.
pub(super) fn send(exchange: &Exchange, digest: &Digest, content: &Content) -> Reply {
    if !content.readable() {
        return error(500, "UNKNOWN", "this fake registry forgets uploaded bytes (keep_uploads)");
    }
    let len = content.len();
    let asked = exchange.header("range").filter(|_| exchange.options.ranges);
    let open_end = asked.is_some_and(|asked| asked.ends_with('-'));
    if asked.is_some() && exchange.options.refuse_ranges || open_end && exchange.options.closed_ranges_only {
        return error(416, "RANGE_INVALID", "we don't understand your Range");
    }
    let (status, range) = match asked.and_then(|asked| parse_range(asked, len)) {
        None => (200, 0..len),
        Some(Ok(range)) => (206, range),
        Some(Err(())) => {
            return with(error(416, "RANGE_INVALID", "the range is not within the blob"), "content-range", format!("bytes */{len}"));
        }
    };
    let answer = if range.is_empty() { reply(status, "") } else { body(status, content, range.clone()) };
    let answer = with(describe(answer, exchange, digest), "content-length", (range.end - range.start).to_string());
    if status == 206 { with(answer, "content-range", format!("bytes {}-{}/{len}", range.start, range.end - 1)) } else { answer }
}

fn body(status: u16, content: &Content, range: Range<u64>) -> Reply {
    let pieces = stream::iter(content.pieces(range).map(Ok::<_, io::Error>));
    let (parts, _) = reply(status, "").into_parts();
    Reply::from_parts(parts, Body::from_stream(pieces))
}

/// One range of `len` bytes (RFC 9110 14.1.2); several, or nonsense, are ignored (`None`), one outside is an error.
fn parse_range(text: &str, len: u64) -> Option<Result<Range<u64>, ()>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(len),
        (Ok(first), _) if last.is_empty() => first..len,
        (_, Ok(last)) if first.is_empty() => len.saturating_sub(last)..len,
        _ => return None,
    };
    Some(if range.start < range.end { Ok(range) } else { Err(()) })
}

pub(super) fn delete(registry: &Registry, exchange: &Exchange) -> Reply {
    if !exchange.options.delete {
        return error(405, "UNSUPPORTED", "deletion is disabled");
    }
    let reference = &exchange.route.reference;
    let gone = Digest::parse(reference).is_ok_and(|digest| registry.state.lock().repo(&exchange.route.repository).blobs.remove(&digest));
    if gone { reply(202, "") } else { error(404, "BLOB_UNKNOWN", format!("blob unknown to registry: {reference}")) }
}
