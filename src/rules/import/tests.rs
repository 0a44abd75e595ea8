use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Config;
use crate::name::RegistryRepository;
use crate::rules::Unresolved;

/// What an import gives, loaded.
fn loaded(rows: &Value) -> (Config, ImportedRules) {
    let imported = import(&[("file.json".to_owned(), rows.to_string())], None).unwrap();
    let config = Config::parse(&imported.text, Path::new("larder.toml")).unwrap_or_else(|errors| panic!("{errors:?}\n{}", imported.text));
    (config, imported)
}

/// Another system, as its documentation describes it: the upstream image that a name at the cache stands for. Written without
/// larder's patterns.
trait Other {
    fn serves(&self, name: &str) -> Option<String>;
}

/// Docker Hub's own images have one component upstream and are found below `library/`.
fn at_hub(name: String) -> String {
    match name.strip_prefix("docker.io/") {
        Some(rest) if !rest.contains('/') => format!("docker.io/library/{rest}"),
        _ => name,
    }
}

/// docs/registries.md, "Azure: wildcards": pairs of source and target; a fixed target goes before a wildcard.
struct Acr(Vec<(String, String)>);

impl Other for Acr {
    fn serves(&self, name: &str) -> Option<String> {
        if let Some((source, _)) = self.0.iter().find(|(_, target)| target == name) {
            return Some(at_hub(source.clone()));
        }
        self.0.iter().find_map(|(source, target)| {
            let rest = name.strip_prefix(target.strip_suffix('*')?)?;
            (!rest.is_empty()).then(|| at_hub(source.replace('*', rest)))
        })
    }
}

impl Acr {
    /// Azure refuses two equal targets, and wildcards that lie in one another.
    fn refuses(&self, target: &str) -> bool {
        let within = |one: &str, other: &str| match (one.strip_suffix('*'), other.strip_suffix('*')) {
            (Some(one), Some(other)) => one.starts_with(other),
            _ => false,
        };
        self.0.iter().any(|(_, other)| other == target || within(target, other) || within(other, target))
    }

    fn rows(&self) -> Value {
        let row = |(at, (source, target)): (usize, &(String, String))| {
            json!({"name": format!("rule-{at}"), "sourceRepository": source, "targetRepository": target, "credentialSetResourceId": null,
                   "id": format!("/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/Contoso/cacheRules/rule-{at}")})
        };
        self.0.iter().enumerate().map(row).collect()
    }
}

/// docs/registries.md, "Amazon ECR: pull-through cache rules": prefix, upstream, upstream prefix. The longest prefix goes first, ROOT last.
struct Ecr(Vec<(String, String, String)>);

impl Other for Ecr {
    fn serves(&self, name: &str) -> Option<String> {
        let matching = |prefix: &str| if prefix == "ROOT" { Some(name) } else { name.strip_prefix(prefix)?.strip_prefix('/') };
        let candidates = self.0.iter().filter_map(|(prefix, host, upstream)| Some((prefix, host, upstream, matching(prefix)?)));
        let (_, host, upstream, rest) = candidates.max_by_key(|(prefix, ..)| if *prefix == "ROOT" { 0 } else { prefix.len() })?;
        let host = if host == "registry-1.docker.io" { "docker.io" } else { host };
        Some(at_hub(if upstream == "ROOT" { format!("{host}/{rest}") } else { format!("{host}/{upstream}/{rest}") }))
    }
}

impl Ecr {
    fn rows(&self) -> Value {
        let row = |(prefix, host, upstream): &(String, String, String)| {
            json!({"ecrRepositoryPrefix": prefix, "upstreamRegistryUrl": host, "upstreamRepositoryPrefix": upstream,
                   "registryId": "123456789012", "createdAt": "2024-01-01T00:00:00Z"})
        };
        json!({"pullThroughCacheRules": self.0.iter().map(row).collect::<Vec<_>>()})
    }
}

/// docs/registries.md, "Harbor: proxy projects": the first component is a project, the rest is the upstream's.
struct Harbor(Vec<(String, usize)>);

const ENDPOINTS: [(&str, &str, &str); 3] = [
    ("docker-hub", "https://hub.docker.com", "docker.io"),
    ("quay", "https://quay.io", "quay.io"),
    ("docker-registry", "http://registry.local:5000", "registry.local:5000"),
];

impl Other for Harbor {
    fn serves(&self, name: &str) -> Option<String> {
        let (project, rest) = name.split_once('/')?;
        let (_, registry) = self.0.iter().find(|(name, _)| name == project)?;
        Some(at_hub(format!("{}/{rest}", ENDPOINTS[*registry].2)))
    }
}

impl Harbor {
    fn rows(&self) -> Value {
        let registry = |(at, (kind, url, _)): (usize, &(&str, &str, &str))| json!({"id": at + 1, "name": kind, "type": kind, "url": url});
        let project =
            |(at, (name, registry)): (usize, &(String, usize))| json!({"project_id": at, "name": name, "registry_id": registry + 1});
        ENDPOINTS.iter().enumerate().map(registry).chain(self.0.iter().enumerate().map(project)).collect()
    }
}

const WORDS: [&str; 3] = ["a", "b", "library"];

/// Every path of up to three of a few words.
fn all_paths() -> Vec<String> {
    let one: Vec<String> = WORDS.map(str::to_owned).to_vec();
    let longer = |paths: &[String]| -> Vec<String> { paths.iter().flat_map(|path| WORDS.map(|word| format!("{path}/{word}"))).collect() };
    let (two, three) = (longer(&one), longer(&longer(&one)));
    [one, two, three].concat()
}

/// Every name means the same here and there, from the cache's side and from the upstream's.
fn agrees(config: &Config, other: &dyn Other) -> Result<(), TestCaseError> {
    let names = all_paths();
    for name in &names {
        let here = config.rules.by_target(name).ok().map(|resolution| resolution.source.to_string());
        prop_assert_eq!(here, other.serves(name), "{}", name);
    }
    for path in &names {
        for host in ["docker.io", "quay.io", "registry.local:5000", "mcr.microsoft.com"] {
            let source = RegistryRepository::parse(&format!("{host}/{path}")).unwrap();
            match config.rules.forward(&source) {
                Ok(resolution) => prop_assert_eq!(other.serves(resolution.target.as_str()), Some(source.to_string())),
                Err(Unresolved::NoRule { .. }) => {
                    let there = names.iter().find(|name| other.serves(name).as_ref() == Some(&source.to_string()));
                    prop_assert_eq!(there, None, "{} is at the cache", source);
                }
                // The cache serves another image under the name that the rule gives: it must not be used.
                Err(Unresolved::Shadowed { target, serves, .. }) => {
                    prop_assert_eq!(other.serves(&target), Some(serves));
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
    Ok(())
}

fn path(least: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(WORDS.to_vec()), least..3).prop_map(|parts| parts.join("/"))
}

/// A source and a target that fit together, wildcards or not.
fn acr_rule() -> impl Strategy<Value = (String, String)> {
    let host = prop::sample::select(vec!["docker.io", "quay.io", "mcr.microsoft.com"]);
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

fn ecr_rule() -> impl Strategy<Value = (String, String, String)> {
    let host = prop::sample::select(vec!["registry-1.docker.io", "quay.io", "mcr.microsoft.com"]);
    let root = |path: String| if path.is_empty() { "ROOT".to_owned() } else { path };
    (path(0), host, path(0)).prop_map(move |(prefix, host, upstream)| (root(prefix), host.to_owned(), root(upstream)))
}

proptest! {
    #[test]
    fn azure_resolves_every_name_as_larder_does(given in prop::collection::vec(acr_rule(), 1..8)) {
        let mut acr = Acr(Vec::new());
        for rule in given {
            if !acr.refuses(&rule.1) {
                acr.0.push(rule);
            }
        }
        let (config, imported) = loaded(&acr.rows());
        prop_assert_eq!((imported.lost.len(), imported.rules, config.target.to_string()), (0, acr.0.len(), "contoso.azurecr.io".to_owned()));
        agrees(&config, &acr)?;
    }

    #[test]
    fn amazon_resolves_every_name_as_larder_does(given in prop::collection::vec(ecr_rule(), 1..8)) {
        let mut ecr = Ecr(Vec::new());
        for rule in given {
            if !ecr.0.iter().any(|(prefix, ..)| *prefix == rule.0) {
                ecr.0.push(rule);
            }
        }
        let (config, imported) = loaded(&ecr.rows());
        prop_assert_eq!((imported.lost.len(), imported.rules), (0, ecr.0.len()));
        agrees(&config, &ecr)?;
    }

    #[test]
    fn harbor_resolves_every_name_as_larder_does(registries in prop::collection::vec(0_usize..3, 1..4)) {
        let harbor = Harbor(WORDS.iter().map(|word| (*word).to_owned()).zip(registries).collect());
        let (config, imported) = loaded(&harbor.rows());
        prop_assert_eq!((imported.lost.len(), imported.rules), (0, harbor.0.len()));
        agrees(&config, &harbor)?;
    }

    #[test]
    fn whatever_the_rows_say_the_output_loads(
        texts in prop::collection::vec("\\PC{0,12}|docker\\.io/\\*|[a-z]{1,5}/\\*|https://[a-z./]{0,9}", 6),
        shape in 0_usize..4,
        numbers in prop::collection::vec(-1_i64..3, 2),
    ) {
        let t = |at: usize| texts[at].as_str();
        let rows = match shape {
            0 => json!([{"name": t(0), "sourceRepository": t(1), "targetRepository": t(2), "credentialSetResourceId": t(3), "id": t(4)},
                        {"name": t(5), "sourceRepository": "quay.io/*", "targetRepository": t(2), "credentialSetResourceId": t(3)}]),
            1 => json!([{"name": t(0), "loginServer": t(1), "authCredentials": [{"usernameSecretIdentifier": t(2), "passwordSecretIdentifier": t(3)}]}]),
            2 => json!([{"ecrRepositoryPrefix": t(0), "upstreamRegistryUrl": t(1), "upstreamRepositoryPrefix": t(2), "credentialArn": t(3),
                         "customRoleArn": t(4), "registryId": t(5)}]),
            _ => json!([{"project_id": 1, "name": t(0), "registry_id": numbers[0]}, {"project_id": 2, "name": t(1), "registry_id": numbers[1]},
                        {"id": 1, "name": t(2), "url": t(3), "credential": {"access_key": t(4)}}, {"id": 2, "url": t(5), "insecure": true}]),
        };
        // Azure's identifiers may name two registries, which is refused.
        if let Ok(imported) = import(&[(t(0).to_owned(), rows.to_string())], None) {
            let config = Config::parse(&imported.text, Path::new("larder.toml"));
            prop_assert!(config.is_ok(), "{:?}\n{}", config.err(), imported.text);
        }
    }
}

#[test]
fn rules_in_each_others_way_are_lost_by_name() {
    let acr = Acr(vec![
        ("docker.io/*".to_owned(), "hub/*".to_owned()),
        ("quay.io/*".to_owned(), "hub/quay/*".to_owned()),
        ("quay.io/a".to_owned(), "hub/a".to_owned()),
        ("quay.io/b".to_owned(), "hub/a".to_owned()),
        ("quay.io/c*".to_owned(), "c/*".to_owned()),
        ("quay.io/d/*".to_owned(), "d".to_owned()),
    ]);
    let (config, imported) = loaded(&acr.rows());
    assert_eq!(config.rules.rules().len(), 2);
    assert_eq!(
        imported.lost,
        [
            "rule \"rule-4\" (quay.io/c* to c/*): its source: `quay.io/c*`: `*` may only stand at the end, for whole components: `library/*`",
            "rule \"rule-1\" (quay.io/* to hub/quay/*): rule \"rule-0\" has hub/*",
            "rule \"rule-3\" (quay.io/b to hub/a): rule \"rule-2\" has hub/a",
            "rule \"rule-5\" (quay.io/d/* to d): `*` must stand on both sides or on neither",
        ]
    );
}

#[test]
fn a_thousand_rules_are_kept() {
    let rules = (0..1003).map(|at| (format!("quay.io/a{at}"), format!("a{at}"))).collect();
    let (config, imported) = loaded(&Acr(rules).rows());
    assert_eq!((config.rules.rules().len(), imported.lost.len()), (1000, 3));
    assert!(imported.lost[0].ends_with("1000 rules are the limit"), "{}", imported.lost[0]);
}

#[test]
fn files_that_do_not_go_together_are_refused() {
    let fails = |files: &[Value]| {
        let files: Vec<_> = files.iter().map(|value| ("f.json".to_owned(), value.to_string())).collect();
        import(&files, None).unwrap_err().to_string()
    };
    let acr = |registry: &str| json!([{"name": "r", "sourceRepository": "quay.io/a", "targetRepository": "a", "id": format!("/registries/{registry}/cacheRules/r")}]);
    let ecr = |account: &str| json!({"pullThroughCacheRules": [{"ecrRepositoryPrefix": "a", "upstreamRegistryUrl": "quay.io", "registryId": account}]});
    for (files, expected) in [
        (vec![acr("one"), acr("two")], "the files are of two registries, one and two (import each registry on its own)"),
        (vec![ecr("1"), ecr("2")], "the files are of two accounts, 1 and 2 (import each on its own)"),
        (
            vec![acr("one"), ecr("1")],
            "rules of Azure Container Registry and of Amazon ECR have two targets (import each system on its own)",
        ),
        (vec![json!([])], "there is nothing in the files"),
        (vec![json!([{"a": 1}])], "f.json: entry 1 is none that is known here"),
        (vec![json!(7)], "f.json: entry 1 is none that is known here"),
    ] {
        let error = fails(&files);
        assert!(error.starts_with(&format!("local: import rules: {expected}")), "{error}");
    }
    let error = import(&[("f.json".to_owned(), "[\n{".to_owned())], None).unwrap_err().to_string();
    assert!(error.starts_with("local: import rules: f.json:2: this is not JSON"), "{error}");
}
