//! `registries.yaml` of k3s and RKE2: mirrors by upstream, and rewriting of paths by regular expressions
//! (docs.k3s.io/installation/private-registry, "Rewrites"). They are a map without a defined order, so no two may match
//! one name. A wildcard's expression excludes the names of the rules within it.

use std::collections::BTreeMap;

use super::mirror::{self, Mirror};
use super::{ExportContext, Exported, Format, single};

pub(super) fn write(view: &ExportContext<'_>) -> Exported {
    let mut unsaid = Vec::new();
    let mirrors = mirror::mirrors(view, &mut unsaid);
    unsaid.extend(mirror::authority(view));
    unsaid.extend((!view.fallback).then(|| NO_FALLBACK.to_owned()));
    let mut body = String::from("mirrors:\n");
    let mut astray: Vec<(Vec<&str>, Vec<String>)> = Vec::new();
    for host in mirror::hosts(&mirrors) {
        let of_host: Vec<&Mirror<'_>> = mirrors.iter().filter(|mirror| mirror.rule.source.host == host).collect();
        body += &format!("  \"{host}\":\n    endpoint:\n      - \"{}\"\n", view.url());
        let written = written(&of_host);
        let rewrites: String = written.iter().filter_map(|mirror| rewrite(mirror, &written)).collect();
        if !rewrites.is_empty() {
            body += &format!("    rewrite:\n{rewrites}");
        }
        unsaid.extend(of_host.iter().flat_map(|mirror| mirror.holes.iter().map(|hole| mirror::hole_told(mirror, hole))));
        let strays = mirror::strays(view, host, "", &written);
        match astray.iter_mut().find(|(_, same)| *same == strays) {
            Some((hosts, _)) => hosts.push(host),
            None => astray.push((vec![host], strays)),
        }
    }
    let astray = astray.iter().filter(|(_, strays)| !strays.is_empty());
    unsaid.extend(astray.map(|(hosts, strays)| mirror::strays_told(hosts, strays)));
    let ca = view.ca.map(|file| format!("      ca_file: {}\n", serde_json::Value::from(file))).unwrap_or_default();
    let insecure = if view.insecure { "      insecure_skip_verify: true\n" } else { "" };
    if view.insecure || view.ca.is_some() {
        body += &format!("configs:\n  \"{}\":\n    tls:\n{ca}{insecure}", view.host);
    }
    single(Format::K3s, "registries.yaml", &body, unsaid)
}

/// What the file cannot express.
const NO_FALLBACK: &str = "k3s asks the upstream after its mirrors: start it with --disable-default-registry-endpoint";

/// The mirrors that need an expression of their own: those whose names the next enclosing wildcard would not map
/// correctly.
fn written<'m, 'a>(mirrors: &[&'m Mirror<'a>]) -> Vec<&'m Mirror<'a>> {
    let goes_along = |inner: &Mirror<'_>| {
        let around = mirrors.iter().filter(|other| other.rule.source.path.relative(&inner.rule.source.path).is_some());
        let nearest = around.max_by_key(|other| other.rule.source.path.prefix().len())?;
        let region = nearest.rule.source.path.relative(&inner.rule.source.path)?;
        (nearest.target.extended(&region) == inner.target).then_some(())
    };
    mirrors.iter().filter(|mirror| goes_along(mirror).is_none()).copied().collect()
}

/// The expression that maps a mirror's names to the target's, without those of the rules in `written` within it.
fn rewrite(mirror: &Mirror<'_>, written: &[&Mirror<'_>]) -> Option<String> {
    let (source, target) = (&mirror.rule.source.path, &mirror.target);
    if source == target {
        return None;
    }
    let pattern = regex::escape(source.prefix());
    // In single quotes a backslash is literal (YAML 1.2.2, 7.3.2).
    Some(match source.is_wildcard() {
        true => {
            let mut within = Names::default();
            for inner in written.iter().filter_map(|other| source.relative(&other.rule.source.path)) {
                within.add(inner.prefix(), inner.is_wildcard());
            }
            format!("      '^{pattern}({})$': '{}$1'\n", within.all_others().unwrap_or_default(), target.prefix())
        }
        false => format!("      '^{pattern}$': '{}'\n", target.prefix()),
    })
}

/// A trie of names and prefixes, letter by letter.
#[derive(Default)]
struct Names {
    next: BTreeMap<char, Names>,
    /// A name ends here.
    name: bool,
    /// Every continuation of this prefix is included.
    beginning: bool,
}

impl Names {
    fn add(&mut self, name: &str, beginning: bool) {
        let mut at = self;
        for letter in name.chars() {
            at = at.next.entry(letter).or_default();
        }
        at.name |= !beginning;
        at.beginning |= beginning;
    }

    /// An expression for everything that is not included (Go's expressions have no negation); `None`: there is nothing
    /// else.
    fn all_others(&self) -> Option<String> {
        if self.beginning {
            return None;
        }
        if self.next.is_empty() {
            return Some(if self.name { ".+" } else { ".*" }.to_owned());
        }
        let goes_on = |(letter, next): (&char, &Names)| Some(format!("{}{}", regex::escape(&letter.to_string()), next.all_others()?));
        let mut others: Vec<String> = self.next.iter().filter_map(goes_on).collect();
        // A hyphen at the end is literal.
        let letters: String = self.next.keys().filter(|letter| **letter != '-').collect();
        others.push(format!("[^{letters}{}].*", if self.next.contains_key(&'-') { "-" } else { "" }));
        if !self.name {
            others.push(String::new());
        }
        Some(format!("(?:{})", others.join("|")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every name is matched by exactly one expression.
        #[test]
        fn all_others_are_all_others(
            names in proptest::collection::vec("[ab.-]{1,4}", 0..4),
            beginnings in proptest::collection::vec("[ab.-]{1,3}/", 0..3),
            asked in "[ab./-]{1,6}",
        ) {
            let mut known = Names::default();
            names.iter().for_each(|name| known.add(name, false));
            beginnings.iter().for_each(|beginning| known.add(beginning, true));
            let is_known = names.contains(&asked) || beginnings.iter().any(|beginning| asked.starts_with(beginning.as_str()));
            let others = regex::Regex::new(&format!("^({})$", known.all_others().unwrap())).unwrap();
            prop_assert_eq!(others.is_match(&asked), !is_known, "{}", others);
        }
    }
}
