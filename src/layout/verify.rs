//! Checks a whole layout: every file hashed once, on all cores, then every graph walked.

use crate::Operation;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::*;

use super::entry::IndexEntry;
use super::files::{self, Files, MAX_INDEX, READ, StoredBlob, hash, marker_problem};
use super::graph;
use super::index::LayoutIndex;
use crate::content::{Descriptor, Digest, GraphNode, Links, MAX_MANIFEST, Manifest, NodeRole};
use crate::{Result, Side};

const OP: Operation = Operation::Verify;

/// What is wrong with one digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutFinding {
    /// Which content.
    pub digest: Digest,
    /// The names of the images it belongs to, in the order of `index.json`; none for content that no name reaches.
    pub images: Vec<String>,
    /// What is wrong with it, for a person.
    pub why: String,
}

/// What a [`verify()`] found.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Entries in `index.json`.
    pub entries: usize,
    /// Distinct manifests that entries reach, and that are there.
    pub manifests: usize,
    /// Distinct configs and layers that entries reach, and that are there.
    pub blobs: usize,
    /// Bytes hashed, of all files under `blobs/`.
    pub bytes: u64,
    /// Content that is not what its name says, in the order of digests.
    pub damaged: Vec<LayoutFinding>,
    /// Content that an image needs and that is not there, in the order of digests. What a missing or damaged index or
    /// manifest would lead to is not known.
    pub missing: Vec<LayoutFinding>,
    /// Content that no name reaches: what interrupted runs and moved tags leave behind, until `gc`.
    pub unreferenced: Vec<Digest>,
    /// What makes it no proper layout: malformed `oci-layout`, `index.json` or entries, digests that cannot be computed.
    pub problems: Vec<String>,
    /// Files under `blobs/` whose names are no digests; harmless.
    pub strays: Vec<String>,
    /// Blobs begun and not finished, which the next run goes on with; harmless.
    pub partials: usize,
}

impl VerifyReport {
    /// Whether every image is complete and right. Unreferenced content, strays and partial blobs do no harm.
    pub fn ok(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty() && self.problems.is_empty()
    }
}

/// Hashes everything in the layout at `path`, on all cores, and checks that every graph is complete. Blocks. `progress`
/// is called from many threads with the bytes hashed since its last call. Takes no lock and writes nothing; a sync may
/// go on meanwhile.
///
/// # Errors
/// If there is no layout at `path`, or it cannot be read at all. What is wrong *in* it is in the report.
pub fn verify(path: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<VerifyReport> {
    let files = Files::open(path)?;
    let mut report = VerifyReport::default();
    let index = read_index(&files, &mut report)?;
    let (stored, strays) = files.stored()?;
    report.strays = strays.iter().map(|stray| stray.display().to_string()).collect();
    report.partials = files.list(&files::partials())?.len();
    let states = hash_all(&files, stored, progress)?;
    report.bytes = states.values().map(|state| state.len).sum();
    let mut check = LayoutCheck {
        files: &files,
        states: &states,
        links: HashMap::new(),
        reached: HashSet::new(),
        damaged: Findings::new(),
        missing: Findings::new(),
    };
    for entry in index.iter().flat_map(LayoutIndex::entries) {
        report.entries += 1;
        check.image(entry)?;
    }
    check.report(&mut report);
    Ok(report)
}

/// The index, if it can be read; what is wrong with it and with `oci-layout` goes into the report.
fn read_index(files: &Files, report: &mut VerifyReport) -> Result<Option<LayoutIndex>> {
    let (marker, index) = (files.read(OP, files::marker(), MAX_INDEX)?, files.read(OP, files::index(), MAX_INDEX)?);
    if marker.is_none() && index.is_none() {
        files.check()?;
    }
    match marker.as_deref() {
        None => report.problems.push("the file `oci-layout` is missing".to_owned()),
        Some(bytes) => report.problems.extend(marker_problem(bytes)),
    }
    match index.as_deref().map(LayoutIndex::parse) {
        None => report.problems.push("the file `index.json` is missing".to_owned()),
        Some(Err(why)) => report.problems.push(why),
        Some(Ok(index)) => {
            report.problems.extend(index.malformed());
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// What a file turned out to be.
struct FileState {
    len: u64,
    verdict: FileVerdict,
}

enum FileVerdict {
    Right,
    Wrong(String),
    /// No way to compute digests of its algorithm.
    Unchecked,
}

fn hash_all(files: &Files, mut stored: Vec<StoredBlob>, progress: &(dyn Fn(u64) + Sync)) -> Result<HashMap<Digest, FileState>> {
    // The largest first, and taken one by one, so that no core is left alone with a large one at the end.
    stored.sort_by_key(|stored| std::cmp::Reverse(stored.len));
    let states = stored
        .into_par_iter()
        .with_max_len(1)
        .map_init(|| vec![0; READ], |buffer, stored| Ok((stored.digest.clone(), hash_one(files, &stored, buffer, progress)?)))
        .filter_map(|result| match result {
            Ok((digest, state)) => state.map(|state| Ok((digest, state))),
            Err(error) => Some(Err(error)),
        });
    states.collect()
}

/// `None`: it went away meanwhile, as what `gc` removes does; if it was needed, it will be missed.
fn hash_one(files: &Files, stored: &StoredBlob, buffer: &mut [u8], progress: &(dyn Fn(u64) + Sync)) -> Result<Option<FileState>> {
    if stored.irregular {
        let verdict = FileVerdict::Wrong("it is not a regular file; links are not followed".to_owned());
        return Ok(Some(FileState { len: stored.len, verdict }));
    }
    let Some(mut hasher) = stored.digest.hasher() else { return Ok(Some(FileState { len: stored.len, verdict: FileVerdict::Unchecked })) };
    let Some(mut file) = files.open_blob(OP, &stored.digest)? else { return Ok(None) };
    let mut len = 0;
    let verdict = match hash(&mut file, &mut hasher, buffer, progress) {
        Ok(read) => {
            len = read;
            let found = hasher.finish();
            if found == stored.digest { FileVerdict::Right } else { FileVerdict::Wrong(format!("its bytes hash to {found}")) }
        }
        // A bad sector is damage to report, and no reason to leave the rest unchecked.
        Err(error) => FileVerdict::Wrong(format!("it cannot be read: {error}")),
    };
    Ok(Some(FileState { len, verdict }))
}

/// For each digest, why, and the images.
type Findings = BTreeMap<Digest, (String, Vec<String>)>;

struct LayoutCheck<'a> {
    files: &'a Files,
    states: &'a HashMap<Digest, FileState>,
    /// What manifests refer to, read once however many images share them; the error says why it is damaged.
    links: HashMap<(Digest, u64), Result<Arc<Links>, String>>,
    /// Whether it is a manifest.
    reached: HashSet<(Digest, bool)>,
    damaged: Findings,
    missing: Findings,
}

impl LayoutCheck<'_> {
    fn image(&mut self, entry: &IndexEntry) -> Result<()> {
        let image = entry.display_name();
        // What has a name is an image; other files may be listed without one.
        let named = entry.name.is_some() || entry.source.is_some();
        let role = if named { NodeRole::Manifest } else { NodeRole::of_child(&entry.descriptor.media_type) };
        graph::walk(&entry.descriptor, role, |node| {
            let links = self.node(node, &image)?;
            self.reached.insert((node.descriptor.digest.clone(), node.role == NodeRole::Manifest || links.is_some()));
            Ok(Some(links.unwrap_or_default()))
        })?;
        Ok(())
    }

    /// Notes what is wrong with a node, and returns what it refers to, if it is a manifest and undamaged.
    fn node(&mut self, GraphNode { descriptor, role, .. }: &GraphNode, image: &str) -> Result<Option<Arc<Links>>> {
        let digest = &descriptor.digest;
        let Some(state) = self.states.get(digest) else {
            if !descriptor.is_foreign() {
                let what = if *role == NodeRole::Blob { "this blob is not there" } else { "this manifest is not there" };
                note(&mut self.missing, digest, what, image);
            }
            return Ok(None);
        };
        let damage = match &state.verdict {
            FileVerdict::Wrong(why) => Some(why.clone()),
            _ if state.len != descriptor.size => Some(graph::size_differs(state.len, descriptor.size)),
            _ if *role == NodeRole::Blob => return Ok(None),
            _ => match self.links_of(descriptor)? {
                Ok(links) => return Ok(Some(links)),
                Err(why) => (*role == NodeRole::Manifest).then_some(why),
            },
        };
        if let Some(why) = damage {
            note(&mut self.damaged, digest, &why, image);
        }
        Ok(None)
    }

    /// Reads a manifest whose hash is known to be right.
    fn links_of(&mut self, node: &Descriptor) -> Result<Result<Arc<Links>, String>> {
        let key = (node.digest.clone(), node.size);
        if let Some(known) = self.links.get(&key) {
            return Ok(known.clone());
        }
        let links = if node.size > MAX_MANIFEST as u64 {
            Err(format!("it has {} bytes, more than a manifest may have ({MAX_MANIFEST})", node.size))
        } else {
            let bytes = Bytes::from(self.files.read(OP, &files::blob(&node.digest), node.size)?.unwrap_or_default());
            let parse = |hint| Manifest::known(bytes.clone(), hint, node.digest.clone(), Side::Local);
            let manifest = parse(Some(node.media_type.as_str())).or_else(|_| parse(None));
            manifest.map(|manifest| Arc::clone(manifest.links())).map_err(|error| error.message())
        };
        self.links.insert(key, links.clone());
        Ok(links)
    }

    fn report(mut self, report: &mut VerifyReport) {
        let reached: HashSet<&Digest> = self.reached.iter().map(|(digest, _)| digest).collect();
        let mut unreferenced = BTreeSet::new();
        for (digest, state) in self.states {
            if !reached.contains(digest) {
                unreferenced.insert(digest.clone());
            }
            match &state.verdict {
                FileVerdict::Right => {}
                // No image suffers, but whoever syncs next would take it for what its name says.
                FileVerdict::Wrong(why) => _ = self.damaged.entry(digest.clone()).or_insert_with(|| (why.clone(), vec![])),
                FileVerdict::Unchecked => {
                    report.problems.push(format!("larder cannot compute {} digests, so {digest} is unchecked", digest.algorithm()));
                }
            }
        }
        let count = |manifest| self.reached.iter().filter(|(digest, is)| *is == manifest && self.states.contains_key(digest)).count();
        (report.manifests, report.blobs) = (count(true), count(false));
        report.unreferenced = unreferenced.into_iter().collect();
        report.damaged = findings(self.damaged);
        report.missing = findings(self.missing);
        report.problems.sort();
    }
}

fn note(findings: &mut Findings, digest: &Digest, why: &str, image: &str) {
    let (_, images) = findings.entry(digest.clone()).or_insert_with(|| (why.to_owned(), vec![]));
    if images.last().is_none_or(|last| last != image) {
        images.push(image.to_owned());
    }
}

fn findings(found: Findings) -> Vec<LayoutFinding> {
    found.into_iter().map(|(digest, (why, images))| LayoutFinding { digest, images, why }).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Layout;
    use super::super::testing::{Upstream, blob, context, fill, folder, image, index, path_of, put};
    use super::*;
    use crate::content::{Repository, Sink as _};
    use std::sync::atomic::{AtomicU64, Ordering};

    fn overwrite(path: &Path, bytes: &[u8]) {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[tokio::test]
    async fn a_whole_layout_is_counted_and_every_byte_hashed_once() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let both = index(vec![image(&["amd64", "shared"]), image(&["arm64", "shared"])]);
        put(&layout, "a:1", &both).await;
        put(&layout, "a:2", &image(&["amd64", "shared"])).await;
        let large = Bytes::from(vec![7; 3 * READ + 5]);
        layout.write_blob(&Repository::new("a"), &blob(&large), &Upstream::new(&large), &context()).await.unwrap();
        let hashed = AtomicU64::new(0);
        let report = verify(dir.path(), &|n| _ = hashed.fetch_add(n, Ordering::Relaxed)).unwrap();
        assert!(report.ok(), "{report:?}");
        assert_eq!((report.entries, report.manifests, report.blobs), (2, 3, 5));
        assert_eq!(report.unreferenced, [blob(&large).digest]);
        let on_disk: u64 = fs::read_dir(dir.path().join("blobs/sha256")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert_eq!((report.bytes, hashed.into_inner()), (on_disk, on_disk));
    }

    #[tokio::test]
    async fn damage_and_loss_are_named_with_their_images() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        put(&layout, "a:1", &index(vec![image(&["one", "shared"])])).await;
        put(&layout, "b:1", &image(&["two", "shared"])).await;
        put(&layout, "c:1", &image(&["three"])).await;
        let left = image(&["left behind"]);
        fill(&layout, &left).await;
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        overwrite(&path_of(&layout, &digest("shared")), b"sharee");
        overwrite(&path_of(&layout, &digest("two")), b"tw");
        overwrite(&path_of(&layout, &digest("left behind")), b"");
        fs::remove_file(path_of(&layout, &digest("one"))).unwrap();
        fs::remove_file(path_of(&layout, image(&["three"]).manifest.digest())).unwrap();
        let report = verify(dir.path(), &|_| {}).unwrap();
        assert!(!report.ok());
        let images = |findings: &[LayoutFinding], of: &Digest| findings.iter().find(|f| f.digest == *of).map(|f| f.images.join(" "));
        assert_eq!(images(&report.damaged, &digest("shared")).as_deref(), Some("a:1 b:1"));
        assert_eq!(images(&report.damaged, &digest("two")).as_deref(), Some("b:1"));
        assert_eq!(images(&report.damaged, &digest("left behind")).as_deref(), Some(""));
        assert_eq!(report.damaged.len(), 3);
        assert!(report.damaged.iter().all(|finding| finding.why.contains("hash to sha256:")));
        assert_eq!(images(&report.missing, &digest("one")).as_deref(), Some("a:1"));
        assert_eq!(images(&report.missing, image(&["three"]).manifest.digest()).as_deref(), Some("c:1"));
        assert_eq!(report.missing.len(), 2);
        assert!(report.unreferenced.contains(&digest("left behind")) && report.unreferenced.contains(&digest("three")));
        assert!(!report.unreferenced.contains(&digest("shared")));
    }

    #[tokio::test]
    async fn a_descriptor_that_states_another_size_is_damage() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        put(&layout, "a:1", &image(&["layer"])).await;
        let path = dir.path().join("index.json");
        let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        index["manifests"][0]["size"] = 1.into();
        fs::write(&path, index.to_string()).unwrap();
        let report = verify(dir.path(), &|_| {}).unwrap();
        assert_eq!(report.damaged.len(), 1);
        assert!(report.damaged[0].why.ends_with("its descriptor says 1"), "{}", report.damaged[0].why);
    }

    #[tokio::test]
    async fn a_name_on_what_is_not_a_manifest_is_damage() {
        for (body, media_type, expected) in [
            ("{}", super::super::testing::OCI_MANIFEST, "it is not a manifest (starts with `{}`): it has no `schemaVersion` 2"),
            ("{\"errors\":[]}", "application/json", "it is not a manifest (starts with `{\"errors\":[]}`): it has no `schemaVersion` 2"),
            ("<html>", "text/html", "it is not a manifest (starts with `<html>`) (a web page (HTML)"),
        ] {
            let dir = folder();
            drop(Layout::open_or_create(dir.path()).await.unwrap());
            let digest = Digest::sha256(body.as_bytes());
            fs::write(dir.path().join("blobs/sha256").join(digest.encoded()), body).unwrap();
            let entry = |name: Option<&str>| {
                let annotations = name.map(|name| serde_json::json!({"org.opencontainers.image.ref.name": name}));
                let entry = serde_json::json!({"mediaType": media_type, "digest": digest, "size": body.len(), "annotations": annotations});
                let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
                fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
            };
            entry(Some("app:v1"));
            let report = verify(dir.path(), &|_| {}).unwrap();
            assert_eq!(report.damaged.len(), 1, "{body}");
            assert!(report.damaged[0].why.starts_with(expected), "{}", report.damaged[0].why);
            let layout = Layout::open(dir.path()).await.unwrap();
            let named = crate::name::Reference::Tag("v1".to_owned());
            assert!(layout.published(&Repository::new("app"), &named, &context()).await.unwrap().is_none());
            // A file without a name may be anything that its type does not call a manifest.
            entry(None);
            assert_eq!(verify(dir.path(), &|_| {}).unwrap().ok(), media_type != super::super::testing::OCI_MANIFEST);
        }
    }

    #[tokio::test]
    async fn malformed_files_are_problems_and_strays_are_not() {
        let dir = folder();
        drop(Layout::open_or_create(dir.path()).await.unwrap());
        fs::write(dir.path().join("blobs/sha256/.DS_Store"), "x").unwrap();
        fs::write(dir.path().join("blobs/README"), "x").unwrap();
        fs::write(dir.path().join(".larder/partial/sha256-x"), "x").unwrap();
        let report = verify(dir.path(), &|_| {}).unwrap();
        assert!(report.ok());
        assert_eq!(report.strays, ["blobs/README", "blobs/sha256/.DS_Store"]);
        assert_eq!(report.partials, 1);

        for (file, content, problem) in [
            ("oci-layout", "{}", "`oci-layout` does not say"),
            ("oci-layout", "{\"imageLayoutVersion\":\"3\"}", "`oci-layout` says version 3"),
            ("index.json", "{\"manifests\":", "index.json is not JSON"),
            ("index.json", "{}", "index.json has no `manifests`"),
            ("index.json", "{\"manifests\":[{\"digest\":\"sha256:..\",\"size\":1}]}", "entry 1 of index.json is no descriptor"),
            ("blobs/blake3/abcd", "x", "cannot compute blake3"),
        ] {
            let dir = folder();
            drop(Layout::open_or_create(dir.path()).await.unwrap());
            fs::create_dir(dir.path().join("blobs/blake3")).unwrap();
            fs::write(dir.path().join(file), content).unwrap();
            let report = verify(dir.path(), &|_| {}).unwrap();
            assert!(!report.ok() && report.problems.len() == 1 && report.problems[0].contains(problem), "{:?}", report.problems);
            if !file.starts_with("blobs") {
                fs::remove_file(dir.path().join(file)).unwrap();
                assert!(verify(dir.path(), &|_| {}).unwrap().problems[0].contains("is missing"));
            }
        }
        assert!(verify(folder().path(), &|_| {}).is_err(), "an empty folder is no layout at all");
    }
}
