//! `larder gc`: removes the content of a layout that no name reaches.

use super::exit::{Exit, UsageError};
use super::inputs::layout_path;
use super::printer::Printer;
use super::text::{count, size};
use crate::Operation;
use crate::internal::blocking;
use crate::layout::{self, GcReport};

pub(super) async fn run(text: &str, dry_run: bool, printer: &Printer) -> Result<Exit, UsageError> {
    let path = layout_path(text, Operation::Gc)?;
    report(move || layout::gc(&path, dry_run), dry_run, printer).await
}

/// Prints what `clean` has removed.
pub(super) async fn report(
    clean: impl FnOnce() -> crate::Result<GcReport> + Send + 'static,
    dry_run: bool,
    printer: &Printer,
) -> Result<Exit, UsageError> {
    let report = blocking(Operation::Gc, clean).await.map_err(UsageError::failed)?;
    printer.data(&report.removed.iter().map(|digest| format!("{digest}\n")).collect::<String>());
    let verb = if dry_run { "would be removed" } else { "removed" };
    let damaged = match report.damaged {
        0 => String::new(),
        n => format!("; {} {verb}", count(n, "damaged file")),
    };
    printer.say(&format!(
        "{} {verb}, {} freed; {} {verb}{damaged}",
        count(report.removed.len(), "blob"),
        size(report.bytes),
        count(report.partials, "unfinished transfer")
    ));
    Ok(Exit::Done)
}
