//! What a command says about its jobs.

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::report::ImageOutcome;
use crate::{Error, Operation, Result};

/// What a job has led to.
pub(crate) enum Step<J> {
    /// There is more to do: the job goes on to its next step.
    Continue,
    /// The job is done. The loop adds to the row what the job has cost.
    Done(Box<ImageOutcome>),
    /// Other jobs take its place. The work has told [`super::Rows`] about them.
    Replaced(Vec<J>),
}

/// The order of jobs where pulls are scarce: higher priority, then fewer pulls, then list order.
pub(crate) type Rank = (std::cmp::Reverse<i64>, Option<u64>, usize);

/// The jobs of one upstream. Groups run side by side, so that a slow upstream does not hold back another.
pub(crate) struct Group<J> {
    /// The name that progress is shown under.
    pub upstream: String,
    /// In the order in which they are to start.
    pub jobs: Vec<J>,
    /// Jobs that are found while the run goes on. The group ends when all senders are gone.
    pub late: Option<mpsc::UnboundedReceiver<J>>,
}

/// What is done for a job. The loop decides when: it calls `expand`, `prepare`, `reserve` and `run` in this order.
#[async_trait]
pub(crate) trait Work: Send + Sync + 'static {
    /// An image on its way, or something that leads to images.
    type Job: Send + 'static;

    /// What the whole is called in messages: `run`, `import`.
    const NAME: &'static str;
    /// What an image's failure is reported as, where the program itself is at fault: `copy image`.
    const OPERATION: Operation;

    /// The job's place in the lists, and its row while nothing is known.
    fn row(&self, job: &Self::Job) -> (usize, ImageOutcome);

    /// The jobs that `job` stands for; `None`: it stands for itself.
    ///
    /// # Errors
    /// If that cannot be found out; the job ends.
    async fn expand(&self, _job: &Self::Job) -> Result<Option<Vec<Self::Job>>> {
        Ok(None)
    }

    /// Finds out what is to be done, without spending pulls.
    ///
    /// # Errors
    /// If that cannot be found out; the job ends.
    async fn prepare(&self, _job: &mut Self::Job) -> Result<Step<Self::Job>> {
        Ok(Step::Continue)
    }

    /// Whether the pulls that are left may not suffice for `job` and `others` more. Such jobs start last, by their rank.
    fn is_scarce(&self, _job: &Self::Job, _others: u64) -> bool {
        false
    }

    /// Where a scarce job stands in line.
    fn rank(&self, job: &Self::Job) -> Rank {
        (std::cmp::Reverse(0), None, self.row(job).0)
    }

    /// Reserves what the job needs before it holds a slot. Called again for the same job, it does nothing.
    ///
    /// # Errors
    /// Of kind [`crate::Kind::Deferred`] if that is not available, and the job may not wait for it.
    async fn reserve(&self, _job: &mut Self::Job) -> Result<()> {
        Ok(())
    }

    /// Does the job. `slot` is one of the group's places for running jobs: dropping it lets the next job start.
    ///
    /// # Errors
    /// Why it failed; of kind `Cancelled` or `Deferred` if nothing is wrong.
    async fn run(&self, job: &mut Self::Job, slot: OwnedSemaphorePermit) -> Result<Step<Self::Job>>;

    /// The job to run again once the group's other jobs are done, if `error` may be gone by then.
    fn again(&self, _job: &Self::Job, _error: &Error) -> Option<Self::Job> {
        None
    }

    /// Called for each job that ends with an error, before its row is finished.
    fn ended(&self, _job: &Self::Job, _error: &Error) {}

    /// The failure that ended the whole run, if one did.
    fn fatal(&self) -> Option<Error>;
}
