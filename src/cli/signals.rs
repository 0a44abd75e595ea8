//! Interrupts: the first one drains, the second one stops at once.

use tokio_util::sync::CancellationToken;

use super::printer::Printer;

/// The exit status after a second interrupt.
const STOPPED: i32 = 130;

/// Cancels the token it returns at the first Ctrl-C or SIGTERM, and ends the process at the second.
pub(super) fn listen(printer: &Printer) -> CancellationToken {
    let stop = CancellationToken::new();
    let (cancel, printer) = (stop.clone(), printer.clone());
    tokio::spawn(async move {
        let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(error) => return printer.warn(&format!("SIGTERM cannot be listened for: {error}")),
        };
        let mut interrupt = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()) {
            Ok(interrupt) => interrupt,
            Err(error) => return printer.warn(&format!("SIGINT cannot be listened for: {error}")),
        };
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            printer.below_bars();
            if cancel.is_cancelled() {
                std::process::exit(STOPPED);
            }
            printer.warn("interrupted: what is under way has 10 seconds to end; interrupt again to stop at once");
            cancel.cancel();
        }
    });
    stop
}
