//! The two sides of a rule: one repository, or everything below a prefix.

use std::fmt;

use crate::name::{RegistryRepository, check_path, normal_host, normal_path, split_host};

/// A repository path (`library/alpine`), or all paths below one (`library/*`, or `*` for a whole registry).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// The path itself, or for a wildcard the part before `*`: empty, or ending in a slash.
    prefix: String,
    wildcard: bool,
}

/// A [`Pattern`] at a registry, in normal form (`docker.io/library/*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SourcePattern {
    /// The registry, as in [`RegistryRepository::host`].
    pub host: String,
    /// The path below it.
    pub path: Pattern,
}

impl Pattern {
    /// Parses a rule's target: a path, with or without a final `/*`, or `*` alone. The error is a message.
    pub fn target(text: &str) -> Result<Self, String> {
        check_is_repository(text)?;
        Self::path(text)
    }

    fn path(text: &str) -> Result<Self, String> {
        let (base, wildcard) = split_wildcard(text)?;
        if !(wildcard && base.is_empty()) {
            check_path(base).map_err(|why| format!("`{text}`: {why}"))?;
        }
        let slash = if wildcard && !base.is_empty() { "/" } else { "" };
        Ok(Pattern { prefix: format!("{base}{slash}"), wildcard })
    }

    /// Whether it ends in `*`.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The part before `*`, or the whole path. Unique to the pattern: only a wildcard's is empty or ends in a slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The part of `path` that `*` matches (one or more components; empty for a fixed path), if the pattern matches.
    pub fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.prefix.as_str())?;
        (rest.is_empty() != self.wildcard).then_some(rest)
    }

    /// The path with `*` replaced by `rest`.
    pub fn fill(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// The pattern that matches everything.
    pub(super) fn everything() -> Self {
        Pattern { prefix: String::new(), wildcard: true }
    }

    /// The same paths below `base`, which may be empty.
    pub(super) fn below(&self, base: &str) -> Self {
        let slash = if base.is_empty() { "" } else { "/" };
        Pattern { prefix: format!("{base}{slash}{}", self.prefix), wildcard: self.wildcard }
    }

    /// The same paths without `root`, with which all of them must begin. A pattern that matches only some of them gives
    /// everything below `root`.
    pub(super) fn without(&self, root: &str) -> Option<Self> {
        match self.prefix.strip_prefix(root) {
            Some("") if !self.wildcard => None,
            Some(prefix) => Some(Pattern { prefix: prefix.to_owned(), wildcard: self.wildcard }),
            None => (self.wildcard && root.starts_with(&self.prefix)).then(Self::everything),
        }
    }

    /// The part of all paths of `inner` that `*` matches, if this is a wildcard that matches all of them and is not the
    /// same pattern.
    pub(super) fn relative(&self, inner: &Pattern) -> Option<Self> {
        let rest = inner.prefix.strip_prefix(self.prefix.as_str()).filter(|rest| self.wildcard && !rest.is_empty())?;
        Some(Pattern { prefix: rest.to_owned(), wildcard: inner.wildcard })
    }

    /// The pattern with `*` replaced by what `rest` matches.
    pub(super) fn extended(&self, rest: &Pattern) -> Self {
        Pattern { prefix: format!("{}{}", self.prefix, rest.prefix), wildcard: rest.wildcard }
    }

    /// The repository of a wildcard's prefix itself; `None` without a prefix.
    pub(super) fn repository(&self) -> Option<Self> {
        let path = self.prefix.strip_suffix('/').filter(|_| self.wildcard)?;
        Some(Pattern { prefix: path.to_owned(), wildcard: false })
    }

    /// All paths below a fixed path.
    pub(super) fn all_below(&self) -> Self {
        Pattern { prefix: format!("{}/", self.prefix.trim_end_matches('/')), wildcard: true }
    }

    /// Whether both are wildcards and every path `other` matches is matched by this one too.
    pub(super) fn encloses(&self, other: &Pattern) -> bool {
        self.wildcard && other.wildcard && other.prefix.starts_with(self.prefix.as_str())
    }
}

impl SourcePattern {
    /// Parses a rule's source: a repository, or a pattern ending in `/*`. The error is a message.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_is_repository(text)?;
        if text == "*" {
            return Err("`*` names no registry: write `docker.io/*`".to_owned());
        }
        // By the grammar, `quay.io` alone is Docker Hub's `library/quay.io`, which is never intended.
        if !text.contains('/') && text.contains('.') {
            return Err(format!("`{text}` names no repository: write `{text}/*` for all of that registry"));
        }
        let (host, path) = split_host(text);
        if host.is_some() && path == "*" || path.ends_with("/*") {
            let host = normal_host(host.unwrap_or(crate::name::DOCKER_HUB))?;
            return Ok(SourcePattern { host, path: Pattern::path(path)? });
        }
        split_wildcard(text)?;
        let RegistryRepository { host, path } = RegistryRepository::parse(text)?;
        Ok(SourcePattern { host, path: Pattern { prefix: path, wildcard: false } })
    }

    /// The part of `repository` that `*` matches, if the pattern matches.
    pub fn rest<'r>(&self, repository: &'r RegistryRepository) -> Option<&'r str> {
        if self.host == repository.host { self.path.rest(&repository.path) } else { None }
    }

    /// The repository with `*` replaced by `rest`, in normal form (`docker.io/*` with `alpine` is `docker.io/library/alpine`).
    pub fn fill(&self, rest: &str) -> RegistryRepository {
        let path = normal_path(&self.host, &self.path.fill(rest));
        RegistryRepository { host: self.host.clone(), path }
    }

    /// Host and prefix: the key in the index of a rule set.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.host, self.path.prefix)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, if self.wildcard { "*" } else { "" })
    }
}

impl fmt::Display for SourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// Checks that the text is a repository: no scheme, tag or digest (docs/registries.md, "Azure: limits and names").
fn check_is_repository(text: &str) -> Result<(), String> {
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("`{text}`: write the repository without `{scheme}://`"));
    }
    if let Some((_, digest)) = text.split_once('@') {
        return Err(format!("`{text}`: a rule is about repositories; remove the digest `@{digest}`"));
    }
    // A colon after the last slash starts a tag; one before it belongs to a port.
    if let Some(colon) = text.rfind(':')
        && !text[colon..].contains('/')
    {
        return Err(format!("`{text}`: a rule is about repositories; remove the tag `{}`", &text[colon..]));
    }
    Ok(())
}

/// Removes the final `/*` (or the whole `*`); `*` anywhere else is an error.
fn split_wildcard(text: &str) -> Result<(&str, bool), String> {
    let (base, wildcard) = match text.strip_suffix("/*") {
        Some(base) => (base, true),
        None if text == "*" => ("", true),
        None => (text, false),
    };
    if base.contains('*') {
        return Err(format!("`{text}`: `*` may only stand at the end, for whole components: `library/*`"));
    }
    if wildcard && base.is_empty() && text != "*" {
        return Err(format!("`{text}`: write `*` without the slash"));
    }
    Ok((base, wildcard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_into_normal_form() {
        for (given, expected) in [
            ("alpine", "docker.io/library/alpine"),
            ("docker.io/alpine", "docker.io/library/alpine"),
            ("index.docker.io/library/*", "docker.io/library/*"),
            ("library/*", "docker.io/library/*"),
            ("docker.io/*", "docker.io/*"),
            ("MCR.microsoft.com/*", "mcr.microsoft.com/*"),
            ("localhost:5000/a/b", "localhost:5000/a/b"),
            ("[::1]:5000/*", "[::1]:5000/*"),
            ("quay.io/a/b/*", "quay.io/a/b/*"),
        ] {
            assert_eq!(SourcePattern::parse(given).unwrap().to_string(), expected, "{given}");
        }
    }

    #[test]
    fn what_is_no_rule_side_is_refused_with_a_reason() {
        for (given, word) in [
            ("docker.io/library/alpine:3", "remove the tag `:3`"),
            ("alpine@sha256:00", "remove the digest"),
            ("docker.io/library/*:3", "remove the tag"),
            ("docker.io/lib*", "only stand at the end"),
            ("docker.io/*/alpine", "only stand at the end"),
            ("docker.io/*/*", "only stand at the end"),
            ("docker.io/a**", "only stand at the end"),
            ("*", "names no registry"),
            ("quay.io", "write `quay.io/*`"),
            ("quay.io/", "missing"),
            ("quay.io//*", "without the slash"),
            ("https://quay.io/x", "without `https://`"),
            ("quay.io/Library/*", "lower case"),
            ("quay.io/a/../*", "begin and end"),
            ("", "missing"),
        ] {
            let error = SourcePattern::parse(given).unwrap_err();
            assert!(error.contains(word), "{given}: {error}");
        }
        for (given, word) in [
            ("library/alpine:3", "remove the tag"),
            ("lib*", "only stand at the end"),
            ("/*", "without the slash"),
            ("", "missing"),
            ("Library/*", "lower case"),
        ] {
            let error = Pattern::target(given).unwrap_err();
            assert!(error.contains(word), "{given}: {error}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_components() {
        let library = Pattern::target("library/*").unwrap();
        assert_eq!(library.rest("library/a/b"), Some("a/b"));
        assert_eq!(library.rest("library"), None);
        assert_eq!(library.rest("library2/a"), None);
        assert_eq!(Pattern::target("*").unwrap().rest("a"), Some("a"));
        assert_eq!(Pattern::target("a").unwrap().rest("a"), Some(""));
        assert_eq!(Pattern::target("a").unwrap().rest("a/b"), None);
        assert_eq!(SourcePattern::parse("docker.io/*").unwrap().fill("alpine").to_string(), "docker.io/library/alpine");
    }
}
