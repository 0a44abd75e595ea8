//! What a process tells the ledger and asks of it, and the answer.

use jiff::Timestamp;

use super::failure::Failure;
use crate::limits::account::AccountId;
use crate::limits::window::Window;

/// What a process reports and asks about one account.
#[derive(Debug)]
pub(in crate::limits) struct LeaseRequest {
    pub account: AccountId,
    /// What the process knows of the window; `None`: nothing yet.
    pub window: Option<Window<Timestamp>>,
    /// Pulls that it was granted before and that are not over.
    pub held: u64,
    /// Pulls that ended since its last report.
    pub settled: LeaseSettlement,
    /// Pulls it wants to send, one number for each image, in the order in which they are granted.
    pub wants: Vec<u64>,
    /// Pulls that it would like to reserve beyond these, for images to come.
    pub ahead: u64,
    /// The configured limit.
    pub limit: Option<u64>,
    /// Pulls left to others.
    pub reserve: u64,
    /// The time.
    pub now: Timestamp,
}

/// The answer to it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::limits) struct Answer {
    /// The window, as all processes together know it.
    pub window: Window<Timestamp>,
    /// One for each of [`LeaseRequest::wants`].
    pub decisions: Vec<Decision>,
    /// Of [`LeaseRequest::ahead`], as many as may be reserved.
    pub ahead: u64,
}

/// Whether pulls may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::limits) enum Decision {
    Granted,
    /// Enough is left, but some of it is reserved, by other processes or by this one, and may come back.
    InUse,
    /// Fewer are left.
    Spent,
}

/// How pulls ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::limits) struct LeaseSettlement {
    /// Answered, and counted in the window that is reported with them.
    pub heard: u64,
    /// Sent, and not known to be counted.
    pub unconfirmed: u64,
}

/// An account of this process, which takes part in transactions.
pub(in crate::limits) trait Party: Send + Sync {
    /// Whether it has something to report or ask.
    fn has_request(&self) -> bool;
    /// What it reports and asks, taken when the file is locked. `None`: nothing.
    fn ask(&self) -> Option<LeaseRequest>;
    /// The answer. If the ledger cannot be used, the [`LeaseRequest`] comes back unanswered.
    fn answered(&self, answer: Result<Answer, (Option<LeaseRequest>, Failure)>);
}
