//! This process in the ledger: what it may reserve beside the leases of others, and which of them are dead.

use std::collections::HashMap;

use jiff::Timestamp;

use super::data::{AccountRow, LAST_REQUESTS_ARRIVE, LEASE_TERM, LeaseRow, LedgerData, key};
use super::owner::Owner;
use super::request::{Answer, Decision, LeaseRequest};
use crate::limits::account::AccountId;
use crate::limits::clock::Moment;
use crate::limits::window::Window;
use crate::mutex::Mutex;
use crate::store::unique_name;

/// A process reserves ahead at most this part of the pulls that no process holds. That much of a window is lost to others while it holds them
/// unused, and until the next HEAD if it is killed. An eighth keeps that small, and makes about ten reservations of a whole window.
const AHEAD_PART: u64 = 8;

/// Decides about the pulls of this process, from the data alone.
#[derive(Debug)]
pub(super) struct LedgerProcess {
    owner: Owner,
    /// The name of this process's leases.
    id: String,
    /// When dead processes were first seen to be dead, by the names of their leases.
    dead: Mutex<HashMap<String, Timestamp>>,
}

impl LedgerProcess {
    pub(super) fn new(owner: Owner) -> Self {
        // A name that no other process has: not one with the same number in another container, and no earlier run.
        let id = format!("{}-{}", owner.pid, unique_name());
        LedgerProcess { owner, id, dead: Mutex::default() }
    }

    /// The latest window of an account that is not over.
    pub(super) fn recall(&self, data: &LedgerData, account: &AccountId, now: Timestamp) -> Option<Window<Timestamp>> {
        let prefix = key(account, "");
        let rows = data.accounts.iter().filter(|(name, _)| name.starts_with(&prefix));
        rows.filter_map(|(_, row)| {
            let mut row = row.clone();
            self.refresh(&mut row, now);
            row.window.closes.map(|closes| (closes, row.window))
        })
        .max_by_key(|(closes, _)| *closes)
        .map(|(_, window)| window)
    }

    /// Writes down what the process reports, and decides about what it asks.
    pub(super) fn decide(&self, data: &mut LedgerData, ask: &LeaseRequest) -> Answer {
        let now = ask.now;
        data.forget(now);
        let row = data.row(&ask.account, ask.window.as_ref(), now);
        self.refresh(row, now);
        let same = ask.window.as_ref().is_none_or(|window| row.window.merge(window, now));
        if !row.is_unknown() {
            row.spent += ask.settled.heard + ask.settled.unconfirmed;
            row.window.unconfirmed(ask.settled.unconfirmed + if same { 0 } else { ask.settled.heard }, now);
            if ask.settled.heard > 0 {
                row.window.counted(now);
            }
        }
        let others: u64 = row.leases.iter().filter(|lease| lease.id != self.id).map(|lease| lease.pulls).sum();
        let mut held = ask.held;
        let decisions: Vec<_> = ask
            .wants
            .iter()
            .map(|pulls| {
                let decision = row.decide(ask, *pulls, others.saturating_add(held));
                held += if decision == Decision::Granted { *pulls } else { 0 };
                decision
            })
            .collect();
        let all_granted = decisions.iter().all(|decision| *decision == Decision::Granted);
        let free = if all_granted { row.usable(ask).saturating_sub(others).saturating_sub(held) } else { 0 };
        let ahead = ask.ahead.min(free / AHEAD_PART);
        held += ahead;
        row.leases.retain(|lease| lease.id != self.id);
        if held > 0 {
            row.leases.push(LeaseRow { id: self.id.clone(), owner: self.owner.clone(), pulls: held, expires: now.plus(LEASE_TERM) });
        }
        Answer { window: row.window.clone(), decisions, ahead }
    }

    /// Ends the window if its time is over, and the leases of processes that are gone.
    fn refresh(&self, row: &mut AccountRow, now: Timestamp) {
        row.correct(now);
        let closed = row.window.closes;
        let rolled = row.window.roll(now);
        if rolled {
            row.spent = 0;
        }
        let unknown = row.is_unknown();
        let AccountRow { window, leases, .. } = row;
        leases.retain(|lease| {
            if lease.id == self.id {
                return true;
            }
            let expired = lease.expires <= now;
            if !expired && !lease.owner.is_gone() {
                return true;
            }
            // It ended with the window before: its pulls were of that window.
            if unknown || (rolled && closed.is_some_and(|closed| lease.expires <= closed)) {
                return false;
            }
            let counted_from =
                if expired { now } else { self.dead.lock().entry(lease.id.clone()).or_insert(now).plus(LAST_REQUESTS_ARRIVE) };
            window.counted(now);
            window.unconfirmed = window.unconfirmed.saturating_add(lease.pulls);
            window.unheard_at = window.unheard_at.max(Some(counted_from));
            false
        });
    }
}
