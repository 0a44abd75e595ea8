//! When images were created, for selections by date: read at the target where that is free, else at the upstream.

use jiff::Timestamp;

use super::engine::{CopyImage, Engine};
use crate::content::{Created, Descriptor, Digest, MAX_DEPTH, Manifest, ManifestKind, created, created_in_config, kind_of, source_of};
use crate::{Error, Kind, Result, Side};

/// What a store says of an image's date.
type Told = Option<Timestamp>;

/// Where a date is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DateSide {
    /// In the image's repository at the target.
    Target,
    /// At the upstream, and what the run has brought to the target already, there.
    Upstream,
}

impl Engine {
    /// What the image's name means at the upstream; of a tag that never moves, what the target has under it.
    ///
    /// # Errors
    /// If one side cannot be asked.
    pub async fn resolve(&self, image: &CopyImage) -> Result<Option<Descriptor>> {
        if !self.options.recheck
            && let Some(held) = self.immutable(image).await?
        {
            return Ok(Some(Descriptor::new("", held, 0)));
        }
        image.upstream.resolve(&image.from, &image.wanted, &image.context).await
    }

    /// When `wanted` was created, if the target holds it under the image's name and tells; the inner `None` says that it has no
    /// date. Spends nothing upstream.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn created_at_target(&self, image: &CopyImage, wanted: &Descriptor) -> Result<Option<Told>> {
        let held = self.target.sink.published(&image.to, &image.publish, &image.context).await?;
        let told = match held {
            Some(held) if held.digest == wanted.digest => self.told(image, &held.digest, DateSide::Target).await,
            // Cut to the platforms asked for, it is of the same date.
            Some(held) if !image.policy.platforms.is_empty() => match self.manifest_of(image, &held.digest, DateSide::Target).await {
                Ok(Some(index)) if source_of(&index).as_ref() == Some(&wanted.digest) => {
                    self.told(image, &held.digest, DateSide::Target).await
                }
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            },
            _ => Ok(None),
        };
        match told {
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Unsupported) => Ok(None),
            told => told,
        }
    }

    /// How many pulls [`Engine::created`] costs at most.
    pub fn pulls_for_date(&self, image: &CopyImage, wanted: &Descriptor) -> u64 {
        let at_hand = |digest: &Digest| image.upstream.cached(digest);
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
    pub async fn created(&self, image: &CopyImage, wanted: &Descriptor) -> Result<Told> {
        if self.stop_requested() {
            return Err(Error::cancelled("read creation date"));
        }
        let told = self.told(image, &wanted.digest, DateSide::Upstream).await;
        let missing = || {
            let message = format!("the upstream does not have all of {}", wanted.digest);
            Error::new(Side::Upstream, "read creation date", Kind::NotFound, message)
        };
        told.and_then(|told| told.ok_or_else(missing)).map_err(|error| error.subject(&*image.context.image))
    }

    /// `None`: something that would tell is not there.
    async fn told(&self, image: &CopyImage, wanted: &Digest, end: DateSide) -> Result<Option<Told>> {
        let mut digest = wanted.clone();
        for _ in 0..MAX_DEPTH {
            let Some(manifest) = self.manifest_of(image, &digest, end).await? else { return Ok(None) };
            match created(&manifest)? {
                Created::At(at) => return Ok(Some(Some(at))),
                Created::Unsaid => return Ok(Some(None)),
                Created::Child(child) => digest = child.digest,
                Created::Config(config) => {
                    if end == DateSide::Target {
                        // It has been read there, and came there after its config.
                        self.presence.add(&image.to, &digest);
                    }
                    return Ok(Some(created_in_config(&self.small_blob(image, &digest, &config).await?)));
                }
            }
        }
        Ok(Some(None))
    }

    async fn manifest_of(&self, image: &CopyImage, digest: &Digest, end: DateSide) -> Result<Option<Manifest>> {
        // One at a time, so that whoever comes second finds what the first one's source has kept.
        let _leading = self.leaders.hold(digest.clone()).await;
        let at = if end == DateSide::Target { Some(image.to.clone()) } else { self.presence.anywhere(digest) };
        if let Some(repository) = at {
            match self.target.source.manifest(&repository, digest, &image.context).await {
                Ok(Some(manifest)) => {
                    self.at_hand.add_inline(&manifest);
                    return Ok(Some(manifest));
                }
                Ok(None) => {}
                // A target whose copy is damaged is mended when the image is brought.
                Err(error) if error.kind() == Kind::Damaged => tracing::debug!(%error, "the target's manifest is not what it should be"),
                Err(error) => return Err(error),
            }
        }
        if end == DateSide::Target {
            return Ok(None);
        }
        let manifest = image.upstream.manifest(&image.from, digest, &image.context).await?;
        if let Some(manifest) = &manifest {
            self.at_hand.add_inline(manifest);
            self.seen.add(manifest.links().manifests.len() as u64);
        }
        Ok(manifest)
    }
}
