//! What one list costs at an upstream that counts pulls, night by night, with larder and with skopeo: `cargo bench --bench limits`.
//!
//! The upstream is the tests' own, with Docker Hub's headers and refusals; it counts. The list needs more pulls than one window has.
//! Each night is a new window, and each tool has an upstream and a target of its own. `skopeo sync --all` is what comes closest to
//! `larder sync`; it retries a refusal for a minute before it gives up, which is most of the time this takes.
//!
//! Before that: what it costs in CPU to write down every pull, where an upstream counts them.
#![allow(unreachable_pub, clippy::unwrap_used)]

// The other benches use the rest of it.
#[allow(dead_code)]
mod measure;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::Command;

use support::fake::{ANONYMOUS, Fake, Kind};
use support::limited::{LONG, limited, multis, pulled_twice, singles};
use support::program::Program;
use support::real::require;

/// Pulls per window.
const LIMIT: u32 = 30;
/// Images of one pull each, and of four: 48 pulls in all.
const IMAGES: (u64, u64) = (16, 8);
const NIGHTS: usize = 3;

/// One tool with an upstream and a target of its own.
struct Contest {
    upstream: Fake,
    target: Fake,
    program: Program,
    images: Vec<String>,
}

impl Contest {
    fn new() -> Self {
        let (upstream, target, program) = (limited(LIMIT, LONG), Fake::start(), Program::new());
        let images: Vec<String> = singles(&upstream, IMAGES.0).into_iter().chain(multis(&upstream, IMAGES.1)).collect();
        program.configure(&target, &[&upstream]);
        program.list(images.clone());
        Contest { upstream, target, program, images }
    }

    fn larder(&self) {
        let _ = self.program.sync_list();
    }

    fn skopeo(&self) {
        let mut repositories: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for image in &self.images {
            let (repository, tag) = image[self.upstream.addr().len() + 1..].rsplit_once(':').unwrap();
            repositories.entry(repository).or_default().push(tag);
        }
        let lines = repositories.iter().map(|(repository, tags)| format!("    {repository}: {tags:?}\n"));
        let yaml = format!("\"{}\":\n  tls-verify: false\n  images:\n{}", self.upstream.addr(), lines.collect::<String>());
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "sync", "--all", "--dest-tls-verify=false", "--src", "yaml", "--dest", "docker"]);
        command.arg(self.program.write("sync.yml", yaml)).arg(format!("{}/m", self.target.addr()));
        // That it fails when the window is spent is what is to be seen.
        let _ = command.output().unwrap();
    }

    /// One night: a window of its own.
    fn night(&self, number: usize, name: &str, run: fn(&Contest)) {
        let (pulls, refusals) = (self.upstream.pulls(ANONYMOUS), self.upstream.pull_refusals());
        let heads = self.upstream.count(Kind::ManifestHead);
        run(self);
        println!(
            "| {number} | {name} | {} | {} | {} | {} | {} of {} |",
            self.upstream.pulls(ANONYMOUS) - pulls,
            self.upstream.pull_refusals() - refusals,
            pulled_twice(&self.upstream).len(),
            self.upstream.count(Kind::ManifestHead) - heads,
            self.delivered(),
            self.images.len()
        );
        self.upstream.end_windows();
    }

    fn delivered(&self) -> usize {
        self.target.repositories().iter().map(|repository| self.target.tags(repository).len()).sum()
    }
}

/// Images of one small layer, whose pulls are written down one by one.
const SMALL: u64 = 800;
/// Runs of each kind, in turn.
const TURNS: usize = 5;

/// CPU seconds of `larder sync` of small images into a registry that has none of them.
fn cpu_of_small_images(upstream: &Fake) -> f64 {
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[upstream]);
    program.list(singles(upstream, SMALL));
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(["sync", "list.txt", "--state", "state"]).current_dir(program.path("."));
    let cost = measure::run(&mut command);
    assert_eq!(target.tags("m/app").len() as u64, SMALL);
    cost.cpu
}

/// What it costs to write down every pull: at most a twentieth more.
fn ledger() {
    println!("\n{SMALL} small images, CPU seconds of larder, {TURNS} runs each in turn\n");
    let (mut without, mut with): (Vec<f64>, Vec<f64>) =
        (0..TURNS).map(|_| (cpu_of_small_images(&Fake::start()), cpu_of_small_images(&limited(10_000, LONG)))).unzip();
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!("| upstream without headers | {without:?} |\n| upstream with headers | {with:?} |");
    let (without, with) = (median(&mut without), median(&mut with));
    println!("median {without:.2} s without, {with:.2} s with: {:+.1} %", (with / without - 1.0) * 100.0);
}

fn main() {
    if measure::asked().is_none() {
        return;
    }
    ledger();
    if !require("skopeo") {
        return;
    }
    measure::machine(&["skopeo"]);
    println!("\n{} images of {} manifests, {LIMIT} pulls per window, a window a night\n", IMAGES.0 + IMAGES.1, IMAGES.0 + 4 * IMAGES.1);
    println!("| night | | pulls spent | refused | manifests pulled more than once so far | HEADs | images at the target |");
    println!("|---|---|---|---|---|---|---|");
    let (larder, skopeo) = (Contest::new(), Contest::new());
    for number in 1..=NIGHTS {
        larder.night(number, "larder sync", Contest::larder);
        skopeo.night(number, "skopeo sync --all", Contest::skopeo);
    }
}
