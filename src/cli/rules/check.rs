//! `larder rules check`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::exit::{Exit, UsageError};
use crate::cli::printer::Printer;
use crate::cli::text::count;
use crate::cli::{checks, inputs, state};
use crate::config::{Config, TargetConfig};
use crate::content::{Repository, RequestContext};
use crate::rules::{CacheRule, Delivery, RuleFinding, Severity};
use crate::sync::{RuledEntry, SyncOptions, UpstreamOptions};
use crate::{Error, Kind};

pub(super) async fn run(file: Option<&Path>, online: bool, printer: &Printer) -> Result<Exit, UsageError> {
    let Some(config) = checks::load(file, printer)? else { return Ok(Exit::Failed) };
    let mut findings = config.warnings();
    findings.extend(config.pushes_into_cache());
    if config.is_acr() {
        let sources = written_sources(&config);
        findings.extend(config.rules.acr_findings(config.writable_cache, &|rule: &CacheRule| sources.get(&rule.name).cloned()));
    }
    let mut failed = false;
    if online {
        let (found, mut errors) = existing_repositories(&config, printer).await?;
        findings.extend(found);
        let (found, more) = refused_pushes(&config, printer).await?;
        findings.extend(found);
        errors.extend(more);
        failed = !errors.is_empty();
        errors.iter().for_each(|error| printer.error(error));
    }
    findings.sort_by_key(|finding| (finding.severity, finding.line));
    let path = config.path.clone().unwrap_or_default();
    printer.data(&findings.iter().map(|finding| format!("{}: {}\n", finding.severity, finding.located(&path))).collect::<String>());
    if failed || findings.iter().any(|finding| finding.severity != Severity::Note) {
        return Ok(Exit::Failed);
    }
    printer.say(&format!("{}: no problems found", count(config.rules.rules().len(), "rule")));
    Ok(Exit::Done)
}

/// By rule name: its source as the file writes it. [`CacheRule`] has the normal form.
fn written_sources(config: &Config) -> BTreeMap<String, String> {
    let text = config.path.as_deref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let table: toml::Table = text.trim_start_matches('\u{feff}').parse().unwrap_or_default();
    let rules = table.get("rule").and_then(toml::Value::as_array);
    let source = |rule: &toml::Value| Some((rule.get("name")?.as_str()?.to_owned(), rule.get("source")?.as_str()?.to_owned()));
    rules.into_iter().flatten().filter_map(source).collect()
}

/// Asks the target for the tags of each repository that warm rules fill: the targets of fixed rules, and of wildcards those that the
/// lists name. Azure creates no rule for a repository that exists (docs/registries.md, "Azure: wildcards").
async fn existing_repositories(config: &Config, printer: &Printer) -> Result<(Vec<RuleFinding>, Vec<Error>), UsageError> {
    let TargetConfig::Registry { host, prefix } = &config.target else { return Ok(not_azure(config, printer)) };
    if !config.is_acr() {
        return Ok(not_azure(config, printer));
    }
    let repositories = repositories(config, prefix, Delivery::Warm)?;
    let supply = state::supply(config, None, UpstreamOptions::default(), printer).await?;
    let target = supply.target(&config.target, false).await.map_err(UsageError::failed)?;
    let asked = repositories.iter().map(|(repository, (line, rule))| {
        let source = &target.ends.source;
        async move {
            let name = format!("{host}/{repository}");
            match source.tags(repository, &RequestContext::new(name.as_str())).await {
                Ok(tags) => Ok(Some(exists(*line, rule, &name, tags.len()))),
                Err(error) if error.kind() == Kind::NotFound => Ok(None),
                Err(error) => Err(error.subject(name)),
            }
        }
    });
    let answers = futures_util::future::join_all(asked).await;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(finding) => found.extend(finding),
            Err(error) => errors.push(error),
        }
    }
    Ok((found, errors))
}

fn not_azure(config: &Config, printer: &Printer) -> (Vec<RuleFinding>, Vec<Error>) {
    printer.say(&format!("{} is not an Azure Container Registry: its repositories are not checked", config.target));
    (Vec::new(), Vec::new())
}

fn exists(line: usize, rule: &str, name: &str, tags: usize) -> RuleFinding {
    let tags = count(tags, "tag");
    let message = format!(
        "rule \"{rule}\": {name} exists already, with {tags}; Azure creates no rule for a repository that exists (if this rule created it, \
         nothing is wrong; else delete the repository, or give the rule another target)"
    );
    RuleFinding::warning(line, message)
}

/// Finds rules that push into a pull-through cache: opens an upload in each repository, and cancels it.
async fn refused_pushes(config: &Config, printer: &Printer) -> Result<(Vec<RuleFinding>, Vec<Error>), UsageError> {
    let TargetConfig::Registry { host, prefix } = &config.target else { return Ok((Vec::new(), Vec::new())) };
    if config.writable_cache || config.cache_profile(&config.target).is_some() {
        return Ok((Vec::new(), Vec::new()));
    }
    let repositories = repositories(config, prefix, Delivery::Push)?;
    let supply = state::supply(config, None, UpstreamOptions::default(), printer).await?;
    let target = supply.target(&config.target, false).await.map_err(UsageError::failed)?;
    let asked = repositories.iter().map(|(repository, (line, rule))| {
        let sink = &target.ends.sink;
        async move {
            let context = RequestContext::new(format!("{host}/{repository}"));
            (*line, rule, sink.vouches(repository, &context).await.err())
        }
    });
    let (mut found, mut errors): (BTreeMap<usize, RuleFinding>, Vec<Error>) = (BTreeMap::new(), Vec::new());
    for (line, rule, refused) in futures_util::future::join_all(asked).await {
        match refused {
            Some(error) if error.kind() == Kind::Refused => {
                let message = format!("rule \"{rule}\": delivery = \"push\" into a cache: {}", error.message());
                found.entry(line).or_insert_with(|| RuleFinding::error(line, message));
            }
            error => errors.extend(error),
        }
    }
    Ok((found.into_values().collect(), errors))
}

/// The repositories (with the target's prefix) that rules of this delivery fill, with the line and name of the rule. Of wildcards,
/// those that the lists name.
fn repositories(config: &Config, prefix: &str, delivery: Delivery) -> Result<BTreeMap<Repository, (usize, String)>, UsageError> {
    let mut repositories = BTreeMap::new();
    let mut add = |repository: Repository, rule: &CacheRule| {
        repositories.entry(repository).or_insert((rule.line, rule.name.clone()));
    };
    for rule in config.rules.rules().iter().filter(|rule| rule.delivery == delivery && !rule.target.is_wildcard()) {
        let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        add(Repository::new(format!("{below}{}", rule.target.prefix())), rule);
    }
    let options = SyncOptions { unmatched: config.default_unmatched(), ..SyncOptions::default() };
    for entry in inputs::configured(config)?.into_iter().flat_map(|list| list.entries) {
        if let Ok(item) = RuledEntry::resolve(entry, 0, &config.rules, &options, &config.target)
            && let Some(rule) = item.rule.as_ref().filter(|rule| rule.delivery == delivery)
        {
            add(item.to.clone(), rule);
        }
    }
    Ok(repositories)
}
