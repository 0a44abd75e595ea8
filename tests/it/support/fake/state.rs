//! What the registry holds: content shared by all repositories, and each repository's links into it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use larder::content::Digest;
use serde_json::Value;

use super::content::Content;

/// A manifest as it was put.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
}

#[derive(Default)]
pub(super) struct Repo {
    pub(super) blobs: HashSet<Digest>,
    pub(super) manifests: BTreeMap<Digest, Stored>,
    pub(super) tags: BTreeMap<String, Digest>,
}

#[derive(Default)]
pub(super) struct Store {
    content: HashMap<Digest, Content>,
    pub(super) repos: BTreeMap<String, Repo>,
}

/// The store behind its lock.
#[derive(Default)]
pub(super) struct State(Mutex<Store>);

impl State {
    pub(super) fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    pub(super) fn repo(&mut self, name: &str) -> &mut Repo {
        self.repos.entry(name.to_owned()).or_default()
    }

    pub(super) fn put_blob(&mut self, repo: &str, digest: &Digest, content: Content) {
        // Content that is already there stays: a generated blob must not be replaced by a copy in memory.
        match self.content.get(digest) {
            Some(old) if old.readable() => {}
            _ => drop(self.content.insert(digest.clone(), content)),
        }
        self.repo(repo).blobs.insert(digest.clone());
    }

    pub(super) fn blob(&self, repo: &str, digest: &Digest) -> Option<Content> {
        self.repos.get(repo)?.blobs.contains(digest).then(|| self.content.get(digest).cloned())?
    }

    /// Links a blob of `from` (of any repository, if `None`) into `to`.
    pub(super) fn mount(&mut self, from: Option<&str>, to: &str, digest: &Digest) -> bool {
        let there = match from {
            Some(from) => self.blob(from, digest).is_some(),
            None => self.content.contains_key(digest),
        };
        if there {
            self.repo(to).blobs.insert(digest.clone());
        }
        there
    }

    pub(super) fn manifest(&self, repo: &str, reference: &str) -> Option<(Digest, Stored)> {
        let repo = self.repos.get(repo)?;
        let digest = match repo.tags.get(reference) {
            Some(digest) => digest.clone(),
            None => Digest::parse(reference).ok()?,
        };
        Some((digest.clone(), repo.manifests.get(&digest)?.clone()))
    }

    /// The digest of the first thing `manifest` refers to that `repo` lacks.
    pub(super) fn missing(&self, repo: &str, manifest: &Value) -> Option<String> {
        let empty = Repo::default();
        let repo = self.repos.get(repo).unwrap_or(&empty);
        let digest = |descriptor: &Value| descriptor["digest"].as_str().unwrap_or_default().to_owned();
        let lacks_blob = |digest: &String| !Digest::parse(digest).is_ok_and(|digest| repo.blobs.contains(&digest));
        let lacks_manifest = |digest: &String| !Digest::parse(digest).is_ok_and(|digest| repo.manifests.contains_key(&digest));
        let list = |name: &str| manifest[name].as_array().cloned().unwrap_or_default();
        let config = manifest.get("config").filter(|config| config.is_object()).cloned();
        let blobs = config.into_iter().chain(list("layers")).chain(list("blobs")).filter(|layer| !is_foreign(layer));
        let missing_blob = blobs.map(|blob| digest(&blob)).find(lacks_blob);
        // As at distribution, an index's child may be a blob.
        missing_blob.or_else(|| list("manifests").iter().map(digest).find(|digest| lacks_manifest(digest) && lacks_blob(digest)))
    }
}

/// Layers that nobody uploads (image-spec layer.md "Non-Distributable Layers").
fn is_foreign(layer: &Value) -> bool {
    layer["mediaType"].as_str().is_some_and(|kind| kind.contains(".foreign.") || kind.contains(".nondistributable."))
}
