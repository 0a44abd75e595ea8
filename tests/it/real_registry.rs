//! `larder sync` between Debian's docker-registry, the fake registry and layouts, read back with other people's tools.

use std::collections::BTreeMap;

use crate::support::corpus::{self, Case, corpus, corpus_for_docker_registry};
use crate::support::fake::Fake;
use crate::support::layer::layer;
use crate::support::push::{Push, client};
use crate::support::real::{DockerRegistry, require, skopeo_ok};
use crate::support::room::{Report, Room};
use larder::content::Digest;
use oci_client::secrets::RegistryAuth;
use serde_json::Value;

/// Every media type that a manifest of the corpus may have.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// What skopeo 1.9 does not take for an image, or cannot copy as it is.
const ODD: [&str; 9] = [
    "inline-child",
    "odd-index",
    "sha512-child",
    "unknown-media-type",
    "artifact-manifest",
    "docker-schema1",
    "nested-index",
    "sha512-layer",
    "foreign-layer",
];

/// What skopeo does not find in a layout, where it looks for OCI's media types only (containers/image `oci/layout`).
const DOCKERS: [&str; 2] = ["docker-image", "docker-list"];

fn names<'c>(host: &str, cases: impl IntoIterator<Item = &'c Case>) -> Vec<String> {
    cases.into_iter().map(|case| format!("{host}/{}", case.image())).collect()
}

/// Reads a manifest and everything below it out of a registry, and checks every digest on the way.
fn walk(registry: &Push, repository: &str, reference: &str) -> Digest {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let bytes = registry.read(&path, ACCEPT).unwrap_or_else(|| panic!("{path} is not there"));
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    let list = |name: &str| manifest[name].as_array().cloned().unwrap_or_default();
    for child in list("manifests") {
        let digest = child["digest"].as_str().unwrap();
        assert_eq!(walk(registry, repository, digest).as_str(), digest);
    }
    for blob in list("layers").into_iter().chain([manifest["config"].clone()]).filter(|blob| blob.get("urls").is_none() && !blob.is_null())
    {
        let digest = Digest::parse(blob["digest"].as_str().unwrap()).unwrap();
        let path = format!("/v2/{repository}/blobs/{digest}");
        assert!(digest.matches(&registry.read(&path, "*/*").unwrap_or_else(|| panic!("{path} is not there"))), "{path}");
    }
    Digest::sha256(&bytes)
}

/// `skopeo inspect --raw`, as a digest.
fn inspected(image: &str) -> Digest {
    let arguments = ["inspect", "--raw", "--tls-verify=false", image];
    Digest::sha256(skopeo_ok(&arguments[..]).unwrap().as_bytes())
}

async fn pulled(image: &str, media_type: &str) -> String {
    let _ = client();
    let config = oci_client::client::ClientConfig { protocol: oci_client::client::ClientProtocol::Http, ..Default::default() };
    let client = oci_client::Client::try_from(config).unwrap();
    let (bytes, digest) = client.pull_manifest_raw(&image.parse().unwrap(), &RegistryAuth::Anonymous, &[media_type]).await.unwrap();
    assert_eq!(Digest::sha256(&bytes).as_str(), digest);
    digest
}

/// The names of a layout's index and what they point to.
fn entries(room: &Room, layout: &str) -> BTreeMap<String, String> {
    let index = room.json(&format!("{layout}/index.json"));
    let entry = |entry: &Value| {
        let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned();
        (name, entry["digest"].as_str().unwrap().to_owned())
    };
    index["manifests"].as_array().unwrap().iter().map(entry).collect()
}

fn all(report: &Report, status: &str) -> bool {
    report.statuses().iter().all(|found| *found == status)
}

#[tokio::test]
async fn every_kind_of_manifest_goes_from_one_registry_to_another_with_its_digest() {
    let (Some(from), Some(to)) = (DockerRegistry::start(), DockerRegistry::start()) else { return };
    let cases = corpus_for_docker_registry(&Push::to(from.addr()));
    let room = Room::new();
    room.configure(&format!("registry = \"{}\"\nrepository_prefix = \"cache\"", to.addr()), &[(from.addr(), "mirrored")]);
    room.list(names(&from.addr(), &cases));

    let (ran, first) = room.sync(&[]);
    assert!(ran.code == 0 && all(&first, "copied"), "{ran:?}");
    let push = Push::to(to.addr());
    for case in &cases {
        let repository = format!("cache/mirrored/{}", case.repository);
        let row = first.row(&case.image());
        assert_eq!((&row["digest"], &row["source_digest"]), (&case.digest.as_str().into(), &case.digest.as_str().into()));
        assert_eq!(row["target"], format!("{}/cache/mirrored/{}", to.addr(), case.image()));
        assert_eq!(walk(&push, &repository, case.reference()), case.digest, "{}", case.name);
        let image = format!("{}/cache/mirrored/{}", to.addr(), case.image());
        if require("skopeo") {
            assert_eq!(inspected(&format!("docker://{image}")), case.digest, "{}", case.name);
        }
        assert_eq!(pulled(&image, &case.media_type).await, case.digest.as_str(), "{}", case.name);
    }
    // What one registry says of a foreign layer's size or place, nobody has checked: larder says that it did not carry it.
    assert!(first.row("foreign-layer:v1")["notes"][0].as_str().unwrap().contains("is not copied"));

    let (ran, second) = room.sync(&[]);
    assert!(ran.code == 0 && all(&second, "current"), "{ran:?}");
    assert_eq!((second.total("bytes_read"), second.total("bytes_written")), (0, 0));
    for (host, kind, expected) in [(from.addr(), "manifest_get", 0), (to.addr(), "manifest_put", 0), (to.addr(), "blob_head", 0)] {
        assert_eq!(second.requests(&host, kind), expected, "{kind}");
    }
    // An image asked for by its digest is not asked for at the upstream at all.
    let tagged = cases.iter().filter(|case| case.tag.is_some()).count() as u64;
    assert_eq!(
        (second.requests(&from.addr(), "manifest_head"), second.requests(&to.addr(), "manifest_head")),
        (tagged, cases.len() as u64)
    );
}

#[test]
fn every_kind_of_manifest_goes_into_a_layout_and_on_with_skopeo() {
    let fake = Fake::start();
    let cases = corpus(&fake);
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "mirrored")]);
    room.list(names(&fake.addr(), &cases));

    let (ran, report) = room.sync(&["--failed", "failed.csv"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let carried: Vec<&Case> = cases.iter().filter(|case| case.carried).collect();
    assert_eq!((report.total("copied"), report.total("failed")), (carried.len() as u64, 1));
    let refused = &report.row("docker-schema1:v1")["error"];
    assert!(refused["message"].as_str().unwrap().contains("schema 1"), "{refused}");
    assert!(room.read("failed.csv").contains("docker-schema1"));
    let note = &report.row("foreign-layer:v1")["notes"][0];
    assert!(note.as_str().unwrap().starts_with("foreign layer"), "{note}");

    let expected = carried.iter().map(|case| (format!("mirrored/{}", case.image()), case.digest.to_string())).collect();
    assert_eq!(entries(&room, "store"), expected);
    room.larder(["verify", "store"]).ended(0);

    let Some(registry) = DockerRegistry::start() else { return };
    let push = Push::to(registry.addr());
    for case in carried.iter().filter(|case| case.tag.is_some() && !ODD.contains(&case.name) && !DOCKERS.contains(&case.name)) {
        let from = format!("oci:{}:mirrored/{}", room.path("store").display(), case.image());
        let to = format!("docker://{}/{}", registry.addr(), case.image());
        if skopeo_ok(["copy", "--all", "--preserve-digests", "--dest-tls-verify=false", &from, &to]).is_none() {
            return;
        }
        assert_eq!(walk(&push, &case.repository, "v1"), case.digest, "{}", case.name);
    }

    let (ran, second) = room.sync(&[]);
    assert_eq!((ran.code, second.total("current"), second.total("failed")), (1, carried.len() as u64, 1));
    assert!(second.images().iter().filter(|row| row["status"] == "current").all(|row| row["bytes"] == 0));
}

#[test]
fn a_layout_that_skopeo_wrote_is_checked_and_added_to() {
    let fake = Fake::start();
    let (theirs, ours) = (corpus::simple(&fake, "theirs/app", "v1", 1), corpus::simple(&fake, "ours/app", "v1", 2));
    let room = Room::new();
    let layout = room.path("store");
    let store = |name: &str| format!("oci:{}:{name}", layout.display());
    let source = format!("docker://{}", fake.image("theirs/app:v1"));
    if skopeo_ok(["copy", "--preserve-digests", "--src-tls-verify=false", &source, &store("v1")]).is_none() {
        return;
    }
    room.larder(["verify", "store"]).ended(0);
    room.configure("layout = \"store\"", &[(fake.addr(), "mirrored")]);
    room.list([fake.image("ours/app:v1"), fake.image("theirs/app:v1")]);
    let blobs = |repository: &str| {
        fake.count_matching(|request| {
            request.kind == crate::support::fake::Kind::BlobGet && request.repository.as_deref() == Some(repository)
        })
    };
    fake.reset_log();
    room.sync(&[]).0.ended(0);
    // What skopeo brought is there, under whatever name.
    assert_eq!((blobs("ours/app"), blobs("theirs/app")), (3, 0));
    let expected = [("v1", &theirs), ("mirrored/ours/app:v1", &ours), ("mirrored/theirs/app:v1", &theirs)];
    assert_eq!(entries(&room, "store"), expected.map(|(name, image)| (name.to_owned(), image.digest.to_string())).into());
    room.larder(["verify", "store"]).ended(0);
    for (name, image) in expected {
        assert_eq!(inspected(&store(name)), image.digest, "{name}");
    }
    assert_eq!(room.larder(["gc", "store"]).ended(0).stdout, "");
    // And a damaged file of theirs is found.
    let path = layout.join("blobs/sha256").join(theirs.digest.encoded());
    let bytes = std::fs::read_to_string(&path).unwrap().replace("schemaVersion\":2", "schemaVersion\":3");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let found = room.larder(["verify", "store"]).ended(1).stdout;
    assert!(found.starts_with(&format!("damaged {} (", theirs.digest)) && found.contains("mirrored/theirs/app:v1"), "{found}");
    // Mended by the next run, because the manifest is read whenever its name is asked for.
    room.sync(&[]).0.ended(0);
    room.larder(["verify", "store"]).ended(0);
    // A layer is not: that takes the removal that `verify` advises.
    let path = layout.join("blobs/sha256").join(Digest::sha256(&layer(1001, 700)).encoded());
    let len = std::fs::metadata(&path).unwrap().len();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, vec![0; usize::try_from(len).unwrap()]).unwrap();
    assert!(room.larder(["verify", "store"]).ended(1).stderr.contains("remove the damaged files"));
    std::fs::remove_file(&path).unwrap();
    room.sync(&[]).0.ended(0);
    room.larder(["verify", "store"]).ended(0);
}

#[test]
fn two_upstreams_fill_one_registry_and_one_of_them_may_be_it() {
    let Some(registry) = DockerRegistry::start() else { return };
    let (host, fake, push) = (registry.addr(), Fake::start(), Push::to(registry.addr()));
    let shared = layer(77, 200_000);
    let image = |put: &dyn corpus::Put, repository: &str| {
        corpus::image(put, repository, Some("v1"), &corpus::ImageSpec::new([shared.clone(), layer(repository.len() as u64, 50)])).digest
    };
    let (own, other) = (image(&push, "apps/web"), image(&fake, "tools/linter"));
    let room = Room::new();
    room.configure(
        &format!("registry = \"{host}\"\nrepository_prefix = \"cache\""),
        &[(format!("{host}/apps"), "own"), (fake.addr(), "other")],
    );
    room.list([format!("{host}/apps/web:v1"), fake.image("tools/linter:v1")]);
    let (ran, report) = room.sync(&[]);
    assert!(ran.code == 0 && all(&report, "copied"), "{ran:?}");
    assert_eq!(walk(&push, "cache/own/web", "v1"), own);
    assert_eq!(walk(&push, "cache/other/tools/linter", "v1"), other);
    // The layer that both have was moved for one of them and mounted for the other.
    assert_eq!((report.total("blobs_copied"), report.total("blobs_mounted")), (5, 1));
    assert!(all(&room.sync(&[]).1, "current"));
}

#[test]
fn what_a_registry_has_lost_comes_back_with_recheck() {
    let (Some(from), Some(to)) = (DockerRegistry::start(), DockerRegistry::start()) else { return };
    let push = Push::to(from.addr());
    let image = corpus::simple(&push, "app", "v1", 5);
    let many = corpus::multi(&push, "many", "v1", 6, &["linux/amd64", "linux/arm64"]);
    let room = Room::new();
    room.configure(&format!("registry = \"{}\"", to.addr()), &[(from.addr(), "m")]);
    room.list([format!("{}/app:v1", from.addr()), format!("{}/many:v1", from.addr())]);
    room.sync(&[]).0.ended(0);

    let at_target = Push::to(to.addr());
    let files = to.dir().join("docker/registry/v2");
    let repository = |name: &str| files.join("repositories/m").join(name);
    let blob = |seed, len| Digest::sha256(&layer(seed, len));
    let remove = |path: std::path::PathBuf| std::fs::remove_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // A repository's link to a layer; a layer's bytes; a child manifest of an index.
    let link = repository("app/_layers/sha256").join(blob(5001, 700).encoded());
    let bytes = blob(6000, 1500);
    let data = files.join("blobs/sha256").join(&bytes.encoded()[..2]).join(bytes.encoded());
    let index: Value = serde_json::from_slice(&at_target.read("/v2/m/many/manifests/v1", ACCEPT).unwrap()).unwrap();
    let child = Digest::parse(index["manifests"][1]["digest"].as_str().unwrap()).unwrap();
    let revision = repository("many/_manifests/revisions/sha256").join(child.encoded());
    for (lost, hit) in
        [(vec![link.clone()], "app"), (vec![data.clone()], "many"), (vec![revision.clone()], "many"), (vec![link, data, revision], "")]
    {
        lost.into_iter().for_each(remove);
        // A digest that answers is taken for the image, until larder is told to look closer.
        assert!(all(&room.sync(&[]).1, "current"));
        let (ran, report) = room.sync(&["--recheck"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        for name in ["app", "many"] {
            let expected = if hit.is_empty() || hit == name { "copied" } else { "current" };
            assert_eq!(report.row(&format!("{name}:v1"))["status"], expected, "{name}");
        }
        assert_eq!(walk(&at_target, "m/app", "v1"), image.digest);
        assert_eq!(walk(&at_target, "m/many", "v1"), many.digest);
        let (_, again) = room.sync(&["--recheck"]);
        assert!(all(&again, "current") && again.total("bytes_read") == 0, "{}", again.0);
    }
}

#[test]
fn a_plan_says_what_a_run_then_does() {
    let (Some(from), Some(to)) = (DockerRegistry::start(), DockerRegistry::start()) else { return };
    let push = Push::to(from.addr());
    for seed in 1..4 {
        corpus::simple(&push, "app", &format!("v{seed}"), seed);
    }
    let room = Room::new();
    room.configure(&format!("registry = \"{}\"", to.addr()), &[(from.addr(), "m")]);
    let names = |names: &[&str]| names.iter().map(|name| format!("{}/{name}", from.addr())).collect::<Vec<_>>();
    let step = |list: &[&str], states: &[&str], code: i32| {
        room.list(names(list));
        let plan = room.larder(["plan", "--format", "json"]).ended(code);
        let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
        let found: Vec<&str> = plan["images"].as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap()).collect();
        assert_eq!(found, states);
        let (ran, report) = room.sync(&[]);
        ran.ended(code);
        let meant = |state: &&str| match *state {
            "missing" | "moved" => "copied",
            "current" => "current",
            _ => "failed",
        };
        assert_eq!(report.statuses(), states.iter().map(meant).collect::<Vec<_>>());
        for (planned, done) in plan["images"].as_array().unwrap().iter().zip(report.images()) {
            assert_eq!(
                (&planned["source"], &planned["target"], &planned["source_digest"]),
                (&done["source"], &done["target"], &done["source_digest"])
            );
        }
    };
    step(&["app:v1"], &["missing"], 0);
    step(&["app:v1", "app:v2", "app:none"], &["current", "missing", "unresolvable"], 1);
    corpus::simple(&push, "app", "v1", 9);
    step(&["app:v1", "app:v2", "app:v3"], &["moved", "current", "missing"], 0);
    step(&["app:v1", "app:v2", "app:v3"], &["current", "current", "current"], 0);
}
