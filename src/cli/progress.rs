//! Progress of a run: bars on a terminal, one plain line for each finished image elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;

use super::causes;
use super::printer::{Paint, Printer};
use super::text::{count, countdown, empty_selection, failure, size};
use crate::limits::AccountStatus;
use crate::mutex::Mutex;
use crate::report::{Event, ImageOutcome, Reporter, SilentReporter, Status};
use crate::sync::Upstreams;

/// Shows a run's progress on standard error.
pub(super) fn reporter(printer: &Printer) -> Arc<dyn Reporter> {
    match printer.bars() {
        Some(bars) => Arc::new(ProgressBars::new(printer.clone(), bars.clone())),
        None => Arc::new(PlainProgress { printer: printer.clone(), last_waiting_line: Mutex::default() }),
    }
}

/// One line for a finished image.
fn line(printer: &Printer, outcome: &ImageOutcome) {
    let facts = serde_json::to_value(outcome).unwrap_or_else(|_| json!({}));
    let arrow = if outcome.target.is_empty() { String::new() } else { format!(" -> {}", outcome.target) };
    match (&outcome.error, outcome.status) {
        (Some(error), _) if causes::is_shared(error) => {}
        (Some(error), _) => printer.failure(error, &failure(outcome, error), facts),
        (None, status) => {
            let (paint, detail) = match status {
                Status::Copied | Status::Warmed => (Paint::Good, format!(" ({})", size(outcome.bytes))),
                Status::Deferred => (Paint::Warn, format!(" ({})", outcome.reason.as_deref().unwrap_or("unfinished"))),
                Status::Current | Status::Failed => (Paint::Dim, String::new()),
            };
            let word = printer.paint(paint, &format!("{:<8}", status.as_str()));
            printer.say_with(&format!("{word} {}{arrow}{detail}", outcome.source), &facts);
        }
    }
    for note in &outcome.notes {
        printer.say(&format!("{:<8} {}: {note}", "note", outcome.source));
    }
}

/// How often the accounts' pull budgets are read for the progress lines: a countdown shows seconds.
const BUDGET_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Reports each account's pull budget to `reporter`, until the task is aborted.
pub(super) fn report_budgets(supply: &Arc<Upstreams>, reporter: &Arc<dyn Reporter>) -> tokio::task::JoinHandle<()> {
    let (supply, reporter) = (Arc::clone(supply), Arc::clone(reporter));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(BUDGET_INTERVAL).await;
            for (account, standing) in supply.standings() {
                reporter.event(&Event::Budget { upstream: &account.host, standing: &standing });
            }
        }
    })
}

/// How often a log repeats that a run waits for a window.
const REMINDER_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5 * 60);

/// A budget for a progress line of 60 columns: what is left, or, while images wait, the time until the next window.
fn short_budget(standing: &AccountStatus, now: jiff::Timestamp) -> Option<String> {
    let (limit, left) = (standing.limit?, standing.remaining?);
    Some(match (standing.waiting_for_window, standing.closes) {
        (0, _) => format!("{left} of {limit} left"),
        (n, Some(closes)) => format!("waiting {}, {}", countdown(closes, now), waiting(n)),
        (n, None) => format!("waiting, {}", waiting(n)),
    })
}

/// A budget for a log, while images wait for it.
fn waiting_line(standing: &AccountStatus, now: jiff::Timestamp) -> Option<String> {
    let (limit, left) = (standing.limit?, standing.remaining?);
    let opens = standing.closes.map(|closes| format!(", the window opens in {} at the latest", countdown(closes, now)));
    Some(format!("{left} of {limit} pulls left{}, {}", opens.unwrap_or_default(), waiting(standing.waiting_for_window)))
}

fn waiting(n: usize) -> String {
    format!("{} {}", count(n, "image"), if n == 1 { "waits" } else { "wait" })
}

/// Shows a plan's progress, on a terminal only.
pub(super) fn planning(printer: &Printer) -> Arc<dyn Reporter> {
    match printer.bars() {
        Some(bars) => {
            let bar =
                bars.add(ProgressBar::new(0).with_style(style("{prefix:<8} [{bar:30}] {pos}/{len}  {elapsed}")).with_prefix("compared"));
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
            Arc::new(Planning(bar))
        }
        None => Arc::new(SilentReporter),
    }
}

struct Planning(ProgressBar);

impl Reporter for Planning {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Wanted { images, .. } => self.0.inc_length(*images as u64),
            Event::Compared { .. } => {
                self.0.inc(1);
                // A list line may select several tags, so there are more images than lines.
                if self.0.length().is_some_and(|length| self.0.position() > length) {
                    self.0.set_length(self.0.position());
                }
            }
            _ => {}
        }
    }
}

/// On a terminal, a bar that counts bytes towards an unknown total.
pub(super) fn byte_counter(printer: &Printer, word: &str) -> Option<ProgressBar> {
    let template = format!("{word} {{decimal_bytes}}  {{decimal_bytes_per_sec}}");
    printer.bars().map(|bars| bars.add(ProgressBar::new_spinner().with_style(style(&template))))
}

struct PlainProgress {
    printer: Printer,
    /// By upstream: when the last line about waiting was printed.
    last_waiting_line: Mutex<HashMap<String, tokio::time::Instant>>,
}

impl Reporter for PlainProgress {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Finished { outcome, .. } => line(&self.printer, outcome),
            Event::Budget { upstream, standing } => self.waits(upstream, standing),
            Event::Empty { source, explanation, .. } => self.printer.say(&empty_selection(source, explanation)),
            _ => {}
        }
    }
}

impl PlainProgress {
    /// Prints a line when waiting begins, and again every [`REMINDER_INTERVAL`].
    fn waits(&self, upstream: &str, standing: &AccountStatus) {
        let mut waiting = self.last_waiting_line.lock();
        if standing.waiting_for_window == 0 {
            waiting.remove(upstream);
        } else if waiting.get(upstream).is_none_or(|said| said.elapsed() >= REMINDER_INTERVAL)
            && let Some(text) = waiting_line(standing, jiff::Timestamp::now())
        {
            waiting.insert(upstream.to_owned(), tokio::time::Instant::now());
            self.printer.say(&format!("{:<8} {upstream}: {text}", "waiting"));
        }
    }
}

/// Bars for images and bytes, and a line for each upstream.
struct ProgressBars {
    printer: Printer,
    bars: MultiProgress,
    images: ProgressBar,
    bytes: ProgressBar,
    /// Whether images wait for the window of an upstream.
    waits: Arc<AtomicBool>,
    unfinished: Mutex<Unfinished>,
    upstreams: Mutex<HashMap<String, UpstreamBar>>,
}

struct UpstreamBar {
    bar: ProgressBar,
    images: u64,
    done: u64,
    unfinished: Unfinished,
    pulls: u64,
    budget: Option<String>,
    waits: bool,
}

impl UpstreamBar {
    fn show(&self) {
        let budget = match &self.budget {
            Some(budget) if self.waits => budget.clone(),
            Some(budget) => format!("{} pulls, {budget}", self.pulls),
            None => format!("{} pulls", self.pulls),
        };
        self.bar.set_message(format!("{}/{}{}, {budget}", self.done, self.images, self.unfinished));
    }
}

/// Numbers of images that ended without being delivered.
#[derive(Debug, Clone, Copy, Default)]
struct Unfinished {
    failed: u64,
    deferred: u64,
}

impl Unfinished {
    fn count(&mut self, status: Status) {
        self.failed += u64::from(status == Status::Failed);
        self.deferred += u64::from(status == Status::Deferred);
    }
}

/// `, 3 failed, 2 deferred`; empty if both are 0.
impl std::fmt::Display for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, word) in [(self.failed, "failed"), (self.deferred, "deferred")].into_iter().filter(|(number, _)| *number > 0) {
            write!(f, ", {number} {word}")?;
        }
        Ok(())
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl ProgressBars {
    fn new(printer: Printer, bars: MultiProgress) -> Self {
        let waits: Arc<AtomicBool> = Arc::default();
        let template = style("{prefix:<8} [{bar:20}] {pos}/{len}{msg}  {elapsed}{left}").with_key("left", {
            let waits = Arc::clone(&waits);
            move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                // The pace so far says nothing about images that wait for a window.
                if !waits.load(Ordering::Relaxed) {
                    let _ = write!(text, ", {:#} left", HumanDuration(state.eta()));
                }
            }
        });
        let images = bars.add(ProgressBar::new(0).with_style(template).with_prefix("images"));
        let bytes = bars.add(
            ProgressBar::new(0)
                .with_style(style("{prefix:<8} [{bar:16}] {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}"))
                .with_prefix("bytes"),
        );
        let redraw = std::time::Duration::from_millis(200);
        images.enable_steady_tick(redraw);
        ProgressBars { printer, bars, images, bytes, waits, unfinished: Mutex::default(), upstreams: Mutex::default() }
    }

    fn upstream(&self, host: &str, change: impl FnOnce(&mut UpstreamBar)) {
        let mut upstreams = self.upstreams.lock();
        let upstream = upstreams.entry(host.to_owned()).or_insert_with(|| UpstreamBar {
            bar: self
                .bars
                .add(ProgressBar::new_spinner().with_style(style("  {prefix}: {msg}")).with_prefix(crate::error::printable(host))),
            images: 0,
            done: 0,
            unfinished: Unfinished::default(),
            pulls: 0,
            budget: None,
            waits: false,
        });
        change(upstream);
        upstream.show();
    }
}

impl Reporter for ProgressBars {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Wanted { upstream, images } => {
                self.images.inc_length(*images as u64);
                self.upstream(upstream, |upstream| upstream.images += *images as u64);
            }
            Event::Budget { upstream, standing } => {
                // Pulls that a cache spends are shown with the upstream that counts them.
                let host = upstream.split_once(" via ").map_or(*upstream, |(host, _)| host);
                if let Some(budget) = short_budget(standing, jiff::Timestamp::now()) {
                    let waits = standing.waiting_for_window > 0;
                    self.upstream(host, |upstream| (upstream.budget, upstream.waits) = (Some(budget), waits));
                    self.waits.store(self.upstreams.lock().values().any(|upstream| upstream.waits), Ordering::Relaxed);
                }
            }
            Event::Empty { upstream, source, explanation } => {
                self.printer.say(&empty_selection(source, explanation));
                self.images.inc(1);
                self.upstream(upstream, |upstream| upstream.done += 1);
            }
            // Only plans compare.
            Event::Compared { .. } => {}
            Event::Expected { bytes } => self.bytes.inc_length(*bytes),
            Event::Moved { bytes } => self.bytes.inc(*bytes),
            Event::Finished { upstream, outcome } => {
                if !upstream.is_empty() {
                    self.images.inc(1);
                    self.upstream(upstream, |upstream| {
                        upstream.done += 1;
                        upstream.unfinished.count(outcome.status);
                        upstream.pulls += outcome.pulls;
                    });
                }
                let mut unfinished = self.unfinished.lock();
                unfinished.count(outcome.status);
                self.images.set_message(unfinished.to_string());
                drop(unfinished);
                // Bars show what goes well; lines stay on the screen for what a person must read.
                if outcome.status == Status::Failed || !outcome.notes.is_empty() {
                    line(&self.printer, outcome);
                }
            }
        }
    }
}
