//! The contents of `index.json`: entries by name and in order. Entries that larder does not know are kept as they are.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::entry::{IMAGE_NAME, IndexEntry, REF_NAME};
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
    /// Without the annotations that name it, if it has a name.
    parsed: Result<IndexEntry, String>,
}

impl From<Value> for RawEntry {
    fn from(value: Value) -> Self {
        let mut parsed = IndexEntry::parse(&value);
        if let Ok(entry) = &mut parsed
            && entry.name.is_some()
        {
            // They are fields of the entry, too. Of thousands of entries, most have no other annotations, and a map with one takes half a KiB.
            entry.descriptor.annotations.retain(|key, _| key != REF_NAME && key != IMAGE_NAME);
            entry.descriptor.free_empty_annotations();
        }
        RawEntry { parsed, json: value.to_string().into() }
    }
}

/// The contents of an `index.json`.
#[derive(Clone)]
pub(super) struct LayoutIndex {
    /// Everything but `manifests`.
    rest: Map<String, Value>,
    raw: Vec<Arc<RawEntry>>,
    /// Of two entries with one name, tools take the first.
    by_name: FirstEntries,
    by_digest: FirstEntries,
}

/// Where the first entry with each key is. Only hashes of the keys are kept: the keys are in the entries.
#[derive(Clone, Default)]
struct FirstEntries {
    hasher: RandomState,
    first: HashMap<u64, usize>,
    /// Whether a key was added twice.
    repeats: bool,
}

impl FirstEntries {
    fn add(&mut self, key: &str, at: usize) {
        let first = *self.first.entry(self.hasher.hash_one(key)).or_insert(at);
        self.repeats |= first != at;
    }

    fn clear(&mut self) {
        self.first.clear();
        self.repeats = false;
    }

    /// The first of `entries` for which `has_key` is true, which says whether an entry has this key.
    fn find(&self, entries: &[Arc<RawEntry>], key: &str, has_key: impl Fn(&IndexEntry) -> bool) -> Option<usize> {
        let has_key = |raw: &Arc<RawEntry>| raw.parsed.as_ref().is_ok_and(&has_key);
        let at = *self.first.get(&self.hasher.hash_one(key))?;
        // Another key may have the same hash.
        if entries.get(at).is_some_and(has_key) { Some(at) } else { entries.iter().position(has_key) }
    }
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
        let mut index = LayoutIndex { rest, raw, by_name: FirstEntries::default(), by_digest: FirstEntries::default() };
        index.find_keys();
        Ok(index)
    }

    fn find_keys(&mut self) {
        self.by_name.clear();
        self.by_digest.clear();
        for at in 0..self.raw.len() {
            self.find_keys_of(at);
        }
    }

    fn find_keys_of(&mut self, at: usize) {
        if let Some(Ok(entry)) = self.raw.get(at).map(|raw| &raw.parsed) {
            self.by_digest.add(entry.descriptor.digest.as_str(), at);
            if let Some(name) = &entry.name {
                self.by_name.add(name, at);
            }
        }
    }

    /// Where the first entry of this name is.
    fn position(&self, name: &str) -> Option<usize> {
        self.by_name.find(&self.raw, name, |entry| entry.name.as_deref() == Some(name))
    }

    /// The entries that are descriptors, with all their annotations, in order.
    pub(super) fn whole_entries(&self) -> impl Iterator<Item = IndexEntry> {
        let whole = |raw: &Arc<RawEntry>| serde_json::from_str::<Value>(&raw.json).ok().and_then(|value| IndexEntry::parse(&value).ok());
        self.raw.iter().filter(|raw| raw.parsed.is_ok()).filter_map(whole)
    }

    /// The entries that are descriptors, in order. The annotations that name them are in their fields only.
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
        self.raw.get(self.position(name)?)?.parsed.as_ref().ok()
    }

    /// The entry that says itself that it has this name.
    pub(super) fn stating(&self, name: &str) -> Option<&IndexEntry> {
        self.named(name).or_else(|| self.entries().find(|entry| entry.full_name() == Some(name)))
    }

    /// Whether an entry points to this manifest.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.position_of(digest).is_some()
    }

    /// Where the first entry of this digest is.
    fn position_of(&self, digest: &Digest) -> Option<usize> {
        self.by_digest.find(&self.raw, digest.as_str(), |entry| entry.descriptor.digest == *digest)
    }

    /// What the index says a manifest is; empty if it does not say.
    pub(super) fn media_type(&self, digest: &Digest) -> String {
        let entry = self.position_of(digest).and_then(|at| self.raw.get(at)?.parsed.as_ref().ok());
        entry.map(|entry| entry.descriptor.media_type.clone()).unwrap_or_default()
    }

    /// Puts an entry of this name where there is one, or at the end. Whether anything changed.
    pub(super) fn name(&mut self, name: &str, entry: Value) -> bool {
        self.set(name, &Arc::new(RawEntry::from(entry)))
    }

    /// Puts an entry without a name at the end.
    pub(super) fn add(&mut self, entry: Value) {
        self.push(Arc::new(RawEntry::from(entry)));
    }

    fn push(&mut self, raw: Arc<RawEntry>) {
        self.raw.push(raw);
        self.find_keys_of(self.raw.len() - 1);
    }

    /// Drops the entries that `keep` does not want; those that are no descriptors stay. Whether there were any.
    pub(super) fn retain(&mut self, keep: impl Fn(&IndexEntry) -> bool) -> bool {
        let before = self.raw.len();
        self.raw.retain(|raw| raw.parsed.as_ref().map_or(true, &keep));
        self.find_keys();
        self.raw.len() != before
    }

    /// Puts an entry in the place of the one with its name, or at the end. Whether anything changed.
    pub(super) fn set(&mut self, name: &str, raw: &Arc<RawEntry>) -> bool {
        let Some(at) = self.position(name) else {
            self.push(raw.clone());
            return true;
        };
        match self.raw.get_mut(at) {
            Some(slot) if slot.json != raw.json => *slot = raw.clone(),
            _ => return false,
        }
        self.find_keys_of(at);
        // One entry per name: a later one of this name, which nobody reads, would outlive the content it points to.
        if self.by_name.repeats {
            self.raw.retain(|other| Arc::ptr_eq(other, raw) || !matches!(&other.parsed, Ok(entry) if entry.name.as_deref() == Some(name)));
            self.find_keys();
        }
        true
    }

    /// Writes the bytes of the file. The entries' texts are joined: of thousands, each writing changes a few.
    pub(super) fn write_json(&self, file: &mut dyn io::Write) -> io::Result<()> {
        let mut rest = serde_json::to_string(&self.rest)?;
        // Where the object ended, its last member follows.
        rest.pop();
        file.write_all(rest.as_bytes())?;
        file.write_all(if self.rest.is_empty() { b"\"manifests\":[" } else { b",\"manifests\":[" })?;
        for (at, raw) in self.raw.iter().enumerate() {
            file.write_all(if at == 0 { b"" } else { b"," })?;
            file.write_all(raw.json.as_bytes())?;
        }
        file.write_all(b"]}")
    }

    /// At least how many bytes the file has.
    pub(super) fn min_len(&self) -> u64 {
        self.raw.iter().map(|raw| raw.json.len() as u64 + 1).sum()
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
