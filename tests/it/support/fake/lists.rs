//! Lists: tags, referrers, repositories; page by page.

use larder::content::Digest;
use serde_json::{Map, Value, json};

use super::log::Kind;
use super::options::Link;
use super::reply::{Reply, error, name_unknown, not_found, reply, with};
use super::route::Route;
use super::service::{Exchange, Registry};
use super::state::Stored;

pub(super) fn tags(registry: &Registry, exchange: &Exchange) -> Reply {
    let name = &exchange.route.repository;
    let all: Vec<String> = match registry.state.lock().repos.get(name) {
        Some(repo) => repo.tags.keys().cloned().collect(),
        None => return name_unknown(name),
    };
    paged(registry, exchange, &all, |page| json!({"name": name, "tags": page}))
}

pub(super) fn catalog(registry: &Registry, exchange: &Exchange) -> Reply {
    if !exchange.options.catalog {
        return not_found();
    }
    let all: Vec<String> = registry.state.lock().repos.keys().cloned().collect();
    paged(registry, exchange, &all, |page| json!({"repositories": page}))
}

/// One page of sorted names (distribution-spec "Listing Tags").
fn paged(registry: &Registry, exchange: &Exchange, all: &[String], body: impl Fn(&[String]) -> Value) -> Reply {
    let route = &exchange.route;
    let asked: Option<usize> = match route.value("n").map(str::parse) {
        Some(Ok(n)) => Some(n),
        Some(Err(_)) => return error(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested"),
        None => None,
    };
    let most = asked.unwrap_or(usize::MAX).min(exchange.options.page.unwrap_or(usize::MAX));
    let after = match exchange.options.link {
        Link::Quay => route.value("next_page").map(unseal),
        Link::Relative | Link::Absolute => route.value("last").map(str::to_owned),
    };
    let start = after.map_or(0, |after| all.partition_point(|name| *name <= after));
    let rest = &all[start..];
    let page = &rest[..most.min(rest.len())];
    let answer = with(reply(200, body(page).to_string()), "content-type", "application/json");
    match page.last() {
        Some(last) if page.len() < rest.len() => {
            let next = match exchange.options.link {
                Link::Quay => format!("n={most}&next_page={}", hex::encode(last)),
                Link::Relative | Link::Absolute => format!("n={most}&last={last}"),
            };
            with(answer, "link", link(registry, exchange, &next))
        }
        _ => answer,
    }
}

/// What an opaque page token says.
fn unseal(token: &str) -> String {
    hex::decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

fn link(registry: &Registry, exchange: &Exchange, query: &str) -> String {
    let origin = if exchange.options.link == Link::Absolute { registry.origin() } else { String::new() };
    format!("<{origin}{}?{query}>; rel=\"next\"", exchange.entry.request().path)
}

pub(super) fn referrers(registry: &Registry, exchange: &Exchange) -> Reply {
    let route = &exchange.route;
    debug_assert_eq!(route.kind, Kind::Referrers);
    if !exchange.options.referrers {
        return not_found();
    }
    let Ok(subject) = Digest::parse(&route.reference) else { return error(400, "DIGEST_INVALID", "provided digest is no digest") };
    let filter = route.value("artifactType").filter(|_| exchange.options.referrers_filter);
    let found = find_referrers(registry, route, &subject, filter);
    let start = route.value("page").and_then(|page| page.parse().ok()).unwrap_or(0).min(found.len());
    let end = found.len().min(start.saturating_add(exchange.options.referrers_page.unwrap_or(usize::MAX)));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": &found[start..end],
    });
    let mut answer = with(reply(200, index.to_string()), "content-type", "application/vnd.oci.image.index.v1+json");
    if filter.is_some() {
        answer = with(answer, "oci-filters-applied", "artifactType");
    }
    if end < found.len() {
        let kept = filter.map(|filter| format!("artifactType={filter}&")).unwrap_or_default();
        answer = with(answer, "link", link(registry, exchange, &format!("{kept}page={end}")));
    }
    answer
}

/// Descriptors of all manifests about `subject`, in digest order.
fn find_referrers(registry: &Registry, route: &Route, subject: &Digest, filter: Option<&str>) -> Vec<Value> {
    let state = registry.state.lock();
    let Some(repo) = state.repos.get(&route.repository) else { return vec![] };
    let all = repo.manifests.iter().filter_map(|(digest, stored)| describe(digest, stored, subject));
    all.filter(|descriptor| filter.is_none_or(|filter| descriptor["artifactType"] == *filter)).collect()
}

/// The descriptor of `stored`, if it is about `subject` (distribution-spec "Listing Referrers").
fn describe(digest: &Digest, stored: &Stored, subject: &Digest) -> Option<Value> {
    let manifest: Value = serde_json::from_slice(&stored.bytes).ok()?;
    if manifest["subject"]["digest"] != *subject.as_str() {
        return None;
    }
    let mut descriptor = Map::new();
    descriptor.insert("mediaType".to_owned(), json!(stored.media_type));
    descriptor.insert("digest".to_owned(), json!(digest.as_str()));
    descriptor.insert("size".to_owned(), json!(stored.bytes.len()));
    let config = manifest["config"]["mediaType"].as_str();
    if let Some(kind) = manifest["artifactType"].as_str().or(config) {
        descriptor.insert("artifactType".to_owned(), json!(kind));
    }
    if manifest["annotations"].is_object() {
        descriptor.insert("annotations".to_owned(), manifest["annotations"].clone());
    }
    Some(descriptor.into())
}
