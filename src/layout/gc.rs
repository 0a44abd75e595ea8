//! Removing what no name reaches.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::entry::IndexEntry;
use super::files::{self, Files, damaged, found};
use super::graph::{self, ManifestRead};
use super::index::LayoutIndex;
use super::index_file::IndexFile;
use super::lock;
use crate::content::{Digest, NodeRole, PlatformFilter};
use crate::{Error, Operation, Result};

const OP: Operation = Operation::CleanLayout;

/// Partial files older than this are removed. A run that was interrupted is gone on with the next night, or the next
/// week where runs are weekly; what is older has been given up.
const PARTIAL_KEPT: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// What a [`gc()`] removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Manifests and blobs, in the order of their digests.
    pub removed: Vec<Digest>,
    /// Bytes freed, partial files included.
    pub bytes: u64,
    /// Partial files that nobody went on with for eight days.
    pub partials: usize,
    /// Damaged files that had been set aside.
    pub damaged: usize,
}

/// Removes the blobs of the layout at `path` that no entry of `index.json` reaches, and partial files that were given
/// up. With `dry_run` it only says which. Blocks. Blobs that only a missing manifest led to are reached by no name.
///
/// # Errors
/// If anyone (this process included) has the layout open for writing: then blobs may be there whose name is still to
/// come. `Kind::Damaged`, with nothing removed, if `index.json` or a manifest in it cannot be read, because what it
/// refers to is then unknown.
pub fn gc(path: &Path, dry_run: bool) -> Result<GcReport> {
    let files = Files::open(path)?;
    files.check()?;
    let _alone = lock::alone(&files)?;
    not_shared(&files)?;
    let file = IndexFile::new(files.clone());
    let index = file.read()?;
    let reached = reach(&files, &index)?;
    if !dry_run && index.entries().any(|entry| !stays(entry, &reached)) {
        file.retain(|entry| stays(entry, &reached))?;
    }
    let mut report = GcReport::default();
    for stored in files.stored()?.0 {
        if reached.contains(&stored.digest) {
            continue;
        }
        if !dry_run {
            remove(&files, &files::blob(&stored.digest))?;
        }
        report.bytes += stored.len;
        report.removed.push(stored.digest);
    }
    partials(&files, dry_run, &mut report)?;
    set_aside(&files, dry_run, &mut report)?;
    Ok(report)
}

/// Whether an entry is an image, or is about something that an image leads to.
fn stays(entry: &IndexEntry, reached: &HashSet<Digest>) -> bool {
    entry.subject().is_none_or(|subject| reached.contains(&subject))
}

/// Everything that an image leads to, and what is about that, and so on.
fn reach(files: &Files, index: &LayoutIndex) -> Result<HashSet<Digest>> {
    if let Some(why) = index.malformed().next() {
        return Err(damaged(OP, format!("{why}, so what it needs is unknown")));
    }
    let (mut reached, mut walked) = (HashSet::new(), HashSet::new());
    let mut left: Vec<&IndexEntry> = index.entries().collect();
    loop {
        let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|entry| stays(entry, &reached));
        if now.is_empty() {
            return Ok(reached);
        }
        for entry in now {
            reach_one(files, entry, &mut reached, &mut walked)?;
        }
        left = later;
    }
}

/// Everything that an entry leads to; `walked` are the manifests that were read for others.
fn reach_one(files: &Files, entry: &IndexEntry, reached: &mut HashSet<Digest>, walked: &mut HashSet<Digest>) -> Result<()> {
    let root = &entry.descriptor;
    let sparse = !PlatformFilter::of_sparse(root).is_empty();
    graph::walk(root, NodeRole::of_child(&root.media_type), |node| {
        let digest = &node.descriptor.digest;
        reached.insert(digest.clone());
        // What a sparse entry leads to says nothing of what another one of that index does.
        let whole = !sparse || *digest != root.digest;
        if node.role == NodeRole::Blob || (whole && !walked.insert(digest.clone())) {
            return Ok(Some(Arc::default()));
        }
        match graph::read(files, node)? {
            ManifestRead::Found(links) => Ok(Some(links)),
            ManifestRead::Blob | ManifestRead::Missing => Ok(Some(Arc::default())),
            ManifestRead::Damaged(why) => {
                Err(damaged(OP, format!("manifest {digest} of {} is damaged, so what it needs is unknown: {why}", entry.display_name()))
                    .remedy("sync the image again; see `larder verify`"))
            }
        }
    })
    .map(drop)
}

/// `blobs/` may be a link to a store that several layouts share (containers/image's shared blob directory): whose names
/// reach what is in there cannot be seen from here.
fn not_shared(files: &Files) -> Result<()> {
    let is_link = |name: &Path| Error::local(OP, format!("{} is a link: other layouts may need what is in it", files.path(name).display()));
    let blobs = files::blobs();
    let status = found(files.folder().status(blobs)).map_err(|error| files.failed(OP, blobs, &error))?;
    if status.is_some_and(|status| status.is_link()) {
        return Err(is_link(blobs));
    }
    let listed = files.list(blobs)?;
    listed.iter().find(|(_, status)| status.is_link()).map_or(Ok(()), |(name, _)| Err(is_link(name)))
}

fn set_aside(files: &Files, dry_run: bool, report: &mut GcReport) -> Result<()> {
    for (name, status) in files.list(&files::damaged_files())?.into_iter().filter(|(_, status)| status.is_file()) {
        if !dry_run {
            remove(files, &name)?;
        }
        report.bytes += status.len();
        report.damaged += 1;
    }
    Ok(())
}

fn partials(files: &Files, dry_run: bool, report: &mut GcReport) -> Result<()> {
    let now = SystemTime::now();
    for (name, status) in files.list(&files::partials())? {
        if !status.is_file() {
            continue;
        }
        let io = |error| files.failed(OP, &name, &error);
        let Some(file) = found(files.folder().read(&name)).map_err(io)? else { continue };
        let meta = file.metadata().map_err(io)?;
        // A time in the future is no age.
        let age = meta.modified().ok().and_then(|changed| now.duration_since(changed).ok()).unwrap_or_default();
        if age < PARTIAL_KEPT {
            continue;
        }
        if !dry_run {
            remove(files, &name)?;
        }
        report.bytes += meta.len();
        report.partials += 1;
    }
    Ok(())
}

fn remove(files: &Files, name: &Path) -> Result<()> {
    found(files.folder().remove(name)).map(|_| ()).map_err(|error| files.failed(OP, name, &error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{Upstream, blob, context, fill, folder, image, index, path_of, put};
    use super::super::{Layout, verify};
    use super::*;
    use crate::Kind;
    use crate::content::{Repository, Sink as _};
    use bytes::Bytes;
    use proptest::prelude::*;

    #[tokio::test]
    async fn exactly_what_no_name_reaches_is_removed() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let (old, kept) = (image(&["old", "shared"]), index(vec![image(&["kept", "shared"])]));
        put(&layout, "a:1", &old).await;
        put(&layout, "a:2", &kept).await;
        put(&layout, "a:1", &kept).await;
        let error = gc(dir.path(), false).unwrap_err();
        assert!(error.message().contains("another larder is writing"), "{error}");
        drop(layout);

        let mut expected = vec![old.manifest.digest().clone(), Digest::sha256(&old.blobs[0]), Digest::sha256(b"old")];
        expected.sort();
        let bytes = (old.manifest.bytes().len() + old.blobs[0].len() + 3) as u64;
        let report = GcReport { removed: expected, bytes, partials: 0, damaged: 0 };
        assert_eq!(gc(dir.path(), true).unwrap(), report);
        assert_eq!(verify(dir.path(), &|_| {}).unwrap().unreferenced, report.removed, "a dry run removes nothing");
        assert_eq!(gc(dir.path(), false).unwrap(), report);
        let after = verify(dir.path(), &|_| {}).unwrap();
        assert!(after.ok() && after.unreferenced.is_empty(), "{after:?}");
        assert_eq!(gc(dir.path(), false).unwrap(), GcReport::default());
    }

    #[tokio::test]
    async fn a_reader_is_no_hindrance_until_it_writes() {
        let dir = folder();
        drop(Layout::open_or_create(dir.path()).await.unwrap());
        let layout = Layout::open(dir.path()).await.unwrap();
        gc(dir.path(), false).unwrap();
        let bytes = Bytes::from_static(b"x");
        layout.write_blob(&Repository::new("a"), &blob(&bytes), &Upstream::new(&bytes), &context()).await.unwrap();
        assert!(gc(dir.path(), false).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_waits_for_the_end_of_gc() {
        let dir = folder();
        drop(Layout::open_or_create(dir.path()).await.unwrap());
        let alone = lock::alone(&Files::open(dir.path()).unwrap()).unwrap();
        let mut opening = Box::pin(Layout::open_or_create(dir.path()));
        let waited = tokio::time::timeout(Duration::from_secs(60), &mut opening).await;
        assert!(waited.is_err(), "{waited:?}");
        drop(alone);
        opening.await.unwrap();
    }

    #[tokio::test]
    async fn where_it_is_unknown_what_is_needed_nothing_is_removed() {
        for spoil in ["a manifest", "an entry", "the index"] {
            let dir = folder();
            let layout = Layout::open_or_create(dir.path()).await.unwrap();
            let image = image(&["layer"]);
            put(&layout, "a:1", &image).await;
            match spoil {
                "a manifest" => {
                    let path = path_of(&layout, image.manifest.digest());
                    fs::remove_file(&path).unwrap();
                    fs::write(&path, "{}").unwrap();
                }
                "an entry" => fs::write(dir.path().join("index.json"), "{\"manifests\":[{\"digest\":\"x\",\"size\":1}]}").unwrap(),
                _ => fs::write(dir.path().join("index.json"), "{").unwrap(),
            }
            drop(layout);
            assert_eq!(gc(dir.path(), false).unwrap_err().kind(), Kind::Damaged, "{spoil}");
            assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 3);
        }
    }

    #[tokio::test]
    async fn a_blob_store_that_others_share_is_left_alone() {
        let dir = folder();
        let shared = folder();
        drop(Layout::open_or_create(dir.path()).await.unwrap());
        fs::remove_dir(dir.path().join("blobs/sha256")).unwrap();
        std::os::unix::fs::symlink(shared.path(), dir.path().join("blobs/sha256")).unwrap();
        fs::write(shared.path().join(Digest::sha256(b"theirs").encoded()), "theirs").unwrap();
        assert!(gc(dir.path(), false).unwrap_err().message().contains("is a link"));
        assert_eq!(fs::read_dir(shared.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn partial_blobs_stay_while_a_next_run_may_go_on_with_them() {
        let dir = folder();
        drop(Layout::open_or_create(dir.path()).await.unwrap());
        let day = Duration::from_secs(24 * 60 * 60);
        for (name, age) in [("sha256-fresh", day), ("sha256-stale", 9 * day)] {
            let path = dir.path().join(".larder/partial").join(name);
            fs::write(&path, "12345").unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        assert_eq!(gc(dir.path(), false).unwrap(), GcReport { removed: vec![], bytes: 5, partials: 1, damaged: 0 });
        assert!(dir.path().join(".larder/partial/sha256-fresh").exists());
    }

    #[derive(Debug, Clone)]
    enum GcStep {
        /// Give this of four names to an image of this of six kinds.
        Put(u8, u8),
        /// Write an image's content, and be killed before it has a name.
        Half(u8),
        Gc,
    }

    fn image_no(n: u8) -> super::super::testing::Image {
        let layers = [&["base"][..], &["base", "one"], &["two"], &["base", "two"]];
        match n {
            0..4 => image(layers[usize::from(n)]),
            4 => index(vec![image(layers[0]), image(layers[2])]),
            _ => index(vec![image_no(4), image(layers[1])]),
        }
    }

    fn step() -> impl Strategy<Value = GcStep> {
        prop_oneof![4 => (0..4u8, 0..6u8).prop_map(|(name, of)| GcStep::Put(name, of)), 2 => (0..6u8).prop_map(GcStep::Half), 1 => Just(GcStep::Gc)]
    }

    async fn play(steps: &[GcStep]) {
        let dir = folder();
        drop(Layout::open_or_create(dir.path()).await.unwrap());
        let mut names = std::collections::BTreeMap::new();
        for step in steps {
            match step {
                GcStep::Put(name, of) => {
                    put(&Layout::open_or_create(dir.path()).await.unwrap(), &format!("a:{name}"), &image_no(*of)).await;
                    names.insert(format!("a:{name}"), image_no(*of).manifest.digest().clone());
                }
                GcStep::Half(of) => fill(&Layout::open_or_create(dir.path()).await.unwrap(), &image_no(*of)).await,
                GcStep::Gc => {
                    let promised = gc(dir.path(), true).unwrap();
                    assert_eq!(verify(dir.path(), &|_| {}).unwrap().unreferenced, promised.removed);
                    assert_eq!(gc(dir.path(), false).unwrap(), promised);
                    assert!(verify(dir.path(), &|_| {}).unwrap().unreferenced.is_empty());
                }
            }
            let report = verify(dir.path(), &|_| {}).unwrap();
            assert!(report.ok() && report.strays.is_empty() && report.partials == 0, "{report:?}");
        }
        let layout = Layout::open(dir.path()).await.unwrap();
        let found = layout.names().await.unwrap().into_iter().map(|entry| (entry.name.unwrap(), entry.descriptor.digest)).collect();
        assert_eq!(names, found);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn a_layout_is_right_after_any_sequence_of_publications_kills_and_cleanings(steps in prop::collection::vec(step(), 1..12)) {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(&steps));
        }
    }
}
