//! What other tools carry images in.

use std::path::Path;

use larder::content::Digest;
use serde_json::{Value, json};

use super::*;

/// A tar file of these members, as other tools write them.
struct Saved(tar::Builder<Vec<u8>>);

impl Saved {
    fn new() -> Self {
        Saved(tar::Builder::new(vec![]))
    }
    fn file(&mut self, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.0.append_data(&mut header, name, bytes).unwrap();
    }
    fn link(&mut self, name: &str, to: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        self.0.append_link(&mut header, name, to).unwrap();
    }
    fn write(self, path: &Path) {
        std::fs::write(path, self.0.into_inner().unwrap()).unwrap();
    }
}

fn config(diff_ids: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = diff_ids.iter().map(|layer| Digest::sha256(layer)).collect();
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string().into_bytes()
}

/// What `docker save alpine:3.20 team/app:1 quay.io/x/y:2` writes: the second image's first layer is a link to the first's.
fn docker(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let (base, own) = (noise(1, 3000), noise(2, 3000));
    let (one, two) = (config(&[&base]), config(&[&base, &own]));
    let mut saved = Saved::new();
    saved.file("aaa/layer.tar", &base);
    saved.file("aaa/json", b"{}");
    saved.link("bbb/layer.tar", "../aaa/layer.tar");
    saved.file("ccc/layer.tar", &own);
    saved.file("one.json", &one);
    saved.file("two.json", &two);
    let list = json!([
        {"Config": "one.json", "RepoTags": ["alpine:3.20"], "Layers": ["aaa/layer.tar"]},
        {"Config": "two.json", "RepoTags": ["team/app:1", "quay.io/x/y:2"], "Layers": ["bbb/layer.tar", "ccc/layer.tar"]},
    ]);
    saved.file("manifest.json", list.to_string().as_bytes());
    saved.write(path);
    (base, own)
}

fn far(program: &Program, more: &str) -> Fake {
    let far = Fake::start();
    program.write("larder.toml", format!("version = 1\n[target]\nregistry = \"{}\"\n{more}", far.addr()));
    far
}

#[test]
fn an_archive_of_docker_save_becomes_images() {
    let program = Program::new();
    let far = far(&program, "[[rule]]\nname = \"quay\"\nsource = \"quay.io/*\"\ntarget = \"mirror/*\"\n");
    let (base, own) = docker(&program.path("saved.tar"));
    let run = program.run(&["import", "saved.tar", "--report", "report.json"]).exits(0);
    let targets: Vec<&str> = run.images().iter().map(|row| row["target"].as_str().unwrap()).collect();
    let names = ["library/alpine:3.20", "team/app:1", "mirror/x/y:2"].map(|name| far.image(name));
    assert_eq!(targets, names, "without a host, or where a rule puts it");
    assert_eq!(run.images()[0]["source"], "docker.io/library/alpine:3.20");
    let (media_type, bytes) = far.manifest("team/app", "1").unwrap();
    assert_eq!(media_type, corpus::OCI_IMAGE);
    let two = config(&[&base, &own]);
    let layer =
        |bytes: &[u8]| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::sha256(bytes), "size": bytes.len()});
    let expected = json!({
        "schemaVersion": 2, "mediaType": corpus::OCI_IMAGE,
        "config": {"mediaType": corpus::OCI_CONFIG, "digest": Digest::sha256(&two), "size": two.len()},
        "layers": [layer(&base), layer(&own)],
    });
    assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), expected);
    assert_eq!(far.blob("mirror/x/y", &Digest::sha256(&own)).unwrap(), own);
    assert_eq!(far.digest("mirror/x/y", "2"), far.digest("team/app", "1"));
    let again = program.run(&["import", "saved.tar", "--report", "report.json"]).exits(0);
    assert_eq!(again.with_status("current").len(), 3, "the same archive makes the same manifests");
}

#[test]
fn compressed_layers_and_images_without_a_name_are_taken_too() {
    let program = Program::new();
    let far = far(&program, "");
    let (packed, plain) = (crate::support::layer::layer(5, 2000), noise(6, 500));
    let mut saved = Saved::new();
    let config =
        json!({"rootfs": {"type": "layers", "diff_ids": [crate::support::layer::diff_id(&packed), Digest::sha256(&plain)]}}).to_string();
    saved.file("config.json", config.as_bytes());
    saved.file("1.tar", &packed);
    saved.file("2.tar", &plain);
    saved.file("manifest.json", json!([{"Config": "config.json", "RepoTags": null, "Layers": ["1.tar", "2.tar"]}]).to_string().as_bytes());
    saved.write(&program.path("My-App.tar"));
    let run = program.run(&["import", "My-App.tar", "--report", "report.json"]).exits(0);
    let digest = run.images()[0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(run.images()[0]["target"], format!("{}/my-app@{digest}", far.addr()));
    assert_eq!(run.images()[0]["notes"], json!(["it states no repository: it is named after my-app, where it was found"]));
    let manifest: Value = serde_json::from_slice(&far.manifest("my-app", &digest).unwrap().1).unwrap();
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(manifest["layers"][0]["digest"], Digest::sha256(&packed).as_str());
    assert_eq!(manifest["layers"][1]["mediaType"], "application/vnd.oci.image.layer.v1.tar");
}

#[test]
fn an_archive_whose_layers_are_not_what_its_config_says_is_named() {
    let program = Program::new();
    let far = far(&program, "");
    let mut saved = Saved::new();
    saved.file("config.json", &config(&[&noise(1, 3000)]));
    saved.file("layer.tar", &noise(2, 3000));
    let list = |layers: &[&str]| json!([{"Config": "config.json", "RepoTags": ["a/b:1"], "Layers": layers}]).to_string();
    saved.file("manifest.json", list(&["layer.tar"]).as_bytes());
    saved.write(&program.path("saved.tar"));
    let run = program.run(&["import", "saved.tar"]).exits(1);
    assert!(run.stderr.contains("saved.tar is damaged: "), "{}", run.stderr);
    assert_eq!(far.tags("a/b"), [] as [&str; 0]);
    for (layers, word) in [
        (&["layer.tar", "layer.tar"][..], "has 1 layers, `manifest.json` has 2"),
        (&["../../etc/passwd"], "it has no"),
        (&["loop"], "`loop` is a link to `loop`, which is not in the archive"),
    ] {
        let mut saved = Saved::new();
        saved.file("config.json", &config(&[&noise(1, 3000)]));
        saved.file("layer.tar", &noise(2, 3000));
        saved.link("loop", "loop");
        saved.file("manifest.json", list(layers).as_bytes());
        saved.write(&program.path("saved.tar"));
        let run = program.run(&["import", "saved.tar"]).exits(2);
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
}

#[test]
fn a_layout_and_its_archive_are_imported_and_what_they_lack_is_looked_for_at_the_target() {
    let program = Program::new();
    let far = far(&program, "");
    let near = Fake::start();
    image(&near, "team/app", Some("1"), &ImageSpec::new([layer(1), layer(2)]));
    program.run(&["sync", "--unmatched", "mirror", "--image", &near.image("team/app:1"), "--to", "oci:store"]).exits(0);
    let repository = format!("{}/team/app", near.addr().replace(':', "_"));
    // What was taken out of the layout is missing until the target has it.
    let path = |bytes: &[u8]| program.path("store/blobs/sha256").join(Digest::sha256(bytes).encoded());
    std::fs::rename(path(&layer(2)), program.path("aside")).unwrap();
    let run = program.run(&["import", "store", "--report", "report.json"]).exits(1);
    let lost = Digest::sha256(&layer(2));
    let expected = format!("it was not carried along, and the target does not have it: {lost} (make or carry it again, whole)");
    assert_eq!((run.error()["message"].as_str().unwrap(), run.images()[0]["status"].as_str().unwrap()), (expected.as_str(), "failed"));
    far.put_blob(&repository, layer(2));
    program.run(&["import", "store"]).exits(0);
    assert_eq!(far.digest(&repository, "1"), near.digest("team/app", "1"));

    std::fs::rename(program.path("aside"), path(&layer(2))).unwrap();
    let packed =
        std::process::Command::new("tar").args(["-cf", "../archive.tar", "."]).current_dir(program.path("store")).status().unwrap();
    assert!(packed.success());
    program.run(&["import", "archive.tar", "--to", "oci:other"]).exits(0);
    assert_eq!(program.run(&["inventory", "--of", "other"]).stdout, program.run(&["inventory", "--of", "store"]).stdout);
}
