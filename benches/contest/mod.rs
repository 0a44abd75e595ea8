//! One tool, one upstream, one fresh target: runs it, counts what was asked, and looks at what arrived.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::measure::{Cost, larder, run, times};
use super::stock::Stock;
use super::support::fake::{Fake, Options};
use super::support::push::Push;
use super::support::real::DockerRegistry;

/// How a stock is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Larder,
    SkopeoSync,
    SkopeoCopy,
    SkopeoCopyFour,
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Registry,
    Layout,
}

/// A registry.
pub enum End {
    /// Debian's, on loopback.
    Near(DockerRegistry),
    /// The tests' own, each of whose answers comes so much later.
    Far(Fake, Duration),
}

/// What was seen of one run.
pub struct Seen {
    pub cost: Cost,
    /// CPU seconds of the registries.
    pub served: f64,
    pub upstream: BTreeMap<String, usize>,
    pub target: BTreeMap<String, usize>,
}

impl End {
    pub fn addr(&self) -> String {
        match self {
            End::Near(registry) => registry.addr(),
            End::Far(fake, _) => fake.addr(),
        }
    }

    /// An empty one of the same kind.
    fn another(&self) -> End {
        match self {
            End::Near(_) => End::Near(DockerRegistry::start_counting().unwrap()),
            End::Far(_, latency) => End::Far(Fake::with(Options { latency: Some(*latency), ..Options::default() }), *latency),
        }
    }

    /// The methods of all requests so far.
    fn requests(&self) -> Vec<String> {
        match self {
            End::Near(registry) => registry.requests(),
            End::Far(fake, _) => fake.requests().into_iter().map(|request| request.method).collect(),
        }
    }

    /// CPU seconds so far.
    fn used(&self) -> f64 {
        match self {
            End::Near(registry) => times(&format!("/proc/{}/stat", registry.pid()), 13),
            End::Far(..) => 0.0,
        }
    }
}

impl Goal {
    pub fn name(self) -> &'static str {
        match self {
            Goal::Registry => "registry",
            Goal::Layout => "layout",
        }
    }
}

impl Tool {
    pub fn name(self) -> &'static str {
        match self {
            Tool::Larder => "larder sync",
            Tool::SkopeoSync => "skopeo sync",
            Tool::SkopeoCopy => "skopeo copy, one at a time",
            Tool::SkopeoCopyFour => "skopeo copy, four at once",
        }
    }
}

/// One tool with a fresh target.
pub struct Contest<'a> {
    upstream: &'a End,
    /// `None`: a layout in the folder.
    target: Option<End>,
    stock: &'a Stock,
    tool: Tool,
    folder: TempDir,
}

impl<'a> Contest<'a> {
    pub fn new(upstream: &'a End, stock: &'a Stock, into: Goal, tool: Tool) -> Self {
        let target = (into == Goal::Registry).then(|| upstream.another());
        let contest = Contest { upstream, target, stock, tool, folder: TempDir::new().unwrap() };
        let rule = format!("version = 1\n[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\n", upstream.addr());
        contest.write("larder.toml", &rule);
        contest
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
    pub fn run(&self) -> Seen {
        let mut command = self.command();
        let registries = || [Some(self.upstream), self.target.as_ref()].into_iter().flatten();
        let before: Vec<usize> = registries().map(|registry| registry.requests().len()).collect();
        let served: f64 = registries().map(End::used).sum();
        let cost = run(&mut command);
        let served = registries().map(End::used).sum::<f64>() - served;
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
        self.target.as_ref().map_or_else(|| format!("oci:{}", self.layout().display()), End::addr)
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
        let mut images: Vec<&String> = self.stock.images.iter().collect();
        // Tag by tag: two processes that write one repository at once make docker-registry answer 500, which ends skopeo.
        images.sort_by_key(|image| image.split_once(':').map(|(_, tag)| tag));
        let pairs = images.iter().map(|image| format!("docker://{from}/{image} {to}{image}\n"));
        let list = self.write("pairs.txt", &pairs.collect::<String>());
        let mut command = Command::new("xargs");
        command.arg("-a").arg(list).args(["-P", &at_once.to_string(), "-n", "2", "skopeo", "--insecure-policy", "copy", "--quiet"]);
        command.args(["--all", "--src-tls-verify=false", "--dest-tls-verify=false"]);
        command
    }

    /// Sees that everything arrived, to the byte.
    pub fn check(&self) {
        let Some(target) = &self.target else { return self.check_layout(&self.layout()) };
        let push = Push::to(target.addr());
        for (image, (media_type, bytes)) in self.stock.images.iter().zip(&self.stock.manifests) {
            let (repository, tag) = image.split_once(':').unwrap();
            let found = push.read(&format!("/v2/{repository}/manifests/{tag}"), media_type);
            assert!(found.as_ref() == Some(bytes), "{:?}: {image} did not arrive", self.tool);
        }
    }

    fn check_layout(&self, layout: &Path) {
        let verified = Command::new(env!("CARGO_BIN_EXE_larder")).arg("verify").arg(layout).output().unwrap();
        assert!(verified.status.success(), "{:?}: {}", self.tool, String::from_utf8_lossy(&verified.stdout));
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
