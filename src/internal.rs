//! Failures of the program itself: a panic ends the piece of work that it happened in as a failure with its place, and nothing else.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo};

use futures_util::FutureExt;
use tokio::task::JoinError;

use crate::Error;

const REMEDY: &str = "this is a bug in larder; the log says where";

thread_local! {
    /// Where this thread has panicked last, and with which words.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers the place of each panic, and tells it to `log`, instead of what Rust prints.
pub(crate) fn watch(log: impl Fn(&str) + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let location = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let what = format!("internal error{location}: {}", words(info.payload()));
        log(&crate::error::printable(&what));
        PANICKED.with(|last| *last.borrow_mut() = Some(what));
    }));
}

/// The outcome of `work`, whose panics are failures of `operation`.
///
/// # Errors
/// If it panicked.
pub(crate) async fn caught<T>(operation: &'static str, work: impl Future<Output = T>) -> Result<T, Error> {
    // Shared state is behind `crate::mutex`, which has no poison.
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        // The panic was caught by the thread that it happened on, unless another thread's was passed on here.
        let told = PANICKED.with(|last| last.borrow_mut().take()).filter(|told| told.ends_with(words(&*panic)));
        error(operation, &told.unwrap_or_else(|| format!("internal error: {}", words(&*panic))))
    })
}

/// What a task that never came to its end means: it panicked, or was cut off.
pub(crate) fn lost(operation: &'static str, why: JoinError) -> Error {
    match why.try_into_panic() {
        Ok(panic) => error(operation, &format!("internal error: {}", words(&*panic))),
        Err(_) => Error::cancelled(operation),
    }
}

/// A failure of the program itself, where nothing more is known of it.
pub(crate) fn unknown(operation: &'static str) -> Error {
    error(operation, "internal error: it was begun, and never came to an end")
}

fn error(operation: &'static str, message: &str) -> Error {
    Error::local(operation, message).remedy(REMEDY)
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Side};

    #[tokio::test]
    async fn a_panic_is_a_failure_that_says_what_it_is() {
        let error = caught("copy image", async { panic!("index {} is out of bounds", 7) }).await.map(|(): ()| ()).unwrap_err();
        assert_eq!((error.side(), error.kind(), error.operation()), (Side::Local, Kind::Local, "copy image"));
        assert!(error.message().starts_with("internal error"), "{error}");
        assert!(error.message().contains("index 7 is out of bounds"), "{error}");
        assert_eq!(caught("copy image", async { 5 }).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_lost_task_has_panicked_or_was_cut_off() {
        let panicked = tokio::spawn(async { panic!("no such piece") }).await.map(|(): ()| ()).unwrap_err();
        assert!(lost("verify", panicked).message().contains("internal error: no such piece"));
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        assert_eq!(lost("verify", task.await.unwrap_err()).kind(), Kind::Cancelled);
    }
}
