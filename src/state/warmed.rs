//! What was warmed when: which pulls through which cache were completed, for caches that do not say themselves what they have.
//!
//! One JSON line a pull, appended; of two lines for one name the later counts. Processes that share the file see each other's lines from when they open it. Losing it costs pulling everything through once more.

use std::collections::HashMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::JsonLines;
use crate::content::Digest;
use crate::mutex::{Mutex, MutexGuard};
use crate::{Error, Operation, Result};

/// The operation that errors name.
const OPERATION: Operation = Operation::ReadWarmed;

/// Lines that later ones have made worthless, before the file is written anew; so that a night's few changes rewrite nothing.
const WORTHLESS: usize = 1000;

/// No pull proves anything for longer: `warm_ttl` may be a year at most. Beyond it, an image was not asked for in all that time.
const KEEP: SignedDuration = SignedDuration::from_hours(366 * 24);

/// A completed pull of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmedRecord {
    /// The cache's host.
    pub cache: String,
    /// The repository there.
    #[serde(rename = "place")]
    pub repository: String,
    /// The tag, or the digest.
    pub reference: String,
    /// The digest the upstream had.
    pub source: Digest,
    /// The digest the cache answers with; another one only where it trims lists.
    pub digest: Digest,
    /// The platforms that were pulled, as they were asked for; none: all.
    pub platforms: Vec<String>,
    /// How thoroughly: 0 manifests only, 1 a HEAD for each blob, 2 each blob read.
    pub depth: u8,
    /// The manifests that were pulled, the image's own among them; empty in lines of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Digest>,
    /// The blobs of these manifests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// When the pull began: from then on the cache may have counted.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
}

/// Times as text.
mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(at)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

type Key = (String, String, String);

/// The pulls that are known.
#[derive(Debug, Default)]
pub struct WarmedRecords {
    /// Without: this run only.
    journal: Option<JsonLines<WarmedRecord>>,
    known: Mutex<HashMap<Key, WarmedRecord>>,
}

impl WarmedRecord {
    fn key(&self) -> Key {
        (self.cache.clone(), self.repository.clone(), self.reference.clone())
    }
}

impl WarmedRecords {
    /// Opens the file in this state folder, which is made if it is missing; `now` decides what is too old to be kept.
    ///
    /// # Errors
    /// If it cannot be read, or the folder cannot be used.
    pub fn open(state: &Path, now: Timestamp) -> Result<Self> {
        std::fs::create_dir_all(state).map_err(|error| Error::io(OPERATION, state, &error))?;
        let journal = JsonLines::new(state, "warmed.jsonl");
        let path = journal.path();
        let read = journal.read().map_err(|error| Error::io(OPERATION, &path, &error))?;
        let known = latest(read.values, now);
        if read.lines > known.len() + WORTHLESS {
            let rewritten = journal.rewrite(|pulls| {
                let mut kept: Vec<(Key, WarmedRecord)> = latest(pulls, now).into_iter().collect();
                kept.sort_by(|(a, _), (b, _)| a.cmp(b));
                kept.into_iter().map(|(_, pulled)| pulled).collect()
            });
            rewritten.map_err(|error| Error::io(Operation::SaveWarmed, &path, &error))?;
        }
        Ok(WarmedRecords { journal: Some(journal), known: Mutex::new(known) })
    }

    /// The last completed pull of `reference` at `repository` through `cache`.
    pub fn get(&self, cache: &str, repository: &str, reference: &str) -> Option<WarmedRecord> {
        let key = (cache.to_owned(), repository.to_owned(), reference.to_owned());
        self.known().get(&key).cloned()
    }

    /// Writes down a completed pull.
    ///
    /// # Errors
    /// If the file cannot be written: the image is pulled again by the next run.
    pub fn add(&self, pulled: WarmedRecord) -> Result<()> {
        let append = |journal: &JsonLines<WarmedRecord>| {
            journal.append(&pulled).map_err(|error| Error::io(Operation::SaveWarmed, &journal.path(), &error))
        };
        let written = self.journal.as_ref().map_or(Ok(()), append);
        self.known().insert(pulled.key(), pulled);
        written
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, WarmedRecord>> {
        self.known.lock()
    }
}

/// The last pull of each name that is not too old.
fn latest(pulls: Vec<WarmedRecord>, now: Timestamp) -> HashMap<Key, WarmedRecord> {
    let fresh = pulls.into_iter().filter(|pulled| now.duration_since(pulled.at) < KEEP);
    fresh.map(|pulled| (pulled.key(), pulled)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T02:00:00Z".parse().unwrap()
    }

    fn pulled(reference: &str, n: u8) -> WarmedRecord {
        let digest = Digest::sha256(&[n]);
        WarmedRecord {
            cache: "cache.corp".into(),
            repository: "m/app".into(),
            reference: reference.into(),
            source: digest.clone(),
            digest,
            platforms: vec!["linux/amd64".into()],
            depth: 2,
            manifests: vec![Digest::sha256(&[n])],
            blobs: vec![Digest::sha256(&[n, n])],
            at: now(),
        }
    }

    #[test]
    fn what_is_added_is_there_for_the_next_run_and_the_later_line_counts() {
        let state = tempfile::tempdir().unwrap();
        let first = WarmedRecords::open(state.path(), now()).unwrap();
        let other = WarmedRecords::open(state.path(), now()).unwrap();
        first.add(pulled("v1", 1)).unwrap();
        other.add(pulled("v2", 2)).unwrap();
        first.add(pulled("v1", 3)).unwrap();
        assert_eq!(first.get("cache.corp", "m/app", "v2"), None);
        let next = WarmedRecords::open(state.path(), now()).unwrap();
        assert_eq!(next.get("cache.corp", "m/app", "v1"), Some(pulled("v1", 3)));
        assert_eq!(next.get("cache.corp", "m/app", "v2"), Some(pulled("v2", 2)));
        assert_eq!(next.get("other.corp", "m/app", "v1"), None);
        assert_eq!(next.get("cache.corp", "m/other", "v1"), None);
    }

    #[test]
    fn torn_and_foreign_lines_are_ignored() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("warmed.jsonl");
        let whole = serde_json::to_string(&pulled("v1", 1)).unwrap();
        std::fs::write(&file, format!("{whole}\n\u{fffd}\u{0}\n{{\"version\":2}}\n{}", &whole[..whole.len() / 2])).unwrap();
        let warmed = WarmedRecords::open(state.path(), now()).unwrap();
        assert_eq!(warmed.get("cache.corp", "m/app", "v1"), Some(pulled("v1", 1)));
        // The torn line does not swallow the next one.
        warmed.add(pulled("v2", 2)).unwrap();
        assert_eq!(WarmedRecords::open(state.path(), now()).unwrap().get("cache.corp", "m/app", "v2"), Some(pulled("v2", 2)));
    }

    #[test]
    fn worthless_lines_go_and_so_does_what_nobody_asked_for_in_a_year() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("warmed.jsonl");
        let old = WarmedRecord { at: "2024-01-01T00:00:00Z".parse().unwrap(), ..pulled("old", 9) };
        let mut text = serde_json::to_string(&old).unwrap() + "\n";
        let line = serde_json::to_string(&pulled("v1", 1)).unwrap() + "\n";
        text.extend(std::iter::repeat_n(line.as_str(), WORTHLESS + 2));
        std::fs::write(&file, &text).unwrap();
        let warmed = WarmedRecords::open(state.path(), now()).unwrap();
        assert!(warmed.get("cache.corp", "m/app", "v1").is_some() && warmed.get("cache.corp", "m/app", "old").is_none());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
    }

    #[test]
    fn without_a_file_a_run_knows_what_it_did_itself() {
        let warmed = WarmedRecords::default();
        warmed.add(pulled("v1", 1)).unwrap();
        assert_eq!(warmed.get("cache.corp", "m/app", "v1"), Some(pulled("v1", 1)));
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), cut in 0usize..300) {
            let state = tempfile::tempdir().unwrap();
            let mut text = serde_json::to_vec(&pulled("v1", 1)).unwrap();
            text.truncate(cut);
            text.extend(bytes);
            std::fs::write(state.path().join("warmed.jsonl"), text).unwrap();
            let warmed = WarmedRecords::open(state.path(), now()).unwrap();
            warmed.add(pulled("v2", 2)).unwrap();
            let next = WarmedRecords::open(state.path(), now()).unwrap();
            proptest::prop_assert_eq!(next.get("cache.corp", "m/app", "v2"), Some(pulled("v2", 2)));
        }
    }
}
