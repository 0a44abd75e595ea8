//! containerd's `hosts.toml`, one folder for each upstream (docs/registries.md, "containerd: hosts.toml"). It can put a
//! path before every name and change nothing else.

use toml::Value;

use super::mirror::{self, Mirror};
use super::{ExportContext, Exported, ExportedFile, Format, head};

pub(super) fn write(view: &ExportContext<'_>) -> Exported {
    let mut unsaid = Vec::new();
    let mirrors = mirror::mirrors(view, &mut unsaid);
    unsaid.extend(mirror::authority(view));
    let mut exported = Exported { files: Vec::new(), unsaid: unsaid.clone() };
    for host in mirror::hosts(&mirrors) {
        let mut of_host: Vec<&Mirror<'_>> = mirrors.iter().filter(|mirror| mirror.rule.source.host == host).collect();
        // Hosts are tried in their order.
        mirror::by_specificity(&mut of_host);
        let (file, of_file) = file(view, host, &of_host, &unsaid);
        exported.files.push(file);
        exported.unsaid.extend(of_file);
    }
    exported
}

/// The file of an upstream, and what it cannot express beyond the general limits.
fn file(view: &ExportContext<'_>, host: &str, mirrors: &[&Mirror<'_>], of_all: &[String]) -> (ExportedFile, Vec<String>) {
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
            None => {
                unsaid.push(format!(
                    "rule \"{}\": hosts.toml cannot turn {} into {}: it keeps the whole path; pull these by the target's own name",
                    mirror.rule.name, mirror.rule.source, mirror.target
                ));
                let around = mirrors.iter().find(|other| other.rule.source.path.relative(&mirror.rule.source.path).is_some());
                unsaid.extend(around.map(|around| {
                    format!(
                        "rule \"{}\": under the upstream's name these are asked where rule \"{}\" puts its images",
                        mirror.rule.name, around.rule.name
                    )
                }));
            }
        }
    }
    for base in &bases {
        let is_own = |mirror: &&&Mirror<'_>| mirror::base(&mirror.rule.source.path, &mirror.target) == Some(base);
        let own: Vec<&Mirror<'_>> = mirrors.iter().filter(is_own).copied().collect();
        let strays = mirror::strays(view, host, base, &own);
        unsaid.extend((!strays.is_empty()).then(|| mirror::strays_told(&[host], &strays)));
    }
    let mut text = head(Format::Containerd, &[of_all, &unsaid].concat());
    text += &server(view, host, bases.first().copied());
    for base in bases {
        let (url, override_path) = address(view, base);
        text += &format!("\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n{override_path}", Value::from(url));
        text += &trust(view, view.ca.into_iter().map(str::to_owned).collect());
    }
    (ExportedFile { path: format!("{}/hosts.toml", folder(host)), text }, unsaid)
}

/// The path of images below `base` at the target.
fn address(view: &ExportContext<'_>, base: &str) -> (String, &'static str) {
    match base {
        "" => (view.url(), ""),
        base => (format!("{}/v2/{base}", view.url()), "override_path = true\n"),
    }
}

/// The host that is tried last: the upstream, or the target again. Certificates at the top level are for this one only.
fn server(view: &ExportContext<'_>, host: &str, base: Option<&str>) -> String {
    if view.fallback {
        let authorities = view.ca.map(str::to_owned).into_iter().chain((view.upstream_ca)(host)).collect();
        return format!("server = {}\n{}", Value::from((view.endpoint)(host)), authority(authorities));
    }
    // If nothing of the upstream can be mirrored, use a path without images: at the target's root another image may
    // have the same path.
    let (url, override_path) = address(view, base.unwrap_or(NOWHERE));
    let trust = trust(view, view.ca.into_iter().map(str::to_owned).collect());
    format!("server = {}\n{override_path}{trust}", Value::from(url))
}

/// A path below which there are no images.
const NOWHERE: &str = "larder-no-fallback";

fn trust(view: &ExportContext<'_>, authorities: Vec<String>) -> String {
    format!("{}{}", authority(authorities), if view.insecure { "skip_verify = true\n" } else { "" })
}

/// containerd adds these to the certificates of the system.
fn authority(mut files: Vec<String>) -> String {
    files.dedup();
    match files.as_slice() {
        [] => String::new(),
        [file] => format!("ca = {}\n", Value::from(file.as_str())),
        files => format!("ca = {}\n", Value::from(files.to_vec())),
    }
}

/// `localhost:5000` has the folder `localhost_5000_`, which containerd tries first on every system.
fn folder(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => format!("{name}_{port}_"),
        _ => host.to_owned(),
    }
}
