//! `larder rules explain`: how a name resolves, as `key: value` lines.

use std::fmt;
use std::sync::Arc;

use super::{CacheRule, Delivery, Resolution, RuleSet, Unresolved};
use crate::content::Repository;
use crate::name::{ImageName, RegistryRepository};

/// Facts from outside the rules.
#[derive(Clone, Copy)]
pub struct ExplainContext<'a> {
    /// The full name of a repository at the target.
    pub target: &'a dyn Fn(&Repository) -> String,
    /// The credential set of a source host whose rule names none.
    pub credentials: &'a dyn Fn(&str) -> Option<String>,
}

impl fmt::Debug for ExplainContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

/// How one image resolves. `Display` prints the lines; they are the same for an image without a name at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    lines: Vec<(&'static str, String)>,
    problem: Option<Unresolved>,
}

impl Explanation {
    /// Why the image has no name at the target, if it has none.
    pub fn problem(&self) -> Option<&Unresolved> {
        self.problem.as_ref()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(key, value)| writeln!(f, "{key}: {value}"))
    }
}

/// docs/registries.md, "Docker Hub": manifest GETs count, HEADs do not.
const PULLS: &str = "0 if the target is current; else 1 for a single image, or 1 for an index and 1 for each of its platforms";

/// A cache's GETs count as well (docs/registries.md, "Azure: what a pull does").
const PULLS_THROUGH: &str =
    "0 if the cache is proved to have it; else, through the cache, 1 for a single image, or 1 for an index and 1 for each of its platforms";

impl RuleSet {
    /// Explains the `outcome` for `image` (the result of [`RuleSet::resolve`] or [`RuleSet::by_target`]).
    pub fn explain(&self, image: &ImageName, outcome: Result<Resolution, Unresolved>, view: &ExplainContext<'_>) -> Explanation {
        let mut lines = vec![("image", image.to_string())];
        match outcome {
            Ok(resolution) => {
                lines.push(("considered", self.considered(&resolution.source, resolution.rule.as_ref())));
                lines.extend(resolved(image, &resolution, view));
                Explanation { lines, problem: None }
            }
            Err(problem) => {
                let matching = self.matching(&image.repository);
                let rule = matching.first().copied();
                lines.push(("considered", self.considered(&image.repository, rule)));
                lines.push(("rule", rule.map_or_else(none, |rule| rule.name.clone())));
                lines.push(("source", written(&image.repository.to_string(), image)));
                lines.push(("target", none()));
                lines.push(("credentials", set(rule.map(Arc::as_ref), &image.repository, view)));
                lines.push(("delivery", rule.map_or_else(none, |rule| rule.delivery.to_string())));
                lines.push(("pulls", none()));
                Explanation { lines, problem: Some(problem) }
            }
        }
    }

    /// Every rule that matches `source`, in order of precedence, and why `winner` wins.
    fn considered(&self, source: &RegistryRepository, winner: Option<&Arc<CacheRule>>) -> String {
        let matching = self.matching(source);
        let listed: Vec<String> = matching.iter().map(|rule| format!("{} ({} to {})", rule.name, rule.source, rule.target)).collect();
        match (matching.as_slice(), winner) {
            ([], _) => "none".to_owned(),
            ([first, ..], Some(winner)) if !Arc::ptr_eq(first, winner) => {
                format!("{}; {} wins: it owns the name at the target", listed.join(", "), winner.name)
            }
            (_, None) => format!("{}; none of them: the target was given", listed.join(", ")),
            ([_], _) => listed.concat(),
            ([first, second, ..], _) => format!("{}; {} wins: {}", listed.join(", "), first.name, reason(first, second)),
        }
    }
}

fn reason(first: &CacheRule, second: &CacheRule) -> &'static str {
    if first.source.path.is_wildcard() != second.source.path.is_wildcard() {
        "a fixed source goes before a wildcard"
    } else if first.source != second.source {
        "the longest source goes first"
    } else {
        "of equal sources the first in the file goes first"
    }
}

fn none() -> String {
    "none".to_owned()
}

/// The credential set that `source` is read with, or the fallback.
fn set(rule: Option<&CacheRule>, source: &RegistryRepository, view: &ExplainContext<'_>) -> String {
    let set = rule.and_then(|rule| rule.credentials.clone()).or_else(|| (view.credentials)(&source.host));
    set.unwrap_or_else(|| "none (a docker or podman login if there is one, else anonymous)".to_owned())
}

fn resolved(image: &ImageName, resolution: &Resolution, view: &ExplainContext<'_>) -> Vec<(&'static str, String)> {
    let rule = resolution.rule.as_deref();
    let target = (view.target)(&resolution.target);
    // At the target the tag names the image; the digest is only the content.
    let at_target = match (&image.tag, &image.digest) {
        (None, Some(digest)) => format!("{target}@{digest}"),
        (tag, _) => format!("{target}:{}", tag.as_deref().unwrap_or(DEFAULT_TAG)),
    };
    let delivery = rule.map(|rule| rule.delivery).unwrap_or_default();
    let pulls = match delivery {
        Delivery::Push => PULLS,
        Delivery::Warm => PULLS_THROUGH,
    };
    vec![
        ("rule", rule.map_or_else(none, |rule| rule.name.clone())),
        ("source", written(&resolution.source.to_string(), image)),
        ("target", at_target),
        ("credentials", set(rule, &resolution.source, view)),
        ("delivery", delivery.to_string()),
        ("pulls", pulls.to_owned()),
    ]
}

/// The tag of an image without tag and digest (docs/lists.md).
const DEFAULT_TAG: &str = "latest";

fn written(repository: &str, image: &ImageName) -> String {
    match (&image.tag, &image.digest) {
        (_, Some(digest)) => format!("{repository}@{digest}"),
        (tag, None) => format!("{repository}:{}", tag.as_deref().unwrap_or(DEFAULT_TAG)),
    }
}
