//! `RuleSet`: resolving a name by source, by target, and both ways.

use std::collections::HashMap;
use std::sync::Arc;

use super::{CacheRule, Overlap, Resolution, RuleFinding, Unmatched, Unresolved, acr, check};
use crate::content::Repository;
use crate::name::{RegistryRepository, check_path};

/// Checked rules, ready to resolve names.
///
/// Both indexes map a pattern's prefix to the first rule of the file that has it. A fixed path has no final slash and a
/// wildcard's prefix does, so looking up the name and then its prefixes from long to short *is* the order of precedence:
/// fixed before wildcard, then the longest, then file order.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    rules: Vec<Arc<CacheRule>>,
    overlap: Overlap,
    by_source: HashMap<String, usize>,
    by_target: HashMap<String, usize>,
}

impl RuleSet {
    /// Checks `rules` (in file order) and indexes them. All errors are found at once; those about two rules name both.
    pub fn new(rules: Vec<CacheRule>, overlap: Overlap) -> Result<Self, Vec<RuleFinding>> {
        let findings = check::errors(&rules, overlap);
        if !findings.is_empty() {
            return Err(findings);
        }
        let mut set = RuleSet { overlap, ..RuleSet::default() };
        for (at, rule) in rules.into_iter().enumerate() {
            set.by_source.entry(rule.source.key()).or_insert(at);
            set.by_target.entry(rule.target.prefix().to_owned()).or_insert(at);
            set.rules.push(Arc::new(rule));
        }
        Ok(set)
    }

    /// The rules, in file order.
    pub fn rules(&self) -> &[Arc<CacheRule>] {
        &self.rules
    }

    /// What overlapping wildcard targets mean in this set.
    pub fn overlap(&self) -> Overlap {
        self.overlap
    }

    /// The resolution of `source`: the winning rule's target, if that name resolves back to the same rule and source.
    pub fn forward(&self, source: &RegistryRepository) -> Result<Resolution, Unresolved> {
        let Some(rule) = first_match(&self.by_source, &source.to_string()).map(|at| &self.rules[at]) else {
            return Err(Unresolved::NoRule { name: source.to_string(), nearest: self.nearest(source) });
        };
        // The index matched the same text, so the rest is there.
        let target = rule.target.fill(rule.source.rest(source).unwrap_or_default());
        check_path(&target).map_err(|why| Unresolved::IllegalTarget { source: source.to_string(), target: target.clone(), why })?;
        match self.reverse(&target) {
            Some((owner, serves)) if !(Arc::ptr_eq(owner, rule) && serves == *source) => {
                Err(Unresolved::Shadowed { source: source.to_string(), target, owner: owner.name.clone(), serves: serves.to_string() })
            }
            _ => Ok(Resolution { rule: Some(Arc::clone(rule)), source: source.clone(), target: Repository::new(target) }),
        }
    }

    /// The rule that owns the name `target` (a repository below the target's prefix), and the source it serves there.
    pub fn reverse(&self, target: &str) -> Option<(&Arc<CacheRule>, RegistryRepository)> {
        let rule = &self.rules[first_match(&self.by_target, target)?];
        let rest = rule.target.rest(target)?;
        Some((rule, rule.source.fill(rest)))
    }

    /// The image a name *of the target* stands for: the owner's source.
    pub fn by_target(&self, target: &str) -> Result<Resolution, Unresolved> {
        let (rule, source) = self.reverse(target).ok_or_else(|| Unresolved::NoRule {
            name: format!("{target} at the target"),
            nearest: nearest(&self.rules, target, |rule| rule.target.prefix().to_owned()),
        })?;
        Ok(Resolution { rule: Some(Arc::clone(rule)), source, target: Repository::new(target) })
    }

    /// Resolves `source` to a `target` that no rule chose (a list's `target` column). If a rule owns the name, it must
    /// serve the same source there, and is then the rule of the image.
    pub fn with_target(&self, source: &RegistryRepository, target: &str) -> Result<Resolution, Unresolved> {
        match self.reverse(target) {
            Some((owner, serves)) if serves != *source => Err(Unresolved::Shadowed {
                source: source.to_string(),
                target: target.to_owned(),
                owner: owner.name.clone(),
                serves: serves.to_string(),
            }),
            owner => {
                Ok(Resolution { rule: owner.map(|(rule, _)| Arc::clone(rule)), source: source.clone(), target: Repository::new(target) })
            }
        }
    }

    /// [`forward`](Self::forward), and for a source without a rule the resolution of `unmatched`. `for_registry`: the
    /// target is a registry, not a layout.
    pub fn resolve(&self, source: &RegistryRepository, unmatched: Unmatched, for_registry: bool) -> Result<Resolution, Unresolved> {
        match self.forward(source) {
            Err(Unresolved::NoRule { .. }) if unmatched == Unmatched::Mirror => self.mirror(source, for_registry),
            resolved => resolved,
        }
    }

    fn mirror(&self, source: &RegistryRepository, for_registry: bool) -> Result<Resolution, Unresolved> {
        let target = Self::unmatched_target(source, for_registry);
        if for_registry {
            check_path(&target).map_err(|why| Unresolved::IllegalTarget { source: source.to_string(), target: target.clone(), why })?;
        }
        self.with_target(source, &target)
    }

    /// `<upstream host>/<path>`: the target of an image that is mirrored without a rule. In a registry's repository
    /// names `:` is not allowed and becomes `_`; an IPv6 address is written out, its groups joined by `_`. Layouts keep
    /// the host as it is.
    pub fn unmatched_target(source: &RegistryRepository, for_registry: bool) -> String {
        if for_registry { format!("{}/{}", host_component(&source.host), source.path) } else { source.to_string() }
    }

    /// Every rule whose source matches, the winner first.
    pub fn matching(&self, source: &RegistryRepository) -> Vec<&Arc<CacheRule>> {
        let mut matching: Vec<_> = self.rules.iter().filter(|rule| rule.source.rest(source).is_some()).collect();
        // The sort is stable: equals stay in file order.
        matching.sort_by_key(|rule| (rule.source.path.is_wildcard(), std::cmp::Reverse(rule.source.path.prefix().len())));
        matching
    }

    /// Rules that work but are probably not intended: equal sources, lost signatures, and contradictions to an
    /// upstream's authentication policy, which are errors for warm rules if the target is an Azure Container Registry
    /// (`through_acr`). `set_for` gives the credential set of a source host whose rule names none.
    pub fn warnings(&self, through_acr: bool, set_for: &dyn Fn(&str) -> Option<String>) -> Vec<RuleFinding> {
        let mut findings = check::equal_sources(&self.rules);
        findings.extend(check::authentication_findings(&self.rules, through_acr, set_for));
        findings.extend(check::lost_referrers(&self.rules));
        findings.sort_by_key(|finding| finding.line);
        findings
    }

    /// Rules that Azure's artifact cache refuses, or treats otherwise; and notes on names into which it puts
    /// `library/`. `written` is a rule's source as its file has it; `writable`: cache repositories there accept pushes.
    pub fn acr_findings(&self, writable: bool, written: &dyn Fn(&CacheRule) -> Option<String>) -> Vec<RuleFinding> {
        [acr::findings(&self.rules, writable), acr::insertions(&self.rules, written)].concat()
    }

    fn nearest(&self, source: &RegistryRepository) -> Option<String> {
        let same_host: Vec<_> = self.rules.iter().filter(|rule| rule.source.host == source.host).cloned().collect();
        let candidates = if same_host.is_empty() { &self.rules } else { &same_host };
        nearest(candidates, &source.to_string(), |rule| rule.source.key())
    }
}

/// The rule whose pattern has the longest common prefix with `name`; the first of several in the file.
fn nearest(rules: &[Arc<CacheRule>], name: &str, pattern: impl Fn(&CacheRule) -> String) -> Option<String> {
    let shared = |rule: &CacheRule| pattern(rule).bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    // `max_by_key` gives the last of equals, so search from the end.
    rules.iter().rev().max_by_key(|rule| shared(rule)).map(|rule| format!("\"{}\" ({} to {})", rule.name, rule.source, rule.target))
}

/// The entry for the name itself, or for its longest prefix that ends in a slash, or for everything.
fn first_match(index: &HashMap<String, usize>, name: &str) -> Option<usize> {
    index
        .get(name)
        .or_else(|| name.rmatch_indices('/').find_map(|(slash, _)| index.get(&name[..=slash])))
        .or_else(|| index.get(""))
        .copied()
}

fn host_component(host: &str) -> String {
    let (address, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.trim_start_matches(':')),
        None => return host.replace(':', "_"),
    };
    let Ok(address) = address.parse::<std::net::Ipv6Addr>() else { return host.replace(':', "_") };
    let mut parts: Vec<String> = address.segments().iter().map(|group| format!("{group:x}")).collect();
    parts.extend((!port.is_empty()).then(|| port.to_owned()));
    parts.join("_")
}
