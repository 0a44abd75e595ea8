//! A layout as a [`Source`].
//!
//! How a name is found. In this order, the first that fits:
//!
//! 1. the entry whose ref.name is the whole name, `library/alpine:3.20` (what larder writes);
//! 2. an entry without a full ref.name whose `io.containerd.image.name` is the whole name (what containerd writes).
//!
//! An entry with neither, whose ref.name is just a tag (what skopeo and umoci write by habit), has no name: nothing says which
//! repository it belongs to, and it must not answer for another image.
//!
//! A digest is found if there is a file of it, named or not.

use std::io::{Seek as _, SeekFrom};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_util::io::ReaderStream;

use super::entry::{bare, name_of};
use super::files::{self, blocking};
use super::{Layout, graph};
use crate::content::{BlobStream, Descriptor, Digest, Manifest, Repository, RequestContext, Source};
use crate::name::Reference;
use crate::{Error, Operation, Result};

/// How much of a blob is read at a time: each read is a hop to another thread, and a quarter of a MiB in flight per blob
/// is still nothing.
pub(super) const CHUNK: usize = 256 * 1024;

#[async_trait]
impl Source for Layout {
    async fn resolve(&self, repository: &Repository, reference: &Reference, _context: &RequestContext) -> Result<Option<Descriptor>> {
        let index = self.index().await?;
        match reference {
            Reference::Tag(_) => Ok(index.stating(&name_of(repository, reference)).map(|entry| bare(&entry.descriptor))),
            Reference::Digest(digest) => {
                let files = self.0.files.clone();
                let (wanted, media_type) = (digest.clone(), index.media_type(digest));
                blocking(move || Ok(files.blob_len(&wanted)?.map(|len| Descriptor::new(media_type, wanted, len)))).await
            }
        }
    }

    async fn tags(&self, repository: &Repository, _context: &RequestContext) -> Result<Vec<String>> {
        let mut tags: Vec<String> = vec![];
        let mut seen = std::collections::HashSet::new();
        for entry in self.index().await?.entries() {
            if let Some(tag) = entry.full_name().and_then(|name| name.strip_prefix(repository.as_str())?.strip_prefix(':'))
                && crate::name::check_tag(tag).is_ok()
                && seen.insert(tag.to_owned())
            {
                tags.push(tag.to_owned());
            }
        }
        Ok(tags)
    }

    async fn referrers(&self, _repository: &Repository, subject: &Digest, _context: &RequestContext) -> Result<Vec<Descriptor>> {
        let (inner, index, subject) = (Arc::clone(&self.0), self.index().await?, subject.clone());
        blocking(move || inner.subjects.referrers_of(&inner.files, &index, &subject)).await
    }

    async fn repositories(&self, _context: &RequestContext) -> Result<Option<Vec<Repository>>> {
        let index = self.index().await?;
        let repositories: std::collections::BTreeSet<Repository> = index.entries().filter_map(|entry| Some(entry.title()?.0)).collect();
        Ok(Some(repositories.into_iter().collect()))
    }

    async fn manifest(&self, _repository: &Repository, digest: &Digest, _context: &RequestContext) -> Result<Option<Manifest>> {
        let hint = self.index().await?.media_type(digest);
        let (files, digest) = (self.0.files.clone(), digest.clone());
        blocking(move || graph::manifest(&files, &digest, &hint)).await
    }

    async fn blob_size(&self, _repository: &Repository, digest: &Digest, _context: &RequestContext) -> Result<Option<u64>> {
        let (files, digest) = (self.0.files.clone(), digest.clone());
        blocking(move || files.blob_len(&digest)).await
    }

    async fn blob(
        &self,
        _repository: &Repository,
        blob: &Descriptor,
        offset: u64,
        _context: &RequestContext,
    ) -> Result<Option<BlobStream>> {
        let path = self.0.files.path(&files::blob(&blob.digest));
        let opened = blocking({
            let (files, path, digest, size) = (self.0.files.clone(), path.clone(), blob.digest.clone(), blob.size);
            move || {
                let io = |error| Error::io(Operation::ReadBlob, &path, &error);
                let Some(mut file) = files.open_blob(Operation::ReadBlob, &digest)? else { return Ok(None) };
                // A file of another length is not this blob.
                if file.metadata().map_err(io)?.len() != size {
                    return Ok(None);
                }
                file.seek(SeekFrom::Start(offset)).map_err(io)?;
                Ok(Some(file))
            }
        })
        .await?;
        let capacity = usize::try_from(blob.size).unwrap_or(CHUNK).clamp(1, CHUNK);
        Ok(opened.map(|file| {
            let chunks = ReaderStream::with_capacity(tokio::fs::File::from_std(file), capacity);
            chunks.map_err(move |error| Error::io(Operation::ReadBlob, &path, &error)).boxed()
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{OCI_MANIFEST, blob, context, folder, image, index, put, read_blob, split};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn what_was_put_is_read_back_byte_for_byte() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let nested = index(vec![index(vec![image(&["amd64", "shared"])]), image(&["arm64", "shared"])]);
        put(&layout, "localhost:5000/x:1", &nested).await;
        let reader = Layout::open(dir.path()).await.unwrap();
        let (repository, tag) = split("localhost:5000/x:1");
        let found = reader.resolve(&repository, &tag, &context()).await.unwrap().unwrap();
        assert_eq!(found, nested.manifest.descriptor());
        for manifest in nested.children.iter().chain([&nested.manifest]) {
            let read = reader.manifest(&repository, manifest.digest(), &context()).await.unwrap().unwrap();
            assert_eq!((read.bytes().clone(), read.media_type().to_owned()), (manifest.bytes().clone(), manifest.media_type().to_owned()));
            let by_digest = reader.resolve(&repository, &Reference::Digest(manifest.digest().clone()), &context()).await.unwrap().unwrap();
            assert_eq!((by_digest.digest, by_digest.size), (manifest.digest().clone(), manifest.bytes().len() as u64));
        }
        for bytes in &nested.blobs {
            assert_eq!(read_blob(&reader, &blob(bytes), 0).await.unwrap(), *bytes);
            assert_eq!(read_blob(&reader, &blob(bytes), 3).await.unwrap(), bytes[3..]);
        }
        assert_eq!(reader.tags(&repository, &context()).await.unwrap(), ["1"]);
    }

    #[tokio::test]
    async fn what_is_not_there_or_has_another_length_is_none() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = image(&["layer"]);
        put(&layout, "a:1", &image).await;
        let absent = Digest::sha256(b"absent");
        let repository = Repository::new("a");
        assert!(layout.manifest(&repository, &absent, &context()).await.unwrap().is_none());
        assert!(layout.resolve(&repository, &Reference::Digest(absent.clone()), &context()).await.unwrap().is_none());
        assert!(layout.resolve(&repository, &Reference::Tag("2".to_owned()), &context()).await.unwrap().is_none());
        assert!(read_blob(&layout, &Descriptor::new("", absent, 5), 0).await.is_none());
        let mut other = blob(&image.blobs[0]);
        other.size += 1;
        assert!(read_blob(&layout, &other, 0).await.is_none());
    }

    #[tokio::test]
    async fn a_damaged_manifest_is_an_error_and_not_a_manifest() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = image(&["layer"]);
        put(&layout, "a:1", &image).await;
        let path = super::super::testing::path_of(&layout, image.manifest.digest());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "{}").unwrap();
        let error = layout.manifest(&Repository::new("a"), image.manifest.digest(), &context()).await.unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Damaged);
    }

    #[tokio::test]
    async fn names_of_other_tools_are_found_by_the_rules_above() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        // Each entry is told from the others by its size.
        let entry = |size: u64, name: Option<&str>, source: Option<&str>| {
            let mut annotations = serde_json::Map::new();
            annotations.extend(name.map(|name| ("org.opencontainers.image.ref.name".to_owned(), json!(name))));
            annotations.extend(source.map(|source| ("io.containerd.image.name".to_owned(), json!(source))));
            json!({"mediaType": OCI_MANIFEST, "digest": Digest::sha256(&size.to_le_bytes()), "size": size, "annotations": annotations})
        };
        let entries = [
            entry(1, Some("7"), Some("docker.io/library/redis:7")),
            entry(2, Some("7"), None),
            entry(3, None, None),
            entry(4, Some("library/redis:7"), Some("docker.io/library/redis:8")),
            entry(5, Some("3.20"), None),
            entry(6, None, Some("quay.io/a/b:1")),
            entry(7, Some("library/redis:6"), None),
            entry(8, Some("library/redis:7"), None),
            entry(9, Some("library/redis/x:5"), None),
            entry(10, Some("localhost:5000/y:sha256-ab"), None),
            entry(11, Some(&format!("by/digest@{}", Digest::sha256(b"x"))), None),
        ];
        fs::write(layout.path().join("index.json"), json!({"manifests": entries}).to_string()).unwrap();
        for (name, expected) in [
            ("library/redis:7", Some(4)),
            ("docker.io/library/redis:7", Some(1)),
            ("docker.io/library/redis:8", None), // it has a name of its own
            ("quay.io/a/b:1", Some(6)),
            ("any/thing:3.20", None), // it does not say what it is a tag of
            ("any/thing:7", None),
            ("any/thing:latest", None),
        ] {
            let (repository, tag) = split(name);
            assert_eq!(layout.resolve(&repository, &tag, &context()).await.unwrap().map(|found| found.size), expected, "{name}");
        }
        assert_eq!(layout.tags(&Repository::new("library/redis"), &context()).await.unwrap(), ["7", "6"]);
        assert_eq!(layout.tags(&Repository::new("docker.io/library/redis"), &context()).await.unwrap(), ["7"]);
        let repositories = layout.repositories(&context()).await.unwrap().unwrap();
        let repositories: Vec<&str> = repositories.iter().map(Repository::as_str).collect();
        let expected = ["by/digest", "docker.io/library/redis", "library/redis", "library/redis/x", "localhost:5000/y", "quay.io/a/b"];
        assert_eq!(repositories, expected);
    }
}
