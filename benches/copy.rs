//! Whole-program copies beside skopeo, on real registries: Debian's docker-registry as upstream and as target, on loopback.
//!
//! `cargo bench --bench copy` runs everything; `cargo bench --bench copy -- small` one of the two stocks. Rounds are
//! interleaved, every cold run has a fresh target, what arrived is compared by digest, and only the ratios within one
//! run of this program say anything: the registries share the cores with what is measured.
//!
//! skopeo has no command that does exactly what `larder sync` does, so the fairest ones stand beside it:
//! - registry to registry: `skopeo sync --all` (one process, images one after another) and `skopeo copy --all`, a process
//!   for each image, four at once;
//! - into a layout: `skopeo copy --all`, a process for each image, one after another (two must not write one layout).
#![allow(unreachable_pub, clippy::unwrap_used)]

mod measure;
mod stock;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use measure::{Cost, MIB, larder, machine, run, used};
use stock::Stock;
use support::push::Push;
use support::real::{DockerRegistry, require};
use tempfile::TempDir;

/// Rounds, where `LARDER_BENCH_ROUNDS` says nothing. The middle one is shown.
const ROUNDS: usize = 5;

/// How a stock is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Larder,
    SkopeoSync,
    SkopeoCopy,
    SkopeoCopyFour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Registry,
    Layout,
}

/// What was seen of one run.
struct Seen {
    cost: Cost,
    /// CPU seconds of the two registries.
    served: f64,
    upstream: BTreeMap<String, usize>,
    target: BTreeMap<String, usize>,
}

const ROWS: [(Kind, &[Tool]); 2] = [
    (Kind::Registry, &[Tool::Larder, Tool::SkopeoSync, Tool::SkopeoCopyFour]),
    (Kind::Layout, &[Tool::Larder, Tool::SkopeoCopy]),
];

fn main() {
    let Some(words) = measure::asked() else { return };
    // Not `all`: every missing program is named.
    if [require("docker-registry"), require("skopeo")].contains(&false) {
        return;
    }
    machine(&["skopeo", "docker-registry"]);
    let rounds = std::env::var("LARDER_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    println!("rounds:  {rounds}, interleaved; medians (wall: least to most); peak RSS: the largest");
    for (name, make) in [("large", stock::large as fn(&Push) -> Stock), ("small", stock::small)] {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            compare(make, rounds);
        }
    }
}

/// Fills an upstream and copies it by every tool, `rounds` times.
fn compare(make: fn(&Push) -> Stock, rounds: usize) {
    let upstream = DockerRegistry::start_counting().unwrap();
    let stock = make(&Push::to(upstream.addr()));
    println!("\n## {}", stock.about);
    let mut rows: BTreeMap<(usize, bool, usize), Vec<Seen>> = BTreeMap::new();
    for _ in 0..rounds {
        for (at, (kind, tools)) in ROWS.iter().enumerate() {
            for (number, tool) in tools.iter().enumerate() {
                let bench = Bench::new(&upstream, &stock, *kind, *tool);
                rows.entry((at, false, number)).or_default().push(bench.run());
                bench.check();
                rows.entry((at, true, number)).or_default().push(bench.run());
            }
        }
    }
    for (at, (kind, tools)) in ROWS.iter().enumerate() {
        for quiet in [false, true] {
            let title = if quiet { "again, nothing changed" } else { "into an empty target" };
            let seen = |number: usize| rows.get(&(at, quiet, number)).unwrap();
            print(&format!("registry → {}, {title}", kind.name()), tools, &seen);
        }
    }
}

/// One tool, one fresh target.
struct Bench<'a> {
    upstream: &'a DockerRegistry,
    target: Option<DockerRegistry>,
    stock: &'a Stock,
    tool: Tool,
    folder: TempDir,
}

impl<'a> Bench<'a> {
    fn new(upstream: &'a DockerRegistry, stock: &'a Stock, kind: Kind, tool: Tool) -> Self {
        let target = (kind == Kind::Registry).then(|| DockerRegistry::start_counting().unwrap());
        let bench = Bench { upstream, target, stock, tool, folder: TempDir::new().unwrap() };
        let rule = format!("version = 1\n[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\n", upstream.addr());
        bench.write("larder.toml", &rule);
        bench
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn layout(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    /// Runs the tool once, and counts.
    fn run(&self) -> Seen {
        let mut command = self.command();
        let registries = || [Some(self.upstream), self.target.as_ref()].into_iter().flatten();
        let before: Vec<usize> = registries().map(|registry| registry.requests().len()).collect();
        let served: f64 = registries().map(|registry| used(registry.pid())).sum();
        let cost = run(&mut command);
        let served = registries().map(|registry| used(registry.pid())).sum::<f64>() - served;
        let mut counted = registries().zip(before).map(|(registry, before)| by_method(&registry.requests()[before..]));
        let upstream = counted.next().unwrap();
        Seen { cost, served, upstream, target: counted.next().unwrap_or_default() }
    }

    fn command(&self) -> Command {
        match self.tool {
            Tool::Larder => {
                let names: Vec<String> = self.stock.images.iter().map(|image| format!("{}/{image}\n", self.upstream.addr())).collect();
                larder(&self.write("images.txt", &names.concat()), &self.to(), self.folder.path())
            }
            Tool::SkopeoSync => self.skopeo_sync(),
            Tool::SkopeoCopy => self.skopeo_copies(1),
            Tool::SkopeoCopyFour => self.skopeo_copies(4),
        }
    }

    fn to(&self) -> String {
        self.target.as_ref().map_or_else(|| format!("oci:{}", self.layout().display()), DockerRegistry::addr)
    }

    fn skopeo_sync(&self) -> Command {
        let mut repositories: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (repository, tag) in self.stock.images.iter().filter_map(|image| image.split_once(':')) {
            repositories.entry(repository).or_default().push(tag);
        }
        let lines = repositories.iter().map(|(repository, tags)| format!("    {repository}: {tags:?}\n"));
        let yaml = format!("\"{}\":\n  tls-verify: false\n  images:\n{}", self.upstream.addr(), lines.collect::<String>());
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "sync", "--all", "--dest-tls-verify=false", "--src", "yaml", "--dest", "docker"]);
        command.arg(self.write("sync.yml", &yaml)).arg(self.to());
        command
    }

    fn skopeo_copies(&self, at_once: usize) -> Command {
        let from = self.upstream.addr();
        let to = if self.target.is_some() { format!("docker://{}/", self.to()) } else { format!("{}:", self.to()) };
        let pairs = self.stock.images.iter().map(|image| format!("docker://{from}/{image} {to}{image}\n"));
        let list = self.write("pairs.txt", &pairs.collect::<String>());
        let mut command = Command::new("xargs");
        command.arg("-a").arg(list).args(["-P", &at_once.to_string(), "-n", "2", "skopeo", "--insecure-policy", "copy", "--quiet"]);
        command.args(["--all", "--src-tls-verify=false", "--dest-tls-verify=false"]);
        command
    }

    /// Compares what arrived with what was to be copied.
    fn check(&self) {
        if let Some(target) = &self.target {
            let push = Push::to(target.addr());
            for (image, (media_type, bytes)) in self.stock.images.iter().zip(&self.stock.manifests) {
                let (repository, tag) = image.split_once(':').unwrap();
                let found = push.read(&format!("/v2/{repository}/manifests/{tag}"), media_type);
                assert!(found.as_ref() == Some(bytes), "{:?}: {image} did not arrive", self.tool);
            }
            return;
        }
        let verified = Command::new(env!("CARGO_BIN_EXE_larder")).arg("verify").arg(self.layout()).output().unwrap();
        assert!(verified.status.success(), "{:?}: {}", self.tool, String::from_utf8_lossy(&verified.stdout));
        self.check_names(&self.layout());
    }

    fn check_names(&self, layout: &Path) {
        let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let names: Vec<&str> = index["manifests"].as_array().unwrap().iter().filter_map(name_of).collect();
        for image in &self.stock.images {
            assert!(names.contains(&image.as_str()), "{:?}: {image} did not arrive", self.tool);
        }
    }
}

fn name_of(entry: &serde_json::Value) -> Option<&str> {
    entry["annotations"]["org.opencontainers.image.ref.name"].as_str()
}

fn by_method(requests: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    requests.iter().for_each(|method| *counts.entry(method.clone()).or_default() += 1);
    counts
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Registry => "registry",
            Kind::Layout => "layout",
        }
    }
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Larder => "larder sync",
            Tool::SkopeoSync => "skopeo sync",
            Tool::SkopeoCopy => "skopeo copy, one at a time",
            Tool::SkopeoCopyFour => "skopeo copy, four at once",
        }
    }
}

/// A table of one copy by all tools, and how often larder was asked less.
fn print<'a>(title: &str, tools: &[Tool], seen: &dyn Fn(usize) -> &'a Vec<Seen>) {
    println!("\n### {title}\n");
    println!("| | wall s | | CPU s | | peak RSS MiB | registries' CPU s | upstream requests | target requests |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let ours = (median(seen(0), |seen| seen.cost.wall), median(seen(0), |seen| seen.cost.cpu));
    for (number, tool) in tools.iter().enumerate() {
        let runs = seen(number);
        let walls: Vec<f64> = sorted(runs, |seen| seen.cost.wall);
        let (wall, cpu, served) = (middle(&walls), median(runs, |seen| seen.cost.cpu), median(runs, |seen| seen.served));
        let peak = runs.iter().map(|seen| seen.cost.peak).max().unwrap_or(0) as f64 / MIB;
        let (least, most) = (walls.first().unwrap(), walls.last().unwrap());
        let last = runs.last().unwrap();
        println!(
            "| {} | {wall:.2} ({least:.2}–{most:.2}) | {:.1}× | {cpu:.2} | {:.1}× | {peak:.0} | {served:.2} | {} | {} |",
            tool.name(),
            wall / ours.0,
            cpu / ours.1,
            methods(&last.upstream),
            methods(&last.target)
        );
    }
}

fn methods(counts: &BTreeMap<String, usize>) -> String {
    let sum: usize = counts.values().sum();
    let each: Vec<String> = counts.iter().map(|(method, count)| format!("{method} {count}")).collect();
    if sum == 0 { "0".to_owned() } else { format!("{sum} ({})", each.join(", ")) }
}

fn sorted(runs: &[Seen], of: impl Fn(&Seen) -> f64) -> Vec<f64> {
    let mut all: Vec<f64> = runs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn median(runs: &[Seen], of: impl Fn(&Seen) -> f64) -> f64 {
    middle(&sorted(runs, of))
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
