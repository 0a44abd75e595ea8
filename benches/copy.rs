//! Whole-program copies beside skopeo, on the same registries.
//!
//! `cargo bench --bench copy` runs everything; `cargo bench --bench copy -- small` one part:
//! - `large`, `small`: two stocks, between Debian's docker-registries on loopback. They share the cores with what is measured,
//!   so only the ratios within one run of this program say anything.
//! - `far`: a part of `small` between registries whose every answer comes 30 ms late, as over a network; loopback hides who
//!   waits for one answer before he asks the next question. Those are the tests' own registries.
//!
//! Rounds are interleaved, every cold run has a fresh target, and what arrived is compared with what was to be copied.
//! skopeo has no command that does exactly what `larder sync` does, so the fairest ones stand beside it:
//! - registry to registry: `skopeo sync --all` (one process, images one after another) and `skopeo copy --all`, a process
//!   for each image, four at once;
//! - into a layout: `skopeo copy --all`, a process for each image, one after another (two must not write one layout).
#![allow(unreachable_pub, clippy::unwrap_used)]

mod contest;
mod measure;
mod stock;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use contest::{Contest, End, Goal, Seen, Tool};
use measure::{MIB, machine};
use stock::Stock;
use support::fake::Fake;
use support::push::Push;
use support::real::{DockerRegistry, require};

/// Rounds, where `LARDER_BENCH_ROUNDS` says nothing. The middle one is shown.
const ROUNDS: usize = 3;

/// A round trip within a continent.
const LATENCY: Duration = Duration::from_millis(30);

const ROWS: [(Goal, &[Tool]); 2] =
    [(Goal::Registry, &[Tool::Larder, Tool::SkopeoSync, Tool::SkopeoCopyFour]), (Goal::Layout, &[Tool::Larder, Tool::SkopeoCopy])];

fn main() {
    let Some(words) = measure::asked() else { return };
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    // Both are asked for, so that every missing program is named.
    if [require("docker-registry"), require("skopeo")].contains(&false) {
        return;
    }
    machine(&["skopeo", "docker-registry"]);
    let rounds = std::env::var("LARDER_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    println!("rounds:  {rounds}, interleaved; medians (least–most); peak RSS: the largest");
    for (name, make) in [("large", stock::large as fn(&Push) -> Stock), ("small", stock::small)] {
        if chosen(name) {
            let upstream = DockerRegistry::start_counting().unwrap();
            let stock = make(&Push::to(upstream.addr()));
            compare(&End::Near(upstream), &stock, rounds);
        }
    }
    if chosen("far") {
        let upstream = Fake::start();
        let mut stock = stock::small(&Push::to(upstream.addr()));
        stock.keep_first_tags();
        stock.about += &format!(", every answer {} ms late", LATENCY.as_millis());
        upstream.configure(|options| options.latency = Some(LATENCY));
        // Waiting is not noisy, and takes minutes.
        compare(&End::Far(upstream, LATENCY), &stock, 1);
    }
}

/// Copies the stock by every tool, `rounds` times, and again when nothing has changed.
fn compare(upstream: &End, stock: &Stock, rounds: usize) {
    println!("\n## {}", stock.about);
    let mut seen: BTreeMap<(usize, bool, usize), Vec<Seen>> = BTreeMap::new();
    for _ in 0..rounds {
        for (row, (into, tools)) in ROWS.iter().enumerate() {
            for (number, tool) in tools.iter().enumerate() {
                let contest = Contest::new(upstream, stock, *into, *tool);
                seen.entry((row, false, number)).or_default().push(contest.run());
                contest.check();
                seen.entry((row, true, number)).or_default().push(contest.run());
            }
        }
    }
    for (row, (into, tools)) in ROWS.iter().enumerate() {
        for quiet in [false, true] {
            let what = if quiet { "again, nothing changed" } else { "into an empty one" };
            println!("\n### registry → {}, {what}\n", into.name());
            let runs: Vec<&[Seen]> = (0..tools.len()).map(|number| seen[&(row, quiet, number)].as_slice()).collect();
            print(tools, &runs);
        }
    }
}

/// A table of one copy by all tools; `×` is how many times larder's.
fn print(tools: &[Tool], runs: &[&[Seen]]) {
    println!("| | wall s | × | CPU s | × | peak RSS MiB | registries' CPU s | upstream requests | target requests |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let ours = (median(runs[0], |seen| seen.cost.wall), median(runs[0], |seen| seen.cost.cpu));
    for (tool, runs) in tools.iter().zip(runs) {
        let walls: Vec<f64> = sorted(runs, |seen| seen.cost.wall);
        let (wall, cpu, served) = (middle(&walls), median(runs, |seen| seen.cost.cpu), median(runs, |seen| seen.served));
        let peak = runs.iter().map(|seen| seen.cost.peak).max().unwrap_or(0) as f64 / MIB;
        // The tests' own registries run in this process: what they use is not told apart.
        let served = if served > 0.0 { format!("{served:.2}") } else { "–".to_owned() };
        let (least, most, last) = (walls[0], walls[walls.len() - 1], &runs[runs.len() - 1]);
        println!(
            "| {} | {wall:.2} ({least:.2}–{most:.2}) | {:.1} | {cpu:.2} | {:.1} | {peak:.0} | {served} | {} | {} |",
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
