//! The lock after a run: what was delivered replaces its record, what failed keeps the old one, what is no longer listed goes.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{IndexCut, Lock, LockRecord, record};
use crate::content::Source;
use crate::report::{ImageOutcome, Status, TargetContent};
use crate::{Error, Operation, Result};

/// Images whose content is read at the target at once: each is a few small requests, and the target's own concurrency limits them.
const AT_ONCE: usize = 16;

/// The lock that follows `old` after a run with these rows into `target`, whose repositories are below `prefix`.
///
/// # Errors
/// If what was delivered cannot be read back at the target.
pub async fn update(old: &Lock, rows: &[ImageOutcome], target: &Arc<dyn Source>, prefix: &str) -> Result<Lock> {
    let mut new = Lock::default();
    let keep = |new: &mut Lock, is_kept: &dyn Fn(&str) -> bool| {
        let kept = old.records.iter().filter(|(name, _)| is_kept(name)).map(|(name, record)| (name.clone(), record.clone()));
        kept.for_each(|(name, record)| _ = new.records.entry(name).or_insert(record));
    };
    let mut delivered = vec![];
    for row in rows {
        match (&row.held, row.status) {
            // A line that did not parse: nobody knows what it means, so nothing may be taken for unlisted.
            (None, _) if row.target.is_empty() => keep(&mut new, &|_| true),
            (None, _) => {}
            (Some(held), Status::Copied | Status::Current | Status::Warmed) if held.reference.is_some() => delivered.push((row, held)),
            (Some(held), _) => match name(held, prefix) {
                Some(name) => keep(&mut new, &|other| other == name),
                // All images of an entry whose tags could not be listed.
                None => {
                    let repository = below(held.repository.as_str(), prefix);
                    keep(&mut new, &|other| other.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@'])));
                }
            },
        }
    }
    let records: Vec<Result<Option<LockRecord>>> =
        stream::iter(delivered).map(|(row, held)| one(old, row, held, target, prefix)).buffered(AT_ONCE).collect().await;
    for record in records {
        if let Some(record) = record? {
            new.records.insert(record.target.clone(), record);
        }
    }
    Ok(new)
}

async fn one(old: &Lock, row: &ImageOutcome, held: &TargetContent, target: &Arc<dyn Source>, prefix: &str) -> Result<Option<LockRecord>> {
    let (Some(name), Some(digest)) = (name(held, prefix), &row.digest) else { return Ok(None) };
    let before = old.get(&name).filter(|record| record.digest == *digest);
    // An immutable tag that the target has was not asked for upstream: it is what it was.
    let known = row.source_digest.clone().or_else(|| before.map(|record| record.source_digest.clone()));
    let source_digest = known.clone().unwrap_or_else(|| digest.clone());
    if let Some(before) = before
        && row.status == Status::Current
        && (held.referrers.is_empty() || record::referrers(held) == before.referrers)
        && before.source == row.source
        && before.source_digest == source_digest
    {
        return Ok(Some(before.clone()));
    }
    let content = record::read(target, held, digest).await.map_err(|error| error.subject(&row.source))?;
    let content = content.ok_or_else(|| {
        Error::local(Operation::WriteLock, format!("the target does not give back {digest}, which it was just seen to hold"))
            .subject(&row.source)
    })?;
    let source_digest = known.or_else(|| content.made_from.clone()).unwrap_or(source_digest);
    let index = match (*digest == source_digest, content.lacking) {
        (false, _) => IndexCut::Rewrite,
        (true, true) => IndexCut::Sparse,
        (true, false) => IndexCut::Whole,
    };
    let mut referrers = record::referrers(held);
    if referrers.is_empty() && row.status == Status::Current {
        referrers = before.map(|record| record.referrers.clone()).unwrap_or_default();
    }
    Ok(Some(LockRecord {
        created: before.filter(|before| before.source_digest == source_digest).and_then(|before| before.created),
        target: name,
        source: row.source.clone(),
        digest: digest.clone(),
        source_digest,
        media_type: content.media_type,
        index,
        size: content.size,
        platforms: content.platforms,
        children: content.children,
        referrers,
    }))
}

/// The image's name at the target, below the prefix; `None` for an entry that is not one image.
fn name(held: &TargetContent, prefix: &str) -> Option<String> {
    let reference = held.reference.as_ref()?;
    Some(format!("{}{}", below(held.repository.as_str(), prefix), reference.suffix()))
}

/// A repository's name below the target's prefix.
pub(crate) fn below<'a>(repository: &'a str, prefix: &str) -> &'a str {
    if prefix.is_empty() {
        return repository;
    }
    repository.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).unwrap_or(repository)
}
