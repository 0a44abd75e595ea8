//! What the files of container runtimes have in common: rules as mirrors, and where a mirror would serve another image.

use std::sync::Arc;

use super::{CacheRule, ExportContext, Pattern};
use crate::name::DOCKER_HUB;
use crate::rules::SourcePattern;

/// So many rules are named where one line speaks of many.
const MOST_TOLD: usize = 5;

/// A rule as a mirror: of each source the first rule of the file, as names are resolved.
pub(super) struct Mirror<'a> {
    pub(super) rule: &'a Arc<CacheRule>,
    /// The whole path at the target.
    pub(super) target: Pattern,
    /// Names of the rule that the target serves from elsewhere, because another rule owns their place.
    pub(super) holes: Vec<UncoveredName>,
}

pub(super) struct UncoveredName {
    pub(super) source: SourcePattern,
    pub(super) owner: String,
}

/// The mirrors, in file order. Rules whose source an earlier one has are told.
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

/// Where other rules own places within this rule's wildcard target.
fn holes(view: &ExportContext<'_>, rule: &Arc<CacheRule>) -> Vec<UncoveredName> {
    let mut holes = Vec::new();
    for owner in others(view, rule) {
        let Some(region) = rule.target.relative(&owner.target) else { continue };
        let source = SourcePattern { host: rule.source.host.clone(), path: rule.source.path.extended(&region) };
        // A rule of its own for these names sends them elsewhere, or to the same place.
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

/// Of a mirror in a format that knows prefixes only, the names besides the rule's own that are asked of the target as well, where another
/// image is at that place: what is below a fixed repository, and the repository that a wildcard's prefix itself would be.
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
    // Whoever owns all of the place, fixed before wildcard, then the longest; and those who own a part of it.
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
    // A rule within goes before this one in such a format, too.
    let is_within = |other: &CacheRule| other.source.path == names || names.relative(&other.source.path).is_some();
    let sent_elsewhere = |hole: &UncoveredName| others(view, mirror.rule).any(|other| is_within(other) && covers(other, &hole.source));
    whole.into_iter().chain(parts).filter(|hole| !sent_elsewhere(hole)).collect()
}

/// In a format that knows prefixes only, a fixed repository takes what is below it along: names that a wildcard around it has.
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

/// Whether there can be such names: Docker Hub has none but of two components, `library/alpine`.
fn exists(source: &SourcePattern) -> bool {
    let slashes = source.path.prefix().matches('/').count();
    source.host != DOCKER_HUB || if source.path.is_wildcard() { slashes <= 1 } else { slashes == 1 }
}

/// Whether all names of `source` are the rule's.
fn covers(rule: &CacheRule, source: &SourcePattern) -> bool {
    rule.source.host == source.host && (rule.source.path == source.path || rule.source.path.relative(&source.path).is_some())
}

/// What stands before `path` at the target, if the path itself stays: what a runtime can put before every path it asks for.
pub(super) fn base<'t>(source: &Pattern, target: &'t Pattern) -> Option<&'t str> {
    if source.is_wildcard() != target.is_wildcard() {
        return None;
    }
    let base = target.prefix().strip_suffix(source.prefix())?;
    if base.is_empty() || base.ends_with('/') { Some(base.trim_end_matches('/')) } else { None }
}

/// What is wrong at a hole.
pub(super) fn hole_told(mirror: &Mirror<'_>, hole: &UncoveredName) -> String {
    format!(
        "rule \"{}\": {} would be served from rule \"{}\", which is another image: pull it by the target's own name",
        mirror.rule.name, hole.source, hole.owner
    )
}

/// Names of `host` that none of its mirrors in `own` covers, and that a runtime would yet ask the target for below `base` as they are:
/// paths where the target has images of other upstreams, each with its rule.
pub(super) fn strays(view: &ExportContext<'_>, host: &str, base: &str, own: &[&Mirror<'_>]) -> Vec<String> {
    let root = if base.is_empty() { String::new() } else { format!("{base}/") };
    let asked = |rule: &Arc<CacheRule>| -> Option<String> {
        let path = view.full_target(rule).without(&root)?;
        let names = SourcePattern { host: host.to_owned(), path };
        let right = rule.source == names || !exists(&names) || own.iter().any(|mirror| covers(mirror.rule, &names));
        (!right).then(|| format!("{} (rule \"{}\")", names.path, rule.name))
    };
    // A wildcard around the base has an image for every name asked below it, and never the one that was meant.
    let encloses = |rule: &&Arc<CacheRule>| {
        let full = view.full_target(rule);
        full.is_wildcard() && full.prefix().len() < root.len() && root.starts_with(full.prefix())
    };
    let all_are_own = own.iter().any(|mirror| mirror.rule.source.path.is_wildcard() && mirror.rule.source.path.prefix().is_empty());
    let around = view.rules.rules().iter().filter(encloses).max_by_key(|rule| rule.target.prefix().len());
    let around = around.filter(|_| !all_are_own).map(|rule| format!("* (rule \"{}\")", rule.name));
    view.rules.rules().iter().filter_map(asked).chain(around).collect()
}

/// What is wrong with `strays` of `hosts`.
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

/// What is to be seen to at the nodes, where the file says where the certificate authority is.
pub(super) fn authority(view: &ExportContext<'_>) -> Option<String> {
    view.ca.map(|file| format!("the certificate authority of {} must be at {file} on the nodes", view.host))
}

/// Those with special names before those with wildcards, and long ones before short ones, as names are resolved.
pub(super) fn by_specificity(mirrors: &mut [&Mirror<'_>]) {
    mirrors.sort_by_key(|mirror| {
        let source = &mirror.rule.source.path;
        (source.is_wildcard(), std::cmp::Reverse(source.prefix().len()))
    });
}

/// What is to be seen to at the nodes, in any format.
pub(super) fn nodes(view: &ExportContext<'_>) -> Option<String> {
    view.ca.map(|_| format!("the certificate authority of {} must be trusted on the nodes", view.host))
}
