//! The command line as a whole. The arguments of a command are beside the command.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

use super::config::ConfigCommand;
use super::examples;
use super::export::ExportArgs;
use super::import::ImportArgs;
use super::inventory::InventoryArgs;
use super::limits::LimitsArgs;
use super::list::ListCommand;
use super::options::Global;
use super::plan::PlanArgs;
use super::rules::RulesCommand;
use super::serve::ServeArgs;
use super::sync::SyncCommand;
use super::verify::VerifyArgs;

#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    about = "Stocks a container registry before anyone asks",
    long_about = "Copies the images of lists, through cache rules, into a target: a registry or an OCI image layout. Every digest \
                  is checked, and what images share is copied once. A run that was killed continues where it stopped.",
    after_help = "Exit status:\n  0  the target holds everything asked for\n  1  something failed; the rest was delivered\n  \
                  2  usage or configuration; nothing was attempted\n  3  nothing failed, but unfinished: run it again\n  \
                  130  stopped by a second interrupt"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CliCommand {
    /// Show what sync would do and cost, spending no pull
    Plan(PlanArgs),
    /// Copy the images of the lists to the target
    Sync(SyncCommand),
    /// Write a bundle that can be carried across an air gap
    Export(ExportArgs),
    /// Put a bundle, or an OCI layout or archive, into a target
    Import(ImportArgs),
    /// Print the digests that a target holds, as export's --base takes them
    Inventory(InventoryArgs),
    /// Check a layout, bundle, archive or registry, and name what is damaged or missing
    Verify(VerifyArgs),
    /// Remove the content of a layout that no name reaches
    Gc {
        /// The layout's folder (or oci:DIR)
        #[arg(value_name = "LAYOUT")]
        layout: String,
        /// Only print what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Serve a layout as a read-only registry
    Serve(ServeArgs),
    /// Show the pulls that each upstream has left, spending none
    Limits(LimitsArgs),
    /// Check cache rules, show how an image resolves, read and write other systems' rules
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Find image references in other tools' files, or check lists
    #[command(subcommand)]
    List(ListCommand),
    /// Check the configuration, or show what is in effect
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check everything a run needs: ask every registry of the configuration, look at files and folders
    Doctor {
        /// The state folder that a run would use. Default: $XDG_STATE_HOME/larder, else ~/.local/state/larder; `none`: no
        /// folder is checked
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
    /// Show a cold run and a run with nothing to do, against an upstream on this machine
    Demo {
        /// Folder for the demo's files
        #[arg(long, value_name = "DIR", default_value = "larder-demo")]
        dir: PathBuf,
    },
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page
    Man,
}

/// The definition of the command line, for parsing, help, completions and the man page.
pub(super) fn command() -> clap::Command {
    examples::with_examples(Cli::command())
}
