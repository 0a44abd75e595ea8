//! Image by image: brought, parked, or failed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lacks::{self, Bringer, Bringers, Reason, Verdicts, Waiting};
use super::need::{Asker, Lack, Need};
use super::run::{Imported, UPSTREAM};
use super::wanted::{Wanted, delivered_row};
use super::witness::{Earlier, Witness};
use crate::bundle::read::{Arrived, Shelf, Stage, blocking};
use crate::config::Target;
use crate::content::Digest;
use crate::copy::{Delivered, Engine, Survey};
use crate::report::{Event, Outcome, Reporter, Totals};
use crate::{Error, Kind, Result, Side, internal};

/// Blobs of one incomplete image that are brought at once. Requests are limited by the target's own concurrency.
const CARRIED_AT_ONCE: usize = 8;

/// The remedy for an archive without the manifests of an image.
const SAVE_AGAIN: &str =
    "save it again with these (docker save --platform P, ctr images export --platform P), or choose with --platform what it has";

/// What became of an image.
enum End {
    Delivered(Delivered),
    Lacking(Vec<Lack>),
}

/// What the images of an import share.
pub(super) struct Worker {
    pub(super) engine: Arc<Engine>,
    pub(super) asker: Asker,
    pub(super) shelf: Arc<Shelf>,
    pub(super) bundles: Arc<Vec<Arrived>>,
    pub(super) target: Target,
    pub(super) stage: Option<Stage>,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
    slots: Semaphore,
    verdicts: Arc<Verdicts>,
    done: Mutex<Done>,
}

/// What is done.
#[derive(Default)]
pub(super) struct Done {
    rows: BTreeMap<usize, Outcome>,
    written: u64,
    /// What parked images wait for.
    waiting: BTreeMap<Bringer, Vec<String>>,
    /// Content that images lack.
    pub(super) lacking: BTreeSet<Digest>,
    /// Bundles of whose images manifests are missing: what the others at hand are for is not known.
    pub(super) blind: BTreeSet<usize>,
    /// Images that failed for want of damaged content.
    affected: HashMap<Digest, BTreeSet<String>>,
}

impl Worker {
    pub(super) fn new(
        asker: Asker,
        bundles: Arc<Vec<Arrived>>,
        target: Target,
        stage: Option<Stage>,
        reporter: Arc<dyn Reporter>,
        stop: CancellationToken,
        at_once: usize,
    ) -> Arc<Self> {
        let (engine, shelf) = (Arc::clone(&asker.engine), Arc::clone(&asker.shelf));
        Arc::new(Worker {
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
    pub(super) async fn import(self: Arc<Self>, order: usize, wanted: Arc<Wanted>) {
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
        let tally = &wanted.image.charge.tally;
        let row = Outcome {
            bytes: tally.bytes_read(),
            seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            ..wanted.row.clone()
        };
        let row = match ended {
            Ok(End::Delivered(delivered)) => delivered_row(&row, delivered),
            Ok(End::Lacking(lacks)) => self.lacking(&wanted, row, lacks).await,
            Err(error) if error.kind() == Kind::Cancelled => row.deferred(self.cut_short()),
            Err(error) if error.kind() == Kind::Deferred => {
                let until = error.until().map(|until| until.to_string());
                Outcome { until, ..row.deferred(error.message()) }
            }
            Err(error) => row.failed(error),
        };
        self.finish(order, &wanted, row);
    }

    /// Brings an image; as often as a copy of something turns out to be damaged and there is another.
    async fn one(&self, wanted: &Wanted, survey: Survey) -> Result<End> {
        let image = &wanted.image;
        loop {
            let damage = self.shelf.damage().len();
            let need = self.asker.need(image, &wanted.root).await.map_err(|error| error.subject(&*image.charge.image))?;
            if !need.lacks.is_empty() {
                self.carry(wanted, &need).await?;
                let need = self.asker.need(image, &wanted.root).await?;
                if need.lacks.is_empty() {
                    continue;
                }
                return Ok(End::Lacking(need.lacks));
            }
            match self.engine.bring_image(image, survey.clone()).await {
                Err(error) if error.kind() == Kind::Damaged && self.shelf.damage().len() > damage => {}
                Ok(delivered) => return Ok(End::Delivered(delivered)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts what is at hand of an incomplete image at the target. Damage is met again when the image is looked at the next time.
    async fn carry(&self, wanted: &Wanted, need: &Need) -> Result<()> {
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
    async fn lacking(&self, wanted: &Wanted, row: Outcome, lacks: Vec<Lack>) -> Outcome {
        if self.note_lacks(wanted, &lacks) {
            let (verdicts, shelf, bundles) = (Arc::clone(&self.verdicts), Arc::clone(&self.shelf), Arc::clone(&self.bundles));
            let failure = blocking("read volume", move || Ok(lacks::failure(&verdicts, &shelf, &bundles, &lacks))).await;
            return row.failed(failure.unwrap_or_else(|error| error).subject(&*wanted.image.charge.image));
        }
        match Bringers::new(&self.bundles).reason(&lacks, wanted.bundle) {
            Reason::Never(error) => {
                // What saves images can leave out whole platforms.
                let is_part = wanted.bundle.is_none() && lacks.iter().any(|lack| lack.manifest);
                let error = if is_part { error.rather(SAVE_AGAIN) } else { error };
                row.failed(error.subject(&*wanted.image.charge.image))
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
    fn note_lacks(&self, wanted: &Wanted, lacks: &[Lack]) -> bool {
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

    fn finish(&self, order: usize, wanted: &Wanted, row: Outcome) {
        self.reporter.event(&Event::Finished { upstream: UPSTREAM, outcome: &row });
        let mut done = self.done();
        done.written += wanted.image.charge.tally.bytes_written();
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

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the next volumes will need, lets go of what none will, and sums up.
    pub(super) async fn close(&self, wanted: &[Arc<Wanted>], evidence: Option<(&Witness, &Earlier)>) -> Imported {
        let mut done = std::mem::take(&mut *self.done());
        let mut rows = std::mem::take(&mut done.rows);
        for (order, wanted) in wanted.iter().enumerate() {
            rows.entry(order).or_insert_with(|| {
                let row = Outcome { bytes: wanted.image.charge.tally.bytes_read(), ..wanted.row.clone() };
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
        let rows: Vec<Outcome> = rows.into_values().collect();
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
        let waiting = done.waiting.into_iter().map(|(Bringer { what, .. }, images)| Waiting { what, images }).collect();
        Imported { rows, totals, damaged, waiting, evidence }
    }
}
