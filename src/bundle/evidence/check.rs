//! Compares evidence with a target: whether everything is still there.

use futures_util::{StreamExt as _, stream};

use super::{Evidence, EvidenceKind, EvidenceRow};
use crate::content::{Descriptor, Digest, Presence, Repository, RequestContext};
use crate::copy;
use crate::name::Reference;
use crate::{Error, Result};

/// Rows checked at once; the target's own concurrency limits requests further.
const AT_ONCE: usize = 64;

/// A row that the target does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The row.
    pub row: EvidenceRow,
    /// The difference, as a message.
    pub why: String,
}

/// Compares every row with the target: that names have their digest, and that manifests and blobs are there. `repository`
/// maps a row's repository to the target's.
///
/// # Errors
/// If a request to the target fails.
pub async fn check(
    evidence: &Evidence,
    target: &copy::TargetEnds,
    repository: impl Fn(&str) -> Repository + Sync,
) -> Result<Vec<Difference>> {
    let repository = &repository;
    let asked = stream::iter(evidence.rows()).map(async |row: &EvidenceRow| {
        let why = one(row, target, &repository(&row.repository)).await?;
        Ok::<_, Error>(why.map(|why| Difference { row: row.clone(), why }))
    });
    let mut asked = std::pin::pin!(asked.buffered(AT_ONCE));
    let mut differences = vec![];
    while let Some(difference) = asked.next().await {
        differences.extend(difference?);
    }
    Ok(differences)
}

/// The difference between a row and the target, if there is one.
async fn one(row: &EvidenceRow, target: &copy::TargetEnds, repository: &Repository) -> Result<Option<String>> {
    let context = RequestContext::new(format!("{repository}@{}", row.digest));
    let digest = match Digest::parse(&row.digest) {
        Ok(digest) => digest,
        Err(why) => return Ok(Some(why)),
    };
    let descriptor = Descriptor::new("", digest.clone(), row.size);
    Ok(match row.kind {
        EvidenceKind::Blob => match target.sink.holds_blob(repository, &descriptor, &context).await? {
            Presence::Here => None,
            _ => Some("the target does not have it".to_owned()),
        },
        EvidenceKind::Manifest => manifest(target, repository, &descriptor, &context).await?,
        EvidenceKind::Image => match Digest::parse(&row.reference) {
            Ok(_) => manifest(target, repository, &descriptor, &context).await?,
            Err(_) => match target.source.resolve(repository, &Reference::Tag(row.reference.clone()), &context).await? {
                Some(found) if found.digest == digest => None,
                Some(found) => Some(format!("`{}` is {} now", row.reference, found.digest)),
                None => Some(format!("`{}` does not exist", row.reference)),
            },
        },
    })
}

async fn manifest(
    target: &copy::TargetEnds,
    repository: &Repository,
    manifest: &Descriptor,
    context: &RequestContext,
) -> Result<Option<String>> {
    Ok(match target.sink.holds_manifest(repository, manifest, context).await? {
        Presence::Here => None,
        Presence::Incomplete => Some("the target lacks something that it refers to".to_owned()),
        Presence::Absent | Presence::At(_) => Some("the target does not have it".to_owned()),
    })
}
