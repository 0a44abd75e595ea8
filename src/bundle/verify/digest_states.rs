//! The state of each digest in the available volumes.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::bundle_files::BundleFiles;
use super::report::BundleReport;
use super::volume::{self, BlobState, CheckedVolume, ManifestLinks};
use crate::bundle::format::VolumeMember;
use crate::content::Digest;

/// The location and the state of each digest.
pub(super) struct DigestStates<'a> {
    /// The volume and member that holds it; for parts, several.
    pub(super) members: HashMap<&'a Digest, Vec<(u32, &'a VolumeMember)>>,
    /// The state of those that are available as a whole.
    pub(super) states: HashMap<&'a Digest, BlobState>,
    /// The links of manifests.
    pub(super) links: HashMap<Digest, ManifestLinks>,
}

impl<'a> DigestStates<'a> {
    /// Collects the states in checked volumes, and hashes blobs whose parts are all available.
    pub(super) fn new(
        bundle: &'a BundleFiles,
        checked: &'a BTreeMap<u32, CheckedVolume>,
        mut links: HashMap<Digest, ManifestLinks>,
    ) -> Self {
        let mut members: HashMap<&Digest, Vec<(u32, &VolumeMember)>> = HashMap::new();
        for (number, member) in bundle.members() {
            members.entry(&member.digest).or_default().push((number, member));
        }
        let mut states: HashMap<&Digest, BlobState> = HashMap::new();
        for checked in checked.values() {
            states.extend(checked.states.iter().map(|(digest, state)| (digest, state.clone())));
        }
        let in_parts: Vec<_> = members.iter().filter(|(digest, _)| !states.contains_key(*digest)).collect();
        let joined: Vec<_> = in_parts
            .into_par_iter()
            .filter(|(_, parts)| is_complete(bundle, parts))
            .map(|(digest, parts)| (*digest, volume::join(bundle, digest, parts)))
            .collect();
        for (digest, (state, more)) in joined {
            states.insert(digest, state);
            links.extend(more.map(|more| (digest.clone(), more)));
        }
        DigestStates { members, states, links }
    }

    /// Whether all content of a volume was checked and is undamaged: of blobs in parts, all parts.
    pub(super) fn is_undamaged(&self, number: u32) -> bool {
        let mut here = self.members.iter().filter(|(_, members)| members.iter().any(|(volume, _)| *volume == number));
        here.all(|(digest, _)| matches!(self.states.get(digest), Some(BlobState::Undamaged)))
    }

    /// Counts undamaged manifests and blobs.
    pub(super) fn count(&self, report: &mut BundleReport) {
        for (digest, state) in &self.states {
            if matches!(state, BlobState::Undamaged) {
                *if self.links.contains_key(digest) { &mut report.manifests } else { &mut report.blobs } += 1;
            }
        }
    }
}

/// Whether these are all parts of a blob, and available.
fn is_complete(bundle: &BundleFiles, parts: &[(u32, &VolumeMember)]) -> bool {
    let size: u64 = parts.iter().map(|(_, part)| part.size).sum();
    parts.iter().all(|(number, part)| bundle.files.contains_key(number) && part.whole_size() == size)
}
