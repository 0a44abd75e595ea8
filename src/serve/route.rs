//! Parses the method and path of a request.

use axum::http::Method;

use super::error::{ApiError, Code};
use crate::content::{Digest, Repository};
use crate::name::{self, Reference};

/// The path where Prometheus looks by default.
const METRICS: &str = "/metrics";

/// A resource of this registry, for GET and HEAD alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`: the API version check.
    Version,
    /// `/v2/<name>/manifests/<reference>`
    Manifest { repository: Repository, reference: Reference },
    /// `/v2/<name>/blobs/<digest>`
    Blob { repository: Repository, digest: Digest },
    /// `/v2/<name>/tags/list`
    Tags { repository: Repository },
    /// `/v2/<name>/referrers/<digest>`
    Referrers { repository: Repository, digest: Digest },
    /// `/v2/_catalog`: Docker's, not in the specification.
    Catalog,
    /// `/metrics`
    Metrics,
}

/// The name in counters of a request without a route.
pub(crate) const NO_ROUTE: &str = "none";

impl Route {
    /// Parses a path from its right end, because `<name>` has any number of slashes and may contain `manifests`,
    /// `blobs` and `tags`. Every part is checked by its own grammar, so `..`, empty components and percent-encoding are
    /// impossible; only a digest's colon may be `%3A`, as some clients write it.
    pub(crate) fn parse(method: &Method, path: &str) -> Result<Route, ApiError> {
        let below = match path.strip_prefix("/v2") {
            Some("" | "/") => Some(""),
            Some(below) if below.starts_with('/') => Some(&below[1..]),
            None if path == METRICS => None,
            _ => return Err(ApiError::no_such_endpoint()),
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(ApiError::read_only());
        }
        let below = match below {
            None => return Ok(Route::Metrics),
            Some("") => return Ok(Route::Version),
            Some("_catalog") => return Ok(Route::Catalog),
            Some(below) => below,
        };
        let (front, last) = below.rsplit_once('/').ok_or_else(ApiError::no_such_endpoint)?;
        let (name, kind) = front.rsplit_once('/').ok_or_else(ApiError::no_such_endpoint)?;
        match kind {
            "manifests" => Ok(Route::Manifest { repository: repository(name)?, reference: reference(last)? }),
            "blobs" => Ok(Route::Blob { repository: repository(name)?, digest: digest(last)? }),
            "tags" if last == "list" => Ok(Route::Tags { repository: repository(name)? }),
            "referrers" => Ok(Route::Referrers { repository: repository(name)?, digest: digest(last)? }),
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    /// Its name in counters.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Route::Version => "version",
            Route::Manifest { .. } => "manifest",
            Route::Blob { .. } => "blob",
            Route::Tags { .. } => "tags",
            Route::Referrers { .. } => "referrers",
            Route::Catalog => "catalog",
            Route::Metrics => "metrics",
        }
    }
}

/// Parses a repository. In layouts the first component may be a host with a port.
fn repository(name: &str) -> Result<Repository, ApiError> {
    let checked = match name.split_once('/') {
        Some((host, path)) if host.contains(':') => name::normal_host(host).and_then(|_| name::check_path(path)),
        _ => name::check_path(name),
    };
    checked.map_err(|why| ApiError::new(Code::NameInvalid, why))?;
    Ok(Repository::new(name))
}

fn reference(text: &str) -> Result<Reference, ApiError> {
    if text.contains([':', '%']) {
        return digest(text).map(Reference::Digest);
    }
    name::check_tag(text).map_err(|why| ApiError::new(Code::TagInvalid, why))?;
    Ok(Reference::Tag(text.to_owned()))
}

fn digest(text: &str) -> Result<Digest, ApiError> {
    let plain = text.replace("%3A", ":").replace("%3a", ":");
    Digest::parse(&plain).map_err(|why| ApiError::new(Code::DigestInvalid, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    /// The route as one line, or the refusal as status and code.
    fn get(path: &str) -> String {
        match Route::parse(&Method::GET, path) {
            Ok(Route::Version) => "version".to_owned(),
            Ok(Route::Manifest { repository, reference }) => format!("manifest {repository} {}", reference.as_str()),
            Ok(Route::Blob { repository, digest }) => format!("blob {repository} {digest}"),
            Ok(Route::Tags { repository }) => format!("tags {repository}"),
            Ok(Route::Referrers { repository, digest }) => format!("referrers {repository} {digest}"),
            Ok(route @ (Route::Catalog | Route::Metrics)) => route.label().to_owned(),
            Err(error) => format!("{} {}", error.status.as_u16(), error.code.as_str()),
        }
    }

    #[test]
    fn paths_are_read_from_the_right() {
        for (path, expected) in [
            ("/v2", "version".to_owned()),
            ("/v2/", "version".to_owned()),
            ("/v2/alpine/manifests/3.20", "manifest alpine 3.20".to_owned()),
            ("/v2/a/b/c/d/manifests/v1", "manifest a/b/c/d v1".to_owned()),
            ("/v2/a/manifests/manifests/list", "manifest a/manifests list".to_owned()),
            ("/v2/manifests/manifests/manifests", "manifest manifests manifests".to_owned()),
            ("/v2/x/tags/manifests/list", "manifest x/tags list".to_owned()),
            ("/v2/x/blobs/tags/list", "tags x/blobs".to_owned()),
            ("/v2/library/alpine/tags/list", "tags library/alpine".to_owned()),
            ("/v2/_catalog", "catalog".to_owned()),
            ("/metrics", "metrics".to_owned()),
            ("/v2/127.0.0.1:5000/a/manifests/1", "manifest 127.0.0.1:5000/a 1".to_owned()),
            ("/v2/[::1]:5000/a/tags/list", "tags [::1]:5000/a".to_owned()),
            (&format!("/v2/a/referrers/referrers/{DIGEST}"), format!("referrers a/referrers {DIGEST}")),
            (&format!("/v2/a/b/manifests/{DIGEST}"), format!("manifest a/b {DIGEST}")),
            (&format!("/v2/a/b/blobs/{DIGEST}"), format!("blob a/b {DIGEST}")),
            (&format!("/v2/a/b/blobs/{}", DIGEST.replace(':', "%3A")), format!("blob a/b {DIGEST}")),
            (&format!("/v2/a/b/manifests/{}", DIGEST.replace(':', "%3a")), format!("manifest a/b {DIGEST}")),
        ] {
            assert_eq!(get(path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_code() {
        let long = format!("/v2/{}/tags/list", "a".repeat(256));
        for (path, expected) in [
            ("/", "404 UNSUPPORTED"),
            ("/v1/", "404 UNSUPPORTED"),
            ("/v2x", "404 UNSUPPORTED"),
            ("/v2/_catalog/", "404 UNSUPPORTED"),
            ("/v2/_catalog/tags/list", "400 NAME_INVALID"),
            ("/metrics/", "404 UNSUPPORTED"),
            ("/v2/metrics", "404 UNSUPPORTED"),
            ("/v2/tags/list", "404 UNSUPPORTED"),
            ("/v2/a/tags/lists", "404 UNSUPPORTED"),
            ("/v2/a/referrers/sha256:abc", "400 DIGEST_INVALID"),
            ("/v2/a/referrers/latest", "400 DIGEST_INVALID"),
            ("/v2/a/referrers/", "400 DIGEST_INVALID"),
            ("/v2/a:b/c/manifests/1", "400 NAME_INVALID"),
            ("/v2/a:5000/../c/manifests/1", "400 NAME_INVALID"),
            ("/v2/a/b:5000/manifests/1", "400 NAME_INVALID"),
            ("/v2/:/a/manifests/1", "400 NAME_INVALID"),
            ("/v2/a/blobs/uploads/", "404 UNSUPPORTED"),
            ("/v2/a/blobs/uploads/1234", "404 UNSUPPORTED"),
            ("/v2/Alpine/manifests/1", "400 NAME_INVALID"),
            ("/v2//manifests/1", "400 NAME_INVALID"),
            ("/v2/a//b/manifests/1", "400 NAME_INVALID"),
            ("//v2/a/manifests/1", "404 UNSUPPORTED"),
            ("/v2/../../etc/manifests/1", "400 NAME_INVALID"),
            ("/v2/a/../b/tags/list", "400 NAME_INVALID"),
            ("/v2/a/%2e%2e/b/tags/list", "400 NAME_INVALID"),
            ("/v2/a%2fb/tags/list", "400 NAME_INVALID"),
            ("/v2/a\\b/tags/list", "400 NAME_INVALID"),
            (&long, "400 NAME_INVALID"),
            ("/v2/a/manifests/", "400 TAG_INVALID"),
            ("/v2/a/manifests/-x", "400 TAG_INVALID"),
            ("/v2/a/manifests/..", "400 TAG_INVALID"),
            ("/v2/a/manifests/x%2fy", "400 DIGEST_INVALID"),
            ("/v2/a/manifests/sha256:abc", "400 DIGEST_INVALID"),
            ("/v2/a/manifests/sha256%3Aabc%3A", "400 DIGEST_INVALID"),
            ("/v2/a/blobs/latest", "400 DIGEST_INVALID"),
            ("/v2/a/blobs/sha256:../../../etc/passwd", "404 UNSUPPORTED"),
        ] {
            assert_eq!(get(path), expected, "{path}");
        }
    }

    #[test]
    fn everything_but_reading_is_refused_wherever_it_points() {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            for path in ["/v2/", "/v2/a/blobs/uploads/", "/v2/a/manifests/latest", "/v2/A/../x", "/v2/_catalog", "/metrics"] {
                let error = Route::parse(&method, path).unwrap_err();
                assert_eq!((error.status.as_u16(), error.code), (405, Code::Unsupported), "{method} {path}");
            }
        }
        assert_eq!(Route::parse(&Method::POST, "/login").unwrap_err().status.as_u16(), 404);
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_safe_to_look_up(path in "(/v2)?(/(\\PC{0,8}|manifests|blobs|tags|list|referrers|[a-z]:5|\\.\\.|%2e|[a-z]{1,4})){0,6}") {
            match Route::parse(&Method::GET, &path) {
                Ok(Route::Manifest { repository, .. } | Route::Blob { repository, .. } | Route::Tags { repository } | Route::Referrers { repository, .. }) => {
                    let (host, path) = name::split_host(repository.as_str());
                    prop_assert!(name::check_path(path).is_ok() && host.is_none_or(|host| name::normal_host(host).is_ok()));
                    prop_assert!(!repository.as_str().split('/').any(|part| part.is_empty() || part.starts_with('.')));
                }
                Ok(Route::Version | Route::Catalog | Route::Metrics) | Err(_) => {}
            }
        }

        #[test]
        fn every_good_name_and_tag_comes_back(
            name in proptest::collection::vec("[a-z0-9]{1,5}([._-][a-z0-9]{1,3})?|manifests|blobs|tags|list", 1..5),
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}|list|manifests",
        ) {
            let name = name.join("/");
            let path = format!("/v2/{name}/manifests/{tag}");
            prop_assert_eq!(
                Route::parse(&Method::HEAD, &path).ok(),
                Some(Route::Manifest { repository: Repository::new(name.as_str()), reference: Reference::Tag(tag) })
            );
            prop_assert_eq!(
                Route::parse(&Method::GET, &format!("/v2/{name}/tags/list")).ok(),
                Some(Route::Tags { repository: Repository::new(name.as_str()) })
            );
        }
    }
}
