//! `larder.toml` and cache rules, as their users meet them: what is wrong, where, and how a name resolves.

use crate::support::program::Program;
use insta::assert_snapshot;

/// `--image alpine` with this configuration, which is never asked for.
fn configured(text: &str) -> String {
    let program = Program::new();
    program.write("larder.toml", text);
    program.sync(&["--image", "alpine"]).shown(&[])
}

#[test]
fn a_wrong_configuration_is_told_with_file_and_line_and_nothing_is_attempted() {
    assert_snapshot!(configured("version = 1\ncolour = \"red\"\n"), @"
    ---
    error: local: read configuration: larder.toml:2: unknown key `colour` (known here: version, lists, target, state, rule, credentials, registry)
    exit 2
    ");
    assert_snapshot!(configured("version = 2\nfuture = true\n"), @"
    ---
    error: local: read configuration: larder.toml:1: version 2 is not known to this larder, which reads version 1
    exit 2
    ");
    assert_snapshot!(configured("version = 1\n[target\n"), @"
    ---
    error: local: read configuration: larder.toml:2: unclosed table, expected `]`
    exit 2
    ");
    assert_snapshot!(configured("[target]\nregistry = \"r.example\"\nlayout = \"x\"\n"), @"
    ---
    error: local: read configuration: larder.toml:1: the version is missing: write `version = 1` first
    error: local: read configuration: larder.toml:3: the target is a registry or a layout, not both
    exit 2
    ");
    assert_snapshot!(configured("version = 1\n[registry.\"a.example\"]\npulls = { limit = 1 }\nplain_http = 7\n"), @"
    ---
    error: local: read configuration: larder.toml:4: invalid type: integer `7`, expected a boolean
    exit 2
    ");
}

/// A rule, and what stands in it besides.
fn rule(name: &str, source: &str, target: &str, more: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nsource = \"{source}\"\ntarget = \"{target}\"\n{more}")
}

#[test]
fn wrong_rules_are_all_named_at_once() {
    let text = [
        "version = 1\n[target]\nregistry = \"r.example\"\n".to_owned(),
        rule("one", "docker.io/library/*", "hub/*", ""),
        rule("two", "quay.io/*", "hub/quay/*", ""),
        rule("tagged", "ghcr.io/a/b:1", "b", ""),
        rule("later", "ghcr.io/a/c", "c", "platforms = [\"linux\"]\nmin_tags = -2\n"),
        rule("warm", "ghcr.io/a/w", "w", "blobs = \"get\"\n"),
        rule("foreign", "ghcr.io/a/d", "d", "credentials = \"hub\"\n"),
        rule("nobody", "ghcr.io/a/e", "e", "credentials = \"gone\"\n"),
        rule("half", "ghcr.io/a/*", "fixed", ""),
        "[[credentials]]\nname = \"hub\"\nlogin_server = \"docker.io\"\nusername = \"u\"\npassword = { env = \"P\" }\n".to_owned(),
    ]
    .concat();
    assert_snapshot!(configured(&text), @r#"
    ---
    error: local: read configuration: larder.toml:9: rule "two": its target hub/quay/* lies inside the target hub/* of rule "one" (line 5) (give one of the two another target)
    error: local: read configuration: larder.toml:14: rule "tagged": source `ghcr.io/a/b:1`: a rule is about repositories; remove the tag `:1`
    error: local: read configuration: larder.toml:20: rule "later": platforms: `linux` is not a platform: write it like linux/amd64, linux/arm/v7 or windows/amd64:10.0.20348
    error: local: read configuration: larder.toml:21: rule "later": min_tags must be 0 or more
    error: local: read configuration: larder.toml:26: rule "warm": blobs is for delivery = "warm"
    error: local: read configuration: larder.toml:31: rule "foreign": credential set "hub" is for docker.io, not for ghcr.io
    error: local: read configuration: larder.toml:36: rule "nobody": there is no credential set "gone"
    error: local: read configuration: larder.toml:38: rule "half": `*` must stand on both sides or on neither: ghcr.io/a/* to fixed
    exit 2
    "#);
    let program = Program::new();
    program.write("other.toml", &text);
    let checked = program.run(&["-c", "other.toml", "config", "check"]).exits(1);
    assert_eq!((checked.stdout.lines().count(), checked.stderr.as_str()), (8, ""));
    assert!(checked.stdout.lines().all(|line| line.starts_with("error: other.toml:")), "{}", checked.stdout);
    assert_eq!(program.run(&["-c", "other.toml", "rules", "check"]).exits(1).stdout, checked.stdout);
}

#[test]
fn rules_explain_shows_how_a_name_resolves() {
    let program = Program::new();
    let text = [
        "version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\nrepository_prefix = \"mirror\"\n".to_owned(),
        rule("docker-library", "docker.io/library/*", "library/*", "credentials = \"hub\"\n"),
        rule("hello", "docker.io/library/hello-world", "hello", ""),
        rule("quay", "quay.io/*", "quay/*", ""),
        "[[credentials]]\nname = \"hub\"\nlogin_server = \"docker.io\"\nusername = \"u\"\npassword = { env = \"P\" }\n".to_owned(),
    ]
    .concat();
    program.write("larder.toml", text);
    let explain = |image: &str| program.run(&["rules", "explain", image]).shown(&[]);
    assert_snapshot!(explain("alpine:3.20"), @"
    image: docker.io/library/alpine:3.20
    considered: docker-library (docker.io/library/* to library/*)
    rule: docker-library
    source: docker.io/library/alpine:3.20
    target: contoso.azurecr.io/mirror/library/alpine:3.20
    credentials: hub
    delivery: push
    pulls: 0 if the target is current; else 1 for a single image, or 1 for an index and 1 for each of its platforms
    ---
    exit 0
    ");
    assert_snapshot!(explain("hello-world"), @"
    image: docker.io/library/hello-world
    considered: hello (docker.io/library/hello-world to hello), docker-library (docker.io/library/* to library/*); hello wins: a fixed source goes before a wildcard
    rule: hello
    source: docker.io/library/hello-world:latest
    target: contoso.azurecr.io/mirror/hello:latest
    credentials: hub
    delivery: push
    pulls: 0 if the target is current; else 1 for a single image, or 1 for an index and 1 for each of its platforms
    ---
    exit 0
    ");
    assert_snapshot!(explain("contoso.azurecr.io/mirror/quay/prometheus/busybox:latest"), @"
    image: contoso.azurecr.io/mirror/quay/prometheus/busybox:latest
    considered: quay (quay.io/* to quay/*)
    rule: quay
    source: quay.io/prometheus/busybox:latest
    target: contoso.azurecr.io/mirror/quay/prometheus/busybox:latest
    credentials: none (a docker or podman login if there is one, else anonymous)
    delivery: push
    pulls: 0 if the target is current; else 1 for a single image, or 1 for an index and 1 for each of its platforms
    ---
    exit 0
    ");
    assert_snapshot!(explain("ghcr.io/a/b"), @r#"
    image: ghcr.io/a/b
    considered: none
    rule: none
    source: ghcr.io/a/b:latest
    target: none
    credentials: none (a docker or podman login if there is one, else anonymous)
    delivery: none
    pulls: none
    ---
    error: local: resolve ghcr.io/a/b: no cache rule covers ghcr.io/a/b; the nearest is "docker-library" (docker.io/library/* to library/*) (add a rule to larder.toml, or use --unmatched mirror)
    exit 1
    "#);
    assert_snapshot!(program.run(&["rules", "check"]).shown(&[]), @"
    ---
    3 rules: no problems found
    exit 0
    ");
}

#[test]
fn config_show_keeps_secrets_to_itself() {
    let mut program = Program::new();
    program.set("HUB_PASSWORD", "hunter2");
    program.write(
        "larder.toml",
        "version = 1\nlists = [\"a.txt\"]\n[target]\nregistry = \"r.example\"\n[[credentials]]\nname = \"hub\"\nlogin_server = \"docker.io\"\n\
         username = \"u\"\npassword = { env = \"HUB_PASSWORD\" }\n[registry.\"docker.io\"]\nconcurrency = 4\n",
    );
    assert_snapshot!(program.run(&["config", "show"]).shown(&[]), @r#"
    # in effect from larder.toml
    version = 1
    lists = ["a.txt"]

    [target]
    registry = "r.example"
    repository_prefix = ""
    overlap = "error"

    [[credentials]]
    name = "hub"
    login_server = "docker.io"
    username = "u"
    password = { env = "HUB_PASSWORD" }

    [registry."docker.io"]
    plain_http = false
    insecure_skip_verify = false
    concurrency = 4
    allow_private = false
    profile = "docker-hub"
    retry_after_max = "5m"

    [registry."r.example"]
    plain_http = false
    insecure_skip_verify = false
    concurrency = 64
    allow_private = false
    retry_after_max = "5m"
    ---
    exit 0
    "#);
    program.write("a.txt", "alpine\n");
    program
        .write("larder.toml", program.read("larder.toml") + "[[rule]]\nname = \"a\"\nsource = \"docker.io/library/*\"\ntarget = \"*\"\n");
    assert_snapshot!(program.run(&["config", "check"]).shown(&[]), @"
    ---
    larder.toml: no problems found
    exit 0
    ");
    let plain = "version = 1\n[[credentials]]\nname = \"hub\"\nlogin_server = \"docker.io\"\nusername = \"u\"\npassword = \"hunter2\"\n";
    program.write("larder.toml", plain);
    let refused = program.run(&["config", "show"]).shown(&[]);
    assert!(!refused.contains("hunter2"), "{refused}");
    assert_snapshot!(refused, @r#"
    ---
    error: local: read configuration: larder.toml:6: credential set "hub": password may not be written here: use { env = "NAME" }, { file = "PATH" } or { command = ["PROGRAM", "ARGUMENT"] }
    exit 2
    "#);
}
