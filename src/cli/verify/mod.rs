//! `larder verify`. What is verified decides the file: a layout or archive, a bundle, a registry, an import's evidence.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod bundle;
mod evidence;
mod layout;
mod registry;

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Exit, UsageError};
use super::inputs::layout_path;
use super::printer::Printer;
use crate::bundle::{contains_bundle, is_archive};
use crate::config::{Config, TargetConfig};
use crate::{Error, Operation};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A layout's folder; a bundle: its folder, its .bundle.json, or some of its volumes; an archive, as import takes it; or a
    /// target: HOST[:PORT][/PREFIX] or oci:DIR. Default: the target of the configuration
    #[arg(value_name = "PATH|TARGET")]
    pub(super) targets: Vec<String>,
    /// Check an import's evidence: its own digest, and that the target still has everything in it. Default target: the one it
    /// names
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lists", "image", "lock", "deep"])]
    pub(super) evidence: Option<PathBuf>,
    /// Of a registry: the images of this list; repeatable. Default: `lists` of the configuration
    #[arg(long = "list", value_name = "FILE")]
    pub(super) lists: Vec<String>,
    /// Of a registry: this image, as a list of one line; repeatable
    #[arg(long, value_name = "REF")]
    pub(super) image: Vec<String>,
    /// Accept lists without any image: nothing is verified then. Without it, that is exit status 2
    #[arg(long, conflicts_with_all = ["evidence", "lock"])]
    pub(super) allow_empty: bool,
    /// Of a registry: the images of this lock, each with its locked digest
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lists", "image"])]
    pub(super) lock: Option<PathBuf>,
    /// Of a registry: read and hash every blob, instead of asking whether it exists
    #[arg(long)]
    pub(super) deep: bool,
    /// Requests in flight to the registry at most [default: 64, or fewer by its profile]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
}

pub(super) async fn run(file: Option<&Path>, args: VerifyArgs, printer: &Printer) -> Result<Exit, UsageError> {
    if let Some(evidence) = &args.evidence {
        let target = args.targets.first().map(String::as_str);
        return evidence::verify(file, evidence, target, args.concurrency.map(usize::from), printer).await;
    }
    let mut texts = args.targets.clone();
    // Several paths are the volumes of a bundle.
    let target = match texts.as_slice() {
        [] => {
            let target = Config::load(file)?.target;
            if let TargetConfig::Layout { path } = &target {
                texts.push(path.display().to_string());
            }
            Some(target)
        }
        [text] => target_of(text)?,
        _ => None,
    };
    let has_expectation = !(args.lists.is_empty() && args.image.is_empty() && args.lock.is_none());
    if has_expectation && target.is_none() {
        let error = Error::local(Operation::Verify, "a bundle states its own content");
        return Err(UsageError::usage(error.remedy("--list, --image and --lock are for registries and layouts")));
    }
    let stored = match &target {
        Some(TargetConfig::Registry { .. }) => Exit::Done,
        Some(TargetConfig::Layout { .. }) | None => on_disk(&texts, printer).await?,
    };
    match target {
        Some(target) if has_expectation || target.is_registry() => {
            let checked = registry::verify(file, &args, &target, printer).await?;
            Ok(if stored == Exit::Done { checked } else { stored })
        }
        _ => Ok(stored),
    }
}

/// The target that `text` names: an existing layout, else as `--to` takes it. `None` if it is a bundle or archive.
fn target_of(text: &str) -> Result<Option<TargetConfig>, UsageError> {
    let path = Path::new(text);
    if text == "-" {
        return Ok(None);
    }
    if path.exists() {
        let is_layout = path.is_dir() && !contains_bundle(path);
        return Ok(is_layout.then(|| TargetConfig::Layout { path: path.to_owned() }));
    }
    match TargetConfig::parse(text) {
        Ok(TargetConfig::Layout { path }) if !path.exists() => Err(format!("{}: no such folder", path.display())),
        Ok(target) => Ok(Some(target)),
        Err(why) => Err(format!("`{text}`: no such path, and not a target: {why}")),
    }
    .map_err(|why| UsageError::usage(Error::local(Operation::Verify, why)))
}

/// Verifies layouts, bundles and archives. The content of a path says which one it is.
async fn on_disk(targets: &[String], printer: &Printer) -> Result<Exit, UsageError> {
    let (mut layouts, mut archives, mut bundles) = (vec![], vec![], vec![]);
    for text in targets {
        let path = if text == "-" { PathBuf::from(text) } else { layout_path(text, Operation::Verify)? };
        if is_archive(&path).map_err(UsageError::usage)? {
            archives.push(path);
        } else if path.is_dir() && !contains_bundle(&path) {
            layouts.push((path, text));
        } else {
            bundles.push(path);
        }
    }
    let mut exits = vec![];
    for (path, text) in layouts {
        exits.push(layout::verify_layout(path, text, printer).await?);
    }
    for path in archives {
        exits.push(layout::verify_archive(path, printer).await?);
    }
    if !bundles.is_empty() {
        exits.push(bundle::verify(bundles, printer).await?);
    }
    Ok(if exits.iter().all(|exit| *exit == Exit::Done) { Exit::Done } else { Exit::Failed })
}
