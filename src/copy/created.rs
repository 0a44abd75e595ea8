//! When images were created, for selections by date: read at the target where that is free, else at the upstream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::engine::{Engine, Image};
use crate::content::{
    BlobStream, Charge, Created, Descriptor, Digest, MAX_MANIFEST, Manifest, ManifestKind, Place, Source, Verified, created,
    created_in_config, kind_of,
};
use crate::name::Reference;
use crate::{Error, Kind, Result, Side};

/// How far a date is looked for in indexes of indexes: as deep as those are copied.
const MAX_DEPTH: usize = 8;

/// Configs have some KiB; what is larger than a manifest may be is no config.
const MAX_CONFIG: u64 = MAX_MANIFEST as u64;

/// So many bytes of configs that were read for a date are remembered, for the copies of their images: those of some thousand
/// images. A config that is not remembered is read again, which costs no pull.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What a store says of an image's date.
type Told = Option<Timestamp>;

impl Engine {
    /// When `wanted` was created, if the target holds it under the image's name and tells; the inner `None` says that it has no
    /// date. Spends nothing upstream.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn created_at_target(&self, image: &Image, wanted: &Descriptor) -> Result<Option<Told>> {
        let held = self.target.sink.published(&image.to, &image.publish, &image.charge).await?;
        if held.is_none_or(|held| held.digest != wanted.digest) {
            return Ok(None);
        }
        match self.told(&*self.target.source, &image.to, &wanted.digest, &image.charge).await {
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Unsupported) => Ok(None),
            told => told,
        }
    }

    /// How many pulls [`Engine::created`] costs at most.
    pub fn pulls_for_date(&self, image: &Image, wanted: &Descriptor) -> u64 {
        let at_hand = |digest: &Digest| image.upstream.at_hand(digest);
        match at_hand(&wanted.digest) {
            None => 1 + u64::from(kind_of(&wanted.media_type) != ManifestKind::Image),
            Some(manifest) => match created(&manifest) {
                Ok(Created::Child(child)) => u64::from(at_hand(&child.digest).is_none()),
                _ => 0,
            },
        }
    }

    /// When `wanted` was created, as the upstream says; `None`: it has no date. Manifests are kept where the source keeps them.
    ///
    /// # Errors
    /// If the upstream cannot be asked, or what it has is no image.
    pub async fn created(&self, image: &Image, wanted: &Descriptor) -> Result<Told> {
        if self.stop_requested() {
            return Err(Error::cancelled("read creation date"));
        }
        let told = self.told(&*image.upstream, &image.from, &wanted.digest, &image.charge).await;
        let missing = || {
            let message = format!("the upstream does not have all of {}", wanted.digest);
            Error::new(Side::Upstream, "read creation date", Kind::NotFound, message)
        };
        told.and_then(|told| told.ok_or_else(missing)).map_err(|error| error.subject(&*image.charge.image))
    }

    /// `None`: `source` lacks what would tell.
    async fn told(&self, source: &dyn Source, place: &Place, wanted: &Digest, charge: &Charge) -> Result<Option<Told>> {
        let mut digest = wanted.clone();
        for _ in 0..MAX_DEPTH {
            let manifest = {
                // One at a time, so that whoever comes second finds what the first one's source has kept.
                let _leading = self.leaders.hold(digest.clone()).await;
                source.manifest(place, &digest, charge).await?
            };
            let Some(manifest) = manifest else { return Ok(None) };
            match created(&manifest)? {
                Created::At(at) => return Ok(Some(Some(at))),
                Created::Unsaid => return Ok(Some(None)),
                Created::Child(child) => digest = child.digest,
                Created::Config(config) => {
                    let config = self.config(source, place, &config, charge).await?;
                    return Ok(config.map(|config| created_in_config(&config)));
                }
            }
        }
        Ok(Some(None))
    }

    async fn config(&self, source: &dyn Source, place: &Place, config: &Descriptor, charge: &Charge) -> Result<Option<Bytes>> {
        if let Some(read) = self.configs.get(&config.digest) {
            return Ok(Some(read));
        }
        if config.size > MAX_CONFIG {
            return Err(Error::new(Side::Upstream, "read config", Kind::Damaged, format!("a config of {} bytes is none", config.size)));
        }
        let Some(stream) = source.blob(place, config, 0, charge).await? else { return Ok(None) };
        let mut verified = Verified::whole(stream, config, Side::Upstream)?;
        let mut bytes = Vec::with_capacity(usize::try_from(config.size).unwrap_or(0));
        while let Some(chunk) = verified.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let bytes = Bytes::from(bytes);
        self.configs.add(&config.digest, &bytes);
        Ok(Some(bytes))
    }
}

/// Configs that were read for a date: a blob is read from the upstream once a run.
#[derive(Debug, Default)]
pub(super) struct Configs(Mutex<(HashMap<Digest, Bytes>, usize)>);

impl Configs {
    fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.get(digest).cloned()
    }

    fn add(&self, digest: &Digest, bytes: &Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.1 + bytes.len() <= MOST_BYTES && kept.0.insert(digest.clone(), bytes.clone()).is_none() {
            kept.1 += bytes.len();
        }
    }

    /// The blob, if it is here, as a source of its own.
    pub(super) fn source(&self, digest: &Digest) -> Option<Arc<dyn Source>> {
        self.get(digest).map(|bytes| Arc::new(InMemory(bytes)) as _)
    }
}

/// One blob that has been read already.
struct InMemory(Bytes);

#[async_trait]
impl Source for InMemory {
    async fn resolve(&self, _: &Place, _: &Reference, _: &Charge) -> Result<Option<Descriptor>> {
        Ok(None)
    }

    async fn tags(&self, _: &Place, _: &Charge) -> Result<Vec<String>> {
        Ok(vec![])
    }

    async fn manifest(&self, _: &Place, _: &Digest, _: &Charge) -> Result<Option<Manifest>> {
        Ok(None)
    }

    async fn blob(&self, _: &Place, _: &Descriptor, offset: u64, _: &Charge) -> Result<Option<BlobStream>> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let rest = Some(self.0.slice(from..)).filter(|rest| !rest.is_empty());
        Ok(Some(stream::iter(rest.map(Ok)).boxed()))
    }
}
