//! `larder rules`. `explain` is here, the other commands are in files of their own.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod check;
mod export;
mod import;

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::exit::{Exit, UsageError};
use super::printer::Printer;
use crate::config::Config;
use crate::name::ImageName;
use crate::{Error, Operation};
use export::ExportFormat;

#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// Check the rules. For an Azure Container Registry, by the semantics of its artifact cache
    Check {
        /// Ask the target too: whether it refuses pushes as a cache does; at Azure, whether repositories of warm rules exist
        #[arg(long)]
        online: bool,
    },
    /// Show how an image resolves
    Explain {
        /// The image, as a list would name it or as the target knows it
        image: String,
    },
    /// Print another system's rules as larder.toml
    Import {
        /// JSON printed by az acr cache list, az acr credential-set list, aws ecr describe-pull-through-cache-rules, or
        /// Harbor's projects and registries; several files of one system go together; - is standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<String>,
        /// Where the cache is, if the files do not say it: HOST[:PORT][/PREFIX]
        #[arg(long, value_name = "REGISTRY")]
        to: Option<String>,
    },
    /// Print the rules for another system, so that clusters use what was stocked
    Export {
        /// az and ecr: commands that create cache rules. containerd (hosts.toml), podman (registries.conf), k3s
        /// (registries.yaml), openshift (ImageDigestMirrorSet): files that make nodes pull from the target
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// Write files below this folder instead of printing them
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Never send clients to the upstream: an image that the target does not have is not pulled
        #[arg(long)]
        no_fallback: bool,
    },
}

pub(super) async fn run(file: Option<&Path>, command: RulesCommand, printer: &Printer) -> Result<Exit, UsageError> {
    match command {
        RulesCommand::Check { online } => check::run(file, online, printer).await,
        RulesCommand::Explain { image } => explain(file, &image, printer),
        RulesCommand::Import { files, to } => import::run(&files, to.as_deref(), printer),
        RulesCommand::Export { format, dir, no_fallback } => export::run(file, format, dir.as_deref(), no_fallback, printer),
    }
}

fn explain(file: Option<&Path>, image: &str, printer: &Printer) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let name = ImageName::parse(image).map_err(|why| UsageError::usage(Error::local(Operation::ReadImage, why)))?;
    let explanation = config.explain(&name, config.default_unmatched());
    printer.data(&explanation.to_string());
    match explanation.problem() {
        None => Ok(Exit::Done),
        Some(problem) => Err(UsageError::failed(Error::from(problem.clone()).subject(name.to_string()))),
    }
}
