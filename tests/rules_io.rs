//! What goes in and out of lists and rules: `list scan`, `list check`, `rules import`, `rules export`, `rules check`.
#![allow(clippy::unwrap_used)]

mod support;

use insta::assert_snapshot;
use support::program::Program;

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
    error: scan/skopeo.yaml:5: quay.io/prometheus/prometheus by tags `/^v3\.\d+\.\d+$/`: a text list cannot say this (use --format csv)
    7 images in 6 files
    exit 1
    ");
    program.write("found.txt", &run.stdout);
    let checked = program.run(&["list", "check", "found.txt"]).exits(0);
    assert_eq!(checked.stderr, "6 entries in 1 list: nothing to complain of\n");
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
    1 entry in 1 list: nothing to complain of
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
    pulls: 0 if the target is current; else 1 for a single image, or 1 for an index and 1 for each of its platforms
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
    3 rules imported; 1 things that larder.toml cannot say
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
    2 rules imported; 1 things that larder.toml cannot say
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
    error: local: read list: gone.json: No such file or directory (os error 2)
    exit 2
    ");
    assert_snapshot!(run(&["x.json", "--to", "oci:x"]), @"
    ---
    error: local: read --to: `oci:x`: a cache is a registry: HOST[:PORT][/PREFIX]
    exit 2
    ");
}
