//! The contents of `index.json`: entries by name and in order. Entries that larder does not know are kept as they are.

use std::collections::HashMap;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::entry::IndexEntry;
use crate::content::Digest;

/// It has no more entries than this: shorter ones than descriptors can be would fill the memory with entries that are none.
pub(crate) const MOST_ENTRIES: usize = 500_000;

/// A list of at most [`MOST_ENTRIES`]. Go writes an empty one as `null`.
pub(crate) fn entries<'de, D: Deserializer<'de>, T: Deserialize<'de>>(json: D) -> Result<Vec<T>, D::Error> {
    struct List<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }
        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(vec![])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut entries = vec![];
            while let Some(entry) = list.next_element()? {
                if entries.len() == MOST_ENTRIES {
                    return Err(serde::de::Error::custom(format!("more than {MOST_ENTRIES} entries")));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    json.deserialize_any(List(std::marker::PhantomData))
}

/// An entry as it stands in the file. It is never changed, only replaced.
pub(super) struct RawEntry {
    /// As text, ready to be written again. Equal values have equal texts: keys are sorted.
    json: Box<str>,
    parsed: Result<IndexEntry, String>,
}

impl From<Value> for RawEntry {
    fn from(value: Value) -> Self {
        RawEntry { parsed: IndexEntry::parse(&value), json: value.to_string().into() }
    }
}

/// The contents of an `index.json`.
#[derive(Clone)]
pub(super) struct LayoutIndex {
    /// Everything but `manifests`.
    rest: Map<String, Value>,
    raw: Vec<Arc<RawEntry>>,
    /// Where the first entry of each ref.name is: of two entries with one name, tools take the first.
    by_name: HashMap<String, usize>,
}

impl LayoutIndex {
    /// Reads the file's bytes. The error is for a person.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| format!("index.json is not JSON of an index: {error}");
        // Entry by entry: as one value, the whole file would take many times its size.
        let mut members: HashMap<String, &RawValue> = serde_json::from_slice(bytes).map_err(wrong)?;
        let manifests = members.remove("manifests").filter(|list| list.get().starts_with(['[', 'n']));
        let manifests = manifests.ok_or("index.json has no `manifests`")?;
        let manifests: Vec<&RawValue> = entries(&mut serde_json::Deserializer::from_str(manifests.get())).map_err(wrong)?;
        let entry = |json: &RawValue| serde_json::from_str::<Value>(json.get()).map(|value| Arc::new(RawEntry::from(value)));
        let raw = manifests.into_iter().map(entry).collect::<Result<_, _>>().map_err(wrong)?;
        let member = |(key, json): (String, &RawValue)| Ok((key, serde_json::from_str::<Value>(json.get())?));
        let rest = members.into_iter().map(member).collect::<Result<_, _>>().map_err(wrong)?;
        let mut index = LayoutIndex { rest, raw, by_name: HashMap::new() };
        index.find_names();
        Ok(index)
    }

    fn find_names(&mut self) {
        self.by_name.clear();
        for (at, raw) in self.raw.iter().enumerate() {
            if let Ok(IndexEntry { name: Some(name), .. }) = &raw.parsed {
                self.by_name.entry(name.clone()).or_insert(at);
            }
        }
    }

    /// The entries that are descriptors, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &IndexEntry> {
        self.raw.iter().filter_map(|raw| raw.parsed.as_ref().ok())
    }

    /// What is wrong with those that are none.
    pub(super) fn malformed(&self) -> impl Iterator<Item = String> {
        self.raw
            .iter()
            .enumerate()
            .filter_map(|(at, raw)| raw.parsed.as_ref().err().map(|why| format!("entry {} of index.json is no descriptor: {why}", at + 1)))
    }

    /// The entry of exactly this name.
    pub(super) fn named(&self, name: &str) -> Option<&IndexEntry> {
        self.raw.get(*self.by_name.get(name)?)?.parsed.as_ref().ok()
    }

    /// The entry that says itself that it has this name.
    pub(super) fn stating(&self, name: &str) -> Option<&IndexEntry> {
        self.named(name).or_else(|| self.entries().find(|entry| entry.full_name() == Some(name)))
    }

    /// What the index says a manifest is; empty if it does not say.
    pub(super) fn media_type(&self, digest: &Digest) -> String {
        let entry = self.entries().find(|entry| entry.descriptor.digest == *digest);
        entry.map(|entry| entry.descriptor.media_type.clone()).unwrap_or_default()
    }

    /// Puts an entry of this name where there is one, or at the end. Whether anything changed.
    pub(super) fn name(&mut self, name: &str, entry: Value) -> bool {
        self.set(name, &Arc::new(RawEntry::from(entry)))
    }

    /// Puts an entry without a name at the end.
    pub(super) fn add(&mut self, entry: Value) {
        self.raw.push(Arc::new(RawEntry::from(entry)));
    }

    /// Drops the entries that `keep` does not want; those that are no descriptors stay. Whether there were any.
    pub(super) fn retain(&mut self, keep: impl Fn(&IndexEntry) -> bool) -> bool {
        let before = self.raw.len();
        self.raw.retain(|raw| raw.parsed.as_ref().map_or(true, &keep));
        self.find_names();
        self.raw.len() != before
    }

    /// Puts an entry in the place of the one with its name, or at the end. Whether anything changed.
    pub(super) fn set(&mut self, name: &str, raw: &Arc<RawEntry>) -> bool {
        let Some(slot) = self.by_name.get(name).and_then(|at| self.raw.get_mut(*at)) else {
            self.by_name.insert(name.to_owned(), self.raw.len());
            self.raw.push(raw.clone());
            return true;
        };
        if slot.json == raw.json {
            return false;
        }
        *slot = raw.clone();
        // One entry per name: a later one of this name, which nobody reads, would outlive the content it points to.
        let kept = slot.clone();
        let before = self.raw.len();
        self.raw.retain(|other| Arc::ptr_eq(other, &kept) || !matches!(&other.parsed, Ok(entry) if entry.name.as_deref() == Some(name)));
        if self.raw.len() != before {
            self.find_names();
        }
        true
    }

    /// The bytes of the file. The entries' texts are joined: of thousands, each writing changes a few.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string(&self.rest)?;
        text.reserve(self.raw.iter().map(|raw| raw.json.len() + 1).sum::<usize>() + 16);
        // Where the object ended, its last member follows.
        text.pop();
        text += if self.rest.is_empty() { "\"manifests\":[" } else { ",\"manifests\":[" };
        for (at, raw) in self.raw.iter().enumerate() {
            text += if at == 0 { "" } else { "," };
            text += &raw.json;
        }
        text += "]}";
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_its_bounds() {
        let many = |entry: &str, count: usize| format!("{{\"manifests\":[{}{entry}]}}", format!("{entry},").repeat(count - 1));
        assert_eq!(LayoutIndex::parse(many("{}", MOST_ENTRIES).as_bytes()).ok().unwrap().raw.len(), MOST_ENTRIES);
        let error = LayoutIndex::parse(many("{}", MOST_ENTRIES + 1).as_bytes()).err().unwrap();
        assert!(error.contains("more than 500000 entries"), "{error}");
        for (text, why) in [
            ("{}", "no `manifests`"),
            ("{\"manifests\":{}}", "no `manifests`"),
            ("[]", "not JSON of an index"),
            ("{\"manifests\":[}", "not JSON"),
        ] {
            let error = LayoutIndex::parse(text.as_bytes()).err().unwrap();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
