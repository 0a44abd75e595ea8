//! Memory does not grow with the blob: an image of one layer goes from a registry into a layout and into a registry, with
//! layers of 64 MiB, 256 MiB and 1 GiB.
//!
//! `cargo bench --bench memory` prints the largest resident size of the larder process; it fails if one image takes 64 MiB
//! or more, or if a larger blob takes more than a smaller one. Both registries are the tests' own, which generate the layer
//! and forget it again; Debian's docker-registry is a further target if it is installed.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod measure;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;

use larder::content::Descriptor;
use measure::{MIB, larder, machine, run};
use serde_json::json;
use support::corpus::{OCI_CONFIG, OCI_IMAGE, OCI_LAYER};
use support::fake::{Fake, Options};
use support::real::DockerRegistry;
use tempfile::TempDir;

const SIZES: [u64; 3] = [64 << 20, 256 << 20, 1 << 30];

/// What the program promises for one blob.
const MOST: u64 = 64 << 20;

/// Two runs of one size differ by a few MiB: how many pieces wait between two sockets is a matter of timing.
const NOISE: u64 = 8 << 20;

/// Images for the rows in which several blobs move at once, as many as larder transfers from one upstream by default.
const TOGETHER: u64 = 8;

fn main() -> ExitCode {
    if measure::asked().is_none() {
        return ExitCode::SUCCESS;
    }
    machine(&[]);
    println!("limit:   {} MiB for one blob, whatever its size\n", MOST >> 20);
    println!("| into | blobs | wall s | MB/s | CPU s | peak RSS |\n|---|---|---|---|---|---|");
    let upstream = Fake::start();
    let mut kept = true;
    for target in ["layout", "registry", "docker-registry"] {
        let peaks: Vec<u64> = SIZES.iter().filter_map(|size| copy(&upstream, target, 1, *size)).collect();
        let (smallest, largest) = (peaks.iter().min().copied().unwrap_or(0), peaks.iter().max().copied().unwrap_or(0));
        kept &= largest < MOST && largest - smallest <= NOISE;
        copy(&upstream, target, TOGETHER, 64 << 20);
    }
    println!("\n{}", if kept { "kept: under the limit, and no larger for larger blobs" } else { "BROKEN: over the limit, or growing" });
    ExitCode::from(u8::from(!kept))
}

/// Copies `count` images with one layer of `size` bytes each into a fresh target; the largest resident size. `None`: there
/// is no such target on this machine.
fn copy(upstream: &Fake, target: &str, count: u64, size: u64) -> Option<u64> {
    let folder = TempDir::new().unwrap();
    let list = folder.path().join("images.txt");
    let names: Vec<String> = (0..count).map(|number| put(upstream, number, size)).collect();
    std::fs::write(&list, names.join("\n")).unwrap();
    write_rule(folder.path(), upstream);
    let fake = Fake::with(Options { keep_uploads: false, ..Options::default() });
    let real = if target == "docker-registry" { Some(DockerRegistry::start()?) } else { None };
    let to = match (target, &real) {
        ("layout", _) => format!("oci:{}", folder.path().join("layout").display()),
        (_, Some(real)) => real.addr(),
        _ => fake.addr(),
    };
    let cost = run(&mut larder(&list, &to, folder.path()));
    let bytes = (count * size) as f64;
    let (wall, cpu, peak) = (cost.wall, cost.cpu, cost.peak as f64 / MIB);
    println!("| {target} | {count} × {} MiB | {wall:.2} | {:.0} | {cpu:.2} | {peak:.1} MiB |", size >> 20, bytes / wall / 1e6);
    Some(cost.peak)
}

/// Puts an image with one generated layer; its name.
fn put(upstream: &Fake, number: u64, size: u64) -> String {
    let repository = format!("blob-{number}-{size}");
    let config = upstream.put_blob(&repository, b"{}".as_slice());
    let layer = upstream.put_fill(&repository, number + 1, size);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "config": Descriptor::new(OCI_CONFIG, config, 2),
        "layers": [Descriptor::new(OCI_LAYER, layer, size)],
    });
    upstream.put_manifest(&repository, Some("v1"), OCI_IMAGE, manifest.to_string());
    upstream.image(&format!("{repository}:v1"))
}

fn write_rule(folder: &Path, upstream: &Fake) {
    let rule = format!("version = 1\n[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\n", upstream.addr());
    std::fs::write(folder.join("larder.toml"), rule).unwrap();
}
