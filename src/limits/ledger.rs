//! The ledger: what outlives a run, and what several processes share. One small JSON file per state directory.
//!
//! Each account has its window and the leases on it, one for each process: the pulls it was granted that are not over. A process
//! writes down what it is about to send before it sends it. What a dead process held counts as spent until an answer to a later
//! request says what is really left. Losing the file costs a HEAD, never correctness; so it is replaced atomically, but not
//! synced to the disk: it survives a kill, not a power cut.
//!
//! All that images ask for while the file is being written goes into the next transaction together. One thread writes at a time.
//! What cannot be written is not granted.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::account::AccountId;
use super::clock::Moment;
use super::window::Window;

mod owner;
use owner::Owner;

use crate::input;
use crate::mutex::Mutex;

/// The version of the file. A newer one is not touched: a newer larder wrote it.
const VERSION: u32 = 1;
/// Longer than the manifests of one image take to be read, with all retries; after it, a lease that was not settled counts as spent.
const LEASE_TERM: Duration = Duration::from_secs(30 * 60);
/// A transaction takes milliseconds. Whoever holds the lock longer than this is stopped or hung, and is not waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// A request that a process had sent when it was killed reaches the upstream, and is counted, within this time.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The clocks of two processes differ by less.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);
/// Windows that ended longer ago than this are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A process reserves ahead at most this part of the pulls that nobody holds. So much of a window is lost to others while it holds them
/// unused, and until the next HEAD if it is killed. An eighth keeps that small, and makes about ten reservations of a whole window.
const AHEAD_PART: u64 = 8;
/// The largest file that is read. An account has 1 KB, with the leases of several processes: 10,000 accounts and more.
const MAX_LEDGER: u64 = 16 * 1024 * 1024;

/// Wall time, as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WallTime(pub(super) Timestamp);

impl Moment for WallTime {
    fn plus(self, by: Duration) -> Self {
        WallTime(self.0.plus(by))
    }
}

impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map(WallTime).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct LedgerFile {
    version: u32,
    accounts: BTreeMap<String, AccountRow>,
}

/// One account: `host|name|source`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AccountRow {
    #[serde(flatten)]
    window: Window<WallTime>,
    /// Pulls of this window that were spent by larder, in any process.
    spent: u64,
    /// One for each process. (Files of earlier versions have one for each image.)
    leases: Vec<LeaseRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseRow {
    id: String,
    #[serde(flatten)]
    owner: Owner,
    pulls: u64,
    expires: WallTime,
}

/// What a process tells and asks about one account.
#[derive(Debug)]
pub(super) struct LeaseRequest {
    pub account: AccountId,
    /// What the process knows of the window; `None`: nothing yet.
    pub window: Option<Window<WallTime>>,
    /// Pulls that it was granted before, and that are not over.
    pub held: u64,
    /// Pulls that are over since it last told.
    pub settled: LeaseSettlement,
    /// Pulls it wants to send, a number for each image: first come, first served.
    pub wants: Vec<u64>,
    /// Pulls that it would like to reserve beyond these, for images that it does not know yet.
    pub ahead: u64,
    /// The configured limit, if there is one.
    pub limit: Option<u64>,
    /// Pulls left to others.
    pub reserve: u64,
    /// The time.
    pub now: Timestamp,
}

/// The answer to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// What all processes together know.
    pub window: Window<WallTime>,
    /// One for each of [`LeaseRequest::wants`].
    pub decisions: Vec<Decision>,
    /// Of [`LeaseRequest::ahead`], as many as may be reserved.
    pub ahead: u64,
}

/// Whether pulls may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Granted,
    /// What is left would do, but for pulls that are held, by other processes or by this one, and may come back.
    InUse,
    /// There are not that many left.
    Spent,
}

/// How pulls ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LeaseSettlement {
    /// Answered, and counted by the numbers in the window that comes along.
    pub heard: u64,
    /// Sent, and nobody knows.
    pub unconfirmed: u64,
}

/// An account of this process, which takes part in transactions.
pub(super) trait Party: Send + Sync {
    /// Whether it has something to tell or ask.
    fn has_request(&self) -> bool;
    /// What it tells and asks, taken when the file is locked. `None`: nothing.
    fn ask(&self) -> Option<LeaseRequest>;
    /// Its question is answered, or could not be asked. An unanswered [`LeaseRequest`] comes back.
    fn answered(&self, answer: Result<Answer, (Option<LeaseRequest>, Failure)>);
}

/// Why the ledger could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One line, with a remedy.
    pub message: String,
    /// Waiting does not help.
    pub permanent: bool,
}

/// The file and who we are in it.
pub struct Ledger {
    file: PathBuf,
    lock: PathBuf,
    me: Owner,
    /// The name of this process's rows.
    id: String,
    /// The file as it was when this was opened.
    opened: LedgerFile,
    queue: Mutex<Queue>,
    /// When dead processes were first seen to be dead, by the names of their rows.
    dead: Mutex<HashMap<String, WallTime>>,
    /// What has gone wrong last.
    failure: Mutex<Option<Failure>>,
    /// How often the file was replaced.
    #[cfg(test)]
    pub(super) written: AtomicU64,
}

/// Who takes part in the next transaction.
#[derive(Default)]
struct Queue {
    parties: Vec<Arc<dyn Party>>,
    /// A thread is writing, and will take them.
    writing: bool,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Ledger {
    /// The ledger in this state folder. What is wrong with it is met by the first account that needs it.
    pub fn open(state: &Path) -> Self {
        Self::owned_by(state, Owner::this_process())
    }

    /// The ledger in a state folder that was found not to be writable, which has been said.
    pub fn unwritable(state: &Path) -> Self {
        let ledger = Self::open(state);
        let failure = Failure::new("the state folder cannot be used", "make it writable; or --state none", true);
        *ledger.failure.lock() = Some(failure);
        ledger
    }

    /// As another process that lives.
    #[cfg(test)]
    pub(super) fn of_process(state: &Path, pid: u32) -> Self {
        Self::owned_by(state, Owner { pid, started: 0, place: "simulated".to_owned() })
    }

    fn owned_by(state: &Path, me: Owner) -> Self {
        // A name that no other process has, not even one of the same number in another container, nor an earlier run of this one.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let began = Timestamp::now().as_millisecond();
        let id = format!("{}-{began}-{}", me.pid, NEXT.fetch_add(1, Ordering::Relaxed));
        let file = state.join("pulls.json");
        // The file is replaced as a whole: reading needs no lock. A damaged one is dealt with by the first transaction.
        let opened = read_bounded(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let opened = opened.filter(|book: &LedgerFile| book.version <= VERSION).unwrap_or_else(LedgerFile::empty);
        let lock = state.join("pulls.lock");
        Ledger {
            file,
            lock,
            me,
            id,
            opened,
            queue: Mutex::default(),
            dead: Mutex::default(),
            failure: Mutex::default(),
            #[cfg(test)]
            written: AtomicU64::new(0),
        }
    }

    /// What was known of an account when this was opened: its latest window that is not over.
    pub(super) fn recall(&self, account: &AccountId, now: Timestamp) -> Option<Window<WallTime>> {
        let (prefix, now) = (key(account, ""), WallTime(now));
        let rows = self.opened.accounts.iter().filter(|(name, _)| name.starts_with(&prefix));
        rows.filter_map(|(_, row)| {
            let mut row = row.clone();
            self.freshen(&mut row, now);
            row.window.closes.map(|closes| (closes, row.window))
        })
        .max_by_key(|(closes, _)| *closes)
        .map(|(_, window)| window)
    }

    /// What has gone wrong last, if the ledger cannot be used.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }

    /// Lets `party` take part in the next transaction: at once, or after the one that is being written. Those who come meanwhile
    /// share it. Nothing here blocks the caller, if there is a runtime.
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

    /// Writes until nobody waits.
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
        let answers = self.transact(|book| {
            asked.extend(parties.iter().map(|party| party.ask()));
            let answers: Vec<_> = asked.iter().map(|ask| ask.as_ref().map(|ask| self.decide(book, ask))).collect();
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

    /// The last transaction of an account: what is over is told, from where it may block.
    pub(super) fn settle(&self, ask: &LeaseRequest) {
        if let Err(failure) = self.transact(|book| Some(self.decide(book, ask))) {
            self.warn(&failure);
        }
    }

    /// Says once what is wrong.
    fn warn(&self, failure: &Failure) {
        let before = self.failure.lock().replace(failure.clone());
        if before.is_none() {
            tracing::warn!("{}", failure.message);
        }
    }

    /// Takes in what a process tells, and decides about what it asks.
    fn decide(&self, book: &mut LedgerFile, ask: &LeaseRequest) -> Answer {
        let now = WallTime(ask.now);
        book.forget(now);
        let row = book.row(&ask.account, ask.window.as_ref(), now);
        self.freshen(row, now);
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
            row.leases.push(LeaseRow { id: self.id.clone(), owner: self.me.clone(), pulls: held, expires: now.plus(LEASE_TERM) });
        }
        Answer { window: row.window.clone(), decisions, ahead }
    }

    /// Ends the window if its time is over, and the leases of those who will not come back.
    fn freshen(&self, row: &mut AccountRow, now: WallTime) {
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
            // It ended with the window before: what it spent was that window's.
            if unknown || (rolled && closed.is_some_and(|closed| lease.expires <= closed)) {
                return false;
            }
            let told_from = if expired { now } else { self.dead.lock().entry(lease.id.clone()).or_insert(now).plus(LAST_WORDS) };
            window.counted(now);
            window.unconfirmed = window.unconfirmed.saturating_add(lease.pulls);
            window.unheard_at = window.unheard_at.max(Some(told_from));
            false
        });
    }

    /// Reads, changes and replaces the file while nobody else does; `None` is no change.
    fn transact<T>(&self, change: impl FnOnce(&mut LedgerFile) -> Option<T>) -> Result<Option<T>, Failure> {
        let _lock = self.locked()?;
        let mut book = self.read()?;
        let answer = change(&mut book);
        if answer.is_some() {
            self.write(&book)?;
        }
        Ok(answer)
    }

    /// The lock goes with the file handle: the system frees it even if we are killed.
    fn locked(&self) -> Result<File, Failure> {
        let failed = |error: &std::io::Error| Failure::io("lock", &self.lock, error);
        let file = File::options().create(true).truncate(false).write(true).open(&self.lock).map_err(|error| failed(&error))?;
        let start = std::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::Error(error)) => return Err(failed(&error)),
                Err(std::fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_RETRY),
                Err(std::fs::TryLockError::WouldBlock) => {
                    let held = format!("another process has held {} for {} s", self.lock.display(), LOCK_PATIENCE.as_secs());
                    return Err(Failure::new(&held, "see whether another larder is stopped", false));
                }
            }
        }
    }

    fn read(&self) -> Result<LedgerFile, Failure> {
        let text = match read_bounded(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(self.put_aside()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LedgerFile::empty()),
            Err(error) => return Err(Failure::io("read", &self.file, &error)),
        };
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        if let Ok(book @ LedgerFile { version: ..=VERSION, .. }) = serde_json::from_slice(&text) {
            return Ok(book);
        }
        match serde_json::from_slice::<Head>(&text) {
            Ok(Head { version }) if version > VERSION => {
                let newer = format!("{} has version {version}, and this larder reads {VERSION}", self.file.display());
                Err(Failure::new(&newer, "use the newer larder, another --state DIR, or --state none", true))
            }
            _ => Ok(self.put_aside()),
        }
    }

    /// A torn or foreign file is kept for whoever wants to look, and the accounts are unknown again.
    fn put_aside(&self) -> LedgerFile {
        let aside = self.file.with_extension("json.damaged");
        let moved = std::fs::rename(&self.file, &aside);
        tracing::warn!(
            "{} is damaged; {}; what is left of pull windows is asked of the upstreams again",
            self.file.display(),
            match &moved {
                Ok(()) => format!("moved to {}", aside.display()),
                Err(error) => format!("it could not be moved aside: {error}"),
            }
        );
        LedgerFile::empty()
    }

    fn write(&self, book: &LedgerFile) -> Result<(), Failure> {
        // Under the lock nobody else writes this name, and what a kill leaves behind is overwritten.
        let next = self.file.with_extension("json.new");
        #[cfg(test)]
        self.written.fetch_add(1, Ordering::Relaxed);
        let written = serde_json::to_vec_pretty(book).map_err(std::io::Error::from).and_then(|text| std::fs::write(&next, text));
        written.and_then(|()| std::fs::rename(&next, &self.file)).map_err(|error| Failure::io("write", &self.file, &error))
    }
}

impl Failure {
    fn new(what: &str, remedy: &str, permanent: bool) -> Self {
        Failure { message: format!("no pull can be reserved: {what} ({remedy})"), permanent }
    }

    fn io(operation: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        let what = format!("could not {operation} {}: {error}", path.display());
        let permanent = matches!(error.kind(), IsADirectory | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem);
        Self::new(&what, "make the state folder writable; or --state none, which counts within this run only", permanent)
    }
}

impl LedgerFile {
    fn empty() -> Self {
        LedgerFile { version: VERSION, accounts: BTreeMap::new() }
    }

    /// Forgets accounts that nobody has used for long, or of which nothing became known.
    fn forget(&mut self, now: WallTime) {
        self.accounts.retain(|_, row| {
            let over = row.window.closes.is_some_and(|closes| closes.plus(FORGET_AFTER) <= now);
            let nothing = row.window.limit == u64::MAX && row.window.closes.is_none();
            !((over || nothing) && row.leases.iter().all(|lease| lease.expires <= now))
        });
    }

    /// The account's row, made if need be. Who does not know the source yet uses the row that is there; a row whose source was
    /// not known becomes that of the source.
    fn row(&mut self, account: &AccountId, window: Option<&Window<WallTime>>, now: WallTime) -> &mut AccountRow {
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
    /// The window of an account of which nobody knows anything.
    fn unknown() -> Window<WallTime> {
        Window::fresh(u64::MAX, Duration::from_secs(6 * 60 * 60), None)
    }

    /// Nobody has heard how many pulls there are, or configured it.
    fn is_unknown(&self) -> bool {
        self.window.limit == u64::MAX && self.window.heard.is_none()
    }

    /// Whether `pulls` more may be sent when `held` are out already.
    fn decide(&self, ask: &LeaseRequest, pulls: u64, held: u64) -> Decision {
        if self.is_unknown() {
            // One pull at a time, of all processes: its answer tells.
            return if held == 0 || pulls == 0 { Decision::Granted } else { Decision::InUse };
        }
        let usable = self.usable(ask);
        match held.checked_add(pulls) {
            Some(sum) if sum <= usable => Decision::Granted,
            _ if pulls <= usable => Decision::InUse,
            _ => Decision::Spent,
        }
    }

    /// Pulls that all processes together may hold; none while nobody knows how many there are.
    fn usable(&self, ask: &LeaseRequest) -> u64 {
        if self.is_unknown() {
            return 0;
        }
        let window = &self.window;
        let limit = ask.limit.map_or(window.limit, |limit| limit.min(window.limit));
        window.left().saturating_sub(window.limit - limit).saturating_sub(ask.reserve)
    }

    /// Takes nothing for true that lies ahead: it was written while a clock was wrong. What was spent stays spent, until an
    /// answer of the upstream says otherwise.
    fn correct(&mut self, now: WallTime) {
        let (window, soon) = (&mut self.window, now.plus(CLOCKS_DIFFER));
        let latest = soon.plus(window.length);
        if window.closes.is_some_and(|closes| closes > latest) {
            (window.closes, window.exact) = (Some(now.plus(window.length)), false);
        }
        if window.since.is_some_and(|since| since > soon) {
            window.since = None;
        }
        let told_ahead = window.unheard_at.is_some_and(|at| at > soon.plus(LAST_WORDS));
        if told_ahead || window.heard.is_some_and(|heard| heard.arrived > soon) {
            window.unconfirmed = window.unconfirmed.saturating_add(window.limit.saturating_sub(window.left));
            (window.left, window.heard, window.unheard_at) = (window.limit, None, Some(WallTime(Timestamp::UNIX_EPOCH)));
        }
        for lease in &mut self.leases {
            lease.expires = lease.expires.min(soon.plus(LEASE_TERM));
        }
    }
}

/// # Errors
/// If it cannot be read; `InvalidData` if it is larger than [`MAX_LEDGER`].
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    input::read_from(File::open(path)?, MAX_LEDGER)
}

fn key(account: &AccountId, source: &str) -> String {
    format!("{}|{}|{source}", account.host, account.name)
}

#[cfg(test)]
mod tests;
