//! What goes in and out of lists and rules: `list scan`, `list check`, `rules import`, `rules export`, `rules check`.

use crate::support::corpus::simple;
use crate::support::fake::{Fake, Kind};
use crate::support::program::Program;
use crate::support::real::skopeo_ok;
use insta::assert_snapshot;

/// A folder that holds a copy of `tests/data/<name>`, under that name.
fn with_data(name: &str) -> Program {
    let program = Program::new();
    copy(&program, &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name), name);
    program
}

fn copy(program: &Program, from: &std::path::Path, to: &str) {
    if from.is_dir() {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(program, &entry.path(), &format!("{to}/{}", entry.file_name().to_str().unwrap()));
        }
    } else {
        program.write(to, std::fs::read(from).unwrap());
    }
}

#[test]
fn list_scan_walks_folders_and_prints_a_list_that_can_be_given_back() {
    let program = with_data("scan");
    program.write("scan/.git/hidden.yaml", "image: hidden:1\n");
    program.write("scan/notes.txt", "image: ignored:1\n");
    let run = program.run(&["list", "scan", "scan"]);
    assert_snapshot!(run.shown(&[]), @r"
    docker.io/library/golang:1.24-alpine  # scan/Dockerfile:2
    docker.io/library/nginx:1.27  # scan/compose.yml:3
    docker.io/library/busybox:1.36  # scan/deployment.yaml:10
    quay.io/prometheus/node-exporter:v1.9.1  # scan/deployment.yaml:15
    quay.io/coreos/etcd:v3.5.21  # scan/skopeo.yaml:3
    # quay.io/prometheus/prometheus by tags `/^v3\.\d+\.\d+$/`  # scan/skopeo.yaml:5
    ghcr.io/team/app:1.20  # scan/charts/values.yaml:2
    ---
    warning: scan/compose.yml:6: service `api` is built here: its image `api:dev` is left out
    error: scan/charts/web.yaml:5: a collection stands where a key belongs; this looks like a template: scan what it renders (`helm template`)
    error: scan/skopeo.yaml:5: quay.io/prometheus/prometheus by tags `/^v3\.\d+\.\d+$/`: a text list cannot express this (use --format csv)
    7 images in 6 files
    exit 1
    ");
    program.write("found.txt", &run.stdout);
    let checked = program.run(&["list", "check", "found.txt"]).exits(0);
    assert_eq!(checked.stderr, "6 entries in 1 list: no problems found\n");
    let csv = program.run(&["list", "scan", "--format", "csv", "scan/skopeo.yaml"]).exits(0);
    assert_snapshot!(csv.shown(&[]), @r"
    image,tags,exclude
    # scan/skopeo.yaml:3
    quay.io/coreos/etcd:v3.5.21,,
    # scan/skopeo.yaml:5
    quay.io/prometheus/prometheus,/^v3\.\d+\.\d+$/,
    ---
    2 images in 1 file
    exit 0
    ");
}

#[test]
fn list_scan_reads_standard_input_and_single_files() {
    let program = Program::new();
    let rendered = "# Source: a\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: a/b:1}]}\n---\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: b/c}]}\n";
    let run = program.run_with_input(&["list", "scan", "-"], rendered).exits(0);
    assert_eq!(run.stdout, "docker.io/a/b:1  # -:4\ndocker.io/b/c:latest  # -:8\n");
    program.write("build.txt", "FROM alpine:3.20\n");
    program.write("bad.yaml", b"image: \xff\n");
    assert_snapshot!(program.run(&["list", "scan", "build.txt", "bad.yaml"]).shown(&[]), @"
    docker.io/library/alpine:3.20  # build.txt:1
    ---
    error: local: read list: bad.yaml:1: byte 0xff is not UTF-8; save the list as UTF-8
    1 image in 2 files
    exit 1
    ");
    assert_snapshot!(program.run(&["list", "scan", "gone", "build.txt"]).shown(&[]), @"
    ---
    error: local: scan: gone: No such file or directory (os error 2)
    exit 2
    ");
    assert_eq!(program.run(&["list", "scan"]).code, 2);
}

#[test]
fn list_check_finds_what_sync_would_stumble_over() {
    let program = Program::new();
    program.write(
        "larder.toml",
        "version = 1\nlists = [\"a.txt\"]\n[target]\nregistry = \"r.example\"\n[[rule]]\nname = \"hub\"\nsource = \"docker.io/library/*\"\ntarget = \"library/*\"\n",
    );
    program.write("a.txt", "alpine:3.20\nquay.io/x/y:1\nAlpine\nalpine:3.20\n");
    program.write(
        "b.csv",
        "image,tags,target\nbusybox,1.36,library/alpine\nquay.io/x/y,1,mine/y:2\nghcr.io/x/y,7,mine/y:2\nghcr.io/x/z,*,mine/z\n",
    );
    let check = |arguments: &[&str]| program.run(&[&["list", "check"], arguments].concat()).shown(&[]);
    assert_snapshot!(check(&[]), @r#"
    a.txt:2: no cache rule covers quay.io/x/y; the nearest is "hub" (docker.io/library/* to library/*) (add a rule to larder.toml, or use --unmatched mirror)
    a.txt:3: `Alpine`: repository names are lower case
    ---
    3 entries in 1 list: 2 problems
    exit 1
    "#);
    assert_snapshot!(check(&["a.txt", "b.csv", "--unmatched", "mirror"]), @r#"
    a.txt:3: `Alpine`: repository names are lower case
    b.csv:2: docker.io/library/busybox would become library/alpine, which rule "hub" owns and fills from docker.io/library/alpine (give one of the two another target)
    b.csv:4: target name mine/y:2 is already filled from quay.io/x/y:1 (b.csv:3) (remove one of the two lines, or give one of them another `target`)
    ---
    7 entries in 2 lists: 3 problems
    exit 1
    "#);
    assert_snapshot!(check(&["--image", "alpine", "--to", "oci:x"]), @"
    ---
    1 entry in 1 list: no problems found
    exit 0
    ");
    assert_snapshot!(check(&["gone.txt"]), @"
    ---
    error: local: read list: gone.txt: No such file or directory (os error 2)
    exit 2
    ");
}

#[test]
fn rules_of_an_azure_registry_are_imported() {
    let program = with_data("import");
    let run = program.run(&["rules", "import", "import/acr-cache.json", "import/acr-sets.json"]);
    assert_snapshot!(run.shown(&[]), @r#"
    # Rules of Azure Container Registry, from import/acr-cache.json, import/acr-sets.json. `larder rules check` says what to look at.
    #
    # To know:
    # - credential set "ghcr-token" is not in the files: its login server is taken from rule "flux-source"

    version = 1

    [target]
    registry = "contoso.azurecr.io"

    [[rule]]
    name = "docker-library"
    source = "docker.io/library/*"
    target = "library/*"
    credentials = "docker-hub"
    delivery = "warm"

    [[rule]]
    name = "mcr-dotnet"
    source = "mcr.microsoft.com/dotnet/*"
    target = "dotnet/*"
    delivery = "warm"

    [[rule]]
    name = "flux-source"
    source = "ghcr.io/fluxcd/source-controller"
    target = "flux/source-controller"
    credentials = "ghcr-token"
    delivery = "warm"

    [[credentials]]
    # kept as: username https://contoso-kv.vault.azure.net/secrets/hub-user, password https://contoso-kv.vault.azure.net/secrets/hub-token
    name = "docker-hub"
    login_server = "docker.io"
    username = { env = "DOCKER_HUB_USERNAME" }
    password = { env = "DOCKER_HUB_PASSWORD" }

    [[credentials]]
    name = "ghcr-token"
    login_server = "ghcr.io"
    username = { env = "GHCR_TOKEN_USERNAME" }
    password = { env = "GHCR_TOKEN_PASSWORD" }
    ---
    warning: credential set "ghcr-token" is not in the files: its login server is taken from rule "flux-source"
    3 rules imported
    exit 0
    "#);
    program.write("larder.toml", &run.stdout);
    assert_snapshot!(program.run(&["rules", "explain", "contoso.azurecr.io/library/alpine:3.20"]).shown(&[]), @"
    image: contoso.azurecr.io/library/alpine:3.20
    considered: docker-library (docker.io/library/* to library/*)
    rule: docker-library
    source: docker.io/library/alpine:3.20
    target: contoso.azurecr.io/library/alpine:3.20
    credentials: docker-hub
    delivery: warm
    pulls: 0 if the cache is proved to have it; else, through the cache, 1 for a single image, or 1 for an index and 1 for each of its platforms
    ---
    exit 0
    ");
    let alone = program.run(&["rules", "import", "import/acr-sets.json", "--to", "other.azurecr.io/below"]).exits(0);
    assert!(alone.stdout.contains("registry = \"other.azurecr.io\"\nrepository_prefix = \"below\"\n"), "{}", alone.stdout);
}

#[test]
fn rules_of_an_amazon_registry_are_imported() {
    let program = with_data("import");
    let run = program.run(&["rules", "import", "import/ecr.json"]);
    assert_snapshot!(run.shown(&[]), @r#"
    # Rules of Amazon ECR, from import/ecr.json. `larder rules check` says what to look at.
    #
    # What this file cannot say:
    # - prefix "team/shared": its role arn:aws:iam::123456789012:role/ptc; give larder a credential set for 210987654321.dkr.ecr.us-east-1.amazonaws.com

    version = 1

    [target]
    registry = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    overlap = "longest"

    [[rule]]
    name = "docker-hub"
    source = "docker.io/*"
    target = "docker-hub/*"
    credentials = "hub"
    delivery = "warm"

    [[rule]] # "team/shared"
    name = "team-shared"
    source = "210987654321.dkr.ecr.us-east-1.amazonaws.com/shared/*"
    target = "team/shared/*"
    delivery = "warm"

    [[rule]]
    name = "ROOT"
    source = "public.ecr.aws/*"
    target = "*"
    delivery = "warm"

    [[credentials]]
    # kept as: arn:aws:secretsmanager:eu-central-1:123456789012:secret:ecr-pullthroughcache/hub-Ab12Cd
    name = "hub"
    login_server = "docker.io"
    username = { env = "HUB_USERNAME" }
    password = { env = "HUB_PASSWORD" }
    ---
    error: not imported: prefix "team/shared": its role arn:aws:iam::123456789012:role/ptc; give larder a credential set for 210987654321.dkr.ecr.us-east-1.amazonaws.com
    3 rules imported; 1 setting that larder.toml cannot express
    exit 1
    "#);
    program.write("larder.toml", &run.stdout);
    assert_eq!(program.run(&["config", "show"]).exits(0).stderr, "");
}

#[test]
fn proxy_projects_of_a_harbor_are_imported() {
    let program = with_data("import");
    let run = program.run(&["rules", "import", "import/harbor-projects.json", "import/harbor-registries.json"]);
    assert_snapshot!(run.shown(&[]), @r#"
    # Rules of Harbor, from import/harbor-projects.json, import/harbor-registries.json. `larder rules check` says what to look at.
    #
    # What this file cannot say:
    # - project "lab_mirror": its filter team/**; larder's rule takes every repository
    #
    # To know:
    # - 1 project is no proxy cache: it has no rule
    # - the files do not say where Harbor is: harbor.example.com stands for it (--to REGISTRY says it)

    version = 1

    [target]
    registry = "harbor.example.com"

    [[rule]]
    name = "hub"
    source = "docker.io/*"
    target = "hub/*"
    credentials = "Docker-Hub"
    delivery = "warm"

    [[rule]] # "lab_mirror"
    name = "lab-mirror"
    source = "registry.lab.example:5000/*"
    target = "lab_mirror/*"
    delivery = "warm"

    [[credentials]]
    name = "Docker-Hub"
    login_server = "docker.io"
    username = { env = "DOCKER_HUB_USERNAME" }
    password = { env = "DOCKER_HUB_PASSWORD" }

    [registry."registry.lab.example:5000"]
    insecure_skip_verify = true

    [registry."harbor.example.com"]
    profile = "harbor"
    ---
    warning: 1 project is no proxy cache: it has no rule
    warning: the files do not say where Harbor is: harbor.example.com stands for it (--to REGISTRY says it)
    error: not imported: project "lab_mirror": its filter team/**; larder's rule takes every repository
    2 rules imported; 1 setting that larder.toml cannot express
    exit 1
    "#);
    program.write("larder.toml", &run.stdout);
    assert_eq!(program.run(&["config", "show"]).exits(0).stderr, "");
    let said =
        program.run(&["rules", "import", "--to", "harbor.corp.example", "import/harbor-projects.json", "import/harbor-registries.json"]);
    assert!(said.exits(1).stdout.contains("registry = \"harbor.corp.example\"\n"));
    let without = program.run(&["rules", "import", "import/harbor-projects.json"]).exits(1);
    assert!(without.stderr.contains("registry 1 is not in the files"), "{}", without.stderr);
}

#[test]
fn what_cannot_be_imported_is_told_and_nothing_is_printed() {
    let program = Program::new();
    program.write("x.json", "[{\"a\": 1}]");
    program.write("broken.json", "[\n{\"name\": }]");
    let run = |arguments: &[&str]| program.run(&[&["rules", "import"], arguments].concat()).shown(&[]);
    assert_snapshot!(run(&["x.json"]), @"
    ---
    error: local: import rules: x.json: entry 1 is none that is known here (give the JSON of `az acr cache list`, `az acr credential-set list`, `aws ecr describe-pull-through-cache-rules`, or of Harbor's /api/v2.0/projects and /api/v2.0/registries)
    exit 2
    ");
    assert_snapshot!(run(&["broken.json"]), @"
    ---
    error: local: import rules: broken.json:2: this is not JSON: expected value at line 2 column 10 (print it with `-o json`)
    exit 2
    ");
    assert_snapshot!(run(&["gone.json"]), @"
    ---
    error: local: import rules: gone.json: No such file or directory (os error 2)
    exit 2
    ");
    assert_snapshot!(run(&["x.json", "--to", "oci:x"]), @"
    ---
    error: local: read --to: `oci:x`: a cache is a registry: HOST[:PORT][/PREFIX]
    exit 2
    ");
}

const STOCKED: &str = r#"version = 1
[target]
registry = "contoso.azurecr.io"
repository_prefix = "mirror"
[[rule]]
name = "docker-library"
source = "docker.io/library/*"
target = "library/*"
credentials = "docker-hub"
[[rule]]
name = "grafana"
source = "docker.io/grafana/*"
target = "dash/*"
[[rule]]
name = "quay-all"
source = "quay.io/*"
target = "quay/*"
[[credentials]]
name = "docker-hub"
login_server = "docker.io"
username = "somebody"
password = { command = ["print", "hunter2"] }
"#;

#[test]
fn rules_are_exported_in_every_format_and_no_secret_with_them() {
    let program = Program::new();
    program.write("larder.toml", STOCKED);
    let export = |format: &str| {
        let run = program.run(&["rules", "export", "--format", format]).exits(0);
        let shown = run.shown(&[]);
        assert!(!shown.contains("hunter2") && !shown.contains("somebody"), "{shown}");
        for warning in run.stderr.lines() {
            assert!(run.stdout.contains(&format!("# - {}", warning.strip_prefix("warning: ").unwrap())), "{warning} is no comment");
        }
        shown
    };
    assert_snapshot!(export("az"), @r#"
    # Written by `larder rules export --format az`.
    #
    # What it cannot say, or what is left to you:
    # - a cache refuses pushes into its rules' repositories: set delivery = "warm" once these exist for "docker-library", "grafana", "quay-all"
    set -eu
    : "${DOCKER_HUB_USERNAME_ID:?the Key Vault secret identifier of the user name of docker-hub}"
    : "${DOCKER_HUB_PASSWORD_ID:?the Key Vault secret identifier of the password of docker-hub}"
    az acr credential-set create -r contoso -n docker-hub -l docker.io -u "$DOCKER_HUB_USERNAME_ID" -p "$DOCKER_HUB_PASSWORD_ID"
    az acr cache create -r contoso -n docker-library -s 'docker.io/library/*' -t 'mirror/library/*' -c docker-hub
    az acr cache create -r contoso -n grafana -s 'docker.io/grafana/*' -t 'mirror/dash/*' -c docker-hub
    az acr cache create -r contoso -n quay-all -s 'quay.io/*' -t 'mirror/quay/*'
    ---
    warning: a cache refuses pushes into its rules' repositories: set delivery = "warm" once these exist for "docker-library", "grafana", "quay-all"
    exit 0
    "#);
    assert_snapshot!(export("containerd"), @r#"
    # docker.io/hosts.toml
    # Written by `larder rules export --format containerd`.
    #
    # What it cannot say, or what is left to you:
    # - rule "grafana": hosts.toml cannot turn docker.io/grafana/* into mirror/dash/*: it keeps the whole path; pull these by the target's own name
    # - names of docker.io that no rule covers are asked of the target under their own path, where it has other images: dash/* (rule "grafana"), quay/* (rule "quay-all")
    server = "https://registry-1.docker.io"

    [host."https://contoso.azurecr.io/v2/mirror"]
    capabilities = ["pull", "resolve"]
    override_path = true

    # quay.io/hosts.toml
    # Written by `larder rules export --format containerd`.
    server = "https://quay.io"

    [host."https://contoso.azurecr.io/v2/mirror/quay"]
    capabilities = ["pull", "resolve"]
    override_path = true

    ---
    warning: rule "grafana": hosts.toml cannot turn docker.io/grafana/* into mirror/dash/*: it keeps the whole path; pull these by the target's own name
    warning: names of docker.io that no rule covers are asked of the target under their own path, where it has other images: dash/* (rule "grafana"), quay/* (rule "quay-all")
    exit 0
    "#);
    assert_snapshot!(export("podman"), @r#"
    # Written by `larder rules export --format podman`.

    [[registry]]
    prefix = "docker.io/library"
    location = "docker.io/library"

    [[registry.mirror]]
    location = "contoso.azurecr.io/mirror/library"

    [[registry]]
    prefix = "docker.io/grafana"
    location = "docker.io/grafana"

    [[registry.mirror]]
    location = "contoso.azurecr.io/mirror/dash"

    [[registry]]
    prefix = "quay.io"
    location = "quay.io"

    [[registry.mirror]]
    location = "contoso.azurecr.io/mirror/quay"
    ---
    exit 0
    "#);
    for format in ["ecr", "k3s", "openshift"] {
        assert!(export(format).starts_with(&format!("# Written by `larder rules export --format {format}`.\n")));
    }
    assert_eq!(program.run(&["rules", "export"]).code, 2);
}

#[test]
fn an_export_is_written_below_a_folder() {
    let program = Program::new();
    program.write("larder.toml", STOCKED);
    let run = program.run(&["rules", "export", "--format", "containerd", "--dir", "certs.d"]).exits(0);
    assert_eq!(run.stdout, "");
    assert!(program.read("certs.d/docker.io/hosts.toml").contains("server = \"https://registry-1.docker.io\"\n"));
    assert!(program.read("certs.d/quay.io/hosts.toml").contains("[host.\"https://contoso.azurecr.io/v2/mirror/quay\"]\n"));
    program.run(&["rules", "export", "--format", "podman", "--dir", "new/conf"]).exits(0);
    let written = program.read("new/conf/registries.conf");
    assert_eq!(program.run(&["rules", "export", "--format", "podman"]).stdout, written);
    program.write("larder.toml", "version = 1\n[target]\nlayout = \"store\"\n");
    assert_snapshot!(program.run(&["rules", "export", "--format", "podman"]).shown(&[]), @"
    ---
    error: local: export rules: the target oci:store is a layout, which clients cannot pull from (set `registry` in [target])
    exit 2
    ");
    program.write("larder.toml", "version = 1\n[target]\nregistry = \"r.example\"\n");
    assert_snapshot!(program.run(&["rules", "export", "--format", "podman"]).shown(&[]), @"
    ---
    error: local: export rules: there are no rules (write a [[rule]] into larder.toml)
    exit 2
    ");
}

/// A warm or pushing rule.
fn rule(name: &str, source: &str, target: &str, more: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nsource = \"{source}\"\ntarget = \"{target}\"\n{more}")
}

const WARM: &str = "delivery = \"warm\"\n";

#[test]
fn rules_check_knows_what_azure_makes_of_rules() {
    let program = Program::new();
    let text = |registry: &str| {
        [
            format!("version = 1\n[target]\nregistry = \"{registry}\"\noverlap = \"longest\"\n"),
            rule("hub", "docker.io/*", "hub/*", WARM),
            rule("quay-io", "quay.io/*", "hub/quay/*", WARM),
            rule("microsoft", "mcr.microsoft.com/*", "mcr/*", "delivery = \"warm\"\ncredentials = \"mcr\"\n"),
            rule("pushed-one", "docker.io/team/app", "hub/app", ""),
            rule("nginx-only", "docker.io/nginx", "nginx", WARM),
            "[[credentials]]\nname = \"mcr\"\nlogin_server = \"mcr.microsoft.com\"\nusername = \"u\"\npassword = { env = \"P\" }\n"
                .to_owned(),
        ]
        .concat()
    };
    program.write("larder.toml", text("contoso.azurecr.io"));
    let run = program.run(&["rules", "check"]);
    assert_snapshot!(run.shown(&[]), @r#"
    error: larder.toml:6: rule "hub": docker.io wants credentials (the artifact cache pulls it with them only), and there is no set for it (add a [[credentials]] with login_server = "docker.io")
    error: larder.toml:6: rule "hub": a name has 5 to 50 letters, digits and hyphens at Azure; this has 3 (rename it as the cache rule is called there)
    error: larder.toml:11: rule "quay-io": Azure takes no wildcard within another: its target hub/quay/* and hub/* of rule "hub" (line 6) (give one of the two another target)
    error: larder.toml:16: rule "microsoft": mcr.microsoft.com is pulled without credentials only, but credential set "mcr" is used for it (take the set away)
    error: larder.toml:22: rule "pushed-one": it pushes into hub/app, and Azure refuses pushes where a cache rule is: hub/* of rule "hub" (line 6) (make it warm, give it another target, or set writable_cache = true in [target] if its cache repositories are writable)
    error: larder.toml:26: rule "nginx-only": docker.io wants credentials (the artifact cache pulls it with them only), and there is no set for it (add a [[credentials]] with login_server = "docker.io")
    warning: larder.toml:22: rule "pushed-one": docker.io wants credentials (the artifact cache pulls it with them only), and there is no set for it (add a [[credentials]] with login_server = "docker.io")
    note: larder.toml:6: rule "hub": hub/alpine is docker.io/library/alpine: Azure inserts library/ into names of one component, as larder does
    note: larder.toml:26: rule "nginx-only": source docker.io/nginx is docker.io/library/nginx: Azure inserts library/, as larder does
    ---
    exit 1
    "#);
    // The same at another registry is no error, and with the profile it is the same.
    program.write("larder.toml", text("r.example"));
    let other = program.run(&["rules", "check"]).exits(1);
    assert!(!other.stdout.contains("error: ") && !other.stdout.contains("Azure"), "{}", other.stdout);
    program.write("larder.toml", text("r.example") + "[registry.\"r.example\"]\nprofile = \"acr\"\n");
    assert_eq!(program.run(&["rules", "check"]).stdout, run.stdout);
}

#[test]
fn rules_check_with_notes_only_complains_of_nothing() {
    let program = Program::new();
    let set = "[[credentials]]\nname = \"docker-hub\"\nlogin_server = \"docker.io\"\nusername = \"u\"\npassword = { env = \"P\" }\n";
    let text =
        ["version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\n", &rule("docker-hub", "docker.io/*", "hub/*", WARM), set].concat();
    program.write("larder.toml", text);
    assert_snapshot!(program.run(&["rules", "check"]).shown(&[]), @r#"
    note: larder.toml:5: rule "docker-hub": hub/alpine is docker.io/library/alpine: Azure inserts library/ into names of one component, as larder does
    ---
    1 rule: no problems found
    exit 0
    "#);
}

#[test]
fn rules_check_online_asks_which_repositories_exist() {
    let (target, program) = (Fake::start(), Program::new());
    simple(&target, "below/flux", "v1", 1);
    simple(&target, "below/hub/library/alpine", "3.20", 2);
    simple(&target, "below/pushed", "v1", 3);
    let text = [
        format!("version = 1\nlists = [\"list.txt\"]\n[target]\nregistry = \"{}\"\nrepository_prefix = \"below\"\n", target.addr()),
        rule("flux-source", "ghcr.io/fluxcd/source-controller", "flux", WARM),
        rule("new-rule", "ghcr.io/fluxcd/new", "new", WARM),
        rule("docker-hub", "docker.io/*", "hub/*", "delivery = \"warm\"\ncredentials = \"hub\"\n"),
        rule("pushed", "quay.io/x/pushed", "pushed", ""),
        "[[credentials]]\nname = \"hub\"\nlogin_server = \"docker.io\"\nusername = \"u\"\npassword = { env = \"P\" }\n".to_owned(),
        format!("[registry.\"{}\"]\nprofile = \"acr\"\n", target.addr()),
    ]
    .concat();
    program.write("larder.toml", &text);
    program.write("list.txt", "alpine:3.20\nalpine:3.19\nbusybox\n");
    assert_snapshot!(program.run(&["rules", "check", "--online"]).shown(&[(&target, "TARGET")]), @r#"
    warning: larder.toml:7: rule "flux-source": TARGET/below/flux exists already, with 1 tag; Azure creates no rule for a repository that exists (if this rule created it, nothing is wrong; else delete the repository, or give the rule another target)
    warning: larder.toml:17: rule "docker-hub": TARGET/below/hub/library/alpine exists already, with 1 tag; Azure creates no rule for a repository that exists (if this rule created it, nothing is wrong; else delete the repository, or give the rule another target)
    note: larder.toml:17: rule "docker-hub": hub/alpine is docker.io/library/alpine: Azure inserts library/ into names of one component, as larder does
    ---
    exit 1
    "#);
    // Each repository once: flux, new, and two of the list. And an upload to where a rule pushes, opened and cancelled.
    let lists = || target.requests().iter().filter(|request| request.path.ends_with("/tags/list")).count();
    let uploads = || [Kind::UploadPost, Kind::UploadDelete].map(|kind| target.count(kind));
    assert_eq!((lists(), uploads(), target.requests().len()), (4, [1, 1], 6));
    // It is remembered.
    program.run(&["rules", "check", "--online"]).exits(1);
    assert_eq!((lists(), uploads()), (8, [1, 1]));
    target.reset_log();
    program.write("larder.toml", text.replace("profile = \"acr\"", "profile = \"harbor\""));
    let elsewhere = program.run(&["rules", "check", "--online"]).exits(0);
    assert!(elsewhere.stderr.contains("is not an Azure Container Registry: its repositories are not checked"), "{}", elsewhere.stderr);
    assert_eq!((lists(), target.requests().len()), (0, 2));
}

/// What skopeo reads of an image by a `registries.conf`, and nothing of its own configuration.
fn by_registries_conf(file: &std::path::Path, image: &str) -> Option<String> {
    let image = format!("docker://{image}");
    skopeo_ok(["--registries-conf", file.to_str().unwrap(), "inspect", "--raw", "--no-creds", &image])
}

#[test]
fn skopeo_pulls_what_was_stocked_by_the_exported_registries() {
    let (target, program) = (Fake::start(), Program::new());
    for (repository, seed) in [("mirror/library/alpine", 1), ("mirror/dash/grafana", 2), ("mirror/quay/x/y", 3)] {
        simple(&target, repository, "v1", seed);
    }
    program.write("larder.toml", STOCKED.replace("contoso.azurecr.io", &target.addr()));
    program.run(&["rules", "export", "--format", "podman", "--dir", "."]).exits(0);
    let file = program.path("registries.conf");
    for (image, repository) in [
        ("docker.io/library/alpine:v1", "mirror/library/alpine"),
        ("docker.io/grafana/grafana:v1", "mirror/dash/grafana"),
        ("quay.io/x/y:v1", "mirror/quay/x/y"),
    ] {
        let Some(read) = by_registries_conf(&file, image) else { return };
        assert_eq!(read.as_bytes(), target.manifest(repository, "v1").unwrap().1, "{image}");
    }
}

#[test]
fn rules_by_managed_identity_need_no_credential_set() {
    let program = Program::new();
    let rules = [
        rule("other-registry", "fabrikam.azurecr.io/apps/*", "apps/*", WARM),
        rule("from-google", "europe-docker.pkg.dev/p/r/*", "gar/*", WARM),
    ];
    program.write("larder.toml", format!("version = 1\n[target]\nregistry = \"contoso.azurecr.io\"\n{}", rules.concat()));
    program.run(&["rules", "check"]).exits(0);
    let exported = program.run(&["rules", "export", "--format", "az"]).exits(0);
    let expected = "az acr cache create -r contoso -n other-registry -s 'fabrikam.azurecr.io/apps/*' -t 'apps/*' --identity \"$OTHER_REGISTRY_IDENTITY_ID\"\n";
    assert!(exported.stdout.contains(expected), "{}", exported.stdout);
    assert!(exported.stdout.contains(": \"${OTHER_REGISTRY_IDENTITY_ID:?"), "{}", exported.stdout);
    // With a set, it is the set.
    let set =
        "[[credentials]]\nname = \"fabrikam\"\nlogin_server = \"fabrikam.azurecr.io\"\nusername = \"u\"\npassword = { env = \"P\" }\n";
    program.write("larder.toml", program.read("larder.toml") + set);
    let exported = program.run(&["rules", "export", "--format", "az"]).exits(0);
    assert!(exported.stdout.contains("-t 'apps/*' -c fabrikam\n") && !exported.stdout.contains("--identity"), "{}", exported.stdout);
}

#[test]
fn what_azure_says_of_a_rule_and_larder_cannot_is_listed() {
    let program = Program::new();
    let row = r#"[{"name": "from-google", "sourceRepository": "europe-docker.pkg.dev/p/r/*", "targetRepository": "gar/*",
        "id": "/subscriptions/x/resourceGroups/y/providers/Microsoft.ContainerRegistry/registries/contoso/cacheRules/from-google",
        "additionalAuthenticationProperties": {"type": "GarAuthenticationProperties", "projectNumber": "1", "workloadIdentityPool": "p"}},
        {"name": "plain-rule", "sourceRepository": "quay.io/*", "targetRepository": "quay/*", "additionalAuthenticationProperties": null,
        "id": "/subscriptions/x/resourceGroups/y/providers/Microsoft.ContainerRegistry/registries/contoso/cacheRules/plain-rule"}]"#;
    program.write("rules.json", row);
    let run = program.run(&["rules", "import", "rules.json"]);
    let lost = "rule \"from-google\": its additionalAuthenticationProperties";
    assert!(run.stdout.contains(lost) && !run.stdout.contains("\"plain-rule\": its"), "{}", run.stdout);
    program.write("larder.toml", &run.stdout);
    program.run(&["rules", "check"]).exits(0);
}
