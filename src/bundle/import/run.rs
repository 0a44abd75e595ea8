//! An import: every image is compared with the target, what is available is copied, and each image gets a row.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::import_evidence::evidence;
use super::lacks::{self, DamagedFile, Provider, WaitingImages};
use super::need::NeedsQuery;
use super::volume_keeper::{VolumeKeeper, parts};
use super::wanted::{ImportImage, place_at};
use super::witness::{Earlier, Journal, RecordingSink};
use super::work::{ImportJob, ImportWork};
use crate::bundle::evidence::Evidence;
use crate::bundle::format::Bundle;
use crate::bundle::preflight;
use crate::bundle::read::{ArrivedBundle, BundleSource, GatheredContent, StagingArea};
use crate::config::TargetConfig;
use crate::content::{Descriptor, Digest, PlatformFilter, Presence, Repository, RequestContext};
use crate::copy::{self, CopyOptions, Engine};
use crate::internal::blocking;
use crate::mutex::Mutex;
use crate::report::{Event, ImageOutcome, Reporter, Totals};
use crate::run::{Group, Limits, Rows, RunLoop, totals};
use crate::{Error, Operation, Result};

/// Images that have begun, and of which only the name may be missing: a layout gives names in batches. It bounds memory.
const BEGUN: usize = 1024;

/// Under which name an import's images are shown where a sync shows an upstream's.
const UPSTREAM: &str = "import";

/// How an import behaves.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Ask the target for every piece of every image.
    pub recheck: bool,
    /// Images that are worked on at once.
    pub at_once: usize,
    /// Whether what was put where is to be told.
    pub evidence: bool,
    /// The platforms to bring; none: all.
    pub platforms: Vec<PlatformFilter>,
}

/// An import, of what is at hand into one target.
pub struct Import {
    shelf: Arc<BundleSource>,
    bundles: Vec<ArrivedBundle>,
    /// Shared only while the import runs; before that, they are changed.
    wanted: Vec<Arc<ImportImage>>,
    target: TargetConfig,
    stage: Option<StagingArea>,
    options: ImportOptions,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
}

/// What came of an import.
#[derive(Debug)]
pub struct ImportSummary {
    /// A row for each image, in the order of their bundles.
    pub rows: Vec<ImageOutcome>,
    /// Their sums.
    pub totals: Totals,
    /// Files with damaged content.
    pub damaged: Vec<DamagedFile>,
    /// What parked images wait for.
    pub waiting: Vec<WaitingImages>,
    /// What was put where, if that was asked for.
    pub evidence: Option<Evidence>,
}

impl Import {
    /// An import of `gathered` into `target`; what must outlive a volume is kept in `stage`.
    pub fn new(
        gathered: GatheredContent,
        target: TargetConfig,
        stage: Option<StagingArea>,
        options: ImportOptions,
        reporter: Arc<dyn Reporter>,
        stop: CancellationToken,
    ) -> Self {
        let shelf = Arc::new(gathered.source);
        let wanted =
            gathered.images.into_iter().map(|entry| Arc::new(ImportImage::new(entry, &shelf, &target, &options.platforms))).collect();
        Import { shelf, bundles: gathered.bundles, wanted, target, stage, options, reporter, stop }
    }

    /// Looks at the target before the first byte moves: whether it can be reached, what it has, whether it takes what is to be put there, and
    /// whether there is room. Everything that stands in the way, each once; nothing has been written then.
    pub async fn preflight(&mut self, ends: &copy::TargetEnds) -> Vec<Error> {
        let engine = self.engine(ends.clone());
        let mut problems = vec![];
        // One first: a target that does not answer is asked once, not once an image.
        if let Some(first) = self.wanted.first_mut().and_then(Arc::get_mut)
            && let Err(error) = first.survey(&engine).await
        {
            return vec![error];
        }
        let others = self.wanted.iter_mut().skip(1).filter_map(Arc::get_mut);
        let surveys = stream::iter(others).map(|wanted| wanted.survey(&engine)).buffered(self.options.at_once);
        problems.extend(surveys.filter_map(|surveyed| async { surveyed.err() }).collect::<Vec<_>>().await);
        if self.wanted.iter().all(|wanted| wanted.survey.is_none()) {
            return problems;
        }
        problems.extend(self.unwritable(ends).await);
        match self.needs(ends).await.and_then(|needs| preflight::lacking(&needs)) {
            Ok(lacking) => problems.extend(lacking),
            Err(error) => problems.push(error),
        }
        let mut said = BTreeSet::new();
        problems.retain(|problem| said.insert(problem.to_string()));
        problems
    }

    /// Repositories that would refuse what is to be put there.
    async fn unwritable(&self, ends: &copy::TargetEnds) -> Vec<Error> {
        let mut places: BTreeMap<&Repository, &RequestContext> = BTreeMap::new();
        for wanted in self.wanted.iter().filter(|wanted| wanted.survey.is_some()) {
            places.entry(&wanted.image.to).or_insert(&wanted.image.context);
        }
        let asked = stream::iter(places).map(|(repository, context)| ends.sink.admits(repository, context)).buffered(self.options.at_once);
        asked.filter_map(|admitted| async { admitted.err() }).collect().await
    }

    /// What is about to be written to disks of this machine.
    async fn needs(&self, ends: &copy::TargetEnds) -> Result<Vec<preflight::SpaceNeed>> {
        let mut needs = vec![];
        if let TargetConfig::Layout { path } = &self.target {
            let (repository, context) = (Repository::new(""), RequestContext::new(self.target.to_string()));
            let mut bytes: u64 = 0;
            for (digest, size) in self.shelf.content() {
                let blob = Descriptor::new("", digest.clone(), size);
                if ends.sink.holds_blob(&repository, &blob, &context).await? != Presence::Here {
                    bytes = bytes.saturating_add(size);
                }
            }
            needs.push(preflight::SpaceNeed { what: "the target", folder: path.clone(), bytes });
        }
        if let Some(stage) = &self.stage {
            let bytes = parts(&self.shelf, &self.bundles)
                .filter(|part| !part.is_kept(stage))
                .fold(0u64, |all, part| all.saturating_add(part.piece.len));
            needs.push(preflight::SpaceNeed { what: "parts of blobs that are not complete yet", folder: stage.folder().to_owned(), bytes });
        }
        Ok(needs)
    }

    fn engine(&self, ends: copy::TargetEnds) -> Arc<Engine> {
        Engine::new(
            ends,
            Arc::clone(&self.reporter),
            CopyOptions { recheck: self.options.recheck, ..CopyOptions::default() },
            self.stop.clone(),
        )
    }

    /// Imports everything into the target. After an interrupt nothing new starts, and transfers under way have 10 seconds.
    pub async fn run(mut self, ends: copy::TargetEnds, journal: Option<Journal>) -> ImportSummary {
        // Before anything is added to it.
        let earlier = journal.as_ref().filter(|_| self.options.evidence).map(Journal::read).unwrap_or_default();
        let wanted = std::mem::take(&mut self.wanted);
        let bundles = Arc::new(std::mem::take(&mut self.bundles));
        let label = {
            let (shelf, bundles) = (Arc::clone(&self.shelf), Arc::clone(&bundles));
            move |origin| lacks::called(&shelf, &bundles, origin)
        };
        let witness = Arc::new(RecordingSink::new(Arc::clone(&ends.sink), Arc::clone(&self.shelf), label, journal, self.options.evidence));
        let watched = copy::TargetEnds { sink: Arc::clone(&witness) as _, source: Arc::clone(&ends.source) };
        let engine = self.engine(watched.clone());
        let query = Arc::new(NeedsQuery {
            shelf: Arc::clone(&self.shelf),
            target: watched,
            engine,
            held: held(&bundles, &self.target),
            carried: carried(&bundles),
            absent: Mutex::default(),
        });
        let rows = Arc::new(Rows::new(Arc::clone(&self.reporter)));
        let work = Arc::new(ImportWork::new(&query, &bundles, &rows, &self.stop));
        let limits = Limits { running: self.options.at_once, waiting: BEGUN.max(self.options.at_once), reserve_in_order: false };
        let run = RunLoop::new(Arc::clone(&work), Arc::clone(&rows), Arc::clone(&self.reporter), limits, self.stop.clone());
        let outcomes = run.run(vec![self.group(&wanted, &rows)]).await;
        let recorded = self.options.evidence.then_some((&*witness, &earlier));
        self.close((&query, &work, &bundles), (&wanted, outcomes, rows.bytes_written()), recorded).await
    }

    /// The images that must be copied. The rows of the others are finished at once.
    fn group(&self, wanted: &[Arc<ImportImage>], rows: &Rows) -> Group<ImportJob> {
        let jobs = wanted.iter().enumerate().map(|(order, image)| ImportJob { order, image: Arc::clone(image) });
        let (jobs, finished): (Vec<_>, Vec<_>) = jobs.partition(|job| job.image.survey.is_some());
        self.reporter.event(&Event::Wanted { upstream: UPSTREAM, images: finished.len() });
        for job in finished {
            rows.finish(UPSTREAM, job.order, job.image.row.clone());
        }
        Group { upstream: UPSTREAM.to_owned(), jobs, late: None }
    }

    /// Keeps what later volumes will need, removes what none will, and sums up.
    async fn close(
        &self,
        (query, work, bundles): (&NeedsQuery, &ImportWork, &Arc<Vec<ArrivedBundle>>),
        (wanted, rows, written): (&[Arc<ImportImage>], Vec<ImageOutcome>, u64),
        recorded: Option<(&RecordingSink, &Earlier)>,
    ) -> ImportSummary {
        let missing = work.take_missing();
        let keeper = VolumeKeeper {
            engine: Arc::clone(&query.engine),
            sink: Arc::clone(&query.target.sink),
            shelf: Arc::clone(&self.shelf),
            bundles: Arc::clone(bundles),
            target: self.target.clone(),
            stage: self.stage.clone(),
        };
        let loose = keeper.copy_loose(&missing.blind).await;
        let mut damage = self.shelf.damage();
        damage.extend(keeper.keep_parts(&missing.digests, &missing.blind).await);
        keeper.drop_finished(wanted, &rows).await;
        let evidence = match recorded {
            Some(recorded) => Some(evidence(query, &self.target, (wanted, &rows), recorded).await),
            None => None,
        };
        let mut totals = totals(&rows, written + loose.bytes_written(), &[query.engine.counts()]);
        totals.bytes_read += loose.bytes_read();
        let (shelf, bundles, verdicts) = (Arc::clone(&self.shelf), Arc::clone(bundles), Arc::clone(work.verdicts()));
        let affected = missing.affected;
        let damaged = blocking(Operation::CheckVolumes, move || Ok(lacks::files(&verdicts, &shelf, &bundles, &damage, &affected)))
            .await
            .unwrap_or_default();
        let waiting = missing.waiting.into_iter().map(|(Provider { what, .. }, images)| WaitingImages { what, images }).collect();
        ImportSummary { rows, totals, damaged, waiting, evidence }
    }
}

/// Everything that the bundles' volumes carry; none, if that is not known of one of them.
fn carried(bundles: &[ArrivedBundle]) -> Option<HashSet<Digest>> {
    let records: Option<Vec<&Bundle>> = bundles.iter().map(|bundle| bundle.record.as_ref()).collect();
    Some(records?.into_iter().flat_map(Bundle::members).map(|(_, member)| member.digest.clone()).collect())
}

/// Where bundles' bases say that content is, as the target knows its repositories.
fn held(bundles: &[ArrivedBundle], target: &TargetConfig) -> HashMap<Digest, Vec<Repository>> {
    let relied = bundles.iter().filter_map(|bundle| bundle.record.as_ref()).flat_map(|record| &record.base.content);
    let places = |names: &[String]| names.iter().filter_map(|name| place_at(target, name).ok()).collect::<Vec<_>>();
    let mut held: HashMap<Digest, Vec<Repository>> = HashMap::new();
    for content in relied {
        held.entry(content.digest.clone()).or_default().extend(places(&content.held));
    }
    held
}
