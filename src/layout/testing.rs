//! What the tests of this room share: small images, and a source that counts.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Layout;
use crate::content::{BlobStream, Descriptor, Digest, Manifest, OpenBlob, Publication, Repository, RequestContext, Sink as _, Source as _};
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::{Error, Kind, Operation, Result, Side};

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) fn context() -> RequestContext {
    RequestContext::new("docker.io/library/test:1")
}

/// A source of one blob that remembers where it was opened, and may break off.
pub(super) struct Upstream {
    pub(super) bytes: Bytes,
    pub(super) breaks_at: Option<usize>,
    pub(super) opened: Mutex<Vec<u64>>,
}

impl Upstream {
    pub(super) fn new(bytes: &Bytes) -> Self {
        Upstream { bytes: bytes.clone(), breaks_at: None, opened: Mutex::default() }
    }
    pub(super) fn opened(&self) -> Vec<u64> {
        self.opened.lock().clone()
    }
}

#[async_trait]
impl OpenBlob for Upstream {
    async fn open(&self, offset: u64) -> Result<BlobStream> {
        self.opened.lock().push(offset);
        let end = self.breaks_at.unwrap_or(self.bytes.len());
        let body = self.bytes.slice(usize::try_from(offset).unwrap()..end);
        let chunks: Vec<Result<Bytes>> = body.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let broken = self.breaks_at.map(|_| Err(Error::new(Side::Upstream, Operation::GetBlob, Kind::Unavailable, "connection lost")));
        Ok(stream::iter(chunks.into_iter().chain(broken)).boxed())
    }
}

pub(super) fn blob(bytes: &Bytes) -> Descriptor {
    Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", Digest::sha256(bytes), bytes.len() as u64)
}

/// A manifest and the bytes below it.
pub(super) struct Image {
    pub(super) manifest: Manifest,
    pub(super) blobs: Vec<Bytes>,
    pub(super) children: Vec<Manifest>,
}

fn manifest(value: &serde_json::Value) -> Manifest {
    let bytes = Bytes::from(value.to_string());
    let digest = Digest::sha256(&bytes);
    Manifest::verify(bytes, None, &digest, Side::Upstream).unwrap()
}

/// An image of these layers, and a config of its own.
pub(super) fn image(layers: &[&str]) -> Image {
    let blobs: Vec<Bytes> =
        std::iter::once(format!("config of {layers:?}")).chain(layers.iter().map(|&l| l.to_owned())).map(Bytes::from).collect();
    let mut descriptors: Vec<Descriptor> = blobs.iter().map(blob).collect();
    let config = descriptors.remove(0);
    let manifest = manifest(&serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": descriptors}));
    Image { manifest, blobs, children: vec![] }
}

/// An index of these, which may be indexes themselves.
pub(super) fn index(of: Vec<Image>) -> Image {
    let descriptors: Vec<Descriptor> = of.iter().map(|image| image.manifest.descriptor()).collect();
    let manifest = manifest(&serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}));
    let (mut blobs, mut children) = (vec![], vec![]);
    for image in of {
        blobs.extend(image.blobs);
        children.extend(image.children);
        children.push(image.manifest);
    }
    Image { manifest, blobs, children }
}

/// `library/alpine:3.20` or `library/alpine@sha256:…`.
pub(super) fn split(name: &str) -> (Repository, Reference) {
    match name.split_once('@') {
        Some((repository, digest)) => (Repository::new(repository), Reference::Digest(Digest::parse(digest).unwrap())),
        None => {
            let (repository, tag) = name.rsplit_once(':').unwrap();
            (Repository::new(repository), Reference::Tag(tag.to_owned()))
        }
    }
}

/// Blobs and child manifests, but no name.
pub(super) async fn fill(layout: &Layout, image: &Image) {
    let repository = Repository::new("any");
    for bytes in &image.blobs {
        layout.write_blob(&repository, &blob(bytes), &Upstream::new(bytes), &context()).await.unwrap();
    }
    for child in &image.children {
        layout.put_manifest(&repository, child, &context()).await.unwrap();
    }
}

pub(super) async fn name(layout: &Layout, name: &str, image: &Image) -> Result<()> {
    let (repository, reference) = split(name);
    let source = format!("docker.io/{repository}{}", reference.suffix()).into();
    layout.publish(&Publication { repository, reference, manifest: image.manifest.clone(), source, sparse: vec![] }, &context()).await
}

pub(super) async fn put(layout: &Layout, as_name: &str, image: &Image) {
    fill(layout, image).await;
    name(layout, as_name, image).await.unwrap();
}

pub(super) async fn names(layout: &Layout) -> Vec<String> {
    layout.names().await.unwrap().into_iter().map(|entry| entry.name.unwrap_or_default()).collect()
}

pub(super) async fn read_blob(layout: &Layout, blob: &Descriptor, offset: u64) -> Option<Vec<u8>> {
    let stream = layout.blob(&Repository::new("any"), blob, offset, &context()).await.unwrap()?;
    Some(stream.try_collect::<Vec<Bytes>>().await.unwrap().concat())
}

/// The path of a digest's file.
pub(super) fn path_of(layout: &Layout, digest: &Digest) -> std::path::PathBuf {
    layout.path().join("blobs").join(digest.algorithm()).join(digest.encoded())
}
