//! Manifests kept until their image is delivered: each was a pull, and pulls are money.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::content::{
    BlobStream, Descriptor, Digest, DigestTags, MAX_MANIFEST, Manifest, ReferrerList, Repository, RequestContext, Source,
};
use crate::folder;
use crate::name::Reference;
use crate::{Error, Result, Side};

/// How long a manifest is kept for an image that is never delivered.
const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A folder of manifests, one file each, named by digest. The media type, which the bytes need not tell, is the file's
/// first line.
#[derive(Debug)]
pub struct SavedManifests {
    folder: PathBuf,
}

impl SavedManifests {
    /// Opens (and makes) `folder`; what is older than 30 days is removed.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| Error::io("open state", folder, &error))?;
        let old = |entry: &std::fs::DirEntry| {
            // Only what this program has made.
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.split_once('-')).map(|(algorithm, encoded)| format!("{algorithm}:{encoded}"));
            let ours = digest.is_some_and(|digest| Digest::parse(&digest).is_ok());
            ours && entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEEP))
        };
        for entry in std::fs::read_dir(folder).map_err(|error| Error::io("open state", folder, &error))?.flatten().filter(old) {
            let _ = std::fs::remove_file(entry.path());
        }
        Ok(SavedManifests { folder: folder.to_owned() })
    }

    /// `source`, with what is kept before it.
    pub fn before<S: Source>(self: &Arc<Self>, source: Arc<S>) -> SavingSource<S> {
        SavingSource { kept: Arc::clone(self), source }
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
        let bytes = Bytes::from(bytes);
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let media_type = std::str::from_utf8(&bytes[..end]).ok()?.to_owned();
        Manifest::verify(bytes.slice(end + 1..), Some(&media_type), digest, Side::Local).ok()
    }

    /// Keeps `manifest`. A failure only costs another pull later.
    fn store(&self, manifest: &Manifest) {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            std::io::Write::write_all(&mut file, manifest.media_type().as_bytes())?;
            std::io::Write::write_all(&mut file, b"\n")?;
            std::io::Write::write_all(&mut file, manifest.bytes())?;
            // Not synced: what a power cut leaves of it is found out by its digest, and costs a pull.
            file.persist(self.path(manifest.digest())).map(drop).map_err(|error| error.error)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, digest = %manifest.digest(), "could not keep a manifest");
        }
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
        if let Some(manifest) = self.kept.load(digest) {
            return Ok(Some(manifest));
        }
        let manifest = self.source.manifest(repository, digest, context).await?;
        if let Some(manifest) = &manifest {
            self.kept.store(manifest);
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
        let _ = std::fs::remove_file(self.kept.path(manifest));
    }
}
