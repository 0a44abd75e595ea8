//! What a request asks for, by its method, path and query.

use axum::http::{Method, Uri};

use super::log::Kind;

/// A request line, understood.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) kind: Kind,
    /// Empty for routes without a repository.
    pub(super) repository: String,
    /// Tag, digest or upload id as it stands in the path.
    pub(super) reference: String,
    /// The query, decoded.
    pub(super) query: Vec<(String, String)>,
}

impl Route {
    pub(super) fn parse(method: &Method, uri: &Uri, cdn: bool) -> Self {
        let query: Vec<(String, String)> = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let (kind, repository, reference) = match uri.path() {
            path if cdn => (Kind::Cdn, "", path.rsplit('/').next().unwrap_or_default()),
            "/token" => (Kind::Token, "", ""),
            "/v2/" | "/v2" => (Kind::Ping, "", ""),
            "/v2/_catalog" => (Kind::Catalog, "", ""),
            path => path.strip_prefix("/v2/").and_then(|rest| parse_below(method, rest, &query)).unwrap_or((Kind::Other, "", "")),
        };
        Route { kind, repository: repository.to_owned(), reference: reference.to_owned(), query }
    }

    /// The first value of a query key.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// What the log calls the reference: the content meant, wherever in the request it stands.
    pub(super) fn subject(&self) -> Option<String> {
        match self.kind {
            Kind::Mount => self.value("mount").map(str::to_owned),
            Kind::UploadPost | Kind::UploadPut => self.value("digest").map(str::to_owned),
            _ => (!self.reference.is_empty()).then(|| self.reference.clone()),
        }
    }
}

/// Below `/v2/`: the repository comes first and may hold any of the words, so the path is read from its end.
fn parse_below<'p>(method: &Method, rest: &'p str, query: &[(String, String)]) -> Option<(Kind, &'p str, &'p str)> {
    let kind = |table: &[(Method, Kind)]| table.iter().find(|(name, _)| name == method).map_or(Kind::Other, |(_, kind)| *kind);
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return Some((kind(&[(Method::GET, Kind::Tags)]), repository, ""));
    }
    if let Some(repository) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
        let post = if query.iter().any(|(key, _)| key == "mount") { Kind::Mount } else { Kind::UploadPost };
        return Some((kind(&[(Method::POST, post)]), repository, ""));
    }
    let (head, reference) = rest.rsplit_once('/')?;
    if let Some(repository) = head.strip_suffix("/blobs/uploads") {
        let table = [
            (Method::GET, Kind::UploadGet),
            (Method::PATCH, Kind::UploadPatch),
            (Method::PUT, Kind::UploadPut),
            (Method::DELETE, Kind::UploadDelete),
        ];
        return Some((kind(&table), repository, reference));
    }
    if let Some(repository) = head.strip_suffix("/manifests") {
        let table = [
            (Method::HEAD, Kind::ManifestHead),
            (Method::GET, Kind::ManifestGet),
            (Method::PUT, Kind::ManifestPut),
            (Method::DELETE, Kind::ManifestDelete),
        ];
        return Some((kind(&table), repository, reference));
    }
    if let Some(repository) = head.strip_suffix("/blobs") {
        let table = [(Method::HEAD, Kind::BlobHead), (Method::GET, Kind::BlobGet), (Method::DELETE, Kind::BlobDelete)];
        return Some((kind(&table), repository, reference));
    }
    let repository = head.strip_suffix("/referrers")?;
    Some((kind(&[(Method::GET, Kind::Referrers)]), repository, reference))
}
