//! What a sync does with its jobs: tags are listed, images compared, pulls reserved, and images copied.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::expand_tags::{self, ChosenImages, Expansion};
use super::missing_image::MissingImage;
use super::name_claims::{Merged, NameClaims, Settled};
use super::pending_selection::PendingSelection;
use super::prepared_lists::{PreparedLists, Wanted};
use super::run_target::RunTarget;
use super::tag_context::TagContext;
use super::{ImageRequest, Resolved, RuledEntry, SyncOptions, TargetStore, Upstreams};
use crate::copy::{BlobCounts, NextStep};
use crate::mutex::Mutex;
use crate::report::{Event, ImageOutcome, Reporter};
use crate::run::{Group, Rank, Rows, Step, Work, copied, unfinished};
use crate::{Error, Kind, Operation, Result, Side};

/// An image on its way, or a line that leads to images. Each state has what is known by then.
pub(super) enum Job {
    /// A line whose tags must be listed.
    Tags(Arc<RuledEntry>),
    /// The same line, after its tags could not be listed.
    TagsAgain(Arc<RuledEntry>),
    /// A line whose choice of tags waits for creation dates.
    Selection(Box<PendingSelection>),
    /// An image that is wanted; nobody has been asked about it.
    Image(Box<ImageRequest>),
    /// An image that must be copied; both sides have been asked.
    Missing(Box<MissingImage>),
}

/// Where images are sent that get their names while the run goes on, by upstream.
type Senders = BTreeMap<String, mpsc::UnboundedSender<Job>>;

/// A sync's work, shared by all its groups.
pub(super) struct SyncWork {
    run_target: RunTarget,
    upstreams: Arc<Upstreams>,
    target: TargetStore,
    options: SyncOptions,
    reporter: Arc<dyn Reporter>,
    rows: Arc<Rows>,
    claims: NameClaims,
    /// Tags of one line that are asked about at once.
    limit: usize,
    late: Mutex<Senders>,
}

impl SyncWork {
    /// The work on `prepared` lists, and its jobs. Rows that have failed already are finished here.
    pub(super) fn new(
        upstreams: &Arc<Upstreams>,
        target: &TargetStore,
        options: &SyncOptions,
        prepared: PreparedLists,
        (limit, rows, reporter): (usize, &Arc<Rows>, &Arc<dyn Reporter>),
        stop: &CancellationToken,
    ) -> (Self, Vec<Group<Job>>) {
        let PreparedLists { groups, failed, waiting, claims } = prepared;
        for (order, row) in failed {
            rows.finish("", order, row);
        }
        for request in waiting {
            reporter.event(&Event::Wanted { upstream: &request.line.entry.source.host, images: 1 });
            rows.expect(request.line.order, request.row(&target.target));
        }
        let (mut senders, mut receivers) = (Senders::new(), BTreeMap::new());
        for upstream in claims.open() {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.insert(upstream.clone(), sender);
            receivers.insert(upstream, receiver);
        }
        let job = |wanted| match wanted {
            Wanted::Image(request) => Job::Image(Box::new(request)),
            Wanted::Tags(line) => Job::Tags(line),
        };
        let groups = groups.into_iter().map(|(upstream, wanted)| {
            let late = receivers.remove(&upstream);
            Group { upstream, jobs: wanted.into_iter().map(job).collect(), late }
        });
        let groups = groups.collect();
        let work = SyncWork {
            run_target: RunTarget::new(upstreams, target, options, reporter, stop),
            upstreams: Arc::clone(upstreams),
            target: target.clone(),
            options: options.clone(),
            reporter: Arc::clone(reporter),
            rows: Arc::clone(rows),
            claims,
            limit,
            late: Mutex::new(senders),
        };
        (work, groups)
    }

    /// What was done for blobs, by each engine.
    pub(super) fn counts(&self) -> Vec<&BlobCounts> {
        self.run_target.counts()
    }

    fn tag_context(&self) -> TagContext<'_> {
        TagContext { upstreams: &self.upstreams, target: &self.run_target, dates: &self.options.dates, limit: self.limit }
    }

    /// No image starts after the time that was given.
    fn check_time(&self) -> Result<()> {
        match self.options.start_until {
            Some(end) if end <= Instant::now() => {
                Err(Error::new(Side::Local, Operation::StartImage, Kind::Deferred, "the time given by --until is over"))
            }
            _ => Ok(()),
        }
    }

    /// Asks both sides of an image what is to be done.
    async fn compare(&self, request: &ImageRequest) -> Result<Step<Job>> {
        let started = Instant::now();
        let opened = self.run_target.open(&self.upstreams, request).await?;
        self.rows.begin(request.line.order, &request.source(), &opened.image.context, started);
        self.check_time()?;
        match opened.delivery.next_step(&opened.image).await? {
            NextStep::Nothing(outcome) => Ok(Step::Done(Box::new(copied(self.noted_row(request), outcome)))),
            NextStep::Copy(comparison) => {
                let missing = MissingImage::new(request.clone(), opened, *comparison).await;
                Ok(Step::Replaced(vec![Job::Missing(Box::new(missing))]))
            }
        }
    }

    /// The job that lists a line's tags again at the end. Where other lines fill the same repository, their images may wait for this line:
    /// it is not put off.
    fn again_at_the_end(&self, line: &Arc<RuledEntry>) -> Option<Job> {
        (!self.claims.is_awaited(line)).then(|| Job::TagsAgain(Arc::clone(line)))
    }

    /// An image's row, with the remark on how it was chosen.
    fn noted_row(&self, request: &ImageRequest) -> ImageOutcome {
        ImageOutcome { notes: request.note.iter().cloned().collect(), ..request.row(&self.target.target) }
    }

    /// A line's images take its place. Those that got their names are returned; the others wait for an earlier line, or are refused.
    fn take_in(&self, line: &Arc<RuledEntry>, chosen: ChosenImages) -> Vec<Job> {
        let upstream = &line.entry.source.host;
        self.rows.replace(line.order, &line.row(&self.target.target).source);
        if chosen.requests.is_empty() {
            self.reporter.event(&Event::Empty { upstream, source: &line.entry.source.to_string(), explanation: &chosen.explanation });
        }
        let own = self.settle(line, Ok(chosen.requests));
        let images = (own.kept.len() + own.waiting.len() + own.refused.len()).saturating_sub(1);
        self.reporter.event(&Event::Wanted { upstream, images });
        self.refuse(own.refused);
        own.kept.into_iter().map(|request| Job::Image(Box::new(request))).collect()
    }

    /// Settles the claims of `line`, and sends the images that have waited for it on their way. Returns what became of the line's own.
    ///
    /// Both happen under the lock of `late`. Otherwise another line could settle in between, find that nothing waits any more, and
    /// close the group of an image that was just released.
    fn settle(&self, line: &RuledEntry, chosen: Result<Vec<ImageRequest>, &Error>) -> Merged {
        let mut late = self.late.lock();
        let Settled { own, released, same } = self.claims.settle(line, chosen);
        for request in own.kept.iter().chain(&own.waiting) {
            self.rows.expect(request.line.order, request.row(&self.target.target));
        }
        // Another line asks for the same image in the same way, and has the row.
        for request in same {
            self.rows.replace(request.line.order, &request.source());
        }
        for request in released.kept {
            if let Some(group) = late.get(&request.line.entry.source.host) {
                // A group that has ended was interrupted: the image's row is written at the end.
                let _ = group.send(Job::Image(Box::new(request)));
            }
        }
        let open = self.claims.open();
        late.retain(|upstream, _| open.contains(upstream));
        drop(late);
        self.refuse(released.refused);
        own
    }

    /// Finishes the rows of images whose names other lines have.
    fn refuse(&self, refused: Vec<(ImageRequest, Error)>) {
        for (request, error) in refused {
            let mut row = request.row(&self.target.target);
            // What choosing has cost, if this image's row was to show it.
            if let Some(resolved) = &request.resolved {
                (row.bytes, row.pulls) = (resolved.tally.bytes_read(), resolved.tally.pulls());
            }
            let row = unfinished(row, error, || "interrupted".to_owned());
            self.rows.finish(&request.line.entry.source.host, request.line.order, row);
        }
    }
}

/// Whether a failure may be over when the job is tried again.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Limited | Kind::UploadLost)
}

#[async_trait]
impl Work for SyncWork {
    type Job = Job;
    const NAME: &'static str = "run";
    const OPERATION: Operation = Operation::CopyImage;

    fn row(&self, job: &Job) -> (usize, ImageOutcome) {
        let target = &self.target.target;
        match job {
            Job::Tags(line) | Job::TagsAgain(line) => (line.order, line.row(target)),
            Job::Selection(selection) => (selection.line.order, selection.line.row(target)),
            Job::Image(request) => (request.line.order, request.row(target)),
            Job::Missing(missing) => (missing.request.line.order, missing.request.row(target)),
        }
    }

    async fn expand(&self, job: &Job) -> Result<Option<Vec<Job>>> {
        let (line, again) = match job {
            Job::Tags(line) => (line, false),
            Job::TagsAgain(line) => (line, true),
            Job::Selection(_) | Job::Image(_) | Job::Missing(_) => return Ok(None),
        };
        let context = self.tag_context();
        let expansion = match expand_tags::expand(&context, line, again).await {
            // This line cannot wait until the end of the run.
            Err(error) if may_pass(&error) && !error.in_ongoing_outage() && self.claims.is_awaited(line) && self.check_time().is_ok() => {
                tracing::info!(%error, line = %line.entry.origin, "the tags could not be listed; listing them once more");
                expand_tags::expand(&context, line, true).await
            }
            expansion => expansion,
        };
        Ok(Some(match expansion? {
            Expansion::Chosen(chosen) => self.take_in(line, chosen),
            Expansion::Pending(selection) => vec![Job::Selection(selection)],
        }))
    }

    async fn prepare(&self, job: &mut Job) -> Result<Step<Job>> {
        match job {
            Job::Image(request) => match self.compare(request).await? {
                Step::Replaced(mut missing) => {
                    if let Some(missing) = missing.pop() {
                        *job = missing;
                    }
                    Ok(Step::Continue)
                }
                step => Ok(step),
            },
            Job::Selection(selection) => {
                let row = selection.line.row(&self.target.target);
                self.rows.begin(selection.line.order, &row.source, &selection.context(), Instant::now());
                Ok(Step::Continue)
            }
            Job::Tags(_) | Job::TagsAgain(_) | Job::Missing(_) => Ok(Step::Continue),
        }
    }

    fn is_scarce(&self, job: &Job, others: u64) -> bool {
        match job {
            Job::Missing(missing) => missing.is_scarce(others),
            // Images of other lines may wait for this choice: it is not put off then.
            Job::Selection(selection) => !self.claims.is_awaited(&selection.line) && selection.is_scarce(others),
            Job::Tags(_) | Job::TagsAgain(_) | Job::Image(_) => false,
        }
    }

    fn rank(&self, job: &Job) -> Rank {
        let priority = std::cmp::Reverse;
        match job {
            Job::Missing(missing) => (priority(missing.request.priority), missing.expected_pulls(), missing.request.line.order),
            Job::Selection(selection) => (priority(selection.line.entry.priority), Some(selection.pulls()), selection.line.order),
            Job::Tags(line) | Job::TagsAgain(line) => (priority(line.entry.priority), None, line.order),
            Job::Image(request) => (priority(request.priority), None, request.line.order),
        }
    }

    async fn reserve(&self, job: &mut Job) -> Result<()> {
        match job {
            Job::Missing(missing) => missing.reserve(self.options.wait_mode()).await,
            Job::Selection(selection) => {
                self.check_time()?;
                selection.reserve(self.options.wait_mode()).await
            }
            Job::Tags(_) | Job::TagsAgain(_) | Job::Image(_) => Ok(()),
        }
    }

    async fn run(&self, job: &mut Job, slot: OwnedSemaphorePermit) -> Result<Step<Job>> {
        self.check_time()?;
        match job {
            Job::Missing(missing) => {
                let outcome = missing.bring(slot).await?;
                Ok(Step::Done(Box::new(copied(self.noted_row(&missing.request), outcome))))
            }
            Job::Selection(selection) => {
                let (matched, known) = selection.read(&self.tag_context()).await?;
                let chosen = expand_tags::choose(&selection.line, matched, known)?;
                Ok(Step::Replaced(self.take_in(&selection.line, chosen)))
            }
            Job::Tags(_) | Job::TagsAgain(_) | Job::Image(_) => Ok(Step::Continue),
        }
    }

    fn again(&self, job: &Job, error: &Error) -> Option<Job> {
        if !may_pass(error) || self.check_time().is_err() {
            return None;
        }
        let request = match job {
            Job::Missing(missing) => &missing.request,
            Job::Image(request) => request,
            Job::Tags(line) | Job::TagsAgain(line) => return self.again_at_the_end(line),
            Job::Selection(selection) => return self.again_at_the_end(&selection.line),
        };
        // What choosing has cost is in the first attempt's row.
        let resolved = request.resolved.as_ref().map(|resolved| Box::new(Resolved { tally: Arc::default(), ..Resolved::clone(resolved) }));
        Some(Job::Image(Box::new(ImageRequest { resolved, ..ImageRequest::clone(request) })))
    }

    /// A line that ends without a choice may have kept names from others.
    fn ended(&self, job: &Job, error: &Error) {
        let line = match job {
            Job::Tags(line) | Job::TagsAgain(line) => line,
            Job::Selection(selection) => &selection.line,
            Job::Image(_) | Job::Missing(_) => return,
        };
        self.settle(line, Err(error));
    }

    fn fatal(&self) -> Option<Error> {
        self.run_target.fatal()
    }
}
