//! What Azure Container Registry's artifact cache makes of rules (registries.md 1.2 to 1.5). Only warm rules are cache rules there;
//! what others fill, larder pushes.

use std::sync::Arc;

use super::{Delivery, Finding, Rule, authentication};
use crate::name::DOCKER_HUB;

/// What is wrong with the name of a cache rule or credential set at Azure: 5 to 50 letters, digits and hyphens.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let legal = (5..=50).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (!legal).then(|| format!("a name has 5 to 50 letters, digits and hyphens at Azure; this has {}", name.len()))
}

/// What Azure would refuse, or do otherwise than the rules say. What it thinks of credentials is [`super::check`]'s to say.
pub(super) fn findings(rules: &[Arc<Rule>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let warm: Vec<&Arc<Rule>> = rules.iter().filter(|rule| rule.delivery == Delivery::Warm).collect();
    for (at, rule) in warm.iter().enumerate() {
        let error = |message: String| Finding::error(rule.line, format!("rule \"{}\": {message}", rule.name));
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
            let message = format!("rule \"{}\": {host} is not among the upstreams that Azure documents (use delivery = \"push\")", rule.name);
            findings.push(Finding::warning(rule.line, message));
        }
    }
    findings.extend(rules.iter().filter(|rule| rule.delivery == Delivery::Push).filter_map(|rule| closed(rule, &warm)));
    findings
}

/// A rule that pushes where a cache rule is: Azure refuses it (registries.md 1.5).
fn closed(rule: &Rule, warm: &[&Arc<Rule>]) -> Option<Finding> {
    let owner = warm.iter().find(|owner| owner.target.rest(rule.target.prefix()).is_some() || owner.target.encloses(&rule.target))?;
    let message = format!(
        "rule \"{}\": it pushes into {}, and Azure refuses pushes where a cache rule is: {} of rule \"{}\" (line {}) (make it warm, or give it \
         another target)",
        rule.name, rule.target, owner.target, owner.name, owner.line
    );
    Some(Finding::error(rule.line, message))
}

/// Where Azure puts `library/` into a name. `written` is the source as the file has it.
pub(super) fn insertions(rules: &[Arc<Rule>], written: &dyn Fn(&Rule) -> Option<String>) -> Vec<Finding> {
    let insertion = |rule: &Rule| -> Option<String> {
        if rule.source.host != DOCKER_HUB {
            return None;
        }
        if rule.source.path.is_wildcard() {
            // Below a longer prefix there is no name of one component.
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
        .filter_map(|rule| Some(Finding::note(rule.line, format!("rule \"{}\": {}", rule.name, insertion(rule)?))))
        .collect()
}
