//! The lists of other mirroring tools: `skopeo sync --src yaml` (skopeo-sync(1), "YAML file content") and regsync
//! (regclient.org/usage/regsync). Both can choose tags by patterns, which become columns of a CSV list.

use super::yaml::YamlNode;
use super::{Finder, ScannedEntry};
use crate::name::RegistryRepository;
use crate::select::Selector;

/// skopeo's three ways of choosing tags.
const SKOPEO_KINDS: [&str; 3] = ["images", "images-by-tag-regex", "images-by-semver"];

/// Whether it has hosts, of which at least one has images.
pub(super) fn is_skopeo(root: &YamlNode) -> bool {
    let has_images = |registry: &YamlNode| SKOPEO_KINDS.iter().any(|kind| registry.get(kind).is_some_and(|images| images.is_map()));
    !root.entries().is_empty()
        && root.entries().iter().all(|(host, registry)| crate::name::normal_host(host).is_ok() && registry.is_map())
        && root.entries().iter().any(|(_, registry)| has_images(registry))
}

pub(super) fn scan_skopeo(root: &YamlNode, finder: &mut Finder) {
    for (host, registry) in root.entries() {
        for kind in SKOPEO_KINDS {
            let unread = registry.get(kind).filter(|images| !images.is_map() && !images.is_null());
            unread.iter().for_each(|images| finder.problem(images.line, &format!("`{kind}` of {host} is not a mapping of repositories")));
        }
        for (path, tags) in registry.get("images").map(|images| images.entries()).unwrap_or_default() {
            let name = format!("{host}/{path}");
            if !tags.is_null() && !tags.is_list() {
                finder.problem(tags.line, &format!("the tags of `{name}` are not a list"));
                continue;
            }
            if tags.items().is_empty() {
                // The manual page says "all tags".
                choose(finder, tags.line, &name, "*", "");
            }
            for tag in tags.items() {
                let Some(text) = tag.text() else {
                    finder.problem(tag.line, &format!("a tag of `{name}` is not a text"));
                    continue;
                };
                let separator = if text.contains(':') { '@' } else { ':' };
                finder.reference(tag.line, &format!("{name}{separator}{text}"));
            }
        }
        for (path, pattern) in registry.get("images-by-tag-regex").map(|images| images.entries()).unwrap_or_default() {
            regex(finder, pattern, &format!("{host}/{path}"));
        }
        for (path, range) in registry.get("images-by-semver").map(|images| images.entries()).unwrap_or_default() {
            let name = format!("{host}/{path}");
            match range.text().ok_or_else(|| format!("the version range of `{name}` is not a text")).and_then(semver) {
                Ok((tags, exclude)) => choose(finder, range.line, &name, &tags, &exclude),
                Err(why) => finder.problem(range.line, &why),
            }
        }
    }
}

fn regex(finder: &mut Finder, pattern: &YamlNode, name: &str) {
    let text = pattern.text().ok_or_else(|| format!("the regex of `{name}` is not a text"));
    match text.and_then(term) {
        Ok(term) => choose(finder, pattern.line, name, &term, ""),
        Err(why) => finder.problem(pattern.line, &why),
    }
}

/// Whether it has `sync`, each entry of which has a source.
pub(super) fn is_regsync(root: &YamlNode) -> bool {
    root.get("sync").is_some_and(|sync| !sync.items().is_empty() && sync.items().iter().all(|entry| entry.get("source").is_some()))
}

pub(super) fn scan_regsync(root: &YamlNode, finder: &mut Finder) {
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

fn repository(finder: &mut Finder, line: usize, source: &str, entry: &YamlNode) {
    let tags = entry.get("tags");
    let texts = |key: &str| -> Vec<&str> {
        let listed = tags.and_then(|tags| tags.get(key)).map(|node| node.items()).unwrap_or_default();
        listed.iter().filter_map(|node| node.text()).collect()
    };
    // regsync's patterns match the whole tag.
    let anchored = |patterns: Vec<&str>| -> Result<Vec<String>, String> { patterns.into_iter().map(anchored_term).collect() };
    match (anchored(texts("allow")), anchored(texts("deny"))) {
        (Ok(mut allow), Ok(mut deny)) => {
            for range in texts("semverRange") {
                match semver(range) {
                    // A tag that a range excludes may be chosen by another term.
                    Ok((_, exclude)) if !exclude.is_empty() && !allow.is_empty() => {
                        return finder.problem(
                            line,
                            &format!("the range `{range}` cannot be written beside other terms: what it leaves out, they may choose"),
                        );
                    }
                    Ok((tags, exclude)) => {
                        allow.push(tags);
                        deny.extend(Some(exclude).filter(|exclude| !exclude.is_empty()));
                    }
                    Err(why) => return finder.problem(line, &why),
                }
            }
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
    // A pattern without special characters is a tag. A dot does not count: every version has one, meant literally.
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

/// Translates a version range of Masterminds' library (used by skopeo and regsync) into `tags` terms, and `exclude`
/// terms for what it leaves out. Alternatives become separate terms.
fn semver(range: &str) -> Result<(String, String), String> {
    let alternatives: Vec<&str> = range.split("||").map(str::trim).collect();
    let (mut terms, mut excluded) = (vec![], vec![]);
    for alternative in &alternatives {
        let words = comparators(alternative);
        let (unwanted, wanted): (Vec<&String>, Vec<&String>) = words.iter().partition(|word| word.starts_with("!="));
        let wanted: Vec<&str> = wanted.into_iter().map(String::as_str).collect();
        terms.push(match Selector::parse(&format!("semver:{alternative}"), "") {
            // Lists have the same syntax.
            Ok(_) => format!("semver:{alternative}"),
            Err(_) if wanted.is_empty() => "semver:*".to_owned(),
            Err(_) => format!("semver:{}", wanted.join(" ")),
        });
        for word in unwanted {
            excluded
                .push(version_regex(word.trim_start_matches("!=")).ok_or_else(|| format!("the range `{range}` cannot be read: `{word}`"))?);
        }
    }
    if alternatives.len() > 1 && !excluded.is_empty() {
        return Err(format!("the range `{range}` cannot be written as one line: what one alternative leaves out, the other may choose"));
    }
    Ok((terms.join(";"), excluded.join(";")))
}

/// The comparators of a range without alternatives; `1.2 - 1.4` is `>=1.2 <=1.4`.
fn comparators(range: &str) -> Vec<String> {
    const OPERATORS: [&str; 11] = ["=", "==", "!=", ">", "<", ">=", "=>", "<=", "=<", "~", "^"];
    let mut words: Vec<String> = vec![];
    let mut open = false;
    for word in range.split([' ', ',']).filter(|word| !word.is_empty()) {
        match words.last_mut().filter(|_| open) {
            Some(last) => last.push_str(word),
            None => words.push(word.to_owned()),
        }
        open = words.last().is_some_and(|last| OPERATORS.contains(&last.as_str()) || last == "~>");
    }
    while let Some(at) = words.iter().position(|word| word == "-").filter(|at| *at > 0 && at + 1 < words.len()) {
        let (from, to) = (format!(">={}", words[at - 1]), format!("<={}", words[at + 1]));
        words.splice(at - 1..=at + 1, [from, to]);
    }
    let spelled = |word: String| match word {
        word if word.starts_with("=>") => word.replacen("=>", ">=", 1),
        word if word.starts_with("=<") => word.replacen("=<", "<=", 1),
        word if word.starts_with("~>") => word.replacen("~>", "~", 1),
        word => word,
    };
    words.into_iter().map(spelled).collect()
}

/// A term for the tags of one version, or of all versions that begin with its numbers.
fn version_regex(version: &str) -> Option<String> {
    let bare = version.trim().trim_start_matches(['v', 'V']);
    let numbers: Vec<&str> = bare.split('.').take_while(|part| !matches!(*part, "x" | "X" | "*")).collect();
    let are_numbers = !numbers.is_empty() && numbers.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let rest = if numbers.len() < 3 { "([.].*)?" } else { "" };
    are_numbers.then(|| format!("/^v?{}{rest}$/", numbers.join("[.]")))
}

fn choose(finder: &mut Finder, line: usize, name: &str, tags: &str, exclude: &str) {
    if let Err(why) = Selector::parse(tags, exclude) {
        return finder.problem(line, &format!("what `{name}` chooses cannot be written in a list: {why}"));
    }
    match RegistryRepository::parse(name) {
        Ok(repository) => {
            finder.found(line, ScannedEntry { image: repository.to_string(), tags: tags.to_owned(), exclude: exclude.to_owned() });
        }
        Err(why) => finder.problem(line, &why),
    }
}
