//! A registry as one account sees it: the client's state. Each part of the API adds its methods in a file of its own; `source` and
//! `sink` are the two traits on top of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::admissions::Admissions;
use super::index_locks::IndexLocks;
use super::known::{KnownContent, ManifestCache, TagLists};
use super::transport::Transport;
use crate::content::{DigestTags, Repository};
use crate::limits::Gate;
use crate::mutex::{Mutex, MutexGuard};
use crate::name::Reference;

/// A registry, to read from and to write to. Made by [`super::Registries::store`].
pub(crate) struct RegistryStore {
    pub(super) transport: Transport,
    held: Mutex<KnownContent>,
    pub(super) read: Mutex<ManifestCache>,
    /// Where pushes are known to be taken, or refused.
    pub(super) admissions: Admissions,
    /// Names that were put, where the answer did not say that they are there.
    unproven: Mutex<HashSet<(Repository, Reference)>>,
    /// Of each repository that was looked through for them.
    pub(super) digest_tags: Mutex<HashMap<Repository, Arc<OnceCell<Arc<DigestTags>>>>>,
    pub(super) index_locks: IndexLocks,
    pub(super) listed: TagLists,
}

impl RegistryStore {
    pub(super) fn new(transport: Transport) -> Self {
        RegistryStore {
            transport,
            held: Mutex::default(),
            read: Mutex::default(),
            admissions: Admissions::default(),
            unproven: Mutex::default(),
            listed: TagLists::default(),
            digest_tags: Mutex::default(),
            index_locks: IndexLocks::default(),
        }
    }

    /// The gate that its manifest GETs pass, if it is an upstream.
    pub(crate) fn gate(&self) -> Option<Arc<Gate>> {
        self.transport.pull_meter.as_ref().map(|meter| Arc::clone(&meter.gate))
    }

    pub(super) fn unproven(&self) -> MutexGuard<'_, HashSet<(Repository, Reference)>> {
        self.unproven.lock()
    }

    /// What is known to be there.
    pub(super) fn held(&self) -> MutexGuard<'_, KnownContent> {
        self.held.lock()
    }
}
