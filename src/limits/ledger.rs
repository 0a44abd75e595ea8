//! The ledger: what outlives a run, and what several processes share. One small JSON file per state directory.
//!
//! Each account has its window and the leases on it, one for each process: the pulls it was granted that are not over. A process
//! writes down what it is about to send before it sends it. Pulls held by a process that died count as spent until an answer to a later
//! request says how many are left.
//!
//! Requests that come while the file is being written go into the next transaction together. One thread writes at a time. What cannot be
//! written is not granted.
//!
//! Where the data are kept is known to `store` (a file, or an object) alone; `process` decides from the data, and `data` is their form.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::account::AccountId;
use super::window::Window;

mod data;
mod failure;
mod file;
mod owner;
mod process;
mod request;
mod store;

pub use failure::Failure;
pub(super) use request::{Answer, Decision, LeaseRequest, LeaseSettlement, Party};

use data::LedgerData;
use file::LedgerFile;
use owner::Owner;
use process::LedgerProcess;
use store::{LedgerObject, LedgerStore};

use crate::mutex::Mutex;
use crate::store::Store;

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
        let file = LedgerFile::new(state);
        let opened = file.peek();
        Self::kept_in(LedgerStore::File(file), opened, owner)
    }

    /// The ledger that machines share in `store`.
    pub async fn shared(store: Arc<dyn Store>) -> Self {
        let object = LedgerObject::new(store);
        let (opened, failure) = match object.peek().await {
            Ok(opened) => (opened, None),
            Err(failure) => (LedgerData::empty(), Some(failure)),
        };
        let ledger = Self::kept_in(LedgerStore::Object(object), opened, Owner::this_process());
        failure.iter().for_each(|failure| ledger.warn(failure));
        ledger
    }

    fn kept_in(store: LedgerStore, opened: LedgerData, owner: Owner) -> Self {
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
        if !idle {
            return;
        }
        let ledger = Arc::clone(self);
        match (&self.store, tokio::runtime::Handle::try_current()) {
            (LedgerStore::Object(object), Ok(runtime)) => {
                let object = object.clone();
                drop(runtime.spawn(async move { ledger.write_objects_for_all(&object).await }));
            }
            (_, Ok(runtime)) => drop(runtime.spawn_blocking(move || ledger.write_for_all())),
            (_, Err(_)) => self.write_for_all(),
        }
    }

    /// Runs transactions until no party waits.
    fn write_for_all(&self) {
        while let Some(parties) = self.next_parties() {
            self.write_for(&parties);
        }
    }

    /// As [`Ledger::write_for_all`], without a thread that waits for the store.
    async fn write_objects_for_all(&self, object: &LedgerObject) {
        while let Some(parties) = self.next_parties() {
            let mut asked = vec![];
            let answers = object.transact(|data| self.decide_for(&parties, &mut asked, data)).await;
            self.answer(&parties, asked, answers);
        }
    }

    /// The parties of the next transaction; `None` if no party waits.
    fn next_parties(&self) -> Option<Vec<Arc<dyn Party>>> {
        loop {
            let parties = {
                let mut queue = self.queue.lock();
                let parties = std::mem::take(&mut queue.parties);
                queue.writing = !parties.is_empty();
                parties
            };
            if parties.is_empty() {
                return None;
            }
            let parties: Vec<_> = parties.into_iter().filter(|party| party.has_request()).collect();
            if !parties.is_empty() {
                return Some(parties);
            }
        }
    }

    /// One transaction for all of these.
    pub(super) fn write_for(&self, parties: &[Arc<dyn Party>]) {
        let mut asked = vec![];
        let answers = self.store.transact(|data| self.decide_for(parties, &mut asked, data));
        self.answer(parties, asked, answers);
    }

    /// Decides about all parties from the same data; `None` if none of them asks. They are asked once, into `asked`.
    fn decide_for(
        &self,
        parties: &[Arc<dyn Party>],
        asked: &mut Vec<Option<LeaseRequest>>,
        data: &mut LedgerData,
    ) -> Option<Vec<Option<Answer>>> {
        if asked.is_empty() {
            asked.extend(parties.iter().map(|party| party.ask()));
        }
        let answers: Vec<_> = asked.iter().map(|ask| ask.as_ref().map(|ask| self.process.decide(data, ask))).collect();
        answers.iter().any(Option::is_some).then_some(answers)
    }

    fn answer(&self, parties: &[Arc<dyn Party>], asked: Vec<Option<LeaseRequest>>, answers: Result<Option<Vec<Option<Answer>>>, Failure>) {
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
