//! Manifests: by tag and digest, byte for byte.

use larder::content::Digest;
use serde_json::Value;

use super::super::corpus::{DOCKER_IMAGE, DOCKER_LIST, OCI_ARTIFACT, OCI_IMAGE, OCI_INDEX};
use super::log::Kind;
use super::reply::{Reply, error, name_unknown, reply, with};
use super::service::{Exchange, Registry};
use super::state::Stored;

/// What distribution hands out only to those who say that they take it.
const NEGOTIATED: [(&str, &str); 3] = [
    ("application/vnd.oci.image.index.v1+json", "OCI index found, but accept header does not support OCI indexes"),
    ("application/vnd.oci.image.manifest.v1+json", "OCI manifest found, but accept header does not support OCI manifests"),
    ("application/vnd.docker.distribution.manifest.list.v2+json", "manifest list found, but accept header does not support manifest lists"),
];

/// The types whose references are checked.
const KNOWN: [&str; 5] = [OCI_IMAGE, OCI_INDEX, OCI_ARTIFACT, DOCKER_IMAGE, DOCKER_LIST];

pub(super) fn get(registry: &Registry, exchange: &Exchange) -> Reply {
    let (repository, reference) = (&exchange.route.repository, &exchange.route.reference);
    let state = registry.state.lock();
    let Some((digest, stored)) = state.manifest(repository, reference) else {
        return if state.repos.contains_key(repository) {
            error(404, "MANIFEST_UNKNOWN", format!("manifest unknown: {reference}"))
        } else {
            name_unknown(repository)
        };
    };
    drop(state);
    if exchange.options.strict_accept
        && let Some((_, message)) = NEGOTIATED.iter().find(|(media_type, _)| *media_type == stored.media_type)
        && !accepts(exchange, &stored.media_type)
    {
        return error(404, "MANIFEST_UNKNOWN", *message);
    }
    let etag = format!("\"{digest}\"");
    let bytes = stored.bytes.clone();
    let answer = if exchange.header("if-none-match") == Some(&etag) {
        reply(304, "")
    } else if exchange.route.kind == Kind::ManifestHead {
        with(reply(200, ""), "content-length", bytes.len().to_string())
    } else {
        reply(200, bytes)
    };
    let answer = with(with(answer, "content-type", &stored.media_type), "etag", etag);
    if exchange.options.digest_header { with(answer, "docker-content-digest", digest.as_str()) } else { answer }
}

fn accepts(exchange: &Exchange, media_type: &str) -> bool {
    let values = exchange.headers.get_all("accept").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| range.split(';').next().unwrap_or_default().trim() == media_type)
}

pub(super) async fn put(registry: &Registry, exchange: &mut Exchange) -> Reply {
    let Ok(body) = exchange.whole(exchange.options.max_manifest).await else {
        return error(400, "MANIFEST_INVALID", "the body broke off");
    };
    let Some(bytes) = body else { return error(413, "MANIFEST_INVALID", "manifest too large") };
    let (repository, reference) = (exchange.route.repository.clone(), exchange.route.reference.clone());
    let media_type = exchange.header("content-type").unwrap_or_default().to_owned();
    let parsed: Value = match serde_json::from_slice(&bytes) {
        Ok(value) => value,
        Err(why) => return error(400, "MANIFEST_INVALID", why.to_string()),
    };
    if media_type.is_empty() || parsed["mediaType"].as_str().is_some_and(|inside| inside != media_type) {
        return error(400, "MANIFEST_INVALID", format!("Content-Type `{media_type}` is not the manifest's mediaType"));
    }
    let (digest, tag) = if reference.contains(':') {
        match Digest::parse(&reference) {
            Ok(digest) if digest.matches(&bytes) => (digest, None),
            _ => return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content"),
        }
    } else if larder::name::check_tag(&reference).is_ok() {
        (Digest::sha256(&bytes), Some(reference.clone()))
    } else {
        return error(400, "TAG_INVALID", format!("manifest tag did not match: {reference}"));
    };

    let mut state = registry.state.lock();
    if let Some(refusal) = super::uploads::refuse_name(&state, exchange) {
        return refusal;
    }
    // What a manifest of an unknown type refers to, nobody knows.
    if exchange.options.check_children
        && KNOWN.contains(&media_type.as_str())
        && let Some(missing) = state.missing(&repository, &parsed)
    {
        return error(404, "MANIFEST_BLOB_UNKNOWN", format!("blob unknown to registry: {missing}"));
    }
    // As RFC 9110 has it; no registry that is known does it.
    let now = state.manifest(&repository, &reference).map(|(digest, _)| format!("\"{digest}\""));
    if exchange.header("if-match").is_some_and(|wanted| now.as_deref() != Some(wanted)) {
        return error(412, "PRECONDITION_FAILED", "the manifest is another one by now");
    }
    let repo = state.repo(&repository);
    repo.manifests.insert(digest.clone(), Stored { media_type, bytes });
    if let Some(tag) = tag {
        repo.tags.insert(tag, digest.clone());
    }
    drop(state);
    let answer = with(reply(201, ""), "location", format!("/v2/{repository}/manifests/{digest}"));
    let answer = if exchange.options.digest_header { with(answer, "docker-content-digest", digest.as_str()) } else { answer };
    match parsed["subject"]["digest"].as_str() {
        Some(subject) if exchange.options.referrers && exchange.options.subject_header => with(answer, "oci-subject", subject),
        _ => answer,
    }
}

pub(super) fn delete(registry: &Registry, exchange: &Exchange) -> Reply {
    if !exchange.options.delete {
        return error(405, "UNSUPPORTED", "deletion is disabled");
    }
    let mut state = registry.state.lock();
    let reference = &exchange.route.reference;
    let repo = state.repo(&exchange.route.repository);
    let gone = match Digest::parse(reference) {
        Ok(digest) => {
            repo.tags.retain(|_, tagged| *tagged != digest);
            repo.manifests.remove(&digest).is_some()
        }
        Err(_) => repo.tags.remove(reference).is_some(),
    };
    if gone { reply(202, "") } else { error(404, "MANIFEST_UNKNOWN", format!("manifest unknown: {reference}")) }
}
