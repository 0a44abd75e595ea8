//! What keeps clients at the target: certificates, no fallback, and special rules before wildcards.

use std::path::Path;

use super::*;
use crate::config::Config;

/// The export of rules, triples of name, source and target, from a target with a certificate authority of its own if `ca` says where.
fn exported(format: Format, rules: &[(&str, &str, &str)], ca: Option<&str>, fallback: bool) -> Exported {
    let rules: String = rules
        .iter()
        .map(|(name, source, target)| format!("[[rule]]\nname = \"{name}\"\nsource = \"{source}\"\ntarget = \"{target}\"\n"))
        .collect();
    let text = format!("version = 1\n[target]\nregistry = \"larder.lab\"\noverlap = \"longest\"\n{rules}");
    let config = Config::parse(&text, Path::new("larder.toml")).unwrap();
    let view = ExportContext {
        rules: &config.rules,
        host: "larder.lab",
        prefix: "",
        plain_http: false,
        insecure: false,
        ca,
        upstream_ca: &|host| (host == "corp.example").then(|| "/etc/corp.pem".to_owned()),
        fallback,
        credentials: &|_| None,
        endpoint: &|host| format!("https://{host}"),
    };
    export(format, &view)
}

fn file(exported: &Exported) -> toml::Table {
    exported.files[0].text.parse().unwrap()
}

const QUAY: [(&str, &str, &str); 1] = [("quay", "quay.io/*", "q/*")];

#[test]
fn a_certificate_authority_is_named_for_mirrors_and_for_the_server() {
    let toml = file(&exported(Format::Containerd, &QUAY, Some("/etc/ca.pem"), true));
    assert_eq!((toml["server"].as_str(), toml["ca"].as_str()), (Some("https://quay.io"), Some("/etc/ca.pem")));
    assert_eq!(toml["host"]["https://larder.lab/v2/q"]["ca"].as_str(), Some("/etc/ca.pem"));
    let corp = [("corp", "corp.example/*", "corp/*")];
    let toml = file(&exported(Format::Containerd, &corp, Some("/etc/ca.pem"), true));
    assert_eq!(
        toml["ca"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect::<Vec<_>>(),
        ["/etc/ca.pem", "/etc/corp.pem"]
    );
    assert!(!file(&exported(Format::Containerd, &QUAY, None, true)).contains_key("ca"));
    let yaml = exported(Format::K3s, &QUAY, Some("/etc/ca.pem"), true).files[0].text.clone();
    assert!(yaml.ends_with("configs:\n  \"larder.lab\":\n    tls:\n      ca_file: \"/etc/ca.pem\"\n"), "{yaml}");
}

#[test]
fn without_fallback_no_client_is_sent_to_the_upstream() {
    let toml = file(&exported(Format::Containerd, &QUAY, Some("/etc/ca.pem"), false));
    assert_eq!(toml["server"].as_str(), Some("https://larder.lab/v2/q"));
    assert_eq!((toml["override_path"].as_bool(), toml["ca"].as_str()), (Some(true), Some("/etc/ca.pem")));
    let kept = [("same", "quay.io/*", "*")];
    let toml = file(&exported(Format::Containerd, &kept, None, false));
    assert_eq!((toml["server"].as_str(), toml.get("override_path")), (Some("https://larder.lab"), None));
    // What hosts.toml cannot say is pulled from nowhere.
    let other = [("nginx", "quay.io/library/nginx", "web")];
    let toml = file(&exported(Format::Containerd, &other, None, false));
    assert_eq!(toml["server"].as_str(), Some("https://larder.lab/v2/larder-no-fallback"));
    for format in [Format::Containerd, Format::Podman] {
        let text = exported(format, &QUAY, None, false).files[0].text.clone();
        let said: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("prefix")).collect();
        assert!(!said.iter().any(|line| line.contains("quay.io")), "{text}");
    }
    let podman = file(&exported(Format::Podman, &QUAY, None, false));
    let registry = &podman["registry"].as_array().unwrap()[0];
    assert_eq!((registry["prefix"].as_str(), registry["location"].as_str()), (Some("quay.io"), Some("larder.lab/q")));
    assert!(registry.get("mirror").is_none());
    let openshift = exported(Format::Openshift, &QUAY, None, false).files[0].text.clone();
    assert_eq!(openshift.matches("mirrorSourcePolicy: NeverContactSource").count(), 2, "{openshift}");
    let k3s = exported(Format::K3s, &QUAY, None, false);
    assert!(k3s.unsaid.iter().any(|line| line.contains("--disable-default-registry-endpoint")));
    assert!(exported(Format::K3s, &QUAY, None, true).unsaid.is_empty());
}

const SPECIAL: [(&str, &str, &str); 4] = [
    ("all", "docker.io/*", "hub/*"),
    ("library", "docker.io/library/*", "base/library/*"),
    ("nginx", "docker.io/library/nginx", "web/library/nginx"),
    ("along", "docker.io/grafana/*", "hub/grafana/*"),
];

#[test]
fn a_special_rule_is_asked_before_the_wildcards_around_it() {
    let text = exported(Format::Containerd, &SPECIAL, None, true).files[0].text.clone();
    let hosts: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("[host.\"https://larder.lab/v2/")?.strip_suffix("\"]")).collect();
    assert_eq!(hosts, ["web", "base", "hub"]);
}

#[test]
fn no_name_of_a_special_rule_is_matched_by_a_wildcards_rewrite() {
    let text = exported(Format::K3s, &SPECIAL, None, true).files[0].text.clone();
    let rewrites: Vec<(regex::Regex, &str)> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix('\'')?.strip_suffix('\'')?.split_once("': '"))
        .map(|(pattern, to)| (regex::Regex::new(pattern).unwrap(), to))
        .collect();
    assert_eq!(rewrites.len(), 3, "{text}");
    for (name, expected) in [
        ("library/nginx", "web/library/nginx"),
        ("library/nginx-unit", "base/library/nginx-unit"),
        ("library/ngin", "base/library/ngin"),
        ("library/redis", "base/library/redis"),
        ("libraries/redis", "hub/libraries/redis"),
        ("lib", "hub/lib"),
        ("grafana/loki", "hub/grafana/loki"),
        ("a/b", "hub/a/b"),
    ] {
        let found: Vec<String> = rewrites
            .iter()
            .filter(|(pattern, _)| pattern.is_match(name))
            .map(|(pattern, to)| pattern.replace(name, *to).into_owned())
            .collect();
        assert_eq!(found, [expected], "{name}: {text}");
    }
}

#[test]
fn what_azure_would_refuse_is_a_comment_credential_sets_too() {
    let text = format!(
        "version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\n{}{}",
        "[[credentials]]\nname = \"hub\"\nlogin_server = \"docker.io\"\nusername = \"u\"\npassword = { env = \"X\" }\n",
        "[[rule]]\nname = \"docker-library\"\nsource = \"docker.io/library/*\"\ntarget = \"library/*\"\ndelivery = \"warm\"\ncredentials = \"hub\"\n"
    );
    let config = Config::parse(&text, Path::new("larder.toml")).unwrap();
    let view = |credentials| ExportContext {
        rules: &config.rules,
        host: "contoso.azurecr.io",
        prefix: "",
        plain_http: false,
        insecure: false,
        ca: None,
        upstream_ca: &|_| None,
        fallback: true,
        credentials,
        endpoint: &|host| format!("https://{host}"),
    };
    let text = export(Format::Az, &view(&|_| Some("hub".to_owned()))).files[0].text.clone();
    let commands: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(commands, ["set -eu"], "{text}");
    assert!(text.contains("# az acr credential-set create -r contoso -n hub -l docker.io "), "{text}");
    assert!(text.contains("# az acr cache create -r contoso -n docker-library "), "{text}");
}
