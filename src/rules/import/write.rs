//! From a draft to `larder.toml`.

use std::fmt::Write;

use toml::Value;

use super::{Draft, DraftRegistry, DraftRule, DraftSet, ImportedRules, SourceSystem};
use crate::error::printable;
use crate::rules::{MAX_RULES, Overlap, Pattern, SourcePattern};

pub(super) fn write(mut draft: Draft, system: SourceSystem, files: &[&str], target: Option<(&str, &str)>) -> ImportedRules {
    let (host, prefix) =
        target.map_or_else(|| (draft.target.clone(), String::new()), |(host, prefix)| (host.to_owned(), prefix.to_owned()));
    match target {
        // What was said about the placeholder is answered.
        Some(_) => draft.notes.retain(|note| !note.contains("--to REGISTRY")),
        None if system == SourceSystem::Harbor => {
            draft.note(format!("the files do not say where Harbor is: {host} stands for it (--to REGISTRY says it)"));
        }
        None => {}
    }
    let overlap = if draft.longest { Overlap::Longest } else { Overlap::Error };
    let rules = fitting(&mut draft, overlap);
    let mut out = String::new();
    head(&mut out, &draft, system, files);
    out.push_str("version = 1\n\n[target]\n");
    key(&mut out, "registry", &host);
    if !prefix.is_empty() {
        key(&mut out, "repository_prefix", &prefix);
    }
    if draft.longest {
        key(&mut out, "overlap", &overlap.to_string());
    }
    rules.iter().for_each(|drafted| rule(&mut out, drafted, &draft.sets));
    draft.sets.iter().for_each(|drafted| set(&mut out, drafted));
    draft.registries.iter().for_each(|drafted| registry(&mut out, drafted));
    if let Some(profile) = draft.profile {
        let _ = write!(out, "\n[registry.{}]\n", Value::from(host));
        key(&mut out, "profile", profile);
    }
    ImportedRules { text: out, rules: rules.len(), lost: draft.lost, notes: draft.notes }
}

/// The rules that stand together. What does not is lost, and said: what is no rule at all, and what is in the way of an earlier
/// rule.
fn fitting(draft: &mut Draft, overlap: Overlap) -> Vec<DraftRule> {
    let mut kept: Vec<(DraftRule, Pattern)> = Vec::new();
    for drafted in std::mem::take(&mut draft.rules) {
        let fits = target(&drafted).and_then(|target| {
            let in_the_way =
                |other: &Pattern| *other == target || overlap == Overlap::Error && (other.encloses(&target) || target.encloses(other));
            match kept.iter().find(|(_, other)| in_the_way(other)) {
                Some((owner, other)) => Err(format!("rule \"{}\" has {other}", owner.known_as)),
                None if kept.len() == MAX_RULES => Err(format!("{MAX_RULES} rules are the limit")),
                None => Ok(target),
            }
        });
        match fits {
            Ok(target) => kept.push((drafted, target)),
            Err(why) => draft.lose(format!("rule \"{}\" ({} to {}): {why}", drafted.known_as, drafted.source, drafted.target)),
        }
    }
    kept.into_iter().map(|(drafted, _)| drafted).collect()
}

/// A rule's target, if the rule is one.
fn target(drafted: &DraftRule) -> Result<Pattern, String> {
    let source = SourcePattern::parse(&drafted.source).map_err(|why| format!("its source: {why}"))?;
    let target = Pattern::target(&drafted.target).map_err(|why| format!("its target: {why}"))?;
    if source.path.is_wildcard() != target.is_wildcard() {
        return Err("`*` must stand on both sides or on neither".to_owned());
    }
    Ok(target)
}

fn head(out: &mut String, draft: &Draft, system: SourceSystem, files: &[&str]) {
    let _ = writeln!(out, "# Rules of {system}, from {}. `larder rules check` says what to look at.", printable(&files.join(", ")));
    let section = |out: &mut String, title: &str, lines: &[String]| {
        if !lines.is_empty() {
            let _ = writeln!(out, "#\n# {title}:");
            lines.iter().for_each(|line| {
                let _ = writeln!(out, "# - {line}");
            });
        }
    };
    section(out, "What this file cannot say", &draft.lost);
    section(out, "To know", &draft.notes);
    out.push('\n');
}

fn key(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name} = {}", Value::from(value));
}

fn rule(out: &mut String, rule: &DraftRule, sets: &[DraftSet]) {
    out.push_str("\n[[rule]]");
    if rule.name != rule.known_as {
        let _ = write!(out, " # \"{}\"", printable(&rule.known_as));
    }
    out.push('\n');
    key(out, "name", &rule.name);
    key(out, "source", &rule.source);
    key(out, "target", &rule.target);
    if let Some(set) = rule.set.and_then(|at| sets.get(at)) {
        key(out, "credentials", &set.name);
    }
    key(out, "delivery", "warm");
}

/// Where the secrets are is for the reader to say; the variables are only named.
fn set(out: &mut String, set: &DraftSet) {
    out.push_str("\n[[credentials]]\n");
    if let Some(kept) = &set.kept {
        let _ = writeln!(out, "# kept as: {}", printable(kept));
    }
    key(out, "name", &set.name);
    key(out, "login_server", &set.login_server);
    let stem = set.name.to_ascii_uppercase().replace('-', "_");
    for part in ["username", "password"] {
        let variable = Value::from(format!("{stem}_{}", part.to_ascii_uppercase()));
        let _ = writeln!(out, "{part} = {{ env = {variable} }}");
    }
}

fn registry(out: &mut String, registry: &DraftRegistry) {
    let _ = write!(out, "\n[registry.{}]\n", Value::from(registry.host.as_str()));
    if registry.plain_http {
        out.push_str("plain_http = true\n");
    }
    if registry.insecure {
        out.push_str("insecure_skip_verify = true\n");
    }
}
