//! Harbor's `/api/v2.0/projects` and `/api/v2.0/registries` (docs/registries.md, "Harbor: proxy projects").
//!
//! A project with a registry is a proxy cache: `<project>/<upstream repository>`. The files do not say where Harbor itself is.

use std::collections::HashMap;

use serde_json::Value;
use url::Url;

use super::names::UsedNames;
use super::{Draft, DraftRegistry, DraftRule, DraftSet, text};
use crate::name::{DOCKER_HUB, normal_host};

/// The name of Harbor itself, as a placeholder.
const PLACEHOLDER: &str = "harbor.example.com";

pub(super) fn read<'v>(projects: impl Iterator<Item = &'v Value>, registries: impl Iterator<Item = &'v Value>, draft: &mut Draft) {
    draft.target = PLACEHOLDER.to_owned();
    draft.profile = Some("harbor");
    let by_id: HashMap<i64, &Value> = registries.filter_map(|row| Some((row.get("id")?.as_i64()?, row))).collect();
    let (mut names, mut set_names) = (UsedNames::default(), UsedNames::default());
    let mut ordinary = 0_usize;
    for row in projects {
        match row.get("registry_id").and_then(Value::as_i64).filter(|id| *id != 0) {
            None => ordinary += 1,
            Some(id) => project(row, id, by_id.get(&id).copied(), draft, &mut names, &mut set_names),
        }
    }
    match ordinary {
        0 => {}
        1 => draft.note("1 project is no proxy cache: it has no rule"),
        many => draft.note(format!("{many} projects are no proxy caches: they have no rules")),
    }
}

fn project(row: &Value, id: i64, registry: Option<&Value>, draft: &mut Draft, names: &mut UsedNames, set_names: &mut UsedNames) {
    let known_as = text(row, "name").unwrap_or_default().to_owned();
    let Some(registry) = registry else {
        return draft.lose(format!("project \"{known_as}\": registry {id} is not in the files; give /api/v2.0/registries too"));
    };
    let endpoint = match endpoint(registry) {
        Ok(endpoint) => endpoint,
        Err(why) => {
            return draft.lose(format!("project \"{known_as}\": registry \"{}\": {why}", text(registry, "name").unwrap_or_default()));
        }
    };
    if let Some(pattern) = row.get("metadata").and_then(|metadata| text(metadata, "proxy_cache_filter_pattern")) {
        draft.lose(format!("project \"{known_as}\": its filter {pattern}; larder's rule takes every repository"));
    }
    let host = endpoint.host.clone();
    let set = registry.get("credential").and_then(|credential| text(credential, "access_key")).map(|_| {
        let key = id.to_string();
        draft.sets.iter().position(|set| set.key == key).unwrap_or_else(|| {
            let name = set_names.give(text(registry, "name").unwrap_or(&host));
            draft.sets.push(DraftSet { key, name, login_server: host.clone(), kept: None });
            draft.sets.len() - 1
        })
    });
    if (endpoint.plain_http || endpoint.insecure) && !draft.registries.contains(&endpoint) {
        draft.registries.push(endpoint);
    }
    draft.rules.push(DraftRule {
        name: names.give(&known_as),
        source: format!("{host}/*"),
        target: format!("{known_as}/*"),
        known_as,
        set,
    });
}

/// The host and path of a registry's images.
fn endpoint(registry: &Value) -> Result<DraftRegistry, String> {
    let given = text(registry, "url").ok_or("it has no URL")?;
    let whole = if given.contains("://") { given.to_owned() } else { format!("https://{given}") };
    let url = Url::parse(&whole).map_err(|error| format!("{given} is no URL: {error}"))?;
    let name = url.host_str().ok_or_else(|| format!("{given} names no host"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{given} is not reached by HTTP"));
    }
    if !matches!(url.path(), "" | "/" | "/v2" | "/v2/") {
        return Err(format!("{given} has a path, which a source cannot begin with"));
    }
    if name.starts_with("api.ecr.") {
        return Err(format!(
            "{given} is the address of an API that names no registry; write the rule with ACCOUNT.dkr.ecr.REGION.amazonaws.com"
        ));
    }
    // Harbor's adapter for Docker Hub has the address of its web site.
    let is_hub = name == "hub.docker.com" || text(registry, "type") == Some("docker-hub");
    let host = match url.port() {
        _ if is_hub => DOCKER_HUB.to_owned(),
        Some(port) => normal_host(&format!("{name}:{port}"))?,
        None => normal_host(name)?,
    };
    let insecure = registry.get("insecure").and_then(Value::as_bool).unwrap_or(false);
    let plain_http = url.scheme() == "http" && !is_hub;
    Ok(DraftRegistry { host, plain_http, insecure: insecure && !plain_http })
}
