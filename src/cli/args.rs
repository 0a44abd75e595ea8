//! What can be typed. Help, completions and the man page all come from here.

// The texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    about = "Stocks a container registry before anyone asks",
    long_about = "Takes lists of images, resolves them through cache rules, and makes a target hold all of them: a registry, or an OCI \
                  image layout. Every digest is checked, no byte moves twice, and it can be killed at any moment with nothing lost.",
    after_help = "Exit status: 0 the target holds everything asked for; 1 something failed; 2 usage or configuration, nothing was attempted; \
                  3 nothing failed, but unfinished; 130 stopped by a second interrupt."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct Global {
    /// Configuration file; without it, larder.toml in the working directory if there is one
    #[arg(short = 'c', long = "config", value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// How lines on standard error are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub(super) log_format: LogFormat,
    /// Say only what failed
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Say more: requests and decisions; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(super) verbose: u8,
    /// Colours in messages
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

#[derive(Debug, Subcommand)]
pub(super) enum CliCommand {
    /// Show what sync would do, spending no pull
    Plan(PlanArgs),
    /// Make the target hold the lists
    Sync(SyncCommand),
    /// Write a bundle that can be carried across an air gap
    Export(ExportArgs),
    /// Put a bundle, or an OCI layout or archive, into a target
    Import(ImportArgs),
    /// Print the digests a target holds, as export's --base takes them
    Inventory(InventoryArgs),
    /// Hash everything in a layout or bundle, or ask a registry for every piece of its images, and name what is damaged or missing
    Verify(VerifyArgs),
    /// Remove what no name in a layout reaches
    Gc {
        /// The layout's folder (or oci:DIR)
        #[arg(value_name = "LAYOUT")]
        layout: String,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Serve a layout as a read-only registry
    Serve(ServeArgs),
    /// What each upstream says is left of its pull window, and to whom; spends nothing
    Limits(LimitsArgs),
    /// Validate cache rules, show how an image resolves, read and write other caches' rules
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Find image references in other tools' files, or validate lists
    #[command(subcommand)]
    List(ListCommand),
    /// Validate the configuration, or show what is in effect
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask every registry of the configuration, and look at files and folders: everything that a run would need
    Doctor {
        /// Where larder keeps what outlives a run. Default: $XDG_STATE_HOME/larder, else ~/.local/state/larder
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
    /// The whole story on loopback: an embedded upstream, a cold run, a run with nothing to do
    Demo {
        /// Where the demo's files go
        #[arg(long, value_name = "DIR", default_value = "larder-demo")]
        dir: PathBuf,
    },
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page
    Man,
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
    /// Go on where the lists hold no image: nothing is to be done then. Without it, that is exit status 2
    #[arg(long)]
    pub(super) allow_empty: bool,
    /// Where to, instead of the configuration's target: HOST[:PORT][/PREFIX] or oci:DIR
    #[arg(long, value_name = "TARGET")]
    pub(super) to: Option<String>,
    /// What becomes of images that no rule covers: fail, or mirror to <upstream host>/<path>. Default: fail; without a
    /// configuration file, mirror
    #[arg(long, value_enum, value_name = "fail|mirror")]
    pub(super) unmatched: Option<UnmatchedArg>,
    /// Deliver these platforms of images (linux/amd64, linux/arm/v7, windows/amd64:10.0.20348) instead of those that rules name;
    /// repeatable. A list line with platforms of its own keeps them
    #[arg(long = "platform", value_name = "P")]
    pub(super) platforms: Vec<crate::content::PlatformFilter>,
    /// Requests in flight to each registry
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum UnmatchedArg {
    Fail,
    Mirror,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) selection: ImageArgs,
    /// How the plan is printed
    #[arg(long, value_enum, default_value_t = PlanFormat::Table)]
    pub(super) format: PlanFormat,
    /// Compare with a lock: what the upstream has moved, what the target has otherwise, what is not locked or not listed; exit
    /// status 1 for any. Without lists, the lock's images are compared
    #[arg(long, value_name = "FILE")]
    pub(super) lock: Option<PathBuf>,
    /// Say how many tags each step of a selection left
    #[arg(long)]
    pub(super) explain: bool,
    /// Where larder keeps what outlives a run: manifests at hand and pulls already spent make the plan exact. Default:
    /// $XDG_STATE_HOME/larder, else ~/.local/state/larder; `none` keeps nothing
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct LimitsArgs {
    /// Registries to ask. Default: all upstreams of the rules and lists
    #[arg(value_name = "REGISTRY")]
    pub(super) registries: Vec<String>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = PlanFormat::Table)]
    pub(super) format: PlanFormat,
    /// Where larder keeps what outlives a run. Default: $XDG_STATE_HOME/larder, else ~/.local/state/larder.
    /// `none`: nothing outlives the run, and pulls are counted within it
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PlanFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct SyncCommand {
    #[command(flatten)]
    pub(super) args: SyncArgs,
    /// Only say what would be done and what it would cost, as `larder plan` does; no report, lock or metrics are written
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    #[command(flatten)]
    pub(super) selection: ImageArgs,
    /// Write a report, as JSON or CSV: FILE.json, FILE.csv; repeatable
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(report_file))]
    pub(super) report: Vec<PathBuf>,
    /// Write what was not delivered as a CSV list that can be given back
    #[arg(long, value_name = "FILE")]
    pub(super) failed: Option<PathBuf>,
    /// Write the run's numbers as metrics, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE.prom")]
    pub(super) metrics: Option<PathBuf>,
    /// Keep a lock: which digest each image had when it was delivered, with platforms, children, referrers and sizes. What is
    /// delivered replaces its record, what fails keeps the old one, what is not listed any more goes
    #[arg(long, value_name = "FILE")]
    pub(super) lock: Option<PathBuf>,
    /// Only read the lock, and deliver exactly what it says, by digest, whatever tags mean now; lists are not read
    #[arg(long, requires = "lock")]
    pub(super) frozen: bool,
    /// Ask caches that were warmed again until they answer by themselves, for at most 10 minutes an image
    #[arg(long)]
    pub(super) verify_warm: bool,
    /// Take nothing for granted: ask the target for every piece of every image, and fetch what it has lost
    #[arg(long)]
    pub(super) recheck: bool,
    /// Where larder keeps what outlives a run. Default: $XDG_STATE_HOME/larder, else ~/.local/state/larder.
    /// `none`: nothing outlives the run, and pulls are counted within it
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
    /// Wait for spent pull windows, and start no image after this: a local time (06:00, its next occurrence) or RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "max_wait")]
    pub(super) until: Option<String>,
    /// Wait for spent pull windows, for so long in all (2h, 90m). Default: do not wait, finish everything else
    #[arg(long, value_name = "DURATION")]
    pub(super) max_wait: Option<String>,
    /// Bytes per second at most, read and written, over all registries (20MB/s; MB = 10^6, MiB = 2^20)
    #[arg(long, value_name = "RATE")]
    pub(super) bandwidth: Option<crate::limits::Rate>,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// What was carried: a folder of volumes, NAME.bundle.json with the volumes beside it, volumes, an OCI layout, an OCI archive, or a
    /// `docker save` archive, also compressed (gzip, zstd, xz, bzip2); - is an archive from standard input; from several places, in any order,
    /// as they arrive
    #[arg(value_name = "BUNDLE", required = true)]
    pub(super) bundles: Vec<PathBuf>,
    /// Where to, instead of the configuration's target: HOST[:PORT][/PREFIX] or oci:DIR
    #[arg(long, value_name = "TARGET")]
    pub(super) to: Option<String>,
    /// The name of images that say no repository: REPOSITORY or REPOSITORY:TAG
    #[arg(long, value_name = "REF")]
    pub(super) name: Option<String>,
    /// Bring these platforms of images only (linux/amd64); repeatable. Default: all that was carried
    #[arg(long = "platform", value_name = "P")]
    pub(super) platforms: Vec<crate::content::PlatformFilter>,
    /// Write what was put where, when it was hashed and from which volume it came, with a digest over the whole; as CSV if its name ends in
    /// .csv, else as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) evidence: Option<PathBuf>,
    /// Write a report, as JSON or CSV: FILE.json, FILE.csv; repeatable
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(report_file))]
    pub(super) report: Vec<PathBuf>,
    /// Take nothing for granted: ask the target for every piece of every image
    #[arg(long)]
    pub(super) recheck: bool,
    /// Requests in flight to the target
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
    /// Bytes per second at most, to a registry (20MB/s; MB = 10^6, MiB = 2^20)
    #[arg(long, value_name = "RATE")]
    pub(super) bandwidth: Option<crate::limits::Rate>,
    /// Where larder keeps what outlives a run: parts of blobs and manifests of images that wait for other volumes. Default:
    /// $XDG_STATE_HOME/larder, else ~/.local/state/larder; `none` keeps nothing
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(mut_arg("to", |to| to.value_name("DIR").required(true).help("The folder that the bundle is written to")))]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) sync: SyncArgs,
    /// No volume is larger than this (4GB; GB = 10^9, GiB = 2^30). Default: everything in one
    #[arg(long, value_name = "SIZE", value_parser = volume_size)]
    pub(super) volume_size: Option<u64>,
    /// What is at the far side already, or on its way there, is left out: a file of larder inventory, or the .bundle.json of an
    /// earlier bundle; repeatable
    #[arg(long, value_name = "INVENTORY|BUNDLE")]
    pub(super) base: Vec<PathBuf>,
    /// The layout that images are copied into and packed from. Default: cache in the state folder
    #[arg(long, value_name = "DIR")]
    pub(super) cache: Option<PathBuf>,
    /// What the bundle's files are called. Default: bundle- and 12 digits of its identity
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Write one volume of this bundle again, the same bytes, instead of a new bundle
    #[arg(long, value_name = "NAME.bundle.json", requires = "volume", conflicts_with_all = ["volume_size", "base", "name", "lists", "image", "platforms", "lock"])]
    pub(super) repair: Option<PathBuf>,
    /// The number of the volume to repair
    #[arg(long, value_name = "N", requires = "repair")]
    pub(super) volume: Option<u32>,
}

/// The name says the format. What exists and is not a file (a device, a link to one) is written as JSON.
fn report_file(path: PathBuf) -> Result<PathBuf, String> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        Some("json" | "csv") => Ok(path),
        Some("html") => Err("reports as HTML are not in this version: the name must end in .json or .csv".to_owned()),
        _ if crate::report::file::in_place(&path) => Ok(path),
        _ => Err("the name must end in .json or .csv".to_owned()),
    }
}

/// What a volume of one small blob takes: the headers, index and record that it begins with, the blob and the end of the tar file.
const SMALLEST_VOLUME: u64 = 4096;

impl SyncArgs {
    /// The plan for these: a lock is compared with, if it is there.
    pub(super) fn planned(self) -> PlanArgs {
        let lock = self.lock.filter(|lock| self.frozen || lock.exists());
        PlanArgs { selection: self.selection, format: PlanFormat::Table, lock, explain: false, state: self.state }
    }
}

fn volume_size(text: &str) -> Result<u64, String> {
    if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!("`{text}` has no unit: write {text}GB, or {text}GiB"));
    }
    match text.parse::<bytesize::ByteSize>() {
        Ok(bytesize::ByteSize(bytes)) if bytes >= SMALLEST_VOLUME => Ok(bytes),
        Ok(_) => {
            Err(format!("a volume of {text} has no room for content: what it begins with takes more (at least {SMALLEST_VOLUME} bytes)"))
        }
        Err(_) => Err("write it like 4GB or 4GiB".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct InventoryArgs {
    /// Of which target: a layout's folder, or HOST[:PORT][/PREFIX] or oci:DIR. Default: the configuration's
    #[arg(long, value_name = "TARGET")]
    pub(super) of: Option<String>,
    /// Compress it (zstd)
    #[arg(short = 'z', long)]
    pub(super) compressed: bool,
    /// An image list that names the repositories, for a registry that does not tell them; repeatable
    #[arg(long = "list", value_name = "FILE")]
    pub(super) lists: Vec<String>,
    /// A lock that names the repositories
    #[arg(long, value_name = "FILE")]
    pub(super) lock: Option<PathBuf>,
    /// Requests in flight to the registry
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A layout's folder; a bundle: its folder, its .bundle.json, or some of its volumes; an archive, as import takes it; or a target as --to
    /// takes it: HOST[:PORT][/PREFIX] or oci:DIR. Default: the target of the configuration
    #[arg(value_name = "PATH|TARGET")]
    pub(super) targets: Vec<String>,
    /// Check an import's evidence: its own digest, and that the target still has everything in it. Default target: the one it names
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lists", "image", "lock", "deep"])]
    pub(super) evidence: Option<PathBuf>,
    /// Of a registry: the images that these lists name; repeatable. Default: `lists` of the configuration
    #[arg(long = "list", value_name = "FILE")]
    pub(super) lists: Vec<String>,
    /// Of a registry: this image, as a list of one line; repeatable
    #[arg(long, value_name = "REF")]
    pub(super) image: Vec<String>,
    /// Go on where the lists hold no image: nothing is verified then. Without it, that is exit status 2
    #[arg(long, conflicts_with_all = ["evidence", "lock"])]
    pub(super) allow_empty: bool,
    /// Of a registry: the images that this lock names, each with the digest it says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lists", "image"])]
    pub(super) lock: Option<PathBuf>,
    /// Of a registry: read and hash every blob, instead of asking whether it is there
    #[arg(long)]
    pub(super) deep: bool,
    /// Requests in flight to the registry
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The layout's folder (or oci:DIR)
    #[arg(value_name = "LAYOUT")]
    pub(super) layout: String,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    pub(super) listen: String,
    /// Speak TLS: the certificate and its chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Answer for this registry's names as the target has them: containerd's ?ns=HOST, and HOST/... ; repeatable
    #[arg(long = "as", value_name = "HOST")]
    pub(super) known_as: Vec<String>,
    /// The repository of entries that have a tag and no repository, as skopeo, oras and regctl write them (HOST/PATH or PATH). Without it
    /// they are served under no name
    #[arg(long, value_name = "REPOSITORY")]
    pub(super) name: Option<String>,
    /// Connections at once at most; more are told to come back
    #[arg(long, value_name = "N", default_value_t = crate::serve::ServeBounds::default().connections, value_parser = connections)]
    pub(super) max_connections: usize,
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=65_536) => Ok(count),
        _ => Err("a number from 1 to 65536".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// Validate the rules; where the target is an Azure Container Registry, by its artifact cache's own semantics
    Check {
        /// Ask the target, too: whether it refuses pushes as a cache does; at Azure, whether repositories of warm rules exist there already
        #[arg(long)]
        online: bool,
    },
    /// Show how an image resolves
    Explain {
        /// The image, as a list would name it, or as the target knows it
        image: String,
    },
    /// Print the rules of another cache as larder.toml: az acr cache list, az acr credential-set list, aws ecr
    /// describe-pull-through-cache-rules, Harbor's projects and registries, all as JSON
    Import {
        /// Files with the JSON that these commands print; several of one system go together; - is standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<String>,
        /// Where the cache is, where the files do not say it: HOST[:PORT][/PREFIX]
        #[arg(long, value_name = "REGISTRY")]
        to: Option<String>,
    },
    /// Print the rules in another system's words, so that clusters use what was stocked
    Export {
        /// az and ecr: commands that make cache rules; containerd (hosts.toml), podman (registries.conf), k3s (registries.yaml),
        /// openshift (ImageDigestMirrorSet): files by which nodes pull from the target
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// Write files below this folder instead of printing them
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Clients are never sent to the upstream: what the target does not have is not pulled
        #[arg(long)]
        no_fallback: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportFormat {
    Az,
    Ecr,
    Containerd,
    Podman,
    K3s,
    Openshift,
}

#[derive(Debug, Subcommand)]
pub(super) enum ListCommand {
    /// Print the image references in Kubernetes YAML, Compose files, skopeo-sync and regsync YAML and Dockerfiles, as a list
    Scan {
        /// Files, or folders in which .yaml, .yml and Dockerfiles are read; - is standard input (helm template | larder list scan -)
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<String>,
        /// How the list is printed; csv can also say what chooses among several tags
        #[arg(long, value_enum, default_value_t = ListFormat::Text)]
        format: ListFormat,
    },
    /// Validate lists against the rules, asking nobody
    Check {
        /// Image lists: text, or CSV with a header; - is standard input. Default: `lists` of the configuration
        #[arg(value_name = "LIST")]
        lists: Vec<String>,
        /// One image, as a list of one line; repeatable
        #[arg(long, value_name = "REF")]
        image: Vec<String>,
        /// Where to, instead of the configuration's target: HOST[:PORT][/PREFIX] or oci:DIR
        #[arg(long, value_name = "TARGET")]
        to: Option<String>,
        /// What becomes of images that no rule covers. Default: fail; without a configuration file, mirror
        #[arg(long, value_enum, value_name = "fail|mirror")]
        unmatched: Option<UnmatchedArg>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    Text,
    Csv,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Validate the configuration, and read what a run would read: lists, certificates, secrets
    Check {
        /// Ask every registry too, as larder doctor does
        #[arg(long)]
        online: bool,
    },
    /// Print what is in effect, with secrets redacted
    Show,
}
