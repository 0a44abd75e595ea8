//! Which referrers the target has where its clients look for them.

use std::collections::HashSet;
use std::sync::Arc;

use super::image::CopyImage;
use super::once::OnceMap;
use super::target::TargetState;
use crate::Result;
use crate::content::{Digest, Referrer, Repository};
use crate::mutex::Mutex;
use crate::name::Reference;

/// The repository, the subject, the referrer's digest, and its tag if it has one.
type AttachedKey = (Repository, Digest, Digest, Option<String>);

/// Which referrers the target has where its clients look for them: in the list of the subject, or under a tag.
pub(super) struct AttachedReferrers {
    target: Arc<TargetState>,
    /// What the target lists for a subject.
    lists: OnceMap<(Repository, Digest), HashSet<Digest>>,
    known: Mutex<HashSet<AttachedKey>>,
}

impl AttachedReferrers {
    pub(super) fn new(target: Arc<TargetState>) -> Self {
        AttachedReferrers { target, lists: OnceMap::default(), known: Mutex::default() }
    }

    /// Whether this run has found or attached `referrer` at the target.
    pub(super) fn knows(&self, image: &CopyImage, referrer: &Referrer) -> bool {
        self.known.lock().contains(&key(image, referrer))
    }

    /// Notes that the target has `referrer`.
    pub(super) fn add(&self, image: &CopyImage, referrer: &Referrer) {
        self.known.lock().insert(key(image, referrer));
    }

    /// Whether the target has `referrer`. Spends one list request for all referrers of a subject, or a HEAD for a tag.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub(super) async fn contains(&self, image: &CopyImage, referrer: &Referrer) -> Result<bool> {
        if self.knows(image, referrer) {
            return Ok(true);
        }
        let (repository, context) = (&image.to, &image.context);
        let there = match &referrer.tag {
            Some(tag) => {
                let named = self.target.sink().published(repository, &Reference::Tag(tag.clone()), context).await?;
                named.is_some_and(|named| named.digest == referrer.manifest.digest)
            }
            None => {
                let request = async {
                    let listed = self.target.source().referrers(repository, &referrer.subject, context).await?;
                    Ok(listed.into_iter().map(|listed| listed.digest).collect())
                };
                let listed = self.lists.get_or_try_init((repository.clone(), referrer.subject.clone()), request).await?;
                listed.contains(&referrer.manifest.digest)
            }
        };
        if there {
            self.add(image, referrer);
        }
        Ok(there)
    }
}

fn key(image: &CopyImage, Referrer { manifest, subject, tag }: &Referrer) -> AttachedKey {
    (image.to.clone(), subject.clone(), manifest.digest.clone(), tag.clone())
}
