//! Kubernetes manifests, Compose files, and YAML of any kind with fields named `image`.

use std::collections::HashSet;
use std::rc::Rc;

use super::yaml::{YamlContent, YamlNode};
use super::{Finder, variables};
use crate::name::{ImageName, split_host};

/// Whether a field `image` must be a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldTrust {
    /// In Kubernetes manifests: an invalid reference is a problem.
    Certain,
    /// In unknown files: a value that does not parse is not a reference.
    Likely,
}

pub(super) fn is_kubernetes(root: &YamlNode) -> bool {
    root.get("apiVersion").is_some() && root.get("kind").is_some()
}

/// Whether it has `services`, each of which is a mapping.
pub(super) fn is_compose(root: &YamlNode) -> bool {
    root.get("services")
        .is_some_and(|services| !services.entries().is_empty() && services.entries().iter().all(|(_, service)| service.is_map()))
}

/// Searches for fields `image` at any depth.
pub(super) fn scan(root: &Rc<YamlNode>, trust: FieldTrust, finder: &mut Finder) {
    if let (Some("ImageSetConfiguration"), Some(mirror)) = (root.get("kind").and_then(|kind| kind.text()), root.get("mirror")) {
        let chosen = ["platform", "operators", "helm"].into_iter().filter_map(|key| Some((key, mirror.get(key)?)));
        for (key, node) in chosen.filter(|(_, node)| !node.is_null()) {
            finder.note(node.line, &format!("only oc-mirror knows which images `{key}` stands for: they are not in the list"));
        }
    }
    ManifestScan { trust, finder, seen: HashSet::new() }.node(root);
}

struct ManifestScan<'f> {
    trust: FieldTrust,
    finder: &'f mut Finder,
    /// Nodes that were searched, so that aliases are not searched again.
    seen: HashSet<*const YamlNode>,
}

impl ManifestScan<'_> {
    fn node(&mut self, node: &Rc<YamlNode>) {
        if Rc::strong_count(node) > 1 && !self.seen.insert(Rc::as_ptr(node)) {
            return;
        }
        self.related(node);
        for (key, value) in node.entries() {
            match key.as_str() {
                "image" => self.image(value),
                "images" => self.listed(value, false),
                "additionalImages" => self.listed(value, true),
                "catalog" => self.unmistakable(value),
                _ if key.ends_with("Image") || key == "imageName" => self.unmistakable(value),
                _ => {}
            }
            self.node(value);
        }
        node.items().iter().for_each(|item| self.node(item));
    }

    fn image(&mut self, value: &Rc<YamlNode>) {
        match &value.content {
            YamlContent::Scalar(_) => {
                if let Some(text) = value.text() {
                    self.reference(value.line, text);
                }
            }
            YamlContent::Map(_) => self.parts(value),
            YamlContent::Null | YamlContent::List(_) => {}
        }
    }

    fn reference(&mut self, line: usize, text: &str) {
        let known = variables::substitute(text, &|_| None);
        let is_template = text.contains("{{");
        match known {
            Ok(text) if self.trust == FieldTrust::Certain || is_template || is_likely(&text) => self.finder.reference(line, &text),
            Ok(_) => {}
            Err(why) => self.finder.problem(line, &why),
        }
    }

    /// `image: {repository, tag}` in charts' values and many custom resources; `{reference}` of a Kubernetes image
    /// volume; `{name}` of GitLab.
    fn parts(&mut self, value: &Rc<YamlNode>) {
        let part = |key: &str| value.get(key).and_then(|node| Some((node.line, node.text()?)));
        if let Some((line, reference)) = part("reference") {
            return self.reference(line, reference);
        }
        let chosen = ["tag", "digest"].iter().any(|key| value.get(key).is_some());
        let name = || part("name").filter(|_| chosen);
        let Some((line, repository)) = part("repository").or(part("repo")).or_else(name) else {
            if let Some((line, name)) = part("name").filter(|_| self.trust == FieldTrust::Likely) {
                self.reference(line, name);
            } else if chosen || ["registry", "repository", "repo"].iter().any(|key| value.get(key).is_some()) {
                let keys: Vec<&str> = value.entries().iter().map(|(key, _)| key.as_str()).collect();
                let message = format!("this image cannot be read: it is a mapping without `repository` (it has {})", keys.join(", "));
                self.finder.problem(value.line, &message);
            }
            return;
        };
        let mut name = repository.to_owned();
        if let Some((_, registry)) = part("registry")
            && !name.starts_with(&format!("{registry}/"))
        {
            name = format!("{registry}/{name}");
        }
        if let Some((_, tag)) = part("tag") {
            name = format!("{name}:{tag}");
        }
        if let Some((_, digest)) = part("digest") {
            name = format!("{name}@{digest}");
        }
        let chooses = ImageName::parse(&name).is_ok_and(|name| name.tag.is_none() && name.digest.is_none());
        if chooses {
            let message = format!("`{name}` has no tag, which a chart fills in: scan what it renders (`helm template`)");
            return self.finder.problem(line, &message);
        }
        self.reference(line, &name);
    }

    /// `images` of a kustomization (the replacements of other images), of Zarf and of Hauler; `additionalImages` of oc-mirror. An item
    /// with nothing but a name counts if the name has a tag or digest, or if all of them are `certain` to be images.
    fn listed(&mut self, value: &Rc<YamlNode>, certain: bool) {
        let chooses = |name: &str| ImageName::parse(name).is_ok_and(|name| name.tag.is_some() || name.digest.is_some());
        for image in value.items() {
            if let Some(text) = image.text() {
                if chooses(text) {
                    self.reference(image.line, text);
                }
                continue;
            }
            let part = |key: &str| image.get(key).and_then(|node| node.text());
            let Some(name) = part("newName").or(part("name")) else { continue };
            match (part("digest"), part("newTag")) {
                (Some(digest), _) => self.finder.reference(image.line, &format!("{name}@{digest}")),
                (None, Some(tag)) => self.finder.reference(image.line, &format!("{name}:{tag}")),
                (None, None) if certain || chooses(name) => self.reference(image.line, name),
                (None, None) => {}
            }
        }
    }

    /// `RELATED_IMAGE_…` variables, which tell operators the images to start.
    fn related(&mut self, node: &Rc<YamlNode>) {
        let name = node.get("name").and_then(|name| name.text());
        if let (Some(name), Some(value)) = (name, node.get("value"))
            && name.starts_with("RELATED_IMAGE_")
        {
            self.unmistakable(value);
        }
    }

    /// A value that is almost certainly a reference: it names a registry, and a tag or digest.
    fn unmistakable(&mut self, value: &Rc<YamlNode>) {
        if let Some(text) = value.text()
            && split_host(text).0.is_some()
            && ImageName::parse(text).is_ok_and(|name| name.tag.is_some() || name.digest.is_some())
        {
            self.finder.reference(value.line, text);
        }
    }
}

/// Whether a value of an unknown file may be a reference: it parses, and is not the name of a picture.
fn is_likely(text: &str) -> bool {
    const PICTURES: [&str; 7] = [".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico"];
    ImageName::parse(text).is_ok() && !PICTURES.iter().any(|ending| text.ends_with(ending))
}

pub(super) fn scan_compose(root: &Rc<YamlNode>, finder: &mut Finder) {
    let services = root.get("services").map(|services| services.entries()).unwrap_or_default();
    for (name, service) in services {
        let Some(image) = service.get("image") else { continue };
        let Some(text) = image.text() else { continue };
        if service.get("build").is_some_and(|build| !matches!(build.content, YamlContent::Null)) {
            finder.note(image.line, &format!("service `{name}` is built here: its image `{text}` is left out"));
            continue;
        }
        match variables::substitute(text, &|_| None) {
            Ok(text) => finder.reference(image.line, &text),
            Err(why) => finder.problem(image.line, &why),
        }
    }
}
