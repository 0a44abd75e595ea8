use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;

/// What a file names, and what is said about it.
fn shown(file: &str, text: &str) -> String {
    let scanned = scan(file, text);
    let mut out = String::new();
    for FoundReference { origin, wanted } in &scanned.found {
        let chooses = if wanted.tags.is_empty() { String::new() } else { format!(" tags={} exclude={}", wanted.tags, wanted.exclude) };
        out += &format!("{}: {}{chooses}\n", origin.line, wanted.image);
    }
    for problem in &scanned.problems {
        out += &format!("problem {}: {}\n", problem.origin.line, problem.message);
    }
    for note in &scanned.notes {
        out += &format!("note {}: {}\n", note.origin.line, note.message);
    }
    out
}

#[test]
fn kubernetes_manifests_are_searched_at_any_depth() {
    let text = r#"# Source: app/templates/pod.yaml
apiVersion: v1
kind: Pod
spec:
  initContainers:
    - name: init
      image: busybox
  containers:
    - {name: app, image: "quay.io/team/app:v1"}
    - name: same
      image: docker.io/library/busybox:latest
  ephemeralContainers:
    - image: ghcr.io/x/debug@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  volumes:
    - image:
        reference: quay.io/team/model:1
---
apiVersion: batch/v1
kind: CronJob
spec:
  jobTemplate:
    spec:
      template:
        spec:
          containers:
            - image: >-
                registry.k8s.io/pause:3.10
            - image:
            - image: ""
---
apiVersion: example.com/v1
kind: Cluster
spec:
  image: {registry: quay.io, repository: team/db, tag: 1.20}
  imageName: ghcr.io/cloudnative-pg/postgresql:16.1
  logoImage: not-one
  baseImage: quay.io/team/untagged
  other:
    image: {repository: quay.io/team/chart}
  env:
    - {name: RELATED_IMAGE_PROXY, value: "quay.io/team/proxy:2"}
    - {name: OTHER, value: "quay.io/team/other:2"}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec:
  versions:
    - schema: {openAPIV3Schema: {properties: {image: {type: string, description: an image}}}}
---
apiVersion: v1
kind: Pod
spec:
  containers:
    - image: Not An Image
    - image: ${REGISTRY:-quay.io}/team/flux:1
    - image: ${REGISTRY}/team/flux:1
    - image: "{{ .Values.image }}"
"#;
    assert_snapshot!(shown("all.yaml", text), @r"
    7: docker.io/library/busybox:latest
    9: quay.io/team/app:v1
    11: docker.io/library/busybox:latest
    13: ghcr.io/x/debug@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    16: quay.io/team/model:1
    27: registry.k8s.io/pause:3.10
    34: quay.io/team/db:1.20
    35: ghcr.io/cloudnative-pg/postgresql:16.1
    41: quay.io/team/proxy:2
    55: quay.io/team/flux:1
    problem 39: `quay.io/team/chart` has no tag, which a chart fills in: scan what it renders (`helm template`)
    problem 54: `Not An Image`: repository names are lower case
    problem 56: `$REGISTRY` has no value here and no default
    problem 57: `{{ .Values.image }}` is a template: scan what it renders (`helm template`)
    ");
}

#[test]
fn a_broken_document_does_not_take_the_others_with_it() {
    let text = "apiVersion: v1\nkind: Pod\nspec: {image: a:1}\n---\nkey: [unclosed\n---\napiVersion: v1\nkind: Pod\nspec: {image: b:1}\n";
    let shown = shown("x.yaml", text);
    assert!(shown.starts_with("3: docker.io/library/a:1\n9: docker.io/library/b:1\nproblem "), "{shown}");
    assert_eq!(shown.lines().count(), 3, "{shown}");
}

#[test]
fn kustomizations_name_what_they_put_in() {
    let text = "resources: [a.yaml]\nimages:\n- name: nginx\n  newTag: \"1.27\"\n- name: app\n  newName: quay.io/team/app\n  digest: \
                sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n- name: left\n  newName: right\n";
    assert_snapshot!(shown("kustomization.yaml", text), @r"
    3: docker.io/library/nginx:1.27
    5: quay.io/team/app@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
    ");
}

#[test]
fn image_lists_of_air_gap_tools_are_read() {
    let text = "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v1alpha2\nmirror:\n  platform: {channels: [{name: stable-4.14}]}\n  \
                operators:\n  - catalog: registry.redhat.io/redhat/redhat-operator-index:v4.14\n    packages: [{name: x}]\n  \
                additionalImages:\n  - name: registry.redhat.io/ubi9/ubi:latest\n  - name: quay.io/org/app\n";
    assert_snapshot!(shown("isc.yaml", text), @r"
    6: registry.redhat.io/redhat/redhat-operator-index:v4.14
    9: registry.redhat.io/ubi9/ubi:latest
    10: quay.io/org/app:latest
    note 4: only oc-mirror knows which images `platform` stands for: they are not in the list
    note 6: only oc-mirror knows which images `operators` stands for: they are not in the list
    ");
    let hauler = "apiVersion: content.hauler.cattle.io/v1\nkind: Images\nspec:\n  images:\n  - name: rancher/rke2:v1\n  - name: busybox\n";
    assert_snapshot!(shown("hauler.yaml", hauler), @"5: docker.io/rancher/rke2:v1");
    let zarf = "kind: ZarfPackageConfig\ncomponents:\n- name: a\n  images: ['ghcr.io/zarf/agent:v1', 'busybox:2', logo]\n";
    assert_snapshot!(shown("zarf.yaml", zarf), @r"
    4: ghcr.io/zarf/agent:v1
    4: docker.io/library/busybox:2
    ");
}

#[test]
fn a_list_of_images_is_called_one() {
    assert_snapshot!(shown("images.txt", "# rke2\nrancher/x:v1\n\n  docker.io/y:2\n"), @"problem 2: this is a list of images already: give it to larder as it is");
}

#[test]
fn compose_files_name_what_is_not_built() {
    let text = r#"x-base: &base
  image: redis:${REDIS:-7.4}
services:
  cache:
    <<: *base
  web:
    image: nginx:1.27
    labels: {image: "this is no image"}
  api:
    build: .
    image: api:dev
  db:
    image: "postgres:${PG_VERSION}"
"#;
    assert_snapshot!(shown("compose.yaml", text), @r"
    2: docker.io/library/redis:7.4
    7: docker.io/library/nginx:1.27
    problem 13: `$PG_VERSION` has no value here and no default
    note 11: service `api` is built here: its image `api:dev` is left out
    ");
}

#[test]
fn files_that_nobody_knows_are_searched_for_what_is_likely() {
    let text = "default:\n  image: ruby:3.3\nbuild:\n  image: {name: golang:1.24, entrypoint: ['']}\npost:\n  image: /img/Photo One.JPG\n  cover: {image: img/p.png}\n";
    assert_snapshot!(shown(".gitlab-ci.yml", text), @r"
    2: docker.io/library/ruby:3.3
    4: docker.io/library/golang:1.24
    ");
    assert_eq!(shown("notes.txt", "just some words\n"), "");
    assert_eq!(shown("-", ""), "");
}

#[test]
fn skopeo_lists_are_read_with_their_patterns() {
    let text = r#"registry.example.com:
  images:
    busybox: []
    redis:
      - "1.0"
      - 2.20
      - sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
  images-by-tag-regex:
    nginx: ^1\.13\.[12]-alpine-perl$
  images-by-semver:
    alpine: ">= 3.12.0 || < 2"
  credentials: {username: john, password: this is a secret}
  tls-verify: true
quay.io:
  tls-verify: false
  images:
    coreos/etcd: [latest]
"#;
    assert_snapshot!(shown("sync.yaml", text), @r"
    3: registry.example.com/busybox tags=* exclude=
    5: registry.example.com/redis:1.0
    6: registry.example.com/redis:2.20
    7: registry.example.com/redis@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
    9: registry.example.com/nginx tags=/^1\.13\.[12]-alpine-perl$/ exclude=
    11: registry.example.com/alpine tags=semver:>= 3.12.0;semver:< 2 exclude=
    17: quay.io/coreos/etcd:latest
    ");
}

#[test]
fn regsync_lists_are_read_with_their_patterns() {
    let text = r#"version: 1
creds:
  - registry: registry:5000
    user: "{{env \"USER\"}}"
sync:
  - source: busybox:latest
    target: registry:5000/library/busybox:latest
    type: image
  - source: alpine
    target: registry:5000/library/alpine
    type: repository
    tags:
      allow: ["3", "3.\\d+"]
      deny: ["3\\.1"]
  - source: ghcr.io/x/y
    target: registry:5000/x/y
    type: repository
    tags: {allow: [edge, v1]}
  - source: ghcr.io/x/all
    target: registry:5000/x/all
    type: repository
  - source: ghcr.io/x/range
    target: z
    type: repository
    tags: {semverRange: [">=1.2.0 <2.0.0"]}
  - {source: old.example.com, target: new.example.com, type: registry}
  - {source: 'ghcr.io/{{env "X"}}:1', target: new.example.com, type: image}
"#;
    assert_snapshot!(shown("regsync.yml", text), @r#"
    6: docker.io/library/busybox:latest
    9: docker.io/library/alpine tags=3;/^(?:3.\d+)$/ exclude=/^(?:3\.1)$/
    15: ghcr.io/x/y:edge
    15: ghcr.io/x/y:v1
    19: ghcr.io/x/all tags=* exclude=
    22: ghcr.io/x/range tags=semver:>=1.2.0 <2.0.0 exclude=
    problem 26: `old.example.com` means all repositories of a registry: name them, or give each a `type: repository`
    problem 27: `ghcr.io/{{env "X"}}:1` is a template: scan what it renders (`helm template`)
    "#);
}

#[test]
fn what_other_mirrors_choose_is_understood_by_lists() {
    let skopeo =
        "quay.io:\n  images: {a/b: []}\n  images-by-tag-regex: {a/c: '^v1\\.\\d+$'}\n  images-by-semver: {a/d: '>= 3.12.0, <4 || ~1.2'}\n";
    let regsync =
        "sync:\n- {source: a/e, type: repository, tags: {allow: ['v\\d+', x], deny: ['v1;2'], semverRange: ['>=1.2.0 <2.0.0']}}\n";
    let found = [scan("s.yaml", skopeo).found, scan("r.yaml", regsync).found].concat();
    assert_eq!(found.len(), 4);
    for FoundReference { wanted, .. } in found {
        let quoted = |text: &str| format!("\"{text}\"");
        let line = [&wanted.image, &wanted.tags, &wanted.exclude].map(|text| quoted(text)).join(",");
        let parsed = crate::list::parse("x.csv", &format!("image,tags,exclude\n{line}\n")).unwrap();
        assert_eq!((parsed.errors, parsed.entries.len()), (vec![], 1), "{line}");
    }
}

#[test]
fn ranges_of_other_tools_are_translated_or_reported() {
    let text = r#"docker.io:
  images-by-semver:
    a1: "3.12 - 3.13"
    a2: ">= 1.2, < 3.0.0, != 2.0.0"
    a3: "!=1.5"
    a4: "~>1.2 || =>3"
    a5: "1.x || >=3 !=3.1"
    a6: "newest"
    a7: [1.2]
  images:
    b1: latest
    b2: {tag: latest}
    b3: [[x]]
  images-by-tag-regex: everything
"#;
    assert_snapshot!(shown("sync.yaml", text), @r"
    3: docker.io/library/a1 tags=semver:>=3.12 <=3.13 exclude=
    4: docker.io/library/a2 tags=semver:>=1.2 <3.0.0 exclude=/^v?2[.]0[.]0$/
    5: docker.io/library/a3 tags=semver:* exclude=/^v?1[.]5([.].*)?$/
    6: docker.io/library/a4 tags=semver:~1.2;semver:>=3 exclude=
    problem 7: the range `1.x || >=3 !=3.1` cannot be written as one line: what one alternative leaves out, the other may choose
    problem 8: what `docker.io/a6` chooses cannot be written in a list: `semver:newest`: `newest` is no version: it begins with a number
    problem 9: the version range of `docker.io/a7` is not a text
    problem 11: the tags of `docker.io/b1` are not a list
    problem 12: the tags of `docker.io/b2` are not a list
    problem 13: a tag of `docker.io/b3` is not a text
    problem 14: `images-by-tag-regex` of docker.io is not a mapping of repositories
    ");
}

#[test]
fn an_image_mapping_is_read_or_reported() {
    let text = r"kind: App
apiVersion: v1
spec:
  - image: {repo: quay.io/a/b, tag: 1.20}
  - image: {name: c, tag: v2}
  - image: {registry: quay.io, name: d/e, digest: sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd}
  - image: {registry: quay.io, tag: v1}
  - image: {repository: {name: x}, pullPolicy: Always}
  - image: {width: 100, height: 200}
";
    assert_snapshot!(shown("app.yaml", text), @r"
    4: quay.io/a/b:1.20
    5: docker.io/library/c:v2
    6: quay.io/d/e@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
    problem 7: this image cannot be read: it is a mapping without `repository` (it has registry, tag)
    problem 8: this image cannot be read: it is a mapping without `repository` (it has repository, pullPolicy)
    ");
}

#[test]
fn dockerfiles_name_what_is_not_a_stage() {
    let text = r#"# syntax=docker/dockerfile:1
ARG GO=1.24
ARG BASE="alpine:${ALPINE:-3.20}" UNSET
FROM --platform=$BUILDPLATFORM golang:${GO}-alpine AS Build
ARG GO=1.99
RUN --mount=type=bind,from=ghcr.io/x/tools:1,target=/t \
    # a comment within
    --mount=type=cache,target=/c go build <<EOF
FROM nobody:1
EOF
FROM \
  build AS test
from scratch AS empty
FROM ${BASE}
COPY --from=build --chown=1:1 /a /a
COPY --from=0 /a /a
COPY --from=ghcr.io/astral-sh/uv:0.5 /uv /bin/
COPY <<-"END" <<OTHER /etc/
	FROM nobody:2
	END
FROM nobody:3
OTHER
FROM golang:1.24-alpine@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
FROM ${UNSET}
FROM
"#;
    assert_snapshot!(shown("build/Dockerfile.web", text), @r"
    4: docker.io/library/golang:1.24-alpine
    6: ghcr.io/x/tools:1
    14: docker.io/library/alpine:3.20
    17: ghcr.io/astral-sh/uv:0.5
    23: docker.io/library/golang:1.24-alpine@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
    problem 24: `$UNSET` has no value here and no default
    problem 25: FROM names no image
    ");
    assert_eq!(
        shown("x", "# escape=`\nFROM `\n  alpine:1\nRUN dir c:\\\nFROM b:1\n"),
        "2: docker.io/library/alpine:1\n5: docker.io/library/b:1\n"
    );
    assert_eq!(shown("-", "\nfrom alpine\r\n"), "2: docker.io/library/alpine:latest\n");
}

#[test]
fn folders_are_searched_by_name() {
    for (name, scanned) in [
        ("a.yaml", true),
        ("A.YML", true),
        ("Dockerfile", true),
        ("dockerfile.alpine", true),
        ("api.Dockerfile", true),
        ("Containerfile", true),
        ("Dockerfiles", false),
        ("package.json", false),
        ("a.yaml.txt", false),
        ("README.md", false),
    ] {
        assert_eq!(is_scanned_by_name(name), scanned, "{name}");
    }
}

proptest! {
    #[test]
    fn scanning_never_panics_and_what_it_finds_is_a_list(
        name in prop::sample::select(vec!["x.yaml", "Dockerfile", "-"]),
        text in "(image: |services:\n|FROM |sync:\n|- |  |\n|<<EOF|\\$\\{|\\}|[a-z:/{}.]|\\PC){0,60}",
    ) {
        for FoundReference { wanted, .. } in scan(name, &text).found {
            let parsed = crate::list::parse("x.csv", &format!("image\n{}\n", wanted.image)).unwrap();
            prop_assert_eq!(parsed.entries.len(), 1, "{:?}", wanted);
        }
    }
}
