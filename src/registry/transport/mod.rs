//! The only place a request leaves: pull → login → pause, pace and permit → send → observe → classify → retry.
//!
//! [`Transport::send`] is that loop for requests whose body can be sent again. [`Transport::stream`] is one turn of it for the body of an
//! upload, which cannot be sent again: the uploader starts anew by itself with the same [`RetryBudget`]. State of the host (permits, pauses,
//! behaviour) is in [`Host`], state of the account (login, counts) in [`TransportAccount`]. What an answer means for a manifest or a blob
//! does not belong here.

mod account;
mod backoff;
mod bandwidth;
mod behaviour;
mod body;
mod cause;
mod classify;
mod encoding;
mod endpoint;
mod foreign;
mod host;
mod login;
mod min_rate;
mod outcome;
mod permit;
mod pulls;
mod redirect;
mod retry_budget;
mod retry_policy;
mod send;

pub(crate) use self::account::TransportAccount;
pub(crate) use self::body::{BodyError, EMPTY, OpenResponse, UploadBody, UploadProgress, commit_time};
pub(crate) use self::classify::RetryableError;
pub(crate) use self::encoding::coding;
pub(crate) use self::endpoint::Endpoint;
pub(crate) use self::host::{BURST, Host};
pub(crate) use self::outcome::{AttemptOutcome, SendOutcome};
pub(crate) use self::permit::BlobReadSlot;
pub(crate) use self::retry_budget::RetryBudget;
pub(crate) use self::retry_policy::RetryPolicy;
pub(crate) use self::send::Transport;
