//! The referrers of one image, as far as they have been listed.

use std::collections::{BTreeSet, HashSet};

use crate::content::{Descriptor, Digest, Referrer};
use crate::{Error, Kind, Operation, Result, Side};

/// Manifests that an unread index of referrers usually lists: a signature.
pub(super) const LIKELY_IN_INDEX: u64 = 1;

/// The most referrers that one image may have. Each may cost a pull. An image that is signed again every night for
/// years has about this many; beyond it we assume a registry that wastes our pulls.
const MAX_REFERRERS: usize = 1000;

/// The referrers of one image, as far as they have been listed.
#[derive(Debug, Clone, Default)]
pub(super) struct ReferrerWalk {
    /// The referrers that the policy wants, in the order they were found: those of one subject together.
    pub(super) found: Vec<FoundReferrer>,
    /// Indexes that must be read to find more.
    pub(super) unread: Vec<UnreadIndex>,
    /// Remarks on lists that could not be read, each once.
    pub(super) notes: BTreeSet<String>,
    /// Subjects whose referrers have been listed.
    listed: HashSet<Digest>,
    seen: HashSet<Referrer>,
}

/// A referrer and its distance from the image.
#[derive(Debug, Clone)]
pub(super) struct FoundReferrer {
    pub(super) referrer: Referrer,
    pub(super) depth: usize,
}

/// An index of referrers under a fallback tag, not read yet.
#[derive(Debug, Clone)]
pub(super) struct UnreadIndex {
    pub(super) subject: Digest,
    pub(super) index: Descriptor,
    pub(super) depth: usize,
}

impl ReferrerWalk {
    /// Whether the referrers of `subject` have not been listed yet. From now on they count as listed.
    pub(super) fn start(&mut self, subject: &Digest) -> bool {
        self.listed.insert(subject.clone())
    }

    /// Adds the referrers of a subject at `depth`. Returns the subjects to list next.
    ///
    /// # Errors
    /// `Kind::Untrusted` if the image has too many.
    pub(super) fn add(&mut self, listed: impl IntoIterator<Item = Referrer>, depth: usize) -> Result<Vec<(Digest, usize)>> {
        let mut next = vec![];
        for referrer in listed {
            // Two lists may contain the same manifest and describe it differently.
            let plain = Descriptor::new("", referrer.manifest.digest.clone(), 0);
            if !self.seen.insert(Referrer { manifest: plain, ..referrer.clone() }) {
                continue;
            }
            if self.found.len() == MAX_REFERRERS {
                return Err(untrusted(format!("the image has more than {MAX_REFERRERS} referrers")));
            }
            next.push((referrer.manifest.digest.clone(), depth + 1));
            self.found.push(FoundReferrer { referrer, depth });
        }
        Ok(next)
    }

    /// Manifests that will probably be read.
    pub(super) fn likely_reads(&self) -> u64 {
        self.found.len() as u64 + self.unread.len() as u64 * (1 + LIKELY_IN_INDEX)
    }
}

/// A registry lists more than an image can have.
pub(super) fn untrusted(message: String) -> Error {
    let error = Error::new(Side::Upstream, Operation::ListReferrers, Kind::Untrusted, message);
    error.remedy("name the artifact types that you need as `referrers` in the rule")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn referrer(name: &str) -> Referrer {
        let manifest = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(name.as_bytes()), 7);
        Referrer { manifest, subject: Digest::sha256(b"image"), tag: None }
    }

    #[test]
    fn a_referrer_in_two_lists_is_found_once() {
        let mut walk = ReferrerWalk::default();
        let signature = referrer("signature");
        let described = Descriptor { size: 9, ..signature.manifest.clone() };
        let next = walk.add([signature.clone(), Referrer { manifest: described, ..signature.clone() }], 0).unwrap();
        assert_eq!(next, [(signature.manifest.digest, 1)]);
        assert_eq!((walk.found.len(), walk.likely_reads()), (1, 1));
        assert!(walk.start(&signature.subject) && !walk.start(&signature.subject));
    }

    #[test]
    fn too_many_referrers_are_not_trusted() {
        let mut walk = ReferrerWalk::default();
        walk.add((0..MAX_REFERRERS).map(|n| referrer(&n.to_string())), 0).unwrap();
        assert_eq!(walk.add([referrer("one more")], 0).unwrap_err().kind(), Kind::Untrusted);
    }
}
