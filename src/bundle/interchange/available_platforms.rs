//! The platforms of an index that an archive has.
//!
//! `docker save` of the containerd image store, `ctr images export` and `nerdctl save` write the index of all platforms,
//! but only the content of those that were pulled. These can be delivered: into a layout below the unchanged index, into
//! a registry below a new one.

use std::collections::HashSet;

use crate::bundle::read::{Availability, BundleSource};
use crate::content::{ChildChoice, Descriptor, GraphWalk, ManifestKind, NodeRole, PlatformFilter};

/// The platforms of an incomplete index whose content is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AvailablePlatforms {
    /// The platforms, as a policy asks for them.
    pub platforms: Vec<PlatformFilter>,
    /// What is missing, as a message.
    pub note: String,
}

/// The platforms among those `asked` for (none: all) that `source` has of the index `root`. `None` if it has all of them, or
/// nothing that can be delivered, or `root` is no index. Blocks.
pub(in crate::bundle) fn available_platforms(
    source: &BundleSource,
    root: &Descriptor,
    asked: &[PlatformFilter],
) -> Option<AvailablePlatforms> {
    let index = source.verified_manifest(&root.digest).filter(|manifest| manifest.kind() == ManifestKind::Index)?;
    let children = &index.links().manifests;
    let chosen = ChildChoice::of(children, asked).kept;
    let (there, absent): (Vec<&Descriptor>, Vec<&Descriptor>) = chosen.iter().partition(|child| is_complete(source, child));
    if absent.is_empty() {
        return None;
    }
    let of = |children: &[&Descriptor]| -> Vec<PlatformFilter> {
        let named = children.iter().filter_map(|child| PlatformFilter::of(child.platform.as_ref()?));
        let mut seen = HashSet::new();
        named.filter(|platform| seen.insert(platform.clone())).collect()
    };
    let (mut platforms, missing) = (of(&there), of(&absent));
    let available = PlatformFilter::joined(&platforms).replace(',', ", ");
    let mut note = match missing.as_slice() {
        [] => "the attestations of its platforms are not in it".to_owned(),
        missing => format!("only {available} is in it, not {}", PlatformFilter::joined(missing).replace(',', ", ")),
    };
    if !platforms.is_empty() && !can_deliver(children, &platforms, &absent) {
        // Attestations of the other platforms may be missing too.
        platforms.push(PlatformFilter::without_attestations());
        if !missing.is_empty() {
            note += "; attestations are left out";
        }
    }
    let deliverable = !platforms.is_empty() && can_deliver(children, &platforms, &absent);
    deliverable.then_some(AvailablePlatforms { platforms, note })
}

/// Whether `platforms` choose at least one child, and none that is absent.
fn can_deliver(children: &[Descriptor], platforms: &[PlatformFilter], absent: &[&Descriptor]) -> bool {
    let kept = ChildChoice::of(children, platforms).kept;
    !kept.is_empty() && !kept.iter().any(|child| absent.iter().any(|absent| absent.digest == child.digest))
}

/// Whether `source` has the child and everything below it. Blocks.
fn is_complete(source: &BundleSource, child: &Descriptor) -> bool {
    let mut walk = GraphWalk::new(child, NodeRole::of_child(&child.media_type));
    while let Some(node) = walk.next_node() {
        let links = if node.role == NodeRole::Blob { None } else { source.verified_links(&node.descriptor.digest) };
        match links {
            Some(links) => walk.expand(&node, &links),
            None if node.role != NodeRole::Manifest && source.availability(&node.descriptor) == Availability::Here => {}
            None => return false,
        }
    }
    true
}
