//! The lists of other mirrors: `skopeo sync --src yaml` (skopeo-sync(1), "YAML file content") and regsync
//! (regclient.org/usage/regsync). Both choose tags by patterns as well; those become the columns of a CSV list.

use super::yaml::Node;
use super::{Finder, Wanted};
use crate::name::Repository;

/// The three ways in which skopeo chooses tags.
const SKOPEO_KINDS: [&str; 3] = ["images", "images-by-tag-regex", "images-by-semver"];

/// Hosts, of which at least one has images.
pub(super) fn is_skopeo(root: &Node) -> bool {
    let has_images = |registry: &Node| SKOPEO_KINDS.iter().any(|kind| registry.get(kind).is_some_and(|images| images.is_map()));
    !root.entries().is_empty()
        && root.entries().iter().all(|(host, registry)| crate::name::normal_host(host).is_ok() && registry.is_map())
        && root.entries().iter().any(|(_, registry)| has_images(registry))
}

pub(super) fn scan_skopeo(root: &Node, finder: &mut Finder) {
    for (host, registry) in root.entries() {
        for (path, tags) in registry.get("images").map(|images| images.entries()).unwrap_or_default() {
            let name = format!("{host}/{path}");
            if tags.items().is_empty() {
                // "all tags" of the manual page.
                choose(finder, tags.line, &name, "*", "");
            }
            for tag in tags.items() {
                let Some(text) = tag.text() else { continue };
                let separator = if text.contains(':') { '@' } else { ':' };
                finder.reference(tag.line, &format!("{name}{separator}{text}"));
            }
        }
        for (path, pattern) in registry.get("images-by-tag-regex").map(|images| images.entries()).unwrap_or_default() {
            regex(finder, pattern, &format!("{host}/{path}"));
        }
        for (path, range) in registry.get("images-by-semver").map(|images| images.entries()).unwrap_or_default() {
            if let Some(text) = range.text() {
                choose(finder, range.line, &format!("{host}/{path}"), &semver(text), "");
            }
        }
    }
}

fn regex(finder: &mut Finder, pattern: &Node, name: &str) {
    let Some(text) = pattern.text() else { return };
    match term(text) {
        Ok(term) => choose(finder, pattern.line, name, &term, ""),
        Err(why) => finder.problem(pattern.line, &why),
    }
}

/// `sync`, each entry of which has a source.
pub(super) fn is_regsync(root: &Node) -> bool {
    root.get("sync").is_some_and(|sync| !sync.items().is_empty() && sync.items().iter().all(|entry| entry.get("source").is_some()))
}

pub(super) fn scan_regsync(root: &Node, finder: &mut Finder) {
    for entry in root.get("sync").map(|sync| sync.items()).unwrap_or_default() {
        let Some((line, source)) = entry.get("source").and_then(|source| Some((source.line, source.text()?))) else { continue };
        match entry.get("type").and_then(|kind| kind.text()) {
            Some("image") => finder.reference(line, source),
            Some("repository") => repository(finder, line, source, entry),
            Some("registry") => {
                finder.problem(
                    line,
                    &format!("`{source}` means all repositories of a registry: name them, or give each a `type: repository`"),
                );
            }
            _ => finder.problem(line, "this entry has no `type` of `image`, `repository` or `registry`"),
        }
    }
}

fn repository(finder: &mut Finder, line: usize, source: &str, entry: &Node) {
    let tags = entry.get("tags");
    let texts = |key: &str| -> Vec<&str> {
        let listed = tags.and_then(|tags| tags.get(key)).map(|node| node.items()).unwrap_or_default();
        listed.iter().filter_map(|node| node.text()).collect()
    };
    // regsync's patterns cover the whole tag.
    let anchored = |patterns: Vec<&str>| -> Result<Vec<String>, String> { patterns.into_iter().map(anchored_term).collect() };
    match (anchored(texts("allow")), anchored(texts("deny"))) {
        (Ok(mut allow), Ok(deny)) => {
            allow.extend(texts("semverRange").into_iter().map(semver));
            let tags = if allow.is_empty() { "*".to_owned() } else { allow.join(";") };
            if deny.is_empty() && tags.split(';').all(|tag| crate::name::check_tag(tag).is_ok()) {
                tags.split(';').for_each(|tag| finder.reference(line, &format!("{source}:{tag}")));
            } else {
                choose(finder, line, source, &tags, &deny.join(";"));
            }
        }
        (Err(why), _) | (_, Err(why)) => finder.problem(line, &why),
    }
}

fn anchored_term(pattern: &str) -> Result<String, String> {
    // A pattern without special characters is a tag, but for the dot, which every version has and nobody means.
    if crate::name::check_tag(pattern).is_ok() {
        return Ok(pattern.to_owned());
    }
    term(&format!("^(?:{pattern})$"))
}

/// A term `/regex/` of the `tags` column, which ends at the next `/` before `;` or the end.
fn term(pattern: &str) -> Result<String, String> {
    if pattern.contains("/;") {
        return Err(format!("the regex `{pattern}` cannot stand in a list: it has `/;` in it"));
    }
    Ok(format!("/{pattern}/"))
}

/// A version range: its alternatives are terms of their own.
fn semver(range: &str) -> String {
    range.split("||").map(|range| format!("semver:{}", range.trim())).collect::<Vec<_>>().join(";")
}

fn choose(finder: &mut Finder, line: usize, name: &str, tags: &str, exclude: &str) {
    match Repository::parse(name) {
        Ok(repository) => {
            finder.found(line, Wanted { image: repository.to_string(), tags: tags.to_owned(), exclude: exclude.to_owned() });
        }
        Err(why) => finder.problem(line, &why),
    }
}
