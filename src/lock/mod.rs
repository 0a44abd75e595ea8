//! The lock: which digest each tag of an image set had when it was delivered, with its platforms, children, referrers and sizes.
//! A file to be kept in version control: sorted, stable, a line a fact. `docs/lock.md` describes it.
//!
//! Pure but for `record`, which reads at the target what a delivered image holds. Knows nothing of HTTP.

mod drift;
mod record;
#[cfg(test)]
mod tests;
mod update;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use drift::{CurrentDigest, Drift, drift};
pub(crate) use update::below;
pub use update::update;

use crate::content::{Descriptor, Digest, IndexMode, PlatformFilter, Policy, Referrer, Referrers};
use crate::list::{ImageSelection, LineOrigin, ListEntry, ParsedList, TargetName};
use crate::name::ImageName;
use crate::{Error, Operation, Result};

/// The only version of the file's format.
const VERSION: u32 = 1;

const OPERATION: Operation = Operation::ReadLock;

/// A lock file's content: records by the name that each image has at the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    records: BTreeMap<String, LockRecord>,
}

/// The file as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockDocument {
    version: u32,
    images: Vec<LockRecord>,
}

/// What was delivered under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockRecord {
    /// Its name at the target, below the target's prefix: `library/alpine:3.20`, or `repo@sha256:…`.
    pub target: String,
    /// The normalised name of what it was copied from: `docker.io/library/alpine:3.20`.
    pub source: String,
    /// The digest at the target.
    pub digest: Digest,
    /// The digest at the upstream; it differs where the index was rewritten.
    pub source_digest: Digest,
    /// The media type of what `digest` names.
    pub media_type: String,
    /// How the upstream's index was cut to `platforms`.
    pub index: IndexCut,
    /// Bytes of all that was delivered: manifests, configs and layers, each once.
    pub size: u64,
    /// When the image was created (RFC 3339), where its date was asked for to choose tags by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<jiff::Timestamp>,
    /// The platforms delivered, where the image is an index that names them.
    pub platforms: Vec<String>,
    /// The index's children that were delivered, in its order.
    pub children: Vec<LockedManifest>,
    /// The referrers that were delivered, sorted by digest.
    pub referrers: Vec<LockedManifest>,
}

/// How an index was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexCut {
    /// As it is, with all children; also for what is no index.
    Whole,
    /// A new index of the platforms delivered.
    Rewrite,
    /// As it is, with some children left out.
    Sparse,
}

/// A child or a referrer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedManifest {
    /// What its manifest hashes to.
    pub digest: Digest,
    /// The manifest's bytes.
    pub size: u64,
    /// The manifest's media type.
    pub media_type: String,
    /// A child's platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// A referrer's artifact type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What a referrer is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// The tag that a referrer is found by, where that is how it is found (cosign's `sha256-….sig`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl Lock {
    /// Reads the lock at `path`; `None` if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read, or is none: `FILE:LINE: what is wrong`.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match crate::input::read(path, crate::input::MAX_LOCK) {
            Ok(bytes) => Self::parse(&bytes, path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(OPERATION, path, &error)),
        }
    }

    /// Reads the lock at `path`, which must be there.
    ///
    /// # Errors
    /// As [`Lock::read`], and if there is none.
    pub fn need(path: &Path) -> Result<Self> {
        Self::read(path)?.ok_or_else(|| {
            let error = Error::local(OPERATION, format!("{}: there is no such file", path.display()));
            error.remedy("write it with `larder sync --lock FILE` first")
        })
    }

    /// Reads a lock's text; `path` is what errors are named after.
    ///
    /// # Errors
    /// As [`Lock::read`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let wrong = |line: usize, why: String| Error::local(OPERATION, format!("{}:{line}: {why}", path.display()));
        let file: LockDocument = serde_json::from_slice(bytes).map_err(|error| {
            let why = error.to_string();
            // The place is said already.
            wrong(error.line(), why.split(" at line ").next().unwrap_or(&why).to_owned())
        })?;
        if file.version != VERSION {
            return Err(wrong(1, format!("version {} is not known to this larder, which reads version {VERSION}", file.version)));
        }
        let mut records = BTreeMap::new();
        for record in file.images {
            let target = record.target.clone();
            record.entry(LineOrigin { file: "".into(), line: 0 }).map_err(|why| wrong(line_of(bytes, &target), why))?;
            if records.insert(target.clone(), record).is_some() {
                return Err(wrong(line_of(bytes, &target), format!("`{target}` is there twice")));
            }
        }
        Ok(Lock { records })
    }

    /// The file's text: sorted by target name, one fact a line, ending with a line break.
    pub fn to_text(&self) -> String {
        let file = LockDocument { version: VERSION, images: self.records.values().cloned().collect() };
        // Strings, numbers and lists of them: nothing that could fail.
        serde_json::to_string_pretty(&file).map(|text| text + "\n").unwrap_or_default()
    }

    /// Replaces the lock at `path`, in one step.
    ///
    /// # Errors
    /// A local error that names the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        crate::report::file::replace(path, self.to_text().as_bytes()).map_err(|error| Error::io(Operation::WriteLock, path, &error))
    }

    /// The records, by name at the target.
    pub fn records(&self) -> impl Iterator<Item = &LockRecord> {
        self.records.values()
    }

    /// When images were created, by their digest upstream, as far as the records say.
    pub fn dates(&self) -> BTreeMap<Digest, jiff::Timestamp> {
        self.records().filter_map(|record| Some((record.source_digest.clone(), record.created?))).collect()
    }

    /// Writes down when images were created, as far as `created` knows it and the records do not.
    pub fn date(&mut self, created: impl Fn(&Digest) -> Option<jiff::Timestamp>) {
        for record in self.records.values_mut() {
            record.created = record.created.or_else(|| created(&record.source_digest));
        }
    }

    /// The record of this name at the target (below its prefix).
    pub fn get(&self, target: &str) -> Option<&LockRecord> {
        self.records.get(target)
    }

    /// The same records as a list: what `--frozen` delivers, each by digest.
    pub fn frozen(&self, path: &Path) -> ParsedList {
        let text = self.to_text();
        let file: std::sync::Arc<str> = path.display().to_string().into();
        let origin =
            |record: &LockRecord| LineOrigin { file: std::sync::Arc::clone(&file), line: line_of(text.as_bytes(), &record.target) };
        // Each was seen to be an entry when the lock was read.
        let entries = self.records.values().filter_map(|record| record.entry(origin(record)).ok()).collect();
        ParsedList { entries, errors: vec![] }
    }
}

/// The line at which the record of `target` begins, as larder writes it; 1 if somebody else wrote it.
fn line_of(text: &[u8], target: &str) -> usize {
    let Ok(wanted) = serde_json::to_string(target) else { return 1 };
    let wanted = format!("\"target\": {wanted}");
    let text = String::from_utf8_lossy(text);
    text.lines().position(|line| line.trim_start().starts_with(&wanted)).map_or(1, |at| at + 1)
}

impl LockedManifest {
    /// The referrer that this is, of an image of this digest where it does not say what it is about.
    fn referrer(&self, image: &Digest) -> Referrer {
        let manifest = Descriptor::new(self.media_type.clone(), self.digest.clone(), self.size);
        Referrer {
            manifest: Descriptor { artifact_type: self.artifact_type.clone(), ..manifest },
            subject: self.subject.clone().unwrap_or_else(|| image.clone()),
            tag: self.tag.clone(),
        }
    }
}

impl LockRecord {
    /// The list entry that asks for exactly this. The error is for a person.
    fn entry(&self, origin: LineOrigin) -> Result<ListEntry, String> {
        let source = ImageName::parse(&self.source)?;
        let (repository, tag) = match self.target.split_once('@') {
            Some((repository, _)) => (repository, None),
            None => {
                let (repository, tag) =
                    self.target.rsplit_once(':').ok_or_else(|| format!("`{}` has neither tag nor digest", self.target))?;
                crate::name::check_tag(tag)?;
                (repository, Some(tag.to_owned()))
            }
        };
        let policy = Policy {
            platforms: match self.index {
                IndexCut::Whole => vec![],
                IndexCut::Rewrite | IndexCut::Sparse => {
                    self.platforms.iter().map(|text| PlatformFilter::parse(text)).collect::<Result<_, _>>()?
                }
            },
            index: if self.index == IndexCut::Sparse { IndexMode::Sparse } else { IndexMode::Rewrite },
            referrers: Referrers::Exactly(self.referrers.iter().map(|piece| piece.referrer(&self.digest)).collect()),
            ..Policy::default()
        };
        Ok(ListEntry {
            origin,
            text: crate::error::printable(&self.source),
            source: source.repository,
            selection: ImageSelection::One { tag: source.tag, digest: Some(self.source_digest.clone()) },
            target: Some(TargetName { repository: repository.to_owned(), tag }),
            platforms: policy.platforms.clone(),
            decided: Some(policy),
            priority: 0,
        })
    }
}
