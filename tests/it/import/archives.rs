//! Archives as people have them: compressed, through a pipe, without a name, of one platform of many.

use std::path::Path;
use std::process::{Command, Stdio};

use larder::content::Digest;
use serde_json::{Value, json};

use super::*;
use crate::support::real::require;

/// A tar file.
fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", Digest::sha256(bytes).encoded()), bytes.to_vec())
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len()})
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of one platform: its layer, its config, its manifest.
fn single(architecture: &str, seed: u64) -> [Vec<u8>; 3] {
    let layer = noise(seed, 3000);
    let config = json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer)]}});
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "mediaType": corpus::OCI_IMAGE, "config": descriptor(corpus::OCI_CONFIG, &config),
        "layers": [descriptor(LAYER, &layer)]});
    [layer, config, manifest.to_string().into_bytes()]
}

/// What is in every archive of a layout, with this index.
fn oci(index: &Value, blobs: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
    let mut members: Vec<(String, Vec<u8>)> = blobs.iter().map(|bytes| blob(bytes)).collect();
    members.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    members.push(("index.json".to_owned(), index.to_string().into_bytes()));
    members
}

fn named(mut descriptor: Value, annotations: &Value) -> Value {
    descriptor["annotations"] = annotations.clone();
    json!({"schemaVersion": 2, "manifests": [descriptor]})
}

fn oci_archive() -> Vec<u8> {
    let [layer, config, manifest] = single("amd64", 1);
    let annotations = json!({"org.opencontainers.image.ref.name": "registry.test/team/app:1.0"});
    tar(&oci(&named(descriptor(corpus::OCI_IMAGE, &manifest), &annotations), &[&layer, &config, &manifest]))
}

fn docker_archive(tags: &Value) -> Vec<u8> {
    let [layer, config, _] = single("amd64", 2);
    let list = json!([{"Config": "config.json", "RepoTags": tags, "Layers": ["a/layer.tar"]}]).to_string();
    tar(&[("a/layer.tar".to_owned(), layer), ("config.json".to_owned(), config), ("manifest.json".to_owned(), list.into_bytes())])
}

/// What a program makes of these bytes.
fn through(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), bytes).unwrap();
    let input = std::fs::File::open(folder.path().join("in")).unwrap();
    let output = Command::new(program).args(arguments).stdin(input).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

/// Runs larder with a file as its standard input.
fn piped(program: &Program, arguments: &[&str], file: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(arguments).current_dir(program.path("")).env("XDG_STATE_HOME", program.path("state"));
    let output = command.stdin(std::fs::File::open(file).unwrap()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn entries(program: &Program, store: &str) -> Vec<Value> {
    let index: Value = serde_json::from_str(&program.read(&format!("{store}/index.json"))).unwrap();
    index["manifests"].as_array().unwrap().clone()
}

fn names(program: &Program, store: &str) -> Vec<String> {
    let name = |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or_default().to_owned();
    entries(program, store).iter().map(name).collect()
}

#[test]
fn compressed_archives_are_known_by_their_content_also_on_standard_input() {
    let archives = [("docker", docker_archive(&json!(["registry.test/team/app:1.0"]))), ("oci", oci_archive())];
    for (compressor, arguments) in [("gzip", &["-c"][..]), ("zstd", &["-q", "-c"]), ("xz", &["-c"]), ("bzip2", &["-c"]), ("cat", &[])] {
        if compressor != "cat" && !require(compressor) {
            continue;
        }
        for (kind, archive) in &archives {
            let program = Program::new();
            // The name says nothing about it.
            let file = program.write("image.bin", through(compressor, arguments, archive));
            program.run(&["import", "image.bin", "--to", "oci:store"]).exits(0);
            assert_eq!(names(&program, "store"), ["team/app:1.0"], "{compressor} {kind}");
            let (code, said) = piped(&program, &["import", "-", "--to", "oci:piped"], &file);
            assert_eq!((code, names(&program, "piped")), (0, vec!["team/app:1.0".to_owned()]), "{compressor} {kind}: {said}");
            assert_eq!(entries(&program, "piped")[0]["digest"], entries(&program, "store")[0]["digest"]);
            let run = program.run(&["verify", "image.bin"]).exits(0);
            assert!(run.stderr.contains("1 name, 1 manifest, 2 blobs"), "{compressor} {kind}: {}", run.stderr);
            assert_eq!(piped(&program, &["verify", "-"], &file).0, 0);
            program.run(&["verify", "store"]).exits(0);
            // Nothing unpacked is left.
            let left = std::fs::read_dir(program.path("home/state/larder/import"))
                .map_or(0, |left| left.filter(|entry| entry.as_ref().unwrap().metadata().unwrap().len() > 2000).count());
            assert_eq!(left, 0);
        }
    }
}

#[test]
fn what_is_no_archive_is_called_what_it_is() {
    let program = Program::new();
    program.write("list.txt", "nginx:1.27\n");
    program.write("page.tar", "<!DOCTYPE html><html>");
    program.write("empty.tar", "");
    program.write("other.tar", tar(&[("README".to_owned(), b"x".to_vec())]));
    program.write("cut.tar.gz", &through("gzip", &["-c"], &oci_archive())[..400]);
    program.write("text.gz", through("gzip", &["-c"], b"hello\n"));
    program.write("folder/README", "x");
    program.write("dir/manifest.json", "{}");
    program.write("dir/version", "Directory Transport Version: 1.1\n");
    for (file, said) in [
        ("list.txt", "it is text that begins with `nginx:1.27`"),
        ("page.tar", "it is HTML or XML"),
        ("empty.tar", "it is empty"),
        ("other.tar", "it is a tar file without `oci-layout` or `manifest.json` (it has README)"),
        ("cut.tar.gz", "damaged gzip file"),
        ("text.gz", "it is text that begins with `hello`, compressed by gzip"),
        ("folder", "it is a folder without `oci-layout`"),
        ("dir", "it is a folder of skopeo's dir: transport"),
    ] {
        let run = program.run(&["import", file, "--to", "oci:store"]).exits(2);
        assert!(run.stderr.contains(said), "{file}: {}", run.stderr);
        if program.path(file).is_file() {
            let run = program.run(&["verify", file]);
            assert!(matches!(run.code, 1 | 2) && run.stderr.contains(said), "{file}: {}", run.stderr);
        }
    }
    assert!(!program.path("store").exists());
}

#[test]
fn an_archive_that_names_nothing_gets_a_name() {
    let program = Program::new();
    let far = Fake::start();
    let file = program.write("image.tar", docker_archive(&Value::Null));
    program.run(&["import", "image.tar", "--to", &far.addr(), "--name", "team/app:1"]).exits(0);
    assert_eq!(far.tags("team/app"), ["1"]);
    let (code, said) = piped(&program, &["import", "-", "--to", "oci:store", "--name", "quay.io/team/app:2"], &file);
    assert_eq!((code, names(&program, "store")), (0, vec!["team/app:2".to_owned()]), "{said}");
    // Without a name there is none to be made of standard input.
    let (code, said) = piped(&program, &["import", "-", "--to", "oci:store"], &file);
    assert!(code == 1 && said.contains("give it a name with --name REF"), "{code}: {said}");
    program.write("named.tar", oci_archive());
    let run = program.run(&["import", "named.tar", "--to", "oci:other", "--name", "team/app:1"]).exits(2);
    assert!(run.stderr.contains("`team/app:1` is for images that do not state a repository, and these do"), "{}", run.stderr);
    let run = program.run(&["import", "image.tar", "--to", "oci:other", "--name", "Team/App"]).exits(2);
    assert!(run.stderr.contains("local: read --name: "), "{}", run.stderr);
}

/// What `docker save` writes of an image of which one platform was pulled: the index of all.
fn partial() -> (Vec<u8>, Vec<u8>, [Vec<u8>; 3]) {
    let (amd64, arm64) = (single("amd64", 10), single("arm64", 11));
    let attestation =
        json!({"schemaVersion": 2, "mediaType": corpus::OCI_IMAGE, "config": descriptor(corpus::OCI_CONFIG, b"absent"), "layers": []});
    let child = |manifest: &[u8], architecture: &str| {
        let mut child = descriptor(corpus::OCI_IMAGE, manifest);
        child["platform"] = json!({"os": "linux", "architecture": architecture});
        child
    };
    let mut about = descriptor(corpus::OCI_IMAGE, attestation.to_string().as_bytes());
    about["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    about["annotations"] =
        json!({"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": Digest::sha256(&amd64[2])});
    let index = json!({"schemaVersion": 2, "mediaType": corpus::OCI_INDEX,
        "manifests": [child(&amd64[2], "amd64"), child(&arm64[2], "arm64"), about]});
    let index = index.to_string().into_bytes();
    let annotations = json!({"io.containerd.image.name": "docker.io/library/alpine:latest", "org.opencontainers.image.ref.name": "latest"});
    let mut members = oci(&named(descriptor(corpus::OCI_INDEX, &index), &annotations), &[&amd64[0], &amd64[1], &amd64[2], &index]);
    let list = json!([{"Config": blob(&amd64[1]).0, "RepoTags": ["alpine:latest"], "Layers": [blob(&amd64[0]).0]}]).to_string();
    members.push(("manifest.json".to_owned(), list.into_bytes()));
    (tar(&members), index, amd64)
}

#[test]
fn of_an_archive_with_one_platform_of_many_that_platform_is_imported() {
    let program = Program::new();
    let far = Fake::start();
    let (archive, index, amd64) = partial();
    program.write("alpine.tar", archive);
    let note = "alpine.tar: only linux/amd64 is in it, not linux/arm64; attestations are left out";
    for status in ["copied", "current"] {
        let run = program.run(&["import", "alpine.tar", "--to", "oci:store", "--report", "report.json"]).exits(0);
        let row = &run.images()[0];
        assert_eq!((row["status"].as_str(), row["platforms"].clone()), (Some(status), json!(["linux/amd64"])), "{row}");
        assert_eq!(row["notes"], json!([note]));
        // A layout has the index as it is.
        assert_eq!(row["digest"], Digest::sha256(&index).as_str());
        let run = program.run(&["import", "alpine.tar", "--to", &far.addr(), "--report", "report.json"]).exits(0);
        let row = &run.images()[0];
        assert_eq!((row["status"].as_str(), row["notes"].clone()), (Some(status), json!([note])), "{row}");
    }
    assert_eq!(names(&program, "store"), ["library/alpine:latest"]);
    program.run(&["verify", "store"]).exits(0);
    let run = program.run(&["verify", "alpine.tar"]).exits(0);
    assert!(run.stderr.contains("only linux/amd64 is in it"), "{}", run.stderr);
    let (_, made) = far.manifest("library/alpine", "latest").unwrap();
    let children = serde_json::from_slice::<Value>(&made).unwrap()["manifests"].clone();
    assert_eq!(children.as_array().unwrap().len(), 1);
    assert_eq!(children[0]["digest"], Digest::sha256(&amd64[2]).as_str());
    // What was asked for and is not there fails, and says what to do.
    let run = program.run(&["import", "alpine.tar", "--to", "oci:arm", "--platform", "linux/arm64", "--report", "report.json"]).exits(1);
    assert_eq!(run.images()[0]["status"], "failed");
    assert!(run.stderr.contains("it was not carried along") && run.stderr.contains("docker save --platform"), "{}", run.stderr);
    program.run(&["import", "alpine.tar", "--to", "oci:amd", "--platform", "linux/amd64"]).exits(0);
    // A tag that has all of it already keeps it.
    let whole = Fake::start();
    let arm64 = single("arm64", 11);
    for bytes in [&amd64[0], &amd64[1], &arm64[0], &arm64[1]] {
        whole.put_blob("library/alpine", bytes.clone());
    }
    whole.put_manifest("library/alpine", None, corpus::OCI_IMAGE, String::from_utf8(amd64[2].clone()).unwrap());
    whole.put_manifest("library/alpine", None, corpus::OCI_IMAGE, String::from_utf8(arm64[2].clone()).unwrap());
    whole.put_manifest("library/alpine", Some("latest"), corpus::OCI_INDEX, String::from_utf8(index.clone()).unwrap());
    let run = program.run(&["import", "alpine.tar", "--to", &whole.addr(), "--report", "report.json"]).exits(0);
    assert_eq!((run.images()[0]["status"].as_str(), run.images()[0]["notes"].clone()), (Some("current"), json!([])));
    assert_eq!(whole.digest("library/alpine", "latest").unwrap(), Digest::sha256(&index));
}

#[test]
fn what_nothing_can_bring_is_failed_and_named() {
    let program = Program::new();
    let [layer, config, manifest] = single("amd64", 20);
    let annotations = json!({"io.containerd.image.name": "docker.io/library/alpine:latest", "org.opencontainers.image.ref.name": "latest"});
    program.write("x.tar", tar(&oci(&named(descriptor(corpus::OCI_IMAGE, &manifest), &annotations), &[&config, &manifest])));
    let run = program.run(&["import", "x.tar", "--to", "oci:store", "--report", "report.json"]).exits(1);
    let row = &run.images()[0];
    assert_eq!(row["status"], "failed");
    assert!(row["error"]["message"].as_str().unwrap().contains(Digest::sha256(&layer).as_str()), "{row}");
    let run = program.run(&["verify", "x.tar"]).exits(1);
    assert!(run.stdout.contains(&format!("missing {}", Digest::sha256(&layer))), "{}", run.stdout);
}

#[test]
fn a_damaged_archive_is_found_by_verify() {
    let program = Program::new();
    let archive = oci_archive();
    let [layer, ..] = single("amd64", 1);
    let at = archive.windows(layer.len()).position(|window| window == layer).unwrap();
    let mut damaged = archive.clone();
    damaged[at + 1000] ^= 1;
    program.write("image.tar", &damaged);
    program.write("image.tgz", through("gzip", &["-c"], &damaged));
    for file in ["image.tar", "image.tgz"] {
        let run = program.run(&["verify", file]).exits(1);
        assert!(
            run.stdout.starts_with(&format!("damaged {} (team/app:1.0): the bytes hash to ", Digest::sha256(&layer))),
            "{}",
            run.stdout
        );
    }
}
