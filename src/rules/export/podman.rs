//! `registries.conf`, version 2: the longest prefix wins, and is replaced (docs/registries.md, "podman: registries.conf").

use toml::Value;

use super::mirror::{self, Mirror, UncoveredName};
use super::{ExportContext, Exported, Format, SourcePattern, single};

pub(super) fn write(view: &ExportContext<'_>) -> Exported {
    let mut unsaid = Vec::new();
    let mirrors = mirror::mirrors(view, &mut unsaid);
    unsaid.extend(mirror::nodes(view));
    let mut body = String::new();
    let mut taken: Vec<(String, String)> = Vec::new();
    for mirror in &mirrors {
        unsaid.extend(mirror::taken_along(view, mirror));
        let prefix = prefix(&mirror.rule.source);
        let location = format!("{}/{}", view.host, mirror.target.prefix()).trim_end_matches('/').to_owned();
        match taken.iter().find(|(other, _)| *other == prefix) {
            Some((_, there)) if *there == location => continue,
            Some((_, there)) => {
                unsaid.push(format!(
                    "rule \"{}\": the prefix {prefix} means {there} already, and cannot mean {location} too",
                    mirror.rule.name
                ));
                continue;
            }
            None => {}
        }
        body += &entry(view, &prefix, Some(&location));
        taken.push((prefix, location));
    }
    let edges: Vec<(&Mirror<'_>, UncoveredName)> =
        mirrors.iter().flat_map(|mirror| mirror::edges(view, mirror).into_iter().map(move |hole| (mirror, hole))).collect();
    let holes = mirrors.iter().flat_map(|mirror| mirror.holes.iter().map(move |hole| (mirror, hole)));
    // A prefix without a mirror excludes names from a shorter one whose mirror has another image there.
    for (mirror, hole) in holes.chain(edges.iter().map(|(mirror, hole)| (*mirror, hole))) {
        let prefix = self::prefix(&hole.source);
        if let Some((_, there)) = taken.iter().find(|(other, _)| *other == prefix) {
            unsaid.extend((!there.is_empty()).then(|| mirror::hole_told(mirror, hole)));
            continue;
        }
        body += &format!(
            "\n# At the target {} would be images of rule \"{}\", not of \"{}\": {}.",
            hole.source,
            hole.owner,
            mirror.rule.name,
            if view.fallback { "all of this prefix comes from the upstream" } else { "nothing of this prefix is pulled" }
        );
        body += &entry(view, &prefix, None);
        taken.push((prefix, String::new()));
    }
    single(Format::Podman, "registries.conf", &body, unsaid)
}

/// `docker.io/library` for `docker.io/library/*`.
fn prefix(source: &SourcePattern) -> String {
    format!("{}/{}", source.host, source.path.prefix()).trim_end_matches('/').to_owned()
}

fn entry(view: &ExportContext<'_>, prefix: &str, mirror: Option<&str>) -> String {
    let prefix = Value::from(prefix);
    if !view.fallback {
        // Without a mirror, `location` is the only address that is asked.
        return match mirror {
            Some(location) => {
                let insecure = if view.plain_http || view.insecure { "insecure = true\n" } else { "" };
                format!("\n[[registry]]\nprefix = {prefix}\nlocation = {}\n{insecure}", Value::from(location))
            }
            None => format!("\n[[registry]]\nprefix = {prefix}\nlocation = {prefix}\nblocked = true\n"),
        };
    }
    let mut out = format!("\n[[registry]]\nprefix = {prefix}\nlocation = {prefix}\n");
    if let Some(location) = mirror {
        out += &format!("\n[[registry.mirror]]\nlocation = {}\n", Value::from(location));
        if view.plain_http || view.insecure {
            out += "insecure = true\n";
        }
    }
    out
}

/// The mirrors and their prefixes for other formats of the same kind.
pub(super) fn scope(mirror: &Mirror<'_>) -> String {
    prefix(&mirror.rule.source)
}
