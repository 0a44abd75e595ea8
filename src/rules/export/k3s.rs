//! `registries.yaml` of k3s and RKE2: mirrors by upstream, and rewriting of paths by regular expressions
//! (docs.k3s.io/installation/private-registry, "Rewrites"). They are a map: no order among them is defined, so that of two that
//! match one name only one may be written.

use super::mirror::{self, Mirror};
use super::{Exported, Format, View, single};

pub(super) fn write(view: &View<'_>) -> Exported {
    let mut unsaid = Vec::new();
    let mirrors = mirror::mirrors(view, &mut unsaid);
    unsaid.extend(mirror::nodes(view));
    let mut body = String::from("mirrors:\n");
    let mut astray: Vec<(Vec<&str>, Vec<String>)> = Vec::new();
    for host in mirror::hosts(&mirrors) {
        let of_host: Vec<&Mirror<'_>> = mirrors.iter().filter(|mirror| mirror.rule.source.host == host).collect();
        body += &format!("  \"{host}\":\n    endpoint:\n      - \"{}\"\n", view.url());
        let written = written(&of_host, &mut unsaid);
        let rewrites: String = written.iter().filter_map(|mirror| rewrite(mirror)).collect();
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
    if view.insecure {
        body += &format!("configs:\n  \"{}\":\n    tls:\n      insecure_skip_verify: true\n", view.host);
    }
    single(Format::K3s, "registries.yaml", &body, unsaid)
}

/// The mirrors whose rewrites do not get into each other's way: of a rule within another, only the outer one. Where both say the same
/// nothing is lost.
fn written<'m, 'a>(mirrors: &[&'m Mirror<'a>], unsaid: &mut Vec<String>) -> Vec<&'m Mirror<'a>> {
    let outer = |inner: &Mirror<'_>| mirrors.iter().find(|other| other.rule.source.path.relative(&inner.rule.source.path).is_some());
    let mut kept = Vec::new();
    for mirror in mirrors {
        let Some(outer) = outer(mirror) else {
            kept.push(*mirror);
            continue;
        };
        let region = outer.rule.source.path.relative(&mirror.rule.source.path);
        if region.map(|region| outer.target.extended(&region)).as_ref() != Some(&mirror.target) {
            unsaid.push(format!(
                "rule \"{}\": {} lies within {} of rule \"{}\", and k3s does not say which rewrite goes first: pull these by the target's own name",
                mirror.rule.name, mirror.rule.source, outer.rule.source, outer.rule.name
            ));
        }
    }
    kept
}

fn rewrite(mirror: &Mirror<'_>) -> Option<String> {
    let (source, target) = (&mirror.rule.source.path, &mirror.target);
    if source == target {
        return None;
    }
    let pattern = regex::escape(source.prefix());
    // In single quotes a backslash is itself (YAML 1.2.2, 7.3.2).
    Some(match source.is_wildcard() {
        true => format!("      '^{pattern}(.*)$': '{}$1'\n", target.prefix()),
        false => format!("      '^{pattern}$': '{}'\n", target.prefix()),
    })
}
