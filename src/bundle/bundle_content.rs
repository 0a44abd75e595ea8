//! Collects the content of a bundle: the images of a run, everything they consist of, and their referrers, from the layout
//! that they were copied into.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use super::format::{BundleImage, IndexMember, MemberKind};
use super::plan::PlannedBlob;
use crate::content::{Descriptor, Digest, MAX_MANIFEST, Manifest, ManifestKind, Platform, Repository, fallback_tag, platforms_of};
use crate::layout::{IndexEntry, Layout, ReachedContent};
use crate::name::Reference;
use crate::{Error, Operation, Result};

/// The annotation that names an entry of `index.json` (image-spec annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation for the full name of an image (containerd `images/annotations.go`).
const IMAGE_NAME: &str = "io.containerd.image.name";

/// An image that a run has delivered into the layout.
#[derive(Debug, Clone)]
pub struct DeliveredImage {
    /// Its repository in the layout (`library/alpine`).
    pub repository: Repository,
    /// Its tag or digest there.
    pub reference: Reference,
    /// The name of its source, for an entry that does not state it.
    pub source: String,
    /// Its digest there.
    pub digest: Digest,
}

/// The content of a bundle.
#[derive(Debug)]
pub struct BundleContent {
    /// The content of `index.json`.
    pub index: IndexMember,
    /// The images, in the order of their names.
    pub images: Vec<BundleImage>,
    /// The manifests and blobs they consist of, each once.
    pub blobs: Vec<PlannedBlob>,
    /// Images that cannot be packed, with the reason.
    pub failed: Vec<(String, Error)>,
}

/// Collects the content and the referrers of the images `delivered` from `layout`, which has these entries. Blocks.
pub fn collect(layout: &Layout, entries: &[IndexEntry], delivered: Vec<DeliveredImage>) -> BundleContent {
    let named = entries.iter().filter_map(|entry| Some((entry.name.as_deref()?, entry))).collect();
    let mut search = ContentSearch { layout, named, found: ContentFound::default(), index: BTreeMap::new() };
    let name = |image: &DeliveredImage| format!("{}{}", image.repository, image.reference.suffix());
    let delivered: BTreeMap<String, DeliveredImage> = delivered.into_iter().map(|image| (name(&image), image)).collect();
    let (mut images, mut failed) = (vec![], vec![]);
    for (name, image) in delivered {
        match search.image(&name, image) {
            Ok(image) => images.push(image),
            Err(error) => failed.push((name.clone(), error.subject(name))),
        }
    }
    let ContentSearch { found, index, .. } = search;
    // Entries without a name in the layout (referrers) have none here, and come last.
    let is_carried = |entry: &&IndexEntry| entry.name.is_none() && found.0.contains_key(&entry.descriptor.digest);
    let unnamed: BTreeMap<&Digest, &Descriptor> =
        entries.iter().filter(is_carried).map(|entry| (&entry.descriptor.digest, &entry.descriptor)).collect();
    let manifests = index.into_values().chain(unnamed.into_values().cloned()).collect();
    BundleContent { index: IndexMember::new(manifests), images, blobs: found.into_blobs(), failed }
}

struct ContentSearch<'a> {
    layout: &'a Layout,
    named: BTreeMap<&'a str, &'a IndexEntry>,
    found: ContentFound,
    /// The entries of the bundle's index, by name.
    index: BTreeMap<String, Descriptor>,
}

impl ContentSearch<'_> {
    fn image(&mut self, name: &str, image: DeliveredImage) -> Result<BundleImage> {
        let entry = self.named.get(name).copied();
        let source = entry.and_then(|entry| entry.source.clone()).unwrap_or(image.source);
        let mut root = match entry {
            Some(entry) if entry.descriptor.digest == image.digest => entry.descriptor.clone(),
            // Another image has this name now; the digest still leads to the delivered one.
            _ => self.manifest(&image.digest, "")?.descriptor(),
        };
        let own = self.layout.reach(&root)?;
        let attached = self.attached(&own, &image.repository)?;
        let platforms = self.platforms(&self.manifest(&image.digest, &root.media_type)?, &own)?;
        root.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        root.annotations.insert(IMAGE_NAME.to_owned(), source.clone());
        self.index.insert(name.to_owned(), root);
        own.iter().chain(&attached.reached).for_each(|reached| self.found.add(reached, &image.repository));
        self.index.extend(attached.entries);
        let referrers = attached.referrers.into_iter().collect();
        Ok(BundleImage { name: name.to_owned(), source, digest: image.digest, platforms, referrers })
    }

    /// The platforms of an image: those of an index's children that are there, else the one in the config.
    fn platforms(&self, manifest: &Manifest, own: &[ReachedContent]) -> Result<Vec<String>> {
        let links = manifest.links();
        if manifest.kind() == ManifestKind::Index {
            let is_there = |child: &&Descriptor| digests(own).any(|digest| *digest == child.digest);
            return Ok(platforms_of(&links.manifests.iter().filter(is_there).cloned().collect::<Vec<_>>()));
        }
        let config = links.blobs.iter().find(|blob| blob.is_image_config() && blob.size <= MAX_MANIFEST as u64);
        // A config that is no such JSON has no platform.
        let platform = config.and_then(|config| {
            let file = self.layout.open_blob(&config.digest).ok()??;
            let mut bytes = vec![];
            file.take(MAX_MANIFEST as u64).read_to_end(&mut bytes).ok()?;
            serde_json::from_slice::<Platform>(&bytes).ok().filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty())
        });
        Ok(platform.iter().map(ToString::to_string).collect())
    }

    fn manifest(&self, digest: &Digest, hint: &str) -> Result<Manifest> {
        self.layout.stored_manifest(digest, hint)?.ok_or_else(|| {
            let error = Error::local(Operation::PackImage, format!("the cache does not have {digest} any more"));
            error.remedy("run the same command again")
        })
    }

    /// The referrers of these manifests, and referrers of referrers. Their tags begin with the digest of the subject:
    /// `sha256-<hex>` (distribution-spec "Referrers Tag Schema") and cosign's `sha256-<hex>.sig`.
    fn attached(&self, own: &[ReachedContent], repository: &Repository) -> Result<AttachedContent> {
        let mut attached = AttachedContent::default();
        let mut subjects: Vec<Digest> = digests(own).cloned().collect();
        let mut seen: BTreeSet<Digest> = subjects.iter().cloned().collect();
        while let Some(subject) = subjects.pop() {
            let prefix = format!("{repository}:{}", fallback_tag(&subject));
            let named = self.named.range(prefix.as_str()..).take_while(|(name, _)| name.starts_with(&prefix));
            for (name, entry) in named {
                let reached = self.layout.reach(&entry.descriptor)?;
                // The tag without a suffix names the list of referrers, which is not a referrer itself.
                let listed = reached.iter().filter(|piece| name.len() > prefix.len() || piece.descriptor.digest != entry.descriptor.digest);
                for digest in listed.filter(|piece| piece.manifest).map(|piece| &piece.descriptor.digest) {
                    attached.referrers.insert(digest.clone());
                    subjects.extend(seen.insert(digest.clone()).then(|| digest.clone()));
                }
                attached.reached.extend(reached);
                attached.entries.push(((*name).to_owned(), entry.descriptor.clone()));
            }
        }
        Ok(attached)
    }
}

/// The referrers of an image and their content.
#[derive(Default)]
struct AttachedContent {
    reached: Vec<ReachedContent>,
    /// By name.
    entries: Vec<(String, Descriptor)>,
    referrers: BTreeSet<Digest>,
}

fn digests(reached: &[ReachedContent]) -> impl Iterator<Item = &Digest> {
    reached.iter().filter(|piece| piece.manifest).map(|piece| &piece.descriptor.digest)
}

/// The content found so far.
#[derive(Default)]
struct ContentFound(BTreeMap<Digest, FoundBlob>);

struct FoundBlob {
    size: u64,
    kind: MemberKind,
    repositories: BTreeSet<Repository>,
}

impl ContentFound {
    fn add(&mut self, piece: &ReachedContent, repository: &Repository) {
        let ReachedContent { descriptor, manifest } = piece;
        let kind = if *manifest { MemberKind::Manifest } else { MemberKind::Blob };
        let seen =
            self.0.entry(descriptor.digest.clone()).or_insert(FoundBlob { size: descriptor.size, kind, repositories: BTreeSet::new() });
        // If one image uses it as a manifest, it is one.
        seen.kind = seen.kind.min(kind);
        if !seen.repositories.contains(repository) {
            seen.repositories.insert(repository.clone());
        }
    }

    fn into_blobs(self) -> Vec<PlannedBlob> {
        let piece = |(digest, seen): (Digest, FoundBlob)| {
            let repositories = seen.repositories.iter().map(ToString::to_string).collect();
            PlannedBlob { digest, size: seen.size, kind: seen.kind, repositories }
        };
        self.0.into_iter().map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;
    use crate::content::{BlobStream, OpenBlob, Publication, RequestContext, Sink as _};
    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};
    use serde_json::{Value, json};

    struct MemoryBlob(Bytes);

    #[async_trait::async_trait]
    impl OpenBlob for MemoryBlob {
        async fn open(&self, offset: u64) -> Result<BlobStream> {
            Ok(stream::iter([Ok(self.0.slice(usize::try_from(offset).unwrap()..))]).boxed())
        }
    }

    const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

    /// Puts a manifest with one layer of this text, under a tag of `a`.
    async fn put(layout: &Layout, tag: Option<&str>, text: &str, subject: Option<&Descriptor>) -> Descriptor {
        let bytes = Bytes::from(text.to_owned());
        let layer = Descriptor::new("text/plain", Digest::sha256(&bytes), bytes.len() as u64);
        layout.write_blob(&Repository::new("a"), &layer, &MemoryBlob(bytes), &RequestContext::new("a")).await.unwrap();
        name(layout, tag, &json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": layer, "layers": [layer], "subject": subject}))
            .await
    }

    async fn name(layout: &Layout, tag: Option<&str>, value: &Value) -> Descriptor {
        let bytes = Bytes::from(value.to_string());
        let manifest = Manifest::verify(bytes.clone(), None, &Digest::sha256(&bytes), Side::Local).unwrap();
        layout.put_manifest(&Repository::new("a"), &manifest, &RequestContext::new("a")).await.unwrap();
        if let Some(tag) = tag {
            let (repository, reference) = (Repository::new("a"), Reference::Tag(tag.to_owned()));
            let publication = Publication {
                repository,
                reference,
                manifest: manifest.clone(),
                sparse: vec![],
                source: format!("example.com/a:{tag}").into(),
            };
            layout.publish(&publication, &RequestContext::new("a")).await.unwrap();
        }
        manifest.descriptor()
    }

    fn delivered(tag: &str, of: &Descriptor) -> DeliveredImage {
        DeliveredImage {
            repository: Repository::new("a"),
            reference: Reference::Tag(tag.to_owned()),
            source: "given".to_owned(),
            digest: of.digest.clone(),
        }
    }

    #[tokio::test]
    async fn referrers_travel_with_their_subject() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(folder.path()).await.unwrap();
        let image = put(&layout, Some("1"), "layer", None).await;
        let other = put(&layout, Some("2"), "another", None).await;
        let tag = |of: &Descriptor, end: &str| format!("sha256-{}{end}", of.digest.encoded());
        let cosign = put(&layout, Some(&tag(&image, ".sig")), "cosign", None).await;
        let sbom = put(&layout, None, "sbom", Some(&image)).await;
        let signed = put(&layout, Some(&tag(&sbom, ".sig")), "the sbom's signature", None).await;
        put(&layout, Some(&tag(&other, ".sig")), "not asked for", None).await;
        let list = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [sbom]});
        let list = name(&layout, Some(&tag(&image, "")), &list).await;

        let entries = layout.names().await.unwrap();
        let content = collect(&layout, &entries, vec![delivered("1", &image)]);
        assert_eq!(content.failed.len(), 0);
        let mut expected: Vec<Digest> = [&cosign, &sbom, &signed].map(|of| of.digest.clone()).to_vec();
        expected.sort();
        assert_eq!(content.images[0].referrers, expected);
        assert_eq!(content.images[0].source, "example.com/a:1");
        let manifests: BTreeSet<&Digest> = content.index.manifests.iter().map(|entry| &entry.digest).collect();
        assert_eq!(manifests, [&image, &cosign, &signed, &list].into_iter().map(|of| &of.digest).collect());
        assert_eq!(content.blobs.iter().filter(|piece| piece.kind == MemberKind::Manifest).count(), 5);
        assert_eq!(content.blobs.len(), 5 + 4);
    }

    #[tokio::test]
    async fn an_image_with_a_lost_blob_fails_alone_and_a_moved_tag_is_packed_as_it_was_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(folder.path()).await.unwrap();
        let first = put(&layout, Some("1"), "layer", None).await;
        let lost = put(&layout, Some("2"), "lost", None).await;
        put(&layout, Some("1"), "moved on", None).await;
        std::fs::remove_file(layout.blob_path(&Digest::sha256(b"lost"))).unwrap();
        let entries = layout.names().await.unwrap();
        let content = collect(&layout, &entries, vec![delivered("1", &first), delivered("2", &lost)]);
        assert_eq!(content.images.iter().map(|image| &image.digest).collect::<Vec<_>>(), [&first.digest]);
        assert_eq!(content.failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a:2"]);
        assert!(content.failed[0].1.to_string().contains("a:2") && content.blobs.len() == 2);
    }
}
