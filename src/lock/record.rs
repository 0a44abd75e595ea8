//! What an image holds, read at the target: small manifests only, never a blob.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::LockedManifest;
use crate::content::{
    Descriptor, Digest, GraphNode, GraphWalk, NodeRole, Referrer, RequestContext, Source, check_depth, platforms_of, source_of,
    walk_concurrently,
};
use crate::mutex::Mutex;
use crate::report::TargetContent;
use crate::{Error, Result, Side};

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

/// What a walk of an image found.
#[derive(Default)]
struct HeldContent {
    sizes: HashMap<Digest, u64>,
    manifests: HashSet<Digest>,
    lacking: bool,
}

/// Reads `digest` and its children; `None` if it is not there.
pub(super) async fn read(source: &Arc<dyn Source>, held: &TargetContent, digest: &Digest) -> Result<Option<RecordContent>> {
    let context = RequestContext::new(held.repository.as_str());
    let Some(root) = source.manifest(&held.repository, digest, &context).await? else { return Ok(None) };
    let (root_links, content) = (root.links(), Mutex::new(HeldContent::default()));
    let visit = async |GraphNode { descriptor, role, depth }| {
        if role == NodeRole::Blob {
            content.lock().sizes.insert(descriptor.digest, descriptor.size);
            return Ok(Arc::default());
        }
        let manifest = match depth {
            0 => Some(root.clone()),
            _ => source.manifest(&held.repository, &descriptor.digest, &context).await?,
        };
        let Some(manifest) = manifest else {
            content.lock().lacking |= role == NodeRole::Manifest;
            return Ok(Arc::default());
        };
        check_depth(depth, manifest.links(), Side::Target)?;
        let mut content = content.lock();
        content.sizes.insert(descriptor.digest.clone(), manifest.size());
        content.manifests.insert(descriptor.digest);
        Ok::<_, Error>(Arc::clone(manifest.links()))
    };
    walk_concurrently(GraphWalk::new(&root.descriptor(), NodeRole::Manifest), AT_ONCE, visit).await?;
    let mut content = content.into_inner();
    let children: Vec<Descriptor> = root_links.manifests.iter().filter(|child| content.manifests.remove(&child.digest)).cloned().collect();
    let platforms = platforms_of(&children);
    let children = children
        .iter()
        .map(|child| LockedManifest { platform: child.platform.as_ref().map(ToString::to_string), ..piece(child) })
        .collect();
    let made_from = source_of(&root);
    Ok(Some(RecordContent {
        media_type: root.media_type().to_owned(),
        made_from,
        size: content.sizes.values().sum(),
        platforms,
        children,
        lacking: content.lacking,
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
