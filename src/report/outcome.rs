//! What became of one image.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::Error;
use crate::content::{Digest, Referrer, Repository};
use crate::name::Reference;

/// The words of a report's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The target was made to hold it.
    Copied,
    /// The target held it already.
    Current,
    /// It was pulled through a cache.
    Warmed,
    /// Nothing failed, but it is not there yet.
    Deferred,
    /// It could not be delivered.
    Failed,
}

impl Status {
    /// The word, as the report has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Copied => "copied",
            Status::Current => "current",
            Status::Warmed => "warmed",
            Status::Deferred => "deferred",
            Status::Failed => "failed",
        }
    }
}

/// A row of the report: one image, or one list line that named none. Field names and order are the contract's
/// ("Output" in the product description).
#[derive(Debug, Clone, Serialize)]
pub struct ImageOutcome {
    /// The normalised name of what was asked for; the line's text if it did not parse.
    pub source: String,
    /// Where it goes, as the target's users write it; empty if that is not known.
    pub target: String,
    /// The cache rule that decided, if one did.
    pub rule: Option<String>,
    /// The list it came from.
    pub file: String,
    /// The line in it.
    pub line: usize,
    /// What became of it.
    pub status: Status,
    /// The digest at the target.
    pub digest: Option<Digest>,
    /// The digest at the upstream.
    pub source_digest: Option<Digest>,
    /// The platforms delivered, where the image is an index that names them.
    pub platforms: Vec<String>,
    /// How many referrers (signatures, SBOMs) were delivered with it.
    pub referrers: u64,
    /// Bytes read from the upstream for it.
    pub bytes: u64,
    /// Manifest GETs sent to the upstream for it.
    pub pulls: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Remarks that are no failures.
    pub notes: Vec<String>,
    /// Why it is deferred.
    pub reason: Option<String>,
    /// When a deferred image can go on (RFC 3339).
    pub until: Option<String>,
    /// Why it failed.
    #[serde(serialize_with = "error_row")]
    pub error: Option<Error>,
    /// The list line that asks for it again.
    #[serde(skip)]
    pub again: RepeatEntry,
    /// Where it is at the target, and what belongs to it; `None` if that is not known.
    #[serde(skip)]
    pub held: Option<TargetContent>,
}

/// Where an image is at the target, and what belongs to it.
#[derive(Debug, Clone)]
pub struct TargetContent {
    /// Its repository, prefix included.
    pub repository: Repository,
    /// Its name there; `None` for an entry of which it is not known which images it means.
    pub reference: Option<Reference>,
    /// The referrers delivered with it.
    pub referrers: Vec<Referrer>,
}

/// A list line, as `--failed` writes it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RepeatEntry {
    /// `image`
    pub image: String,
    /// `tags`
    pub tags: String,
    /// `exclude`
    pub exclude: String,
    /// `platforms`
    pub platforms: String,
    /// `target`
    pub target: String,
    /// `priority`
    pub priority: i64,
}

impl ImageOutcome {
    /// A row for `source` that has not been worked on.
    pub fn new(source: impl Into<String>, target: impl Into<String>, file: impl Into<String>, line: usize) -> Self {
        let source = source.into();
        ImageOutcome {
            again: RepeatEntry { image: source.clone(), ..RepeatEntry::default() },
            source,
            target: target.into(),
            rule: None,
            file: file.into(),
            line,
            status: Status::Deferred,
            digest: None,
            source_digest: None,
            platforms: vec![],
            referrers: 0,
            bytes: 0,
            pulls: 0,
            seconds: 0.0,
            notes: vec![],
            reason: None,
            until: None,
            error: None,
            held: None,
        }
    }

    /// The same row, failed with `error`.
    #[must_use]
    pub fn failed(mut self, error: Error) -> Self {
        self.status = Status::Failed;
        self.error = Some(error);
        self
    }

    /// The same row, deferred because of `reason`.
    #[must_use]
    pub fn deferred(mut self, reason: impl Into<String>) -> Self {
        self.status = Status::Deferred;
        self.reason = Some(reason.into());
        self
    }

    /// `file:line`, where it came from.
    pub fn origin(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

fn error_row<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(error) = error else { return serializer.serialize_none() };
    let mut row = serializer.serialize_struct("error", 5)?;
    row.serialize_field("side", &error.side())?;
    row.serialize_field("operation", &error.operation())?;
    row.serialize_field("status", &error.http_status())?;
    row.serialize_field("code", &error.registry_code())?;
    row.serialize_field("message", &error.message())?;
    row.end()
}
