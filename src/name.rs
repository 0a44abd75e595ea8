//! Names as users write them and as larder knows them: hosts, repositories, tags, references.
//!
//! Normal form: `alpine` is `docker.io/library/alpine`; the hosts `index.docker.io`, `registry-1.docker.io` and `docker.io` are one.

mod digest;

use std::fmt;

pub use digest::{Digest, Hasher};

/// The host that bare names belong to.
pub const DOCKER_HUB: &str = "docker.io";

/// A repository at a registry, in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryRepository {
    /// Lower-case host, with its port if it has one (`docker.io`, `127.0.0.1:5000`, `[::1]:5000`).
    pub host: String,
    /// The path below it (`library/alpine`).
    pub path: String,
}

impl fmt::Display for RegistryRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// What a repository is asked for: a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A tag, checked.
    Tag(String),
    /// A digest.
    Digest(Digest),
}

impl Reference {
    /// The text that stands in a manifest URL.
    pub fn as_str(&self) -> &str {
        match self {
            Reference::Tag(tag) => tag,
            Reference::Digest(digest) => digest.as_str(),
        }
    }
    /// `:tag` or `@digest`, as it follows a repository.
    pub fn suffix(&self) -> String {
        match self {
            Reference::Tag(tag) => format!(":{tag}"),
            Reference::Digest(digest) => format!("@{digest}"),
        }
    }
}

/// An image as a list line names it: repository, and a tag, a digest, both or neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// Where it is.
    pub repository: RegistryRepository,
    /// `:tag`
    pub tag: Option<String>,
    /// `@digest`
    pub digest: Option<Digest>,
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl ImageName {
    /// Reads `[host[:port]/]path[:tag][@digest]` into normal form. The error says what is wrong, for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(scheme) = ["https://", "http://", "docker://", "oci://"].iter().find(|scheme| text.starts_with(*scheme)) {
            return Err(format!("`{text}`: write the image without `{scheme}`"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; one before it belongs to a port.
        let (name, tag) = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains('/') => (&rest[..colon], Some(&rest[colon + 1..])),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        Ok(ImageName { repository: RegistryRepository::parse(name)?, tag: tag.map(str::to_owned), digest })
    }
}

impl RegistryRepository {
    /// Reads `[host[:port]/]path` into normal form; a tag or digest is an error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, path) = split_host(text);
        let host = normal_host(host.unwrap_or(DOCKER_HUB))?;
        // Capitals made it a host. In lower case it would be read as a path at Docker Hub, which is another image.
        if split_host(&format!("{host}/")).0.is_none() {
            return Err(format!("`{text}`: add the port to the host (`{host}:443`), or write the path in lower case"));
        }
        let path = normal_path(&host, path);
        check_path(&path).map_err(|why| format!("`{text}`: {why}"))?;
        if host.len() + path.len() >= MAX_NAME {
            return Err(format!("`{text}`: host and path together may have 255 characters"));
        }
        Ok(RegistryRepository { host, path })
    }
}

/// docs/registries.md, "Names": host and name together.
const MAX_NAME: usize = 255;

/// Splits off the host, if the first component is one: it has a dot or a colon, is `localhost`, or is written in capitals
/// (as Docker's reference grammar decides).
pub fn split_host(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase()) => {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

/// Docker Hub keeps its one-component names below `library/`.
pub fn normal_path(host: &str, path: &str) -> String {
    if host == DOCKER_HUB && !path.contains('/') && !path.is_empty() && path != "*" { format!("library/{path}") } else { path.to_owned() }
}

/// Checks a host with optional port, lower-cases it, and gives Docker Hub its one name.
pub fn normal_host(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let (name, port) = match lower.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(|| format!("`{text}` is not a host: `]` is missing"))?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| format!("`{text}` is not a host: no IPv6 address between the brackets"))?;
            match after {
                "" => (None, None),
                after => (None, Some(after.strip_prefix(':').ok_or_else(|| format!("`{text}` is not a host"))?)),
            }
        }
        None => match lower.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(lower.as_str()), None),
        },
    };
    if let Some(name) = name {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        if name.is_empty() || !name.split('.').all(label) {
            return Err(format!("`{text}` is not a host"));
        }
    }
    if let Some(port) = port
        && !(!port.is_empty() && port.chars().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return Err(format!("`{text}` is not a host: `{port}` is not a port"));
    }
    Ok(match lower.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => DOCKER_HUB.to_owned(),
        _ => lower,
    })
}

/// Checks a repository path (distribution-spec "Pulling manifests", `<name>`).
pub fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the repository is missing".to_owned());
    }
    if path.len() > MAX_NAME {
        return Err("a repository may have 255 characters".to_owned());
    }
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("repository names are lower case".to_owned());
    }
    for component in path.split('/') {
        check_component(component)?;
    }
    Ok(())
}

/// Checks a repository as layouts name it: a path, or a host (with its port) and a path.
pub fn check_repository(text: &str) -> Result<(), String> {
    let (host, path) = split_host(text);
    if text.len() > MAX_NAME {
        return Err("a repository may have 255 characters".to_owned());
    }
    host.map_or(Ok(()), |host| normal_host(host).map(drop)).and_then(|()| check_path(path))
}

/// Whether `text` is a full reference: a host, a path, and a tag or a digest.
pub fn is_full_reference(text: &str) -> bool {
    split_host(text).0.is_some() && ImageName::parse(text).is_ok_and(|name| name.tag.is_some() || name.digest.is_some())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn check_component(component: &str) -> Result<(), String> {
    if component.is_empty() {
        return Err("a component between slashes is empty".to_owned());
    }
    if let Some(bad) = component.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))) {
        return Err(format!("`{}` may not stand in a repository name", bad.escape_default()));
    }
    let alphanumeric = |c: &str| !matches!(c, "." | "_" | "-");
    let edge = |c: Option<char>| c.is_some_and(|c| alphanumeric(c.encode_utf8(&mut [0; 4])));
    if !edge(component.chars().next()) || !edge(component.chars().next_back()) {
        return Err(format!("`{component}` must begin and end with a letter or digit"));
    }
    let separators = component.split(|c: char| c.is_ascii_alphanumeric()).filter(|run| !run.is_empty());
    for run in separators {
        if !(run == "." || run == "_" || run == "__" || run.chars().all(|c| c == '-')) {
            return Err(format!("`{run}` may not stand within a repository name"));
        }
    }
    Ok(())
}

/// Checks a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn check_tag(tag: &str) -> Result<(), String> {
    let first_ok = tag.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    if first_ok && tag.len() <= 128 && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        Ok(())
    } else {
        Err(format!("`{}` is not a tag (letters, digits, `.`, `_`, `-`; at most 128)", crate::error::printable(tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(text: &str) -> String {
        ImageName::parse(text).unwrap().to_string()
    }

    #[test]
    fn a_host_in_capitals_without_a_dot_is_not_read_as_a_path_at_docker_hub() {
        let refused = ImageName::parse("MyHost/app:1").unwrap_err();
        assert_eq!(refused, "`MyHost/app`: add the port to the host (`myhost:443`), or write the path in lower case");
        assert_eq!(ImageName::parse("LOCALHOST/app:1").unwrap().to_string(), "localhost/app:1");
        assert_eq!(ImageName::parse("MyHost:443/app:1").unwrap().to_string(), "myhost:443/app:1");
    }

    #[test]
    fn names_are_normalised() {
        let hex = "a".repeat(64);
        for (given, expected) in [
            ("alpine", "docker.io/library/alpine"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("docker.io/alpine", "docker.io/library/alpine"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine"),
            ("registry-1.docker.io/grafana/loki:3", "docker.io/grafana/loki:3"),
            ("grafana/loki", "docker.io/grafana/loki"),
            ("localhost/x", "localhost/x"),
            ("LOCALHOST:5000/x:1", "localhost:5000/x:1"),
            ("Quay.IO/prometheus/busybox:latest", "quay.io/prometheus/busybox:latest"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
            ("a--b/c__d/e.f_g", "docker.io/a--b/c__d/e.f_g"),
        ] {
            assert_eq!(normal(given), expected, "{given}");
        }
        assert_eq!(normal(&format!("alpine:3@sha256:{hex}")), format!("docker.io/library/alpine:3@sha256:{hex}"));
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_reason() {
        for (given, word) in [
            ("", "missing"),
            ("quay.io/", "missing"),
            ("quay.io/Prometheus/x", "lower case"),
            ("https://quay.io/x", "without `https://`"),
            ("quay.io/a//b", "empty"),
            ("quay.io/a/../b", "begin and end"),
            ("quay.io/a b", "may not stand"),
            ("quay.io/a:", "not a tag"),
            ("quay.io/a:b:c", "may not stand"),
            ("quay.io/a@sha256:short", "64 lower-case"),
            ("quay.io:0/a", "not a port"),
            ("quay.io:x/a", "not a port"),
            ("-quay.io/a", "not a host"),
            ("quay.io/a._b", "may not stand within"),
            ("quay.io/*", "may not stand"),
        ] {
            let error = ImageName::parse(given).unwrap_err();
            assert!(error.contains(word), "{given}: {error}");
        }
    }

    #[test]
    fn a_repository_of_a_layout_may_begin_with_a_host() {
        for text in ["library/redis", "docker.io/library/redis", "127.0.0.1:5000/app", "[::1]:5000/app", "a"] {
            assert_eq!(check_repository(text), Ok(()), "{text}");
        }
        for text in ["", "../prod/app", "/etc/passwd", "a/../b", "a//b", "a b", "a\u{202e}b", "docker.io/", "x:/a", "a/b:1", "docker.io/A"]
        {
            assert!(check_repository(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_full_reference_has_everything() {
        for (text, is_full) in [
            ("docker.io/library/redis:7", true),
            ("localhost:5000/x@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", true),
            ("library/redis:7", false),
            ("docker.io/library/redis", false),
            ("edge", false),
            ("", false),
            ("quay.io/A:1", false),
        ] {
            assert_eq!(is_full_reference(text), is_full, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics_and_its_result_is_stable(text in "\\PC{0,60}") {
            if let Ok(name) = ImageName::parse(&text) {
                prop_assert_eq!(ImageName::parse(&name.to_string()).unwrap(), name);
            }
        }
    }
}
