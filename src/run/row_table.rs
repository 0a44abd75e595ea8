//! The table of a run's rows: each wanted image has one place, whether its row is finished or not, so that a long list is in memory once.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use crate::report::ImageOutcome;

/// How far a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowState {
    /// It is wanted and not done: it remains when a run is cut short.
    Pending,
    Finished,
    /// Other rows have taken its place.
    Replaced,
}

struct Slot {
    row: ImageOutcome,
    /// The row's place in the lists.
    order: usize,
    state: RowState,
}

/// Rows by their places in the lists and their sources: one line may want several images.
#[derive(Default)]
pub(super) struct RowTable {
    slots: Vec<Slot>,
    hasher: RandomState,
    /// By place and hash of the source. Of two sources with one hash, the second is found under the next number.
    places: HashMap<(usize, u64), usize>,
}

impl RowTable {
    /// `row` is wanted.
    pub(super) fn expect(&mut self, order: usize, row: ImageOutcome) {
        self.put(order, row, RowState::Pending);
    }

    /// `row` is finished. Two lines may fail with the same text at the same place of two lists: each keeps its row.
    pub(super) fn finish(&mut self, order: usize, row: ImageOutcome) {
        self.put(order, row, RowState::Finished);
    }

    /// Other rows take the place of this one, unless it is finished.
    pub(super) fn replace(&mut self, order: usize, source: &str) {
        if let Ok(at) = self.find(order, source)
            && let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.state == RowState::Pending)
        {
            slot.state = RowState::Replaced;
        }
    }

    /// Brings the rows into list order, and calls `end` for each that is not finished.
    pub(super) fn end(&mut self, mut end: impl FnMut(usize, &mut ImageOutcome)) {
        self.places.clear();
        self.slots.sort_by(|a, b| (a.order, &a.row.source).cmp(&(b.order, &b.row.source)));
        for slot in self.slots.iter_mut().filter(|slot| slot.state == RowState::Pending) {
            end(slot.order, &mut slot.row);
            slot.state = RowState::Finished;
        }
    }

    /// The finished rows.
    pub(super) fn into_rows(self) -> Vec<ImageOutcome> {
        self.slots.into_iter().filter(|slot| slot.state == RowState::Finished).map(|slot| slot.row).collect()
    }

    fn put(&mut self, order: usize, row: ImageOutcome, state: RowState) {
        let found = self.find(order, &row.source);
        if let Ok(at) = found
            && let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.state != RowState::Finished)
        {
            *slot = Slot { row, order, state };
            return;
        }
        let key = match found {
            Ok(_) => (order, self.hasher.hash_one(&row.source)),
            Err(free) => free,
        };
        self.places.insert(key, self.slots.len());
        self.slots.push(Slot { row, order, state });
    }

    /// Where the row is; else the key under which it may be put.
    fn find(&self, order: usize, source: &str) -> Result<usize, (usize, u64)> {
        let mut key = (order, self.hasher.hash_one(source));
        while let Some(&at) = self.places.get(&key) {
            if self.slots.get(at).is_some_and(|slot| slot.row.source == source) {
                return Ok(at);
            }
            key.1 = key.1.wrapping_add(1);
        }
        Err(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, note: &str) -> ImageOutcome {
        ImageOutcome { notes: vec![note.to_owned()], ..ImageOutcome::new(source, "", "list.txt", 1) }
    }

    #[test]
    fn rows_come_in_list_order_and_replaced_ones_do_not_come() {
        let mut table = RowTable::default();
        for (order, source) in [(7, "b"), (2, "c"), (7, "a"), (5, "line")] {
            table.expect(order, row(source, "wanted"));
        }
        table.replace(5, "line");
        table.replace(9, "unknown");
        table.finish(7, row("a", "done"));
        table.replace(7, "a");
        // The same text at the same place of two lists.
        table.finish(7, row("a", "done again"));
        let mut ended = vec![];
        table.end(|order, row| {
            row.notes = vec!["ended".to_owned()];
            ended.push((order, row.source.clone()));
        });
        assert_eq!(ended, [(2, "c".to_owned()), (7, "b".to_owned())]);
        let rows: Vec<(String, String)> = table.into_rows().into_iter().map(|row| (row.source, row.notes[0].clone())).collect();
        let expected = [("c", "ended"), ("a", "done"), ("a", "done again"), ("b", "ended")];
        assert_eq!(rows, expected.map(|(source, note)| (source.to_owned(), note.to_owned())));
    }
}
