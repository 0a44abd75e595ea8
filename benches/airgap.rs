//! Across the air gap beside skopeo, on the same content.
//!
//! `cargo bench --bench airgap` runs everything; `cargo bench --bench airgap -- small` one stock.
//! - *from a registry*: `larder export` with an empty cache beside `skopeo copy --all` to `oci-archive:`, an archive for each image,
//!   because skopeo writes no second image into one;
//! - *from disk*: the same again with everything at hand: larder's cache, and for skopeo that layout;
//! - *into a registry*, *into a layout*: `larder import` of that bundle, beside `skopeo copy --all` of each archive ([`far`]).
//!
//! Rounds are interleaved, every run has a fresh folder, and every archive is checked. *Written per byte carried* is what the kernel
//! counts as written to disks, over the length of the archives: copying first and packing then is twice, and so is skopeo, which
//! assembles a folder and then makes a tar of it.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod far;
// The other benches use the rest of these two.
#[allow(dead_code)]
mod measure;
#[allow(dead_code)]
mod stock;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use measure::{Cost, MIB, machine, run};
use stock::Stock;
use support::push::Push;
use support::real::{DockerRegistry, require};
use tempfile::TempDir;

/// Rounds, where `LARDER_BENCH_ROUNDS` says nothing. The middle one is shown.
const ROUNDS: usize = 3;

/// A way to write archives.
#[derive(Debug, Clone, Copy)]
enum Way {
    LarderCold,
    SkopeoRegistry,
    LarderWarm,
    SkopeoLayout,
}

const WAYS: [Way; 4] = [Way::LarderCold, Way::SkopeoRegistry, Way::LarderWarm, Way::SkopeoLayout];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::LarderCold => "larder export, from a registry",
            Way::SkopeoRegistry => "skopeo copy to oci-archive, from a registry",
            Way::LarderWarm => "larder export, from disk",
            Way::SkopeoLayout => "skopeo copy to oci-archive, from disk",
        }
    }
}

/// What was seen of one run.
struct Seen {
    cost: Cost,
    /// Bytes on their way to disks.
    written: u64,
    /// The length of all archives.
    carried: u64,
}

fn main() {
    let Some(words) = measure::asked() else { return };
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    if [require("docker-registry"), require("skopeo")].contains(&false) {
        return;
    }
    machine(&["skopeo", "docker-registry"]);
    let rounds = std::env::var("LARDER_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    println!("rounds:  {rounds}, interleaved; medians (least–most); peak RSS: the largest");
    for (name, make) in [("large", stock::large as fn(&Push) -> Stock), ("small", stock::small)] {
        if chosen(name) {
            let upstream = DockerRegistry::start().unwrap();
            let stock = make(&Push::to(upstream.addr()));
            println!("\n## {}\n", stock.about);
            compare(&upstream.addr(), &stock, rounds);
            far::compare(&upstream.addr(), &stock, rounds);
        }
    }
}

fn compare(upstream: &str, stock: &Stock, rounds: usize) {
    let mut seen: Vec<Vec<Seen>> = WAYS.iter().map(|_| vec![]).collect();
    for _ in 0..rounds {
        // The cache that the cold run has filled is what is packed from disk.
        let room = Room::new(upstream, stock);
        for (way, seen) in WAYS.iter().zip(&mut seen) {
            seen.push(room.run(*way));
        }
    }
    println!("| | wall s | MB/s | CPU s | peak RSS MiB | carried MB | written per byte carried |\n|---|---|---|---|---|---|---|");
    for (way, mut runs) in WAYS.iter().zip(seen) {
        runs.sort_by(|a, b| a.cost.wall.total_cmp(&b.cost.wall));
        let (middle, peak) = (&runs[runs.len() / 2], runs.iter().map(|seen| seen.cost.peak).max().unwrap_or(0) as f64 / MIB);
        let (wall, carried) = (middle.cost.wall, middle.carried as f64);
        println!(
            "| {} | {wall:.2} ({:.2}–{:.2}) | {:.0} | {:.2} | {peak:.0} | {:.0} | {:.2} |",
            way.name(),
            runs[0].cost.wall,
            runs[runs.len() - 1].cost.wall,
            carried / 1e6 / wall,
            middle.cost.cpu,
            carried / 1e6,
            middle.written as f64 / carried
        );
    }
}

/// A folder with a cache, and one stock's archives beside it.
struct Room<'a> {
    folder: TempDir,
    upstream: &'a str,
    stock: &'a Stock,
}

impl<'a> Room<'a> {
    fn new(upstream: &'a str, stock: &'a Stock) -> Self {
        let folder = TempDir::new().unwrap();
        let rule = format!("version = 1\n[[rule]]\nname = \"all\"\nsource = \"{upstream}/*\"\ntarget = \"*\"\n");
        std::fs::write(folder.path().join("larder.toml"), rule).unwrap();
        let images = stock.images.iter().map(|image| format!("{upstream}/{image}\n"));
        std::fs::write(folder.path().join("images.txt"), images.collect::<String>()).unwrap();
        Room { folder, upstream, stock }
    }

    fn run(&self, way: Way) -> Seen {
        let out = self.folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let mut command = match way {
            Way::LarderCold | Way::LarderWarm => self.larder(&out),
            Way::SkopeoRegistry => self.skopeo(&out, |image| format!("docker://{}/{image}", self.upstream)),
            Way::SkopeoLayout => self.skopeo(&out, |image| format!("oci:{}:{image}", self.cache().display())),
        };
        let before = written();
        let cost = run(&mut command);
        let written = written() - before;
        let carried = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        self.check(way, &out);
        std::fs::remove_dir_all(&out).unwrap();
        Seen { cost, written, carried }
    }

    fn cache(&self) -> std::path::PathBuf {
        self.folder.path().join("cache")
    }

    fn larder(&self, out: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command
            .current_dir(self.folder.path())
            .args(["export", "--quiet", "--state", "state", "--cache", "cache", "images.txt", "--to"])
            .arg(out);
        command
    }

    fn skopeo(&self, out: &Path, from: impl Fn(&str) -> String) -> Command {
        let pair = |(number, image): (usize, &String)| format!("{} oci-archive:{}/{number}.tar:{image}\n", from(image), out.display());
        let pairs: String = self.stock.images.iter().enumerate().map(pair).collect();
        let list = self.folder.path().join("pairs.txt");
        std::fs::write(&list, pairs).unwrap();
        let mut command = Command::new("xargs");
        command.arg("-a").arg(list).args(["-n", "2", "skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false"]);
        command
    }

    /// Sees that everything is there: of larder's bundle by hashing it all, of skopeo's archives that there is one for each image.
    fn check(&self, way: Way, out: &Path) {
        match way {
            Way::LarderCold | Way::LarderWarm => {
                let verified = Command::new(env!("CARGO_BIN_EXE_larder")).arg("verify").arg(out).output().unwrap();
                let said = String::from_utf8_lossy(&verified.stderr);
                assert!(verified.status.success() && said.contains(&format!(" {} images,", self.stock.images.len())), "{said}");
            }
            Way::SkopeoRegistry | Way::SkopeoLayout => {
                assert_eq!(std::fs::read_dir(out).unwrap().count(), self.stock.images.len());
            }
        }
    }
}

/// Bytes that this process's ended children have sent on their way to disks, as proc(5) counts `write_bytes`.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}
