//! OpenShift's `ImageDigestMirrorSet`, and `ImageTagMirrorSet` for pulls by tag. Both become a `registries.conf`, so
//! the longest source wins; but a source without a mirror is dropped on the way (openshift/runtime-utils
//! `pkg/registries`), so names cannot be excluded.

use super::mirror;
use super::podman::scope;
use super::{ExportContext, Exported, Format, single};

pub(super) fn write(view: &ExportContext<'_>) -> Exported {
    let mut unsaid = Vec::new();
    let mirrors = mirror::mirrors(view, &mut unsaid);
    unsaid.extend(mirror::nodes(view));
    if view.plain_http || view.insecure {
        unsaid.push(format!("{} must be among spec.registrySources.insecureRegistries of image.config.openshift.io/cluster", view.host));
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    for mirror in &mirrors {
        unsaid.extend(mirror::taken_along(view, mirror));
        let edges = mirror::edges(view, mirror);
        unsaid.extend(mirror.holes.iter().chain(&edges).map(|hole| mirror::hole_told(mirror, hole)));
        let source = scope(mirror);
        let location = format!("{}/{}", view.host, mirror.target.prefix()).trim_end_matches('/').to_owned();
        match pairs.iter().find(|(other, _)| *other == source) {
            Some((_, there)) if *there == location => {}
            Some((_, there)) => unsaid
                .push(format!("rule \"{}\": {source} is mirrored to {there} already, and cannot be to {location} too", mirror.rule.name)),
            None => pairs.push((source, location)),
        }
    }
    let set = |kind: &str, field: &str| {
        let mut out = format!("apiVersion: config.openshift.io/v1\nkind: {kind}\nmetadata:\n  name: larder\nspec:\n  {field}:\n");
        for (source, location) in &pairs {
            out += &format!("  - source: \"{source}\"\n    mirrors:\n    - \"{location}\"\n");
            if !view.fallback {
                out += "    mirrorSourcePolicy: NeverContactSource\n";
            }
        }
        out
    };
    let body = format!("{}---\n{}", set("ImageDigestMirrorSet", "imageDigestMirrors"), set("ImageTagMirrorSet", "imageTagMirrors"));
    single(Format::Openshift, "larder-mirrors.yaml", &body, unsaid)
}
