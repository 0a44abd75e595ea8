//! Options that several commands share, and the parsers of their values.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct Global {
    /// Configuration file. Default: larder.toml in the working directory, if it exists
    #[arg(short = 'c', long = "config", value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// Format of the lines on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub(super) log_format: LogFormat,
    /// Print failures only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Print requests and decisions too; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(super) verbose: u8,
    /// Colour the messages
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true)]
    pub(super) color: Color,
    /// No progress bars, even on a terminal
    #[arg(long, global = true)]
    pub(super) no_progress: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    Auto,
    Always,
    Never,
}

/// Format of what `plan` and `limits` print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    Table,
    Json,
}

/// Which images, and where to.
#[derive(Debug, Default, Args)]
pub(super) struct ImageArgs {
    /// Image lists: text, or CSV with a header; - is standard input. Default: `lists` of the configuration
    #[arg(value_name = "LIST")]
    pub(super) lists: Vec<String>,
    /// One image, as a list of one line; repeatable
    #[arg(long, value_name = "REF")]
    pub(super) image: Vec<String>,
    /// Accept lists without any image: there is nothing to do then. Without it, that is exit status 2
    #[arg(long)]
    pub(super) allow_empty: bool,
    /// Where to, instead of the configuration's target: HOST[:PORT][/PREFIX] or oci:DIR
    #[arg(long, value_name = "TARGET")]
    pub(super) to: Option<String>,
    /// What to do with images that no rule covers: fail, or mirror to <upstream host>/<path>. Default: fail; without a
    /// configuration file, mirror
    #[arg(long, value_enum, value_name = "fail|mirror")]
    pub(super) unmatched: Option<UnmatchedArg>,
    /// Deliver these platforms (linux/amd64, linux/arm/v7, windows/amd64:10.0.20348) instead of those of the rules;
    /// repeatable. A list line with platforms of its own keeps them
    #[arg(long = "platform", value_name = "P")]
    pub(super) platforms: Vec<crate::content::PlatformFilter>,
    /// Requests in flight to each registry at most [default: 64; 16 at registries that are known to limit them]. larder starts
    /// with 8 and finds out how many are of use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum UnmatchedArg {
    Fail,
    Mirror,
}

/// Accepts a `--report` file. Its name says the format; an existing path that is not a file (a device) takes JSON.
pub(super) fn report_file(path: PathBuf) -> Result<PathBuf, String> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        Some("json" | "csv") => Ok(path),
        Some("html") => Err("reports as HTML are not in this version: the name must end in .json or .csv".to_owned()),
        _ if crate::report::file::in_place(&path) => Ok(path),
        _ => Err("the name must end in .json or .csv".to_owned()),
    }
}
