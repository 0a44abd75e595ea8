//! `aws ecr describe-pull-through-cache-rules` (docs/registries.md, "Amazon ECR: pull-through cache rules").

use serde_json::Value;

use super::names::UsedNames;
use super::{Draft, DraftRule, DraftSet, OPERATION, text};
use crate::error::{Error, Result};
use crate::name::normal_host;

/// The prefix for everything, on either side.
const ROOT: &str = "ROOT";
/// The prefix of the names of all pull-through secrets.
const SECRETS: &str = "ecr-pullthroughcache/";
/// A placeholder where no file names the region, so that the output loads.
const SOME_REGION: &str = "us-east-1";

pub(super) fn read<'v>(rules: impl Iterator<Item = &'v Value>, draft: &mut Draft) -> Result<()> {
    let rules: Vec<_> = rules.collect();
    draft.longest = true;
    draft.target = registry(&rules, draft)?;
    let (mut rule_names, mut set_names) = (UsedNames::default(), UsedNames::default());
    for row in rules {
        rule(row, draft, &mut rule_names, &mut set_names);
    }
    Ok(())
}

fn registry(rules: &[&Value], draft: &mut Draft) -> Result<String> {
    let mut accounts: Vec<&str> = rules.iter().filter_map(|row| text(row, "registryId")).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let account = match accounts.as_slice() {
        [one] if one.chars().all(|c| c.is_ascii_digit()) => (*one).to_owned(),
        [one, other, ..] => {
            return Err(
                Error::local(OPERATION, format!("the files are of two accounts, {one} and {other}")).remedy("import each on its own")
            );
        }
        _ => {
            draft.note("the files do not name the account: 000000000000 stands for it (--to REGISTRY says it)");
            "000000000000".to_owned()
        }
    };
    // A secret is in the registry's own region; nothing else in the file names it.
    let arn = rules.iter().filter_map(|row| text(row, "credentialArn")).find_map(|arn| {
        let parts: Vec<&str> = arn.split(':').collect();
        let legal = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        Some((*parts.get(1)?, *parts.get(3)?)).filter(|(_, region)| legal(region))
    });
    let (partition, region) = arn.unwrap_or_else(|| {
        draft.note(format!("the files do not name the region: {SOME_REGION} stands for it (--to REGISTRY says it)"));
        ("aws", SOME_REGION)
    });
    let china = if partition == "aws-cn" { ".cn" } else { "" };
    Ok(format!("{account}.dkr.ecr.{region}.amazonaws.com{china}"))
}

fn rule(row: &Value, draft: &mut Draft, names: &mut UsedNames, set_names: &mut UsedNames) {
    let known_as = text(row, "ecrRepositoryPrefix").unwrap_or_default().to_owned();
    let upstream = text(row, "upstreamRegistryUrl").unwrap_or_default();
    let bare = upstream.strip_prefix("https://").unwrap_or(upstream).trim_end_matches('/');
    let host = match normal_host(bare) {
        Ok(host) => host,
        Err(why) => return draft.lose(format!("prefix \"{known_as}\" ({upstream}): {why}")),
    };
    if let Some(role) = text(row, "customRoleArn") {
        draft.lose(format!("prefix \"{known_as}\": its role {role}; give larder a credential set for {host}"));
    }
    let below = |prefix: &str| match prefix.trim_end_matches('/') {
        ROOT => "*".to_owned(),
        prefix => format!("{prefix}/*"),
    };
    let set = text(row, "credentialArn").map(|arn| set_of(arn, &host, draft, set_names));
    draft.rules.push(DraftRule {
        name: names.give(&known_as),
        source: format!("{host}/{}", below(text(row, "upstreamRepositoryPrefix").unwrap_or(ROOT))),
        target: below(&known_as),
        known_as,
        set,
    });
}

/// The credential set of a secret; a secret used for two upstreams becomes two sets.
fn set_of(arn: &str, host: &str, draft: &mut Draft, names: &mut UsedNames) -> usize {
    let key = format!("{arn} {host}");
    if let Some(at) = draft.sets.iter().position(|set| set.key == key) {
        return at;
    }
    let name = names.give(secret_name(arn));
    draft.sets.push(DraftSet { key, name, login_server: host.to_owned(), kept: Some(arn.to_owned()) });
    draft.sets.len() - 1
}

/// The name in a secret's ARN, without the six characters that Secrets Manager appends.
fn secret_name(arn: &str) -> &str {
    let name = arn.rsplit(':').next().unwrap_or(arn);
    let name = name.strip_prefix(SECRETS).unwrap_or(name);
    match name.rsplit_once('-') {
        Some((name, random)) if random.len() == 6 && !name.is_empty() => name,
        _ => name,
    }
}
