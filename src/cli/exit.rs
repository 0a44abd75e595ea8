//! How a command ends: its exit status, and the errors of a command that could not start.

use crate::Error;

/// The exit statuses that the help and `README.md` promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// The target holds everything asked for.
    Done = 0,
    /// Something failed, or a check found something.
    Failed = 1,
    /// Usage or configuration: nothing was attempted.
    Usage = 2,
    /// Nothing failed, but the work is unfinished.
    Unfinished = 3,
}

impl Exit {
    /// The status of a report's exit code.
    pub(super) fn of(code: u8) -> Self {
        match code {
            0 => Exit::Done,
            3 => Exit::Unfinished,
            2 => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

/// Why a command did not get to its work. Each error is printed on a line of its own.
#[derive(Debug)]
pub(super) struct UsageError {
    pub(super) errors: Vec<Error>,
    pub(super) exit: Exit,
}

impl From<Vec<Error>> for UsageError {
    fn from(errors: Vec<Error>) -> Self {
        UsageError { errors, exit: Exit::Usage }
    }
}

impl UsageError {
    /// Exit status 2.
    pub(super) fn usage(error: Error) -> Self {
        vec![error].into()
    }

    /// Exit status 1.
    pub(super) fn failed(error: Error) -> Self {
        UsageError { errors: vec![error], exit: Exit::Failed }
    }
}
