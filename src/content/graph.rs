//! The graph of manifests and blobs below a descriptor: what is visited, in which role, and where a walk ends.
//!
//! A [`GraphWalk`] reads nothing itself. Its caller takes a node, reads it wherever it is kept, and gives back what the node
//! refers to. So one walk serves files and registries, one node at a time or many at once ([`walk_concurrently`]).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::choice::ChildChoice;
use super::descriptor::Descriptor;
use super::media_type::{ManifestKind, is_blob_type, kind_of};
use super::parse::Links;
use super::platform::PlatformFilter;
use crate::name::Digest;
use crate::{Error, Kind, Operation, Result, Side};

/// How many levels of indexes a registry may make us read below an image, and how many levels of referrers' referrers.
/// Real indexes nest once or twice, and a real referrer is a signature, or the signature of an SBOM, or its
/// countersignature. Each level of a hostile chain costs a request.
pub(crate) const MAX_DEPTH: usize = 8;

/// Whether a manifest at `depth` (the root's is 0) may be followed to its children. For walks over a network; files need no
/// limit, because a walk visits each digest once.
///
/// # Errors
/// `Kind::Untrusted` if its children would be deeper than [`MAX_DEPTH`].
pub(crate) fn check_depth(depth: usize, links: &Links, side: Side) -> Result<()> {
    if depth < MAX_DEPTH || links.manifests.is_empty() {
        return Ok(());
    }
    Err(Error::new(side, Operation::ReadManifest, Kind::Untrusted, format!("indexes are nested more than {MAX_DEPTH} deep")))
}

/// What a node must turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum NodeRole {
    /// A manifest.
    Manifest,
    /// A manifest, or else a blob: a child of an index whose media type larder does not know.
    Unknown,
    /// A config or layer.
    Blob,
}

impl NodeRole {
    /// The role of a child of an index. An index may list blobs (BuildKit's cache does), and types that nobody knows
    /// (image-spec image-index.md: they "MUST NOT generate an error"). A child without a type must be a manifest.
    pub(crate) fn of_child(media_type: &str) -> Self {
        if is_blob_type(media_type) {
            NodeRole::Blob
        } else if media_type.is_empty() || kind_of(media_type) != ManifestKind::Opaque {
            NodeRole::Manifest
        } else {
            NodeRole::Unknown
        }
    }
}

/// A manifest or blob to visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraphNode {
    pub(crate) descriptor: Descriptor,
    pub(crate) role: NodeRole,
    /// The number of references between the root and it, on the shortest way.
    pub(crate) depth: usize,
}

/// A walk, level by level. Each digest is visited once, however often it is referred to; once more only where a descriptor
/// states another size, which is another claim to check, or where it is both a manifest and a blob.
///
/// Subjects are not followed: an image does not need what it is about.
#[derive(Debug)]
pub(crate) struct GraphWalk {
    root: Digest,
    platforms: Vec<PlatformFilter>,
    absent: HashSet<Digest>,
    foreign_layers: bool,
    /// The sizes that were stated for each digest, and whether it is a blob.
    seen: HashMap<Digest, HashSet<(u64, bool)>>,
    pending: VecDeque<GraphNode>,
}

impl GraphWalk {
    /// A walk from `root`. If it is an entry of a layout, its annotations count: children that were left out, and those
    /// that the upstream did not have, are not visited.
    pub(crate) fn new(root: &Descriptor, role: NodeRole) -> Self {
        let mut walk = GraphWalk {
            root: root.digest.clone(),
            platforms: PlatformFilter::of_sparse(root),
            absent: root.absent(),
            foreign_layers: false,
            seen: HashMap::new(),
            pending: VecDeque::new(),
        };
        walk.push(root.clone(), role, 0);
        walk
    }

    /// Follows only the root's children for these platforms. An empty list means all children.
    pub(crate) fn only_platforms(mut self, platforms: &[PlatformFilter]) -> Self {
        self.platforms = platforms.to_vec();
        self
    }

    /// Visits foreign layers as well. Without this they are left out: their vendor keeps them (image-spec layer.md
    /// "Non-Distributable Layers"). With it, the caller must accept that they may not be there.
    pub(crate) fn with_foreign_layers(mut self) -> Self {
        self.foreign_layers = true;
        self
    }

    /// The next node to visit; `None` if all that is known so far was visited.
    pub(crate) fn next_node(&mut self) -> Option<GraphNode> {
        self.pending.pop_front()
    }

    /// Goes on to what `node` refers to.
    pub(crate) fn expand(&mut self, node: &GraphNode, links: &Links) {
        let depth = node.depth + 1;
        let chosen = (node.descriptor.digest == self.root).then(|| ChildChoice::of(&links.manifests, &self.platforms).kept);
        for child in chosen.as_ref().unwrap_or(&links.manifests) {
            self.push(child.clone(), NodeRole::of_child(&child.media_type), depth);
        }
        for blob in &links.blobs {
            self.push(blob.clone(), NodeRole::Blob, depth);
        }
    }

    /// Visits this manifest as well, unless its digest is known already: a referrer, whose size lists often state wrongly.
    pub(crate) fn add(&mut self, manifest: Descriptor) {
        if !self.seen.contains_key(&manifest.digest) {
            self.push(manifest, NodeRole::Manifest, 0);
        }
    }

    fn push(&mut self, descriptor: Descriptor, role: NodeRole, depth: usize) {
        if descriptor.is_foreign() && !self.foreign_layers || self.absent.contains(&descriptor.digest) {
            return;
        }
        if self.seen.entry(descriptor.digest.clone()).or_default().insert((descriptor.size, role == NodeRole::Blob)) {
            self.pending.push_back(GraphNode { descriptor, role, depth });
        }
    }
}

/// Visits the nodes of `walk`, up to `at_once` of them at the same time. `visit` gives what a node refers to.
///
/// # Errors
/// The first one of `visit`; the other visits are dropped then.
pub(crate) async fn walk_concurrently<E, V: Future<Output = Result<Arc<Links>, E>>>(
    mut walk: GraphWalk,
    at_once: usize,
    visit: impl Fn(GraphNode) -> V,
) -> Result<(), E> {
    let mut visits = FuturesUnordered::new();
    loop {
        while visits.len() < at_once
            && let Some(node) = walk.next_node()
        {
            let links = visit(node.clone());
            visits.push(async move { links.await.map(|links| (node, links)) });
        }
        let Some(visited) = visits.next().await else { return Ok(()) };
        let (node, links) = visited?;
        walk.expand(&node, &links);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

    fn descriptor(media_type: &str, name: &str) -> Descriptor {
        Descriptor::new(media_type, Digest::sha256(name.as_bytes()), 1)
    }

    fn children(manifests: Vec<Descriptor>) -> Links {
        Links { manifests, ..Links::default() }
    }

    /// Walks `graph`, which tells what each digest refers to; the depths of the nodes visited.
    fn depths(root: &Descriptor, graph: &HashMap<Digest, Links>) -> Vec<usize> {
        let mut walk = GraphWalk::new(root, NodeRole::Manifest);
        let mut depths = vec![];
        while let Some(node) = walk.next_node() {
            depths.push(node.depth);
            walk.expand(&node, graph.get(&node.descriptor.digest).unwrap_or(&Links::default()));
        }
        depths
    }

    #[test]
    fn levels_of_indexes_that_each_name_the_next_twice_cost_one_step_each() {
        let index = |n: usize| descriptor(INDEX, &n.to_string());
        let graph = (0..24).map(|n| (index(n).digest, children(vec![index(n + 1), index(n + 1)]))).collect();
        assert_eq!(depths(&index(0), &graph), (0..25).collect::<Vec<_>>());
    }

    #[test]
    fn a_cycle_ends() {
        let (one, two) = (descriptor(INDEX, "1"), descriptor(INDEX, "2"));
        let graph = HashMap::from([(one.digest.clone(), children(vec![two.clone()])), (two.digest, children(vec![one.clone()]))]);
        assert_eq!(depths(&one, &graph), [0, 1]);
    }

    #[test]
    fn beyond_the_limit_is_an_error() {
        let more = children(vec![descriptor(INDEX, "child")]);
        let blobs = Links { blobs: vec![descriptor(LAYER, "layer")], ..Links::default() };
        let check = |depth, links| check_depth(depth, links, Side::Target).map_err(|error| (error.kind(), error.message()));
        assert_eq!(check(MAX_DEPTH - 1, &more), Ok(()));
        assert_eq!(check(MAX_DEPTH, &blobs), Ok(()));
        assert_eq!(check(MAX_DEPTH, &more), Err((Kind::Untrusted, "indexes are nested more than 8 deep".to_owned())));
    }

    #[test]
    fn a_shared_digest_is_visited_again_only_for_another_claim() {
        let (root, layer) = (descriptor(INDEX, "root"), descriptor(LAYER, "layer"));
        let other = Descriptor { size: 7, ..layer.clone() };
        let mut walk = GraphWalk::new(&root, NodeRole::Manifest);
        let node = walk.next_node().unwrap();
        walk.expand(&node, &Links { blobs: vec![layer.clone(), other.clone(), layer.clone()], ..Links::default() });
        walk.add(layer.clone());
        let visited: Vec<_> = std::iter::from_fn(|| walk.next_node().map(|node| node.descriptor)).collect();
        assert_eq!(visited, [layer, other]);
    }

    #[test]
    fn foreign_layers_and_what_the_root_leaves_out_are_not_visited() {
        let (mut root, absent, foreign) = (descriptor(INDEX, "root"), descriptor(INDEX, "absent"), descriptor(FOREIGN, "foreign"));
        root.annotations.insert(super::super::ABSENT.to_owned(), absent.digest.to_string());
        let links = Links { manifests: vec![absent], blobs: vec![foreign.clone()], subject: None };
        for with_foreign in [false, true] {
            let mut walk = GraphWalk::new(&root, NodeRole::Manifest);
            if with_foreign {
                walk = walk.with_foreign_layers();
            }
            let node = walk.next_node().unwrap();
            walk.expand(&node, &links);
            assert_eq!(walk.next_node().map(|node| node.descriptor), with_foreign.then(|| foreign.clone()));
        }
    }

    #[test]
    fn the_media_type_tells_what_a_child_may_be() {
        assert_eq!(NodeRole::of_child(LAYER), NodeRole::Blob);
        assert_eq!(NodeRole::of_child(INDEX), NodeRole::Manifest);
        assert_eq!(NodeRole::of_child(""), NodeRole::Manifest);
        assert_eq!(NodeRole::of_child("application/vnd.example+json"), NodeRole::Unknown);
    }

    #[tokio::test]
    async fn a_concurrent_walk_visits_the_same_and_stops_at_an_error() {
        let index = |n: usize| descriptor(INDEX, &n.to_string());
        let graph: HashMap<Digest, Arc<Links>> =
            (0..24).map(|n| (index(n).digest, Arc::new(children(vec![index(n + 1), index(n + 1)])))).collect();
        for (last, expected) in [(100, Ok(25)), (5, Err(6))] {
            let visited = std::cell::Cell::new(0);
            let walked = walk_concurrently(GraphWalk::new(&index(0), NodeRole::Manifest), 4, async |node| {
                visited.set(visited.get() + 1);
                if node.depth < last { Ok(graph.get(&node.descriptor.digest).cloned().unwrap_or_default()) } else { Err(()) }
            });
            let walked = walked.await.map(|()| visited.get()).map_err(|()| visited.get());
            assert_eq!(walked, expected);
        }
    }
}
