//! Which parts of which registries have taken a push, and when that was last seen: there, what a registry lists is its own, and not the
//! answer of an upstream behind it.
//!
//! One JSON line a push that was remembered, appended; of two lines for one part the later counts, a line that is torn or foreign is
//! ignored. Losing the file costs one upload, opened and cancelled, for each part.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The file's name in the state directory.
const NAME: &str = "pushes.jsonl";

/// No push proves anything for longer: somebody may put a cache in the registry's place. A month, because that is rare and asking again
/// costs two requests.
const KEEP: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A push that is seen again is written down when the last line is so old: well before it is forgotten, and not every night.
const RENEWED: SignedDuration = SignedDuration::from_hours(10 * 24);

/// More lines than this, and those that no longer count are removed when the file is opened.
const MOST_LINES: usize = 10_000;

#[derive(Serialize, Deserialize)]
struct Line {
    /// The registry's host.
    registry: String,
    /// The part of it: how its repositories begin.
    part: String,
    /// RFC 3339.
    at: String,
}

/// The pushes that are known.
#[derive(Debug, Default)]
pub struct Pushes {
    /// Without: this run only.
    file: Option<PathBuf>,
    known: Mutex<HashMap<(String, String), Timestamp>>,
}

impl Pushes {
    /// Opens the file in this state folder. What cannot be read is not known.
    pub fn open(state: &Path, now: Timestamp) -> Self {
        let file = state.join(NAME);
        let (lines, known) = read(&file, now);
        if lines > MOST_LINES.max(2 * known.len())
            && let Err(error) = rewrite(&file, now)
        {
            tracing::debug!(%error, "the pushes that were remembered could not be written anew");
        }
        Pushes { file: Some(file), known: Mutex::new(known) }
    }

    /// Whether `part` of `registry` has taken a push not too long before `now`.
    pub fn knows(&self, registry: &str, part: &str, now: Timestamp) -> bool {
        self.last(registry, part).is_some_and(|at| is_within(at, now, KEEP))
    }

    /// `part` of `registry` has taken a push at `now`. A failure to write it down costs requests later.
    pub fn note(&self, registry: &str, part: &str, now: Timestamp) {
        if self.last(registry, part).is_some_and(|at| is_within(at, now, RENEWED)) {
            return;
        }
        self.known().insert((registry.to_owned(), part.to_owned()), now);
        let line = Line { registry: registry.to_owned(), part: part.to_owned(), at: now.to_string() };
        let written = self.file.as_ref().map(|file| serde_json::to_string(&line).map_err(Into::into).and_then(|line| append(file, &line)));
        if let Some(Err(error)) = written {
            tracing::debug!(%error, "that a push was taken could not be written down");
        }
    }

    fn last(&self, registry: &str, part: &str) -> Option<Timestamp> {
        self.known().get(&(registry.to_owned(), part.to_owned())).copied()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, String), Timestamp>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time to come is that of a clock that was wrong.
fn is_within(at: Timestamp, now: Timestamp, length: SignedDuration) -> bool {
    at <= now && now.duration_since(at) < length
}

/// Who appends shares this lock; who replaces the file has it alone. It goes with the handle, also if we are killed.
fn lock(file: &Path) -> std::io::Result<File> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::options().create(true).truncate(false).write(true).open(file.with_extension("lock"))
}

/// One write, so that lines of two processes do not mix; after a torn line (a kill), a new one is begun.
fn append(file: &Path, line: &str) -> std::io::Result<()> {
    let lock = lock(file)?;
    lock.lock_shared()?;
    File::options().create(true).append(true).open(file)?.write_all(format!("\n{line}\n").as_bytes())
}

/// How many lines there are, and what they say.
fn read(file: &Path, now: Timestamp) -> (usize, HashMap<(String, String), Timestamp>) {
    let text = std::fs::read(file).unwrap_or_default();
    let (mut count, mut known) = (0, HashMap::new());
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        count += 1;
        let Ok(Line { registry, part, at }) = serde_json::from_slice(line) else { continue };
        if let Ok(at) = at.parse()
            && is_within(at, now, KEEP)
        {
            known.insert((registry, part), at);
        }
    }
    (count, known)
}

fn rewrite(file: &Path, now: Timestamp) -> std::io::Result<()> {
    let lock = lock(file)?;
    lock.lock()?;
    // Read again: others may have added to it before we had the lock.
    let (_, known) = read(file, now);
    let line = |((registry, part), at): ((String, String), Timestamp)| serde_json::to_string(&Line { registry, part, at: at.to_string() });
    let mut lines: Vec<String> = known.into_iter().filter_map(|entry| line(entry).ok()).collect();
    lines.sort();
    let mut next = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
    next.write_all((lines.join("\n") + "\n").as_bytes())?;
    next.persist(file).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: i64) -> Timestamp {
        "2026-03-01T02:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(24 * day)
    }

    #[test]
    fn a_push_is_remembered_for_a_month_and_written_down_seldom() {
        let state = tempfile::tempdir().unwrap();
        let pushes = Pushes::open(state.path(), day(0));
        assert!(!pushes.knows("r.io", "app", day(0)));
        pushes.note("r.io", "app", day(0));
        pushes.note("r.io", "app", day(9));
        pushes.note("r.io", "other", day(11));
        pushes.note("r.io", "app", day(11));
        let lines = std::fs::read_to_string(state.path().join(NAME)).unwrap();
        assert_eq!(lines.lines().filter(|line| !line.is_empty()).count(), 3);
        let again = Pushes::open(state.path(), day(12));
        assert!(again.knows("r.io", "app", day(40)) && again.knows("r.io", "other", day(40)));
        assert!(!again.knows("r.io", "app", day(41)) && !again.knows("s.io", "app", day(12)));
        // A time to come proves nothing.
        assert!(!again.knows("r.io", "app", day(10)));
        assert!(!Pushes::open(state.path(), day(45)).knows("r.io", "app", day(45)));
    }

    #[test]
    fn torn_lines_are_ignored_wherever_they_are_cut() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join(NAME);
        Pushes::open(state.path(), day(0)).note("r.io", "app", day(0));
        let whole = std::fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            let pushes = Pushes::open(state.path(), day(1));
            pushes.note("r.io", "b", day(1));
            let again = Pushes::open(state.path(), day(1));
            assert!(again.knows("r.io", "b", day(1)), "cut at {cut}");
            assert_eq!(again.knows("r.io", "app", day(1)), cut + 1 >= whole.len(), "cut at {cut}");
        }
    }

    #[test]
    fn a_file_of_worthless_lines_is_written_anew() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join(NAME);
        std::fs::write(&file, "x\n".repeat(MOST_LINES + 1)).unwrap();
        Pushes::open(state.path(), day(0)).note("r.io", "app", day(0));
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().filter(|line| !line.is_empty()).count(), 1);
        assert!(Pushes::open(state.path(), day(1)).knows("r.io", "app", day(1)));
    }
}
