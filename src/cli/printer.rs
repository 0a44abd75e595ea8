//! All output: data on standard output, messages on standard error, bars only on a terminal.
//!
//! Names from other systems may contain control characters and characters that reorder text. They are escaped here: in messages
//! always, in data only on a terminal, because a file must hold the exact bytes.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::json;

use super::options::{Color, Global, LogFormat};

/// Prints data and messages.
#[derive(Clone)]
pub(crate) struct Printer(Arc<PrinterState>);

struct PrinterState {
    json: bool,
    quiet: bool,
    verbose: u8,
    color: bool,
    /// Starts a colour code in a message. It is random, so that a name cannot contain it.
    mark: String,
    terminal: bool,
    bars: Option<MultiProgress>,
}

/// The colour of a word. The words carry the whole meaning without it.
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
        // With -v the log lines would break up the bars.
        let bars = terminal && !json && !global.quiet && global.verbose == 0 && !global.no_progress;
        let bars = bars.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        // The standard library's hash keys are random.
        let mark = format!("\u{fdd0}{:016x}:", std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0));
        Printer(Arc::new(PrinterState {
            json,
            quiet: global.quiet,
            verbose: global.verbose,
            color,
            mark,
            terminal: terminal && !json,
            bars,
        }))
    }

    /// Prints the library's log lines, at the level that `-q` and `-v` choose.
    pub(super) fn start_logging(&self) {
        let level = match (self.0.quiet, self.0.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "info,larder=debug",
            _ => "debug,larder=trace",
        };
        let filter = tracing_subscriber::EnvFilter::new(level);
        let printer = self.clone();
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(move || LogLines(printer.clone()));
        // A second initialisation (tests in one process) keeps the first.
        let _ = if self.0.json { builder.json().try_init() } else { builder.with_target(false).try_init() };
    }

    /// Whether messages go to a terminal, as text.
    pub(super) fn is_terminal(&self) -> bool {
        self.0.terminal
    }

    /// The bars, if they are shown. Starts them again after [`Printer::end_bars`].
    pub(super) fn bars(&self) -> Option<&MultiProgress> {
        let bars = self.0.bars.as_ref()?;
        bars.set_draw_target(ProgressDrawTarget::stderr());
        Some(bars)
    }

    /// Leaves the bars as they are and continues below them. After Ctrl-C the terminal has printed `^C`, so the cursor is not where
    /// the bars could be cleared from.
    pub(super) fn below_bars(&self) {
        if let Some(bars) = &self.0.bars {
            bars.set_draw_target(ProgressDrawTarget::hidden());
            let _ = std::io::stderr().lock().write_all(b"\n");
            bars.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Clears the bars and hides them. Transfers that were cut off may still hold them.
    pub(super) fn end_bars(&self) {
        if let Some(bars) = &self.0.bars {
            let _ = bars.clear();
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// Prints data to standard output. A closed pipe is no error.
    pub(crate) fn data(&self, text: &str) {
        if std::io::stdout().is_terminal() {
            self.bytes(crate::error::visible(text).as_bytes());
        } else {
            self.bytes(text.as_bytes());
        }
    }

    /// As [`Printer::data`], for bytes that are not text.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// Prints a message.
    pub(crate) fn say(&self, text: &str) {
        if !self.0.quiet {
            self.line("info", text, &json!({}));
        }
    }

    /// Prints a message; with `--log-format json`, `facts` are added as fields.
    pub(crate) fn say_with(&self, text: &str, facts: &serde_json::Value) {
        if !self.0.quiet {
            self.line("info", text, facts);
        }
    }

    /// Prints a warning.
    pub(crate) fn warn(&self, text: &str) {
        if !self.0.quiet {
            self.line("warn", &format!("{} {text}", self.paint(Paint::Warn, "warning:")), &json!({}));
        }
    }

    /// Prints an error, with `-q` too.
    pub(crate) fn error(&self, error: &crate::Error) {
        let facts = json!({"side": error.side(), "operation": error.operation(), "code": error.registry_code()});
        self.failure(error, &error.to_string(), facts);
    }

    /// Prints an error in the words `text`. With `-v`, the errors that led to it follow.
    pub(super) fn failure(&self, error: &crate::Error, text: &str, mut facts: serde_json::Value) {
        let causes = if self.0.verbose > 0 { error.source_chain() } else { vec![] };
        match facts.as_object_mut() {
            Some(facts) if self.0.json && !causes.is_empty() => {
                facts.insert("caused_by".to_owned(), json!(causes));
                self.fail(text, &json!(facts));
            }
            _ => {
                let below: String = causes.iter().map(|cause| format!("\n  caused by: {cause}")).collect();
                self.fail(&format!("{text}{below}"), &facts);
            }
        }
    }

    /// As [`Printer::error`], for an error that is only text.
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
        let mark = &self.0.mark;
        format!("{mark}{code}m{text}{mark}0m")
    }

    fn line(&self, level: &str, text: &str, facts: &serde_json::Value) {
        if self.0.json {
            let text = text.strip_prefix("error: ").or_else(|| text.strip_prefix("warning: ")).unwrap_or(text);
            let mut line =
                json!({"timestamp": jiff::Timestamp::now().to_string(), "level": level.to_uppercase(), "fields": {"message": text}});
            if let (Some(fields), Some(facts)) = (line["fields"].as_object_mut(), facts.as_object()) {
                fields.extend(facts.clone());
            }
            self.raw(&format!("{}\n", crate::error::visible_json(&line.to_string())));
        } else {
            self.raw(&format!("{}\n", self.escaped(text)));
        }
    }

    /// `text` with our colours, and everything else escaped that a terminal would act on.
    fn escaped(&self, text: &str) -> String {
        let mut parts = text.split(self.0.mark.as_str());
        let mut out = parts.next().map(crate::error::visible).unwrap_or_default().into_owned();
        for (code, rest) in parts.filter_map(|part| part.split_once('m')) {
            out.push_str(&format!("\x1b[{code}m{}", crate::error::visible(rest)));
        }
        out
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

/// The levels of log lines, as `tracing_subscriber` writes them.
const LEVELS: [(&str, Paint); 5] =
    [(" ERROR ", Paint::Bad), ("  WARN ", Paint::Warn), ("  INFO ", Paint::Good), (" DEBUG ", Paint::Dim), (" TRACE ", Paint::Dim)];

impl Printer {
    /// A log line with its level, which follows the time, coloured if colours are on.
    fn with_level_painted(&self, line: &str) -> String {
        let end = line.find(' ').unwrap_or(line.len());
        let (time, rest) = line.split_at(end);
        let found = LEVELS.iter().find_map(|(level, paint)| Some((level, *paint, rest.strip_prefix(level)?)));
        match found {
            Some((level, paint, rest)) if self.0.color => format!("{time}{}{rest}", self.escaped(&self.paint(paint, level))),
            _ => line.to_owned(),
        }
    }
}

/// Writes the library's log lines around the bars.
struct LogLines(Printer);

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let shown = if self.0.0.json { crate::error::visible_json(&text) } else { crate::error::visible(&text) };
        self.0.raw(&self.0.with_level_painted(&shown));
        Ok(line.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printer(color: Color) -> Printer {
        let global = Global { config: None, log_format: LogFormat::Text, quiet: false, verbose: 0, color, no_progress: true };
        Printer::new(&global)
    }

    #[test]
    fn only_our_colours_reach_a_terminal() {
        let (coloured, plain) = (printer(Color::Always), printer(Color::Never));
        let hostile = "x\u{202e}\x1b[31m\u{fdd0}31m";
        let line = |printer: &Printer| printer.escaped(&format!("{} {hostile}", printer.paint(Paint::Bad, "failed")));
        assert_eq!(line(&coloured), "\x1b[31mfailed\x1b[0m x\\u{202e}\\u{1b}[31m\u{fdd0}31m");
        assert_eq!(line(&plain), "failed x\\u{202e}\\u{1b}[31m\u{fdd0}31m");
    }

    #[test]
    fn only_the_level_of_a_log_line_is_coloured() {
        let line = "2026-01-01T00:00:00Z  WARN a  WARN b\n";
        assert_eq!(printer(Color::Always).with_level_painted(line), "2026-01-01T00:00:00Z\x1b[33m  WARN \x1b[0ma  WARN b\n");
        assert_eq!(printer(Color::Never).with_level_painted(line), line);
    }
}
