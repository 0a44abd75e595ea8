//! Azure Container Registry's artifact cache (docs/registries.md, "Azure: limits and names", "Azure: wildcards", "Azure: command line").

use std::collections::BTreeSet;

use super::{CacheRule, ExportContext, Exported, Format, Pattern, pushed, shell, single};
use crate::rules::acr;
use crate::rules::{Authentication, authentication};

pub(super) fn write(view: &ExportContext<'_>) -> Exported {
    let mut unsaid: Vec<String> = pushed(view.rules).into_iter().collect();
    let mut body = String::from("set -eu\n");
    let registry = registry(view.host, &mut body, &mut unsaid);
    let (mut sets, mut left_out, mut identities, mut commands) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), String::new());
    let mut targets: Vec<(Pattern, &str)> = Vec::new();
    for rule in view.rules.rules() {
        let target = view.full_target(rule);
        let mut refused = refusal(rule, &target, &targets);
        let set = set(view, rule, &mut unsaid);
        refused = refused.or_else(|| set_refusal(rule, set.as_deref()));
        let mut command = format!(
            "az acr cache create -r {registry} -n {} -s {} -t {}",
            shell::word(&rule.name),
            shell::word(&rule.source.to_string()),
            shell::word(&target.to_string())
        );
        let mut identity = None;
        if let Some(set) = &set {
            command += &format!(" -c {}", shell::word(set));
        } else if is_azure(&rule.source.host) {
            let variable = shell::variable(&rule.name, "IDENTITY_ID");
            command += &format!(" --identity \"${variable}\"");
            identity = Some((variable, rule.source.host.clone()));
        }
        match refused {
            None => {
                commands += &format!("{command}\n");
                sets.extend(set.map(|set| (set, rule.source.host.clone())));
                identities.extend(identity);
                targets.push((target, rule.name.as_str()));
            }
            Some(why) => {
                let line = format!("rule \"{}\": {why}", rule.name);
                commands += &format!("# {line}\n# {command}\n");
                unsaid.push(line);
                // A set that only such rules use is not created.
                left_out.extend(set.map(|set| (set, rule.source.host.clone())));
            }
        }
    }
    let create = |(set, host): &(String, String)| {
        let [username, password] = variables(set);
        let (name, host) = (shell::word(set), shell::word(host));
        format!("az acr credential-set create -r {registry} -n {name} -l {host} -u \"${username}\" -p \"${password}\"\n")
    };
    sets.iter().for_each(|(set, _)| body += &required(set));
    for (variable, host) in &identities {
        body += &shell::required(variable, &format!("the resource ID of the managed identity that pulls from {host}"));
    }
    sets.iter().for_each(|set| body += &create(set));
    for set in left_out.difference(&sets) {
        let why = acr::name_problem(&set.0).unwrap_or_else(|| "no rule that Azure takes has it".to_owned());
        body += &format!("# credential set \"{}\": {why}\n# {}", set.0, create(set));
    }
    single(Format::Az, "az.sh", &(body + &commands), unsaid)
}

/// The target's name at Azure.
fn registry(host: &str, body: &mut String, unsaid: &mut Vec<String>) -> String {
    let name = [".azurecr.io", ".azurecr.cn", ".azurecr.us"].iter().find_map(|cloud| host.strip_suffix(cloud));
    if let Some(name) = name.filter(|name| !name.is_empty() && !name.contains('.')) {
        return shell::word(name);
    }
    unsaid.push(format!("the target {host} is no Azure Container Registry: REGISTRY must name one"));
    *body += &shell::required("REGISTRY", "the name of the Azure Container Registry");
    "\"$REGISTRY\"".to_owned()
}

/// Whether an upstream is another Azure registry, from which a managed identity can pull.
fn is_azure(host: &str) -> bool {
    authentication(host) == Some(Authentication::OrIdentity) && host.ends_with(".azurecr.io")
}

/// Why Azure would refuse the rule.
fn refusal(rule: &CacheRule, target: &Pattern, earlier: &[(Pattern, &str)]) -> Option<String> {
    if let Some(why) = acr::name_problem(&rule.name) {
        return Some(why);
    }
    let in_the_way = earlier.iter().find(|(other, _)| other.encloses(target) || target.encloses(other));
    in_the_way.map(|(other, name)| format!("Azure takes no wildcard within another: {target} and {other} of rule \"{name}\""))
}

/// Why Azure would refuse the rule for its credentials.
fn set_refusal(rule: &CacheRule, set: Option<&str>) -> Option<String> {
    let host = &rule.source.host;
    match set {
        None if authentication(host) == Some(Authentication::Required) => {
            Some(format!("Azure pulls from {host} with credentials only, and there is no set for it"))
        }
        None => None,
        Some(set) => acr::name_problem(set).map(|why| format!("credential set \"{set}\": {why}")),
    }
}

/// The credential set for Azure, by the upstream's policy (docs/registries.md, "Azure: upstreams").
fn set(view: &ExportContext<'_>, rule: &CacheRule, unsaid: &mut Vec<String>) -> Option<String> {
    let (name, host) = (&rule.name, &rule.source.host);
    let set = view.set_of(rule);
    match (authentication(host), &set) {
        (Some(Authentication::Refused), Some(set)) => {
            unsaid.push(format!("rule \"{name}\": Azure pulls from {host} without credentials only: set \"{set}\" is left out"));
            return None;
        }
        (Some(Authentication::OrIdentity), None) if !is_azure(host) => {
            unsaid.push(format!(
                "rule \"{name}\": Azure pulls from {host} with credentials, and there is no set for it, or by workload identity federation, which \
                 this command cannot say"
            ));
        }
        (None, _) => unsaid.push(format!("rule \"{name}\": {host} is not among the upstreams that Azure documents")),
        _ => {}
    }
    set
}

fn variables(set: &str) -> [String; 2] {
    [shell::variable(set, "USERNAME_ID"), shell::variable(set, "PASSWORD_ID")]
}

fn required(set: &str) -> String {
    let [username, password] = variables(set);
    let what = |part: &str| format!("the Key Vault secret identifier of the {part} of {set}");
    shell::required(&username, &what("user name")) + &shell::required(&password, &what("password"))
}
