//! Checks a set of rules.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Authentication, CacheRule, Delivery, Overlap, RuleFinding, authentication};
use crate::content::{IndexMode, Referrers};

/// The largest number of rules in a set: the artifact cache's limit (docs/registries.md, "Azure: limits and names").
pub const MAX_RULES: usize = 1000;

/// Checks the name of a rule or credential set: 1 to 50 letters, digits and hyphens. (The artifact cache wants at least
/// 5, docs/registries.md, "Azure: limits and names"; larder does not, because it creates no cloud resource for it.)
pub fn check_name(name: &str) -> Result<(), String> {
    if (1..=50).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        Ok(())
    } else {
        Err("a name is 1 to 50 letters, digits and hyphens".to_owned())
    }
}

/// All errors that make the set unusable.
pub(super) fn errors(rules: &[CacheRule], overlap: Overlap) -> Vec<RuleFinding> {
    if let Some(excess) = rules.get(MAX_RULES) {
        return vec![RuleFinding::error(excess.line, format!("there are {} rules; {MAX_RULES} is the limit", rules.len()))];
    }
    let mut findings = Vec::new();
    let mut names: HashMap<&str, &CacheRule> = HashMap::new();
    for rule in rules {
        let mut report = |message: String| findings.push(RuleFinding::error(rule.line, format!("rule \"{}\": {message}", rule.name)));
        if let Err(why) = check_name(&rule.name) {
            report(why);
        }
        if let Some(first) = names.get(rule.name.as_str()) {
            report(format!("this name is taken by the rule at line {}", first.line));
        }
        names.entry(&rule.name).or_insert(rule);
        if rule.source.path.is_wildcard() != rule.target.is_wildcard() {
            report(format!("`*` must stand on both sides or on neither: {} to {}", rule.source, rule.target));
        }
    }
    findings.extend(overlaps(rules, overlap));
    findings
}

/// Two equal targets never work: the second rule could fill nothing. A wildcard inside another depends on `overlap`. A
/// fixed target inside a wildcard's is allowed (docs/registries.md, "Azure: wildcards").
fn overlaps(rules: &[CacheRule], overlap: Overlap) -> Vec<RuleFinding> {
    let mut findings = Vec::new();
    for (at, later) in rules.iter().enumerate() {
        for earlier in &rules[..at] {
            let (one, other) = (&later.target, &earlier.target);
            let relation = if one == other {
                "is also the target"
            } else if overlap == Overlap::Longest {
                continue;
            } else if other.encloses(one) {
                "lies inside the target"
            } else if one.encloses(other) {
                "encloses the target"
            } else {
                continue;
            };
            findings.push(RuleFinding::error(
                later.line,
                format!(
                    "rule \"{}\": its target {one} {relation} {other} of rule \"{}\" (line {}) (give one of the two another target)",
                    later.name, earlier.name, earlier.line
                ),
            ));
        }
    }
    findings
}

/// Rules with the same source as an earlier rule.
pub(super) fn equal_sources(rules: &[Arc<CacheRule>]) -> Vec<RuleFinding> {
    let mut findings = Vec::new();
    let mut sources: HashMap<String, &CacheRule> = HashMap::new();
    for rule in rules {
        let mut warn = |message: String| findings.push(RuleFinding::warning(rule.line, format!("rule \"{}\": {message}", rule.name)));
        match sources.get(&rule.source.key()) {
            Some(first) => warn(format!(
                "it has the source {} of rule \"{}\" (line {}), which comes first: names written by source never use this one (remove one of the two)",
                rule.source, first.name, first.line
            )),
            None => {
                sources.insert(rule.source.key(), rule);
            }
        }
    }
    findings
}

/// Rules that contradict an upstream's policy. If the target is an Azure Container Registry (`through_acr`), a warm
/// rule cannot work then.
pub(super) fn authentication_findings(
    rules: &[Arc<CacheRule>],
    through_acr: bool,
    set_for: &dyn Fn(&str) -> Option<String>,
) -> Vec<RuleFinding> {
    let finding = |rule: &Arc<CacheRule>| {
        let host = &rule.source.host;
        let credentials = rule.credentials.clone().or_else(|| set_for(host));
        let message = match (authentication(host), credentials) {
            (Some(Authentication::Required), None) => format!(
                "{host} wants credentials (the artifact cache pulls it with them only), and there is no set for it (add a [[credentials]] \
                 with login_server = \"{host}\")"
            ),
            (Some(Authentication::Refused), Some(set)) => {
                format!("{host} is pulled without credentials only, but credential set \"{set}\" is used for it (take the set away)")
            }
            _ => return None,
        };
        let message = format!("rule \"{}\": {message}", rule.name);
        let refused = through_acr && rule.delivery == Delivery::Warm;
        Some(if refused { RuleFinding::error(rule.line, message) } else { RuleFinding::warning(rule.line, message) })
    };
    rules.iter().filter_map(finding).collect()
}

/// Rules that lose signatures: referrers belong to a digest, and a rewritten index has another one than its source.
pub(super) fn lost_referrers(rules: &[Arc<CacheRule>]) -> Vec<RuleFinding> {
    let loses = |rule: &&Arc<CacheRule>| {
        let policy = &rule.policy;
        let cut = !policy.platforms.is_empty() && policy.index == IndexMode::Rewrite;
        rule.delivery == Delivery::Push && cut && policy.referrers != Referrers::No
    };
    let finding = |rule: &Arc<CacheRule>| {
        let message = format!(
            "rule \"{}\": signatures of an index do not travel with it when it is cut to `platforms`: it gets another digest \
             (index = \"sparse\" keeps it, where the target takes that, and referrers = false says that none are wanted)",
            rule.name
        );
        RuleFinding::warning(rule.line, message)
    };
    rules.iter().filter(loses).map(finding).collect()
}
