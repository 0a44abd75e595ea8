//! What a target holds.

use super::*;

/// Two repositories that share a layer, an index, and a repository whose only image has no tag any more.
fn stocked(options: Options) -> Fake {
    let fake = Fake::with(options);
    image(&fake, "team/app", Some("1"), &ImageSpec::new([layer(1), layer(2)]));
    image(&fake, "team/app", Some("same"), &ImageSpec::new([layer(1), layer(2)]));
    let child = image(&fake, "library/base", None, &ImageSpec::new([layer(1)]));
    corpus::index(&fake, "library/base", Some("2"), &[child]);
    image(&fake, "untagged", None, &ImageSpec::new([layer(9)]));
    fake
}

fn places(stdout: &str) -> Vec<&str> {
    stdout.lines().map(|line| line.split_once(' ').unwrap().1).collect()
}

#[test]
fn a_registry_is_walked_from_its_catalogue_and_each_manifest_is_read_once() {
    let fake = stocked(Options { page: Some(1), ..Options::default() });
    let program = Program::new();
    let run = program.run(&["inventory", "--of", &fake.addr()]).exits(0);
    assert_eq!(run.stderr, "");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines.is_sorted(), "{}", run.stdout);
    // team/app: manifest, config, two layers; library/base: index, manifest, config, layer.
    assert_eq!(places(&run.stdout).iter().filter(|repository| **repository == "team/app").count(), 4);
    assert_eq!(places(&run.stdout).iter().filter(|repository| **repository == "library/base").count(), 4);
    assert_eq!(lines.len(), 8, "{}", run.stdout);
    let shared = larder::content::Digest::sha256(&layer(1));
    assert_eq!(lines.iter().filter(|line| line.starts_with(shared.as_str())).count(), 2);
    assert_eq!(fake.count(Kind::Catalog), 3);
    assert_eq!(fake.count(Kind::ManifestGet), 3, "the tag `same` names what `1` does");

    let compressed = program.output(&["inventory", "-z", "--of", &fake.addr()]).stdout;
    assert_eq!(compressed[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    let read = |bytes: &[u8]| larder::bundle::inventory::Inventory::read(&program.write("far", bytes)).unwrap();
    assert_eq!(read(&compressed), read(run.stdout.as_bytes()));
}

#[test]
fn below_a_prefix_repositories_are_named_as_bundles_name_them() {
    let fake = stocked(Options::default());
    image(&fake, "teams/other", Some("1"), &ImageSpec::new([layer(5)]));
    let run = Program::new().run(&["inventory", "--of", &format!("{}/team", fake.addr())]).exits(0);
    assert_eq!(places(&run.stdout), ["app"; 4]);
}

#[test]
fn a_registry_without_a_catalogue_needs_a_list() {
    let fake = stocked(Options { catalog: false, ..Options::default() });
    let program = Program::new();
    let run = program.run(&["inventory", "--of", &fake.addr()]).exits(1);
    insta::assert_snapshot!(run.shown(&[(&fake, "REGISTRY")]), @"
    ---
    error: target: list repositories REGISTRY: it does not list its repositories (no `_catalog`, or not for this account) (name them: --list FILE, an image list as sync takes it, or --lock FILE)
    exit 1
    ");
    program.write(
        "larder.toml",
        format!(
            "version = 1\n[target]\nregistry = \"{}\"\n[[rule]]\nname = \"all\"\nsource = \"quay.io/*\"\ntarget = \"*\"\n",
            fake.addr()
        ),
    );
    program.write("list.csv", "image,tags\nquay.io/team/app,1\nquay.io/library/base,9*\ndocker.io/elsewhere,1\n");
    let run = program.run(&["inventory", "--list", "list.csv"]).exits(0);
    assert_eq!(run.stdout.lines().count(), 8, "of listed repositories all tags: {}", run.stdout);
    assert!(run.stderr.contains("list.csv:4:"), "{}", run.stderr);
}

#[test]
fn a_layout_is_walked_by_its_names() {
    let fake = stocked(Options::default());
    let program = Program::new();
    let app = format!("{}/team/app:1", fake.addr());
    program.run(&["sync", "--image", &app, "--to", "oci:store"]).exits(0);
    let run = program.run(&["inventory", "--of", "store"]).exits(0);
    let repository = format!("{}/team/app", fake.addr());
    assert_eq!(places(&run.stdout), [repository.as_str(); 4]);
    assert_eq!(program.run(&["inventory"]).exits(0).stdout, "", "a layout that does not exist yet holds nothing");
}

#[test]
fn lists_that_map_to_nothing_are_a_failure_and_no_empty_inventory() {
    let program = Program::new();
    program.write(
        "larder.toml",
        "version = 1\n[target]\nlayout = \"store\"\n[[rule]]\nname = \"q\"\nsource = \"quay.io/*\"\ntarget = \"q/*\"\n",
    );
    program.write("list.txt", "ghcr.io/nobody/nothing:1\n");
    program.write("empty.txt", "# nothing\n");
    for list in ["list.txt", "empty.txt"] {
        let run = program.run(&["inventory", "--list", list]).exits(1);
        assert_eq!(run.stdout, "");
        assert!(run.stderr.contains(&format!("nothing in {list} maps to a repository of ")), "{}", run.stderr);
    }
}
