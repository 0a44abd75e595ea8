//! When images were created, for selections by date: read at the target if that costs no pull, else at the upstream.

use std::sync::Arc;

use jiff::Timestamp;

use super::image::CopyImage;
use super::reader::ContentReader;
use super::target::TargetState;
use crate::content::{Created, Descriptor, Digest, MAX_DEPTH, Manifest, ManifestKind, created, created_in_config, kind_of, source_of};
use crate::{Error, Kind, Operation, Result, Side};

/// The date in an image; `None` if it has none.
type Date = Option<Timestamp>;

/// Where a date is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DateSide {
    /// In the image's repository at the target.
    Target,
    /// At the upstream; what the run has already copied is read at the target.
    Upstream,
}

/// Reads when images were created.
pub struct CreationDates {
    target: Arc<TargetState>,
    reader: ContentReader,
}

impl CreationDates {
    pub(super) fn new(target: Arc<TargetState>) -> Self {
        CreationDates { reader: ContentReader::new(Arc::clone(&target)), target }
    }

    /// When `wanted` was created, if the target has it under the image's name. The inner `None` means that it has no
    /// date. Asks the target only.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub async fn at_target(&self, image: &CopyImage, wanted: &Descriptor) -> Result<Option<Date>> {
        let held = self.target.sink().published(&image.to, &image.publish, &image.context).await?;
        let date = match held {
            Some(held) if held.digest == wanted.digest => self.date_of(image, &held.digest, DateSide::Target).await,
            // An index that was cut to some platforms has the same date.
            Some(held) if !image.policy.platforms.is_empty() => match self.manifest_of(image, &held.digest, DateSide::Target).await {
                Ok(Some(index)) if source_of(&index).as_ref() == Some(&wanted.digest) => {
                    self.date_of(image, &held.digest, DateSide::Target).await
                }
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            },
            _ => Ok(None),
        };
        match date {
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Unsupported) => Ok(None),
            date => date,
        }
    }

    /// The most pulls that [`CreationDates::at_upstream`] costs.
    pub fn pulls(&self, image: &CopyImage, wanted: &Descriptor) -> u64 {
        let cached = |digest: &Digest| image.upstream.cached(digest);
        match cached(&wanted.digest) {
            None => 1 + u64::from(kind_of(&wanted.media_type) != ManifestKind::Image),
            Some(manifest) => match created(&manifest) {
                Ok(Created::Child(child)) => u64::from(cached(&child.digest).is_none()),
                _ => 0,
            },
        }
    }

    /// When `wanted` was created, read at the upstream; `None` if it has no date. The source caches the manifests that
    /// it reads.
    ///
    /// # Errors
    /// If the upstream cannot be asked, or has an invalid image.
    pub async fn at_upstream(&self, image: &CopyImage, wanted: &Descriptor) -> Result<Date> {
        self.target.check_running(Operation::ReadCreationDate)?;
        let date = self.date_of(image, &wanted.digest, DateSide::Upstream).await;
        let missing = || {
            let message = format!("the upstream does not have all of {}", wanted.digest);
            Error::new(Side::Upstream, Operation::ReadCreationDate, Kind::NotFound, message)
        };
        date.and_then(|date| date.ok_or_else(missing)).map_err(|error| error.subject(&*image.context.image))
    }

    /// The outer `None` means that a manifest is missing.
    async fn date_of(&self, image: &CopyImage, wanted: &Digest, side: DateSide) -> Result<Option<Date>> {
        let mut digest = wanted.clone();
        for _ in 0..MAX_DEPTH {
            let Some(manifest) = self.manifest_of(image, &digest, side).await? else { return Ok(None) };
            match created(&manifest)? {
                Created::At(at) => return Ok(Some(Some(at))),
                Created::Unsaid => return Ok(Some(None)),
                Created::Child(child) => digest = child.digest,
                Created::Config(config) => {
                    if side == DateSide::Target {
                        // The target has the manifest, and it was written after its config.
                        self.target.presence().add(&image.to, &digest);
                    }
                    return Ok(Some(created_in_config(&self.reader.small_blob(image, &digest, &config).await?)));
                }
            }
        }
        Ok(Some(None))
    }

    async fn manifest_of(&self, image: &CopyImage, digest: &Digest, side: DateSide) -> Result<Option<Manifest>> {
        let _reading = self.target.lock_read(digest).await;
        let repository = if side == DateSide::Target { Some(image.to.clone()) } else { self.target.presence().anywhere(digest) };
        if let Some(repository) = repository
            && let Some(manifest) = self.reader.intact_target_manifest(&repository, digest, &image.context).await?
        {
            self.target.cached().add_inline(&manifest);
            return Ok(Some(manifest));
        }
        if side == DateSide::Target {
            return Ok(None);
        }
        let manifest = image.upstream.manifest(&image.from, digest, &image.context).await?;
        if let Some(manifest) = &manifest {
            self.target.cached().add_inline(manifest);
            self.target.child_counts().add(manifest.links().manifests.len() as u64);
        }
        Ok(manifest)
    }
}
