//! `larder serve` as its clients see it: the pulling half of the OCI distribution specification (1.1.1), every endpoint and error
//! code of its tables; and the clients themselves: skopeo, podman, oci-client, larder.

use std::path::{Path, PathBuf};

use crate::support::clients::{self, Containerd};
use crate::support::corpus::{self, Case, OCI_IMAGE, corpus, multi, simple};
use crate::support::fake::Fake;
use crate::support::layer::noise;
use crate::support::real::{as_root, require, skopeo_ok};
use crate::support::room::{Room, until};
use crate::support::served::{Served, header};
use bytes::Bytes;
use larder::content::Digest;
use reqwest::{Client, Method, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The images that every test here has: docker.io's, under a name of their own at the target.
fn stocked() -> (Fake, Room) {
    let upstream = Fake::start();
    multi(&upstream, "library/alpine", "3.20", 1, &["linux/amd64", "linux/arm64"]);
    simple(&upstream, "library/alpine", "3.19", 2);
    simple(&upstream, "library/redis", "7", 3);
    let room = Room::new();
    let target = "layout = \"store\"\n";
    let docker_hub = format!("[registry.\"docker.io\"]\nendpoint = \"{}\"\n", upstream.url());
    let rules = ["library", "corpus"]
        .map(|path| format!("[[rule]]\nname = \"{path}\"\nsource = \"docker.io/{path}/*\"\ntarget = \"mirror/{path}/*\"\n"));
    room.write("larder.toml", format!("version = 1\n[target]\n{target}{docker_hub}{}", rules.concat()));
    sync(&room, ["alpine:3.20", "alpine:3.19", "redis:7"]);
    (upstream, room)
}

fn sync<'a>(room: &Room, images: impl IntoIterator<Item = &'a str>) {
    let images = images.into_iter().flat_map(|image| ["--image", image]);
    room.larder(["sync"].into_iter().chain(images)).ended(0);
}

/// The code of a refusal, which must be the envelope of the specification's "Error Codes".
async fn code(response: Response) -> String {
    assert_eq!(header(&response, "content-type"), "application/json");
    let envelope: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert!(envelope["errors"][0]["message"].is_string(), "{envelope}");
    envelope["errors"][0]["code"].as_str().unwrap().to_owned()
}

/// Specification, "Endpoints": each by its number, with the answers of its columns "Success" and "Failure".
#[tokio::test]
async fn every_endpoint_of_the_table() {
    let (upstream, room) = stocked();
    let served = Served::start(&room, &[]);
    let name = "/v2/mirror/library/redis";
    let manifest = upstream.digest("library/redis", "7").unwrap();
    let (_, bytes) = upstream.manifest("library/redis", "7").unwrap();
    let config = serde_json::from_slice::<Value>(&bytes).unwrap()["config"]["digest"].as_str().unwrap().to_owned();
    let nothing = Digest::sha256(b"nothing");
    let table = [
        ("end-1", "/v2/".to_owned(), 200, ""),
        ("end-2", format!("{name}/blobs/{config}"), 200, ""),
        ("end-2", format!("{name}/blobs/{nothing}"), 404, "BLOB_UNKNOWN"),
        ("end-2", format!("{name}/blobs/sha256:short"), 400, "DIGEST_INVALID"),
        ("end-2", format!("{name}/blobs/{}", config.to_uppercase()), 400, "DIGEST_INVALID"),
        ("end-3", format!("{name}/manifests/7"), 200, ""),
        ("end-3", format!("{name}/manifests/{manifest}"), 200, ""),
        ("end-3", format!("{name}/manifests/none"), 404, "MANIFEST_UNKNOWN"),
        ("end-3", format!("{name}/manifests/{nothing}"), 404, "MANIFEST_UNKNOWN"),
        ("end-3", format!("{name}/manifests/{config}"), 404, "MANIFEST_UNKNOWN"),
        ("end-3", "/v2/mirror/none/manifests/7".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("end-3", "/v2/Mirror/redis/manifests/7".to_owned(), 400, "NAME_INVALID"),
        ("end-3", format!("{name}/manifests/.7"), 400, "TAG_INVALID"),
        ("end-8a", format!("{name}/tags/list"), 200, ""),
        ("end-8a", "/v2/mirror/none/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("end-8b", format!("{name}/tags/list?n=1&last=6"), 200, ""),
        ("end-8b", format!("{name}/tags/list?n=many"), 400, "PAGINATION_NUMBER_INVALID"),
        ("end-12a", format!("{name}/referrers/{manifest}"), 200, ""),
        ("end-12a", format!("{name}/referrers/{nothing}"), 200, ""),
        ("end-12a", format!("{name}/referrers/latest"), 400, "DIGEST_INVALID"),
        ("end-12b", format!("{name}/referrers/{manifest}?artifactType=a/b"), 200, ""),
    ];
    for (end, path, status, expected) in table {
        let response = served.get(&path).await;
        assert_eq!(response.status(), status, "{end} GET {path}");
        let length = header(&response, "content-length").to_owned();
        if status == 200 {
            let body = response.bytes().await.unwrap();
            assert_eq!(body.len().to_string(), length, "{end} {path}");
        } else {
            assert_eq!(code(response).await, expected, "{end} GET {path}");
        }
        // Every endpoint answers HEAD as it answers GET, without a body.
        let head = served.ask(Method::HEAD, &path).await;
        assert_eq!((head.status().as_u16(), header(&head, "content-length")), (status, length.as_str()), "{end} HEAD {path}");
        assert!(head.bytes().await.unwrap().is_empty());
    }

    // The endpoints that write, and the ones of extensions.
    for (end, method, path) in [
        ("end-4a", Method::POST, format!("{name}/blobs/uploads/")),
        ("end-4b", Method::POST, format!("{name}/blobs/uploads/?digest={config}")),
        ("end-5", Method::PATCH, format!("{name}/blobs/uploads/1")),
        ("end-6", Method::PUT, format!("{name}/blobs/uploads/1?digest={config}")),
        ("end-7", Method::PUT, format!("{name}/manifests/7")),
        ("end-9", Method::DELETE, format!("{name}/manifests/7")),
        ("end-9", Method::DELETE, format!("{name}/manifests/{manifest}")),
        ("end-10", Method::DELETE, format!("{name}/blobs/{config}")),
        ("end-11", Method::POST, format!("{name}/blobs/uploads/?mount={config}&from=mirror/library/alpine")),
    ] {
        let response = served.client.request(method.clone(), format!("{}{path}", served.url)).body("{}").send().await.unwrap();
        assert_eq!((response.status().as_u16(), header(&response, "allow")), (405, "GET, HEAD"), "{end} {method} {path}");
        assert_eq!(code(response).await, "UNSUPPORTED", "{end} {method} {path}");
    }
    assert_eq!(served.get(&format!("{name}/blobs/uploads/1")).await.status(), 404, "end-13: there is no upload");
    assert_eq!(served.get("/v1/_ping").await.status(), 404);
    assert_eq!(served.stop(), 0);
}

#[tokio::test]
async fn what_every_answer_must_say() {
    let (upstream, room) = stocked();
    let served = Served::start(&room, &[]);
    let (media_type, bytes) = upstream.manifest("library/alpine", "3.20").unwrap();
    let digest = Digest::sha256(&bytes);
    let response = served.get("/v2/mirror/library/alpine/manifests/3.20").await;
    assert_eq!((header(&response, "docker-content-digest"), header(&response, "content-type")), (digest.as_str(), media_type.as_str()));
    assert_eq!(response.bytes().await.unwrap(), bytes);

    let child = serde_json::from_slice::<Value>(&bytes).unwrap()["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let response = served.get(&format!("/v2/mirror/library/alpine/manifests/{child}")).await;
    assert_eq!((header(&response, "docker-content-digest"), header(&response, "content-type")), (child.as_str(), OCI_IMAGE));
    let layer =
        serde_json::from_slice::<Value>(&response.bytes().await.unwrap()).unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let path = format!("/v2/mirror/library/alpine/blobs/{layer}");
    let whole = served.get(&path).await;
    assert_eq!((header(&whole, "docker-content-digest"), header(&whole, "accept-ranges")), (layer.as_str(), "bytes"));
    let whole = whole.bytes().await.unwrap();
    assert!(Digest::parse(&layer).unwrap().matches(&whole));
    let part = served.client.get(format!("{}{path}", served.url)).header("range", "bytes=100-199").send().await.unwrap();
    assert_eq!((part.status().as_u16(), header(&part, "content-range")), (206, format!("bytes 100-199/{}", whole.len()).as_str()));
    assert_eq!(part.bytes().await.unwrap(), whole[100..200]);
    let none = served.client.get(format!("{}{path}", served.url)).header("range", "bytes=99999999-").send().await.unwrap();
    assert_eq!(none.status(), 416);

    assert_eq!(served.json("/v2/mirror/library/alpine/tags/list").await["tags"], serde_json::json!(["3.19", "3.20"]));
    let page = served.get("/v2/mirror/library/alpine/tags/list?n=1").await;
    assert_eq!(header(&page, "link"), "</v2/mirror/library/alpine/tags/list?n=1&last=3.19>; rel=\"next\"");
    assert_eq!(served.json("/v2/_catalog").await["repositories"], serde_json::json!(["mirror/library/alpine", "mirror/library/redis"]));
    let page = served.get("/v2/_catalog?n=1").await;
    assert_eq!(header(&page, "link"), "</v2/_catalog?n=1&last=mirror%2Flibrary%2Falpine>; rel=\"next\"");
}

#[tokio::test]
async fn names_of_both_sides_lead_to_the_same_image() {
    let (upstream, room) = stocked();
    let served = Served::start(&room, &["--as", "contoso.azurecr.io"]);
    let digest = upstream.digest("library/alpine", "3.20").unwrap();
    for (path, found) in [
        ("mirror/library/alpine/manifests/3.20", true),
        ("docker.io/library/alpine/manifests/3.20", true),
        ("docker.io/alpine/manifests/3.20", true),
        ("library/alpine/manifests/3.20", true),
        ("library/alpine/manifests/3.20?ns=docker.io", true),
        ("library/alpine/manifests/3.20?ns=registry-1.docker.io", true),
        ("library/alpine/manifests/3.20?ns=quay.io", false),
        ("mirror/library/alpine/manifests/3.20?ns=docker.io", true),
        ("mirror/library/alpine/manifests/3.20?ns=quay.io", false),
        ("mirror/library/alpine/manifests/3.20?ns=contoso.azurecr.io", true),
        ("contoso.azurecr.io/mirror/library/alpine/manifests/3.20", true),
        ("quay.io/library/alpine/manifests/3.20", false),
    ] {
        assert_eq!(served.digest(&format!("/v2/{path}")).await, if found { digest.as_str() } else { "" }, "{path}");
    }
    for path in ["docker.io/library/alpine/tags/list", "library/alpine/tags/list?ns=docker.io"] {
        assert_eq!(served.json(&format!("/v2/{path}")).await["tags"], serde_json::json!(["3.19", "3.20"]), "{path}");
    }
}

#[tokio::test]
async fn names_with_a_port_are_found_however_they_are_written() {
    let upstream = Fake::start();
    let digest = simple(&upstream, "team/app", "1", 9).digest;
    let room = Room::new();
    room.larder(["sync", "--to", "oci:store", "--image", &upstream.image("team/app:1")]).ended(0);
    let served = Served::start(&room, &[]);
    let (addr, plain) = (upstream.addr(), upstream.addr().replace(':', "_"));
    for path in [format!("{addr}/team/app/manifests/1"), format!("{plain}/team/app/manifests/1"), format!("team/app/manifests/1?ns={addr}")]
    {
        assert_eq!(served.digest(&format!("/v2/{path}")).await, digest.as_str(), "{path}");
    }
    assert_eq!(served.json("/v2/_catalog").await["repositories"], serde_json::json!([format!("{plain}/team/app")]));
}

/// All that registries hold comes back byte for byte: by oci-client, and by larder itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_corpus_is_served_as_it_is() {
    let (upstream, room) = stocked();
    let cases: Vec<Case> = corpus(&upstream).into_iter().filter(|case| case.carried).collect();
    let images: Vec<String> = cases.iter().map(|case| format!("docker.io/{}", case.image())).collect();
    room.list(&images);
    room.larder(["sync", "list.txt"]).ended(0);
    let served = Served::start(&room, &[]);
    let reader = {
        use oci_client::client::{ClientConfig, ClientProtocol};
        let config = ClientConfig { protocol: ClientProtocol::Http, tls_certs_only: vec![], ..ClientConfig::default() };
        oci_client::Client::try_from(config).unwrap()
    };
    for case in &cases {
        let name: oci_client::Reference = format!("{}/mirror/{}", served.addr(), case.image()).parse().unwrap();
        let (bytes, digest) =
            reader.pull_manifest_raw(&name, &oci_client::secrets::RegistryAuth::Anonymous, &[&case.media_type]).await.unwrap();
        assert_eq!((digest.as_str(), case.digest.matches(&bytes)), (case.digest.as_str(), true), "{}", case.name);
        let response = served.get(&format!("/v2/mirror/{}/manifests/{}", case.repository, case.digest)).await;
        assert_eq!((header(&response, "content-type"), response.status().as_u16()), (case.media_type.as_str(), 200), "{}", case.name);
    }

    // What is about an image came with it, and is listed.
    let subject = cases.iter().find(|case| case.name == "referrers" && case.tag.is_some()).unwrap();
    let list = format!("/v2/mirror/{}/referrers/{}", subject.repository, subject.digest);
    for (query, expected) in [
        ("", "application/vnd.example.sbom application/vnd.example.signature"),
        ("?artifactType=application/vnd.example.signature", "application/vnd.example.signature"),
        ("?artifactType=application/vnd.example.none", ""),
    ] {
        let index = served.json(&format!("{list}{query}")).await;
        let found = index["manifests"].as_array().unwrap();
        let mut types: Vec<&str> = found.iter().map(|found| found["artifactType"].as_str().unwrap()).collect();
        types.sort_unstable();
        assert_eq!(types.join(" "), expected, "{query}: {index}");
        assert!(found.iter().all(|found| found["annotations"]["org.opencontainers.image.created"].is_string()), "{index}");
    }

    // Another larder reads all of it from here.
    let far = Room::new();
    far.list(cases.iter().map(|case| format!("{}/mirror/{}", served.addr(), case.image())));
    far.larder(["sync", "list.txt", "--to", "oci:far"]).ended(0);
    far.larder(["verify", "far"]).ended(0);
}

#[test]
fn skopeo_copies_every_platform() {
    if !require("skopeo") {
        return;
    }
    let (upstream, room) = stocked();
    let served = Served::start(&room, &[]);
    for name in ["mirror/library/alpine:3.20", "docker.io/library/alpine:3.20"] {
        let to = format!("dir:{}", room.path(name.replace(['/', ':'], "-")).display());
        skopeo_ok(["copy", "--all", "--src-tls-verify=false", &format!("docker://{}/{name}", served.addr()), &to]).unwrap();
        let copied = std::fs::read(Path::new(to.strip_prefix("dir:").unwrap()).join("manifest.json")).unwrap();
        assert_eq!(upstream.manifest("library/alpine", "3.20").unwrap().1, copied);
    }
    let tags = skopeo_ok(["list-tags", "--tls-verify=false", &format!("docker://{}/mirror/library/alpine", served.addr())]).unwrap();
    assert!(tags.contains("\"3.19\"") && tags.contains("\"3.20\""), "{tags}");
}

/// What podman prints; it must succeed.
fn podman(room: &Room, arguments: &[&str]) -> String {
    podman_with(room, &[], arguments)
}

fn podman_with(room: &Room, variables: &[(&str, &Path)], arguments: &[&str]) -> String {
    let output = clients::podman(room, variables, arguments);
    assert!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn podman_pulls_by_name_and_through_a_mirror() {
    if !as_root("podman") {
        return;
    }
    let (upstream, room) = stocked();
    let served = Served::start(&room, &[]);
    let direct = format!("{}/mirror/library/redis:7", served.addr());
    podman(&room, &["pull", "--quiet", "--tls-verify=false", &direct]);
    let digest = podman(&room, &["image", "inspect", "--format", "{{.Digest}}", &direct]);
    assert_eq!(digest.trim(), upstream.digest("library/redis", "7").unwrap().as_str());

    // As a cluster would name it: docker.io's image, from here (registries.conf of docs/serve.md).
    let mirror = format!(
        "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"{}/docker.io\"\ninsecure = true\n",
        served.addr()
    );
    let conf = room.write("registries.conf", mirror);
    let arguments = ["pull", "--quiet", "docker.io/library/alpine:3.19"];
    podman_with(&room, &[("CONTAINERS_REGISTRIES_CONF", &conf)], &arguments);
    let digest = podman(&room, &["image", "inspect", "--format", "{{.Digest}}", "docker.io/library/alpine:3.19"]);
    assert_eq!(digest.trim(), upstream.digest("library/alpine", "3.19").unwrap().as_str());
    // Its storage holds files that only podman's own rules let be removed.
    podman(&room, &["rmi", "--all", "--force"]);
}

/// containerd asks its mirrors with `?ns=`.
#[test]
fn containerd_pulls_docker_hubs_images_from_here() {
    if !as_root("containerd") || !as_root("ctr") {
        return;
    }
    let (upstream, room) = stocked();
    let served = Served::start(&room, &[]);
    let containerd = Containerd::start(&room);
    // What docs/serve.md says.
    std::fs::create_dir_all(room.path("hosts/docker.io")).unwrap();
    let hosts = format!("server = \"{0}\"\n[host.\"{0}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", served.url);
    room.write("hosts/docker.io/hosts.toml", hosts);
    let name = "docker.io/library/alpine:3.20";
    containerd.ctr(&["content", "fetch", "--all-platforms", "--hosts-dir", "hosts", name]);
    assert!(
        containerd.ctr(&["images", "ls", &format!("name=={name}")]).contains(upstream.digest("library/alpine", "3.20").unwrap().as_str())
    );
    containerd.stop();
}

#[tokio::test]
async fn what_comes_and_goes_is_seen_without_a_restart() {
    let (upstream, room) = stocked();
    let served = Served::start(&room, &[]);
    let path = "/v2/mirror/library/redis/manifests/8";
    assert_eq!(served.digest(path).await, "");
    let new = simple(&upstream, "library/redis", "8", 50).digest;
    sync(&room, ["redis:8"]);
    assert_eq!(served.digest(path).await, new.as_str());
    let newer = simple(&upstream, "library/redis", "8", 51).digest;
    sync(&room, ["redis:8"]);
    assert_eq!(served.digest(path).await, newer.as_str());
    assert_eq!(served.get(&format!("/v2/mirror/library/redis/manifests/{new}")).await.status(), 200);
    // The server holds no lock: what no name reaches can be removed under it.
    room.larder(["gc", "store"]).ended(0);
    assert_eq!(served.get(&format!("/v2/mirror/library/redis/manifests/{new}")).await.status(), 404);
    assert_eq!(served.digest(path).await, newer.as_str());
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/registry/http/testdata").join(name)
}

#[tokio::test]
async fn it_speaks_tls_with_a_certificate_from_files() {
    let (upstream, room) = stocked();
    let (cert, key) = (testdata("server.pem"), testdata("server-key.pem"));
    let served = Served::start(&room, &["--tls-cert", &cert.display().to_string(), "--tls-key", &key.display().to_string()]);
    assert!(served.url.starts_with("https://127.0.0.1:"), "{}", served.url);
    let authority = reqwest::Certificate::from_pem(&std::fs::read(testdata("ca.pem")).unwrap()).unwrap();
    let trusting = Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
    let response = trusting.get(format!("{}/v2/mirror/library/redis/manifests/7", served.url)).send().await.unwrap();
    assert_eq!(header(&response, "docker-content-digest"), upstream.digest("library/redis", "7").unwrap().as_str());
    assert!(served.client.get(&served.url).send().await.is_err(), "who does not trust it does not speak to it");
    // Plain HTTP gets no answer, and harms nobody.
    let mut plain = TcpStream::connect(served.addr()).await.unwrap();
    plain.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"));
    assert_eq!(trusting.get(format!("{}/v2/", served.url)).send().await.unwrap().status(), 200);

    // larder, as the client that has to be told of the authority.
    let far = Room::new();
    let toml = format!(
        "version = 1\n[target]\nlayout = \"far\"\n[registry.\"{}\"]\nplain_http = false\nca = \"{}\"\n",
        served.addr(),
        testdata("ca.pem").display()
    );
    far.write("larder.toml", toml);
    far.larder(["sync", "--unmatched", "mirror", "--image", &format!("{}/mirror/library/alpine:3.20", served.addr())]).ended(0);
}

/// A client that reads slowly gets its blob to the end while the server is told to stop; nobody else is let in.
#[tokio::test]
async fn it_stops_gracefully_and_at_once_when_told_twice() {
    let (upstream, room) = stocked();
    // More than the two sockets' buffers take.
    let large = noise(60, 32 << 20);
    let digest = upstream.put_blob("library/large", large.clone());
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_IMAGE,
        "config": {"mediaType": corpus::OCI_CONFIG, "digest": digest, "size": large.len()}, "layers": []});
    upstream.put_manifest("library/large", Some("1"), OCI_IMAGE, manifest.to_string());
    sync(&room, ["large:1"]);
    for twice in [false, true] {
        let served = Served::start(&room, &[]);
        let mut reading = TcpStream::connect(served.addr()).await.unwrap();
        let request = format!("GET /v2/mirror/library/large/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n");
        reading.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(reading.read_u8().await.unwrap(), b'H');
        served.running.signal("TERM");
        assert!(until(|| served.running.stderr().contains("interrupted")));
        assert!(until(|| std::net::TcpStream::connect(served.addr()).is_err()), "nobody else is let in");
        if twice {
            served.running.signal("INT");
            assert_eq!(served.running.finish().code, 130);
        } else {
            let mut rest = vec![];
            reading.read_to_end(&mut rest).await.unwrap();
            assert!(rest.ends_with(&large[large.len() - 1000..]), "what was begun is finished");
            assert_eq!(served.running.finish().code, 0);
        }
    }
}

#[tokio::test]
async fn no_path_leads_out_of_the_layout() {
    let (_upstream, room) = stocked();
    room.write("secret", "secret");
    let served = Served::start(&room, &[]);
    for path in [
        "/v2/../../secret",
        "/v2/mirror/library/redis/blobs/../../../../secret",
        "/v2/mirror/library/redis/blobs/sha256:../../../../secret",
        "/v2/mirror/library/redis/blobs/sha256%2f..%2f..%2f..%2fsecret",
        "/v2/mirror/library/redis/manifests/..%2f..%2f..%2fsecret",
        "/v2/mirror/library/redis/manifests/../../../secret",
        "/v2/%2e%2e/%2e%2e/secret/manifests/1",
        "/v2/mirror/library/redis/manifests/7%00",
        "/v2/mirror/library/redis/manifests/7?ns=../../secret",
        "/v2/x/../mirror/library/redis/manifests/7",
        "//v2/mirror/library/redis/manifests/7",
        "/../secret",
        "http://evil/v2/mirror/../../secret",
    ] {
        let mut connection = TcpStream::connect(served.addr()).await.unwrap();
        connection.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![];
        connection.read_to_end(&mut answer).await.unwrap();
        let answer = Bytes::from(answer);
        assert!(answer.starts_with(b"HTTP/1.1 400 ") || answer.starts_with(b"HTTP/1.1 404 "), "{path}: {answer:?}");
        assert!(!answer.ends_with(b"secret"), "{path}");
    }
}

#[test]
fn what_cannot_be_served_is_said_before_anything_is() {
    let (_upstream, room) = stocked();
    room.write("file", "x");
    let cert = testdata("server.pem").display().to_string();
    let other = testdata("client-key.pem").display().to_string();
    for (arguments, code, said) in [
        (vec!["none"], 2, "local: serve: `none`: no such folder"),
        (vec!["file"], 2, "file is no OCI layout"),
        (vec!["store", "--listen", "nonsense"], 2, "local: read --listen: `nonsense`: "),
        (vec!["store", "--as", "a b"], 2, "local: read --as: `a b` is not a host"),
        (vec!["store", "--max-connections", "0"], 2, "a number from 1 to 65536"),
        (vec!["store", "--tls-cert", &cert], 2, "--tls-key"),
        (vec!["store", "--tls-cert", &cert, "--tls-key", &other], 2, "it does not go with the key"),
    ] {
        let ran = room.larder([&["serve"], arguments.as_slice()].concat()).ended(code);
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
    let served = Served::start(&room, &[]);
    let ran = room.larder(["serve", "store", "--listen", served.addr()]).ended(1);
    assert!(ran.stderr.contains("another program listens there"), "{}", ran.stderr);
    let said = served.running.stderr();
    assert_eq!(said, format!("serving store at {} (3 names, read-only)\n", served.url));
}
