use std::time::Duration;

use super::*;
use crate::content::{ForeignLayers, IndexMode, Policy, Recheck, Referrers};
use crate::rules::{WarmBlobs, WarmSettings};

fn parse_text(text: &str) -> Result<Config, Vec<Error>> {
    parse(text, Path::new("conf/larder.toml"))
}

/// The errors of a file, one a line, as a user sees them.
fn errors(text: &str) -> String {
    let errors = parse_text(text).map(|_| ()).unwrap_err();
    assert!(errors.iter().all(|error| error.kind() == crate::Kind::Local && error.side() == crate::Side::Local));
    errors.iter().map(Error::message).collect::<Vec<_>>().join("\n")
}

/// Every key that this version knows.
const FULL: &str = r#"
version = 1
lists = ["lists/base.csv", "/etc/more.txt"]

[target]
registry = "contoso.azurecr.io"
repository_prefix = "mirror"
overlap = "longest"

[[rule]]
name = "docker-library"
source = "docker.io/library/*"
target = "library/*"
credentials = "hub"
delivery = "push"
immutable_tags = ["v*", "/^[0-9]{8}$/"]

[[rule]]
name = "hello"
source = "docker.io/hello-world"
target = "hello"

[[credentials]]
name = "hub"
login_server = "index.docker.io"
username = "alice"
password = { command = ["./token", "hub"] }

[[credentials]]
name = "ghcr"
login_server = "ghcr.io"
username = { env = "GH_USER" }
password = { file = "secret" }

[registry."registry-1.docker.io"]
endpoint = "http://mirror:5000"
plain_http = true
ca = "corp-ca.pem"
client_cert = "c.pem"
client_key = "/k.pem"
insecure_skip_verify = true
concurrency = 3
allow_private = true
pulls = { limit = 200, reserve = 20 }
requests_per_second = 10
bandwidth = "20MB/s"
min_rate = "2KiB/s"
retry_after_max = "10m"

[registry."mirror.corp"]
profile = "harbor"
"#;

#[test]
fn a_whole_file_is_read() {
    let config = parse_text(FULL).unwrap();
    assert_eq!(config.path.as_deref(), Some(Path::new("conf/larder.toml")));
    assert_eq!(config.lists, [Path::new("conf/lists/base.csv"), Path::new("/etc/more.txt")]);
    assert_eq!(config.target.to_string(), "contoso.azurecr.io/mirror");
    assert_eq!(config.rules.overlap(), Overlap::Longest);
    let rules: Vec<_> = config.rules.rules().iter().map(|rule| (rule.name.as_str(), rule.source.to_string(), rule.line)).collect();
    assert_eq!(
        rules,
        [("docker-library", "docker.io/library/*".to_owned(), 11), ("hello", "docker.io/library/hello-world".to_owned(), 19)]
    );
    assert_eq!(config.credentials[0].login_server, "docker.io");
    let hub = config.registry("docker.io");
    assert_eq!(hub.endpoint_host().as_deref(), Some("mirror:5000"));
    assert_eq!(hub.ca.as_deref(), Some(Path::new("conf/corp-ca.pem")));
    assert_eq!(hub.client_key.as_deref(), Some(Path::new("/k.pem")));
    assert_eq!((hub.concurrency, hub.insecure_skip_verify, hub.allow_private), (Some(3), true, true));
    assert_eq!(hub.pulls, Some(PullLimit { limit: Some(200), window: Duration::from_secs(6 * 3600), reserve: 20 }));
    assert_eq!((hub.requests_per_second, hub.retry_after_max), (Some(10.0), Some(Duration::from_secs(600))));
    assert_eq!((hub.bandwidth.unwrap().per_second(), hub.min_rate.unwrap().per_second()), (20_000_000, 2048));
    let profile = |host: &str| config.registry(host).profile(host).map(|profile| profile.name);
    assert_eq!((profile("docker.io"), profile("mirror.corp"), profile("a.corp")), (Some("docker-hub"), Some("harbor"), None));
    let immutable = &config.rules.rules()[0].immutable_tags;
    assert!(immutable.matches("v1") && immutable.matches("20260101") && !immutable.matches("latest"));
    assert_eq!(config.registry("quay.io"), RegistrySettings::default());
    assert!(!config.implicit);
}

#[test]
fn little_is_needed() {
    let config = parse_text("version = 1\n").unwrap();
    assert_eq!(config.target, TargetConfig::Layout { path: "conf/larder-store".into() });
    assert_eq!(config.default_unmatched(), crate::rules::Unmatched::Fail);
    assert_eq!(Config::default().default_unmatched(), crate::rules::Unmatched::Mirror);
    assert!(parse_text("\u{feff}version = 1\r\n[target]\r\nlayout = \"store\"\r\n").is_ok());
}

#[test]
fn a_file_that_is_not_there_is_an_error_only_if_it_was_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Config::load(Some(&folder.path().join("other.toml"))).unwrap_err();
    assert!(missing[0].message().contains("other.toml: "), "{missing:?}");
    let path = folder.path().join("larder.toml");
    std::fs::write(&path, "version = 1\n[target]\nlayout = \"store\"\n").unwrap();
    assert_eq!(Config::load(Some(&path)).unwrap().target, TargetConfig::Layout { path: folder.path().join("store") });
}

#[test]
fn syntax_and_unknown_keys_are_told_with_their_line_on_one_line() {
    for (text, expected) in [
        ("version = 1\nlists = [\"a\"\n[target]\n", "conf/larder.toml:"),
        (
            "version = 1\ntaget = 1\n",
            "conf/larder.toml:2: unknown key `taget`; did you mean `target`? (known here: version, lists, target, state, rule, credentials, registry)",
        ),
        (
            "version = 1\n[[rule]]\nname = \"a\"\nsource = \"quay.io/a\"\ntarget = \"a\"\ncredential = \"x\"\n",
            "conf/larder.toml:6: unknown key `credential`; did you mean `credentials`? (known here: name, source, target, credentials, delivery, immutable_tags, platforms, platforms_required, index, referrers, referrers_recheck, blobs, upstream_check, warm_ttl, min_tags, foreign_layers)",
        ),
        ("version = 1\n[registry.\"quay.io\"]\nproxy = 1\n", "conf/larder.toml:3: unknown key `proxy` (known here: endpoint, plain_http,"),
        ("version = 1\n\n[[rule]]\nname = \"a\"\n", "conf/larder.toml:3: missing field `source`"),
        ("version = 1\nlists = 5\n", "conf/larder.toml:2: invalid type: integer `5`, expected a sequence"),
        ("version = 1\nversion = 1\n", "conf/larder.toml:2: duplicate key"),
    ] {
        let message = errors(text);
        assert!(message.starts_with(expected) && !message.contains('\n'), "{text}\n{message}");
    }
}

#[test]
fn what_was_read_otherwise_than_meant_is_told_with_what_to_write() {
    let told = |text: &str| errors(&format!("version = 1\n{text}"));
    assert_eq!(
        told("[registry.docker.io]\nconcurrency = 4\n"),
        "conf/larder.toml:2: `[registry.docker.io]` is read as tables within tables: write `[registry.\"docker.io\"]`, with quotes around the host"
    );
    assert!(told("[registry.localhost:5000]\n").ends_with("write `[registry.\"localhost:5000\"]`, with quotes around the host"));
    assert_eq!(told("lists = \"a.txt\"\n"), "conf/larder.toml:2: `lists` is read as one text, and is a list: write `lists = [\"a.txt\"]`");
    // Where the host is quoted, or has no dot, other mistakes are told as they are.
    assert!(told("[registry.\"docker.io\"]\nio = 1\n").contains("unknown key `io`"));
    assert!(told("[registry.localhost.pulls]\nlimt = 1\n").contains("unknown key `limt`"));
}

#[test]
fn another_version_is_not_measured_by_this_ones_keys() {
    assert_eq!(
        errors("# larder\nversion = 2\nnew_key = true\n"),
        "conf/larder.toml:2: version 2 is not known to this larder, which reads version 1"
    );
    assert_eq!(errors("lists = []\n"), "conf/larder.toml:1: the version is missing: write `version = 1` first");
}

#[test]
fn what_of_an_image_is_delivered_is_read() {
    let text = r#"version = 1
[[rule]]
name = "x"
source = "quay.io/a"
target = "a"
platforms = ["linux/amd64", "windows/amd64:10.0.20348"]
platforms_required = true
index = "sparse"
referrers = ["application/vnd.cncf.notary.signature"]
referrers_recheck = "30d"
min_tags = 3
foreign_layers = "fetch"
[[rule]]
name = "y"
source = "quay.io/b"
target = "b"
delivery = "warm"
blobs = "none"
upstream_check = false
warm_ttl = "24h"
referrers = false
referrers_recheck = "never"
[[rule]]
name = "z"
source = "quay.io/c"
target = "c"
"#;
    let config = Config::parse(text, Path::new("larder.toml")).unwrap();
    let [x, y, z] = config.rules.rules() else { panic!() };
    assert_eq!(x.policy.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/amd64", "windows/amd64:10.0.20348"]);
    assert_eq!((x.policy.platforms_required, x.policy.index, x.min_tags), (true, IndexMode::Sparse, 3));
    assert_eq!(x.policy.referrers, Referrers::Types(vec!["application/vnd.cncf.notary.signature".to_owned()]));
    assert_eq!(x.policy.referrers_recheck, Recheck::For(Duration::from_secs(30 * 86_400)));
    assert_eq!(x.policy.foreign_layers, ForeignLayers::Fetch);
    let ttl = Some(Duration::from_secs(86_400));
    assert_eq!((y.delivery, y.warm), (Delivery::Warm, WarmSettings { blobs: WarmBlobs::None, upstream_check: false, ttl }));
    assert_eq!((&y.policy.referrers, y.policy.referrers_recheck), (&Referrers::No, Recheck::Never));
    assert_eq!((&z.policy, z.min_tags, z.warm), (&Policy::default(), 1, WarmSettings::default()));
    // What is shown reads back the same.
    let shown = Config::parse(&config.show(), Path::new("larder.toml")).unwrap();
    for (one, other) in shown.rules.rules().iter().zip(config.rules.rules()) {
        assert_eq!((&one.policy, one.min_tags, one.warm, one.delivery), (&other.policy, other.min_tags, other.warm, other.delivery));
    }
}

#[test]
fn what_cannot_be_delivered_so_is_refused_with_its_line() {
    let rule = "version = 1\n[[rule]]\nname = \"x\"\nsource = \"quay.io/a\"\ntarget = \"a\"\n";
    let refused = |lines: &str, why: &str| {
        assert_eq!(errors(&format!("{rule}{lines}\n")), format!("conf/larder.toml:6: rule \"x\": {why}"), "{lines}");
    };
    refused(
        "platforms = [\"linux\"]",
        "platforms: `linux` is not a platform: write it like linux/amd64, linux/arm/v7 or windows/amd64:10.0.20348",
    );
    refused("index = \"cut\"", "index is \"rewrite\" or \"sparse\", not \"cut\"");
    refused("referrers = []", "referrers is true, false, or a list of artifact types");
    refused("referrers = \"yes\"", "referrers is true, false, or a list of artifact types");
    refused(
        "referrers_recheck = \"soon\"",
        "referrers_recheck: `soon` is not a duration: write it like 30s, 5m, 6h or 7d, or `always`, or `never`",
    );
    refused("min_tags = -1", "min_tags must be 0 or more");
    refused("foreign_layers = \"take\"", "foreign_layers is \"skip\" or \"fetch\", not \"take\"");
    refused("blobs = \"get\"", "blobs is for delivery = \"warm\"");
    refused("upstream_check = true", "upstream_check is for delivery = \"warm\"");
    refused("warm_ttl = \"1h\"", "warm_ttl is for delivery = \"warm\"");
    refused(
        "index = \"rewrite\"\ndelivery = \"warm\"",
        "index is for delivery = \"push\": a cache keeps the upstream's index, and larder pulls only `platforms`",
    );
    refused("blobs = \"all\"\ndelivery = \"warm\"", "blobs is \"get\", \"head\" or \"none\", not \"all\"");
    refused("delivery = \"pull\"", "delivery is \"push\" or \"warm\", not \"pull\"");
}

#[test]
fn every_error_of_a_file_is_told_at_once() {
    let text = r#"version = 1
[target]
registry = "contoso.azurecr.io"
layout = "store"
[[rule]]
name = "a"
source = "docker.io/library/alpine:3"
target = "a"
[[rule]]
name = "b"
source = "quay.io/b/*"
target = "b/*"
credentials = "hub"
[[rule]]
name = "c"
source = "quay.io/c/*"
target = "b/c/*"
credentials = "nobody"
[[credentials]]
name = "hub"
login_server = "docker.io"
username = "alice"
password = "hunter2"
[registry."quay.io"]
concurrency = 0
"#;
    insta::assert_snapshot!(errors(text), @r#"
    conf/larder.toml:4: the target is a registry or a layout, not both
    conf/larder.toml:7: rule "a": source `docker.io/library/alpine:3`: a rule is about repositories; remove the tag `:3`
    conf/larder.toml:13: rule "b": credential set "hub" is for docker.io, not for quay.io
    conf/larder.toml:15: rule "c": its target b/c/* lies inside the target b/* of rule "b" (line 10) (give one of the two another target)
    conf/larder.toml:18: rule "c": there is no credential set "nobody"
    conf/larder.toml:23: credential set "hub": password may not be written here: use { env = "NAME" }, { file = "PATH" } or { command = ["PROGRAM", "ARGUMENT"] }
    conf/larder.toml:25: registry "quay.io": concurrency must be 1 or more
    "#);
}

#[test]
fn wrong_values_are_told_with_their_line() {
    for (body, line, word) in [
        ("[target]\nrepository_prefix = \"a\"", 3, "for registry targets only"),
        ("[target]\nlayout = \"s\"\nrepository_prefix = \"a\"", 4, "for registry targets only"),
        ("[target]\nlayout = \"\"", 3, "needs a folder"),
        ("[target]\nregistry = \"a.io/b\"", 3, "`repository_prefix = \"b\"`"),
        ("[target]\nregistry = \"https://a.io\"", 3, "without `https://`"),
        ("[target]\nregistry = \"a.io\"\nrepository_prefix = \"A\"", 4, "lower case"),
        ("[target]\noverlap = \"shortest\"", 3, "\"error\" or \"longest\""),
        ("[registry.\"a.io\"]\nendpoint = \"ftp://a.io\"", 3, "must begin with https://"),
        ("[registry.\"a.io\"]\nendpoint = \"a.io\"", 3, "is not a URL"),
        ("[registry.\"a.io\"]\nendpoint = \"https://a.io/v2\"", 3, "scheme and host only"),
        ("[registry.\"a.io\"]\nendpoint = \"https://a.io?x=1\"", 3, "scheme and host only"),
        ("[registry.\"a.io\"]\nendpoint = \"https://u:hunter2@a.io\"", 3, "use a credential set"),
        ("[registry.\"a.io\"]\nendpoint = \"https://a.io\"\nplain_http = true", 4, "contradicts the endpoint"),
        ("[registry.\"a.io\"]\nclient_cert = \"c.pem\"", 3, "go together"),
        ("[registry.\"a.io\"]\nclient_key = \"k.pem\"", 3, "go together"),
        ("[registry.\"a.io\"]\nconcurrency = -1", 3, "1 or more"),
        ("[registry.\"a/b\"]\nconcurrency = 1", 2, "is not a host"),
        ("[registry.\"docker.io\"]\n[registry.\"index.docker.io\"]", 3, "another table for docker.io"),
        ("[[rule]]\nname = \"x\"\nsource = \"quay.io/a\"\ntarget = \"a\"\ndelivery = \"pull\"", 6, "not \"pull\""),
        (
            "[[rule]]\nname = \"x\"\nsource = \"quay.io/a\"\ntarget = \"a\"\nimmutable_tags = [\"a\", \"/(/\"]",
            6,
            "is not a regex: unclosed group",
        ),
        ("[[rule]]\nname = \"x\"\nsource = \"quay.io/a\"\ntarget = \"a\"\nimmutable_tags = [\"[\"]", 6, "is not a glob"),
        ("[registry.\"a.io\"]\nprofile = \"dockerhub\"", 3, "`dockerhub` is not known: it is one of dhi, docker-hub, mcr,"),
        ("[registry.\"a.io\"]\npulls = {}", 3, "at least one of limit, window and reserve"),
        ("[registry.\"a.io\"]\npulls = { limit = 0 }", 3, "pulls.limit must be 1 or more"),
        ("[registry.\"a.io\"]\npulls = { reserve = -1 }", 3, "pulls.reserve must be 0 or more"),
        ("[registry.\"a.io\"]\npulls = { limit = 5, reserve = 5 }", 3, "leaves nothing of the limit (5)"),
        ("[registry.\"a.io\"]\npulls = { window = \"soon\" }", 3, "`soon` is not a duration"),
        ("[registry.\"a.io\"]\npulls = { per_day = 5 }", 3, "unknown key `per_day` (known here: limit, window, reserve)"),
        ("[registry.\"a.io\"]\nrequests_per_second = 0", 3, "greater than 0"),
        ("[registry.\"a.io\"]\nbandwidth = \"20MB\"", 3, "is not a bandwidth"),
        ("[registry.\"a.io\"]\nmin_rate = \"0B/s\"", 3, "min_rate: `0B/s` is not a rate: write it like 1KiB/s"),
        ("[registry.\"a.io\"]\nretry_after_max = \"0s\"", 3, "longer than 0"),
    ] {
        let message = errors(&format!("version = 1\n{body}\n"));
        assert!(message.starts_with(&format!("conf/larder.toml:{line}: ")) && message.contains(word), "{body}\n{message}");
    }
}

#[test]
fn wrong_credential_values_are_told_without_being_shown() {
    for (username, password, line, word) in [
        ("\"a\"", "\"hunter2\"", 6, "may not be written here"),
        ("\"a\"", "123456789", 6, "not of a known form"),
        ("\"a\"", "{ value = \"hunter2\" }", 6, "not of a known form"),
        ("\"a\"", "{ env = \"A\", file = \"hunter2\" }", 6, "exactly one source"),
        ("\"a\"", "{}", 6, "exactly one source"),
        ("\"a\"", "{ command = \"hunter2\" }", 6, "not of a known form"),
        ("\"a\"", "{ command = [] }", 6, "program first"),
        ("\"a\"", "{ env = \"A=hunter2\" }", 6, "not of a known form"),
        ("\"\"", "{ env = \"A\" }", 5, "is empty"),
        ("[\"hunter2\"]", "{ env = \"A\" }", 5, "not of a known form"),
    ] {
        let text = format!(
            "version = 1\n[[credentials]]\nname = \"hub\"\nlogin_server = \"docker.io\"\nusername = {username}\npassword = {password}\n"
        );
        let message = errors(&text);
        assert!(message.starts_with(&format!("conf/larder.toml:{line}: credential set \"hub\": ")), "{text}{message}");
        assert!(message.contains(word) && !message.contains("hunter2") && !message.contains("123456789"), "{text}{message}");
    }
    // A password without its quotes is a syntax error: the parser's picture of the line is left out.
    let unquoted = errors("version = 1\n[[credentials]]\npassword = hunter2\n");
    assert!(unquoted.starts_with("conf/larder.toml:3: ") && !unquoted.contains("hunter2"), "{unquoted}");
}

#[test]
fn a_set_serves_its_login_server_under_every_name_of_it() {
    let text = |server: &str, source: &str| {
        format!(
            "version = 1\n[[rule]]\nname = \"r\"\nsource = \"{source}\"\ntarget = \"a\"\ncredentials = \"s\"\n\
             [[credentials]]\nname = \"s\"\nlogin_server = \"{server}\"\nusername = \"u\"\npassword = {{ env = \"P\" }}\n\
             [registry.\"corp.io\"]\nendpoint = \"https://registry.corp.io:5000\"\n"
        )
    };
    for (server, source, good) in [
        ("docker.io", "docker.io/a/b", true),
        ("index.docker.io", "docker.io/a/b", true),
        ("registry-1.docker.io", "a/b", true),
        ("registry.corp.io:5000", "corp.io/a", true),
        ("corp.io", "registry.corp.io:5000/a", true),
        ("registry.corp.io", "corp.io/a", false),
        ("docker.io", "corp.io/a", false),
    ] {
        assert_eq!(parse_text(&text(server, source)).is_ok(), good, "{server} {source}");
    }
}

#[test]
fn names_of_the_target_resolve_by_target() {
    let config = parse_text(FULL).unwrap();
    let resolve = |name: &str| config.resolve(&crate::name::RegistryRepository::parse(name).unwrap(), crate::rules::Unmatched::Fail);
    let by_target = resolve("contoso.azurecr.io/mirror/library/alpine").unwrap();
    assert_eq!(by_target, resolve("alpine").unwrap());
    assert_eq!(by_target.source.to_string(), "docker.io/library/alpine");
    assert!(resolve("contoso.azurecr.io/mirror/unknown/alpine").is_err());
    let unknown = crate::name::RegistryRepository::parse("contoso.azurecr.io/mirror/x").unwrap();
    let mirrored = config.resolve(&unknown, crate::rules::Unmatched::Mirror).unwrap();
    assert_eq!(mirrored.target.as_str(), "contoso.azurecr.io/mirror/x");
    let image = crate::name::ImageName::parse("contoso.azurecr.io/mirror/hello:1").unwrap();
    insta::assert_snapshot!(config.explain(&image, crate::rules::Unmatched::Fail).to_string(), @r"
    image: contoso.azurecr.io/mirror/hello:1
    considered: hello (docker.io/library/hello-world to hello), docker-library (docker.io/library/* to library/*); hello wins: a fixed source goes before a wildcard
    rule: hello
    source: docker.io/library/hello-world:1
    target: contoso.azurecr.io/mirror/hello:1
    credentials: hub
    delivery: push
    pulls: 0 if the target is current; else 1 for a single image, or 1 for an index and 1 for each of its platforms
    ");
}

#[test]
fn warnings_carry_lines() {
    let text = "version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\n[[rule]]\nname = \"r\"\nsource = \"docker.io/a/*\"\ntarget = \"contoso.azurecr.io/a/*\"\n";
    let config = parse_text(text).unwrap();
    let located: Vec<_> = config.warnings().iter().map(|finding| finding.located(Path::new("larder.toml"))).collect();
    assert_eq!(located.len(), 2, "{located:?}");
    assert!(located[0].starts_with("larder.toml:5: rule \"r\": docker.io wants credentials"));
    assert!(located[1].starts_with("larder.toml:5: rule \"r\": its target begins with the registry's own name"));
    assert_eq!(parse_text(FULL).unwrap().warnings(), []);
}

#[path = "check_tests/show.rs"]
mod show;
