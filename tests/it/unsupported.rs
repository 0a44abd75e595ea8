//! What later versions know is refused by name, and never taken for something else.

use crate::support::corpus::simple;
use crate::support::fake::Fake;
use crate::support::program::Program;

/// A program with a configuration, a list and a layout; nothing in it may change.
fn program(fake: &Fake) -> Program {
    let program = Program::new();
    simple(fake, "app", "v1", 1);
    program.configure(fake, &[fake]);
    program.list([fake.image("app:v1")]);
    program
}

fn files(program: &Program) -> Vec<String> {
    let entries = std::fs::read_dir(program.path(".")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_address_is_not_taken_for_a_folder_of_that_name() {
    let fake = Fake::start();
    let program = program(&fake);
    let before = files(&program);
    for (arguments, named) in [
        (&["sync", "list.txt", "--to", "oci:s3://bucket/prefix"][..], "--to oci:s3://bucket/prefix: s3:// is not in this version"),
        (&["sync", "list.txt", "--to", "oci:file:///srv/store"], "file:// is not in this version"),
        (&["plan", "list.txt", "--to", "oci:gs://bucket/prefix"], "gs:// is not in this version"),
        (&["sync", "s3://bucket/list.txt"], "s3:// is not in this version"),
        (&["sync", "https://example.com/list.txt"], "https:// is not in this version"),
        (&["sync", "list.txt", "--report", "s3://bucket/report.json"], "--report s3://bucket/report.json"),
        (&["sync", "list.txt", "--failed", "s3://bucket/failed.csv"], "s3:// is not in this version"),
        (&["sync", "list.txt", "--metrics", "s3://bucket/larder.prom"], "s3:// is not in this version"),
        (&["sync", "list.txt", "--lock", "s3://bucket/lock"], "s3:// is not in this version"),
        (&["export", "list.txt", "--to", "s3://bucket/bundle"], "--to s3://bucket/bundle: s3:// is not in this version"),
        (&["export", "list.txt", "--to", "out", "--cache", "s3://bucket/cache"], "s3:// is not in this version"),
        (&["export", "list.txt", "--to", "out", "--base", "s3://bucket/inventory"], "s3:// is not in this version"),
        (&["import", "s3://bucket/bundle", "--to", "oci:store"], "s3:// is not in this version"),
        (&["verify", "oci:s3://bucket/store"], "s3:// is not in this version"),
        (&["inventory", "--of", "oci:s3://bucket/store"], "s3:// is not in this version"),
        (&["serve", "s3://bucket/store"], "s3:// is not in this version"),
        (&["gc", "oci:s3://bucket/store"], "s3:// is not in this version"),
    ] {
        let run = program.run(arguments).exits(2);
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(named), "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
    assert_eq!((files(&program), fake.requests().len()), (before, 0));
}

#[test]
fn a_report_of_another_format_is_refused() {
    let fake = Fake::start();
    let program = program(&fake);
    for (name, why) in [
        ("x.html", "reports as HTML are not in this version: the name must end in .json or .csv"),
        ("x.txt", "the name must end in .json or .csv"),
        ("report", "the name must end in .json or .csv"),
    ] {
        for command in [&["sync", "list.txt"][..], &["export", "list.txt", "--to", "out"], &["import", "x", "--to", "oci:store"]] {
            let run = program.run(&[command, &["--report", name]].concat()).exits(2);
            assert!(run.stderr.contains(why), "{name}: {}", run.stderr);
        }
    }
    assert_eq!(fake.requests().len(), 0);
    assert!(!program.path("x.html").exists() && !program.path("out").exists());
}

#[test]
fn flags_and_commands_of_later_versions_are_refused_by_name() {
    let fake = Fake::start();
    let program = program(&fake);
    for (arguments, named) in [
        (&["sync", "list.txt", "--shard", "0/4"][..], "--shard is not in this version"),
        (&["sync", "list.txt", "--shard=auto", "--run", "x"], "--shard is not in this version"),
        (&["sync", "list.txt", "--unfinished-exit", "0"], "--unfinished-exit is not in this version"),
        (&["sync", "list.txt", "--ignore-min-age", "app"], "--ignore-min-age is not in this version"),
        (&["plan", "list.txt", "--verify"], "--verify is not in this version"),
        (&["export", "list.txt", "--to", "out", "--sign-with", "x"], "--sign-with is not in this version"),
        (&["sync", "list.txt", "--to", "oci:a", "--to", "oci:b"], "several targets are not in this version"),
        (&["prune", "list.txt"], "the command `prune` is not in this version"),
        (&["report", "merge", "x"], "the command `report` is not in this version"),
        (&["config", "schema"], "the command `schema` is not in this version"),
    ] {
        let run = program.run(arguments).exits(2);
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(named), "{arguments:?}: {}", run.stderr);
    }
    // What no version knows is a slip, and gets the usual help.
    let run = program.run(&["sync", "--recheckk"]).exits(2);
    assert!(run.stderr.contains("--recheck") && !run.stderr.contains("not in this version"), "{}", run.stderr);
    assert_eq!(fake.requests().len(), 0);
}

#[test]
fn keys_of_later_versions_are_refused_by_name() {
    let fake = Fake::start();
    let program = program(&fake);
    let rule = "[[rule]]\nname = \"a\"\nsource = \"quay.io/*\"\ntarget = \"*\"\n";
    for (text, named) in [
        (
            "[[target]]\nname = \"eu\"\nregistry = \"eu.example.com\"\n".to_owned(),
            ":2: several targets (`[[target]]`) are not in this version",
        ),
        ("[target]\nregistry = \"eu.example.com\"\ncreate_repositories = true\n".to_owned(), ":4: `create_repositories` is not in this"),
        ("[target]\nlayout = \"s3://bucket/prefix\"\n".to_owned(), ":3: layout: s3:// is not in this version"),
        ("[[notify]]\non = [\"failed\"]\n".to_owned(), ":2: `notify` is not in this version"),
        ("lists = [\"s3://bucket/a.csv\"]\n".to_owned(), ":2: lists: s3://bucket/a.csv: s3:// is not in this version"),
        (rule.to_owned() + "verify = [{ key = \"cosign.pub\" }]\n", ":6: `verify` is not in this version"),
        (rule.to_owned() + "gate = { command = [\"x\"] }\n", ":6: `gate` is not in this version"),
        (rule.to_owned() + "min_age = \"3d\"\n", ":6: `min_age` is not in this version"),
        (rule.to_owned() + "targets = [\"eu\"]\n", ":6: `targets` is not in this version"),
        (rule.to_owned() + "accounts = [\"a\"]\n", ":6: `accounts` is not in this version"),
        ("[[credentials]]\nname = \"a\"\nlogin_server = \"x.azurecr.io\"\nidentity = \"azure\"\n".to_owned(), "`identity` is not in this"),
        ("[registry.\"quay.io\"]\nmirrors = [\"https://x\"]\n".to_owned(), ":3: `mirrors` is not in this version"),
        ("[registry.\"quay.io\"]\nendpoint = \"https://x.example.com/path\"\n".to_owned(), "a path is not in this version"),
        (
            "[registry.\"quay.io\"]\nbandwidth = [{ rate = \"5MB/s\" }]\n".to_owned(),
            ":3: registry \"quay.io\": bandwidth: rates by the time of day are not in this version",
        ),
    ] {
        program.write("larder.toml", format!("version = 1\n{text}"));
        let run = program.run(&["sync", "list.txt"]).exits(2);
        assert!(run.stderr.contains(&format!("larder.toml{named}")) || run.stderr.contains(named), "{text}{}", run.stderr);
    }
    program.configure(&fake, &[&fake]);
    program.write("list.csv", format!("image,tags\n{},min-age:3d\nhelm+https://charts.example.com/x,\n", fake.image("app")));
    let run = program.sync(&["list.csv"]).exits(1);
    let messages: Vec<&str> = run.with_status("failed").iter().map(|row| row["error"]["message"].as_str().unwrap()).collect();
    assert!(messages.len() == 2 && messages.iter().all(|message| message.contains("not in this version")), "{messages:?}");
    assert_eq!(fake.requests().len(), 0);
}
