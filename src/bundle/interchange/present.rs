//! What of an index an archive has.
//!
//! `docker save` of the containerd image store, `ctr images export` and `nerdctl save` write the index of all platforms, and the content of those
//! that were pulled. What is there can be delivered: into a layout below the unchanged index, into a registry below a new one.

use std::collections::HashSet;

use crate::Side;
use crate::bundle::read::{Availability, BundleSource};
use crate::content::{ChildChoice, Descriptor, Digest, Manifest, ManifestKind, PlatformFilter, kind_of};

/// What of an index is there, where that is not all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The platforms that are, as a policy asks for them.
    pub platforms: Vec<PlatformFilter>,
    /// What is not, for a person.
    pub note: String,
}

/// What of the index `root` is on the shelf, of the platforms `asked` for (none: all). `None`: all of it, or what is there is nothing that
/// can be delivered by itself; or `root` is no index. Blocks.
pub(in crate::bundle) fn present(shelf: &BundleSource, root: &Descriptor, asked: &[PlatformFilter]) -> Option<Present> {
    let index = manifest(shelf, &root.digest).filter(|manifest| manifest.kind() == ManifestKind::Index)?;
    let children = index.links().ok()?.manifests;
    let chosen = ChildChoice::of(&children, asked).kept;
    let (there, absent): (Vec<&Descriptor>, Vec<&Descriptor>) = chosen.iter().partition(|child| is_whole(shelf, child));
    if absent.is_empty() {
        return None;
    }
    let of = |children: &[&Descriptor]| -> Vec<PlatformFilter> {
        let named = children.iter().filter_map(|child| PlatformFilter::of(child.platform.as_ref()?));
        let mut seen = HashSet::new();
        named.filter(|platform| seen.insert(platform.clone())).collect()
    };
    let (mut platforms, missing) = (of(&there), of(&absent));
    let said = PlatformFilter::joined(&platforms).replace(',', ", ");
    let mut note = match missing.as_slice() {
        [] => "the attestations of its platforms are not in it".to_owned(),
        missing => format!("only {said} is in it, not {}", PlatformFilter::joined(missing).replace(',', ", ")),
    };
    if !platforms.is_empty() && !are_whole(&children, &platforms, &absent) {
        // What is left may be attestations.
        platforms.push(PlatformFilter::without_attestations());
        if !missing.is_empty() {
            note += "; attestations are left out";
        }
    }
    let deliverable = !platforms.is_empty() && are_whole(&children, &platforms, &absent);
    deliverable.then_some(Present { platforms, note })
}

/// Whether nothing that `platforms` choose is absent.
fn are_whole(children: &[Descriptor], platforms: &[PlatformFilter], absent: &[&Descriptor]) -> bool {
    let kept = ChildChoice::of(children, platforms).kept;
    !kept.is_empty() && !kept.iter().any(|child| absent.iter().any(|absent| absent.digest == child.digest))
}

fn manifest(shelf: &BundleSource, digest: &Digest) -> Option<Manifest> {
    Manifest::known(shelf.peek(digest)?, None, digest.clone(), Side::Local).ok()
}

/// Whether the child and everything below it is on the shelf. Blocks.
fn is_whole(shelf: &BundleSource, child: &Descriptor) -> bool {
    let mut seen = HashSet::new();
    let mut stack = vec![child.clone()];
    while let Some(node) = stack.pop() {
        if !seen.insert(node.digest.clone()) {
            continue;
        }
        let opaque = !node.media_type.is_empty() && kind_of(&node.media_type) == ManifestKind::Opaque;
        let links = match manifest(shelf, &node.digest).and_then(|manifest| manifest.links().ok()) {
            Some(links) => links,
            // An index may list blobs (BuildKit's cache does).
            None if opaque && shelf.hand(&node) == Availability::Here => continue,
            None => return false,
        };
        if links.blobs.iter().any(|blob| !blob.is_foreign() && shelf.hand(blob) != Availability::Here) {
            return false;
        }
        stack.extend(links.manifests);
    }
    true
}
