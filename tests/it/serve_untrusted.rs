//! `larder serve` of layouts that others made: names that say too little, files that are not what they are called.

use std::os::unix::fs::symlink;

use larder::content::Digest;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::corpus::{OCI_CONFIG, OCI_IMAGE};
use crate::support::layer::noise;
use crate::support::room::Room;
use crate::support::served::{Served, header};

/// A layout as other tools write one, in `store`.
struct Store {
    room: Room,
    entries: Vec<Value>,
}

impl Store {
    fn new() -> Self {
        let room = Room::new();
        std::fs::create_dir_all(room.path("store/blobs/sha256")).unwrap();
        room.write("store/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        Store { room, entries: vec![] }
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        self.room.write(&format!("store/blobs/sha256/{}", digest.encoded()), bytes);
        digest
    }

    /// Adds an image with these names; its manifest's digest, and its layer's.
    fn image(&mut self, seed: u64, name: Option<&str>, source: Option<&str>) -> (Digest, Digest) {
        let layer = noise(seed, 3000);
        let (layer, config) = (self.blob(&layer), self.blob(b"{}"));
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_IMAGE,
            "config": {"mediaType": OCI_CONFIG, "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 3000}]});
        let manifest = manifest.to_string();
        let digest = self.blob(manifest.as_bytes());
        let mut annotations = serde_json::Map::new();
        annotations.extend(name.map(|name| ("org.opencontainers.image.ref.name".to_owned(), json!(name))));
        annotations.extend(source.map(|source| ("io.containerd.image.name".to_owned(), json!(source))));
        self.entries.push(json!({"mediaType": OCI_IMAGE, "digest": digest, "size": manifest.len(), "annotations": annotations}));
        self.room.write("store/index.json", json!({"schemaVersion": 2, "manifests": self.entries}).to_string());
        (digest, layer)
    }
}

#[tokio::test]
async fn a_bare_tag_does_not_answer_for_other_repositories() {
    let mut store = Store::new();
    let (web, layer) = store.image(1, Some("7"), None);
    // An annotation that is no full name says no repository either.
    store.image(2, Some("edge"), Some("edge"));
    let nobody = Served::start(&store.room, &[]);
    assert!(
        nobody.running.stderr().contains("they say no repository: 7, edge; give it with --name REPOSITORY"),
        "{}",
        nobody.running.stderr()
    );
    let named = Served::start(&store.room, &["--name", "team/web"]);
    assert!(named.running.stderr().contains("(2 names, read-only)"), "{}", named.running.stderr());
    let of_hub = Served::start(&store.room, &["--name", "docker.io/library/web"]);
    for (path, by_name, by_hubs_name) in [
        ("/v2/library/redis/manifests/7", false, false),
        ("/v2/library/redis/manifests/7?ns=docker.io", false, false),
        ("/v2/redis/manifests/7?ns=docker.io", false, false),
        ("/v2/docker.io/library/redis/manifests/7", false, false),
        ("/v2/team/web/manifests/7", true, false),
        ("/v2/team/web/manifests/7?ns=docker.io", false, false),
        ("/v2/team/web/manifests/7?ns=quay.io", false, false),
        ("/v2/library/web/manifests/7?ns=docker.io", false, true),
        ("/v2/docker.io/library/web/manifests/7", false, true),
        ("/v2/library/web/manifests/7?ns=quay.io", false, false),
    ] {
        assert_eq!(nobody.digest(path).await, "", "{path}");
        let expected = |is_served| if is_served { web.as_str() } else { "" };
        assert_eq!(named.digest(path).await, expected(by_name), "{path}");
        assert_eq!(of_hub.digest(path).await, expected(by_hubs_name), "{path}");
    }
    assert_eq!(named.json("/v2/team/web/tags/list").await["tags"], json!(["7", "edge"]));
    assert_eq!(named.json("/v2/_catalog").await["repositories"], json!(["team/web"]));
    assert_eq!(nobody.json("/v2/_catalog").await["repositories"], json!([]));
    assert_eq!(named.get("/v2/library/redis/tags/list").await.status(), 404);
    // Bytes are who they are under any name.
    assert_eq!(nobody.get(&format!("/v2/library/redis/manifests/{web}")).await.status(), 200);
    assert_eq!(nobody.get(&format!("/v2/library/redis/blobs/{layer}")).await.status(), 200);
    for name in ["Team/Web", "a/b:1", "a b", ""] {
        let ran = store.room.larder(["serve", "store", "--name", name]).ended(2);
        assert!(ran.stderr.contains("local: read --name: "), "{name}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn bytes_that_are_not_what_they_are_called_are_never_sent() {
    let mut store = Store::new();
    let (manifest, layer) = store.image(1, Some("team/web:1"), None);
    let (other, _) = store.image(2, Some("team/web:2"), None);
    let path = |digest: &Digest| format!("store/blobs/sha256/{}", digest.encoded());
    let blob = format!("/v2/team/web/blobs/{layer}");
    let served = Served::start(&store.room, &[]);
    let mut wrong = noise(1, 3000);
    wrong[2999] ^= 1;
    // Before it was ever read, after it was found right, and back again.
    for is_right in [false, true, false, true] {
        store.room.write(&path(&layer), if is_right { noise(1, 3000) } else { wrong.clone() });
        for (method, range) in
            [(Method::HEAD, None), (Method::GET, None), (Method::GET, Some("bytes=0-9")), (Method::GET, Some("bytes=10-"))]
        {
            let mut request = served.client.request(method.clone(), format!("{}{blob}", served.url));
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status().is_success(), is_right, "{method} {range:?}");
            assert_eq!(header(&response, "docker-content-digest").is_empty(), !is_right);
        }
    }
    let bytes = std::fs::read(store.room.path(path(&manifest))).unwrap();
    store.room.write(&path(&manifest), [&bytes[..], b" "].concat());
    for reference in ["1", manifest.as_str()] {
        assert!(!served.get(&format!("/v2/team/web/manifests/{reference}")).await.status().is_success(), "{reference}");
    }
    assert_eq!(served.get("/v2/team/web/manifests/2").await.status(), 200);
    assert_eq!(served.digest(&format!("/v2/team/web/manifests/{other}")).await, other.as_str());
    let said = served.running.stderr();
    assert!(said.contains("its file hashes to"), "{said}");
}

#[tokio::test]
async fn a_link_planted_in_a_layout_leads_nowhere() {
    let mut store = Store::new();
    let (_, layer) = store.image(1, Some("team/web:1"), None);
    let secret = Digest::sha256(b"secret of this machine");
    store.room.write("secret", "secret of this machine");
    symlink(store.room.path("secret"), store.room.path(format!("store/blobs/sha256/{}", secret.encoded()))).unwrap();
    // The right bytes, but not in the layout.
    let path = store.room.path(format!("store/blobs/sha256/{}", layer.encoded()));
    std::fs::rename(&path, store.room.path("layer")).unwrap();
    symlink(store.room.path("layer"), &path).unwrap();
    let pipe = Digest::sha256(b"pipe");
    let fifo = store.room.path(format!("store/blobs/sha256/{}", pipe.encoded()));
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let served = Served::start(&store.room, &[]);
    for digest in [&secret, &layer, &pipe] {
        for path in [format!("/v2/team/web/blobs/{digest}"), format!("/v2/team/web/manifests/{digest}")] {
            assert_eq!(served.get(&path).await.status(), 404, "{path}");
            assert_eq!(served.ask(Method::HEAD, &path).await.status(), 404, "{path}");
        }
    }
    assert_eq!(served.get("/v2/team/web/manifests/1").await.status(), 200);
}

#[tokio::test]
async fn a_name_with_two_meanings_is_not_guessed() {
    let mut store = Store::new();
    let (app, _) = store.image(1, Some("q/app:1"), Some("quay.io/app:1"));
    let (nested, _) = store.image(2, Some("q/q/app:2"), Some("quay.io/q/app:2"));
    store.image(3, Some("q/app:3"), Some("quay.io/app:3"));
    store.image(4, Some("q/q/app:3"), Some("quay.io/q/app:3"));
    let served = Served::start(&store.room, &[]);
    for (path, expected) in [
        // As what is exported for containerd asks, and as a plain mirror is asked.
        ("/v2/q/app/manifests/1?ns=quay.io", app.as_str()),
        ("/v2/app/manifests/1?ns=quay.io", app.as_str()),
        ("/v2/q/app/manifests/2?ns=quay.io", nested.as_str()),
        ("/v2/q/q/app/manifests/2?ns=quay.io", nested.as_str()),
        ("/v2/q/app/manifests/1?ns=ghcr.io", ""),
        ("/v2/q/app/manifests/3?ns=quay.io", ""),
    ] {
        assert_eq!(served.digest(path).await, expected, "{path}");
    }
    assert!(served.running.stderr().contains("quay.io/q/app:3 is one image by its own name and another by its name at the target"));
    assert_eq!(served.json("/v2/q/app/tags/list?ns=quay.io").await["tags"], json!(["1", "2", "3"]));
}
