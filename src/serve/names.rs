//! Finds the repositories that a name in a request can mean: as a name at the target first, then as a name at the
//! source.
//!
//! - `library/alpine` is a name at the target, else Docker Hub's, as every name without a host in larder.
//! - `docker.io/library/alpine` is a name at the source, or a target repository of that name.
//! - `127.0.0.1_5000/app` also means `127.0.0.1:5000/app`: repository names cannot have a colon, so registries use an
//!   underscore.
//! - containerd asks a mirror for `library/alpine?ns=docker.io`. That means Docker Hub's image only, not one of the same
//!   path from elsewhere (distribution-spec, "Registry Proxying").
//!   A name at the target matches if it was copied from that registry: `larder rules export` for containerd and k3s puts
//!   the target's path into the address, so `q/app?ns=quay.io` is the copy of `quay.io/app` at `q/app`.
//! - An image with a tag and no repository has the name that the server was given for these, and no other.
//! - A registry that the server was told to stand for (`known_as`) has the names of the target.

use url::form_urlencoded;

use super::error::{ApiError, Code};
use crate::content::Repository;
use crate::name;

/// The registry that a request means: `ns` in the query, in normal form.
pub(super) fn namespace(query: Option<&str>) -> Result<Option<String>, ApiError> {
    let mut parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let ns = parameters.find(|(key, value)| key == "ns" && !value.is_empty());
    let wrong = |why: String| ApiError::new(Code::NameInvalid, format!("ns: {why}"));
    ns.map(|(_, host)| name::normal_host(&host).map_err(wrong)).transpose()
}

/// The repositories that `asked`, a valid name, can mean, in the order in which to look.
pub(super) fn places(asked: &str, ns: Option<&str>, known_as: &[String]) -> Vec<Repository> {
    let mut names = match ns {
        Some(ns) if known_as.iter().any(|host| host == ns) => vec![asked.to_owned()],
        Some(ns) => vec![format!("{ns}/{}", name::normal_path(ns, asked))],
        None => without_namespace(asked, known_as),
    };
    names.dedup();
    names.into_iter().map(Repository::new).collect()
}

fn without_namespace(asked: &str, known_as: &[String]) -> Vec<String> {
    let mut names = vec![asked.to_owned()];
    for spelled in [Some(asked.to_owned()), colon(asked)].into_iter().flatten() {
        let (host, path) = name::split_host(&spelled);
        // A first component that is not a host is an ordinary path component.
        match host.map(name::normal_host) {
            None => names.push(format!("{}/{}", name::DOCKER_HUB, name::normal_path(name::DOCKER_HUB, path))),
            Some(Ok(host)) if known_as.contains(&host) => names.push(path.to_owned()),
            Some(Ok(host)) => names.push(format!("{host}/{}", name::normal_path(&host, path))),
            Some(Err(_)) => {}
        }
    }
    names
}

/// `host_5000/path` as `host:5000/path`.
fn colon(asked: &str) -> Option<String> {
    let (first, path) = asked.split_once('/')?;
    let (host, port) = first.rsplit_once('_')?;
    (!host.is_empty() && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())).then(|| format!("{host}:{port}/{path}"))
}

/// The name by which a repository can be requested, if there is one: names cannot have a colon, and other tools write
/// any names into layouts.
pub(super) fn servable(repository: &Repository) -> Option<String> {
    let name = repository.as_str().replace(':', "_");
    name::check_path(&name).is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_in_several_places() {
        let known_as = ["contoso.azurecr.io".to_owned(), "localhost:5000".to_owned()];
        for (asked, ns, expected) in [
            ("library/alpine", None, "library/alpine docker.io/library/alpine"),
            ("alpine", None, "alpine docker.io/library/alpine"),
            ("docker.io/library/alpine", None, "docker.io/library/alpine"),
            ("docker.io/alpine", None, "docker.io/alpine docker.io/library/alpine"),
            ("quay.io/a/b", None, "quay.io/a/b"),
            ("127.0.0.1_5001/app", None, "127.0.0.1_5001/app 127.0.0.1:5001/app"),
            ("registry_5001/app", None, "registry_5001/app docker.io/registry_5001/app registry:5001/app"),
            ("127.0.0.1:5001/app", None, "127.0.0.1:5001/app"),
            ("my_app/x", None, "my_app/x docker.io/my_app/x"),
            ("contoso.azurecr.io/library/alpine", None, "contoso.azurecr.io/library/alpine library/alpine"),
            ("localhost_5000/app", None, "localhost_5000/app docker.io/localhost_5000/app app"),
            ("library/alpine", Some("docker.io"), "docker.io/library/alpine"),
            ("alpine", Some("docker.io"), "docker.io/library/alpine"),
            ("library/alpine", Some("quay.io"), "quay.io/library/alpine"),
            ("library/alpine", Some("contoso.azurecr.io"), "library/alpine"),
            ("quay.io/a", Some("ghcr.io"), "ghcr.io/quay.io/a"),
        ] {
            let found: Vec<String> = places(asked, ns, &known_as).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{asked} {ns:?}");
        }
    }

    #[test]
    fn a_namespace_is_a_host_in_normal_form() {
        for (query, expected) in [
            (None, Ok(None)),
            (Some("n=3"), Ok(None)),
            (Some("ns="), Ok(None)),
            (Some("ns=docker.io"), Ok(Some("docker.io"))),
            (Some("n=1&ns=registry-1.docker.io"), Ok(Some("docker.io"))),
            (Some("ns=LOCALHOST%3A5000"), Ok(Some("localhost:5000"))),
            (Some("ns=../etc"), Err("NAME_INVALID")),
            (Some("ns=a/b"), Err("NAME_INVALID")),
        ] {
            let found = namespace(query);
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(|error| error.code.as_str()), expected, "{query:?}");
        }
    }
}
