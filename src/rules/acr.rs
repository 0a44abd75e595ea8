//! Checks rules against Azure Container Registry's artifact cache (docs/registries.md, "Azure: upstreams", "Azure: what
//! a pull does"). Only warm rules are cache rules there; larder pushes the images of the others.

use std::sync::Arc;

use super::{CacheRule, Delivery, RuleFinding, authentication};
use crate::name::DOCKER_HUB;

/// The problem with the name of a cache rule or credential set at Azure: 5 to 50 letters, digits and hyphens.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let legal = (5..=50).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (!legal).then(|| format!("a name has 5 to 50 letters, digits and hyphens at Azure; this has {}", name.len()))
}

/// Rules that Azure refuses, or treats otherwise than larder. Credentials are checked in [`super::check`].
pub(super) fn findings(rules: &[Arc<CacheRule>], writable: bool) -> Vec<RuleFinding> {
    let mut findings = Vec::new();
    let warm: Vec<&Arc<CacheRule>> = rules.iter().filter(|rule| rule.delivery == Delivery::Warm).collect();
    for (at, rule) in warm.iter().enumerate() {
        let error = |message: String| RuleFinding::error(rule.line, format!("rule \"{}\": {message}", rule.name));
        findings.extend(name_problem(&rule.name).map(|why| error(format!("{why} (rename it as the cache rule is called there)"))));
        let in_the_way = warm[..at].iter().find(|other| other.target.encloses(&rule.target) || rule.target.encloses(&other.target));
        findings.extend(in_the_way.map(|other| {
            error(format!(
                "Azure takes no wildcard within another: its target {} and {} of rule \"{}\" (line {}) (give one of the two another target)",
                rule.target, other.target, other.name, other.line
            ))
        }));
        let host = &rule.source.host;
        if authentication(host).is_none() {
            let message =
                format!("rule \"{}\": {host} is not among the upstreams that Azure documents (use delivery = \"push\")", rule.name);
            findings.push(RuleFinding::warning(rule.line, message));
        }
    }
    findings.extend(rules.iter().filter(|rule| rule.delivery == Delivery::Push).filter_map(|rule| closed(rule, &warm, writable)));
    findings
}

/// Push rules into a repository of a cache rule: Azure refuses them (docs/registries.md, "Azure: what a pull does"),
/// unless cache repositories are writable (a preview, for which az has `--writable-cache-repos`).
fn closed(rule: &CacheRule, warm: &[&Arc<CacheRule>], writable: bool) -> Option<RuleFinding> {
    let owner = warm.iter().find(|owner| owner.target.rest(rule.target.prefix()).is_some() || owner.target.encloses(&rule.target))?;
    if writable {
        let message = format!(
            "rule \"{}\": it pushes into {}, where a cache rule is ({} of rule \"{}\", line {}): Azure takes that as `writable_cache` says",
            rule.name, rule.target, owner.target, owner.name, owner.line
        );
        return Some(RuleFinding::note(rule.line, message));
    }
    let message = format!(
        "rule \"{}\": it pushes into {}, and Azure refuses pushes where a cache rule is: {} of rule \"{}\" (line {}) (make it warm, give it \
         another target, or set writable_cache = true in [target] if its cache repositories are writable)",
        rule.name, rule.target, owner.target, owner.name, owner.line
    );
    Some(RuleFinding::error(rule.line, message))
}

/// Rules into whose names Azure puts `library/`. `written` is the source as the file has it.
pub(super) fn insertions(rules: &[Arc<CacheRule>], written: &dyn Fn(&CacheRule) -> Option<String>) -> Vec<RuleFinding> {
    let insertion = |rule: &CacheRule| -> Option<String> {
        if rule.source.host != DOCKER_HUB {
            return None;
        }
        if rule.source.path.is_wildcard() {
            // Below a longer prefix there are no names of one component.
            return rule.source.path.prefix().is_empty().then(|| {
                let (example, meant) = (rule.target.fill("alpine"), rule.source.fill("alpine"));
                format!("{example} is {meant}: Azure inserts library/ into names of one component, as larder does")
            });
        }
        let text = written(rule)?;
        (!text.contains("library/")).then(|| format!("source {text} is {}: Azure inserts library/, as larder does", rule.source))
    };
    rules
        .iter()
        .filter(|rule| rule.delivery == Delivery::Warm)
        .filter_map(|rule| Some(RuleFinding::note(rule.line, format!("rule \"{}\": {}", rule.name, insertion(rule)?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Overlap, Pattern, RuleSet, SourcePattern};

    /// Rules named `rule-0`, ... at lines 10, 20, ... from delivery, source and target.
    fn set(given: &[(Delivery, &str, &str)], overlap: Overlap) -> Result<RuleSet, Vec<RuleFinding>> {
        let rule = |(at, (delivery, source, target)): (usize, &(Delivery, &str, &str))| CacheRule {
            name: format!("rule-{at}"),
            source: SourcePattern::parse(source).unwrap(),
            target: Pattern::target(target).unwrap(),
            credentials: None,
            delivery: *delivery,
            policy: crate::content::Policy::default(),
            min_tags: 1,
            warm: crate::rules::WarmSettings::default(),
            immutable_tags: crate::select::TagPatterns::default(),
            line: 10 * (at + 1),
        };
        RuleSet::new(given.iter().enumerate().map(rule).collect(), overlap)
    }

    fn told(set: &RuleSet, written: &str) -> Vec<String> {
        let findings = set.acr_findings(false, &|_| Some(written.to_owned()));
        findings.iter().map(|finding| format!("{} {}: {}", finding.severity, finding.line.unwrap(), finding.message)).collect()
    }

    /// docs/registries.md, "Azure: wildcards": every pair there, blocked and allowed, by the set itself where overlaps
    /// are errors, and by Azure's semantics where the longest wins.
    #[test]
    fn azure_blocks_and_allows_what_its_documentation_says() {
        const W: Delivery = Delivery::Warm;
        for (pairs, allowed) in [
            ([(W, "mcr.microsoft.com/*", "*"), (W, "docker.io/library/*", "library/*")], false),
            ([(W, "docker.io/library/*", "library/*"), (W, "mcr.microsoft.com/dotnet/*", "library/dotnet/*")], false),
            ([(W, "mcr.microsoft.com/dotnet/*", "library/dotnet/*"), (W, "docker.io/library/*", "library/*")], false),
            ([(W, "mcr.microsoft.com/*", "*"), (W, "docker.io/library/*", "*")], false),
            ([(W, "docker.io/library/a", "x/y"), (W, "docker.io/library/b", "x/y")], false),
            ([(W, "mcr.microsoft.com/dotnet/*", "library/dotnet/*"), (W, "docker.io/library/python/*", "library/python/*")], true),
            ([(W, "mcr.microsoft.com/*", "*"), (W, "docker.io/library/dotnet", "library/dotnet")], true),
            ([(W, "docker.io/library/dotnet", "library/dotnet"), (W, "mcr.microsoft.com/*", "*")], true),
            ([(W, "docker.io/library/*", "one/*"), (W, "docker.io/library/*", "two/*")], true),
        ] {
            assert_eq!(set(&pairs, Overlap::Error).is_ok(), allowed, "{pairs:?}");
            let by_azure = match set(&pairs, Overlap::Longest) {
                Ok(set) => !told(&set, "x").iter().any(|told| told.starts_with("error ")),
                Err(_) => false,
            };
            assert_eq!(by_azure, allowed, "{pairs:?}");
        }
    }

    #[test]
    fn findings_name_the_rules_the_reason_and_the_fix() {
        let set = set(
            &[
                (Delivery::Warm, "docker.io/*", "hub/*"),
                (Delivery::Warm, "quay.io/*", "hub/quay/*"),
                (Delivery::Push, "ghcr.io/team/app", "hub/app"),
                (Delivery::Push, "ghcr.io/team/*", "hub/team/*"),
                (Delivery::Push, "ghcr.io/other/*", "other/*"),
                (Delivery::Warm, "r.example/x", "x"),
                (Delivery::Warm, "docker.io/library/alpine", "alpine"),
            ],
            Overlap::Longest,
        );
        assert_eq!(
            told(&set.unwrap(), "alpine"),
            [
                "error 20: rule \"rule-1\": Azure takes no wildcard within another: its target hub/quay/* and hub/* of rule \"rule-0\" (line 10) \
                 (give one of the two another target)",
                "warning 60: rule \"rule-5\": r.example is not among the upstreams that Azure documents (use delivery = \"push\")",
                "error 30: rule \"rule-2\": it pushes into hub/app, and Azure refuses pushes where a cache rule is: hub/* of rule \"rule-0\" \
                 (line 10) (make it warm, give it another target, or set writable_cache = true in [target] if its cache repositories are writable)",
                "error 40: rule \"rule-3\": it pushes into hub/team/*, and Azure refuses pushes where a cache rule is: hub/* of rule \"rule-0\" \
                 (line 10) (make it warm, give it another target, or set writable_cache = true in [target] if its cache repositories are writable)",
                "note 10: rule \"rule-0\": hub/alpine is docker.io/library/alpine: Azure inserts library/ into names of one component, as larder does",
                "note 70: rule \"rule-6\": source alpine is docker.io/library/alpine: Azure inserts library/, as larder does",
            ]
        );
    }

    #[test]
    fn names_have_5_to_50_characters_at_azure() {
        for (name, legal) in [("hub", false), ("hubs", false), ("hub-1", true), ("a_b-c", false)] {
            assert_eq!(name_problem(name).is_none(), legal, "{name}");
        }
        assert!(name_problem(&"x".repeat(50)).is_none() && name_problem(&"x".repeat(51)).is_some());
    }
}
