//! A layout as a [`Source`].
//!
//! How a name is found. In this order, the first that fits:
//!
//! 1. the entry whose ref.name is the whole name, `library/alpine:3.20` (what larder writes);
//! 2. an entry without a full ref.name whose `io.containerd.image.name` is the whole name (what containerd writes);
//! 3. an entry with neither, whose ref.name is just the tag (what skopeo and umoci write by habit): it belongs to
//!    whatever repository is asked for, because nothing says which.
//!
//! A digest is found if there is a file of it, named or not.

use std::fs;
use std::io::{Seek as _, SeekFrom};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_util::io::ReaderStream;

use super::files::{blocking, found};
use super::index::{Index, IndexEntry, is_bare};
use super::sink::{bare, full_name};
use super::{Layout, graph};
use crate::content::{BlobStream, Charge, Descriptor, Digest, Manifest, Place, Source};
use crate::name::Reference;
use crate::{Error, Result};

/// How much of a blob is read at a time: each read is a hop to another thread, and a quarter of a MiB in flight per blob
/// is still nothing.
const CHUNK: usize = 256 * 1024;

#[async_trait]
impl Source for Layout {
    async fn resolve(&self, place: &Place, reference: &Reference, _charge: &Charge) -> Result<Option<Descriptor>> {
        let index = self.index().await?;
        match reference {
            Reference::Tag(tag) => Ok(find(&index, place, tag).map(|entry| bare(&entry.descriptor))),
            Reference::Digest(digest) => {
                let files = self.0.files.clone();
                let (wanted, media_type) = (digest.clone(), media_type(&index, digest));
                blocking(move || Ok(files.blob_len(&wanted)?.map(|len| Descriptor::new(media_type, wanted, len)))).await
            }
        }
    }

    async fn tags(&self, place: &Place, _charge: &Charge) -> Result<Vec<String>> {
        let mut tags: Vec<String> = vec![];
        let mut seen = std::collections::HashSet::new();
        for entry in self.index().await?.entries() {
            if let Some(tag) = stated_name(entry).and_then(|name| name.strip_prefix(place.as_str())?.strip_prefix(':'))
                && crate::name::check_tag(tag).is_ok()
                && seen.insert(tag.to_owned())
            {
                tags.push(tag.to_owned());
            }
        }
        Ok(tags)
    }

    async fn manifest(&self, _place: &Place, digest: &Digest, _charge: &Charge) -> Result<Option<Manifest>> {
        let hint = media_type(&*self.index().await?, digest);
        let (files, digest) = (self.0.files.clone(), digest.clone());
        blocking(move || graph::manifest(&files, &digest, &hint)).await
    }

    async fn blob(&self, _place: &Place, blob: &Descriptor, offset: u64, _charge: &Charge) -> Result<Option<BlobStream>> {
        let path = self.0.files.blob(&blob.digest);
        let size = blob.size;
        let opened = blocking({
            let path = path.clone();
            move || {
                let io = |error| Error::io("read blob", &path, &error);
                let Some(mut file) = found(fs::File::open(&path)).map_err(io)? else { return Ok(None) };
                let meta = file.metadata().map_err(io)?;
                // A file of another length is not this blob.
                if !meta.is_file() || meta.len() != size {
                    return Ok(None);
                }
                file.seek(SeekFrom::Start(offset)).map_err(io)?;
                Ok(Some(file))
            }
        })
        .await?;
        Ok(opened.map(|file| {
            let chunks = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK);
            chunks.map_err(move |error| Error::io("read blob", &path, &error)).boxed()
        }))
    }
}

/// The full name that an entry states for itself.
fn stated_name(entry: &IndexEntry) -> Option<&str> {
    match (entry.name.as_deref(), entry.source.as_deref()) {
        (Some(name), _) if !is_bare(name) => Some(name),
        (_, source) => source,
    }
}

fn find<'a>(index: &'a Index, place: &Place, tag: &str) -> Option<&'a IndexEntry> {
    let name = full_name(place, &Reference::Tag(tag.to_owned()));
    index
        .named(&name)
        .or_else(|| index.entries().find(|entry| stated_name(entry) == Some(&name)))
        .or_else(|| index.named(tag).filter(|entry| entry.source.is_none()))
}

/// What `index.json` says a manifest is; empty if it does not say.
fn media_type(index: &Index, digest: &Digest) -> String {
    index.entries().find(|entry| entry.descriptor.digest == *digest).map(|entry| entry.descriptor.media_type.clone()).unwrap_or_default()
}
