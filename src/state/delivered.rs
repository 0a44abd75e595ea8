//! When which image was first delivered, so that it is known how long its signatures are still looked for.
//!
//! One line of JSON an image and event, appended; the last line of an image counts. Losing the file costs requests: images are taken to be
//! delivered now.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::JsonLines;
use crate::content::{Digest, Repository};
use crate::mutex::{Mutex, MutexGuard};
use crate::{Error, Operation, Result};

/// The file's name in the state directory.
const NAME: &str = "delivered.jsonl";

/// An image that no run has met for so long is forgotten: lists lose images, and the file is not to grow for ever.
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// That an image was met again is written down when the last time is so long ago: well before it would be forgotten, and not every night.
const RENEWED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What is remembered of a delivered image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredRecord {
    /// When it was first delivered.
    pub at: Timestamp,
    /// The manifests below it that may have referrers of their own.
    pub children: Vec<Digest>,
    /// What was listed as a referrer, and is not there.
    pub gone: Vec<Digest>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct DeliveredLine {
    /// `target repository@digest`
    image: String,
    /// Times in RFC 3339.
    at: String,
    seen: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    children: Vec<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<Digest>,
}

/// The deliveries into one target.
#[derive(Debug)]
pub struct Deliveries {
    journal: JsonLines<DeliveredLine>,
    /// What the target is called in the file.
    target: String,
    /// Read when the first image is asked about.
    known: Mutex<Option<HashMap<String, (DeliveredRecord, Timestamp)>>>,
}

impl Deliveries {
    /// The deliveries into `target` (any name that tells targets apart), kept in the folder `state`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(state: &Path, target: &str) -> Result<Self> {
        std::fs::create_dir_all(state).map_err(|error| Error::io(Operation::OpenState, state, &error))?;
        Ok(Deliveries { journal: JsonLines::new(state, NAME), target: target.to_owned(), known: Mutex::default() })
    }

    /// What is known of an image there; `None` if this is the first time that anybody asks.
    pub fn of(&self, repository: &Repository, digest: &Digest) -> Option<DeliveredRecord> {
        self.known().as_ref()?.get(&self.key(repository, digest)).map(|(delivery, _)| delivery.clone())
    }

    /// The image is there, at `now`. The time of its first delivery stays what it is. A failure to write it down costs requests later.
    pub fn note(&self, repository: &Repository, digest: &Digest, children: Vec<Digest>, gone: Vec<Digest>, now: Timestamp) {
        let key = self.key(repository, digest);
        let mut known = self.known();
        let Some(known) = known.as_mut() else { return };
        // A time to come is no time of a delivery: a clock was wrong.
        let before = known.get(&key).filter(|(before, _)| before.at <= now);
        let delivery = DeliveredRecord { at: before.map_or(now, |(before, _)| before.at), children, gone };
        if before.is_some_and(|(before, seen)| *before == delivery && *seen <= now && now.duration_since(*seen).unsigned_abs() < RENEWED) {
            return;
        }
        let line = line(&key, &delivery, now);
        known.insert(key, (delivery, now));
        if let Err(error) = self.journal.append(&line) {
            tracing::debug!(%error, "could not write down a delivery");
        }
    }

    fn key(&self, repository: &Repository, digest: &Digest) -> String {
        format!("{} {repository}@{digest}", self.target)
    }

    fn known(&self) -> MutexGuard<'_, Option<HashMap<String, (DeliveredRecord, Timestamp)>>> {
        let mut known = self.known.lock();
        if known.is_none() {
            *known = Some(read(&self.journal, Timestamp::now()));
        }
        known
    }
}

type Known = HashMap<String, (DeliveredRecord, Timestamp)>;

/// What the journal says. One that is half full of what nobody needs is written anew.
fn read(journal: &JsonLines<DeliveredLine>, now: Timestamp) -> Known {
    let read = journal.read().unwrap_or_else(|error| {
        tracing::debug!(%error, "could not read the list of deliveries");
        super::lines::Read::default()
    });
    let known = latest(read.values, now);
    if read.lines > 2 * known.len() {
        let rewritten = journal.rewrite(|lines| {
            let mut lines: Vec<DeliveredLine> =
                latest(lines, now).iter().map(|(image, (delivery, seen))| line(image, delivery, *seen)).collect();
            lines.sort_by(|a, b| a.image.cmp(&b.image));
            lines
        });
        if let Err(error) = rewritten {
            tracing::debug!(%error, "could not shorten the list of deliveries");
        }
    }
    known
}

/// The last line of each image that is not forgotten.
fn latest(lines: Vec<DeliveredLine>, now: Timestamp) -> Known {
    let mut known = Known::new();
    for DeliveredLine { image, at, seen, children, gone } in lines {
        if let (Ok(at), Ok(seen)) = (at.parse(), seen.parse()) {
            known.insert(image, (DeliveredRecord { at, children, gone }, seen));
        }
    }
    known.retain(|_, (_, seen)| now.duration_since(*seen).unsigned_abs() < FORGOTTEN);
    known
}

fn line(image: &str, delivery: &DeliveredRecord, seen: Timestamp) -> DeliveredLine {
    let DeliveredRecord { at, children, gone } = delivery.clone();
    DeliveredLine { image: image.to_owned(), at: at.to_string(), seen: seen.to_string(), children, gone }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn lines(folder: &Path) -> Vec<String> {
        std::fs::read_to_string(folder.join(NAME)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_first_delivery_counts_and_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let (repository, digest) = (Repository::new("m/app"), Digest::sha256(b"x"));
        let (first, now) = (Timestamp::now() - Duration::from_secs(86_400), Timestamp::now());
        let book = Deliveries::open(folder.path(), "r.example").unwrap();
        assert_eq!(book.of(&repository, &digest), None);
        book.note(&repository, &digest, vec![], vec![], first);
        book.note(&repository, &digest, vec![], vec![], now);
        assert_eq!(lines(folder.path()).len(), 1);
        book.note(&repository, &digest, vec![Digest::sha256(b"child")], vec![], now);
        let again = Deliveries::open(folder.path(), "r.example").unwrap().of(&repository, &digest).unwrap();
        assert_eq!((again.at, again.children.len()), (first, 1));
        assert_eq!(Deliveries::open(folder.path(), "other.example").unwrap().of(&repository, &digest), None);
        assert_eq!(book.of(&Repository::new("m/other"), &digest), None);
    }

    #[test]
    fn what_was_long_not_met_goes_and_torn_lines_count_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (repository, digest) = (Repository::new("a"), Digest::sha256(b"x"));
        let now = Timestamp::now();
        let at = |days: u64| now - Duration::from_secs(days * 86_400);
        let delivery = DeliveredRecord { at: at(200), children: vec![], gone: vec![] };
        let text = |line: DeliveredLine| serde_json::to_string(&line).unwrap() + "\n";
        let kept = text(line(&format!("t a@{digest}"), &delivery, at(80)));
        let text = [text(line("t b@x", &delivery, at(95))), "{\"image\":\"t".to_owned() + "\n", kept.clone()].concat();
        std::fs::write(folder.path().join(NAME), text).unwrap();
        let book = Deliveries::open(folder.path(), "t").unwrap();
        assert_eq!(book.of(&repository, &digest).unwrap().at, at(200));
        assert_eq!(lines(folder.path()), [kept.trim_end()], "it was shortened");
        // Met again after more than 30 days: that is written down, the first time stays.
        book.note(&repository, &digest, vec![], vec![], now);
        assert_eq!((book.of(&repository, &digest).unwrap().at, lines(folder.path()).len()), (at(200), 2));
    }

    #[test]
    fn a_time_to_come_is_no_time_of_a_delivery() {
        let folder = tempfile::tempdir().unwrap();
        let (repository, digest) = (Repository::new("a"), Digest::sha256(b"x"));
        let book = Deliveries::open(folder.path(), "t").unwrap();
        book.note(&repository, &digest, vec![], vec![], time("2999-01-01T00:00:00Z"));
        let now = Timestamp::now();
        book.note(&repository, &digest, vec![], vec![], now);
        assert_eq!(book.of(&repository, &digest).unwrap().at, now);
    }
}
