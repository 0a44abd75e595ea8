//! What an import does with each image: copied, deferred until other volumes arrive, or failed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lacks::{self, Provider, Providers, Reason, Verdicts};
use super::need::{ImageNeeds, MissingContent, NeedsQuery};
use super::wanted::{ImportImage, delivered_row};
use crate::bundle::read::{ArrivedBundle, BundleSource};
use crate::content::Digest;
use crate::copy::{Comparison, CopyOutcome, Engine};
use crate::internal::blocking;
use crate::mutex::{Mutex, MutexGuard};
use crate::report::ImageOutcome;
use crate::run::{Rows, Step, Work};
use crate::{Error, Kind, Operation, Result, Side};

/// Blobs of one incomplete image that are copied at once. Requests are limited by the target's own concurrency.
const COPIED_AT_ONCE: usize = 8;

/// The remedy for an archive without the manifests of an image.
const SAVE_AGAIN: &str =
    "save it again with these (docker save --platform P, ctr images export --platform P), or choose with --platform what it has";

/// What became of an image.
enum ImportEnd {
    Delivered(CopyOutcome),
    Lacking(Vec<MissingContent>),
}

/// An image of an import.
#[derive(Clone)]
pub(super) struct ImportJob {
    /// Its place among all images.
    pub(super) order: usize,
    pub(super) image: Arc<ImportImage>,
}

/// What the images of an import share.
pub(super) struct ImportWork {
    engine: Arc<Engine>,
    query: Arc<NeedsQuery>,
    shelf: Arc<BundleSource>,
    bundles: Arc<Vec<ArrivedBundle>>,
    rows: Arc<Rows>,
    stop: CancellationToken,
    verdicts: Arc<Verdicts>,
    missing: Mutex<MissingOfAll>,
}

/// What images lack.
#[derive(Default)]
pub(super) struct MissingOfAll {
    /// What deferred images wait for, and their names.
    pub(super) waiting: BTreeMap<Provider, Vec<String>>,
    pub(super) digests: BTreeSet<Digest>,
    /// Bundles of whose images manifests are missing: it is not known which image their blobs belong to.
    pub(super) blind: BTreeSet<usize>,
    /// Images that failed because of damaged content.
    pub(super) affected: HashMap<Digest, BTreeSet<String>>,
}

impl ImportWork {
    pub(super) fn new(query: &Arc<NeedsQuery>, bundles: &Arc<Vec<ArrivedBundle>>, rows: &Arc<Rows>, stop: &CancellationToken) -> Self {
        ImportWork {
            engine: Arc::clone(&query.engine),
            query: Arc::clone(query),
            shelf: Arc::clone(&query.shelf),
            bundles: Arc::clone(bundles),
            rows: Arc::clone(rows),
            stop: stop.clone(),
            verdicts: Arc::default(),
            missing: Mutex::default(),
        }
    }

    /// What was found out about volumes, for all images.
    pub(super) fn verdicts(&self) -> &Arc<Verdicts> {
        &self.verdicts
    }

    /// What images lack. Nothing is left for a second call.
    pub(super) fn take_missing(&self) -> MissingOfAll {
        std::mem::take(&mut *self.missing())
    }

    fn missing(&self) -> MutexGuard<'_, MissingOfAll> {
        self.missing.lock()
    }

    /// Copies an image. Starts again if something turns out to be damaged and there is another copy of it.
    async fn copy(&self, wanted: &ImportImage, survey: Comparison, slot: &mut Option<OwnedSemaphorePermit>) -> Result<ImportEnd> {
        let image = &wanted.image;
        loop {
            let damage = self.shelf.damage().len();
            let need = self.query.need(image, &wanted.root).await.map_err(|error| error.subject(&*image.context.image))?;
            if !need.lacks.is_empty() {
                self.copy_available(wanted, &need).await?;
                let need = self.query.need(image, &wanted.root).await?;
                if need.lacks.is_empty() {
                    continue;
                }
                return Ok(ImportEnd::Lacking(need.lacks));
            }
            match self.engine.copy_image(image, survey.clone(), slot).await {
                Err(error) if error.kind() == Kind::Damaged && self.shelf.damage().len() > damage => {}
                Ok(delivered) => return Ok(ImportEnd::Delivered(delivered)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Copies the available blobs of an incomplete image. Damage is met again when the image's content is determined the next time.
    async fn copy_available(&self, wanted: &ImportImage, need: &ImageNeeds) -> Result<()> {
        let copied = stream::iter(need.blobs.clone())
            .map(async |blob| self.engine.copy_blob(&wanted.image, &blob).await)
            .buffer_unordered(COPIED_AT_ONCE);
        let failures: Vec<Error> = copied.filter_map(|copied| async { copied.err() }).collect().await;
        if let Some(full) = failures.iter().find(|error| error.kind() == Kind::DiskFull) {
            self.stop.cancel();
            return Err(full.clone());
        }
        failures.into_iter().find(|error| error.kind() != Kind::Damaged || error.side() == Side::Target).map_or(Ok(()), Err)
    }

    /// The row of an image of which something is missing or damaged.
    async fn lacking(&self, wanted: &ImportImage, row: ImageOutcome, lacks: Vec<MissingContent>) -> ImageOutcome {
        if self.note_lacks(wanted, &lacks) {
            let (verdicts, shelf, bundles) = (Arc::clone(&self.verdicts), Arc::clone(&self.shelf), Arc::clone(&self.bundles));
            let failure = blocking(Operation::ReadVolume, move || Ok(lacks::failure(&verdicts, &shelf, &bundles, &lacks))).await;
            return row.failed(failure.unwrap_or_else(|error| error).subject(&*wanted.image.context.image));
        }
        match Providers::new(&self.bundles).reason(&lacks, wanted.bundle) {
            Reason::Never(error) => {
                // What saves images can leave out whole platforms.
                let is_part = wanted.bundle.is_none() && lacks.iter().any(|lack| lack.manifest);
                let error = if is_part { error.replace_remedy(SAVE_AGAIN) } else { error };
                row.failed(error.subject(&*wanted.image.context.image))
            }
            Reason::Waits(reason, bringers) => {
                let mut missing = self.missing();
                for bringer in bringers {
                    missing.waiting.entry(bringer).or_default().push(wanted.title.clone());
                }
                row.deferred(reason)
            }
        }
    }

    /// Notes what an image lacks; whether something of that is damaged.
    fn note_lacks(&self, wanted: &ImportImage, lacks: &[MissingContent]) -> bool {
        let mut missing = self.missing();
        missing.digests.extend(lacks.iter().map(|lack| lack.descriptor.digest.clone()));
        missing.blind.extend(wanted.bundle.filter(|_| lacks.iter().any(|lack| lack.manifest)));
        let mut damaged = false;
        for lack in lacks.iter().filter(|lack| lack.damaged) {
            missing.affected.entry(lack.descriptor.digest.clone()).or_default().insert(wanted.title.clone());
            damaged = true;
        }
        damaged
    }
}

#[async_trait]
impl Work for ImportWork {
    type Job = ImportJob;
    const NAME: &'static str = "import";
    const OPERATION: Operation = Operation::ImportImage;

    fn row(&self, job: &ImportJob) -> (usize, ImageOutcome) {
        (job.order, job.image.row.clone())
    }

    async fn run(&self, job: &mut ImportJob, slot: OwnedSemaphorePermit) -> Result<Step<ImportJob>> {
        let (image, row) = (&job.image, job.image.row.clone());
        let Some(survey) = image.survey.clone() else { return Ok(Step::Done(Box::new(row))) };
        self.rows.begin(job.order, &row.source, &image.image.context, Instant::now());
        let row = match self.copy(image, survey, &mut Some(slot)).await? {
            ImportEnd::Delivered(delivered) => delivered_row(&row, delivered),
            ImportEnd::Lacking(lacks) => self.lacking(image, row, lacks).await,
        };
        Ok(Step::Done(Box::new(row)))
    }

    fn fatal(&self) -> Option<Error> {
        self.engine.fatal()
    }
}
