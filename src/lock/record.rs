//! What an image holds, read at the target: small manifests only, never a blob.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::LockedManifest;
use crate::Result;
use crate::content::{Descriptor, Digest, ManifestKind, Referrer, RequestContext, Source, platforms_of, source_of};
use crate::report::TargetContent;

/// Children that are read at once.
const AT_ONCE: usize = 8;

/// What an image holds.
pub(super) struct RecordContent {
    pub(super) media_type: String,
    /// The index that it was made from, if it was cut to some platforms.
    pub(super) made_from: Option<Digest>,
    pub(super) size: u64,
    pub(super) platforms: Vec<String>,
    pub(super) children: Vec<LockedManifest>,
    /// Whether some children of its index are not there.
    pub(super) lacking: bool,
}

/// Reads `digest` and its children; `None` if it is not there.
pub(super) async fn read(source: &Arc<dyn Source>, held: &TargetContent, digest: &Digest) -> Result<Option<RecordContent>> {
    let context = RequestContext::new(held.repository.as_str());
    let Some(root) = source.manifest(&held.repository, digest, &context).await? else { return Ok(None) };
    let links = root.links();
    let mut pieces: HashMap<Digest, u64> = HashMap::from([(root.digest().clone(), root.size())]);
    let add = |pieces: &mut HashMap<Digest, u64>, of: &[Descriptor]| {
        of.iter().filter(|piece| !piece.is_foreign()).for_each(|piece| _ = pieces.insert(piece.digest.clone(), piece.size));
    };
    add(&mut pieces, &links.blobs);
    let mut children = vec![];
    // Nested indexes are walked level by level; each manifest once.
    let mut level = links.manifests.clone();
    let top: Vec<Digest> = level.iter().map(|child| child.digest.clone()).collect();
    let mut lacking = false;
    while !level.is_empty() {
        let wanted: Vec<Descriptor> = level.drain(..).filter(|child| !pieces.contains_key(&child.digest)).collect();
        let read: Vec<_> = stream::iter(wanted.into_iter().map(|child| {
            let context = &context;
            async move {
                let manifest = source.manifest(&held.repository, &child.digest, context).await?;
                Ok::<_, crate::Error>((child, manifest))
            }
        }))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
        for (child, manifest) in read {
            let Some(manifest) = manifest else {
                lacking |= crate::content::kind_of(&child.media_type) != ManifestKind::Opaque;
                continue;
            };
            pieces.insert(child.digest.clone(), manifest.size());
            let links = manifest.links();
            add(&mut pieces, &links.blobs);
            level.extend(links.manifests.iter().cloned());
            if top.contains(&child.digest) {
                children.push(child);
            }
        }
    }
    let platforms = platforms_of(&children);
    let children = children
        .iter()
        .map(|child| LockedManifest { platform: child.platform.as_ref().map(ToString::to_string), ..piece(child) })
        .collect();
    let made_from = source_of(&root);
    Ok(Some(RecordContent {
        media_type: root.media_type().to_owned(),
        made_from,
        size: pieces.values().sum(),
        platforms,
        children,
        lacking,
    }))
}

/// The referrers of a delivered image, sorted.
pub(super) fn referrers(held: &TargetContent) -> Vec<LockedManifest> {
    let mut pieces: Vec<LockedManifest> = held.referrers.iter().map(about).collect();
    pieces.sort();
    pieces.dedup();
    pieces
}

fn about(Referrer { manifest, subject, tag }: &Referrer) -> LockedManifest {
    LockedManifest { subject: Some(subject.clone()), tag: tag.clone(), ..piece(manifest) }
}

fn piece(of: &Descriptor) -> LockedManifest {
    LockedManifest {
        digest: of.digest.clone(),
        size: of.size,
        media_type: of.media_type.clone(),
        platform: None,
        artifact_type: of.artifact_type.clone(),
        subject: None,
        tag: None,
    }
}
