//! Names and files from strangers: names that lead elsewhere, files that never end, devices, pipes.

use std::os::unix::fs::symlink;
use std::path::Path;

use larder::content::Digest;
use serde_json::{Value, json};

use crate::support::corpus::{ImageSpec, OCI_CONFIG, OCI_IMAGE, OCI_INDEX, image};
use crate::support::fake::Fake;
use crate::support::layer::noise;
use crate::support::program::{Program, Run};

/// A layout in `folder`, as other tools write one, with these entries: what they point to, their names.
fn layout(program: &Program, folder: &str, names: &[(Option<&str>, Option<&str>)]) -> Vec<Digest> {
    let put = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        program.write(&format!("{folder}/blobs/sha256/{}", digest.encoded()), bytes);
        digest
    };
    let mut digests = vec![];
    let mut entries: Vec<Value> = vec![];
    for (at, (name, source)) in names.iter().enumerate() {
        let layer = put(&noise(at as u64 + 1, 500));
        let config = put(b"{}");
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_IMAGE,
            "config": {"mediaType": OCI_CONFIG, "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 500}]})
        .to_string();
        let digest = put(manifest.as_bytes());
        let mut annotations = serde_json::Map::new();
        annotations.extend(name.map(|name| ("org.opencontainers.image.ref.name".to_owned(), json!(name))));
        annotations.extend(source.map(|source| ("io.containerd.image.name".to_owned(), json!(source))));
        entries.push(json!({"mediaType": OCI_IMAGE, "digest": digest, "size": manifest.len(), "annotations": annotations}));
        digests.push(digest);
    }
    program.write(&format!("{folder}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    program.write(&format!("{folder}/index.json"), json!({"schemaVersion": 2, "manifests": entries}).to_string());
    digests
}

fn index(program: &Program, folder: &str) -> Vec<Value> {
    let index: Value = serde_json::from_str(&program.read(&format!("{folder}/index.json"))).unwrap();
    index["manifests"].as_array().unwrap().clone()
}

fn names(program: &Program, folder: &str) -> Vec<String> {
    let name = |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or_default().to_owned();
    index(program, folder).iter().map(name).collect()
}

/// Sees that nothing in what was said would be acted on by a terminal.
fn is_clean(run: &Run) {
    for text in [&run.stdout, &run.stderr] {
        let hostile =
            text.chars().find(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
        assert_eq!(hostile, None, "{text:?}");
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused_for_layouts_and_registries_alike() {
    let ffff = format!("x@sha256:{}", "f".repeat(64));
    let both = "docker.io/library/redis:7";
    let hostile = [
        (Some("../prod/app:1"), Some(both)),
        (Some("/etc/passwd:1"), Some(both)),
        (Some("a/../../b:1"), Some(both)),
        (Some("team//app:1"), Some(both)),
        (Some("team/\u{202e}app:1"), Some(both)),
        (Some("team/\x1b[31mapp:1"), Some(both)),
        (Some("a b/c:1"), Some(both)),
        (Some("Team/App:1"), Some(both)),
        (Some(ffff.as_str()), Some(both)),
        (Some(ffff.as_str()), None),
        (None, Some("quay.io/a/b@sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff")),
        (None, Some("quay.io/\u{202e}a/b:1")),
        (None, Some("../prod/app:1")),
        (Some("team/good:1"), Some("docker.io/team/good:1")),
    ];
    let program = Program::new();
    let far = Fake::start();
    layout(&program, "strange", &hostile);
    for to in ["oci:store", &far.addr()] {
        let run = program.run(&["import", "strange", "--to", to, "--report", "report.json"]).exits(1);
        is_clean(&run);
        let delivered: Vec<&str> = run.with_status("copied").iter().map(|row| row["target"].as_str().unwrap()).collect();
        assert!(delivered.len() == 1 && delivered[0].ends_with("team/good:1"), "{delivered:?}");
        let said = run.stderr.matches("error: ").count();
        // One of them has the name of another.
        assert!(said >= hostile.len() - 2, "{said}: {}", run.stderr);
    }
    assert_eq!(names(&program, "store"), ["team/good:1"]);
    assert_eq!(far.tags("team/good"), ["1"]);
    let run = program.run(&["verify", "strange"]);
    is_clean(&run);
    // Names of a log as JSON mean what they meant, and are harmless all the same.
    let run = program.run(&["import", "strange", "--to", "oci:json", "--log-format", "json"]).exits(1);
    is_clean(&run);
    for line in run.stderr.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
}

#[test]
fn only_a_full_reference_is_written_as_where_an_image_came_from() {
    let program = Program::new();
    layout(
        &program,
        "theirs",
        &[(Some("7"), Some("7")), (Some("quay.io/a/b:1"), None), (Some("team/app:2"), Some("docker.io/team/app:2"))],
    );
    program.run(&["import", "theirs", "--to", "oci:store"]).exits(0);
    let source = |entry: &Value| entry["annotations"]["io.containerd.image.name"].as_str().unwrap_or("none").to_owned();
    let sources = index(&program, "store").iter().map(source).collect::<Vec<_>>();
    let mut written: Vec<(String, String)> = names(&program, "store").into_iter().zip(sources).collect();
    written.sort();
    let expected = [("a/b:1", "quay.io/a/b:1"), ("team/app:2", "docker.io/team/app:2"), ("theirs:7", "none")];
    assert_eq!(written, expected.map(|(name, source)| (name.to_owned(), source.to_owned())));
}

#[test]
fn children_that_oras_lists_beside_their_index_are_no_images() {
    let program = Program::new();
    let near = Fake::start();
    crate::support::corpus::multi(&near, "team/app", "1", 1, &["linux/amd64", "linux/arm64"]);
    program.run(&["sync", "--unmatched", "mirror", "--image", &near.image("team/app:1"), "--to", "oci:theirs"]).exits(0);
    let mut entries = index(&program, "theirs");
    let top = entries[0]["digest"].as_str().unwrap().to_owned();
    let text = program.read(&format!("theirs/blobs/sha256/{}", top.strip_prefix("sha256:").unwrap()));
    let children = serde_json::from_str::<Value>(&text).unwrap()["manifests"].as_array().unwrap().clone();
    entries.extend(children);
    program.write("theirs/index.json", json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).to_string());
    let run = program.run(&["import", "theirs", "--to", "oci:store", "--report", "report.json"]).exits(0);
    assert_eq!(run.images().len(), 1);
    assert_eq!(names(&program, "store").len(), 1);
}

#[test]
fn an_index_of_a_layout_has_its_bounds() {
    let program = Program::new();
    layout(&program, "store", &[(Some("team/app:1"), None)]);
    let file = std::fs::File::options().write(true).open(program.path("store/index.json")).unwrap();
    file.set_len(64 * 1024 * 1024 + 1).unwrap();
    for arguments in
        [&["verify", "store"][..], &["import", "store", "--to", "oci:other"], &["serve", "store"], &["inventory", "--of", "store"]]
    {
        let run = program.run(arguments);
        assert!(
            run.code != 0 && run.stderr.contains("index.json") && run.stderr.contains("has more than"),
            "{arguments:?}: {}",
            run.stderr
        );
    }
    program.write("store/index.json", format!("{{\"manifests\":[{}{{}}]}}", "{},".repeat(500_000)));
    for arguments in [&["serve", "store"][..], &["inventory", "--of", "store"], &["gc", "store"]] {
        let run = program.run(arguments);
        assert!(run.code != 0 && run.stderr.contains("more than 500000 entries"), "{arguments:?}: {}", run.stderr);
    }
}

/// `/dev/zero` under a name of every kind of file.
#[test]
fn devices_and_pipes_are_not_read() {
    let program = Program::new();
    let target = Fake::start();
    let upstream = Fake::start();
    program.configure(&target, &[&upstream]);
    assert!(std::process::Command::new("mkfifo").arg(program.path("pipe")).status().unwrap().success());
    for (name, real) in [("pipe", "pipe"), ("zero", "/dev/zero")] {
        let real = if real == "pipe" { program.path("pipe") } else { Path::new(real).to_owned() };
        for ending in ["txt", "csv", "toml", "json", "bundle.json", "tar", "yaml", "zst"] {
            symlink(&real, program.path(&format!("{name}.{ending}"))).unwrap();
        }
    }
    for (name, why) in [("pipe", "it is a named pipe"), ("zero", "it is a device, not a file")] {
        let at = |ending: &str| format!("{name}.{ending}");
        let commands: [&[&str]; 14] = [
            &["sync", &at("txt")],
            &["sync", &at("csv")],
            &["plan", &at("txt")],
            &["sync", "-c", &at("toml"), "--image", "a"],
            &["config", "check", "-c", &at("toml")],
            &["plan", "--lock", &at("json")],
            &["sync", "--lock", &at("json"), "--frozen"],
            &["export", "--to", "out", "--base", &at("zst"), "--image", "a"],
            &["import", &at("tar")],
            &["import", &at("bundle.json")],
            &["verify", &at("tar")],
            &["verify", &at("bundle.json")],
            &["rules", "import", &at("json")],
            &["list", "scan", &at("yaml")],
        ];
        for arguments in commands {
            let run = program.run(arguments);
            let said = format!("{}{}", run.stdout, run.stderr);
            assert!(matches!(run.code, 1 | 2) && said.contains(why), "{arguments:?}: {} {said}", run.code);
        }
        let run = program.run(&["serve", &at("tar")]);
        assert_eq!(run.code, 2, "{}", run.stderr);
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn devices_and_pipes_are_not_written_to() {
    let program = Program::new();
    let (target, upstream) = (Fake::start(), Fake::start());
    image(&upstream, "team/app", Some("1"), &ImageSpec::new([noise(1, 500).into()]));
    program.configure(&target, &[&upstream]);
    let source = upstream.image("team/app:1");
    assert!(std::process::Command::new("mkfifo").arg(program.path("pipe.json")).status().unwrap().success());
    symlink("/dev/zero", program.path("zero.json")).unwrap();
    symlink("/dev/full", program.path("full.json")).unwrap();
    for file in ["pipe.json", "zero.json", "full.json"] {
        for flag in ["--report", "--failed", "--metrics", "--lock"] {
            let run = program.run(&["sync", "--image", &source, flag, file]).exits(2);
            assert!(run.stderr.contains("it is a named pipe") || run.stderr.contains("it is a device"), "{flag} {file}: {}", run.stderr);
        }
    }
    assert_eq!(upstream.requests().len(), 0, "nothing was attempted");
    program.run(&["sync", "--image", &source, "--failed", "/dev/null"]).exits(0);
}

#[test]
fn lists_have_their_bounds_and_may_come_through_a_pipe_of_the_shell() {
    let program = Program::new();
    let (target, upstream) = (Fake::start(), Fake::start());
    image(&upstream, "team/app", Some("1"), &ImageSpec::new([noise(1, 500).into()]));
    program.configure(&target, &[&upstream]);
    let source = upstream.image("team/app:1");
    let shell = |script: &str| {
        let mut command = std::process::Command::new("bash");
        command.arg("-c").arg(script).current_dir(program.path(""));
        command.env("XDG_STATE_HOME", program.path("state")).env("LARDER", env!("CARGO_BIN_EXE_larder"));
        command.output().unwrap()
    };
    for script in [
        format!("$LARDER sync <(echo {source})"),
        format!("echo {source} | $LARDER sync /dev/stdin"),
        format!("echo {source} | $LARDER sync -"),
    ] {
        let output = shell(&script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for script in ["$LARDER sync - </dev/zero", "$LARDER sync <(cat /dev/zero)", "$LARDER sync /dev/stdin < <(cat /dev/zero)"] {
        let output = shell(script);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("it has more than 64.0 MiB"), "{script}: {said}");
    }
    // One line that is too long is that line's failure.
    program.write("list.txt", format!("{source}\n{}\n", "a".repeat(70_000)));
    program.write("list.csv", format!("image,tags\n{source},\nx,{}\n", "a;".repeat(40_000)));
    for list in ["list.txt", "list.csv"] {
        let run = program.run(&["sync", list, "--report", "report.json"]).exits(1);
        let failed = run.with_status("failed");
        assert_eq!((failed.len(), run.images().len()), (1, 2), "{list}");
        let message = failed[0]["error"]["message"].as_str().unwrap();
        assert!(message.contains("at most 65536 are read"), "{list}: {message}");
        assert!(failed[0]["source"].as_str().unwrap().len() < 2000);
    }
}
