//! Signals. The first interrupt lets running transfers end, the second stops at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::printer::Printer;

/// The exit status after a second interrupt.
const STOPPED: i32 = 130;

/// The number of SIGXFSZ, the signal of a write beyond `ulimit -f`, on Linux and macOS.
const FILE_TOO_LARGE: i32 = 25;

/// Makes a write beyond `ulimit -f` fail like a write to a full disk, instead of ending the process.
pub(super) fn catch_file_size_signal() {
    // With any handler installed the write returns an error. If it cannot be installed, the signal ends the process as before.
    let _ = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(FILE_TOO_LARGE));
}

/// The number of SIGHUP (POSIX).
const SIGHUP: u32 = 1;

/// Cancels the token it returns at the first Ctrl-C, SIGTERM or SIGHUP (the terminal was closed), and ends the process at the second.
/// Under `nohup` SIGHUP stays ignored.
pub(super) fn listen(printer: &Printer) -> CancellationToken {
    let stop = CancellationToken::new();
    let (cancel, printer) = (stop.clone(), printer.clone());
    let listen = |name: &str, kind: SignalKind| {
        signal(kind).map_err(|error| printer.warn(&format!("larder cannot react to {name}: {error}; it would end larder at once"))).ok()
    };
    let mut interrupt = listen("SIGINT", SignalKind::interrupt());
    let mut terminate = listen("SIGTERM", SignalKind::terminate());
    let mut hangup = if is_ignored(SIGHUP) { None } else { listen("SIGHUP", SignalKind::hangup()) };
    let printer = printer.clone();
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                () = received(&mut interrupt) => {}
                () = received(&mut terminate) => {}
                () = received(&mut hangup) => {}
            }
            printer.below_bars();
            if cancel.is_cancelled() {
                std::process::exit(STOPPED);
            }
            printer.warn("interrupted: running transfers have 10 seconds to end; interrupt again to stop at once");
            cancel.cancel();
        }
    });
    stop
}

/// Waits for a signal, forever if there is no listener.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the process was started with this signal ignored. Known on Linux only; elsewhere `false`.
fn is_ignored(signal: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}
