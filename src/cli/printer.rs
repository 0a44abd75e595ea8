//! What is printed where: data on standard output, talk on standard error, bars only on a terminal. One place decides.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::json;

use super::args::{Color, Global, LogFormat};

/// Where and how the program talks.
#[derive(Clone)]
pub(crate) struct Printer(Arc<Inner>);

struct Inner {
    json: bool,
    quiet: bool,
    verbose: u8,
    color: bool,
    bars: Option<MultiProgress>,
}

/// How a word is coloured. Colour never carries a meaning that the words lack.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Paint {
    Good,
    Dim,
    Warn,
    Bad,
}

impl Printer {
    pub(super) fn new(global: &Global) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let json = global.log_format == LogFormat::Json;
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        } && !json;
        // In verbose mode log lines would tear the bars.
        let bars = terminal && !json && !global.quiet && global.verbose == 0 && !global.no_progress;
        let bars = bars.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Printer(Arc::new(Inner { json, quiet: global.quiet, verbose: global.verbose, color, bars }))
    }

    /// Lets the library's log lines through to standard error, as far as the verbosity asks for them.
    pub(super) fn log_requests(&self) {
        let level = match (self.0.quiet, self.0.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "info,larder=debug",
            _ => "debug,larder=trace",
        };
        let filter = tracing_subscriber::EnvFilter::new(level);
        let printer = self.clone();
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(self.0.color).with_writer(move || Lines(printer.clone()));
        // A second initialisation (tests in one process) keeps the first.
        let _ = if self.0.json { builder.json().try_init() } else { builder.with_target(false).try_init() };
    }

    /// The bars, if there are any to draw; for a new beginning after [`Printer::end_bars`].
    pub(super) fn bars(&self) -> Option<&MultiProgress> {
        let bars = self.0.bars.as_ref()?;
        bars.set_draw_target(ProgressDrawTarget::stderr());
        Some(bars)
    }

    /// Lets the bars stand as they are and goes on below them. After Ctrl-C the terminal has written `^C` there, so that
    /// the cursor is not where the bars would be wiped away from.
    pub(super) fn below_bars(&self) {
        if let Some(bars) = &self.0.bars {
            bars.set_draw_target(ProgressDrawTarget::hidden());
            let _ = std::io::stderr().lock().write_all(b"\n");
            bars.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Wipes the bars away for good: transfers that were cut off may still hold them.
    pub(super) fn end_bars(&self) {
        if let Some(bars) = &self.0.bars {
            let _ = bars.clear();
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// Prints data to standard output. A reader that has gone away is no failure.
    pub(crate) fn data(&self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// The same for data that is no text.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// A line of talk.
    pub(crate) fn say(&self, text: &str) {
        if !self.0.quiet {
            self.line("info", text, &json!({}));
        }
    }

    /// A line of talk with its facts, for those who read JSON.
    pub(crate) fn tell(&self, text: &str, facts: &serde_json::Value) {
        if !self.0.quiet {
            self.line("info", text, facts);
        }
    }

    /// A warning.
    pub(crate) fn warn(&self, text: &str) {
        if !self.0.quiet {
            self.line("warn", &format!("{} {text}", self.paint(Paint::Warn, "warning:")), &json!({}));
        }
    }

    /// A failure; also said when quiet.
    pub(crate) fn error(&self, error: &crate::Error) {
        self.fail(&error.to_string(), &json!({"side": error.side(), "operation": error.operation(), "code": error.registry_code()}));
    }

    /// A failure in words; also said when quiet.
    pub(crate) fn fail(&self, text: &str, facts: &serde_json::Value) {
        self.line("error", &format!("{} {text}", self.paint(Paint::Bad, "error:")), facts);
    }

    /// `text`, coloured if colours are on.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.0.color {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => 32,
            Paint::Dim => 2,
            Paint::Warn => 33,
            Paint::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn line(&self, level: &str, text: &str, facts: &serde_json::Value) {
        if self.0.json {
            let text = text.strip_prefix("error: ").or_else(|| text.strip_prefix("warning: ")).unwrap_or(text);
            let mut line =
                json!({"timestamp": jiff::Timestamp::now().to_string(), "level": level.to_uppercase(), "fields": {"message": text}});
            if let (Some(fields), Some(facts)) = (line["fields"].as_object_mut(), facts.as_object()) {
                fields.extend(facts.clone());
            }
            self.raw(&format!("{line}\n"));
        } else {
            self.raw(&format!("{text}\n"));
        }
    }

    fn raw(&self, text: &str) {
        let write = || {
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        };
        match &self.0.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

/// The library's log lines, kept clear of the bars.
struct Lines(Printer);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.raw(&String::from_utf8_lossy(line));
        Ok(line.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
