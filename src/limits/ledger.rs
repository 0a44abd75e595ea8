//! The ledger: what outlives a run, and what several processes share. One small JSON file per state directory.
//!
//! Each account has its window and the leases on it. A process takes a lease on the pulls of one image before it sends them, and
//! settles it when they are over. What a dead process held counts as spent until an answer to a later request says what is
//! really left. Losing the file costs a HEAD, never correctness; so it is replaced atomically, but not synced to the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::accounts::AccountId;
use super::clock::Moment;
use super::window::Window;
use crate::{Error, Result};

mod owner;
use owner::Owner;

/// The version of the file. A newer one is not touched: a newer larder wrote it.
const VERSION: u32 = 1;
/// Longer than the manifests of one image take to be read, with all retries; after it, a lease that was not settled counts as spent.
const LEASE_TERM: Duration = Duration::from_secs(30 * 60);
/// A transaction takes milliseconds. Whoever holds the lock longer than this is stopped or hung, and is not waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// Windows that ended longer ago than this are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Wall time, as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(pub(super) Timestamp);

impl Moment for Stamp {
    fn plus(self, by: Duration) -> Self {
        Stamp(self.0.plus(by))
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map(Stamp).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Book {
    version: u32,
    accounts: BTreeMap<String, Row>,
}

/// One account: `host|name|source`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    window: Window<Stamp>,
    /// Pulls of this window that were spent by larder, in any process.
    spent: u64,
    leases: Vec<LeaseRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseRow {
    id: String,
    #[serde(flatten)]
    owner: Owner,
    pulls: u64,
    expires: Stamp,
}

/// What a process wants to send.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub account: &'a AccountId,
    /// The lease that grows by `pulls`, or is made.
    pub lease: &'a str,
    pub pulls: u64,
    /// What the process has granted and not heard to be counted, these pulls included. Its leases may say more: the answer that
    /// counts a pull comes before its lease is settled.
    pub outstanding: u64,
    /// What the process knows of the window.
    pub window: Window<Stamp>,
    /// The configured limit, if there is one.
    pub limit: Option<u64>,
    /// Pulls left to others.
    pub reserve: u64,
}

/// The answer to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leased {
    Granted {
        /// What all processes together know.
        window: Window<Stamp>,
    },
    Denied {
        /// What is left would do, but for pulls that are held, by other processes or by this one, and may come back.
        in_use: bool,
        window: Window<Stamp>,
    },
}

/// How the pulls of a lease ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Answered, and counted by the numbers in the window that comes along.
    pub heard: u64,
    /// Sent, and nobody knows.
    pub unheard: u64,
    /// Still to come: the lease goes on with these.
    pub keep: u64,
}

/// The file and who we are in it.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
    lock: PathBuf,
    me: Owner,
}

impl Ledger {
    /// The ledger in this state directory, which is made if it is missing.
    pub fn open(state: &Path) -> Result<Self> {
        std::fs::create_dir_all(state).map_err(|error| Error::io("open the pull ledger", state, &error))?;
        Ok(Self::owned_by(state, Owner::this_process()))
    }

    /// As another process that lives.
    #[cfg(test)]
    pub(super) fn of_process(state: &Path, pid: u32) -> Self {
        Self::owned_by(state, Owner { pid, started: 0, place: "simulated".to_owned() })
    }

    fn owned_by(state: &Path, me: Owner) -> Self {
        Ledger { file: state.join("pulls.json"), lock: state.join("pulls.lock"), me }
    }

    /// What is known of an account: its latest window that is not over.
    pub(super) fn recall(&self, account: &AccountId, now: Timestamp) -> Result<Option<Window<Stamp>>> {
        self.transact(Stamp(now), |book, now| {
            let prefix = key(account, "");
            let rows = book.accounts.iter_mut().filter(|(name, _)| name.starts_with(&prefix));
            rows.filter_map(|(_, row)| {
                row.freshen(now);
                row.window.closes.map(|closes| (closes, row.window.clone()))
            })
            .max_by_key(|(closes, _)| *closes)
            .map(|(_, window)| window)
        })
    }

    /// Takes `pulls`, or none.
    pub(super) fn lease(&self, ask: &Ask<'_>, now: Timestamp) -> Result<Leased> {
        self.transact(Stamp(now), |book, now| {
            let row = book.row(ask.account, &ask.window);
            row.freshen(now);
            row.window.merge(&ask.window, now);
            let window = &row.window;
            let limit = ask.limit.map_or(window.limit, |limit| limit.min(window.limit));
            let usable = window.left().saturating_sub(window.limit - limit).saturating_sub(ask.reserve);
            let others: u64 = row.leases.iter().filter(|lease| lease.owner != self.me).map(|lease| lease.pulls).sum();
            let leased: u64 = row.leases.iter().map(|lease| lease.pulls).sum();
            let ours = (leased - others).saturating_add(ask.pulls).min(ask.outstanding);
            if others.saturating_add(ours) > usable {
                return Leased::Denied { in_use: ask.pulls <= usable, window: window.clone() };
            }
            let expires = now.plus(LEASE_TERM);
            match row.leases.iter_mut().find(|lease| lease.id == ask.lease) {
                Some(lease) => (lease.pulls, lease.expires) = (lease.pulls + ask.pulls, expires),
                None => {
                    let (id, owner) = (ask.lease.to_owned(), self.me.clone());
                    row.leases.push(LeaseRow { id, owner, pulls: ask.pulls, expires });
                }
            }
            Leased::Granted { window: row.window.clone() }
        })
    }

    /// Ends a lease, or what is over of it.
    pub(super) fn settle(&self, account: &AccountId, lease: &str, settled: Settled, window: &Window<Stamp>, now: Timestamp) -> Result<()> {
        self.transact(Stamp(now), |book, now| {
            let row = book.row(account, window);
            row.freshen(now);
            let same = row.window.merge(window, now);
            row.spent += settled.heard + settled.unheard;
            let Some(at) = row.leases.iter().position(|row| row.id == lease) else {
                // It has expired, and all of it was taken for spent then.
                return;
            };
            row.window.unheard(settled.unheard + if same { 0 } else { settled.heard }, now);
            if settled.heard > 0 {
                row.window.counted(now);
            }
            if settled.keep == 0 {
                row.leases.swap_remove(at);
            } else if let Some(lease) = row.leases.get_mut(at) {
                (lease.pulls, lease.expires) = (settled.keep, now.plus(LEASE_TERM));
            }
        })
    }

    /// Reads, changes and replaces the file while nobody else does.
    fn transact<T>(&self, now: Stamp, change: impl FnOnce(&mut Book, Stamp) -> T) -> Result<T> {
        let _lock = self.locked()?;
        let mut book = self.read()?;
        book.accounts.retain(|_, row| {
            let over = row.window.closes.is_some_and(|closes| closes.plus(FORGET_AFTER) <= now);
            !(over && row.leases.iter().all(|lease| lease.expires <= now))
        });
        let answer = change(&mut book, now);
        self.write(&book)?;
        Ok(answer)
    }

    /// The lock goes with the file handle: the system frees it even if we are killed.
    fn locked(&self) -> Result<File> {
        let failed = |error: &std::io::Error| Error::io("lock the pull ledger", &self.lock, error);
        let file = File::options().create(true).truncate(false).write(true).open(&self.lock).map_err(|error| failed(&error))?;
        let start = std::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::Error(error)) => return Err(failed(&error)),
                Err(std::fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_RETRY),
                Err(std::fs::TryLockError::WouldBlock) => {
                    let message = format!("{}: another process has held it for {} s", self.lock.display(), LOCK_PATIENCE.as_secs());
                    return Err(Error::local("lock the pull ledger", message).remedy("see whether another larder is stopped"));
                }
            }
        }
    }

    fn read(&self) -> Result<Book> {
        let text = match std::fs::read(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Book::empty()),
            Err(error) => return Err(Error::io("read the pull ledger", &self.file, &error)),
        };
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        match serde_json::from_slice::<Head>(&text) {
            Ok(Head { version }) if version > VERSION => {
                let message = format!("{}: version {version}, this larder knows {VERSION}", self.file.display());
                Err(Error::local("read the pull ledger", message).remedy("use the newer larder, or another --state"))
            }
            Ok(_) => Ok(serde_json::from_slice(&text).unwrap_or_else(|error| self.put_aside(&error))),
            Err(error) => Ok(self.put_aside(&error)),
        }
    }

    /// A torn or foreign file is kept for whoever wants to look, and the accounts are unknown again.
    fn put_aside(&self, error: &serde_json::Error) -> Book {
        let aside = self.file.with_extension("json.damaged");
        let moved = std::fs::rename(&self.file, &aside);
        tracing::warn!(
            "{} is damaged ({error}); {}; what is left of pull windows is asked of the upstreams again",
            self.file.display(),
            match &moved {
                Ok(()) => format!("moved to {}", aside.display()),
                Err(error) => format!("it could not be moved aside: {error}"),
            }
        );
        Book::empty()
    }

    fn write(&self, book: &Book) -> Result<()> {
        let failed = |error: &std::io::Error| Error::io("write the pull ledger", &self.file, error);
        let text = serde_json::to_vec_pretty(book).map_err(|error| Error::local("write the pull ledger", error.to_string()))?;
        // Under the lock nobody else writes this name, and what a kill leaves behind is overwritten.
        let next = self.file.with_extension("json.new");
        std::fs::write(&next, text).map_err(|error| failed(&error))?;
        std::fs::rename(&next, &self.file).map_err(|error| failed(&error))
    }
}

impl Book {
    fn empty() -> Self {
        Book { version: VERSION, accounts: BTreeMap::new() }
    }

    /// The account's row, made if need be. Who does not know the source yet uses the row that is there; a row whose source was
    /// not known becomes that of the source.
    fn row(&mut self, account: &AccountId, window: &Window<Stamp>) -> &mut Row {
        let unnamed = key(account, "");
        let name = match &window.source {
            Some(source) => key(account, source),
            None => {
                let rows = self.accounts.iter().filter(|(name, _)| name.starts_with(&unnamed));
                rows.max_by_key(|(_, row)| row.window.closes).map_or_else(|| unnamed.clone(), |(name, _)| name.clone())
            }
        };
        let before = if name == unnamed { None } else { self.accounts.remove(&unnamed) };
        let row = self.accounts.entry(name).or_insert_with(|| Row {
            window: before.as_ref().map_or_else(|| Window::fresh(window.limit, window.length, None), |before| before.window.clone()),
            spent: before.as_ref().map_or(0, |before| before.spent),
            leases: Vec::new(),
        });
        row.leases.extend(before.into_iter().flat_map(|before| before.leases));
        row
    }
}

impl Row {
    /// Ends the window if its time is over, and the leases of those who will not come back.
    fn freshen(&mut self, now: Stamp) {
        let closed = self.window.closes;
        let rolled = self.window.roll(now);
        if rolled {
            self.spent = 0;
        }
        let mut lost = 0;
        self.leases.retain(|lease| {
            let over = lease.expires <= now || lease.owner.is_gone();
            // It ended with the window before: what it spent was that window's.
            let before = rolled && closed.is_some_and(|closed| lease.expires <= closed);
            lost += if over && !before { lease.pulls } else { 0 };
            !over
        });
        self.window.unheard(lost, now);
    }
}

fn key(account: &AccountId, source: &str) -> String {
    format!("{}|{}|{source}", account.host, account.name)
}

#[cfg(test)]
mod tests;
