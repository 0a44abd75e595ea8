//! The cache that a run warms.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::empty_source::EmptySource;
use crate::Result;
use crate::config::profiles::Caching;
use crate::content::{Digest, Links, Repository, RequestContext};
use crate::copy;
use crate::limits::{Lease, PullRequest, WaitMode};
use crate::mutex::{Mutex, MutexGuard};
use crate::registry::{BlobSeen, RegistryStore};
use crate::rules::WarmBlobs;
use crate::state::WarmedRecords;

/// A manifest or blob in one repository.
type Piece = (Repository, Digest);

/// What a manifest refers to.
struct Below {
    manifests: Vec<Digest>,
    blobs: Vec<Digest>,
}

/// The target of a run, as a pull-through cache: one for all its images.
pub(crate) struct Cache {
    pub(super) store: Arc<RegistryStore>,
    pub(super) warmed: Arc<WarmedRecords>,
    /// What is asked of each blob, by repository: a repository belongs to one rule.
    blobs: Mutex<HashMap<Repository, WarmBlobs>>,
    /// Blobs that the cache had to ask its upstream for, and for which repositories, in their order.
    passed: Mutex<HashMap<Digest, Vec<Repository>>>,
    /// What the manifests refer to that were read through it: manifests and blobs.
    links: Mutex<HashMap<Piece, Below>>,
    /// Whether it was asked for `/v2/`.
    pinged: OnceCell<()>,
    /// Whether it said to have a blob, when it was asked in this run.
    confirmed: Mutex<HashMap<Piece, Arc<OnceCell<bool>>>>,
}

/// How long a cache that stores in the background what it passes on needs for that, usually: it has read the blob beside us.
pub(super) const SETTLES: Duration = Duration::from_millis(100);

/// How often it is asked whether it has stored a blob, each wait twice the one before: 3 s in all, for a busy disk.
pub(super) const SETTLED: u32 = 5;

impl Cache {
    /// The cache at `store`, of which `warmed` says what was pulled before.
    pub(crate) fn new(store: Arc<RegistryStore>, warmed: Arc<WarmedRecords>) -> Arc<Self> {
        Arc::new(Cache {
            store,
            warmed,
            blobs: Mutex::default(),
            passed: Mutex::default(),
            links: Mutex::default(),
            pinged: OnceCell::new(),
            confirmed: Mutex::default(),
        })
    }

    /// The two ends that the engine copies between: everything is written to the cache, nothing is read back from it.
    pub(crate) fn ends(self: &Arc<Self>) -> copy::TargetEnds {
        copy::TargetEnds { sink: Arc::clone(self) as _, source: Arc::new(EmptySource) }
    }

    /// The registry that it is.
    pub(crate) fn store(&self) -> &RegistryStore {
        &self.store
    }

    /// Its host.
    pub(crate) fn host(&self) -> &str {
        self.store.host()
    }

    /// How its kind behaves.
    pub(super) fn caching(&self) -> &'static Caching {
        self.store.caching()
    }

    /// Blobs at `repository` are asked for as `blobs` says.
    pub(super) fn ask_for_blobs(&self, repository: &Repository, blobs: WarmBlobs) {
        self.blobs.lock().insert(repository.clone(), blobs);
    }

    pub(super) fn blobs(&self, repository: &Repository) -> WarmBlobs {
        self.blobs.lock().get(repository).copied().unwrap_or_default()
    }

    /// Waits until the cache has stored what another repository has just pulled of the same blob: while it does, it stores it for nobody
    /// else. Who is about to pull it leads all others that want it.
    ///
    /// # Errors
    /// If the cache cannot be asked.
    pub(super) async fn settle(&self, blob: &Digest, context: &RequestContext) -> Result<()> {
        let last = self.passed().get(blob).and_then(|places| places.last().cloned());
        let Some(repository) = last else { return Ok(()) };
        for nth in 0..SETTLED {
            tokio::time::sleep(SETTLES * 2u32.pow(nth)).await;
            if self.store.look_for_blob(&repository, blob, context).await? != BlobSeen::PassedOn {
                break;
            }
        }
        Ok(())
    }

    /// Asks for `/v2/`, once a run.
    pub(super) async fn ping(&self, repository: &Repository, context: &RequestContext) {
        self.pinged.get_or_init(|| self.store.ping(repository, context)).await;
    }

    /// A manifest was read at `repository`, and refers to `links`.
    pub(super) fn learn(&self, repository: &Repository, manifest: &Digest, links: &Links) {
        let manifests = links.manifests.iter().map(|child| child.digest.clone()).collect();
        let blobs = links.blobs.iter().filter(|blob| !blob.is_foreign()).map(|blob| blob.digest.clone()).collect();
        let mut known = self.links.lock();
        known.insert((repository.clone(), manifest.clone()), Below { manifests, blobs });
    }

    /// The manifests at and below `roots` that were read at `repository`, and their blobs; each once.
    pub(super) fn pieces(&self, repository: &Repository, roots: Vec<Digest>) -> (Vec<Digest>, Vec<Digest>) {
        let known = self.links.lock();
        let (mut manifests, mut blobs, mut left) = (BTreeSet::new(), BTreeSet::new(), roots);
        while let Some(digest) = left.pop() {
            if let Some(below) = known.get(&(repository.clone(), digest.clone()))
                && manifests.insert(digest)
            {
                left.extend(below.manifests.iter().cloned());
                blobs.extend(below.blobs.iter().cloned());
            }
        }
        (manifests.into_iter().collect(), blobs.into_iter().collect())
    }

    /// Whether the cache has `blob` of its own, asked once a run.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub(super) async fn confirms(&self, repository: &Repository, blob: &Digest, context: &RequestContext) -> Result<bool> {
        let key = (repository.clone(), blob.clone());
        let asked = Arc::clone(self.confirmed.lock().entry(key).or_default());
        let look = || async {
            let seen = self.store.look_for_blob(repository, blob, context).await?;
            self.seen(blob, repository, seen);
            Ok(seen == BlobSeen::There)
        };
        asked.get_or_try_init(look).await.copied()
    }

    /// Takes note of an answer about `blob` at `repository`.
    pub(super) fn seen(&self, blob: &Digest, repository: &Repository, seen: BlobSeen) {
        if seen == BlobSeen::PassedOn {
            self.passed().entry(blob.clone()).or_default().push(repository.clone());
        }
    }

    /// Whether `blob` was passed on to `repository` in this run.
    pub(super) fn passed_on(&self, blob: &Digest, repository: &Repository) -> bool {
        self.passed().get(blob).is_some_and(|places| places.contains(repository))
    }

    fn passed(&self) -> MutexGuard<'_, HashMap<Digest, Vec<Repository>>> {
        self.passed.lock()
    }

    /// The cache has spent a pull without being asked to by a GET of ours: it is charged as if it had been one.
    pub(super) async fn spent_another(&self, context: &RequestContext) {
        let Some(gate) = &context.account else { return };
        context.tally.add_pull();
        let lease = match &context.lease {
            Some(lease) => Ok(lease.clone()),
            None => Lease::acquire(gate, PullRequest { pulls: 1, priority: 0 }, WaitMode::Defer).await,
        };
        // It is spent whether or not the budget still has it. A flight that is dropped may have been counted, says the budget.
        if let Ok(lease) = lease {
            drop(lease.spend().await);
        }
    }
}
