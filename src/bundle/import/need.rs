//! What an image is made of, and where each piece is: at hand, at the target, or nowhere yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::bundle::read::{Availability, BundleSource};
use crate::content::{Descriptor, Digest, GraphNode, GraphWalk, Links, NodeRole, Presence, Repository};
use crate::copy::{self, CopyImage, Engine};
use crate::mutex::Mutex;
use crate::{Kind, Result};

/// Questions to the target for one image at once; the target's own concurrency limits those of all.
const AT_ONCE: usize = 16;

/// A piece of an image that is not to be had.
#[derive(Debug, Clone)]
pub(super) struct MissingContent {
    pub(super) descriptor: Descriptor,
    /// It is a manifest: what it leads to is not known.
    pub(super) manifest: bool,
    /// It was at hand, and damaged.
    pub(super) damaged: bool,
}

/// What an image is made of.
#[derive(Debug, Default)]
pub(super) struct ImageNeeds {
    /// What is neither at hand nor at the target.
    pub(super) lacks: Vec<MissingContent>,
    /// Configs and layers at hand.
    pub(super) blobs: Vec<Descriptor>,
    /// Everything, at hand or not.
    pub(super) all: Vec<(Descriptor, bool)>,
}

/// Who is asked.
pub(super) struct NeedsQuery {
    pub(super) shelf: Arc<BundleSource>,
    pub(super) target: copy::TargetEnds,
    pub(super) engine: Arc<Engine>,
    /// Where the bundles' bases say that content is, with the target's prefix.
    pub(super) held: HashMap<Digest, Vec<Repository>>,
    /// Everything that volumes carry, here or not; none if that is not known.
    pub(super) carried: Option<HashSet<Digest>>,
    /// What the target was found not to have.
    pub(super) absent: Mutex<HashSet<(Repository, Digest)>>,
}

impl NeedsQuery {
    /// Walks the graph of `image` from `root`, its referrers too.
    ///
    /// # Errors
    /// If the target cannot be asked, or a manifest is of a kind that is not carried.
    pub(super) async fn need(&self, image: &CopyImage, root: &Descriptor) -> Result<ImageNeeds> {
        let (mut need, mut elsewhere) = (ImageNeeds::default(), vec![]);
        // No volume brings what the upstream did not have.
        let mut walk = GraphWalk::new(root, NodeRole::Manifest).only_platforms(&image.policy.platforms);
        while let Some(node) = walk.next_node() {
            if node.role == NodeRole::Blob {
                self.repository(node.descriptor, &mut need, &mut elsewhere);
                continue;
            }
            match self.links(image, &node, node.descriptor.digest == root.digest).await? {
                NodeContent::Manifest(links) => {
                    walk.expand(&node, &links);
                    // Lists may have more than was carried.
                    let referrers = self.shelf.all_referrers(&image.from, &node.descriptor.digest);
                    referrers.into_iter().filter(|referrer| self.is_to_come(referrer)).for_each(|referrer| walk.add(referrer));
                    need.all.push((node.descriptor, true));
                }
                NodeContent::Blob => self.repository(node.descriptor, &mut need, &mut elsewhere),
                NodeContent::Nowhere { damaged } => {
                    need.lacks.push(MissingContent { descriptor: node.descriptor, manifest: true, damaged });
                }
            }
        }
        let asked = stream::iter(elsewhere).map(|blob| self.at_target(image, blob)).buffered(AT_ONCE);
        need.lacks.extend(asked.try_collect::<Vec<_>>().await?.into_iter().flatten());
        Ok(need)
    }

    /// Whether a referrer is here, or on its way.
    fn is_to_come(&self, referrer: &Descriptor) -> bool {
        self.shelf.availability(referrer) != Availability::Absent
            || self.carried.as_ref().is_none_or(|carried| carried.contains(&referrer.digest))
    }

    /// Sorts a blob: at hand, or to be asked for.
    fn repository(&self, blob: Descriptor, need: &mut ImageNeeds, elsewhere: &mut Vec<Descriptor>) {
        need.all.push((blob.clone(), false));
        match self.shelf.availability(&blob) {
            Availability::Here => need.blobs.push(blob),
            Availability::Damaged | Availability::Absent if self.engine.knows_blob(&blob.digest) => {}
            Availability::Damaged | Availability::Absent => elsewhere.push(blob),
        }
    }

    /// What a manifest refers to: read here, else at the target.
    async fn links(&self, image: &CopyImage, node: &GraphNode, is_root: bool) -> Result<NodeContent> {
        let GraphNode { descriptor: node, role, .. } = node;
        let read = if is_root { self.shelf.read_root(&node.digest).await } else { self.shelf.read_manifest(&node.digest).await };
        let damaged = match read {
            Ok(Some(manifest)) => return Ok(NodeContent::Manifest(Arc::clone(manifest.links()))),
            Ok(None) => false,
            Err(error) if error.kind() == Kind::Damaged && self.shelf.availability(node) == Availability::Damaged => true,
            Err(error) => return Err(error),
        };
        if *role == NodeRole::Unknown && self.shelf.availability(node) == Availability::Here {
            return Ok(NodeContent::Blob);
        }
        let repository = match self.target.sink.holds_manifest(&image.to, node, &image.context).await? {
            Presence::Here => return Ok(NodeContent::Manifest(Arc::default())),
            Presence::Absent => return Ok(NodeContent::Nowhere { damaged }),
            Presence::Incomplete => image.to.clone(),
            Presence::At(repository) => repository,
        };
        match self.target.source.manifest(&repository, &node.digest, &image.context).await? {
            Some(manifest) => Ok(NodeContent::Manifest(Arc::clone(manifest.links()))),
            None => Ok(NodeContent::Nowhere { damaged }),
        }
    }

    /// Looks for a blob at the target: where it is needed, and where the bundle's base says that it is. What is found is told to the engine.
    async fn at_target(&self, image: &CopyImage, blob: Descriptor) -> Result<Option<MissingContent>> {
        let places = std::iter::once(&image.to).chain(self.held.get(&blob.digest).into_iter().flatten());
        for repository in places {
            let key = (repository.clone(), blob.digest.clone());
            if self.absent.lock().contains(&key) {
                continue;
            }
            match self.target.sink.holds_blob(repository, &blob, &image.context).await {
                Ok(Presence::Here) => {
                    self.engine.add_known_blob(repository, &blob.digest);
                    return Ok(None);
                }
                Ok(Presence::At(other)) => {
                    self.engine.add_known_blob(&other, &blob.digest);
                    return Ok(None);
                }
                Ok(Presence::Absent | Presence::Incomplete) => {
                    self.absent.lock().insert(key);
                }
                // That another repository may not be looked into only means that nothing is mounted from it.
                Err(error) if *repository != image.to && matches!(error.kind(), Kind::Unauthorized | Kind::Refused | Kind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let damaged = self.shelf.availability(&blob) == Availability::Damaged;
        Ok(Some(MissingContent { descriptor: blob, manifest: false, damaged }))
    }
}

/// What a node of the graph turned out to be.
enum NodeContent {
    Manifest(Arc<Links>),
    Blob,
    Nowhere { damaged: bool },
}
