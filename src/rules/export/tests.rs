use std::path::Path;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::name::RegistryRepository;

/// The export of a configuration: `rules` are triples of name, source and target; `more` is TOML.
fn exported(format: Format, prefix: &str, rules: &[(&str, &str, &str)], more: &str) -> Exported {
    let rules: String = rules
        .iter()
        .map(|(name, source, target)| {
            format!("[[rule]]\nname = \"{name}\"\nsource = \"{source}\"\ntarget = \"{target}\"\ndelivery = \"warm\"\n")
        })
        .collect();
    let text = format!(
        "version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\nrepository_prefix = \"{prefix}\"\noverlap = \"longest\"\n{rules}{more}"
    );
    let text = text.replace("repository_prefix = \"\"\n", "");
    let config = Config::parse(&text, Path::new("larder.toml")).unwrap();
    of_config(format, &config, prefix)
}

fn of_config(format: Format, config: &Config, prefix: &str) -> Exported {
    let view = ExportContext {
        rules: &config.rules,
        host: "contoso.azurecr.io",
        prefix,
        plain_http: false,
        insecure: false,
        ca: None,
        upstream_ca: &|_| None,
        fallback: true,
        credentials: &|host| config.credential_set_for(host).map(|set| set.name.clone()),
        endpoint: &|host| format!("https://{host}"),
    };
    export(format, &view)
}

fn text(exported: &Exported) -> String {
    exported.files.iter().map(|file| format!("## {}\n{}", file.path, file.text)).collect()
}

const RULES: [(&str, &str, &str); 5] = [
    ("docker-library", "docker.io/library/*", "library/*"),
    ("grafana", "docker.io/grafana/*", "dash/*"),
    ("quay", "quay.io/*", "quay/*"),
    ("kube-proxy", "registry.k8s.io/kube-proxy", "k8s/kube-proxy"),
    ("other-lib", "ghcr.io/team/lib", "library/lib"),
];
const HUB: &str =
    "[[credentials]]\nname = \"docker-hub\"\nlogin_server = \"docker.io\"\nusername = \"u\"\npassword = { env = \"HUB_SECRET\" }\n";

#[test]
fn az_commands() {
    assert_snapshot!(text(&exported(Format::Az, "", &RULES, HUB)), @r#"
    ## az.sh
    # Written by `larder rules export --format az`.
    #
    # What it cannot say, or what is left to you:
    # - rule "quay": a name has 5 to 50 letters, digits and hyphens at Azure; this has 4
    set -eu
    : "${DOCKER_HUB_USERNAME_ID:?the Key Vault secret identifier of the user name of docker-hub}"
    : "${DOCKER_HUB_PASSWORD_ID:?the Key Vault secret identifier of the password of docker-hub}"
    az acr credential-set create -r contoso -n docker-hub -l docker.io -u "$DOCKER_HUB_USERNAME_ID" -p "$DOCKER_HUB_PASSWORD_ID"
    az acr cache create -r contoso -n docker-library -s 'docker.io/library/*' -t 'library/*' -c docker-hub
    az acr cache create -r contoso -n grafana -s 'docker.io/grafana/*' -t 'dash/*' -c docker-hub
    # rule "quay": a name has 5 to 50 letters, digits and hyphens at Azure; this has 4
    # az acr cache create -r contoso -n quay -s 'quay.io/*' -t 'quay/*'
    az acr cache create -r contoso -n kube-proxy -s registry.k8s.io/kube-proxy -t k8s/kube-proxy
    az acr cache create -r contoso -n other-lib -s ghcr.io/team/lib -t library/lib
    "#);
    let more = [
        ("mcr-all", "mcr.microsoft.com/*", "*"),
        ("mcr-dotnet", "mcr.microsoft.com/dotnet/*", "dotnet/*"),
        ("own-one", "r.example/a", "a"),
    ];
    let set = "[[credentials]]\nname = \"mcr\"\nlogin_server = \"mcr.microsoft.com\"\nusername = \"u\"\npassword = { env = \"X\" }\n";
    assert_snapshot!(exported(Format::Az, "below", &more, set).unsaid.join("\n"), @r#"
    rule "mcr-all": Azure pulls from mcr.microsoft.com without credentials only: set "mcr" is left out
    rule "mcr-dotnet": Azure pulls from mcr.microsoft.com without credentials only: set "mcr" is left out
    rule "mcr-dotnet": Azure takes no wildcard within another: below/dotnet/* and below/* of rule "mcr-all"
    rule "own-one": r.example is not among the upstreams that Azure documents
    "#);
}

#[test]
fn ecr_commands() {
    assert_snapshot!(text(&exported(Format::Ecr, "", &RULES, HUB)), @r#"
    ## ecr.sh
    # Written by `larder rules export --format ecr`.
    #
    # What it cannot say, or what is left to you:
    # - the target contoso.azurecr.io is no Amazon ECR registry: the commands act on the account and region that aws is set up for
    # - rule "docker-library": AWS documents --upstream-repository-prefix for ECR upstreams only
    # - rule "grafana": AWS documents --upstream-repository-prefix for ECR upstreams only
    # - rule "kube-proxy" (registry.k8s.io/kube-proxy to k8s/kube-proxy): ECR's rules are prefixes; one repository cannot be said
    # - rule "other-lib" (ghcr.io/team/lib to library/lib): ECR's rules are prefixes; one repository cannot be said
    set -eu
    : "${DOCKER_HUB_SECRET_ARN:?the ARN of the secret ecr-pullthroughcache/... for docker.io}"
    aws ecr create-pull-through-cache-rule --ecr-repository-prefix library --upstream-registry-url registry-1.docker.io --upstream-repository-prefix library --credential-arn "$DOCKER_HUB_SECRET_ARN"
    aws ecr create-pull-through-cache-rule --ecr-repository-prefix dash --upstream-registry-url registry-1.docker.io --upstream-repository-prefix grafana --credential-arn "$DOCKER_HUB_SECRET_ARN"
    aws ecr create-pull-through-cache-rule --ecr-repository-prefix quay --upstream-registry-url quay.io
    # rule "kube-proxy" (registry.k8s.io/kube-proxy to k8s/kube-proxy): ECR's rules are prefixes; one repository cannot be said
    # rule "other-lib" (ghcr.io/team/lib to library/lib): ECR's rules are prefixes; one repository cannot be said
    "#);
    let more = [
        ("all", "public.ecr.aws/*", "*"),
        ("part", "quay.io/a/*", "quay/a/*"),
        ("one", "quay.io/*", "q/*"),
        ("role", "1.dkr.ecr.us-east-1.amazonaws.com/x/*", "shared/*"),
        ("own", "r.example/*", "own/*"),
    ];
    assert_snapshot!(text(&exported(Format::Ecr, "", &more, "")), @r#"
    ## ecr.sh
    # Written by `larder rules export --format ecr`.
    #
    # What it cannot say, or what is left to you:
    # - the target contoso.azurecr.io is no Amazon ECR registry: the commands act on the account and region that aws is set up for
    # - rule "part": AWS documents --upstream-repository-prefix for ECR upstreams only
    # - rule "one" (quay.io/* to q/*): a prefix has 2 to 30 characters at ECR, `q` has 1
    # - rule "own" (r.example/* to own/*): r.example is not among the upstreams of ECR
    set -eu
    aws ecr create-pull-through-cache-rule --ecr-repository-prefix ROOT --upstream-registry-url public.ecr.aws
    aws ecr create-pull-through-cache-rule --ecr-repository-prefix quay/a --upstream-registry-url quay.io --upstream-repository-prefix a
    # rule "one" (quay.io/* to q/*): a prefix has 2 to 30 characters at ECR, `q` has 1
    aws ecr create-pull-through-cache-rule --ecr-repository-prefix shared --upstream-registry-url 1.dkr.ecr.us-east-1.amazonaws.com --upstream-repository-prefix x
    # rule "own" (r.example/* to own/*): r.example is not among the upstreams of ECR
    "#);
}

#[test]
fn containerd_tree() {
    assert_snapshot!(text(&exported(Format::Containerd, "", &RULES, "")), @r#"
    ## docker.io/hosts.toml
    # Written by `larder rules export --format containerd`.
    #
    # What it cannot say, or what is left to you:
    # - rule "docker-library": docker.io/library/lib would be served from rule "other-lib", which is another image: pull it by the target's own name
    # - rule "grafana": hosts.toml cannot turn docker.io/grafana/* into dash/*: it keeps the whole path; pull these by the target's own name
    # - names of docker.io that no rule covers are asked of the target under their own path, where it has other images: dash/* (rule "grafana"), quay/* (rule "quay"), k8s/kube-proxy (rule "kube-proxy")
    server = "https://docker.io"

    [host."https://contoso.azurecr.io"]
    capabilities = ["pull", "resolve"]
    ## quay.io/hosts.toml
    # Written by `larder rules export --format containerd`.
    server = "https://quay.io"

    [host."https://contoso.azurecr.io/v2/quay"]
    capabilities = ["pull", "resolve"]
    override_path = true
    ## registry.k8s.io/hosts.toml
    # Written by `larder rules export --format containerd`.
    server = "https://registry.k8s.io"

    [host."https://contoso.azurecr.io/v2/k8s"]
    capabilities = ["pull", "resolve"]
    override_path = true
    ## ghcr.io/hosts.toml
    # Written by `larder rules export --format containerd`.
    #
    # What it cannot say, or what is left to you:
    # - rule "other-lib": hosts.toml cannot turn ghcr.io/team/lib into library/lib: it keeps the whole path; pull these by the target's own name
    server = "https://ghcr.io"
    "#);
    assert_snapshot!(text(&exported(Format::Containerd, "mirror", &[("lab", "lab.example:5000/*", "lab/*"), ("same", "quay.io/*", "*")], "")), @r#"
    ## lab.example_5000_/hosts.toml
    # Written by `larder rules export --format containerd`.
    server = "https://lab.example:5000"

    [host."https://contoso.azurecr.io/v2/mirror/lab"]
    capabilities = ["pull", "resolve"]
    override_path = true
    ## quay.io/hosts.toml
    # Written by `larder rules export --format containerd`.
    #
    # What it cannot say, or what is left to you:
    # - rule "same": quay.io/lab/* would be served from rule "lab", which is another image: pull it by the target's own name
    server = "https://quay.io"

    [host."https://contoso.azurecr.io/v2/mirror"]
    capabilities = ["pull", "resolve"]
    override_path = true
    "#);
}

#[test]
fn podman_registries() {
    assert_snapshot!(text(&exported(Format::Podman, "", &RULES, "")), @r#"
    ## registries.conf
    # Written by `larder rules export --format podman`.
    #
    # What it cannot say, or what is left to you:
    # - rule "other-lib": ghcr.io/team/lib/* would be served from rule "docker-library", which is another image: pull it by the target's own name

    [[registry]]
    prefix = "docker.io/library"
    location = "docker.io/library"

    [[registry.mirror]]
    location = "contoso.azurecr.io/library"

    [[registry]]
    prefix = "docker.io/grafana"
    location = "docker.io/grafana"

    [[registry.mirror]]
    location = "contoso.azurecr.io/dash"

    [[registry]]
    prefix = "quay.io"
    location = "quay.io"

    [[registry.mirror]]
    location = "contoso.azurecr.io/quay"

    [[registry]]
    prefix = "registry.k8s.io/kube-proxy"
    location = "registry.k8s.io/kube-proxy"

    [[registry.mirror]]
    location = "contoso.azurecr.io/k8s/kube-proxy"

    [[registry]]
    prefix = "ghcr.io/team/lib"
    location = "ghcr.io/team/lib"

    [[registry.mirror]]
    location = "contoso.azurecr.io/library/lib"

    # At the target docker.io/library/lib would be images of rule "other-lib", not of "docker-library": all of this prefix comes from the upstream.
    [[registry]]
    prefix = "docker.io/library/lib"
    location = "docker.io/library/lib"
    "#);
    let shadowed =
        [("mcr", "mcr.microsoft.com/*", "*"), ("lib", "docker.io/library/*", "library/*"), ("again", "docker.io/library/*", "again/*")];
    assert_snapshot!(text(&exported(Format::Podman, "", &shadowed, "")), @r#"
    ## registries.conf
    # Written by `larder rules export --format podman`.
    #
    # What it cannot say, or what is left to you:
    # - rule "again": its source docker.io/library/* is that of rule "lib", which comes first

    [[registry]]
    prefix = "mcr.microsoft.com"
    location = "mcr.microsoft.com"

    [[registry.mirror]]
    location = "contoso.azurecr.io"

    [[registry]]
    prefix = "docker.io/library"
    location = "docker.io/library"

    [[registry.mirror]]
    location = "contoso.azurecr.io/library"

    # At the target mcr.microsoft.com/library/* would be images of rule "lib", not of "mcr": all of this prefix comes from the upstream.
    [[registry]]
    prefix = "mcr.microsoft.com/library"
    location = "mcr.microsoft.com/library"

    # At the target mcr.microsoft.com/again/* would be images of rule "again", not of "mcr": all of this prefix comes from the upstream.
    [[registry]]
    prefix = "mcr.microsoft.com/again"
    location = "mcr.microsoft.com/again"
    "#);
}

#[test]
fn k3s_registries() {
    assert_snapshot!(text(&exported(Format::K3s, "mirror", &RULES, "")), @r#"
    ## registries.yaml
    # Written by `larder rules export --format k3s`.
    #
    # What it cannot say, or what is left to you:
    # - rule "docker-library": docker.io/library/lib would be served from rule "other-lib", which is another image: pull it by the target's own name
    # - names of registry.k8s.io, ghcr.io that no rule covers are asked of the target under their own path, where it has other images: mirror/library/* (rule "docker-library"), mirror/dash/* (rule "grafana"), mirror/quay/* (rule "quay"), mirror/k8s/kube-proxy (rule "kube-proxy"), mirror/library/lib (rule "other-lib")
    mirrors:
      "docker.io":
        endpoint:
          - "https://contoso.azurecr.io"
        rewrite:
          '^library/(.*)$': 'mirror/library/$1'
          '^grafana/(.*)$': 'mirror/dash/$1'
      "quay.io":
        endpoint:
          - "https://contoso.azurecr.io"
        rewrite:
          '^(.*)$': 'mirror/quay/$1'
      "registry.k8s.io":
        endpoint:
          - "https://contoso.azurecr.io"
        rewrite:
          '^kube\-proxy$': 'mirror/k8s/kube-proxy'
      "ghcr.io":
        endpoint:
          - "https://contoso.azurecr.io"
        rewrite:
          '^team/lib$': 'mirror/library/lib'
    "#);
    let within =
        [("hub", "docker.io/*", "hub/*"), ("lib", "docker.io/library/*", "library/*"), ("same", "docker.io/grafana/*", "hub/grafana/*")];
    let k3s = exported(Format::K3s, "", &within, "");
    assert_eq!(k3s.unsaid, [] as [&str; 0]);
    let rewrites: Vec<&str> = k3s.files[0].text.lines().filter(|line| line.contains("': '")).collect();
    // The rule whose names go along needs no expression; the one whose names go elsewhere has its own.
    assert!(rewrites.len() == 1 && rewrites[0].starts_with("      '^((?:") && rewrites[0].ends_with("$': 'hub/$1'"), "{rewrites:?}");
}

#[test]
fn openshift_mirror_sets() {
    assert_snapshot!(text(&exported(Format::Openshift, "", &RULES[..3], "")), @r#"
    ## larder-mirrors.yaml
    # Written by `larder rules export --format openshift`.
    apiVersion: config.openshift.io/v1
    kind: ImageDigestMirrorSet
    metadata:
      name: larder
    spec:
      imageDigestMirrors:
      - source: "docker.io/library"
        mirrors:
        - "contoso.azurecr.io/library"
      - source: "docker.io/grafana"
        mirrors:
        - "contoso.azurecr.io/dash"
      - source: "quay.io"
        mirrors:
        - "contoso.azurecr.io/quay"
    ---
    apiVersion: config.openshift.io/v1
    kind: ImageTagMirrorSet
    metadata:
      name: larder
    spec:
      imageTagMirrors:
      - source: "docker.io/library"
        mirrors:
        - "contoso.azurecr.io/library"
      - source: "docker.io/grafana"
        mirrors:
        - "contoso.azurecr.io/dash"
      - source: "quay.io"
        mirrors:
        - "contoso.azurecr.io/quay"
    "#);
}

/// Where a runtime that was given the files asks for `name` before it asks the upstream: places at the target, in order. None: of a
/// prefix that was taken out, as the file says.
type Asked = fn(&Exported, &str) -> Option<Vec<String>>;

/// containers-registries.conf(5): the longest prefix at a separator is replaced.
fn podman(exported: &Exported, name: &str) -> Option<Vec<String>> {
    let file: toml::Table = exported.files[0].text.parse().unwrap();
    let empty = toml::Value::Array(vec![]);
    let entries = file.get("registry").unwrap_or(&empty).as_array().unwrap();
    let matching = |entry: &toml::Value| {
        let prefix = entry["prefix"].as_str().unwrap();
        name.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(|rest| (prefix.len(), rest.to_owned()))
    };
    let best = entries.iter().filter_map(|entry| Some((matching(entry)?, entry))).max_by_key(|((length, _), _)| *length);
    let Some(((_, rest), entry)) = best else { return Some(vec![]) };
    let mirrors = entry.get("mirror")?.as_array().unwrap();
    Some(mirrors.iter().map(|mirror| format!("{}{rest}", mirror["location"].as_str().unwrap())).collect())
}

/// containerd's hosts.md: each host in the order of the file, the path put behind its URL.
fn containerd(exported: &Exported, name: &str) -> Option<Vec<String>> {
    let (host, path) = name.split_once('/').unwrap();
    let Some(file) = exported.files.iter().find(|file| file.path == format!("{host}/hosts.toml")) else { return Some(vec![]) };
    let hosts = file.text.lines().filter_map(|line| line.strip_prefix("[host.\"https://")?.strip_suffix("\"]"));
    Some(hosts.map(|url| format!("{}/{path}", url.replace("/v2/", "/"))).collect())
}

/// k3s: the one rewrite that changes the path; no two may match.
fn k3s(exported: &Exported, name: &str) -> Option<Vec<String>> {
    let (host, path) = name.split_once('/').unwrap();
    let text = &exported.files[0].text;
    let Some((_, section)) = text.split_once(&format!("  \"{host}\":\n")) else { return Some(vec![]) };
    let section = section.split("\n  \"").next().unwrap();
    let mut rewritten: Vec<String> = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("      '")) {
        let (pattern, replacement) = line.trim().trim_matches('\'').split_once("': '").unwrap();
        let pattern = regex::Regex::new(pattern).unwrap();
        if pattern.is_match(path) {
            rewritten.push(pattern.replace(path, replacement.replace("$1", "${1}")).into_owned());
        }
    }
    assert!(rewritten.len() < 2, "the order is not defined: {rewritten:?}");
    Some(vec![format!("contoso.azurecr.io/{}", rewritten.first().map_or(path, String::as_str))])
}

fn openshift(exported: &Exported, name: &str) -> Option<Vec<String>> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let mut source = "";
    for line in exported.files[0].text.split("---").next().unwrap().lines() {
        if let Some(found) = line.strip_prefix("  - source: ") {
            source = found.trim_matches('"');
        } else if let Some(mirror) = line.strip_prefix("    - ") {
            pairs.push((source, mirror.trim_matches('"')));
        }
    }
    let matching = pairs.iter().filter_map(|(source, mirror)| {
        let rest = name.strip_prefix(source)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| (source.len(), format!("{mirror}{rest}")))
    });
    Some(matching.max_by_key(|(length, _)| *length).map(|(_, place)| place).into_iter().collect())
}

#[test]
fn a_wildcard_around_a_mirrors_base_is_told_of() {
    // `quay.io/a/a` is asked for at m/b/a/a first, which the second rule fills from quay.io/b/a/a.
    let rules = [("one", "quay.io/b/*", "b/b/*"), ("all", "quay.io/*", "*")];
    let exported = exported(Format::Containerd, "m", &rules, "");
    assert!(exported.unsaid.iter().any(|line| line.contains("* (rule \"all\")")), "{:?}", exported.unsaid);
}

const WORDS: [&str; 3] = ["a", "b", "library"];

fn path(least: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(WORDS.to_vec()), least..3).prop_map(|parts| parts.join("/"))
}

fn any_rule() -> impl Strategy<Value = (String, String)> {
    let host = prop::sample::select(vec!["docker.io", "quay.io"]);
    (host, path(0), path(0), any::<bool>()).prop_map(|(host, source, target, wildcard)| {
        let side = |path: String| match (path.is_empty(), wildcard) {
            (true, true) => "*".to_owned(),
            (true, false) => "a".to_owned(),
            (false, true) => format!("{path}/*"),
            (false, false) => path,
        };
        (format!("{host}/{}", side(source)), side(target))
    })
}

/// Rules of which no two have one target.
fn config(given: &[(String, String)]) -> Config {
    let mut targets: Vec<&str> = Vec::new();
    let mut text =
        "version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\nrepository_prefix = \"m\"\noverlap = \"longest\"\n".to_owned();
    for (source, target) in given {
        if !targets.contains(&target.as_str()) {
            text += &format!("[[rule]]\nname = \"r{}\"\nsource = \"{source}\"\ntarget = \"{target}\"\n", targets.len());
            targets.push(target);
        }
    }
    Config::parse(&text, Path::new("larder.toml")).unwrap()
}

proptest! {
    #[test]
    fn no_runtime_is_sent_to_another_image(given in prop::collection::vec(any_rule(), 1..6), path in path(1), last in path(1), host in prop::sample::select(vec!["docker.io", "quay.io"])) {
        let config = config(&given);
        let source = RegistryRepository::parse(&format!("{host}/{path}/{last}")).unwrap();
        // Docker Hub has no other names.
        prop_assume!(source.host != "docker.io" || source.path.matches('/').count() == 1);
        for (format, asked) in [(Format::Podman, podman as Asked), (Format::Openshift, openshift), (Format::Containerd, containerd), (Format::K3s, k3s)] {
            let exported = of_config(format, &config, "m");
            // What a format leaves unsaid is for its user to see to; without that, every name is right.
            if !exported.unsaid.is_empty() {
                continue;
            }
            let Some(places) = asked(&exported, &source.to_string()) else { continue };
            for place in &places {
                let place = place.strip_prefix("contoso.azurecr.io/").unwrap();
                let Some((_, serves)) = place.strip_prefix("m/").and_then(|place| config.rules.reverse(place)) else { continue };
                prop_assert_eq!(&serves, &source, "{:?} sends {} to {}\n{}", format, source, place, text(&exported));
            }
            // A repository that is called as what stands before a `*` goes that way where only prefixes are known; it comes from the upstream.
            let is_prefix = |rule: &CacheRule| rule.source.host == source.host && rule.source.path.prefix() == format!("{}/", source.path);
            let prefixes = matches!(format, Format::Podman | Format::Openshift);
            if prefixes && config.rules.rules().iter().any(|rule| is_prefix(rule)) {
                continue;
            }
            if let Ok(resolution) = config.rules.forward(&source) {
                let wanted = format!("contoso.azurecr.io/m/{}", resolution.target);
                prop_assert!(places.contains(&wanted), "{:?}: {} is at {}, asked are {:?}\n{}", format, source, wanted, places, text(&exported));
            }
        }
    }
}
