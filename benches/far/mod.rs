//! The far side: what was packed is put into an empty registry, or an empty layout, by larder out of its bundle, by skopeo out of an
//! archive for each image.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::measure::{Cost, MIB, run};
use super::stock::Stock;
use super::support::push::Push;
use super::support::real::DockerRegistry;

/// A way to read archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    LarderRegistry,
    SkopeoRegistry,
    LarderLayout,
    SkopeoLayout,
}

const WAYS: [Way; 4] = [Way::LarderRegistry, Way::SkopeoRegistry, Way::LarderLayout, Way::SkopeoLayout];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::LarderRegistry => "larder import, into a registry",
            Way::SkopeoRegistry => "skopeo copy from oci-archive, into a registry",
            Way::LarderLayout => "larder import, into a layout",
            Way::SkopeoLayout => "skopeo copy from oci-archive, into a layout",
        }
    }
    fn is_larder(self) -> bool {
        matches!(self, Way::LarderRegistry | Way::LarderLayout)
    }
    fn into_registry(self) -> bool {
        matches!(self, Way::LarderRegistry | Way::SkopeoRegistry)
    }
}

/// What was seen of one run.
struct Seen {
    cost: Cost,
    /// Bytes on their way to disks; of a registry only what the tool itself writes.
    written: u64,
}

/// Packs `stock` once with each tool, then measures every way of putting it somewhere.
pub fn compare(upstream: &str, stock: &Stock, rounds: usize) {
    let carried = Carried::new(upstream, stock);
    let mut seen: Vec<Vec<Seen>> = WAYS.iter().map(|_| vec![]).collect();
    for _ in 0..rounds {
        for (way, seen) in WAYS.iter().zip(&mut seen) {
            seen.push(carried.run(*way));
        }
    }
    println!("\n| | wall s | MB/s | CPU s | peak RSS MiB | carried MB | written per byte carried |\n|---|---|---|---|---|---|---|");
    for (way, mut runs) in WAYS.iter().zip(seen) {
        runs.sort_by(|a, b| a.cost.wall.total_cmp(&b.cost.wall));
        let (middle, peak) = (&runs[runs.len() / 2], runs.iter().map(|seen| seen.cost.peak).max().unwrap_or(0) as f64 / MIB);
        let (wall, length) = (middle.cost.wall, carried.length(*way) as f64);
        println!(
            "| {} | {wall:.2} ({:.2}–{:.2}) | {:.0} | {:.2} | {peak:.0} | {:.0} | {:.2} |",
            way.name(),
            runs[0].cost.wall,
            runs[runs.len() - 1].cost.wall,
            length / 1e6 / wall,
            middle.cost.cpu,
            length / 1e6,
            middle.written as f64 / length
        );
    }
}

/// What was packed.
struct Carried<'a> {
    folder: TempDir,
    stock: &'a Stock,
}

impl<'a> Carried<'a> {
    fn new(upstream: &str, stock: &'a Stock) -> Self {
        let carried = Carried { folder: TempDir::new().unwrap(), stock };
        let rule = format!("version = 1\n[[rule]]\nname = \"all\"\nsource = \"{upstream}/*\"\ntarget = \"*\"\n");
        std::fs::write(carried.path("larder.toml"), rule).unwrap();
        let images = stock.images.iter().map(|image| format!("{upstream}/{image}\n"));
        std::fs::write(carried.path("images.txt"), images.collect::<String>()).unwrap();
        let mut export = carried.larder();
        run(export.args(["export", "--quiet", "--state", "state", "--cache", "cache", "images.txt", "--name", "b", "--to", "bundle"]));
        std::fs::remove_dir_all(carried.path("cache")).unwrap();
        std::fs::create_dir(carried.path("archives")).unwrap();
        let archive = |(number, image): (usize, &String)| {
            (format!("docker://{upstream}/{image}"), format!("oci-archive:archives/{number}.tar:{image}"))
        };
        run(&mut carried.skopeo(stock.images.iter().enumerate().map(archive)));
        carried
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn larder(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.current_dir(self.folder.path());
        command
    }

    /// One skopeo after the other.
    fn skopeo(&self, pairs: impl Iterator<Item = (String, String)>) -> Command {
        let list = self.path("pairs.txt");
        std::fs::write(&list, pairs.map(|(from, to)| format!("{from} {to}\n")).collect::<String>()).unwrap();
        let mut command = Command::new("xargs");
        command.current_dir(self.folder.path()).arg("-a").arg(list);
        command.args([
            "-n",
            "2",
            "skopeo",
            "--insecure-policy",
            "copy",
            "--quiet",
            "--all",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ]);
        command
    }

    fn length(&self, way: Way) -> u64 {
        let folder = self.path(if way.is_larder() { "bundle" } else { "archives" });
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    fn run(&self, way: Way) -> Seen {
        let registry = way.into_registry().then(|| DockerRegistry::start().unwrap());
        let state = self.path("far-state");
        let layout = self.path("layout");
        let target = registry.as_ref().map_or_else(|| "oci:layout".to_owned(), DockerRegistry::addr);
        let mut command = match way {
            Way::LarderRegistry | Way::LarderLayout => {
                let mut command = self.larder();
                command.args(["import", "--quiet", "--state", "far-state", "bundle", "--to", &target]);
                command
            }
            Way::SkopeoRegistry => self.skopeo(self.pairs(|image| format!("docker://{target}/{image}"))),
            Way::SkopeoLayout => self.skopeo(self.pairs(|image| format!("oci:layout:{image}"))),
        };
        let before = super::written();
        let cost = run(&mut command);
        let written = super::written() - before;
        match &registry {
            Some(registry) => self.check(registry),
            None => self.check_layout(&layout),
        }
        let _ = std::fs::remove_dir_all(layout);
        let _ = std::fs::remove_dir_all(state);
        Seen { cost, written }
    }

    fn pairs(&self, to: impl Fn(&str) -> String) -> impl Iterator<Item = (String, String)> {
        self.stock.images.iter().enumerate().map(move |(number, image)| (format!("oci-archive:archives/{number}.tar:{image}"), to(image)))
    }

    /// Sees that every image is there, byte for byte.
    fn check(&self, registry: &DockerRegistry) {
        let push = Push::to(registry.addr());
        for (image, (media_type, bytes)) in self.stock.images.iter().zip(&self.stock.manifests) {
            let (repository, tag) = image.rsplit_once(':').unwrap();
            assert_eq!(push.read(&format!("/v2/{repository}/manifests/{tag}"), media_type).as_ref(), Some(bytes), "{image}");
        }
    }

    fn check_layout(&self, layout: &Path) {
        let verified = self.larder().arg("verify").arg(layout).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && said.contains(&format!("{} names", self.stock.images.len())), "{said}");
    }
}
