//! What the ledger holds: the accounts, their windows, and the leases on them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::owner::Owner;
use super::request::{Decision, LeaseRequest};
use crate::limits::account::AccountId;
use crate::limits::clock::Moment;
use crate::limits::window::Window;

/// The version of the file. A newer one is not touched: a newer larder wrote it.
pub(super) const VERSION: u32 = 1;
/// Longer than the manifests of one image take to be read, with all retries. After it, a lease that was not settled counts as spent.
pub(super) const LEASE_TERM: Duration = Duration::from_secs(30 * 60);
/// A request that a process had sent when it was killed reaches the upstream, and is counted, within this time.
pub(super) const LAST_REQUESTS_ARRIVE: Duration = Duration::from_secs(2);
/// The clocks of two processes differ by less.
pub(super) const CLOCKS_DIFFER: Duration = Duration::from_secs(1);
/// Windows that ended longer ago than this are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// All accounts, by `host|name|source`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LedgerData {
    pub(super) version: u32,
    pub(super) accounts: BTreeMap<String, AccountRow>,
}

/// One account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AccountRow {
    #[serde(flatten)]
    pub(super) window: Window<Timestamp>,
    /// Pulls of this window that were spent by larder, in any process.
    pub(super) spent: u64,
    /// One for each process. (Files of earlier versions have one for each image.)
    pub(super) leases: Vec<LeaseRow>,
}

/// The pulls that one process holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LeaseRow {
    /// The name of the process: see `LedgerProcess`.
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) owner: Owner,
    pub(super) pulls: u64,
    pub(super) expires: Timestamp,
}

/// What was read as a ledger.
pub(super) enum ParsedLedger {
    Known(LedgerData),
    /// A newer larder wrote it, with this version.
    Newer(u32),
    /// Torn, or something else.
    Damaged,
}

impl LedgerData {
    pub(super) fn empty() -> Self {
        LedgerData { version: VERSION, accounts: BTreeMap::new() }
    }

    pub(super) fn parse(text: &[u8]) -> ParsedLedger {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        match (serde_json::from_slice(text), serde_json::from_slice::<Head>(text)) {
            (Ok(data @ LedgerData { version: ..=VERSION, .. }), _) => ParsedLedger::Known(data),
            (_, Ok(Head { version })) if version > VERSION => ParsedLedger::Newer(version),
            _ => ParsedLedger::Damaged,
        }
    }

    /// Forgets accounts that were not used for long, or of which nothing became known.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.accounts.retain(|_, row| {
            let over = row.window.closes.is_some_and(|closes| closes.plus(FORGET_AFTER) <= now);
            let nothing = row.window.limit == u64::MAX && row.window.closes.is_none();
            !((over || nothing) && row.leases.iter().all(|lease| lease.expires <= now))
        });
    }

    /// The account's row, which is created if it is missing. A process that does not know the source yet uses the row that is there. A row
    /// without a source becomes that of the first source that is named.
    pub(super) fn row(&mut self, account: &AccountId, window: Option<&Window<Timestamp>>, now: Timestamp) -> &mut AccountRow {
        let unnamed = key(account, "");
        let name = match window.and_then(|window| window.source.as_ref()) {
            Some(source) => key(account, source),
            None => {
                let rows = self.accounts.iter().filter(|(name, _)| name.starts_with(&unnamed));
                rows.max_by_key(|(_, row)| row.window.closes).map_or_else(|| unnamed.clone(), |(name, _)| name.clone())
            }
        };
        let before = if name == unnamed { None } else { self.accounts.remove(&unnamed) };
        let row = self.accounts.entry(name).or_insert_with(|| AccountRow {
            window: window.map_or_else(AccountRow::unknown, |window| Window::fresh(window.limit, window.length, None)),
            spent: 0,
            leases: Vec::new(),
        });
        if let Some(before) = before {
            row.window.merge(&before.window, now);
            row.window.unconfirmed(before.window.unconfirmed, before.window.unheard_at.unwrap_or(now));
            row.spent += before.spent;
            row.leases.extend(before.leases);
        }
        row
    }
}

impl AccountRow {
    /// The window of an account of which nothing is known.
    pub(super) fn unknown() -> Window<Timestamp> {
        Window::fresh(u64::MAX, Duration::from_secs(6 * 60 * 60), None)
    }

    /// The number of pulls was neither answered by the upstream nor configured.
    pub(super) fn is_unknown(&self) -> bool {
        self.window.limit == u64::MAX && self.window.heard.is_none()
    }

    /// Whether `pulls` more may be sent while `held` are reserved already.
    pub(super) fn decide(&self, ask: &LeaseRequest, pulls: u64, held: u64) -> Decision {
        if self.is_unknown() {
            // One pull at a time, of all processes: its answer says how many there are.
            return if held == 0 || pulls == 0 { Decision::Granted } else { Decision::InUse };
        }
        let usable = self.usable(ask);
        match held.checked_add(pulls) {
            Some(sum) if sum <= usable => Decision::Granted,
            _ if pulls <= usable => Decision::InUse,
            _ => Decision::Spent,
        }
    }

    /// Pulls that all processes together may hold; none while their number is unknown.
    pub(super) fn usable(&self, ask: &LeaseRequest) -> u64 {
        if self.is_unknown() {
            return 0;
        }
        let window = &self.window;
        let limit = ask.limit.map_or(window.limit, |limit| limit.min(window.limit));
        window.left().saturating_sub(window.limit - limit).saturating_sub(ask.reserve)
    }

    /// Corrects times that lie in the future: they were written while a clock was wrong. Spent pulls stay spent until an answer of the
    /// upstream says otherwise.
    pub(super) fn correct(&mut self, now: Timestamp) {
        let (window, soon) = (&mut self.window, now.plus(CLOCKS_DIFFER));
        let latest = soon.plus(window.length);
        if window.closes.is_some_and(|closes| closes > latest) {
            (window.closes, window.exact) = (Some(now.plus(window.length)), false);
        }
        if window.since.is_some_and(|since| since > soon) {
            window.since = None;
        }
        let told_ahead = window.unheard_at.is_some_and(|at| at > soon.plus(LAST_REQUESTS_ARRIVE));
        if told_ahead || window.heard.is_some_and(|heard| heard.arrived > soon) {
            window.unconfirmed = window.unconfirmed.saturating_add(window.limit.saturating_sub(window.left));
            (window.left, window.heard, window.unheard_at) = (window.limit, None, Some(Timestamp::UNIX_EPOCH));
        }
        for lease in &mut self.leases {
            lease.expires = lease.expires.min(soon.plus(LEASE_TERM));
        }
    }
}

/// The name of an account's row. With an empty source: the prefix of all its rows.
pub(super) fn key(account: &AccountId, source: &str) -> String {
    format!("{}|{}|{source}", account.host, account.name)
}
