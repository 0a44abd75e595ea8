//! `larder doctor`: what a run would meet, told before it: files and folders of this machine, and every registry of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::printer::Printer;
use super::{Exit, UsageError, config, local, state};
use crate::Error;
use crate::config::{Config, TargetConfig};
use crate::sync::{Examined, RuledEntry, UpstreamOptions, Upstreams};

pub(super) async fn run(file: Option<&Path>, given: Option<&Path>, printer: &Printer) -> Result<Exit, UsageError> {
    let Some(config) = config::loaded(file, printer)? else { return Ok(Exit::Failed) };
    let mut found = config::warnings(&config);
    let lists = local::lists(&config);
    found.extend(lists.problems);
    found.extend(local::certificates(&config));
    found.extend(local::secrets(&config));
    found.extend(folders(&config, given));
    // What a run would refuse to begin with is told once, and the registries are asked all the same: without state nothing is lost here.
    let state = state::folder(given).filter(|folder| folder.is_dir());
    let options = UpstreamOptions { state: state.as_deref(), ..UpstreamOptions::default() };
    let supply = Upstreams::new(&config, &options).or_else(|_| Upstreams::new(&config, &UpstreamOptions { state: None, ..options }));
    let supply = supply.map_err(UsageError::failed)?;
    for examined in ask(&supply, &config, &lists.items).await {
        tell(&examined, printer);
        found.extend(examined.findings.iter().map(|error| format!("error: {error}")));
    }
    let mut told = BTreeSet::new();
    found.retain(|line| told.insert(line.clone()));
    printer.data(&found.iter().map(|line| crate::error::printable(line) + "\n").collect::<String>());
    let count = match found.iter().filter(|line| config::is_finding(line)).count() {
        0 => "everything a run needs is there".to_owned(),
        1 => "1 finding".to_owned(),
        n => format!("{n} findings"),
    };
    printer.say(&count);
    Ok(if found.iter().any(|line| config::is_finding(line)) { Exit::Failed } else { Exit::Done })
}

/// Every registry of the configuration, each account of it once, all at the same time.
async fn ask(supply: &Upstreams, config: &Config, items: &[Arc<RuledEntry>]) -> Vec<Examined> {
    let target = match &config.target {
        TargetConfig::Registry { host, prefix } => Some((host.as_str(), prefix.as_str())),
        TargetConfig::Layout { .. } => None,
    };
    let is_target = |host: &str| target.is_some_and(|(known, _)| config.same_registry(known, host));
    // An image that can be asked about without listing tags is worth more than one that cannot.
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
    let upstreams = about.iter().map(|((host, _), item)| supply.examine_upstream(host, *item));
    let target = async {
        match target {
            // Of each rule one image: what it may write is the same for all of them.
            Some((host, prefix)) => Some(supply.examine_target(host, prefix, &one_of_each_rule(items)).await),
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

fn tell(examined: &Examined, printer: &Printer) {
    let account = examined.account.as_ref().map(|account| format!(" ({account})")).unwrap_or_default();
    if !examined.good.is_empty() {
        printer.say(&crate::error::printable(&format!("{}{account}: {}", examined.host, examined.good.join(", "))));
    }
}

/// With less than this free there is not room for an image of usual size (some 100 MB) and what is written beside it.
const LITTLE_SPACE: u64 = 1_000_000_000;

/// The state folder, and the layout if the target is one: they can be written to, and have room.
fn folders(config: &Config, given: Option<&Path>) -> Vec<String> {
    let mut folders: Vec<(&str, PathBuf, String)> = vec![];
    match state::folder(given) {
        Some(folder) => folders.push(("state folder", folder, "give a writable folder with --state DIR".to_owned())),
        None => return vec!["warning: there is no home folder to keep state in (give one with --state DIR)".to_owned()],
    }
    if let TargetConfig::Layout { path } = &config.target {
        folders.push(("layout", path.clone(), "make the folder writable, or name another as `layout` in [target]".to_owned()));
    }
    let mut found = vec![];
    for (what, folder, remedy) in folders {
        match local::writable(&folder) {
            Err(why) => {
                let error = Error::local("check folders", format!("{what} {}: {why}", folder.display())).remedy(remedy);
                found.push(format!("error: {error}"));
            }
            Ok(free) if free < LITTLE_SPACE => {
                let free = super::progress::size(free);
                found.push(format!("warning: {what} {}: only {free} are free (make room there)", folder.display()));
            }
            Ok(_) => {}
        }
    }
    found
}
