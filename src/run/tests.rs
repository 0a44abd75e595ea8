//! The run loop with jobs that only wait: under tokio's paused clock.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Group, Limits, Rank, Rows, RunLoop, Step, Work};
use crate::mutex::Mutex;
use crate::report::{Event, ImageOutcome, Reporter, SilentReporter, Status};
use crate::{Error, Kind, Operation, Result, Side};

/// What a job does once it runs.
#[derive(Clone, Copy)]
enum Does {
    Takes(Duration),
    Panics,
    FillsTheDisk,
    FailsOnce,
    /// Expands into a job that takes no time, after so long.
    Expands(Duration),
    /// The same with a higher priority, and then needs pulls.
    ExpandsFirst(Duration),
    /// Needs a pull, of which there are not enough for everybody.
    NeedsPull,
}

type Job = (usize, Does);

struct Waiting {
    stop: CancellationToken,
    fatal: Mutex<Option<Error>>,
    attempts: Mutex<Vec<usize>>,
}

#[async_trait]
impl Work for Waiting {
    type Job = Job;
    const NAME: &'static str = "run";
    const OPERATION: Operation = Operation::CopyImage;

    fn row(&self, (order, _): &Job) -> (usize, ImageOutcome) {
        (*order, ImageOutcome::new(format!("image-{order}"), "", "list", *order))
    }

    async fn expand(&self, (order, does): &Job) -> Result<Option<Vec<Job>>> {
        match does {
            Does::Expands(time) => {
                tokio::time::sleep(*time).await;
                Ok(Some(vec![(*order, Does::Takes(Duration::ZERO))]))
            }
            Does::ExpandsFirst(time) => {
                tokio::time::sleep(*time).await;
                Ok(Some(vec![(*order, Does::NeedsPull)]))
            }
            _ => Ok(None),
        }
    }

    fn is_scarce(&self, job: &Job, others: u64) -> bool {
        matches!(job.1, Does::NeedsPull) && others > 10
    }

    fn rank(&self, job: &Job) -> Rank {
        (std::cmp::Reverse(i64::from(matches!(job.1, Does::ExpandsFirst(_)))), None, job.0)
    }

    async fn run(&self, job: &mut Job, _slot: OwnedSemaphorePermit) -> Result<Step<Job>> {
        self.attempts.lock().push(job.0);
        match job.1 {
            Does::Takes(time) => tokio::time::sleep(time).await,
            Does::Expands(_) | Does::ExpandsFirst(_) | Does::NeedsPull => {}
            Does::Panics => panic!("a fault"),
            Does::FillsTheDisk => {
                let error = Error::new(Side::Target, Operation::WriteBlob, Kind::DiskFull, "no space left");
                *self.fatal.lock() = Some(error.clone());
                self.stop.cancel();
                return Err(error);
            }
            Does::FailsOnce if self.attempts.lock().iter().filter(|order| **order == job.0).count() == 1 => {
                return Err(Error::new(Side::Upstream, Operation::GetBlob, Kind::Unavailable, "reset"));
            }
            Does::FailsOnce => {}
        }
        Ok(Step::Done(Box::new(ImageOutcome { status: Status::Copied, ..self.row(job).1 })))
    }

    fn again(&self, job: &Job, error: &Error) -> Option<Job> {
        (error.kind() == Kind::Unavailable).then_some(*job)
    }

    fn fatal(&self) -> Option<Error> {
        self.fatal.lock().clone()
    }
}

/// Runs groups of jobs, two at once in each; gives each row's status and reason, and the seconds it took.
async fn run(groups: Vec<Vec<Job>>, stop: &CancellationToken) -> (Vec<ImageOutcome>, u64) {
    let work = Waiting { stop: stop.clone(), fatal: Mutex::default(), attempts: Mutex::default() };
    let limits = Limits { running: 2, waiting: 4, reserve_in_order: false };
    let reporter = Arc::new(SilentReporter);
    let rows = Arc::new(Rows::new(Arc::clone(&reporter) as _));
    let groups = groups.into_iter().enumerate().map(|(n, jobs)| Group { upstream: format!("host-{n}"), jobs, late: None });
    let started = Instant::now();
    let rows = RunLoop::new(Arc::new(work), rows, reporter, limits, stop.clone()).run(groups.collect()).await;
    (rows, started.elapsed().as_secs())
}

fn takes(seconds: u64) -> Does {
    Does::Takes(Duration::from_secs(seconds))
}

fn statuses(rows: &[ImageOutcome]) -> Vec<Status> {
    rows.iter().map(|row| row.status).collect()
}

#[tokio::test(start_paused = true)]
async fn rows_come_in_list_order_whichever_job_ends_first() {
    let (rows, seconds) =
        run(vec![vec![(2, takes(9)), (0, takes(1))], vec![(3, takes(1)), (1, takes(5))]], &CancellationToken::new()).await;
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!((statuses(&rows), seconds), (vec![Status::Copied; 4], 9));
}

#[tokio::test(start_paused = true)]
async fn a_slow_upstream_does_not_hold_back_another() {
    let slow = (0..4).map(|order| (order, takes(60))).collect();
    let fast = (4..8).map(|order| (order, takes(1))).collect();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        stopping.cancel();
    });
    let (rows, _) = run(vec![slow, fast], &stop).await;
    assert_eq!(statuses(&rows), [vec![Status::Deferred; 4], vec![Status::Copied; 4]].concat());
}

#[tokio::test(start_paused = true)]
async fn after_an_interrupt_jobs_under_way_have_ten_seconds() {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stopping.cancel();
    });
    let (rows, seconds) = run(vec![vec![(0, takes(10)), (1, takes(100)), (2, takes(1))]], &stop).await;
    assert_eq!((statuses(&rows), seconds), (vec![Status::Copied, Status::Deferred, Status::Deferred], 11));
    assert!(rows[1..].iter().all(|row| row.reason.as_deref() == Some("interrupted")));
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_row_and_no_other() {
    let (rows, _) = run(vec![vec![(0, Does::Panics), (1, takes(1))]], &CancellationToken::new()).await;
    assert_eq!(statuses(&rows), [Status::Failed, Status::Copied]);
    assert!(rows[0].error.as_ref().is_some_and(|error| error.message().contains("a fault")));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_the_run() {
    let jobs = vec![(0, Does::FillsTheDisk), (1, takes(60)), (2, takes(1)), (3, takes(1))];
    let (rows, _) = run(vec![jobs], &CancellationToken::new()).await;
    assert_eq!(statuses(&rows), [Status::Failed, Status::Deferred, Status::Deferred, Status::Deferred]);
    assert_eq!(rows[2].reason.as_deref(), Some("the run ended early: the disk is full"));
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_at_the_end() {
    let (rows, _) = run(vec![vec![(0, Does::FailsOnce), (1, takes(30))]], &CancellationToken::new()).await;
    assert_eq!(statuses(&rows), [Status::Copied, Status::Copied]);
}

/// The sources in the order in which their jobs end, and the seconds after which each does.
#[derive(Default)]
struct Ends(Mutex<Vec<(String, u64)>>, Mutex<Option<Instant>>);

impl Reporter for Ends {
    fn event(&self, event: &Event<'_>) {
        if let Event::Finished { outcome, .. } = event {
            let started = *self.1.lock().get_or_insert_with(Instant::now);
            self.0.lock().push((outcome.source.clone(), started.elapsed().as_secs()));
        }
    }
}

async fn ends(jobs: Vec<Job>) -> Vec<(String, u64)> {
    let reporter = Arc::new(Ends(Mutex::default(), Mutex::new(Some(Instant::now()))));
    let work = Waiting { stop: CancellationToken::new(), fatal: Mutex::default(), attempts: Mutex::default() };
    let limits = Limits { running: 2, waiting: 4, reserve_in_order: false };
    let rows = Arc::new(Rows::new(Arc::clone(&reporter) as _));
    let group = Group { upstream: "host".to_owned(), jobs, late: None };
    RunLoop::new(Arc::new(work), rows, Arc::clone(&reporter) as _, limits, CancellationToken::new()).run(vec![group]).await;
    reporter.0.lock().clone()
}

fn expands(seconds: u64) -> Does {
    Does::Expands(Duration::from_secs(seconds))
}

#[tokio::test(start_paused = true)]
async fn images_of_other_lines_do_not_wait_for_a_tag_list_that_keeps_failing() {
    // Nine, which is one more than are expanded at once: the last is overtaken three seconds after the others.
    let failing = (0..9).map(|order| (order, expands(15)));
    let mut ended = ends(failing.chain([(9, takes(0)), (10, expands(1))]).collect()).await;
    ended[..2].sort();
    assert_eq!(ended[..2], [("image-10".to_owned(), 6), ("image-9".to_owned(), 6)]);
    assert!(ended.len() == 11 && ended[2..].iter().all(|(_, seconds)| (15..=18).contains(seconds)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tag_list_that_takes_a_second_keeps_its_place() {
    let ended = ends(vec![(0, expands(1)), (1, takes(0))]).await;
    assert_eq!(ended.iter().map(|(image, _)| image.as_str()).collect::<Vec<_>>(), ["image-0", "image-1"]);
}

#[tokio::test(start_paused = true)]
async fn scarce_pulls_wait_for_the_line_of_a_higher_priority() {
    let ended = ends(vec![(0, Does::ExpandsFirst(Duration::from_secs(15))), (1, Does::NeedsPull), (2, takes(0))]).await;
    assert_eq!(ended, [("image-2".to_owned(), 3), ("image-0".to_owned(), 15), ("image-1".to_owned(), 15)]);
}

/// Collects the rows that are reported as finished.
#[derive(Default)]
struct FinishedRows(Mutex<Vec<(String, Status)>>);

impl Reporter for FinishedRows {
    fn event(&self, event: &Event<'_>) {
        if let Event::Finished { outcome, .. } = event {
            self.0.lock().push((outcome.source.clone(), outcome.status));
        }
    }
}

#[test]
fn a_row_that_an_internal_error_left_is_reported_like_any_other_and_interrupted_rows_are_not() {
    for (stopped, reported) in [(None, vec![("a".to_owned(), Status::Failed)]), (Some("interrupted"), vec![])] {
        let reporter = Arc::new(FinishedRows::default());
        let rows = Rows::new(Arc::clone(&reporter) as _);
        rows.expect(0, ImageOutcome::new("a", "", "list", 1));
        let closed = rows.close(stopped, Operation::CopyImage);
        assert_eq!((closed.len(), &*reporter.0.lock()), (1, &reported));
    }
}

#[tokio::test(start_paused = true)]
async fn each_job_that_panics_is_reported_once() {
    let reporter = Arc::new(FinishedRows::default());
    let work = Waiting { stop: CancellationToken::new(), fatal: Mutex::default(), attempts: Mutex::default() };
    let limits = Limits { running: 2, waiting: 4, reserve_in_order: false };
    let rows = Arc::new(Rows::new(Arc::clone(&reporter) as _));
    let jobs = (0..3).map(|order| (order, Does::Panics)).collect();
    let group = Group { upstream: "host".to_owned(), jobs, late: None };
    RunLoop::new(Arc::new(work), rows, Arc::clone(&reporter) as _, limits, CancellationToken::new()).run(vec![group]).await;
    let mut reported = reporter.0.lock().clone();
    reported.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(reported, (0..3).map(|order| (format!("image-{order}"), Status::Failed)).collect::<Vec<_>>());
}
