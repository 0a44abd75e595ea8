//! A run over lists: planned, or carried out.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::plan::Planner;
use super::prepared_lists::PreparedLists;
use super::work::SyncWork;
use super::{SyncOptions, SyncPlan, TargetStore, Upstreams};
use crate::config::profiles::CONCURRENCY;
use crate::limits::WaitMode;
use crate::list::ParsedList;
use crate::report::{Event, ImageOutcome, Reporter, SilentReporter, Totals};
use crate::rules::RuleSet;
use crate::run::{Limits, Rows, RunLoop, totals};

/// Images of one upstream that are worked on at once, for each request that may be in flight to it: while one is
/// resolved, another's blobs can move.
const IMAGES_PER_REQUEST: usize = 2;

/// Images of one upstream that wait for pulls or for their turn. It bounds memory, and how far the order under scarcity looks ahead.
const WAITING: usize = 4096;

/// A run over lists.
pub struct Sync {
    upstreams: Arc<Upstreams>,
    target: TargetStore,
    options: SyncOptions,
}

impl Sync {
    /// A run that fills `target` from `upstreams`.
    pub fn new(upstreams: Arc<Upstreams>, target: TargetStore, options: SyncOptions) -> Self {
        Sync { upstreams, target, options }
    }

    /// The state of every image, in list order; spends no pull.
    pub async fn plan(&self, lists: Vec<ParsedList>, rules: &RuleSet) -> SyncPlan {
        self.plan_and_tell(lists, rules, Arc::new(SilentReporter)).await
    }

    /// As [`Sync::plan`]; `reporter` is told of each image that was compared.
    pub async fn plan_and_tell(&self, lists: Vec<ParsedList>, rules: &RuleSet, reporter: Arc<dyn Reporter>) -> SyncPlan {
        let prepared = PreparedLists::new(lists, rules, &self.options, &self.target);
        for (upstream, wanted) in &prepared.groups {
            reporter.event(&Event::Wanted { upstream, images: wanted.len() });
        }
        Planner::plan(&self.upstreams, &self.target, prepared, &self.options, self.images_at_once(), &reporter).await
    }

    /// Delivers every image. When `stop` is cancelled (or the disk is full) nothing new starts, and what is under way
    /// has 10 seconds. The rows are in list order; the sums say what was done for their blobs.
    pub async fn run(
        &self,
        lists: Vec<ParsedList>,
        rules: &RuleSet,
        reporter: Arc<dyn Reporter>,
        stop: CancellationToken,
    ) -> (Vec<ImageOutcome>, Totals) {
        let prepared = PreparedLists::new(lists, rules, &self.options, &self.target);
        let limits =
            Limits { running: self.images_at_once(), waiting: WAITING, reserve_in_order: self.options.wait_mode() == WaitMode::Defer };
        let rows = Arc::new(Rows::new(Arc::clone(&reporter)));
        let (work, groups) =
            SyncWork::new(&self.upstreams, &self.target, &self.options, prepared, (limits.running, &rows, &reporter), &stop);
        let work = Arc::new(work);
        let done = RunLoop::new(Arc::clone(&work), Arc::clone(&rows), reporter, limits, stop.clone()).run(groups).await;
        if !stop.is_cancelled() {
            self.target.ends.sink.close().await;
        }
        self.upstreams.finish().await;
        let totals = totals(&done, rows.bytes_written(), &work.counts());
        (done, totals)
    }

    fn images_at_once(&self) -> usize {
        self.options.concurrency.unwrap_or(CONCURRENCY) * IMAGES_PER_REQUEST
    }
}
