//! `larder doctor`: checks what a run would need, on this machine and at every registry of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::{Exit, UsageError};
use super::printer::Printer;
use super::text::{count, size};
use super::{checks, state};
use crate::config::{Config, StateConfig, TargetConfig};
use crate::state::SharedState;
use crate::store::StoreError;
use crate::sync::{Examined, RuledEntry, UpstreamOptions, Upstreams, examine_target, examine_upstream};
use crate::{Error, Operation};

pub(super) async fn run(file: Option<&Path>, given: Option<&Path>, printer: &Printer) -> Result<Exit, UsageError> {
    let Some(config) = checks::load(file, printer)? else { return Ok(Exit::Failed) };
    let mut found = checks::warnings(&config);
    let lists = checks::lists(&config);
    found.extend(lists.problems);
    found.extend(checks::certificates(&config));
    found.extend(checks::secrets(&config));
    let state = state::chosen(given, &config)?;
    found.extend(folders(&config, state.as_ref()));
    let supply = match open_state(state.as_ref()).await {
        Ok(Some(shared)) => Upstreams::with_shared_state(&config, &UpstreamOptions::default(), shared).await,
        Ok(None) => {
            // A state folder that cannot be opened is a finding already. The registries are asked without it.
            let folder = state_folder(state.as_ref()).filter(|folder| folder.is_dir());
            let options = UpstreamOptions { state: folder.as_deref(), ..UpstreamOptions::default() };
            Upstreams::new(&config, &options).or_else(|_| Upstreams::new(&config, &UpstreamOptions::default()))
        }
        Err(error) => {
            found.push(format!("error: {}", Error::local(Operation::OpenState, error.to_string())));
            Upstreams::new(&config, &UpstreamOptions::default())
        }
    };
    let supply = supply.map_err(UsageError::failed)?;
    for examined in ask(&supply, &config, &lists.items).await {
        print_good(&examined, printer);
        found.extend(examined.findings.iter().map(|error| format!("error: {error}")));
    }
    let mut seen = BTreeSet::new();
    found.retain(|line| seen.insert(line.clone()));
    printer.data(&found.iter().map(|line| crate::error::printable(line) + "\n").collect::<String>());
    let findings = found.iter().filter(|line| checks::is_finding(line)).count();
    if findings > 0 {
        printer.say(&count(findings, "finding"));
        return Ok(Exit::Failed);
    }
    printer.say("everything a run needs is there");
    Ok(Exit::Done)
}

/// Opens a state in object storage, which tells whether it can be used.
async fn open_state(state: Option<&StateConfig>) -> Result<Option<Arc<SharedState>>, StoreError> {
    match state {
        Some(StateConfig::Objects(url)) => SharedState::open(url).await.map(Some),
        _ => Ok(None),
    }
}

fn state_folder(state: Option<&StateConfig>) -> Option<PathBuf> {
    match state {
        Some(StateConfig::Folder(folder)) => Some(folder.clone()),
        Some(StateConfig::Nowhere | StateConfig::Objects(_)) => None,
        None => state::default_folder(),
    }
}

/// Asks every registry of the configuration, once for each account, all at the same time.
async fn ask(supply: &Upstreams, config: &Config, items: &[Arc<RuledEntry>]) -> Vec<Examined> {
    let target = match &config.target {
        TargetConfig::Registry { host, prefix } => Some((host.as_str(), prefix.as_str())),
        TargetConfig::Layout { .. } => None,
    };
    let is_target = |host: &str| target.is_some_and(|(known, _)| config.same_registry(known, host));
    // Prefer an image that can be asked about without listing tags.
    let mut about: BTreeMap<(String, Option<String>), Option<&RuledEntry>> = BTreeMap::new();
    for item in items {
        let set = item.rule.as_ref().and_then(|rule| rule.credentials.clone());
        let known = about.entry((item.entry.source.host.clone(), set)).or_default();
        if known.is_none() && item.probe().is_some() {
            *known = Some(item.as_ref());
        }
    }
    let rules = config.rules.rules().iter().map(|rule| rule.source.host.clone());
    let tables = config.registries.keys().cloned().chain(config.credentials.iter().map(|set| set.login_server.clone()));
    for host in rules.chain(tables) {
        let asked = about.keys().any(|(known, _)| config.same_registry(known, &host));
        if !asked && !is_target(&host) {
            about.insert((host, None), None);
        }
    }
    let upstreams = about.iter().map(|((host, _), item)| examine_upstream(supply, host, *item));
    let target = async {
        match target {
            // One image of each rule: a rule's rights are the same for all its images.
            Some((host, prefix)) => Some(examine_target(supply, host, prefix, &one_of_each_rule(items)).await),
            None => None,
        }
    };
    let (mut examined, target) = futures_util::future::join(futures_util::future::join_all(upstreams), target).await;
    examined.extend(target);
    examined
}

fn one_of_each_rule(items: &[Arc<RuledEntry>]) -> Vec<Arc<RuledEntry>> {
    let mut rules = BTreeSet::new();
    let name = |item: &RuledEntry| item.rule.as_ref().map_or_else(|| format!("{} ", item.to), |rule| rule.name.clone());
    items.iter().filter(|item| rules.insert(name(item))).cloned().collect()
}

/// Prints what works at a registry.
fn print_good(examined: &Examined, printer: &Printer) {
    let account = examined.account.as_ref().map(|account| format!(" ({account})")).unwrap_or_default();
    if !examined.good.is_empty() {
        printer.say(&crate::error::printable(&format!("{}{account}: {}", examined.host, examined.good.join(", "))));
    }
}

/// Warn below this: room for a few images of usual size (some 100 MB) and their temporary files.
const LOW_SPACE: u64 = 1_000_000_000;

/// Checks that the state folder, and the target if it is a layout, can be written to and have room.
fn folders(config: &Config, state: Option<&StateConfig>) -> Vec<String> {
    let mut folders: Vec<(&str, PathBuf, String)> = vec![];
    let mut found = vec![];
    match state_folder(state) {
        Some(folder) => folders.push(("state folder", folder, "give a writable folder with --state DIR".to_owned())),
        None if state.is_some() => {}
        None => found.push("warning: there is no home folder to keep state in (give one with --state DIR, or none)".to_owned()),
    }
    if let TargetConfig::Layout { path } = &config.target {
        folders.push(("layout", path.clone(), "make the folder writable, or name another as `layout` in [target]".to_owned()));
    }
    for (what, folder, remedy) in folders {
        match checks::free_space(&folder) {
            Err(why) => {
                let error = Error::local(Operation::CheckFolders, format!("{what} {}: {why}", folder.display())).remedy(remedy);
                found.push(format!("error: {error}"));
            }
            Ok(free) if free < LOW_SPACE => {
                let free = size(free);
                found.push(format!("warning: {what} {}: only {free} are free (make room there)", folder.display()));
            }
            Ok(_) => {}
        }
    }
    found
}
