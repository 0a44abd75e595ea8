//! Manifests kept until their image is delivered: each was a pull, and pulls are money.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::task::TaskTracker;

use crate::content::{
    BlobStream, Descriptor, Digest, DigestTags, MAX_MANIFEST, Manifest, ReferrerList, Repository, RequestContext, Source,
};
use crate::folder;
use crate::name::Reference;
use crate::store::Store;
use crate::{Error, Operation, Result, Side};

/// Where the store has them.
pub(super) const MANIFESTS: &str = "manifests";

/// How long a manifest is kept for an image that is never delivered.
pub(super) const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The most bytes that are kept. A manifest has a few kilobytes, so this is enough for ten thousand images that could not be delivered.
/// A hostile upstream may send new manifests of 8 MiB every night.
const MAX_SAVED: u64 = 256 * 1024 * 1024;

/// A folder of manifests, one file each, named by digest. The media type, which the bytes need not tell, is the file's
/// first line.
#[derive(Debug)]
pub struct SavedManifests {
    folder: PathBuf,
    /// The bytes that were kept when the folder was opened, and what this process has added since.
    bytes: AtomicU64,
    /// Where other machines find them, and theirs are found.
    shared: Option<Arc<dyn Store>>,
    /// Removals from the store that are under way.
    removals: TaskTracker,
}

impl SavedManifests {
    /// Opens (and makes) `folder`. Removes manifests older than 30 days, and the oldest while all have more than 256 MiB.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_bounded(folder, MAX_SAVED)
    }

    fn open_bounded(folder: &Path, most: u64) -> Result<Self> {
        let io = |error: std::io::Error| Error::io(Operation::OpenState, folder, &error);
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut files: Vec<SavedFile> =
            std::fs::read_dir(folder).map_err(io)?.flatten().filter_map(|entry| SavedFile::of(&entry)).collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.written));
        let mut bytes = 0;
        for file in files {
            let is_old = file.written.elapsed().is_ok_and(|age| age > KEEP);
            if (is_old || bytes + file.len > most) && std::fs::remove_file(&file.path).is_ok() {
                continue;
            }
            bytes += file.len;
        }
        Ok(SavedManifests { folder: folder.to_owned(), bytes: AtomicU64::new(bytes), shared: None, removals: TaskTracker::new() })
    }

    /// The same manifests, shared with other machines through `store`.
    #[must_use]
    pub fn shared(self, store: Arc<dyn Store>) -> Self {
        SavedManifests { shared: Some(store), ..self }
    }

    /// `source`, with what is kept before it.
    pub fn before<S: Source>(self: &Arc<Self>, source: Arc<S>) -> SavingSource<S> {
        SavingSource { kept: Arc::clone(self), source }
    }

    /// Waits until the store has removed the manifests that were released.
    pub async fn finish(&self) {
        self.removals.close();
        self.removals.wait().await;
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}-{}", digest.algorithm(), digest.encoded()))
    }

    /// The manifest, if it is here and undamaged.
    fn load(&self, digest: &Digest) -> Option<Manifest> {
        let mut bytes = vec![];
        // The line with the media type is short.
        let most = MAX_MANIFEST as u64 + 1024;
        folder::read_found(&self.path(digest)).ok()?.take(most).read_to_end(&mut bytes).ok()?;
        parse(&Bytes::from(bytes), digest)
    }

    /// As [`SavedManifests::load`]; if it is not here, from the store.
    async fn fetch(&self, digest: &Digest) -> Option<Manifest> {
        if let Some(manifest) = self.load(digest) {
            return Some(manifest);
        }
        let found = self.shared.as_ref()?.get(&key(digest)).await;
        let found = found.unwrap_or_else(|error| {
            tracing::debug!(%error, %digest, "could not look for a saved manifest");
            None
        })?;
        let manifest = parse(&found.bytes, digest)?;
        self.store(&manifest);
        Some(manifest)
    }

    /// Keeps `manifest` here, and for other machines. A failure only costs another pull later.
    async fn save(&self, manifest: &Manifest) {
        self.store(manifest);
        let Some(store) = &self.shared else { return };
        if let Err(error) = store.put(&key(manifest.digest()), serialise(manifest).into()).await {
            tracing::debug!(%error, digest = %manifest.digest(), "could not share a manifest");
        }
    }

    /// Keeps `manifest`, unless there are too many. A failure only costs another pull later.
    fn store(&self, manifest: &Manifest) {
        self.store_bounded(manifest, MAX_SAVED);
    }

    fn store_bounded(&self, manifest: &Manifest, most: u64) {
        let len = (manifest.media_type().len() + 1 + manifest.bytes().len()) as u64;
        let reserved = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| Some(bytes + len).filter(|sum| *sum <= most));
        if reserved.is_err() {
            tracing::debug!(digest = %manifest.digest(), "a manifest is not kept: too many are kept already");
            return;
        }
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            std::io::Write::write_all(&mut file, &serialise(manifest))?;
            // Not synced: what a power cut leaves of it is found out by its digest, and costs a pull.
            file.persist(self.path(manifest.digest())).map(drop).map_err(|error| error.error)
        };
        if let Err(error) = write() {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            tracing::debug!(%error, digest = %manifest.digest(), "could not keep a manifest");
        }
    }

    fn remove(&self, digest: &Digest) {
        let path = self.path(digest);
        let len = path.symlink_metadata().map_or(0, |metadata| metadata.len());
        if std::fs::remove_file(path).is_ok() {
            let subtract = |bytes: u64| Some(bytes.saturating_sub(len));
            let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract);
        }
        if let (Some(store), Ok(runtime)) = (&self.shared, tokio::runtime::Handle::try_current()) {
            let (store, key) = (Arc::clone(store), key(digest));
            // No image waits for it, only the end of the run.
            let removal = async move {
                if let Err(error) = store.delete(&key).await {
                    tracing::debug!(%error, key, "could not remove a saved manifest");
                }
            };
            self.removals.spawn_on(removal, &runtime);
        }
    }
}

/// The name in the store.
fn key(digest: &Digest) -> String {
    format!("{MANIFESTS}/{}-{}", digest.algorithm(), digest.encoded())
}

/// The media type, which the bytes need not tell, is the first line.
fn serialise(manifest: &Manifest) -> Vec<u8> {
    [manifest.media_type().as_bytes(), b"\n", manifest.bytes()].concat()
}

/// The manifest, if it is undamaged.
fn parse(bytes: &Bytes, digest: &Digest) -> Option<Manifest> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let media_type = std::str::from_utf8(bytes.get(..end)?).ok()?.to_owned();
    Manifest::verify(bytes.slice(end + 1..), Some(&media_type), digest, Side::Local).ok()
}

/// A file that this program has made.
struct SavedFile {
    path: PathBuf,
    len: u64,
    written: SystemTime,
}

impl SavedFile {
    /// None for a file whose name is not a digest: it is not ours.
    fn of(entry: &std::fs::DirEntry) -> Option<Self> {
        let name = entry.file_name();
        let (algorithm, encoded) = name.to_str()?.split_once('-')?;
        Digest::parse(&format!("{algorithm}:{encoded}")).ok()?;
        let metadata = entry.metadata().ok()?;
        Some(SavedFile { path: entry.path(), len: metadata.len(), written: metadata.modified().ok()? })
    }
}

/// A source whose manifests are kept on the way, and read from there the next time.
#[derive(Debug)]
pub struct SavingSource<S> {
    kept: Arc<SavedManifests>,
    source: Arc<S>,
}

#[async_trait]
impl<S: Source> Source for SavingSource<S> {
    fn is_remote(&self) -> bool {
        self.source.is_remote()
    }

    async fn resolve(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.source.resolve(repository, reference, context).await
    }

    async fn tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        self.source.tags(repository, context).await
    }

    async fn referrers(&self, repository: &Repository, subject: &Digest, context: &RequestContext) -> Result<Vec<Descriptor>> {
        self.source.referrers(repository, subject, context).await
    }

    async fn listed_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        context: &RequestContext,
    ) -> Result<ReferrerList> {
        self.source.listed_referrers(repository, subject, artifact_type, context).await
    }

    async fn find_tag(&self, repository: &Repository, tag: &str, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.source.find_tag(repository, tag, context).await
    }

    async fn digest_tags(&self, repository: &Repository, context: &RequestContext) -> Result<Arc<DigestTags>> {
        self.source.digest_tags(repository, context).await
    }

    async fn manifest(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        if let Some(manifest) = self.kept.fetch(digest).await {
            return Ok(Some(manifest));
        }
        let manifest = self.source.manifest(repository, digest, context).await?;
        if let Some(manifest) = &manifest {
            self.kept.save(manifest).await;
        }
        Ok(manifest)
    }

    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        self.source.blob(repository, blob, offset, context).await
    }

    fn cached(&self, manifest: &Digest) -> Option<Manifest> {
        self.kept.load(manifest)
    }

    fn keeps_manifests(&self) -> bool {
        true
    }

    async fn ready(&self) {
        self.source.ready().await;
    }

    fn release(&self, manifest: &Digest) {
        self.kept.remove(manifest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An artifact manifest of so many bytes.
    fn manifest(number: u64, len: usize) -> Manifest {
        let empty = r#"{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}"#;
        let head = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":{empty},"layers":[{empty}],"annotations":{{"n":"{number:0>4}"#
        );
        let bytes = format!("{head}{}\"}}}}", "x".repeat(len - head.len() - 3));
        let digest = Digest::sha256(bytes.as_bytes());
        Manifest::verify(Bytes::from(bytes), Some("application/vnd.oci.image.manifest.v1+json"), &digest, Side::Upstream).unwrap()
    }

    fn count(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn saved_manifests_have_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let saved = SavedManifests::open(dir.path()).unwrap();
        let manifests: Vec<Manifest> = (0..5).map(|number| manifest(number, 1000)).collect();
        let line = manifests[0].media_type().len() + 1;
        let most = 3 * (1000 + line as u64);
        manifests.iter().for_each(|manifest| saved.store_bounded(manifest, most));
        assert_eq!(count(dir.path()), 3);
        assert!(saved.load(manifests[2].digest()).is_some() && saved.load(manifests[3].digest()).is_none());
        // What is delivered makes room.
        saved.remove(manifests[0].digest());
        saved.remove(manifests[0].digest());
        manifests[3..].iter().for_each(|manifest| saved.store_bounded(manifest, most));
        assert_eq!(count(dir.path()), 3);
        assert!(saved.load(manifests[3].digest()).is_some());
    }

    #[test]
    fn the_oldest_manifests_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let saved = SavedManifests::open(dir.path()).unwrap();
        let manifests: Vec<Manifest> = (0..3).map(|number| manifest(number, 1000)).collect();
        for (manifest, days) in manifests.iter().zip([31_u64, 2, 1]) {
            saved.store(manifest);
            let written = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
            std::fs::File::options().write(true).open(saved.path(manifest.digest())).unwrap().set_modified(written).unwrap();
        }
        std::fs::write(dir.path().join("notes.txt"), [0; 5000]).unwrap();
        let saved = SavedManifests::open(dir.path()).unwrap();
        assert_eq!(count(dir.path()), 3, "the oldest is gone, and what is not ours stays");
        assert!(saved.load(manifests[1].digest()).is_some());
        let saved = SavedManifests::open_bounded(dir.path(), 1500).unwrap();
        assert!(saved.load(manifests[1].digest()).is_none() && saved.load(manifests[2].digest()).is_some());
    }
}
