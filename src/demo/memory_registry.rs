//! A registry's content in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::content::{BlobStream, Descriptor, Digest, Manifest, Repository, RequestContext, Source};
use crate::name::Reference;
use crate::{Result, Side};

/// Bytes of a blob in one chunk: about what a socket takes at once.
const CHUNK: usize = 64 * 1024;

/// Several repositories in memory. As in a registry, bytes are stored once, and a repository has only what was put into
/// it.
#[derive(Debug, Clone, Default)]
pub struct MemoryRegistry {
    repositories: BTreeMap<String, MemoryRepository>,
    blobs: HashMap<Digest, Bytes>,
    manifests: HashMap<Digest, MemoryManifest>,
}

#[derive(Debug, Clone)]
struct MemoryManifest {
    media_type: String,
    bytes: Bytes,
}

#[derive(Debug, Clone, Default)]
struct MemoryRepository {
    tags: BTreeMap<String, Digest>,
    manifests: BTreeSet<Digest>,
    blobs: BTreeSet<Digest>,
}

/// How much the images of a registry share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Layers of the tagged images, each as often as an image has it.
    pub named: usize,
    /// The number of distinct layers among them.
    pub distinct: usize,
    /// Bytes to copy if each image is copied by itself.
    pub named_bytes: u64,
    /// Bytes to copy if each layer is copied once.
    pub distinct_bytes: u64,
}

impl MemoryManifest {
    fn parse(&self, digest: &Digest) -> Result<Manifest> {
        Manifest::verify(self.bytes.clone(), Some(&self.media_type), digest, Side::Upstream)
    }
}

impl MemoryRegistry {
    /// Every tag of every repository, as (repository, tag), sorted.
    pub fn images(&self) -> Vec<(String, String)> {
        let tags = |(name, repository): (&String, &MemoryRepository)| {
            let name = name.clone();
            repository.tags.keys().cloned().map(move |tag| (name.clone(), tag)).collect::<Vec<_>>()
        };
        self.repositories.iter().flat_map(tags).collect()
    }

    /// The names of the repositories, sorted.
    pub fn repositories(&self) -> Vec<String> {
        self.repositories.keys().cloned().collect()
    }

    /// The bytes of all content, each digest once: the size of a complete copy.
    pub fn bytes(&self) -> u64 {
        let blobs = self.blobs.values().map(|bytes| bytes.len() as u64);
        blobs.chain(self.manifests.values().map(|manifest| manifest.bytes.len() as u64)).sum()
    }

    /// How many layers the tagged images share.
    pub fn layers_shared(&self) -> Sharing {
        let mut sharing = Sharing::default();
        let mut seen = HashSet::new();
        for digest in self.repositories.values().flat_map(|repository| repository.tags.values()) {
            for layer in self.layers(digest) {
                sharing.named += 1;
                sharing.named_bytes += layer.size;
                if seen.insert(layer.digest) {
                    sharing.distinct += 1;
                    sharing.distinct_bytes += layer.size;
                }
            }
        }
        sharing
    }

    /// The layers of an image, over all its platforms.
    fn layers(&self, image: &Digest) -> Vec<Descriptor> {
        let parsed = self.manifests.get(image).map(|found| found.parse(image));
        // The tests read every manifest of the demo.
        let Some(Ok(manifest)) = parsed else { return vec![] };
        let links = manifest.links();
        let children = links.manifests.iter().flat_map(|child| self.layers(&child.digest));
        links.blobs.iter().skip(1).cloned().chain(children).collect()
    }

    /// Puts a blob into a repository.
    pub(crate) fn put_blob(&mut self, repository: &str, media_type: &str, bytes: Bytes) -> Descriptor {
        let blob = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        self.repository(repository).blobs.insert(blob.digest.clone());
        self.blobs.entry(blob.digest.clone()).or_insert(bytes);
        blob
    }

    /// Puts a manifest into a repository.
    pub(crate) fn put_manifest(&mut self, repository: &str, media_type: &str, bytes: Bytes) -> Descriptor {
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        self.repository(repository).manifests.insert(descriptor.digest.clone());
        self.manifests.insert(descriptor.digest.clone(), MemoryManifest { media_type: media_type.to_owned(), bytes });
        descriptor
    }

    /// Gives a manifest a name.
    pub(crate) fn tag(&mut self, repository: &str, tag: &str, manifest: &Descriptor) {
        self.repository(repository).tags.insert(tag.to_owned(), manifest.digest.clone());
    }

    fn repository(&mut self, name: &str) -> &mut MemoryRepository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    fn find_manifest(&self, repository: &Repository, digest: &Digest) -> Option<&MemoryManifest> {
        let repository = self.repositories.get(repository.as_str())?;
        repository.manifests.contains(digest).then(|| self.manifests.get(digest))?
    }

    fn find_blob(&self, repository: &Repository, digest: &Digest) -> Option<&Bytes> {
        let repository = self.repositories.get(repository.as_str())?;
        repository.blobs.contains(digest).then(|| self.blobs.get(digest))?
    }
}

#[async_trait]
impl Source for MemoryRegistry {
    async fn resolve(&self, repository: &Repository, reference: &Reference, _: &RequestContext) -> Result<Option<Descriptor>> {
        let digest = match reference {
            Reference::Tag(tag) => self.repositories.get(repository.as_str()).and_then(|repository| repository.tags.get(tag)),
            Reference::Digest(digest) => Some(digest),
        };
        Ok(digest.and_then(|digest| {
            let found = self.find_manifest(repository, digest)?;
            Some(Descriptor::new(found.media_type.as_str(), digest.clone(), found.bytes.len() as u64))
        }))
    }

    async fn tags(&self, repository: &Repository, _: &RequestContext) -> Result<Vec<String>> {
        Ok(self.repositories.get(repository.as_str()).map(|repository| repository.tags.keys().cloned().collect()).unwrap_or_default())
    }

    async fn manifest(&self, repository: &Repository, digest: &Digest, _: &RequestContext) -> Result<Option<Manifest>> {
        self.find_manifest(repository, digest).map(|found| found.parse(digest)).transpose()
    }

    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, _: &RequestContext) -> Result<Option<BlobStream>> {
        let Some(bytes) = self.find_blob(repository, &blob.digest) else { return Ok(None) };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let rest = bytes.slice(offset..);
        let chunks = (0..rest.len()).step_by(CHUNK).map(move |at| Ok(rest.slice(at..rest.len().min(at + CHUNK))));
        Ok(Some(stream::iter(chunks).boxed()))
    }

    async fn blob_size(&self, repository: &Repository, digest: &Digest, _: &RequestContext) -> Result<Option<u64>> {
        Ok(self.find_blob(repository, digest).map(|bytes| bytes.len() as u64))
    }
}
