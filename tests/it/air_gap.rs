//! The whole way: two registries that share nothing but what is carried between them; an import that is killed; and other tools on the
//! same files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::corpus::{self, ImageSpec, image};
use crate::support::fake::Fake;
use crate::support::layer;
use crate::support::program::{Program, Run};
use crate::support::push::Push;
use crate::support::real::{self, DockerRegistry};
use larder::content::{Descriptor, Digest};
use serde_json::Value;

/// Images of the three months, of which each month changes a tenth.
const IMAGES: u64 = 20;
/// Large enough for one per cent of two of them to be more than what describes all images.
const LAYER: usize = 5_000_000;

/// One side of the gap: a registry, and a folder where larder runs.
struct Side {
    registry: DockerRegistry,
    program: Program,
}

impl Side {
    fn new() -> Option<Self> {
        let registry = DockerRegistry::start()?;
        let program = Program::new();
        Some(Side { registry, program })
    }

    /// What it answers for a path; `None` if it does not have it.
    fn read(&self, path: &str) -> Option<bytes::Bytes> {
        Push::to(self.registry.addr()).read(path, &[corpus::OCI_IMAGE, corpus::OCI_INDEX].join(", "))
    }
}

fn name(n: u64) -> String {
    format!("team-{}/app-{n}", n % 3)
}

/// Builds image `n` as it is in `month`: a base that all share, and a layer of its own. Gives the sizes of what is new.
fn build(near: &Side, n: u64, month: u64) -> u64 {
    let push = Push::to(near.registry.addr());
    let own = layer::layer(1000 * month + n, LAYER);
    let spec = ImageSpec::new([layer::layer(1, LAYER), own.clone()]);
    let manifest = image(&push, &name(n), Some("current"), &spec);
    let manifest: Value = serde_json::from_slice(&near.read(&format!("/v2/{}/manifests/{}", name(n), manifest.digest)).unwrap()).unwrap();
    own.len() as u64 + manifest["config"]["size"].as_u64().unwrap()
}

/// Sees that the far side has what the near side has, byte for byte.
#[track_caller]
fn equal(near: &Side, far: &Side) {
    for n in 0..IMAGES {
        let path = format!("/v2/{}/manifests/current", name(n));
        let manifest = near.read(&path).unwrap();
        assert_eq!(far.read(&path).as_ref(), Some(&manifest), "{path}");
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layers: Vec<Descriptor> = serde_json::from_value(manifest["layers"].clone()).unwrap();
        let config: Descriptor = serde_json::from_value(manifest["config"].clone()).unwrap();
        for blob in layers.iter().chain([&config]) {
            let bytes = far.read(&format!("/v2/{}/blobs/{}", name(n), blob.digest)).unwrap();
            assert_eq!(Digest::sha256(&bytes), blob.digest);
        }
    }
}

/// The bytes of all manifests.
fn manifests(near: &Side) -> u64 {
    (0..IMAGES).map(|n| near.read(&format!("/v2/{}/manifests/current", name(n))).unwrap().len() as u64).sum()
}

fn length(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn export(near: &Side, month: &str, more: &[&str]) -> PathBuf {
    near.program.run(&[&["export", "--to", month, "--name", month, "--volume-size", "6MB"], more].concat()).exits(0);
    near.program.path(month)
}

/// Carries all files of `from`, but for some volumes, to a new folder on the far side.
fn carry(from: &Path, far: &Side, name: &str, without: &[&str]) -> PathBuf {
    let to = far.program.path(name);
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if !without.contains(&entry.file_name().to_str().unwrap()) {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    to
}

fn import(far: &Side, what: &[&str]) -> Run {
    far.program.run(&[&["import", "--report", "report.json"], what].concat())
}

/// What may be carried: one per cent more than what is new.
#[track_caller]
fn within_one_per_cent(carried: u64, new: u64) {
    assert!(carried >= new && carried <= new + new / 100, "{carried} bytes carried for {new} new ones");
}

#[test]
fn three_months_across_the_gap() {
    let (Some(near), Some(far)) = (Side::new(), Side::new()) else { return };
    let rule = |target: &Side, source: &Side| {
        format!(
            "version = 1\nlists = [\"list.txt\"]\n[target]\nregistry = \"{}\"\n[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\n",
            target.registry.addr(),
            source.registry.addr()
        )
    };
    near.program.write("larder.toml", rule(&near, &near));
    // The far side knows of no other registry.
    far.program.write("larder.toml", format!("version = 1\n[target]\nregistry = \"{}\"\n", far.registry.addr()));
    near.program.list((0..IMAGES).map(|n| format!("{}/{}:current", near.registry.addr(), name(n))));

    // Month 1: everything.
    let shared = layer::layer(1, LAYER).len() as u64;
    let new = shared + (0..IMAGES).map(|n| build(&near, n, 1)).sum::<u64>();
    let jan = carry(&export(&near, "jan", &[]), &far, "jan", &[]);
    within_one_per_cent(length(&jan), new + manifests(&near));
    let run = import(&far, &["jan"]).exits(0);
    assert_eq!(run.with_status("copied").len() as u64, IMAGES);
    equal(&near, &far);

    // What the far side holds goes back: a few kilobytes.
    let inventory = far.program.output(&["inventory", "-z"]).stdout;
    assert!(inventory.len() < 10_000, "{}", inventory.len());
    near.program.write("far.zst", inventory);

    // Month 2: a tenth has changed. One volume is lost on the way, another is damaged.
    let new = (0..IMAGES / 10).map(|n| build(&near, n, 2)).sum::<u64>();
    let feb = export(&near, "feb", &["--base", "far.zst"]);
    within_one_per_cent(length(&feb), new + manifests(&near));
    let mut volumes: Vec<String> = fs::read_dir(&feb).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    volumes.retain(|name| name.ends_with(".tar"));
    volumes.sort();
    assert_eq!(volumes, ["feb-0001.tar", "feb-0002.tar"]);
    carry(&feb, &far, "feb", &["feb-0002.tar"]);
    let damaged = far.program.path("feb/feb-0001.tar");
    let mut bytes = fs::read(&damaged).unwrap();
    let at = bytes.len() - 1_000_000;
    bytes[at] ^= 1;
    fs::write(&damaged, bytes).unwrap();

    // Month 3: another tenth, on top of what is on its way.
    let new = (2..2 + IMAGES / 10).map(|n| build(&near, n, 3)).sum::<u64>();
    let mar = carry(&export(&near, "mar", &["--base", "far.zst", "--base", "feb/feb.bundle.json"]), &far, "mar", &[]);
    within_one_per_cent(length(&mar), new + manifests(&near));
    let run = import(&far, &["feb", "mar"]).exits(1);
    // The two of month 3 and all that did not change are there; the two of month 2 are not.
    assert_eq!((run.with_status("copied").len(), run.with_status("current").len()), (2, 16), "{}", run.stderr);
    let named = named_volumes(&run);
    assert_eq!(named, BTreeSet::from([("feb".to_owned(), 1), ("feb".to_owned(), 2)]), "{}", run.stderr);

    // Exactly the volumes that were named are written again.
    for (bundle, number) in &named {
        let record = format!("{bundle}/{bundle}.bundle.json");
        near.program.run(&["export", "--repair", &record, "--volume", &number.to_string(), "--to", "again"]).exits(0);
    }
    let again = carry(&near.program.path("again"), &far, "again", &[]);
    let whole = volumes.iter().all(|name| fs::read(again.join(name)).unwrap() == fs::read(feb.join(name)).unwrap());
    assert!(whole, "the same bytes");
    let run = import(&far, &["again", "mar", "--evidence", "evidence.csv"]).exits(0);
    assert_eq!(run.with_status("copied").len(), 2, "{}", run.stderr);
    equal(&near, &far);
    far.program.run(&["verify", "--evidence", "evidence.csv"]).exits(0);
    let kept: Vec<PathBuf> =
        fs::read_dir(far.program.path("home/state/larder/import")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept, [far.program.path("home/state/larder/import/journal.jsonl")], "nothing is kept that nobody waits for");
}

/// The volumes that an import says must be written or carried again.
fn named_volumes(run: &Run) -> BTreeSet<(String, u32)> {
    let mut named = BTreeSet::new();
    for line in run.stderr.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        for words in words.windows(4) {
            if let ["volume", number, "of", bundle] = words
                && let Ok(number) = number.parse()
            {
                named.insert(((*bundle).to_owned(), number));
            }
        }
    }
    named
}

/// Moments at which an import is killed, of a layout and of a registry.
const MOMENTS: u64 = 25;

/// A bundle of many images in one volume: `BLOBS` layers.
struct Killed {
    program: Program,
    near: Fake,
    /// Where each blob's bytes are in the volume.
    members: BTreeMap<Digest, (u64, u64)>,
}

/// Layers of the bundle whose import is killed.
const BLOBS: u64 = 120;
const BLOB: usize = 150_000;

impl Killed {
    fn new(far: &Fake) -> Self {
        let (near, program) = (Fake::start(), Program::new());
        program.write(
            "larder.toml",
            format!(
                "version = 1\n[target]\nregistry = \"{}\"\n[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\n",
                far.addr(),
                near.addr()
            ),
        );
        for n in 0..BLOBS / 4 {
            image(&near, &format!("app-{n}"), Some("1"), &ImageSpec::new((0..4).map(|k| layer::noise(100 + n * 4 + k, BLOB).into())));
        }
        program.list((0..BLOBS / 4).map(|n| near.image(&format!("app-{n}:1"))));
        program.run(&["export", "list.txt", "--to", "out", "--name", "b"]).exits(0);
        let mut members = BTreeMap::new();
        let mut volume = tar::Archive::new(fs::File::open(program.path("out/b-0001.tar")).unwrap());
        for entry in volume.entries_with_seek().unwrap().map(Result::unwrap) {
            let path = entry.path().unwrap().display().to_string();
            if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                members.insert(Digest::parse(&format!("sha256:{hex}")).unwrap(), (entry.raw_file_position(), entry.size()));
            }
        }
        Killed { program, near, members }
    }

    fn layers(&self) -> impl Iterator<Item = (&Digest, &(u64, u64))> {
        self.members.iter().filter(|(_, (_, size))| *size == BLOB as u64)
    }

    /// Overwrites the first `len` bytes of a blob in the volume: who reads them again will notice.
    fn spoil(&self, digest: &Digest, len: u64) {
        use std::os::unix::fs::FileExt as _;
        let file = fs::File::options().write(true).open(self.program.path("out/b-0001.tar")).unwrap();
        file.write_all_at(&vec![0xee; usize::try_from(len).unwrap()], self.members[digest].0).unwrap();
    }

    fn import<'a>(more: &'a [&'a str]) -> Vec<&'a str> {
        [&["import", "out", "--report", "report.json"], more].concat()
    }

    /// Starts an import, and kills it once `reached` says so; whether it was still running then.
    fn kill(&self, more: &[&str], mut reached: impl FnMut() -> bool) -> bool {
        let mut run = self.program.start(&Self::import(more));
        let until = Instant::now() + crate::support::room::PATIENCE;
        while run.is_running() && !reached() {
            assert!(Instant::now() < until, "it does not get on: {}", self.program.read("said.txt"));
            std::thread::sleep(crate::support::room::GLANCE);
        }
        let running = run.is_running();
        run.kill();
        running
    }
}

#[test]
fn an_import_into_a_layout_survives_kills_and_reads_nothing_again() {
    let far = Fake::start();
    let killed = Killed::new(&far);
    let blobs = killed.program.path("store/blobs/sha256");
    let partial = killed.program.path("store/.larder/partial");
    let held = |folder: &Path| -> u64 {
        fs::read_dir(folder).map(|entries| entries.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()).unwrap_or(0)
    };
    let total: u64 = killed.members.values().map(|(_, size)| size).sum();
    let mut kills = 0;
    for moment in 1..=MOMENTS {
        let had = held(&blobs);
        let share = (total - had) / (MOMENTS + 1 - moment) / 2;
        kills += u64::from(killed.kill(&["--to", "oci:store", "--concurrency", "1"], || held(&blobs) + held(&partial) > had + share));
        let index: Value = serde_json::from_slice(&fs::read(killed.program.path("store/index.json")).unwrap()).unwrap();
        for entry in index["manifests"].as_array().unwrap() {
            let manifest = fs::read(blobs.join(entry["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap())).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            let layers: Vec<Descriptor> = serde_json::from_value(manifest["layers"].clone()).unwrap();
            assert!(layers.iter().all(|layer| blobs.join(layer.digest.encoded()).exists()), "a name is there, and not its layers");
        }
        for (digest, (_, size)) in killed.layers() {
            let begun = fs::metadata(partial.join(format!("sha256-{}", digest.encoded()))).map_or(0, |meta| meta.len());
            killed.spoil(digest, if blobs.join(digest.encoded()).exists() { *size } else { begun });
        }
    }
    assert!(kills >= MOMENTS / 2, "{kills} of {MOMENTS} were killed before their end");
    let run = killed.program.run(&Killed::import(&["--to", "oci:store"])).exits(0);
    assert_eq!(run.images().len() as u64, BLOBS / 4);
    let verified = killed.program.run(&["verify", "store"]).exits(0);
    assert!(verified.stderr.contains(&format!("{} names", BLOBS / 4)), "{}", verified.stderr);
    assert_eq!(held(&partial), 0);
}

#[test]
fn an_import_into_a_registry_survives_kills_and_uploads_nothing_again_that_was_there() {
    let far = Fake::with(crate::support::fake::Options { latency: Some(Duration::from_millis(3)), ..Default::default() });
    let killed = Killed::new(&far);
    let there = |killed: &Killed| -> BTreeSet<Digest> {
        let has = |digest: &&Digest| (0..BLOBS / 4).any(|n| far.has_blob(&format!("app-{n}"), digest));
        killed.layers().map(|(digest, _)| digest).filter(has).cloned().collect()
    };
    let uploaded =
        || far.count_matching(|request| request.kind == crate::support::fake::Kind::UploadPut && request.status == Some(201)) as u64;
    let mut kills = 0;
    for moment in 1..=MOMENTS {
        let had = uploaded();
        let share = (2 * BLOBS).saturating_sub(had) / (MOMENTS + 1 - moment) / 3;
        kills += u64::from(killed.kill(&["--concurrency", "2"], || uploaded() > had + share));
        // What was on its way when it was killed may still arrive.
        let now = there(&killed);
        for digest in &now {
            killed.spoil(digest, BLOB as u64);
        }
        for n in 0..BLOBS / 4 {
            let repository = format!("app-{n}");
            for tag in far.tags(&repository) {
                let manifest: Value = serde_json::from_slice(&far.manifest(&repository, &tag).unwrap().1).unwrap();
                let layers: Vec<Descriptor> = serde_json::from_value(manifest["layers"].clone()).unwrap();
                assert!(layers.iter().all(|layer| far.has_blob(&repository, &layer.digest)));
            }
        }
    }
    assert!(kills >= MOMENTS / 2, "{kills} of {MOMENTS} were killed before their end");
    let run = killed.program.run(&Killed::import(&[])).exits(0);
    assert_eq!(run.images().len() as u64, BLOBS / 4);
    for n in 0..BLOBS / 4 {
        let repository = format!("app-{n}");
        assert_eq!(far.digest(&repository, "1"), killed.near.digest(&repository, "1"));
        assert!((0..4).all(|k| far.has_blob(&repository, &Digest::sha256(&layer::noise(100 + n * 4 + k, BLOB)))));
    }
    let puts = far
        .requests()
        .iter()
        .filter(|r| r.kind == crate::support::fake::Kind::UploadPut && r.status == Some(201))
        .filter_map(|r| r.reference.clone())
        .collect::<Vec<_>>();
    let twice = puts.len() - puts.iter().collect::<BTreeSet<_>>().len();
    assert_eq!(twice, 0, "what was there was put again");
}

#[test]
fn other_tools_read_what_volumes_unpack_to() {
    if [real::require("skopeo"), real::require("umoci")].contains(&false) {
        return;
    }
    let (near, program) = (Fake::start(), Program::new());
    let spec = ImageSpec::new([layer::layer(1, 60_000), layer::layer(2, 60_000)]);
    image(&near, "team/app", Some("1"), &spec);
    corpus::multi(&near, "team/multi", "2", 9, &["linux/amd64", "linux/arm64"]);
    program.write("larder.toml", format!("version = 1\n[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\n", near.addr()));
    program.list([near.image("team/app:1"), near.image("team/multi:2")]);
    for (name, more) in [("one", &[][..]), ("several", &["--volume-size", "80kB"])] {
        program.run(&[&["export", "list.txt", "--to", name, "--name", name], more].concat()).exits(0);
        let layout = program.path(&format!("{name}-layout"));
        fs::create_dir(&layout).unwrap();
        for entry in
            fs::read_dir(program.path(name)).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().unwrap() == "tar")
        {
            assert!(std::process::Command::new("tar").arg("-xf").arg(entry).arg("-C").arg(&layout).status().unwrap().success());
        }
        let digest = near.digest("team/multi", "2").unwrap();
        let copied = program.path(&format!("{name}-copied"));
        real::skopeo_ok([
            "copy",
            "--all",
            "--preserve-digests",
            &format!("oci:{}:team/multi:2", layout.display()),
            &format!("dir:{}", copied.display()),
        ])
        .unwrap();
        assert_eq!(Digest::sha256(&fs::read(copied.join("manifest.json")).unwrap()), digest);
        let unpacked = program.path(&format!("{name}-unpacked"));
        let mut umoci = std::process::Command::new("umoci");
        umoci.args(["unpack", "--rootless", "--image"]).arg(format!("{}:team/app:1", layout.display())).arg(&unpacked);
        let output = umoci.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(unpacked.join("rootfs/data-1").exists() && unpacked.join("rootfs/data-2").exists());
        served_to_oci_client(&program, &layout, &near);
        // And larder takes the unpacked volumes back.
        program.run(&["import", layout.to_str().unwrap(), "--to", &format!("oci:{name}-again")]).exits(0);
        program.run(&["verify", &format!("{name}-again")]).exits(0);
    }
}

#[test]
fn what_skopeo_packs_is_imported() {
    if !real::require("skopeo") {
        return;
    }
    let (near, program, far) = (Fake::start(), Program::new(), Fake::start());
    image(&near, "team/app", Some("1"), &ImageSpec::new([layer::layer(1, 6000), layer::layer(2, 6000)]));
    program.write("larder.toml", format!("version = 1\n[target]\nregistry = \"{}\"\n", far.addr()));
    let from = format!("docker://{}", near.image("team/app:1"));
    for (to, name) in [
        ("oci:plain:1", "plain:1"),
        ("oci-archive:packed.tar:1", "packed:1"),
        ("oci-archive:named.tar:quay.io/team/app:2", "team/app:2"),
        ("docker-archive:saved.tar:docker.io/library/app:3", "library/app:3"),
    ] {
        let (kind, rest) = to.split_once(':').unwrap();
        let (file, reference) = rest.split_once(':').unwrap();
        real::skopeo_ok(["copy", "--src-tls-verify=false", &from, &format!("{kind}:{}:{reference}", program.path(file).display())])
            .unwrap();
        let run = program.run(&["import", file, "--report", "report.json"]).exits(0);
        assert_eq!(run.images()[0]["target"], far.image(name), "{to}");
        let (repository, tag) = name.rsplit_once(':').unwrap();
        let digest = far.digest(repository, tag).unwrap();
        if kind != "docker-archive" {
            assert_eq!(Some(digest), near.digest("team/app", "1"), "{to}");
            continue;
        }
        // What was made of the archive is an image to skopeo: it unpacks to the same layers.
        let inspected = real::skopeo_ok(["inspect", "--tls-verify=false", &format!("docker://{}", far.image(name))]).unwrap();
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let layers: Vec<String> =
            [layer::layer(1, 6000), layer::layer(2, 6000)].iter().map(|layer| layer::diff_id(layer).to_string()).collect();
        assert_eq!(inspected["Layers"], serde_json::json!(layers));
    }
}

/// oci-client pulls an image from `larder serve` over the layout.
fn served_to_oci_client(program: &Program, layout: &Path, near: &Fake) {
    let _client = crate::support::push::client();
    let mut serving = program.start(&["serve", layout.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let mut address = None;
    assert!(crate::support::room::until(|| {
        assert!(serving.is_running(), "{}", program.read("said.txt"));
        address = program
            .read("said.txt")
            .split_once("http://")
            .and_then(|(_, rest)| Some(rest.split_once(' ')?.0.trim_end_matches('/').to_owned()));
        address.is_some()
    }));
    let config = oci_client::client::ClientConfig { protocol: oci_client::client::ClientProtocol::Http, ..Default::default() };
    let client = oci_client::Client::try_from(config).unwrap();
    let name: oci_client::Reference = format!("{}/team/app:1", address.unwrap()).parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pulled = runtime.block_on(client.pull(&name, &oci_client::secrets::RegistryAuth::Anonymous, vec![corpus::OCI_LAYER])).unwrap();
    assert_eq!(pulled.digest.unwrap(), near.digest("team/app", "1").unwrap().as_str());
    let layers: BTreeSet<Digest> = pulled.layers.iter().map(|layer| Digest::sha256(&layer.data)).collect();
    assert_eq!(layers, [1, 2].map(|n| Digest::sha256(&layer::layer(n, 60_000))).into());
}
