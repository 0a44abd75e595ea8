//! What happened: outcomes of images, the run's report as JSON and CSV, and the [`Reporter`] that is told on the way.
//! Knows nothing of terminals.

mod csv;
pub(crate) mod file;
mod metrics;
pub(crate) mod openmetrics;
mod outcome;
mod run;

pub(crate) use self::csv::is_empty_failed_list;
pub use self::csv::write_failed_list;
pub use outcome::{ImageOutcome, RepeatEntry, Status, TargetContent};
pub(crate) use run::is_csv;
pub use run::{PullRow, RegistryRow, Requests, RunReport, Totals};

/// Something worth telling while a run goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// So many more images are known to be wanted of this upstream.
    Wanted {
        /// The upstream's host.
        upstream: &'a str,
        /// How many.
        images: usize,
    },
    /// A plan has asked both sides about an image.
    Compared {
        /// The upstream's host.
        upstream: &'a str,
    },
    /// A blob is about to be moved, or the rest of one.
    Expected {
        /// How many bytes of it are to come.
        bytes: u64,
    },
    /// So many bytes of a blob have arrived.
    Moved {
        /// Bytes.
        bytes: u64,
    },
    /// How an account's pulls stand: told every now and then.
    Budget {
        /// The upstream's host.
        upstream: &'a str,
        /// What is known.
        standing: &'a crate::limits::AccountStatus,
    },
    /// A line's terms choose nothing, and its rule allows that.
    Empty {
        /// The upstream's host.
        upstream: &'a str,
        /// The repository.
        source: &'a str,
        /// How many tags each step left.
        explanation: &'a str,
    },
    /// An image is done, one way or another.
    Finished {
        /// The upstream's host.
        upstream: &'a str,
        /// What became of it.
        outcome: &'a ImageOutcome,
    },
}

/// Who is told of a run's [`Event`]s: the terminal's bars, plain lines, or nobody.
pub trait Reporter: Send + Sync {
    /// Takes note of `event`. Must not block.
    fn event(&self, event: &Event<'_>);
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct SilentReporter;

impl Reporter for SilentReporter {
    fn event(&self, _: &Event<'_>) {}
}
