//! When images were created, for selections by date: read at the target where that is free, else at the upstream.

use bytes::Bytes;
use jiff::Timestamp;

use super::choose::collected;
use super::engine::{Engine, Image};
use crate::content::{
    Charge, Created, Descriptor, Digest, MAX_MANIFEST, ManifestKind, Place, Source, created, created_in_config, kind_of, source_of,
};
use crate::{Error, Kind, Result, Side};

/// How far a date is looked for in indexes of indexes: as deep as those are copied.
const MAX_DEPTH: usize = 8;

/// Configs have some KiB; what is larger than a manifest may be is no config.
const MAX_CONFIG: u64 = MAX_MANIFEST as u64;

/// What a store says of an image's date.
type Told = Option<Timestamp>;

impl Engine {
    /// When `wanted` was created, if the target holds it under the image's name and tells; the inner `None` says that it has no
    /// date. Spends nothing upstream.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn created_at_target(&self, image: &Image, wanted: &Descriptor) -> Result<Option<Told>> {
        let Some(held) = self.target.sink.published(&image.to, &image.publish, &image.charge).await? else { return Ok(None) };
        if held.digest != wanted.digest && !self.is_made_from(image, &held.digest, &wanted.digest).await? {
            return Ok(None);
        }
        match self.told(&*self.target.source, &image.to, &held.digest, &image.charge).await {
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Unsupported) => Ok(None),
            told => told,
        }
    }

    /// Whether the target's index `held` is what is left of `wanted` for the platforms asked for: its children were created with it.
    async fn is_made_from(&self, image: &Image, held: &Digest, wanted: &Digest) -> Result<bool> {
        if image.policy.platforms.is_empty() {
            return Ok(false);
        }
        let index = match self.target.source.manifest(&image.to, held, &image.charge).await {
            Err(error) if error.kind() == Kind::Damaged => None,
            index => index?,
        };
        Ok(index.is_some_and(|index| source_of(&index).as_ref() == Some(wanted)))
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
        if let Some(read) = self.at_hand.get(&config.digest) {
            return Ok(Some(read));
        }
        if config.size > MAX_CONFIG {
            return Err(Error::new(Side::Upstream, "read config", Kind::Damaged, format!("a config of {} bytes is none", config.size)));
        }
        let Some(bytes) = collected(source, place, config, charge, Side::Upstream).await? else { return Ok(None) };
        // For the copy of its image: a blob is read from the upstream once a run.
        self.at_hand.add(&config.digest, bytes.clone());
        Ok(Some(bytes))
    }
}
