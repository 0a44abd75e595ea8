//! A layout as a [`Sink`]. Blobs belong to the whole layout: what one repository has, all have.

use async_trait::async_trait;

use super::entry::{bare, name_of};
use super::files::{self, blocking};
use super::ingest::{BytesSource, ingest};
use super::referrers::PendingReferrers;
use super::{Layout, graph};
use crate::content::{
    ABSENT, Descriptor, Digest, Manifest, OpenBlob, PlatformFilter, Presence, Publication, Repository, RequestContext, SPARSE, Sink,
};
use crate::name::Reference;
use crate::{Error, Kind, Operation, Result, Side};

impl Layout {
    async fn complete(&self, root: Descriptor) -> Result<bool> {
        let files = self.0.blobs.files().clone();
        blocking(move || graph::complete(&files, &root)).await
    }

    async fn must_be_complete(&self, root: &Descriptor, name: &str) -> Result<()> {
        if self.complete(root.clone()).await? {
            return Ok(());
        }
        let message = "content of the referrer is not in the layout, so it is not listed there";
        Err(Error::new(Side::Target, Operation::Publish, Kind::ContentMissing, message).subject(name))
    }

    fn has(&self, blob: &Descriptor) -> Result<bool> {
        Ok(self.0.blobs.files().blob_len(&blob.digest)? == Some(blob.size))
    }
}

#[async_trait]
impl Sink for Layout {
    async fn published(&self, repository: &Repository, reference: &Reference, _context: &RequestContext) -> Result<Option<Descriptor>> {
        let index = self.index().await?;
        // Only larder's own name counts: an image that another tool put here under a bare tag still needs its entry.
        let Some(entry) = index.named(&name_of(repository, reference)) else { return Ok(None) };
        let root = bare(&entry.descriptor);
        Ok(self.complete(root.clone()).await?.then_some(root))
    }

    async fn holds_blob(&self, _repository: &Repository, blob: &Descriptor, _context: &RequestContext) -> Result<Presence> {
        Ok(if self.has(blob)? { Presence::Here } else { Presence::Absent })
    }

    async fn holds_manifest(&self, _repository: &Repository, manifest: &Descriptor, _context: &RequestContext) -> Result<Presence> {
        Ok(match self.complete(manifest.clone()).await? {
            true => Presence::Here,
            false if self.0.blobs.files().blob_len(&manifest.digest)?.is_some() => Presence::Incomplete,
            false => Presence::Absent,
        })
    }

    async fn link(&self, _from: &Repository, _to: &Repository, blob: &Descriptor, _context: &RequestContext) -> Result<bool> {
        self.has(blob)
    }

    fn shares_blobs(&self) -> bool {
        true
    }

    async fn write_blob(&self, _repository: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()> {
        self.writer().await?;
        ingest(&self.0.blobs, blob, &|| self.has(blob), open, context).await
    }

    async fn put_manifest(&self, _repository: &Repository, manifest: &Manifest, context: &RequestContext) -> Result<()> {
        self.writer().await?;
        // Compared, not measured: a manifest with a turned bit has its length still, and is small enough to look at.
        let name = files::blob(manifest.digest());
        let present = || {
            // A link or a file of another length is replaced.
            if self.0.blobs.files().blob_len(manifest.digest())? != Some(manifest.size()) {
                return Ok(false);
            }
            let bytes = self.0.blobs.files().read(Operation::PutManifest, &name, manifest.size())?;
            Ok(bytes.is_some_and(|bytes| bytes == *manifest.bytes()))
        };
        ingest(&self.0.blobs, &manifest.descriptor(), &present, &BytesSource(manifest.bytes().clone()), context).await
    }

    fn accept_without(&self, root: &Digest, absent: &[Digest]) {
        let digests: Vec<&str> = absent.iter().map(Digest::as_str).collect();
        self.0.absent.lock().insert(root.clone(), digests.join(","));
    }

    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()> {
        let Publication { repository, reference, manifest, source, sparse } = publication;
        self.put_manifest(repository, manifest, context).await?;
        let mut root = manifest.descriptor();
        if !sparse.is_empty() {
            root.annotations.insert(SPARSE.to_owned(), PlatformFilter::joined(sparse));
        }
        if let Some(absent) = self.0.absent.lock().get(&root.digest) {
            root.annotations.insert(ABSENT.to_owned(), absent.clone());
        }
        let name = name_of(repository, reference);
        if !self.complete(root.clone()).await? {
            let message = "content of the image is not in the layout, so it gets no name there";
            return Err(Error::new(Side::Target, Operation::Publish, Kind::ContentMissing, message).subject(name));
        }
        self.0.index.publish(name, &root, source).await
    }

    async fn attach(&self, repository: &Repository, subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        for referrer in referrers {
            self.put_manifest(repository, referrer, context).await?;
        }
        for referrer in referrers {
            self.must_be_complete(&referrer.descriptor(), &format!("{repository}@{}", referrer.digest())).await?;
        }
        let referrers = referrers.iter().map(Manifest::as_referrer).collect();
        self.0.index.attach(PendingReferrers { repository: repository.clone(), subject: subject.clone(), referrers }).await
    }

    async fn attach_tagged(&self, publication: &Publication, subject: &Digest, context: &RequestContext) -> Result<()> {
        let Publication { repository, reference, manifest, source, .. } = publication;
        self.put_manifest(repository, manifest, context).await?;
        let (root, name) = (manifest.descriptor(), name_of(repository, reference));
        self.must_be_complete(&root, &name).await?;
        self.0.index.publish_about(name, &root, source, Some(subject)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Image, OCI_MANIFEST, blob, context, fill, folder, image, index, name, names, path_of, put, split};
    use super::*;
    use bytes::Bytes;
    use std::fs;

    async fn published(layout: &Layout, name: &str) -> bool {
        let (repository, reference) = split(name);
        layout.published(&repository, &reference, &context()).await.unwrap().is_some()
    }

    fn overwrite(path: &std::path::Path, bytes: &[u8]) {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[tokio::test]
    async fn a_name_counts_only_while_everything_below_it_is_there() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = index(vec![index(vec![image(&["amd64"])]), image(&["arm64"])]);
        assert!(!published(&layout, "a:1").await);
        put(&layout, "a:1", &image).await;
        let repository = Repository::new("a");
        let below = image.blobs.iter().map(|bytes| (blob(bytes), bytes.clone()));
        let manifests = image.children.iter().chain([&image.manifest]).map(|m| (m.descriptor(), m.bytes().clone()));
        for (lost, bytes) in below.chain(manifests) {
            assert!(published(&layout, "a:1").await);
            let path = path_of(&layout, &lost.digest);
            fs::remove_file(&path).unwrap();
            assert!(!published(&layout, "a:1").await, "without {lost:?}");
            let held = if lost.digest == *image.manifest.digest() { Presence::Absent } else { Presence::Incomplete };
            assert_eq!(layout.holds_manifest(&repository, &image.manifest.descriptor(), &context()).await.unwrap(), held);
            assert_eq!(layout.holds_blob(&repository, &lost, &context()).await.unwrap(), Presence::Absent);
            fs::write(&path, &bytes[1..]).unwrap();
            assert!(!published(&layout, "a:1").await, "with a shorter {lost:?}");
            overwrite(&path, &bytes);
        }
        assert!(published(&layout, "a:1").await);
        assert!(!published(&layout, "b:1").await && !published(&layout, &format!("a@{}", image.manifest.digest())).await);
        assert!(layout.link(&repository, &Repository::new("b"), &blob(&image.blobs[0]), &context()).await.unwrap());
    }

    #[tokio::test]
    async fn a_manifest_with_a_turned_bit_is_noticed_and_mended() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = index(vec![image(&["amd64"])]);
        put(&layout, "a:1", &image).await;
        let child = &image.children[0];
        let path = path_of(&layout, child.digest());
        overwrite(&path, &vec![b' '; child.bytes().len()]);
        assert!(!published(&layout, "a:1").await);
        layout.put_manifest(&Repository::new("a"), child, &context()).await.unwrap();
        assert!(published(&layout, "a:1").await);
    }

    #[tokio::test]
    async fn what_is_incomplete_or_wrong_gets_no_name() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let Image { manifest, blobs, children } = image(&["layer"]);
        let lacking = Image { manifest, blobs: blobs[1..].to_vec(), children };
        fill(&layout, &lacking).await;
        assert_eq!(name(&layout, "a:1", &lacking).await.unwrap_err().kind(), Kind::ContentMissing);
        let mut forged = image(&["other"]);
        forged.manifest = Manifest::known(forged.manifest.bytes().clone(), None, Digest::sha256(b"something else"), Side::Local).unwrap();
        assert_eq!(name(&layout, "a:1", &forged).await.unwrap_err().kind(), Kind::Damaged);
        assert!(names(&layout).await.is_empty());
    }

    #[tokio::test]
    async fn a_sparse_index_is_complete_for_its_platforms_and_says_which() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let (image, lost) = sparse_index();
        fill(&layout, &image).await;
        let publication = |sparse: &str| {
            let (repository, reference) = split("a:1");
            Publication {
                repository,
                reference,
                manifest: image.manifest.clone(),
                source: "x".into(),
                sparse: PlatformFilter::split(sparse),
            }
        };
        for refused in [publication(""), publication("linux/arm64")] {
            assert_eq!(layout.publish(&refused, &context()).await.unwrap_err().kind(), Kind::ContentMissing);
        }
        layout.publish(&publication("linux/amd64,linux/riscv64"), &context()).await.unwrap();
        let entries = fs::read_to_string(dir.path().join("index.json")).unwrap();
        assert!(entries.contains("\"dev.larder.platforms\":\"linux/amd64,linux/riscv64\""), "{entries}");
        let (repository, reference) = split("a:1");
        let found = layout.published(&repository, &reference, &context()).await.unwrap().unwrap();
        assert_eq!(found.annotations[SPARSE], "linux/amd64,linux/riscv64");
        assert_eq!(layout.holds_manifest(&repository, &image.manifest.descriptor(), &context()).await.unwrap(), Presence::Incomplete);
        let report = super::super::verify(dir.path(), &|_| {}).unwrap();
        assert!(report.ok() && report.unreferenced.is_empty(), "{report:?}");

        // What is there of a platform that was left out is nobody's; what is missing of one that was not is damage.
        fill(&layout, &lost).await;
        layout.put_manifest(&repository, &lost.manifest, &context()).await.unwrap();
        drop(layout);
        assert!(super::super::gc(dir.path(), true).unwrap().removed.contains(lost.manifest.digest()));
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        fs::remove_file(path_of(&layout, image.children[0].digest())).unwrap();
        assert!(!published(&layout, "a:1").await);
        assert_eq!(super::super::verify(dir.path(), &|_| {}).unwrap().missing.len(), 1);
    }

    #[tokio::test]
    async fn gc_keeps_what_another_entry_of_a_sparse_index_has_whole() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let (image, other) = sparse_index();
        fill(&layout, &image).await;
        let (repository, reference) = split("a:sparse");
        let sparse = PlatformFilter::split("linux/amd64");
        let publication =
            Publication { repository: repository.clone(), reference, manifest: image.manifest.clone(), source: "x".into(), sparse };
        layout.publish(&publication, &context()).await.unwrap();
        fill(&layout, &other).await;
        layout.put_manifest(&repository, &other.manifest, &context()).await.unwrap();
        name(&layout, "b:whole", &image).await.unwrap();
        drop(layout);
        assert_eq!(super::super::gc(dir.path(), false).unwrap().removed, []);
        assert!(super::super::verify(dir.path(), &|_| {}).unwrap().ok());
    }

    /// An index over amd64 and arm64 with the content of the first, and the second.
    fn sparse_index() -> (Image, Image) {
        let (amd, arm) = (image(&["amd64"]), image(&["arm64"]));
        let of = |image: &Image, architecture: &str| {
            let mut child = image.manifest.descriptor();
            child.platform =
                Some(crate::content::Platform { os: "linux".into(), architecture: architecture.into(), variant: None, os_version: None });
            child
        };
        let value = serde_json::json!({"schemaVersion": 2, "mediaType": super::super::testing::OCI_INDEX, "manifests": [of(&amd, "amd64"), of(&arm, "arm64")]});
        let bytes = Bytes::from(value.to_string());
        let manifest = Manifest::known(bytes.clone(), None, Digest::sha256(&bytes), Side::Upstream).unwrap();
        (Image { manifest, blobs: amd.blobs, children: vec![amd.manifest] }, arm)
    }

    #[tokio::test]
    async fn foreign_layers_may_be_absent_and_unknown_manifests_refer_to_nothing() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let mut layer = blob(&Bytes::from_static(b"windows"));
        layer.media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned();
        let config = Bytes::from_static(b"{}");
        for (tag, value) in [
            ("foreign", serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob(&config), "layers": [layer]})),
            ("opaque", serde_json::json!({"mediaType": "application/vnd.example+json", "config": layer, "layers": []})),
        ] {
            let bytes = Bytes::from(value.to_string());
            let digest = Digest::sha256(&bytes);
            let manifest = Manifest::verify(bytes, None, &digest, Side::Upstream).unwrap();
            put(&layout, &format!("a:{tag}"), &Image { manifest, blobs: vec![config.clone()], children: vec![] }).await;
            assert!(published(&layout, &format!("a:{tag}")).await, "{tag}");
        }
        assert!(super::super::verify(layout.path(), &|_| {}).unwrap().ok());
    }
}
