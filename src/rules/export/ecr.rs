//! Amazon ECR's pull-through cache rules (docs/registries.md, "Amazon ECR: pull-through cache rules").

use super::{CacheRule, ExportContext, Exported, Format, pushed, shell, single};
use crate::name::{DOCKER_HUB, check_path};

/// The prefix for everything, on either side.
const ROOT: &str = "ROOT";
/// Upstreams that need no secret.
const OPEN: [&str; 3] = ["public.ecr.aws", "registry.k8s.io", "quay.io"];
/// Upstreams that need a secret. For cgr.dev there is no public source, only field reports.
const CLOSED: [&str; 4] = [DOCKER_HUB, "ghcr.io", "registry.gitlab.com", "cgr.dev"];

/// How ECR authenticates at an upstream.
enum Access {
    Open,
    Secret,
    /// An IAM role, whose name can be derived.
    Role,
}

pub(super) fn write(view: &ExportContext<'_>) -> Exported {
    let mut unsaid: Vec<String> = pushed(view.rules).into_iter().collect();
    let place = place(view.host, &mut unsaid);
    let (mut required, mut commands) = (Vec::new(), String::new());
    for rule in view.rules.rules() {
        match command(view, rule, &place) {
            Ok(EcrCommand { text, secret, note }) => {
                commands += &text;
                required.extend(secret.filter(|secret| !required.contains(secret)));
                unsaid.extend(note.map(|note| format!("rule \"{}\": {note}", rule.name)));
            }
            Err(why) => {
                let line = format!("rule \"{}\" ({} to {}): {why}", rule.name, rule.source, view.full_target(rule));
                commands += &format!("# {line}\n");
                unsaid.push(line);
            }
        }
    }
    let required: String = required.iter().map(|(variable, what)| shell::required(variable, what)).collect();
    single(Format::Ecr, "ecr.sh", &format!("set -eu\n{required}{commands}"), unsaid)
}

struct EcrCommand {
    text: String,
    /// A variable that must be set, and its meaning.
    secret: Option<(String, String)>,
    note: Option<String>,
}

/// Account and region, which are part of the registry's host.
fn place(host: &str, unsaid: &mut Vec<String>) -> String {
    let parts: Vec<&str> = host.split('.').collect();
    if let [account, "dkr", "ecr", region, "amazonaws", ..] = parts.as_slice() {
        return format!(" --registry-id {} --region {}", shell::word(account), shell::word(region));
    }
    unsaid.push(format!("the target {host} is no Amazon ECR registry: the commands act on the account and region that aws is set up for"));
    String::new()
}

fn command(view: &ExportContext<'_>, rule: &CacheRule, place: &str) -> Result<EcrCommand, String> {
    let (source, target) = (&rule.source, view.full_target(rule));
    if !target.is_wildcard() {
        return Err("ECR's rules are prefixes; one repository cannot be said".to_owned());
    }
    let prefix = target.prefix().trim_end_matches('/');
    let upstream = source.path.prefix().trim_end_matches('/');
    if prefix.is_empty() && !upstream.is_empty() {
        return Err(format!("at ECR only all of {} can stand for everything", source.host));
    }
    if !prefix.is_empty() {
        check_prefix(prefix)?;
    }
    let access = access(&source.host).ok_or_else(|| format!("{} is not among the upstreams of ECR", source.host))?;
    let named = |name: &str| if name.is_empty() { ROOT.to_owned() } else { shell::word(name) };
    let url = if source.host == DOCKER_HUB { "registry-1.docker.io" } else { source.host.as_str() };
    let mut text = format!(
        "aws ecr create-pull-through-cache-rule{place} --ecr-repository-prefix {} --upstream-registry-url {}",
        named(prefix),
        shell::word(url)
    );
    let mut note = None;
    if !upstream.is_empty() {
        text += &format!(" --upstream-repository-prefix {}", shell::word(upstream));
        if !matches!(access, Access::Role) {
            note = Some("AWS documents --upstream-repository-prefix for ECR upstreams only".to_owned());
        }
    }
    let secret = matches!(access, Access::Secret).then(|| {
        let set = view.set_of(rule).unwrap_or_else(|| rule.name.clone());
        (shell::variable(&set, "SECRET_ARN"), format!("the ARN of the secret ecr-pullthroughcache/... for {}", source.host))
    });
    if let Some((variable, _)) = &secret {
        text += &format!(" --credential-arn \"${variable}\"");
    }
    Ok(EcrCommand { text: text + "\n", secret, note })
}

fn access(host: &str) -> Option<Access> {
    if OPEN.contains(&host) {
        Some(Access::Open)
    } else if CLOSED.contains(&host) || host.ends_with(".azurecr.io") {
        Some(Access::Secret)
    } else if host.contains(".dkr.ecr.") {
        Some(Access::Role)
    } else {
        None
    }
}

/// 2 to 30 characters of lower-case components.
fn check_prefix(prefix: &str) -> Result<(), String> {
    if !(2..=30).contains(&prefix.len()) {
        return Err(format!("a prefix has 2 to 30 characters at ECR, `{prefix}` has {}", prefix.len()));
    }
    check_path(prefix)
        .and_then(|()| if prefix.contains("__") || prefix.contains("--") { Err("no two separators in a row".to_owned()) } else { Ok(()) })
}
