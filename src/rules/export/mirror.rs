//! Shared by the formats of container runtimes: rules as mirrors, and names for which a mirror would serve another
//! image.

use std::sync::Arc;

use super::{CacheRule, ExportContext, Pattern};
use crate::name::DOCKER_HUB;
use crate::rules::SourcePattern;

/// The number of rules named in one line.
const MOST_TOLD: usize = 5;

/// A rule as a mirror: of each source the first rule in the file, as names are resolved.
pub(super) struct Mirror<'a> {
    pub(super) rule: &'a Arc<CacheRule>,
    /// The whole path at the target.
    pub(super) target: Pattern,
    /// Names of the rule that the target serves from elsewhere, because another rule owns them.
    pub(super) holes: Vec<UncoveredName>,
}

pub(super) struct UncoveredName {
    pub(super) source: SourcePattern,
    pub(super) owner: String,
}

/// The mirrors, in file order. Reports rules whose source an earlier one has.
pub(super) fn mirrors<'a>(view: &ExportContext<'a>, unsaid: &mut Vec<String>) -> Vec<Mirror<'a>> {
    let mut mirrors: Vec<Mirror<'a>> = Vec::new();
    for rule in view.rules.rules() {
        match mirrors.iter().find(|mirror| mirror.rule.source == rule.source) {
            Some(first) => unsaid.push(format!(
                "rule \"{}\": its source {} is that of rule \"{}\", which comes first",
                rule.name, rule.source, first.rule.name
            )),
            None => mirrors.push(Mirror { rule, target: view.full_target(rule), holes: holes(view, rule) }),
        }
    }
    mirrors
}

/// The names within this rule's wildcard target that other rules own.
fn holes(view: &ExportContext<'_>, rule: &Arc<CacheRule>) -> Vec<UncoveredName> {
    let mut holes = Vec::new();
    for owner in others(view, rule) {
        let Some(region) = rule.target.relative(&owner.target) else { continue };
        let source = SourcePattern { host: rule.source.host.clone(), path: rule.source.path.extended(&region) };
        // A rule of its own maps these names elsewhere, or to the same name.
        let sent_elsewhere = |other: &Arc<CacheRule>| rule.source.path.relative(&other.source.path).is_some() && covers(other, &source);
        if exists(&source) && !others(view, rule).any(sent_elsewhere) {
            holes.push(UncoveredName { source, owner: owner.name.clone() });
        }
    }
    holes
}

fn others<'v>(view: &'v ExportContext<'_>, rule: &'v Arc<CacheRule>) -> impl Iterator<Item = &'v Arc<CacheRule>> {
    view.rules.rules().iter().filter(|other| !Arc::ptr_eq(other, rule))
}

/// For a format that knows prefixes only: names outside the rule that are also asked of the target, where another image
/// has that name. These are the names below a fixed repository, and the repository of a wildcard's prefix itself.
pub(super) fn edges(view: &ExportContext<'_>, mirror: &Mirror<'_>) -> Vec<UncoveredName> {
    let (source, target) = (&mirror.rule.source.path, &mirror.rule.target);
    let along =
        if target.is_wildcard() { source.repository().zip(target.repository()) } else { Some((source.all_below(), target.all_below())) };
    let Some((names, place)) = along else { return Vec::new() };
    let hole = |path: Pattern, owner: &Arc<CacheRule>, serves: Pattern| {
        let source = SourcePattern { host: mirror.rule.source.host.clone(), path };
        let right = owner.source.host == source.host && serves == source.path;
        (!right && exists(&source)).then(|| UncoveredName { source, owner: owner.name.clone() })
    };
    // The owner of all these names (fixed before wildcard, then the longest), and the owners of some of them.
    let around = others(view, mirror.rule).filter(|owner| owner.target == place || owner.target.relative(&place).is_some());
    let around = around.max_by_key(|owner| (!owner.target.is_wildcard(), owner.target.prefix().len()));
    let whole = around.and_then(|owner| {
        let region = owner.target.relative(&place);
        hole(names.clone(), owner, region.map_or_else(|| owner.source.path.clone(), |region| owner.source.path.extended(&region)))
    });
    let parts = others(view, mirror.rule).filter_map(|owner| {
        let region = place.relative(&owner.target)?;
        hole(names.extended(&region), owner, owner.source.path.clone())
    });
    // A rule within this one also comes first in such a format.
    let is_within = |other: &CacheRule| other.source.path == names || names.relative(&other.source.path).is_some();
    let sent_elsewhere = |hole: &UncoveredName| others(view, mirror.rule).any(|other| is_within(other) && covers(other, &hole.source));
    whole.into_iter().chain(parts).filter(|hole| !sent_elsewhere(hole)).collect()
}

/// In a format that knows prefixes only, a fixed repository includes the names below it, which belong to an enclosing
/// wildcard.
pub(super) fn taken_along(view: &ExportContext<'_>, mirror: &Mirror<'_>) -> Option<String> {
    let source = &mirror.rule.source;
    if source.path.is_wildcard() {
        return None;
    }
    let below = SourcePattern { host: source.host.clone(), path: source.path.all_below() };
    if !exists(&below) {
        return None;
    }
    let others = others(view, mirror.rule).filter(|other| other.source != below && covers(other, &below));
    let owner = others.max_by_key(|other| other.source.path.prefix().len())?;
    Some(format!("rule \"{}\": {below} is rule \"{}\"'s, but goes the way of {source} here", mirror.rule.name, owner.name))
}

/// Whether such names can exist: Docker Hub has only names of two components, `library/alpine`.
fn exists(source: &SourcePattern) -> bool {
    let slashes = source.path.prefix().matches('/').count();
    source.host != DOCKER_HUB || if source.path.is_wildcard() { slashes <= 1 } else { slashes == 1 }
}

/// Whether all names of `source` belong to the rule.
fn covers(rule: &CacheRule, source: &SourcePattern) -> bool {
    rule.source.host == source.host && (rule.source.path == source.path || rule.source.path.relative(&source.path).is_some())
}

/// The part before `path` at the target, if the path itself does not change: what a runtime can put before every path.
pub(super) fn base<'t>(source: &Pattern, target: &'t Pattern) -> Option<&'t str> {
    if source.is_wildcard() != target.is_wildcard() {
        return None;
    }
    let base = target.prefix().strip_suffix(source.prefix())?;
    if base.is_empty() || base.ends_with('/') { Some(base.trim_end_matches('/')) } else { None }
}

/// The problem with a hole.
pub(super) fn hole_told(mirror: &Mirror<'_>, hole: &UncoveredName) -> String {
    format!(
        "rule \"{}\": {} would be served from rule \"{}\", which is another image: pull it by the target's own name",
        mirror.rule.name, hole.source, hole.owner
    )
}

/// Names of `host` that none of its mirrors in `own` covers, but that a runtime would request unchanged below `base` at
/// the target: paths where the target has images of other upstreams, each with its rule.
pub(super) fn strays(view: &ExportContext<'_>, host: &str, base: &str, own: &[&Mirror<'_>]) -> Vec<String> {
    let root = if base.is_empty() { String::new() } else { format!("{base}/") };
    let asked = |rule: &Arc<CacheRule>| -> Option<String> {
        let path = view.full_target(rule).without(&root)?;
        let names = SourcePattern { host: host.to_owned(), path };
        let right = rule.source == names || !exists(&names) || own.iter().any(|mirror| covers(mirror.rule, &names));
        (!right).then(|| format!("{} (rule \"{}\")", names.path, rule.name))
    };
    // A wildcard around the base has an image for every name below it, and never the requested one.
    let encloses = |rule: &&Arc<CacheRule>| {
        let full = view.full_target(rule);
        full.is_wildcard() && full.prefix().len() < root.len() && root.starts_with(full.prefix())
    };
    let all_are_own = own.iter().any(|mirror| mirror.rule.source.path.is_wildcard() && mirror.rule.source.path.prefix().is_empty());
    let around = view.rules.rules().iter().filter(encloses).max_by_key(|rule| rule.target.prefix().len());
    let around = around.filter(|_| !all_are_own).map(|rule| format!("* (rule \"{}\")", rule.name));
    view.rules.rules().iter().filter_map(asked).chain(around).collect()
}

/// The problem with `strays` of `hosts`.
pub(super) fn strays_told(hosts: &[&str], strays: &[String]) -> String {
    let told = match strays.split_at_checked(MOST_TOLD) {
        Some((first, more)) if !more.is_empty() => format!("{} and {} more", first.join(", "), more.len()),
        _ => strays.join(", "),
    };
    format!(
        "names of {} that no rule covers are asked of the target under their own path, where it has other images: {told}",
        hosts.join(", ")
    )
}

/// The hosts of the mirrors, each once, in file order.
pub(super) fn hosts<'m>(mirrors: &'m [Mirror<'_>]) -> Vec<&'m str> {
    let mut hosts: Vec<&str> = Vec::new();
    for mirror in mirrors {
        let host = mirror.rule.source.host.as_str();
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// Instructions for the nodes, in formats that name the certificate authority's file.
pub(super) fn authority(view: &ExportContext<'_>) -> Option<String> {
    view.ca.map(|file| format!("the certificate authority of {} must be at {file} on the nodes", view.host))
}

/// Sorts fixed names before wildcards, and long ones before short ones, as names are resolved.
pub(super) fn by_specificity(mirrors: &mut [&Mirror<'_>]) {
    mirrors.sort_by_key(|mirror| {
        let source = &mirror.rule.source.path;
        (source.is_wildcard(), std::cmp::Reverse(source.prefix().len()))
    });
}

/// Instructions for the nodes, in any format.
pub(super) fn nodes(view: &ExportContext<'_>) -> Option<String> {
    view.ca.map(|_| format!("the certificate authority of {} must be trusted on the nodes", view.host))
}
