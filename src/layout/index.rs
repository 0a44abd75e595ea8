//! `index.json`: read once while it does not change, replaced whole, entries that larder does not know kept as they are.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, OnceLock};

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::time::{Duration, Instant};

use super::files::{self, Files, MAX_INDEX, blocking, found};
use super::referrers::{self, PendingReferrers};
use super::{IMAGE_NAME, REF_NAME, damaged};
use crate::content::{Descriptor, Digest, Repository};
use crate::folder::Status;
use crate::mutex::Mutex;
use crate::name::{Reference, check_tag};
use crate::{Error, Kind, Result, Side, input};

const OP: &str = "read layout";

/// After a writing of the file, the next one waits so many times as long as it took: names that come meanwhile join it, and
/// writing takes a quarter of the time at most. Without, a file of 1,000 names was written 620 times while it grew, with this 250
/// times, and 4,000 tiny images took 12.8 s instead of 8.3 (2 cores; the entries' ready texts, [`RawEntry`], have their part in it).
const REST: u32 = 3;

/// No name waits longer than this for others.
const LONGEST_REST: Duration = Duration::from_secs(1);

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

/// An entry of `index.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// What it points to, with its annotations.
    pub descriptor: Descriptor,
    /// `org.opencontainers.image.ref.name`: `library/alpine:3.20` where larder wrote it, often a bare tag elsewhere.
    pub name: Option<String>,
    /// `io.containerd.image.name`: the canonical name of what it was copied from.
    pub source: Option<String>,
}

impl IndexEntry {
    fn parse(value: &Value) -> Result<Self, String> {
        serde_json::from_value::<Descriptor>(value.clone()).map(Self::of).map_err(|error| error.to_string())
    }

    /// An entry with what the annotations of `descriptor` say.
    pub fn of(descriptor: Descriptor) -> Self {
        let annotation = |key| descriptor.annotations.get(key).filter(|value: &&String| !value.is_empty()).cloned();
        IndexEntry { name: annotation(REF_NAME), source: annotation(IMAGE_NAME), descriptor }
    }

    /// Its repository, and its tag or digest there, as far as it states them: by larder's own name, else by the name of what it
    /// was copied from. A bare tag, as other tools write it, does not say what it is a tag of.
    pub fn title(&self) -> Option<(Repository, Reference)> {
        split(super::source::stated_name(self)?)
    }

    /// Whether it says which repository it belongs to.
    pub fn states_repository(&self) -> bool {
        super::source::stated_name(self).is_some()
    }

    /// How messages call the image.
    pub(super) fn display_name(&self) -> String {
        match (&self.name, &self.source) {
            // A bare tag, as other tools write it, does not say what it is a tag of.
            (Some(name), Some(source)) if is_bare(name) => source.clone(),
            (Some(name), _) => name.clone(),
            (None, Some(source)) => source.clone(),
            (None, None) => match referrers::stated(self) {
                Some(subject) => format!("a referrer of {subject}"),
                None => format!("an entry without a name ({})", self.descriptor.digest),
            },
        }
    }
}

/// Whether a ref.name is a tag without a repository.
pub(super) fn is_bare(name: &str) -> bool {
    !name.contains(['/', ':', '@'])
}

/// `library/alpine:3.20` and `library/alpine@sha256:…`, in two.
fn split(name: &str) -> Option<(Repository, Reference)> {
    let (repository, reference) = match name.split_once('@') {
        // Of `name:tag@digest` the tag is for people.
        Some((repository, digest)) => {
            let repository =
                repository.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(repository, |(repository, _)| repository);
            (repository, Reference::Digest(Digest::parse(digest).ok()?))
        }
        None => {
            let (repository, tag) = name.rsplit_once(':')?;
            check_tag(tag).ok()?;
            (repository, Reference::Tag(tag.to_owned()))
        }
    };
    let plain = !repository.is_empty() && !repository.contains(|c: char| c.is_whitespace() || c.is_control());
    plain.then(|| (Repository::new(repository), reference))
}

/// An entry as it stands in the file. Never changed, only replaced.
struct RawEntry {
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
    fn set(&mut self, name: &str, raw: &Arc<RawEntry>) -> bool {
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
    fn to_json(&self) -> serde_json::Result<String> {
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

/// What is to become of the index.
enum IndexChange {
    /// An entry of this name.
    Name(String, Arc<RawEntry>),
    /// Entries of referrers.
    Referrers(PendingReferrers),
}

/// A change on its way into the index.
struct PendingChange {
    change: IndexChange,
    done: OnceLock<Result<()>>,
}

/// The file, with what it held when it was last read.
pub(super) struct IndexFile {
    files: Files,
    cache: Mutex<Option<CachedIndex>>,
    queue: Mutex<Vec<Arc<PendingChange>>>,
    /// Held by who writes; when the next one may.
    turn: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

struct CachedIndex {
    /// Kept open so that its inode number is not given to a successor, which would then look like the same file.
    _file: File,
    status: Status,
    index: Arc<LayoutIndex>,
}

impl IndexFile {
    pub(super) fn new(files: Files) -> Self {
        IndexFile { files, cache: Mutex::default(), queue: Mutex::default(), turn: Arc::default() }
    }

    /// What the file holds now. Blocks.
    pub(super) fn read(&self) -> Result<Arc<LayoutIndex>> {
        let io = |error| self.files.failed(OP, files::index(), &error);
        let missing = || {
            Error::new(Side::Local, OP, Kind::NotFound, format!("{} is no OCI layout: it has no index.json", self.files.root().display()))
        };
        let now = found(self.files.folder().status(files::index())).map_err(io)?.ok_or_else(missing)?;
        let mut cache = self.cache.lock();
        if let Some(cached) = &*cache
            && cached.status.is_unchanged(&now)
        {
            return Ok(cached.index.clone());
        }
        let file = found(self.files.folder().read(files::index())).map_err(io)?.ok_or_else(missing)?;
        let status = Status::of(&file).map_err(io)?;
        let bytes = input::read_from(&file, MAX_INDEX).map_err(io)?;
        let wrong = |why: String| damaged(OP, format!("{}: {why}", self.files.root().display()));
        let index = Arc::new(LayoutIndex::parse(&bytes).map_err(wrong)?);
        *cache = Some(CachedIndex { _file: file, status, index: index.clone() });
        Ok(index)
    }

    /// Gives `manifest` the name `name` beside its own annotations, and says where it came from. Names that are given at the same time are written
    /// together: whoever has the turn writes all that wait, so that thousands of them do not cost thousands of
    /// rewritings of a file that grows with each. The caller has seen that what it names is complete.
    pub(super) async fn publish(self: &Arc<Self>, name: String, manifest: &Descriptor, source: &str) -> Result<()> {
        self.publish_about(name, manifest, source, None).await
    }

    /// As [`IndexFile::publish`], for a manifest that is about `subject`.
    pub(super) async fn publish_about(
        self: &Arc<Self>,
        name: String,
        manifest: &Descriptor,
        source: &str,
        subject: Option<&Digest>,
    ) -> Result<()> {
        let raw = Arc::new(RawEntry::from(referrers::entry(&name, manifest, Some(source), subject)));
        self.change(IndexChange::Name(name, raw)).await
    }

    /// Lists referrers. The caller has seen that they are complete.
    pub(super) async fn attach(self: &Arc<Self>, attached: PendingReferrers) -> Result<()> {
        self.change(IndexChange::Referrers(attached)).await
    }

    async fn change(self: &Arc<Self>, change: IndexChange) -> Result<()> {
        let pending = Arc::new(PendingChange { change, done: OnceLock::new() });
        self.queue.lock().push(pending.clone());
        let mut turn = self.turn.clone().lock_owned().await;
        if let Some(result) = pending.done.get() {
            return result.clone();
        }
        if let Some(next) = *turn {
            tokio::time::sleep_until(next).await;
        }
        let this = self.clone();
        blocking(move || {
            // The turn is moved in here, so that nobody has it before the batch is done, even if who started it is gone.
            let started = Instant::now();
            let batch = std::mem::take(&mut *this.queue.lock());
            let written = this.write(&batch);
            *turn = Some(Instant::now() + (started.elapsed() * REST).min(LONGEST_REST));
            for pending in batch {
                // A change that was refused has its own result already. Nobody else sets it: only the holder of the turn does, and it
                // took the batch out of the queue.
                let _ = pending.done.set(written.clone());
            }
            pending.done.get().cloned().unwrap_or(written)
        })
        .await
    }

    /// Reads, changes and replaces the file under the layout's lock. A change that is refused gets its result at once, and the others go on.
    fn write(&self, batch: &[Arc<PendingChange>]) -> Result<()> {
        let _lock = super::lock::index(&self.files)?;
        let mut index = LayoutIndex::clone(&*self.read()?);
        let mut changed = false;
        for pending in batch {
            changed |= match &pending.change {
                IndexChange::Name(name, raw) => index.set(name, raw),
                IndexChange::Referrers(attached) => attached.put(&self.files, &mut index).unwrap_or_else(|refused| {
                    let _ = pending.done.set(Err(refused));
                    false
                }),
            };
        }
        if changed { self.replace(index) } else { Ok(()) }
    }

    /// Drops the entries that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&IndexEntry) -> bool) -> Result<()> {
        let _lock = super::lock::index(&self.files)?;
        let mut index = LayoutIndex::clone(&*self.read()?);
        if index.retain(keep) { self.replace(index) } else { Ok(()) }
    }

    /// Replaces the file. The caller holds its lock.
    fn replace(&self, index: LayoutIndex) -> Result<()> {
        let text = index.to_json().map_err(|error| Error::local("write layout", error.to_string()))?;
        if text.len() as u64 > MAX_INDEX {
            let message = format!("index.json would have more than {MAX_INDEX} bytes, which is more than larder reads");
            return Err(Error::local("write layout", message).remedy("use another layout for some of the images"));
        }
        self.files.sync_blob_names()?;
        let file = self.files.replace(files::index(), text.as_bytes())?;
        let status = Status::of(&file).map_err(|error| self.files.failed(OP, files::index(), &error))?;
        *self.cache.lock() = Some(CachedIndex { _file: file, status, index: Arc::new(index) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Layout;
    use super::super::testing::{OCI_MANIFEST, folder, image, name, names, put};
    use super::*;
    use serde_json::json;

    const HEX: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn file(layout: &Layout) -> Value {
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap()
    }

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

    #[tokio::test]
    async fn a_name_is_one_entry_that_says_where_it_came_from() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let (old, new) = (image(&["old"]), image(&["new"]));
        put(&layout, "library/alpine:3.20", &old).await;
        put(&layout, "library/busybox:1", &old).await;
        let by_digest = format!("library/alpine@{}", old.manifest.digest());
        name(&layout, &by_digest, &old).await.unwrap();
        put(&layout, "library/alpine:3.20", &new).await;
        assert_eq!(names(&layout).await, ["library/alpine:3.20", "library/busybox:1", &by_digest], "replaced in its place");
        assert_eq!(
            file(&layout)["manifests"][0],
            json!({
                "mediaType": OCI_MANIFEST, "digest": new.manifest.digest().as_str(), "size": new.manifest.bytes().len(),
                "annotations": {
                    "org.opencontainers.image.ref.name": "library/alpine:3.20",
                    "io.containerd.image.name": "docker.io/library/alpine:3.20",
                },
            })
        );
        assert_eq!(file(&layout)["manifests"][1]["digest"], json!(old.manifest.digest().as_str()));
    }

    #[tokio::test]
    async fn what_is_not_larders_in_the_file_is_kept_as_it_is() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let named = json!({"mediaType": "application/xml", "digest": format!("sha256:{HEX}"), "size": 2, "data": "e30=",
            "annotations": {"org.opencontainers.image.ref.name": "v1", "com.example": "x"}, "platform": {"os": "plan9", "strange": 1}});
        let unnamed = json!({"mediaType": OCI_MANIFEST, "digest": format!("sha256:{HEX}"), "size": 2});
        let malformed = json!({"digest": "sha256:../../etc/passwd", "size": 1});
        let twice = json!({"digest": format!("sha256:{HEX}"), "size": 2, "annotations": {"org.opencontainers.image.ref.name": "a:1"}});
        let before = json!({"schemaVersion": 2, "annotations": {"k": "v"}, "unknown": [1, {"x": null}],
            "manifests": [named, twice, unnamed, malformed, twice]});
        fs::write(layout.path().join("index.json"), before.to_string()).unwrap();
        let image = image(&["layer"]);
        put(&layout, "library/alpine:3.20", &image).await;
        put(&layout, "a:1", &image).await;
        let mut after = file(&layout);
        let entries = after["manifests"].as_array_mut().unwrap();
        assert_eq!(entries.len(), 5, "the second of two entries of one name, which nobody reads, is gone with the first");
        assert_eq!([&entries[0], &entries[2], &entries[3]], [&named, &unnamed, &malformed]);
        assert_eq!(entries[1]["digest"], json!(image.manifest.digest().as_str()));
        assert_eq!((&after["annotations"], &after["unknown"]), (&before["annotations"], &before["unknown"]));
        assert_eq!(names(&layout).await, ["v1", "a:1", "", "library/alpine:3.20"], "what is no descriptor is passed over");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_handles_that_publish_at_once_lose_no_name() {
        let dir = folder();
        let handles = [Layout::open_or_create(dir.path()).await.unwrap(), Layout::open_or_create(dir.path()).await.unwrap()];
        let image = Arc::new(image(&["layer"]));
        super::super::testing::fill(&handles[0], &image).await;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100 {
            let (layout, image) = (handles[n % 2].clone(), image.clone());
            tasks.spawn(async move { name(&layout, &format!("many:{n}"), &image).await });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap().unwrap();
        }
        let mut expected: Vec<String> = (0..100).map(|n| format!("many:{n}")).collect();
        expected.sort();
        for layout in &handles {
            let mut found = names(layout).await;
            found.sort();
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn who_gave_up_waiting_harms_nobody() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = image(&["layer"]);
        super::super::testing::fill(&layout, &image).await;
        let lock = super::super::lock::index(&layout.0.files).unwrap();
        let (index, root) = (&layout.0.index, image.manifest.descriptor());
        // Polled once, the first has the turn and waits for the lock on a thread of its own; the second waits for the first.
        let mut first = Box::pin(index.publish("a:1".to_owned(), &root, "x"));
        let mut second = Box::pin(index.publish("a:2".to_owned(), &root, "x"));
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(lock);
        second.await.unwrap();
        assert_eq!(names(&layout).await, ["a:1", "a:2"], "what was begun is finished");
    }

    #[tokio::test]
    async fn an_unchanged_name_is_not_written_again() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let image = image(&["layer"]);
        put(&layout, "a:1", &image).await;
        let status = || layout.0.files.folder().status(files::index()).unwrap();
        let before = status();
        put(&layout, "a:1", &image).await;
        assert!(status().is_unchanged(&before));
    }
}
