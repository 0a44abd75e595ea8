//! A sink that sees what is put through it: for the evidence, and to tell which bytes were wrong.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bundle::read::BundleSource;
use crate::content::{Descriptor, Digest, Manifest, OpenBlob, Presence, Publication, Repository, RequestContext, Sink};
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::state::JsonLines;
use crate::{Error, Kind, Operation, Result, Side};

/// How content came to be where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArrivalWay {
    /// Its bytes were hashed and written.
    Written,
    /// The target linked it from another of its repositories.
    Mounted,
    /// The target had it.
    Present,
}

/// Something that was put into a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// What.
    pub digest: Digest,
    /// Where, with the target's prefix.
    pub repository: String,
    /// How it came there.
    pub how: ArrivalWay,
    /// When its bytes were hashed (RFC 3339); none if they were not.
    pub hashed: Option<String>,
    /// The file that the bytes were read from: a volume, a folder or an archive.
    pub from: Option<String>,
}

/// When the journal is larger, its older half goes: some 80,000 lines, and evidence is made in the same month.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// What earlier imports have put into a target: a line each, so that the evidence of an import that was interrupted is whole.
#[derive(Debug)]
pub struct Journal {
    lines: JsonLines<EvidenceJournalLine>,
    target: String,
}

/// What earlier imports have put, by place and content.
pub(super) type Earlier = HashMap<(String, Digest), Arrival>;

/// A line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct EvidenceJournalLine {
    target: String,
    #[serde(flatten)]
    put: Arrival,
}

impl Journal {
    /// Opens the journal of imports into `target`, below the state folder.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn open(state: &Path, target: String) -> Result<Self> {
        let folder = state.join("import");
        std::fs::create_dir_all(&folder).map_err(|error| Error::io(Operation::OpenState, &folder, &error))?;
        let lines = JsonLines::new(&folder, "journal.jsonl");
        let failed = |error: std::io::Error| Error::io(Operation::OpenState, &lines.path(), &error);
        if lines.read().map_err(failed)?.bytes > MOST_BYTES {
            lines.rewrite(|mut all: Vec<EvidenceJournalLine>| all.split_off(all.len() / 2)).map_err(failed)?;
        }
        Ok(Journal { lines, target })
    }

    /// What it says of this target, the last of each.
    pub(super) fn read(&self) -> Earlier {
        let lines = self.lines.read().map(|read| read.values).unwrap_or_default();
        let ours = lines.into_iter().filter(|line| line.target == self.target);
        ours.map(|line| ((line.put.repository.clone(), line.put.digest.clone()), line.put)).collect()
    }

    fn write(&self, put: &Arrival) {
        // A line that is lost costs a time in the evidence.
        if let Err(error) = self.lines.append(&EvidenceJournalLine { target: self.target.clone(), put: put.clone() }) {
            tracing::debug!(%error, "could not write down what was put");
        }
    }
}

/// The target's sink, watched. Forwards every call: a method that a sink gets must be forwarded here too.
pub(super) struct RecordingSink {
    inner: Arc<dyn Sink>,
    shelf: Arc<BundleSource>,
    /// What files are called in the evidence.
    label: Box<dyn Fn(usize) -> String + Send + Sync>,
    journal: Option<Journal>,
    /// Whether the evidence of this import is wanted.
    evidence: bool,
    puts: Mutex<HashMap<(Repository, Digest), RecordedPut>>,
}

/// Something that was put. Where the evidence is not wanted, only that it was.
struct RecordedPut {
    how: ArrivalWay,
    arrival: Option<Box<Arrival>>,
}

impl RecordingSink {
    pub(super) fn new(
        inner: Arc<dyn Sink>,
        shelf: Arc<BundleSource>,
        label: impl Fn(usize) -> String + Send + Sync + 'static,
        journal: Option<Journal>,
        evidence: bool,
    ) -> Self {
        RecordingSink { inner, shelf, label: Box::new(label), journal, evidence, puts: Mutex::default() }
    }

    /// How `digest` was put into `repository`, where the evidence is wanted.
    pub(super) fn arrival(&self, repository: &Repository, digest: &Digest) -> Option<Arrival> {
        self.puts.lock().get(&(repository.clone(), digest.clone()))?.arrival.as_deref().cloned()
    }

    /// Notes a put; `from` gives the names of the files that its bytes were read from. A put that is noted in this way already is not noted
    /// again, and what was written is not forgotten because it is met again.
    fn note(&self, repository: &Repository, digest: &Digest, how: ArrivalWay, from: impl FnOnce() -> Option<String>) {
        let key = (repository.clone(), digest.clone());
        if self.puts.lock().get(&key).is_some_and(|put| put.how == how) {
            return;
        }
        let hashed = (how == ArrivalWay::Written).then(|| Timestamp::now().to_string());
        let put = Arrival { digest: digest.clone(), repository: repository.to_string(), how, hashed, from: from() };
        if let Some(journal) = self.journal.as_ref().filter(|_| how != ArrivalWay::Present) {
            journal.write(&put);
        }
        let arrival = self.evidence.then(|| Box::new(put));
        self.puts.lock().entry(key).or_insert(RecordedPut { how, arrival });
    }

    fn from(&self, digest: &Digest) -> Option<String> {
        let names: Vec<String> = self.shelf.origins_of(digest).into_iter().map(|origin| (self.label)(origin)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

#[async_trait]
impl Sink for RecordingSink {
    async fn published(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.inner.published(repository, reference, context).await
    }

    async fn admits(&self, repository: &Repository, context: &RequestContext) -> Result<()> {
        self.inner.admits(repository, context).await
    }

    async fn holds_blob(&self, repository: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<Presence> {
        self.inner.holds_blob(repository, blob, context).await
    }

    async fn holds_manifest(&self, repository: &Repository, manifest: &Descriptor, context: &RequestContext) -> Result<Presence> {
        self.inner.holds_manifest(repository, manifest, context).await
    }

    async fn link(&self, from: &Repository, to: &Repository, blob: &Descriptor, context: &RequestContext) -> Result<bool> {
        let linked = self.inner.link(from, to, blob, context).await?;
        if linked {
            let how = if self.inner.shares_blobs() { ArrivalWay::Present } else { ArrivalWay::Mounted };
            self.note(to, &blob.digest, how, || None);
        }
        Ok(linked)
    }

    fn shares_blobs(&self) -> bool {
        self.inner.shares_blobs()
    }

    async fn write_blob(&self, repository: &Repository, blob: &Descriptor, open: &dyn OpenBlob, context: &RequestContext) -> Result<()> {
        let (copy, opened) = (self.shelf.current_copy(&blob.digest), self.shelf.times_opened(&blob.digest));
        let written = self.inner.write_blob(repository, blob, open, context).await;
        // Where mounting is refused, a blob may be read from another repository of the target.
        let read_here = self.shelf.times_opened(&blob.digest) > opened;
        match &written {
            Ok(()) => self.note(repository, &blob.digest, ArrivalWay::Written, || if read_here { self.from(&blob.digest) } else { None }),
            Err(error) if error.kind() == Kind::Damaged && error.side() != Side::Target && read_here => {
                if let Some(copy) = copy {
                    self.shelf.mark_damaged(&blob.digest, copy, error.message());
                }
            }
            Err(_) => {}
        }
        written
    }

    async fn put_manifest(&self, repository: &Repository, manifest: &Manifest, context: &RequestContext) -> Result<()> {
        self.inner.put_manifest(repository, manifest, context).await?;
        self.note(repository, manifest.digest(), ArrivalWay::Written, || self.from(manifest.digest()));
        Ok(())
    }

    fn accept_without(&self, root: &Digest, absent: &[Digest]) {
        self.inner.accept_without(root, absent);
    }

    async fn publish(&self, publication: &Publication, context: &RequestContext) -> Result<()> {
        self.inner.publish(publication, context).await?;
        let digest = publication.manifest.digest();
        self.note(&publication.repository, digest, ArrivalWay::Written, || self.from(digest));
        Ok(())
    }

    async fn confirm(&self, publication: &Publication, always: bool, context: &RequestContext) -> Result<()> {
        self.inner.confirm(publication, always, context).await
    }

    async fn attach(&self, repository: &Repository, subject: &Digest, referrers: &[Manifest], context: &RequestContext) -> Result<()> {
        self.inner.attach(repository, subject, referrers, context).await?;
        for referrer in referrers {
            self.note(repository, referrer.digest(), ArrivalWay::Written, || self.from(referrer.digest()));
        }
        Ok(())
    }

    async fn attach_tagged(&self, publication: &Publication, subject: &Digest, context: &RequestContext) -> Result<()> {
        self.inner.attach_tagged(publication, subject, context).await?;
        let digest = publication.manifest.digest();
        self.note(&publication.repository, digest, ArrivalWay::Written, || self.from(digest));
        Ok(())
    }

    fn delivered_digest(&self, manifest: &Manifest) -> Digest {
        self.inner.delivered_digest(manifest)
    }
}
