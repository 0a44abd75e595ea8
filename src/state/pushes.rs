//! Which parts of which registries have taken a push, and when that was last seen: there, what a registry lists is its own, and not the
//! answer of an upstream behind it.
//!
//! One JSON line a push that was remembered, appended; of two lines for one part the later counts. Losing the file costs one upload, opened and cancelled, for each part.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::JsonLines;

use crate::mutex::{Mutex, MutexGuard};

/// The file's name in the state directory.
const NAME: &str = "pushes.jsonl";

/// No push proves anything for longer: somebody may put a cache in the registry's place. A month, because that is rare and asking again
/// costs two requests.
const KEEP: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A push that is seen again is written down when the last line is so old: well before it is forgotten, and not every night.
const RENEWED: SignedDuration = SignedDuration::from_hours(10 * 24);

/// More lines than this, and those that no longer count are removed when the file is opened.
const MOST_LINES: usize = 10_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
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
    kept: Option<(PathBuf, JsonLines<Line>)>,
    known: Mutex<Known>,
}

type Known = HashMap<(String, String), Timestamp>;

impl Pushes {
    /// Opens the file in this state folder. What cannot be read is not known.
    pub fn open(state: &Path, now: Timestamp) -> Self {
        let journal = JsonLines::new(state, NAME);
        let read = journal.read().unwrap_or_default();
        let known = latest(&read.values, now);
        if read.lines > MOST_LINES.max(2 * known.len())
            && let Err(error) = journal.rewrite(|lines| {
                let latest = latest(&lines, now);
                let mut kept: Vec<Line> = latest.into_iter().map(|((registry, part), at)| Line::new(&registry, &part, at)).collect();
                kept.sort_by(|a, b| (&a.registry, &a.part).cmp(&(&b.registry, &b.part)));
                kept
            })
        {
            tracing::debug!(%error, "the pushes that were remembered could not be written anew");
        }
        Pushes { kept: Some((state.to_owned(), journal)), known: Mutex::new(known) }
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
        let Some((state, journal)) = &self.kept else { return };
        if let Err(error) = std::fs::create_dir_all(state).and_then(|()| journal.append(&Line::new(registry, part, now))) {
            tracing::debug!(%error, "that a push was taken could not be written down");
        }
    }

    fn last(&self, registry: &str, part: &str) -> Option<Timestamp> {
        self.known().get(&(registry.to_owned(), part.to_owned())).copied()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

/// A time to come is that of a clock that was wrong.
fn is_within(at: Timestamp, now: Timestamp, length: SignedDuration) -> bool {
    at <= now && now.duration_since(at) < length
}

impl Line {
    fn new(registry: &str, part: &str, at: Timestamp) -> Self {
        Line { registry: registry.to_owned(), part: part.to_owned(), at: at.to_string() }
    }
}

/// The last push of each part that is not too old.
fn latest(lines: &[Line], now: Timestamp) -> Known {
    let read = |line: &Line| Some(((line.registry.clone(), line.part.clone()), line.at.parse().ok()?));
    lines.iter().filter_map(read).filter(|(_, at)| is_within(*at, now, KEEP)).collect()
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
