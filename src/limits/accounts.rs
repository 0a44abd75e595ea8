//! The accounts of a run, each with its gate.

use std::collections::HashMap;
use std::sync::Arc;

use super::account::{AccountId, AccountStatus, LimitProbe};
use super::budget::PullLimit;
use super::clock::Clock;
use super::gate::Gate;
use super::ledger::Ledger;
use crate::mutex::Mutex;

/// All accounts of a run.
pub struct Accounts {
    clock: Clock,
    ledger: Option<Arc<Ledger>>,
    gates: Mutex<HashMap<AccountId, Arc<Gate>>>,
}

impl Accounts {
    /// Without a ledger every run begins by asking, and processes do not know of each other.
    pub fn new(clock: Clock, ledger: Option<Ledger>) -> Self {
        Accounts { clock, ledger: ledger.map(Arc::new), gates: Mutex::default() }
    }

    /// The gate of an account, made on first use with these limits and this way to look at it. Reads the ledger then.
    pub fn gate(&self, account: &AccountId, configured: Option<PullLimit>, probe: Option<Arc<dyn LimitProbe>>) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        let made = || Gate::open(account.clone(), configured, probe, self.clock, self.ledger.clone());
        Arc::clone(gates.entry(account.clone()).or_insert_with(made))
    }

    /// Tells other processes, and later runs, what of the pulls is over. Call it at the end of a run.
    pub async fn tell(&self) {
        let gates: Vec<_> = self.gates.lock().values().cloned().collect();
        // Files are written: not by a thread of the runtime. If it panics, the leases end as those of a dead process do.
        let _ = tokio::task::spawn_blocking(move || gates.iter().for_each(|gate| gate.tell_now())).await;
    }

    /// The ledger cannot be written, waiting does not help, and some account needed it.
    pub fn blocked(&self) -> bool {
        self.gates.lock().values().any(|gate| gate.is_blocked())
    }

    /// What is known of each account used so far, in their order.
    pub fn standings(&self) -> Vec<(AccountId, AccountStatus)> {
        let gates = self.gates.lock();
        let mut all: Vec<_> = gates.iter().map(|(account, gate)| (account.clone(), gate.standing())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}
