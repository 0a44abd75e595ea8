//! When each step of a job happens.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Rows;
use super::expansion::{Unexpanded, in_order_unless_slow};
use super::rows::unfinished;
use super::work::{Group, Step, Work};
use crate::mutex::Mutex;
use crate::report::{Event, ImageOutcome, Reporter};
use crate::{Error, Kind, Operation, Result, internal};

/// How long transfers under way may go on after an interrupt. Kubernetes kills 30 s after SIGTERM, and the report must be
/// written before that.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

/// How many jobs of one group are worked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Jobs that run at once; as many are prepared at once.
    pub running: usize,
    /// Jobs that are prepared and wait for what they reserve, or for a slot. It bounds memory, and how far the order under
    /// scarcity looks ahead.
    pub waiting: usize,
    /// Jobs reserve one after the other, in order, before they start. Otherwise each waits for its reservation by itself.
    pub reserve_in_order: bool,
}

/// A run: groups of jobs side by side, until all are done, or the run is interrupted, or the disk is full.
pub(crate) struct RunLoop<W: Work> {
    work: Arc<W>,
    rows: Arc<Rows>,
    reporter: Arc<dyn Reporter>,
    limits: Limits,
    stop: CancellationToken,
}

/// Jobs to be tried again, with why they failed.
type FailedJobs<W> = Mutex<Vec<(<W as Work>::Job, Error)>>;

/// What the jobs of a group share during one pass.
struct Pass<W: Work> {
    run: Arc<RunLoop<W>>,
    upstream: String,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    unexpanded: Unexpanded,
    /// Jobs to be tried again, with why they failed; `None` during the second attempt.
    failed: Option<FailedJobs<W>>,
}

/// Runs `work` in a task of its own, which is aborted when this is dropped. It catches its own panics, so that the default
/// stands for a task that was cut off.
async fn in_own_task<T: Default + Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    AbortOnDropHandle::new(tokio::spawn(work)).await.unwrap_or_default()
}

impl<W: Work> RunLoop<W> {
    /// A run of `work`. When `stop` is cancelled nothing new starts.
    pub(crate) fn new(work: Arc<W>, rows: Arc<Rows>, reporter: Arc<dyn Reporter>, limits: Limits, stop: CancellationToken) -> Arc<Self> {
        Arc::new(RunLoop { work, rows, reporter, limits, stop })
    }

    /// Runs all jobs. After an interrupt, jobs under way have 10 seconds. Gives all rows in list order.
    pub(crate) async fn run(self: Arc<Self>, groups: Vec<Group<W::Job>>) -> Vec<ImageOutcome> {
        let mut tasks = JoinSet::new();
        for group in groups {
            self.reporter.event(&Event::Wanted { upstream: &group.upstream, images: group.jobs.len() });
            group.jobs.iter().for_each(|job| self.expect(job));
            tasks.spawn(Arc::clone(&self).group(group));
        }
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => {}
            () = async { self.stop.cancelled().await; tokio::time::sleep(DRAIN).await } => tasks.shutdown().await,
        }
        let stopped = self.stop.is_cancelled().then(|| self.why_stopped());
        let rows = self.rows.close(stopped.as_deref(), W::OPERATION);
        debug_assert!(rows.iter().all(|row| row.status != crate::report::Status::Failed || row.error.is_some()));
        rows
    }

    fn expect(&self, job: &W::Job) {
        let (order, row) = self.work.row(job);
        self.rows.expect(order, row);
    }

    fn why_stopped(&self) -> String {
        match self.work.fatal() {
            // The image that met it says where, and what to do.
            Some(error) if error.kind() == Kind::DiskFull => format!("the {} ended early: the disk is full", W::NAME),
            Some(error) => format!("the {} ended early: {}", W::NAME, error.message()),
            None => "interrupted".to_owned(),
        }
    }

    /// All jobs of a group, and then once more those that failed for a reason that may be gone.
    async fn group(self: Arc<Self>, group: Group<W::Job>) {
        let Group { upstream, jobs, late } = group;
        let first = Arc::new(Pass::new(&self, upstream.clone(), Some(Mutex::default())));
        Arc::clone(&first).run(jobs, late).await;
        // While a host is down, its images would fail again.
        let (down, again): (Vec<_>, Vec<_>) = first.take_failed().into_iter().partition(|(_, error)| error.in_ongoing_outage());
        for (job, error) in down {
            first.finish_failed(&job, error);
        }
        if !again.is_empty() {
            tracing::info!(upstream, images = again.len(), "trying again what failed for a reason that may have passed");
            let second = Arc::new(Pass::new(&self, upstream, None));
            second.run(again.into_iter().map(|(job, _)| job).collect(), None).await;
        }
    }
}

impl<W: Work> Pass<W> {
    fn new(run: &Arc<RunLoop<W>>, upstream: String, failed: Option<FailedJobs<W>>) -> Self {
        let slots = |count| Arc::new(Semaphore::new(count));
        Pass {
            upstream,
            running: slots(run.limits.running),
            waiting: slots(run.limits.waiting),
            unexpanded: Unexpanded::default(),
            failed,
            run: Arc::clone(run),
        }
    }

    /// Expands and prepares as many jobs at once as keep the upstream busy. A job starts as soon as it is prepared; where pulls are
    /// scarce, all are prepared first, and start by rank. A job that is slow to expand holds back those that need the same scarce pulls and
    /// have a lower priority, and no others.
    async fn run(self: Arc<Self>, jobs: Vec<W::Job>, late: Option<mpsc::UnboundedReceiver<W::Job>>) {
        let mut unprepared = jobs.len() as u64;
        let late = stream::iter(late).flat_map(|late| stream::unfold(late, async |mut late| late.recv().await.map(|job| (job, late))));
        // Each in a task of its own: the stream is not polled while a job is started, and what is under way would keep its permit.
        jobs.iter().for_each(|job| self.unexpanded.add(self.run.work.rank(job)));
        let expansions = jobs.into_iter().map(|job| in_own_task(Arc::clone(&self).expand(job)).boxed());
        let expanded = in_order_unless_slow(expansions).flat_map(stream::iter);
        let mut prepared = std::pin::pin!(
            stream::select(expanded, late).map(|job| in_own_task(Arc::clone(&self).prepare(job))).buffer_unordered(self.run.limits.running)
        );
        let (mut tasks, mut scarce) = (JoinSet::new(), vec![]);
        while let Some(job) = prepared.next().await {
            unprepared = unprepared.saturating_sub(1);
            let Some(job) = job else { continue };
            // What jobs of a higher priority need goes first, and may be all that is left.
            let more_important = self.unexpanded.has_higher(self.run.work.rank(&job));
            let others = if more_important { u64::MAX } else { unprepared + scarce.len() as u64 };
            if scarce.len() < self.run.limits.waiting && self.run.work.is_scarce(&job, others) {
                scarce.push(job);
            } else {
                Arc::clone(&self).start(job, &mut tasks).await;
            }
        }
        scarce.sort_by_key(|job| self.run.work.rank(job));
        for job in scarce {
            Arc::clone(&self).start(job, &mut tasks).await;
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Whether nothing new is to start. The row of such a job is written at the end of the run.
    fn is_stopped(&self, job: &W::Job, operation: Operation) -> bool {
        let stopped = self.run.stop.is_cancelled();
        if stopped {
            self.run.work.ended(job, &Error::cancelled(operation));
        }
        stopped
    }

    async fn expand(self: Arc<Self>, job: W::Job) -> Vec<W::Job> {
        if self.is_stopped(&job, Operation::SelectTags) {
            self.unexpanded.remove(self.run.work.rank(&job));
            return vec![];
        }
        let expanded = internal::caught(Operation::SelectTags, self.run.work.expand(&job)).await.and_then(|expanded| expanded);
        self.unexpanded.remove(self.run.work.rank(&job));
        match expanded {
            Ok(Some(jobs)) => jobs,
            Ok(None) => vec![job],
            Err(error) => {
                self.fail(&job, error);
                vec![]
            }
        }
    }

    async fn prepare(self: Arc<Self>, mut job: W::Job) -> Option<W::Job> {
        if self.is_stopped(&job, Operation::CompareImage) {
            return None;
        }
        let step = internal::caught(Operation::CompareImage, self.run.work.prepare(&mut job)).await.and_then(|step| step);
        match step {
            Ok(Step::Continue) => return Some(job),
            Ok(Step::Done(row)) => self.finish(&job, *row),
            Ok(Step::Replaced(_)) => self.fail(&job, internal::unknown(Operation::CompareImage)),
            Err(error) => self.fail(&job, error),
        }
        None
    }

    /// Starts a job that is prepared. Waits while too many others wait.
    async fn start(self: Arc<Self>, mut job: W::Job, tasks: &mut JoinSet<()>) {
        if self.run.limits.reserve_in_order
            && let Err(error) = self.run.work.reserve(&mut job).await
        {
            return self.fail(&job, error);
        }
        // Never closed: an error cannot happen, and would only mean not to wait.
        let waiting = Arc::clone(&self.waiting).acquire_owned().await.ok();
        // A task that is done keeps its memory until it is joined.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(self.work(job, waiting));
    }

    async fn work(self: Arc<Self>, mut job: W::Job, waiting: Option<OwnedSemaphorePermit>) {
        let step = internal::caught(W::OPERATION, self.reserve_and_run(&mut job)).await.and_then(|step| step);
        drop(waiting);
        match step {
            Ok(Step::Replaced(jobs)) => self.start_all(jobs).await,
            Ok(Step::Done(row)) => self.finish(&job, *row),
            Ok(Step::Continue) => self.fail(&job, internal::unknown(W::OPERATION)),
            Err(error) => self.fail(&job, error),
        }
    }

    async fn reserve_and_run(&self, job: &mut W::Job) -> Result<Step<W::Job>> {
        tokio::select! {
            biased;
            reserved = self.run.work.reserve(job) => reserved?,
            // A window may open in hours: what has not begun does not wait for it any longer.
            () = self.run.stop.cancelled() => return Err(Error::cancelled(W::OPERATION)),
        }
        let Ok(slot) = Arc::clone(&self.running).acquire_owned().await else { return Err(Error::cancelled(W::OPERATION)) };
        if self.run.stop.is_cancelled() {
            return Err(Error::cancelled(W::OPERATION));
        }
        self.run.work.run(job, slot).await
    }

    /// Prepares and runs the jobs that another job has led to.
    fn start_all(self: Arc<Self>, jobs: Vec<W::Job>) -> BoxFuture<'static, ()> {
        async move {
            let mut tasks = JoinSet::new();
            let prepare = |job| in_own_task(Arc::clone(&self).prepare(job));
            let mut prepared = stream::iter(jobs).map(prepare).buffer_unordered(self.run.limits.running);
            while let Some(job) = prepared.next().await {
                if let Some(job) = job {
                    Arc::clone(&self).start(job, &mut tasks).await;
                }
            }
            while tasks.join_next().await.is_some() {}
        }
        .boxed()
    }

    fn finish(&self, job: &W::Job, row: ImageOutcome) {
        let (order, _) = self.run.work.row(job);
        self.run.rows.finish(&self.upstream, order, row);
    }

    /// Puts a job aside that may succeed later in the run, else finishes its row.
    fn fail(&self, job: &W::Job, error: Error) {
        if let Some(failed) = self.failed.as_ref().filter(|_| !self.run.stop.is_cancelled())
            && let Some(again) = self.run.work.again(job, &error)
        {
            let (order, row) = self.run.work.row(job);
            tracing::info!(%error, image = row.source, "failed; it is tried again at the end");
            self.run.rows.set_aside(order, &row);
            failed.lock().push((again, error));
            return;
        }
        self.finish_failed(job, error);
    }

    fn finish_failed(&self, job: &W::Job, error: Error) {
        self.run.work.ended(job, &error);
        let (order, row) = self.run.work.row(job);
        self.run.rows.finish(&self.upstream, order, unfinished(row, error, || self.run.why_stopped()));
    }

    fn take_failed(&self) -> Vec<(W::Job, Error)> {
        let Some(failed) = &self.failed else { return vec![] };
        std::mem::take(&mut *failed.lock())
    }
}
