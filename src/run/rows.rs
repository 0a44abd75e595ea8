//! The rows of a run: what is wanted, what became of it, and what it has cost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::row_table::RowTable;
use crate::content::{RequestContext, TransferStats};
use crate::copy::{BlobCounts, CopyOutcome};
use crate::mutex::{Mutex, MutexGuard};
use crate::report::{Event, ImageOutcome, Reporter, Totals};
use crate::{Error, Kind, Operation, internal};

/// A row's place in the lists, and its source: one line may want several images.
type Key = (usize, String);

/// The rows of a run.
pub(crate) struct Rows {
    reporter: Arc<dyn Reporter>,
    state: Mutex<State>,
    written: AtomicU64,
}

#[derive(Default)]
struct State {
    table: RowTable,
    /// What jobs under way have read and written, and since when: a job that is cut off has cost it too.
    under_way: BTreeMap<Key, (Arc<TransferStats>, Instant)>,
    /// What the first attempt has cost, of jobs that are to be tried again.
    spent: BTreeMap<Key, ImageOutcome>,
}

impl Rows {
    /// No rows yet. `reporter` is told of each that is finished.
    pub(crate) fn new(reporter: Arc<dyn Reporter>) -> Self {
        Rows { reporter, state: Mutex::default(), written: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// `row` is wanted.
    pub(crate) fn expect(&self, order: usize, row: ImageOutcome) {
        self.state().table.expect(order, row);
    }

    /// Other rows take the place of this one, and pay for what it has cost.
    pub(crate) fn replace(&self, order: usize, source: &str) {
        let mut state = self.state();
        state.table.replace(order, source);
        state.under_way.remove(&(order, source.to_owned()));
    }

    /// Work on a row began at `started`; `context` counts what it costs.
    pub(crate) fn begin(&self, order: usize, source: &str, context: &RequestContext, started: Instant) {
        self.state().under_way.insert((order, source.to_owned()), (Arc::clone(&context.tally), started));
    }

    /// The row's job failed and will be tried again. What it has cost so far is added to its next end.
    pub(super) fn set_aside(&self, order: usize, row: &ImageOutcome) {
        let (key, mut row) = ((order, row.source.clone()), row.clone());
        let mut state = self.state();
        self.add_cost(&mut state, &key, &mut row);
        state.spent.insert(key, row);
    }

    /// What became of a row, with what it has cost.
    pub(crate) fn finish(&self, upstream: &str, order: usize, mut row: ImageOutcome) {
        let key = (order, row.source.clone());
        self.add_cost(&mut self.state(), &key, &mut row);
        self.reporter.event(&Event::Finished { upstream, outcome: &row });
        self.state().table.finish(order, row);
    }

    fn add_cost(&self, state: &mut State, key: &Key, row: &mut ImageOutcome) {
        if let Some((stats, started)) = state.under_way.remove(key) {
            row.bytes += stats.bytes_read();
            row.pulls += stats.pulls();
            row.seconds += (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            self.written.fetch_add(stats.bytes_written(), Ordering::Relaxed);
        }
        if let Some(before) = state.spent.remove(key) {
            row.bytes += before.bytes;
            row.pulls += before.pulls;
            row.seconds += before.seconds;
        }
    }

    /// Ends the run: all rows in list order. Rows that are still pending are deferred because of `stopped`, or failed: without an
    /// interrupt, only a fault of the program itself leaves a row.
    pub(super) fn close(&self, stopped: Option<&str>, operation: Operation) -> Vec<ImageOutcome> {
        let mut state = self.state();
        let (mut table, mut failed) = (std::mem::take(&mut state.table), vec![]);
        table.end(|order, row| {
            self.add_cost(&mut state, &(order, row.source.clone()), row);
            let pending = row.clone();
            *row = match stopped {
                Some(reason) => pending.deferred(reason),
                None => pending.failed(internal::unknown(operation)),
            };
            failed.extend(Some(&*row).filter(|row| row.error.is_some()).cloned());
        });
        drop(state);
        for row in &failed {
            self.reporter.event(&Event::Finished { upstream: "", outcome: row });
        }
        table.into_rows()
    }

    /// Bytes written to the target so far, of rows that have ended.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// The row of an image that was not delivered: deferred, if nothing is wrong. `reason` says why the run ended early.
pub(crate) fn unfinished(row: ImageOutcome, error: Error, reason: impl FnOnce() -> String) -> ImageOutcome {
    match error.kind() {
        Kind::Cancelled => row.deferred(reason()),
        Kind::Deferred => {
            let until = error.until().map(|until| until.to_string());
            ImageOutcome { until, ..row.deferred(error.message()) }
        }
        _ => row.failed(error),
    }
}

/// The row of an image that the target holds.
pub(crate) fn copied(mut row: ImageOutcome, outcome: CopyOutcome) -> ImageOutcome {
    row.notes.extend(outcome.notes);
    row.referrers = outcome.referrers.len() as u64;
    if let Some(held) = &mut row.held {
        held.referrers = outcome.referrers;
    }
    ImageOutcome {
        status: outcome.status,
        digest: Some(outcome.digest),
        source_digest: outcome.source_digest,
        platforms: outcome.platforms,
        ..row
    }
}

/// The sums of a run.
pub(crate) fn totals(rows: &[ImageOutcome], bytes_written: u64, blobs: &[&BlobCounts]) -> Totals {
    let sum = |of: fn(&BlobCounts) -> u64| blobs.iter().map(|counts| of(counts)).sum();
    let mut totals = Totals {
        bytes_read: rows.iter().map(|row| row.bytes).sum(),
        bytes_written,
        blobs_copied: sum(BlobCounts::copied),
        blobs_mounted: sum(BlobCounts::mounted),
        blobs_present: sum(BlobCounts::present),
        ..Totals::default()
    };
    rows.iter().for_each(|row| totals.count(row));
    totals
}
