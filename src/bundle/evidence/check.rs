//! Evidence against a target: whether everything is still where it was put.

use futures_util::{StreamExt as _, stream};

use super::{Evidence, EvidenceKind, EvidenceRow};
use crate::content::{Descriptor, Digest, Presence, Repository, RequestContext};
use crate::copy;
use crate::name::Reference;
use crate::{Error, Result};

/// Questions at once; the target's own concurrency limits them further.
const AT_ONCE: usize = 64;

/// A row that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub row: EvidenceRow,
    /// What is so instead, for a person.
    pub why: String,
}

/// Asks the target for every row: names by what they name, manifests and blobs by whether they are there. `repository` says where a row's
/// repository is at the target.
///
/// # Errors
/// If the target cannot be asked.
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

/// What is wrong with a row, if anything is.
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
                None => Some(format!("there is no `{}`", row.reference)),
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
