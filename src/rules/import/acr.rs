//! `az acr cache list -o json` and `az acr credential-set list -o json` (docs/registries.md, "Azure: limits and names", "Azure: command line").

use serde_json::Value;

use super::names::UsedNames;
use super::{Draft, DraftRule, DraftSet, OPERATION, field, text};
use crate::error::{Error, Result};
use crate::name::normal_host;
use crate::rules::SourcePattern;

/// The name of a registry that the files do not name, as a placeholder.
const PLACEHOLDER: &str = "example.azurecr.io";

pub(super) fn read<'v>(rules: impl Iterator<Item = &'v Value>, sets: impl Iterator<Item = &'v Value>, draft: &mut Draft) -> Result<()> {
    let (rules, sets): (Vec<_>, Vec<_>) = (rules.collect(), sets.collect());
    draft.target = registry(rules.iter().chain(&sets), draft)?;
    let (mut rule_names, mut set_names) = (UsedNames::default(), UsedNames::default());
    for row in sets {
        set(row, draft, &mut set_names);
    }
    for row in rules {
        rule(row, draft, &mut rule_names, &mut set_names);
    }
    Ok(())
}

/// The registry in the resource identifiers of all rows.
fn registry<'v>(rows: impl Iterator<Item = &'v &'v Value>, draft: &mut Draft) -> Result<String> {
    let mut names: Vec<String> = rows.filter_map(|row| registry_of(row)).map(str::to_ascii_lowercase).collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [one] => Ok(format!("{one}.azurecr.io")),
        [] => {
            draft.note(format!("the files do not name the registry: {PLACEHOLDER} stands for it (--to REGISTRY says it)"));
            Ok(PLACEHOLDER.to_owned())
        }
        [one, other, ..] => Err(Error::local(OPERATION, format!("the files are of two registries, {one} and {other}"))
            .remedy("import each registry on its own")),
    }
}

fn registry_of<'v>(row: &'v Value) -> Option<&'v str> {
    let segment = |id: &'v str| id.split('/').skip_while(|part| !part.eq_ignore_ascii_case("registries")).nth(1);
    [text(row, "id"), text(row, "credentialSetResourceId")].into_iter().flatten().find_map(segment).filter(|name| {
        // The value becomes a host.
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    })
}

fn set(row: &Value, draft: &mut Draft, names: &mut UsedNames) {
    let known_as = text(row, "name").unwrap_or("without a name");
    let login_server = text(row, "loginServer").unwrap_or_default();
    let host = match normal_host(login_server) {
        Ok(host) => host,
        Err(why) => return draft.lose(format!("credential set \"{known_as}\": its login server: {why}")),
    };
    let secrets = field(row, "authCredentials").and_then(Value::as_array).and_then(|all| all.first());
    let kept = secrets.and_then(|row| Some((text(row, "usernameSecretIdentifier")?, text(row, "passwordSecretIdentifier")?)));
    draft.sets.push(DraftSet {
        key: known_as.to_ascii_lowercase(),
        name: names.give(known_as),
        login_server: host,
        kept: kept.map(|(username, password)| format!("username {username}, password {password}")),
    });
}

fn rule(row: &Value, draft: &mut Draft, names: &mut UsedNames, set_names: &mut UsedNames) {
    let known_as = text(row, "name").unwrap_or("without a name").to_owned();
    let (source, target) = (text(row, "sourceRepository").unwrap_or_default(), text(row, "targetRepository").unwrap_or_default());
    let pattern = match SourcePattern::parse(source) {
        Ok(pattern) => pattern,
        Err(why) => return draft.lose(format!("rule \"{known_as}\" ({source} to {target}): its source: {why}")),
    };
    if ["syncMode", "artifactSyncFilters", "syncReferrers"].iter().any(|name| field(row, name).is_some_and(is_in_use)) {
        draft.lose(format!("rule \"{known_as}\": its artifact sync; say in a list which tags are wanted"));
    }
    if field(row, "identity").is_some() {
        draft.lose(format!("rule \"{known_as}\": its managed identity; give larder a credential set for {}", pattern.host));
    }
    if field(row, "additionalAuthenticationProperties").is_some_and(|properties| !properties.is_null()) {
        draft.lose(format!(
            "rule \"{known_as}\": its additionalAuthenticationProperties (workload identity federation); give larder a credential set for {}",
            pattern.host
        ));
    }
    if let Some(state) = text(row, "provisioningState").filter(|state| *state != "Succeeded") {
        draft.note(format!("rule \"{known_as}\" is in state {state} at Azure"));
    }
    let set = text(row, "credentialSetResourceId").and_then(|id| set_of(id, &pattern.host, &known_as, draft, set_names));
    draft.rules.push(DraftRule { name: names.give(&known_as), known_as, source: pattern.to_string(), target: target.to_owned(), set });
}

/// `None` and `PassiveSync` are the cache itself.
fn is_in_use(value: &Value) -> bool {
    match value {
        Value::String(text) => !["", "none", "passivesync", "disabled"].contains(&text.to_ascii_lowercase().as_str()),
        Value::Object(fields) => fields.values().any(is_in_use),
        Value::Array(values) => !values.is_empty(),
        Value::Bool(_) | Value::Null | Value::Number(_) => false,
    }
}

/// The set of a rule's resource identifier. If its file was not given, it is assumed to be for the rule's source.
fn set_of(id: &str, host: &str, known_as: &str, draft: &mut Draft, names: &mut UsedNames) -> Option<usize> {
    let name = id.trim_end_matches('/').rsplit('/').next().unwrap_or(id);
    let key = name.to_ascii_lowercase();
    let at = draft.sets.iter().position(|set| set.key == key).unwrap_or_else(|| {
        draft.note(format!("credential set \"{name}\" is not in the files: its login server is taken from rule \"{known_as}\""));
        draft.sets.push(DraftSet { key, name: names.give(name), login_server: host.to_owned(), kept: None });
        draft.sets.len() - 1
    });
    let login_server = draft.sets[at].login_server.clone();
    if login_server == host {
        return Some(at);
    }
    draft.lose(format!("rule \"{known_as}\": credential set \"{name}\" is for {login_server}, not for {host}"));
    None
}
