//! `larder inventory`: the digests that a target holds.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::exit::{Exit, UsageError};
use super::inputs;
use super::printer::Printer;
use super::text::{count, failure};
use crate::bundle::inventory::{Inventory, Roots, walk};
use crate::config::{Config, TargetConfig};
use crate::content::{Repository, RequestContext};
use crate::layout::Layout;
use crate::lock::Lock;
use crate::name::Reference;
use crate::sync::{self, RuledEntry, SyncOptions, TargetStore, UpstreamOptions, Upstreams};
use crate::{Error, Kind, Operation, Side};

#[derive(Debug, Args)]
pub(super) struct InventoryArgs {
    /// The target: a layout's folder, HOST[:PORT][/PREFIX] or oci:DIR. Default: the configuration's
    #[arg(long, value_name = "TARGET")]
    pub(super) of: Option<String>,
    /// Compress the output (zstd)
    #[arg(short = 'z', long)]
    pub(super) compressed: bool,
    /// Image list that names the repositories, for a registry that does not list them; repeatable
    #[arg(long = "list", value_name = "FILE")]
    pub(super) lists: Vec<String>,
    /// Lock that names the repositories
    #[arg(long, value_name = "FILE")]
    pub(super) lock: Option<PathBuf>,
    /// Requests in flight to the registry at most [default: 64, or fewer by its profile]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
}

pub(super) async fn run(file: Option<&Path>, args: InventoryArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let target = match &args.of {
        Some(text) => target_at(text).map_err(|why| UsageError::usage(Error::local(Operation::ReadOf, why)))?,
        None => config.target.clone(),
    };
    if args.compressed && std::io::stdout().is_terminal() {
        let error = Error::local(Operation::Inventory, "compressed data cannot be printed on a terminal");
        return Err(UsageError::usage(error.remedy("send it to a file: larder inventory -z > far.zst")));
    }
    let options = UpstreamOptions { concurrency: args.concurrency.map(usize::from), ..UpstreamOptions::default() };
    let supply = Upstreams::new(&config, &options).map_err(UsageError::failed)?;
    let store = supply.target(&target, false).await.map_err(UsageError::failed)?;
    let roots = roots(&config, &target, &store, &args, printer).await?;
    if roots.is_empty() && (!args.lists.is_empty() || args.lock.is_some()) {
        let sources: Vec<String> = args.lists.iter().cloned().chain(args.lock.iter().map(|path| path.display().to_string())).collect();
        let error = Error::local(Operation::Inventory, format!("nothing in {} maps to a repository of {target}", sources.join(", ")));
        return Err(UsageError::failed(error.remedy("see how an image maps: larder rules explain IMAGE")));
    }
    let (mut inventory, errors) = walk(Arc::clone(&store.ends.source), roots, |repository| below(&target, repository)).await;
    if let TargetConfig::Layout { path } = &target
        && path.exists()
    {
        leave_out_lost(&mut inventory, path, printer).await?;
    }
    match args.compressed {
        true => printer.bytes(&inventory.to_zstd()),
        false => printer.data(&inventory.to_text()),
    }
    errors.iter().for_each(|error| printer.error(error));
    if errors.is_empty() {
        return Ok(Exit::Done);
    }
    printer.say("the inventory is incomplete: an export with it as base carries the missing content again");
    Ok(Exit::Failed)
}

/// Removes content that the layout has lost, although its manifests refer to it: an export must not rely on it.
async fn leave_out_lost(inventory: &mut Inventory, path: &Path, printer: &Printer) -> Result<(), UsageError> {
    let layout = Layout::open(path).await.map_err(UsageError::failed)?;
    let lost = inventory.retain(|digest| layout.blob_len(digest).is_ok_and(|len| len.is_some()));
    if lost > 0 {
        printer.warn(&format!("{} lacks {} that its images need; left out (see larder verify)", path.display(), count(lost, "blob")));
    }
    Ok(())
}

/// The target that `text` names: a layout if the path exists, else as `--to` takes it.
pub(super) fn target_at(text: &str) -> Result<TargetConfig, String> {
    let path = PathBuf::from(text);
    if path.exists() { Ok(TargetConfig::Layout { path }) } else { TargetConfig::parse(text) }
}

/// The repositories and images to walk.
async fn roots(
    config: &Config,
    target: &TargetConfig,
    store: &TargetStore,
    args: &InventoryArgs,
    printer: &Printer,
) -> Result<Vec<Roots>, UsageError> {
    if !args.lists.is_empty() || args.lock.is_some() {
        let mut roots = listed(config, target, &args.lists, printer)?;
        if let Some(path) = &args.lock {
            roots.extend(locked(&Lock::need(path).map_err(UsageError::usage)?, target));
        }
        return Ok(roots);
    }
    if let TargetConfig::Layout { path } = target {
        return if path.exists() { of_layout(path, printer).await } else { Ok(vec![]) };
    }
    let context = RequestContext::new(target.to_string());
    let repositories = store.ends.source.repositories(&context).await.map_err(UsageError::failed)?;
    let Some(mut repositories) = repositories else {
        let message = "it does not list its repositories (no `_catalog`, or not for this account)";
        let error = Error::new(Side::Target, Operation::ListRepositories, Kind::Refused, message).subject(target.to_string());
        return Err(UsageError::failed(error.remedy("name them: --list FILE, an image list as sync takes it, or --lock FILE")));
    };
    repositories.retain(|repository| is_below(target, repository));
    Ok(repositories.into_iter().map(Roots::Tags).collect())
}

/// The repositories that these lists fill, with all their tags.
fn listed(config: &Config, target: &TargetConfig, files: &[String], printer: &Printer) -> Result<Vec<Roots>, UsageError> {
    let mut repositories = std::collections::BTreeSet::new();
    let options = SyncOptions { unmatched: config.default_unmatched(), ..SyncOptions::default() };
    for parsed in inputs::files(files)? {
        parsed.errors.into_iter().for_each(|error| printer.warn(&error.to_error().message()));
        for entry in parsed.entries {
            match RuledEntry::resolve(entry, 0, &config.rules, &options, target) {
                Ok(item) => drop(repositories.insert(item.to)),
                Err(row) => row.error.iter().for_each(|error| printer.warn(&failure(&row, error))),
            }
        }
    }
    Ok(repositories.into_iter().map(Roots::Tags).collect())
}

/// The repositories that a lock names, with all their tags, and the images that it names by digest only.
fn locked(lock: &Lock, target: &TargetConfig) -> Vec<Roots> {
    let expected = sync::locked(lock, target);
    let repositories: std::collections::BTreeSet<Repository> = expected.iter().map(|image| image.repository.clone()).collect();
    let by_digest = expected.into_iter().filter(|image| matches!(image.reference, Reference::Digest(_)));
    repositories.into_iter().map(Roots::Tags).chain(by_digest.map(|image| Roots::Name(image.repository, image.reference))).collect()
}

/// Every entry that says its repository, with or without a tag.
async fn of_layout(path: &Path, printer: &Printer) -> Result<Vec<Roots>, UsageError> {
    let entries = async { Layout::open(path).await?.names().await }.await.map_err(UsageError::failed)?;
    let all = entries.len();
    let roots: Vec<Roots> = entries
        .iter()
        .filter_map(crate::layout::IndexEntry::title)
        .map(|(repository, reference)| Roots::Name(repository, reference))
        .collect();
    let without = entries.iter().filter(|entry| entry.title().is_none() && entry.name.is_some()).count();
    if without > 0 {
        printer.say(&format!("{without} of {all} entries of {} do not say their repository, and are left out", path.display()));
    }
    Ok(roots)
}

fn is_below(target: &TargetConfig, repository: &Repository) -> bool {
    match target {
        TargetConfig::Registry { prefix, .. } if !prefix.is_empty() => {
            repository.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
        }
        _ => true,
    }
}

/// The repository as bundles name it: below the target's prefix.
fn below(target: &TargetConfig, repository: &Repository) -> Repository {
    match target {
        TargetConfig::Registry { prefix, .. } if !prefix.is_empty() => {
            let rest = repository.as_str().strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('/'));
            rest.map_or_else(|| repository.clone(), Repository::new)
        }
        _ => repository.clone(),
    }
}
