//! When images were created, by digest: each date may have cost pulls, and it never changes.

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::JsonLines;
use crate::content::Digest;
use crate::mutex::{Mutex, MutexGuard};

/// The file's name in the state folder.
const NAME: &str = "created.jsonl";

/// A line has some 130 bytes, so this is some 120,000 images. When the file is larger, the older half goes: dates that are still
/// wanted are read again.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// A journal that only grows. What another process appends meanwhile is found by the next run.
#[derive(Debug)]
pub struct CreatedDates {
    /// None: nothing outlives the run.
    journal: Option<JsonLines<CreatedLine>>,
    /// None until somebody asks: most runs choose nothing by date.
    known: Mutex<Option<HashMap<Digest, Option<Timestamp>>>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct CreatedLine {
    digest: Digest,
    /// RFC 3339; null: the image has no date.
    created: Option<String>,
}

impl CreatedLine {
    fn new(digest: &Digest, created: Option<Timestamp>) -> Self {
        CreatedLine { digest: digest.clone(), created: created.map(|at| at.to_string()) }
    }

    fn read(self) -> Option<(Digest, Option<Timestamp>)> {
        let created = self.created.map(|text| text.parse().ok());
        match created {
            Some(unread) => Some((self.digest, Some(unread?))),
            None => Some((self.digest, None)),
        }
    }
}

impl CreatedDates {
    /// Dates kept in the state folder, which need not be there yet; without one, for this run only.
    pub fn new(state: Option<&Path>) -> Self {
        CreatedDates { journal: state.map(|state| JsonLines::new(state, NAME)), known: Mutex::default() }
    }

    /// When the image of this digest was created; the inner `None` says that it has no date.
    pub fn get(&self, digest: &Digest) -> Option<Option<Timestamp>> {
        self.known().as_ref().and_then(|known| known.get(digest).copied())
    }

    /// Remembers a date. A failure to write it down only costs requests later.
    pub fn add(&self, digest: &Digest, created: Option<Timestamp>) {
        let mut known = self.known();
        let before = known.get_or_insert_default().insert(digest.clone(), created);
        if before != Some(created)
            && let Some(journal) = &self.journal
            && let Err(error) = journal.append(&CreatedLine::new(digest, created))
        {
            tracing::debug!(%error, path = %journal.path().display(), "could not keep a creation date");
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<HashMap<Digest, Option<Timestamp>>>> {
        let mut known = self.known.lock();
        known.get_or_insert_with(|| self.journal.as_ref().map(|journal| load(journal, MOST_BYTES)).unwrap_or_default());
        known
    }
}

fn load(journal: &JsonLines<CreatedLine>, most: u64) -> HashMap<Digest, Option<Timestamp>> {
    let lines = journal.read().and_then(|read| match read.bytes > most {
        true => journal.rewrite(newer_half),
        false => Ok(read.values),
    });
    let lines = lines.unwrap_or_else(|error| {
        tracing::debug!(%error, path = %journal.path().display(), "could not read or shorten the creation dates");
        vec![]
    });
    lines.into_iter().filter_map(CreatedLine::read).collect()
}

fn newer_half(mut lines: Vec<CreatedLine>) -> Vec<CreatedLine> {
    lines.split_off(lines.len().div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u32) -> Digest {
        Digest::sha256(&n.to_be_bytes())
    }

    fn date(text: &str) -> Option<Timestamp> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn dates_outlive_the_run_and_torn_lines_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("created.jsonl");
        let dates = CreatedDates::new(Some(folder.path()));
        assert_eq!(dates.get(&digest(1)), None);
        dates.add(&digest(1), date("2024-01-01T00:00:00Z"));
        dates.add(&digest(1), date("2024-01-01T00:00:00Z"));
        dates.add(&digest(2), None);
        assert_eq!(dates.get(&digest(2)), Some(None));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");

        // Killed while it wrote.
        std::fs::write(&path, format!("{text}{{\"digest\":\"sha2")).unwrap();
        let again = CreatedDates::new(Some(folder.path()));
        assert_eq!((again.get(&digest(1)), again.get(&digest(2))), (Some(date("2024-01-01T00:00:00Z")), Some(None)));
        again.add(&digest(3), date("2025-01-01T00:00:00Z"));
        let third = CreatedDates::new(Some(folder.path()));
        assert_eq!(
            (third.get(&digest(1)), third.get(&digest(3))),
            (Some(date("2024-01-01T00:00:00Z")), Some(date("2025-01-01T00:00:00Z")))
        );

        for damage in [
            "",
            "\u{0}\u{1}",
            "[]\n{}\nnull\n",
            "{\"digest\":\"sha256:short\",\"created\":null}\n",
            "{\"digest\":\"SHA\",\"created\":\"soon\"}\n",
        ] {
            std::fs::write(&path, damage.replace("SHA", digest(1).as_str())).unwrap();
            assert_eq!(CreatedDates::new(Some(folder.path())).get(&digest(1)), None);
        }
    }

    #[test]
    fn without_a_folder_dates_last_for_the_run() {
        let dates = CreatedDates::new(None);
        dates.add(&digest(1), None);
        assert_eq!(dates.get(&digest(1)), Some(None));
        let nowhere = CreatedDates::new(Some(Path::new("/nonexistent")));
        nowhere.add(&digest(1), None);
        assert_eq!(nowhere.get(&digest(1)), Some(None));
    }

    #[test]
    fn a_file_that_has_grown_too_large_keeps_its_newer_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("created.jsonl");
        let lines: Vec<String> = (0..9).map(|n| serde_json::to_string(&CreatedLine::new(&digest(n), None)).unwrap() + "\n").collect();
        std::fs::write(&path, lines.concat()).unwrap();
        let (journal, length) = (JsonLines::new(folder.path(), NAME), lines.concat().len() as u64);
        assert_eq!(load(&journal, length).len(), 9);
        let kept = load(&journal, length - 1);
        assert_eq!((kept.len(), kept.contains_key(&digest(4)), kept.contains_key(&digest(5))), (4, false, true));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines[5..].concat());
        assert_eq!(CreatedDates::new(Some(folder.path())).get(&digest(8)), Some(None));
    }
}
