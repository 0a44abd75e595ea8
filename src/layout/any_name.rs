//! A layout whose images are also found by the names of what they were copied from: what `larder serve` hands out.
//!
//! Beside the rules of `source`, an entry is found by its `io.containerd.image.name` (larder's entries have both names). One
//! without it is found by its ref.name in normal form: `library/redis:7` is `docker.io/library/redis:7`.
//!
//! An entry that has a tag and no repository, as skopeo, oras and regctl write it, is found under the repository that the user gives,
//! and under no other: nothing in the layout says which image it is.
//!
//! Every file is hashed before a byte of it is handed out (`checked`).
//!
//! Rejected: the same for every [`Source`] use of a layout. What a target holds under a name is asked by the target's name
//! alone; another image of the same source is no answer to that.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_util::io::ReaderStream;

use super::checked::Checked;
use super::entry::{IndexEntry, bare, is_bare, name_of};
use super::index::LayoutIndex;
use super::source::CHUNK;
use super::{Layout, graph};
use crate::content::{BlobStream, Descriptor, Digest, Manifest, Repository, RequestContext, Source};
use crate::name::{ImageName, Reference, check_tag, split_host};
use crate::{Error, Operation, Result};

/// A layout to be read by the names of either side.
#[derive(Debug, Clone)]
pub struct AnyName {
    layout: Layout,
    /// The repository of entries that state none.
    unstated: Option<Repository>,
    checked: Arc<Checked>,
}

impl AnyName {
    /// Reads `layout`. Entries that have a tag and no repository belong to `unstated`; without one, they have no name.
    pub fn new(layout: Layout, unstated: Option<Repository>) -> Self {
        AnyName { layout, unstated, checked: Arc::default() }
    }

    fn find<'a>(&self, index: &'a LayoutIndex, repository: &Repository, tag: &str) -> Option<&'a IndexEntry> {
        let name = name_of(repository, &Reference::Tag(tag.to_owned()));
        let unstated = || index.entries().find(|entry| entry.name.as_deref() == Some(tag) && entry.full_name().is_none());
        index
            .stating(&name)
            .or_else(|| index.entries().find(|entry| is_copy_of(entry, &name, tag)))
            .or_else(|| if self.unstated.as_ref() == Some(repository) { unstated() } else { None })
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.checked.open(&self.layout.0.files, digest).await?.map(|(_, len)| len))
    }
}

/// Whether `entry` was copied from `name`, which has the tag `tag`.
fn is_copy_of(entry: &IndexEntry, name: &str, tag: &str) -> bool {
    match (&entry.source, &entry.name) {
        (Some(source), _) => source == name,
        // Parsed only if it can be: the normal form leaves the tag as it is.
        (None, Some(stated)) => stated.ends_with(tag) && !is_bare(stated) && normal(stated).as_deref() == Some(name),
        (None, None) => false,
    }
}

fn normal(name: &str) -> Option<String> {
    ImageName::parse(name).ok().map(|name| name.to_string())
}

/// The name of what `entry` was copied from.
fn source_name(entry: &IndexEntry) -> Option<String> {
    match (&entry.source, &entry.name) {
        (Some(source), _) => Some(source.clone()),
        (None, Some(name)) if !is_bare(name) => normal(name),
        (None, _) => None,
    }
}

/// Whether `entry` was copied from a registry called `host`.
fn is_from(entry: &IndexEntry, host: &str) -> bool {
    entry.source.as_deref().is_some_and(|source| split_host(source).0 == Some(host))
}

/// The tag of `name`, if it is one of `repository`.
fn tag_in<'n>(name: &'n str, repository: &Repository) -> Option<&'n str> {
    name.strip_prefix(repository.as_str())?.strip_prefix(':').filter(|tag| check_tag(tag).is_ok())
}

#[async_trait]
impl Source for AnyName {
    async fn resolve(&self, repository: &Repository, reference: &Reference, _context: &RequestContext) -> Result<Option<Descriptor>> {
        let index = self.layout.index().await?;
        match reference {
            Reference::Tag(tag) => Ok(self.find(&index, repository, tag).map(|entry| bare(&entry.descriptor))),
            Reference::Digest(digest) => {
                let size = self.size(digest).await?;
                Ok(size.map(|size| Descriptor::new(index.media_type(digest), digest.clone(), size)))
            }
        }
    }

    async fn resolve_copied_from(
        &self,
        host: &str,
        repository: &Repository,
        tag: &str,
        _context: &RequestContext,
    ) -> Result<Option<Descriptor>> {
        let name = name_of(repository, &Reference::Tag(tag.to_owned()));
        let index = self.layout.index().await?;
        Ok(index.named(&name).filter(|entry| is_from(entry, host)).map(|entry| bare(&entry.descriptor)))
    }

    async fn tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        let mut tags = self.layout.tags(repository, context).await?;
        let index = self.layout.index().await?;
        tags.extend(index.entries().filter_map(|entry| Some(tag_in(&source_name(entry)?, repository)?.to_owned())));
        if self.unstated.as_ref() == Some(repository) {
            let unstated = index.entries().filter(|entry| entry.full_name().is_none()).filter_map(|entry| entry.name.clone());
            tags.extend(unstated.filter(|tag| check_tag(tag).is_ok()));
        }
        Ok(tags)
    }

    async fn tags_copied_from(&self, host: &str, repository: &Repository, _context: &RequestContext) -> Result<Vec<String>> {
        let index = self.layout.index().await?;
        let from_there = index.entries().filter(|entry| is_from(entry, host));
        Ok(from_there.filter_map(|entry| Some(tag_in(entry.name.as_deref()?, repository)?.to_owned())).collect())
    }

    async fn manifest(&self, _repository: &Repository, digest: &Digest, _context: &RequestContext) -> Result<Option<Manifest>> {
        let hint = self.layout.index().await?.media_type(digest);
        let opened = self.checked.open(&self.layout.0.files, digest).await?;
        let Some((file, len)) = opened else { return Ok(None) };
        let digest = digest.clone();
        super::files::blocking(move || graph::manifest_in(file, len, &digest, &hint)).await
    }

    async fn blob_size(&self, _repository: &Repository, digest: &Digest, _context: &RequestContext) -> Result<Option<u64>> {
        self.size(digest).await
    }

    async fn blob(
        &self,
        _repository: &Repository,
        blob: &Descriptor,
        offset: u64,
        _context: &RequestContext,
    ) -> Result<Option<BlobStream>> {
        let opened = self.checked.open(&self.layout.0.files, &blob.digest).await?;
        let Some((mut file, _)) = opened.filter(|(_, len)| *len == blob.size) else { return Ok(None) };
        let digest = blob.digest.clone();
        let failed = move |error: std::io::Error| Error::local(Operation::ReadBlob, format!("{digest}: {error}"));
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset)).map_err(&failed)?;
        let chunks = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK);
        Ok(Some(chunks.map_err(failed).boxed()))
    }

    async fn referrers(&self, repository: &Repository, subject: &Digest, context: &RequestContext) -> Result<Vec<Descriptor>> {
        self.layout.referrers(repository, subject, context).await
    }

    async fn repositories(&self, context: &RequestContext) -> Result<Option<Vec<Repository>>> {
        let mut all = self.layout.repositories(context).await?.unwrap_or_default();
        if let Some(unstated) = &self.unstated
            && self.layout.index().await?.entries().any(|entry| entry.name.is_some() && entry.full_name().is_none())
        {
            all.push(unstated.clone());
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{OCI_MANIFEST, context, folder, split};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn an_image_is_found_by_the_name_of_either_side() {
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
            entry(1, Some("mirror/redis:7"), Some("docker.io/library/redis:7")),
            entry(2, Some("mirror/redis:stable"), Some("docker.io/library/redis:8")),
            entry(3, Some("docker.io/library/redis:8-own"), Some("quay.io/else/redis:8")),
            entry(4, Some("library/nginx:1"), None),
            entry(5, Some("edge"), None),
            entry(6, Some("6"), Some("docker.io/library/redis:6")),
        ];
        std::fs::write(layout.path().join("index.json"), json!({"manifests": entries}).to_string()).unwrap();
        let any = AnyName::new(layout.clone(), Some(Repository::new("my/app")));
        for (name, expected) in [
            ("mirror/redis:7", Some(1)),
            ("docker.io/library/redis:7", Some(1)),
            ("mirror/redis:stable", Some(2)),
            ("docker.io/library/redis:8", Some(2)),
            ("mirror/redis:8", None),
            ("docker.io/library/redis:stable", None),
            ("docker.io/library/redis:8-own", Some(3)),
            ("quay.io/else/redis:8", Some(3)),
            ("quay.io/else/redis:7", None),
            ("library/nginx:1", Some(4)),
            ("docker.io/library/nginx:1", Some(4)),
            ("quay.io/library/nginx:1", None),
            ("what/ever:edge", None),
            ("my/app:edge", Some(5)),
            ("my/app:6", None),
            ("docker.io/library/redis:6", Some(6)),
            ("docker.io/library/other:6", None),
        ] {
            let (repository, tag) = split(name);
            assert_eq!(any.resolve(&repository, &tag, &context()).await.unwrap().map(|found| found.size), expected, "{name}");
        }
        for (repository, expected) in [
            ("mirror/redis", "7 stable"),
            ("docker.io/library/redis", "6 7 8 8-own"),
            ("quay.io/else/redis", "8"),
            ("docker.io/library/nginx", "1"),
            ("what/ever", ""),
            ("my/app", "edge"),
        ] {
            let mut tags = any.tags(&Repository::new(repository), &context()).await.unwrap();
            tags.sort();
            tags.dedup();
            assert_eq!(tags.join(" "), expected, "{repository}");
        }
    }
    #[tokio::test]
    async fn under_a_hosts_name_the_targets_name_is_right_for_what_was_copied_from_there() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let entry = |size: u64, name: &str, source: Option<&str>| {
            let mut annotations = serde_json::Map::new();
            annotations.insert("org.opencontainers.image.ref.name".to_owned(), json!(name));
            annotations.extend(source.map(|source| ("io.containerd.image.name".to_owned(), json!(source))));
            json!({"mediaType": OCI_MANIFEST, "digest": Digest::sha256(&size.to_le_bytes()), "size": size, "annotations": annotations})
        };
        let entries = [
            entry(1, "q/app:1", Some("quay.io/app:1")),
            entry(2, "q/app:2", Some("ghcr.io/app:2")),
            entry(3, "q/app:3", None),
            entry(4, "q/app:4", Some("quay.io.evil.example/app:4")),
        ];
        std::fs::write(layout.path().join("index.json"), json!({"manifests": entries}).to_string()).unwrap();
        let (any, repository) = (AnyName::new(layout, None), Repository::new("q/app"));
        for (host, tag, expected) in [
            ("quay.io", "1", Some(1)),
            ("ghcr.io", "1", None),
            ("quay.io", "2", None),
            ("ghcr.io", "2", Some(2)),
            ("quay.io", "3", None),
            ("docker.io", "3", None),
            ("quay.io", "4", None),
        ] {
            let found = any.resolve_copied_from(host, &repository, tag, &context()).await.unwrap();
            assert_eq!(found.map(|found| found.size), expected, "{host} {tag}");
        }
        assert_eq!(any.tags_copied_from("quay.io", &repository, &context()).await.unwrap(), ["1"]);
    }
}
