//! What a token is asked for.

use std::fmt;

/// Rights in one repository. Pushing includes pulling, as every registry asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    repository: String,
    push: bool,
}

impl Scope {
    /// To read `repository` (its path, without host).
    pub(crate) fn pull(repository: impl Into<String>) -> Self {
        Scope { repository: repository.into(), push: false }
    }

    /// To read and write it.
    pub(crate) fn push(repository: impl Into<String>) -> Self {
        Scope { repository: repository.into(), push: true }
    }

    fn covers(&self, other: &Scope) -> bool {
        self.repository == other.repository && (self.push || !other.push)
    }
}

/// The grammar of distribution's `spec/auth/scope.md`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository:{}:{}", self.repository, if self.push { "pull,push" } else { "pull" })
    }
}

/// The rights a request needs, in normal form: one scope a repository, those with push first, then by name.
///
/// The order matters twice. Equal needs are equal values, which makes them the key of the token cache; and some registries look at
/// the first scope only (go-containerregistry found them), which for a mount must be the target's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Scopes(Vec<Scope>);

impl Scopes {
    /// No repository: for `/v2/` itself.
    pub(crate) fn none() -> Self {
        Scopes::default()
    }

    /// To read one repository.
    pub(crate) fn pull(repository: impl Into<String>) -> Self {
        Scopes(vec![Scope::pull(repository)])
    }

    /// To read and write one repository.
    pub(crate) fn push(repository: impl Into<String>) -> Self {
        Scopes(vec![Scope::push(repository)])
    }

    /// To mount blobs of `source` into `target`.
    pub(crate) fn mount(target: impl Into<String>, source: impl Into<String>) -> Self {
        [Scope::push(target), Scope::pull(source)].into_iter().collect()
    }

    /// Whether a token for these rights serves requests that need `other`.
    pub(crate) fn cover(&self, other: &Scopes) -> bool {
        other.0.iter().all(|needed| self.0.iter().any(|scope| scope.covers(needed)))
    }

    /// Whether no repository is named.
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The scopes in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut scopes: Vec<Scope> = scopes.into_iter().collect();
        // Push sorts before pull of the same repository, so that the one that covers the other stays.
        scopes.sort_by(|a, b| a.repository.cmp(&b.repository).then(b.push.cmp(&a.push)));
        scopes.dedup_by(|later, kept| later.repository == kept.repository);
        scopes.sort_by_key(|scope| !scope.push);
        Scopes(scopes)
    }
}

/// As messages name it: the repositories.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.0.iter().enumerate() {
            write!(f, "{}{}", if at > 0 { ", " } else { "" }, scope.repository)?;
        }
        Ok(())
    }
}

/// The scopes of a challenge that name no repository (`aws` at ECR Public): what the registry wants besides ours.
///
/// Its repository scopes are left out: we know better which repository we are about to ask for, and what for.
pub(super) fn beyond_repositories(scope: &str) -> impl Iterator<Item = &str> {
    scope.split_whitespace().filter(|scope| !scope.starts_with("repository:") && !scope.starts_with("repository("))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(scopes: &Scopes) -> String {
        scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn scopes_are_written_as_the_specification_says_target_first() {
        for (scopes, expected) in [
            (Scopes::none(), ""),
            (Scopes::pull("library/alpine"), "repository:library/alpine:pull"),
            (Scopes::push("a/b"), "repository:a/b:pull,push"),
            (Scopes::mount("z/target", "a/source"), "repository:z/target:pull,push repository:a/source:pull"),
            (Scopes::mount("a", "a"), "repository:a:pull,push"),
            ([Scope::pull("b"), Scope::pull("a"), Scope::pull("b")].into_iter().collect(), "repository:a:pull repository:b:pull"),
        ] {
            assert_eq!(text(&scopes), expected);
        }
    }

    #[test]
    fn order_of_giving_makes_no_difference() {
        let one: Scopes = [Scope::pull("a"), Scope::push("b"), Scope::push("a")].into_iter().collect();
        let other: Scopes = [Scope::push("b"), Scope::push("a")].into_iter().collect();
        assert_eq!(one, other);
    }

    #[test]
    fn a_wider_token_covers_a_narrower_need() {
        for (have, need, expected) in [
            (Scopes::push("a"), Scopes::pull("a"), true),
            (Scopes::pull("a"), Scopes::push("a"), false),
            (Scopes::pull("a"), Scopes::pull("b"), false),
            (Scopes::mount("a", "b"), Scopes::pull("b"), true),
            (Scopes::mount("a", "b"), Scopes::push("b"), false),
            (Scopes::push("a"), Scopes::mount("a", "b"), false),
            (Scopes::pull("a"), Scopes::none(), true),
        ] {
            assert_eq!(have.cover(&need), expected, "{have:?} {need:?}");
        }
    }

    #[test]
    fn only_scopes_without_a_repository_are_taken_from_a_challenge() {
        let found: Vec<_> =
            beyond_repositories("repository:samalba/my-app:pull,push aws repository(plugin):x:pull registry:catalog:*").collect();
        assert_eq!(found, ["aws", "registry:catalog:*"]);
    }
}
