//! How a host behaves: as its kind of registry does, unless its answers show otherwise.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use reqwest::header::{ETAG, HeaderMap};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::profiles::{self, Caching, MountStyle, Profile, UploadStyle};
use crate::content::Digest;

/// After this many refused mounts in a row, no more are requested. A refusal may be about one pair of repositories (no pull right on the
/// other), so one proves nothing; three different ones mean a registry that does not mount (ECR without its setting), where each further one
/// would cost a POST and a DELETE per blob.
const MOUNT_REFUSALS: u32 = 3;

/// What is known of the behaviour of one host.
pub(crate) struct HostBehaviour {
    profile: &'static Profile,
    /// It refuses HEADs of manifests that it answers GETs of.
    refuses_heads: AtomicBool,
    patches: AtomicBool,
    /// It forgot an upload that broke off.
    forgets_uploads: AtomicBool,
    /// An answer said that it came from the host's upstream.
    says_origin: AtomicBool,
    /// An answer had an ETag without quotes.
    bare_etag: AtomicBool,
    mounts_refused: AtomicU32,
    /// Mounts that are requested at once until one was done. Closed then.
    mount_trials: Semaphore,
}

impl HostBehaviour {
    pub(super) fn new(profile: &'static Profile) -> Self {
        let mounts_refused = match profile.mount {
            MountStyle::Yes => 0,
            MountStyle::IfSwitchedOn => MOUNT_REFUSALS - 1,
        };
        HostBehaviour {
            profile,
            refuses_heads: AtomicBool::new(false),
            patches: AtomicBool::new(profile.upload == UploadStyle::Patch),
            forgets_uploads: AtomicBool::new(false),
            says_origin: AtomicBool::new(false),
            bare_etag: AtomicBool::new(false),
            mounts_refused: AtomicU32::new(mounts_refused),
            mount_trials: Semaphore::new(MOUNT_REFUSALS as usize),
        }
    }

    /// Whether it refuses HEADs of manifests, so that a GET is needed.
    pub(crate) fn refuses_heads(&self) -> bool {
        self.refuses_heads.load(Ordering::Relaxed)
    }
    /// A HEAD was refused, and the GET of the same manifest was not.
    pub(crate) fn refused_head(&self) {
        self.refuses_heads.store(true, Ordering::Relaxed);
    }

    /// Whether uploads go by PATCH: a single PUT of the whole is refused here.
    pub(crate) fn patches(&self) -> bool {
        self.patches.load(Ordering::Relaxed)
    }
    /// Whether uploads may go by PATCH.
    pub(crate) fn takes_patches(&self) -> bool {
        self.profile.upload != UploadStyle::OnlyPut
    }
    /// A PUT was too large (413): from now on uploads go by PATCH.
    pub(crate) fn patch_from_now_on(&self) {
        self.patches.store(true, Ordering::Relaxed);
    }

    /// Whether an upload that broke off may go on there.
    pub(crate) fn keeps_uploads(&self) -> bool {
        !self.forgets_uploads.load(Ordering::Relaxed)
    }
    /// It does not know an upload that broke off: from now on such uploads start again at once.
    pub(crate) fn restart_uploads_from_now_on(&self) {
        self.forgets_uploads.store(true, Ordering::Relaxed);
    }

    /// How it behaves as a pull-through cache: as its kind does, or as its answers show.
    pub(crate) fn caching(&self) -> &'static Caching {
        if self.says_origin.load(Ordering::Relaxed) { self.profile.caching.that_says_origin() } else { self.profile.caching }
    }

    /// Whether it is a cache, as its kind or its answers say: it passes on content of others, each in repositories of its own.
    pub(crate) fn is_cache(&self) -> bool {
        self.says_origin.load(Ordering::Relaxed) || !std::ptr::eq(self.profile.caching, profiles::UNKNOWN.caching)
    }

    /// Whether an answer says that it comes from the upstream of a cache (docs/registries.md, "Azure: what a pull does").
    pub(crate) fn passed_on(&self, headers: &HeaderMap) -> bool {
        let said = headers.get("x-azure-origin").is_some_and(|origin| origin.as_bytes().eq_ignore_ascii_case(b"upstream"));
        self.says_origin.fetch_or(said, Ordering::Relaxed);
        self.note_etag(headers);
        said
    }

    /// Remembers an `ETag` that is a digest without quotes. Harbor's proxy projects, and Distribution's proxy for blobs, send it with
    /// content of their upstream; others may, too.
    pub(crate) fn note_etag(&self, headers: &HeaderMap) {
        let bare = headers.get(ETAG).and_then(|etag| etag.to_str().ok()).is_some_and(|etag| Digest::parse(etag).is_ok());
        self.bare_etag.fetch_or(bare, Ordering::Relaxed);
    }

    /// Whether its answers look as if a cache had passed them on, or its kind has caches that do not show it.
    pub(crate) fn may_be_a_cache(&self) -> bool {
        self.bare_etag.load(Ordering::Relaxed) || matches!(self.profile.name, "harbor" | "artifact-registry" | "generic")
    }

    /// Whether an answer said that it came from the host's upstream.
    pub(crate) fn has_passed_on(&self) -> bool {
        self.says_origin.load(Ordering::Relaxed)
    }

    /// Whether a mount is worth a request.
    pub(crate) fn mounts(&self) -> bool {
        self.mounts_refused.load(Ordering::Relaxed) < MOUNT_REFUSALS
    }

    /// Waits until a mount may be requested: until one was done, only a few at once, so that refusals cost few requests. Hold what is returned
    /// until [`Self::mounted`] was called.
    pub(crate) async fn mount_trial(&self) -> Option<SemaphorePermit<'_>> {
        // An error: it is closed, because mounts are done here.
        self.mount_trials.acquire().await.ok()
    }

    /// A mount was `done`, or refused.
    pub(crate) fn mounted(&self, done: bool) {
        if done {
            self.mounts_refused.store(0, Ordering::Relaxed);
            self.mount_trials.close();
        } else {
            self.mounts_refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_refused_mounts_in_a_row_are_enough() {
        let host = HostBehaviour::new(&profiles::UNKNOWN);
        host.mounted(false);
        host.mounted(false);
        host.mounted(true);
        host.mounted(false);
        host.mounted(false);
        assert!(host.mounts());
        host.mounted(false);
        assert!(!host.mounts());
    }
}
