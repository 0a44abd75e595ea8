//! The ledger: what outlives a run, and what several processes share. One small JSON file per state directory.
//!
//! Each account has its window and the leases on it, one for each process: the pulls it was granted that are not over. A process
//! writes down what it is about to send before it sends it. Pulls held by a process that died count as spent until an answer to a later
//! request says how many are left.
//!
//! Requests that come while the file is being written go into the next transaction together. One thread writes at a time. What cannot be
//! written is not granted.
//!
//! Where the data are kept is known to `store` alone; `process` decides from the data, and `data` is their form.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::account::AccountId;
use super::window::Window;

mod data;
mod failure;
mod owner;
mod process;
mod request;
mod store;

pub use failure::Failure;
pub(super) use request::{Answer, Decision, LeaseRequest, LeaseSettlement, Party};

use data::LedgerData;
use owner::Owner;
use process::LedgerProcess;
use store::LedgerStore;

use crate::mutex::Mutex;

/// The ledger, as this process uses it.
pub struct Ledger {
    store: LedgerStore,
    process: LedgerProcess,
    /// The data as they were when this was opened.
    opened: LedgerData,
    queue: Mutex<TransactionQueue>,
    /// The latest failure; `None` after a transaction that went well.
    failure: Mutex<Option<Failure>>,
}

/// The parties of the next transaction.
#[derive(Default)]
struct TransactionQueue {
    parties: Vec<Arc<dyn Party>>,
    /// A thread is writing, and will serve them.
    writing: bool,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Ledger {
    /// The ledger in this state folder. If the folder cannot be used, the first account that needs the ledger finds out.
    pub fn open(state: &Path) -> Self {
        Self::owned_by(state, Owner::this_process())
    }

    /// The ledger in a state folder that is known not to be writable, which was reported already.
    pub fn unwritable(state: &Path) -> Self {
        let ledger = Self::open(state);
        let failure = Failure::new("the state folder cannot be used", "make it writable; or --state none", true);
        *ledger.failure.lock() = Some(failure);
        ledger
    }

    /// As another process that is alive.
    #[cfg(test)]
    pub(super) fn of_process(state: &Path, pid: u32) -> Self {
        Self::owned_by(state, Owner { pid, started: 0, place: "simulated".to_owned() })
    }

    fn owned_by(state: &Path, owner: Owner) -> Self {
        let store = LedgerStore::new(state);
        let opened = store.peek();
        Ledger { store, process: LedgerProcess::new(owner), opened, queue: Mutex::default(), failure: Mutex::default() }
    }

    /// What was known of an account when this was opened: its latest window that is not over.
    pub(super) fn recall(&self, account: &AccountId, now: Timestamp) -> Option<Window<Timestamp>> {
        self.process.recall(&self.opened, account, now)
    }

    /// How often the file was replaced.
    #[cfg(test)]
    pub(super) fn writes(&self) -> u64 {
        self.store.writes()
    }

    /// Why the ledger cannot be used, if the latest transaction failed.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }

    /// Lets `party` take part in the next transaction: at once, or after the one that is being written. Parties that come meanwhile
    /// share it. Does not block the caller, if there is a runtime.
    pub(super) fn exchange(self: &Arc<Self>, party: Arc<dyn Party>) {
        let idle = {
            let mut queue = self.queue.lock();
            if !queue.parties.iter().any(|waiting| Arc::ptr_eq(waiting, &party)) {
                queue.parties.push(party);
            }
            !std::mem::replace(&mut queue.writing, true)
        };
        if idle {
            let ledger = Arc::clone(self);
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || ledger.write_for_all())),
                Err(_) => self.write_for_all(),
            }
        }
    }

    /// Runs transactions until no party waits.
    fn write_for_all(&self) {
        loop {
            let parties = {
                let mut queue = self.queue.lock();
                let parties = std::mem::take(&mut queue.parties);
                queue.writing = !parties.is_empty();
                parties
            };
            if parties.is_empty() {
                return;
            }
            let parties: Vec<_> = parties.into_iter().filter(|party| party.has_request()).collect();
            if !parties.is_empty() {
                self.write_for(&parties);
            }
        }
    }

    /// One transaction for all of these.
    pub(super) fn write_for(&self, parties: &[Arc<dyn Party>]) {
        let mut asked = Vec::with_capacity(parties.len());
        let answers = self.store.transact(|data| {
            if asked.is_empty() {
                asked.extend(parties.iter().map(|party| party.ask()));
            }
            let answers: Vec<_> = asked.iter().map(|ask| ask.as_ref().map(|ask| self.process.decide(data, ask))).collect();
            answers.iter().any(Option::is_some).then_some(answers)
        });
        match answers {
            Ok(answers) => {
                *self.failure.lock() = None;
                let answers = answers.into_iter().flatten();
                for (party, answer) in parties.iter().zip(answers) {
                    answer.into_iter().for_each(|answer| party.answered(Ok(answer)));
                }
            }
            Err(failure) => {
                self.warn(&failure);
                let asked = asked.into_iter().chain(std::iter::repeat_with(|| None));
                parties.iter().zip(asked).for_each(|(party, ask)| party.answered(Err((ask, failure.clone()))));
            }
        }
    }

    /// The last transaction of an account: reports the pulls that ended. It may block.
    pub(super) fn settle(&self, ask: &LeaseRequest) {
        if let Err(failure) = self.store.transact(|data| Some(self.process.decide(data, ask))) {
            self.warn(&failure);
        }
    }

    /// Logs a failure, unless the transaction before failed too.
    fn warn(&self, failure: &Failure) {
        let before = self.failure.lock().replace(failure.clone());
        if before.is_none() {
            tracing::warn!("{}", failure.message);
        }
    }
}

#[cfg(test)]
mod tests;
