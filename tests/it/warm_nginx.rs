//! `delivery = "warm"` through a real nginx, which keeps answers by their address: what containerd and docker ask is served without the
//! upstream.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::corpus::{multi, simple};
use crate::support::fake::{Fake, Kind};
use crate::support::nginx::Nginx;
use crate::support::program::Program;
use crate::support::real::{require, skopeo_ok};
use larder::content::Digest;
use serde_json::Value;

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// By the address alone, as nginx does it (a HEAD is asked for as a GET); and by method and address.
const KEYS: [&str; 2] = ["", "proxy_cache_convert_head off;\nproxy_cache_key $request_method$host$request_uri;"];

/// What containerd accepts.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/// An upstream, nginx in front of it, and who warms it.
fn scene(key: &str) -> Option<(Fake, Nginx, Program)> {
    let upstream = Fake::start();
    let cache = Nginx::start(&upstream.url(), key)?;
    let program = Program::new();
    program.write(
        "larder.toml",
        format!(
            "version = 1\n[target]\nregistry = \"{}\"\n[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"*\"\ndelivery = \"warm\"\n",
            cache.addr(),
            upstream.addr()
        ),
    );
    Some((upstream, cache, program))
}

/// Asks for a path below `/v2/`: status, `Docker-Content-Digest` and body.
fn ask(cache: &Nginx, method: &str, path: &str) -> (u16, Option<String>, Vec<u8>) {
    let mut stream = TcpStream::connect(cache.addr()).unwrap();
    let request = format!("{method} /v2/{path} HTTP/1.1\r\nhost: {}\r\naccept: {ACCEPT}\r\nconnection: close\r\n\r\n", cache.addr());
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
    let digest = head.lines().find_map(|line| line.strip_prefix("docker-content-digest: ")).map(str::to_owned);
    (head.split(' ').nth(1).unwrap().parse().unwrap(), digest, answer[end + 4..].to_vec())
}

/// What containerd and docker ask of the image, in their order: the tag by HEAD, the manifest by its digest, children by theirs, blobs.
fn pull(cache: &Nginx, repository: &str, tag: &str) -> usize {
    let (status, digest, _) = ask(cache, "HEAD", &format!("{repository}/manifests/{tag}"));
    assert_eq!(status, 200, "HEAD {tag}");
    // Older docker, podman and crane.
    assert_eq!(ask(cache, "GET", &format!("{repository}/manifests/{tag}")).0, 200, "GET {tag}");
    let mut manifests = vec![digest.unwrap()];
    let mut blobs = vec![];
    while let Some(digest) = manifests.pop() {
        let path = format!("{repository}/manifests/{digest}");
        assert_eq!(ask(cache, "HEAD", &path).0, 200, "HEAD {digest}");
        let (status, _, body) = ask(cache, "GET", &path);
        assert_eq!((status, Digest::sha256(&body).as_str()), (200, digest.as_str()), "GET {digest}");
        let manifest: Value = serde_json::from_slice(&body).unwrap();
        let digests = |key: &str| -> Vec<String> {
            manifest[key].as_array().into_iter().flatten().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
        };
        manifests.extend(digests("manifests"));
        blobs.extend(digests("layers"));
        blobs.extend(manifest["config"]["digest"].as_str().map(str::to_owned));
    }
    for digest in &blobs {
        let (status, _, body) = ask(cache, "GET", &format!("{repository}/blobs/{digest}"));
        assert_eq!((status, Digest::sha256(&body).as_str()), (200, digest.as_str()), "GET {digest}");
    }
    blobs.len()
}

#[test]
fn a_cache_keyed_by_address_serves_what_containerd_and_docker_ask_without_its_upstream() {
    for key in KEYS {
        let Some((mut upstream, cache, program)) = scene(key) else { return };
        multi(&upstream, "team/app", "v1", 1, &PLATFORMS);
        simple(&upstream, "tool", "latest", 5);
        program.list([upstream.image("team/app:v1"), upstream.image("tool:latest")]);
        let run = program.sync(&["list.txt", "--verify-warm"]).exits(0);
        assert_eq!(run.total("warmed"), 2, "{}", run.stderr);
        // The index and the single image are read by tag and by digest, and each is a pull.
        let pulls: Vec<u64> = run.images().iter().map(|row| row["pulls"].as_u64().unwrap()).collect();
        assert_eq!(pulls, [2 + PLATFORMS.len() as u64, 2], "{key}");
        // Once warm, asking again is asking the cache.
        let read = |upstream: &Fake| (upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet));
        upstream.reset_log();
        let run = program.sync(&["list.txt", "--verify-warm"]).exits(0);
        assert_eq!((run.total("current"), read(&upstream)), (2, (0, 0)), "{key}");
        assert!(run.registry(&cache.addr())["requests"]["manifest_head"].as_u64().unwrap() >= 2 + 1 + 3, "{}", run.report);
        upstream.stop();
        assert!(pull(&cache, "team/app", "v1") >= 4);
        pull(&cache, "tool", "latest");
        if require("skopeo") {
            let to = format!("dir:{}", program.path("copied").display());
            skopeo_ok(["copy", "--all", "--src-tls-verify=false", &format!("docker://{}/team/app:v1", cache.addr()), &to]).unwrap();
        }
    }
}
