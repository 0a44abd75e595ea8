//! Limits: how much may be asked of a registry, when, and by whom.
//!
//! Pure state machines on `tokio::time::Instant`, with thin asynchronous wrappers. Nothing here sends a request or knows
//! HTTP: the transport asks before it sends, and reports each answer.
//!
//! | subject | file | belongs to |
//! |---|---|---|
//! | pulls per window | `account`, `window`, `budget`, `order`, `gate`, `lease` | an account |
//! | the same, beyond this run and across processes | `ledger` | an account |
//! | `Retry-After` | `pause` | a host |
//! | requests per second, as configured | `pace` | a host |
//! | requests per second, found from refusals | `adaptive_pace` | a host |
//! | requests at once | `adaptive`, `climb` | a host |
//! | bytes per second | `bandwidth` | a host, or the program |
//!
//! A task that waits here holds nothing else: no permit, no lock, no leadership of a blob.

mod account;
mod accounts;
mod adaptive;
mod adaptive_pace;
mod bandwidth;
mod budget;
mod climb;
mod clock;
mod gate;
mod headers;
mod lease;
mod ledger;
mod order;
mod pace;
mod pause;
mod window;

#[cfg(test)]
mod model;
#[cfg(test)]
mod simulation;

pub use account::{AccountId, AccountStatus, Deferred, LimitProbe, PullRequest, WaitMode};
pub use accounts::Accounts;
pub use adaptive::{AdaptiveLimit, Permit, RequestClass};
pub use adaptive_pace::AdaptivePace;
pub use bandwidth::{Bandwidth, Rate};
pub use budget::{Budget, BudgetRoom, PullLimit, PullOutcome, ReserveResult, WaitReason};
pub use climb::AnswerGroup;
pub use clock::Clock;
pub use gate::Gate;
pub use headers::{Quota, Throttle, classify, go_duration, retry_after, retry_after_in_message};
pub use lease::{InFlightPull, Lease};
pub use ledger::{Failure, Ledger};
pub use order::{Queue, QueuedPulls};
pub use pace::RequestPacer;
pub use pause::{Pause, PauseVerdict};
