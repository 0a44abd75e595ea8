//! What a token is asked for.

use std::collections::BTreeSet;
use std::fmt;

/// Rights in one repository. Pushing includes pulling, as every registry asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    repository: String,
    push: bool,
    /// Further actions that the registry asked for (`metadata_read`).
    more: BTreeSet<String>,
}

impl Scope {
    /// To read `repository` (its path, without host).
    pub(crate) fn pull(repository: impl Into<String>) -> Self {
        Scope { repository: repository.into(), push: false, more: BTreeSet::new() }
    }

    /// To read and write it.
    pub(crate) fn push(repository: impl Into<String>) -> Self {
        Scope { repository: repository.into(), push: true, more: BTreeSet::new() }
    }

    fn covers(&self, other: &Scope) -> bool {
        self.repository == other.repository && (self.push || !other.push) && self.more.is_superset(&other.more)
    }
}

/// The grammar of distribution's `spec/auth/scope.md`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository:{}:{}", self.repository, if self.push { "pull,push" } else { "pull" })?;
        self.more.iter().try_for_each(|action| write!(f, ",{action}"))
    }
}

/// The rights a request needs, in normal form: one scope a repository, those with push first, then by name.
///
/// The order matters twice. Equal needs are equal values, which makes them the key of the token cache; and some registries look at
/// the first scope only (go-containerregistry found them), which for a mount must be the target's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Scopes {
    scopes: Vec<Scope>,
    purpose: Purpose,
    /// Scopes that the registry asked for, of other repositories than ours, as it wrote them.
    given: BTreeSet<String>,
}

/// What a request is for. Registries want other rights for some kinds (Azure: `metadata_read` for a tag list), and a right that is
/// refused for one kind says nothing about the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Purpose {
    /// Manifests and blobs.
    #[default]
    Content,
    /// A tag list.
    Tags,
    /// A list of referrers.
    Referrers,
}

/// Longest action or scope that is taken over from a challenge, and how many of them: real registries have one.
const LONGEST_GIVEN: usize = 256;
const MOST_GIVEN: usize = 4;

impl Scopes {
    /// The same, for requests of another kind.
    pub(crate) fn to(self, purpose: Purpose) -> Self {
        Scopes { purpose, ..self }
    }

    /// What they are for, and whether they let us write.
    pub(super) fn kind(&self) -> (Purpose, bool) {
        (self.purpose, self.scopes.iter().any(|scope| scope.push))
    }

    /// These, and the `actions` in every repository.
    pub(super) fn with_actions(&self, actions: &BTreeSet<String>) -> Self {
        let mut wider = self.clone();
        for scope in &mut wider.scopes {
            scope.more.extend(actions.iter().cloned());
        }
        wider
    }

    /// These, and scopes as a registry wrote them.
    pub(super) fn with_given<'a>(mut self, given: impl IntoIterator<Item = &'a String>) -> Self {
        self.given.extend(given.into_iter().cloned());
        self
    }

    /// What a challenge's scope asks for beyond these: actions in our repositories, and scopes of others.
    pub(super) fn missing(&self, scope: &str) -> (Vec<String>, Vec<String>) {
        let (mut actions, mut given) = (vec![], vec![]);
        for word in scope.split_whitespace().filter(|word| word.len() <= LONGEST_GIVEN) {
            let Some((repository, wanted)) = repository_scope(word) else { continue };
            match self.scopes.iter().find(|scope| scope.repository == repository) {
                None => given.push(word.to_owned()),
                Some(ours) => {
                    let held = |action: &str| action == "pull" || (action == "push" && ours.push) || action.is_empty();
                    actions.extend(wanted.split(',').filter(|action| !held(action)).map(str::to_owned));
                }
            }
        }
        actions.truncate(MOST_GIVEN);
        given.truncate(MOST_GIVEN);
        (actions, given)
    }

    /// Whether they name one repository, and nothing that the registry asked for beside it.
    pub(super) fn is_one_repository(&self) -> bool {
        self.scopes.len() == 1 && self.given.is_empty()
    }

    /// Each repository with its actions.
    pub(super) fn repositories(&self) -> impl Iterator<Item = (&str, BTreeSet<String>)> {
        self.scopes.iter().map(|scope| {
            let own = if scope.push { &["pull", "push"][..] } else { &["pull"] };
            let actions = own.iter().map(ToString::to_string).chain(scope.more.iter().cloned());
            (scope.repository.as_str(), actions.collect())
        })
    }

    /// All of `group` in one request, in that order: some servers look at the first scope only.
    pub(super) fn joined(group: &[Scopes]) -> Self {
        let purpose = group.first().map(|first| first.purpose).unwrap_or_default();
        Scopes { scopes: group.iter().flat_map(|scopes| scopes.scopes.iter().cloned()).collect(), purpose, given: BTreeSet::new() }
    }

    /// No repository: for `/v2/` itself.
    pub(crate) fn none() -> Self {
        Scopes::default()
    }

    /// To read one repository.
    pub(crate) fn pull(repository: impl Into<String>) -> Self {
        [Scope::pull(repository)].into_iter().collect()
    }

    /// To read and write one repository.
    pub(crate) fn push(repository: impl Into<String>) -> Self {
        [Scope::push(repository)].into_iter().collect()
    }

    /// To mount blobs of `source` into `target`.
    pub(crate) fn mount(target: impl Into<String>, source: impl Into<String>) -> Self {
        [Scope::push(target), Scope::pull(source)].into_iter().collect()
    }

    /// Whether a token for these rights serves requests that need `other`.
    pub(crate) fn cover(&self, other: &Scopes) -> bool {
        self.given.is_superset(&other.given) && other.scopes.iter().all(|needed| self.scopes.iter().any(|scope| scope.covers(needed)))
    }

    /// Whether no repository is named.
    pub(crate) fn is_none(&self) -> bool {
        self.scopes.is_empty()
    }

    /// The scopes in order, as a token server is asked for them.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        self.scopes.iter().map(ToString::to_string).chain(self.given.iter().cloned())
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut scopes: Vec<Scope> = scopes.into_iter().collect();
        // Push sorts before pull of the same repository, so that the one that covers the other stays.
        scopes.sort_by(|a, b| a.repository.cmp(&b.repository).then(b.push.cmp(&a.push)));
        scopes.dedup_by(|later, kept| later.repository == kept.repository);
        scopes.sort_by_key(|scope| !scope.push);
        Scopes { scopes, ..Scopes::default() }
    }
}

/// As messages name it: the repositories.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.scopes.iter().enumerate() {
            write!(f, "{}{}", if at > 0 { ", " } else { "" }, scope.repository)?;
        }
        Ok(())
    }
}

/// Repository and actions of `repository:NAME:ACTIONS`, where a class may follow the word and a port be part of the name.
fn repository_scope(scope: &str) -> Option<(&str, &str)> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    (kind == "repository" || kind.starts_with("repository(")).then_some((name, actions))
}

/// The scopes of a challenge that name no repository (`aws` at ECR Public): what the registry wants besides ours.
pub(super) fn beyond_repositories(scope: &str) -> impl Iterator<Item = &str> {
    scope.split_whitespace().filter(|scope| !scope.starts_with("repository:") && !scope.starts_with("repository("))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(scopes: &Scopes) -> String {
        scopes.texts().collect::<Vec<_>>().join(" ")
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
    fn what_a_challenge_asks_for_beyond_ours_is_found() {
        for (ours, challenge, actions, given) in [
            (Scopes::pull("a/b"), "repository:a/b:pull", &[][..], &[][..]),
            (Scopes::pull("a/b"), "repository:a/b:metadata_read", &["metadata_read"], &[]),
            (Scopes::pull("a/b"), "aws repository:a/b:pull,push repository:c:pull", &["push"], &["repository:c:pull"]),
            (Scopes::push("a/b"), "repository(plugin):a/b:pull,push,delete", &["delete"], &[]),
            (Scopes::pull("a"), "repository:r.example:5000/a:pull repository: repository", &[], &["repository:r.example:5000/a:pull"]),
            (Scopes::pull("a"), "repository:a:1,2,3,4,5,6", &["1", "2", "3", "4"], &[]),
        ] {
            let (found, others) = ours.missing(challenge);
            assert_eq!(
                (found, others),
                (actions.iter().map(ToString::to_string).collect(), given.iter().map(ToString::to_string).collect())
            );
        }
        let wider = Scopes::mount("a", "b")
            .with_actions(&BTreeSet::from(["metadata_read".to_owned()]))
            .with_given(&["repository:c:pull".to_owned()]);
        assert_eq!(text(&wider), "repository:a:pull,push,metadata_read repository:b:pull,metadata_read repository:c:pull");
        assert!(wider.cover(&Scopes::mount("a", "b")) && !Scopes::mount("a", "b").cover(&wider));
    }

    #[test]
    fn only_scopes_without_a_repository_are_taken_from_a_challenge() {
        let found: Vec<_> =
            beyond_repositories("repository:samalba/my-app:pull,push aws repository(plugin):x:pull registry:catalog:*").collect();
        assert_eq!(found, ["aws", "registry:catalog:*"]);
    }
}
