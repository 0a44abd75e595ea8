//! Layouts, between larder and skopeo: each reads what the other wrote.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use larder::content::{
    BlobStream, Descriptor, Digest, Manifest, OpenBlob, Publication, Repository, RequestContext, Sink as _, Source as _,
};
use larder::layout::{AnyName, Layout, gc, verify};
use larder::name::Reference;
use larder::{Result, Side};

/// Whether skopeo can be run. Without it these tests show nothing, which is said aloud, and is a failure where
/// `LARDER_REQUIRE_REAL=1` says that it must be there.
fn skopeo_is_missing() -> bool {
    let missing = Command::new("skopeo").arg("--version").output().is_err();
    assert!(!missing || std::env::var("LARDER_REQUIRE_REAL").is_err(), "LARDER_REQUIRE_REAL is set, and skopeo is not installed");
    if missing {
        // Not `eprintln!`, which the test harness swallows when a test passes.
        let _ = std::io::stderr().write_all(b"SKIPPED: skopeo is not installed, so nothing was tested against it\n");
    }
    missing
}

/// Runs skopeo, which must succeed; what it printed.
fn skopeo(args: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo").arg("--insecure-policy").args(args).output().unwrap();
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

struct InMemory(Bytes);

#[async_trait]
impl OpenBlob for InMemory {
    async fn open(&self, offset: u64) -> Result<BlobStream> {
        Ok(stream::iter([Ok(self.0.slice(usize::try_from(offset).unwrap()..))]).boxed())
    }
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn context() -> RequestContext {
    RequestContext::new("test")
}

async fn blob(layout: &Layout, media_type: &str, bytes: Vec<u8>) -> Descriptor {
    let blob = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
    layout.write_blob(&Repository::new("x"), &blob, &InMemory(Bytes::from(bytes)), &context()).await.unwrap();
    blob
}

fn manifest(value: &serde_json::Value) -> Manifest {
    let bytes = Bytes::from(value.to_string());
    let digest = Digest::sha256(&bytes);
    Manifest::verify(bytes, None, &digest, Side::Upstream).unwrap()
}

/// An image that skopeo is content with: its config names the layer by the digest of its bytes.
async fn image(layout: &Layout, architecture: &str) -> Manifest {
    // Two blocks of zeros: an empty tar.
    let layer = blob(layout, LAYER, vec![0; 1024]).await;
    let config = serde_json::json!({"architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
    let config = blob(layout, CONFIG, config.to_string().into_bytes()).await;
    let image = manifest(&serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer]}));
    layout.put_manifest(&Repository::new("x"), &image, &context()).await.unwrap();
    image
}

async fn publish(layout: &Layout, repository: &str, reference: Reference, manifest: &Manifest) {
    let source = "docker.io/library/alpine:3.20".into();
    let publication =
        Publication { repository: Repository::new(repository), reference, manifest: manifest.clone(), source, sparse: vec![] };
    layout.publish(&publication, &context()).await.unwrap();
}

fn oci(path: &Path, name: &str) -> String {
    format!("oci:{}:{name}", path.display())
}

fn tag(tag: &str) -> Reference {
    Reference::Tag(tag.to_owned())
}

#[tokio::test]
async fn skopeo_reads_what_larder_wrote() {
    if skopeo_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).await.unwrap();
    let amd64 = image(&layout, "amd64").await;
    let mut children = vec![serde_json::to_value(amd64.descriptor()).unwrap()];
    children[0]["platform"] = serde_json::json!({"os": "linux", "architecture": "amd64"});
    let index =
        manifest(&serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": children}));
    let digest = Reference::Digest(amd64.digest().clone());
    for (repository, reference, manifest) in [
        ("library/alpine", tag("3.20"), &amd64),
        ("library/alpine", digest, &amd64),
        ("quay.io/prometheus/busybox", tag("latest"), &index),
        ("localhost:5000/a-b/c.d", tag("v1.2-rc_1"), &index),
    ] {
        publish(&layout, repository, reference.clone(), manifest).await;
        let name = format!("{repository}{}", reference.suffix());
        assert_eq!(skopeo(&["inspect", "--raw", &oci(dir.path(), &name)]), manifest.bytes().clone(), "{name}");
    }
    // The whole of it: config and layers are read and their digests checked.
    let copy = tempfile::tempdir().unwrap();
    let to = copy.path().join("copy");
    skopeo(&["copy", "--all", &oci(dir.path(), "quay.io/prometheus/busybox:latest"), &oci(&to, "x")]);
}

#[tokio::test]
async fn larder_reads_and_adds_to_what_skopeo_wrote() {
    if skopeo_is_missing() {
        return;
    }
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let layout = Layout::open_or_create(ours.path()).await.unwrap();
    let amd64 = image(&layout, "amd64").await;
    publish(&layout, "library/alpine", tag("3.20"), &amd64).await;
    let theirs = theirs.path().join("theirs");
    for name in ["3.20", "library/redis:7"] {
        skopeo(&["copy", "--preserve-digests", &oci(ours.path(), "library/alpine:3.20"), &oci(&theirs, name)]);
    }
    assert!(verify(&theirs, &|_| {}).unwrap().ok());

    let bare = Layout::open(&theirs).await.unwrap().resolve(&Repository::new("library/alpine"), &tag("3.20"), &context()).await;
    assert!(bare.unwrap().is_none(), "a tag alone does not say what it is a tag of");
    let read = AnyName::new(Layout::open(&theirs).await.unwrap(), Some(Repository::new("library/alpine")));
    for (repository, wanted) in [("library/alpine", "3.20"), ("library/redis", "7")] {
        let repository = Repository::new(repository);
        let found = read.resolve(&repository, &tag(wanted), &context()).await.unwrap().unwrap();
        let manifest = read.manifest(&repository, &found.digest, &context()).await.unwrap().unwrap();
        assert_eq!(manifest.bytes(), amd64.bytes());
        for blob in &manifest.links().blobs {
            let body = read.blob(&repository, blob, 0, &context()).await.unwrap().unwrap();
            assert!(blob.digest.matches(&body.try_collect::<Vec<Bytes>>().await.unwrap().concat()));
        }
    }

    // Their entries stay theirs, and stay readable to them.
    let write = Layout::open_or_create(&theirs).await.unwrap();
    let arm64 = image(&write, "arm64").await;
    publish(&write, "library/alpine", tag("3.20"), &arm64).await;
    drop(write);
    assert_eq!(gc(&theirs, false).unwrap().removed, []);
    assert_eq!(skopeo(&["inspect", "--raw", &oci(&theirs, "3.20")]), amd64.bytes().clone());
    assert_eq!(skopeo(&["inspect", "--raw", &oci(&theirs, "library/redis:7")]), amd64.bytes().clone());
    assert_eq!(skopeo(&["inspect", "--raw", &oci(&theirs, "library/alpine:3.20")]), arm64.bytes().clone());
    // And skopeo, writing into it again, leaves what larder put there.
    skopeo(&["copy", "--preserve-digests", &oci(ours.path(), "library/alpine:3.20"), &oci(&theirs, "another")]);
    let names: Vec<_> = Layout::open(&theirs).await.unwrap().names().await.unwrap().into_iter().filter_map(|entry| entry.name).collect();
    assert_eq!(names, ["3.20", "library/redis:7", "library/alpine:3.20", "another"]);
    assert!(verify(&theirs, &|_| {}).unwrap().ok());
}
