//! Proving that a target holds what it should: every graph is walked, each manifest is read and each blob asked for, once in
//! each repository that needs it; deep, each blob is read and hashed, once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::OnceCell;
use tokio_util::task::AbortOnDropHandle;

use super::expected::Expected;
use crate::content::{
    Descriptor, Digest, GraphNode, GraphWalk, Links, NodeRole, Repository, RequestContext, Source, Verified, check_depth, walk_concurrently,
};
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::{Error, Kind, Operation, Result, Side, internal};

/// Images that are worked on at once. Requests are limited by the registry's own concurrency (16); twice that keeps it busy while
/// images wait for their manifests.
const IMAGES: usize = 32;
/// Manifests and blobs of one image that are checked at once.
const PIECES: usize = 16;

/// What kind of trouble it is; the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WrongContent {
    /// It is not what its digest or descriptor says.
    Damaged,
    /// It is not there.
    Missing,
    /// The name means something else.
    Moved,
    /// It could not be asked for or checked.
    Unchecked,
}

impl WrongContent {
    /// The word, as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            WrongContent::Damaged => "damaged",
            WrongContent::Missing => "missing",
            WrongContent::Moved => "moved",
            WrongContent::Unchecked => "unchecked",
        }
    }
}

/// What is wrong with one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFinding {
    /// What kind of trouble.
    pub wrong: WrongContent,
    /// The content, and the repository that lacks it; `None`: the image's name is what is wrong.
    pub content: Option<(Digest, Repository)>,
    /// The images it belongs to, by their names at the target; sorted.
    pub images: Vec<String>,
    /// What is wrong, for a person.
    pub why: String,
}

/// What came of looking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifySummary {
    /// Images looked for.
    pub images: usize,
    /// Manifests read: once in each repository.
    pub manifests: usize,
    /// Blobs asked for: once in each repository.
    pub blobs: usize,
    /// Bytes of blobs that were hashed.
    pub hashed: u64,
    /// What is wrong, the gravest first.
    pub findings: Vec<TargetFinding>,
}

impl VerifySummary {
    /// How many findings are of this kind.
    pub fn count(&self, wrong: WrongContent) -> usize {
        self.findings.iter().filter(|finding| finding.wrong == wrong).count()
    }
}

/// How closely [`prove`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Blobs are asked for.
    Asked,
    /// Blobs are read and hashed, each digest once; other repositories are asked for it.
    Hashed,
    /// Blobs are read and hashed in each repository: of a cache, which answers for its upstream when it is asked.
    HashedEverywhere,
}

/// Looks whether `source` holds all of `expected`. `progress` is told of bytes as they are hashed, and of images (with 0) as they are
/// done.
pub async fn prove(
    source: Arc<dyn Source>,
    expected: Vec<Expected>,
    depth: Depth,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> VerifySummary {
    let images = expected.len();
    let walk = Arc::new(TargetWalk {
        source,
        depth,
        progress,
        manifests: Mutex::default(),
        blobs: Mutex::default(),
        hashes: Mutex::default(),
        found: Mutex::default(),
        hashed: AtomicU64::new(0),
    });
    // Each in a task of its own, so that hashing uses all cores.
    stream::iter(expected)
        .map(|image| {
            let walk = Arc::clone(&walk);
            let checked = async move {
                let checked = internal::caught(Operation::Verify, Arc::clone(&walk).image(&image)).await;
                // What was not looked at to its end is not known to be right.
                checked.unwrap_or_else(|error| {
                    walk.note(&image, WrongContent::Unchecked, FindingSubject::Name(image.name.clone()), error.to_string());
                });
            };
            AbortOnDropHandle::new(tokio::spawn(checked))
        })
        .buffer_unordered(IMAGES)
        .for_each(async |_| {})
        .await;
    let (manifests, blobs) = (walk.manifests.lock().len(), walk.blobs.lock().len());
    let findings = std::mem::take(&mut *walk.found.lock()).into_iter().map(|((wrong, about), (why, images))| TargetFinding {
        wrong,
        content: match about {
            FindingSubject::Content(digest, repository) => Some((digest, repository)),
            FindingSubject::Name(_) => None,
        },
        images: images.into_iter().collect(),
        why,
    });
    VerifySummary { images, manifests, blobs, hashed: walk.hashed.load(Ordering::Relaxed), findings: findings.collect() }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum FindingSubject {
    Content(Digest, Repository),
    Name(String),
}

/// Why a piece is not as it should be.
#[derive(Debug, Clone)]
struct Fault(WrongContent, String);

impl Fault {
    fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::NotFound => Fault(WrongContent::Missing, error.to_string()),
            Kind::Damaged => Fault(WrongContent::Damaged, error.to_string()),
            _ => Fault(WrongContent::Unchecked, error.to_string()),
        }
    }
}

/// What is wrong, and for whom.
type Found = BTreeMap<(WrongContent, FindingSubject), (String, BTreeSet<String>)>;
/// What a piece turned out to be.
type Checked<T> = Result<T, Fault>;
/// What a manifest refers to, and its length.
type Read = (Arc<Links>, u64);
/// What was begun once, however many wait for it.
type Once<K, V> = Mutex<HashMap<K, Arc<OnceCell<V>>>>;

struct TargetWalk {
    source: Arc<dyn Source>,
    depth: Depth,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
    manifests: Once<(Repository, Digest), Checked<Read>>,
    /// With the size: a descriptor that states another one is another claim to check.
    blobs: Once<(Repository, Digest, u64), Checked<()>>,
    /// Whether a blob's bytes are right, and where they were read.
    hashes: Once<(Digest, u64), (Repository, Checked<()>)>,
    found: Mutex<Found>,
    hashed: AtomicU64,
}

fn cell<K: std::hash::Hash + Eq, V>(all: &Once<K, V>, key: K) -> Arc<OnceCell<V>> {
    Arc::clone(all.lock().entry(key).or_default())
}

impl TargetWalk {
    async fn image(self: Arc<Self>, image: &Expected) {
        let context = RequestContext::new(&*image.name);
        match self.root(image, &context).await {
            Ok(root) => self.graph(image, &root, &context).await,
            Err(Fault(wrong, why)) => self.note(image, wrong, FindingSubject::Name(image.name.clone()), why),
        }
        (self.progress)(0);
    }

    /// What the image's name means. A digest needs no asking: its manifest will be read.
    async fn root(&self, image: &Expected, context: &RequestContext) -> Checked<Descriptor> {
        let found = match &image.reference {
            Reference::Digest(digest) => Descriptor::new("", digest.clone(), 0),
            Reference::Tag(_) => {
                let found = self.source.resolve(&image.repository, &image.reference, context).await.map_err(|error| Fault::of(&error))?;
                found.ok_or_else(|| Fault(WrongContent::Missing, "the target has no such image".to_owned()))?
            }
        };
        match &image.digest {
            Some((digest, who)) if *digest != found.digest => {
                Err(Fault(WrongContent::Moved, format!("it is {}, {who} says {digest}", found.digest)))
            }
            _ => Ok(found),
        }
    }

    /// Checks a manifest and everything below it.
    async fn graph(self: &Arc<Self>, image: &Expected, root: &Descriptor, context: &RequestContext) {
        let mut walk = GraphWalk::new(root, NodeRole::Manifest);
        if image.foreign {
            walk = walk.with_foreign_layers();
        }
        let visit = |node| async { Ok::<_, Infallible>(self.node(image, node, context).await) };
        let Ok(()) = walk_concurrently(walk, PIECES, visit).await;
    }

    /// Checks one node; what it refers to, as far as that is to be checked.
    async fn node(self: &Arc<Self>, image: &Expected, node: GraphNode, context: &RequestContext) -> Arc<Links> {
        let GraphNode { descriptor, role, depth } = node;
        let checked = match role {
            NodeRole::Blob => Err(None),
            NodeRole::Manifest | NodeRole::Unknown => self.read(&image.repository, &descriptor, context).await.map_err(Some),
        };
        let within_depth =
            |links: &Arc<Links>| check_depth(depth, links, Side::Target).map_err(|error| Fault(WrongContent::Unchecked, error.message()));
        let fault = match checked {
            Ok(links) => match within_depth(&links) {
                Ok(()) if depth > 0 => return links,
                Ok(()) => return Arc::new(Links { manifests: image.children.among(&links.manifests), ..Links::clone(&links) }),
                Err(fault) => fault,
            },
            Err(Some(fault)) if role == NodeRole::Manifest || fault.0 != WrongContent::Missing => fault,
            Err(_) => {
                self.blob(image, descriptor, context).await;
                return Arc::default();
            }
        };
        let Fault(wrong, why) = fault;
        self.note(image, wrong, FindingSubject::Content(descriptor.digest, image.repository.clone()), why);
        Arc::default()
    }

    /// What a manifest refers to, read once in each repository.
    async fn read(&self, repository: &Repository, node: &Descriptor, context: &RequestContext) -> Checked<Arc<Links>> {
        let read = async || {
            let found = self.source.manifest(repository, &node.digest, context).await.map_err(|error| Fault::of(&error))?;
            let manifest = found.ok_or_else(|| Fault(WrongContent::Missing, "this manifest is not there".to_owned()))?;
            Ok((Arc::clone(manifest.links()), manifest.size()))
        };
        let key = (repository.clone(), node.digest.clone());
        let (links, len) = cell(&self.manifests, key).get_or_init(read).await.clone()?;
        // A size of 0 says that nobody has told the size.
        if node.size == 0 || node.size == len { Ok(links) } else { Err(size_differs(len, node.size)) }
    }

    async fn blob(self: &Arc<Self>, image: &Expected, blob: Descriptor, context: &RequestContext) {
        let key = (image.repository.clone(), blob.digest.clone(), blob.size);
        let looked = cell(&self.blobs, key).get_or_init(async || self.look(&image.repository, &blob, context).await).await.clone();
        if let Err(Fault(wrong, why)) = looked {
            self.note(image, wrong, FindingSubject::Content(blob.digest, image.repository.clone()), why);
        }
    }

    /// Whether a repository has a blob. Deep, who comes first reads it there, which shows that too.
    async fn look(self: &Arc<Self>, repository: &Repository, blob: &Descriptor, context: &RequestContext) -> Checked<()> {
        if self.depth == Depth::HashedEverywhere {
            return self.hash(repository, blob, context).await;
        }
        if self.depth == Depth::Hashed && blob.size > 0 {
            let hash = async || {
                // In a task of its own: the blobs of one image are hashed on all cores, too.
                let (walk, at, blob, context) = (Arc::clone(self), repository.clone(), blob.clone(), context.clone());
                let hashed = AbortOnDropHandle::new(tokio::spawn(async move { walk.hash(&at, &blob, &context).await })).await;
                (
                    repository.clone(),
                    hashed.unwrap_or_else(|why| Err(Fault(WrongContent::Unchecked, internal::lost(Operation::Verify, why).to_string()))),
                )
            };
            let key = (blob.digest.clone(), blob.size);
            let (at, hashed) = cell(&self.hashes, key).get_or_init(hash).await.clone();
            // That one repository lacks it says nothing of the next.
            if at == *repository || !matches!(hashed, Ok(()) | Err(Fault(WrongContent::Missing, _))) {
                return hashed;
            }
        }
        match self.source.blob_size(repository, &blob.digest, context).await {
            Ok(Some(size)) if size == blob.size => Ok(()),
            Ok(Some(size)) => Err(size_differs(size, blob.size)),
            Ok(None) => Err(missing_blob()),
            Err(error) => Err(Fault::of(&error)),
        }
    }

    /// Reads a blob to its end.
    async fn hash(&self, repository: &Repository, blob: &Descriptor, context: &RequestContext) -> Checked<()> {
        let opened = self.source.blob(repository, blob, 0, context).await.map_err(|error| Fault::of(&error))?;
        let stream = opened.ok_or_else(missing_blob)?;
        let mut bytes = Verified::whole(stream, blob, Side::Target).map_err(|error| Fault::of(&error))?;
        while let Some(chunk) = bytes.try_next().await.map_err(|error| Fault::of(&error))? {
            self.hashed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            (self.progress)(chunk.len() as u64);
        }
        Ok(())
    }

    fn note(&self, image: &Expected, wrong: WrongContent, about: FindingSubject, why: String) {
        let mut found = self.found.lock();
        found.entry((wrong, about)).or_insert_with(|| (why, BTreeSet::new())).1.insert(image.name.clone());
    }
}

fn missing_blob() -> Fault {
    Fault(WrongContent::Missing, "this blob is not there".to_owned())
}

fn size_differs(found: u64, said: u64) -> Fault {
    Fault(WrongContent::Damaged, format!("the target has {found} bytes, its descriptor says {said}"))
}
