//! Faults of the program itself. A panic becomes an error of the work in which it happened, with its place in the source.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo};

use futures_util::FutureExt;
use tokio::task::JoinError;

use crate::{Error, Operation};

const REMEDY: &str = "this is a bug in larder; the log says where";

thread_local! {
    /// The place and message of this thread's last panic.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs a panic hook that notes the place of each panic and passes it to `log`, instead of Rust's own output.
pub(crate) fn watch(log: impl Fn(&str) + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let location = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let what = format!("internal error{location}: {}", message_of(info.payload()));
        log(&crate::error::printable(&what));
        PANICKED.with(|last| *last.borrow_mut() = Some(what));
    }));
}

/// Runs `work`. A panic becomes an error of `operation`.
///
/// # Errors
/// If it panicked.
pub(crate) async fn caught<T>(operation: Operation, work: impl Future<Output = T>) -> Result<T, Error> {
    // Shared state is behind `crate::mutex`, which has no poison.
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        // The hook ran on this thread, unless the panic was passed on from another one.
        let noted = PANICKED.with(|last| last.borrow_mut().take()).filter(|noted| noted.ends_with(message_of(&*panic)));
        error(operation, &noted.unwrap_or_else(|| format!("internal error: {}", message_of(&*panic))))
    })
}

/// Runs blocking work (files, hashing) off the runtime's threads. A panic becomes an error of `operation`.
///
/// # Errors
/// As `work`, and if it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: Operation,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(lost(operation, error)))
}

/// The error of a task that did not complete: it panicked, or was aborted.
pub(crate) fn lost(operation: Operation, why: JoinError) -> Error {
    match why.try_into_panic() {
        Ok(panic) => error(operation, &format!("internal error: {}", message_of(&*panic))),
        Err(_) => Error::cancelled(operation),
    }
}

/// The error of work that ended without a result, for a reason that is not known.
pub(crate) fn unknown(operation: Operation) -> Error {
    error(operation, "internal error: it was started and did not complete")
}

fn error(operation: Operation, message: &str) -> Error {
    Error::local(operation, message).remedy(REMEDY)
}

/// The message of a panic.
fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Side};

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_message() {
        let error = caught(Operation::CopyImage, async { panic!("index {} is out of bounds", 7) }).await.map(|(): ()| ()).unwrap_err();
        assert_eq!((error.side(), error.kind(), error.operation()), (Side::Local, Kind::Local, Operation::CopyImage));
        assert!(error.message().starts_with("internal error"), "{error}");
        assert!(error.message().contains("index 7 is out of bounds"), "{error}");
        assert_eq!(caught(Operation::CopyImage, async { 5 }).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_lost_task_has_panicked_or_was_aborted() {
        let panicked = tokio::spawn(async { panic!("no such piece") }).await.map(|(): ()| ()).unwrap_err();
        assert!(lost(Operation::Verify, panicked).message().contains("internal error: no such piece"));
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        assert_eq!(lost(Operation::Verify, task.await.unwrap_err()).kind(), Kind::Cancelled);
    }
}
