//! containerd's `hosts.toml`, a folder an upstream (docs/registries.md, "containerd: hosts.toml"). It can put a path before every name and change nothing else.

use toml::Value;

use super::mirror::{self, Mirror};
use super::{Exported, ExportedFile, Format, View, head};

pub(super) fn write(view: &View<'_>) -> Exported {
    let mut unsaid = Vec::new();
    let mirrors = mirror::mirrors(view, &mut unsaid);
    unsaid.extend(mirror::nodes(view));
    let mut exported = Exported { files: Vec::new(), unsaid: unsaid.clone() };
    for host in mirror::hosts(&mirrors) {
        let of_host: Vec<&Mirror<'_>> = mirrors.iter().filter(|mirror| mirror.rule.source.host == host).collect();
        let (file, of_file) = file(view, host, &of_host, &unsaid);
        exported.files.push(file);
        exported.unsaid.extend(of_file);
    }
    exported
}

/// The file of an upstream, and what it cannot say besides what is said for all of them.
fn file(view: &View<'_>, host: &str, mirrors: &[&Mirror<'_>], of_all: &[String]) -> (ExportedFile, Vec<String>) {
    let mut unsaid = Vec::new();
    let mut bases: Vec<&str> = Vec::new();
    for mirror in mirrors {
        match mirror::base(&mirror.rule.source.path, &mirror.target) {
            Some(base) => {
                if !bases.contains(&base) {
                    bases.push(base);
                }
                unsaid.extend(mirror.holes.iter().map(|hole| mirror::hole_told(mirror, hole)));
            }
            None => unsaid.push(format!(
                "rule \"{}\": hosts.toml cannot turn {} into {}: it keeps the whole path; pull these by the target's own name",
                mirror.rule.name, mirror.rule.source, mirror.target
            )),
        }
    }
    for base in &bases {
        let is_own = |mirror: &&&Mirror<'_>| mirror::base(&mirror.rule.source.path, &mirror.target) == Some(base);
        let own: Vec<&Mirror<'_>> = mirrors.iter().filter(is_own).copied().collect();
        let strays = mirror::strays(view, host, base, &own);
        unsaid.extend((!strays.is_empty()).then(|| mirror::strays_told(&[host], &strays)));
    }
    let mut text = head(Format::Containerd, &[of_all, &unsaid].concat());
    text += &format!("server = {}\n", Value::from((view.endpoint)(host)));
    for base in bases {
        let (url, override_path) = match base {
            "" => (view.url(), ""),
            base => (format!("{}/v2/{base}", view.url()), "override_path = true\n"),
        };
        text += &format!("\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n{override_path}", Value::from(url));
        if view.insecure {
            text += "skip_verify = true\n";
        }
    }
    (ExportedFile { path: format!("{}/hosts.toml", folder(host)), text }, unsaid)
}

/// `localhost:5000` has the folder `localhost_5000_`, which containerd looks for first on every system.
fn folder(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => format!("{name}_{port}_"),
        _ => host.to_owned(),
    }
}
