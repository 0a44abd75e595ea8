//! Where images go: a registry, or a layout.

use std::fmt;
use std::path::PathBuf;

use crate::content::Repository;
use crate::name::{RegistryRepository, check_path, normal_host, split_host};

/// The layout that is filled when nothing else is said, relative to the configuration's folder.
pub const DEFAULT_LAYOUT: &str = "larder-store";

/// Why `text` is not taken for a path of this machine: it begins with a scheme (`s3://`), which a later version will know. A folder of that
/// name can be written with `./` before it.
pub(crate) fn not_a_path(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.'));
    is_scheme.then(|| format!("{scheme}:// is not in this version: give a path of this machine"))
}

/// The target of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetConfig {
    /// A registry.
    Registry {
        /// Its host in normal form, as in [`RegistryRepository::host`].
        host: String,
        /// What every repository is put below; empty for none. No slash at either end.
        prefix: String,
    },
    /// An OCI image layout.
    Layout {
        /// Its folder.
        path: PathBuf,
    },
}

impl TargetConfig {
    /// Reads `HOST[:PORT][/PREFIX]` or `oci:DIR`, as `--to` takes them. The error is for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("oci:") {
            return match path {
                "" => Err("`oci:` needs a folder: `oci:store`".to_owned()),
                path if not_a_path(path).is_some() => Err(format!("`{text}`: {}", not_a_path(path).unwrap_or_default())),
                path => Ok(TargetConfig::Layout { path: PathBuf::from(path) }),
            };
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(format!("`{text}`: write the registry without `{scheme}://`"));
        }
        // The same words as in image names are hosts, so that `store` or `./store` is not taken for a registry.
        let with_slash = format!("{text}/");
        let (Some(host), rest) = split_host(if text.contains('/') { text } else { &with_slash }) else {
            return Err(format!("`{text}` is not a registry (registry.example.com); a layout is written `oci:{text}`"));
        };
        Self::registry(host, rest)
    }

    /// A registry and the prefix of its repositories, checked. The error is for a person.
    pub(super) fn registry(host: &str, prefix: &str) -> Result<Self, String> {
        if !prefix.is_empty() {
            check_path(prefix).map_err(|why| format!("`{prefix}`: {why}"))?;
        }
        Ok(TargetConfig::Registry { host: normal_host(host)?, prefix: prefix.to_owned() })
    }

    /// The full name of a place: `contoso.azurecr.io/prefix/library/alpine`, or `oci:store:library/alpine` as skopeo writes it.
    pub fn name_of(&self, repository: &Repository) -> String {
        match self {
            TargetConfig::Registry { .. } => format!("{self}/{repository}"),
            TargetConfig::Layout { .. } => format!("{self}:{repository}"),
        }
    }

    /// The path below the prefix, if `repository` is one of this target.
    pub fn place_of<'r>(&self, repository: &'r RegistryRepository) -> Option<&'r str> {
        match self {
            TargetConfig::Registry { host, prefix } if *host == repository.host => match prefix.as_str() {
                "" => Some(&repository.path),
                prefix => repository.path.strip_prefix(prefix)?.strip_prefix('/'),
            },
            _ => None,
        }
    }

    /// Whether it is a registry.
    pub fn is_registry(&self) -> bool {
        matches!(self, TargetConfig::Registry { .. })
    }
}

impl fmt::Display for TargetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetConfig::Registry { host, prefix } if prefix.is_empty() => f.write_str(host),
            TargetConfig::Registry { host, prefix } => write!(f, "{host}/{prefix}"),
            TargetConfig::Layout { path } => write!(f, "oci:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written() {
        for (given, expected, name) in [
            ("contoso.azurecr.io", "contoso.azurecr.io", "contoso.azurecr.io/a/b"),
            ("LOCALHOST:5000/mirror/x", "localhost:5000/mirror/x", "localhost:5000/mirror/x/a/b"),
            ("localhost", "localhost", "localhost/a/b"),
            ("index.docker.io/me", "docker.io/me", "docker.io/me/a/b"),
            ("[::1]:5000", "[::1]:5000", "[::1]:5000/a/b"),
            ("oci:some/dir", "oci:some/dir", "oci:some/dir:a/b"),
        ] {
            let target = TargetConfig::parse(given).unwrap();
            assert_eq!(target.to_string(), expected);
            assert_eq!(target.name_of(&Repository::new("a/b")), name);
        }
        for (given, word) in [
            ("store", "`oci:store`"),
            ("./store", "not a host"),
            ("oci:", "needs a folder"),
            ("oci:s3://bucket/prefix", "s3:// is not in this version"),
            ("oci:file:///srv/store", "file:// is not in this version"),
            ("https://contoso.azurecr.io", "without `https://`"),
            ("contoso.azurecr.io/Up", "lower case"),
            ("contoso.azurecr.io/a/", "empty"),
            ("", "not a registry"),
        ] {
            let error = TargetConfig::parse(given).unwrap_err();
            assert!(error.contains(word), "{given}: {error}");
        }
    }

    #[test]
    fn a_name_of_the_target_is_known_below_its_prefix_only() {
        let target = TargetConfig::parse("contoso.azurecr.io/mirror").unwrap();
        for (name, expected) in [
            ("contoso.azurecr.io/mirror/library/alpine", Some("library/alpine")),
            ("contoso.azurecr.io/mirror", None),
            ("contoso.azurecr.io/mirrors/alpine", None),
            ("quay.io/mirror/alpine", None),
        ] {
            assert_eq!(target.place_of(&RegistryRepository::parse(name).unwrap()), expected, "{name}");
        }
        let layout = TargetConfig::parse("oci:x").unwrap();
        assert_eq!(layout.place_of(&RegistryRepository::parse("alpine").unwrap()), None);
    }
}
