//! A run: all images of all lists, each upstream streaming on its own, until done, interrupted, or out of disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::choosing::{ExpandedJob, PreparedJob};
use super::claims::{Merged, NameClaims};
use super::expand::KnownDates;
use super::found::MissingImage;
use super::warm::CopyEngines;
use super::{ImageRequest, RuledEntry, SyncPlan, TargetStore, Upstreams};
use crate::content::{PlatformFilter, RequestContext};
use crate::copy::{BlobCounts, CopyOutcome, NextStep, Room};
use crate::limits::WaitMode;
use crate::list::ParsedList;
use crate::mutex::Mutex;
use crate::report::{Event, ImageOutcome, Reporter, SilentReporter, Status, TargetContent, Totals};
use crate::rules::{Delivery, RuleSet, Unmatched};
use crate::{Error, Kind, Result, Side, internal};

/// Images of one upstream that are worked on at once, for each request that may be in flight to it: while one is
/// resolved, another's blobs can move.
const IMAGES_PER_REQUEST: usize = 2;

/// Requests in flight to an upstream, where nothing else is configured (product: 8).
const UPSTREAM_CONCURRENCY: usize = 8;

/// Images of one upstream that are known to be wanted and wait for pulls or for their turn. It bounds memory, and how far
/// the order under scarcity looks ahead.
const WAITING: usize = 4096;

/// How long transfers under way may go on after an interrupt. Kubernetes kills 30 s after SIGTERM, and the report must be
/// written before that.
const DRAIN: Duration = Duration::from_secs(10);

/// How a run behaves.
#[derive(Debug, Clone, Default)]
pub struct SyncOptions {
    /// What becomes of entries that no rule covers.
    pub unmatched: Unmatched,
    /// The platforms to deliver, where the list line does not name its own.
    pub platforms: Vec<PlatformFilter>,
    /// Ask the target for every piece of every image.
    pub recheck: bool,
    /// Rules with `delivery = "warm"` pull through the target; otherwise they copy into it like the others.
    pub warm: bool,
    /// Ask a cache again until it answers by itself.
    pub verify_warm: bool,
    /// Requests in flight per registry, if the user said so.
    pub concurrency: Option<usize>,
    /// How long spent pull windows may be waited for; `None`: not at all.
    pub wait_until: Option<Instant>,
    /// No image starts after this.
    pub start_until: Option<Instant>,
    /// Creation dates that are known beforehand, for selections by date.
    pub dates: KnownDates,
    /// Asked before blobs are read.
    pub room: Option<Arc<dyn Room>>,
}

impl SyncOptions {
    pub(super) fn mode(&self) -> WaitMode {
        self.wait_until.map_or(WaitMode::Defer, WaitMode::WaitUntil)
    }
}

/// A run over lists, to be planned or carried out.
pub struct Sync {
    supply: Arc<Upstreams>,
    target: TargetStore,
    options: SyncOptions,
}

/// What is to be worked on: one wanted image, or an item whose tags must be listed first.
#[derive(Debug, Clone)]
pub(super) enum RunUnit {
    Want(ImageRequest),
    Expand(Arc<RuledEntry>),
}

/// Lists that have met the rules.
pub(super) struct PreparedLists {
    /// Units by upstream host, most wanted first.
    pub(super) groups: BTreeMap<String, Vec<RunUnit>>,
    /// Rows that have failed before anybody was asked, with their place among all lines.
    pub(super) failed: Vec<(usize, ImageOutcome)>,
    /// What waits until an earlier line's tags are known.
    pub(super) waiting: Vec<ImageRequest>,
    pub(super) claims: NameClaims,
}

/// Rows by their place in the lists; images of one line by name.
type Rows = BTreeMap<(usize, String), ImageOutcome>;

impl Sync {
    /// A run that fills `target` from `supply`.
    pub fn new(supply: Arc<Upstreams>, target: TargetStore, options: SyncOptions) -> Self {
        Sync { supply, target, options }
    }

    /// How every image stands, in list order; spends no pull.
    pub async fn plan(&self, lists: Vec<ParsedList>, rules: &RuleSet) -> SyncPlan {
        self.plan_and_tell(lists, rules, Arc::new(SilentReporter)).await
    }

    /// As [`Sync::plan`]; `reporter` is told of each image that was compared.
    pub async fn plan_and_tell(&self, lists: Vec<ParsedList>, rules: &RuleSet, reporter: Arc<dyn Reporter>) -> SyncPlan {
        let prepared = self.prepare(lists, rules);
        for (upstream, units) in &prepared.groups {
            reporter.event(&Event::Wanted { upstream, images: units.len() });
        }
        super::plan::compare(&self.supply, &self.target, prepared, &self.options, self.images(), &reporter).await
    }

    /// Delivers every image. When `stop` is cancelled (or the disk is full) nothing new is begun, and what is under way
    /// has 10 seconds. Rows come back in list order, with what was done for their blobs.
    pub async fn run(
        &self,
        lists: Vec<ParsedList>,
        rules: &RuleSet,
        reporter: Arc<dyn Reporter>,
        stop: CancellationToken,
    ) -> (Vec<ImageOutcome>, Totals) {
        let prepared = self.prepare(lists, rules);
        let (late, mut receivers) = late(&prepared);
        let worker = Arc::new(SyncWorker {
            engines: CopyEngines::new(&self.supply, &self.target, &self.options, &reporter, &stop),
            supply: Arc::clone(&self.supply),
            target: self.target.clone(),
            options: self.options.clone(),
            reporter,
            claims: prepared.claims,
            limit: self.images(),
            done: Mutex::default(),
            pending: Mutex::default(),
            under_way: Mutex::default(),
            late: Mutex::new(late),
            failed_once: Mutex::default(),
            spent: Mutex::default(),
            written: std::sync::atomic::AtomicU64::new(0),
        });
        for (order, row) in prepared.failed {
            worker.finish("", order, row);
        }
        for want in prepared.waiting {
            worker.reporter.event(&Event::Wanted { upstream: &want.item.entry.source.host, images: 1 });
            worker.expect(&RunUnit::Want(want));
        }
        let mut groups = JoinSet::new();
        for (upstream, units) in prepared.groups {
            worker.reporter.event(&Event::Wanted { upstream: &upstream, images: units.len() });
            units.iter().for_each(|unit| worker.expect(unit));
            let late = receivers.remove(&upstream);
            groups.spawn(Arc::clone(&worker).group(upstream, units, late));
        }
        tokio::select! {
            () = async { while groups.join_next().await.is_some() {} } => {}
            () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => groups.shutdown().await,
        }
        if !stop.is_cancelled() {
            self.target.ends.sink.close().await;
        }
        self.supply.accounts.tell().await;
        worker.close()
    }

    /// Whether `item` would be pushed into a target whose profile is that of a pull-through cache.
    fn pushes_into_cache(&self, item: &RuledEntry) -> bool {
        let is_warm = self.options.warm && item.rule.as_ref().is_some_and(|rule| rule.delivery == Delivery::Warm);
        self.target.cache.is_some() && !is_warm
    }

    fn images(&self) -> usize {
        self.options.concurrency.unwrap_or(UPSTREAM_CONCURRENCY) * IMAGES_PER_REQUEST
    }

    fn prepare(&self, lists: Vec<ParsedList>, rules: &RuleSet) -> PreparedLists {
        let mut prepared = PreparedLists { groups: BTreeMap::new(), failed: vec![], waiting: vec![], claims: NameClaims::default() };
        let mut items = vec![];
        let mut order = 0;
        for list in lists {
            for error in list.errors {
                let row = ImageOutcome::new(error.text.clone(), "", error.origin.file.to_string(), error.origin.line);
                prepared.failed.push((order + error.origin.line, row.failed(error.to_error())));
            }
            let mut last = 0;
            for entry in list.entries {
                last = last.max(entry.origin.line);
                let at = order + entry.origin.line;
                match RuledEntry::resolve(entry, at, rules, &self.options, &self.target.target) {
                    Ok(item) if self.pushes_into_cache(&item) => {
                        let row = item.row(&self.target.target).failed(super::warm::into_cache(&self.target));
                        prepared.failed.push((at, row));
                    }
                    Ok(item) => items.push(Arc::new(item)),
                    Err(row) => prepared.failed.push((at, *row)),
                }
            }
            // Lines are counted from 1; the next list's begin after the last one of this list, failed lines included.
            order = prepared.failed.iter().map(|(at, _)| *at).max().unwrap_or(0).max(order + last);
        }
        prepared.claims = NameClaims::new(&items);
        let Merged { kept, refused, waiting } = prepared.claims.merge(items.iter().flat_map(RuledEntry::wants).collect());
        prepared.failed.extend(refused.into_iter().map(|(want, error)| (want.item.order, want.row(&self.target.target).failed(error))));
        for want in kept {
            prepared.groups.entry(want.item.entry.source.host.clone()).or_default().push(RunUnit::Want(want));
        }
        for want in &waiting {
            prepared.groups.entry(want.item.entry.source.host.clone()).or_default();
        }
        prepared.waiting = waiting;
        for item in items.into_iter().filter(|item| item.selector().is_some()) {
            prepared.groups.entry(item.entry.source.host.clone()).or_default().push(RunUnit::Expand(item));
        }
        for units in prepared.groups.values_mut() {
            units.sort_by_key(|unit| std::cmp::Reverse(unit.priority()));
        }
        prepared
    }
}

/// The ways by which images reach the group of their upstream when their names have been decided upon, both ends.
type Senders = BTreeMap<String, mpsc::UnboundedSender<ImageRequest>>;
type Receivers = BTreeMap<String, mpsc::UnboundedReceiver<ImageRequest>>;

fn late(prepared: &PreparedLists) -> (Senders, Receivers) {
    let ways = prepared.claims.open().into_iter().map(|upstream| {
        let (sender, receiver) = mpsc::unbounded_channel();
        ((upstream.clone(), sender), (upstream, receiver))
    });
    ways.unzip()
}

impl RunUnit {
    fn priority(&self) -> i64 {
        match self {
            RunUnit::Want(want) => want.priority,
            RunUnit::Expand(item) => item.entry.priority,
        }
    }
}

/// Who may bring, and who may wait for it, in one upstream's group.
#[derive(Clone)]
pub(super) struct GroupSlots {
    bring: Arc<Semaphore>,
    wait: Arc<Semaphore>,
}

/// What the groups of a run share.
pub(super) struct SyncWorker {
    pub(super) engines: CopyEngines,
    pub(super) supply: Arc<Upstreams>,
    pub(super) target: TargetStore,
    pub(super) options: SyncOptions,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) claims: NameClaims,
    /// Images of one upstream that are worked on at once.
    pub(super) limit: usize,
    done: Mutex<Rows>,
    /// Rows of everything that is known to be wanted and not done: what remains when a run is cut short.
    pub(super) pending: Mutex<Rows>,
    /// What images that are being delivered cost, and since when: an image that is cut off has cost it too.
    pub(super) under_way: Mutex<BTreeMap<(usize, String), (RequestContext, Instant)>>,
    /// By upstream: where images go whose names are decided upon late.
    pub(super) late: Mutex<Senders>,
    /// Images that failed for a reason that may pass, by upstream: each is tried once more when all others are done.
    failed_once: Mutex<BTreeMap<String, Vec<(ImageRequest, Error)>>>,
    /// What such images have cost the first time.
    spent: Mutex<BTreeMap<(usize, String), ImageOutcome>>,
    written: std::sync::atomic::AtomicU64,
}

/// Runs `work` whether or not its result is asked for; aborted when that is dropped. It catches its own panics: nothing, if it was
/// cut off.
pub(super) async fn of_its_own<T: Default + Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    AbortOnDropHandle::new(tokio::spawn(work)).await.unwrap_or_default()
}

impl SyncWorker {
    /// All units of one upstream, and then once more those images that failed for a reason that may have passed.
    async fn group(self: Arc<Self>, upstream: String, units: Vec<RunUnit>, late: Option<mpsc::UnboundedReceiver<ImageRequest>>) {
        Arc::clone(&self).pass(upstream.clone(), units, late).await;
        let failed = self.failed_once.lock().remove(&upstream).unwrap_or_default();
        // While a host is down, its images would fail again.
        let is_down = |error: &Error| error.outage().is_some_and(|outage| !outage.is_over());
        let (down, again): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(_, error)| is_down(error));
        for (want, error) in down {
            let mut row = want.row(&self.target.target);
            self.settle(&(want.item.order, row.source.clone()), &mut row);
            self.finish(&upstream, want.item.order, row.failed(error));
        }
        if !again.is_empty() {
            tracing::info!(upstream, images = again.len(), "trying once more what failed for a reason that may have passed");
            self.pass(upstream, again.into_iter().map(|(want, _)| RunUnit::Want(want)).collect(), None).await;
        }
    }

    /// All units of one upstream: listings and surveys as many at once as keep it busy, and what must be brought as soon as that
    /// is known; unless pulls are scarce: then all is surveyed first, and what is worth most goes first.
    async fn pass(self: Arc<Self>, upstream: String, units: Vec<RunUnit>, late: Option<mpsc::UnboundedReceiver<ImageRequest>>) {
        let mut known = units.len() as u64;
        let late = stream::iter(late).flat_map(|late| stream::unfold(late, async |mut late| late.recv().await.map(|want| (want, late))));
        let host: Arc<str> = upstream.as_str().into();
        // Each in a task of its own: one that is not polled, while what was found is begun, would keep its permit from that.
        let opened = stream::iter(units)
            .map(|unit| of_its_own(Arc::clone(&self).expanded(Arc::clone(&host), unit)))
            .buffered(UPSTREAM_CONCURRENCY)
            .flat_map(stream::iter);
        let mut surveyed = std::pin::pin!(
            stream::select(opened, late.map(ExpandedJob::Want))
                .map(|open| of_its_own(Arc::clone(&self).looked_at(Arc::clone(&host), open)))
                .buffer_unordered(self.limit)
        );
        let slots = GroupSlots { bring: Arc::new(Semaphore::new(self.limit)), wait: Arc::new(Semaphore::new(WAITING)) };
        let (mut tasks, mut parked) = (JoinSet::new(), vec![]);
        while let Some(parcel) = surveyed.next().await {
            known = known.saturating_sub(1);
            let Some(parcel) = parcel else { continue };
            if parked.len() < WAITING && !self.is_awaited(&parcel) && parcel.is_scarce(known + parked.len() as u64) {
                parked.push(parcel);
            } else {
                self.begin(&upstream, parcel, &slots, &mut tasks).await;
            }
        }
        self.bring_parked(&upstream, parked, &slots, &mut tasks).await;
        while tasks.join_next().await.is_some() {}
    }

    /// Under scarcity: priority first, then images that cost fewer pulls.
    async fn bring_parked(self: &Arc<Self>, upstream: &str, mut parked: Vec<PreparedJob>, slots: &GroupSlots, tasks: &mut JoinSet<()>) {
        parked.sort_by_key(|parcel| parcel.rank(|found| found.cost.map(|cost| cost.pulls)));
        for parcel in parked {
            self.begin(upstream, parcel, slots, tasks).await;
        }
    }

    async fn begin(self: &Arc<Self>, upstream: &str, parcel: PreparedJob, slots: &GroupSlots, tasks: &mut JoinSet<()>) {
        match parcel {
            PreparedJob::Image(found) => self.begin_image(upstream, *found, slots, tasks).await,
            PreparedJob::Choice(undecided) => self.begin_choice(upstream, undecided, slots, tasks).await,
        }
    }

    /// Sees to it that `found` is brought. Where nobody may wait for pulls, they are reserved here, in order; where one may,
    /// the gate keeps the order.
    pub(super) async fn begin_image(
        self: &Arc<Self>,
        upstream: &str,
        mut found: MissingImage,
        slots: &GroupSlots,
        tasks: &mut JoinSet<()>,
    ) {
        if self.options.mode() == WaitMode::Defer
            && let Err(error) = found.reserve(self.engines.of(found.through.clone().as_ref()), WaitMode::Defer).await
        {
            return self.close_row(upstream, &found, Err(error));
        }
        // Never closed: an error cannot happen, and would only mean not to wait.
        let waiting = Arc::clone(&slots.wait).acquire_owned().await.ok();
        let (worker, upstream, bring) = (Arc::clone(self), upstream.to_owned(), Arc::clone(&slots.bring));
        tasks.spawn(async move {
            let _waiting = waiting;
            let brought = internal::caught("copy image", worker.bring(&mut found, &bring)).await.and_then(|brought| brought);
            worker.close_row(&upstream, &found, brought);
        });
    }

    async fn bring(&self, found: &mut MissingImage, slots: &Semaphore) -> Result<CopyOutcome> {
        let engine = self.engines.of(found.through.as_ref());
        found.reserve(engine, self.options.mode()).await?;
        let slot = slots.acquire().await;
        if self.engines.stop_requested() {
            return Err(Error::cancelled("copy image"));
        }
        self.in_time()?;
        // What was refused to an image before it, is known now.
        self.engines.prepare(found).await?;
        match found.survey.take() {
            Some(survey) => {
                let delivered = engine.bring_image(&found.image, survey).await?;
                // What comes now may take minutes of waiting.
                drop(slot);
                found.image.context.lease = None;
                self.engines.finish(&found.image, found.through.as_ref(), delivered).await
            }
            None => Err(Error::cancelled("copy image")),
        }
    }

    /// No image starts after the time that was given.
    pub(super) fn in_time(&self) -> Result<()> {
        match self.options.start_until {
            Some(end) if end <= Instant::now() => {
                Err(Error::new(Side::Local, "start image", Kind::Deferred, "the time given by --until is over"))
            }
            _ => Ok(()),
        }
    }

    /// Asks both sides of one image; what needs nothing (or cannot be) is finished here.
    pub(super) async fn survey(self: Arc<Self>, upstream: Arc<str>, want: ImageRequest) -> Option<MissingImage> {
        let surveyed = internal::caught("compare image", self.try_survey(Arc::clone(&upstream), want.clone())).await;
        surveyed.unwrap_or_else(|error| {
            let mut row = want.row(&self.target.target);
            self.settle(&(want.item.order, row.source.clone()), &mut row);
            self.finish(&upstream, want.item.order, row.failed(error));
            None
        })
    }

    async fn try_survey(&self, upstream: Arc<str>, want: ImageRequest) -> Option<MissingImage> {
        if self.engines.stop_requested() {
            return None;
        }
        let started = Instant::now();
        let (image, gate, through) = match self.engines.image(&self.supply, &want).await {
            Ok(image) => image,
            Err(error) => {
                self.finish(&upstream, want.item.order, want.row(&self.target.target).failed(error));
                return None;
            }
        };
        self.under_way.lock().insert((want.item.order, want.source()), (image.context.clone(), started));
        let surveyed = match self.in_time() {
            Ok(()) => self.engines.survey(&image, through.as_ref(), self.options.recheck).await,
            Err(late) => Err(late),
        };
        let mut found = MissingImage { want, image, gate, through, survey: None, cost: None };
        match surveyed {
            Ok(NextStep::Bring(survey)) => {
                found.survey = Some(*survey);
                // An error is met again, and reported, when the image is brought.
                let _ = found.cost(self.engines.of(found.through.clone().as_ref())).await;
                Some(found)
            }
            Ok(NextStep::Nothing(delivered)) => {
                self.close_row(&upstream, &found, Ok(delivered));
                None
            }
            Err(error) => {
                self.close_row(&upstream, &found, Err(error));
                None
            }
        }
    }

    /// Whether an image that failed with `error` is put aside, to be tried once more at the end.
    fn is_put_aside(&self, upstream: &str, found: &MissingImage, error: &Error) -> bool {
        let may_pass = matches!(error.kind(), Kind::Unavailable | Kind::Limited | Kind::UploadLost);
        if !may_pass || self.engines.stop_requested() || self.in_time().is_err() {
            return false;
        }
        let mut row = found.want.row(&self.target.target);
        let key = (found.want.item.order, row.source.clone());
        if self.spent.lock().contains_key(&key) {
            return false;
        }
        tracing::info!(%error, image = row.source, "failed; it is tried once more at the end");
        self.settle(&key, &mut row);
        self.spent.lock().insert(key, row);
        self.failed_once.lock().entry(upstream.to_owned()).or_default().push((found.want.clone(), error.clone()));
        true
    }

    /// Reports what became of an image.
    fn close_row(&self, upstream: &str, found: &MissingImage, delivered: Result<CopyOutcome>) {
        if let Err(error) = &delivered
            && self.is_put_aside(upstream, found, error)
        {
            return;
        }
        let order = found.want.item.order;
        let mut row = found.want.row(&self.target.target);
        self.settle(&(order, row.source.clone()), &mut row);
        let row = match delivered {
            Ok(delivered) => ImageOutcome {
                status: delivered.status,
                digest: Some(delivered.digest),
                source_digest: delivered.source_digest,
                platforms: delivered.platforms,
                referrers: delivered.referrers.len() as u64,
                held: row.held.clone().map(|held| TargetContent { referrers: delivered.referrers, ..held }),
                notes: found.want.note.iter().cloned().chain(delivered.notes).collect(),
                ..row
            },
            Err(error) => self.unfinished(row, error),
        };
        self.finish(upstream, order, row);
    }

    /// The row of what was not delivered: deferred, if nothing is wrong.
    pub(super) fn unfinished(&self, row: ImageOutcome, error: Error) -> ImageOutcome {
        match error.kind() {
            Kind::Cancelled => row.deferred(self.reason()),
            Kind::Deferred => {
                let until = error.until().map(|until| until.to_string());
                ImageOutcome { until, ..row.deferred(error.message()) }
            }
            _ => row.failed(error),
        }
    }

    /// Writes down what the image has cost, if it was begun.
    pub(super) fn settle(&self, key: &(usize, String), row: &mut ImageOutcome) {
        if let Some((RequestContext { tally, .. }, started)) = self.under_way.lock().remove(key) {
            row.bytes = tally.bytes_read();
            row.pulls = tally.pulls();
            row.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            self.written.fetch_add(tally.bytes_written(), std::sync::atomic::Ordering::Relaxed);
        }
        if let Some(before) = self.spent.lock().get(key) {
            row.bytes += before.bytes;
            row.pulls += before.pulls;
            row.seconds += before.seconds;
        }
    }

    /// Notes that `unit` is wanted.
    pub(super) fn expect(&self, unit: &RunUnit) {
        let (order, row) = match unit {
            RunUnit::Want(want) => (want.item.order, want.row(&self.target.target)),
            RunUnit::Expand(item) => (item.order, item.row(&self.target.target)),
        };
        self.pending.lock().insert((order, row.source.clone()), row);
    }

    pub(super) fn finish(&self, upstream: &str, order: usize, row: ImageOutcome) {
        self.reporter.event(&Event::Finished { upstream, outcome: &row });
        let key = (order, row.source.clone());
        self.pending.lock().remove(&key);
        let mut done = self.done.lock();
        // Two lines may fail with the same text at the same place of two lists: each keeps its row.
        let key = (0..).map(|n| if n == 0 { key.clone() } else { (key.0, format!("{}#{n}", key.1)) }).find(|key| !done.contains_key(key));
        if let Some(key) = key {
            done.insert(key, row);
        }
    }

    fn reason(&self) -> String {
        match self.engines.fatal() {
            // Where, and what to do, the image tells that met it.
            Some(error) if error.kind() == Kind::DiskFull => "the run ended early: the disk is full".to_owned(),
            Some(error) => format!("the run ended early: {}", error.message()),
            None => "interrupted".to_owned(),
        }
    }

    /// All rows in list order, and their sums.
    fn close(&self) -> (Vec<ImageOutcome>, Totals) {
        let mut rows = std::mem::take(&mut *self.done.lock());
        let (reason, stopped) = (self.reason(), self.engines.stop_requested());
        for (key, mut row) in std::mem::take(&mut *self.pending.lock()) {
            self.settle(&key, &mut row);
            // Without an interrupt nothing is left over, but for a fault of the program itself.
            let row = if stopped { row.deferred(reason.clone()) } else { row.failed(internal::unknown("copy image")) };
            rows.insert(key, row);
        }
        let rows: Vec<ImageOutcome> = rows.into_values().collect();
        let mut totals = Totals {
            bytes_read: rows.iter().map(|row| row.bytes).sum(),
            bytes_written: self.written.load(std::sync::atomic::Ordering::Relaxed),
            blobs_copied: self.engines.count(BlobCounts::copied),
            blobs_mounted: self.engines.count(BlobCounts::mounted),
            blobs_present: self.engines.count(BlobCounts::present),
            ..Totals::default()
        };
        rows.iter().for_each(|row| totals.count(row));
        debug_assert!(rows.iter().all(|row| row.status != Status::Failed || row.error.is_some()));
        (rows, totals)
    }
}
