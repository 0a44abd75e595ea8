//! Image by image: brought, parked, or failed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lacks::{self, Provider, Providers, Reason, Verdicts, WaitingImages};
use super::need::{ImageNeeds, MissingContent, NeedsQuery};
use super::run::{ImportSummary, UPSTREAM};
use super::wanted::{ImportImage, delivered_row};
use super::witness::{Earlier, RecordingSink};
use crate::bundle::read::{ArrivedBundle, BundleSource, StagingArea};
use crate::config::TargetConfig;
use crate::content::Digest;
use crate::copy::{Comparison, CopyOutcome, Engine};
use crate::internal::blocking;
use crate::mutex::{Mutex, MutexGuard};
use crate::report::{Event, ImageOutcome, Reporter, Totals};
use crate::{Error, Kind, Result, Side, internal};

/// Blobs of one incomplete image that are brought at once. Requests are limited by the target's own concurrency.
const CARRIED_AT_ONCE: usize = 8;

/// The remedy for an archive without the manifests of an image.
const SAVE_AGAIN: &str =
    "save it again with these (docker save --platform P, ctr images export --platform P), or choose with --platform what it has";

/// What became of an image.
enum ImportEnd {
    Delivered(CopyOutcome),
    Lacking(Vec<MissingContent>),
}

/// What the images of an import share.
pub(super) struct ImportWorker {
    pub(super) engine: Arc<Engine>,
    pub(super) asker: NeedsQuery,
    pub(super) shelf: Arc<BundleSource>,
    pub(super) bundles: Arc<Vec<ArrivedBundle>>,
    pub(super) target: TargetConfig,
    pub(super) stage: Option<StagingArea>,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
    slots: Semaphore,
    verdicts: Arc<Verdicts>,
    done: Mutex<ImportDone>,
}

/// What is done.
#[derive(Default)]
pub(super) struct ImportDone {
    rows: BTreeMap<usize, ImageOutcome>,
    written: u64,
    /// What parked images wait for.
    waiting: BTreeMap<Provider, Vec<String>>,
    /// Content that images lack.
    pub(super) lacking: BTreeSet<Digest>,
    /// Bundles of whose images manifests are missing: what the others at hand are for is not known.
    pub(super) blind: BTreeSet<usize>,
    /// Images that failed for want of damaged content.
    affected: HashMap<Digest, BTreeSet<String>>,
}

impl ImportWorker {
    pub(super) fn new(
        asker: NeedsQuery,
        bundles: Arc<Vec<ArrivedBundle>>,
        target: TargetConfig,
        stage: Option<StagingArea>,
        reporter: Arc<dyn Reporter>,
        stop: CancellationToken,
        at_once: usize,
    ) -> Arc<Self> {
        let (engine, shelf) = (Arc::clone(&asker.engine), Arc::clone(&asker.shelf));
        Arc::new(ImportWorker {
            engine,
            asker,
            shelf,
            bundles,
            target,
            stage,
            reporter,
            stop,
            slots: Semaphore::new(at_once),
            verdicts: Arc::default(),
            done: Mutex::default(),
        })
    }

    /// Brings one image, and reports what became of it.
    pub(super) async fn import(self: Arc<Self>, order: usize, wanted: Arc<ImportImage>) {
        let Some(survey) = wanted.survey.clone() else {
            return self.finish(order, &wanted, wanted.row.clone());
        };
        // Never closed: an error cannot happen, and would only mean not to wait.
        let _slot = self.slots.acquire().await;
        if self.stop.is_cancelled() {
            return;
        }
        let started = Instant::now();
        let ended = internal::caught("import image", self.one(&wanted, survey)).await.and_then(|ended| ended);
        let tally = &wanted.image.context.tally;
        let row = ImageOutcome {
            bytes: tally.bytes_read(),
            seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            ..wanted.row.clone()
        };
        let row = match ended {
            Ok(ImportEnd::Delivered(delivered)) => delivered_row(&row, delivered),
            Ok(ImportEnd::Lacking(lacks)) => self.lacking(&wanted, row, lacks).await,
            Err(error) if error.kind() == Kind::Cancelled => row.deferred(self.cut_short()),
            Err(error) if error.kind() == Kind::Deferred => {
                let until = error.until().map(|until| until.to_string());
                ImageOutcome { until, ..row.deferred(error.message()) }
            }
            Err(error) => row.failed(error),
        };
        self.finish(order, &wanted, row);
    }

    /// Brings an image; as often as a copy of something turns out to be damaged and there is another.
    async fn one(&self, wanted: &ImportImage, survey: Comparison) -> Result<ImportEnd> {
        let image = &wanted.image;
        loop {
            let damage = self.shelf.damage().len();
            let need = self.asker.need(image, &wanted.root).await.map_err(|error| error.subject(&*image.context.image))?;
            if !need.lacks.is_empty() {
                self.carry(wanted, &need).await?;
                let need = self.asker.need(image, &wanted.root).await?;
                if need.lacks.is_empty() {
                    continue;
                }
                return Ok(ImportEnd::Lacking(need.lacks));
            }
            match self.engine.bring_image(image, survey.clone()).await {
                Err(error) if error.kind() == Kind::Damaged && self.shelf.damage().len() > damage => {}
                Ok(delivered) => return Ok(ImportEnd::Delivered(delivered)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts what is at hand of an incomplete image at the target. Damage is met again when the image is looked at the next time.
    async fn carry(&self, wanted: &ImportImage, need: &ImageNeeds) -> Result<()> {
        let carried = stream::iter(need.blobs.clone())
            .map(async |blob| self.engine.carry(&wanted.image, &blob).await)
            .buffer_unordered(CARRIED_AT_ONCE);
        let failures: Vec<Error> = carried.filter_map(|carried| async { carried.err() }).collect().await;
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
            let failure = blocking("read volume", move || Ok(lacks::failure(&verdicts, &shelf, &bundles, &lacks))).await;
            return row.failed(failure.unwrap_or_else(|error| error).subject(&*wanted.image.context.image));
        }
        match Providers::new(&self.bundles).reason(&lacks, wanted.bundle) {
            Reason::Never(error) => {
                // What saves images can leave out whole platforms.
                let is_part = wanted.bundle.is_none() && lacks.iter().any(|lack| lack.manifest);
                let error = if is_part { error.rather(SAVE_AGAIN) } else { error };
                row.failed(error.subject(&*wanted.image.context.image))
            }
            Reason::Waits(reason, bringers) => {
                let mut done = self.done();
                for bringer in bringers {
                    done.waiting.entry(bringer).or_default().push(wanted.title.clone());
                }
                row.deferred(reason)
            }
        }
    }

    /// Notes what an image lacks; whether something of that is damaged.
    fn note_lacks(&self, wanted: &ImportImage, lacks: &[MissingContent]) -> bool {
        let mut done = self.done();
        done.lacking.extend(lacks.iter().map(|lack| lack.descriptor.digest.clone()));
        done.blind.extend(wanted.bundle.filter(|_| lacks.iter().any(|lack| lack.manifest)));
        let mut damaged = false;
        for lack in lacks.iter().filter(|lack| lack.damaged) {
            done.affected.entry(lack.descriptor.digest.clone()).or_default().insert(wanted.title.clone());
            damaged = true;
        }
        damaged
    }

    fn finish(&self, order: usize, wanted: &ImportImage, row: ImageOutcome) {
        self.reporter.event(&Event::Finished { upstream: UPSTREAM, outcome: &row });
        let mut done = self.done();
        done.written += wanted.image.context.tally.bytes_written();
        done.rows.insert(order, row);
    }

    fn cut_short(&self) -> String {
        match self.engine.fatal() {
            None => "interrupted".to_owned(),
            // Where, and what to do, the image tells that met it.
            Some(error) if error.kind() == Kind::DiskFull => "the import ended early: the disk is full".to_owned(),
            Some(error) => format!("the import ended early: {}", error.message()),
        }
    }

    fn done(&self) -> MutexGuard<'_, ImportDone> {
        self.done.lock()
    }

    /// Keeps what the next volumes will need, lets go of what none will, and sums up.
    pub(super) async fn close(&self, wanted: &[Arc<ImportImage>], evidence: Option<(&RecordingSink, &Earlier)>) -> ImportSummary {
        let mut done = std::mem::take(&mut *self.done());
        let mut rows = std::mem::take(&mut done.rows);
        for (order, wanted) in wanted.iter().enumerate() {
            rows.entry(order).or_insert_with(|| {
                let row = ImageOutcome { bytes: wanted.image.context.tally.bytes_read(), ..wanted.row.clone() };
                if self.stop.is_cancelled() { row.deferred(self.cut_short()) } else { row.failed(internal::unknown("import image")) }
            });
        }
        let loose = self.carry_loose(&done.blind).await;
        let mut damage = self.shelf.damage();
        damage.extend(self.keep_parts(&done).await);
        self.let_go(wanted, &rows).await;
        let evidence = match evidence {
            Some((witness, earlier)) => Some(self.evidence(wanted, &rows, witness, earlier).await),
            None => None,
        };
        let counts = self.engine.counts();
        let bytes_read = rows.values().map(|row| row.bytes).sum::<u64>() + loose.bytes_read();
        let rows: Vec<ImageOutcome> = rows.into_values().collect();
        let mut totals = Totals {
            bytes_read,
            bytes_written: done.written + loose.bytes_written(),
            blobs_copied: counts.copied(),
            blobs_mounted: counts.mounted(),
            blobs_present: counts.present(),
            ..Totals::default()
        };
        rows.iter().for_each(|row| totals.count(row));
        let (shelf, bundles, affected) = (Arc::clone(&self.shelf), Arc::clone(&self.bundles), done.affected);
        let verdicts = Arc::clone(&self.verdicts);
        let damaged =
            blocking("check volumes", move || Ok(lacks::files(&verdicts, &shelf, &bundles, &damage, &affected))).await.unwrap_or_default();
        let waiting = done.waiting.into_iter().map(|(Provider { what, .. }, images)| WaitingImages { what, images }).collect();
        ImportSummary { rows, totals, damaged, waiting, evidence }
    }
}
