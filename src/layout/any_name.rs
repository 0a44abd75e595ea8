//! A layout whose images are also found by the names of what they were copied from: what `larder serve` hands out.
//!
//! Beside the rules of `source`, and before the names that state no repository, an entry is found by its
//! `io.containerd.image.name` (larder's entries have both names). One without it is found by its ref.name in normal form:
//! `library/redis:7` is `docker.io/library/redis:7`.
//!
//! Rejected: the same for every [`Source`] use of a layout. What a target holds under a name is asked by the target's name
//! alone; another image of the same source is no answer to that.

use async_trait::async_trait;

use super::Layout;
use super::index::IndexEntry;
use super::sink::{bare, full_name};
use super::source::stated;
use crate::Result;
use crate::content::{BlobStream, Charge, Descriptor, Digest, Manifest, Place, Source};
use crate::name::{ImageName, Reference};

/// A layout to be read by the names of either side.
#[derive(Debug, Clone)]
pub struct AnyName(pub Layout);

/// The name of what `entry` was copied from.
fn source_name(entry: &IndexEntry) -> Option<String> {
    match (&entry.source, &entry.name) {
        (Some(source), _) => Some(source.clone()),
        (None, Some(name)) if !super::index::is_bare(name) => ImageName::parse(name).ok().map(|name| name.to_string()),
        (None, _) => None,
    }
}

#[async_trait]
impl Source for AnyName {
    async fn resolve(&self, place: &Place, reference: &Reference, charge: &Charge) -> Result<Option<Descriptor>> {
        if matches!(reference, Reference::Tag(_)) {
            let index = self.0.index().await?;
            let name = full_name(place, reference);
            if stated(&index, &name).is_none()
                && let Some(entry) = index.entries().find(|entry| source_name(entry).as_ref() == Some(&name))
            {
                return Ok(Some(bare(&entry.descriptor)));
            }
        }
        self.0.resolve(place, reference, charge).await
    }

    async fn tags(&self, place: &Place, charge: &Charge) -> Result<Vec<String>> {
        let mut tags = self.0.tags(place, charge).await?;
        let index = self.0.index().await?;
        let tag = |entry| Some(source_name(entry)?.strip_prefix(place.as_str())?.strip_prefix(':')?.to_owned());
        tags.extend(index.entries().filter_map(tag).filter(|tag| crate::name::check_tag(tag).is_ok()));
        Ok(tags)
    }

    async fn manifest(&self, place: &Place, digest: &Digest, charge: &Charge) -> Result<Option<Manifest>> {
        self.0.manifest(place, digest, charge).await
    }

    async fn blob(&self, place: &Place, blob: &Descriptor, offset: u64, charge: &Charge) -> Result<Option<BlobStream>> {
        self.0.blob(place, blob, offset, charge).await
    }

    async fn blob_size(&self, place: &Place, digest: &Digest, charge: &Charge) -> Result<Option<u64>> {
        self.0.blob_size(place, digest, charge).await
    }

    async fn referrers(&self, place: &Place, subject: &Digest, charge: &Charge) -> Result<Vec<Descriptor>> {
        self.0.referrers(place, subject, charge).await
    }

    async fn repositories(&self, charge: &Charge) -> Result<Option<Vec<Place>>> {
        self.0.repositories(charge).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{OCI_MANIFEST, charge, folder, split};
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
        let any = AnyName(layout.clone());
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
            ("what/ever:edge", Some(5)),
            ("docker.io/library/redis:6", Some(6)),
            ("docker.io/library/other:6", None),
        ] {
            let (place, tag) = split(name);
            assert_eq!(any.resolve(&place, &tag, &charge()).await.unwrap().map(|found| found.size), expected, "{name}");
        }
        for (place, expected) in [
            ("mirror/redis", "7 stable"),
            ("docker.io/library/redis", "6 7 8 8-own"),
            ("quay.io/else/redis", "8"),
            ("docker.io/library/nginx", "1"),
            ("what/ever", ""),
        ] {
            let mut tags = any.tags(&Place::new(place), &charge()).await.unwrap();
            tags.sort();
            tags.dedup();
            assert_eq!(tags.join(" "), expected, "{place}");
        }
    }
}
