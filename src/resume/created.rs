//! When images were created, by digest: each date may have cost pulls, and it never changes.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::content::Digest;
use crate::report::file;

/// A line has some 130 bytes, so this is some 120,000 images. When the file is larger, the older half goes: dates that are still
/// wanted are read again.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// A file of JSON Lines that only grows. What another process appends meanwhile is found by the next run; a last line that is torn,
/// or a damaged one, is passed over.
#[derive(Debug)]
pub struct CreatedDates {
    /// None: nothing outlives the run.
    path: Option<PathBuf>,
    /// None until somebody asks: most runs choose nothing by date.
    known: Mutex<Option<HashMap<Digest, Option<Timestamp>>>>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    digest: Digest,
    /// RFC 3339; null: the image has no date.
    created: Option<String>,
}

impl Line {
    fn new(digest: &Digest, created: Option<Timestamp>) -> Self {
        Line { digest: digest.clone(), created: created.map(|at| at.to_string()) }
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
    /// Dates kept in `path`, which need not be there yet; without a path, for this run only.
    pub fn new(path: Option<&Path>) -> Self {
        CreatedDates { path: path.map(Path::to_owned), known: Mutex::default() }
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
            && let Some(path) = &self.path
            && let Err(error) = append(path, &Line::new(digest, created))
        {
            tracing::debug!(%error, path = %path.display(), "could not keep a creation date");
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<HashMap<Digest, Option<Timestamp>>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| self.path.as_deref().map(|path| load(path, MOST_BYTES)).unwrap_or_default());
        known
    }
}

fn load(path: &Path, most: usize) -> HashMap<Digest, Option<Timestamp>> {
    let Ok(bytes) = std::fs::read(path) else { return HashMap::new() };
    let mut bytes = bytes.as_slice();
    if bytes.len() > most {
        bytes = newer_half(bytes);
        if let Err(error) = file::replace(path, bytes) {
            tracing::debug!(%error, path = %path.display(), "could not shorten the creation dates");
        }
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    lines.filter_map(Line::read).collect()
}

/// Whole lines, the last ones.
fn newer_half(bytes: &[u8]) -> &[u8] {
    let half = &bytes[bytes.len() / 2..];
    let next = half.iter().position(|byte| *byte == b'\n').map_or(half.len(), |end| end + 1);
    &half[next..]
}

/// In one write, so that processes do not write into each other's lines; after a torn line, a new one is begun.
fn append(path: &Path, line: &Line) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let mut text = if last == *b"\n" { String::new() } else { "\n".to_owned() };
    text += &serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())
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
        let dates = CreatedDates::new(Some(&path));
        assert_eq!(dates.get(&digest(1)), None);
        dates.add(&digest(1), date("2024-01-01T00:00:00Z"));
        dates.add(&digest(1), date("2024-01-01T00:00:00Z"));
        dates.add(&digest(2), None);
        assert_eq!(dates.get(&digest(2)), Some(None));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");

        // Killed while it wrote.
        std::fs::write(&path, format!("{text}{{\"digest\":\"sha2")).unwrap();
        let again = CreatedDates::new(Some(&path));
        assert_eq!((again.get(&digest(1)), again.get(&digest(2))), (Some(date("2024-01-01T00:00:00Z")), Some(None)));
        again.add(&digest(3), date("2025-01-01T00:00:00Z"));
        let third = CreatedDates::new(Some(&path));
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
            assert_eq!(CreatedDates::new(Some(&path)).get(&digest(1)), None);
        }
    }

    #[test]
    fn without_a_folder_dates_last_for_the_run() {
        let dates = CreatedDates::new(None);
        dates.add(&digest(1), None);
        assert_eq!(dates.get(&digest(1)), Some(None));
        let nowhere = CreatedDates::new(Some(Path::new("/nonexistent/created.jsonl")));
        nowhere.add(&digest(1), None);
        assert_eq!(nowhere.get(&digest(1)), Some(None));
    }

    #[test]
    fn a_file_that_has_grown_too_large_keeps_its_newer_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("created.jsonl");
        let lines: Vec<String> = (0..9).map(|n| serde_json::to_string(&Line::new(&digest(n), None)).unwrap() + "\n").collect();
        std::fs::write(&path, lines.concat()).unwrap();
        assert_eq!(load(&path, lines.concat().len()).len(), 9);
        let kept = load(&path, lines.concat().len() - 1);
        assert_eq!((kept.len(), kept.contains_key(&digest(4)), kept.contains_key(&digest(5))), (4, false, true));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines[5..].concat());
        assert_eq!(CreatedDates::new(Some(&path)).get(&digest(8)), Some(None));
    }
}
