//! Every command of README and docs runs as it is written. Each page has a folder that is prepared as the page says, with fakes behind the
//! registries' names; the commands run in their order, in a shell, and end with the exit status that the page promises.

use std::path::Path;

use crate::support::corpus::simple;
use crate::support::fake::{Acr, Fake, Options};
use crate::support::program::Program;

/// Commands that are not run here, and why.
const NOT_RUN: [(&str, &str); 6] = [
    ("larder serve ", "it does not end: tests/it/serve_conformance.rs"),
    ("larder export --repair NAME.bundle.json", "it has placeholders: docs/air-gap.md has it with names"),
    ("larder plan nginx.csv --explain", "its output is checked too: tests/it/selection.rs"),
    ("larder sync lists/kubernetes-control-plane.txt lists/monitoring.csv", "its lists are checked by tests/it/lists.rs"),
    ("larder limits", "it needs upstreams with limits: tests/it/limits_output.rs"),
    ("larder rules import ecr.json", "its output is checked too: tests/it/rules_io.rs"),
];

const AZURE_RULES: &str = r#"[{"name": "docker-library", "type": "Microsoft.ContainerRegistry/registries/cacheRules",
  "id": "/subscriptions/0/resourceGroups/r/providers/Microsoft.ContainerRegistry/registries/contoso/cacheRules/docker-library",
  "credentialSetResourceId": "/subscriptions/0/resourceGroups/r/providers/Microsoft.ContainerRegistry/registries/contoso/credentialSets/hub-set",
  "sourceRepository": "docker.io/library/*", "targetRepository": "library/*"}]"#;

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The code blocks of `text`: their language and body.
fn blocks(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'))
}

/// The body of the `nth` block of this language.
fn block<'t>(text: &'t str, language: &str, nth: usize) -> &'t str {
    blocks(text).filter(|(kind, _)| *kind == language).nth(nth).unwrap().1
}

/// The command lines that run larder: all lines of shell blocks, what follows the prompt in others, and crontab lines.
fn commands(text: &str) -> Vec<String> {
    let mut found = vec![];
    for (kind, body) in blocks(text).filter(|(kind, _)| ["sh", "console", ""].contains(kind)) {
        let lines = body.lines().filter_map(|line| match line.split_once("* * *  ") {
            Some((_, command)) => Some(command),
            None if kind == "sh" => Some(line),
            None => line.strip_prefix("$ "),
        });
        let uses = lines.filter(|line| line.starts_with("larder ") || line.contains("| larder "));
        found.extend(uses.map(|line| line.split("  #").next().unwrap().split(" # ").next().unwrap().trim().to_owned()));
    }
    found
}

/// A folder in which a page's commands run, and the registries behind the names.
struct Place {
    program: Program,
    upstream: Fake,
    target: Fake,
    cache: Fake,
}

impl Place {
    fn new() -> Self {
        let (upstream, target, mut program) = (Fake::start(), Fake::start(), Program::new());
        let images = [
            ("library/alpine", "3.20"),
            ("library/alpine", "3.21"),
            ("library/nginx", "1.25.0"),
            ("library/nginx", "1.27"),
            ("library/redis", "7.4"),
            ("prometheus/busybox", "latest"),
            ("pause", "3.10"),
        ];
        for (seed, (repository, tag)) in (1..).zip(images) {
            simple(&upstream, repository, tag, seed);
        }
        let cache = Fake::with(Options { acr: Some(Acr::new(&upstream, "")), ..Options::default() });
        program.script("bin/larder", &format!("exec {} \"$@\"\n", env!("CARGO_BIN_EXE_larder")));
        for (name, value) in [("HUB_USER", "me"), ("HUB_TOKEN", "secret"), ("HUB_SET_USERNAME", "me"), ("HUB_SET_PASSWORD", "secret")] {
            program.set(name, value);
        }
        Place { program, upstream, target, cache }
    }

    /// Where the registries that pages name are.
    fn endpoints(&self) -> String {
        let upstream = ["docker.io", "quay.io", "registry.k8s.io"].map(|host| (host, &self.upstream));
        let targets = ["registry.example.com", "registry.local:5000"].map(|host| (host, &self.target));
        let all = upstream.into_iter().chain(targets).chain([("contoso.azurecr.io", &self.cache)]);
        all.map(|(host, fake)| format!("\n[registry.\"{host}\"]\nendpoint = \"{}\"\n", fake.url())).collect()
    }

    /// The configuration and the list of README's first example.
    fn first_list(&self) {
        let readme = page("README.md");
        self.program.write("larder.toml", block(&readme, "toml", 0).to_owned() + &self.endpoints());
        self.program.write("lists/base.csv", block(&readme, "csv", 0));
    }

    /// Runs a command line as it is written; folders that are named from the root are below the program's.
    fn run(&self, command: &str, status: i32) {
        let folder = self.program.path("").display().to_string();
        let line = ["/media/", "/etc/larder/", "/var/lib/"]
            .iter()
            .fold(command.to_owned(), |line, root| line.replace(&format!(" {root}"), &format!(" {}{root}", folder.trim_end_matches('/'))));
        self.program.shell(&line).exits(status);
    }
}

/// Runs all commands of a page, each after `prepare`, which also says its exit status.
fn run_all(name: &str, prepare: impl Fn(&Place, &str) -> i32) {
    let (place, text) = (Place::new(), page(name));
    let mut ran = 0;
    for command in commands(&text) {
        if NOT_RUN.iter().any(|(prefix, _)| command.starts_with(prefix)) {
            continue;
        }
        let status = prepare(&place, &command);
        // Without a configuration there is nothing that leads a name elsewhere.
        let command = command.replace(" --image quay.io/", &format!(" --image {}/", place.upstream.addr()));
        place.run(&command, status);
        ran += 1;
    }
    assert!(ran > 0, "{name}");
}

#[test]
fn readme() {
    run_all("README.md", |place, command| {
        let begins = |start: &str| command.starts_with(&format!("larder {start}"));
        if begins("config check") || begins("export lists/kubernetes") {
            place.first_list();
            place.program.write("lists/kubernetes-control-plane.txt", "registry.k8s.io/pause:3.10\n");
        } else if begins("sync -c /etc/larder/larder.toml") {
            for file in ["larder.toml", "lists/base.csv"] {
                place.program.write(&format!("etc/larder/{file}"), place.program.read(file));
            }
            std::fs::create_dir_all(place.program.path("var/lib/larder")).unwrap();
        } else if begins("rules import") {
            place.program.write("rules.json", AZURE_RULES);
        } else if begins("rules check") {
            let imported = place.program.read("larder.toml");
            place.program.write(
                "larder.toml",
                imported.replacen("version = 1\n", "version = 1\nlists = [\"lists/warm.txt\"]\n", 1) + &place.endpoints(),
            );
            place.program.write("lists/warm.txt", "alpine:3.20\n");
        } else if begins("list scan") {
            let image = |name: &str| format!("apiVersion: v1\nkind: Pod\nspec: {{containers: [{{image: '{name}'}}]}}\n");
            place.program.write("manifests/a.yaml", image("redis:7.4"));
            place.program.write("charts/rendered/b.yaml", image("alpine:3.20"));
            place.program.write("compose.yaml", "services:\n  web: {image: 'nginx:1.27'}\n");
        }
        0
    });
}

#[test]
fn lock_and_nightly_and_plan() {
    run_all("docs/lock.md", |place, _| {
        place.first_list();
        0
    });
    run_all("docs/nightly.md", |place, command| {
        place.first_list();
        for file in ["larder.toml", "lists/base.csv"] {
            place.program.write(&format!("etc/larder/{file}"), place.program.read(file));
        }
        for folder in ["var/lib/larder", "var/lib/node_exporter/textfile"] {
            std::fs::create_dir_all(place.program.path(folder)).unwrap();
        }
        // What the page shows is a registry that has lost something.
        if command.starts_with("larder verify contoso.azurecr.io") {
            place.run("larder sync --lock larder.lock", 0);
            return 1;
        }
        0
    });
    run_all("docs/plan.md", |place, _| {
        place.first_list();
        place.program.write("list.csv", "image,tags\nalpine,3.*\nnothing,1\n");
        1
    });
}

#[test]
fn lists() {
    run_all("docs/lists.md", |place, command| {
        place.first_list();
        place.program.script("bin/helm", "echo 'image: redis:7.4'\n");
        place.program.write("deploy/deployment.yaml", "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'nginx:1.27'}]}\n");
        place.program.write("skopeo.yaml", "quay.io:\n  images-by-semver: {coreos/etcd: '>= 3.5'}\n");
        if command == "larder list check" {
            place.program.write("lists/base.csv", "image\nghcr.io/fluxcd/source-controller\nAlpine\n");
            return 1;
        }
        0
    });
}

#[test]
fn rules() {
    run_all("docs/rules.md", |place, command| {
        for file in ["projects.json", "registries.json"] {
            place.program.write(file, page(&format!("tests/data/import/harbor-{file}")));
        }
        place.program.write("rules.json", AZURE_RULES);
        place.program.write("sets.json", "[]");
        place.first_list();
        // These projects have what rules cannot express.
        if command.contains("projects.json") {
            return 1;
        }
        // The page shows rules with findings.
        if command == "larder rules check" {
            let text = "version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\n\
                        [[rule]]\nname = \"hub\"\nsource = \"docker.io/*\"\ntarget = \"hub/*\"\ndelivery = \"warm\"\n";
            place.program.write("larder.toml", text);
            return 1;
        }
        0
    });
}

/// A page whose commands are run nowhere would go unnoticed.
#[test]
fn every_page_with_commands_is_run_here_or_elsewhere() {
    let run_here = ["README.md", "docs/lists.md", "docs/lock.md", "docs/nightly.md", "docs/plan.md", "docs/rules.md"];
    // The same steps, with sizes that matter.
    let elsewhere = [("docs/air-gap.md", "tests/it/air_gap.rs"), ("docs/serve.md", "tests/it/serve_conformance.rs")];
    let docs = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let names = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    for name in names.chain(["README.md".to_owned(), "lists/README.md".to_owned()]).filter(|name| name.ends_with(".md")) {
        let is_run = |command: &String| !NOT_RUN.iter().any(|(prefix, _)| command.starts_with(prefix));
        let left: Vec<String> = commands(&page(&name)).into_iter().filter(is_run).collect();
        let known = run_here.contains(&&*name) || elsewhere.iter().any(|(page, _)| *page == name);
        assert!(known || left.is_empty(), "{name}: no test runs {left:?}");
    }
}
